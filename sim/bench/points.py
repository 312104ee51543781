"""Which points the benchmark measures: a star around one centre, a part of it, or everything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from hw.config import NicConfig
from sim.bench.limits import LINKS, Direction, Limit, Ring, Work, limit_of

__all__ = ["FRAME_BYTES", "POINTS_MAX", "SCALES", "Abilities", "Point", "Scale", "points"]

Scale = Literal["star", "quick", "full"]
SCALES: tuple[Scale, ...] = ("star", "quick", "full")

FRAME_BYTES = (60, 124, 252, 508, 1020, 1514, 9014)
POINTS_MAX = 300
"""Most points of the star."""
_CENTRE_BYTES = (60, 1514)
_QUICK_BYTES = (60, 252, 1514)
_DIRECTIONS: tuple[Direction, ...] = ("tx", "rx", "duplex")
_BATCHES = (1, 8, 32)
_QUEUES = (1, 4, 16)
_ROUND_TRIPS_NS = (500, 1000)
_LINKS = tuple(LINKS)
_ALIGNMENTS = (0, 2)
_MANY_QUEUES = 16


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement. The defaults are the centre."""

    direction: Direction
    ring: Ring
    frame_bytes: int
    """Without FCS."""
    batch: int = 32
    """Packets a doorbell."""
    queues: int = 1
    """Pairs of queues a function."""
    functions: int = 1
    """Functions with traffic."""
    link: str = "gen3x16"
    rtt_ns: int = 1000
    """From a read's departure to its first completion, on an idle link."""
    align: int = 0
    """Where buffers begin, beyond a multiple of 64."""
    in_order: bool = False

    def __str__(self) -> str:
        return (f"{self.direction} {self.frame_bytes} B, {self.ring}"
                f"{' in order' if self.in_order else ''}, batch {self.batch}, "
                f"{self.functions} x {self.queues} queues, {self.link}, {self.rtt_ns} ns, "
                f"buffers at {self.align}")

    def limit(self, config: NicConfig) -> Limit:
        """Give the most that is physically possible here."""
        return limit_of(Work(
            direction=self.direction, ring=self.ring, in_order=self.in_order,
            frame_bytes=self.frame_bytes, batch=self.batch, link=self.link,
            max_payload=config.max_payload_bytes, max_read=config.max_read_bytes,
            lanes=config.lanes, clock_mhz=config.clock_mhz, line_gbps=config.link_mbps / 1000))

    @property
    def key(self) -> tuple[tuple[str, Any], ...]:
        """What tells this point from others."""
        return tuple(sorted(asdict(self).items()))


@dataclass(frozen=True)
class Abilities:
    """What the card can do so far: the axes end there."""

    rings: tuple[Ring, ...]
    queues: int
    """Pairs a function that a driver can use."""
    in_order: bool
    max_frame_bytes: int
    notification_data: bool = False


def _unique(found: Iterable[Point], can: Abilities) -> list[Point]:
    """Leave out what the card cannot do, and what is there twice; keep the order."""
    return list(dict.fromkeys(
        point for point in found
        if point.ring in can.rings and point.queues <= can.queues
        and point.frame_bytes <= can.max_frame_bytes and (can.in_order or not point.in_order)))


def _star(rings: Sequence[Ring]) -> Iterable[Point]:
    for size, direction, ring in product(FRAME_BYTES, _DIRECTIONS, rings):
        yield Point(direction=direction, ring=ring, frame_bytes=size)
        yield Point(direction=direction, ring=ring, frame_bytes=size, in_order=True)
    for size, direction, ring in product(_CENTRE_BYTES, _DIRECTIONS, rings):
        centre = Point(direction=direction, ring=ring, frame_bytes=size)
        for batch in _BATCHES:
            yield replace(centre, batch=batch)
        for queues in _QUEUES:
            yield replace(centre, queues=queues)
        for rtt_ns in _ROUND_TRIPS_NS:
            yield replace(centre, rtt_ns=rtt_ns)
        for link in _LINKS:
            yield replace(centre, link=link)
        for align in _ALIGNMENTS:
            yield replace(centre, align=align)
    for size, ring in product(FRAME_BYTES, rings):
        yield Point(direction="duplex", ring=ring, frame_bytes=size, queues=_MANY_QUEUES)


def _product(rings: Sequence[Ring]) -> Iterable[Point]:
    for values in product(_DIRECTIONS, rings, FRAME_BYTES, _BATCHES, _QUEUES, _LINKS,
                          _ROUND_TRIPS_NS, _ALIGNMENTS, (False, True)):
        direction, ring, size, batch, queues, link, rtt_ns, align, in_order = values
        yield Point(direction=direction, ring=ring, frame_bytes=size, batch=batch, queues=queues,
                    link=link, rtt_ns=rtt_ns, align=align, in_order=in_order)


def points(can: Abilities, scale: Scale = "star") -> list[Point]:
    """Give the points of a scale, in the order in which they are measured.

    ``star``: every frame length, direction and ring at the centre; from there one axis at a time
    for the shortest and the longest standard frame; duplex on 16 queues at every length.
    ``quick``: three lengths at the centre. ``full``: the whole product.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    if scale == "full":
        return _unique(_product(can.rings), can)
    found = _unique(_star(can.rings), can)
    if scale == "quick":
        centre = Point(direction="tx", ring="split", frame_bytes=60)
        return [point for point in found if point.frame_bytes in _QUICK_BYTES
                and replace(point, direction="tx", ring="split", frame_bytes=60) == centre]
    if len(found) > POINTS_MAX:
        raise AssertionError(f"the star has {len(found)} points, more than {POINTS_MAX}")
    return found
