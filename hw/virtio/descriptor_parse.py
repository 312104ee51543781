"""Descriptors as they come: checked, marked as in use, added up to chains."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadAnswerLayout
from hw.stream.memory import ForwardingMemory
from hw.stream.types import LENGTH_BITS
from hw.virtio.descriptor_cache import (
    DescriptorLayout,
    DoneLayout,
    TotalsLayout,
    WriteSignature,
)
from hw.virtio.prefetch_types import (
    BURST_MAX,
    COUNT_BITS,
    DESCRIPTOR_BYTES,
    CompletionLayout,
    FaultSourceLayout,
    LookupSignature,
    PrefetchContextLayout,
    PrefetchSizes,
    ReadKind,
    SweepLayout,
    WalkLayout,
    packed_position,
    read_fault,
)
from hw.virtio.types import FaultReason

__all__ = ["DescriptorParser"]

_HEADER_BYTES = 12  # struct virtio_net_hdr: a chain to send holds that, and a frame
_DESCRIPTOR_BITS = 8 * DESCRIPTOR_BYTES
_PATIENCE = 4       # cycles that a sweep waits for a gap
_LONGEST = (1 << LENGTH_BITS) - 1


class _FlagsLayout(data.StructLayout):
    """Flags of a descriptor. ``available`` and ``used`` mean something in packed rings alone."""

    def __init__(self) -> None:
        super().__init__({"next": 1, "write": 1, "indirect": 1, "low": 4, "available": 1,
                          "high": 7, "used": 1})


class _RawLayout(data.StructLayout):
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


class _PartialLayout(data.StructLayout):
    """The chain that a packed ring was left inside of."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({"bytes": LENGTH_BITS, "segments": sizes.index_bits + 1})


class _OperationLayout(data.StructLayout):
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
    place    It lies in a packed ring; these count only there:
    slots    Places of the chain so far
    after    The place behind this one, with its lap ``after_lap``
    top      The ring's size, less one
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
            "reached": 16, "found": COUNT_BITS, "full": 1, "partial": 1,
        })


class DescriptorParser(wiring.Component):
    """Check and keep descriptors, one a cycle, and follow chains as far as an answer goes.

    ::

        answers ─► window ─► unpack ─► check, add up ─► judge ─► cache, totals, marks
                                                              ├► walks (the chain goes on elsewhere)
                                                              └► completions, faults

    Each descriptor in use bears a mark, so that a descriptor can neither belong to two chains nor
    twice to one: that is a fault, and what was announced of a chain stays true whatever the driver
    does to its rings. The mark is two bits that differ: one written here, one where chains are
    taken.

    *Packed rings* are read before it is known what is available. Per member is kept how far that
    was seen to go. An answer counts if it begins there; its descriptors up to the first one that is
    not available (PKT-RING-06) are taken. Within a read no order can be relied on, so each
    descriptor of a chain must show that it is available, as drivers write it. In an answer to a
    read that left after the chain's head was seen it need not (``trusted``): what the driver wrote
    before the head is there by then.

    | Latency: 5 cycles from the answer to the completion of its first descriptor's chain; of a
      packed ring 6.
    | Throughput: a descriptor a cycle, and 5 cycles more an answer of a packed ring.
    | Storage: a beat, 4 descriptors, a bit a descriptor, and about 70 bits a member.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.
    max_chain_bytes
        Longest chain to send, below 131071. Of chains to receive into, the length saturates.

    Members
    -------
    answers : In(stream.Signature(ReadAnswerLayout(lanes, context)))
        Runs and walks.
    sweeps : In(stream.Signature(SweepLayout(sizes)))
        Places of stopped members to clear; one in four cycles at least.
    descriptors, ids, totals, done : Out(WriteSignature)
        The cache by descriptor number; by place in the ring the chain's id (the number of its head,
        or what a packed ring says), the totals, and the mark of a complete chain.
    freed : Out(LookupSignature(range(slots), 1))
        The other half of the marks of use.
    walks : Out(stream.Signature(WalkLayout(sizes)))
        Must always be ready: there is a place reserved for each.
    finished : Out(1)
        A chain needs that place no more (a pulse).
    completions : Out(stream.Signature(CompletionLayout(sizes)))
        After all writes of the chains, one an answer. May stall.
    faults : Out(stream.Signature(FaultSourceLayout(sizes)))
    """

    answers: stream.Interface
    sweeps: stream.Interface
    descriptors: wiring.PureInterface
    ids: wiring.PureInterface
    totals: wiring.PureInterface
    done: wiring.PureInterface
    freed: wiring.PureInterface
    walks: stream.Interface
    finished: Signal
    completions: stream.Interface
    faults: stream.Interface

    def __init__(self, sizes: PrefetchSizes, *, max_chain_bytes: int) -> None:
        if not _HEADER_BYTES < max_chain_bytes < _LONGEST:
            raise ValueError(f"max_chain_bytes must be from {_HEADER_BYTES + 1} to {_LONGEST - 1}, "
                             f"not {max_chain_bytes!r}")
        self.sizes = sizes
        self.max_chain_bytes = max_chain_bytes
        self._context = PrefetchContextLayout(sizes)
        slots = sizes.slots
        super().__init__({
            "answers": In(stream.Signature(ReadAnswerLayout(sizes.lanes, self._context.size))),
            "sweeps": In(stream.Signature(SweepLayout(sizes))),
            "descriptors": Out(WriteSignature(slots, DescriptorLayout(sizes))),
            "ids": Out(WriteSignature(slots, 16)),
            "totals": Out(WriteSignature(slots, TotalsLayout(sizes))),
            "done": Out(WriteSignature(slots, DoneLayout(sizes))),
            "freed": Out(LookupSignature(range(slots), 1)),
            "walks": Out(stream.Signature(WalkLayout(sizes))),
            "finished": Out(1),
            "completions": Out(stream.Signature(CompletionLayout(sizes))),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        advance = Signal()  # all stages move at once
        unpacked: Any = Signal(_OperationLayout(self.sizes))
        unpacked_valid = Signal()
        raw: Any = Signal(_RawLayout())
        drained = Signal()  # nothing is behind the first stage
        m.submodules.parsing = ForwardingMemory(_ParsingLayout(self.sizes), self.sizes.members)
        m.submodules.partial = ForwardingMemory(_PartialLayout(self.sizes), self.sizes.members)
        self._unpack(m, advance, unpacked, unpacked_valid, raw, drained)
        self._check(m, advance, unpacked, unpacked_valid, raw, drained)
        return m

    def _unpack(self, m: Module, advance: Signal,  # noqa: PLR0915  # one stage
                operation: Any, valid: Signal, raw: Any, drained: Signal) -> None:
        """Cut beats into descriptors, and say of each what it is."""
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
        now: Any = Signal(_OperationLayout(sizes), reset_less=True)  # known before it is seen
        above = Signal(16, reset_less=True)
        patience = Signal(range(_PATIENCE))
        sweeps = Signal()
        takes = Signal()
        last = Signal()
        empties = Signal()
        follows = Signal()
        head_next = Signal()

        # Packed rings.
        parsing: Any = m.submodules.parsing
        partial: Any = m.submodules.partial
        was: Any = parsing.read_data
        is_slots = Signal()    # the answer that begins is of a packed ring
        loaded = Signal()      # what is known of that ring has been looked up
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
        still: Any = Signal.like(reached)  # as it is behind this one
        m.d.comb += [
            is_slots.eq(beat.first & (context.kind == ReadKind.SLOTS)),
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
            parsing.write_enable.eq(takes & last & now.place),
            still.eq(reached),
        ]
        with m.If(visible):
            m.d.comb += [still.place.eq(operation.after), still.lap.eq(operation.after_lap)]

        m.d.comb += [
            raw.address.eq(window[:64]),
            raw.length.eq(window[64:96]),
            raw.flags.eq(Mux(now.packed, window[112:128], window[96:112])),
            raw.other.eq(Mux(now.packed, window[96:112], window[112:128])),
            sweeps.eq(self.sweeps.valid & ((here == 0) | (patience == 0))),
            self.sweeps.ready.eq(sweeps & advance),
            takes.eq((here != 0) & ~sweeps & advance),
            last.eq(left == 1),
            empties.eq((here == 0) | (takes & ((here == 1) | last))),
            self.answers.ready.eq(empties & (~is_slots | loaded)),
            head_next.eq(run & (place == step)),
            follows.eq(raw.flags.next & (raw.other == above) & ~last & ~head_next
                       & (now.error == 0)),
            valid.eq((here != 0) | sweeps),
            operation.eq(now),
            operation.named.eq(now.head | named),
            operation.final.eq(~follows),
            operation.ends.eq(last),
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
                operation.after.eq(Mux(last & wraps, 0, above)),
                operation.after_lap.eq(lap ^ (last & wraps)),
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
                now.number.eq(now.number + 1),
                above.eq(above + 1),
                now.head.eq(head_next),
                now.first.eq(head_next),
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
        with m.If(self.answers.valid & is_slots & ~loaded & (here == 0) & drained & ~sweeps):
            m.d.comb += parsing.read_enable.eq(1)
            m.d.sync += loaded.eq(1)
        with m.If(empties & self.answers.valid & (~is_slots | loaded)):
            m.d.sync += loaded.eq(0)
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
                    now.number.eq(context.descriptor),
                    above.eq(context.descriptor + 1),
                    now.head.eq(context.kind == ReadKind.RUN),
                    now.first.eq(1),
                    now.error.eq(beat.error),
                    now.bytes.eq(context.bytes),
                    now.segments.eq(context.segments),
                    now.packed.eq(is_slots),
                    now.place.eq(is_slots),
                    now.top.eq(context.top),
                ]
                with m.If(is_slots):
                    m.d.sync += [
                        now.head.eq(0),
                        now.bytes.eq(partial.read_data.bytes),
                        now.segments.eq(partial.read_data.segments),
                        now.index.eq(was.index),
                        now.lap.eq(was.head_lap),
                        going.eq((was.next == context.index) & (was.lap == context.lap)),
                        inside.eq(was.inside),
                        trusted.eq(context.trusted),
                        lap.eq(context.lap),
                        wraps.eq(context.index + context.count - 1 == context.top),
                        reached.place.eq(was.next),
                        reached.lap.eq(was.lap),
                        found.eq(0),
                        slots.eq(was.slots),
                    ]

    def _check(self, m: Module, advance: Signal, unpacked: Any,  # noqa: PLR0915  # one pipeline
               unpacked_valid: Signal, unpacked_raw: Any, drained: Signal) -> None:
        """Judge each descriptor, add it to its chain, and write down what came of it."""
        sizes = self.sizes
        layout = _OperationLayout(sizes)
        m.submodules.marks = marks = ForwardingMemory(1, sizes.slots)
        partial: Any = m.submodules.partial
        freed: Any = self.freed

        # CHECK: the descriptor alone, and what its chain is with it.
        check: Any = Signal(layout, reset_less=True)
        check_valid = Signal()
        raw: Any = Signal(_RawLayout(), reset_less=True)
        slot = Signal(range(sizes.slots))
        new_mark = Signal()
        in_use = Signal()
        length = Signal(LENGTH_BITS)
        before = Signal(LENGTH_BITS)
        before_segments = Signal(sizes.index_bits + 1)
        total = Signal(LENGTH_BITS + 1)
        reason = Signal(FaultReason)
        m.d.comb += [
            slot.eq(sizes.slot(check.member, check.number)),
            marks.read_address.eq(sizes.slot(unpacked.member, unpacked.number)),
            marks.read_enable.eq(advance),
            freed.address.eq(sizes.slot(unpacked.member, unpacked.number)),
            freed.enable.eq(advance),
            in_use.eq(marks.read_data ^ freed.data),
            # Once it differs it stays so: to mark twice changes nothing.
            new_mark.eq(Mux(check.sweep, freed.data, ~freed.data)),
            marks.write_address.eq(slot),
            marks.write_data.eq(new_mark),
            marks.write_enable.eq(check_valid & advance & (check.sweep | check.named)),
            length.eq(Mux(raw.length[LENGTH_BITS:].any(), _LONGEST, raw.length)),
            total.eq(before + length),
            reason.eq(FaultReason.NONE),
        ]
        with m.If(check.error != 0):
            m.d.comb += reason.eq(read_fault(check.error, FaultReason.NONE))
        with m.Elif(in_use | (check.place & raw.flags.next & (check.slots > check.top))):
            m.d.comb += reason.eq(FaultReason.LOOP)
        with m.Elif(raw.flags.indirect | raw.flags.low.any() | raw.flags.high.any()
                    | (~check.packed & (raw.flags.available | raw.flags.used))):
            m.d.comb += reason.eq(FaultReason.BAD_FLAGS)
        with m.Elif(raw.flags.write == int(sizes.transmit)):
            m.d.comb += reason.eq(FaultReason.DIRECTION)
        with m.Elif(raw.length == 0):
            m.d.comb += reason.eq(FaultReason.ZERO_LENGTH)

        # JUDGE: the chain.
        judge: Any = Signal(layout, reset_less=True)
        judge_valid = Signal()
        write_valid = Signal()
        kept: Any = Signal(DescriptorLayout(sizes), reset_less=True)
        has_next = Signal(reset_less=True)
        next_number = Signal(16, reset_less=True)
        judge_reason = Signal(FaultReason, reset_less=True)
        chain: Any = Signal(_PartialLayout(sizes), reset_less=True)
        given_up = Signal(reset_less=True)  # the chain, by an earlier descriptor of this answer
        live = Signal()
        bad_length = Signal()
        fails = Signal()
        goes_on = Signal()
        complete = Signal()
        m.d.comb += [
            before.eq(Mux(check.first, check.bytes, chain.bytes)),
            before_segments.eq(Mux(check.first, check.segments, chain.segments)),
            live.eq(judge_valid & judge.named & ~(given_up & ~judge.first)),
            fails.eq(live & ((Value.cast(judge_reason) != 0) | bad_length)),
            complete.eq(live & judge.final & ~has_next & ~fails),
            goes_on.eq(live & judge.final & has_next & ~fails & ~judge.place),
            drained.eq(~check_valid & ~judge_valid & ~write_valid),
        ]
        if sizes.transmit:
            m.d.comb += bad_length.eq(
                (chain.bytes > self.max_chain_bytes)
                | (judge.final & ~has_next & (chain.bytes <= _HEADER_BYTES)))

        # WRITE: what came of it.
        write: Any = Signal(layout, reset_less=True)
        written: Any = Signal(DescriptorLayout(sizes), reset_less=True)
        write_next = Signal(16, reset_less=True)
        write_reason = Signal(FaultReason, reset_less=True)
        write_chain: Any = Signal(_PartialLayout(sizes), reset_less=True)
        write_live = Signal()
        write_fails = Signal()
        write_goes_on = Signal()
        write_complete = Signal()
        with m.If(advance):
            m.d.sync += [
                check.eq(unpacked),
                check_valid.eq(unpacked_valid),
                raw.eq(unpacked_raw),

                judge.eq(check),
                judge_valid.eq(check_valid),
                kept.address.eq(raw.address),
                kept.length.eq(length),
                kept.next.eq(Mux(check.place, check.after, raw.other)),
                kept.mark.eq(new_mark),
                has_next.eq(raw.flags.next),
                next_number.eq(raw.other),
                judge_reason.eq(reason),

                write.eq(judge),
                write_valid.eq(judge_valid),
                written.eq(kept),
                write_next.eq(next_number),
                write_reason.eq(Mux(Value.cast(judge_reason) != 0, judge_reason,
                                    FaultReason.BAD_LENGTH)),
                write_chain.eq(chain),
                write_live.eq(live),
                write_fails.eq(fails),
                write_goes_on.eq(goes_on),
                write_complete.eq(complete),
            ]
            # Kept while nothing comes, or places are cleared in between: the chain may go on.
            with m.If(check_valid & check.named):
                m.d.sync += [
                    chain.bytes.eq(Mux(total[LENGTH_BITS], _LONGEST, total)),
                    chain.segments.eq(before_segments + 1),
                ]
            with m.If(judge_valid & judge.named):
                m.d.sync += given_up.eq(fails | (given_up & ~judge.first))

        descriptors: Any = self.descriptors
        ids: Any = self.ids
        totals: Any = self.totals
        done: Any = self.done
        place = Signal(range(sizes.slots))
        passes = Signal()
        finishes = Signal()
        count = Signal(range(BURST_MAX + 1))   # chains that ended in this answer, before this
        counted = Signal(range(BURST_MAX + 2))
        told = Signal()
        wants = Signal()
        m.d.comb += [
            place.eq(sizes.slot(write.member, write.index)),
            # A place of a packed ring inside a chain bears the mark too, or a head there would look
            # complete a lap later. The one before it has a write to spare.
            passes.eq(write_live & write.place & ~write_complete & ~write_fails),
            descriptors.address.eq(sizes.slot(write.member, write.number)),
            descriptors.data.eq(written),
            descriptors.enable.eq(write_live),
            ids.address.eq(place),
            ids.data.eq(Mux(write.place, write_next, write.number)),
            ids.enable.eq(Mux(write.place, write_complete, write_live & write.head)),
            totals.address.eq(place),
            totals.data.bytes.eq(write_chain.bytes),
            totals.data.segments.eq(write_chain.segments),
            totals.data.slots.eq(write.slots),
            totals.data.after.eq(write.after),
            totals.data.after_lap.eq(write.after_lap),
            totals.enable.eq(write_complete),
            done.address.eq(Mux(passes, sizes.slot(write.member, write.after), place)),
            done.data.mark.eq(Mux(passes, ~write.after_lap,
                                  Mux(write.sweep, write.lap, ~write.lap))),
            done.data.bytes.eq(write_chain.bytes),
            done.data.after.eq(write.after),
            done.data.after_lap.eq(write.after_lap),
            done.enable.eq(write_complete | passes | (write_valid & write.sweep)),

            self.walks.valid.eq(write_goes_on & advance),
            self.walks.p.member.eq(write.member),
            self.walks.p.order.eq(write.order),
            self.walks.p.descriptor.eq(write_next),
            self.walks.p.index.eq(write.index),
            self.walks.p.lap.eq(write.lap),
            self.walks.p.bytes.eq(write_chain.bytes),
            self.walks.p.segments.eq(write_chain.segments),

            self.faults.valid.eq(write_fails & ~told),
            self.faults.p.member.eq(write.member),
            self.faults.p.reason.eq(write_reason),
            self.faults.p.address.eq(written.address),

            finishes.eq(write_fails | write_complete),
            self.finished.eq(finishes & ~write.place & advance),
            counted.eq(count + finishes),
            wants.eq(write_valid & write.ends & (write.place | (counted != 0))),
            # The fault is told before the obligations of the answer's chains are given back.
            self.completions.valid.eq(wants & (~write_fails | told)),
            self.completions.p.member.eq(write.member),
            self.completions.p.order.eq(write.order),
            self.completions.p.count.eq(counted),
            self.completions.p.packed.eq(write.packed),
            self.completions.p.slots.eq(write.place),
            self.completions.p.report.member.eq(write.member),
            self.completions.p.report.index.eq(write.reached),
            self.completions.p.report.found.eq(write.found),
            self.completions.p.report.full.eq(write.full),
            self.completions.p.report.partial.eq(write.partial),
            partial.write_address.eq(write.member),
            partial.write_data.bytes.eq(write_chain.bytes),
            partial.write_data.segments.eq(write_chain.segments),
            partial.write_enable.eq(
                write_valid & write.ends & write.place & (write.found != 0) & advance),
            advance.eq((~write_fails | told) & (~wants | self.completions.ready)),
        ]
        with m.If(advance):
            m.d.sync += told.eq(0)
            with m.If(write_valid & ~write.sweep):
                m.d.sync += count.eq(Mux(write.ends, 0, counted))
        with m.Elif(self.faults.valid & self.faults.ready):
            m.d.sync += told.eq(1)
