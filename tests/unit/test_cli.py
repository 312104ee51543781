"""The `ringlet` command: help, version, and one line for each mistake, with nothing left behind."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from sim.cli import main


@pytest.mark.parametrize(("words", "names"), [
    (["verilog", "nope"], ["nope", "full", "small"]),
    (["verilog", "--vfs", "300"], ["vfs", "300", "255"]),
    (["verilog", "--vfs", "x"], ["vfs=x", "NUMBER"]),
    (["verilog", "--set", "queue_pairs=3"], ["queue_pairs", "3", "power of two"]),
    (["verilog", "--set", "no_such=3"], ["no_such", "queue_pairs"]),
    (["verilog", "full", "small"], ["small"]),
    (["verilog", "--no-such"], ["--no-such"]),
    (["synth", "small", "--vfs", "-1"], ["vfs"]),
    (["synth", "--block", "x"], ["x", "package.module"]),
    (["sim", "--seed", "many"], ["seed", "many", "whole number"]),
    (["sim", "full", "--set", "vfs"], ["vfs", "FIELD=NUMBER"]),
    (["sim", "--waves", "9"], ["waves", "9", "FROM:TO"]),
    (["sim", "--waves", "9:8"], ["waves", "9:8", "after"]),
    (["sim", "--ring", "round"], ["ring", "round", "split"]),
    (["sim", "--pcap", "none.pcap"], ["none.pcap"]),
    (["bench", "--quick", "--full"], ["--quick", "--full"]),
    (["bench", "--threshold", "2"], ["threshold", "2", "0 to 1"]),
    (["bench", "--compare", "old.json"], ["old.json", "results.json"]),
    (["soak", "--packets", "0"], ["packets", "0", "at least 1"]),
    (["fuzz", "--cases", "0"], ["cases", "0", "at least 1"]),
    (["soak", "--jobs", "0"], ["jobs", "0", "at least 1"]),
    (["fuzz", "--jobs", "0"], ["jobs", "0", "at least 1"]),
    (["fuzz", "--jobs", "two"], ["jobs", "two", "whole number"]),
    (["fuzz", "--first", "x"], ["first", "x", "whole number"]),
    (["soak", "--packets", "many"], ["packets", "many", "whole number"]),
    (["serve", "--wire", "string"], ["wire", "string", "tap", "cable", "none"]),
    (["serve", "--cards", "9"], ["cards", "9", "1 to 8"]),
    (["serve", "--wire", "cable"], ["cable", "2 cards", "1"]),
    (["serve", "--socket", "x" * 200], ["--socket", "107"]),
    (["guest", "linux", "--pings", "0"], ["pings", "0", "at least 1"]),
    (["guest", "linux", "--bytes", "-1"], ["--bytes", "-1", "whole number"]),
    (["guest", "linux", "--processors", "17"], ["processors", "17", "1 to 16"]),
    (["guest", "linux", "--no-such"], ["guest linux", "--no-such"]),
    (["guest", "windows"], ["windows", "linux"]),
    (["no_such"], ["no_such", "sim", "verilog", "synth"]),
])
def test_a_mistake_is_one_line(words: list[str], names: list[str], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert all(name in said.err for name in names), said.err
    assert not list(tmp_path.iterdir())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["ringlet", version("ringlet")]


@pytest.mark.parametrize("command", ["sim", "bench", "soak", "fuzz", "verilog", "synth", "serve",
                                     "guest linux"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    *group, name = command.split()
    assert main(group) == 0
    assert name in capsys.readouterr().out
    assert main([*group, name, "--help"]) == 0
    assert "PRESET" in capsys.readouterr().out
