"""What a card could do at best: the line, the link in both directions, and the bus inside.

The constants of PCI Express follow Neugebauer et al., "Understanding PCIe performance for end host
networking" (SIGCOMM 2018); `sim.native.link` has those of the link. Limits count buffers that begin
at multiples of a cache line, one descriptor a packet, ring bursts of 32 descriptors, and a driver
that polls. What they count for the rings is one read of each kind a burst: a card that looks at the
driver's suppression fields less often, or is told the index, passes them by as much, which is 1 or
2 in a hundred at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from sim.native.link import Link

__all__ = ["LINE_OVERHEAD_BYTES", "LINKS", "NET_HEADER_BYTES", "Cost", "Direction", "Limit", "Ring",
           "Work", "limit_of", "link_of", "read_cost", "write_cost"]

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
LINKS = {"gen3x16": 3, "gen4x16": 4}
"""Links by name: their generation. All have 16 lanes."""


def link_of(name: str, max_payload: int) -> Link:
    """Give the link of a name."""
    return Link(generation=LINKS[name], lanes=16, max_payload=max_payload)


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
    link: str = "gen3x16"
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
class Cost:
    """What something costs: bytes on the link, beats on the bus of requests and of completions."""

    down: float = 0.0
    up: float = 0.0
    request_beats: float = 0.0
    answer_beats: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.down + other.down, self.up + other.up,
                    self.request_beats + other.request_beats,
                    self.answer_beats + other.answer_beats)

    def __mul__(self, share: float) -> Cost:
        return Cost(self.down * share, self.up * share, self.request_beats * share,
                    self.answer_beats * share)


def read_cost(size: int, work: Work) -> Cost:
    """Read ``size`` bytes: requests up, completions of at most the payload size down."""
    requests = ceil(size / work.max_read)
    whole, rest = divmod(size, work.max_payload)
    return Cost(
        down=ceil(size / work.max_payload) * _COMPLETION_BYTES + size,
        up=requests * _READ_BYTES, request_beats=requests,
        answer_beats=whole * ceil(work.max_payload / work.lanes) + ceil(rest / work.lanes))


def write_cost(size: int, work: Work) -> Cost:
    """Write ``size`` bytes; the header rides beside the first beat."""
    whole, rest = divmod(size, work.max_payload)
    return Cost(
        up=ceil(size / work.max_payload) * _WRITE_BYTES + size,
        request_beats=whole * ceil(work.max_payload / work.lanes) + ceil(rest / work.lanes))


def _one_way(direction: Literal["tx", "rx"], work: Work) -> Cost:
    """Give the cost of a packet of one direction."""
    if work.ring == "split":
        # Available index, ring entries, descriptors, the suppression field; used entries and index.
        burst = (read_cost(2, work) + read_cost(2 * _BURST, work) + read_cost(16 * _BURST, work)
                 + read_cost(2, work) + write_cost(8 * _BURST, work) + write_cost(2, work))
    else:
        # In order, one entry tells of many packets sent; a received one has a length to tell.
        used = 16 if work.in_order and direction == "tx" else 16 * _BURST
        burst = read_cost(16 * _BURST, work) + read_cost(4, work) + write_cost(used, work)
    size = work.frame_bytes + NET_HEADER_BYTES
    data = read_cost(size, work) if direction == "tx" else write_cost(size, work)
    return Cost(down=_DOORBELL_BYTES / work.batch) + burst * (1 / _BURST) + data


def limit_of(work: Work) -> Limit:
    """Give the limit of some work: the smallest of line, link and bus."""
    cost = Cost()
    if work.direction != "rx":
        cost = cost + _one_way("tx", work)
    if work.direction != "tx":
        cost = cost + _one_way("rx", work)
    link = link_of(work.link, work.max_payload).gbps * 1000 / 8  # bytes a microsecond
    beats = max(cost.request_beats, cost.answer_beats, ceil(work.frame_bytes / work.lanes))
    limits: dict[LimitBy, float] = {
        "line": work.line_gbps * 1000 / 8 / (work.frame_bytes + LINE_OVERHEAD_BYTES),
        "pcie_down": link / cost.down,
        "pcie_up": link / cost.up,
        "bus": work.clock_mhz / beats,
    }
    by = min(limits, key=limits.__getitem__)
    return Limit(limits[by], by)
