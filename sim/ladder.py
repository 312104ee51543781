"""The ladder picture: a packet's way between host, card and wire, over time, as an SVG drawing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

__all__ = ["ladder"]

_LANES = {"host": 150, "card": 430, "wire": 640}
_WIDTH, _TOP, _LINE = 820, 46, 22
_GAP = 40
"""Cycles: a longer pause is drawn as a break, with its length beside it."""
_COLOURS = {"doorbell": "#b45309", "interrupt": "#be123c", "frame on the wire": "#15803d"}


def ladder(steps: Sequence[dict[str, Any]], *, cycle_ns: float) -> str:
    """Draw steps (cycle, source, target, name, detail) from top to bottom, in the order of time."""
    if not steps:
        return ""
    start = steps[0]["cycle"]
    rows: list[str] = []
    y = _TOP
    before = start
    for step in steps:
        pause = step["cycle"] - before
        if pause > _GAP:
            y += _LINE
            rows.append(
                f'<text x="{_LANES["card"] + 8}" y="{y - 4}" class="pause">'
                f"{pause} cycles, {pause * cycle_ns:.0f} ns</text>")
        y += _LINE
        before = step["cycle"]
        a, b = _LANES[step["source"]], _LANES[step["target"]]
        colour = _COLOURS.get(step["name"], "#1d4ed8" if step["source"] == "card" else "#334155")
        tip = b - 7 if b > a else b + 7
        middle = (a + b) / 2
        rows.append(
            f'<text x="8" y="{y + 4}" class="time">{step["cycle"] - start}</text>'
            f'<line x1="{a}" y1="{y}" x2="{tip}" y2="{y}" stroke="{colour}" stroke-width="1.6"/>'
            f'<path d="M{b} {y} L{tip} {y - 4} L{tip} {y + 4} Z" fill="{colour}"/>'
            f'<text x="{middle}" y="{y - 4}" class="name" fill="{colour}">'
            f'{escape(step["name"])} <tspan class="detail">{escape(step["detail"])}</tspan></text>')
    height = y + 30
    posts = "".join(
        f'<line x1="{x}" y1="34" x2="{x}" y2="{height - 10}" class="post"/>'
        f'<text x="{x}" y="24" class="lane">{lane}</text>' for lane, x in _LANES.items())
    return (f'<svg class="ladder" viewBox="0 0 {_WIDTH} {height}" role="img" '
            f'aria-label="ladder of a packet">'
            f'<text x="8" y="24" class="time">cycle</text>{posts}{"".join(rows)}</svg>')
