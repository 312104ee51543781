"""A card that is served to guests: engine, wire, clock and server, in a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from hw.config import NicConfig
from sim.guest.clock import Clock, Spent
from sim.guest.vfio_user import VfioUserServer
from sim.guest.wire_end import WireEnd
from sim.native.engine import Engine, EngineOptions

__all__ = ["ServedCard"]


class ServedCard:
    """A card at a socket, until it is closed. Guests come and go.

    Parameters
    ----------
    config
        The card.
    socket
        Where guests attach.
    wire
        The far end of its wire, which becomes ours. None: nothing.
    pcap
        A file for all frames (None: none). It is whole after `close`.
    tell
        Called, from the card's thread, with a line for people about what happened.
    """

    def __init__(self, config: NicConfig, socket: Path, wire: WireEnd | None = None, *,
                 pcap: Path | None = None, tell: Callable[[str], None] = lambda line: None
                 ) -> None:
        self.config = config
        self.socket = socket
        self.wire = wire
        self._error: BaseException | None = None
        self.engine = Engine(config, EngineOptions(latency_cycles=0, tlp_log=0))
        try:
            if pcap is not None:
                self.engine.wire.tap(pcap)
            self.clock = Clock(self.engine, wire)
            self.server = VfioUserServer(self.clock, socket, tell)
        except BaseException:
            self.engine.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"card at {socket}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.clock.run()
        except BaseException as error:
            self._error = error
            self.server.hang_up()

    def check(self) -> None:
        """Fail as the card's thread has failed, if it has."""
        if self._error is not None:
            raise self._error

    @property
    def spent(self) -> Spent:
        """What it took so far."""
        return self.clock.spent

    @property
    def simulated_s(self) -> float:
        """Time that has passed for the card."""
        return self.engine.cycle / (self.config.clock_mhz * 1e6)

    def close(self) -> None:
        """Send the guest away and end everything; fails as the card's thread has failed."""
        self.clock.stop()
        self._thread.join()
        try:
            self.server.close()
        finally:
            self.clock.close()
            if self.wire is not None:
                self.wire.close()
            self.engine.close()
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
