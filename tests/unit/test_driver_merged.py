"""The driver with frames over several buffers."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from sw_driver.buffers import Shape
from sw_driver.layouts import Status
from sw_driver.ring import RingError
from tb.model_host import run
from tests.unit.driver_world import BOTH_RINGS, MERGED, OFFERED, machine, opened, quiet


@pytest.mark.virtio("DRV-NET-RXB-03")
@pytest.mark.parametrize("features", BOTH_RINGS)
@pytest.mark.parametrize("close_batches", [False, True])
@pytest.mark.parametrize(("receive_bytes", "sizes"), [
    (100, [60, 88, 89, 188, 189, 1514, 1]), (25, [1, 13, 14, 1514]),
    (1526, [1514, 1515, 60])])
def test_frames_over_several_buffers(features: int, close_batches: bool, receive_bytes: int,
                                     sizes: list[int]) -> None:
    host = machine(features=features | MERGED)
    host.card.close_batches = close_batches
    device = opened(host, receive_bytes=receive_bytes)
    frames = [random.Random(size).randbytes(size) for size in sizes]
    for frame in frames:
        assert host.card.deliver(frame)
        received = run(device.receive_frame(100))
        assert received is not None
        assert received.data == frame
        assert received.header.num_buffers == -(-(12 + len(frame)) // receive_bytes)
    several = sum(12 + size > receive_bytes for size in sizes)
    assert device.statistics.merged_frames == several
    quiet(host)


@pytest.mark.parametrize("features", BOTH_RINGS)
def test_buffers_come_back_in_time_for_the_largest_frame(features: int) -> None:
    """Small frames leave fewer buffers than a batch missing, and too few for a large one."""
    host = machine(features=features | MERGED, queue_size=16)
    device = opened(host, receive_bytes=100, queue_size=16)
    for number in range(50):
        for size in (60, 1514):
            frame = bytes([number]) * size
            assert host.card.deliver(frame)
            assert run(device.receive(100)) == frame
    quiet(host)


@pytest.mark.virtio("DRV-NET-RXB-03", "DRV-NET-CFG-08")
@pytest.mark.parametrize(("options", "text"), [
    ({"receive_bytes": 11}, "of 11 bytes do not hold the header"),
    ({"receive_bytes": 23}, "64 receive buffers of 23 bytes do not hold a frame of 1530"),
    ({"receive_bytes": 100, "receive_buffers": 15}, "15 receive buffers"),
    ({"receive_bytes": 100, "receive_shape": Shape(segments=(1, 5))}, "12 receive buffers"),
    ({"receive_bytes": 100, "queue_size": 8}, "8 receive buffers")])
def test_receive_buffers_that_hold_no_frame(options: dict[str, Any], text: str) -> None:
    host = machine(features=OFFERED | MERGED)
    with pytest.raises(ValueError, match=text):
        opened(host, **options)
    assert host.card.status & (Status.FAILED | Status.DRIVER_OK) == Status.FAILED


@pytest.mark.parametrize("features", BOTH_RINGS)
@pytest.mark.parametrize(("header", "written", "text"), [
    (0, [40], "num_buffers is 0"),
    (2, [100], "a frame over 2 buffers, of which 1 are used"),
    (3, [100, 100], "a frame over 3 buffers, of which 2 are used"),
    (2, [99, 40], "buffer 0 of 2 of a frame has room left"),
    (3, [100, 60, 40], "buffer 1 of 3 of a frame has room left"),
    (1, [12], "came back with 12 bytes"), (1, [5], "came back with 5 bytes")])
def test_frames_that_are_put_together_wrongly(features: int, header: int, written: list[int],
                                              text: str) -> None:
    host = machine(features=features | MERGED)
    device = opened(host, receive_bytes=100)
    used = []
    for place, size in enumerate(written):
        assert host.card.available(0)
        number, _readable, ((address, _length),) = host.card.take_chain(0)
        if not place:
            host.card.store(address, struct.pack("<10xH", header))
        used.append((number, size))
    host.card.write_used(0, used)
    with pytest.raises(RingError, match=text):
        run(device.receive(100))


def test_a_frame_over_several_buffers_that_was_not_agreed_on() -> None:
    host = machine()
    device = opened(host, receive_bytes=100)
    for _ in range(2):
        assert host.card.available(0)
        number, _readable, ((address, _length),) = host.card.take_chain(0)
        host.card.store(address, struct.pack("<10xH", 2))
        host.card.put_used(0, number, 100)
    with pytest.raises(RingError, match="num_buffers is 2, and buffers are not merged"):
        run(device.receive(100))
