"""The checks of the hardware that ruff and mypy cannot make.

A rule of the source: a component's own ports stand in ``connect`` only inside ``flipped``. Without
it a stream that passes through connects the input to itself, and the error shows far away. And
Verilator's lint of the whole card, in every preset.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

from sim import toolchain

__all__ = ["own_ports_unflipped", "verilator_lint"]

# What Yosys's Verilog always has: VARHIDDEN is a signal named as an instance in the module above,
# CASEINCOMPLETE a Switch without a default, which in Amaranth keeps what was assigned before,
# UNSIGNED a bound that is zero in this preset. The
# rest is fatal, and above all UNOPTFLAT (a combinational loop), LATCH and MULTIDRIVEN: those are
# faults of ours.
_QUIET = ["DECLFILENAME", "UNUSEDSIGNAL", "UNUSEDPARAM", "WIDTHEXPAND", "WIDTHTRUNC", "PROCASSINIT",
          "VARHIDDEN", "CASEINCOMPLETE", "UNSIGNED"]


def own_ports_unflipped(source: str, name: str) -> list[str]:
    """Find each ``connect(m, self.port, ...)`` without ``flipped``; a line for each."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(
            call.func, "id", None)
        if called not in ("connect", "connect_streams"):
            continue
        for argument in call.args[1:]:
            root: ast.expr = argument
            last = ""
            while isinstance(root, ast.Attribute | ast.Subscript):
                last = root.attr if isinstance(root, ast.Attribute) else last
                root = root.value
            own = isinstance(root, ast.Name) and root.id == "self" and not last.startswith("_")
            if own:
                found.append(f"{name}:{argument.lineno}: own port {ast.unparse(argument)} in "
                             "connect() must stand inside flipped()")
    return found


def verilator_lint(path: Path, top: str) -> str:
    """Give Verilator's remarks on a Verilog file; empty if there are none."""
    done = subprocess.run(
        [str(toolchain.verilator()), "--lint-only", "-Wall", "--quiet", "--top-module", top,
         *(f"-Wno-{kind}" for kind in _QUIET), str(path)],
        env=toolchain.environment(), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return done.stderr or done.stdout


def main() -> int:
    """Check the rule of the source, and the card's Verilog."""
    argparse.ArgumentParser(prog="python -m sim.lint", description=main.__doc__).parse_args()
    problems = []
    for path in sorted((toolchain.ROOT / "hw").rglob("*.py")):
        problems += own_ports_unflipped(path.read_text(), str(path.relative_to(toolchain.ROOT)))
    cards = 0
    if not problems:
        from hw.config import NicConfig  # noqa: PLC0415  # only for the second half
        from hw.verilog import write_card  # noqa: PLC0415

        for preset in NicConfig.PRESETS:
            overrides = {"vfs": 3} if preset == "full" else {}  # SR-IOV is there or not: see both
            card = write_card(preset, overrides, toolchain.build_folder() / "lint")
            problems += verilator_lint(card, "ringlet").splitlines()
            cards += 1
    print("\n".join(problems) or f"hardware rules and {cards} cards: no remarks")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
