"""A socket at which vhost-user front-ends find the card, one after another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from sim.guest.clock import Clock
from sim.guest.vhost_user import PROTOCOL_FEATURES, FrontEnd
from sim.guest.vhost_user_card import BridgedCard
from sim.guest.vhost_user_messages import Channel, ProtocolFeature

__all__ = ["VhostUserServer"]

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

    def close(self) -> None:
        """End the front-end and the socket."""
        self._clock.unwatch(self._listener.fileno())
        self._listener.close()
        if self.front_end is not None:
            self.front_end.end("the server ends")
        self.path.unlink(missing_ok=True)
