"""A network namespace of our own: the kernel's stack, apart from the machine's network."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["Namespace", "TapError"]

Result = TypeVar("Result")

_CLONE_NEWNET = 0x4000_0000
_NAMESPACES = Path("/run/netns")
_PREFIX = "ringlet-"


class TapError(RuntimeError):
    """A network device that cannot be made; the text says what is missing."""


def _iproute(name: str, *words: str) -> str:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if program is None:
        raise TapError(f"{name} is not installed; it comes with Debian's package iproute2")
    done = subprocess.run([program, *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise TapError(f"{name} {' '.join(words)}: {done.stderr.strip() or done.returncode}")
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
                _iproute("ip", "netns", "delete", path.name)
            except TapError:
                pass  # somebody else is at it


class Namespace:
    """A network namespace, until it is closed.

    Whoever enters it reaches what is on its devices by plain sockets: ``ip netns exec NAME ping``,
    or `inside` from Python. What an earlier process left behind is swept away first.
    """

    _made = 0

    def __init__(self) -> None:
        _sweep()
        self.name = f"{_PREFIX}{os.getpid()}-{Namespace._made}"
        Namespace._made += 1
        _iproute("ip", "netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def ip(self, *words: str) -> str:
        """Have `ip` do something in the namespace; give what it said. `TapError` if it cannot."""
        return _iproute("ip", "-n", self.name, *words)

    def bridge(self, *words: str) -> str:
        """The same by `bridge`, for what a bridge has learnt."""
        return _iproute("bridge", "-n", self.name, *words)

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

    def close(self) -> None:
        """Remove it, with its devices."""
        if (_NAMESPACES / self.name).exists():
            _iproute("ip", "netns", "delete", self.name)
