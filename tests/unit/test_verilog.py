"""Verilog of a component: the same bytes always, memories that start as they should, and fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from amaranth import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import NicConfig
from hw.verilog import describe, to_rtlil, write_verilog
from sim.runner import run_cocotb


class Store(wiring.Component):
    """A memory with byte write enables, as ports."""

    read_address: Signal
    read_data: Signal
    write_address: Signal
    write_data: Signal
    write_enable: Signal

    def __init__(self, *, depth: int, width: int, init: list[int]) -> None:
        self.depth, self.width, self.init = depth, width, init
        super().__init__({
            "read_address": In(range(depth)), "read_data": Out(width),
            "write_address": In(range(depth)), "write_data": In(width),
            "write_enable": In(width // 8),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words: Any = memory.Memory(shape=self.width, depth=self.depth, init=self.init)
        m.submodules.words = words
        read, write = words.read_port(), words.write_port(granularity=8)
        m.d.comb += [
            read.addr.eq(self.read_address), self.read_data.eq(read.data),
            write.addr.eq(self.write_address), write.data.eq(self.write_data),
            write.en.eq(self.write_enable),
        ]
        return m


class Wire(wiring.Component):
    """A stream that is always ready: such a port is a constant."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self) -> None:
        signature = stream.Signature(8, always_ready=True)
        super().__init__({"i": In(signature), "o": Out(signature)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        connect(m, flipped(self.i), flipped(self.o))
        return m


@pytest.mark.parametrize(("depth", "width", "init"), [
    (1024, 512, []), (32, 16, [0, 7, 0xFFFF]), (6, 32, [0] * 6)])
def test_memory_contents(simulator: str, depth: int, width: int, init: list[int]) -> None:
    """Words nobody wrote are zero, those with initial contents have them."""
    run_cocotb(Store(depth=depth, width=width, init=init), f"store_{depth}",
               "tests.unit.bench_verilog", simulator=simulator,
               parameters={"depth": depth, "init": ",".join(map(str, init))})


def test_same_bytes(tmp_path: Path) -> None:
    """Two processes with other hash seeds, elsewhere, write the same."""
    program = ("from pathlib import Path; from tests.unit.test_verilog import *;"
               "print(write_verilog(Store(depth=64, width=32, init=[]), 'store', Path({!r}))"
               ".read_text())")
    texts = {subprocess.run(
        [sys.executable, "-c", program.format(str(tmp_path / number))], check=True, text=True,
        capture_output=True, env={**os.environ, "PYTHONHASHSEED": number}).stdout
        for number in "12"}
    assert len(texts) == 1
    assert str(tmp_path) not in texts.pop()


def test_unchanged_is_untouched(tmp_path: Path) -> None:
    path = write_verilog(Store(depth=64, width=32, init=[]), "store", tmp_path)
    os.utime(path, (1, 1))
    write_verilog(Store(depth=64, width=32, init=[]), "store", tmp_path)
    assert path.stat().st_mtime == 1
    write_verilog(Store(depth=128, width=32, init=[]), "store", tmp_path)
    assert path.stat().st_mtime != 1


def test_constant_members_are_no_ports(tmp_path: Path) -> None:
    text = write_verilog(Wire(), "wire_of_words", tmp_path).read_text()
    assert "i__payload" in text
    assert "ready" not in text


def test_deep_memories_are_cheap(tmp_path: Path) -> None:
    """64 Ki words: 48 s and as many lines where every word is written."""
    start = time.process_time()
    path = write_verilog(Store(depth=65536, width=32, init=[]), "deep", tmp_path)
    assert time.process_time() - start < 5
    assert len(path.read_text().splitlines()) < 100


def test_a_card_is_described() -> None:
    """Every port of the module, clock and reset included, and what it holds."""
    text = to_rtlil(Store(depth=64, width=32, init=[]), "store")
    about = describe(text, "store", "small", NicConfig.preset("small"))
    schema = Path(__file__).parents[2] / "docs" / "schema" / "verilog.schema.json"
    jsonschema.validate(about, json.loads(schema.read_text()))
    assert {(port["name"], port["direction"], port["bits"]) for port in about["ports"]} == {
        ("clk", "input", 1), ("rst", "input", 1), ("read_address", "input", 6),
        ("read_data", "output", 32), ("write_address", "input", 6), ("write_data", "input", 32),
        ("write_enable", "input", 4)}
    assert about["sizes"]["memory_bits"] == 64 * 32
    assert about["parameters"]["data_bits"] == 64


def test_other_conversions_are_left_alone() -> None:
    """The short cut for zeroed memories lasts no longer than our own conversion."""
    from amaranth.back import rtlil  # type: ignore[attr-defined]  # noqa: PLC0415  # not in stubs

    to_rtlil(Store(depth=64, width=32, init=[]), "store")
    assert "meminit" in rtlil.convert(Store(depth=64, width=32, init=[]), name="store")
