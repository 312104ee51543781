"""A front-end's memory: the card reaches it by guest physical addresses, through mapped files."""

from __future__ import annotations

import mmap
import os
import stat
from typing import Any

import numpy as np

from sim.guest.vhost_user_messages import ProtocolError, Region, close_all
from sim.native.memory import NativeMemory, NativeRegion

__all__ = ["MAX_SLOTS", "DirtyLog", "GuestMemory"]

MAX_SLOTS = 32
"""Regions that may be there at a time."""
_DOORBELLS = range(0xFEE0_0000, 0xFEF0_0000)  # writes there are interrupts, as on a PC
_BUS_BITS = 62
"""Guest physical addresses lie below; what is above is the bridge's own."""
_LOG_BYTES = 1 << 30


def _check_file(fd: int, end: int, what: str) -> None:
    """Refuse a file that ends too early: to touch what is behind its end kills a process."""
    try:
        state = os.fstat(fd)
    except OSError as error:
        raise ProtocolError(f"{what}: {error.strerror}") from None
    if not stat.S_ISREG(state.st_mode) or end > state.st_size:
        raise ProtocolError(f"{what} ends at {end:#x} of a file of {state.st_size:#x} bytes")


class GuestMemory:
    """The regions of one front-end.

    Whoever changes it while the card runs sees to it that the card has drained.
    """

    def __init__(self, memory: NativeMemory) -> None:
        self._memory = memory
        self._regions: dict[Region, NativeRegion] = {}

    @property
    def regions(self) -> list[Region]:
        """What there is."""
        return list(self._regions)

    def replace(self, regions: list[Region], fds: list[int]) -> None:
        """Take a new table instead of all there was; the descriptors are closed.

        `ProtocolError` for one that cannot be: then there is no memory at all.
        """
        try:
            self.clear()
            for region, fd in zip(regions, fds, strict=True):
                self._map(region, fd)
        except ProtocolError:
            self.clear()
            raise
        finally:
            close_all(fds)

    def add(self, region: Region, fd: int) -> None:
        """Take one more region; the descriptor is closed."""
        try:
            if len(self._regions) == MAX_SLOTS:
                raise ProtocolError(f"more than {MAX_SLOTS} regions of memory")
            self._map(region, fd)
        finally:
            close_all([fd])

    def _map(self, region: Region, fd: int) -> None:
        what = f"memory of {region.size:#x} bytes at {region.guest:#x}"
        end = region.guest + region.size
        if not region.size or end > 1 << _BUS_BITS or region.user + region.size > 1 << 64:
            raise ProtocolError(f"{what} must end below {1 << _BUS_BITS:#x}")
        if region.guest < _DOORBELLS.stop and end > _DOORBELLS.start:
            raise ProtocolError(f"{what} lies on interrupts, {_DOORBELLS.start:#x} to "
                                f"{_DOORBELLS.stop:#x}")
        if (region.guest - region.offset) % 16:
            raise ProtocolError(f"{what} begins at {region.offset:#x} of its file: must be the "
                                "same modulo 16")
        if any(region.user < other.user + other.size and other.user < region.user + region.size
               for other in self._regions):
            raise ProtocolError(f"{what} overlaps another region in the front-end")
        _check_file(fd, region.offset + region.size, what)
        try:
            self._regions[region] = self._memory.map(region.guest, region.size, fd, region.offset,
                                                     name="guest memory")
        except ValueError as error:
            raise ProtocolError(str(error)) from None

    def remove(self, region: Region) -> None:
        """Take a region away. What it is in a file does not count."""
        for known in self._regions:
            if known[:3] == region[:3]:
                self._regions.pop(known).free()
                return
        raise ProtocolError(f"there is no memory of {region.size:#x} bytes at {region.guest:#x}")

    def clear(self) -> None:
        """Take everything away."""
        while self._regions:
            self._regions.popitem()[1].free()

    def translate(self, user: int, size: int) -> int:
        """Give the guest physical address of bytes that the front-end names by its own."""
        for region in self._regions:
            if region.user <= user and user + size <= region.user + region.size:
                return region.guest + user - region.user
        raise ProtocolError(f"{size} bytes at {user:#x} of the front-end are in no region")

    def read(self, guest: int, size: int) -> bytes:
        """Read bytes at a guest physical address that `translate` gave."""
        for region, mapped in self._regions.items():
            if region.guest <= guest and guest + size <= region.guest + region.size:
                return mapped.read(guest - region.guest, size)
        raise ProtocolError(f"{size} bytes at {guest:#x} are in no region")


class DirtyLog:
    """The bitmap of pages that were written, which the front-end shares: a bit a page of 4096.

    Parameters
    ----------
    fd
        Its file; is closed.
    size, offset
        Bytes, and where it begins in the file.
    """

    def __init__(self, fd: int, size: int, offset: int) -> None:
        lead = offset % mmap.ALLOCATIONGRANULARITY
        try:
            if not 1 <= size <= _LOG_BYTES:
                raise ProtocolError(f"a log of {size} bytes, must be 1 to {_LOG_BYTES}")
            _check_file(fd, offset + size, "the log")
            try:
                self._map = mmap.mmap(fd, lead + size, offset=offset - lead)
            except (OSError, ValueError) as error:
                raise ProtocolError(f"the log cannot be mapped: {error}") from None
        finally:
            close_all([fd])
        self.bitmap: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(
            self._map, np.uint8, size, lead)
