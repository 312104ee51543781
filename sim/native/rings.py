"""A driver of split rings in C++, for runs that Python must not slow down."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.native import library as c

__all__ = ["RingDriver", "RingState"]


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


class RingDriver:
    """Gives every chain that the card has used to it again, in batches with one kick each.

    It goes on where the driver in Python stopped: descriptors and buffers stay as they are. So a
    transmit ring in which ``size`` frames were put sends them over and over, and a receive ring
    never lacks buffers. Until it is stopped, nobody else may touch the ring.

    Parameters
    ----------
    available, used
        Bus addresses of the two rings.
    size
        Entries of the ring, a power of two.
    notify_address, notify_value, notify_bytes
        The kick: what is written where (2 or 4 bytes; None: as many as it takes).
    batch
        Chains made available at a time; fewer only when the card has none left.
    count
        Stop after so many used chains (`Event.DRIVER_DONE`); None: go on.
    keep_times
        Keep the cycle in which each chain was seen to be used.
    event_idx, notification_data, in_order
        What was negotiated: the card says by avail_event which entry it wants a kick for; a kick
        has the available index in its upper half; chains come back in order, and a used entry of a
        transmit ring may stand for several (any other order is a violation).
    """

    def __init__(self, library: Any, handle: int, *, available: int, used: int, size: int,
                 notify_address: int, notify_value: int, batch: int, count: int | None,
                 transmit: bool, keep_times: bool, notify_bytes: int | None, event_idx: bool,
                 notification_data: bool, in_order: bool) -> None:
        if not 1 <= size <= 32768 or size & (size - 1):
            raise ValueError(f"size must be a power of two from 1 to 32768, not {size}")
        if not 1 <= batch <= size:
            raise ValueError(f"batch must be from 1 to {size}, not {batch}")
        if count is not None and count < 1:
            raise ValueError(f"count must be at least 1, or None, not {count}")
        if notify_bytes is None:
            notify_bytes = 4 if notification_data else 2
        if notify_bytes != 4 and (notify_bytes != 2 or notification_data):
            raise ValueError(f"notify_bytes must be {'' if notification_data else '2 or '}4, "
                             f"not {notify_bytes}")
        if notify_bytes == 4 and notify_address % 4:
            raise ValueError(f"notify_address must be a multiple of 4, not {notify_address:#x}")
        self._library, self._handle = library, handle
        parameters = c.DriverParameters(available, used, size, batch, notify_address, notify_value,
                                        notify_bytes, count or 0, transmit, keep_times, event_idx,
                                        notification_data, in_order)
        self._index = library.rl_driver_add(handle, ctypes.byref(parameters))
        if self._index < 0:
            name = "available" if self._index == -1 else "used"
            address = available if self._index == -1 else used
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

    def stop(self) -> None:
        """Make nothing available any more; what the card still has comes back."""
        self._library.rl_driver_stop(self._handle, self._index)
