"""Buffers of frames: memory cut into as many pieces, as oddly placed, as a test may want."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sw_driver.port import DmaMemory, HostPort
from sw_driver.ring import Segment

__all__ = ["Buffer", "Shape", "make_buffer"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How buffers are made."""

    segments: tuple[int, int] = (1, 1)
    """Fewest and most descriptors of a chain; cut at random places."""
    offsets: tuple[int, int] = (0, 0)
    """Smallest and largest distance of a piece from such a place, at random."""
    align: int = 64
    """Where pieces are placed from: multiples of so many bytes, a power of two."""


class Buffer:
    """A list of pieces of memory, with one run of bytes over all of them."""

    def __init__(self, pieces: list[tuple[DmaMemory, int, int]]) -> None:
        self._pieces = pieces

    @property
    def segments(self) -> list[Segment]:
        """Address and bytes of each piece, as the descriptors have them."""
        return [(memory.address + offset, size) for memory, offset, size in self._pieces]

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(size for _memory, _offset, size in self._pieces)

    def read(self, size: int) -> bytes:
        """Give the first ``size`` bytes."""
        parts = []
        for memory, offset, piece in self._pieces:
            take = min(piece, size)
            if not take:
                break
            parts.append(memory.read(offset, take))
            size -= take
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Fill from the first byte on."""
        at = 0
        for memory, offset, piece in self._pieces:
            memory.write(offset, data[at:at + piece])
            at += piece

    def free(self) -> None:
        """Give all memory back."""
        for memory, _offset, _size in self._pieces:
            memory.free()


def make_buffer(port: HostPort, size: int, shape: Shape, rng: random.Random, *, name: str,
                most: int, device_reads: bool = False, device_writes: bool = False) -> Buffer:
    """Give a buffer of ``size`` bytes, in at most ``most`` pieces of at least a byte each."""
    low, high = shape.segments
    count = max(1, min(rng.randint(low, high), size, most))
    cuts = sorted(rng.sample(range(1, size), count - 1)) if count > 1 else []
    pieces = []
    for start, stop in zip([0, *cuts], [*cuts, size], strict=True):
        offset = rng.randint(*shape.offsets)
        memory = port.allocate(offset + stop - start, align=shape.align, name=name,
                               device_reads=device_reads, device_writes=device_writes)
        pieces.append((memory, offset, stop - start))
    return Buffer(pieces)
