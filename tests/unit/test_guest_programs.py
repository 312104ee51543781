"""What guests are made of: archives, versions, command lines, and the summary of their tests."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import jsonschema
import pytest

from hw.config import NicConfig
from sim.guest.debian import newer
from sim.guest.initramfs import MODULES, Archive, linux_initramfs
from sim.guest.qemu import Qemu, _without_wrapping, card_options, machine_options
from sim.guest.serve import ServeOptions, command_line
from tests.cosim.summary import Summary

_SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "cosim.schema.json"


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read an archive as the kernel does: name to mode and content."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at:at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        start = at + 110
        name = archive[start:start + fields[11]]
        assert name.endswith(b"\0")
        start = (start + fields[11] + 3) & ~3
        if name == b"TRAILER!!!\0":
            return found
        found[name[:-1].decode()] = fields[1], archive[start:start + fields[6]]
        at = (start + fields[6] + 3) & ~3


def test_an_archive() -> None:
    archive = Archive()
    for size in range(9):
        archive.add("x" * (size + 1), 0o100644, bytes(range(size)))
    assert entries(archive.finish()) == {
        "x" * (size + 1): (0o100644, bytes(range(size))) for size in range(9)}


def test_a_file_system(tmp_path: Path) -> None:
    """It has what was asked for; modules are unpacked, and loaded in an order that works."""
    modules = tmp_path / "lib" / "modules" / "6.1"
    for number, name in enumerate(MODULES):
        path = modules / "kernel" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            path.write_bytes(name.encode())
        else:
            path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(name.encode()))
    for name in ("bin/busybox", "usr/sbin/tool", "usr/lib/x86_64-linux-gnu/libc.so.6",
                 "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = entries(linux_initramfs(tmp_path, programs=["tool"], libraries=["libc.so.6"]))
    assert found["sbin/tool"] == (0o100755, b"usr/sbin/tool")
    assert found["lib/x86_64-linux-gnu/libc.so.6"][1] == b"usr/lib/x86_64-linux-gnu/libc.so.6"
    assert "lib64/ld-linux-x86-64.so.2" in found
    assert found["bin/sh"] == (0o120777, b"busybox")
    for name in MODULES:
        assert found[f"modules/{Path(name).name}.ko"][1] == name.encode()
    init = found["init"][1].decode()
    assert init.index("virtio_ring") < init.index(" virtio ") < init.index("virtio_net")
    with pytest.raises(FileNotFoundError, match="none_such"):
        linux_initramfs(tmp_path, programs=["none_such"])


def test_a_kernel_is_unpacked() -> None:
    kernel = b"\x7fELF" + bytes(1000)
    for image, expected in (
            (b"MZ code" + lzma.compress(kernel) + b"more", kernel),
            (b"MZ code" + lzma.compress(b"something else") + b"more", None),
            (b"MZ code\xfd7zXZ\0 by chance", None), (b"MZ nothing of the kind", None)):
        assert _without_wrapping(image) == (image if expected is None else expected)


def test_a_program_that_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tool"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert newer("tool", "--version", (0, 0)) is None
    program.write_text('#!/bin/sh\necho "tool emulator version 10.1.2 (Debian 1:10.1)"\n')
    program.chmod(0o755)
    for at_least, found in (((10, 1), True), ((9, 9), True), ((10, 2), False), ((11, 0), False)):
        assert (newer("tool", "--version", at_least) == str(program)) is found
    program.write_text("#!/bin/sh\nexit 1\n")
    assert newer("tool", "--version", (0, 0)) is None


def test_a_user_s_command_line(tmp_path: Path) -> None:
    """Memory is shared, or no ring is ever seen; each card is behind a port of its own."""
    options = ServeOptions(config=NicConfig.preset("small"), socket=tmp_path / "c.sock", cards=2,
                           pcap=tmp_path / "w.pcap")
    assert [path.name for path in options.sockets] == ["c-0.sock", "c-1.sock"]
    assert [path and path.name for path in options.pcaps] == ["w-0.pcap", "w-1.pcap"]
    assert any("share=on" in word for word in machine_options(Qemu(("qemu",), "tcg")))
    text = command_line(options.sockets)
    assert "share=on" in text
    assert "memory-backend=ram" in text
    assert text.count("vfio-user-pci") == 2
    assert len({card_options(path, number)[1] for number, path in enumerate(options.sockets)}) == 2
    device = json.loads(card_options(options.sockets[1], 1)[3])
    assert device["socket"] == {"type": "unix", "path": str(options.sockets[1])}


def _report(name: str, when: str, outcome: str, longrepr: object = None, **figures: object
            ) -> pytest.TestReport:
    return pytest.TestReport(
        f"tests/cosim/{name}", ("", 0, ""), {}, outcome,  # type: ignore[arg-type]  # one of three
        longrepr, when, user_properties=list(figures.items()),  # type: ignore[arg-type]
        duration=0.5)


def test_the_summary(tmp_path: Path) -> None:
    summary = Summary(full=False)
    for when in ("setup", "call", "teardown"):
        summary.pytest_runtest_logreport(_report(
            "a.py::well", when, "passed", first_ping_s=1.5, virtio="PCI-ID-01"))
    summary.pytest_runtest_logreport(_report("a.py::badly", "setup", "passed"))
    summary.pytest_runtest_logreport(_report("a.py::badly", "call", "passed"))
    summary.pytest_runtest_logreport(_report("a.py::badly", "teardown", "failed", "first\nlast"))
    summary.pytest_runtest_logreport(_report("a.py::not", "setup", "skipped",
                                             ("file", 1, "Skipped: no root")))
    summary.pytest_runtest_logreport(_report("a.py::not", "teardown", "passed"))
    summary.write(tmp_path / "summary.json")
    content = json.loads((tmp_path / "summary.json").read_text())
    jsonschema.validate(content, json.loads(_SCHEMA.read_text()))
    assert summary.line == "cosim: 1 passed, 1 failed, 1 skipped"
    well, badly, left_out = content["tests"]
    assert well == {"name": "a.py::well", "result": "passed", "seconds": 1.5, "reason": "",
                    "figures": {"first_ping_s": 1.5}}
    assert (badly["result"], badly["reason"]) == ("failed", "last")
    assert (left_out["result"], left_out["reason"]) == ("skipped", "Skipped: no root")
