"""Boundary types of the wire room: handles of stored frames, how frames are written, drops."""

from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import LENGTH_BITS, QUEUE_BITS, check_lanes

__all__ = ["FLOW_HASH_BITS", "AdmissionDrop", "AdmissionDropLayout", "ArrivalLayout",
           "EnteredLayout", "EntryDrop", "FrameHandle", "HeadSignature", "HeldSignature",
           "PoolReadLayout", "PoolWriteLayout", "QueuedFrame", "SteeredLayout"]

FLOW_HASH_BITS = 16
"""Bits of the hash of a frame's flow."""


class EntryDrop(enum.Enum, shape=2):
    """Why a frame did not get beyond the entry FIFO."""

    FULL = 0   # no room: what is behind does not keep up
    ERROR = 1  # the MAC's error flag
    LONG = 2   # longer than the longest frame
    SHORT = 3  # shorter than an Ethernet header


class AdmissionDrop(enum.Enum, shape=1):
    """Why a frame did not get into the packet pool."""

    POOL_FULL = 0   # too few free cells
    QUEUE_FULL = 1  # its queue holds its share of the pool already


class AdmissionDropLayout(data.StructLayout):
    """A frame for ``queue`` was dropped before the pool."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "reason": AdmissionDrop})


class EnteredLayout(data.StructLayout):
    """A whole frame in the entry FIFO: its length, and the hash of its flow (`FlowHash`)."""

    def __init__(self) -> None:
        super().__init__({"bytes": LENGTH_BITS, "hash": FLOW_HASH_BITS})


class SteeredLayout(data.StructLayout):
    """Where the next frame goes, and how long it is; one transfer a frame, in their order."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "bytes": LENGTH_BITS})


class HeldSignature(wiring.Signature):
    """How much of the pool a queue holds, as the one who asks has it.

    ``cells`` is valid in the cycle after ``enable``, and up to date until the next one.
    """

    def __init__(self, cells: int) -> None:
        super().__init__({
            "queue": Out(QUEUE_BITS), "enable": Out(1), "cells": In(range(cells + 1)),
        })


class ArrivalLayout(data.StructLayout):
    """A frame of so many bytes waits for ``queue``."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "bytes": LENGTH_BITS})


class HeadSignature(wiring.Signature):
    """How long the oldest frame of a queue is, as the one who asks has it.

    ``bytes`` is valid in the cycle after ``enable``, and up to date until the next one, where the
    queue has a frame and all that was popped of it has been answered.
    """

    def __init__(self) -> None:
        super().__init__({
            "queue": Out(QUEUE_BITS), "enable": Out(1), "bytes": In(LENGTH_BITS),
        })


class FrameHandle(data.StructLayout):
    """A whole frame in a pool of ``cells`` cells: its first cell, and its length."""

    def __init__(self, cells: int) -> None:
        if cells < 2:
            raise ValueError(f"cells must be at least 2, not {cells!r}")
        self.cells = cells
        super().__init__({"cell": range(cells), "bytes": LENGTH_BITS})


class QueuedFrame(data.StructLayout):
    """A frame for a receive queue."""

    def __init__(self, cells: int) -> None:
        super().__init__({"queue": QUEUE_BITS, "frame": FrameHandle(cells)})


class PoolReadLayout(data.StructLayout):
    """Read a frame out of a pool and free its cells; with ``drop``, free them at once."""

    def __init__(self, cells: int) -> None:
        super().__init__({"frame": FrameHandle(cells), "drop": 1})


class PoolWriteLayout(data.StructLayout):
    """Bytes of one row of a frame, on their way into a pool.

    A frame is written in rows of ``lanes`` bytes. A write fills the lanes from ``start`` up to the
    ``empty`` highest ones. Where lanes remain empty, the next write of the same context goes on in
    the same row, at the lane after.

    ======== ======== ====================================================================
    field    bits     meaning
    ======== ======== ====================================================================
    data     8*lanes  Byte 0 of the frame is lane 0 of its first row
    start    log2     First lane that is written
    empty    log2     Unused high lanes
    context  1        Which open frame: one of each may be open at a time
    begin    1        First write of the frame
    end      1        Last write of the frame
    abort    1        With ``end``: give the frame up, its cells are free again
    ======== ======== ====================================================================
    """

    def __init__(self, lanes: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        super().__init__({
            "data": 8 * lanes, "start": range(lanes), "empty": range(lanes),
            "context": 1, "begin": 1, "end": 1, "abort": 1,
        })
