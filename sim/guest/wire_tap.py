"""Tap devices in a network namespace of their own, as the far ends of cards' wires."""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sim.guest.namespace import Namespace, TapError

__all__ = ["Tap", "TapBridge", "TapDevice", "TapError"]

Result = TypeVar("Result")

_TUNSETIFF = 0x4004_54CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_LONGEST = 65_535
_BRIDGE = "bridge0"


class TapDevice:
    """A tap device in a namespace, without an address: `sim.guest.wire_end.WireEnd`.

    Parameters
    ----------
    namespace
        Where it is; stays its owner's.
    device
        Its name there.
    mtu
        Largest payload of a frame, 68 to 65521.
    queue
        Frames that the kernel keeps for a card that is slower than it.
    """

    def __init__(self, namespace: Namespace, device: str, *, mtu: int, queue: int) -> None:
        if not 68 <= mtu <= 65_521:
            raise ValueError(f"mtu must be from 68 to 65521, not {mtu!r}")
        self.dropped = 0
        """Frames of the card that the kernel did not take."""
        self._fd = namespace.inside(lambda: _open_tap(device))
        try:
            # Without IPv6 the wire is silent until somebody says something.
            namespace.inside(lambda: _without_ipv6(device))
            namespace.ip("link", "set", device, "mtu", str(mtu), "txqueuelen", str(queue))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable while the kernel has frames."""
        return self._fd

    def receive(self) -> bytes | None:
        """Take a frame that the kernel sends."""
        try:
            return os.read(self._fd, _LONGEST)
        except BlockingIOError:
            return None

    def transmit(self, frame: bytes) -> None:
        """Hand a frame to the kernel."""
        try:
            os.write(self._fd, frame)
        except OSError:  # no room, the device is down, or the frame is none for the kernel
            self.dropped += 1

    def close(self) -> None:
        """Remove the device."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Tap(TapDevice):
    """A tap device `wire0` in a network namespace: the kernel's own stack on the wire.

    Parameters
    ----------
    address
        IPv4 address with the length of its prefix, such as ``10.20.0.1/24`` (None: no address).
    mtu, queue
        As of `TapDevice`.
    """

    def __init__(self, address: str | None = "10.20.0.1/24", *, mtu: int = 1500,
                 queue: int = 1000) -> None:
        self._namespace = Namespace()
        self.name = self._namespace.name
        """Of the namespace."""
        try:
            super().__init__(self._namespace, "wire0", mtu=mtu, queue=queue)
            if address is not None:
                self._namespace.ip("address", "add", address, "dev", "wire0")
            self._namespace.ip("link", "set", "wire0", "up")
        except BaseException:
            self._namespace.close()
            raise

    def inside(self, function: Callable[[], Result]) -> Result:
        """Call a function in the namespace, as `Namespace.inside`."""
        return self._namespace.inside(function)

    def command(self, *words: str) -> list[str]:
        """Give the words that run a program in the namespace."""
        return self._namespace.command(*words)

    def close(self) -> None:
        """Remove device and namespace."""
        super().close()
        self._namespace.close()


class TapBridge(Namespace):
    """A learning bridge of the kernel in a network namespace, with a tap for each of its cards.

    The kernel's own stack is on it as well. A frame to a station goes to the port where that
    station was heard last.

    Parameters
    ----------
    ports
        Taps, 1 to 8: `wire0` and so on.
    address
        IPv4 address of the bridge itself, with the length of its prefix.
    mtu, queue
        As of `TapDevice`.

    Attributes
    ----------
    ports
        Whoever is given one closes it.
    """

    def __init__(self, ports: int, address: str = "10.20.0.1/24", *, mtu: int = 1500,
                 queue: int = 1000) -> None:
        if not 1 <= ports <= 8:
            raise ValueError(f"ports must be from 1 to 8, not {ports!r}")
        super().__init__()
        self.ports: list[TapDevice] = []
        try:
            self.ip("link", "add", _BRIDGE, "type", "bridge", "mcast_snooping", "0")
            self.inside(lambda: _without_ipv6(_BRIDGE))
            for number in range(ports):
                device = f"wire{number}"
                self.ports.append(TapDevice(self, device, mtu=mtu, queue=queue))
                self.ip("link", "set", device, "master", _BRIDGE, "up")
            self.ip("address", "add", address, "dev", _BRIDGE)
            self.ip("link", "set", _BRIDGE, "mtu", str(mtu), "up")
        except BaseException:
            for port in self.ports:
                port.close()
            self.close()
            raise

    def port_of(self, station: str) -> int | None:
        """Give the port at which a MAC address was heard last; None if it is not known."""
        for entry in json.loads(self.bridge("-j", "fdb", "show", "br", _BRIDGE)):
            device = entry["ifname"]
            if entry["mac"] == station and device.startswith("wire"):
                return int(device.removeprefix("wire"))
        return None


def _open_tap(device: str) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TapError(f"/dev/net/tun: {error.strerror}; a tap needs root, and the kernel's "
                       "module tun") from None
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("<16sH22x", device.encode(),
                                                _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise TapError(f"no tap device: {error.strerror}") from None
    return fd


def _without_ipv6(device: str) -> bool:
    # /proc/sys/net shows the namespace of the thread that looks.
    switch = Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6")
    try:
        switch.write_text("1")
    except OSError:
        return False  # a kernel without IPv6
    return True
