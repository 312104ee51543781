"""The transmit side of all queues: from granted chains to frames in the egress buffer."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout
from hw.vf.scheduler import GrantLayout
from hw.virtio.frame_assembly import FrameAssembly, SentLayout
from hw.virtio.gather import GATHER_CONTEXT_BITS, Gather
from hw.virtio.types import (
    ChainLayout,
    FaultLayout,
    ObligationLayout,
    QueueCommandLayout,
    SegmentLayout,
    TakeLayout,
    UsedLayout,
)
from hw.wire.types import PoolWriteLayout

__all__ = ["Transmit"]


class Transmit(wiring.Component):
    """Read granted chains, and put their frames into the egress buffer.

    ::

        grants ──► Gather ──► takes, reserve, reads
                      ▲ chains, segments
        read_answers ──► FrameAssembly ──► write ──► (egress buffer)
                                      └──► used, faults

    Parameters and members are those of `Gather` and `FrameAssembly`.
    """

    grants: stream.Interface
    takes: stream.Interface
    chains: stream.Interface
    segments: stream.Interface
    reserve: stream.Interface
    reads: stream.Interface
    read_answers: stream.Interface
    read_size: Signal
    write: stream.Interface
    used: stream.Interface
    faults: stream.Interface
    commands: stream.Interface
    obligations: stream.Interface
    sent: stream.Interface

    def __init__(self, lanes: int, *, queues: int, stride: int, cell_bytes: int, max_cells: int,
                 group_tlps: int) -> None:
        self.lanes = lanes
        self.queues = queues
        self._gather = Gather(lanes, stride=stride, cell_bytes=cell_bytes, max_cells=max_cells,
                              group_tlps=group_tlps)
        super().__init__({
            "grants": In(stream.Signature(GrantLayout())),
            "takes": Out(stream.Signature(TakeLayout())),
            "chains": In(stream.Signature(ChainLayout())),
            "segments": In(stream.Signature(SegmentLayout())),
            "reserve": Out(stream.Signature(range(max_cells + 1))),
            "reads": Out(stream.Signature(ReadRequestLayout(lanes, GATHER_CONTEXT_BITS))),
            "read_answers": In(stream.Signature(ReadAnswerLayout(lanes, GATHER_CONTEXT_BITS))),
            "read_size": In(3),
            "write": Out(stream.Signature(PoolWriteLayout(lanes))),
            "used": Out(stream.Signature(UsedLayout())),
            "faults": Out(stream.Signature(FaultLayout())),
            "commands": In(stream.Signature(QueueCommandLayout())),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "sent": Out(stream.Signature(SentLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.gather = gather = self._gather
        m.submodules.assembly = assembly = FrameAssembly(self.lanes, queues=self.queues)
        for name in ("grants", "takes", "chains", "segments", "reserve", "reads"):
            connect(m, flipped(getattr(self, name)), getattr(gather, name))
        for name in ("write", "used", "faults", "commands", "obligations", "sent"):
            connect(m, flipped(getattr(self, name)), getattr(assembly, name))
        connect(m, flipped(self.read_answers), assembly.answers)
        m.d.comb += [
            gather.read_size.eq(self.read_size),
            gather.long_done.eq(assembly.long_done),
        ]
        return m
