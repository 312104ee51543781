"""The fault log: what drivers did wrong, for the operator to read."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.stream.connect import connect_streams
from hw.stream.queue import StreamQueue
from hw.virtio.types import FaultRecordLayout

__all__ = ["FaultLog"]


class FaultLog(wiring.Component):
    """Keep the oldest ``depth`` fault records that nobody has read; count those that found no room.

    Who reads the log learns of the first fault, which may be the cause of all others.

    | Latency: 1 cycle. Throughput: a record a cycle. Storage: ``depth`` records.

    Parameters
    ----------
    depth
        Records that fit, 2 to 255.

    Members
    -------
    records : In(stream.Signature(FaultRecordLayout(), always_ready=True))
    oldest : Out(stream.Signature(FaultRecordLayout()))
    held : Out(8)
        Records in the log.
    lost : Out(32)
        Records that found no room; stays at FFFFFFFFh.
    """

    records: stream.Interface
    oldest: stream.Interface
    held: Signal
    lost: Signal

    def __init__(self, depth: int = 64) -> None:
        if not 2 <= depth <= 255:
            raise ValueError(f"depth must be from 2 to 255, not {depth!r}")
        self.depth = depth
        super().__init__({
            "records": In(stream.Signature(FaultRecordLayout(), always_ready=True)),
            "oldest": Out(stream.Signature(FaultRecordLayout())),
            "held": Out(8),
            "lost": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = StreamQueue(FaultRecordLayout(), self.depth)
        connect_streams(m, queue.o, flipped(self.oldest))
        lost = Signal(32)
        m.d.comb += [
            queue.i.valid.eq(self.records.valid),
            queue.i.payload.eq(self.records.payload),
            self.held.eq(queue.level),
            self.lost.eq(lost),
        ]
        with m.If(self.records.valid & ~queue.i.ready & ~lost.all()):
            m.d.sync += lost.eq(lost + 1)
        return m
