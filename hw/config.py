"""Every size and feature of a card, chosen and validated in one place; presets by name."""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

__all__ = ["ConfigError", "NicConfig"]


class ConfigError(ValueError):
    """A card that cannot be built: the message names the field, its value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class NicConfig:
    """The sizes and features of one card. An impossible value raises `ConfigError`.

    Sizes are powers of two unless said otherwise. Everything that depends on a size is derived
    here (`lanes`, `functions`, `queue_numbers`), so that no two rooms can disagree.
    """

    data_bits: int = 512
    """Width of the packet and TLP streams: 64, 128, 256 or 512."""
    vfs: int = 0
    """Virtual functions: 0 to 255 (any number)."""
    queue_pairs: int = 1
    """Pairs of data queues a function: 1 to 16."""
    table_cells: int = 256
    """Entries of indirect tables that are kept a queue and direction: 8 to 1024. A table may have
    half as many."""
    queue_size_max: int = 1024
    """Most entries of a queue, and its size after reset: 16 to 32768."""
    max_frame_bytes: int = 9018
    """Longest frame, without FCS: 1518 to 16000 (any number)."""
    entry_bytes: int = 32768
    """The entry FIFO, between the wire and the packet pool."""
    pool_bytes: int = 262144
    """The packet pool of the receive side."""
    egress_bytes: int = 65536
    """The frame buffer of the transmit side."""
    cell_bytes: int = 256
    """A cell of the pool and of the egress buffer."""
    read_tags: int = 256
    """DMA reads in flight: 32 to 256."""
    max_payload_bytes: int = 256
    """Largest write TLP the card makes (MPS supported): 128, 256 or 512."""
    max_read_bytes: int = 512
    """Largest read TLP the card makes (room of a tag): 128 to 512."""
    completion_timeout_cycles: int = 2_500_000
    """When a read without completion is given up (10 ms at 250 MHz); 256 at least (any number)."""
    clock_mhz: int = 250
    """The clock that times are computed from (any number from 1 to 1000)."""
    mac: int = 0x02_52_4E_47_00_00
    """MAC address of function 0, locally administered; function f adds f."""
    link_mbps: int = 100_000
    """Speed in the configuration space, Mbit/s (any number)."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {"queue_pairs": 16},
        "small": {
            "data_bits": 64, "queue_pairs": 2, "queue_size_max": 64, "table_cells": 32,
            "max_frame_bytes": 2048, "entry_bytes": 4096,
            "pool_bytes": 8192, "egress_bytes": 8192, "cell_bytes": 128, "read_tags": 32,
            "max_payload_bytes": 128, "max_read_bytes": 128, "completion_timeout_cycles": 4000,
        },
    }

    def __post_init__(self) -> None:
        self._choice("data_bits", (64, 128, 256, 512))
        self._range("vfs", 0, 255)
        self._power("queue_pairs", 1, 16)
        self._power("queue_size_max", 16, 32768)
        self._power("table_cells", 8, 1024)
        self._range("max_frame_bytes", 1518, 16000)
        self._power("cell_bytes", max(64, self.lanes), 1024)
        self._power("entry_bytes", 4096, 1 << 20)
        self._power("pool_bytes", 4096, 1 << 22)
        self._power("egress_bytes", 4096, 1 << 22)
        for name in ("entry_bytes", "pool_bytes", "egress_bytes"):
            if getattr(self, name) < self.max_frame_bytes + 2 * self.cell_bytes:
                raise ConfigError(
                    f"{name} must hold a frame of max_frame_bytes ({self.max_frame_bytes}) and two "
                    f"cells, not {getattr(self, name)}")
        self._power("read_tags", 32, 256)
        self._choice("max_payload_bytes", (128, 256, 512))
        self._power("max_read_bytes", 128, 512)
        self._range("completion_timeout_cycles", 256, 1 << 32)
        self._range("clock_mhz", 1, 1000)
        self._range("mac", 0, (1 << 48) - 1)
        self._range("link_mbps", 1, 0x7FFF_FFFF)

    @property
    def lanes(self) -> int:
        """Byte lanes of a beat."""
        return self.data_bits // 8

    @property
    def functions(self) -> int:
        """The PF and its VFs."""
        return 1 + self.vfs

    @property
    def queue_stride(self) -> int:
        """Data queues a function."""
        return 2 * self.queue_pairs

    @property
    def queues(self) -> int:
        """Data queues of the card."""
        return self.functions * self.queue_stride

    @property
    def queue_numbers(self) -> int:
        """Queue numbers of the card: the data queues', and a control queue's of each function."""
        return self.queues + self.functions

    @property
    def mtu(self) -> int:
        """Largest payload of a frame: what Ethernet's header and a VLAN tag leave."""
        return self.max_frame_bytes - 18

    @property
    def max_chain_bytes(self) -> int:
        """Longest chain that can be sent: a frame and its virtio header."""
        return self.max_frame_bytes + 12

    @property
    def vectors(self) -> int:
        """MSI-X vectors a function: one a queue, that of control included, and one for the
        configuration; a power of two."""
        return 2 * self.queue_stride

    @property
    def prefetch_tags(self) -> int:
        """DMA reads that prefetch may have in flight, each direction."""
        return max(6, self.read_tags // 8)

    @property
    def notification_tags(self) -> int:
        """DMA reads of suppression fields in flight."""
        return max(2, self.read_tags // 8)

    @property
    def gather_tags(self) -> int:
        """DMA reads of frames in flight: all that the others leave."""
        return (self.read_tags - 2 * self.prefetch_tags - self.notification_tags
                - self.control_tags)

    @property
    def group_tlps(self) -> int:
        """TLPs that a frame which is read in one piece has fewer than; a power of two."""
        return min(64, 1 << (self.gather_tags.bit_length() - 1))

    @property
    def control_tags(self) -> int:
        """DMA reads of control queues in flight: one at a time, in two pieces at most."""
        return 2

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "NicConfig":
        """Give the preset ``name`` with fields overridden; `ConfigError` says what is wrong."""
        if name not in cls.PRESETS:
            raise ConfigError(f"config must be one of {', '.join(cls.PRESETS)}, not {name!r}")
        known = {field.name for field in fields(cls)}
        for key in overrides:
            if key not in known:
                raise ConfigError(f"{key!r} is no field of a card; there are "
                                  f"{', '.join(sorted(known))}")
        return cls(**{**cls.PRESETS[name], **overrides})

    def with_(self, **overrides: Any) -> "NicConfig":
        """Give the same card with some fields changed."""
        return replace(self, **overrides)

    def _fail(self, name: str, allowed: str) -> None:
        raise ConfigError(f"{name} must be {allowed}, not {getattr(self, name)!r}")

    def _whole(self, name: str) -> int:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool):
            self._fail(name, "a whole number")
        return int(value)

    def _choice(self, name: str, allowed: tuple[int, ...]) -> None:
        if self._whole(name) not in allowed:
            self._fail(name, "one of " + ", ".join(map(str, allowed)))

    def _range(self, name: str, low: int, high: int) -> None:
        if not low <= self._whole(name) <= high:
            self._fail(name, f"from {low} to {high}")

    def _power(self, name: str, low: int, high: int) -> None:
        value = self._whole(name)
        if not low <= value <= high or value & (value - 1):
            self._fail(name, f"a power of two from {low} to {high}")
