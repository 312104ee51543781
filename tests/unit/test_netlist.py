"""Levels and resources, on netlists small enough to count by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sim.netlist import Netlist, Resources


class _Drawing:
    """A netlist drawn cell by cell; nets are numbers, names are given to those that have one."""

    def __init__(self, **named: int) -> None:
        self.module: dict[str, Any] = {"cells": {}, "ports": {}, "netnames": {
            name: {"hide_name": 0, "bits": [bit]} for name, bit in named.items()}}

    def cell(self, kind: str, *, parameters: dict[str, str] | None = None, **pins: Any) -> None:
        outputs = ("O", "Q", "CO", "DOA", "DOUTBDOUT", "P")
        self.module["cells"][f"{kind}_{len(self.module['cells'])}"] = {
            "type": kind, "parameters": parameters or {},
            "port_directions": {pin: "output" if pin in outputs else "input" for pin in pins},
            "connections": {pin: bits if isinstance(bits, list) else [bits]
                            for pin, bits in pins.items()}}

    def flip_flop(self, d: int, q: int) -> None:
        self.cell("FDRE", C=1, CE="1", D=d, R="0", Q=q)

    def longest(self) -> tuple[int, int, str, str]:
        path = Netlist(self.module).longest_paths(1)[0]
        return path.levels, path.carry_hops, path.start, path.end


def test_luts_in_series() -> None:
    d = _Drawing(early=10, late=13)
    d.flip_flop(99, 10)
    d.cell("LUT2", I0=10, I1=10, O=11)
    d.cell("INV", I=11, O=12)
    d.cell("MUXF7", I0=12, I1=11, S=10, O=14)
    d.flip_flop(14, 13)
    assert d.longest() == (2, 0, "early", "late")


def test_a_carry_chain_is_one_hop_however_long() -> None:
    d = _Drawing(a=10, total=50)
    d.flip_flop(99, 10)
    d.cell("LUT2", I0=10, I1=10, O=11)
    d.cell("CARRY4", CI="0", CYINIT="0", S=[11, "0", "0", "0"], DI=[10, "0", "0", "0"],
           O=[20, 21, 22, 23], CO=[24, 25, 26, 27])
    d.cell("CARRY4", CI=27, CYINIT="0", S=["0"] * 4, DI=["0"] * 4, O=[30, 31, 32, 33],
           CO=[34, 35, 36, 37])
    d.cell("LUT1", I0=33, O=40)
    d.flip_flop(40, 50)
    assert d.longest() == (2, 1, "a", "total")


def test_an_output_of_a_carry_cell_waits_for_lower_bits_alone() -> None:
    d = _Drawing(low=10, high=11, first=50, last=51)
    d.flip_flop(98, 10)
    d.flip_flop(99, 11)
    d.cell("LUT1", I0=11, O=12)
    d.cell("LUT1", I0=12, O=13)
    d.cell("CARRY4", CI="0", CYINIT="0", S=[10, 13], DI=[10, 13], O=[20, 21], CO=[24, 25])
    d.flip_flop(20, 50)
    paths = {path.end: path.levels for path in Netlist(d.module).longest_paths()}
    assert paths["first"] == 0
    d.flip_flop(21, 51)
    paths = {path.end: path.levels for path in Netlist(d.module).longest_paths()}
    assert paths["last"] == 2


def test_memories() -> None:
    """A read of LUT RAM is a level, and a start of a path; a block RAM ends one."""
    d = _Drawing(address=10, word=50)
    d.flip_flop(99, 10)
    d.cell("LUT1", I0=10, O=11)
    d.cell("RAM64M8", ADDRA=[11], DIA=[10], WE=[10], WCLK=1, DOA=[20])
    d.cell("LUT1", I0=20, O=21)
    d.flip_flop(21, 50)
    assert d.longest() == (3, 0, "address", "word")
    e = _Drawing(word=50)
    e.cell("RAMB36E2", CLKARDCLK=1, ADDRARDADDR=[10], DOUTBDOUT=[20])
    e.cell("LUT1", I0=20, O=21)
    e.flip_flop(21, 50)
    assert e.longest() == (1, 0, "RAMB36E2 RAMB36E2_0", "word")


def test_a_multiplier_without_output_register_is_long() -> None:
    d = _Drawing(a=10, product=50)
    d.flip_flop(99, 10)
    d.cell("DSP48E2", parameters={"PREG": "0"}, A=[10], P=[20])
    d.flip_flop(20, 50)
    assert d.longest() == (4, 0, "a", "product")


def test_a_loop_is_an_error() -> None:
    d = _Drawing(round_and_round=10)
    d.cell("LUT1", I0=10, O=11)
    d.cell("LUT1", I0=11, O=10)
    with pytest.raises(ValueError, match="combinational loop"):
        Netlist(d.module).longest_paths()


def test_resources() -> None:
    d = _Drawing()
    for kind in ("LUT1", "LUT6", "FDSE", "FDRE", "RAMB18E2", "RAMB36E2", "DSP48E2", "CARRY4"):
        d.cell(kind)
    d.cell("RAM64M8", DOA=[3])
    d.cell("SRL16E", Q=[4])
    assert Netlist(d.module).resources() == Resources(lut=2, lutram=9, ff=2, bram36=1.5, dsp=1,
                                                      carry=1)
    assert Netlist(d.module).unknown_cells() == {}
    d.cell("$mystery")
    assert Netlist(d.module).unknown_cells() == {"$mystery": 1}
