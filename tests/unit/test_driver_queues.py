"""The driver with several pairs of queues and a control queue."""

from __future__ import annotations

import random
import struct
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_driver.buffers import Shape
from sw_driver.layouts import Control, NetConfig, Status
from sw_driver.net import CommandRefused, DeviceNeedsReset
from sw_driver.ring import RingError
from sw_driver.virtio_pci import TransportError
from tb.model_host import run
from tests.unit.driver_world import (
    BOTH_RINGS,
    CONTROL,
    INDIRECT,
    MERGED,
    OFFERED,
    PAIRS,
    SEVERAL,
    complaint,
    machine,
    opened,
    quiet,
)


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


# --- that the card looks at all


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
