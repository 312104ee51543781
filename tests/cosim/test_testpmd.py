"""DPDK's testpmd on the card, by vhost-user: every packet comes back, and all have counted it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hw.config import NicConfig
from sim.guest import vhost_user
from sim.guest.debian import Unpacked
from sim.guest.testpmd import PacketLoop, Testpmd, TestpmdOptions, testpmd_programs
from sim.guest.vhost_user import FrontEnd
from sim.guest.vhost_user_messages import Message, Request, VringState
from sim.guest.vhost_user_run import echo
from sim.guest.vhost_user_server import VhostUserCard
from sim.toolchain import ToolMissing
from sw_driver.layouts import Feature
from tests.cosim.conftest import Figures

CONFIG = NicConfig.preset("full")
SIZES = (60, 60, 64, 61, 127, 60, 60, 256, 60, 1514)
MODES = {
    "split": TestpmdOptions(),
    "split-in-order": TestpmdOptions(in_order=True),
    "split-vectorized": TestpmdOptions(mergeable=False, vectorized=True),
    "packed": TestpmdOptions(packed=True, queue_size=200),
    "packed-vectorized": TestpmdOptions(packed=True, in_order=True, mergeable=False,
                                        vectorized=True),
    "packed-in-order": TestpmdOptions(packed=True, in_order=True),
    "split-unmerged": TestpmdOptions(mergeable=False),
    "split-2-queues": TestpmdOptions(queues=2),
    "packed-4-queues": TestpmdOptions(queues=4, packed=True, in_order=True),
}
WIDE = "avx512vl" in Path("/proc/cpuinfo").read_text()
"""Without it packed rings have no vector path."""
BRIEF = list(MODES)[5:]
"""Modes that share all their paths with others, but in other company."""


@pytest.fixture(scope="module")
def programs() -> Unpacked:
    """Give the programs, if this machine can have them."""
    try:
        return testpmd_programs()
    except ToolMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("mode", MODES)
def test_every_packet_comes_back(programs: Unpacked, tmp_path: Path, figures: Figures,
                                 full: bool, mode: str) -> None:
    options = MODES[mode]
    packets = 1_000_000 if full else 5000 if mode in BRIEF else 50_000
    loop = PacketLoop(sizes=SIZES, flows=16 * options.queues if options.queues > 1 else 1)
    with (VhostUserCard(CONFIG, tmp_path / "card.sock", loop) as card,
          Testpmd(programs, card.socket, options) as guest):
        guest.wait_up()
        done = echo(guest, loop, card, packets)
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
        assert done.returned == packets
        if options.queues > 1:
            queues = guest.queue_counters()
            assert len(queues) == options.queues
            assert all(queues), queues
            assert sum(queues) == packets
        if options.vectorized and not (options.packed and not WIDE):
            assert "vectorized Rx path" in guest.said
        assert not front.refused and not front.queues.notes
        assert not card.clock.violations_seen, card.clock.violations
        spent = card.spent
        figures.add(packets=packets, packets_per_wall_s=done.returned / done.wall_s,
                    simulated_mpps=1e-6 * done.returned / done.simulated_s,
                    card_share_of_cpu=spent.card_cpu_s / spent.cpu_s)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_the_queues_tell_where_they_stand(programs: Unpacked, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """GET_VRING_BASE at the end: every frame took one place of each ring."""
    bases: dict[int, int] = {}

    def get_base(front: FrontEnd, message: Message) -> VringState:
        state = FrontEnd._get_base(front, message)
        assert isinstance(state, VringState)
        bases[state.queue] = state.number
        return state

    monkeypatch.setitem(vhost_user._HANDLERS, Request.GET_VRING_BASE, get_base)
    loop = PacketLoop()
    frames = 3000
    with (VhostUserCard(CONFIG, tmp_path / "card.sock", loop) as card,
          Testpmd(programs, card.socket, TestpmdOptions(packed=packed)) as guest):
        guest.wait_up()
        for part in (1, 2, 3):  # stopped and started meanwhile, the driver keeps its queues
            done = echo(guest, loop, card, frames // 3)
            assert done.returned == part * frames // 3
            assert not done.wrong, done
            guest.run("stop")
            guest.run("port stop 0")
            guest.run("port start 0")
        guest.run("port stop 0")
        guest.run("port close 0")
        card.check()
    laps, place = divmod(frames, 256)
    told = place | (laps + 1) % 2 << 15
    assert bases == dict.fromkeys((0, 1), told | told << 16 if packed else frames)


@pytest.mark.parametrize("mode", ["split", "packed-in-order"])
def test_killed_amid_traffic(programs: Unpacked, tmp_path: Path, full: bool, mode: str) -> None:
    """The next one attaches, and every one of its packets comes back."""
    loop = PacketLoop()
    with VhostUserCard(CONFIG, tmp_path / "card.sock", loop) as card:
        regions = len(card.engine.memory.regions)
        for delay_s in (0.02, 0.1, 0.5) if full else (0.1,):
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
