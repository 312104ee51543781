"""The driver's port over a clock: code of `sw_driver` sets up a card that serves a guest."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from sim.guest.clock import Clock
from sim.native.engine import NativeInterrupt
from sim.native.memory import NativeRegion
from sw_driver.port import Interrupt

__all__ = ["ClockPort"]

Result = TypeVar("Result")
_BUS = 1


class ClockPort:
    """`sw_driver.port.HostPort` over a `Clock`: each call lets the card run until it is done.

    Nothing is ever awaited, so a coroutine runs to its end in one go (`run`). Only function 0 of
    bus 1 exists.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.memory_windows = (range(0xC000_0000, 0xF000_0000),
                               range(0x80_0000_0000, 0x90_0000_0000))

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine that waits for nothing but this port; give its result."""
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: Result = end.value
            return result
        coroutine.close()
        raise RuntimeError("a coroutine waits for something else than its port")

    async def config_read(self, bdf: int, offset: int, size: int) -> int:
        """Read configuration space."""
        return self.clock.config_read(bdf, offset, size) if bdf == _BUS << 8 else (
            (1 << 8 * size) - 1)

    async def config_write(self, bdf: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        if bdf == _BUS << 8:
            self.clock.config_write(bdf, offset, size, value)

    async def mmio_read(self, address: int, size: int) -> int:
        """Read memory of the card."""
        return int.from_bytes(self.clock.read(address, size), "little")

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write memory of the card; posted."""
        self.clock.write(address, value.to_bytes(size, "little"))

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> NativeRegion:
        """Give memory."""
        return self.clock.engine.memory.allocate(
            size, align=align, name=name, device_reads=device_reads, device_writes=device_writes)

    def allocate_interrupt(self, name: str = "interrupt") -> NativeInterrupt:
        """Give an interrupt."""
        return self.clock.engine.interrupt(name)

    async def wait_interrupts(self, waits: Sequence[tuple[Interrupt, int]],
                              timeout_cycles: int) -> bool:
        """Wait for one of several interrupts."""
        return self.clock.advance(
            timeout_cycles,
            lambda: any(interrupt.count != seen for interrupt, seen in waits))

    def now(self) -> int:
        """Give the time."""
        return self.clock.engine.cycle

    async def sleep(self, cycles: int) -> None:
        """Let time pass."""
        self.clock.advance(cycles)
