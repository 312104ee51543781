"""The driver with several pairs of queues, a control queue, and frames over several buffers."""

from __future__ import annotations

import random
import struct
from collections.abc import Coroutine
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_driver.buffers import Shape
from sw_driver.layouts import Control, Feature, NetConfig, Status
from sw_driver.net import CommandRefused, DeviceNeedsReset, without
from sw_driver.packed_ring import PackedRing
from sw_driver.ring import RingError
from sw_driver.split_ring import SplitRing
from sw_driver.virtio_pci import TransportError
from tb.model_host import ModelHost, run
from tests.unit.driver_world import (
    CONTROL,
    EVENT_IDX,
    IN_ORDER,
    INDIRECT,
    MERGED,
    OFFERED,
    PACKED,
    PAIRS,
    WHOLE,
    machine,
    opened,
    quiet,
)

BOTH_RINGS = [OFFERED, OFFERED | PACKED]
SEVERAL = CONTROL | PAIRS


# --- rings and tables


@pytest.mark.virtio("DRV-CORE-RSVD-06", "DRV-PCI-COM-02", "DRV-PCI-COM-03")
@pytest.mark.parametrize("features", BOTH_RINGS)
def test_the_ring_that_was_agreed_on(features: int) -> None:
    """A packed one of any size; and none where the driver does not want it."""
    host = machine(features=features, queue_size=64 if features == OFFERED else 61)
    device = opened(host)
    kind = PackedRing if features & PACKED else SplitRing
    assert [(type(ring), ring.size) for ring in device.rings.values()] == [
        (kind, host.card.queue_size_max)] * 2
    quiet(host)
    host = machine(features=features)
    device = opened(host, features=[Feature.ACCESS_PLATFORM])
    assert {type(ring) for ring in device.rings.values()} == {SplitRing}
    quiet(host)


@pytest.mark.virtio("DRV-SPL-IND-01", "DRV-PKT-IND-01")
@pytest.mark.parametrize("features", BOTH_RINGS)
@pytest.mark.parametrize(("offered", "indirect", "direct_first", "slots"), [
    (True, "always", 0, (1, 1, 1)), (True, "chains", 0, (1, 1, 1)), (True, "never", 0, (1, 2, 3)),
    (False, "always", 0, (1, 2, 3)), (True, "chains", 1, (1, 2, 2))])
def test_which_chains_are_in_tables(features: int, offered: bool, indirect: str, direct_first: int,
                                    slots: tuple[int, int, int]) -> None:
    features |= INDIRECT if offered else 0
    for pieces, wanted in zip((1, 2, 3), slots, strict=True):
        host = machine(features=features)
        device = opened(host, transmit_shape=Shape(segments=(pieces, pieces)), indirect=indirect,
                        direct_first=direct_first)
        ring = device.rings[1]
        tables = "transmit indirect descriptors"
        run(device.send(b"a" * 60))
        held = ring.size - ring.free_descriptors
        assert held == (min(wanted, 1) if features & PACKED and indirect != "never" and offered
                        else wanted)
        count = sum(tables in region.name for region in host.memory.regions)
        assert count == (offered and (indirect == "always"
                                      or (indirect == "chains" and pieces > 1)))
        run(device.drain())
        assert host.card.sent == [b"a" * 60]
        assert not any(tables in region.name for region in host.memory.regions)
        quiet(host)


def test_tables_are_given_back_by_a_reset() -> None:
    host = machine(features=OFFERED | INDIRECT)
    device = opened(host, receive_shape=Shape(segments=(3, 3)))
    assert sum("indirect" in region.name for region in host.memory.regions) == 64
    run(device.close())
    assert host.memory.regions == []


# --- frames over several buffers


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


# --- the control queue


@pytest.mark.virtio("DRV-NET-MQ-01", "DRV-NET-MQ-02", "DRV-NET-RXB-05")
@pytest.mark.parametrize("features", BOTH_RINGS)
@pytest.mark.parametrize(("offered", "card", "wanted", "pairs"), [
    (SEVERAL, 4, 4, 4), (SEVERAL, 4, 2, 2), (SEVERAL, 4, 1, 1), (SEVERAL, 2, 8, 2),
    (CONTROL, 4, 4, 1), (0, 4, 4, 1), (SEVERAL, 1, 3, 1)])
def test_queues_and_commands_at_the_start(features: int, offered: int, card: int, wanted: int,
                                          pairs: int) -> None:
    host = machine(features=features | offered, pairs=card)
    device = opened(host, pairs=wanted)
    assert (device.active_pairs, host.card.pairs) == (pairs, pairs)
    control = (2 * card if offered & PAIRS else 2) if offered else None
    assert host.card.control == control
    queues = {*range(2 * pairs)} | ({control} if control is not None else set())
    assert set(device.rings) == queues
    assert {number for number, queue in enumerate(host.card.queues) if queue.enabled} == queues
    assert host.card.commands == (
        [struct.pack("<BBH", 4, 0, pairs)] if pairs > 1 else [])
    assert [host.card.available(2 * pair) for pair in range(pairs)] == [64] * pairs
    quiet(host)
    run(device.close())
    assert host.memory.regions == []


@settings(max_examples=40)
@given(st.sampled_from(BOTH_RINGS), st.sets(st.sampled_from([INDIRECT, MERGED])),
       st.sampled_from([(1, 1), (2, 2), (1, 4)]), st.tuples(st.integers(1, 12), st.booleans()),
       st.integers(0, 1000))
@pytest.mark.virtio("DRV-NET-MQ-03", "DRV-NET-MQ-04", "DRV-PCI-MSIX-01")
def test_frames_in_all_pairs(features: int, more: set[int], cut: tuple[int, int],
                             interrupt: tuple[int, bool], seed: int) -> None:
    """With a vector for each queue, or fewer; the number of pairs goes up and down."""
    vectors, interrupts = interrupt
    rng = random.Random(seed)
    host = machine(features=features | SEVERAL | sum(more), pairs=3, vectors=vectors)
    device = opened(host, pairs=3, interrupts=interrupts, queue_size=16, seed=seed,
                    control_shape=Shape(segments=cut, offsets=(0, 5)))
    used = {queue.vector for queue in host.card.queues}
    assert used == ({0xFFFF} if not interrupts else
                    {min(1 + queue, vectors - 1) for queue in range(7)})
    for _ in range(6):
        pairs = rng.randint(1, 3)
        run(device.set_pairs(pairs))
        assert (device.active_pairs, host.card.pairs) == (pairs, pairs)
        host.card.sent.clear()
        host.card.sent_in.clear()
        sent: list[tuple[int, bytes]] = []
        for _ in range(rng.randint(1, 5)):
            pair = rng.randrange(pairs)
            frames = [rng.randbytes(60) for _ in range(rng.randint(1, 20))]
            run(device.send_many(frames, pair=pair, batch=rng.choice([1, 8])))
            sent += [(pair, frame) for frame in frames]
        run(device.drain())
        for pair in range(3):
            assert [frame for number, frame in zip(host.card.sent_in, host.card.sent, strict=True)
                    if number == pair] == [frame for number, frame in sent if number == pair]
            frame = rng.randbytes(100)
            assert host.card.deliver(frame, pair=pair)
            assert run(device.receive(100, pair=pair)) == frame
        for pair in (pairs, -1):
            with pytest.raises(ValueError, match=f"pair {pair} of queues, {pairs} in use"):
                run(device.send(b"a" * 60, pair=pair))
    quiet(host)


@pytest.mark.parametrize("features", BOTH_RINGS)
def test_a_command_that_is_refused(features: int) -> None:
    host = machine(features=features | SEVERAL, pairs=2)
    host.card.refuse_commands = True
    with pytest.raises(CommandRefused, match="refuses command 0 of class 4") as raised:
        opened(host, pairs=2)
    assert (raised.value.command_class, raised.value.command) == (4, 0)
    assert host.card.pairs == 1
    host.card.refuse_commands = False
    device = opened(host, pairs=2)
    host.card.refuse_commands = True
    with pytest.raises(CommandRefused):
        run(device.set_pairs(1))
    assert (device.active_pairs, host.card.pairs) == (2, 2)
    run(device.send(b"a" * 60, pair=1))
    run(device.drain())
    quiet(host)


@pytest.mark.virtio("DRV-NET-MQ-04")
@pytest.mark.parametrize("features", BOTH_RINGS)
def test_a_command_without_an_answer(features: int) -> None:
    """Fewer pairs are used from the moment of the command; a late answer is none to the next."""
    host = machine(features=features | SEVERAL, pairs=2)
    device = opened(host, pairs=2, timeout_cycles=500)
    host.card.deaf = True
    begun = host.cycle
    with pytest.raises(TransportError, match="control: nothing was used within 500 cycles"):
        run(device.set_pairs(1))
    assert 500 <= host.cycle - begun < 600
    assert device.active_pairs == 1
    host.card.deaf = False
    host.card.refuse_commands = True
    with pytest.raises(CommandRefused):
        run(device.set_pairs(2))
    assert len(host.card.commands) == 3
    host.card.refuse_commands = False
    run(device.set_pairs(2))
    assert (device.active_pairs, host.card.pairs) == (2, 2)
    quiet(host)
    run(device.close())
    assert host.memory.regions == []


@pytest.mark.virtio("DRV-NET-MQ-02")
def test_numbers_of_pairs_that_are_none() -> None:
    host = machine(features=OFFERED | SEVERAL, pairs=4)
    device = opened(host, pairs=2)
    for pairs in (0, 3, 5):
        with pytest.raises(ValueError, match=f"{pairs} pairs of queues, 1 to 2 are set up"):
            run(device.set_pairs(pairs))
    with pytest.raises(ValueError, match="pair 2 of queues, 2 are set up"):
        run(device.receive(10, pair=2))
    with pytest.raises(ValueError, match="0 pairs"):
        opened(machine(), pairs=0)
    quiet(host)
    device = opened(machine(features=OFFERED | CONTROL))
    with pytest.raises(TransportError, match="one pair of queues"):
        run(device.set_pairs(1))
    device = opened(machine())
    with pytest.raises(TransportError, match="no control queue"):
        run(device.command(4, 0))


@pytest.mark.parametrize("pairs", [0, 0x8001])
def test_a_device_with_a_number_of_pairs_that_is_none(pairs: int) -> None:
    host = machine(features=OFFERED | SEVERAL)
    struct.pack_into("<H", host.card.net_config, NetConfig.MAX_VIRTQUEUE_PAIRS.offset, pairs)
    with pytest.raises(TransportError, match=f"the device has {pairs} pairs"):
        opened(host)
    assert host.card.status & Status.FAILED


@pytest.mark.parametrize(("answer", "written", "text"), [
    (b"\2", 1, "is answered with 02"), (b"\0", 0, "is answered with nothing")])
def test_answers_that_make_no_sense(answer: bytes, written: int, text: str) -> None:
    host = machine(features=OFFERED | CONTROL)
    device = opened(host)

    def obey(number: int) -> None:
        head, _readable, ((address, _length),) = host.card.take_chain(number)
        host.card.store(address, answer)
        host.card.put_used(number, head, written)

    with patch.object(host.card, "_obey", obey), pytest.raises(RingError, match=text):
        run(device.command(1, 7))


@pytest.mark.parametrize("features", BOTH_RINGS)
def test_an_answer_with_more_than_ok(features: int) -> None:
    host = machine(features=features | CONTROL)
    device = opened(host, control_shape=Shape(segments=(2, 3)))
    said = []

    def obey(number: int) -> None:
        head, readable, writable = host.card.take_chain(number)
        said.append(b"".join(host.card.fetch(*segment) for segment in readable))
        data = b"\0abcd"
        for address, length in writable:
            host.card.store(address, data[:length])
            data = data[length:]
        host.card.put_used(number, head, 4)

    with patch.object(host.card, "_obey", obey):
        assert run(device.command(8, 0, b"data", answer_bytes=8)) == b"abc"
    assert said == [b"\x08\x00data"]
    assert device.statistics.commands == 1
    quiet(host)


def test_a_device_that_breaks_amid_a_command() -> None:
    host = machine(features=OFFERED | SEVERAL, pairs=2)
    device = opened(host, pairs=2)
    host.card.deaf = True
    steps = iter(range(1000))
    host.each_step = lambda: host.card.break_down() if next(steps) == 3 else None
    with pytest.raises(DeviceNeedsReset):
        run(device.set_pairs(1))
    host.card.deaf = False
    run(device.recover())
    assert (device.active_pairs, host.card.pairs) == (2, 2)
    run(device.send(b"a" * 60, pair=1))
    run(device.drain())
    assert host.card.sent_in == [1]
    quiet(host)


# --- resets of single queues


@pytest.mark.virtio("DRV-CORE-VQR-01", "DRV-CORE-VQR-03", "DRV-PCI-COM-07", "DRV-PCI-COM-08")
@pytest.mark.parametrize("features", [WHOLE, WHOLE & ~PACKED, OFFERED | EVENT_IDX | IN_ORDER])
def test_any_queue_is_reset(features: int) -> None:
    host = machine(features=features, pairs=2)
    device = opened(host, pairs=2)
    for number, index in enumerate([*device.rings, 1, 0]):
        host.card.reset_reads = number
        begun, left = host.cycle, host.card.available(index)
        assert (left > 50) == (index % 2 == 0 and index != host.card.control)
        assert run(device.reset_queue(index)) == left
        assert host.cycle - begun >= 50 * number
        for pair in range(device.active_pairs):
            frame = bytes([index]) * 100
            run(device.send(frame, pair=pair))
            run(device.drain())
            assert (host.card.sent[-1], host.card.sent_in[-1]) == (frame, pair)
            assert host.card.deliver(frame, pair=pair)
            assert run(device.receive(100, pair=pair)) == frame
        if features & PAIRS:
            run(device.set_pairs(2))
    with pytest.raises(ValueError, match="queue 77 is not in use"):
        run(device.reset_queue(77))
    quiet(host)
    run(device.close())
    assert host.memory.regions == []


# --- suspension


@pytest.mark.virtio(*(f"DRV-CORE-SUSP-{number:02}" for number in range(1, 7)))
@pytest.mark.parametrize("features", [WHOLE, WHOLE & ~PACKED, OFFERED])
def test_a_device_is_suspended(features: int) -> None:
    """Nothing is given to it meanwhile; what it is to be given waits until it goes on."""
    host = machine(features=features)
    device = opened(host)
    for turn in range(3):
        host.card.suspend_reads = turn
        begun = host.cycle
        run(device.suspend())
        assert host.cycle - begun >= 50 * turn
        assert host.card.status & (Status.SUSPEND | Status.DRIVER_OK) == Status.SUSPEND
        assert not host.card.deliver(b"a" * 60)
        with pytest.raises(RuntimeError, match="the device is suspended"):
            run(device.reset_queue(0))
        kicks, work = host.card.kicks, device.send(bytes([turn]) * 60)
        host.each_step = _Later(host, 300, device.resume())
        run(work)
        run(device.drain())
        assert host.card.kicks == kicks + 1
        host.each_step = lambda: None
        assert host.card.status & (Status.SUSPEND | Status.DRIVER_OK) == Status.DRIVER_OK
        assert host.card.sent[-1] == bytes([turn]) * 60
        assert host.card.deliver(bytes([turn]) * 100)
        assert run(device.receive(100)) == bytes([turn]) * 100
    quiet(host)
    run(device.suspend())
    run(device.close())
    assert host.memory.regions == [] and not device.is_suspended


class _Later:
    """Does something once so many cycles have passed."""

    def __init__(self, host: ModelHost, cycles: int, work: Coroutine[Any, Any, None]) -> None:
        self.host = host
        self.due = host.cycle + cycles
        self.work: Coroutine[Any, Any, None] | None = work

    def __call__(self) -> None:
        if self.work is not None and self.host.cycle >= self.due:
            work, self.work = self.work, None
            assert not self.host.card.sent or self.host.card.status & Status.SUSPEND
            run(work)


@pytest.mark.virtio("DRV-CORE-SUSP-01")
def test_suspensions_that_fail() -> None:
    host = machine(features=OFFERED & ~(1 << Feature.SUSPEND))
    device = opened(host)
    with pytest.raises(TransportError, match="cannot be suspended"):
        run(device.suspend())
    run(device.send(b"a" * 60))
    host = machine()
    device = opened(host)
    with pytest.raises(TransportError, match="nothing to resume: the device's status is 0xf"):
        run(device.resume())
    host.card.breaks_when_suspended = True
    with pytest.raises(DeviceNeedsReset):
        run(device.suspend())
    assert not device.is_suspended
    host.card.breaks_when_suspended = False
    run(device.recover())
    run(device.suspend())
    run(device.virtio.resume())
    quiet(host)
    run(device.virtio.reset())
    device.virtio.features = WHOLE
    with pytest.raises(TransportError, match="nothing to suspend: the device's status is 0x0"):
        run(device.virtio.suspend())


def test_the_card_complains_of_what_is_done_while_suspended() -> None:
    host = machine()
    device = opened(host)
    run(device.virtio.suspend())
    for work, text in ((device.virtio.set_config_vector(0), "a write at 16 while suspended"),
                       (device.virtio.notify(1), "a kick while suspended")):
        run(work)
        assert host.card.complaints[0] == text
        host.card.complaints.clear()
    device.rings[1].add([(0x1000, 60)], [], None)
    device.rings[1].publish()
    run(device.virtio.resume())
    assert complaint(host) == "chains were shown in queue 1 while suspended"
    host.card.complaints.clear()
    host = machine()
    device = opened(host, features=without(Feature.SUSPEND))
    run(device.virtio.add_status(Status.SUSPEND))
    assert complaint(host) == "status 0x1f comes after 0xf"


# --- that the card looks at all


def complaint(host: ModelHost) -> str:
    """Give the one complaint there is."""
    text, = host.card.complaints
    return text


def test_the_card_complains_of_commands_and_pairs() -> None:
    host = machine(features=OFFERED | SEVERAL, pairs=4)
    device = opened(host, pairs=2)
    for data in (b"\0\0", b"\5\0", b"\1", b"\1\0\0"):
        with pytest.raises(CommandRefused):
            run(device.command(Control.MQ, Control.MQ_PAIRS_SET, data))
        assert complaint(host) == f"the command 0400{data.hex()}"
        host.card.complaints.clear()
    with pytest.raises(CommandRefused):
        run(device.command(1, 1))
    assert complaint(host) == "an unknown command 0101"
    host.card.complaints.clear()
    run(device.command(Control.MQ, Control.MQ_PAIRS_SET, b"\3\0"))
    assert host.card.complaints == [f"3 pairs, and queue {queue} is not enabled"
                                    for queue in (4, 5)]
    host.card.complaints.clear()
    run(device.command(Control.MQ, Control.MQ_PAIRS_SET, b"\1\0"))
    run(device.send(b"a" * 60, pair=1))
    run(device.drain())
    assert complaint(host) == "frames in pair 1 of 1"


def test_the_card_complains_of_resets_and_sizes() -> None:
    host = machine(features=OFFERED & ~(1 << Feature.RING_RESET))
    device = opened(host)
    with pytest.raises(TransportError, match="resets no single queue"):
        run(device.reset_queue(0))
    host.card._select[2] = 0
    host.card._write_queue(58, 1)
    assert complaint(host) == "queue_reset = 1 of queue 0"
    host.card.complaints.clear()
    for size, bad in ((12, True), (16, False), (0, True)):
        host.card._write_queue(24, size)
        assert host.card.complaints == ([f"queue size {size}"] if bad else [])
        host.card.complaints.clear()
    host.card.accepted |= PACKED
    for size, bad in ((12, False), (0, True), (65, True)):
        host.card._write_queue(24, size)
        assert host.card.complaints == ([f"queue size {size}"] if bad else [])
        host.card.complaints.clear()
    host.card._select[2] = 2
    host.card._write_queue(24, 16)
    assert complaint(host) == "a write at 24 of queue 2"
