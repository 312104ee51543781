"""Host memory of the native engine, and the small parts around it that need no card."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.pcie.types import RequestKind
from sim import toolchain
from sim.cache import built_once
from sim.native.engine import Engine, EngineOptions
from sim.native.link import Link
from tb.tlp import Request, byte_enables

BDF = 0x0100


@pytest.fixture
def engine() -> Any:
    with Engine(None, EngineOptions(latency_cycles=4)) as engine:
        yield engine


def aligned(size: int, at: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Give an array that lies at ``at`` modulo 16."""
    room = np.zeros(size + 32, np.uint8)
    start = (at - room.ctypes.data) % 16
    return room[start:start + size]


def card_writes(engine: Engine, address: int, data: bytes) -> None:
    lead = address & 3
    engine.hand_request(Request(
        RequestKind.MEM_WRITE, address & ~3, *byte_enables(address, len(data)), requester_id=BDF,
        payload=bytes(lead) + data + bytes(-(lead + len(data)) & 3)))


def card_reads(engine: Engine, address: int, size: int) -> tuple[int, bytes]:
    """Give status and bytes."""
    engine.hand_request(Request(RequestKind.MEM_READ, address & ~3,
                                *byte_enables(address, size), requester_id=BDF, tag=1))
    engine.run(60)
    data, status = b"", 0
    for _cycle, header, payload in engine.hand_sent():
        status = header["status"]
        data += payload[header["lower_address"] & 3:][:header["byte_count"]]
    return status, data


def complaints(engine: Engine) -> list[str]:
    """Give what the card did wrong, but for being no bus master: nobody enabled it here."""
    return [text for _cycle, text in engine.take_violations() if "bus master" not in text]


def test_allocated(engine: Engine) -> None:
    one, other = engine.memory.allocate(100, align=4096), engine.memory.allocate(1)
    assert one.address % 4096 == 0 and one.read() == bytes(100)
    card_writes(engine, one.address + 3, b"hello")
    assert one.read(3, 5) == b"hello" and bytes(one.array[3:8]) == b"hello"
    one.write(50, b"there")
    assert card_reads(engine, one.address + 50, 5) == (0, b"there")
    assert other.read() == b"\0" and engine.memory.regions == sorted(
        (one, other), key=lambda region: region.address)
    assert not complaints(engine)


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (1, 2), (3, 4), (7, 9), (15, 18), (16, 64),
                                              (5, 250)])
def test_unaligned(engine: Engine, offset: int, size: int) -> None:
    region = engine.memory.allocate(512, align=16)
    data = bytes(range(1, size + 1))
    card_writes(engine, region.address + offset, data)
    assert region.read() == bytes(offset) + data + bytes(512 - offset - size)
    assert card_reads(engine, region.address + offset, size) == (0, data)


def test_lent(engine: Engine) -> None:
    array = aligned(64)
    engine.memory.lend(0x5000, array)
    card_writes(engine, 0x5010, b"in place")
    assert bytes(array[16:24]) == b"in place"
    array[:4] = (1, 2, 3, 4)
    assert card_reads(engine, 0x5000, 4) == (0, b"\1\2\3\4")


def test_mapped_file(engine: Engine, tmp_path: Path) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 5 * 4096)
    region = engine.memory.map(0x12_0000_0000, 2 * 4096, fd, 4096 + 512)
    card_writes(engine, region.address + 16, b"guest memory")
    assert os.pread(fd, 12, 4096 + 512 + 16) == b"guest memory"
    os.pwrite(fd, b"from the guest", 4096 + 512)
    assert card_reads(engine, region.address, 14) == (0, b"from the guest")
    region.free()
    os.close(fd)
    assert card_reads(engine, 0x12_0000_0000, 4)[0] == 1
    with pytest.raises(ValueError, match=r"mapped memory, 16 bytes at 0x9000: "):
        engine.memory.map(0x9000, 16, os.open(tmp_path, os.O_RDONLY))


def test_rights(engine: Engine) -> None:
    reads = engine.memory.allocate(64, device_writes=False)
    writes = engine.memory.allocate(64, device_reads=False)
    card_writes(engine, reads.address, b"no")
    assert reads.read(0, 2) == b"\0\0"
    assert card_reads(engine, writes.address, 4)[0] == 1
    assert complaints(engine) == [
        f"rq write of 2 bytes at {reads.address:#x}: memory that is not for writing",
        f"rq read of 4 bytes at {writes.address:#x}: memory that is not for reading"]


def test_edges(engine: Engine) -> None:
    region = engine.memory.allocate(64, align=64)
    assert card_reads(engine, region.address + 60, 4)[0] == 0
    assert card_reads(engine, region.address + 60, 8)[0] == 1
    assert card_reads(engine, region.address - 4, 8)[0] == 1
    card_writes(engine, region.address + 62, b"over")
    assert region.read() == bytes(64)
    assert len(complaints(engine)) == 3


def test_dirty_pages(engine: Engine) -> None:
    region = engine.memory.lend(0x10_0000, aligned(16 * 4096))
    bitmap = np.zeros(2, np.uint8)
    engine.memory.log_dirty(bitmap, base=0x10_1000)
    card_writes(engine, region.address, b"before the base")
    card_writes(engine, region.address + 0x1004, b"page 0")
    card_writes(engine, region.address + 0x9FFC, b"over")
    card_writes(engine, region.address + 0x9FFE, b"edge")
    card_writes(engine, region.address + 0xF000, b"page 14")
    assert bitmap.tolist() == [0b0000_0001, 0b0100_0011]
    card_reads(engine, region.address + 0x3000, 4)
    engine.memory.log_dirty(None)
    card_writes(engine, region.address + 0x5000, b"not logged")
    assert bitmap.tolist() == [0b0000_0001, 0b0100_0011]


def test_misuse(engine: Engine) -> None:
    region = engine.memory.lend(0x4000, aligned(64))
    for call, words in (
            (lambda: engine.memory.lend(0x4030, aligned(64)), "must not overlap"),
            (lambda: engine.memory.lend(0x3FF0, aligned(32)), "must not overlap"),
            (lambda: engine.memory.lend(0x5008, aligned(64)), "modulo 16"),
            (lambda: engine.memory.lend(0x5000, np.zeros(4, np.uint16)), "one row of bytes"),
            (lambda: engine.memory.lend((1 << 64) - 16, aligned(32)), "within 64 bits"),
            (lambda: engine.memory.allocate(0), "at least 1"),
            (lambda: engine.memory.allocate(4, align=3), "power of two"),
            (lambda: engine.memory.map(0, 1, -1), "0 or more, not -1"),
            (lambda: region.read(60, 5), "must lie within 0 to 64"),
            (lambda: region.write(64, b"x"), "must lie within 0 to 64"),
            (lambda: engine.run(-1), "from 0 to"),
            (lambda: engine.access_result(99), "there is no access 99"),
            (lambda: engine.heal(7), "there is no fault 7"),
            (lambda: engine.change(speed=1), "speed is no option"),
            (lambda: engine.wire.send(b""), "1 to 65535 bytes, not 0"),
            (lambda: engine.wire.generate([]), "at least one frame")):
        with pytest.raises(ValueError, match=words):
            call()
    region.free()
    with pytest.raises(ValueError, match="freed twice"):
        region.free()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.run(1)


@pytest.mark.parametrize(("name", "value", "words"), [
    ("boundary_bytes", 32, "one of 64, 128, not 32"), ("credits", 0, "from 1 to 127, not 0"),
    ("stalls", 1.5, "from 0 to 1"), ("rx_rate", 0, "more than 0"),
    ("splitting", "tiny", "large, small, random"), ("latency_cycles", -1, "from 0 to"),
    ("placement", "middle", "low, high or mixed")])
def test_options(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Engine(None, EngineOptions(**{name: value}))


def test_descriptors_are_whole(engine: Engine) -> None:
    """Sixteen aligned bytes that change meanwhile are read as they were at one time."""
    region = engine.memory.allocate(64, align=64)
    pointer, library = region.array.ctypes.data, engine.library
    stop = threading.Event()

    def change() -> None:
        values = b"\x11" * 16, b"\x22" * 16
        while not stop.is_set():
            for value in values:
                library.rl_store(pointer, value, 16)

    thread = threading.Thread(target=change)
    region.write(0, b"\x22" * 16)
    thread.start()
    try:
        seen = {card_reads(engine, region.address, 16)[1] for _ in range(3000)}
    finally:
        stop.set()
        thread.join()
    assert seen <= {b"\x11" * 16, b"\x22" * 16}


def test_regions_come_and_go_while_the_engine_runs(engine: Engine) -> None:
    ran = threading.Thread(target=engine.run, args=(2_000_000,))
    ran.start()
    turns = 0
    while ran.is_alive() and turns < 2000:
        engine.memory.lend(0x4000, aligned(4096)).free()
        turns += 1
    ran.join()
    assert turns > 10 and not engine.memory.regions


def test_link() -> None:
    assert Link().gbps == pytest.approx(113.70, abs=0.005)
    assert Link(generation=4).gbps == pytest.approx(227.40, abs=0.01)
    assert Link().bytes_per_cycle(250) == pytest.approx(56.85, abs=0.005)
    with pytest.raises(ValueError, match=r"generation must be one of 3, 4, 5, not 2"):
        Link(generation=2)


def test_a_build_that_was_killed_begins_again(tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "build_folder", lambda: tmp_path)
    with pytest.raises(KeyboardInterrupt), built_once("kind", "name", 1) as kept:
        assert not kept.done
        raise KeyboardInterrupt
    with built_once("kind", "name", 1) as kept:
        assert not kept.done
    with built_once("kind", "name", 1) as again:
        assert again.done and again.folder == kept.folder
    with built_once("kind", "name", 2) as other:
        assert not other.done and other.folder != kept.folder
