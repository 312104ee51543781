"""`ringlet bench`: measure points and latencies, and leave them beside their limits."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.bench.latency import latencies
from sim.bench.page import GOOD_ETA
from sim.bench.points import Scale, points
from sim.bench.report import write_html
from sim.bench.results import Change, compare, point_row, read_results
from sim.bench.throughput import Spent, abilities, measure
from sim.native.build import card_library

__all__ = ["BenchOptions", "run_bench"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What a run of the benchmark is asked for."""

    config: NicConfig
    preset: str
    seed: int
    scale: Scale = "star"
    folder: Path
    compare: Path | None = None
    """Results of an earlier run."""
    threshold: float = 0.02
    """By what share a figure may be worse than in that run."""


def _table(rows: Sequence[dict[str, Any]], latency: Sequence[dict[str, Any]],
           console: Console) -> None:
    table = Table(title="at the centre")
    for column in ("", "ring", "frame", "cycles", "Mpps", "Gb/s", "limit", "eta"):
        table.add_column(column, justify="left" if column in ("", "ring") else "right")
    for row in rows:
        if (row["batch"], row["queues"], row["link"], row["rtt_ns"], row["align"]) == (
                32, 1, "gen3x16", 1000, 0):
            colour = "green" if row["eta"] >= GOOD_ETA else "yellow"
            table.add_row(row["direction"], row["ring"] + ", in order" * row["in_order"],
                          f"{row['frame_bytes']} B",
                          f"{row['cycles_per_packet']:.2f}", f"{row['mpps']:.1f}",
                          f"{row['gbps']:.1f}", f"{row['limit_mpps']:.1f} {row['limit_by']}",
                          f"[{colour}]{row['eta']:.3f}[/]")
    console.print(table)
    for row in latency:
        console.print(f"{row['path'].replace('_', ' ')}, {row['ring']}, "
                      f"{row['rtt_ns']} ns round trip"
                      f"{', with notification data' * row['notification_data']}: "
                      f"{row['cycles']} cycles, of which the card adds {row['added_cycles']}")


def _tell(changes: Sequence[Change], threshold: float, console: Console) -> int:
    """Print what changed; give how much of it is worse than it may be."""
    bad = [change for change in changes if change.worse > threshold]
    for change in sorted(changes, key=lambda change: -change.worse):
        if abs(change.worse) > threshold:
            colour = "red" if change.worse > 0 else "green"
            console.print(f"[{colour}]{change.worse:+.1%}[/] {change.what}: {change.before:g}, "
                          f"now {change.after:g}")
    console.print(f"{len(changes)} figures compared: {len(bad)} worse by more than {threshold:.1%}")
    return len(bad)


def run_bench(options: BenchOptions) -> int:
    """Run the benchmark; give 0, or 1 if ``compare`` shows that something got worse.

    Leaves ``results.json`` and ``report.html`` in the folder, whole or not at all.
    """
    console = Console()
    config = options.config
    earlier = read_results(options.compare) if options.compare else None
    begun = time.process_time()
    with console.status("building the card's library (minutes, but only once)"):
        card_library(config)
    todo = points(abilities(config), options.scale)
    spent = Spent()
    rows: list[dict[str, Any]] = []
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo) + 1)
        for point in todo:
            progress.update(task, description=str(point))
            rows.append(point_row(point, measure(point, config, seed=options.seed, spent=spent),
                                  config))
            progress.advance(task)
        progress.update(task, description="latency")
        latency = list(latencies(config, seed=options.seed, spent=spent))
    results = {
        "ringlet": version("ringlet"),
        "config": {"preset": options.preset, **asdict(config)},
        "seed": options.seed,
        "points": rows,
        "latency": latency,
        "engine": {
            "cycles": spent.cycles, "cpu_s": round(spent.cpu_s, 2),
            "cycles_per_second": round(spent.cycles / spent.cpu_s),
            "run_cycles_per_second": round(spent.cycles / (time.process_time() - begun)),
        },
    }
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_html(results, folder / "report.html")
    write_if_changed(folder / "results.json", json.dumps(results, indent=1) + "\n")
    _table(rows, latency, console)
    console.print(f"{folder / 'report.html'} tells more.")
    if earlier is not None:
        return 1 if _tell(compare(earlier, results), options.threshold, console) else 0
    return 0
