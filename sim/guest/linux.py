"""`ringlet guest linux`: an unmodified Linux in QEMU on the card, with some traffic."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.guest.qemu import GuestError, LinuxGuest, find_qemu, linux_files
from sim.guest.serve import terminated
from sim.guest.served_card import ServedCard
from sim.guest.traffic import HOST, Stream, bring_up, ping, tcp
from sim.guest.wire_tap import Tap
from sim.native.build import card_library

__all__ = ["LinuxOptions", "run_linux"]

_WAYS: tuple[Literal["to guest", "from guest"], ...] = ("to guest", "from guest")


@dataclass(frozen=True, kw_only=True)
class LinuxOptions:
    """What a guest is to do."""

    config: NicConfig
    pings: int
    """At least 1."""
    size: int
    """Bytes of each TCP stream; 0 for none."""
    processors: int
    """1 to 16."""
    pcap: Path | None
    """Where the frames of the wire go (None: nowhere)."""
    folder: Path
    """Where the report and the guest's messages go."""

    def __post_init__(self) -> None:
        if self.pings < 1:
            raise ValueError(f"--pings must be at least 1, not {self.pings}")
        if not 0 <= self.size <= 1 << 30:
            raise ValueError(f"--bytes must be from 0 to {1 << 30}, not {self.size}")
        if not 1 <= self.processors <= 16:
            raise ValueError(f"--processors must be from 1 to 16, not {self.processors}")


def _show(console: Console, report: dict[str, Any], streams: dict[str, Stream]) -> None:
    table = Table(title=f"Linux {report['kernel']} in QEMU ({report['accelerator']})",
                  show_header=False)
    pings = report["pings"]
    table.add_row("first ping", f"{report['first_ping_s']:.1f} s after the start")
    table.add_row("pings", f"{pings['received']} of {pings['sent']}, "
                           f"{pings['average_ms']:.1f} ms on average")
    for way, stream in streams.items():
        table.add_row(f"TCP {way}", f"{stream.size} bytes {'equal' if stream.equal else 'DIFFER'}, "
                                    f"{stream.wall_mbps:.2f} Mbit/s, simulated "
                                    f"{stream.simulated_gbps:.2f} Gbit/s")
    table.add_row("simulated", f"{1000 * report['simulated_s']:.1f} ms, "
                               f"{report['card_share']:.0%} of the CPU time of the card's thread "
                               "in the card itself")
    console.print(table)


def run_linux(options: LinuxOptions) -> int:
    """Boot the guest, let it ping and send; give 1 when something was lost or differs.

    Leaves ``linux.json`` in the folder, and the guest's messages beside it.
    """
    console = Console()
    streams: dict[str, Stream] = {}
    with terminated(), console.status("building the card's library (minutes, but only once)") as at:
        card_library(options.config)
        qemu = find_qemu(lambda line: at.update(f"QEMU: {line}"))
        files = linux_files(lambda line: at.update(f"Linux: {line}"))
        tap = Tap(f"{HOST}/24", mtu=options.config.mtu)
        with tempfile.TemporaryDirectory(prefix="ringlet-") as folder, ServedCard(
                options.config, Path(folder) / "card.sock", tap, pcap=options.pcap) as card:
            at.update("Linux starts")
            with LinuxGuest(qemu, files, [card.socket], options.folder / "linux.log",
                            processors=options.processors) as guest:
                guest.wait_ready()
                bring_up(guest)
                if not ping(guest, 1).received:
                    raise GuestError("the first ping was not answered")
                first_ping_s = time.monotonic() - guest.started_at
                console.print(f"first ping {first_ping_s:.1f} s after QEMU was started")
                at.update(f"{options.pings} pings")
                pings = ping(guest, options.pings)
                for way in _WAYS if options.size else ():
                    at.update(f"TCP {way}, {options.size} bytes")
                    streams[way] = tcp(guest, tap, card, options.size, way=way)
            card.check()
            spent = card.spent
            report = {
                "kernel": files.version, "accelerator": qemu.accelerator,
                "first_ping_s": round(first_ping_s, 2), "pings": asdict(pings),
                "tcp": {way: {**asdict(stream), "wall_mbps": stream.wall_mbps,
                              "simulated_gbps": stream.simulated_gbps}
                        for way, stream in streams.items()},
                "simulated_s": card.simulated_s, "wall_s": round(spent.wall_s, 2),
                "card_share": round(spent.card_cpu_s / spent.cpu_s, 3),
                "violations": card.clock.violations_seen}
    _show(console, report, streams)
    write_if_changed(options.folder / "linux.json", json.dumps(report, indent=1) + "\n")
    well = pings.received == pings.sent and all(stream.equal for stream in streams.values())
    return 0 if well else 1
