"""The driver's port on a card in cocotb: what `sw_driver` asks for, by TLPs."""

from __future__ import annotations

from collections.abc import Sequence

from cocotb.triggers import Event, SimTimeoutError, with_timeout

from sw_driver.port import Interrupt as PortInterrupt
from tb.interrupts import Interrupt
from tb.memory import Region
from tb.pcie_host import PcieHost
from tb.stream import CLOCK_NS

__all__ = ["CocotbPort"]


class CocotbPort:
    """`sw_driver.port.HostPort` over a `PcieHost`.

    Parameters
    ----------
    host
        The host model.
    bus
        Number of the bus behind the root port. Functions elsewhere do not exist, nor do devices
        but 0, as on any link; with ``ari`` set, all 256 functions do.
    """

    def __init__(self, host: PcieHost, *, bus: int = 1, ari: bool = False) -> None:
        self.host = host
        self.bus = bus
        self.ari = ari
        self.memory_windows = (range(0xC000_0000, 0xF000_0000),
                               range(0x80_0000_0000, 0x90_0000_0000))
        self._waiters: list[tuple[Sequence[tuple[PortInterrupt, int]], Event]] = []
        host.root.interrupts.listeners.append(self._raised)

    def _reaches(self, bdf: int) -> bool:
        return bdf >> 8 == self.bus and (self.ari or not bdf >> 3 & 0x1F)

    async def config_read(self, bdf: int, offset: int, size: int) -> int:
        """Read configuration space."""
        if not self._reaches(bdf):
            return (1 << 8 * size) - 1
        return await self.host.config_read(bdf, offset, size)

    async def config_write(self, bdf: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        if self._reaches(bdf):
            await self.host.config_write(bdf, offset, size, value)

    async def mmio_read(self, address: int, size: int) -> int:
        """Read memory of the card."""
        return int.from_bytes(await self.host.read(address, size), "little")

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write memory of the card; returns when the request has left the host."""
        await self.host.write(address, value.to_bytes(size, "little"))

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> Region:
        """Give memory."""
        return self.host.root.memory.allocate(
            size, align=align, name=name, device_reads=device_reads, device_writes=device_writes)

    def allocate_interrupt(self, name: str = "interrupt") -> Interrupt:
        """Give an interrupt."""
        return self.host.root.interrupts.allocate(name)

    async def wait_interrupts(self, waits: Sequence[tuple[PortInterrupt, int]],
                              timeout_cycles: int) -> bool:
        """Wait for one of several interrupts."""
        if any(interrupt.count != seen for interrupt, seen in waits):
            return True
        if timeout_cycles <= 0:
            return False
        waiter = (waits, Event())
        self._waiters.append(waiter)
        try:
            await with_timeout(waiter[1].wait(), timeout_cycles * CLOCK_NS, "ns")
        except SimTimeoutError:
            return False
        finally:
            self._waiters.remove(waiter)
        return True

    def _raised(self, interrupt: Interrupt) -> None:
        for waits, event in self._waiters:
            if any(waited is interrupt for waited, _seen in waits):
                event.set()

    def now(self) -> int:
        """Give the time."""
        return self.host.ticker.cycle

    async def sleep(self, cycles: int) -> None:
        """Let time pass."""
        await self.host.ticker.sleep(cycles)
