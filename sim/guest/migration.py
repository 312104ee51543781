"""A running guest moves from one host to another: from a card to another card, by vhost-user."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hw.config import NicConfig
from sim.guest.qemu import GuestError, LinuxFiles, LinuxGuest, Qemu, vhost_user_options
from sim.guest.qmp import Qmp
from sim.guest.vhost_user_server import VhostUserCard
from sim.guest.wire_tap import TapBridge

__all__ = ["Migration", "Moved", "TwoHosts"]

_MOST_S = 300
# Until it is to be stopped the guest writes so much memory that a pass takes half a second, and
# meanwhile it writes all of it again: there is never so little left that QEMU would end it.
_SLOW = 16 << 20  # bytes a second
_WRITER = """head -c 262144 /dev/urandom >/tmp/noise; touch /tmp/write; (while [ -e /tmp/write ]; \
do for n in $(seq 32); do cat /tmp/noise; done >/tmp/written; usleep 100000; done) &"""
_FAST = 1 << 34
_ONE_MS = 1
_LONG_MS = 10_000
_LOOK_S = 0.05


class TwoHosts:
    """Two hosts on one bridge, each a card of its own and a QEMU; the second waits for the guest.

    Use it in a ``with`` statement.

    Parameters
    ----------
    qemu, files
        What runs, and what it boots.
    config
        Of both cards: what the guest was offered by one it finds at the other.
    folder
        For sockets; short.
    logs
        Where the guests' messages go.
    packed
        Whether QEMU offers packed rings.
    pcap
        Whether the frames of both wires are kept, in the folder of the messages.
    tell
        Called, from the cards' threads, with a line for people about what happened.

    Attributes
    ----------
    bridge
        Whose address is ``10.20.0.1/24``.
    cards
        Two.
    guest
        Where it runs now.
    """

    def __init__(self, qemu: Qemu, files: LinuxFiles, config: NicConfig, folder: Path, logs: Path,
                 *, packed: bool = True, pcap: bool = False,
                 tell: Callable[[str], None] = lambda line: None) -> None:
        self._qemu, self._files, self._config = qemu, files, config
        self._folder, self._logs, self._packed = folder, logs, packed
        self._link = folder / "link"
        self._stack = ExitStack()
        self.cards: list[VhostUserCard] = []
        try:
            self.bridge = TapBridge(2, mtu=min(config.mtu, 1500))
            self._stack.callback(self.bridge.close)
            for port in self.bridge.ports:  # those that no card has taken are ours to close
                self._stack.callback(port.close)
            for number, port in enumerate(self.bridge.ports):
                card = VhostUserCard(
                    config, folder / f"card{number}", port,
                    pcap=logs / f"migration-{number}.pcap" if pcap else None,
                    tell=lambda line, number=number: tell(  # type: ignore[misc]  # as above
                        f"card {number}: {line}"))
                self.cards.append(self._stack.enter_context(card))
            self.guest = self._start(0)
            self._target = self._start(1, "-incoming", f"unix:{self._link}")
        except BaseException:
            self._stack.close()
            raise

    def _start(self, number: int, *options: str) -> LinuxGuest:
        guest = LinuxGuest(
            self._qemu, self._files, [], self._logs / f"migration-{number}.log", processors=1,
            options=[*vhost_user_options(self._qemu, self.cards[number].socket, self._config.mac,
                                         packed=self._packed),
                     "-qmp", f"unix:{self._monitor(number)},server=on,wait=off", *options])
        self._stack.callback(guest.kill)
        return guest

    def _monitor(self, number: int) -> Path:
        return self._folder / f"monitor{number}"

    def migrate(self) -> Migration:
        """Begin to move the guest to the second host; it runs on meanwhile. Once."""
        target, link = self._target, self._link
        monitors = [self._stack.enter_context(Qmp(self._monitor(number))) for number in range(2)]
        deadline = time.monotonic() + _MOST_S
        while not link.exists():
            if time.monotonic() > deadline or not target.alive:
                raise GuestError(f"the second QEMU does not wait for the guest\n{target.said}")
            time.sleep(_LOOK_S)
        return Migration(self, target, monitors[0], monitors[1], link)

    def check(self) -> None:
        """Fail as a card has failed, if one has."""
        for card in self.cards:
            card.check()

    def close(self) -> None:
        """End both QEMUs and both cards, and remove the bridge."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Moved:
    """How a migration went."""

    downtime_ms: float
    """From the stop of the one QEMU, with its devices, to the start of the other."""
    downtime_told_ms: int
    """As the first QEMU tells it."""
    total_ms: int
    transferred_bytes: int
    passes: int
    """Times that QEMU looked what had been written."""
    stopped_at: float
    resumed_at: float
    """Seconds of the machine's clock."""


class Migration:
    """A migration that is under way: slowly until `finish`, so that the guest is not stopped yet.

    Parameters
    ----------
    hosts
        Whose guest it is.
    target
        The guest at its new place, from `finish` on.
    source_monitor, target_monitor
        Of both QEMUs.
    link
        The socket between them.
    """

    def __init__(self, hosts: TwoHosts, target: LinuxGuest, source_monitor: Qmp,
                 target_monitor: Qmp, link: Path) -> None:
        self._hosts, self._target = hosts, target
        self._source_monitor, self._target_monitor = source_monitor, target_monitor
        for monitor in (source_monitor, target_monitor):
            monitor.command("migrate-set-capabilities",
                            capabilities=[{"capability": "events", "state": True}])
        hosts.guest.run(_WRITER)
        self._set(_SLOW, _ONE_MS)
        source_monitor.command("migrate", uri=f"unix:{link}")

    def _set(self, bandwidth: int, downtime_ms: int) -> None:
        self._source_monitor.command("migrate-set-parameters", max_bandwidth=bandwidth,
                                     downtime_limit=downtime_ms)

    def look(self) -> dict[str, Any]:
        """Give what QEMU tells of it: ``status``, ``ram`` and more. `GuestError` if it failed."""
        self._hosts.check()
        found: dict[str, Any] = self._source_monitor.command("query-migrate")
        if found.get("status") in ("failed", "cancelled"):
            raise GuestError(f"the migration has {found['status']}: "
                             f"{found.get('error-desc', 'no reason is given')}\n"
                             f"{self._target.said}")
        return found

    @property
    def passes(self) -> int:
        """How often QEMU has looked what was written; from 2 on all memory was copied once."""
        return int(self.look().get("ram", {}).get("dirty-sync-count", 0))

    def wait_passes(self, passes: int, told: Callable[[int, int], None] = lambda done, at: None
                    ) -> None:
        """Wait for so many passes, while the guest runs on.

        Calls ``told`` with the bytes that were moved and the pass. `GuestError` if the guest has
        been stopped before, or it takes 300 seconds.
        """
        deadline = time.monotonic() + _MOST_S
        while True:
            found = self.look()
            ram = found.get("ram", {})
            told(ram.get("transferred", 0), ram.get("dirty-sync-count", 0))
            if found.get("status") == "completed":
                raise GuestError("the guest has been moved before it was asked for")
            if ram.get("dirty-sync-count", 0) >= passes:
                return
            if time.monotonic() > deadline:
                raise GuestError(f"the migration does not come to pass {passes}: {found}")
            time.sleep(_LOOK_S)

    def finish(self) -> Moved:
        """Stop the guest, move what is left, start it on the other host; it is `hosts.guest`."""
        self._set(_FAST, _LONG_MS)
        deadline = time.monotonic() + _MOST_S
        while (found := self.look()).get("status") != "completed":
            if time.monotonic() > deadline:
                raise GuestError(f"the migration does not end: {found}")
            time.sleep(_LOOK_S)
        while (resumed := self._target_monitor.when("RESUME")) is None:
            if time.monotonic() > deadline:
                raise GuestError(f"the guest does not go on\n{self._target.said}")
            time.sleep(_LOOK_S)
        # QEMU tells of the stop when its devices have stopped, which takes the card a while.
        told_ms = int(found["downtime"])
        ended = self._source_monitor.when("MIGRATION", status="completed")
        stopped = self._source_monitor.when("STOP")
        assert stopped is not None and ended is not None
        stopped = min(stopped, ended - told_ms / 1000)
        self._hosts.guest = self._target
        self._target.run("rm /tmp/write")
        ram = found["ram"]
        return Moved(1000 * (resumed - stopped), told_ms, int(found["total-time"]),
                     int(ram["transferred"]), int(ram["dirty-sync-count"]), stopped, resumed)
