"""Wait until every write accepted so far has left: the card's one ordering rule, in one place."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["COUNT_BITS", "WriteFence"]

COUNT_BITS = 8
"""Groups of writes are counted modulo 2**COUNT_BITS; fewer than half of that are ever under way."""


class WriteFence(wiring.Component):
    """Remember which writes were accepted at one moment, and tell when all of them have left.

    `hw.pcie.dma_write.DmaWrite` counts the groups that stand in the order of writes
    (``writes_accepted``), `hw.pcie.requester.Requester` those that have left ``rq``
    (``writes_left``). They leave in the order in which they were accepted, so the writes that were
    accepted before a moment have left as soon as the second count has come to what the first one
    was at that moment.

    Equality is enough, though both counts wrap: ``writes_left`` grows by at most one a cycle, and
    never beyond what ``writes_accepted`` was a cycle before (a group takes more than a cycle from
    one count to the other), so in the cycle after ``capture`` it stands at the remembered count or
    behind it, and later passes through it. What has been seen once is kept.

    | Latency: ``passed`` may be set in the cycle after ``capture``, at the earliest. One fence.

    Members
    -------
    capture : In(1)
        Everything accepted until now (this cycle's ``writes_accepted``) must leave first. Forgets
        an earlier capture.
    writes_accepted : In(8)
    writes_left : In(8)
        The two counts.
    passed : Out(1)
        From the cycle after ``capture`` on: all of them have left. Set when nothing was captured.
    """

    capture: Signal
    writes_accepted: Signal
    writes_left: Signal
    passed: Signal

    def __init__(self) -> None:
        super().__init__({
            "capture": In(1),
            "writes_accepted": In(COUNT_BITS),
            "writes_left": In(COUNT_BITS),
            "passed": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        target = Signal(COUNT_BITS, reset_less=True)
        waits = Signal()
        m.d.comb += self.passed.eq(~waits | (self.writes_left == target))
        with m.If(self.capture):
            m.d.sync += [target.eq(self.writes_accepted), waits.eq(1)]
        with m.Elif(self.passed):
            m.d.sync += waits.eq(0)
        return m
