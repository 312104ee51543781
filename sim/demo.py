"""`make sim`: run the demonstration on the whole card, and leave its report."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.bench.throughput import abilities
from sim.demonstration import Demonstration, demonstrate
from sim.native.build import card_library
from sim.pcap import read_frames
from sim.report import write_html

__all__ = ["DemoOptions", "run_demo"]

_DATA = Path(__file__).parents[1] / "tests" / "data"
DEFAULT_TRANSMIT = _DATA / "linux-out.pcap"
DEFAULT_RECEIVE = _DATA / "linux-in.pcap"

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
    ring: str = "split"
    """Which kind of ring the driver uses."""
    window: range | None = None
    """Cycles of which waves are kept."""


def _summary(report: dict[str, Any], console: Console) -> None:
    table = Table(title=f"Ringlet, card {report['config']['preset']}")
    for column in ("", "transmit", "receive", "both at once"):
        table.add_column(column, justify="left" if not column else "right")
    tx, rx = report["tx"], report["rx"]
    table.add_row("frames", str(tx["frames"]), str(rx["frames"]))
    table.add_row("bytes", str(tx["bytes"]), str(rx["bytes"]))
    table.add_row("identical", *("yes" if way["identical"] else "NO" for way in (tx, rx)))
    for size in sorted({point["frame_bytes"] for point in report["throughput"]}):
        points = {point["direction"]: point for point in report["throughput"]
                  if point["frame_bytes"] == size}
        table.add_row(f"{size} B frames", *(
            f"{points[way]['cycles_per_packet']:.2f} ({points[way]['eta']:.0%})"
            for way in ("tx", "rx", "duplex")))
    latency = report["latency"]
    table.add_row("latency, 60 B", str(latency["doorbell_to_wire_cycles"]),
                  str(latency["wire_to_used_cycles"]))
    console.print(table)
    console.print("Rates in cycles a packet (and of what is physically possible); latency in "
                  "cycles, doorbell to wire and wire to used ring.")


def run_demo(options: DemoOptions) -> int:
    """Run the demonstration; give 0 if every frame came through as it was, else 1.

    Leaves ``report.json``, ``report.html``, ``wire.pcap`` and ``tlps.txt`` in the folder (and
    ``waves.vcd``, when asked for), each whole or not at all. Raises `PcapError` for a capture that
    cannot be used.
    """
    console = Console()
    rings = abilities(options.config).rings
    if options.ring not in rings:
        raise ValueError(f"ring must be one of {', '.join(rings)}, not {options.ring!r}")
    transmit, receive = read_frames(options.transmit), read_frames(options.receive)
    for path, frames in ((options.transmit, transmit), (options.receive, receive)):
        longest = max(map(len, frames))
        if longest > options.config.max_frame_bytes:
            raise ValueError(f"{path}: a frame of {longest} bytes, must be at most "
                             f"{options.config.max_frame_bytes} (max_frame_bytes)")
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with console.status("building the card's library (minutes, but only once)"):
        card_library(options.config, waves=options.waves)
        card_library(options.config)
    built = time.monotonic()
    with console.status("running") as status:
        results = demonstrate(Demonstration(
            config=options.config, seed=options.seed, transmit=transmit, receive=receive,
            pcap=folder / "wire.pcap", log=folder / "tlps.txt",
            waves=folder / "waves.vcd" if options.waves else None, window=options.window),
            progress=status.update)
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
        "simulator": {"name": "native", "cycles": results["cycles"],
                      "wall_s": round(time.monotonic() - built, 2),
                      "build_s": round(built - began, 2)},
    }
    write_if_changed(folder / "report.json", json.dumps(report, indent=2) + "\n")
    write_html(report, folder / "report.html")
    _summary(report, console)
    console.print(f"{folder / 'report.html'} tells more; {folder / 'wire.pcap'} holds the frames, "
                  f"{folder / 'tlps.txt'} every TLP.")
    return 0 if report["tx"]["identical"] and report["rx"]["identical"] else 1
