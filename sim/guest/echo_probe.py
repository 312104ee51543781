"""Pings at a steady pace from one side, and which of them were answered when."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, TypeVar

__all__ = ["EchoProbe", "Place"]

Result = TypeVar("Result")

_HEADER = struct.Struct(">BBHHH")  # type, code, checksum, identity, sequence
_NUMBER = struct.Struct(">Q")
_REQUEST, _REPLY = 8, 0
_GRACE_S = 5.0


class Place(Protocol):
    """Where sockets are made."""

    def inside(self, function: Callable[[], Result]) -> Result:
        """Call a function in a namespace."""


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class EchoProbe:
    """ICMP echo requests from a namespace to a guest, until they are stopped.

    One leaves every ``interval_s`` whatever becomes of the others; an answer may take 5 seconds
    after the last. Times are seconds of the machine's clock, as `time.time` has it.

    Parameters
    ----------
    place
        The namespace (`Tap`, `TapBridge`).
    address
        Of the guest.
    interval_s
        0.001 to 10.
    size
        Bytes after the ICMP header, 8 or more and even.
    """

    def __init__(self, place: Place, address: str, *, interval_s: float = 0.02,
                 size: int = 56) -> None:
        if not 0.001 <= interval_s <= 10:
            raise ValueError(f"interval_s must be from 0.001 to 10, not {interval_s!r}")
        if size < _NUMBER.size or size % 2:
            raise ValueError(f"size must be even and at least {_NUMBER.size}, not {size!r}")
        self._interval_s, self._size = interval_s, size
        self.sent: list[float] = []
        """When each was sent."""
        self.answered: dict[int, float] = {}
        """When the answer to each came first, by its number."""
        self.strange = 0
        """Answers whose bytes are not those of the request."""
        self._identity = os.getpid() & 0xFFFF
        self._stopped = threading.Event()
        self._socket = place.inside(lambda: socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP))
        self._socket.connect((address, 0))
        self._thread = threading.Thread(target=self._run, name=f"pings to {address}")
        self._thread.start()

    def _payload(self, number: int) -> bytes:
        return _NUMBER.pack(number) + bytes(number + at & 0xFF
                                            for at in range(self._size - _NUMBER.size))

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            self._send()
            due += self._interval_s
            while (left := due - time.monotonic()) > 0:
                self._take(left)
        end = time.monotonic() + _GRACE_S
        while len(self.answered) < len(self.sent) and (left := end - time.monotonic()) > 0:
            self._take(left)
        self._socket.close()

    def _send(self) -> None:
        number = len(self.sent)
        body = self._payload(number)
        header = _HEADER.pack(_REQUEST, 0, 0, self._identity, number & 0xFFFF)
        header = _HEADER.pack(_REQUEST, 0, _checksum(header + body), self._identity,
                              number & 0xFFFF)
        self.sent.append(time.time())
        try:
            self._socket.send(header + body)
        except OSError:  # no room, or nobody answers for the address: it counts as lost
            pass

    def _take(self, timeout_s: float) -> None:
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return
        try:
            packet = self._socket.recv(65536)
        except OSError:
            return
        icmp = packet[4 * (packet[0] & 15):]
        kind, _code, _sum, identity, _sequence = _HEADER.unpack_from(icmp)
        if kind != _REPLY or identity != self._identity:
            return
        body = icmp[_HEADER.size:]
        number, = _NUMBER.unpack_from(body)
        if number >= len(self.sent) or body != self._payload(number):
            self.strange += 1
        else:
            self.answered.setdefault(number, time.time())

    def stop(self) -> None:
        """Send no more, and wait for answers that are under way."""
        self._stopped.set()
        self._thread.join()

    @property
    def lost(self) -> list[float]:
        """When those were sent that were not answered."""
        return [at for number, at in enumerate(self.sent) if number not in self.answered]

    @property
    def silence_s(self) -> float:
        """The longest time between two answers."""
        times = sorted(self.answered.values())
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)
