"""Mapping to an FPGA: from a component to figures, and the parts of a hierarchy."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import NicConfig
from hw.verilog import to_rtlil
from sim import synth

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "synth.schema.json"


class Adder(wiring.Component):
    """A sum between registers: one level and a carry chain."""

    a: Signal
    b: Signal
    total: Signal

    def __init__(self, bits: int = 8) -> None:
        super().__init__({"a": In(bits), "b": In(bits), "total": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = Signal(self.a.shape())
        b = Signal(self.b.shape())
        m.d.sync += [a.eq(self.a), b.eq(self.b), self.total.eq(a + b)]
        return m


class Pair(wiring.Component):
    """Two instances and a gate of its own."""

    a: Signal
    b: Signal
    total: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(8), "b": In(8), "total": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.one = one = Adder()
        m.submodules.other = other = Adder()
        m.d.comb += [one.a.eq(self.a), one.b.eq(self.b), other.a.eq(one.total),
                     other.b.eq(self.a), self.total.eq(other.total ^ self.b)]
        return m


def test_parts_of_a_hierarchy() -> None:
    modules = synth.split_modules(to_rtlil(Pair(), "pair"))
    below = synth.instances(modules["pair"])
    assert set(below) == {"one", "other"}
    assert synth.closure(modules, below["one"]).count("\nmodule ") == 1
    assert synth.closure(modules, "pair").count("\nmodule ") == 3
    assert synth.glue(modules, "pair").count("attribute \\blackbox 1") == 2


def test_a_card_room_by_room() -> None:
    """A card of two adders and a gate, part by part and as one."""
    config = NicConfig.preset("small")
    report = synth.synthesize_card("small", config, Pair())
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert report["flattened"]
    assert report["rooms"]["nic"]["ff"] == 48
    assert report["ff"] == 40  # as one, both adders share the register of `a`
    adder = report["blocks"]["one"]
    assert adder["ff"] == 24
    assert adder["longest_path_levels"] == 1
    assert adder["longest_path"]["carry_hops"] == 1
    assert adder["longest_path"]["start"].startswith(("a", "b"))
    assert adder["longest_path"]["end"].startswith("total[")
    gate = report["blocks"]["(connections)"]
    assert (gate["ff"], gate["lut"]) == (0, 8)
    parts = synth.synthesize_card("small", config, Pair(), whole=False)
    jsonschema.validate(parts, json.loads(SCHEMA.read_text()))
    assert parts["lut"] == parts["rooms"]["nic"]["lut"]
    assert parts["longest_path"]["start"].startswith(("one: ", "other: "))


@pytest.mark.parametrize(("block", "words"), [
    ("hw.stream.register", "must be package.module:Class"),
    ("hw.no_such:Thing", "No module named"),
    ("hw.config:NicConfig()", "is no component but NicConfig"),
    ("hw.stream.register:StreamRegister(", "was never closed"),
])
def test_a_bad_block_is_named(block: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        synth.load_block(block)
