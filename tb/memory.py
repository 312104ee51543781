"""Host memory: what the driver gave to the card, and nothing else.

Memory exists where it was allocated. Regions lie apart, and no address is used twice, so that an
access that strays, or comes after the memory was given back, hits nothing and is found out.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

__all__ = ["HostMemory", "MemoryFault", "Placement", "ReadInFlight", "Region"]

Placement = Literal["low", "high", "mixed"]

_CHUNK = 16  # bytes that a processor's memory gives together, when aligned
_LOW, _LOW_END = 0x0010_0000, 0xC000_0000  # below lie legacy windows, above devices
_HIGH = 0x12_3400_0000


class MemoryFault(Exception):
    """The processor touched memory that does not exist: an error of the bench or of the driver."""


class Region:
    """Some memory that was allocated: ``size`` bytes from bus address ``address`` on."""

    __slots__ = ("_memory", "address", "data", "device_reads", "device_writes", "name", "size")

    def __init__(self, memory: HostMemory, address: int, size: int, name: str, *,
                 device_reads: bool, device_writes: bool) -> None:
        self._memory = memory
        self.address = address
        self.size = size
        self.name = name
        self.data = bytearray(size)
        self.device_reads = device_reads
        self.device_writes = device_writes

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Give bytes, as the processor sees them now."""
        size = self.size - offset if size is None else size
        if offset < 0 or size < 0 or offset + size > self.size:
            raise MemoryFault(f"{self.name}: {size} bytes at {offset} of {self.size}")
        return bytes(self.data[offset:offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes, all at once and in program order."""
        if offset < 0 or offset + len(data) > self.size:
            raise MemoryFault(f"{self.name}: {len(data)} bytes at {offset} of {self.size}")
        if self._memory.in_flight:
            self._memory.note_write(self.address + offset, data)
        self.data[offset:offset + len(data)] = data

    def free(self) -> None:
        """Give the memory back: the card may not touch it any more."""
        self._memory.free(self)

    def __repr__(self) -> str:
        return f"<{self.name} {self.address:#x}..{self.address + self.size:#x}>"


class ReadInFlight:
    """What a read of the card sees of memory that changes while the read is on its way.

    Each aligned 16 bytes are looked at once, at a time of its own between ``start`` and ``end``.
    Times are drawn only where a write makes a difference, which is the same and costs nothing.
    """

    __slots__ = ("_rng", "_times", "address", "data", "end", "start")

    def __init__(self, address: int, data: bytes, start: int, end: int,
                 rng: random.Random) -> None:
        self.address = address
        self.data = bytearray(data)
        self.start = start
        self.end = end
        self._rng = rng
        self._times: dict[int, float] = {}

    def note_write(self, address: int, data: bytes, now: int) -> None:
        """Take over a write at ``now`` into the chunks that are looked at later than that."""
        first = max(address, self.address)
        stop = min(address + len(data), self.address + len(self.data))
        while first < stop:
            chunk = first // _CHUNK
            end = min(stop, (chunk + 1) * _CHUNK)
            if chunk not in self._times:
                self._times[chunk] = self._rng.uniform(self.start, self.end)
            if self._times[chunk] > now:
                at = first - self.address
                self.data[at:at + end - first] = data[first - address:end - address]
            first = end


class HostMemory:
    """All memory of the host that a card can reach.

    Parameters
    ----------
    seed
        Draws addresses and sampling times.
    placement
        Whether regions lie below 4 GiB, above, or here and there.
    clock
        Gives the present cycle; set by the root complex.
    """

    def __init__(self, *, seed: int = 0, placement: Placement = "mixed") -> None:
        self.clock: Callable[[], int] = lambda: 0
        self.placement: Placement = placement
        self.in_flight: list[ReadInFlight] = []
        self._rng = random.Random(seed)
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._next = {"low": _LOW, "high": _HIGH}

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> Region:
        """Give ``size`` zeroed bytes (at least 1) at a multiple of ``align``, a power of two."""
        if size < 1 or align < 1 or align & (align - 1):
            raise ValueError(f"cannot allocate {size} bytes aligned to {align}")
        side = self.placement
        if side == "mixed":
            side = self._rng.choice(("low", "high"))
        if side == "low" and self._next["low"] + size + align > _LOW_END:
            side = "high"
        # A gap of at least a chunk, and an odd multiple of the alignment as often as an even one.
        start = self._next[side] + _CHUNK + align * self._rng.randrange(2)
        start = (start + align - 1) & -align
        self._next[side] = start + size
        region = Region(self, start, size, name, device_reads=device_reads,
                        device_writes=device_writes)
        at = bisect_right(self._starts, start)
        self._starts.insert(at, start)
        self._regions.insert(at, region)
        return region

    def free(self, region: Region) -> None:
        """Take a region out of the world."""
        at = bisect_right(self._starts, region.address) - 1
        if at < 0 or self._regions[at] is not region:
            raise MemoryFault(f"{region!r} is freed twice")
        del self._starts[at]
        del self._regions[at]

    @property
    def regions(self) -> list[Region]:
        """Everything allocated, by address."""
        return list(self._regions)

    def find(self, address: int, size: int = 1) -> Region | None:
        """Give the region that holds all of these bytes."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        region = self._regions[at]
        return region if address + size <= region.address + region.size else None

    def _must_find(self, address: int, size: int) -> Region:
        region = self.find(address, size)
        if region is None:
            raise MemoryFault(f"no memory for {size} bytes at {address:#x}")
        return region

    def read(self, address: int, size: int) -> bytes:
        """Read by address, as the processor does."""
        region = self._must_find(address, size)
        return region.read(address - region.address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write by address, as the processor does."""
        region = self._must_find(address, len(data))
        region.write(address - region.address, data)

    def note_write(self, address: int, data: bytes) -> None:
        """Let reads in flight decide whether they see this write."""
        now = self.clock()
        for read in self.in_flight:
            if address < read.address + len(read.data) and read.address < address + len(data):
                read.note_write(address, data, now)

    def begin_read(self, address: int, size: int, end: int) -> ReadInFlight:
        """Begin a read of the card that samples memory from now until cycle ``end``."""
        read = ReadInFlight(address, self.read(address, size), self.clock(), end, self._rng)
        self.in_flight.append(read)
        return read

    def finish_read(self, read: ReadInFlight) -> None:
        """End a read: its data no longer change. May come twice."""
        if read in self.in_flight:
            self.in_flight.remove(read)
