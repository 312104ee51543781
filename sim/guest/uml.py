"""Linux in user-mode Linux: an unmodified kernel as a process, its virtio_net on the card."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from sim.guest.debian import Unpacked, unpacked

__all__ = ["UmlError", "UmlGuest", "uml_programs"]

_SUITE = "bookworm"

_MODULES = ("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
_LAUNCHER = Path(__file__).with_name("uml_registers.py")
_DONE = "@done@"
_INIT = """\
#!{busybox} sh
export PATH={tools}
{busybox} mount -t proc proc /proc
{busybox} mount -t sysfs sys /sys
{busybox} stty -echo -onlcr 2>/dev/null
echo {done}0
while read -r line; do
    eval "$line"
    echo {done}$?
done
{busybox} halt -f
"""
# Registers wider than those of SSE do not outlive a page fault then: programs must not use them.
_NARROW = "GLIBC_TUNABLES=glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in (
    "AVX", "AVX2", "AVX512F", "AVX512VL", "AVX512BW", "AVX512DQ", "AVX512CD",
    "AVX_Fast_Unaligned_Load", "XSAVE", "XSAVEC"))

class UmlError(RuntimeError):
    """The guest did not come up, or a command in it failed; with what it said last."""


def uml_programs(tell: Callable[[str], None] = lambda line: None) -> Unpacked:
    """Give user-mode Linux and a busybox from Debian, below ``build/``."""
    return unpacked("uml", _SUITE, ("user-mode-linux", "busybox-static"), tell=tell)


class UmlGuest:
    """A guest that takes commands on its console. Use it in a ``with`` statement.

    Its root is this machine's, read-only; `folder` is there as well.

    Parameters
    ----------
    programs
        As `uml_programs` gives them.
    socket
        Of the vhost-user back-end; None for a guest without a card.
    memory_mb
        32 to 3000.
    arguments
        More words for the kernel's command line.
    """

    def __init__(self, programs: Unpacked, socket: Path | None, *, memory_mb: int = 64,
                 arguments: tuple[str, ...] = ()) -> None:
        if not 32 <= memory_mb <= 3000:
            raise ValueError(f"memory_mb must be from 32 to 3000, not {memory_mb!r}")
        kernel = programs.folder / "usr/bin/linux.uml"
        busybox = programs.folder / "bin/busybox"
        modules = programs.folder / "usr/lib/uml/modules"
        try:
            self._modules = next(path for path in sorted(modules.iterdir()) if path.is_dir())
        except (OSError, StopIteration):
            raise UmlError(f"{modules} holds no modules of {kernel}") from None
        self._keep = tempfile.TemporaryDirectory(prefix="ringlet-uml-")
        self.folder = Path(self._keep.name)
        """A folder that guest and host see under the same path."""
        tools = self.folder / "bin"
        tools.mkdir()
        for name in ("insmod", "ip", "nc", "ping", "sha256sum", "cat", "sleep", "ls", "rmmod",
                     "head", "dd", "tee", "kill", "ifconfig", "grep", "wc"):
            (tools / name).symlink_to(busybox)
        init = self.folder / "init"
        init.write_text(_INIT.format(busybox=busybox, done=_DONE,
                                     tools=f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"))
        init.chmod(0o755)
        words = [sys.executable, "-I", str(_LAUNCHER), str(kernel), f"mem={memory_mb}M",
                 "root=/dev/root", "rootfstype=hostfs",
                 "rootflags=/", "ro", f"init={init}", "con=null", "con0=fd:0,fd:1", "quiet",
                 "panic=-1", f"uml_dir={self.folder}", _NARROW, *arguments]
        if socket is not None:
            words.append(f"virtio_uml.device={socket}:1")
        self.begun = time.monotonic()
        self._said: list[str] = []
        self._new = threading.Condition()
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": "/dev/shm"})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._new:
                self._said.append(line.decode(errors="replace").rstrip("\r\n"))
                self._new.notify_all()
        with self._new:
            self._said.append("")
            self._new.notify_all()

    @property
    def said(self) -> list[str]:
        """Every line of the console so far."""
        with self._new:
            return list(self._said)

    @property
    def pid(self) -> int:
        """Of the kernel's process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def _wait(self, begin: int, timeout_s: float, *, check: bool = True) -> list[str]:
        """Wait for the end of a command; give its lines."""
        deadline = time.monotonic() + timeout_s
        with self._new:
            seen = begin
            while True:
                for at in range(seen, len(self._said)):
                    if self._said[at].startswith(_DONE):
                        lines = self._said[begin:at]
                        status = self._said[at].removeprefix(_DONE)
                        if check and status != "0":
                            raise UmlError(f"status {status}: " + "\n".join(lines[-20:]))
                        return lines
                seen = len(self._said)
                left = deadline - time.monotonic()
                if left <= 0 or not self.alive:
                    tail = "\n".join(self._said[-20:])
                    raise UmlError(f"the guest {'is silent' if self.alive else 'has ended'}:\n"
                                   f"{tail}")
                self._new.wait(min(left, 0.5))

    def wait_up(self, timeout_s: float = 60) -> None:
        """Wait until the guest takes commands."""
        self._wait(0, timeout_s)

    def run(self, command: str, timeout_s: float = 60, *, check: bool = True) -> str:
        """Run a line of shell; give what it printed.

        `UmlError` when it takes too long, and with ``check`` unless its status is 0.
        """
        assert self._process.stdin is not None
        with self._new:
            begin = len(self._said)
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise UmlError("the guest has ended:\n" + "\n".join(self.said[-20:])) from None
        return "\n".join(self._wait(begin, timeout_s, check=check))

    def module(self, name: str) -> str:
        """Give the path of a module of virtio_net's."""
        path = next(path for path in _MODULES if path.endswith(f"/{name}"))
        return f"{self._modules}/kernel/{path}.ko"

    def load_driver(self) -> None:
        """Load virtio_net: it finds the card."""
        for name in ("failover", "net_failover", "virtio_net"):
            self.run(f"insmod {self.module(name)}")

    def unload_driver(self) -> None:
        """Unload virtio_net."""
        self.run("rmmod virtio_net")

    def kill(self) -> None:
        """End it at once, as by SIGKILL, and everything that runs in it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._keep.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
