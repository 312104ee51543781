"""`ringlet guest uml` and `ringlet guest testpmd`: drivers that reach the card by vhost-user."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from rich.console import Console
from rich.table import Table

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.guest.qemu import LinuxGuest
from sim.guest.serve import terminated
from sim.guest.testpmd import PacketLoop, Testpmd, TestpmdError, TestpmdOptions, testpmd_programs
from sim.guest.traffic import GUEST, HOST, Pings, Stream, bring_up, ping
from sim.guest.uml import UmlError, UmlGuest, uml_programs
from sim.guest.vhost_user import IN_BAND
from sim.guest.vhost_user_server import VhostUserCard
from sim.guest.wire_tap import Tap
from sim.native.build import card_library
from sw_driver.layouts import Feature

__all__ = ["PacketRun", "TestpmdRun", "UmlRun", "attach", "echo", "hidden_of", "run_testpmd",
           "run_uml", "tcp", "uml_ping"]

_STREAM_S = 300
_STILL_S = 10
"""Without any packet for so long, the rest is lost."""
_WAYS: tuple[Literal["to guest", "from guest"], ...] = ("to guest", "from guest")
_LIBRARY = "building the card's library (minutes, but only once)"


def hidden_of(*, packed: bool) -> int:
    """Give the features that Linux in user-mode Linux must not see, as a mask.

    CTRL_RX: a command of it that is not answered at once crashes its kernel.
    """
    hidden = 1 << Feature.CTRL_RX
    return hidden if packed else hidden | 1 << Feature.RING_PACKED


def attach(guest: UmlGuest, *, queues: int = 1) -> float:
    """Load the driver, give the device its address; give the time to the first ping, from start."""
    guest.wait_up()
    guest.load_driver()
    if queues > 1:
        guest.run(f"ethtool -L eth0 combined {queues}")
    bring_up(cast(LinuxGuest, guest))
    if not uml_ping(guest, 1).received:
        raise UmlError("the first ping was not answered")
    return time.monotonic() - guest.begun


def uml_ping(guest: UmlGuest, count: int, *, size: int = 56) -> Pings:
    """Let the guest ping the host."""
    return ping(cast(LinuxGuest, guest), count, size=size)


def tcp(guest: UmlGuest, tap: Tap, card: VhostUserCard, size: int, *,
        way: Literal["to guest", "from guest"], seed: int = 1) -> Stream:
    """Send so many random bytes by TCP; compare what arrived."""
    data = random.Random(seed).randbytes(size)
    results: list[str] = []
    connections: list[socket.socket] = []
    listener = tap.inside(lambda: socket.create_server((HOST, 0)))
    port = listener.getsockname()[1]

    def serve() -> None:
        connection, _address = listener.accept()
        connections.append(connection)
        connection.settimeout(_STREAM_S)
        if way == "to guest":
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # until the guest has read all, and closes
                pass
            return
        seen = hashlib.sha256()
        left = size
        while left and (part := connection.recv(65536)):
            seen.update(part)
            left -= len(part)
        results.append(seen.hexdigest())
        connection.shutdown(socket.SHUT_WR)

    def serve_quietly() -> None:
        with contextlib.suppress(OSError):  # the guest has gone: that shows in the results
            serve()

    with listener:
        listener.settimeout(_STREAM_S)
        thread = threading.Thread(target=serve_quietly, daemon=True)
        thread.start()
        begun, cycle = time.monotonic(), card.engine.cycle
        try:
            if way == "to guest":
                said = guest.run(f"nc {HOST} {port} </dev/null | sha256sum", _STREAM_S)
                results.append(said.split()[0])
            else:
                file = guest.folder / "data"
                file.write_bytes(data)
                guest.run(f"nc {HOST} {port} <{file} >/dev/null", _STREAM_S)
            thread.join(_STREAM_S)
            wall_s = time.monotonic() - begun
        finally:
            for each in (listener, *connections):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            thread.join(_STREAM_S)
    simulated_s = (card.engine.cycle - cycle) / (card.config.clock_mhz * 1e6)
    return Stream(size, results == [hashlib.sha256(data).hexdigest()], wall_s, simulated_s)


@dataclass(frozen=True, kw_only=True)
class UmlRun:
    """What a guest in user-mode Linux is to do."""

    config: NicConfig
    pings: int
    """At least 1."""
    size: int
    """Bytes of each TCP stream; 0 for none."""
    queues: int
    """Pairs of queues that it uses, up to what the card has."""
    packed: bool
    pcap: Path | None
    folder: Path
    """Where the report and the guest's messages go."""

    def __post_init__(self) -> None:
        if self.pings < 1:
            raise ValueError(f"--pings must be at least 1, not {self.pings}")
        if not 0 <= self.size <= 1 << 30:
            raise ValueError(f"--bytes must be from 0 to {1 << 30}, not {self.size}")
        _check_queues(self.queues, self.config)


def _check_queues(queues: int, config: NicConfig) -> None:
    if not 1 <= queues <= config.queue_pairs:
        raise ValueError(f"--queues must be from 1 to {config.queue_pairs}, what the card has, "
                         f"not {queues}")


def _finish(console: Console, title: str, rows: list[tuple[str, str]], report: dict[str, Any],
            path: Path) -> None:
    table = Table(title=title, show_header=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    write_if_changed(path, json.dumps(report, indent=1) + "\n")


def run_uml(options: UmlRun) -> int:
    """Boot the guest, let it ping and send; give 1 when something was lost or differs."""
    console = Console()
    streams: dict[str, Stream] = {}
    with terminated(), console.status(_LIBRARY) as at:
        card_library(options.config)
        programs = uml_programs(lambda line: at.update(f"user-mode Linux: {line}"))
        tap = Tap(f"{HOST}/24", mtu=min(options.config.mtu, 1500))
        with tempfile.TemporaryDirectory(prefix="ringlet-") as folder, VhostUserCard(
                options.config, Path(folder) / "card.sock", tap, pcap=options.pcap,
                hidden=hidden_of(packed=options.packed), protocol=IN_BAND) as card:
            at.update("Linux starts")
            with UmlGuest(programs, card.socket) as guest:
                try:
                    first_ping_s = attach(guest, queues=options.queues)
                    console.print(f"first ping {first_ping_s:.1f} s after the kernel was started")
                    at.update(f"{options.pings} pings")
                    pings = uml_ping(guest, options.pings)
                    for way in _WAYS if options.size else ():
                        at.update(f"TCP {way}, {options.size} bytes")
                        streams[way] = tcp(guest, tap, card, options.size, way=way)
                finally:
                    options.folder.mkdir(parents=True, exist_ok=True)
                    (options.folder / "uml.log").write_text("\n".join(guest.said) + "\n")
            card.check()
            spent = card.spent
            share = spent.card_cpu_s / spent.cpu_s
            report = {
                "rings": "packed" if options.packed else "split", "queues": options.queues,
                "guest": GUEST, "first_ping_s": round(first_ping_s, 2), "pings": asdict(pings),
                "tcp": {way: {**asdict(stream), "wall_mbps": stream.wall_mbps,
                              "simulated_gbps": stream.simulated_gbps}
                        for way, stream in streams.items()},
                "simulated_s": card.simulated_s, "wall_s": round(spent.wall_s, 2),
                "card_share": round(share, 3), "violations": card.clock.violations_seen}
    rows = [("first ping", f"{first_ping_s:.1f} s after the start"),
            ("pings", f"{pings.received} of {pings.sent}, {pings.average_ms:.1f} ms on average")]
    for name, stream in streams.items():
        rows.append((f"TCP {name}", " ".join((
            f"{stream.size} bytes {'equal' if stream.equal else 'DIFFER'},",
            f"{stream.wall_mbps:.2f} Mbit/s, simulated {stream.simulated_gbps:.2f} Gbit/s"))))
    _finish(console, f"user-mode Linux, {report['rings']} rings", rows, report,
            options.folder / "uml.json")
    well = pings.received == pings.sent and all(stream.equal for stream in streams.values())
    return 0 if well else 1


@dataclass(frozen=True)
class PacketRun:
    """What became of packets that testpmd sent back."""

    sent: int
    returned: int
    wrong: list[str]
    """Those that came back changed, twice, or out of order; the first few."""
    wall_s: float
    simulated_s: float
    port: dict[str, int]
    """What testpmd has counted."""
    received: int
    """Frames that the card wrote to buffers, by its own counter, since it was started."""
    transmitted: int
    drops: dict[str, int]

    @property
    def whole(self) -> bool:
        """Whether all came back as they were, and everybody has counted the same."""
        counts = {self.sent, self.returned, self.received, self.transmitted,
                  self.port.get("RX-packets"), self.port.get("TX-packets")}
        return len(counts) == 1 and not self.wrong and not any(self.drops.values())


def echo(guest: Testpmd, loop: PacketLoop, card: VhostUserCard, packets: int) -> PacketRun:
    """Have testpmd forward, and send it so many packets; it must be the first run of the card."""
    guest.run("start")
    deadline = time.monotonic() + _STILL_S
    while not card.ask(lambda: (front := card.server.front_end) is not None
                       and bool(front.queues.active)):
        if time.monotonic() > deadline:
            raise TestpmdError("testpmd has not started its queues\n" + guest.said[-2000:])
        time.sleep(0.01)
    begun, cycle = time.monotonic(), card.engine.cycle
    loop.start(packets)
    while not loop.done and time.monotonic() - loop.last_at < _STILL_S:
        card.check()
        time.sleep(0.01)
    wall_s = time.monotonic() - begun
    simulated_s = (card.engine.cycle - cycle) / (card.config.clock_mhz * 1e6)
    port = guest.counters()
    received = card.ask(lambda: card.bridge.count("received", "frames").events)
    transmitted = card.ask(lambda: card.bridge.count("transmitted", "frames").events)
    drops = {name: count for name, count in card.ask(card.bridge.drops).items() if count}
    return PacketRun(loop.sent, loop.returned, loop.wrong, wall_s, simulated_s, port, received,
                     transmitted, drops)


@dataclass(frozen=True, kw_only=True)
class TestpmdRun:
    """What testpmd is to do."""

    __test__ = False

    config: NicConfig
    packets: int
    """At least 1."""
    device: TestpmdOptions
    pcap: Path | None
    folder: Path
    """Where the report and testpmd's messages go."""

    def __post_init__(self) -> None:
        if self.packets < 1:
            raise ValueError(f"--packets must be at least 1, not {self.packets}")
        device = self.device
        if device.vectorized and device.mergeable:
            raise ValueError("--vectorized needs --unmerged: DPDK has no such path otherwise")
        if device.vectorized and device.packed and not device.in_order:
            raise ValueError("--vectorized with --packed needs --in-order: DPDK has no such path "
                             "otherwise")
        _check_queues(self.device.queues, self.config)


def run_testpmd(options: TestpmdRun) -> int:
    """Let testpmd send packets back; give 1 when some are lost, changed or not counted."""
    console = Console()
    with terminated(), console.status(_LIBRARY) as at:
        card_library(options.config)
        programs = testpmd_programs(lambda line: at.update(f"DPDK: {line}"))
        loop = PacketLoop(flows=1 if options.device.queues == 1 else 16 * options.device.queues)
        with tempfile.TemporaryDirectory(prefix="ringlet-") as folder, VhostUserCard(
                options.config, Path(folder) / "card.sock", loop, pcap=options.pcap) as card:
            at.update("testpmd starts")
            with Testpmd(programs, card.socket, options.device) as guest:
                try:
                    guest.wait_up()
                    at.update(f"{options.packets} packets")
                    done = echo(guest, loop, card, options.packets)
                finally:
                    options.folder.mkdir(parents=True, exist_ok=True)
                    (options.folder / "testpmd.log").write_text(guest.said)
    rate = done.returned / done.wall_s
    wrong = ", some of them WRONG" if done.wrong else ""
    million = 1e-6 * done.returned / done.simulated_s
    rows = [("packets", f"{done.returned} of {done.sent} came back{wrong}"),
            ("counters", "equal everywhere" if done.whole else "DIFFER, or packets were dropped"),
            ("rate", f"{rate:.0f} packets a second, simulated {million:.1f} million")]
    _finish(console, "DPDK's testpmd", rows, {**asdict(done), "device": asdict(options.device),
                                              "whole": done.whole}, options.folder / "testpmd.json")
    return 0 if done.whole else 1
