"""cocotb side of test_card.py: frames that nobody can take, and drivers and hosts that err."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cocotb

from hw.virtio.types import FaultReason
from sim.bring_up import Card, bring_up, given_config
from sw_driver.buffers import Shape, make_buffer
from sw_driver.layouts import Feature, NetHeader, Status
from sw_driver.management import Management
from sw_driver.net import DeviceNeedsReset, NetOptions, without
from sw_driver.split_ring import SplitRing
from tb.completer import FaultKind
from tb.root_complex import RootComplexOptions
from tests.system.traffic import balance, both_ways, make_frame, settle

CASE = json.loads(os.environ.get("RINGLET_CASE", "{}"))
SEED = cocotb.RANDOM_SEED

RECEIVE, TRANSMIT = 0, 1
NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = struct.Struct("<QIHH")
SOON = 4000
"""Cycles within which the driver must learn of a fault."""


def options(**others: Any) -> NetOptions:
    """Split rings without tables, each frame in one chain, but for what is asked for."""
    config = given_config()
    features = without(Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.MRG_RXBUF,
                       *others.pop("left_out", ()))
    return NetOptions(max_payload=config.max_payload_bytes, max_read=config.max_read_bytes,
                      features=features, **others)


# --- frames that are dropped


@cocotb.test
async def no_fit(dut: Any) -> None:
    """A frame that is longer than the next buffer is dropped and counted; those that fit come."""
    rng = random.Random(SEED)
    room = 200
    card = await bring_up(dut, net=options(
        receive_bytes=NetHeader.SIZE + room, receive_shape=Shape(segments=(1, 3))))
    sizes = [rng.choice((60, room - 1, room, room + 1, 1514)) for _ in range(CASE["frames"])]
    sent = [make_frame(number, size) for number, size in enumerate(sizes)]
    fitting = [frame for frame in sent if len(frame) <= room]
    for frame in sent:
        card.wire.send(frame)
        await card.wire.drain()
        await card.ticker.sleep(400)  # so that the pool is no limit
    for frame in fitting:
        assert await card.device.receive(SOON) == frame
    assert await card.device.receive(SOON) is None
    drops = await balance(card)
    assert drops == {"no_fit": len(sent) - len(fitting)}, drops
    assert await Management(card.function).take_fault() is None
    await settle(card)


@cocotb.test
async def bad_frames(dut: Any) -> None:
    """What the wire's side must drop is dropped there and counted; others are not touched."""
    rng = random.Random(SEED)
    card = await bring_up(dut)
    most = card.config.max_frame_bytes
    good, counts = [], {"oversize": 0, "runt": 0, "frame_error": 0}
    for number in range(CASE["frames"]):
        kind = rng.choice(("good", "good", "oversize", "runt", "frame_error"))
        if kind == "good":
            good.append(make_frame(number, rng.choice((60, 64, 200, most))))
            card.wire.send(good[-1])
        else:
            counts[kind] += 1
            size = {"oversize": rng.choice((most + 1, most + 64, 2 * most)),
                    "runt": rng.choice((1, 8, 13)), "frame_error": rng.choice((60, 500, most)),
                    }[kind]
            card.wire.send(make_frame(number, size), error=kind == "frame_error")
        await card.wire.drain()
        await card.ticker.sleep(10)
    for frame in good:
        assert await card.device.receive(SOON) == frame
    assert await card.device.receive(SOON) is None
    drops = await balance(card, bad=sum(counts.values()))
    assert drops == {name: count for name, count in counts.items() if count}, drops
    await both_ways(card, [make_frame(1, 60)], [make_frame(2, 60)])
    await settle(card)


# --- faults


@dataclass(frozen=True)
class Mistake:
    """A chain that no driver may make, in the ring of one queue.

    ``chain`` gives the descriptors, at places 0, 1, ...: place of the next one and so on are
    counted from the first one; what is larger is meant as it is.
    """

    name: str
    queue: int
    reason: FaultReason
    chain: Sequence[tuple[int, int, int]] = ()
    """Bytes, flags, next."""
    head: int = 0
    jump: int = 1
    """By how much the available index moves."""


def mistakes(size: int, longest: int) -> list[Mistake]:
    """List mistakes of both directions, for rings of ``size``."""
    found = []
    for queue, own, wrong in ((TRANSMIT, 0, WRITE), (RECEIVE, WRITE, 0)):
        def add(name: str, reason: FaultReason, *chain: tuple[int, int, int],
                queue: int = queue, **others: int) -> None:
            found.append(Mistake(f"{name}, queue {queue}", queue, reason, chain, **others))

        add("loop of one", FaultReason.LOOP, (20, own | NEXT, 0))
        add("loop of two", FaultReason.LOOP, (20, own | NEXT, 1), (20, own | NEXT, 0))
        add("next out of range", FaultReason.NEXT_RANGE, (20, own | NEXT, size))
        add("next far out of range", FaultReason.NEXT_RANGE,
            (20, own | NEXT, 1), (20, own | NEXT, 0xFFFF))
        add("head out of range", FaultReason.HEAD_RANGE, (80, own, 0), head=size)
        add("head far out of range", FaultReason.HEAD_RANGE, (80, own, 0), head=0xFFFF)
        add("no bytes", FaultReason.ZERO_LENGTH, (0, own, 0))
        add("no bytes behind some", FaultReason.ZERO_LENGTH, (80, own | NEXT, 1), (0, own, 0))
        add("wrong direction", FaultReason.DIRECTION, (80, wrong, 0))
        add("wrong direction behind", FaultReason.DIRECTION, (80, own | NEXT, 1), (80, wrong, 0))
        add("indirect", FaultReason.BAD_FLAGS, (16, own | INDIRECT, 0))
        add("index jump", FaultReason.INDEX_JUMP, (80, own, 0), jump=size + 1)
    found.append(Mistake("index back", TRANSMIT, FaultReason.INDEX_JUMP, ((80, 0, 0),),
                         jump=0xFFFF))
    found.append(Mistake("header alone", TRANSMIT, FaultReason.BAD_LENGTH, ((12, 0, 0),)))
    found.append(Mistake("too long for a frame", TRANSMIT, FaultReason.BAD_LENGTH,
                         ((12, NEXT, 1), (longest + 1, 0, 0))))
    return found


def ring_of(card: Card, queue: int) -> SplitRing[Any]:
    """Give the ring that the driver uses."""
    device = card.device
    ring = device.rings[queue]
    assert isinstance(ring, SplitRing)
    return ring


async def make_mistake(card: Card, mistake: Mistake) -> None:
    """Put a bad chain behind all good ones, and kick."""
    ring = ring_of(card, mistake.queue)
    index, = struct.unpack("<H", ring.available.read(2, 2))
    places = sorted(ring._free)[:len(mistake.chain)]
    for place, (size, flags, following) in zip(places, mistake.chain, strict=True):
        target = card.port.allocate(max(size, 1), name="bait")
        goes_to = places[following] if following < len(places) else following
        ring.descriptors.write(16 * place, DESCRIPTOR.pack(target.address, size, flags, goes_to))
    head = mistake.head if mistake.head else places[0]
    ring.available.write(4 + 2 * (index % ring.size), struct.pack("<H", head))
    ring.available.write(2, struct.pack("<H", (index + mistake.jump) & 0xFFFF))
    await card.device.virtio.notify(mistake.queue)


async def await_fault(card: Card, queue: int, reason: FaultReason) -> None:
    """See that the driver is told, and that the operator finds out why."""
    device = card.device
    interrupt = device.context.config_interrupt
    assert interrupt is not None
    if not device.needs_reset:  # the driver has not seen it yet
        assert await card.port.wait_interrupts(
            [(interrupt, device.context.config_seen)],
            SOON + (card.config.completion_timeout_cycles
                    if reason == FaultReason.READ_TIMEOUT else 0)), "no configuration interrupt"
    device.context.config_seen = interrupt.count
    device.context.needs_reset = False  # this driver goes on with the other queue
    assert await device.virtio.status() & Status.NEEDS_RESET
    assert await device.virtio.read_isr() & 2
    record = await Management(card.function).take_fault()
    assert record is not None, "no fault in the log"
    told = FaultReason(record.reason)
    assert (record.function, record.queue, told) == (0, queue, reason), record


async def other_queue_works(card: Card, faulty: int) -> None:
    """Use the queue that is not faulty, as a driver may until its reset."""
    if faulty == TRANSMIT:
        for number in range(3):
            frame = make_frame(number, 100 + number)
            card.wire.send(frame)
            assert await card.device.receive(SOON) == frame
    else:
        before = len(card.wire.frames)
        sent = [make_frame(number, 100 + number) for number in range(3)]
        await card.device.send_many(sent)
        await card.device.drain()
        await card.ticker.sleep(300)
        assert [frame.data for frame in card.wire.frames[before:]] == sent


async def works(card: Card) -> None:
    """Pass a few frames both ways."""
    await both_ways(card, [make_frame(number, 60 + 7 * number) for number in range(4)],
                    [make_frame(number, 60 + 9 * number) for number in range(4)])


@cocotb.test
async def driver_mistakes(dut: Any) -> None:
    """Each mistake stops its queue alone, is told and logged; a reset makes the function whole."""
    size = 16
    card = await bring_up(dut, options=RootComplexOptions(latency_cycles=60), net=options(
        queue_size=size, receive_buffers=4))
    for mistake in mistakes(size, card.config.max_frame_bytes)[::CASE.get("step", 1)]:
        dut._log.info("%s", mistake.name)
        await works(card)
        passed = len(card.wire.frames)
        await make_mistake(card, mistake)
        await await_fault(card, mistake.queue, mistake.reason)
        await other_queue_works(card, mistake.queue)
        assert len([frame for frame in card.wire.frames[passed:] if frame.direction == "tx"]) == (
            3 if mistake.queue == RECEIVE else 0), "a bad chain was sent"
        # The queue stands: what the driver still puts in is not looked at.
        await card.device.virtio.notify(mistake.queue)
        await card.ticker.sleep(300)
        assert await Management(card.function).take_fault() is None
        await card.device.recover()
    await works(card)
    await settle(card)


# --- reads that fail


async def send_into(card: Card, kind: FaultKind, what: str) -> None:
    """Let the host fail a read of the transmit queue."""
    ring = ring_of(card, TRANSMIT)
    device = card.device
    buffer = make_buffer(card.port, NetHeader.SIZE + 600, Shape(segments=(2, 2)),
                         random.Random(SEED), name="faulty buffer", most=4, device_reads=True)
    buffer.write(NetHeader().pack() + make_frame(0, 600))
    head = ring.add(buffer.segments, [], buffer)
    root = card.host.root
    if what == "data":
        root.inject(buffer.segments[-1][0] + 8, kind=kind, count=1)
    elif what == "descriptor":
        root.inject(ring.descriptors.address + 16 * head, 16, kind=kind, count=1)
    elif what == "entry":
        root.inject(ring.available.address + 4, ring.available.size - 6, kind=kind, count=1)
    elif what == "index":
        root.inject(ring.available.address + 2, 2, kind=kind, count=1)
    else:
        # The flags alone are read to know whether an interrupt is wanted.
        root.inject(ring.available.address, 1, kind=kind, count=1)
    ring.publish()
    await device.virtio.notify(TRANSMIT)


REASONS = {FaultKind.UNSUPPORTED: FaultReason.READ_FAILED, FaultKind.ABORT: FaultReason.READ_FAILED,
           FaultKind.POISONED: FaultReason.READ_POISONED, FaultKind.NEVER: FaultReason.READ_TIMEOUT}


@cocotb.test
async def host_failures(dut: Any) -> None:
    """A read that fails stops its queue, whatever was read; no wrong frame leaves."""
    # With those two neither the index nor the flags would have to be read.
    card = await bring_up(dut, options=RootComplexOptions(latency_cycles=60), net=options(
        queue_size=16, left_out=(Feature.NOTIFICATION_DATA, Feature.EVENT_IDX)))
    for kind in (FaultKind[name] for name in CASE["kinds"]):
        for what in CASE["reads"]:
            dut._log.info("%s of %s", kind.value, what)
            await works(card)
            await card.ticker.sleep(500)  # the last reads for interrupts come back
            passed = len(card.wire.frames)
            await send_into(card, kind, what)
            await await_fault(card, TRANSMIT, REASONS[kind])
            left = [frame.data for frame in card.wire.frames[passed:]]
            assert left == ([make_frame(0, 600)] if what == "flags" else []), "what left is wrong"
            await other_queue_works(card, TRANSMIT)
            # Nothing of the queue may be touched from the answer to the reset on.
            card.host.root.faults.clear()
            await card.device.recover()
    await works(card)
    await settle(card)


@cocotb.test
async def receive_failures(dut: Any) -> None:
    """A read that fails for the receive queue leaves transmit alone."""
    card = await bring_up(dut, options=RootComplexOptions(latency_cycles=60), net=options(
        queue_size=16, receive_buffers=8, refill_batch=8))
    for kind in (FaultKind[name] for name in CASE["kinds"]):
        for what in CASE["reads"]:
            dut._log.info("%s of %s", kind.value, what)
            await works(card)
            ring = ring_of(card, RECEIVE)
            where = {"descriptor": ring.descriptors, "entry": ring.available}[what]
            skip = 4 if what == "entry" else 0
            card.host.root.inject(where.address + skip, where.size - skip, kind=kind, count=1)
            # Frames use up the buffers until the driver puts fresh ones in.
            for number in range(8):
                card.wire.send(make_frame(number, 60))
            with suppress(DeviceNeedsReset):
                for number in range(8):
                    assert await card.device.receive(SOON) == make_frame(number, 60)
            await await_fault(card, RECEIVE, REASONS[kind])
            await other_queue_works(card, RECEIVE)
            card.host.root.faults.clear()
            await card.device.recover()
    await works(card)
    await settle(card)
