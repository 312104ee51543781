"""`make sim`: run the demonstration on the whole card, and leave its report."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.bring_up import config_parameter
from sim.card import card_design
from sim.pcap import read_frames
from sim.report import write_html
from sim.runner import build_simulator, run_cocotb

__all__ = ["FULL_SPEED", "DemoOptions", "run_demo"]

_DATA = Path(__file__).parents[1] / "tests" / "data"
DEFAULT_TRANSMIT = _DATA / "linux-out.pcap"
DEFAULT_RECEIVE = _DATA / "linux-in.pcap"

FULL_SPEED = ("OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1")
"""How the whole card is compiled: its compilation takes longer than a run in cocotb."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What a run of the demonstration is asked for."""

    config: NicConfig
    preset: str
    seed: int
    waves: bool
    folder: Path
    transmit: Path = DEFAULT_TRANSMIT
    """Capture whose frames the driver sends."""
    receive: Path = DEFAULT_RECEIVE
    """Capture whose frames come in from the wire."""
    simulator: str = "verilator"


def _watched(run: Any, folder: Path, what: str, console: Console) -> Any:
    """Call ``run`` in a thread, and show how far it says it is."""
    result: list[Any] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            result.append(run())
        except BaseException as problem:  # told by the caller's thread
            error.append(problem)

    thread = threading.Thread(target=work, daemon=True)
    marker = folder / "progress"
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"),
                  TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=None, step="")
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
            try:
                share, _, step = marker.read_text().partition(" ")
                progress.update(task, total=1.0, completed=float(share), step=step)
            except (FileNotFoundError, ValueError):
                pass  # nothing was said yet
    if error:
        raise error[0]
    return result[0]


def _summary(report: dict[str, Any], console: Console) -> None:
    table = Table(title=f"Ringlet, card {report['config']['preset']}")
    for column in ("", "transmit", "receive"):
        table.add_column(column, justify="left" if not column else "right")
    tx, rx = report["tx"], report["rx"]
    table.add_row("frames", str(tx["frames"]), str(rx["frames"]))
    table.add_row("bytes", str(tx["bytes"]), str(rx["bytes"]))
    table.add_row("identical", *("yes" if way["identical"] else "NO" for way in (tx, rx)))
    for size in sorted({point["frame_bytes"] for point in report["throughput"]}):
        points = {point["direction"]: point for point in report["throughput"]
                  if point["frame_bytes"] == size}
        table.add_row(f"{size} B frames", *(
            f"{points[way]['cycles_per_packet']:.2f} cycles, {points[way]['gbps']:.1f} Gb/s"
            for way in ("tx", "rx")))
    latency = report["latency"]
    table.add_row("latency, 60 B", f"{latency['doorbell_to_wire_cycles']} cycles doorbell to wire",
                  f"{latency['wire_to_used_cycles']} cycles wire to used")
    console.print(table)


def run_demo(options: DemoOptions) -> int:
    """Run the demonstration; give 0 if every frame came through as it was, else 1.

    Leaves ``report.json``, ``report.html`` and ``wire.pcap`` in the folder, whole or not at all.
    Raises `PcapError` for a capture that cannot be used.
    """
    console = Console()
    for path in (options.transmit, options.receive):
        longest = max(map(len, read_frames(path)))
        if longest > options.config.max_frame_bytes:
            raise ValueError(f"{path}: a frame of {longest} bytes, must be at most "
                             f"{options.config.max_frame_bytes} (max_frame_bytes)")
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (work / "progress").unlink(missing_ok=True)
    (work / "results.json").unlink(missing_ok=True)
    design = card_design(options.config)
    name = f"card_{options.preset}"
    began = time.monotonic()
    _watched(lambda: build_simulator(design, name, options.simulator, waves=options.waves,
                                     flags=FULL_SPEED),
             work, "building the card's simulator (minutes, but only once)", console)
    built = time.monotonic()
    _watched(lambda: run_cocotb(
        design, name, "sim.demo_bench", simulator=options.simulator, waves=options.waves,
        seed=options.seed, flags=FULL_SPEED,
        parameters={**config_parameter(options.config), "transmit": options.transmit.resolve(),
                    "receive": options.receive.resolve(), "folder": work.resolve()}),
        work, "running", console)
    results = json.loads((work / "results.json").read_text())
    report = {
        "ringlet": version("ringlet"),
        "config": {"preset": options.preset, **asdict(options.config)},
        "seed": options.seed,
        "input": {"tx": options.transmit.name, "rx": options.receive.name},
        "device": results["device"],
        "tx": results["tx"], "rx": results["rx"],
        "drops": results["drops"],
        "counters": results["counters"],
        "latency": results["latency"],
        "throughput": results["throughput"],
        "ways": results["ways"],
        "simulator": {"name": options.simulator, "cycles": results["cycles"],
                      "wall_s": round(time.monotonic() - built, 2),
                      "build_s": round(built - began, 2)},
    }
    (work / "wire.pcap").replace(folder / "wire.pcap")
    write_if_changed(folder / "report.json", json.dumps(report, indent=2) + "\n")
    write_html(report, folder / "report.html")
    _summary(report, console)
    console.print(f"{folder / 'report.html'} tells more; {folder / 'wire.pcap'} holds the frames.")
    return 0 if report["tx"]["identical"] and report["rx"]["identical"] else 1
