"""A tap device in a network namespace of its own, as the far end of the card's wire."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["Tap", "TapError"]

Result = TypeVar("Result")

_TUNSETIFF = 0x4004_54CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_CLONE_NEWNET = 0x4000_0000
_NAMESPACES = Path("/run/netns")
_DEVICE = "wire0"
_PREFIX = "ringlet-"
_LONGEST = 65_535


class TapError(RuntimeError):
    """A tap that cannot be made; the text says what is missing."""


def _ip(*words: str) -> str:
    program = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    if program is None:
        raise TapError("ip is not installed; it comes with Debian's package iproute2")
    done = subprocess.run([program, *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise TapError(f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sweep() -> None:
    """Remove namespaces of processes that could not clean up after themselves."""
    if not _NAMESPACES.is_dir():
        return
    for path in _NAMESPACES.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not _alive(int(pid)):
            try:
                _ip("netns", "delete", path.name)
            except TapError:
                pass  # somebody else is at it


class Tap:
    """A tap device `wire0` in a network namespace: the kernel's own stack on the wire.

    Whoever enters the namespace reaches the guest by plain sockets: ``ip netns exec NAME ping``,
    or `inside` from Python. What an earlier process left behind is swept away first.

    Parameters
    ----------
    address
        IPv4 address with the length of its prefix, such as ``10.20.0.1/24`` (None: no address).
    mtu
        Largest payload of a frame, 68 to 65521.
    queue
        Frames that the kernel keeps for a card that is slower than it.
    """

    _made = 0

    def __init__(self, address: str | None = "10.20.0.1/24", *, mtu: int = 1500,
                 queue: int = 1000) -> None:
        if not 68 <= mtu <= 65_521:
            raise ValueError(f"mtu must be from 68 to 65521, not {mtu!r}")
        _sweep()
        self.name = f"{_PREFIX}{os.getpid()}-{Tap._made}"
        Tap._made += 1
        self.dropped = 0
        """Frames of the card that the kernel did not take."""
        self._fd = -1
        _ip("netns", "add", self.name)
        try:
            self._fd = self.inside(_open_tap)
            _ip("-n", self.name, "link", "set", "lo", "up")
            # Without IPv6 the wire is silent until somebody says something.
            self.inside(_without_ipv6)
            _ip("-n", self.name, "link", "set", _DEVICE, "mtu", str(mtu), "txqueuelen", str(queue))
            if address is not None:
                _ip("-n", self.name, "address", "add", address, "dev", _DEVICE)
            _ip("-n", self.name, "link", "set", _DEVICE, "up")
        except BaseException:
            self.close()
            raise

    def inside(self, function: Callable[[], Result]) -> Result:
        """Call a function in the namespace, in a thread of its own; give its result.

        A socket that it makes stays in the namespace wherever it is used.
        """
        results: list[Result] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with (_NAMESPACES / self.name).open("rb") as namespace:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                        raise TapError(f"namespace {self.name} cannot be entered: "
                                       f"{os.strerror(ctypes.get_errno())}")
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def command(self, *words: str) -> list[str]:
        """Give the words that run a program in the namespace."""
        return ["ip", "netns", "exec", self.name, *words]

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
        """Remove device and namespace."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if (_NAMESPACES / self.name).exists():
            _ip("netns", "delete", self.name)


def _open_tap() -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TapError(f"/dev/net/tun: {error.strerror}; a tap needs root, and the kernel's "
                       "module tun") from None
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("<16sH22x", _DEVICE.encode(),
                                                _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise TapError(f"no tap device: {error.strerror}") from None
    return fd


def _without_ipv6() -> bool:
    # /proc/sys/net shows the namespace of the thread that looks.
    switch = Path("/proc/sys/net/ipv6/conf/wire0/disable_ipv6")
    try:
        switch.write_text("1")
    except OSError:
        return False  # a kernel without IPv6
    return True
