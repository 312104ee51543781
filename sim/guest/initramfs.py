"""A small root file system of a Linux guest, as an archive that its kernel unpacks."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path

from sim.guest.debian import kernel_version

__all__ = ["MODULES", "Archive", "linux_initramfs"]

MODULES = (
    "drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "net/core/failover",
    "drivers/net/net_failover", "drivers/net/virtio_net")
"""Of Debian's kernel, in the order in which they are loaded."""
_FOLDERS = ("bin", "dev", "etc", "lib", "lib/x86_64-linux-gnu", "lib64", "modules", "proc", "sbin",
            "sys", "tmp")
_BIN = ("bin", "sbin", "usr/bin", "usr/sbin")
_LIB = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_LINKER = "ld-linux-x86-64.so.2"
_DIRECTORY, _FILE, _LINK, _DEVICE = 0o040755, 0o100755, 0o120777, 0o020600

# The guest reads commands from its second serial port, and answers each with all that it printed
# and a line with its exit code, so that no other text is taken for it.
_INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in {modules}; do insmod /modules/$module.ko; done
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
printf '\\n<<0>>\\n'
while IFS= read -r line; do
  eval "$line"
  printf '\\n<<%d>>\\n' $?
done
poweroff -f
"""


class Archive:
    """A cpio archive in the form that the kernel unpacks ("newc")."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._count = 0

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
            ) -> None:
        """Add a file of any kind; a link's content is where it leads to."""
        self._count += 1
        whole = name.encode() + b"\0"
        numbers = (self._count, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(whole), 0)
        self._content += b"070701" + b"".join(b"%08X" % number for number in numbers) + whole
        self._content += bytes(-len(self._content) % 4)
        self._content += content + bytes(-len(content) % 4)

    def finish(self) -> bytes:
        """End the archive, and give it."""
        self.add("TRAILER!!!", 0)
        return bytes(self._content)


def _find(root: Path, folders: Sequence[str], name: str) -> bytes:
    for folder in folders:
        path = root / folder / name
        if path.exists():
            return path.read_bytes()
    raise FileNotFoundError(f"{root}: holds no {name} in {', '.join(folders)}")


def _module(folder: Path, name: str) -> bytes:
    """Give a kernel module; newer releases compress theirs."""
    packed = folder / f"{name}.ko.xz"
    return lzma.decompress(packed.read_bytes()) if packed.exists() else (
        folder / f"{name}.ko").read_bytes()


def linux_initramfs(root: Path, *, programs: Sequence[str] = (), libraries: Sequence[str] = ()
                    ) -> bytes:
    """Make the file system of a guest out of unpacked packages.

    Parameters
    ----------
    root
        Holds a kernel with its modules, ``busybox-static``, and what else is asked for.
    programs, libraries
        Names of further programs, and of the libraries that they need.
    """
    archive = Archive()
    for name in _FOLDERS:
        archive.add(name, _DIRECTORY)
    archive.add("dev/console", _DEVICE, device=(5, 1))
    archive.add("bin/busybox", _FILE, _find(root, _BIN, "busybox"))
    archive.add("bin/sh", _LINK, b"busybox")
    for name in programs:
        archive.add(f"sbin/{name}", _FILE, _find(root, _BIN, name))
    for name in libraries:
        archive.add(f"{_LIB[0]}/{name}", _FILE, _find(root, _LIB, name))
    if libraries:
        archive.add(f"lib64/{_LINKER}", _FILE, _find(root, _LIB, _LINKER))
    modules = root / "lib" / "modules" / kernel_version(root) / "kernel"
    for name in MODULES:
        archive.add(f"modules/{Path(name).name}.ko", _FILE, _module(modules, name))
    archive.add("init", _FILE, _INIT.format(
        modules=" ".join(Path(name).name for name in MODULES)).encode())
    return archive.finish()
