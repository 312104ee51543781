"""What the benchmark leaves, and what changed since an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hw.config import NicConfig
from sim.bench.points import Point

__all__ = ["Change", "Measured", "compare", "point_row", "read_results"]

_LATENCY_KEY = ("path", "ring", "notification_data", "frame_bytes", "rtt_ns")


@dataclass(frozen=True)
class Measured:
    """A point's figures, of the slower direction where there are two."""

    packets: int
    """Packets of the steady state, of that direction."""
    cycles: int
    """Cycles from the first of them to the last."""

    @property
    def cycles_per_packet(self) -> float:
        """Cycles from one packet to the next."""
        return self.cycles / self.packets


def point_row(point: Point, measured: Measured, config: NicConfig) -> dict[str, Any]:
    """Give the row of a point in ``results.json``: what was measured beside its limit."""
    mpps = config.clock_mhz / measured.cycles_per_packet
    limit = point.limit(config)
    return {
        **asdict(point),
        "packets": measured.packets, "cycles": measured.cycles,
        "cycles_per_packet": round(measured.cycles_per_packet, 4), "mpps": round(mpps, 4),
        "gbps": round(mpps * point.frame_bytes * 8 / 1000, 4),
        "limit_mpps": round(limit.mpps, 4), "limit_by": limit.by,
        "eta": round(mpps / limit.mpps, 4),
    }


def read_results(path: Path) -> dict[str, Any]:
    """Read an earlier ``results.json``; `ValueError` says in one line what is wrong with it."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, must be the results.json of an earlier "
                         f"run") from None
    except ValueError:
        raise ValueError(f"{path}: no JSON, must be the results.json of an earlier run") from None
    if not isinstance(found, dict) or not {"points", "latency"} <= found.keys():
        raise ValueError(f"{path}: no points and latency in it, must be the results.json of an "
                         f"earlier run")
    return found


@dataclass(frozen=True)
class Change:
    """A figure that is in both runs."""

    what: str
    before: float
    after: float
    worse: float
    """By what share it is worse now; negative: better."""


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Give what is in both results: cycles a packet of each point, cycles of each latency."""
    names = [each.name for each in fields(Point)]

    def by_key(rows: Sequence[Mapping[str, Any]], key: Sequence[str],
               ) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        return {tuple(row.get(name) for name in key): row for row in rows}

    changes = []
    old = by_key(before["points"], names)
    for key, row in by_key(after["points"], names).items():
        if key in old:
            was, now = old[key]["cycles_per_packet"], row["cycles_per_packet"]
            point = Point(**dict(zip(names, key, strict=True)))
            changes.append(Change(f"{point}: cycles a packet", was, now, now / was - 1))
    old = by_key(before["latency"], _LATENCY_KEY)
    for key, row in by_key(after["latency"], _LATENCY_KEY).items():
        if key in old:
            was, now = old[key]["cycles"], row["cycles"]
            changes.append(Change(
                f"{row['path']}, {row['ring']}{', told the index' * row['notification_data']}, "
                f"{row['frame_bytes']} B, {row['rtt_ns']} ns: cycles", was, now, now / was - 1))
    return changes
