"""A whole card on the native engine, with its host, its wire and a driver that has opened it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.config import NicConfig
from sim.native.engine import Engine, EngineOptions
from sim.native.port import NativePort
from sim.native.rings import PackedChain, RingDriver
from sim.native.wire import NativeWire
from sim.network_device import find_device
from sw_driver.layouts import Feature
from sw_driver.net import NetDevice, NetOptions
from sw_driver.packed_ring import PackedRing
from sw_driver.pci import PciFunction
from sw_driver.split_ring import SplitRing

__all__ = ["NativeCard", "open_card"]


@dataclass
class NativeCard:
    """The card and everything around it."""

    config: NicConfig
    engine: Engine
    wire: NativeWire
    port: NativePort
    function: PciFunction
    device: NetDevice

    def drive(self, queue: int, *, transmit: bool, batch: int = 32,
              count: int | None = None) -> RingDriver:
        """Go on with a queue of the device without Python, by the features that it negotiated.

        In a packed ring each chain takes one descriptor, which may name a table (`ValueError`).
        """
        ring, virtio = self.device.rings[queue], self.device.virtio
        options: dict[str, Any] = {
            "size": ring.size, "notify_address": virtio.notify_address(queue),
            "notify_value": queue, "batch": batch, "count": count, "transmit": transmit,
            "notify_bytes": virtio.notify_bytes, "event_idx": virtio.has(Feature.EVENT_IDX),
            "in_order": virtio.has(Feature.IN_ORDER),
            "notification_data": virtio.has(Feature.NOTIFICATION_DATA)}
        if isinstance(ring, SplitRing):
            return self.engine.drive(
                available=ring.available.address, used=ring.used.address, **options)
        if not isinstance(ring, PackedRing):
            raise ValueError(f"queue {queue} has neither a split ring nor a packed one")
        used, given = ring.given()
        chains = []
        for chain in given:
            if len(chain.descriptors) != 1:
                raise ValueError(f"queue {queue}: a chain of {len(chain.descriptors)} descriptors, "
                                 f"must be 1 in a packed ring")
            (address, length, flags), = chain.descriptors
            chains.append(PackedChain(address, length, chain.writable_bytes, chain.buffer_id,
                                      flags))
        return self.engine.drive_packed(
            descriptors=ring.descriptors.address, device_event=ring.device_event.address,
            used=used, chains=chains, **options)


async def _bring_up(engine: Engine, port: NativePort, config: NicConfig, net: NetOptions | None,
                    open_device: bool) -> NativeCard:
    function, device = await find_device(port, config, net, open_device=open_device)
    return NativeCard(config, engine, engine.wire, port, function, device)


@contextmanager
def open_card(config: NicConfig, *, options: EngineOptions | None = None,
              net: NetOptions | None = None, open_device: bool = True, strict: bool = True,
              waves: Path | None = None, window: range | None = None) -> Iterator[NativeCard]:
    """Start a card, enumerate its bus, and open the network device on function 0.

    ::

        with open_card(NicConfig.preset("full")) as card:
            card.port.run(card.device.send(frame))
    """
    with Engine(config, options, waves=waves, window=window) as engine:
        port = NativePort(engine, strict=strict)
        yield port.run(_bring_up(engine, port, config, net, open_device))
