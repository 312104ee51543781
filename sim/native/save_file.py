"""A save file for a wave viewer: the streams of each room of the card, in groups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hw.verilog import write_if_changed

__all__ = ["write_save_file"]

_CARD = ("card", "engine_top", "card")  # scopes around the rooms
_SCOPE = re.compile(r"\$scope module (\S+) \$end")
_SIGNAL = re.compile(r"\$var wire (\d+) \S+ (\S+)(?: (\[\S+\]))? \$end")
_STREAM = re.compile(r"\w+__(valid|ready|payload)")
# GTKWave's flags: hexadecimal; and the lines that begin and end a closed group.
_HEX, _BEGIN, _END = "@22", "@c00200", "@1401200"


def _streams(vcd: Path) -> Iterator[tuple[str, str]]:
    """Give room and signal of each stream between rooms, as the head of the file lists them."""
    scopes: list[str] = []
    with vcd.open(encoding="ascii", errors="replace") as file:
        for line in file:
            if "$enddefinitions" in line:
                return
            if found := _SCOPE.search(line):
                scopes.append(found[1])
            elif "$upscope" in line:
                scopes.pop()
            elif (found := _SIGNAL.search(line)) and _STREAM.fullmatch(found[2]):
                inside = tuple(scopes[:len(_CARD)]) == _CARD
                if inside and len(scopes) == len(_CARD) + 1:
                    yield scopes[-1], ".".join([*scopes, found[2]]) + (found[3] or "")


def write_save_file(vcd: Path) -> Path:
    """Write ``NAME.gtkw`` beside a VCD file of a card; give its path.

    GTKWave opens it with ``gtkwave NAME.gtkw``: a group for each room, closed, with its streams.
    """
    rooms: dict[str, list[str]] = {}
    for room, signal in _streams(vcd):
        rooms.setdefault(room, []).append(signal)
    lines = [f'[dumpfile] "{vcd.name}"', "[sst_expanded] 1", "@22", "card.clk"]
    for room in sorted(rooms):
        lines += [_BEGIN, f"-{room}", _HEX, *rooms[room], _END, f"-{room}"]
    path = vcd.with_suffix(".gtkw")
    write_if_changed(path, "\n".join(lines) + "\n")
    return path
