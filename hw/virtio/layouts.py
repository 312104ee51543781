"""The standard's layouts as plain tables: registers, rings, headers, bits; standard library alone.

Each names its section of virtio 1.4. Offsets are in bytes, widths in bits; everything is
little-endian, but for the MAC address, which is a string of bytes.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

__all__ = [
    "AVAILABLE_RING",
    "COMMON_CONFIG",
    "DESCRIPTOR",
    "DEVICE_CONFIG",
    "FEATURE_BITS",
    "NET_HEADER",
    "NO_VECTOR",
    "USED_ELEMENT",
    "USED_RING",
    "AvailableFlag",
    "DescriptorFlag",
    "Field",
    "HeaderFlag",
    "InterruptStatusBit",
    "NetStatus",
    "SegmentationKind",
    "Status",
    "Structure",
    "UsedFlag",
]

NO_VECTOR = 0xFFFF
"""VIRTIO_MSI_NO_VECTOR: no MSI-X vector (4.1.5.1.2)."""


@dataclass(frozen=True)
class Field:
    """A field of a structure. ``feature`` names the feature bit that it comes with."""

    name: str
    offset: int
    bits: int
    access: str = "RW"
    feature: str = ""


@dataclass(frozen=True)
class Structure:
    """Fields at stated offsets, in ``size`` bytes (in a ring: of what comes before its entries)."""

    name: str
    section: str
    size: int
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        end = 0
        for field in self.fields:
            if field.offset < end or field.offset + field.bits // 8 > self.size:
                raise ValueError(f"{self.name}: {field.name} overlaps, or lies outside")
            end = field.offset + field.bits // 8

    def field(self, name: str) -> Field:
        """Give the field called ``name``."""
        return next(field for field in self.fields if field.name == name)

    def offset(self, name: str) -> int:
        """Give the offset of the field called ``name``, in bytes."""
        return self.field(name).offset

    def dword(self, name: str) -> int:
        """Give the number of the 32-bit word that the field ``name`` begins in."""
        return self.offset(name) // 4


COMMON_CONFIG = Structure("virtio_pci_common_cfg", "4.1.4.3", 64, (
    Field("device_feature_select", 0, 32),
    Field("device_feature", 4, 32, "RO"),
    Field("driver_feature_select", 8, 32),
    Field("driver_feature", 12, 32),
    Field("config_msix_vector", 16, 16),
    Field("num_queues", 18, 16, "RO"),
    Field("device_status", 20, 8),
    Field("config_generation", 21, 8, "RO"),
    Field("queue_select", 22, 16),
    Field("queue_size", 24, 16),
    Field("queue_msix_vector", 26, 16),
    Field("queue_enable", 28, 16),
    Field("queue_notify_off", 30, 16, "RO"),
    Field("queue_desc", 32, 64),
    Field("queue_driver", 40, 64),
    Field("queue_device", 48, 64),
    Field("queue_notif_config_data", 56, 16, "RO", "NOTIF_CONFIG_DATA"),
    Field("queue_reset", 58, 16, "RW", "RING_RESET"),
    Field("admin_queue_index", 60, 16, "RO", "ADMIN_VQ"),
    Field("admin_queue_num", 62, 16, "RO", "ADMIN_VQ"),
))

DEVICE_CONFIG = Structure("virtio_net_config", "5.1.4", 28, (
    Field("mac", 0, 48, "RO", "MAC"),
    Field("status", 6, 16, "RO", "STATUS"),
    Field("max_virtqueue_pairs", 8, 16, "RO", "MQ"),
    Field("mtu", 10, 16, "RO", "MTU"),
    Field("speed", 12, 32, "RO", "SPEED_DUPLEX"),
    Field("duplex", 16, 8, "RO", "SPEED_DUPLEX"),
    Field("rss_max_key_size", 17, 8, "RO", "RSS"),
    Field("rss_max_indirection_table_length", 18, 16, "RO", "RSS"),
    Field("supported_hash_types", 20, 32, "RO", "RSS"),
    Field("supported_tunnel_types", 24, 32, "RO", "HASH_TUNNEL"),
))

NET_HEADER = Structure("virtio_net_hdr", "5.1.6", 12, (
    Field("flags", 0, 8),
    Field("gso_type", 1, 8),
    Field("hdr_len", 2, 16),
    Field("gso_size", 4, 16),
    Field("csum_start", 6, 16),
    Field("csum_offset", 8, 16),
    Field("num_buffers", 10, 16),
))

DESCRIPTOR = Structure("virtq_desc", "2.7.5", 16, (
    Field("addr", 0, 64),
    Field("len", 8, 32),
    Field("flags", 12, 16),
    Field("next", 14, 16),
))

AVAILABLE_RING = Structure("virtq_avail", "2.7.6", 4, (
    Field("flags", 0, 16),
    Field("idx", 2, 16),
))
"""Then a 16-bit descriptor number for each entry, and the 16-bit used_event."""

USED_RING = Structure("virtq_used", "2.7.8", 4, (
    Field("flags", 0, 16),
    Field("idx", 2, 16),
))
"""Then a `USED_ELEMENT` for each entry, and the 16-bit avail_event."""

USED_ELEMENT = Structure("virtq_used_elem", "2.7.8", 8, (
    Field("id", 0, 32),
    Field("len", 4, 32),
))


class Status(IntFlag):
    """Bits of device_status (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    SUSPEND = 16
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class InterruptStatusBit(IntFlag):
    """Bits of the ISR status byte (4.1.4.5)."""

    QUEUE = 1
    CONFIG = 2


class NetStatus(IntFlag):
    """Bits of the network device's status field (5.1.4)."""

    LINK_UP = 1
    ANNOUNCE = 2


class DescriptorFlag(IntFlag):
    """Flags of a descriptor in a split ring (2.7.5)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4


class AvailableFlag(IntFlag):
    """Flags of the available ring (2.7.6)."""

    NO_INTERRUPT = 1


class UsedFlag(IntFlag):
    """Flags of the used ring (2.7.8)."""

    NO_NOTIFY = 1


class HeaderFlag(IntFlag):
    """Flags of the network header (5.1.6)."""

    NEEDS_CSUM = 1
    DATA_VALID = 2
    RSC_INFO = 4
    UDP_TUNNEL_CSUM = 8


class SegmentationKind(IntEnum):
    """Values of gso_type in the network header (5.1.6); ECN (80h) is or-ed to them."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4
    UDP_L4 = 5


FEATURE_BITS: dict[str, int] = {
    "CSUM": 0, "GUEST_CSUM": 1, "CTRL_GUEST_OFFLOADS": 2, "MTU": 3, "MAC": 5,
    "GUEST_TSO4": 7, "GUEST_TSO6": 8, "GUEST_ECN": 9, "GUEST_UFO": 10,
    "HOST_TSO4": 11, "HOST_TSO6": 12, "HOST_ECN": 13, "HOST_UFO": 14, "MRG_RXBUF": 15,
    "STATUS": 16, "CTRL_VQ": 17, "CTRL_RX": 18, "CTRL_VLAN": 19, "CTRL_RX_EXTRA": 20,
    "GUEST_ANNOUNCE": 21, "MQ": 22, "CTRL_MAC_ADDR": 23,
    "INDIRECT_DESC": 28, "EVENT_IDX": 29,
    "VERSION_1": 32, "ACCESS_PLATFORM": 33, "RING_PACKED": 34, "IN_ORDER": 35,
    "ORDER_PLATFORM": 36, "SR_IOV": 37, "NOTIFICATION_DATA": 38, "NOTIF_CONFIG_DATA": 39,
    "RING_RESET": 40, "ADMIN_VQ": 41, "SUSPEND": 43,
    "DEVICE_STATS": 50, "HASH_TUNNEL": 51, "VQ_NOTF_COAL": 52, "NOTF_COAL": 53,
    "GUEST_USO4": 54, "GUEST_USO6": 55, "HOST_USO": 56, "HASH_REPORT": 57, "GUEST_HDRLEN": 59,
    "RSS": 60, "RSC_EXT": 61, "STANDBY": 62, "SPEED_DUPLEX": 63, "RSS_CONTEXT": 64,
    "GUEST_UDP_TUNNEL_GSO": 65, "GUEST_UDP_TUNNEL_GSO_CSUM": 66,
    "HOST_UDP_TUNNEL_GSO": 67, "HOST_UDP_TUNNEL_GSO_CSUM": 68, "OUT_NET_HEADER": 69, "IPSEC": 70,
}
"""Feature bits by name: of the network device (5.1.3), of rings and transport (6)."""
