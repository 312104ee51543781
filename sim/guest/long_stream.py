"""TCP streams that last until they are ended: what arrives is compared with what was sent."""

from __future__ import annotations

import fcntl
import hashlib
import random
import socket
import struct
import termios
import threading
import time
from abc import ABC, abstractmethod

from sim.guest.echo_probe import Place
from sim.guest.qemu import GuestError, LinuxGuest

__all__ = ["LongStream", "StreamFromGuest", "StreamToGuest"]

_PIECE = 32_768
_BLOCK_PAGES = 64
_SEND_BUFFER = 65_536
_CONNECT_S = 60


class LongStream(ABC):
    """One TCP connection from a guest to a server here, which a thread serves.

    The guest may be another object at each call: the same machine, moved.

    Parameters
    ----------
    place
        The namespace with the address.
    host
        The address, to which the guest connects.
    """

    def __init__(self, place: Place, host: str) -> None:
        self._host = host
        self._listener = place.inside(lambda: socket.create_server((host, 0)))
        # What is sent and not acknowledged must fit into the window of a reader that is held.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._listener.settimeout(_CONNECT_S)
        self._port = self._listener.getsockname()[1]
        self._connection: socket.socket | None = None
        self.size = 0
        """Bytes so far."""
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            with self._listener:
                self._connection, _address = self._listener.accept()
            self._pass(self._connection)
        except OSError as error:
            self._error = error

    @abstractmethod
    def _pass(self, connection: socket.socket) -> None:
        """Send or receive until the end."""

    @abstractmethod
    def end(self, guest: LinuxGuest, timeout_s: float) -> bool:
        """End the stream; whether what arrived is what was sent."""

    def wait(self, size: int, timeout_s: float) -> None:
        """Wait until the stream has so many bytes; `GuestError` if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.size < size:
            if self._error is not None or time.monotonic() > deadline:
                raise GuestError(f"a stream stays at {self.size} bytes, must come to {size}: "
                                 f"{self._error or 'it is too slow'}")
            time.sleep(0.02)

    def close(self) -> None:
        """Break it off."""
        for link in (self._listener, self._connection):
            if link is not None:
                try:
                    link.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                link.close()
        self._thread.join()


class StreamToGuest(LongStream):
    """Random bytes to a guest, which keeps their SHA-256.

    The guest's reader can be held, so that bytes lie in buffers that the card has written; and the
    sender can be held.
    """

    def __init__(self, place: Place, host: str, guest: LinuxGuest, *, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._sum = hashlib.sha256()
        self._ended = self._sending = False
        self._limit: int | None = None
        self._change = threading.Condition()
        super().__init__(place, host)
        # The window is wide from the start, as a reader that is held does not widen it.
        guest.run("echo 4096 4194304 4194304 > /proc/sys/net/ipv4/tcp_rmem; rm -f /tmp/sum; "
                  "mkfifo /tmp/stream; sha256sum </tmp/stream >/tmp/sum &")
        said = guest.run(f"nc {host} {self._port} </dev/null >/tmp/stream & echo $!")
        self._reader = int(said.split()[-1])

    def _pass(self, connection: socket.socket) -> None:
        while True:
            with self._change:
                while not self._ended and self._limit is not None and self.size >= self._limit:
                    self._change.wait()
                if self._ended:
                    break
                room = _PIECE if self._limit is None else min(_PIECE, self._limit - self.size)
                data = self._rng.randbytes(room)
                self._sending = True
            self._sum.update(data)
            connection.sendall(data)
            with self._change:
                self.size += len(data)
                self._sending = False
                self._change.notify_all()
        connection.shutdown(socket.SHUT_WR)

    def hold(self, guest: LinuxGuest, timeout_s: float = 60) -> None:
        """Hold sender and reader; wait until all that was sent is acknowledged."""
        with self._change:
            self._limit = 0
            if not self._change.wait_for(lambda: not self._sending, timeout_s):
                raise GuestError("the guest does not take what it is sent")
        guest.run(f"kill -STOP {self._reader}")
        self._settle(timeout_s)

    def send_held(self, size: int, timeout_s: float = 60) -> None:
        """Send so much more to the reader that is held: it is acknowledged, and nobody reads it."""
        with self._change:
            end = self._limit = self.size + size
            self._change.notify_all()
        self.wait(end, timeout_s)
        self._settle(timeout_s)

    def go_on(self, guest: LinuxGuest) -> None:
        """Let sender and reader go on."""
        guest.run(f"kill -CONT {self._reader}")
        with self._change:
            self._limit = None
            self._change.notify()

    def _settle(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (connection := self._connection) is None or self._unacknowledged(connection):
            if time.monotonic() > deadline:
                raise GuestError("the guest does not acknowledge what it was sent")
            time.sleep(0.02)

    @staticmethod
    def _unacknowledged(connection: socket.socket) -> int:
        answer = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("@i", answer)[0])

    def end(self, guest: LinuxGuest, timeout_s: float) -> bool:
        """End the stream; whether the guest has the same SHA-256."""
        with self._change:
            self._ended = True
            self._change.notify()
        said = guest.run(f"for turn in $(seq {round(5 * timeout_s)}); do "
                         "[ -s /tmp/sum ] && break; sleep 0.2; done; cat /tmp/sum",
                         timeout_s + 30)
        self._thread.join(timeout_s)
        return self._error is None and said.split()[:1] == [self._sum.hexdigest()]


class StreamFromGuest(LongStream):
    """A block of random bytes from a guest, again and again."""

    def __init__(self, place: Place, host: str, guest: LinuxGuest) -> None:
        self._sums: set[bytes] = set()
        self._whole = False
        guest.run(f"dd if=/dev/urandom of=/tmp/block bs=4096 count={_BLOCK_PAGES} 2>/dev/null")
        self._expected = bytes.fromhex(guest.run("sha256sum /tmp/block").split()[0])
        super().__init__(place, host)
        guest.run(f"touch /tmp/go; (while [ -e /tmp/go ]; do cat /tmp/block; done | "
                  f"nc {host} {self._port} >/dev/null) &")

    def _pass(self, connection: socket.socket) -> None:
        block, left = hashlib.sha256(), 4096 * _BLOCK_PAGES
        while data := connection.recv(left):
            block.update(data)
            self.size += len(data)
            left -= len(data)
            if not left:
                self._sums.add(block.digest())
                block, left = hashlib.sha256(), 4096 * _BLOCK_PAGES
        self._whole = left == 4096 * _BLOCK_PAGES
        connection.shutdown(socket.SHUT_WR)

    def end(self, guest: LinuxGuest, timeout_s: float) -> bool:
        """End the stream; whether each block is the guest's, and the last one whole."""
        guest.run("rm /tmp/go")
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise GuestError(f"the guest's stream does not end, at {self.size} bytes")
        return self._error is None and self._whole and self._sums == {self._expected}
