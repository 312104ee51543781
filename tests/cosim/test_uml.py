"""Linux in user-mode Linux on the card, by vhost-user: its virtio_net, unchanged."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hw.config import NicConfig
from sim.guest.debian import Unpacked
from sim.guest.uml import UmlError, UmlGuest, uml_programs
from sim.guest.vhost_user import IN_BAND, PROTOCOL_FEATURES
from sim.guest.vhost_user_messages import ProtocolFeature
from sim.guest.vhost_user_run import attach, hidden_of, tcp, uml_ping
from sim.guest.vhost_user_server import VhostUserCard
from sim.guest.wire_tap import Tap, TapError
from sim.toolchain import ToolMissing
from sw_driver.layouts import Feature
from tests.cosim.conftest import Figures

CONFIG = NicConfig.preset("full")
FIRST_PING_S = 30  # on a busy machine; alone it is 3


@pytest.fixture(scope="module")
def programs() -> Unpacked:
    """Give the programs, if this machine can have them."""
    try:
        return uml_programs()
    except ToolMissing as error:
        pytest.skip(str(error))


@contextmanager
def card_on_tap(folder: Path, **options: Any) -> Iterator[tuple[VhostUserCard, Tap]]:
    """Give a card whose wire ends in the kernel."""
    try:
        tap = Tap()
    except TapError as error:
        pytest.skip(str(error))
    with VhostUserCard(CONFIG, folder / "card.sock", tap, **options) as card:
        yield card, tap
        assert not card.clock.violations_seen, card.clock.violations


@pytest.mark.virtio("CORE-FEAT-03", "NET-MQ-01")
@pytest.mark.parametrize("case", [
    (False, 1, IN_BAND), (True, 1, IN_BAND), (False, 2, PROTOCOL_FEATURES), (True, 2, IN_BAND)],
    ids=["split", "packed", "split-2-descriptors", "packed-2"])
def test_traffic(programs: Unpacked, tmp_path: Path, figures: Figures, full: bool,
                 case: tuple[bool, int, ProtocolFeature]) -> None:
    """Pings without loss, and streams that arrive as they were sent."""
    packed, queues, protocol = case
    with (card_on_tap(tmp_path, hidden=hidden_of(packed=packed), protocol=protocol) as (card, tap),
          UmlGuest(programs, card.socket) as guest):
        first_ping_s = attach(guest, queues=queues)
        front = card.server.front_end
        assert front is not None
        features = front.queues.features
        assert bool(features >> Feature.RING_PACKED & 1) == packed
        assert features >> Feature.MQ & features >> Feature.EVENT_IDX & 1
        assert front.queues.inband == (ProtocolFeature.INBAND_NOTIFICATIONS in protocol)
        assert "driver: virtio_net" in guest.run("ethtool -i eth0")
        channels = guest.run("ethtool -l eth0")
        assert [int(number) for number in re.findall(r"Combined:\s+(\d+)", channels)] == [
            CONFIG.queue_pairs, queues]
        address = guest.run("cat /sys/class/net/eth0/address").strip()
        assert address == ":".join(re.findall("..", f"{CONFIG.mac:012x}"))
        assert int(guest.run("cat /sys/class/net/eth0/mtu")) == CONFIG.mtu

        pings = uml_ping(guest, 1000 if full else 200)
        assert pings.received == pings.sent == (1000 if full else 200)
        figures.add(first_ping_s=first_ping_s, ping_average_ms=pings.average_ms)
        for way in ("to guest", "from guest"):
            stream = tcp(guest, tap, card, 10_000_000 if full else 1_000_000,
                         way=way)
            assert stream.equal
            name = f"tcp_{way.replace(' ', '_')}"
            figures.add(**{f"{name}_wall_mbps": stream.wall_mbps,
                           f"{name}_simulated_gbps": stream.simulated_gbps})
        assert uml_ping(guest, 20, size=1400).received == 20
        assert not front.refused and not front.queues.notes
        spent = card.spent
        figures.add(simulated_s_per_wall_s=card.simulated_s / spent.wall_s,
                    card_share_of_cpu=spent.card_cpu_s / spent.cpu_s)
        assert first_ping_s < FIRST_PING_S
    assert card.server.served == 1


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_the_driver_leaves_and_comes_back(programs: Unpacked, tmp_path: Path, full: bool,
                                          packed: bool) -> None:
    """Module unloaded and loaded: queues are disabled and set up afresh on one connection."""
    with (card_on_tap(tmp_path, hidden=hidden_of(packed=packed), protocol=IN_BAND) as (card, _tap),
          UmlGuest(programs, card.socket) as guest):
        attach(guest)
        for _ in range(10 if full else 3):
            guest.unload_driver()
            assert card.server.front_end is not None
            assert not card.server.front_end.queues.active
            guest.run("insmod " + guest.module("virtio_net"))
            guest.run("ip addr add 10.20.0.2/24 dev eth0; ip link set eth0 up")
            assert uml_ping(guest, 20).received == 20
        assert card.server.served == 1


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_guests_are_killed_amid_traffic(programs: Unpacked, tmp_path: Path, full: bool,
                                        packed: bool) -> None:
    """Each next guest attaches, and the card has let go of the memory of the one before."""
    with card_on_tap(tmp_path, hidden=hidden_of(packed=packed), protocol=IN_BAND) as (card, tap):
        regions = len(card.engine.memory.regions)
        for delay_s in (0.0, 0.05, 0.3) if full else (0.05,):
            with UmlGuest(programs, card.socket) as guest:
                attach(guest)
                assert len(card.engine.memory.regions) > regions
                thread = threading.Thread(target=_flood, args=(guest, tap, card))
                before = card.spent.frames_out
                thread.start()
                _until(lambda: card.spent.frames_out > before + 50)  # noqa: B023
                time.sleep(delay_s)
                guest.kill()
                thread.join(60)
                assert not thread.is_alive()
            _until(lambda: card.server.front_end is None)
            assert len(card.engine.memory.regions) == regions
        with UmlGuest(programs, card.socket) as guest:
            attach(guest)
            assert uml_ping(guest, 50).received == 50
            assert tcp(guest, tap, card, 200_000, way="from guest").equal


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _flood(guest: UmlGuest, tap: Tap, card: VhostUserCard) -> None:
    """Send until the guest is killed."""
    with suppress(UmlError, OSError):
        tcp(guest, tap, card, 50_000_000, way="from guest")


def test_a_guest_that_fails_says_why(programs: Unpacked) -> None:
    with UmlGuest(programs, None) as guest:
        guest.wait_up()
        with pytest.raises(UmlError, match="status 3"):
            guest.run("(exit 3)")
        assert guest.run("(exit 3)", check=False) == ""
        guest.kill()
        with pytest.raises(UmlError, match="has ended"):
            guest.run("ls")
    with pytest.raises(ValueError, match="memory_mb must be from 32 to 3000, not 16"):
        UmlGuest(programs, None, memory_mb=16)
