"""The benchmark's pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.bench.page import GOOD_ETA
from sim.bench.points import Point

__all__ = ["cycles_picture", "eta_picture", "latency_picture", "to_png", "to_svg"]

_COLOURS = {"tx": "#1d4ed8", "rx": "#15803d", "duplex": "#b45309"}
_NAMES = {"tx": "transmit", "rx": "receive", "duplex": "both at once"}
_DASHES = {"split": "-", "packed": "--"}
_INK, _SOFT, _GRID = "#0f172a", "#64748b", "#e2e8f0"
_PATHS = {"doorbell_to_wire": "doorbell to wire", "wire_to_used": "wire to used ring",
          "used_to_interrupt": "used ring to interrupt"}


def _figure(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold")
    axes.set_xlabel(across, color=_SOFT)
    axes.set_ylabel(up, color=_SOFT)
    axes.tick_params(colors=_SOFT)
    axes.grid(visible=True, color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GRID)
    return figure, axes


def _at_centre(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Give the rows that differ from the centre in length alone, by direction and ring."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        centre = Point(direction=row["direction"], ring=row["ring"], frame_bytes=row["frame_bytes"])
        if all(row[name] == getattr(centre, name) for name in (
                "batch", "queues", "functions", "link", "rtt_ns", "align", "in_order")):
            found.setdefault((row["direction"], row["ring"]), []).append(row)
    return {key: sorted(each, key=lambda row: int(row["frame_bytes"]))
            for key, each in found.items()}


def _sizes(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    sizes = sorted({row["frame_bytes"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()


def eta_picture(results: Mapping[str, Any]) -> Figure:
    """Draw what share of the limit is reached, over the length of frames."""
    figure, axes = _figure("Share of what is physically possible", "frame, bytes", "eta")
    for (direction, ring), rows in _at_centre(results["points"]).items():
        axes.plot([row["frame_bytes"] for row in rows], [row["eta"] for row in rows],
                  _DASHES[ring], marker="o", color=_COLOURS[direction],
                  label=f"{_NAMES[direction]}, {ring}")
    axes.axhline(1.0, color=_INK, linewidth=1)
    axes.axhline(GOOD_ETA, color=_SOFT, linewidth=1, linestyle=":")
    axes.set_ylim(0, 1.08)
    _sizes(axes, results["points"])
    axes.legend(frameon=False, labelcolor=_INK, loc="lower right")
    return figure


def cycles_picture(results: Mapping[str, Any]) -> Figure:
    """Draw cycles a packet over the length of frames, and the limit as a thin line."""
    figure, axes = _figure("Cycles a packet (thin: the limit)", "frame, bytes", "cycles")
    clock = results["config"]["clock_mhz"]
    for (direction, ring), rows in _at_centre(results["points"]).items():
        sizes = [row["frame_bytes"] for row in rows]
        axes.plot(sizes, [row["cycles_per_packet"] for row in rows], _DASHES[ring], marker="o",
                  color=_COLOURS[direction], label=f"{_NAMES[direction]}, {ring}")
        axes.plot(sizes, [clock / row["limit_mpps"] for row in rows], _DASHES[ring],
                  color=_COLOURS[direction], linewidth=0.8)
    axes.set_yscale("log")
    ticks = [2, 3, 5, 10, 20, 50, 100, 200]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    _sizes(axes, results["points"])
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left")
    return figure


def latency_picture(results: Mapping[str, Any]) -> Figure:
    """Draw each latency as a bar: what the host takes, and what the card adds."""
    figure, axes = _figure("Latency", "cycles", "")
    rows = list(reversed(results["latency"]))
    names = [f"{_PATHS[row['path']]}\n{row['frame_bytes']} B, {row['rtt_ns']} ns" for row in rows]
    places = range(len(rows))
    axes.barh(places, [row["floor_cycles"] for row in rows], color="#cbd5e1",
              label="reads of the host")
    bars = axes.barh(places, [row["added_cycles"] for row in rows], color=_COLOURS["tx"],
                     left=[row["floor_cycles"] for row in rows], label="added by the card")
    axes.bar_label(bars, [f" {row['added_cycles']}" for row in rows], color=_COLOURS["tx"])
    axes.set_yticks(places, names)
    axes.margins(x=0.08)
    axes.legend(frameon=False, labelcolor=_INK, loc="lower right")
    return figure


_STYLE: Any = {"svg.hashsalt": "ringlet", "svg.fonttype": "path",
                          "font.family": "DejaVu Sans", "font.size": 9.5}


def to_svg(figure: Figure) -> str:
    """Give the picture as an SVG element, the same for the same figures."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg"):]


def to_png(figure: Figure) -> bytes:
    """Give the picture as a PNG file, the same for the same figures."""
    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()
