"""A socket at which vhost-user front-ends find the card, one after another."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from hw.config import NicConfig
from sim.guest.clock import Clock, Spent
from sim.guest.vhost_user import PROTOCOL_FEATURES, FrontEnd
from sim.guest.vhost_user_card import BridgedCard
from sim.guest.vhost_user_messages import Channel, ProtocolFeature
from sim.guest.wire_end import WireEnd
from sim.native.engine import Engine, EngineOptions

__all__ = ["VhostUserCard", "VhostUserServer"]

Result = TypeVar("Result")

_PATH_BYTES = 107


class VhostUserServer:
    """Listens at a path; serves one front-end, and the next one when it has gone.

    Others that connect meanwhile wait.

    Parameters
    ----------
    clock, card
        The card.
    path
        Of the socket, at most 107 bytes; a socket that nobody listens at is replaced.
    hidden
        Feature bits that front-ends are not offered, as a mask.
    protocol
        Protocol features that they are offered.
    told
        Called with a line whenever a front-end comes or goes.
    """

    def __init__(self, clock: Clock, card: BridgedCard, path: Path, *, hidden: int = 0,
                 protocol: ProtocolFeature = PROTOCOL_FEATURES,
                 told: Callable[[str], None] = lambda line: None) -> None:
        if len(os.fsencode(path)) > _PATH_BYTES:
            raise ValueError(f"{path} is too long for a socket: at most {_PATH_BYTES} bytes")
        self._clock, self._card, self._told = clock, card, told
        self.hidden, self.protocol = hidden, protocol
        """What is offered to those that come from now on."""
        self.path = path
        self.front_end: FrontEnd | None = None
        self.served = 0
        """Front-ends so far."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.setblocking(False)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room()
            self._listener.bind(str(path))
            self._listener.listen(8)
        except BaseException:
            self._listener.close()
            raise
        clock.watch(self._listener.fileno(), self._accept)

    def _make_room(self) -> None:
        """Remove a socket that a process has left behind."""
        if not self.path.is_socket():
            return  # a file of another kind is not ours to remove: bind will say so
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            try:
                trial.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()

    def _accept(self) -> None:
        try:
            link, _address = self._listener.accept()
        except OSError:  # it has gone already
            return
        self.served += 1
        self._clock.unwatch(self._listener.fileno())
        self.front_end = FrontEnd(self._clock, self._card, Channel(link), hidden=self.hidden,
                                  protocol=self.protocol, gone=self._gone)
        self._told("a front-end has come")

    def _gone(self, reason: str) -> None:
        self.front_end = None
        self._told(f"the front-end has gone: {reason}")
        if self._listener.fileno() >= 0:
            self._clock.watch(self._listener.fileno(), self._accept)

    def hang_up(self) -> None:
        """Serve nobody any more, as the card has failed: who waits for it, or comes, learns it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self.front_end is not None:
            self.front_end.hang_up()

    def close(self) -> None:
        """End the front-end and the socket."""
        self._clock.unwatch(self._listener.fileno())
        self._listener.close()
        if self.front_end is not None:
            self.front_end.end("the server ends")
        self.path.unlink(missing_ok=True)


class VhostUserCard:
    """A card at a socket of vhost-user, in a thread of its own, until it is closed.

    Parameters
    ----------
    config
        The card.
    socket
        Where front-ends attach.
    wire
        The far end of its wire, which becomes ours. None: nothing.
    pcap
        A file for all frames (None: none). It is whole after `close`.
    hidden, protocol
        As of `VhostUserServer`.
    tell
        Called, from the card's thread, with a line for people about what happened.
    """

    def __init__(self, config: NicConfig, socket: Path, wire: WireEnd | None = None, *,
                 pcap: Path | None = None, hidden: int = 0,
                 protocol: ProtocolFeature = PROTOCOL_FEATURES,
                 tell: Callable[[str], None] = lambda line: None) -> None:
        self.config, self.socket, self.wire = config, socket, wire
        self._error: BaseException | None = None
        self._asked: deque[Callable[[], None]] = deque()
        self._asks = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.engine = Engine(config, EngineOptions(latency_cycles=0, tlp_log=0))
        try:
            if pcap is not None:
                self.engine.wire.tap(pcap)
            self.clock = Clock(self.engine, wire)
            self.bridge = BridgedCard(self.clock, config)
            self.server = VhostUserServer(self.clock, self.bridge, socket, hidden=hidden,
                                          protocol=protocol, told=tell)
            self.clock.watch(self._asks, self._answer)
        except BaseException:
            self.engine.close()
            os.close(self._asks)
            raise
        self._thread = threading.Thread(target=self._run, name=f"card at {socket}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.clock.run()
        except BaseException as error:
            self._error = error
            self.server.hang_up()

    def _answer(self) -> None:
        os.eventfd_read(self._asks)
        while self._asked:
            self._asked.popleft()()

    def ask(self, question: Callable[[], Result], timeout_s: float = 30) -> Result:
        """Call a function in the card's thread, between bursts; give its result."""
        answer: Future[Result] = Future()

        def call() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self.check()
        self._asked.append(call)
        os.eventfd_write(self._asks, 1)
        return answer.result(timeout_s)

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
            self.clock.unwatch(self._asks)
            os.close(self._asks)
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
