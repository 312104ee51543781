"""Which features the card offers, and by which configuration: plain data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hw.config import NicConfig
from hw.virtio.layouts import FEATURE_BITS

__all__ = ["FEATURES", "PREREQUISITES", "Feature", "feature_mask", "offered_features"]


@dataclass(frozen=True)
class Feature:
    """A feature that some card offers.

    ``offered`` says by its configuration whether a card does; ``physical_only`` that its VFs do
    not.
    """

    name: str
    offered: Callable[[NicConfig], bool]
    why: str
    physical_only: bool = False

    @property
    def bit(self) -> int:
        """Number of the feature bit."""
        return FEATURE_BITS[self.name]


def _always(config: NicConfig) -> bool:
    return True


def _pairs(config: NicConfig) -> bool:
    return config.queue_pairs > 1


FEATURES: tuple[Feature, ...] = (
    Feature("MTU", _always, "the largest frame is known; follows max_frame_bytes"),
    Feature("MAC", _always, "each function has an address of its own"),
    Feature("MRG_RXBUF", _always, "a frame may lie in several buffers, each shorter than it"),
    Feature("STATUS", _always, "the link goes up and down"),
    Feature("CTRL_VQ", _always, "a driver asks for what takes more than a register"),
    Feature("MQ", _pairs, "several queues a direction, for as many processors"),
    Feature("VERSION_1", _always, "there is no legacy interface"),
    Feature("ACCESS_PLATFORM", _always, "a PCIe card's addresses are bus addresses"),
    Feature("ORDER_PLATFORM", _always, "a PCIe card's memory accesses want a device's barriers"),
    Feature("INDIRECT_DESC", _always, "a chain takes one place of its ring, however long it is"),
    Feature("RING_PACKED", _always, "one read for a descriptor, and one write when it is used"),
    Feature("EVENT_IDX", _always, "kicks and interrupts from an index on spare most of both"),
    Feature("IN_ORDER", _always, "a queue's chains are used in the order of the ring"),
    Feature("NOTIFICATION_DATA", _always, "a doorbell that tells the index spares a read"),
    Feature("RING_RESET", _always, "one queue is stopped as all of a function are"),
    Feature("SUSPEND", _always, "a function rests as in D3hot, but a driver asks for it"),
    Feature("SPEED_DUPLEX", _always, "the speed of the wire is known"),
)

PREREQUISITES: dict[str, tuple[tuple[str, ...], ...]] = {
    "GUEST_TSO4": (("GUEST_CSUM",),), "GUEST_TSO6": (("GUEST_CSUM",),),
    "GUEST_ECN": (("GUEST_TSO4", "GUEST_TSO6"),), "GUEST_UFO": (("GUEST_CSUM",),),
    "GUEST_USO4": (("GUEST_CSUM",),), "GUEST_USO6": (("GUEST_CSUM",),),
    "GUEST_UDP_TUNNEL_GSO": (("GUEST_TSO4",), ("GUEST_TSO6",), ("GUEST_USO4",), ("GUEST_USO6",)),
    "GUEST_UDP_TUNNEL_GSO_CSUM": (("GUEST_UDP_TUNNEL_GSO",),),
    "HOST_TSO4": (("CSUM",),), "HOST_TSO6": (("CSUM",),),
    "HOST_ECN": (("HOST_TSO4", "HOST_TSO6"),), "HOST_UFO": (("CSUM",),), "HOST_USO": (("CSUM",),),
    "HOST_UDP_TUNNEL_GSO": (("HOST_TSO4",), ("HOST_TSO6",), ("HOST_USO",)),
    "HOST_UDP_TUNNEL_GSO_CSUM": (("HOST_UDP_TUNNEL_GSO",),),
    "CTRL_RX": (("CTRL_VQ",),), "CTRL_VLAN": (("CTRL_VQ",),), "CTRL_RX_EXTRA": (("CTRL_VQ",),),
    "GUEST_ANNOUNCE": (("CTRL_VQ",),), "MQ": (("CTRL_VQ",),), "CTRL_MAC_ADDR": (("CTRL_VQ",),),
    "NOTF_COAL": (("CTRL_VQ",),), "VQ_NOTF_COAL": (("CTRL_VQ",),), "RSS": (("CTRL_VQ",),),
    "RSC_EXT": (("HOST_TSO4", "HOST_TSO6"),),
    "HASH_REPORT": (("CTRL_VQ",),),
    "HASH_TUNNEL": (("CTRL_VQ",), ("RSS", "HASH_REPORT")),
    "RSS_CONTEXT": (("CTRL_VQ",), ("RSS",)),
    "IPSEC": (("OUT_NET_HEADER",),),
}
"""Features not to be offered without others (5.1.3.1): of each group at least one."""


def offered_features(config: NicConfig, *, virtual: bool = False) -> frozenset[str]:
    """Give the names of the features that the PF of a card offers, or its VFs if ``virtual``."""
    return frozenset(feature.name for feature in FEATURES
                     if feature.offered(config) and not (virtual and feature.physical_only))


def feature_mask(names: Iterable[str]) -> int:
    """Give the feature bits of ``names`` as one number."""
    return sum(1 << FEATURE_BITS[name] for name in set(names))
