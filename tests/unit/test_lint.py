"""The rules that our own lint adds: each is seen to find what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.lint import own_ports_unflipped, verilator_lint


@pytest.mark.parametrize(("line", "bad"), [
    ("connect(m, self.i, part.i)", True),
    ("wiring.connect(m, part.o, self.bus.answers[0])", True),
    ("connect_streams(m, self.i, part.i)", True),
    ("connect(m, flipped(self.i), part.i)", False),
    ("connect(m, wiring.flipped(self.i), part.i)", False),
    ("connect(m, self._part.o, part.i)", False),
])
def test_own_ports_in_connect(line: str, bad: bool) -> None:
    found = own_ports_unflipped(f"\n{line}\n", "hw/x.py")
    assert bool(found) == bad
    if bad:
        assert found[0].startswith("hw/x.py:2: own port self.")


def test_verilator_finds_what_is_ours(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.v", tmp_path / "bad.v"
    good.write_text("module top(input a, output b);\n  assign b = a;\nendmodule\n")
    bad.write_text("module top(input a, input c, output reg b);\n"
                   "  always @* if (c) b = a;\nendmodule\n")
    assert verilator_lint(good, "top") == ""
    assert "LATCH" in verilator_lint(bad, "top")
