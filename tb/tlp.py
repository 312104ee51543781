"""TLPs as the benches see them: plain objects, and their beats on the card's streams.

Positions of the fields come from the layouts that the card itself uses (`hw.pcie.types`), so that
a header that gains a field needs one line here: the attribute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from amaranth.hdl import Shape
from amaranth.lib import data

from hw.pcie.types import (
    CompletionHeader,
    CompletionStatus,
    RequestHeader,
    RequestKind,
    TlpLayout,
)

__all__ = [
    "Completion",
    "Request",
    "TlpAssembler",
    "TlpCodec",
    "bdf",
    "byte_enables",
    "enabled_bytes",
    "has_payload",
]


def bdf(bus: int, device: int, function: int) -> int:
    """Give the 16-bit name of a function: bus 15:8, device 7:3, function 2:0."""
    return bus << 8 | device << 3 | function


def byte_enables(address: int, size: int) -> tuple[int, int, int]:
    """Give ``dwords``, ``first_be`` and ``last_be`` of ``size`` bytes, at least 1."""
    first, end = address & 3, (address & 3) + size
    dwords = (end + 3) // 4
    last = 0xF >> (-end & 3)
    if dwords == 1:
        return 1, 0xF << first & last, 0
    return dwords, 0xF << first & 0xF, last


def enabled_bytes(dwords: int, first_be: int, last_be: int) -> tuple[int, int]:
    """Give the first enabled byte, counted from the dword-aligned address, and the byte count.

    The count spans from the first to the last enabled byte, as PCI Express counts the bytes of a
    completion: 1 for a read of nothing.
    """
    if dwords == 1:
        if not first_be:
            return 0, 1
        low = (first_be & -first_be).bit_length() - 1
        return low, first_be.bit_length() - low
    low = (first_be & -first_be).bit_length() - 1 if first_be else 0
    return low, 4 * (dwords - 1) + last_be.bit_length() - low


@dataclass(slots=True)
class Request:
    """A request TLP, either way. ``payload`` is whole dwords, and empty in a read."""

    kind: RequestKind
    address: int = 0
    dwords: int = 1
    first_be: int = 0xF
    last_be: int = 0
    requester_id: int = 0
    completer_id: int = 0
    tag: int = 0
    traffic_class: int = 0
    attributes: int = 0
    poisoned: int = 0
    payload: bytes = b""

    @property
    def posted(self) -> bool:
        """Whether nobody answers it."""
        return self.kind in (RequestKind.MEM_WRITE, RequestKind.MESSAGE)

    @property
    def span(self) -> tuple[int, int]:
        """Address of the first enabled byte, and bytes up to the last one."""
        low, count = enabled_bytes(self.dwords, self.first_be, self.last_be)
        return self.address + low, count

    def mask(self, index: int) -> int:
        """Byte enables of dword ``index``."""
        if index == 0:
            return self.first_be
        return self.last_be if index == self.dwords - 1 else 0xF


@dataclass(slots=True)
class Completion:
    """A completion TLP, either way. ``payload`` is whole dwords, empty without data."""

    status: CompletionStatus
    byte_count: int = 4
    lower_address: int = 0
    dwords: int = 0
    requester_id: int = 0
    completer_id: int = 0
    tag: int = 0
    traffic_class: int = 0
    attributes: int = 0
    poisoned: int = 0
    payload: bytes = b""


Tlp = TypeVar("Tlp", bound=Request | Completion)


class TlpCodec(Generic[Tlp]):
    """Beats of TLPs on a stream of `TlpLayout`, and back. Use `requests` or `completions`.

    Bits that mean nothing are filled with a pattern that is not zero: the header after the first
    beat, empty lanes, and the data of a TLP without payload.
    """

    def __init__(self, lanes: int, kind: Callable[..., Tlp], header: data.StructLayout) -> None:
        layout = TlpLayout(lanes, header)  # type: ignore[arg-type]  # one of the two headers
        self.lanes = lanes
        self.bits = Shape.cast(layout).width
        self._kind: Callable[..., Tlp] = kind
        self._fields = [(str(name), part.offset, (1 << part.width) - 1) for name, part in header]
        self._empty_at = layout["empty"].offset
        self._empty_mask = (1 << layout["empty"].width) - 1
        self._last_at = layout["last"].offset
        self._header_at = layout["header"].offset
        header_bits = Shape.cast(header).width
        self._header_mask = (1 << header_bits) - 1
        self._data_mask = (1 << 8 * lanes) - 1
        self._noise = bytes((0xA5 + 0x3B * lane) & 0xFF or 0x5A for lane in range(lanes))
        self._header_noise = int.from_bytes(b"\x9d\x36" * 32, "little") & self._header_mask
        if layout["data"].offset:
            raise ValueError("the codec expects data in the lowest bits")

    @classmethod
    def requests(cls, lanes: int) -> TlpCodec[Request]:
        """Give the codec of ``cq`` and ``rq``."""
        return TlpCodec(lanes, Request, RequestHeader())

    @classmethod
    def completions(cls, lanes: int) -> TlpCodec[Completion]:
        """Give the codec of ``cc`` and ``rc``."""
        return TlpCodec(lanes, Completion, CompletionHeader())

    def header(self, tlp: Tlp) -> int:
        """Give the header as a number. ``ValueError`` when a field does not fit."""
        word = 0
        for name, offset, mask in self._fields:
            value = getattr(tlp, name)
            number = int(getattr(value, "value", value))
            if number & ~mask:
                raise ValueError(f"{name} = {number:#x} does not fit into {mask:#x}")
            word |= number << offset
        return word

    def beats(self, tlp: Tlp) -> list[int]:
        """Give the beats of a TLP, at least one."""
        lanes, payload = self.lanes, tlp.payload
        header = self.header(tlp)
        words = []
        for start in range(0, max(len(payload), 1), lanes):
            chunk = payload[start:start + lanes]
            last = start + lanes >= len(payload)
            empty = (lanes - len(chunk)) % lanes
            word = int.from_bytes(chunk + self._noise[len(chunk):], "little")
            words.append(word | empty << self._empty_at | last << self._last_at
                         | header << self._header_at)
            header = self._header_noise
        return words

    def tlp(self, header: int, payload: bytes) -> Tlp:
        """Give the TLP of a header and the bytes of its beats."""
        values: dict[str, Any] = {
            name: header >> offset & mask for name, offset, mask in self._fields}
        for name, enumeration in (("kind", RequestKind), ("status", CompletionStatus)):
            if name in values:
                values[name] = enumeration(values[name])
        return self._kind(**values, payload=payload)

    def split(self, beat: int) -> tuple[bytes, bool, int]:
        """Give the bytes of a beat, whether it is the last, and its header's number."""
        empty = beat >> self._empty_at & self._empty_mask
        last = bool(beat >> self._last_at & 1)
        if empty and not last:
            raise ValueError("empty lanes before the last beat")
        chunk = (beat & self._data_mask).to_bytes(self.lanes, "little")
        return chunk[:self.lanes - empty], last, beat >> self._header_at & self._header_mask


class TlpAssembler(Generic[Tlp]):
    """Puts beats together again: `feed` gives the TLP with its last beat."""

    def __init__(self, codec: TlpCodec[Tlp]) -> None:
        self._codec: TlpCodec[Tlp] = codec
        self._header: int | None = None
        self._payload = bytearray()

    @property
    def inside(self) -> bool:
        """Whether a TLP was begun and has not ended."""
        return self._header is not None

    def feed(self, beat: int) -> Tlp | None:
        """Take one beat. ``ValueError`` when the beats and the header's dwords disagree."""
        chunk, last, header = self._codec.split(beat)
        if self._header is None:
            self._header = header
        self._payload += chunk
        if not last:
            return None
        tlp = self._codec.tlp(self._header, bytes(self._payload))
        self._header = None
        self._payload.clear()
        if has_payload(tlp):
            if len(tlp.payload) != 4 * tlp.dwords:
                raise ValueError(f"{len(tlp.payload)} bytes of payload for {tlp.dwords} dwords")
        elif len(tlp.payload) > self._codec.lanes:
            raise ValueError(f"{len(tlp.payload)} bytes in a TLP without payload")
        else:
            tlp.payload = b""
        return tlp


def has_payload(tlp: Request | Completion) -> bool:
    """Whether data belong to this TLP."""
    if isinstance(tlp, Completion):
        return tlp.dwords > 0
    return tlp.kind in (RequestKind.MEM_WRITE, RequestKind.CONFIG_WRITE, RequestKind.IO_WRITE)
