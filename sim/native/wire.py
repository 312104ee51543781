"""The wire of the engine: frames for the card in bulk, and what it transmits."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.native import library as c
from tb.wire import WireFrame

__all__ = ["NativeWire"]

_LONGEST = 65_535


class NativeWire:
    """Source of received frames and sink of transmitted ones. Rates are options of the engine."""

    def __init__(self, library: Any, handle: int) -> None:
        self._library, self._handle = library, handle
        self._tap: tuple[Path, Path] | None = None

    @staticmethod
    def _packed(frames: Sequence[bytes]) -> tuple[bytes, np.ndarray[Any, np.dtype[np.uint32]]]:
        for frame in frames:
            if not 1 <= len(frame) <= _LONGEST:
                raise ValueError(f"a frame must have 1 to {_LONGEST} bytes, not {len(frame)}")
        return b"".join(frames), np.array([len(frame) for frame in frames], np.uint32)

    def send(self, *frames: bytes, error: bool = False) -> None:
        """Queue frames for the card to receive; with ``error`` as a MAC marks bad ones."""
        data, sizes = self._packed(frames)
        self._library.rl_wire_send(self._handle, data, sizes.ctypes.data, len(frames), error)

    def generate(self, frames: Sequence[bytes], *, count: int | None = None,
                 stamp_at: int | None = None) -> None:
        """Send these frames in turn, ``count`` in all (None: without end), after those queued.

        With ``stamp_at`` the four bytes there become the frame's number, from 0, highest first.
        """
        if not frames:
            raise ValueError("there must be at least one frame to send")
        if count is not None and count < 1:
            raise ValueError(f"count must be at least 1, or None, not {count}")
        if stamp_at is not None and stamp_at < 0:
            raise ValueError(f"stamp_at must be at least 0, or None, not {stamp_at}")
        data, sizes = self._packed(frames)
        self._library.rl_wire_generate(self._handle, data, sizes.ctypes.data, len(frames),
                                       -1 if count is None else count,
                                       -1 if stamp_at is None else stamp_at)

    def forget(self) -> None:
        """Give up the frames that have not begun, and those that would be made."""
        self._library.rl_wire_forget(self._handle)

    @property
    def rx_idle(self) -> bool:
        """Everything that was to be received has been."""
        return bool(self._library.rl_wire_idle(self._handle))

    @property
    def rx_waiting(self) -> int:
        """Frames that were queued for the card and have not begun."""
        return int(self._library.rl_wire_waiting(self._handle))

    def wake_after(self, frames: int) -> None:
        """Raise `Event.FRAMES` once so many frames have been transmitted since the start."""
        self._library.rl_set(self._handle, b"wake_at_frames", frames)

    def take(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.uint8]]]:
        """Take what passed, both directions, in the order of time: records and bytes.

        A record is a `sim.native.library.FRAME`; its bytes begin at ``offset``.
        """
        count, size = ctypes.c_uint64(), ctypes.c_uint64()
        self._library.rl_frames_kept(self._handle, ctypes.byref(count), ctypes.byref(size))
        records = np.zeros(count.value, c.FRAME)
        data = np.zeros(size.value, np.uint8)
        self._library.rl_frames_take(self._handle, records.ctypes.data, data.ctypes.data)
        return records, data

    def take_frames(self) -> list[WireFrame]:
        """Take what passed as objects, as the bench's wire keeps them."""
        records, data = self.take()
        whole = data.tobytes()
        frames = []
        for record in records:
            at, size = int(record["offset"]), int(record["bytes"])
            frames.append(WireFrame(
                "rx" if record["received"] else "tx", whole[at:at + size],
                int(record["first_cycle"]), int(record["last_cycle"]), bool(record["error"])))
        return frames

    def tap(self, path: Path) -> None:
        """Write every frame from now on to a pcap file, which appears when it is whole."""
        self.untap()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        if not self._library.rl_wire_tap(self._handle, str(new).encode()):
            raise ValueError(f"{path} cannot be written; must be a path in a folder of yours")
        self._tap = new, path

    def untap(self) -> None:
        """End the pcap file."""
        if self._tap is not None:
            self._library.rl_wire_tap(self._handle, None)
            self._tap[0].replace(self._tap[1])
            self._tap = None
