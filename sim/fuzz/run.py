"""`ringlet fuzz`: hostile rings beside an honest queue, and everything that the card does seen."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.fuzz.case import fuzz_case
from sim.fuzz.judge import Books
from sim.native.build import card_library

__all__ = ["FuzzOptions", "run_fuzz"]


@dataclass(frozen=True, kw_only=True)
class FuzzOptions:
    """What a run is asked for."""

    config: NicConfig
    card: str = ""
    """What names the card on the command line, beside ``make fuzz``."""
    cases: int = 100
    first: int = 0
    """Number of the first case."""
    seed: int = 1
    folder: Path = Path("build/fuzz")


def _command(options: FuzzOptions, number: int) -> str:
    """Give the command that runs one case again."""
    return " ".join(["make fuzz", *([options.card] if options.card else []),
                     f"SEED={options.seed} FIRST={number} CASES=1"])


def run_fuzz(options: FuzzOptions) -> int:
    """Run all cases; give 0, or 1 when something was wrong in one of them.

    Leaves ``summary.json`` in the folder. The last line is ``fuzz: N passed, N failed, N skipped``,
    in cases.
    """
    if options.cases < 1:
        raise ValueError(f"cases must be at least 1, not {options.cases}")
    console = Console()
    with console.status("building the card's library (minutes, but only once)"):
        card_library(options.config)
    begun = time.process_time()
    books = Books()
    failures: list[dict[str, Any]] = []
    with Progress(TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console, transient=True) as progress:
        task = progress.add_task("", total=options.cases)
        for number in range(options.first, options.first + options.cases):
            text = fuzz_case(options.config, options.seed, number, books)
            if text is not None:
                again = _command(options, number)
                failures.append({"case": number, "command": again, "text": text})
                console.print(f"case {number}: {text}\n  again: {again}", markup=False,
                              highlight=False, soft_wrap=True)
            progress.advance(task)
    passed = options.cases - len(failures)
    summary = {
        "passed": passed, "failed": len(failures), "skipped": 0, "seed": options.seed,
        "first": options.first, "failures": failures, "chains": books.chains, "used": books.used,
        "honest": books.honest, "accesses": books.accesses,
        "kinds": dict(sorted(books.kinds.items())), "faults": dict(sorted(books.faults.items())),
        "resets": dict(sorted(books.resets.items())), "cycles": books.cycles,
        "engine_cpu_s": round(books.engine_cpu_s, 1),
        "cpu_s": round(time.process_time() - begun, 1)}
    options.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(options.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    console.print(f"{books.chains} chains, {books.used} used; {books.accesses} accesses seen; "
                  f"{sum(books.faults.values())} faults, {sum(books.resets.values())} resets; "
                  f"{books.honest} honest frames", highlight=False, soft_wrap=True)
    print(f"fuzz: {passed} passed, {len(failures)} failed, 0 skipped")
    return 1 if failures else 0
