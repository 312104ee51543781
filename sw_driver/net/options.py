"""How the driver uses a network device, and which features it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sw_driver.buffers import Shape
from sw_driver.layouts import Feature

__all__ = ["SUPPORTED", "NetOptions", "without"]

SUPPORTED = (
    Feature.MTU, Feature.MAC, Feature.STATUS, Feature.VERSION_1, Feature.ACCESS_PLATFORM,
    Feature.ORDER_PLATFORM, Feature.SPEED_DUPLEX, Feature.EVENT_IDX, Feature.NOTIFICATION_DATA,
    Feature.IN_ORDER, Feature.RING_RESET, Feature.RING_PACKED, Feature.INDIRECT_DESC,
    Feature.MRG_RXBUF, Feature.CTRL_VQ, Feature.MQ, Feature.SUSPEND,
)
"""What this driver can use."""


def without(*features: int) -> tuple[int, ...]:
    """Give what this driver can use, but for these features: for `NetOptions.features`."""
    return tuple(feature for feature in SUPPORTED if feature not in features)


@dataclass(kw_only=True)
class NetOptions:
    """How the driver uses the device."""

    pairs: int = 1
    """Pairs of queues to be used, if the device has as many (MQ; else one)."""
    queue_size: int | None = None
    """Entries of each queue (None: what the device suggests)."""
    receive_buffers: int | None = None
    """Chains kept in each receive queue (None: as many as fit)."""
    refill_batch: int = 8
    """Receive buffers are put back so many at a time (fewer where fewer are kept)."""
    receive_bytes: int | None = None
    """Bytes of a receive buffer, header included (None: for a frame of the MTU).

    With MRG_RXBUF no less than the header; a frame may then take several."""
    receive_shape: Shape = field(default_factory=Shape)
    transmit_shape: Shape = field(default_factory=Shape)
    """How receive buffers, and frames with their headers, are cut into descriptors."""
    control_shape: Shape = field(default_factory=Shape)
    """The same of commands, and of what they are answered with."""
    indirect: Literal["always", "chains", "never"] = "chains"
    """With INDIRECT_DESC, what is described in a table: everything, or chains of several buffers,
    or nothing."""
    direct_first: int = 0
    """So many descriptors of a chain come before its table; in split rings only."""
    interrupts: bool = True
    """Wait for interrupts; without them the rings are looked at every `poll_cycles`."""
    poll_cycles: int = 50
    suppress: bool = True
    """Ask the device for interrupts only while a task waits for one."""
    shuffle: bool = False
    """Take free descriptors and buffer ids in random order, and do not accept IN_ORDER."""
    features: Sequence[int] = SUPPORTED
    max_payload: int = 256
    max_read: int = 512
    """Limits programmed in the function, in bytes."""
    timeout_cycles: int = 100_000
    """When a wait for the device is given up."""
    seed: int = 1
