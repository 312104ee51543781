"""Frames that are sent over and over, each time with another number, and checked many at a time."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np

from sim.soak.books import SoakFailure

__all__ = ["MARK", "SHORTEST", "STAMP_AT", "Bytes", "Catalogue", "Numbers"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]

MARK = 0x02
"""First byte of each frame: no number of `sim.soak.way` begins with it."""
SHORTEST = 60
STAMP_AT = 42
"""Where a frame's number lies: behind the UDP header, in 4 bytes, the highest first."""

_STAMP_END = STAMP_AT + 4
_SLOT_AT = 6
# Addresses, with the slot in the second one; IPv4 with addresses of chance; UDP likewise.
_HEAD = struct.Struct(">6sIHHBBHHHBBH8s4sHH")
_POOL = random.Random(0x736F616B).randbytes(1 << 16)


class Catalogue:
    """All frames that one side sends. Each is of one *slot*, which it names; no two are alike.

    Their flows are of chance, so that they spread over the queues.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._sizes: list[int] = []
        self._starts: list[int] = []
        self._arrays: tuple[Bytes, Numbers, Numbers] | None = None

    def __len__(self) -> int:
        """Give the number of slots."""
        return len(self._sizes)

    def make(self, rng: random.Random, size: int) -> bytes:
        """Make the frame of the next slot, `SHORTEST` bytes long at least; its number is 0."""
        slot = len(self._sizes)
        head = _HEAD.pack(bytes((MARK, 0x52, 0x4E, 0x47, 0, 0)), slot, 1, 0x0800, 0x45, 0,
                          size - 14, 0, 0, 64, 17, 0, rng.randbytes(8), rng.randbytes(4),
                          size - 34, 0)
        start = rng.randrange(len(_POOL) - size)
        frame = head + bytes(4) + _POOL[start:start + size - _STAMP_END]
        self._starts.append(len(self._bytes))
        self._sizes.append(size)
        self._bytes += frame
        self._arrays = None
        return frame

    def check(self, data: Bytes, starts: Numbers, sizes: Numbers, way: str) -> tuple[Numbers,
                                                                                     Numbers]:
        """See that frames are as they were made; give their slots and numbers.

        ``starts`` and ``sizes`` say where each lies in ``data``. `SoakFailure` at the first that is
        other than it was.
        """
        if self._arrays is None:
            self._arrays = (np.frombuffer(bytes(self._bytes), np.uint8),
                            np.array(self._sizes, np.int64), np.array(self._starts, np.int64))
        content, known_sizes, known_starts = self._arrays
        if (short := np.flatnonzero(sizes < SHORTEST)).size:
            raise SoakFailure(f"{way}: a frame of {sizes[short[0]]} bytes, shorter than any")
        heads = data[starts[:, None] + np.arange(_STAMP_END)]
        slots = _word(heads, _SLOT_AT)
        numbers = _word(heads, STAMP_AT)
        wrong = slots >= len(known_sizes)
        slots[wrong] = 0
        wrong |= known_sizes[slots] != sizes
        if wrong.any():
            self._fail(way, int(np.flatnonzero(wrong)[0]), slots, numbers, sizes)
        ends = np.cumsum(sizes)
        within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)
        differs = (data[np.repeat(starts, sizes) + within]
                   != content[np.repeat(known_starts[slots], sizes) + within])
        differs &= (within < STAMP_AT) | (within >= _STAMP_END)
        if differs.any():
            place = int(np.flatnonzero(differs)[0])
            self._fail(way, int(np.searchsorted(ends, place, side="right")), slots, numbers, sizes)
        return slots, numbers

    @staticmethod
    def _fail(way: str, frame: int, slots: Numbers, numbers: Numbers, sizes: Numbers) -> None:
        raise SoakFailure(f"{way}: frame {numbers[frame]} of slot {slots[frame]}, {sizes[frame]} "
                          "bytes, was changed")


def _word(heads: Bytes, at: int) -> Numbers:
    """Give the number that lies at a place of each row."""
    part = np.ascontiguousarray(heads[:, at:at + 4])
    return part.view(">u4").ravel().astype(np.int64)
