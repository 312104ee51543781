"""Count the pieces of each group that have ended."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import DoneLayout, GroupLayout, ReadSizes
from hw.pcie.types import ReadError
from hw.stream.memory import ForwardingMemory

__all__ = ["ReadGroups"]


class ReadGroups(wiring.Component):
    """Say when the last piece of a group has ended, in whatever order they end.

    How many pieces a group has is known when its last one is cut, which may be after others have
    ended. So each piece brings a count: 1, but the last of n brings ``1 - n``. All together they
    are 0, and no part of them is: without the last piece there are only ones, with it there is
    ``1 - n`` and fewer than n - 1 ones. Hence the sum is 0 (modulo more than n) when all have
    ended and never before; and it is 0 again for the next group.

    The first error that comes is the group's.

    | Latency: 1 cycle. Throughput: 1 piece a cycle. Storage: a count and an error for each tag.

    Parameters
    ----------
    sizes
        The engine's sizes.

    Members
    -------
    done : In(stream.Signature(DoneLayout(sizes), always_ready=True))
    clear, clear_tag : In
        Forget this group. After a reset, each of them once before any piece ends.
    complete : Out(stream.Signature(GroupLayout(sizes), always_ready=True))
    """

    done: stream.Interface
    clear: Signal
    clear_tag: Signal
    complete: stream.Interface

    def __init__(self, sizes: ReadSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "done": In(stream.Signature(DoneLayout(sizes), always_ready=True)),
            "clear": In(1),
            "clear_tag": In(sizes.tag_bits),
            "complete": Out(stream.Signature(GroupLayout(sizes), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        shape = data.StructLayout({"count": sizes.tag_bits + 1, "error": ReadError})
        m.submodules.sums = sums = ForwardingMemory(shape, sizes.tags)

        piece: Any = Signal(DoneLayout(sizes), reset_less=True)
        valid = Signal()
        m.d.sync += [piece.eq(self.done.payload), valid.eq(self.done.valid)]
        complete = Signal()
        error = Signal(ReadError)
        so_far: Any = sums.read_data
        sum_next: Any = sums.write_data
        m.d.comb += [
            sums.read_enable.eq(1),
            sums.read_address.eq(self.done.p.group),
            # What was counted so far is the negative of the sum.
            complete.eq(so_far.count == piece.count),
            error.eq(Mux(so_far.error.as_value() == 0, piece.error, so_far.error)),
            self.complete.valid.eq(valid & complete),
            self.complete.p.group.eq(piece.group),
            self.complete.p.client.eq(piece.client),
            self.complete.p.error.eq(error),
            sums.write_enable.eq(valid | self.clear),
            sums.write_address.eq(Mux(self.clear, self.clear_tag, piece.group)),
        ]
        with m.If(~self.clear & ~complete):
            m.d.comb += [
                sum_next.count.eq(so_far.count - piece.count),
                sum_next.error.eq(error),
            ]
        return m
