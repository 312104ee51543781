"""Answers become descriptors: each with what is known of it before it is looked at."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadAnswerLayout
from hw.stream.memory import ForwardingMemory
from hw.stream.types import LENGTH_BITS
from hw.virtio.descriptor_cache import WriteSignature
from hw.virtio.prefetch_types import (
    BURST_MAX,
    COUNT_BITS,
    DESCRIPTOR_BYTES,
    LookupSignature,
    PrefetchContextLayout,
    PrefetchSizes,
    ReadKind,
    SweepLayout,
    packed_position,
)

__all__ = ["DescriptorUnpack", "OperationLayout", "PartialLayout", "RawLayout"]

_DESCRIPTOR_BITS = 8 * DESCRIPTOR_BYTES
_PATIENCE = 4       # cycles that a sweep waits for a gap


class _FlagsLayout(data.StructLayout):
    """Flags of a descriptor. ``available`` and ``used`` mean something in packed rings alone."""

    def __init__(self) -> None:
        super().__init__({"next": 1, "write": 1, "indirect": 1, "low": 4, "available": 1,
                          "high": 7, "used": 1})


class RawLayout(data.StructLayout):
    """A descriptor as the driver wrote it. ``other`` is its next, or in a packed ring its id, which
    stands before the flags there (virtio 1.4, 2.7.5 and 2.8.13)."""

    def __init__(self) -> None:
        super().__init__({"address": 64, "length": 32, "flags": _FlagsLayout(), "other": 16})


class _ParsingLayout(data.StructLayout):
    """How far a packed ring was looked at: all before the place ``next`` was available.

    ``inside`` a chain: its head lay at ``index``, and it took ``slots`` places up to here.
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "next": sizes.index_bits, "lap": 1, "inside": 1, "index": sizes.index_bits,
            "head_lap": 1, "slots": sizes.index_bits + 1,
        })


class PartialLayout(data.StructLayout):
    """The chain that a packed ring was left inside of."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({"bytes": LENGTH_BITS, "segments": sizes.index_bits + 1})


class OperationLayout(data.StructLayout):
    """One descriptor on its way through the parser, or one place to clear.

    ======== ================================================================================
    named    A head, or in a walk a descriptor that the one before it names: else it is nothing
    head     Begins a chain
    first    Nothing before it in this answer belongs to its chain
    final    Nothing behind it in this answer belongs to its chain
    ends     The last of its answer
    sweep    Not a descriptor: the place is cleared, and gets ``lap`` as its mark
    bytes    Of the chain before this answer; likewise ``segments``
    packed   Of a packed ring
    top      The ring's size, less one
    indirect It may point to a table
    table    It lies in a table, of ``entries`` at ``address``; then ``number`` is that of the
             descriptor that points there
    entry    Its number in the table
    in_cell  It is kept in the cell ``cell`` (else, where that descriptor was); of the first of an
             answer: the others are kept where the one before says
    room     Cells that the table may still take
    place    It lies in a packed ring itself; these count only there (the first two for what is
             behind it, as well):
    slots    Places of the chain so far
    after    The place behind this one, with its lap ``after_lap``
    reached  With ``ends``: the position up to which the ring is available
    found    With ``ends``: places that the answer showed to be
    full     With ``ends``: those are all that it held
    partial  With ``ends``: a chain goes on behind them
    ======== ================================================================================
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "order": 4, "index": sizes.index_bits, "lap": 1,
            "number": sizes.index_bits, "named": 1, "head": 1, "first": 1, "final": 1, "ends": 1,
            "sweep": 1, "error": 2, "bytes": LENGTH_BITS, "segments": sizes.index_bits + 1,
            "packed": 1, "place": 1, "slots": sizes.index_bits + 1,
            "after": sizes.index_bits, "after_lap": 1, "top": sizes.index_bits,
            "indirect": 1, "table": 1, "address": 64, "entries": sizes.cell_bits,
            "entry": sizes.cell_bits, "in_cell": 1, "cell": sizes.cell_bits,
            "room": sizes.cell_bits,
            "reached": 16, "found": COUNT_BITS, "full": 1, "partial": 1,
        })


class DescriptorUnpack(wiring.Component):
    """Cut answers into descriptors, one a cycle, and say of each what it is.

    What a chain goes on with is told in one way, wherever it lies: ``flags.next`` and ``other`` of
    what leaves here are those of a split ring's table also where a packed ring, or a table in it,
    says it by the order alone.

    An answer of a packed ring ends with the first descriptor that is not available: what lies
    behind it is dropped, a beat a cycle.

    | Latency: 1 cycle, of a packed ring's answer 2. Throughput: a descriptor a cycle, and 5 cycles
      more an answer of a packed ring. Storage: a beat, and about 70 bits a member.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    answers : In(stream.Signature(ReadAnswerLayout(lanes, context)))
    sweeps : In(stream.Signature(SweepLayout(sizes)))
    operations : Out(stream.Signature({operation, raw}))
        All else waits while it is not taken.
    drained : In(1)
        What was taken from ``operations`` has been written down.
    partial : In(WriteSignature(members, PartialLayout(sizes)))
        The chain that a packed ring was left inside of.
    cells : Out(LookupSignature(range(cells), cell_bits))
        The list of free cells: valid with the descriptor of a table that goes on, in the cycle
        after it was taken, and until the next such one.
    front : Out(LookupSignature(range(members), cell_bits))
    front_moves : Out(WriteSignature(members, cell_bits))
        Where a member's list begins.
    """

    answers: stream.Interface
    sweeps: stream.Interface
    operations: stream.Interface
    drained: Signal
    partial: wiring.PureInterface
    cells: wiring.PureInterface
    front: wiring.PureInterface
    front_moves: wiring.PureInterface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        self._context = PrefetchContextLayout(sizes)
        super().__init__({
            "answers": In(stream.Signature(ReadAnswerLayout(sizes.lanes, self._context.size))),
            "sweeps": In(stream.Signature(SweepLayout(sizes))),
            "operations": Out(stream.Signature(data.StructLayout({
                "operation": OperationLayout(sizes), "raw": RawLayout(),
            }))),
            "drained": In(1),
            "partial": In(WriteSignature(sizes.members, PartialLayout(sizes))),
            "cells": Out(LookupSignature(range(sizes.cells), sizes.cell_bits)),
            "front": Out(LookupSignature(range(sizes.members), sizes.cell_bits)),
            "front_moves": Out(WriteSignature(sizes.members, sizes.cell_bits)),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one stage
        m = Module()
        sizes = self.sizes
        lanes = sizes.lanes
        per_beat = max(1, lanes // DESCRIPTOR_BYTES)
        beats = max(1, DESCRIPTOR_BYTES // lanes)  # to a descriptor
        beat: Any = self.answers.payload
        context: Any = data.View(self._context, beat.context)

        window = Signal(max(_DESCRIPTOR_BITS, 8 * lanes), reset_less=True)
        here = Signal(range(per_beat + 1))         # descriptors in the window
        missing = Signal(range(max(2, beats)))     # beats, to fill it, after this one
        left = Signal(range(BURST_MAX + 1), reset_less=True)  # descriptors of the answer
        run = Signal(reset_less=True)
        down = Signal(reset_less=True)
        step = Signal(2, reset_less=True)   # descriptors between two heads
        place = Signal(2, reset_less=True)  # behind the head before
        named = Signal(reset_less=True)
        now: Any = Signal(OperationLayout(sizes), reset_less=True)  # known before it is seen
        above = Signal(16, reset_less=True)
        patience = Signal(range(_PATIENCE))
        sweeps = Signal()
        takes = Signal()
        last = Signal()
        early = Signal()       # the answer ends here, though more of it is to come
        ends = Signal()
        whole = Signal(reset_less=True)  # the window holds the answer's last beat
        drops = Signal()       # beats up to that one are nothing
        empties = Signal()
        follows = Signal()
        head_next = Signal()

        # Signals of their own: what an operation is depends on the raw descriptor.
        operation: Any = Signal(OperationLayout(sizes))
        raw: Any = Signal(RawLayout())
        advance = Signal()
        m.d.comb += [
            self.operations.p.operation.eq(operation),
            self.operations.p.raw.eq(raw),
            advance.eq(self.operations.ready | ~self.operations.valid),
        ]

        # Packed rings.
        m.submodules.parsing = memory = ForwardingMemory(_ParsingLayout(sizes), sizes.members)
        parsing: Any = memory
        m.submodules.partial_chains = chains = ForwardingMemory(
            PartialLayout(sizes), sizes.members)
        partial: Any = chains
        left_inside: Any = self.partial
        m.d.comb += [
            partial.write_enable.eq(left_inside.enable),
            partial.write_address.eq(left_inside.address),
            partial.write_data.eq(left_inside.data),
        ]
        was: Any = parsing.read_data
        is_slots = Signal()    # the answer that begins is of a packed ring
        looks_up = Signal()    # something is to be looked up for it
        loaded = Signal()      # that has been done
        going = Signal(reset_less=True)    # all before this one was available
        inside = Signal(reset_less=True)   # of a chain
        trusted = Signal(reset_less=True)  # the rest of the chain
        lap = Signal(reset_less=True)      # of the answer
        wraps = Signal(reset_less=True)    # its last place is the ring's
        reached: Any = Signal(data.StructLayout({"place": sizes.index_bits, "lap": 1}),
                              reset_less=True)
        found = Signal(COUNT_BITS, reset_less=True)
        slots = Signal(sizes.index_bits + 1, reset_less=True)
        visible = Signal()
        goes_in = Signal()                 # the chain goes on behind this one
        behind: Any = Signal.like(reached) # the place behind this one
        still: Any = Signal.like(reached)  # as it is behind this one
        m.d.comb += [
            is_slots.eq(beat.first & (context.kind == ReadKind.SLOTS)),
            looks_up.eq(is_slots | (beat.first & context.table)),
            visible.eq(going & (((raw.flags.available != lap) & (raw.flags.used == lap))
                                | (trusted & inside) | (now.first & (now.error != 0)))),
            goes_in.eq(Mux(visible, raw.flags.next, inside)),
            parsing.read_address.eq(context.member),
            parsing.read_enable.eq(0),
            partial.read_address.eq(context.member),
            partial.read_enable.eq(parsing.read_enable),
            parsing.write_address.eq(operation.member),
            parsing.write_data.next.eq(still.place),
            parsing.write_data.lap.eq(still.lap),
            parsing.write_data.inside.eq(goes_in),
            parsing.write_data.index.eq(operation.index),
            parsing.write_data.head_lap.eq(operation.lap),
            parsing.write_data.slots.eq(Mux(visible, operation.slots, slots)),
            parsing.write_enable.eq(takes & ends & now.place),
            behind.place.eq(Mux(last & wraps, 0, above)),
            behind.lap.eq(lap ^ (last & wraps)),
            still.eq(reached),
        ]
        with m.If(visible):
            m.d.comb += still.eq(behind)

        m.d.comb += [
            raw.address.eq(window[:64]),
            raw.length.eq(window[64:96]),
            raw.flags.eq(Mux(now.packed, window[112:128], window[96:112])),
            raw.other.eq(Mux(now.packed, window[96:112], window[112:128])),
            sweeps.eq(self.sweeps.valid & ((here == 0) | (patience == 0))),
            self.sweeps.ready.eq(sweeps & advance),
            takes.eq((here != 0) & ~sweeps & advance),
            last.eq(left == 1),
            early.eq(now.place & ~visible & ~last),
            ends.eq(last | early),
            empties.eq((here == 0) | (takes & ((here == 1) | last))),
            self.answers.ready.eq(drops | (empties & (~looks_up | loaded))),
            head_next.eq(run & (place == step)),
            follows.eq(raw.flags.next & (raw.other == above) & ~last & ~head_next
                       & (now.error == 0)),
            self.operations.valid.eq((here != 0) | sweeps),
            operation.eq(now),
            operation.named.eq(now.head | named),
            operation.final.eq(~follows),
            operation.ends.eq(ends),
        ]
        # Tables.
        cells: Any = self.cells
        front: Any = self.front
        front_moves: Any = self.front_moves
        pointer = Signal(sizes.cell_bits, reset_less=True)
        more = Signal()
        m.d.comb += [
            more.eq(now.entry + 1 != now.entries),
            cells.address.eq(Cat(pointer, now.member)),
            cells.enable.eq(takes & now.table & operation.named & raw.flags.next),
            front.address.eq(context.member),
            front_moves.address.eq(now.member),
            front_moves.data.eq(pointer + 1),
            front_moves.enable.eq(cells.enable),
        ]
        with m.If(cells.enable):
            m.d.sync += pointer.eq(front_moves.data)
        with m.If(now.table & now.packed):
            # Consecutive, and of the flags WRITE alone counts (IMP-PKT-IND-01).
            m.d.comb += [
                raw.flags.eq(0),
                raw.flags.next.eq(more),
                raw.flags.write.eq(window[112 + 1]),
                raw.other.eq(above),
            ]
        with m.If(now.place):
            m.d.comb += [
                operation.named.eq(visible),
                operation.head.eq(visible & ~inside),
                operation.first.eq(now.first | ~inside),
                operation.final.eq(1),
                operation.index.eq(Mux(inside, now.index, now.number)),
                operation.lap.eq(Mux(inside, now.lap, lap)),
                operation.slots.eq(Mux(inside, slots + 1, 1)),
                operation.after.eq(behind.place),
                operation.after_lap.eq(behind.lap),
                operation.reached.eq(packed_position(still.place, still.lap)),
                operation.found.eq(found + visible),
                operation.full.eq(visible),
                operation.partial.eq(goes_in),
            ]
            with m.If(~inside):
                m.d.comb += [operation.bytes.eq(0), operation.segments.eq(0)]
        with m.If(sweeps):
            m.d.comb += [
                operation.eq(0),
                operation.sweep.eq(1),
                operation.member.eq(self.sweeps.p.member),
                operation.index.eq(self.sweeps.p.index),
                operation.number.eq(self.sweeps.p.index),
                operation.lap.eq(self.sweeps.p.mark),
            ]
            # The same each time: every part forgets in one way.
            m.d.comb += [
                parsing.write_data.next.eq(self.sweeps.p.place),
                parsing.write_data.lap.eq(self.sweeps.p.lap),
                parsing.write_data.inside.eq(0),
                parsing.write_enable.eq(1),
            ]
        with m.If(self.sweeps.ready):
            m.d.sync += patience.eq(_PATIENCE - 1)
        with m.Elif(patience != 0):
            m.d.sync += patience.eq(patience - 1)

        with m.If(takes):
            m.d.sync += [
                window.eq(window >> _DESCRIPTOR_BITS),
                here.eq(here - 1),
                left.eq(left - 1),
                now.number.eq(Mux(now.table, now.number, now.number + 1)),
                above.eq(above + 1),
                now.head.eq(head_next),
                now.first.eq(head_next),
                now.entry.eq(now.entry + 1),
                now.room.eq(now.room - 1),
                named.eq(operation.named & follows),
                place.eq(place + 1),
            ]
            with m.If(head_next):
                m.d.sync += [
                    now.index.eq(Mux(down, now.index - 1, now.index + 1)),
                    place.eq(0),
                ]
            with m.If(last):
                m.d.sync += here.eq(0)
            with m.If(now.place):
                m.d.sync += [
                    now.head.eq(0),
                    now.first.eq(0),
                    now.index.eq(operation.index),
                    now.lap.eq(operation.lap),
                    going.eq(visible),
                    reached.eq(still),
                    found.eq(operation.found),
                    inside.eq(goes_in),
                    trusted.eq(trusted & goes_in),
                ]
                with m.If(visible):
                    m.d.sync += slots.eq(operation.slots)
        # What was found in the answer before this one must have been written down.
        with m.If(self.answers.valid & looks_up & ~loaded & (here == 0) & ~sweeps & ~drops
                  & (self.drained | ~is_slots)):
            m.d.comb += [parsing.read_enable.eq(1), front.enable.eq(1)]
            m.d.sync += loaded.eq(1)
        with m.If(drops):
            with m.If(self.answers.valid & beat.last):
                m.d.sync += drops.eq(0)
        with m.Elif(empties & self.answers.valid & (~looks_up | loaded)):
            m.d.sync += [loaded.eq(0), whole.eq(beat.last)]
            if beats == 1:
                m.d.sync += [window.eq(beat.data), here.eq(per_beat)]
            else:
                m.d.sync += [
                    window.eq(Cat(window[8 * lanes:], beat.data)),
                    missing.eq(Mux(missing == 0, beats - 1, missing - 1)),
                    here.eq(missing == 1),
                ]
            with m.If(beat.first):
                m.d.sync += [
                    left.eq(context.count),
                    run.eq(context.kind == ReadKind.RUN),
                    down.eq(context.down),
                    step.eq(context.step),
                    place.eq(0),
                    named.eq(1),
                    now.eq(0),
                    now.member.eq(context.member),
                    now.order.eq(context.order),
                    now.index.eq(context.index),
                    now.lap.eq(context.lap),
                    now.number.eq(Mux(context.table, context.link, context.descriptor)),
                    above.eq(context.descriptor + 1),
                    now.head.eq(context.kind == ReadKind.RUN),
                    now.first.eq(1),
                    now.error.eq(beat.error),
                    now.bytes.eq(context.bytes),
                    now.segments.eq(context.segments),
                    now.packed.eq(context.packed),
                    now.place.eq(is_slots),
                    now.top.eq(context.top),
                    now.slots.eq(context.slots),
                    now.after.eq(context.after),
                    now.after_lap.eq(context.after_lap),
                    now.indirect.eq(context.indirect),
                    now.table.eq(context.table),
                    now.address.eq(context.address),
                    now.entries.eq(context.entries),
                    now.entry.eq(context.descriptor),
                    now.in_cell.eq(context.in_cell),
                    now.cell.eq(context.cell),
                    now.room.eq(context.room),
                ]
                m.d.sync += pointer.eq(front.data)
                with m.If(is_slots):
                    m.d.sync += [
                        now.head.eq(0),
                        now.bytes.eq(partial.read_data.bytes),
                        now.segments.eq(partial.read_data.segments),
                        now.index.eq(was.index),
                        now.lap.eq(was.head_lap),
                        going.eq((was.next == context.index) & (was.lap == context.lap)),
                        inside.eq(was.inside),
                        trusted.eq(context.trusted & was.inside),
                        lap.eq(context.lap),
                        wraps.eq(context.index + context.count - 1 == context.top),
                        reached.place.eq(was.next),
                        reached.lap.eq(was.lap),
                        found.eq(0),
                        slots.eq(was.slots),
                    ]
        # A beat that comes in the same cycle belongs to the answer still.
        with m.If(takes & early):
            m.d.sync += [
                here.eq(0),
                missing.eq(0),
                drops.eq(~Mux(self.answers.valid & self.answers.ready, beat.last, whole)),
            ]
        return m
