"""A card in plain Python and a driver before it, as the tests of the driver begin."""

from __future__ import annotations

import random
import struct
from itertools import combinations
from typing import Any

from sw_driver.layouts import Feature
from sw_driver.net import SUPPORTED, NetDevice, NetOptions
from sw_driver.packed_ring import PackedRing
from sw_driver.pci import scan
from sw_driver.port import HostPort
from sw_driver.ring import Ring
from sw_driver.split_ring import SplitRing
from tb.model_host import ModelHost, run

WHOLE = sum(1 << bit for bit in SUPPORTED)
"""All that the driver can use."""
PACKED, INDIRECT, MERGED, CONTROL, PAIRS = (1 << bit for bit in (
    Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.MRG_RXBUF, Feature.CTRL_VQ, Feature.MQ))
OFFERED = WHOLE & ~(PACKED | INDIRECT | MERGED | CONTROL | PAIRS)
"""The same without what changes the shape of rings and frames, or the number of queues."""
RING_FEATURES = (Feature.EVENT_IDX, Feature.NOTIFICATION_DATA, Feature.IN_ORDER)
"""What changes how the rings are used."""
PLAIN = OFFERED & ~sum(1 << bit for bit in RING_FEATURES)
COMBINATIONS = [PLAIN | sum(1 << bit for bit in some)
                for count in range(4) for some in combinations(RING_FEATURES, count)]
EVENT_IDX, NOTIFICATION_DATA, IN_ORDER = (1 << bit for bit in RING_FEATURES)
BOTH_RINGS = [OFFERED, OFFERED | PACKED]
SEVERAL = CONTROL | PAIRS
LATE_INDEX = 65530
"""An index that is about to wrap."""
MAC = bytes.fromhex("02524e470007")


def machine(*, features: int = OFFERED, pairs: int = 1, **card: Any) -> ModelHost:
    host = ModelHost(features=features, pairs=pairs, **card)
    host.card.net_config[:17] = struct.pack("<6sHHHIB", MAC, 1, pairs, 1500, 100_000, 1)
    return host


def opened(host: ModelHost, **options: object) -> NetDevice:
    """Find the card, and open it."""

    async def work() -> NetDevice:
        function, = await scan(host)
        device = await NetDevice.probe(host, function, NetOptions(**options))  # type: ignore[arg-type]
        await device.open()
        return device

    return run(work())


def start_late(ring: SplitRing[Any]) -> None:
    """Let the indices of a fresh ring begin shortly before they wrap."""
    first = struct.pack("<H", LATE_INDEX)
    ring.available.write(2, first)
    ring.used.write(2, first)
    ring.available.write(4 + 2 * ring.size, first)
    ring.used.write(4 + 8 * ring.size, first)
    ring._next_available = ring._published = ring._decided = LATE_INDEX
    ring._last_used = ring._asked_for = LATE_INDEX


class LateRing(SplitRing[Any]):
    """A ring whose indices wrap soon, for a card with the same ``first_index``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        start_late(self)


def make_ring(port: HostPort, size: int, *, features: int = 0, late: bool = False,
              shuffle: random.Random | None = None, indirect: int | None = None,
              direct_first: int = 0) -> Ring[Any]:
    """Give a ring as was agreed on; a split one may begin late."""
    event_idx, in_order = bool(features & EVENT_IDX), bool(features & IN_ORDER)
    if features & PACKED:
        return PackedRing(port, size, event_idx=event_idx, in_order=in_order, shuffle=shuffle,
                          indirect=indirect)
    return (LateRing if late else SplitRing)(
        port, size, event_idx=event_idx, in_order=in_order, indirect=indirect,
        direct_first=direct_first, shuffle=None if in_order else shuffle)


def quiet(host: ModelHost) -> None:
    assert host.card.complaints == []


def attach(host: ModelHost, ring: Ring[Any], *, features: int = 0) -> None:
    """Give a ring to the card's first queue, without a driver around it."""
    queue = host.card.queues[0]
    queue.size = ring.size
    host.card.status, host.card.accepted = 15, features
    host.card.enable(queue)
    for which, area in enumerate(ring.areas):
        queue.addresses[2 * which:2 * which + 2] = [area.address & 0xFFFF_FFFF, area.address >> 32]


def complaint(host: ModelHost) -> str:
    """Give the one complaint there is."""
    text, = host.card.complaints
    return text
