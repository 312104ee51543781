"""Rewrite the card's Verilog so that Verilator makes less code of it. Its behaviour is the same.

For the engine alone: what is synthesised, hashed or given to others is the text as it was.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

__all__ = ["TIGHTENED", "tighten"]

TIGHTENED = "1"
"""Counts up when the text made here from the same Verilog changes: part of the name of a build."""

# As Yosys writes names, one line to each declaration and statement.
_NAME = r"(?:\\\S+ |[A-Za-z_]\w*)"
_WORD = re.compile(_NAME)
_MODULE = re.compile(r"^module .*?^endmodule$", re.MULTILINE | re.DOTALL)
_NEXT = re.compile(rf"^  always @\* begin\n    if \({_NAME}\) begin end\n"
                   rf"    ({_NAME}) = ({_NAME});\n(.*?)^  end\n", re.MULTILINE | re.DOTALL)
_EDGE = re.compile(rf"^  always @\(posedge clk\)\n    ({_NAME}) <= ({_NAME});\n", re.MULTILINE)

_LANE = r"^ *if \({en}\[\d+\]\)\n *{memory}\[{address}\] ?\[\d+:\d+\] <= {data}\[\d+:\d+\];\n"
_LANES = re.compile(
    _LANE.format(en=rf"(?P<en>{_NAME})", memory=rf"(?P<memory>{_NAME})",
                 address=rf"(?P<address>{_NAME}(?:\[\d+\])?)", data=rf"(?P<data>{_NAME})")
    + "(?:" + _LANE.format(en="(?P=en)", memory="(?P=memory)", address="(?P=address)",
                           data="(?P=data)") + ")+", re.MULTILINE)
_BITS = re.compile(r"if \(.*\[(\d+)\]\)\n.*\[(\d+):(\d+)\] <= .*\[(\d+):(\d+)\];")


def _held_by_edges(module: re.Match[str]) -> str:
    """Let a register keep its value by not being written.

    Amaranth works out the next value always, from the old one where nothing happens, and the edge
    takes it. Where nothing else reads the next value the process itself can be the edge's.
    """
    text = module[0]
    taken_by = {found[2].strip(): found[1].strip() for found in _EDGE.finditer(text)}
    words = Counter(found.strip() for found in _WORD.findall(text))
    gone = set()

    def clock(process: re.Match[str]) -> str:
        upcoming, register, body = process[1].strip(), process[2].strip(), process[3]
        target = re.compile(rf"^( *){re.escape(upcoming)} ?((?:\[[\d:]+\] )?) ?= ", re.MULTILINE)
        inside = sum(found.strip() == upcoming for found in _WORD.findall(body))
        # Beside the body: the declaration, the value from the start, and the edge.
        alone = inside == len(target.findall(body)) == words[upcoming] - 3
        if not inside or not alone or taken_by.get(upcoming) != register:
            return process[0]
        gone.add(upcoming)
        body = target.sub(lambda found: f"{found[1]}{register} {found[2]}<= ", body)
        return f"  always @(posedge clk) begin\n{body}  end\n"

    text = _NEXT.sub(clock, text)
    return _EDGE.sub(lambda found: "" if found[2].strip() in gone else found[0], text)


def _written_whole(text: str) -> str:
    """Write a memory's lanes as one word: each alone costs as much as the whole.

    Only where nothing else writes that memory, which could be to the same word.
    """
    def join(found: re.Match[str]) -> str:
        enable, memory = found["en"], found["memory"]
        address, data = found["address"], found["data"]
        lanes = sorted((tuple(map(int, lane)) for lane in _BITS.findall(found[0])),
                       key=lambda lane: -lane[1])
        whole = (lanes[-1][2] == 0
                 and all(high == from_high and low == from_low
                         for _, high, low, from_high, from_low in lanes)
                 and all(upper[2] == lower[1] + 1
                         for upper, lower in pairwise(lanes)))
        writes = re.findall(rf"^ *{re.escape(memory)}\[.*<=", text, re.MULTILINE)
        if not whole or len(writes) != len(lanes):
            return found[0]
        mask = ", ".join(f"{{{high - low + 1}{{{enable}[{bit}]}}}}"
                         for bit, high, low, _, _ in lanes)
        return (f"    if ({enable}!= 0)\n      {memory}[{address}] <= "
                f"({memory}[{address}] & ~{{{mask}}}) | ({data}[{lanes[0][1]}:0] & {{{mask}}});\n")

    return _LANES.sub(join, text)


def tighten(text: str) -> str:
    """Give Verilog of `to_verilog` in fewer and cheaper processes."""
    return _MODULE.sub(lambda found: _written_whole(_held_by_edges(found)), text)
