"""The configuration space of a function as a table of dwords: plain data, standard library alone.

Offsets are stated, and checked for overlap. Clauses: PCI-GEN-01, PCI-ID-01, PCI-ID-02, PCI-ID-05,
PCI-ID-06, PCI-ID-07 (identity), PCI-CAP-04, PCI-COM-01, PCI-COM-02, PCI-NOTIF-01 to 06, PCI-ISR-01,
PCI-DCFG-01, PCI-DCFG-02, PCI-PCFG-01 (virtio capabilities), PCI-MSIX-01, PCI-MSIX-02 (MSI-X).
"""

from dataclasses import dataclass

from hw.pcie.bar_map import (
    COMMON_BYTES,
    COMMON_OFFSET,
    DEVICE_BYTES,
    DEVICE_OFFSET,
    ISR_BYTES,
    ISR_OFFSET,
    MANAGEMENT_BAR_BYTES,
    MSIX_BAR,
    MSIX_BAR_BYTES,
    MSIX_PBA_OFFSET,
    MSIX_TABLE_OFFSET,
    NOTIFY_BYTES,
    NOTIFY_MULTIPLIER,
    NOTIFY_OFFSET,
    VIRTIO_BAR,
    VIRTIO_BAR_BYTES,
)

__all__ = [
    "BAR0", "BAR2", "BAR4", "CAPABILITY_POINTER", "CLASS_REVISION", "COMMAND_STATUS",
    "DEVICE_CONTROL", "DEVICE_CONTROL_2", "EXPRESS", "HEADER_TYPE", "IDENTITY", "INTERRUPT_LINE",
    "LINK_CONTROL", "LINK_CONTROL_2", "MSIX", "MSIX_CONTROL", "POWER", "POWER_CONTROL",
    "SUBSYSTEM", "VIRTIO_COMMON", "VIRTIO_DEVICE", "VIRTIO_ISR", "VIRTIO_NOTIFY", "VIRTIO_WINDOW",
    "WINDOW_BAR", "WINDOW_DATA", "WINDOW_LENGTH", "WINDOW_OFFSET", "ConfigRow", "config_rows",
]

# The type 0 header.
IDENTITY = 0x00
COMMAND_STATUS = 0x04
CLASS_REVISION = 0x08
HEADER_TYPE = 0x0C
BAR0 = 0x10
BAR2 = 0x18
BAR4 = 0x20
SUBSYSTEM = 0x2C
CAPABILITY_POINTER = 0x34
INTERRUPT_LINE = 0x3C

# Capabilities, in the order of the list.
POWER = 0x40
POWER_CONTROL = POWER + 4
MSIX = 0x48
MSIX_CONTROL = MSIX
EXPRESS = 0x58
DEVICE_CONTROL = EXPRESS + 0x08
LINK_CONTROL = EXPRESS + 0x10
DEVICE_CONTROL_2 = EXPRESS + 0x28
LINK_CONTROL_2 = EXPRESS + 0x30
VIRTIO_COMMON = 0x94
VIRTIO_NOTIFY = 0xA4
VIRTIO_ISR = 0xB8
VIRTIO_DEVICE = 0xC8
VIRTIO_WINDOW = 0xD8
WINDOW_BAR = VIRTIO_WINDOW + 4
WINDOW_OFFSET = VIRTIO_WINDOW + 8
WINDOW_LENGTH = VIRTIO_WINDOW + 12
WINDOW_DATA = VIRTIO_WINDOW + 16
_END = VIRTIO_WINDOW + 20

_VENDOR = 0x1AF4
_DEVICE = 0x1041
_VENDOR_CAPABILITY = 0x09
_COMMON_CFG, _NOTIFY_CFG, _ISR_CFG, _DEVICE_CFG, _PCI_CFG = 1, 2, 3, 4, 5


@dataclass(frozen=True, kw_only=True)
class ConfigRow:
    """One dword of configuration space. Dwords without a row read zero and ignore writes.

    ``value`` is what it has after reset; ``writable`` bits are read and written; ``clears`` bits
    are set by the card and cleared by writing one; ``kept`` bits (of either) outlive a
    function-level reset. What is in none of the masks never changes.
    """

    offset: int
    name: str
    value: int = 0
    writable: int = 0
    clears: int = 0
    kept: int = 0

    def __post_init__(self) -> None:
        if self.offset % 4 or not 0 <= self.offset < 4096:
            raise ValueError(f"{self.name}: no dword of configuration space at {self.offset:#x}")
        if self.writable & self.clears or self.kept & ~(self.writable | self.clears):
            raise ValueError(f"{self.name}: the masks contradict one another")
        for mask in (self.value, self.writable, self.clears):
            if not 0 <= mask < 1 << 32:
                raise ValueError(f"{self.name}: {mask:#x} is no dword")

    @property
    def changes(self) -> int:
        """Bits that can ever differ from ``value``."""
        return self.writable | self.clears


def _header(subsystem_device: int) -> list[ConfigRow]:
    memory_64 = 0b100  # a 64-bit memory BAR, not prefetchable: registers have effects

    def bar_mask(size: int) -> int:
        return -size & 0xFFFF_FFFF

    return [
        ConfigRow(offset=IDENTITY, name="vendor and device", value=_DEVICE << 16 | _VENDOR),
        # Memory space 1, bus master 2, parity response 6, SERR 8, INTx disable 10; capability list
        # 20, and the errors: parity 24, 31, aborts 27 to 29, SERR 30 (27 and 30 are never set).
        ConfigRow(offset=COMMAND_STATUS, name="command and status", value=0x0010_0000,
                  writable=0x0000_0546, clears=0xF900_0000),
        ConfigRow(offset=CLASS_REVISION, name="class and revision", value=0x020000 << 8 | 1),
        ConfigRow(offset=HEADER_TYPE, name="header type", writable=0xFF),  # cache line: no effect
        ConfigRow(offset=BAR0, name="BAR0", writable=bar_mask(MANAGEMENT_BAR_BYTES)),
        ConfigRow(offset=BAR2, name="BAR2", value=memory_64, writable=bar_mask(VIRTIO_BAR_BYTES)),
        ConfigRow(offset=BAR2 + 4, name="BAR3", writable=0xFFFF_FFFF),
        ConfigRow(offset=BAR4, name="BAR4", value=memory_64, writable=bar_mask(MSIX_BAR_BYTES)),
        ConfigRow(offset=BAR4 + 4, name="BAR5", writable=0xFFFF_FFFF),
        ConfigRow(offset=SUBSYSTEM, name="subsystem", value=subsystem_device << 16 | _VENDOR),
        ConfigRow(offset=CAPABILITY_POINTER, name="capability pointer", value=POWER),
        ConfigRow(offset=INTERRUPT_LINE, name="interrupt line", writable=0xFF),  # pin 0: no INTx
    ]


def _power() -> list[ConfigRow]:
    return [
        # Version 3, no PME, neither D1 nor D2.
        ConfigRow(offset=POWER, name="power management", value=0x0003 << 16 | MSIX << 8 | 0x01),
        # Power state in 1:0; bit 3, No_Soft_Reset: D3hot to D0 keeps everything.
        ConfigRow(offset=POWER_CONTROL, name="power state", value=0x0000_0008, writable=0x3),
    ]


def _msix(vectors: int) -> list[ConfigRow]:
    return [
        # Function mask 30, enable 31.
        ConfigRow(offset=MSIX_CONTROL, name="MSI-X control",
                  value=(vectors - 1) << 16 | EXPRESS << 8 | 0x11, writable=0xC000_0000),
        ConfigRow(offset=MSIX + 4, name="MSI-X table", value=MSIX_TABLE_OFFSET | MSIX_BAR),
        ConfigRow(offset=MSIX + 8, name="MSI-X pending bits", value=MSIX_PBA_OFFSET | MSIX_BAR),
    ]


def _express(max_payload_bytes: int) -> list[ConfigRow]:
    payload_supported = (max_payload_bytes // 128).bit_length() - 1
    return [
        # Capability version 2, an endpoint.
        ConfigRow(offset=EXPRESS, name="PCI Express",
                  value=0x0002 << 16 | VIRTIO_COMMON << 8 | 0x10),
        # Extended tags 5, role-based error reporting 15, function-level reset 28.
        ConfigRow(offset=EXPRESS + 0x04, name="device capabilities",
                  value=payload_supported | 1 << 5 | 1 << 15 | 1 << 28),
        # Error reporting 3:0, relaxed order 4, payload 7:5, extended tags 8, no snoop 11, read size
        # 14:12; bit 15, which starts a function-level reset, reads 0. Status: errors 19:16; 21,
        # transactions pending, is live. The payload size belongs to the link: a reset keeps it.
        ConfigRow(offset=DEVICE_CONTROL, name="device control", value=0x0000_2910,
                  writable=0x0000_79FF, clears=0x000F_0000, kept=0x0000_00E0),
        # Gen3 x16, no ASPM (and so says bit 22).
        ConfigRow(offset=EXPRESS + 0x0C, name="link capabilities", value=3 | 16 << 4 | 1 << 22),
        # ASPM 1:0, completion boundary 3, common clock 6, extended synch 7: all the link's own.
        # Status: Gen3 x16, slot clock.
        ConfigRow(offset=LINK_CONTROL, name="link control", value=0x1103 << 16,
                  writable=0x0000_00CB, kept=0x0000_00CB),
        # Completion time-out: not programmable, can be disabled (4).
        ConfigRow(offset=EXPRESS + 0x24, name="device capabilities 2", value=1 << 4),
        ConfigRow(offset=DEVICE_CONTROL_2, name="device control 2", writable=1 << 4),
        ConfigRow(offset=EXPRESS + 0x2C, name="link capabilities 2", value=0b111 << 1),
        ConfigRow(offset=LINK_CONTROL_2, name="link control 2", value=3, writable=0xF, kept=0xF),
    ]


def _virtio() -> list[ConfigRow]:
    def structure(offset: int, following: int, kind: int, place: int, size: int,
                  *, cap_bytes: int = 16) -> list[ConfigRow]:
        name = f"virtio structure {kind}"
        head = kind << 24 | cap_bytes << 16 | following << 8 | _VENDOR_CAPABILITY
        return [
            ConfigRow(offset=offset, name=name, value=head),
            ConfigRow(offset=offset + 4, name=f"{name}: BAR", value=VIRTIO_BAR),
            ConfigRow(offset=offset + 8, name=f"{name}: offset", value=place),
            ConfigRow(offset=offset + 12, name=f"{name}: length", value=size),
        ]

    return [
        *structure(VIRTIO_COMMON, VIRTIO_NOTIFY, _COMMON_CFG, COMMON_OFFSET, COMMON_BYTES),
        *structure(VIRTIO_NOTIFY, VIRTIO_ISR, _NOTIFY_CFG, NOTIFY_OFFSET, NOTIFY_BYTES,
                   cap_bytes=20),
        ConfigRow(offset=VIRTIO_NOTIFY + 16, name="notify multiplier", value=NOTIFY_MULTIPLIER),
        *structure(VIRTIO_ISR, VIRTIO_DEVICE, _ISR_CFG, ISR_OFFSET, ISR_BYTES),
        *structure(VIRTIO_DEVICE, VIRTIO_WINDOW, _DEVICE_CFG, DEVICE_OFFSET, DEVICE_BYTES),
        # The window on the BARs: its place is the driver's to choose. Its data have no row: what is
        # there is in a BAR.
        ConfigRow(offset=VIRTIO_WINDOW, name="virtio window",
                  value=_PCI_CFG << 24 | 20 << 16 | _VENDOR_CAPABILITY),
        ConfigRow(offset=WINDOW_BAR, name="window BAR", writable=0xFF),
        ConfigRow(offset=WINDOW_OFFSET, name="window offset", writable=0xFFFF_FFFF),
        ConfigRow(offset=WINDOW_LENGTH, name="window length", writable=0xFFFF_FFFF),
    ]


def config_rows(*, max_payload_bytes: int, msix_vectors: int,
                subsystem_device: int = _DEVICE) -> list[ConfigRow]:
    """Give the configuration space of the PF, by ascending offset.

    Parameters
    ----------
    max_payload_bytes
        Largest payload of a TLP: 128, 256 or 512.
    msix_vectors
        Vectors in the MSI-X table: 2 to 2048.
    subsystem_device
        40h to FFFFh.

    Raises ``ValueError`` on any other value, and when the table contradicts itself.
    """
    if max_payload_bytes not in (128, 256, 512):
        raise ValueError(f"max_payload_bytes must be 128, 256 or 512, not {max_payload_bytes!r}")
    if not 2 <= msix_vectors <= 2048:
        raise ValueError(f"msix_vectors must be from 2 to 2048, not {msix_vectors!r}")
    if (16 * msix_vectors > MSIX_PBA_OFFSET - MSIX_TABLE_OFFSET
            or MSIX_PBA_OFFSET + (msix_vectors + 63) // 64 * 8 > MSIX_BAR_BYTES):
        raise ValueError(f"msix_vectors: a table of {msix_vectors!r} does not fit into the BAR")
    if not 0x40 <= subsystem_device <= 0xFFFF:
        raise ValueError(f"subsystem_device must be from 0x40 to 0xFFFF, not {subsystem_device!r}")
    rows = [*_header(subsystem_device), *_power(), *_msix(msix_vectors),
            *_express(max_payload_bytes), *_virtio()]
    offsets = [row.offset for row in rows]
    if sorted(set(offsets)) != offsets or _END > 0x100:
        raise ValueError("rows of configuration space overlap, or are out of order")
    return rows
