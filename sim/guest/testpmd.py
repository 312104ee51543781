"""DPDK's testpmd on the card: its virtio driver in a process of its own, without huge pages."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sim.guest.debian import Unpacked, unpacked

__all__ = ["PacketLoop", "Testpmd", "TestpmdError", "TestpmdOptions", "testpmd_programs"]

_SUITE = "bookworm"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_PLUGINS = f"{_LIBRARIES}/dpdk/pmds-23.0"
_DRIVERS = ("librte_net_virtio.so.23", "librte_mempool_ring.so.23")
# What testpmd and the two drivers are linked with, and no more of DPDK's 200 packages.
_DPDK = """\
bitratestats bpf bus-auxiliary bus-dpaa bus-pci bus-vdev cmdline common-dpaax common-iavf
common-mlx5- crypto-scheduler cryptodev eal ethdev eventdev gro gso hash ip-frag kvargs latencystats
mbuf mempool mempool-dpaa mempool-ring meter metrics net net-bnxt net-bond net-dpaa net-i40e net-ice
net-ixgbe net-mlx5- net-virtio pcapng pci pdump rcu reorder ring sched security telemetry timer
""".split()
_PACKAGES = ("dpdk-dev", *(f"librte-{name}23" for name in _DPDK), "ibverbs-providers", "libbsd0",
             "libelf1", "libfdt1", "libibverbs1", "libjansson4", "libmd0", "libnl-3-200",
             "libnl-route-3-200", "libnuma1", "libpcap0.8", "libdbus-1-3")
_PROMPT = "testpmd> "
_COUNT = re.compile(r"(RX|TX)-(packets|missed|errors|dropped|bytes):\s*(\d+)")


class TestpmdError(RuntimeError):
    """testpmd did not come up or does not answer; with what it said last."""

    __test__ = False


def testpmd_programs(tell: Callable[[str], None] = lambda line: None) -> Unpacked:
    """Give DPDK's programs from Debian, below ``build/``."""
    return unpacked("dpdk", _SUITE, _PACKAGES, tell=tell)


testpmd_programs.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for one


@dataclass(frozen=True, kw_only=True)
class TestpmdOptions:
    """How testpmd uses the device."""

    __test__ = False

    queues: int = 1
    """Pairs of queues."""
    queue_size: int = 256
    packed: bool = False
    in_order: bool = False
    mergeable: bool = True
    """Receive buffers may be merged."""
    vectorized: bool = False
    """The driver's vector paths, which take in_order and not mergeable in packed rings."""

    def device(self, socket: Path) -> str:
        """Give the device as DPDK takes it."""
        words = [f"net_virtio_user0,path={socket}", f"queues={self.queues}",
                 f"queue_size={self.queue_size}"]
        for name, value in (("packed_vq", self.packed), ("in_order", self.in_order),
                            ("mrg_rxbuf", self.mergeable), ("vectorized", self.vectorized)):
            words.append(f"{name}={int(value)}")
        return ",".join(words)


class Testpmd:
    """testpmd, which sends every packet back. Use it in a ``with`` statement.

    Parameters
    ----------
    programs
        As `testpmd_programs` gives them.
    socket
        Of the vhost-user back-end.
    options
        Of the device.
    """

    __test__ = False

    def __init__(self, programs: Unpacked, socket: Path, options: TestpmdOptions) -> None:
        root = programs.folder
        plugins = root / _PLUGINS
        self._prefix = f"ringlet{os.getpid()}"
        self._keep = tempfile.TemporaryDirectory(prefix="ringlet-dpdk-")
        words = [str(root / "usr/bin/dpdk-testpmd"), "-l", "0,1", "--no-huge", "-m", "128",
                 "--no-pci", "--no-telemetry", f"--file-prefix={self._prefix}",
                 "--log-level=pmd.net.virtio.init:info",
                 # Without it the vector path of packed rings, in AVX-512, is not taken.
                 "--force-max-simd-bitwidth=512",
                 f"--vdev={options.device(socket)}", "--", "-i", "--total-num-mbufs=4096",
                 "--forward-mode=io", "--nb-cores=1", f"--rxq={options.queues}",
                 f"--txq={options.queues}"]
        libraries = (plugins, root / _LIBRARIES, root / "lib/x86_64-linux-gnu")
        environment = {
            **os.environ, "TERM": "dumb", "RUNTIME_DIRECTORY": self._keep.name,
            "XDG_RUNTIME_DIR": self._keep.name,
            # As libraries that are there from the start the drivers are taken from any folder.
            "LD_PRELOAD": ":".join(str(plugins / name) for name in _DRIVERS),
            "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
        self._terminal, other = pty.openpty()
        self._said = ""
        self._new = threading.Condition()
        self.begun = time.monotonic()
        try:
            self._process = subprocess.Popen(words, stdin=other, stdout=other, stderr=other,
                                             env=environment, start_new_session=True)
        finally:
            os.close(other)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 4096)
            except OSError:
                data = b""
            with self._new:
                self._said += data.decode(errors="replace").replace("\r", "")
                self._new.notify_all()
            if not data:
                return

    @property
    def said(self) -> str:
        """All it said so far."""
        with self._new:
            return self._said

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def _wait(self, begin: int, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        with self._new:
            while (end := self._said.find(_PROMPT, begin)) < 0:
                left = deadline - time.monotonic()
                if left <= 0 or not self.alive:
                    state = "is silent" if self.alive else "has ended"
                    raise TestpmdError(f"testpmd {state}:\n{self._said[-2000:]}")
                self._new.wait(min(left, 0.5))
            return self._said[begin:end]

    def wait_up(self, timeout_s: float = 60) -> None:
        """Wait until it takes commands."""
        self._wait(0, timeout_s)

    def run(self, command: str, timeout_s: float = 30) -> str:
        """Give a command; give what it says."""
        with self._new:
            # The prompt of the command before is there already, and the echo comes behind it.
            begin = len(self._said)
        os.write(self._terminal, command.encode() + b"\n")
        return self._wait(begin, timeout_s)

    def counters(self) -> dict[str, int]:
        """Give what the port has counted, such as ``RX-packets``."""
        text = self.run("show port stats 0")
        return {f"{side}-{what}": int(value) for side, what, value in _COUNT.findall(text)}

    def queue_counters(self) -> list[int]:
        """Give how many packets each receive queue has taken."""
        text = self.run("show port xstats 0")
        found = dict(re.findall(r"rx_q(\d+)_good_packets: (\d+)", text))
        return [int(found[number]) for number in sorted(found, key=int)]

    def kill(self) -> None:
        """End it at once, as by SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it, and remove what it left."""
        if self.alive:
            with contextlib.suppress(OSError):
                os.write(self._terminal, b"quit\n")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self.kill()
        self._reader.join(5)
        os.close(self._terminal)
        self._keep.cleanup()
        for folder in (Path("/var/run/dpdk"), Path("/tmp/dpdk")):
            shutil.rmtree(folder / self._prefix, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class PacketLoop:
    """The far end of a wire: sends numbered frames, and takes each back from whoever returns it.

    At most ``window`` frames are under way, so that nobody need drop any.

    Parameters
    ----------
    sizes
        Bytes of the frames in turn, each at least 60.
    window
        Frames under way.
    flows
        Different addresses of IPv4 in turn, so that frames go to several queues.
    """

    def __init__(self, *, sizes: tuple[int, ...] = (60,), window: int = 64,
                 flows: int = 1) -> None:
        if min(sizes) < 60:
            raise ValueError(f"a frame must have at least 60 bytes, not {min(sizes)}")
        self._sizes, self._window, self._flows = sizes, window, flows
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._goal = 0
        self.sent = 0
        self.returned = 0
        self.wrong: list[str] = []
        """What came back that was not to come, the first few."""
        self._next: dict[int, int] = {}
        self.last_at = time.monotonic()

    def frame(self, number: int) -> bytes:
        """Give a frame."""
        flow = number % self._flows
        size = self._sizes[number % len(self._sizes)]
        header = (b"\x02RNG\x00\x01\x02RNG\x00\x02\x08\x00E\x00" + (size - 14).to_bytes(2, "big")
                  + b"\x00\x00\x00\x00\x40\x11\x00\x00\x0a\x14\x00" + bytes([flow & 0xFF])
                  + b"\x0a\x14\x01\x01" + (1024 + flow).to_bytes(2, "big") + b"\x12\x34"
                  + (size - 34).to_bytes(2, "big") + b"\x00\x00")
        return (header + number.to_bytes(8, "big")).ljust(size, bytes([number % 251]))

    def start(self, frames: int) -> None:
        """Send so many more frames. From any thread."""
        self._goal += frames
        self.last_at = time.monotonic()
        os.eventfd_write(self._event, 1)

    def forget(self) -> None:
        """Take what is under way for lost, and send nothing more until `start`."""
        self._goal = self.returned = self.sent
        self._next = {number % self._flows: number
                      for number in range(self.sent, self.sent + self._flows)}

    @property
    def done(self) -> bool:
        """Whether every frame has come back."""
        return self.returned == self._goal

    def fileno(self) -> int:
        """Readable when there may be something to send."""
        return self._event

    def receive(self) -> bytes | None:
        """Give the next frame for the card."""
        if self.sent == self._goal or self.sent - self.returned >= self._window:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event)
            if self.sent == self._goal or self.sent - self.returned >= self._window:
                return None
        frame = self.frame(self.sent)
        self.sent += 1
        return frame

    def transmit(self, frame: bytes) -> None:
        """Take a frame that came back: whole, once, and in the order of its flow."""
        number = int.from_bytes(frame[42:50], "big")
        flow = number % self._flows
        if frame != self.frame(number) or number != self._next.get(flow, flow):
            if len(self.wrong) < 10:
                self.wrong.append(f"frame {number} of {len(frame)} bytes, expected "
                                  f"{self._next.get(flow, flow)} of flow {flow}")
        self._next[flow] = number + self._flows
        self.returned += 1
        self.last_at = time.monotonic()
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._event >= 0:
            os.close(self._event)
            self._event = -1
