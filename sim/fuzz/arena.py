"""Memory of a hostile driver, with what the card may do to each byte of it."""

from __future__ import annotations

import numpy as np

from sim.native.memory import NativeMemory

__all__ = ["Arena", "Broken"]

_READ, _WRITE = 1, 2


class Broken(AssertionError):
    """The card did what it must not."""


class Arena:
    """Memory that is given out once, byte by byte, and named: to be read, or to be written.

    Nothing else may be touched. What lies outside can be named as well: an address where nothing
    is, or memory that ends too early.

    Parameters
    ----------
    memory
        Of the engine.
    address
        Where it lies on the bus: a place that nothing else ever has.
    size
        In bytes.
    """

    def __init__(self, memory: NativeMemory, address: int, size: int) -> None:
        room = np.zeros(size + 4096, np.uint8)
        lead = (address - room.ctypes.data) % 4096
        self._region = memory.lend(address, room[lead:lead + size], name="arena")
        self.start = address
        self.end = address + size
        self._next = address
        self._map = np.zeros(size, np.uint8)
        self._outside: list[tuple[int, int, bool]] = []
        self._was = np.zeros(size, np.uint8)

    def left(self) -> int:
        """Bytes that nobody has taken."""
        return self.end - self._next

    def take(self, size: int, *, align: int = 1, lead: int = 0) -> int:
        """Give the address of some bytes, ``lead`` behind a multiple of ``align``."""
        start = -(-self._next // align) * align + lead
        if start + size > self.end:
            raise ValueError(f"{size} bytes of an arena that has {self.left()}")
        self._next = start + size
        return start

    def write(self, address: int, data: bytes) -> None:
        """Store bytes."""
        self._region.write(address - self.start, data)

    def read(self, address: int, size: int) -> bytes:
        """Give bytes."""
        return self._region.read(address - self.start, size)

    def name(self, address: int, size: int, *, written: bool) -> None:
        """Let the card read (or write) these bytes, here or anywhere else."""
        start, end = max(address, self.start), min(address + size, self.end)
        bit = _WRITE if written else _READ
        if start < end:
            self._map[start - self.start:end - self.start] |= bit
            self._was[start - self.start:end - self.start] |= bit
        if not self.start <= address <= address + size <= self.end:
            self._outside.append((address, address + size, written))

    def forget(self, address: int, size: int, *, written: bool) -> None:
        """End what `name` allowed of bytes in here: they are the driver's again."""
        start, end = max(address, self.start), min(address + size, self.end)
        if start < end:
            self._map[start - self.start:end - self.start] &= ~(_WRITE if written else _READ) & 3

    def restore(self) -> None:
        """Allow again all that ever was: old descriptors may be shown once more."""
        self._map |= self._was

    def allows(self, address: int, size: int, *, written: bool) -> bool:
        """Say whether the card may read (or write) these bytes."""
        if self.start <= address and address + size <= self.end:
            named = self._map[address - self.start:address + size - self.start]
            return bool((named & (_WRITE if written else _READ)).all())
        return any(start <= address and address + size <= end
                   for start, end, of_writes in self._outside if of_writes == written)

    def free(self) -> None:
        """Take the memory away."""
        self._region.free()
