"""What the driver needs of the machine that it runs on: a small port, the same everywhere.

A simulated bench, the native engine and a test without any card provide it. The driver is plain
``async`` code: it waits in these calls, and in nothing else.

Stores to memory are seen by the card in program order, each call at once, as with the barriers
that ORDER_PLATFORM asks of a driver; a call of the port never returns before what it did has
left in order: memory first, then the register write that tells of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["DmaMemory", "HostPort", "Interrupt"]


class DmaMemory(Protocol):
    """Memory that the card may reach, until it is freed."""

    @property
    def address(self) -> int:
        """Bus address of the first byte."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Give ``size`` bytes (None: up to the end)."""

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes."""

    def free(self) -> None:
        """Give the memory back."""


class Interrupt(Protocol):
    """An interrupt vector of the machine: the message that raises it, and how often it came."""

    @property
    def address(self) -> int:
        """Where the card writes."""

    @property
    def data(self) -> int:
        """What it writes, 32 bits."""

    @property
    def count(self) -> int:
        """Times it was raised so far."""


class HostPort(Protocol):
    """The machine."""

    @property
    def memory_windows(self) -> Sequence[range]:
        """Bus addresses to place BARs at; one of them lies below 4 GiB."""

    async def config_read(self, bdf: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of configuration space; all ones where no function is."""

    async def config_write(self, bdf: int, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of configuration space."""

    async def mmio_read(self, address: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes of device memory."""

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes of device memory; posted."""

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> DmaMemory:
        """Give zeroed memory, and say what the card may do with it."""

    def allocate_interrupt(self, name: str = "interrupt") -> Interrupt:
        """Give an interrupt that nobody else has."""

    async def wait_interrupts(self, waits: Sequence[tuple[Interrupt, int]],
                              timeout_cycles: int) -> bool:
        """Wait until one of the interrupts was raised more often than the number beside it.

        True at once if that is so already; False when ``timeout_cycles`` have passed.
        """

    def now(self) -> int:
        """Give the time, in cycles of the card's clock."""

    async def sleep(self, cycles: int) -> None:
        """Let time pass."""
