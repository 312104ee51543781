"""The notify region: what a driver writes there names a queue that has something new."""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import MmioRequest
from hw.stream.types import FUNCTION_BITS, QUEUE_BITS
from hw.virtio.types import FunctionLayout, QueueLayout

__all__ = ["Doorbells"]


class Doorbells(wiring.Component):
    """Turn writes to the notify region into queues that are to be looked at.

    The value that is written counts, in its low 16 bits; where in the region does not matter. (The
    driver writes a queue's index at the queue's own place. With NOTIFICATION_DATA, which is not
    offered, the high half of a 32-bit write would tell more.) A write without both low bytes, or
    of a queue that the function does not have, is thrown away and reported. Whether the queue runs
    is for the engines to see.

    | Latency: 1 cycle. Throughput: a doorbell a cycle. Storage: one.
    | Paths: ready of the three outputs -> ``mmio.ready``; none forward.

    Parameters
    ----------
    stride
        Data queues of a function; a power of two, 2 to 32.

    Members
    -------
    mmio : In(stream.Signature(MmioRequest()))
        Writes to the notify region alone.
    receive : Out(stream.Signature(QueueLayout()))
        Even queues.
    transmit : Out(stream.Signature(QueueLayout()))
        Odd queues. Both are to lead to work lists, which never refuse for long.
    bad : Out(stream.Signature(FunctionLayout()))
        The function wrote what names no queue.
    """

    mmio: stream.Interface
    receive: stream.Interface
    transmit: stream.Interface
    bad: stream.Interface

    def __init__(self, *, stride: int) -> None:
        if not 2 <= stride <= 32 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of two from 2 to 32, not {stride!r}")
        self.stride = stride
        super().__init__({
            "mmio": In(stream.Signature(MmioRequest())),
            "receive": Out(stream.Signature(QueueLayout())),
            "transmit": Out(stream.Signature(QueueLayout())),
            "bad": Out(stream.Signature(FunctionLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request = self.mmio.p
        index = Signal(16)
        good = Signal()
        queue = Signal(QUEUE_BITS, reset_less=True)
        function = Signal(FUNCTION_BITS, reset_less=True)
        outputs = (self.receive, self.transmit, self.bad)
        valids = Signal(3)
        m.d.comb += [
            index.eq(request.data[:16]),
            good.eq(request.enable[:2].all() & (index < self.stride)),
            self.mmio.ready.eq(~(valids & ~Cat(o.ready for o in outputs)).any()),
            Cat(o.valid for o in outputs).eq(valids),
            self.receive.p.queue.eq(queue),
            self.transmit.p.queue.eq(queue),
            self.bad.p.function.eq(function),
        ]
        with m.If(self.mmio.ready):
            m.d.sync += [
                valids.eq(Cat(good & ~index[0], good & index[0], ~good)
                          & self.mmio.valid.replicate(3)),
                # The stride is a power of two: the sum is a matter of wiring.
                queue.eq(Cat(index[:(self.stride - 1).bit_length()], request.function)),
                function.eq(request.function),
            ]
        return m
