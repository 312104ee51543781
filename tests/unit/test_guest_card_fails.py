"""A card whose thread has failed: whoever waits for it learns that, and it tells why."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from hw.config import NicConfig
from sim.guest.served_card import ServedCard
from sim.guest.vhost_user_server import VhostUserCard


@pytest.mark.parametrize("kind", [ServedCard, VhostUserCard])
def test_nobody_waits_for_a_card_that_has_failed(kind: type[ServedCard | VhostUserCard],
                                                 tmp_path: Path) -> None:
    card = kind(NicConfig.preset("full"), tmp_path / "card")

    def fail() -> None:
        raise ZeroDivisionError("of the test")

    trigger = os.eventfd(0)
    guest = socket.socket(socket.AF_UNIX)
    late = socket.socket(socket.AF_UNIX)
    try:
        guest.settimeout(10)
        guest.connect(str(card.socket))
        if isinstance(card, VhostUserCard):
            assert card.ask(lambda: 5) == 5
        deadline = time.monotonic() + 10
        while (card.server.session if isinstance(card, ServedCard)
               else card.server.front_end) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        card.check()
        card.clock.watch(trigger, fail)
        os.eventfd_write(trigger, 1)
        os.eventfd_write(card.clock._wake, 1)  # it may wait already, for others
        assert guest.recv(1) == b""
        with pytest.raises(ConnectionError):
            late.connect(str(card.socket))
        with pytest.raises(ZeroDivisionError):
            card.check()
        if isinstance(card, VhostUserCard):
            with pytest.raises(ZeroDivisionError):
                card.ask(lambda: 5, timeout_s=5)
    finally:
        for each in (guest, late):
            each.close()
        with pytest.raises(ZeroDivisionError):
            card.close()
        os.close(trigger)
    assert not (tmp_path / "card").exists()
