"""Host memory of the engine: allocated, lent by somebody else, or a part of a file."""

from __future__ import annotations

import ctypes
import random
from typing import Any, Literal

import numpy as np

__all__ = ["NativeMemory", "NativeRegion"]

Placement = Literal["low", "high", "mixed"]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_PAGE = 4096
_LOW, _LOW_END = 0x0010_0000, 0xC000_0000  # below lie legacy windows, above devices
_HIGH = 0x12_3400_0000
_GAP = 16


class NativeRegion:
    """Some memory that the card may reach, until it is freed."""

    __slots__ = ("_id", "_keep", "_memory", "_pointer", "address", "device_reads", "device_writes",
                 "name", "size")

    def __init__(self, memory: NativeMemory, address: int, size: int, *, name: str, pointer: int,
                 keep: object, identity: int, device_reads: bool, device_writes: bool) -> None:
        self._memory = memory
        self.address = address
        """Bus address of the first byte."""
        self.size = size
        self.name = name
        self._pointer = pointer
        self._keep = keep
        self._id = identity
        self.device_reads = device_reads
        self.device_writes = device_writes

    def _at(self, offset: int, size: int) -> int:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"{self.name}: {size} bytes at {offset}, must lie within 0 to "
                             f"{self.size}")
        if not self._id:
            raise ValueError(f"{self.name}: was freed")
        return self._pointer + offset

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Give bytes, as the processor sees them now; aligned words are read whole."""
        size = self.size - offset if size is None else size
        buffer = ctypes.create_string_buffer(size)
        self._memory.library.rl_load(buffer, self._at(offset, size), size)
        return buffer.raw

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes; aligned words are stored whole."""
        self._memory.library.rl_store(self._at(offset, len(data)), bytes(data), len(data))

    @property
    def array(self) -> Bytes:
        """The bytes themselves, to be changed in place; only until the region is freed."""
        room = (ctypes.c_uint8 * self.size).from_address(self._at(0, self.size))
        return np.frombuffer(memoryview(room), np.uint8)

    def free(self) -> None:
        """Give the memory back: the card may not touch it any more."""
        if not self._id:
            raise ValueError(f"{self.name} is freed twice")
        self._memory.remove(self._id)
        self._id = 0
        self._keep = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.address:#x}..{self.address + self.size:#x}>"


class NativeMemory:
    """All memory of the host that a card can reach.

    Regions may be added and removed while another thread runs the engine: the call returns when
    the card no longer sees the old state.

    Parameters
    ----------
    library, handle
        The engine.
    seed
        Draws addresses of what is allocated.
    placement
        Whether regions lie below 4 GiB, above, or here and there.
    """

    def __init__(self, library: Any, handle: int, *, seed: int = 0,
                 placement: Placement = "mixed") -> None:
        if placement not in ("low", "high", "mixed"):
            raise ValueError(f"placement must be low, high or mixed, not {placement!r}")
        self.library = library
        self._handle = handle
        self._placement = placement
        self._rng = random.Random(seed)
        self._next = {"low": _LOW, "high": _HIGH}
        self._regions: dict[int, NativeRegion] = {}

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> NativeRegion:
        """Give ``size`` zeroed bytes (at least 1) at a multiple of ``align``, a power of two.

        No address is used twice, so that an access that comes too late is found out.
        """
        if size < 1 or align < 1 or align & (align - 1):
            raise ValueError(f"cannot allocate {size} bytes aligned to {align}: at least 1, and a "
                             "power of two")
        side: str = self._placement
        if side == "mixed":
            side = self._rng.choice(("low", "high"))
        if side == "low" and self._next["low"] + size + 2 * align > _LOW_END:
            side = "high"
        start = self._next[side] + _GAP + align * self._rng.randrange(2)
        start = (start + align - 1) & -align
        self._next[side] = start + size
        # As far into a page as the bus address: what is aligned there must be aligned here.
        keep = np.zeros(size + _PAGE, np.uint8)
        pointer = keep.ctypes.data
        pointer += (start - pointer) % _PAGE
        return self._add(start, size, name=name, pointer=pointer, keep=keep,
                         device_reads=device_reads, device_writes=device_writes)

    def lend(self, address: int, array: Bytes, *, name: str = "lent memory",
             device_reads: bool = True, device_writes: bool = True) -> NativeRegion:
        """Let the card reach an array of bytes at a bus address. It is used in place.

        The array must be as aligned as its address, to 16 bytes.
        """
        if array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"{name} must be one row of bytes, not {array.dtype} of "
                             f"{array.ndim} dimensions")
        if (array.ctypes.data - address) % 16:
            raise ValueError(f"{name} must lie as its address {address:#x} modulo 16, not at "
                             f"{array.ctypes.data % 16}")
        return self._add(address, array.size, name=name, pointer=array.ctypes.data, keep=array,
                         device_reads=device_reads, device_writes=device_writes)

    def map(self, address: int, size: int, fd: int, offset: int = 0, *,
            name: str = "mapped memory", device_reads: bool = True,
            device_writes: bool = True) -> NativeRegion:
        """Let the card reach ``size`` bytes of a file (a guest's memory) from ``offset`` on."""
        if fd < 0:
            raise ValueError(f"a file descriptor must be 0 or more, not {fd}")
        return self._add(address, size, name=name, fd=fd, offset=offset,
                         device_reads=device_reads, device_writes=device_writes)

    def _add(self, address: int, size: int, *, name: str, device_reads: bool,
             device_writes: bool, pointer: int = 0, keep: object = None, fd: int = -1,
             offset: int = 0) -> NativeRegion:
        identity = int(self.library.rl_region_add(
            self._handle, address, size, pointer or None, fd, offset, device_reads,
            device_writes))
        if not identity:
            reason = self.library.rl_region_error(self._handle).decode()
            raise ValueError(f"{name}, {size} bytes at {address:#x}: {reason}")
        pointer = pointer or int(self.library.rl_region_pointer(self._handle, identity))
        region = NativeRegion(self, address, size, name=name, pointer=pointer, keep=keep,
                              identity=identity, device_reads=device_reads,
                              device_writes=device_writes)
        self._regions[identity] = region
        return region

    def remove(self, identity: int) -> None:
        """Take a region out of the world; `NativeRegion.free` calls this."""
        self.library.rl_region_remove(self._handle, identity)
        del self._regions[identity]

    @property
    def regions(self) -> list[NativeRegion]:
        """Everything there is, by address."""
        return sorted(self._regions.values(), key=lambda region: region.address)

    def find(self, address: int) -> NativeRegion | None:
        """Give the region of an address; None where there is none (any more)."""
        return next((region for region in self._regions.values()
                     if region.address <= address < region.address + region.size), None)

    def log_dirty(self, bitmap: Bytes | None, *, base: int = 0, page_bytes: int = _PAGE) -> None:
        """Set a bit of ``bitmap`` for each page from ``base`` on that the card writes (None: end).

        The bitmap is used in place and may be shared with others, who clear bits atomically.
        """
        if page_bytes < 1 or page_bytes & (page_bytes - 1):
            raise ValueError(f"page_bytes must be a power of two, not {page_bytes}")
        self._bitmap = bitmap  # kept: the engine has only its address
        pointer, size = (None, 0) if bitmap is None else (bitmap.ctypes.data, bitmap.size)
        self.library.rl_dirty(self._handle, pointer, size, base, page_bytes.bit_length() - 1)
