"""What is on the other end of the card's wire: nothing, a capture, or another card."""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["Cable", "CableEnd", "Nowhere", "PcapEnd", "WireEnd"]

_PCAP = struct.Struct("<IHHIIII")
_PCAP_MAGIC = 0xA1B2_3C4D  # times in nanoseconds
_RECORD = struct.Struct("<IIII")


class WireEnd(Protocol):
    """The far end of a wire. Nothing in it blocks."""

    def fileno(self) -> int:
        """Give a descriptor that is readable while there are frames; -1 when there never are."""

    def receive(self) -> bytes | None:
        """Take the next frame for the card, without FCS; None when there is none now."""

    def transmit(self, frame: bytes) -> None:
        """Take a frame from the card; it may be dropped where nobody has room for it."""

    def close(self) -> None:
        """Give back whatever it holds."""


class Nowhere:
    """An end at which nothing comes and everything is lost."""

    def fileno(self) -> int:
        """Nothing ever comes."""
        return -1

    def receive(self) -> bytes | None:
        """Nothing comes."""
        return None

    def transmit(self, frame: bytes) -> None:
        """Lose a frame."""

    def close(self) -> None:
        """Nothing is held."""


class _Inbox:
    """Frames from another thread, and a descriptor that is readable while there are some."""

    def __init__(self, most: int) -> None:
        self._frames: deque[bytes] = deque()
        self._most = most
        self._lock = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.dropped = 0

    def fileno(self) -> int:
        return self._event

    def put(self, frame: bytes) -> None:
        with self._lock:
            if self._event < 0 or len(self._frames) >= self._most:
                self.dropped += 1
                return
            self._frames.append(frame)
            if len(self._frames) == 1:
                os.eventfd_write(self._event, 1)

    def get(self) -> bytes | None:
        with self._lock:
            if not self._frames:
                return None
            frame = self._frames.popleft()
            if not self._frames:
                os.eventfd_read(self._event)
            return frame

    def close(self) -> None:
        with self._lock:
            if self._event >= 0:
                os.close(self._event)
                self._event = -1
                self._frames.clear()


class CableEnd:
    """One end of a `Cable`."""

    def __init__(self, inbox: _Inbox, other: _Inbox) -> None:
        self._inbox, self._other = inbox, other

    def fileno(self) -> int:
        """Readable while the other card's frames wait."""
        return self._inbox.fileno()

    def receive(self) -> bytes | None:
        """Take a frame of the other card."""
        return self._inbox.get()

    def transmit(self, frame: bytes) -> None:
        """Give a frame to the other card; lost when too many wait there, and counted."""
        self._other.put(frame)

    @property
    def dropped(self) -> int:
        """Frames for this end that found no room."""
        return self._inbox.dropped

    def close(self) -> None:
        """Take this end off; what the other end still sends is lost."""
        self._inbox.close()


class Cable:
    """A cable between two cards, each with a clock of its own, in any two threads.

    Parameters
    ----------
    most
        Frames that wait at each end, 1 or more; further ones are lost.
    """

    def __init__(self, most: int = 1024) -> None:
        if most < 1:
            raise ValueError(f"most must be at least 1 frame, not {most}")
        left, right = _Inbox(most), _Inbox(most)
        self.ends = CableEnd(left, right), CableEnd(right, left)


class PcapEnd:
    """Sends the frames of a capture, once, and keeps what the card transmits in another.

    They are sent from the start: a card without a driver drops them.

    Parameters
    ----------
    frames
        What is sent to the card, as fast as it takes them (`sim.pcap.read_frames`).
    keep
        Where transmitted frames go, as a pcap file with times in nanoseconds of the order in which
        they came (None: nowhere). It is whole after `close`.
    """

    def __init__(self, frames: Sequence[bytes] = (), keep: Path | None = None) -> None:
        self._frames = deque(frames)
        # Readable while its count is not zero.
        self._event = os.eventfd(1 if frames else 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._keep = keep
        self._file = None
        self._count = 0
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
            self._file = keep.with_name(keep.name + ".new").open("wb")
            self._file.write(_PCAP.pack(_PCAP_MAGIC, 2, 4, 0, 0, 65535, 1))

    def fileno(self) -> int:
        """Readable until all frames were taken."""
        return self._event

    def receive(self) -> bytes | None:
        """Take the next frame of the capture."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        if not self._frames:
            os.eventfd_read(self._event)
        return frame

    def transmit(self, frame: bytes) -> None:
        """Keep a frame."""
        if self._file is not None:
            seconds, rest = divmod(self._count, 1_000_000_000)
            self._file.write(_RECORD.pack(seconds, rest, len(frame), len(frame)) + frame)
        self._count += 1

    def close(self) -> None:
        """End the file: it gets its name."""
        if self._event >= 0:
            os.close(self._event)
            self._event = -1
        if self._file is not None and self._keep is not None:
            self._file.close()
            self._file = None
            self._keep.with_name(self._keep.name + ".new").replace(self._keep)
