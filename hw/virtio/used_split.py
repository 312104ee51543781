"""Bursts of split rings: entries, then the index behind the last frame that is whole."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import LENGTH_BITS
from hw.virtio.used_types import BurstLayout, GatheredLayout

__all__ = ["SplitBurst"]

_INDEX_OFFSET = 2
_RING_OFFSET = 4
_INDEX_BYTES = 2


class SplitBurst(wiring.Component):
    """Make used entries of the chains that wait, and the index that shows them.

    Of a frame in several chains the entries are written as they come, and the index when it moves
    behind the frame's last one. A batch is one entry, at the place of its first chain, with the id
    of its last (IMP-SPL-INO-01 to 03).

    Latency: 1 cycle. Throughput: a burst a cycle.

    Parameters
    ----------
    row
        Most entries of a burst.

    Members
    -------
    gathered : In(GatheredLayout(row))
    advance : In(1)
        ``gathered`` is taken, and what it becomes stands at ``burst`` from the next cycle on.
    burst : Out(BurstLayout(row))
    """

    gathered: Any
    advance: Signal
    burst: Any

    def __init__(self, row: int) -> None:
        self.row = row
        super().__init__({
            "gathered": In(GatheredLayout(row)),
            "advance": In(1),
            "burst": Out(BurstLayout(row)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Entries from the first to the last that ends a frame are shown.
        seen = Signal(range(self.row + 1))
        for k in range(self.row):
            with m.If(~self.gathered.chains[k].more & (self.gathered.entries > k)):
                m.d.comb += seen.eq(k + 1)
        now: Any = Signal(GatheredLayout(self.row), reset_less=True)
        shown = Signal(16, reset_less=True)
        count = Signal(16, reset_less=True)
        offset = Signal(20, reset_less=True)
        with m.If(self.advance):
            m.d.sync += [
                now.eq(self.gathered),
                shown.eq(Mux(self.gathered.batch, self.gathered.left, seen)),
                count.eq(Mux(self.gathered.batch, self.gathered.left, self.gathered.entries)),
                offset.eq((self.gathered.place << 3) + _RING_OFFSET),
            ]

        behind = Signal(16)  # the index that shows them
        none_shown = Signal()
        writes, told = self.burst.writes, self.burst.writes.published
        m.d.comb += [
            behind.eq(now.index + shown),
            none_shown.eq(shown == 0),
            self.burst.count.eq(count),
            self.burst.context.eq(now.context),
            # Chains of the frame that is not whole.
            self.burst.context.chains.eq(
                Mux(none_shown, (now.context.chains + count)[:16], (count - shown)[:16])),
            writes.any.eq(1),
            writes.two.eq(~none_shown),
            writes.tells.eq(~none_shown),
            writes.more.eq(now.left != count),
            writes.first.address.eq(now.base + offset),
            writes.first.length.eq(now.entries << 3),
            writes.first.data.eq(Cat(_entry(chain) for chain in now.chains)),
            writes.second.address.eq(now.base + _INDEX_OFFSET),
            writes.second.length.eq(_INDEX_BYTES),
            writes.second.data.eq(behind),
            told.queue.eq(now.queue),
            told.index.eq(behind),
            told.count.eq(now.context.chains + shown),
            told.slots.eq(now.context.chains + shown),
        ]
        return m


def _entry(chain: Any) -> Value:
    """A used entry."""
    return Cat(chain.id, Const(0, 16), chain.bytes, Const(0, 32 - LENGTH_BITS))
