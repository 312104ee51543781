"""The receive side of all queues: from queued frames to chains in the driver's memory."""

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import WriteSegmentLayout
from hw.stream.types import BeatLayout
from hw.virtio.deliver import Deliver, DroppedLayout
from hw.virtio.scatter import Scatter
from hw.virtio.types import (
    ChainLayout,
    QueueCommandLayout,
    QueueConfigSignature,
    QueueLayout,
    ReadyLayout,
    SegmentLayout,
    TakeLayout,
    UsedLayout,
)
from hw.wire.types import ArrivalLayout, FrameHandle, HeadSignature, PoolReadLayout

__all__ = ["Receive"]


class Receive(wiring.Component):
    """Match the frames of each queue with its chains, and write them there.

    ::

        arrivals, ready ──► Deliver ──► pops, takes, pool_reads, dropped
                              │ deliveries
        frames, segments ──► Scatter ──► write_segments, write_data
                                    └──► used

    Parameters and members are those of `Deliver` and `Scatter`; ``queue_size_max`` is the largest
    size of a queue, and so the most chains of a frame.
    """

    arrivals: stream.Interface
    head: Any
    pops: stream.Interface
    popped: stream.Interface
    ready: stream.Interface
    takes: stream.Interface
    chains: stream.Interface
    segments: stream.Interface
    config: Any
    pool_reads: stream.Interface
    frames: stream.Interface
    write_segments: stream.Interface
    write_data: stream.Interface
    write_accepted: Signal
    used: stream.Interface
    dropped: stream.Interface
    commands: stream.Interface

    def __init__(self, lanes: int, *, queues: int, stride: int, cells: int,
                 queue_size_max: int) -> None:
        self.lanes = lanes
        self._deliver = Deliver(queues=queues, cells=cells)
        self._scatter = Scatter(lanes, stride=stride, chains=queue_size_max)
        super().__init__({
            "arrivals": In(stream.Signature(ArrivalLayout())),
            "head": Out(HeadSignature()),
            "pops": Out(stream.Signature(QueueLayout())),
            "popped": In(stream.Signature(FrameHandle(cells))),
            "ready": In(stream.Signature(ReadyLayout())),
            "takes": Out(stream.Signature(TakeLayout())),
            "chains": In(stream.Signature(ChainLayout())),
            "segments": In(stream.Signature(SegmentLayout())),
            "config": Out(QueueConfigSignature()),
            "pool_reads": Out(stream.Signature(PoolReadLayout(cells))),
            "frames": In(stream.Signature(BeatLayout(lanes))),
            "write_segments": Out(stream.Signature(WriteSegmentLayout())),
            "write_data": Out(stream.Signature(BeatLayout(lanes))),
            "write_accepted": In(1),
            "used": Out(stream.Signature(UsedLayout())),
            "dropped": Out(stream.Signature(DroppedLayout())),
            "commands": In(stream.Signature(QueueCommandLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.deliver = deliver = self._deliver
        m.submodules.scatter = scatter = self._scatter
        for name in ("arrivals", "head", "pops", "ready", "takes", "chains", "config", "pool_reads",
                     "dropped", "commands"):
            connect(m, flipped(getattr(self, name)), getattr(deliver, name))
        connect(m, flipped(self.popped), deliver.frames)
        connect(m, deliver.deliveries, scatter.deliveries)
        connect(m, flipped(self.frames), scatter.frames)
        connect(m, flipped(self.segments), scatter.chain_segments)
        connect(m, scatter.segments, flipped(self.write_segments))
        connect(m, scatter.data, flipped(self.write_data))
        connect(m, scatter.used, flipped(self.used))
        m.d.comb += scatter.accepted.eq(self.write_accepted)
        return m
