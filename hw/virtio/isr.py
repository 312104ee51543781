"""The ISR status byte of every function: why it wants an interrupt, until the driver reads it."""

from typing import Any

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS
from hw.virtio.layouts import InterruptStatusBit
from hw.virtio.types import FunctionLayout

__all__ = ["InterruptStatus"]


class InterruptStatus(wiring.Component):
    """Keep two bits a function: a queue was used, the configuration changed.

    | Latency: a bit that was set is seen by a read in the next cycle. Throughput: one read or set
      a cycle. Storage: 2 bits a function. After a reset of the card all bits are cleared, one
      function a cycle; meanwhile nothing may be read, and who sets waits.

    Parameters
    ----------
    functions
        1 to 256.

    Members
    -------
    function : In(8)
    take : In(1)
        Read and clear the bits of ``function``. What is set in a later cycle stays.
    bits : Out(2)
        `InterruptStatusBit`; valid in the cycle after ``take``.
    queue : In(stream.Signature(FunctionLayout()))
        Set the bit of queue interrupts.
    config : In(stream.Signature(FunctionLayout()))
        Set the bit of configuration changes; served before ``queue``.
    physical : Out(1)
        A bit of function 0 is set: with MSI-X disabled, the Interrupt Status bit of its
        configuration space. (A VF has no such bit.)
    """

    function: Signal
    take: Signal
    bits: Signal
    queue: stream.Interface
    config: stream.Interface
    physical: Signal

    def __init__(self, functions: int) -> None:
        self.functions = functions
        super().__init__({
            "function": In(FUNCTION_BITS),
            "take": In(1),
            "bits": Out(2),
            "queue": In(stream.Signature(FunctionLayout())),
            "config": In(stream.Signature(FunctionLayout())),
            "physical": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = max(2, self.functions)
        mem: memory.Memory[Any, Any] = memory.Memory(shape=unsigned(2), depth=depth, init=[])
        m.submodules.memory = mem
        # Setting writes one bit of the two, so nothing has to be read before it.
        write = mem.write_port(granularity=1)
        read = mem.read_port()

        sweeping = Signal(init=1)
        sweep = Signal(range(depth))
        with m.If(sweeping):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == depth - 1):
                m.d.sync += sweeping.eq(0)

        m.d.comb += [
            # The read gets the word as it was before the clearing write of the same cycle.
            read.addr.eq(self.function),
            read.en.eq(self.take),
            self.bits.eq(read.data),
            self.config.ready.eq(~sweeping & ~self.take),
            self.queue.ready.eq(~sweeping & ~self.take & ~self.config.valid),
            write.data.eq(Mux(sweeping | self.take, 0, ~0)),
        ]
        with m.If(sweeping):
            m.d.comb += [write.addr.eq(sweep), write.en.eq(0b11)]
        with m.Elif(self.take):
            m.d.comb += [write.addr.eq(self.function), write.en.eq(0b11)]
        with m.Elif(self.config.valid):
            m.d.comb += [
                write.addr.eq(self.config.p.function),
                write.en.eq(InterruptStatusBit.CONFIG.value),
            ]
        with m.Elif(self.queue.valid):
            m.d.comb += [
                write.addr.eq(self.queue.p.function),
                write.en.eq(InterruptStatusBit.QUEUE.value),
            ]

        physical = Signal()
        m.d.comb += self.physical.eq(physical)
        with m.If(write.en.any() & (write.addr == 0)):
            m.d.sync += physical.eq(write.data.any())
        return m
