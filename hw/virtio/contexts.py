"""What the driver wrote about every queue, in memory, and whether the queue runs."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In

from hw.stream.types import QUEUE_BITS
from hw.virtio.layouts import NO_VECTOR
from hw.virtio.types import (
    QueueConfigLayout,
    QueueConfigSignature,
    QueueWriteLayout,
    RunningLayout,
)

__all__ = ["QueueContexts"]

_DWORDS = 7
"""Three addresses, then size and vector."""


class QueueContexts(wiring.Component):
    """Keep the configuration of each queue, with a read port for each engine.

    After a reset of the card every entry is set to its reset values, one a cycle. Until that is
    done both writers wait, and every queue reads as not running.

    | Latency: a read is answered in the cycle after ``enable``, and held until the next one; a
      value held while its entry is rewritten stays as it was, and a read in the cycle of a write
      gets the old value. Throughput: a read a cycle and port, a write a cycle.
    | Storage: 240 bits a queue and port (a block memory each, 512 queues of it in four of
      36 Kbit).

    Parameters
    ----------
    queues
        Queue numbers of the card; at least 2.
    queue_size_max
        The size of a queue after reset.
    read_ports
        Engines that read; at least 1.

    Members
    -------
    ports : In(QueueConfigSignature()).array(read_ports)
    write : In(stream.Signature(QueueWriteLayout()))
        From the registers. Waits for ``running``, and so a cycle at a time.
    running : In(stream.Signature(RunningLayout()))
        From the lifecycle. Always ready but for the time after a reset. To be connected directly:
        once a transfer is done, every read that is enabled in a later cycle tells of it.
    """

    ports: Any
    write: stream.Interface
    running: stream.Interface

    def __init__(self, queues: int, *, queue_size_max: int, read_ports: int) -> None:
        if not 2 <= queues <= 1 << QUEUE_BITS:
            raise ValueError(f"queues must be from 2 to {1 << QUEUE_BITS}, not {queues!r}")
        if not 1 <= queue_size_max <= 32768 or queue_size_max & (queue_size_max - 1):
            raise ValueError("queue_size_max must be a power of two from 1 to 32768, "
                             f"not {queue_size_max!r}")
        if read_ports < 1:
            raise ValueError(f"read_ports must be at least 1, not {read_ports!r}")
        self.queues = queues
        self.queue_size_max = queue_size_max
        self.read_ports = read_ports
        super().__init__({
            "ports": In(QueueConfigSignature()).array(read_ports),
            "write": In(stream.Signature(QueueWriteLayout())),
            "running": In(stream.Signature(RunningLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Written by bytes. `running` and `modes` have one each at the end, so that their writer
        # need not know the others.
        field_bytes = 4 * _DWORDS
        running_at, modes_at = 8 * field_bytes, 8 * (field_bytes + 1)
        mem: memory.Memory[Any, Any] = memory.Memory(
            shape=unsigned(8 * (field_bytes + 2)), depth=self.queues, init=[])
        m.submodules.memory = mem
        port = mem.write_port(granularity=8)

        sweeping = Signal(init=1)
        sweep = Signal(range(self.queues))
        with m.If(sweeping):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == self.queues - 1):
                m.d.sync += sweeping.eq(0)

        # The whole word at its reset values; a write of one dword has its bytes in every dword's
        # place, and enables one.
        write = self.write.p
        fresh = self.queue_size_max << 8 * (field_bytes - 4) | NO_VECTOR << 8 * (field_bytes - 2)
        clear = Signal()
        field_enable = Signal(field_bytes)
        m.d.comb += [
            clear.eq(sweeping | write.clear),
            self.running.ready.eq(~sweeping),
            self.write.ready.eq(~sweeping & ~self.running.valid),
            port.addr.eq(Mux(sweeping, sweep,
                             Mux(self.running.valid, self.running.p.queue, write.queue))),
            port.data.eq(Cat(Mux(clear, fresh, write.data.replicate(_DWORDS))[:8 * field_bytes],
                             (self.running.p.running & ~sweeping) | Const(0, 8),
                             self.running.p.modes)),
            field_enable.eq(Mux(
                clear, ~0, Cat(write.enable & (write.dword == dword).replicate(4)
                               for dword in range(_DWORDS)))),
            port.en.eq(Cat(
                field_enable & (sweeping | self.write.valid & self.write.ready)
                .replicate(field_bytes),
                sweeping | self.running.valid,
                self.running.valid & (self.running.p.running | self.running.p.prepares))),
        ]

        for reader in self.ports:
            read = mem.read_port()
            config: Any = Signal(QueueConfigLayout())
            m.d.comb += [
                read.addr.eq(reader.queue),
                read.en.eq(reader.enable),
                config.as_value().eq(read.data[:running_at]),
                config.modes.eq(read.data[modes_at:]),
                reader.config.eq(config),
                reader.config.running.eq(read.data[running_at] & ~sweeping),
            ]
        return m
