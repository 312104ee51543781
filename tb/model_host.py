"""A machine without a simulator: the driver's port on a `ModelNic`; time passes only in waits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sw_driver.port import Interrupt as PortInterrupt
from tb.interrupts import Interrupt, InterruptController
from tb.memory import HostMemory, Region
from tb.model_nic import ModelNic

__all__ = ["ModelHost", "run"]

Result = TypeVar("Result")

_STEP = 10  # cycles that pass at a time


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine of the driver to its end: on a `ModelHost` it never really waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise RuntimeError("the coroutine waits for something that is no part of the model")


class ModelHost:
    """The driver's port (`sw_driver.port.HostPort`) with one card at 01:00.0.

    ``each_step`` is called while the driver waits; the card sends then as well.
    """

    def __init__(self, *, bdf: int = 0x100, seed: int = 1, **card: Any) -> None:
        self.memory = HostMemory(seed=seed)
        self.interrupts = InterruptController()
        self.bdf = bdf
        self.cycle = 0
        self.memory_windows = (range(0xC000_0000, 0xD000_0000),
                               range(0x80_0000_0000, 0x81_0000_0000))
        self.each_step: Callable[[], None] = lambda: None
        self.card = ModelNic(self.memory, self.interrupts, now=self.now, **card)

    async def config_read(self, bdf: int, offset: int, size: int) -> int:
        """Read configuration space."""
        return self.card.config_read(offset, size) if bdf == self.bdf else (1 << 8 * size) - 1

    async def config_write(self, bdf: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        if bdf == self.bdf:
            self.card.config_write(offset, size, value)

    async def mmio_read(self, address: int, size: int) -> int:
        """Read the card's memory."""
        return self.card.mmio_read(address, size)

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write the card's memory."""
        self.card.mmio_write(address, size, value)

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> Region:
        """Give memory."""
        return self.memory.allocate(size, align=align, name=name, device_reads=device_reads,
                                    device_writes=device_writes)

    def allocate_interrupt(self, name: str = "interrupt") -> Interrupt:
        """Give an interrupt."""
        return self.interrupts.allocate(name)

    async def wait_interrupts(self, waits: Sequence[tuple[PortInterrupt, int]],
                              timeout_cycles: int) -> bool:
        """Let time pass until an interrupt comes."""
        deadline = self.cycle + timeout_cycles
        while not any(interrupt.count != seen for interrupt, seen in waits):
            if self.cycle >= deadline:
                return False
            await self.sleep(_STEP)
        return True

    def now(self) -> int:
        """Give the time."""
        return self.cycle

    async def sleep(self, cycles: int) -> None:
        """Let time pass."""
        end = self.cycle + cycles
        while self.cycle < end:
            self.cycle = min(end, self.cycle + _STEP)
            self.each_step()
            self.card.step()
