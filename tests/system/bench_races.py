"""cocotb side of test_card.py: the driver's kick and re-arm against the card's writes.

By flags, or with EVENT_IDX. Each race is run at every offset of a window in which both orders come
about. A kick or an interrupt
that is lost leaves the driver waiting: it may not wait for longer than `LATE`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Awaitable
from typing import Any

import cocotb

from sim.bring_up import Card, bring_up, given_config
from sw_driver.layouts import Feature
from sw_driver.net import NetOptions, without
from sw_driver.split_ring import SplitRing
from tb.root_complex import RootComplexOptions
from tests.system.traffic import make_frame, settle

CASE = json.loads(os.environ.get("RINGLET_CASE", "{}"))
SEED = cocotb.RANDOM_SEED
LATE = 2500
REFILL = 8
BATCH = 12  # enough new chains at once that the card asks for no kicks


async def card_of(dut: Any, **others: Any) -> Card:
    config = given_config()
    return await bring_up(
        dut, options=RootComplexOptions(latency_cycles=CASE["latency"], seed=SEED),
        net=NetOptions(features=without(
            *(() if CASE["event_idx"] else (Feature.EVENT_IDX,)),
            *(() if CASE["packed"] else (Feature.RING_PACKED,))),
                       queue_size=64, max_payload=config.max_payload_bytes,
                       max_read=config.max_read_bytes, timeout_cycles=2 * LATE, **others))


async def in_time(card: Card, what: str, wait: Awaitable[Any]) -> Any:
    """Wait for something that must not take until a time-out."""
    begun = card.ticker.cycle
    result = await wait
    assert card.ticker.cycle - begun < LATE, f"{what}: found only by a time-out"
    return result


def both_orders(card: Card, counts: list[int], window: range) -> None:
    """See that the window holds both orders, and reaches beyond the race on both sides."""
    card.dut._log.info("window %s: %s", window, "".join(map(str, counts)))
    margin = len(counts) // 10 + 1
    assert 0 < sum(counts) < len(counts), "the window holds no race"
    assert len(set(counts[:margin])) == 1 and len(set(counts[-margin:])) == 1, (
        "the window ends within the race")
    assert counts[0] != counts[-1]


@cocotb.test
async def kick_of_transmit(dut: Any) -> None:
    """A frame at any time after the card found no more: by the driver's kick or the card's look."""
    card = await card_of(dut)
    device = card.device
    ring = device.rings[1]
    wanted = []
    window = range(*CASE["window"])
    for offset in window:
        await device.send_many([make_frame(number, 60) for number in range(BATCH)])
        await card.ticker.until(lambda: not ring.awaits_kick(), LATE, "NO_NOTIFY")
        await card.ticker.sleep(offset)
        kicks = device.statistics.kicks
        await device.send(make_frame(offset, 61))
        wanted.append(device.statistics.kicks - kicks)
        await in_time(card, f"offset {offset}", device.drain())
        await card.ticker.until(ring.awaits_kick, LATE, "the end of NO_NOTIFY")
        await card.ticker.sleep(100)
        assert card.wire.frames[-1].data == make_frame(offset, 61)
    both_orders(card, wanted, window)
    await settle(card)


@cocotb.test
async def kick_of_receive(dut: Any) -> None:
    """Fresh buffers at any time after others: the frames that come then must find them all."""
    card = await card_of(dut, receive_buffers=2 * REFILL, refill_batch=REFILL)
    device = card.device
    ring = device.rings[0]
    assert isinstance(ring, SplitRing)
    frames = [make_frame(number, 60) for number in range(2 * REFILL)]

    async def use_up() -> None:
        for frame in frames:
            card.wire.send(frame)
        await card.ticker.until(lambda: ring.used_index == ring._published, LATE, "all frames")
        await card.ticker.until(ring.awaits_kick, LATE, "the end of NO_NOTIFY")

    wanted = []
    window = range(*CASE["window"])
    for offset in window:
        await use_up()
        for frame in frames[:REFILL]:
            assert await device.receive(0) == frame
        await card.ticker.until(lambda: not ring.awaits_kick(), LATE, "NO_NOTIFY")
        for frame in frames[REFILL:-1]:
            assert await device.receive(0) == frame
        await card.ticker.sleep(offset)
        kicks = device.statistics.kicks
        assert await device.receive(0) == frames[-1]
        wanted.append(device.statistics.kicks - kicks)
    await use_up()
    both_orders(card, wanted, window)
    await settle(card)


@cocotb.test
async def rearm_of_receive(dut: Any) -> None:
    """The driver asks for interrupts again at any time around the used index's write."""
    card = await card_of(dut)
    device = card.device
    ring = device.rings[0]
    middle = 0
    for _ in range(2):  # the first frame still waits for its buffer
        card.wire.send(make_frame(0, 60))
        await card.wire.drain()
        begun = card.ticker.cycle
        await card.ticker.until(ring.has_used, LATE, "the frame")
        middle = card.ticker.cycle - begun
        assert await device.receive(0) == make_frame(0, 60)
    slept = []
    before, after = CASE["around"]
    for offset in range(max(0, middle - before), middle + after):
        frame = make_frame(offset, 60)
        card.wire.send(frame)
        await card.wire.drain()
        await card.ticker.sleep(offset)
        waits = device.statistics.waits
        assert await in_time(card, f"offset {offset}", device.receive(2 * LATE)) == frame
        slept.append(min(1, device.statistics.waits - waits))
        await card.ticker.sleep(100)  # what was still on its way
    both_orders(card, slept, range(before + after))
    await settle(card)


@cocotb.test
async def rearm_of_transmit(dut: Any) -> None:
    """The same, when the driver waits for a frame to have been sent."""
    card = await card_of(dut)
    device = card.device
    ring = device.rings[1]
    middle = 0
    for _ in range(2):  # the first frame may find the card busy with receive buffers
        await card.ticker.sleep(1000)
        await device.send(make_frame(0, 60))
        begun = card.ticker.cycle
        await card.ticker.until(ring.has_used, LATE, "the frame")
        middle = card.ticker.cycle - begun
        await device.drain()
    slept = []
    before, after = CASE["around"]
    for offset in range(max(0, middle - before), middle + after):
        await device.send(make_frame(offset, 60))
        await card.ticker.sleep(offset)
        waits = device.statistics.waits
        await in_time(card, f"offset {offset}", device.drain())
        slept.append(min(1, device.statistics.waits - waits))
        await card.ticker.sleep(100)
    both_orders(card, slept, range(before + after))
    await settle(card)


@cocotb.test
async def rearm_in_bursts(dut: Any) -> None:
    """Frames come in twos and threes, so that a re-arm meets the index's write of another one."""
    rng = random.Random(SEED)
    card = await card_of(dut)
    for turn in range(CASE["turns"]):
        count = rng.randint(2, 3)
        frames = [make_frame(8 * turn + number, 60) for number in range(count)]
        for frame in frames:
            card.wire.send(frame)
            await card.ticker.sleep(rng.randint(1, 40))
        for frame in frames:
            assert await in_time(card, f"turn {turn}", card.device.receive(2 * LATE)) == frame
            await card.ticker.sleep(rng.randint(0, 60))
    await settle(card)
