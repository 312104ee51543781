"""From ring entries and unfinished chains to reads of descriptors, many of them in one."""

from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout
from hw.virtio.descriptor_cache import WriteSignature
from hw.virtio.prefetch_types import (
    BURST_MAX,
    CellCountLayout,
    FaultSourceLayout,
    LookupSignature,
    PrefetchContextLayout,
    PrefetchSizes,
    ReadKind,
    RunLayout,
    WalkLayout,
    packed_place,
    read_fault,
    walk_members,
)
from hw.virtio.types import FaultReason, ObligationLayout, QueueConfigSignature

__all__ = ["WALK_MAX", "DescriptorReads", "RunMerger"]

_ENTRY_BITS = 16
_COUNT = range(BURST_MAX + 1)
_STEP_MAX = 4

WALK_MAX = 4
"""Descriptors that are read to follow a chain: one cache line. Those that the chain does not name
in turn are thrown away."""


class RunMerger(wiring.Component):
    """Take ring entries one by one, and merge neighbours into runs.

    A run are heads that lie in the table at equal distances of 1 to 4, in the order of the ring or
    against it: a driver that keeps its free descriptors on a stack hands them out in both, and
    chains of equal lengths lie side by side. What lies between the heads is read with them, and
    counts only where a chain names it.

    The entry's chain holds an obligation from here on until it can be taken or is given up. The
    read of the entries brought one; the others are taken on before the first run leaves.

    For each chain a place in the list of walks is reserved here, so that the answer to its
    descriptor never waits: `chains_max` chains can be between here and their completion.

    | Latency: 1 cycle from an answer to its run, if it is a single entry.
    | Throughput: an entry a cycle, and 4 cycles a burst, 2 if it is a single entry. Storage: a
      beat.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.
    chains_max
        Chains between here and the end of their last read.

    Members
    -------
    answers : In(stream.Signature(ReadAnswerLayout(lanes, context)))
        Ring entries.
    done : Out(1)
        An answer has been used up (a pulse).
    runs : Out(stream.Signature(RunLayout(sizes)))
    finished : In(range(BURST_MAX + 1))
        So many chains need no place in the list of walks any more, each cycle.
    obligations : Out(stream.Signature(ObligationLayout()))
    obliged : In(1)
        The obligation taken on last has reached its counter (a pulse).
    faults : Out(stream.Signature(FaultSourceLayout(sizes)))
    """

    answers: stream.Interface
    done: Signal
    runs: stream.Interface
    finished: Signal
    obligations: stream.Interface
    obliged: Signal
    faults: stream.Interface

    def __init__(self, sizes: PrefetchSizes, *, chains_max: int) -> None:
        if chains_max < 2 * BURST_MAX:
            raise ValueError(f"chains_max must be at least {2 * BURST_MAX}, not {chains_max!r}")
        self.sizes = sizes
        self.chains_max = chains_max
        self._context = PrefetchContextLayout(sizes)
        super().__init__({
            "answers": In(stream.Signature(ReadAnswerLayout(sizes.lanes, self._context.size))),
            "done": Out(1),
            "runs": Out(stream.Signature(RunLayout(sizes))),
            "finished": In(_COUNT),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "obliged": In(1),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        sizes = self.sizes
        per_beat = sizes.lanes * 8 // _ENTRY_BITS
        beat: Any = self.answers.payload
        context: Any = Signal(self._context)
        m.d.comb += context.eq(data.View(self._context, beat.context))

        free = Signal(range(self.chains_max + 1), init=self.chains_max)
        some_free = Signal(init=1)
        finished = Signal(_COUNT)
        takes = Signal()  # an entry joins or begins a run
        alone = Signal()  # an answer is a single entry, and a run
        m.d.sync += finished.eq(self.finished)
        m.d.sync += free.eq(free + finished - (takes | alone))
        # One less than there is: the sum above is too slow to be looked at in the same cycle.
        m.d.sync += some_free.eq(free[1:].any())

        window = Signal(8 * sizes.lanes, reset_less=True)  # entries not yet taken, the next lowest
        here = Signal(range(per_beat + 1))                 # how many
        left = Signal(_COUNT, reset_less=True)             # of the whole answer
        index = Signal(sizes.index_bits, reset_less=True)  # place of the next
        member = Signal(range(sizes.members), reset_less=True)
        order = Signal(4, reset_less=True)
        lap = Signal(reset_less=True)
        m.d.comb += [
            self.obligations.p.queue.eq(sizes.queue(context.member)),
            self.faults.p.member.eq(context.member),
            self.faults.p.reason.eq(read_fault(beat.error, FaultReason.READ_FAILED)),
        ]

        run: Any = Signal(RunLayout(sizes), reset_less=True)
        run_valid = Signal()
        above = Signal(_ENTRY_BITS, reset_less=True)   # the entry taken last, and one
        below = Signal(_ENTRY_BITS, reset_less=True)   # less one
        up = Signal(_ENTRY_BITS)                       # from there to this one
        down = Signal(_ENTRY_BITS)
        step = Signal(range(_STEP_MAX))
        entry = Signal(_ENTRY_BITS)
        joins = Signal()
        goes_up = Signal()
        goes_down = Signal()
        span = Signal(range(2 * BURST_MAX))
        run_free = Signal()
        single = Signal(reset_less=True)
        full = Signal(reset_less=True)
        m.d.comb += [
            entry.eq(window[:_ENTRY_BITS]),
            up.eq(entry - above),
            down.eq(below - entry),
            goes_up.eq(~up[2:].any() & (single | ((up[:2] == run.step) & ~run.down))),
            goes_down.eq(~down[2:].any() & (single | ((down[:2] == run.step) & run.down))),
            joins.eq(run_valid & ~full & (goes_up | goes_down)),
            step.eq(Mux(goes_down, down[:2], up[:2])),
            span.eq(Mux(single, (step + 1) << 1, run.span + run.step + 1)),
            run_free.eq(~run_valid | self.runs.ready),
            self.runs.payload.eq(run),
        ]
        with m.If(self.runs.valid & self.runs.ready):
            m.d.sync += run_valid.eq(0)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    member.eq(context.member),
                    order.eq(context.order),
                    lap.eq(context.lap),
                    index.eq(context.index),
                    left.eq(context.count),
                ]
                with m.If(self.answers.valid):
                    with m.If(Value.cast(beat.error) != 0):
                        m.next = "FAULT"
                    with m.Elif(context.count == 1):
                        # It came with its obligation, and is a run as it is.
                        with m.If(some_free):
                            m.d.comb += [alone.eq(1), self.answers.ready.eq(1), self.done.eq(1)]
                            m.next = "END"
                    with m.Else():
                        m.next = "OBLIGE"
            with m.State("OBLIGE"):
                m.d.comb += [self.obligations.valid.eq(1), self.obligations.p.delta.eq(left - 1)]
                with m.If(self.obligations.ready):
                    m.next = "OBLIGED"
            with m.State("OBLIGED"):
                with m.If(self.obliged):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += [self.answers.ready.eq(1), self.done.eq(self.answers.valid & beat.last)]
                m.d.sync += [window.eq(beat.data), here.eq(per_beat)]
                with m.If(self.answers.valid):
                    m.next = "ENTRIES"
            with m.State("ENTRIES"):
                with m.If(some_free & (joins | run_free)):
                    m.d.comb += takes.eq(1)
                    m.d.sync += [
                        window.eq(window >> _ENTRY_BITS),
                        here.eq(here - 1),
                        left.eq(left - 1),
                        index.eq(index + 1),
                    ]
                    with m.If(left == 1):
                        m.next = "END"
                    with m.Elif(here == 1):
                        m.next = "LOAD"
                m.d.comb += self.runs.valid.eq(run_valid & ~joins)
            with m.State("END"):
                m.d.comb += self.runs.valid.eq(1)
                with m.If(self.runs.ready):
                    m.next = "IDLE"
            with m.State("FAULT"):
                m.d.comb += self.faults.valid.eq(1)
                with m.If(self.faults.ready):
                    m.next = "RELEASE"
            with m.State("RELEASE"):
                m.d.comb += [self.obligations.valid.eq(1), self.obligations.p.delta.eq(-1)]
                with m.If(self.obligations.ready):
                    m.next = "DROP"
            with m.State("DROP"):
                m.d.comb += [self.answers.ready.eq(1), self.done.eq(self.answers.valid & beat.last)]
                with m.If(self.done):
                    m.next = "IDLE"

        with m.If(takes):
            m.d.sync += [above.eq(entry + 1), below.eq(entry - 1), run_valid.eq(1)]
            with m.If(joins):
                m.d.sync += [
                    run.count.eq(run.count + 1),
                    run.span.eq(span),
                    run.reach.eq(Mux(single, step + 1, run.span)),
                    run.step.eq(step),
                    run.down.eq(goes_down),
                    single.eq(0),
                    full.eq(span + step + 1 > BURST_MAX),
                ]
            with m.Else():
                m.d.sync += [run.count.eq(1), run.span.eq(1), run.reach.eq(0), run.step.eq(0),
                             run.down.eq(0), single.eq(1), full.eq(0)]
            # A run is named by its lowest descriptor, and the place of that one.
            with m.If(~joins | goes_down):
                m.d.sync += [run.descriptor.eq(entry), run.index.eq(index)]
            m.d.sync += [run.member.eq(member), run.order.eq(order), run.lap.eq(lap)]
        with m.If(alone):
            m.d.sync += [
                run_valid.eq(1), run.count.eq(1), run.span.eq(1), run.reach.eq(0), run.step.eq(0),
                run.down.eq(0),
                run.descriptor.eq(beat.data[:_ENTRY_BITS]), run.index.eq(context.index),
                run.member.eq(context.member), run.order.eq(context.order),
                run.lap.eq(context.lap),
            ]
        return m


class _DescriptorRead(data.StructLayout):
    """A read of descriptors before its address is known: of a `RunLayout`, or a `WalkLayout`."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "order": 4, "descriptor": 16, "index": sizes.index_bits,
            "lap": 1, "count": _COUNT, "span": _COUNT, "step": range(_STEP_MAX), "down": 1,
            "is_walk": 1, "walk": WalkLayout(sizes),
        })


class DescriptorReads(wiring.Component):
    """Turn runs and walks into reads of the descriptor table, or of an indirect one, inside it.

    What names a descriptor outside the table is a fault. What belongs to a queue that met a fault,
    or is being stopped, is dropped, and the obligations of its chains are given back.

    An indirect table is read when cells for all its entries could be set apart. Where there are
    too few, its walk goes round (``waits``), and others pass. Half of the cells are kept for the
    member's oldest chain that is not complete: so it always gets its own in the end, when the
    chains before it were taken, however much the later ones hold.

    | Latency: 2 cycles, 3 to an indirect table. Throughput: a read every cycle, an indirect table
      in 2; a drop takes 3 cycles. Storage: 2 reads.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    runs : In(stream.Signature(RunLayout(sizes)))
    walks : In(stream.Signature(WalkLayout(sizes)))
        Before runs: they end what was begun.
    waits : Out(stream.Signature(WalkLayout(sizes)))
        Walks to be offered again.
    config : Out(QueueConfigSignature())
    faulted : Out(LookupSignature(range(members), 1))
    limit : Out(LookupSignature(range(members), 16))
        Position of the oldest chain that is not complete.
    cells : Out(LookupSignature(range(members), CellCountLayout(sizes)))
    take_cells : Out(WriteSignature(members, cell_bits))
    reads : Out(stream.Signature(ReadRequestLayout(...)))
    finished : Out(range(BURST_MAX + 1))
        So many chains were given up, each cycle; of split rings.
    slots_finished : Out(1)
        One of a packed ring was (a pulse).
    obligations : Out(stream.Signature(ObligationLayout()))
    faults : Out(stream.Signature(FaultSourceLayout(sizes)))
    """

    runs: stream.Interface
    walks: stream.Interface
    waits: stream.Interface
    config: wiring.PureInterface
    faulted: wiring.PureInterface
    limit: wiring.PureInterface
    cells: wiring.PureInterface
    take_cells: wiring.PureInterface
    reads: stream.Interface
    finished: Signal
    slots_finished: Signal
    obligations: stream.Interface
    faults: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        self._context = PrefetchContextLayout(sizes)
        super().__init__({
            "runs": In(stream.Signature(RunLayout(sizes))),
            "walks": In(stream.Signature(WalkLayout(sizes))),
            "waits": Out(stream.Signature(WalkLayout(sizes))),
            "config": Out(QueueConfigSignature()),
            "faulted": Out(LookupSignature(range(sizes.members), 1)),
            "limit": Out(LookupSignature(range(sizes.members), 16)),
            "cells": Out(LookupSignature(range(sizes.members), CellCountLayout(sizes))),
            "take_cells": Out(WriteSignature(sizes.members, sizes.cell_bits)),
            "reads": Out(stream.Signature(ReadRequestLayout(sizes.lanes, self._context.size))),
            "finished": Out(_COUNT),
            "slots_finished": Out(1),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()
        sizes = self.sizes
        config: Any = self.config
        faulted: Any = self.faulted
        limit: Any = self.limit
        cells: Any = self.cells
        take: Any = self.take_cells

        # The tables are looked up with what comes in, and it is kept beside the answer.
        taken: Any = Signal(_DescriptorRead(sizes))
        held: Any = Signal(_DescriptorRead(sizes), reset_less=True)
        held_valid = Signal()
        highest = Signal(17, reset_less=True)  # head of a run
        last_head = Signal(17)
        arrives = Signal()
        moves = Signal()  # what is held goes, or there is nothing
        judged = Signal()      # of what is held: whether there are cells for it
        drops = Signal()       # it is not read
        out_free = Signal()
        runs_first = Signal()  # a walk could not go: a run may pass
        takes_walk = Signal()
        m.d.comb += [
            arrives.eq((self.runs.valid | self.walks.valid) & moves),
            last_head.eq(self.runs.p.descriptor + self.runs.p.reach),
            takes_walk.eq(self.walks.valid & ~(runs_first & self.runs.valid)),
        ]
        with m.If(takes_walk):
            for name in ("member", "order", "descriptor", "index", "lap"):
                m.d.comb += taken[name].eq(self.walks.p[name])
            m.d.comb += [taken.is_walk.eq(1), taken.count.eq(1), taken.span.eq(1),
                         taken.walk.eq(self.walks.payload)]
        with m.Else():
            for name in ("member", "order", "descriptor", "index", "lap", "count", "span",
                         "step", "down"):
                m.d.comb += taken[name].eq(self.runs.p[name])
        m.d.comb += [
            self.walks.ready.eq(moves & takes_walk),
            self.runs.ready.eq(moves & ~takes_walk),
            limit.address.eq(taken.member),
            limit.enable.eq(arrives),
            cells.address.eq(taken.member),
            cells.enable.eq(arrives),
            config.queue.eq(sizes.queue(taken.member)),
            config.enable.eq(arrives),
            faulted.address.eq(taken.member),
            faulted.enable.eq(arrives),
        ]
        with m.If(moves):
            m.d.sync += [held_valid.eq(arrives), judged.eq(0)]
            with m.If(self.runs.ready | ~self.runs.valid):
                m.d.sync += runs_first.eq(0)
        with m.If(arrives):
            m.d.sync += [held.eq(taken),
                         highest.eq(Mux(takes_walk, self.walks.p.descriptor, last_head))]

        # Whether there are cells for a table that begins: known a cycle later.
        fits = Signal(reset_less=True)
        fresh = Signal()
        wants = Signal(sizes.cell_bits)    # cells: the first entry needs none
        free = Signal(sizes.cell_bits + 1)
        oldest = Signal()
        goes = Signal()                    # what is held may be read, or dropped
        m.d.comb += [
            fresh.eq(held.is_walk & held.walk.fresh),
            wants.eq(held.walk.entries - 1),
            free.eq(cells.data.freed + cells.data.unneeded - cells.data.taken
                    + sizes.table_cells),
            oldest.eq(held.index == Mux(held.walk.packed, packed_place(limit.data),
                                        limit.data & (config.config.size - 1))),
            goes.eq(~fresh | judged),
            self.waits.payload.eq(held.walk),
            self.waits.valid.eq(held_valid & fresh & judged & ~fits & ~drops),
            take.address.eq(held.member),
            take.data.eq(wants),
            take.enable.eq(out_free & held_valid & fresh & judged & fits & ~drops),
        ]
        m.d.sync += fits.eq((wants == 0) | (free >= wants + Mux(oldest, 0, sizes.table_max)))
        with m.If(held_valid & ~moves):
            m.d.sync += judged.eq(1)
        with m.If(self.waits.valid & self.waits.ready):
            m.d.sync += runs_first.eq(1)

        outside = Signal()
        dropping = Signal()       # three things are to be told
        left = Signal(16)         # descriptors from here to the end of the table
        wanted = Signal(_COUNT)
        count = Signal(_COUNT)
        number = Signal(sizes.index_bits)
        in_table = Signal()
        limit_of = Signal(16)     # descriptors of the table that is read
        m.d.comb += [
            in_table.eq(held.is_walk & held.walk.table),
            limit_of.eq(Mux(in_table, held.walk.entries, config.config.size)),
            outside.eq(highest >= limit_of),
            # What is being stopped waits for no cells.
            drops.eq(held_valid & (outside | faulted.data | ~config.config.running)),
            left.eq(limit_of - held.descriptor),
            wanted.eq(Mux(in_table, BURST_MAX, Mux(held.is_walk, WALK_MAX, held.span))),
            count.eq(Mux(left < wanted, left, wanted)),
            number.eq(held.descriptor),
        ]
        out: Any = Signal(ReadRequestLayout(sizes.lanes, self._context.size), reset_less=True)
        out_valid = Signal()
        context: Any = data.View(self._context, out.context)
        m.d.comb += [
            out_free.eq(~out_valid | self.reads.ready),
            self.reads.valid.eq(out_valid),
            self.reads.payload.eq(out),
        ]
        with m.If(self.reads.ready):
            m.d.sync += out_valid.eq(0)
        with m.If(out_free):
            m.d.sync += [
                out_valid.eq(held_valid & ~drops & goes & (~fresh | fits)),
                out.function.eq(sizes.function(held.member)),
                out.queue.eq(sizes.queue(held.member)),
                out.address.eq(Mux(in_table, held.walk.address, config.config.desc)
                               + (number << 4)),
                out.length.eq(count << 4),
                out.lead.eq(0),
                out.fenced.eq(0),
                out.last.eq(1),
                context.kind.eq(Mux(held.is_walk, ReadKind.WALK, ReadKind.RUN)),
                *(context[name].eq(held.walk[name]) for name in walk_members(sizes)),
                context.table.eq(in_table),
                context.room.eq(Mux(fresh, wants, held.walk.room)),
                context.packed.eq(held.is_walk & held.walk.packed),
                context.indirect.eq(config.config.modes.indirect_desc),
                context.top.eq(config.config.size - 1),
                context.member.eq(held.member),
                context.order.eq(held.order),
                context.index.eq(held.index),
                context.lap.eq(held.lap),
                context.count.eq(count),
                context.descriptor.eq(number),
                context.step.eq(held.step),
                context.down.eq(held.down),
            ]
            with m.If(~held.is_walk):
                m.d.sync += [context.bytes.eq(0), context.segments.eq(0)]

        tell_fault = Signal()
        tell_obligation = Signal()
        told = Signal()
        fault_reason = Mux(held.is_walk, FaultReason.NEXT_RANGE, FaultReason.HEAD_RANGE)
        m.d.comb += [
            self.faults.valid.eq(tell_fault),
            self.faults.p.member.eq(held.member),
            self.faults.p.reason.eq(fault_reason),
            self.faults.p.address.eq(config.config.desc),
            self.obligations.valid.eq(tell_obligation),
            self.obligations.p.queue.eq(sizes.queue(held.member)),
            self.obligations.p.delta.eq(-held.count),
            # The fault is in its queue before anything is given back: no one thinks that this
            # queue came to its end without one.
            told.eq(dropping & ~tell_fault & ~tell_obligation),
            self.finished.eq(Mux(told & ~(held.is_walk & held.walk.packed), held.count, 0)),
            self.slots_finished.eq(told & held.is_walk & held.walk.packed),
            moves.eq(~held_valid | Mux(drops, told, Mux(
                fresh, judged & Mux(fits, out_free, self.waits.ready), out_free))),
        ]
        with m.If(~dropping):
            with m.If(drops):
                faults = outside & ~faulted.data & config.config.running
                m.d.sync += [dropping.eq(1), tell_fault.eq(faults), tell_obligation.eq(~faults)]
        with m.Elif(tell_fault):
            with m.If(self.faults.ready):
                m.d.sync += [tell_fault.eq(0), tell_obligation.eq(1)]
        with m.Elif(tell_obligation):
            with m.If(self.obligations.ready):
                m.d.sync += tell_obligation.eq(0)
        with m.Else():
            m.d.sync += dropping.eq(0)
        return m
