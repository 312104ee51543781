"""The notify region: what a driver writes there names a queue that has something new."""

from typing import Any

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import MmioRequest
from hw.stream.types import FUNCTION_BITS
from hw.virtio.types import DoorbellLayout, FunctionLayout

__all__ = ["Doorbells"]


class Doorbells(wiring.Component):
    """Turn writes to the notify region into queues that are to be looked at.

    The value that is written counts, in its low 16 bits; where in the region does not matter. (The
    driver writes a queue's index at the queue's own place.) The high half of a 32-bit write goes
    along as the position; whether it means something, and whether the queue runs, is for the
    engines to see (NOTIFICATION_DATA; virtio 1.4, 4.1.5.2). A write without both low bytes, or of a
    queue that the function does not have, is thrown away and reported.

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
    receive : Out(stream.Signature(DoorbellLayout()))
        Even queues.
    transmit : Out(stream.Signature(DoorbellLayout()))
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
            "receive": Out(stream.Signature(DoorbellLayout())),
            "transmit": Out(stream.Signature(DoorbellLayout())),
            "bad": Out(stream.Signature(FunctionLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request = self.mmio.p
        index = Signal(16)
        good = Signal()
        bell: Any = Signal(DoorbellLayout(), reset_less=True)
        function = Signal(FUNCTION_BITS, reset_less=True)
        outputs = (self.receive, self.transmit, self.bad)
        valids = Signal(3)
        m.d.comb += [
            index.eq(request.data[:16]),
            good.eq(request.enable[:2].all() & (index < self.stride)),
            self.mmio.ready.eq(~(valids & ~Cat(o.ready for o in outputs)).any()),
            Cat(o.valid for o in outputs).eq(valids),
            self.receive.payload.eq(bell),
            self.transmit.payload.eq(bell),
            self.bad.p.function.eq(function),
        ]
        with m.If(self.mmio.ready):
            m.d.sync += [
                valids.eq(Cat(good & ~index[0], good & index[0], ~good)
                          & self.mmio.valid.replicate(3)),
                # The stride is a power of two: the sum is a matter of wiring.
                bell.queue.eq(Cat(index[:(self.stride - 1).bit_length()], request.function)),
                bell.position.eq(request.data[16:]),
                bell.positioned.eq(request.enable.all()),
                function.eq(request.function),
            ]
        return m
