"""Receive steering: which queue a frame goes to."""

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import QUEUE_BITS, TailLayout
from hw.wire.types import SteeredLayout

__all__ = ["Steer"]


class Steer(wiring.Component):
    """Send every frame from the wire to one queue: function 0's first one.

    | Latency: 0 cycles. Throughput: a frame a cycle. Storage: none.

    Parameters
    ----------
    queue
        The receive queue, an even number.

    Members
    -------
    lengths : In(stream.Signature(TailLayout()))
    steered : Out(stream.Signature(SteeredLayout()))
    """

    lengths: stream.Interface
    steered: stream.Interface

    def __init__(self, queue: int = 0) -> None:
        if not 0 <= queue < 1 << QUEUE_BITS or queue % 2:
            raise ValueError(f"queue must be an even number of at most {QUEUE_BITS} bits, "
                             f"not {queue!r}")
        self.queue = queue
        super().__init__({
            "lengths": In(stream.Signature(TailLayout())),
            "steered": Out(stream.Signature(SteeredLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [
            self.steered.valid.eq(self.lengths.valid),
            self.steered.p.queue.eq(self.queue),
            self.steered.p.bytes.eq(self.lengths.p.bytes),
            self.lengths.ready.eq(self.steered.ready),
        ]
        return m
