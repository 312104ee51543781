"""Whether another burst of a queue follows the one that is told of."""

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import QUEUE_BITS

__all__ = ["UsedFollow"]


class UsedFollow(wiring.Component):
    """Remember the queue of the last chain that came, of each direction, while it still waits.

    As long as it waits another burst of its queue is sure to come; so who tells of an earlier one
    may leave it at that. Other queues count as having nothing that follows, which is safe.

    | Latency: a chain counts from the next cycle on. Storage: 14 bits a direction.

    Members
    -------
    comes, coming : In(1), In(QUEUE_BITS)
        A chain of this queue waits now, the last one of its frame.
    leaves, leaving, all : In(1), In(QUEUE_BITS), In(1)
        A burst of this queue leaves, maybe with ``all`` of its chains that waited. One that comes
        in the same cycle is not among them.
    queue : In(QUEUE_BITS)
    follows : Out(1)
        A chain of this queue waits, for sure.
    """

    comes: Signal
    coming: Signal
    leaves: Signal
    leaving: Signal
    all: Signal
    queue: Signal
    follows: Signal

    def __init__(self) -> None:
        super().__init__({
            "comes": In(1), "coming": In(QUEUE_BITS),
            "leaves": In(1), "leaving": In(QUEUE_BITS), "all": In(1),
            "queue": In(QUEUE_BITS), "follows": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        found = []
        for direction in range(2):
            waits = Signal(name=f"waits_{direction}")
            last: Any = Signal(QUEUE_BITS, name=f"last_{direction}", reset_less=True)
            with m.If(self.comes & (self.coming[0] == direction)):
                m.d.sync += [waits.eq(1), last.eq(self.coming)]
            with m.Elif(self.leaves & self.all & (self.leaving == last)):
                m.d.sync += waits.eq(0)
            found.append(waits & (self.queue == last))
        m.d.comb += self.follows.eq(found[0] | found[1])
        return m
