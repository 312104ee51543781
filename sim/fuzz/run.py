"""`ringlet fuzz`: hostile rings beside an honest queue, and everything that the card does seen."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
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
    jobs: int = 1
    """Processes that take one case after the other."""
    folder: Path = Path("build/fuzz")

    def __post_init__(self) -> None:
        for name in ("cases", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def _command(options: FuzzOptions, number: int) -> str:
    """Give the command that runs one case again."""
    return " ".join(["make fuzz", *([options.card] if options.card else []),
                     f"SEED={options.seed} FIRST={number} CASES=1"])


def _work(options: FuzzOptions, number: int) -> tuple[int, str | None, Books]:
    """Run a case; give its number, what was wrong, and what was counted."""
    books = Books()
    begun = time.process_time()
    text = fuzz_case(options.config, options.seed, number, books)
    books.cpu_s = time.process_time() - begun
    return number, text, books


def _results(options: FuzzOptions) -> Iterator[tuple[int, str | None, Books]]:
    """Run all cases; give them by their numbers, however many run at once."""
    numbers = range(options.first, options.first + options.cases)
    if options.jobs == 1:
        for number in numbers:
            yield _work(options, number)
        return
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_work, [options] * len(numbers), numbers)
        finally:
            pool.shutdown(cancel_futures=True)


def run_fuzz(options: FuzzOptions) -> int:
    """Run all cases; give 0, or 1 when something was wrong in one of them.

    Leaves ``summary.json`` in the folder. The last line is ``fuzz: N passed, N failed, N skipped``,
    in cases.
    """
    console = Console()
    with console.status("building the card's library (minutes, but only once)"):
        card_library(options.config)
    begun = time.monotonic()
    books = Books()
    failures: list[dict[str, Any]] = []
    with Progress(TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console, transient=True) as progress:
        task = progress.add_task("", total=options.cases)
        for number, text, counted in _results(options):
            books.add(counted)
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
        "cpu_s": round(books.cpu_s, 1), "wall_s": round(time.monotonic() - begun, 1)}
    options.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(options.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    console.print(f"{books.chains} chains, {books.used} used; {books.accesses} accesses seen; "
                  f"{sum(books.faults.values())} faults, {sum(books.resets.values())} resets; "
                  f"{books.honest} honest frames", highlight=False, soft_wrap=True)
    print(f"fuzz: {passed} passed, {len(failures)} failed, 0 skipped")
    return 1 if failures else 0
