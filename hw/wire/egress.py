"""Transmit to the wire: whole frames, out of their buffer, without a gap."""

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.stream.connect import connect_streams
from hw.stream.register import SkidRegister
from hw.stream.types import BeatLayout
from hw.wire.types import FrameHandle, PoolReadLayout

__all__ = ["Egress"]


class Egress(wiring.Component):
    """Read frames that are whole out of a pool, in order, and give them to the wire.

    Once a frame has begun on ``wire``, ``valid`` stays until its last beat is taken: all of it lies
    in the pool, which gives a beat every cycle.

    | Latency: 0 cycles from ``frames`` to ``reads`` and from ``data`` to ``wire``.
    | Throughput: a beat a cycle, from frame to frame without a gap. Storage: a beat.

    Parameters
    ----------
    lanes
        Byte lanes of a beat.
    cells
        Cells of the pool.

    Members
    -------
    frames : In(stream.Signature(FrameHandle(cells)))
    reads : Out(stream.Signature(PoolReadLayout(cells)))
    data : In(stream.Signature(BeatLayout(lanes)))
        What was read, from the pool alone.
    wire : Out(stream.Signature(BeatLayout(lanes)))
        Ready comes from the MAC.
    """

    frames: stream.Interface
    reads: stream.Interface
    data: stream.Interface
    wire: stream.Interface

    def __init__(self, lanes: int, *, cells: int) -> None:
        self.lanes = lanes
        self.cells = cells
        super().__init__({
            "frames": In(stream.Signature(FrameHandle(cells))),
            "reads": Out(stream.Signature(PoolReadLayout(cells))),
            "data": In(stream.Signature(BeatLayout(lanes))),
            "wire": Out(stream.Signature(BeatLayout(lanes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.out = out = SkidRegister(BeatLayout(self.lanes))
        connect_streams(m, flipped(self.data), out.i)
        connect_streams(m, out.o, flipped(self.wire))
        m.d.comb += [
            self.reads.valid.eq(self.frames.valid),
            self.reads.p.frame.eq(self.frames.payload),
            self.reads.p.drop.eq(0),
            self.frames.ready.eq(self.reads.ready),
        ]
        return m
