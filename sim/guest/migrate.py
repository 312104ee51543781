"""`ringlet guest migrate`: a running Linux moves from one card to another, with its traffic."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.guest.migration import TwoHosts
from sim.guest.moving_traffic import MovingTraffic
from sim.guest.qemu import find_qemu, linux_files, release_qemu
from sim.guest.serve import terminated
from sim.native.build import card_library

__all__ = ["MigrateOptions", "run_migrate"]


@dataclass(frozen=True, kw_only=True)
class MigrateOptions:
    """What is to be moved, and what passes meanwhile."""

    config: NicConfig
    size: int
    """Bytes of each TCP stream before and after, 1 to 2^30."""
    packed: bool
    release: bool
    """Debian's own QEMU instead of a newer one."""
    pcap: bool
    folder: Path
    """Where the report, the guests' messages and the frames go."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 1 << 30:
            raise ValueError(f"--bytes must be from 1 to {1 << 30}, not {self.size}")


def run_migrate(options: MigrateOptions) -> int:
    """Boot the guest, move it, and compare its traffic; give 1 when something was lost or differs.

    Leaves ``migrate.json`` in the folder.
    """
    console = Console()
    options.folder.mkdir(parents=True, exist_ok=True)
    with terminated(), console.status("building the card's library (minutes, but only once)") as at:
        card_library(options.config)
        qemu = (release_qemu if options.release else find_qemu)(
            lambda line: at.update(f"QEMU: {line}"))
        files = linux_files(lambda line: at.update(f"Linux: {line}"))

        def told(done: int, turn: int) -> None:
            at.update(f"moving: {done / 1e6:.0f} MB, pass {turn}; the guest runs on")

        with tempfile.TemporaryDirectory(prefix="ringlet-") as folder, TwoHosts(
                qemu, files, options.config, Path(folder), options.folder, packed=options.packed,
                pcap=options.pcap) as hosts:
            at.update("Linux starts")
            hosts.guest.wait_ready()
            at.update("pings, and a TCP stream each way")
            with MovingTraffic(hosts, options.size) as traffic:
                moved = traffic.move(told)
                console.print(f"moved: the guest stood still for {moved.downtime_ms:.0f} ms")
                at.update("pings and streams go on")
                done = traffic.finish(moved)
            hosts.check()
            violations = [card.clock.violations_seen for card in hosts.cards]
    report = {**asdict(done), "rings": "packed" if options.packed else "split",
              "kernel": files.version, "accelerator": qemu.accelerator, "whole": done.whole,
              "violations": violations}
    table = Table(title=f"Linux moved to another card, {report['rings']} rings", show_header=False)
    table.add_row("downtime", f"{moved.downtime_ms:.0f} ms; {done.silence_ms:.0f} ms without an "
                              "answer to a ping")
    table.add_row("moved", f"{moved.transferred_bytes / 1e6:.0f} MB in {moved.passes} passes, "
                           f"{moved.total_ms / 1000:.1f} s")
    beyond = f", {done.lost_beyond} of them BEYOND it" if done.lost_beyond else ""
    table.add_row("pings", f"{done.pings}, {done.lost} lost around the pause{beyond}")
    table.add_row("TCP to guest", _stream(done.to_guest_bytes, done.to_guest_equal))
    table.add_row("TCP from guest", _stream(done.from_guest_bytes, done.from_guest_equal))
    console.print(table)
    write_if_changed(options.folder / "migrate.json", json.dumps(report, indent=1) + "\n")
    return 0 if done.whole else 1


def _stream(size: int, equal: bool) -> str:
    return f"{size} bytes {'equal' if equal else 'DIFFER'}"
