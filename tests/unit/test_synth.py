"""Mapping to an FPGA: from a component to figures, and the parts of a hierarchy."""

from __future__ import annotations

import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.verilog import to_rtlil
from sim import synth


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
        m.d.comb += [one.a.eq(self.a), one.b.eq(self.b), other.a.eq(self.b), other.b.eq(self.a),
                     self.total.eq(one.total ^ other.total)]
        return m


def test_an_adder() -> None:
    figures = synth.synthesize(Adder(), "adder").figures()
    assert figures["ff"] == 24
    assert figures["longest_path_levels"] == 1
    assert figures["longest_path"]["carry_hops"] == 1
    assert figures["longest_path"]["start"].startswith(("a$", "b$"))
    assert figures["longest_path"]["end"].startswith("total[")


def test_parts_of_a_hierarchy() -> None:
    modules = synth.split_modules(to_rtlil(Pair(), "pair"))
    below = synth.instances(modules["pair"])
    assert set(below) == {"one", "other"}
    assert synth.closure(modules, below["one"]).count("\nmodule ") == 1
    assert synth.closure(modules, "pair").count("\nmodule ") == 3
    own = synth.map_rtlil(synth.glue(modules, "pair"), "pair").figures()
    assert own["ff"] == 0
    assert own["lut"] == 8


@pytest.mark.parametrize(("block", "words"), [
    ("hw.stream.register", "must be package.module:Class"),
    ("hw.no_such:Thing", "No module named"),
    ("hw.config:NicConfig()", "is no component but NicConfig"),
    ("hw.stream.register:StreamRegister(", "was never closed"),
])
def test_a_bad_block_is_named(block: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        synth.load_block(block)
