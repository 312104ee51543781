"""docs/performance.md: today's card, made from the benchmark's results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.bench.points import Point

__all__ = ["GOOD_ETA", "REASONS", "Reason", "performance_page", "unexplained"]

Row = Mapping[str, Any]

GOOD_ETA = 0.9
"""Below this, a point wants a reason."""

_DEFAULTS = Point(direction="tx", ring="split", frame_bytes=60)
_AXES = ("batch", "queues", "functions", "link", "rtt_ns", "align", "in_order")
_LIMITS = {"line": "the line", "pcie_down": "the link, to the card",
           "pcie_up": "the link, to the host", "bus": "the card's bus"}


@dataclass(frozen=True)
class Reason:
    """What holds the card below `GOOD_ETA`, and where."""

    where: Callable[[Row], bool]
    words: str


REASONS: tuple[Reason, ...] = (
    Reason(lambda row: (row["direction"], row["ring"], row["queues"]) == ("tx", "packed", 4),
           "Packed rings of four queues: the completion bus is full, also of places of the rings "
           "that were read before anything was available there."),
    Reason(lambda row: (row["direction"], row["ring"], row["batch"]) == ("tx", "packed", 1),
           "A packet a doorbell in a packed ring: when a look finds less than it asks for, those "
           "on their way behind it are in vain, and only half as many may follow."),
)
"""What holds the card, as was found by its counters (``rq_beats`` and others of the engine)."""


def unexplained(results: Mapping[str, Any]) -> list[Row]:
    """List the points below `GOOD_ETA` that no reason covers."""
    return [row for row in results["points"]
            if row["eta"] < GOOD_ETA and not any(reason.where(row) for reason in REASONS)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _off_centre(row: Row) -> str:
    """Say in what a row differs from the centre; empty at the centre."""
    found = []
    for name in _AXES:
        if row[name] != getattr(_DEFAULTS, name):
            found.append("in order" if name == "in_order" else
                         f"{name.removesuffix('_ns')} {row[name]}{' ns' * name.endswith('_ns')}")
    return ", ".join(found)


def _figures(row: Row) -> list[str]:
    return [f"{row['cycles_per_packet']:.2f}", f"{row['mpps']:.1f}", f"{row['gbps']:.1f}",
            f"{row['limit_mpps']:.1f}, {_LIMITS[row['limit_by']]}", f"{row['eta']:.2f}"]


_FIGURES = ("cycles a packet", "Mpps", "Gb/s", "limit, Mpps", "eta")


def performance_page(results: Mapping[str, Any]) -> str:
    """Write docs/performance.md."""
    config = results["config"]
    points = results["points"]
    centre = _table(("direction", "frame", "ring", *_FIGURES), (
        (row["direction"], f"{row['frame_bytes']} B", row["ring"], *_figures(row))
        for row in points if not _off_centre(row)))
    around = _table(("direction", "frame", "ring", "differs in", *_FIGURES), (
        (row["direction"], f"{row['frame_bytes']} B", row["ring"], _off_centre(row),
         *_figures(row)) for row in points if _off_centre(row)))
    latency = _table(("path", "ring", "frame", "round trip", "dependent reads", "cycles", "floor",
                      "added by the card"), (
        (row["path"].replace("_", " "),
         row["ring"] + (", notification data" if row["notification_data"] else ""),
         f"{row['frame_bytes']} B", f"{row['rtt_ns']} ns", str(row["reads"]), str(row["cycles"]),
         str(row["floor_cycles"]), str(row["added_cycles"])) for row in results["latency"]))
    below = [row for row in points if row["eta"] < GOOD_ETA]
    reasons = [f"- {reason.words}" for reason in REASONS if any(map(reason.where, below))]
    reasons += [f"- Not looked into yet: {row['direction']} of {row['frame_bytes']} B"
                f"{', ' + _off_centre(row) if _off_centre(row) else ''} (eta {row['eta']:.2f})."
                for row in unexplained(results)]
    return f"""\
# How fast the card is

Made from `build/bench/results.json` of `make bench` by `make docs`. Cycles and shares are the same
on every machine.

Card `{config["preset"]}`: {config["data_bits"]} bits at {config["clock_mhz"]} MHz. The centre is a
Gen3 x16 link with payloads of {config["max_payload_bytes"]} and reads of
{config["max_read_bytes"]} bytes, reads answered after 1 µs, one queue pair, 32 packets a doorbell,
buffers at multiples of 64, and a line of {config["link_mbps"] // 1000} Gb/s. Each figure stands
beside what is physically possible for the same work, and `eta` is the share of it that is reached.

![Share of the limit over the length of frames](img/eta.png)

## At the centre

{centre}

## One step from it

{around}

## Latency

Of one frame through the idle card. The floor is the reads that depend on one another, times the
round trip.

{latency}

Where the card's bus or the link is the limit a share may lie above 1: the limit counts a doorbell a
batch, and a look at the driver's flags for every 32 descriptors; while it is busy the card asks for
no doorbells, and looks at the flags once a round trip.

## What holds it

{chr(10).join(reasons) or f"Nothing is below {GOOD_ETA}."}
"""
