"""The engine's rewriting of Verilog: what is rewritten, and what must stay as it is."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hw.verilog import to_rtlil, to_verilog
from sim.native.tighten import tighten


class Held(wiring.Component):
    """A register that is seldom written, whole or in part."""

    enable: Signal
    part: Signal
    data: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"enable": In(1), "part": In(1), "data": In(8), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.enable):
            m.d.sync += self.o.eq(self.data)
        with m.Elif(self.part):
            m.d.sync += self.o[2:4].eq(self.data[:2])
        return m


class Lanes(wiring.Component):
    """A memory written by bytes, from one port or two."""

    address: Signal
    data: Signal
    enable: Signal
    o: Signal

    def __init__(self, *, writers: int) -> None:
        self.writers = writers
        super().__init__({"address": In(3), "data": In(32), "enable": In(4), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        store: Any = memory.Memory(shape=32, depth=8, init=[])
        m.submodules.store = store
        read = store.read_port()
        m.d.comb += [read.addr.eq(self.address), self.o.eq(read.data)]
        for writer in range(self.writers):
            port = store.write_port(granularity=8)
            m.d.comb += [port.addr.eq(self.address ^ writer), port.data.eq(self.data),
                         port.en.eq(self.enable)]
        return m


def verilog(top: wiring.Component) -> str:
    return to_verilog(to_rtlil(top, "top"))


def test_a_register_is_held_by_its_edge() -> None:
    text = verilog(Held())
    new = tighten(text)
    assert "always @*" in text
    assert "always @*" not in new
    assert new.count("o <= data;") == 1
    assert new.count("o [3:2] <= data[1:0];") == 1
    assert "o <= 8'h00;" in new  # the reset
    # In the order as it was: the reset overrides.
    assert new.index("o <= data;") < new.index("o <= 8'h00;")


@pytest.mark.parametrize("reader", ["  assign o = \\$1 ;\n",
                                    "  assign o = { \\$1 [3:0], 4'h0 };\n"])
def test_a_next_value_that_is_read_stays(reader: str) -> None:
    text = ("module top(clk, e, d, o);\n  reg [7:0] \\$1 ;\n" + reader
            + "  always @(posedge clk)\n    x <= \\$1 ;\n"
            "  always @* begin\n    if (\\$auto$2 ) begin end\n    \\$1  = x;\n"
            "    if (e) begin\n      \\$1  = d;\n    end\n  end\nendmodule\n")
    assert tighten(text) == text
    assert tighten(text.replace(reader, "")) != text.replace(reader, "")


def test_a_next_value_that_starts_from_another_stays() -> None:
    text = ("module top(clk, e, d, o);\n  reg [7:0] \\$1 ;\n"
            "  always @(posedge clk)\n    x <= \\$1 ;\n"
            "  always @* begin\n    if (\\$auto$2 ) begin end\n    \\$1  = y;\n"
            "    if (e) begin\n      \\$1  = d;\n    end\n  end\nendmodule\n")
    assert tighten(text) == text


def test_lanes_are_written_as_one_word() -> None:
    text = verilog(Lanes(writers=1))
    new = tighten(text)
    assert text.count("store[port__addr][") == 4
    assert new.count("store[port__addr] <=") == 1
    assert "store[port__addr][" not in new
    assert "{8{enable[3]}}, {8{enable[2]}}, {8{enable[1]}}, {8{enable[0]}}" in new


def test_lanes_of_two_writers_stay() -> None:
    text = verilog(Lanes(writers=2))
    assert tighten(text) == text
