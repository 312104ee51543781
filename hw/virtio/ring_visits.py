"""Whose available ring is looked at next: kicks, visits, and queues that wait a while."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.stream.arbiter import StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.queue import StreamQueue
from hw.stream.worklist import WorkList
from hw.virtio.prefetch_types import PrefetchSizes
from hw.virtio.types import ObligationLayout

__all__ = ["RingVisits", "TurnLayout"]

_WAIT_BITS = 4     # one of those that wait is looked at again every 16 cycles
_TURNS = 4


class TurnLayout(data.StructLayout):
    """A member whose turn it is: because the driver ``kicked``, or something was left to do."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({"member": sizes.member_bits, "kicked": 1})


class RingVisits(wiring.Component):
    """Keep who is to be looked at, and take an obligation on for each whose turn has come.

    ::

        kicks ──► list ─────────────────────────┐
        visits ─────────────┐                   ├─ in turn ─► obligation ─► turns
        waits ─► list ─► now and then ─► list ──┘

    A member stands in each list once at most. Kicks and visits take turns.

    | Latency: 2 cycles from a kick to its turn; what waits, 16 cycles for each that does.
    | Throughput: a turn a cycle, each list one every 2 cycles.
    | Storage: three lists of the members.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    kicks, visits, waits : In(stream.Signature(range(members)))
        Look at this one; there is something left to do; look again some time.
    obligations : Out(stream.Signature(ObligationLayout()))
    obliged : In(1)
        The obligation taken on first, of those not told yet, has reached its counter (a pulse).
        Only what the counter has seen keeps a queue from being stopped.
    turns : Out(stream.Signature(TurnLayout(sizes)))
        Each with an obligation.
    """

    kicks: stream.Interface
    visits: stream.Interface
    waits: stream.Interface
    obligations: stream.Interface
    obliged: Signal
    turns: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        member = range(sizes.members)
        super().__init__({
            "kicks": In(stream.Signature(member)),
            "visits": In(stream.Signature(member)),
            "waits": In(stream.Signature(member)),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "obliged": In(1),
            "turns": Out(stream.Signature(TurnLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        member = range(sizes.members)
        m.submodules.kick_list = kicks = WorkList(sizes.members)
        m.submodules.visit_list = visits = WorkList(sizes.members)
        m.submodules.wait_list = waits = WorkList(sizes.members)
        m.submodules.arbiter = arbiter = StreamArbiter(member, 2)
        m.submodules.claimed = claimed = StreamQueue(TurnLayout(sizes), _TURNS)
        connect_streams(m, flipped(self.kicks), kicks.add)
        connect_streams(m, flipped(self.visits), arbiter.i[0])
        connect_streams(m, flipped(self.waits), waits.add)
        connect_streams(m, arbiter.o, visits.add)

        # Those that wait, one after another.
        time = Signal(_WAIT_BITS)
        due = Signal()
        m.d.sync += time.eq(time + 1)
        m.d.comb += [
            arbiter.i[1].valid.eq(waits.take.valid & due),
            arbiter.i[1].payload.eq(waits.take.payload),
            waits.take.ready.eq(arbiter.i[1].ready & due),
        ]
        with m.If(time == 0):
            m.d.sync += due.eq(1)
        with m.Elif(waits.take.valid & waits.take.ready):
            m.d.sync += due.eq(0)

        # Once offered, it stays so.
        favoured = Signal()   # the list of visits
        kept = Signal()
        was_visit = Signal()
        is_visit = Signal()
        chosen: Any = Signal(TurnLayout(sizes))
        offered = Signal()
        m.d.comb += [
            is_visit.eq(Mux(kept, was_visit,
                            visits.take.valid & (favoured | ~kicks.take.valid))),
            offered.eq(Mux(is_visit, visits.take.valid, kicks.take.valid) & claimed.i.ready),
            chosen.member.eq(Mux(is_visit, visits.take.payload, kicks.take.payload)),
            chosen.kicked.eq(~is_visit),
            self.obligations.valid.eq(offered),
            self.obligations.p.queue.eq(sizes.queue(chosen.member)),
            self.obligations.p.delta.eq(1),
            claimed.i.valid.eq(offered & self.obligations.ready),
            claimed.i.payload.eq(chosen),
            visits.take.ready.eq(claimed.i.valid & is_visit),
            kicks.take.ready.eq(claimed.i.valid & ~is_visit),
        ]
        m.d.sync += [
            kept.eq(offered & ~self.obligations.ready),
            was_visit.eq(is_visit),
        ]
        with m.If(claimed.i.valid):
            m.d.sync += favoured.eq(~is_visit)

        granted = Signal(range(_TURNS + 1))  # that have reached their counter, and wait here
        m.d.sync += granted.eq(granted + self.obliged - (self.turns.valid & self.turns.ready))
        m.d.comb += [
            self.turns.valid.eq((granted != 0) | self.obliged),
            self.turns.payload.eq(claimed.o.payload),
            claimed.o.ready.eq(self.turns.ready & self.turns.valid),
        ]
        return m
