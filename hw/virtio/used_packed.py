"""Bursts of packed rings: used descriptors that follow one another, the first of a frame last."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import LENGTH_BITS
from hw.virtio.ring_positions import packed_next
from hw.virtio.used_types import DESCRIPTOR_BYTES, BurstLayout, GatheredLayout

__all__ = ["PackedBurst"]


class PackedBurst(wiring.Component):
    """Make used descriptors of the chains that wait, at the places where they follow one another.

    A chain of several places ends a burst. Of a frame in several chains the first one's descriptor
    is kept in the context, and written behind all others (IMP-PKT-MBUF-01). A batch is one
    descriptor, at the place of its first chain, with the id of its last (IMP-PKT-INO-01).

    AVAIL and USED are the device's wrap counter, the inverse of the lap (IMP-PKT-WRAP-01, 03, 04);
    WRITE is set where bytes were written (IMP-PKT-RING-01); the position moves on by a chain's
    places (IMP-PKT-RING-03).

    Latency: 1 cycle. Throughput: a burst a cycle.

    Parameters
    ----------
    row
        Chains that are shown at once; half as many descriptors are the most of a burst.

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
        most = self.row // 2
        came = self.gathered
        # Of whole frames, or of an open one.
        takes: list[Value] = [Const(1, 1)]
        for k in range(1, most):
            take = Signal(name=f"takes_{k}")
            before = came.chains[k - 1]
            m.d.comb += take.eq(
                takes[k - 1] & before.single & (before.more == came.context.open)
                & (came.context.open | ~came.chains[k].more) & (came.entries > k))
            takes.append(take)
        ends = Signal(most)  # the last one that leaves, one-hot
        taken = Signal(range(most + 1))
        m.d.comb += ends.eq(Cat(takes) & ~Cat(*takes[1:], Const(0, 1)))
        for k in range(most):
            with m.If(ends[k]):
                m.d.comb += taken.eq(k + 1)

        now: Any = Signal(GatheredLayout(self.row), reset_less=True)
        last = Signal(most, reset_less=True)
        number = Signal(range(most + 1), reset_less=True)  # descriptors
        count = Signal(16, reset_less=True)               # chains
        held = Signal(reset_less=True)  # the first of a frame: not written yet
        # The place behind the burst is that before it and the places of its chains; or, in the next
        # lap, as much less the ring's size. Neither goes beyond 16 bits.
        lead = Signal(16, reset_less=True)
        lead_over = Signal(16, reset_less=True)
        lead_slots = Signal(16, reset_less=True)
        with m.If(self.advance):
            m.d.sync += [
                now.eq(came),
                last.eq(Mux(came.batch, 1, ends)),
                number.eq(Mux(came.batch, 1, taken)),
                count.eq(Mux(came.batch, came.left, taken)),
                held.eq(~came.batch & ~came.context.open & came.chains[0].more),
                lead.eq(came.place - came.context.sum),
                lead_over.eq(came.place - came.context.sum - came.size),
                lead_slots.eq(came.context.slots - came.context.sum),
            ]

        context = now.context
        total = Signal(16)
        closes = Signal()   # no frame is open behind the burst
        reached = Signal(16)
        over = Signal(16)
        slots = Signal(16)
        position = Signal(16)
        chains = Signal(16)
        writes, told, after = self.burst.writes, self.burst.writes.published, self.burst.context
        m.d.comb += [
            total.eq(reduce(or_, (Mux(last[k], now.chains[k].sum, 0) for k in range(most)))),
            closes.eq(now.batch | ~(last & Cat(now.chains[k].more for k in range(most))).any()),
            reached.eq(lead + total),
            over.eq(lead_over + total),
            slots.eq(lead_slots + total),
            position.eq(packed_next(reached, over, now.lap)),
            chains.eq(context.chains + count),
            self.burst.count.eq(count),

            writes.any.eq(~held),
            writes.two.eq(context.open & closes),
            writes.tells.eq(~held & closes),
            writes.more.eq(now.left != count),
            writes.first.address.eq(now.base + (now.place << 4)),
            writes.first.length.eq(number << 4),
            writes.first.data.eq(Cat(
                _descriptor(now.chains[k].id, now.chains[k].bytes, now.chains[k].wrote, now.lap)
                for k in range(most))),
            writes.second.address.eq(now.base + (context.place[:15] << 4)),
            writes.second.length.eq(DESCRIPTOR_BYTES),
            writes.second.data.eq(_descriptor(context.id, context.bytes, context.bytes != 0,
                                              context.place[15])),
            told.queue.eq(now.queue),
            told.index.eq(position),
            told.count.eq(chains),
            told.slots.eq(slots),

            after.position.eq(position),
            after.sum.eq(total),
            after.open.eq(~closes),
            after.id.eq(Mux(held, now.chains[0].id, context.id)),
            after.bytes.eq(Mux(held, now.chains[0].bytes, context.bytes)),
            after.place.eq(Mux(held, Cat(now.place[:15], now.lap), context.place)),
            after.slots.eq(Mux(closes, 0, slots)),
            after.chains.eq(Mux(closes, 0, chains)),
        ]
        return m


def _descriptor(id_: Value, length: Value, wrote: Value, lap: Value) -> Value:
    """A used descriptor. The address means nothing in it."""
    wrap = ~lap
    flags = Cat(Const(0, 1), wrote, Const(0, 5), wrap, Const(0, 7), wrap)
    return Cat(Const(0, 64), length, Const(0, 32 - LENGTH_BITS), id_, flags)
