"""Numbered frames one by one, as the driver in Python passes them."""

from __future__ import annotations

import random

from sim.soak.books import SoakFailure

__all__ = ["Way"]

_NUMBER_BYTES = 8
_POOL = random.Random(0x736F616B).randbytes(1 << 16)


def _frame(number: int, size: int) -> bytes:
    """Make a frame unlike all others."""
    start = number * 40_503 % (len(_POOL) - size)
    return number.to_bytes(_NUMBER_BYTES, "big") + _POOL[start:start + size - _NUMBER_BYTES]


class Way:
    """Frames of one direction that are to come out: each at most once, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next = 0
        """Number of the next frame to make."""
        self.out = 0
        self._last = -1
        self._mark = 0
        self._out_since = 0

    def begin(self) -> None:
        """From here on no frame is lost, until the next reset."""
        self._mark, self._out_since = self.next, 0

    @property
    def all_out(self) -> bool:
        """Whether all frames since `begin` came out."""
        return self._out_since == self.next - self._mark

    def make(self, size: int) -> bytes:
        """Make the next frame."""
        self.next += 1
        return _frame(self.next - 1, size)

    def came(self, frame: bytes) -> None:
        """Take a frame that came out."""
        number = int.from_bytes(frame[:_NUMBER_BYTES], "big")
        if frame != _frame(number, len(frame)):
            raise SoakFailure(f"{self.name}: frame {number} of {len(frame)} bytes was changed")
        if number <= self._last or number >= self.next:
            raise SoakFailure(f"{self.name}: frame {number} after {self._last}, of {self.next}")
        self._last = number
        self.out += 1
        self._out_since += number >= self._mark
