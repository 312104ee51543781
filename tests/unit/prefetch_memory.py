"""The host's memory for a `Prefetch`, and what a read finds that is torn."""

from __future__ import annotations

import random

__all__ = ["DESCRIPTOR", "PAGE", "QUEUES", "Memory", "torn"]

DESCRIPTOR = 16
PAGE = 0x1_0000
"""A queue's rings lie in one, its tables in another."""
QUEUES = 8


class Memory:
    """The host's memory: 2 * QUEUES pages, seen again at every multiple of them."""

    def __init__(self) -> None:
        self._bytes = bytearray(2 * QUEUES * PAGE)

    def _at(self, address: int, length: int) -> slice:
        start = address % len(self._bytes)
        assert start + length <= len(self._bytes), f"{length} bytes at {address:#x}"
        return slice(start, start + length)

    def read(self, address: int, length: int) -> bytes:
        return bytes(self._bytes[self._at(address, length)])

    def write(self, address: int, content: bytes) -> None:
        self._bytes[self._at(address, len(content))] = content

    def number(self, address: int, length: int) -> int:
        """Read a little-endian number."""
        return int.from_bytes(self.read(address, length), "little")


def torn(address: int, early: bytes, late: bytes, rng: random.Random) -> bytes:
    """Mix what a read found at two moments: no more than aligned 16 bytes are of one."""
    result = b""
    while len(result) < len(early):
        at = len(result)
        end = at + DESCRIPTOR - (address + at) % DESCRIPTOR
        result += (early, late)[rng.getrandbits(1)][at:end]
    return result
