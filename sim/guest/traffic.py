"""Traffic between a Linux guest and the kernel on the other end of the wire, and its figures."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import Literal

from sim.guest.qemu import GuestError, LinuxGuest
from sim.guest.served_card import ServedCard
from sim.guest.wire_tap import Tap

__all__ = ["GUEST", "HOST", "Pings", "Stream", "bring_up", "ping", "tcp"]

HOST, GUEST = "10.20.0.1", "10.20.0.2"
_PORT = 5001
_STREAM_S = 300
_SENT = re.compile(r"(\d+) packets transmitted, (\d+) packets received")
_TIMES = re.compile(r"min/avg/max = ([\d.]+)/([\d.]+)/([\d.]+) ms")


@dataclass(frozen=True)
class Pings:
    """What became of some pings; times in milliseconds of wall time."""

    sent: int
    received: int
    least_ms: float
    average_ms: float
    most_ms: float


@dataclass(frozen=True)
class Stream:
    """What became of a TCP stream."""

    size: int
    equal: bool
    """What arrived is what was sent, by its SHA-256."""
    wall_s: float
    simulated_s: float

    @property
    def wall_mbps(self) -> float:
        """Megabits a second of wall time."""
        return 8e-6 * self.size / self.wall_s

    @property
    def simulated_gbps(self) -> float:
        """Gigabits a second of simulated time, in which the card stands still while it is quiet."""
        return 8e-9 * self.size / self.simulated_s


def bring_up(guest: LinuxGuest, device: str = "eth0", address: str = f"{GUEST}/24") -> None:
    """Give a device of the guest its address, and switch it on."""
    guest.run(f"ip addr flush dev {device} && ip addr add {address} dev {device} "
              f"&& ip link set {device} up")


def ping(guest: LinuxGuest, count: int, *, size: int = 56, interval_s: float = 0.01,
         address: str = HOST) -> Pings:
    """Let the guest ping the host; each ping may take 2 seconds."""
    said = guest.run(f"ping -q -c {count} -i {interval_s} -W 2 -s {size} {address}",
                     30 + 3 * count, check=False)
    sent, times = _SENT.search(said), _TIMES.search(said)
    if sent is None:
        raise GuestError(f"ping said nothing of use\n{said}")
    least, average, most = (float(each) for each in times.groups()) if times else (0.0, 0.0, 0.0)
    return Pings(int(sent[1]), int(sent[2]), least, average, most)


def tcp(guest: LinuxGuest, tap: Tap, card: ServedCard, size: int, *,
        way: Literal["to guest", "from guest"], seed: int = 1) -> Stream:
    """Send so many random bytes by TCP; compare what arrived."""
    data = random.Random(seed).randbytes(size)
    listener = tap.inside(lambda: socket.create_server((HOST, _PORT)))
    with listener:
        listener.settimeout(_STREAM_S)
        if way == "from guest":
            guest.run(f"dd if=/dev/urandom of=/tmp/data bs=4096 count={-(-size // 4096)} "
                      f"2>/dev/null && truncate -s {size} /tmp/data")
            expected = guest.run("sha256sum /tmp/data").split()[0]
        begun, cycle = time.monotonic(), card.engine.cycle
        results: list[str] = []

        def serve() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.settimeout(_STREAM_S)
                if way == "to guest":
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # until the guest has read all, and closes
                        pass
                    return
                seen = hashlib.sha256()
                left = size
                while left and (part := connection.recv(65536)):
                    seen.update(part)
                    left -= len(part)
                results.append(seen.hexdigest())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        if way == "to guest":
            expected = hashlib.sha256(data).hexdigest()
            guest.run(f"nc {HOST} {_PORT} </dev/null >/tmp/data", _STREAM_S)
        else:
            guest.run(f"nc {HOST} {_PORT} </tmp/data >/dev/null", _STREAM_S)
        thread.join(_STREAM_S)
        wall_s = time.monotonic() - begun
        simulated_s = (card.engine.cycle - cycle) / (card.config.clock_mhz * 1e6)
        if way == "to guest":
            results.append(guest.run("sha256sum /tmp/data", 120).split()[0])
    return Stream(size, results == [expected], wall_s, simulated_s)
