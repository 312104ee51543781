"""What a migration of a guest is made of, without a guest: monitor, pings, bridge, options."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from hw.config import NicConfig
from sim.cli import main
from sim.guest.echo_probe import EchoProbe
from sim.guest.long_stream import StreamFromGuest, StreamToGuest
from sim.guest.migrate import MigrateOptions
from sim.guest.migration import Moved
from sim.guest.moving_traffic import MovedTraffic
from sim.guest.qemu import GuestError, Qemu, vhost_user_options
from sim.guest.qmp import Qmp
from sim.guest.wire_tap import Tap, TapBridge, TapError

Result = TypeVar("Result")
STATION = "02:52:4e:47:00:01"


class Monitor:
    """The other end of QMP, with the answers that it is told."""

    def __init__(self, path: Path) -> None:
        self.asked: list[dict[str, object]] = []
        self.answers: list[list[dict[str, object]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        link, _from = self._listener.accept()
        with link, link.makefile("rw") as lines:
            print(json.dumps({"QMP": {}}), file=lines, flush=True)
            for line in lines:
                self.asked.append(json.loads(line))
                if len(self.asked) == 1:
                    print(json.dumps({"return": {}}), file=lines, flush=True)
                    continue
                if not self.answers:
                    return
                for answer in self.answers.pop(0):
                    print(json.dumps(answer), file=lines, flush=True)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    monitor = Monitor(tmp_path / "qmp")
    yield monitor
    monitor.close()


def test_commands_and_events_of_a_monitor(monitor: Monitor, tmp_path: Path) -> None:
    stop: dict[str, object] = {
        "event": "STOP", "timestamp": {"seconds": 7, "microseconds": 250_000}}
    monitor.answers = [[stop, {"return": {"status": "active"}}],
                       [{"error": {"class": "GenericError", "desc": "no such thing"}}],
                       [{"return": {}}], [{"return": {}}], [{"return": {}}]]
    with Qmp(tmp_path / "qmp") as qmp:
        assert qmp.command("query-migrate", max_bandwidth=5) == {"status": "active"}
        assert monitor.asked[-1] == {"execute": "query-migrate", "arguments": {"max-bandwidth": 5}}
        with pytest.raises(GuestError, match="migrate: no such thing"):
            qmp.command("migrate")
        assert qmp.when("STOP", status="completed") is None
        assert qmp.when("STOP") == 7.25
        assert qmp.when("RESUME") is None
        with pytest.raises(GuestError, match="QEMU has ended"):
            qmp.command("query-status")


def test_options_of_a_device(tmp_path: Path) -> None:
    words = " ".join(vhost_user_options(Qemu(("q",), "tcg"), tmp_path, 0x02524E470001,
                                        packed=False))
    assert f"mac={STATION},packed=off," in words
    assert "vectors" not in words
    assert ",vectors=0" in vhost_user_options(Qemu(("q",), "tcg", msix=False), tmp_path, 1)[-1]


def outcome(**changes: int) -> MovedTraffic:
    moved = Moved(20.0, 20, 1000, 1000, 3, 10.0, 10.02)
    return MovedTraffic(**{  # type: ignore[arg-type]  # as they come
        "moved": moved, "pings": 9, "lost": 2, "lost_beyond": 0, "strange": 0, "silence_ms": 9.0,
        "to_guest_bytes": 5, "to_guest_equal": True, "from_guest_bytes": 5,
        "from_guest_equal": True, **changes})


def test_what_is_whole() -> None:
    assert outcome().whole
    for change in ({"lost_beyond": 1}, {"strange": 1}, {"to_guest_equal": False},
                   {"from_guest_equal": False}):
        assert not outcome(**change).whole, change


def test_options_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("0", str((1 << 30) + 1)):
        with pytest.raises(ValueError, match=f"--bytes must be from 1 to 1073741824, not {value}"):
            MigrateOptions(config=NicConfig.preset("full"), size=int(value), packed=True,
                           release=False, pcap=False, folder=tmp_path)
    assert main(["guest", "migrate", "--bytes", "0", "--folder", str(tmp_path / "no")]) == 2
    assert "--bytes must be from 1" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


root = pytest.mark.skipif(bool(os.geteuid()), reason="network namespaces need root")


@root
def test_a_bridge_follows_a_station() -> None:
    with pytest.raises(ValueError, match="ports must be from 1 to 8, not 9"):
        TapBridge(9)
    try:
        bridge = TapBridge(2)
    except TapError as error:
        pytest.skip(str(error))
    frame = b"\xff" * 6 + bytes.fromhex(STATION.replace(":", "")) + b"\x80\x35" + bytes(46)
    try:
        assert bridge.port_of(STATION) is None
        for number, port in enumerate(bridge.ports):
            port.transmit(frame)
            assert bridge.port_of(STATION) == number
            assert bridge.ports[1 - number].receive() == frame  # to all
            assert port.receive() is None
    finally:
        for port in bridge.ports:
            port.close()
        bridge.close()


class Here:
    """This machine's own network."""

    def inside(self, function: Callable[[], Result]) -> Result:
        return function()


@root
def test_pings_that_are_answered_and_lost() -> None:
    """A namespace answers its own address; nobody answers another."""
    try:
        tap = Tap()
    except TapError as error:
        pytest.skip(str(error))
    try:
        well = EchoProbe(tap, "10.20.0.1", interval_s=0.01)
        time.sleep(0.3)
        tap.inside(lambda: os.system("ip address delete 10.20.0.1/24 dev wire0"))
        gone = time.time()
        time.sleep(0.3)
        tap.inside(lambda: os.system("ip address add 10.20.0.1/24 dev wire0"))
        back = time.time()
        time.sleep(0.3)
        well.stop()
    finally:
        tap.close()
    assert len(well.sent) > 50
    assert well.answered and well.lost
    assert all(gone - 0.1 < at < back + 0.1 for at in well.lost), (gone, back, well.lost)
    assert 0.2 < well.silence_s < 1
    assert not well.strange
    with pytest.raises(ValueError, match="interval_s must be from"):
        EchoProbe(tap, "10.20.0.1", interval_s=0)


class Shell:
    """A guest that is this machine: its commands are done by a thread of the test instead."""

    def __init__(self, **said: str) -> None:
        self.said = said
        self.commands: list[str] = []

    def run(self, command: str, *_more: object) -> str:
        self.commands.append(command)
        return next((text for start, text in self.said.items() if command.startswith(start)), "")


@pytest.mark.parametrize("changed", [False, True])
def test_a_stream_to_a_guest(changed: bool) -> None:
    import hashlib  # noqa: PLC0415
    guest = Shell(nc="77", **{"for": ""})
    stream = StreamToGuest(Here(), "127.0.0.1", guest)  # type: ignore[arg-type]  # enough of one
    port = int(guest.commands[-1].split()[2])
    got = bytearray()

    def read(link: socket.socket) -> None:
        while data := link.recv(65536):
            got.extend(data)

    with socket.create_connection(("127.0.0.1", port)) as link:
        thread = threading.Thread(target=read, args=(link,), daemon=True)
        thread.start()
        stream.wait(500_000, 10)
        stream.hold(guest, 10)  # type: ignore[arg-type]
        held = stream.size
        stream.send_held(1000, 10)
        assert stream.size == held + 1000
        stream.go_on(guest)  # type: ignore[arg-type]
        stream.wait(held + 200_000, 10)
        with stream._change:
            stream._ended = True
            stream._change.notify()
        thread.join(10)
        assert len(got) == stream.size
        got[1234] ^= changed
        guest.said["for"] = hashlib.sha256(got).hexdigest() + "  -"
        assert stream.end(guest, 10) != changed  # type: ignore[arg-type]
    assert [word for word in guest.commands if word.startswith("kill")] == [
        "kill -STOP 77", "kill -CONT 77"]
    stream.close()


@pytest.mark.parametrize("fault", ["none", "bit", "cut"])
def test_a_stream_from_a_guest(fault: str) -> None:
    import hashlib  # noqa: PLC0415
    block = os.urandom(4096 * 64)
    guest = Shell(sha256sum=hashlib.sha256(block).hexdigest() + "  /tmp/block")
    stream = StreamFromGuest(Here(), "127.0.0.1", guest)  # type: ignore[arg-type]
    port = int(guest.commands[-1].partition("nc 127.0.0.1 ")[2].split()[0])
    sent = bytearray(block * 3)
    if fault == "bit":
        sent[len(block) + 5] ^= 1
    elif fault == "cut":
        del sent[-1]
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(sent)
        link.shutdown(socket.SHUT_WR)
        assert stream.end(guest, 10) == (fault == "none")  # type: ignore[arg-type]
    assert stream.size == len(sent)
    with pytest.raises(GuestError, match="a stream stays at"):
        stream.wait(len(sent) + 1, 0.1)
    stream.close()
