"""A running Linux in QEMU moves to another card, by vhost-user: its traffic goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from hw.config import NicConfig
from sim import toolchain
from sim.guest.migration import TwoHosts
from sim.guest.moving_traffic import MovingTraffic
from sim.guest.qemu import GuestError, LinuxFiles, Qemu, find_qemu, linux_files, release_qemu
from sim.guest.traffic import ping
from sim.guest.wire_tap import TapError
from sim.toolchain import ToolMissing
from sw_driver.layouts import Feature
from tests.cosim.conftest import Figures

CONFIG = NicConfig.preset("full")
CASES = {"packed": (find_qemu, True), "split-release": (release_qemu, False),
         "split": (find_qemu, False), "packed-release": (release_qemu, True)}
"""Which QEMU, and whether it offers packed rings."""
BRIEF = ("packed", "split-release")


@contextmanager
def two_hosts(qemu: Qemu, files: LinuxFiles, folder: Path, *, packed: bool) -> Iterator[TwoHosts]:
    """Give two hosts with a guest that takes commands."""
    logs = toolchain.build_folder() / "cosim"
    try:
        hosts = TwoHosts(qemu, files, CONFIG, folder, logs, packed=packed)
    except TapError as error:
        pytest.skip(str(error))
    with hosts:
        hosts.guest.wait_ready(240)
        yield hosts


@pytest.fixture(scope="module")
def files() -> LinuxFiles:
    """Give what the guest boots, if this machine can have it."""
    try:
        return linux_files()
    except ToolMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=() if case in BRIEF else pytest.mark.full) for case in CASES])
def test_a_running_guest_moves(files: LinuxFiles, tmp_path: Path, figures: Figures, full: bool,
                               case: str) -> None:
    """No ping is lost but around the pause, and each stream arrives as it was sent."""
    find, packed = CASES[case]
    try:
        qemu = find()
    except ToolMissing as error:
        pytest.skip(str(error))
    with two_hosts(qemu, files, tmp_path, packed=packed) as hosts:
        source, target = hosts.cards
        with MovingTraffic(hosts, 20_000_000 if full else 1_000_000) as traffic:
            front = source.server.front_end
            assert front is not None
            assert bool(front.queues.features >> Feature.RING_PACKED & 1) == packed
            assert front.queues.active == (0, 1)
            assert target.server.front_end is not None
            assert not target.server.front_end.queues.active  # it waits
            moved = traffic.move()
            assert not front.queues.active
            assert target.server.front_end.queues.active == (0, 1)
            done = traffic.finish(moved)
        figures.add(**{name: value for name, value in asdict(done).items()
                       if isinstance(value, int | float)},
                    **{name: value for name, value in asdict(moved).items()
                       if not name.endswith("_at")})
        assert done.whole, done
        assert done.pings - done.lost > 50  # there were pings before and after
        assert target.bridge.announced
        assert not source.bridge.announced
        assert not front.refused and not front.queues.notes
        front = target.server.front_end
        assert front is not None
        assert not front.refused and not front.queues.notes
        assert ping(hosts.guest, 20).received == 20
        hosts.check()
        for card in hosts.cards:
            assert not card.clock.violations_seen, card.clock.violations


def test_unmarked_pages_are_noticed(files: LinuxFiles, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the log of what the card writes the same traffic does not arrive whole."""
    try:
        qemu = find_qemu()
    except ToolMissing as error:
        pytest.skip(str(error))
    with two_hosts(qemu, files, tmp_path, packed=True) as hosts:
        for card in hosts.cards:
            monkeypatch.setattr(card.engine.memory, "log_dirty", lambda bitmap: None)
        with MovingTraffic(hosts, 500_000) as traffic:
            moved = traffic.move()
            traffic.wait_s = 30  # with rings that have gone wrong it would stay silent
            try:
                whole = traffic.finish(moved).whole
            except GuestError:  # its rings or its kernel did not survive it
                whole = False
        assert not whole
