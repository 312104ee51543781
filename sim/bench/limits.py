"""What a card could do at best: the line, the link in both directions, and the bus inside.

The constants of PCI Express follow Neugebauer et al., "Understanding PCIe performance for end host
networking" (SIGCOMM 2018). Limits count buffers that begin at multiples of a cache line, one
descriptor a packet, ring bursts of 32 descriptors, and a driver that polls; so no honest card
passes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

__all__ = ["LINE_OVERHEAD_BYTES", "LINKS", "NET_HEADER_BYTES", "Direction", "Limit", "Link", "Ring",
           "Work", "limit_of"]

Direction = Literal["tx", "rx", "duplex"]
Ring = Literal["split", "packed"]
LimitBy = Literal["line", "pcie_down", "pcie_up", "bus"]

LINE_OVERHEAD_BYTES = 24
"""FCS, preamble and gap: what a frame costs on the line beside its bytes."""
NET_HEADER_BYTES = 12
"""The virtio header in front of a frame."""

_WRITE_BYTES = 24       # of a memory write beside its data: framing, header of 16, no digest
_READ_BYTES = 24        # of a memory read
_COMPLETION_BYTES = 20  # of a completion beside its data
_DOORBELL_BYTES = 28
_BURST = 32             # descriptors a ring burst
_ACK_BYTES = {128: 144, 256: 168, 512: 182}
"""Bytes between acknowledgements (and between credit updates) of a link of 16 lanes."""


@dataclass(frozen=True)
class Link:
    """A PCI Express link."""

    name: str
    gigatransfers: float
    """A lane and second."""
    lanes: int = 16

    def gbps(self, max_payload: int) -> float:
        """Bandwidth for TLPs in one direction, in Gbit/s."""
        raw = self.gigatransfers * self.lanes * 128 / 130
        interval = _ACK_BYTES[max_payload]
        return raw * (1 - 2 * 8 / interval - 4 / 1538)

    def bytes_per_cycle(self, max_payload: int, clock_mhz: int) -> float:
        """Give the same in bytes a cycle of the card's clock."""
        return self.gbps(max_payload) * 1000 / 8 / clock_mhz


LINKS = {link.name: link for link in (Link("gen3x16", 8.0), Link("gen4x16", 16.0))}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, and with what."""

    direction: Direction
    ring: Ring = "split"
    in_order: bool = False
    frame_bytes: int
    """Without FCS."""
    batch: int = 32
    """Packets a doorbell."""
    link: Link = LINKS["gen3x16"]
    max_payload: int = 256
    max_read: int = 512
    lanes: int = 64
    """Bytes a beat."""
    clock_mhz: int = 250
    line_gbps: float = 100.0


@dataclass(frozen=True)
class Limit:
    """The most packets a second, each way, and what sets it."""

    mpps: float
    by: LimitBy


@dataclass
class _Cost:
    """What a packet costs: bytes on the link, beats on the bus of requests and of completions."""

    down: float = 0.0
    up: float = 0.0
    request_beats: float = 0.0
    answer_beats: float = 0.0

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.down + other.down, self.up + other.up,
                     self.request_beats + other.request_beats,
                     self.answer_beats + other.answer_beats)

    def __mul__(self, share: float) -> _Cost:
        return _Cost(self.down * share, self.up * share, self.request_beats * share,
                     self.answer_beats * share)


def _read(size: int, work: Work) -> _Cost:
    """Read ``size`` bytes: requests up, completions of at most the payload size down."""
    requests = ceil(size / work.max_read)
    whole, rest = divmod(size, work.max_payload)
    return _Cost(
        down=ceil(size / work.max_payload) * _COMPLETION_BYTES + size,
        up=requests * _READ_BYTES, request_beats=requests,
        answer_beats=whole * ceil(work.max_payload / work.lanes) + ceil(rest / work.lanes))


def _write(size: int, work: Work) -> _Cost:
    """Write ``size`` bytes; the header rides beside the first beat."""
    whole, rest = divmod(size, work.max_payload)
    return _Cost(
        up=ceil(size / work.max_payload) * _WRITE_BYTES + size,
        request_beats=whole * ceil(work.max_payload / work.lanes) + ceil(rest / work.lanes))


def _one_way(direction: Literal["tx", "rx"], work: Work) -> _Cost:
    """Give the cost of a packet of one direction."""
    if work.ring == "split":
        # Available index, ring entries, descriptors, the suppression field; used entries and index.
        burst = (_read(2, work) + _read(2 * _BURST, work) + _read(16 * _BURST, work)
                 + _read(2, work) + _write(8 * _BURST, work) + _write(2, work))
    else:
        # In order, one entry tells of many packets sent; a received one has a length to tell.
        used = 16 if work.in_order and direction == "tx" else 16 * _BURST
        burst = _read(16 * _BURST, work) + _read(4, work) + _write(used, work)
    size = work.frame_bytes + NET_HEADER_BYTES
    data = _read(size, work) if direction == "tx" else _write(size, work)
    return _Cost(down=_DOORBELL_BYTES / work.batch) + burst * (1 / _BURST) + data


def limit_of(work: Work) -> Limit:
    """Give the limit of some work: the smallest of line, link and bus."""
    cost = _Cost()
    if work.direction != "rx":
        cost = cost + _one_way("tx", work)
    if work.direction != "tx":
        cost = cost + _one_way("rx", work)
    link = work.link.gbps(work.max_payload) * 1000 / 8  # bytes a microsecond
    beats = max(cost.request_beats, cost.answer_beats, ceil(work.frame_bytes / work.lanes))
    limits: dict[LimitBy, float] = {
        "line": work.line_gbps * 1000 / 8 / (work.frame_bytes + LINE_OVERHEAD_BYTES),
        "pcie_down": link / cost.down,
        "pcie_up": link / cost.up,
        "bus": work.clock_mhz / beats,
    }
    by = min(limits, key=limits.__getitem__)
    return Limit(limits[by], by)
