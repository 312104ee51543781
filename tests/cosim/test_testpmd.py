"""DPDK's testpmd on the card, by vhost-user: every packet comes back, and all have counted it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hw.config import NicConfig
from sim.guest.debian import Unpacked
from sim.guest.testpmd import PacketLoop, Testpmd, TestpmdOptions, testpmd_programs
from sim.guest.vhost_user_run import echo
from sim.guest.vhost_user_server import VhostUserCard
from sim.toolchain import ToolMissing
from sw_driver.layouts import Feature

FULL = bool(os.environ.get("FULL"))
CONFIG = NicConfig.preset("full")
PACKETS = 1_000_000 if FULL else 50_000
SIZES = (60, 60, 64, 61, 127, 60, 60, 256, 60, 1514)
Figures = Callable[[str, object], None]

MODES = {
    "split": TestpmdOptions(),
    "split-unmerged": TestpmdOptions(mergeable=False),
    "split-in-order": TestpmdOptions(in_order=True),
    "split-vectorized": TestpmdOptions(mergeable=False, vectorized=True),
    "packed": TestpmdOptions(packed=True, queue_size=200),
    "packed-in-order": TestpmdOptions(packed=True, in_order=True),
    "packed-vectorized": TestpmdOptions(packed=True, in_order=True, mergeable=False,
                                        vectorized=True),
    "split-2-queues": TestpmdOptions(queues=2),
    "packed-4-queues": TestpmdOptions(queues=4, packed=True, in_order=True),
}


@pytest.fixture(scope="module")
def programs() -> Unpacked:
    """Give the programs, if this machine can have them."""
    try:
        return testpmd_programs()
    except ToolMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("mode", MODES)
def test_every_packet_comes_back(programs: Unpacked, tmp_path: Path, record_property: Figures,
                                 mode: str) -> None:
    options = MODES[mode]
    loop = PacketLoop(sizes=SIZES, flows=16 * options.queues if options.queues > 1 else 1)
    with (VhostUserCard(CONFIG, tmp_path / "card.sock", loop) as card,
          Testpmd(programs, card.socket, options) as guest):
        guest.wait_up()
        done = echo(guest, loop, card, PACKETS)
        front = card.server.front_end
        assert front is not None
        features = front.queues.features
        for feature, wanted in ((Feature.RING_PACKED, options.packed),
                                (Feature.IN_ORDER, options.in_order),
                                (Feature.MRG_RXBUF, options.mergeable),
                                (Feature.MQ, options.queues > 1)):
            assert bool(features >> feature & 1) == wanted, feature
        assert len(front.queues.active) == 2 * options.queues
        assert done.whole, done
        assert done.returned == PACKETS
        if options.queues > 1:
            queues = guest.queue_counters()
            assert len(queues) == options.queues
            assert all(queues), queues
            assert sum(queues) == PACKETS
        if options.vectorized:
            assert "vectorized" in guest.said
        assert not front.refused and not front.queues.notes
        assert not card.clock.violations_seen, card.clock.violations
        record_property("packets_per_wall_s", round(done.returned / done.wall_s))
        record_property("simulated_mpps", round(1e-6 * done.returned / done.simulated_s, 2))
        spent = card.spent
        record_property("card_share_of_cpu", round(spent.card_cpu_s / spent.cpu_s, 3))


def test_the_port_stops_and_goes_on(programs: Unpacked, tmp_path: Path) -> None:
    """GET_VRING_BASE stops the queues; they are set up again on the same connection."""
    loop = PacketLoop()
    with (VhostUserCard(CONFIG, tmp_path / "card.sock", loop) as card,
          Testpmd(programs, card.socket, TestpmdOptions(packed=True)) as guest):
        guest.wait_up()
        total = 0
        for _ in range(3):
            total += 1000
            done = echo(guest, loop, card, 1000)
            assert done.returned == total and not done.wrong, done
            guest.run("stop")
            guest.run("port stop 0")
            front = card.server.front_end
            assert front is not None and not front.queues.active
            guest.run("port start 0")
        assert card.server.served == 1


@pytest.mark.parametrize("mode", ["split", "packed-in-order"])
def test_killed_amid_traffic(programs: Unpacked, tmp_path: Path, mode: str) -> None:
    """The next one attaches, and every one of its packets comes back."""
    loop = PacketLoop()
    with VhostUserCard(CONFIG, tmp_path / "card.sock", loop) as card:
        regions = len(card.engine.memory.regions)
        for delay_s in (0.02, 0.1, 0.5) if FULL else (0.1,):
            with Testpmd(programs, card.socket, MODES[mode]) as guest:
                guest.wait_up()
                guest.run("start")
                time.sleep(0.3)
                loop.start(10_000_000)
                time.sleep(delay_s)
                assert loop.returned
                guest.kill()
            deadline = time.monotonic() + 10
            while card.server.front_end is not None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert len(card.engine.memory.regions) == regions
            loop.forget()
            time.sleep(0.1)  # what had gone into the card is dropped there
        with Testpmd(programs, card.socket, MODES[mode]) as guest:
            guest.wait_up()
            before = loop.returned
            done = echo(guest, loop, card, 2000)
            assert done.returned - before == 2000 and not done.wrong, done
            assert guest.counters()["RX-packets"] == 2000
        card.check()
