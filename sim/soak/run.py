"""`ringlet soak`: random traffic, stalls and resets, with every frame accounted for."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.native.bring_up import open_card
from sim.native.build import card_library
from sim.soak.books import Books
from sim.soak.draw import draw_driver, draw_host, turns
from sim.soak.episode import Episode

__all__ = ["SoakOptions", "run_soak", "soak", "worker_seed"]

_EPISODE_CYCLES = 100_000  # of one card, with one kind of host and link
_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class SoakOptions:
    """What a run is asked for."""

    config: NicConfig
    card: str = ""
    """What names the card on the command line, beside ``make soak``."""
    packets: int
    """Frames to send and to receive in all."""
    seed: int = 1
    jobs: int = 1
    """Processes, each with a seed of its own and its share of the packets."""
    folder: Path = Path("build/soak")

    def __post_init__(self) -> None:
        for name in ("packets", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def soak(options: SoakOptions, progress: Callable[[int], None] = lambda done: None) -> Books:
    """Run until so many frames went the whole way; `SoakFailure` at the first that did not."""
    rng = random.Random(options.seed)
    books = Books()
    begun = time.process_time()
    manners = turns(rng)
    while books.packets < options.packets:
        chosen = next(manners)
        net = draw_driver(rng, options.config, chosen)
        with open_card(options.config, options=draw_host(rng, options.config), net=net) as card:
            episode = Episode(card, rng, books)
            goal = options.packets - books.packets
            while episode.out < goal and card.engine.cycle < _EPISODE_CYCLES:
                before = episode.out
                card.port.run(episode.life())
                progress(episode.out - before)
            card.port.run(episode.end())
            card.engine.check()
            episode.close()
        books.manners.update(chosen)
        books.manners["several pairs"] += net.pairs > 1
    books.cpu_s = time.process_time() - begun
    return books


# --- several processes

_done: Any = None
_ends: Any = None


class _Stopped(Exception):
    """Another process has failed."""


def worker_seed(options: SoakOptions, number: int) -> int:
    """Give the seed of one process of several; alone, a process has that of the run."""
    if options.jobs == 1:
        return options.seed
    return random.Random(f"ringlet soak {options.seed} {number}").randrange(1 << 32)


def _share(options: SoakOptions, number: int) -> SoakOptions:
    """Give what one of the processes is asked for."""
    packets = options.packets // options.jobs + (number < options.packets % options.jobs)
    return replace(options, packets=max(packets, 1), seed=worker_seed(options, number), jobs=1)


def _attach(done: Any, ends: Any) -> None:
    global _done, _ends  # how a process of a pool gets them
    _done, _ends = done, ends


def _work(options: SoakOptions, number: int) -> tuple[Books, str]:
    """Run a share; give what was counted, and what went wrong."""
    def progress(done: int) -> None:
        _done[number] += done
        if _ends.is_set():
            raise _Stopped

    try:
        return soak(options, progress), ""
    except _Stopped:
        return Books(), ""
    except Exception as error:  # whatever it is, it is told with the seed that shows it
        _ends.set()
        return Books(), _text(error)


def _text(error: Exception) -> str:
    name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return f"{name}{error}"


def _run_shares(options: SoakOptions, shares: list[SoakOptions],
                show: Callable[[int], None]) -> list[tuple[Books, str]]:
    """Run all shares at once."""
    if options.jobs == 1:
        shown = 0

        def progress(done: int) -> None:
            nonlocal shown
            shown += done
            show(shown)

        try:
            return [(soak(shares[0], progress), "")]
        except Exception as error:  # as above
            return [(Books(), _text(error))]
    context = multiprocessing.get_context("spawn")
    done, ends = context.Array("q", options.jobs), context.Event()
    with ProcessPoolExecutor(options.jobs, context, _attach, (done, ends)) as pool:
        futures = [pool.submit(_work, share, number) for number, share in enumerate(shares)]
        left = set(futures)
        try:
            while left:
                left = wait(left, _LOOK_S).not_done
                show(sum(done[:]))
        except KeyboardInterrupt:
            ends.set()
            raise
        return [future.result() for future in futures]


def run_soak(options: SoakOptions) -> int:
    """Run the soak; give 0, or 1 when a frame was lost, repeated, changed or out of order.

    Leaves ``summary.json`` in the folder. The last line is ``soak: N passed, N failed, N skipped``,
    in frames.
    """
    console = Console()
    with console.status("building the card's library (minutes, but only once)"):
        card_library(options.config)
    shares = [_share(options, number) for number in range(options.jobs)]
    if options.jobs > 1:
        console.print(f"seeds {', '.join(str(share.seed) for share in shares)}", highlight=False)
    begun = time.monotonic()
    with Progress(TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console, transient=True) as progress:
        task = progress.add_task("", total=options.packets)
        ended = _run_shares(options, shares, lambda done: progress.update(task, completed=done))
    books = Books()
    failures = []
    for share, (counted, text) in zip(shares, ended, strict=True):
        books.add(counted)
        if text:
            again = " ".join(["make soak", *([options.card] if options.card else []),
                              f"SEED={share.seed} PACKETS={share.packets} JOBS=1"])
            failures.append({"seed": share.seed, "command": again, "text": text})
            console.print(f"seed {share.seed}: {text}\n  again: {again}", markup=False,
                          highlight=False, soft_wrap=True)
    summary: dict[str, Any] = {
        "passed": books.packets, "failed": len(failures), "skipped": 0, "seed": options.seed,
        "seeds": [share.seed for share in shares], "failures": failures, "sent": books.sent,
        "received": books.received, "given": books.given, "given_up": books.given_up,
        "dropped": dict(sorted(books.dropped.items())),
        "resets": dict(sorted(books.resets.items())),
        "manners": dict(sorted((+books.manners).items())), "lives": books.lives,
        "cycles": books.cycles,
        "cycles_per_packet": round(books.cycles / max(books.packets, 1), 2),
        "engine_cpu_s": round(books.engine_cpu_s, 1), "cpu_s": round(books.cpu_s, 1),
        "wall_s": round(time.monotonic() - begun, 1)}
    options.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(options.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    if books.packets:
        console.print(f"{books.sent} sent, {books.received} received, in {books.lives} lives; "
                      f"{summary['cycles_per_packet']} cycles a packet", highlight=False)
    print(f"soak: {books.packets} passed, {len(failures)} failed, 0 skipped")
    return 1 if failures else 0
