"""What a network device says of itself in its configuration."""

from __future__ import annotations

import random

from sw_driver.layouts import Control, Feature, Field, NetConfig, NetHeader
from sw_driver.virtio_pci import TransportError, VirtioPci

__all__ = ["DeviceConfig"]

_ETHERNET = 14
_VLAN = 4


class DeviceConfig:
    """The device's configuration as it was read last."""

    def __init__(self) -> None:
        self.mac = bytes(6)
        self.mtu: int | None = None
        """None when the device does not say."""
        self.link_up = True
        self.speed_mbps: int | None = None
        self.full_duplex: bool | None = None
        """None when unknown."""
        self.max_pairs = 1

    async def read(self, virtio: VirtioPci, rng: random.Random) -> None:
        """Read all of it that the accepted features allow; a device without an address gets one.

        `TransportError` when it ends too early, or has an impossible number of queues.
        """
        fields: dict[str, Field] = {}
        for name, register, feature in (
                ("mac", NetConfig.MAC, Feature.MAC), ("status", NetConfig.STATUS, Feature.STATUS),
                ("pairs", NetConfig.MAX_VIRTQUEUE_PAIRS, Feature.MQ),
                ("mtu", NetConfig.MTU, Feature.MTU),
                ("speed", NetConfig.SPEED, Feature.SPEED_DUPLEX),
                ("duplex", NetConfig.DUPLEX, Feature.SPEED_DUPLEX)):
            if virtio.has(feature):
                if register.offset + register.size > virtio.config_length:
                    raise TransportError(f"the device configuration ends before {name}")
                fields[name] = register
        values = await virtio.read_config(fields.items())
        if "mac" in values:
            self.mac = values["mac"].to_bytes(6, "little")
        elif self.mac == bytes(6):
            self.mac = bytes([0x02, *rng.randbytes(5)])  # locally administered
        self.mtu = values.get("mtu")
        self.max_pairs = values.get("pairs", 1)
        if not Control.MQ_PAIRS_MIN <= self.max_pairs <= Control.MQ_PAIRS_MAX:
            raise TransportError(f"the device has {self.max_pairs} pairs of queues")
        self.link_up = bool(values.get("status", NetConfig.STATUS_LINK_UP)
                            & NetConfig.STATUS_LINK_UP)
        speed = values.get("speed", 0xFFFF_FFFF)
        self.speed_mbps = speed if speed <= 0x7FFF_FFFF else None
        self.full_duplex = {0: False, 1: True}.get(values.get("duplex", 0xFF))

    @property
    def max_frame(self) -> int:
        """Longest frame that may be sent: an MTU, an Ethernet header and a VLAN tag."""
        return (self.mtu if self.mtu is not None else 65535) + _ETHERNET + _VLAN

    @property
    def largest_received(self) -> int:
        """Bytes of a frame of the MTU, with its header."""
        return NetHeader.SIZE + (self.mtu or 1500) + _ETHERNET + _VLAN
