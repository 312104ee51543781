"""An alarm as a file descriptor, for a loop that waits for descriptors alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

__all__ = ["Alarm"]

_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TIMES = struct.Struct("@llll")
_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Readable once a time has passed. It is set for one time only, the newest."""

    def __init__(self) -> None:
        self._fd = _libc.timerfd_create(_MONOTONIC, _FLAGS)  # `os` has it from Python 3.13 on
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def fileno(self) -> int:
        """Readable when the time has passed, until `take`."""
        return int(self._fd)

    def set(self, seconds: float) -> None:
        """Go off after so many seconds, more than 0."""
        nanoseconds = max(1, round(1e9 * seconds))
        self._set(*divmod(nanoseconds, 1_000_000_000))

    def clear(self) -> None:
        """Do not go off."""
        self._set(0, 0)

    def _set(self, seconds: int, nanoseconds: int) -> None:
        times = _TIMES.pack(0, 0, seconds, nanoseconds)
        if _libc.timerfd_settime(self._fd, 0, times, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def take(self) -> None:
        """Make it unreadable again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
