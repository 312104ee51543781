"""Reads that wait for earlier writes, beside the way of those that need not."""

from typing import Any

from amaranth import Array, Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.fence import COUNT_BITS, WriteFence
from hw.pcie.types import RequestHeader

__all__ = ["FencedReads"]


class FencedReads(wiring.Component):
    """Hold reads until every write that was accepted before each of them has left.

    ::

        i ──► slots, a fence each ──► the oldest, once it has passed ──► o

    They come out in the order in which they came; each remembers its own moment, so one that waits
    costs those behind it nothing but their turn.

    | Latency: 2 cycles. Throughput: 1 read a cycle. Storage: ``depth`` headers and fences.

    Parameters
    ----------
    depth
        Reads that fit: a power of two, 2 to 16.

    Members
    -------
    i : In(stream.Signature(RequestHeader()))
        The fence is taken with the transfer: what is accepted until then counts.
    o : Out(stream.Signature(RequestHeader()))
    writes_accepted, writes_left : In(8)
        As of `WriteFence`.
    """

    i: stream.Interface
    o: stream.Interface
    writes_accepted: Signal
    writes_left: Signal

    def __init__(self, depth: int) -> None:
        if not 2 <= depth <= 16 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two from 2 to 16, not {depth!r}")
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(RequestHeader())),
            "o": Out(stream.Signature(RequestHeader())),
            "writes_accepted": In(COUNT_BITS),
            "writes_left": In(COUNT_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reads = Array(Signal(RequestHeader(), name=f"read_{k}", reset_less=True)
                      for k in range(self.depth))
        taken = Signal(self.depth)
        passed = Signal(self.depth)
        newest = Signal(range(self.depth))  # where the next one goes
        oldest = Signal(range(self.depth))
        out: Any = Signal(RequestHeader(), reset_less=True)
        out_valid = Signal()
        comes = Signal()
        goes = Signal()
        m.d.comb += [
            self.i.ready.eq(~taken.bit_select(newest, 1)),
            comes.eq(self.i.valid & self.i.ready),
            goes.eq((taken & passed).bit_select(oldest, 1) & (self.o.ready | ~out_valid)),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
        ]
        fences = [WriteFence() for _ in range(self.depth)]
        for k, fence in enumerate(fences):
            m.submodules[f"fence_{k}"] = fence
            m.d.comb += [
                fence.capture.eq(comes & (newest == k)),
                fence.writes_accepted.eq(self.writes_accepted),
                fence.writes_left.eq(self.writes_left),
            ]
        m.d.comb += passed.eq(Cat(fence.passed for fence in fences))
        with m.If(self.o.ready):
            m.d.sync += out_valid.eq(0)
        with m.If(goes):
            m.d.sync += [
                out.eq(reads[oldest]),
                out_valid.eq(1),
                oldest.eq(oldest + 1),
                taken.bit_select(oldest, 1).eq(0),
            ]
        with m.If(comes):
            m.d.sync += [
                reads[newest].eq(self.i.payload),
                newest.eq(newest + 1),
                taken.bit_select(newest, 1).eq(1),
            ]
        return m
