"""The driver on the whole card, both ways at once, with hosts and drivers of several kinds."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from sim.bring_up import Card, bring_up
from sw_driver.buffers import Shape
from sw_driver.net import NetOptions
from tb.root_complex import RootComplexOptions
from tb.scoreboard import Scoreboard
from tb.stream import bursty

SIZES = (14, 60, 61, 63, 64, 65, 127, 128, 129, 300, 1514)
COUNT = 60
AHEAD = 3  # frames given to the wire before the driver has taken them: the pool holds these


async def both_ways(card: Card, rng: random.Random) -> None:
    """Send and receive frames of all sizes; every one arrives, in order and unchanged."""
    transmit, receive = Scoreboard("transmit"), Scoreboard("receive")
    card.wire.on_frame.append(lambda frame: (
        receive.expect if frame.direction == "rx" else transmit.got)(frame.data))
    lengths = random.Random(rng.random())

    async def send() -> None:
        left = COUNT
        while left:
            batch = [lengths.randbytes(lengths.choice(SIZES))
                     for _ in range(min(left, lengths.randrange(1, 20)))]
            left -= len(batch)
            for frame in batch:
                transmit.expect(frame)
            await card.device.send_many(batch, batch=lengths.choice([1, 4, 32]))
        await card.device.drain()

    sender = cocotb.start_soon(send())
    given = 0
    for taken in range(COUNT):
        while given < min(COUNT, taken + AHEAD):
            card.wire.send(rng.randbytes(rng.choice(SIZES)))
            given += 1
        frame = await card.device.receive(20_000)
        assert frame is not None, f"frame {taken} did not reach the driver"
        receive.got(frame)
    await sender
    await card.ticker.until(lambda: transmit.outstanding == 0, 5000, "the last frame's way out")
    transmit.finish()
    receive.finish()


async def close(card: Card) -> None:
    """Close the device: nothing reaches memory after the reset's answer."""
    await card.device.close()
    left = card.host.root.memory.regions
    assert not left, left
    sent = card.host.root.counts["rq.reads"] + card.host.root.counts["rq.writes"]
    await card.ticker.sleep(1000)
    assert card.host.root.counts["rq.reads"] + card.host.root.counts["rq.writes"] == sent
    card.host.root.check()


@cocotb.test
async def stalls_everywhere(dut: Any) -> None:
    """Few credits, reordered and split completions, stalls on every stream, cut-up buffers."""
    card = await bring_up(
        dut, options=RootComplexOptions(latency_cycles=80, jitter_cycles=120, splitting="random",
                                        credits=8, credit_cycles=20),
        net=NetOptions(max_payload=128, max_read=128, queue_size=16, shuffle=True,
                       transmit_shape=Shape(segments=(1, 5), offsets=(0, 63)),
                       receive_shape=Shape(segments=(1, 4), offsets=(0, 63))),
        rq_pace=bursty(1), cc_pace=bursty(2), rc_pace=bursty(3), cq_pace=bursty(4),
        tx_pace=bursty(5))
    await both_ways(card, random.Random(11))
    await close(card)


@cocotb.test
async def without_interrupts(dut: Any) -> None:
    """A driver that polls; small completions with a boundary of 128 bytes."""
    card = await bring_up(
        dut, options=RootComplexOptions(latency_cycles=30, jitter_cycles=20, boundary_bytes=128,
                                        splitting="small"),
        net=NetOptions(interrupts=False, receive_shape=Shape(segments=(1, 2))))
    await both_ways(card, random.Random(12))
    assert card.host.root.counts["rq.interrupts"] == 0
    await close(card)


@cocotb.test
async def interrupts_always_wanted(dut: Any) -> None:
    """A driver that never suppresses interrupts, on a slow host without any stall."""
    card = await bring_up(
        dut, options=RootComplexOptions(latency_cycles=250),
        net=NetOptions(max_payload=128, max_read=256, queue_size=32, suppress=False))
    await both_ways(card, random.Random(13))
    await close(card)


@cocotb.test
async def open_and_close_again(dut: Any) -> None:
    """Virtio reset and function-level reset, each with traffic before and after."""
    card = await bring_up(dut, options=RootComplexOptions(latency_cycles=60))
    for again in (card.device.recover, card.device.reset_function, card.device.close):
        if not card.device.is_open:
            await card.device.open()
        for size in (60, 200):
            frame = bytes([size]) * size
            await card.device.send(frame)
            assert (await card.wire.receive()).data == frame
            card.wire.send(frame)
            assert await card.device.receive(20_000) == frame
        await again()
    card.host.root.check()
