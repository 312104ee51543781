"""Drivers of rings in C++, for runs that Python must not slow down."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.native import library as c

__all__ = ["DriveOptions", "PackedChain", "RingDriver", "RingState", "packed_driver",
           "split_driver"]


@dataclass(frozen=True)
class RingState:
    """How far a ring driver is."""

    done: int
    """Chains that the card has used."""
    bytes: int
    """That the card wrote into them."""
    kicks: int
    kicks_spared: int
    """Batches for which the card wanted no kick."""
    first_cycle: int
    """When the first chain was seen to be used, and the last one."""
    last_cycle: int

    @property
    def cycles_per_packet(self) -> float:
        """Over all of the run; for a steady state use the times."""
        return (self.last_cycle - self.first_cycle) / max(self.done - 1, 1)


@dataclass(frozen=True, kw_only=True)
class DriveOptions:
    """What a ring is driven with, of either kind."""

    notify_address: int
    notify_value: int
    """The kick: what is written where."""
    notify_bytes: int | None = None
    """2 or 4 bytes of it (None: as many as it takes)."""
    batch: int = 32
    """Chains made available at a time; fewer only when the card has none left."""
    count: int | None = None
    """Stop after so many used chains (`Event.DRIVER_DONE`); None: go on."""
    transmit: bool = False
    keep_times: bool = True
    """Keep the cycle in which each chain was seen to be used."""
    event_idx: bool = False
    """What was negotiated: the card says at which place it wants a kick."""
    notification_data: bool = False
    """A kick tells in its upper half where the next chain will be."""
    in_order: bool = False
    """Chains come back in order, and one used entry may stand for several."""

    def parameters(self, size: int) -> c.DriverParameters:
        """Give all this for a ring of so many entries, if it can be."""
        if not 1 <= self.batch <= size:
            raise ValueError(f"batch must be from 1 to {size}, not {self.batch}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, or None, not {self.count}")
        told, written = self.notification_data, self.notify_bytes
        if written is None:
            written = 4 if told else 2
        if written != 4 and (written != 2 or told):
            raise ValueError(f"notify_bytes must be {'' if told else '2 or '}4, not {written}")
        if written == 4 and self.notify_address % 4:
            raise ValueError(f"notify_address must be a multiple of 4, not "
                             f"{self.notify_address:#x}")
        return c.DriverParameters(
            size, self.batch, self.notify_address, self.notify_value, written, self.count or 0,
            self.transmit, self.keep_times, self.event_idx, told, self.in_order)


@dataclass(frozen=True)
class PackedChain:
    """A chain in a packed ring, which takes one descriptor there."""

    address: int
    length: int
    """Of the buffer, or of the table that describes it."""
    writable: int
    """Bytes that the card may write."""
    id: int
    flags: int
    """Of the descriptor, AVAIL and USED aside."""


class RingDriver:
    """Gives every chain that the card has used to it again, in batches with one kick each.

    It goes on where the driver in Python stopped, and each chain stays as it is. So a transmit ring
    in which ``size`` frames were put sends them over and over, and a receive ring never lacks
    buffers. Until it is stopped, nobody else may touch the ring. What the card uses against the
    rules is a violation, and the end of this driver. Made by `split_driver` and `packed_driver`.
    """

    def __init__(self, library: Any, handle: int, index: int, *areas: tuple[str, int]) -> None:
        self._library, self._handle = library, handle
        self._index = index
        if index < 0:
            name, address = areas[-1 - index]
            raise ValueError(f"{name} must be the address of a ring in memory, not {address:#x}")

    @property
    def state(self) -> RingState:
        """How far it is."""
        record = c.DriverRecord()
        self._library.rl_driver_state(self._handle, self._index, ctypes.byref(record))
        return RingState(record.done, record.bytes, record.kicks, record.kicks_spared,
                         record.first_cycle, record.last_cycle)

    @property
    def times(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """The cycle in which each chain was seen to be used."""
        record = c.DriverRecord()
        self._library.rl_driver_state(self._handle, self._index, ctypes.byref(record))
        times = np.zeros(record.times, np.uint64)
        self._library.rl_driver_times(self._handle, self._index, times.ctypes.data)
        return times

    def number(self, pieces: Sequence[tuple[int, int, int]], *, stamp_at: int, first: int) -> None:
        """Give each chain a number of its own whenever it is given again, from ``first`` on.

        ``pieces`` are address, bytes and chain of all buffers, those of one chain in the order of
        its bytes; the number lies at ``stamp_at``, in 4 bytes, the highest first. In a split ring a
        chain is called by its head, in a packed one by its place among ``chains``.
        """
        if stamp_at < 0:
            raise ValueError(f"stamp_at must be at least 0, not {stamp_at}")
        self._contents(pieces, stamp_at, first)

    def keep(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        """Keep what the card writes into each chain, for `take`; ``pieces`` as of `number`."""
        self._contents(pieces, -1, 0)

    def _contents(self, pieces: Sequence[tuple[int, int, int]], stamp_at: int, first: int) -> None:
        table = np.array(pieces, c.PIECE)
        good = self._library.rl_driver_contents(
            self._handle, self._index, table.ctypes.data, len(table), stamp_at, first & 0xFFFF_FFFF)
        if good < len(table):
            raise ValueError(f"piece {good}, {pieces[good][1]} bytes at {pieces[good][0]:#x}, must "
                             "lie in memory")

    def _kept(self) -> tuple[int, int, int]:
        counts = np.zeros(3, np.uint64)
        self._library.rl_driver_kept(self._handle, self._index, counts.ctypes.data)
        records, size, following = counts.tolist()
        return records, size, following

    @property
    def next_number(self) -> int:
        """What the chain that is given next will be numbered."""
        return self._kept()[2]

    def take(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.uint8]]]:
        """Take what was kept of chains, in the order in which they came back.

        Gives a `sim.native.library.WRITTEN` of each, and the bytes of all.
        """
        count, size, _number = self._kept()
        records, data = np.zeros(count, c.WRITTEN), np.zeros(size, np.uint8)
        self._library.rl_driver_take(self._handle, self._index, records.ctypes.data,
                                     data.ctypes.data)
        return records, data

    def stop(self) -> None:
        """Make nothing available any more; what the card still has comes back."""
        self._library.rl_driver_stop(self._handle, self._index)


def split_driver(library: Any, handle: int, options: DriveOptions, *, size: int, available: int,
                 used: int) -> RingDriver:
    """Drive a split ring of ``size`` entries (a power of two), at these bus addresses.

    A used entry of a transmit ring may stand for several chains in order, and one of a receive ring
    for one.
    """
    if not 1 <= size <= 32768 or size & (size - 1):
        raise ValueError(f"size must be a power of two from 1 to 32768, not {size}")
    parameters = options.parameters(size)
    index = library.rl_split_driver_add(handle, ctypes.byref(parameters), available, used)
    return RingDriver(library, handle, index, ("available", available), ("used", used))


def packed_driver(library: Any, handle: int, options: DriveOptions, *, size: int, descriptors: int,
                  device_event: int, used: int, chains: Sequence[PackedChain]) -> RingDriver:
    """Drive a packed ring of ``size`` entries, at these bus addresses.

    Parameters
    ----------
    used
        Where the next used descriptor will be: from 0 in the first lap, from ``size`` in the
        second, in which wrap counters are 0.
    chains
        All that the card has been given, from there on. A used entry may stand for several of them
        in order; those without an entry of their own count as written to the end.
    """
    if not 1 <= size <= 32768:
        raise ValueError(f"size must be from 1 to 32768, not {size}")
    if not 0 <= used < 2 * size:
        raise ValueError(f"used must be from 0 to {2 * size - 1}, not {used}")
    if len(chains) > size or len({chain.id for chain in chains}) < len(chains):
        raise ValueError(f"there must be at most {size} chains, each with its own id")
    parameters = options.parameters(size)
    table = np.zeros(len(chains), c.PACKED_CHAIN)
    for number, chain in enumerate(chains):
        table[number] = (chain.address, chain.length, chain.writable, chain.id, chain.flags, 0)
    index = library.rl_packed_driver_add(handle, ctypes.byref(parameters), descriptors,
                                         device_event, used, table.ctypes.data, len(chains))
    return RingDriver(library, handle, index, ("descriptors", descriptors),
                      ("device_event", device_event))
