"""Virtio's numbers, written down from the standard (virtio 1.4): nothing here comes from the card.

Checked in a test against the kernel's headers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

__all__ = [
    "NET_DEPENDENCIES",
    "CommonConfig",
    "ConfigType",
    "Control",
    "DescriptorFlag",
    "Feature",
    "Field",
    "NetConfig",
    "NetHeader",
    "PackedLayout",
    "SplitLayout",
    "Status",
    "field_names",
]


class Field(NamedTuple):
    """A little-endian register: offset and width in bytes."""

    offset: int
    size: int


def field_names(structure: type) -> dict[str, Field]:
    """Give the registers of a structure by name, in order."""
    return {name: value for name, value in vars(structure).items() if isinstance(value, Field)}


class Feature:
    """Feature bits: numbers, not masks."""

    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41
    SUSPEND = 43
    DEVICE_STATS = 50
    HASH_TUNNEL = 51
    VQ_NOTF_COAL = 52
    NOTF_COAL = 53
    GUEST_USO4 = 54
    GUEST_USO6 = 55
    HOST_USO = 56
    HASH_REPORT = 57
    GUEST_HDRLEN = 59
    RSS = 60
    RSC_EXT = 61
    STANDBY = 62
    SPEED_DUPLEX = 63


NET_DEPENDENCIES: dict[int, tuple[tuple[int, ...], ...]] = {
    # feature: groups, of each of which at least one must be accepted
    Feature.GUEST_TSO4: ((Feature.GUEST_CSUM,),),
    Feature.GUEST_TSO6: ((Feature.GUEST_CSUM,),),
    Feature.GUEST_ECN: ((Feature.GUEST_TSO4, Feature.GUEST_TSO6),),
    Feature.GUEST_UFO: ((Feature.GUEST_CSUM,),),
    Feature.GUEST_USO4: ((Feature.GUEST_CSUM,),),
    Feature.GUEST_USO6: ((Feature.GUEST_CSUM,),),
    Feature.HOST_TSO4: ((Feature.CSUM,),),
    Feature.HOST_TSO6: ((Feature.CSUM,),),
    Feature.HOST_ECN: ((Feature.HOST_TSO4, Feature.HOST_TSO6),),
    Feature.HOST_UFO: ((Feature.CSUM,),),
    Feature.HOST_USO: ((Feature.CSUM,),),
    Feature.CTRL_RX: ((Feature.CTRL_VQ,),),
    Feature.CTRL_RX_EXTRA: ((Feature.CTRL_VQ,),),
    Feature.CTRL_VLAN: ((Feature.CTRL_VQ,),),
    Feature.CTRL_GUEST_OFFLOADS: ((Feature.CTRL_VQ,),),
    Feature.GUEST_ANNOUNCE: ((Feature.CTRL_VQ,),),
    Feature.MQ: ((Feature.CTRL_VQ,),),
    Feature.CTRL_MAC_ADDR: ((Feature.CTRL_VQ,),),
    Feature.NOTF_COAL: ((Feature.CTRL_VQ,),),
    Feature.VQ_NOTF_COAL: ((Feature.CTRL_VQ,),),
    Feature.DEVICE_STATS: ((Feature.CTRL_VQ,),),
    Feature.HASH_TUNNEL: ((Feature.CTRL_VQ,), (Feature.RSS, Feature.HASH_REPORT)),
    Feature.RSS: ((Feature.CTRL_VQ,),),
    Feature.HASH_REPORT: ((Feature.CTRL_VQ,),),
    Feature.RSC_EXT: ((Feature.GUEST_TSO4, Feature.GUEST_TSO6),),
}


class Status:
    """Bits of device_status."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    SUSPEND = 16
    NEEDS_RESET = 64
    FAILED = 128


class ConfigType:
    """Kinds of virtio's PCI capabilities, and the layout of one."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5
    SHARED_MEMORY = 8
    VENDOR = 9

    CAP_LEN = Field(2, 1)
    CFG_TYPE = Field(3, 1)
    BAR = Field(4, 1)
    ID = Field(5, 1)
    OFFSET = Field(8, 4)
    LENGTH = Field(12, 4)
    NOTIFY_OFF_MULTIPLIER = Field(16, 4)
    PCI_CFG_DATA = Field(16, 4)


class CommonConfig:
    """The common configuration structure."""

    DEVICE_FEATURE_SELECT = Field(0, 4)
    DEVICE_FEATURE = Field(4, 4)
    DRIVER_FEATURE_SELECT = Field(8, 4)
    DRIVER_FEATURE = Field(12, 4)
    CONFIG_MSIX_VECTOR = Field(16, 2)
    NUM_QUEUES = Field(18, 2)
    DEVICE_STATUS = Field(20, 1)
    CONFIG_GENERATION = Field(21, 1)
    QUEUE_SELECT = Field(22, 2)
    QUEUE_SIZE = Field(24, 2)
    QUEUE_MSIX_VECTOR = Field(26, 2)
    QUEUE_ENABLE = Field(28, 2)
    QUEUE_NOTIFY_OFF = Field(30, 2)
    QUEUE_DESC = Field(32, 8)
    QUEUE_DRIVER = Field(40, 8)
    QUEUE_DEVICE = Field(48, 8)
    QUEUE_NOTIF_CONFIG_DATA = Field(56, 2)
    QUEUE_RESET = Field(58, 2)
    ADMIN_QUEUE_INDEX = Field(60, 2)
    ADMIN_QUEUE_NUM = Field(62, 2)

    SIZE_BASIC = 56  # what every device has
    NO_VECTOR: ClassVar[int] = 0xFFFF


class NetConfig:
    """The configuration space of a network device."""

    MAC = Field(0, 6)
    STATUS = Field(6, 2)
    MAX_VIRTQUEUE_PAIRS = Field(8, 2)
    MTU = Field(10, 2)
    SPEED = Field(12, 4)
    DUPLEX = Field(16, 1)
    RSS_MAX_KEY_SIZE = Field(17, 1)
    RSS_MAX_INDIRECTION_TABLE_LENGTH = Field(18, 2)
    SUPPORTED_HASH_TYPES = Field(20, 4)
    SUPPORTED_TUNNEL_TYPES = Field(24, 4)

    STATUS_LINK_UP: ClassVar[int] = 1
    STATUS_ANNOUNCE: ClassVar[int] = 2


class SplitLayout:
    """Where things lie in the rings of a split queue of ``size`` entries."""

    FLAGS = Field(0, 2)
    INDEX = Field(2, 2)
    """In the available ring and in the used one."""
    AVAILABLE_ENTRY: ClassVar[int] = 2
    USED_ENTRY: ClassVar[int] = 8
    ENTRIES: ClassVar[int] = 4

    @classmethod
    def used_event(cls, size: int) -> Field:
        """Give where the driver names the used entry to be interrupted for (EVENT_IDX)."""
        return Field(cls.ENTRIES + cls.AVAILABLE_ENTRY * size, 2)

    @classmethod
    def avail_event(cls, size: int) -> Field:
        """Give where the device names the available entry to be kicked for (EVENT_IDX)."""
        return Field(cls.ENTRIES + cls.USED_ENTRY * size, 2)


class PackedLayout:
    """A descriptor of a packed ring, and the event suppression structures beside it."""

    ADDRESS = Field(0, 8)
    LENGTH = Field(8, 4)
    ID = Field(12, 2)
    FLAGS = Field(14, 2)

    EVENT_PLACE = Field(0, 2)
    """Place in the ring, and the wrap counter in bit 15."""
    EVENT_FLAGS = Field(2, 2)
    EVENT_BYTES: ClassVar[int] = 4
    ENABLE: ClassVar[int] = 0
    DISABLE: ClassVar[int] = 1
    AT_DESCRIPTOR: ClassVar[int] = 2
    """With EVENT_IDX: when the descriptor at the place is reached."""


class DescriptorFlag:
    """Flags of descriptors, and of the rings of split queues."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4
    AVAIL = 1 << 7  # of packed rings, as is the next one
    USED = 1 << 15
    AVAIL_NO_INTERRUPT = 1
    USED_NO_NOTIFY = 1


class Control:
    """Commands of the control queue, and what they are answered with."""

    MQ = 4  # a class
    MQ_PAIRS_SET = 0
    MQ_PAIRS_MIN = 1
    MQ_PAIRS_MAX = 0x8000

    OK = 0
    ERR = 1


@dataclass
class NetHeader:
    """``virtio_net_hdr`` of 12 bytes, before each frame."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<BBHHHHH")
    SIZE: ClassVar[int] = 12
    FLAG_NEEDS_CSUM: ClassVar[int] = 1
    FLAG_DATA_VALID: ClassVar[int] = 2
    FLAG_RSC_INFO: ClassVar[int] = 4
    GSO_NONE: ClassVar[int] = 0
    GSO_TCPV4: ClassVar[int] = 1
    GSO_UDP: ClassVar[int] = 3
    GSO_TCPV6: ClassVar[int] = 4
    GSO_UDP_L4: ClassVar[int] = 5
    GSO_ECN: ClassVar[int] = 0x80

    def pack(self) -> bytes:
        """Give the 12 bytes."""
        return self.FORMAT.pack(self.flags, self.gso_type, self.hdr_len, self.gso_size,
                                self.csum_start, self.csum_offset, self.num_buffers)

    @classmethod
    def unpack(cls, data: bytes) -> NetHeader:
        """Take the first 12 bytes."""
        return cls(*cls.FORMAT.unpack(data[:cls.SIZE]))
