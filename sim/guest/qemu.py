"""QEMU with cards as its PCI functions: which one, how it is started, and a Linux in it."""

from __future__ import annotations

import fcntl
import json
import lzma
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sim.guest.debian import codename, kernel_version, newer, unpacked
from sim.guest.initramfs import linux_initramfs

__all__ = ["GuestError", "LinuxFiles", "LinuxGuest", "Qemu", "card_options", "find_qemu",
           "linux_files", "machine_options", "release_qemu", "vhost_user_options"]

_AT_LEAST = (10, 1)  # the first with a vfio-user client
_NEWER = "forky"     # a release that has one
_XZ = b"\xfd7zXZ\0"
_PROMPT = re.compile(rb"\n<<(\d+)>>\n")
Tell = Callable[[str], None]


class GuestError(RuntimeError):
    """A guest that does not do what it should; the text ends with what it said."""


@dataclass(frozen=True)
class Qemu:
    """A QEMU that has vfio-user, as the words that start it."""

    words: tuple[str, ...]
    accelerator: str
    """``kvm``, or ``tcg`` where the machine has no usable virtualization."""
    msix: bool = True
    """Whether vhost-user may have MSI-X: with TCG, QEMU 7.2 crashes of it."""


def _usable_kvm() -> bool:
    """Whether the processor helps virtual machines, and /dev/kvm gives one; one is not enough."""
    get_api_version, create_vm = 0xAE00, 0xAE01
    try:
        flags = re.search(r"^flags.*$", Path("/proc/cpuinfo").read_text(), re.M)
        if flags is None or not {"vmx", "svm"} & set(flags[0].split()):
            return False
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if fcntl.ioctl(fd, get_api_version) != 12:
            return False
        os.close(fcntl.ioctl(fd, create_vm, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def find_qemu(tell: Tell = lambda line: None) -> Qemu:
    """Give the machine's QEMU if it is new enough, else one of a newer release of Debian."""
    accelerator = "kvm" if _usable_kvm() else "tcg"
    installed = newer("qemu-system-x86_64", "--version", _AT_LEAST)
    if installed:
        return Qemu((installed,), accelerator)
    codename()
    found = unpacked("qemu", _NEWER, ["qemu-system-x86"], closure=True, tell=tell)
    share = found.folder / "usr" / "share"
    return Qemu((*found.program("usr/bin/qemu-system-x86_64"), "-L", str(share / "qemu"),
                 "-L", str(share / "seabios")), accelerator)


def release_qemu(tell: Tell = lambda line: None) -> Qemu:
    """Give the QEMU of the machine's own release of Debian: too old for vfio-user, maybe."""
    found = unpacked("qemu", codename(), ["qemu-system-x86"], closure=True, tell=tell)
    share, modules = found.folder / "usr" / "share", "usr/lib/x86_64-linux-gnu/qemu"
    return Qemu(("env", f"QEMU_MODULE_DIR={found.folder / modules}",
                 *found.program("usr/bin/qemu-system-x86_64"), "-L", str(share / "qemu"),
                 "-L", str(share / "seabios")), "kvm" if _usable_kvm() else "tcg", msix=False)


@dataclass(frozen=True)
class LinuxFiles:
    """A guest's kernel and its first file system."""

    kernel: Path
    initramfs: Path
    version: str


def _without_wrapping(image: bytes) -> bytes:
    """Give the kernel that a boot image unpacks at its start, if it is packed by xz.

    QEMU starts it as it is, which spares the guest half of its start without virtualization.
    """
    at = image.find(_XZ)
    if at < 0:
        return image
    try:
        kernel = lzma.LZMADecompressor().decompress(image[at:])
    except lzma.LZMAError:
        return image
    return kernel if kernel.startswith(b"\x7fELF") else image


def _keep(path: Path, content: bytes) -> None:
    """Write a file unless it is there; it appears whole, for other processes as well."""
    if not path.exists() or path.read_bytes() != content:
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(content)
        new.replace(path)


def linux_files(tell: Tell = lambda line: None) -> LinuxFiles:
    """Give Debian's kernel, and a small file system with busybox, ethtool and virtio's modules."""
    found = unpacked("linux", codename(), ["linux-image-amd64!", "busybox-static", "ethtool",
                                           "libmnl0", "libc6"], tell=tell)
    version = kernel_version(found.folder)
    kernel, initramfs = (found.folder.parent / name for name in ("kernel", "initramfs"))
    _keep(kernel, _without_wrapping((found.folder / "boot" / f"vmlinuz-{version}").read_bytes()))
    _keep(initramfs, linux_initramfs(found.folder, programs=["ethtool"],
                                     libraries=["libc.so.6", "libm.so.6", "libmnl.so.0"]))
    return LinuxFiles(kernel, initramfs, version)


def machine_options(qemu: Qemu, *, memory_mb: int = 256, processors: int = 2) -> list[str]:
    """Give the options of a machine whose memory a server can reach: it must be shared."""
    return ["-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,memory-backend=ram", "-accel", qemu.accelerator,
            "-object", f"memory-backend-memfd,id=ram,size={memory_mb}M,share=on",
            "-smp", str(processors)]


def card_options(socket: Path, number: int = 0) -> list[str]:
    """Give the options that put the card that is served at a socket behind a root port."""
    device = {"driver": "vfio-user-pci", "id": f"card{number}", "bus": f"port{number}",
              "socket": {"type": "unix", "path": str(socket)},
              # A card in simulation takes its time; the default of 5 s would end the device.
              "x-msg-timeout": 60_000}
    return ["-device", f"pcie-root-port,id=port{number},chassis={number + 1}",
            "-device", json.dumps(device)]


def vhost_user_options(qemu: Qemu, socket: Path, mac: int, *, packed: bool = True) -> list[str]:
    """Give the options of a virtio-net device whose queues a vhost-user back-end serves.

    The PCI function is QEMU's own; the MAC address must be the card's, as that filters by it.
    """
    address = ":".join(f"{byte:02x}" for byte in mac.to_bytes(6, "big"))
    device = (f"virtio-net-pci,netdev=net0,mac={address},packed={'on' if packed else 'off'},"
              "rx_queue_size=1024,tx_queue_size=1024,romfile=")
    return ["-chardev", f"socket,id=card0,path={socket}",
            "-netdev", "vhost-user,id=net0,chardev=card0",
            "-device", device if qemu.msix else f"{device},vectors=0"]


class LinuxGuest:
    """A Linux in QEMU, with one card or several, that carries out shell commands.

    Use it in a ``with`` statement, or `kill` it.

    Parameters
    ----------
    qemu, files
        What runs, and what it boots.
    sockets
        Of the cards; they become eth0 and so on.
    log
        Where the kernel's messages and QEMU's own go.
    options
        Further options of QEMU.
    """

    def __init__(self, qemu: Qemu, files: LinuxFiles, sockets: Sequence[Path], log: Path, *,
                 options: Sequence[str] = (), memory_mb: int = 256, processors: int = 2) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        # It ends with us, even if we are killed.
        leash = shutil.which("setpriv")
        self.words = [
            *((leash, "--pdeathsig", "KILL") if leash else ()),
            *qemu.words,
            *machine_options(qemu, memory_mb=memory_mb, processors=processors),
            "-kernel", str(files.kernel), "-initrd", str(files.initramfs),
            "-append", "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable",
            "-serial", f"file:{log}", "-serial", "stdio",
            *(word for number, path in enumerate(sockets) for word in card_options(path, number)),
            *options]
        with log.with_suffix(".qemu").open("wb") as errors:
            self._process = subprocess.Popen(
                self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                start_new_session=True)
        self.started_at = time.monotonic()
        self._text = b""

    @property
    def pid(self) -> int:
        """Of QEMU."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """What guest and QEMU said last."""
        words = [self._text.decode(errors="replace")[-500:]]
        for path in (self._log, self._log.with_suffix(".qemu")):
            if path.exists():
                words.append(path.read_text(errors="replace")[-1000:])
        return "\n".join(word.strip() for word in words if word.strip())

    def wait_ready(self, timeout_s: float = 120) -> None:
        """Wait until it takes commands, after the start and after a reboot."""
        self._answer(timeout_s, "the guest's start")

    def _answer(self, timeout_s: float, what: str) -> tuple[int, str]:
        deadline = time.monotonic() + timeout_s
        output = self._process.stdout
        assert output is not None
        while not (found := _PROMPT.search(self._text)):
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestError(f"{what}: no end within {timeout_s:g} s\n{self.said}")
            if not select.select([output], [], [], min(left, 1))[0]:
                continue
            data = os.read(output.fileno(), 65536)
            if not data:
                raise GuestError(f"{what}: QEMU ended with {self._process.wait()}\n"
                                 f"{self.said}")
            self._text += data.replace(b"\r", b"")
        said = self._text[:found.start()].decode(errors="replace")
        self._text = self._text[found.end():]
        return int(found[1]), said

    def send(self, command: str) -> None:
        """Begin a command, a line of shell; `finish` waits for it."""
        if "\n" in command:
            raise ValueError("a command must be one line")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise GuestError(f"{command}: QEMU has ended\n{self.said}") from None

    def finish(self, timeout_s: float = 60, what: str = "command") -> tuple[int, str]:
        """Wait for the command that was begun; give its exit code and what it printed."""
        return self._answer(timeout_s, what)

    def run(self, command: str, timeout_s: float = 60, *, check: bool = True) -> str:
        """Carry out a line of shell; give what it printed. `GuestError` when it fails."""
        self.send(command)
        code, said = self.finish(timeout_s, command)
        if check and code:
            raise GuestError(f"{command} ended with {code}\n{said.strip()[-1000:]}")
        return said

    def reboot(self, timeout_s: float = 120) -> None:
        """Reboot the machine, without a word to the driver, and wait until it takes commands."""
        self.send("echo b > /proc/sysrq-trigger")
        self.wait_ready(timeout_s)

    def kill(self) -> None:
        """End QEMU at once, as it is."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
