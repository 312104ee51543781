"""The commands around user-mode Linux and testpmd: mistakes, the loop of packets, the launcher."""

from __future__ import annotations

import errno
import select
import subprocess
import sys
from pathlib import Path

import pytest

from sim.cli import main
from sim.guest import uml_registers
from sim.guest.testpmd import PacketLoop, TestpmdOptions
from sim.guest.vhost_user_run import PacketRun, hidden_of
from sw_driver.layouts import Feature


@pytest.mark.parametrize(("words", "said"), [
    (["uml", "--pings", "0"], "--pings must be at least 1, not 0"),
    (["uml", "--bytes", "1073741825"], "--bytes must be from 0 to 1073741824, not 1073741825"),
    (["uml", "--queues", "17"], "--queues must be from 1 to 16, what the card has, not 17"),
    (["uml", "small", "--queues", "3"], "--queues must be from 1 to 2, what the card has, not 3"),
    (["uml", "--pings", "many"], "--pings"),
    (["testpmd", "--packets", "0"], "--packets must be at least 1, not 0"),
    (["testpmd", "--queues", "0"], "--queues must be from 1 to 16, what the card has, not 0"),
    (["testpmd", "--vectorized"], "--vectorized needs --unmerged"),
    (["testpmd", "--vectorized", "--unmerged", "--packed"], "--vectorized with --packed needs"),
    (["testpmd", "big"], "big"),
])
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main(["guest", *words, "--folder", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not folder.exists()


def test_what_linux_must_not_see() -> None:
    assert hidden_of(packed=True) == 1 << Feature.CTRL_RX
    assert hidden_of(packed=False) == 1 << Feature.CTRL_RX | 1 << Feature.RING_PACKED


def test_options_are_told_to_dpdk() -> None:
    options = TestpmdOptions(queues=2, packed=True, mergeable=False)
    assert options.device(Path("/s")) == (
        "net_virtio_user0,path=/s,queues=2,queue_size=256,packed_vq=1,in_order=0,mrg_rxbuf=0,"
        "vectorized=0")


def ready(loop: PacketLoop) -> bool:
    return bool(select.select([loop.fileno()], [], [], 0)[0])


def test_the_loop_keeps_to_its_window() -> None:
    loop = PacketLoop(sizes=(60, 99), window=4, flows=2)
    assert not ready(loop)
    loop.start(10)
    assert ready(loop)
    sent: list[bytes] = []
    while not loop.done:
        part = [frame for _ in range(6) if (frame := loop.receive()) is not None]
        assert len(part) == min(4, 10 - len(sent))
        assert not ready(loop)
        sent += part
        for frame in part:
            loop.transmit(frame)
        assert ready(loop)
    assert loop.receive() is None
    assert [len(frame) for frame in sent] == [60, 99] * 5
    assert len({frame[26:30] for frame in sent}) == 2
    assert not loop.wrong
    loop.start(4)
    loop.receive()
    loop.forget()
    assert loop.done
    loop.start(1)
    loop.transmit(loop.receive() or b"")
    assert loop.done and not loop.wrong
    loop.close()


@pytest.mark.parametrize("change", ["twice", "swapped", "altered", "short"])
def test_the_loop_sees_what_is_wrong(change: str) -> None:
    loop = PacketLoop()
    loop.start(2)
    first, second = loop.receive() or b"", loop.receive() or b""
    for frame in {"twice": (first, first), "swapped": (second, first),
                  "altered": (first, second[:-1] + b"?"), "short": (first, second[:59])}[change]:
        loop.transmit(frame)
    assert loop.wrong
    loop.close()


def test_a_run_is_whole_or_not() -> None:
    counters = {"RX-packets": 5, "TX-packets": 5}
    assert PacketRun(5, 5, [], 1, 1, counters, 5, 5, {}).whole
    for other in (PacketRun(5, 4, [], 1, 1, counters, 5, 5, {}),
                  PacketRun(5, 5, ["one"], 1, 1, counters, 5, 5, {}),
                  PacketRun(5, 5, [], 1, 1, {"RX-packets": 5, "TX-packets": 4}, 5, 5, {}),
                  PacketRun(5, 5, [], 1, 1, counters, 4, 5, {}),
                  PacketRun(5, 5, [], 1, 1, counters, 5, 5, {"no_fit": 1})):
        assert not other.whole


def test_the_launcher_hides_the_newer_call(tmp_path: Path) -> None:
    """The new call fails as on an old kernel; others say what they would say anyhow."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.ptrace.argtypes = [ctypes.c_long] * 4\n"
        "for request, kind in ((0x4204, 0x202), (0x4205, 0x202), (0x4204, 1), (14, 0x202)):\n"
        "    assert libc.ptrace(request, 0x7FFFFFFF, kind, 0) == -1\n"
        "    print(ctypes.get_errno())\n")
    done = subprocess.run([sys.executable, "-I", uml_registers.__file__, sys.executable,
                           str(probe)], check=True, capture_output=True, text=True)
    assert [int(word) for word in done.stdout.split()] == [
        errno.EINVAL, errno.EINVAL, errno.ESRCH, errno.ESRCH]
