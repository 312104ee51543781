"""The clock of a card in wall time, and the far ends of its wire."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw.config import NicConfig
from hw.pcie.types import RequestKind
from sim.guest.clock import Clock
from sim.guest.clock_port import ClockPort
from sim.guest.wire_end import Cable, CableEnd, PcapEnd
from sim.native.engine import Engine, EngineOptions
from sim.pcap import read_frames
from sw_driver.net import NetDevice, NetOptions
from sw_driver.pci import scan
from tb.tlp import Request

_BDF = 0x100
_FRAME = bytes.fromhex("ffffffffffff02524e47000008004500") + bytes(range(200))


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(NicConfig.preset("full"), EngineOptions(latency_cycles=0)) as engine:
        yield engine


@pytest.fixture
def clock(engine: Engine) -> Iterator[Clock]:
    clock = Clock(engine)
    yield clock
    clock.close()


def readable(end: CableEnd | PcapEnd) -> bool:
    return bool(select.select([end.fileno()], [], [], 0)[0])


def test_a_quiet_card_stands_still(clock: Clock, engine: Engine) -> None:
    """It costs nothing then, and goes on with the first that somebody asks."""
    assert not clock.quiet
    assert not clock.run(timeout_s=0.5)
    assert clock.quiet
    rest = engine.cycle
    assert rest < 3 * clock.quiet_cycles
    before = clock.spent
    assert not clock.run(timeout_s=0.3)
    spent = clock.spent - before
    assert engine.cycle == rest
    assert spent.cycles == 0
    assert spent.waited_s > 0.25
    assert spent.cpu_s < 0.1
    assert clock.config_read(_BDF, 0, 4) == 0x1041_1AF4
    assert 0 < engine.cycle - rest < 200
    clock.run(timeout_s=0.2)
    assert not clock.config_read(_BDF, 4, 2)
    clock.post(Request(RequestKind.MEM_WRITE, 0x1000, payload=bytes(4)))
    assert not clock.quiet
    assert clock.drain()


def test_accesses(clock: Clock) -> None:
    assert clock.config_read(_BDF, 2, 2) == 0x1041
    assert clock.config_read(_BDF, 1, 1) == 0x1A
    assert clock.config_read(_BDF + 1, 0, 2) == 0xFFFF
    assert clock.config_write(_BDF, 4, 2, 2)
    assert not clock.config_write(_BDF + 1, 4, 2, 2)
    assert clock.config_write(_BDF, 0x18, 4, 0x8000_0000)
    assert clock.config_write(_BDF, 0x1C, 4, 0)
    clock.write(0x8000_0014, b"\1")
    assert clock.read(0x8000_0012, 5)[2:3] == b"\1"
    assert clock.read(0x9000_0000, 6) == b"\xff" * 6


def test_callbacks(clock: Clock) -> None:
    """A descriptor is looked at while the card runs and while it rests, until it is let go."""
    event = os.eventfd(0, os.EFD_NONBLOCK)
    called: list[int] = []
    clock.watch(event, lambda: called.append(os.eventfd_read(event)))
    with pytest.raises(ValueError, match="watched"):
        clock.watch(event, lambda: None)
    os.eventfd_write(event, 1)
    assert clock.run(lambda: called == [1], 5)
    clock.run(timeout_s=0.5)
    assert clock.quiet
    threading.Timer(0.1, os.eventfd_write, (event, 2)).start()
    begun = time.monotonic()
    assert clock.run(lambda: called == [1, 2], 5)
    assert time.monotonic() - begun < 2
    clock.unwatch(event)
    os.eventfd_write(event, 3)
    assert not clock.run(timeout_s=0.05)
    assert called == [1, 2]
    os.close(event)


def test_a_stop_from_another_thread(clock: Clock) -> None:
    for wait_s in (0.0, 0.4):
        threading.Timer(wait_s, clock.stop).start()
        begun = time.monotonic()
        assert clock.run(timeout_s=10)
        assert time.monotonic() - begun < 5
    clock.stop()  # before it runs: it counts
    assert clock.run(timeout_s=10)


def test_a_driver_and_the_wire(engine: Engine) -> None:
    """Frames pass between a driver on the clock and the far end; interrupts are told."""
    near, far = Cable().ends
    clock = Clock(engine, near)
    port = ClockPort(clock)
    told: list[int] = []
    clock.on_interrupt(lambda: told.append(engine.cycle))
    (function,) = port.run(scan(port))
    device = port.run(NetDevice.probe(port, function, NetOptions(queue_size=16, suppress=False)))
    port.run(device.open())
    port.run(device.send(_FRAME))
    assert clock.run(lambda: readable(far), 5)
    assert far.receive() == _FRAME
    clock.run(timeout_s=0.4)
    assert clock.quiet
    del told[:]
    frames = [_FRAME + bytes([number]) for number in range(12)]
    for frame in frames:
        far.transmit(frame)
    assert clock.run(lambda: clock.spent.frames_in == 12, 5)
    assert [port.run(device.receive()) for _frame in frames] == frames
    assert told
    assert clock.spent.frames_out == 1
    assert not clock.violations_seen
    clock.close()


def test_what_the_host_refuses_is_kept(clock: Clock, engine: Engine) -> None:
    """Memory that a driver takes away under its rings makes violations, which fail nothing."""
    port = ClockPort(clock)
    (function,) = port.run(scan(port))
    device = port.run(NetDevice.probe(port, function, NetOptions(queue_size=16)))
    port.run(device.open())
    clock.drain()
    for region in engine.memory.regions:
        region.free()
    port.run(port.mmio_write(device.virtio.notify_address(0), 2, 0))
    clock.advance(2000)
    assert clock.violations_seen
    assert "no driver gave" in clock.violations[0][1]


@pytest.mark.parametrize(("options", "names"), [
    ({"burst_s": 0}, "burst_s"), ({"burst_s": 2}, "burst_s"), ({"quiet_cycles": 99}, "quiet")])
def test_impossible_clocks(engine: Engine, options: dict[str, float], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Clock(engine, **options)  # type: ignore[arg-type]  # of any kind


def test_a_cable() -> None:
    left, right = Cable(most=2).ends
    assert not readable(right)
    assert right.receive() is None
    for frame in (b"a", b"b", b"c"):
        left.transmit(frame)
    assert readable(right)
    assert right.dropped == 1
    assert [right.receive() for _turn in range(3)] == [b"a", b"b", None]
    assert not readable(right)
    assert not readable(left)
    left.transmit(b"d")
    right.close()
    left.transmit(b"e")
    assert left.dropped == 0
    left.close()
    with pytest.raises(ValueError, match="most"):
        Cable(0)


def test_a_capture(tmp_path: Path) -> None:
    end = PcapEnd([b"x" * 60, b"y" * 61], tmp_path / "kept" / "out.pcap")
    assert readable(end)
    assert [end.receive() for _turn in range(3)] == [b"x" * 60, b"y" * 61, None]
    assert not readable(end)
    for number in range(3):
        end.transmit(_FRAME + bytes([number]))
    assert not (tmp_path / "kept" / "out.pcap").exists()
    end.close()
    assert read_frames(tmp_path / "kept" / "out.pcap") == [
        _FRAME + bytes([number]) for number in range(3)]
    assert not readable_without_frames()


def readable_without_frames() -> bool:
    end = PcapEnd()
    try:
        return readable(end)
    finally:
        end.close()
