"""Read a mapped netlist: how many cells of each kind, and how many LUTs stand in series.

The netlist is what Yosys writes as JSON after mapping to an UltraScale+ part. *Levels* are LUTs in
series between two registers (or memories, or ports):

========================== ==================================================================
cell                       in a path
========================== ==================================================================
LUT1 to LUT6, INV          one level
RAM of LUTs, when read     one level from its address; a path may start in it
SRL, when read             the same
MUXF7, MUXF8, MUXF9        no level: they stand beside the LUT in its slice
CARRY4, CARRY8             no level, but counted apart: one *hop* for each chain a path enters,
                           however long the chain
DSP without output register four levels: the path runs through multiplier and adder
flip-flop, block RAM, DSP  ends a path, and starts one
========================== ==================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LogicPath", "Netlist", "Resources"]

# Cells that are LUTs used as memory, and how many LUTs each takes.
_LUTRAM = {
    "RAM16X1S": 1, "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8,
    "RAM16X1D": 2, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8,
    "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8,
    "SRL16E": 1, "SRLC16E": 1, "SRLC32E": 1,
}
_LUTS = {"LUT1", "LUT2", "LUT3", "LUT4", "LUT5", "LUT6", "INV"}
_WIDE = {"MUXF7", "MUXF8", "MUXF9"}
_CARRY = {"CARRY4", "CARRY8"}
_FLIP_FLOPS = {"FDRE", "FDSE", "FDCE", "FDPE", "LDCE", "LDPE"}
_BUFFERS = {"BUFG", "BUFGCE", "IBUF", "OBUF"}
_SIMPLE = _LUTS | _WIDE | _CARRY | _FLIP_FLOPS | _BUFFERS
_DSP_LEVELS = 4


@dataclass
class Resources:
    """What a design takes of an FPGA."""

    lut: int = 0
    lutram: int = 0
    ff: int = 0
    bram36: float = 0
    dsp: int = 0
    uram: int = 0
    carry: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(**{name: value + getattr(other, name)
                            for name, value in vars(self).items()})


@dataclass
class LogicPath:
    """The longest path into one register."""

    levels: int
    carry_hops: int
    start: str
    end: str
    through: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Arc:
    """One step of a path: from a bit, at a price."""

    source: int
    levels: int
    hops: int


class Netlist:
    """A flattened module of a JSON netlist."""

    def __init__(self, module: dict[str, Any]) -> None:
        self._cells = {name: cell for name, cell in module["cells"].items()
                       if cell["type"] != "$scopeinfo"}  # says where a flattened part came from
        self._ports: dict[str, Any] = module["ports"]
        self._names = _names(module["netnames"])
        self._arcs: dict[int, list[_Arc]] = {}
        self._starts: dict[int, str] = {}
        self._ends: list[tuple[int, str]] = []
        for name, cell in self._cells.items():
            self._read(name, cell)
        for name, port in self._ports.items():
            for index, bit in enumerate(port["bits"]):
                if not isinstance(bit, int):
                    continue
                if port["direction"] == "output":
                    self._ends.append((bit, f"port {name}[{index}]"))
                else:
                    self._starts[bit] = f"port {name}[{index}]"

    def resources(self) -> Resources:
        """Count the cells."""
        total = Resources()
        for cell in self._cells.values():
            kind = cell["type"]
            total.lut += kind in _LUTS
            total.lutram += _LUTRAM.get(kind, 0)
            total.ff += kind in _FLIP_FLOPS
            total.bram36 += (kind.startswith(("RAMB36", "FIFO36"))
                             + kind.startswith(("RAMB18", "FIFO18")) / 2)
            total.dsp += kind.startswith("DSP48")
            total.uram += kind.startswith("URAM288")
            total.carry += kind in _CARRY
        return total

    def unknown_cells(self, boxes: Collection[str] = ()) -> dict[str, int]:
        """Count cells of which this file does not know what they are, and that are no ``boxes``.

        A box, into which nobody looks, ends paths and starts them.
        """
        counts: dict[str, int] = defaultdict(int)
        for cell in self._cells.values():
            kind = cell["type"]
            known = (kind in boxes or kind in _SIMPLE or kind in _LUTRAM
                     or kind.startswith(("RAMB", "FIFO", "DSP48", "URAM288")))
            if not known:
                counts[kind] += 1
        return dict(counts)

    def longest_paths(self, most: int = 10) -> list[LogicPath]:
        """Give the longest path into each register, the longest first, ``most`` of them."""
        arrival = self._arrivals()
        worst: dict[str, tuple[int, int, int, str]] = {}
        for bit, end in self._ends:
            levels, hops = arrival.get(bit, (0, 0, None))[:2]
            register = end.partition("[")[0]
            if register not in worst or worst[register][:2] < (levels, hops):
                worst[register] = (levels, hops, bit, end)
        order = sorted(worst.values(), key=lambda one: (-one[0], -one[1], one[3]))
        paths = []
        for levels, hops, bit, end in order[:most]:
            through = list(self._walk_back(bit, arrival))
            paths.append(LogicPath(levels, hops, self._start(through[-1]), end,
                              [self._name(one) for one in reversed(through[:-1])]))
        return paths

    def _walk_back(self, bit: int, arrival: dict[int, Any]) -> Iterator[int]:
        at: int | None = bit
        while at is not None:
            yield at
            at = arrival.get(at, (0, 0, None))[2]

    def _start(self, bit: int) -> str:
        return self._starts.get(bit, self._name(bit))

    def _name(self, bit: int) -> str:
        return self._names.get(bit, f"net {bit}")

    def _read(self, name: str, cell: dict[str, Any]) -> None:
        """Sort the pins of a cell into arcs, starts and ends of paths."""
        kind: str = cell["type"]
        pins: dict[str, list[Any]] = cell["connections"]
        way: dict[str, str] = cell["port_directions"]
        inputs = {pin: bits for pin, bits in pins.items() if way[pin] == "input"}
        outputs = {pin: bits for pin, bits in pins.items() if way[pin] == "output"}
        if kind in _LUTS or kind in _WIDE or kind in _BUFFERS:
            self._through(inputs, outputs, int(kind in _LUTS))
        elif kind in _CARRY:
            self._read_carry(pins)
        elif kind in _LUTRAM:
            clocked = {pin: bits for pin, bits in inputs.items() if not _is_address(pin)}
            self._through({pin: bits for pin, bits in inputs.items() if pin not in clocked},
                          outputs, 1)
            for bit in _bits(outputs):
                self._starts.setdefault(bit, f"memory {name}")
            self._end_all(name, clocked)
        elif kind.startswith("DSP48") and not int(cell["parameters"].get("PREG", "1"), 2):
            self._through(inputs, outputs, _DSP_LEVELS)
        else:
            for bit in _bits(outputs):
                self._starts[bit] = self._name(bit) if kind in _FLIP_FLOPS else f"{kind} {name}"
            own = next(iter(_bits(outputs)), None) if kind in _FLIP_FLOPS else None
            self._end_all(self._names.get(own, name) if own is not None else name, inputs)

    def _through(self, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]],
                 levels: int) -> None:
        arcs = [_Arc(bit, levels, 0) for bit in _bits(inputs)]
        for bit in _bits(outputs):
            self._arcs[bit] = arcs

    def _read_carry(self, pins: dict[str, list[Any]]) -> None:
        """Take a carry cell bit by bit: output n depends on the inputs up to n alone."""
        arcs = [_Arc(bit, 0, 0) for bit in _bits({"CI": pins.get("CI", [])})]
        arcs += [_Arc(bit, 0, 1) for pin in ("CYINIT", "CI_TOP") for bit in _bits(
            {pin: pins.get(pin, [])})]
        for index in range(len(pins.get("S", []))):
            own = [_Arc(bit, 0, 1) for bit in _bits({"S": [pins["S"][index]]})]
            for bit in _bits({"O": pins.get("O", [])[index:index + 1]}):
                self._arcs[bit] = arcs + own
            data = [_Arc(bit, 0, 1) for bit in _bits({"DI": pins.get("DI", [])[index:index + 1]})]
            carries = _bits({"CO": pins.get("CO", [])[index:index + 1]})
            for bit in carries:
                self._arcs[bit] = arcs + own + data
            arcs = arcs + own + data

    def _end_all(self, name: str, inputs: dict[str, list[Any]]) -> None:
        for pin, bits in inputs.items():
            if pin in ("C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"):
                continue
            for bit in _bits({pin: bits}):
                self._ends.append((bit, name if pin == "D" else f"{name} ({pin})"))

    def _arrivals(self) -> dict[int, tuple[int, int, int | None]]:
        """Give each bit its levels, its hops and the bit before it on its longest path."""
        done: dict[int, tuple[int, int, int | None]] = {}
        on_the_way: set[int] = set()
        for first in self._arcs:
            stack = [first]
            while stack:
                bit = stack[-1]
                if bit in done:
                    stack.pop()
                    continue
                arcs = self._arcs.get(bit, [])
                ahead = [arc.source for arc in arcs if arc.source in self._arcs
                         and arc.source not in done]
                if ahead and bit in on_the_way and any(one in on_the_way for one in ahead):
                    raise ValueError(f"a combinational loop runs through {self._name(bit)}")
                on_the_way.add(bit)
                if ahead:
                    stack += ahead
                    continue
                best: tuple[int, int, int | None] = (0, 0, None)
                if arcs and bit not in self._starts:
                    best = (-1, 0, None)
                for arc in arcs:
                    levels, hops, _ = done.get(arc.source, (0, 0, None))
                    if (levels + arc.levels, hops + arc.hops) > best[:2]:
                        best = (levels + arc.levels, hops + arc.hops, arc.source)
                if best[0] < 0:
                    best = (0, 0, None)
                done[bit] = best
                on_the_way.discard(bit)
                stack.pop()
        return done


def _is_address(pin: str) -> bool:
    return pin.startswith(("ADDR", "DPRA")) or (pin[0] == "A" and pin[1:].isdigit()) or pin == "A"


def _bits(pins: dict[str, list[Any]]) -> Iterator[int]:
    """Give the bits of some pins, without the constants."""
    for bits in pins.values():
        for bit in bits:
            if isinstance(bit, int):
                yield bit


def _names(nets: dict[str, Any]) -> dict[int, str]:
    """Name each bit by the name that its designer gave, the shortest if there are several."""
    best: dict[int, tuple[tuple[int, int, str], str]] = {}
    for name, net in nets.items():
        rank = (int(net["hide_name"]), len(name), name)
        for index, bit in enumerate(net["bits"]):
            if isinstance(bit, int) and (bit not in best or rank < best[bit][0]):
                best[bit] = (rank, name if len(net["bits"]) == 1 else f"{name}[{index}]")
    return {bit: name for bit, (_rank, name) in best.items()}
