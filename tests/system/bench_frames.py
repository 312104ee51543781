"""cocotb side of test_card.py: traffic through the whole card."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import cocotb

from sim.bring_up import bring_up, given_config
from sw_driver.buffers import Shape
from sw_driver.layouts import Feature
from sw_driver.net import NetOptions, without
from tb.root_complex import RootComplexOptions
from tb.stream import bursty
from tb.wire import LINE_100G
from tests.system.traffic import balance, both_ways, make_frame, settle

CASE = json.loads(os.environ.get("RINGLET_CASE", "{}"))
SEED = cocotb.RANDOM_SEED


def frames(sizes: list[int], first: int = 0) -> list[bytes]:
    return [make_frame(first + place, size) for place, size in enumerate(sizes)]


@cocotb.test
async def lengths(dut: Any) -> None:
    """Every length that the case names, both ways at once, each way in another order."""
    low, high, step = CASE["lengths"]
    rng = random.Random(SEED)
    out, into = list(range(low, high + 1, step)), list(range(low, high + 1, step))
    rng.shuffle(out)
    rng.shuffle(into)
    card = await bring_up(dut)
    begun = card.ticker.cycle
    await both_ways(card, frames(out), frames(into, 1 << 20))
    dut._log.info("%d frames each way in %d cycles; %s", len(out), card.ticker.cycle - begun,
                  card.device.statistics)
    await card.ticker.sleep(500)
    assert not await balance(card)
    await settle(card)


def draw_paces(rng: random.Random) -> dict[str, Iterator[bool]]:
    """Stall some streams and not others, each by its own seed."""
    paces = {}
    for name in ("rq_pace", "cc_pace", "rc_pace", "cq_pace", "tx_pace", "rx_pace"):
        flip = rng.choice((None, 0.05, 0.3, 0.6))
        if flip is not None:
            paces[name] = bursty(rng.randrange(1 << 30), flip)
    return paces


def draw_host(rng: random.Random) -> RootComplexOptions:
    return RootComplexOptions(
        latency_cycles=rng.choice((15, 80, 250, 500)), jitter_cycles=rng.choice((0, 20, 300)),
        boundary_bytes=rng.choice((64, 128)),
        splitting=rng.choice(("large", "small", "random")),
        sampling=rng.choice(("chunks", "at_once")), credits=rng.choice((None, 4, 24)),
        seed=rng.randrange(1 << 30))


def draw_driver(rng: random.Random) -> NetOptions:
    config = given_config()

    def shape() -> Shape:
        return Shape(segments=rng.choice(((1, 1), (1, 2), (2, 5), (1, 14))),
                     offsets=rng.choice(((0, 0), (0, 63), (1, 3))))

    left_out = [feature for feature in (
        Feature.RING_PACKED, Feature.INDIRECT_DESC, Feature.MRG_RXBUF, Feature.EVENT_IDX,
        Feature.NOTIFICATION_DATA, Feature.IN_ORDER) if rng.random() < 0.4]
    sizes = [16, 64, 256, 1024]
    if Feature.RING_PACKED not in left_out:
        sizes += [19, 100, 777]
    size = rng.choice([size for size in sizes if size <= config.queue_size_max])
    # Merged buffers: all of them together hold the longest frame.
    small = [None, *(length for length in (90, 300, 2000)
                     if Feature.MRG_RXBUF not in left_out
                     and size * length > 2 * config.max_frame_bytes)]
    receive_bytes = rng.choice(small)
    return NetOptions(
        features=without(*left_out), receive_bytes=receive_bytes,
        indirect=rng.choice(("always", "chains", "never")), queue_size=size,
        refill_batch=rng.choice((1, 8)),
        receive_shape=shape() if receive_bytes is None else Shape(),
        transmit_shape=shape(), interrupts=rng.random() < 0.8, suppress=rng.random() < 0.7,
        shuffle=rng.random() < 0.6, max_payload=rng.choice((128, config.max_payload_bytes)),
        max_read=rng.choice((128, config.max_read_bytes)), seed=rng.randrange(1 << 30))


EDGES = (60, 61, 63, 64, 65, 115, 116, 117, 127, 128, 129, 243, 244, 245, 255, 256, 257, 511, 512,
         513, 1023, 1024, 1500, 1513, 1514)
"""Lengths at which a frame, with its header or without, ends beside a lane or a cell."""


def draw_sizes(rng: random.Random, count: int, longest: int) -> list[int]:
    return [rng.choice((rng.choice(EDGES), rng.randint(60, 1514), rng.randint(60, 128),
                        rng.randint(60, longest) if rng.random() < 0.2 else 60))
            for _ in range(count)]


@cocotb.test
async def anything(dut: Any) -> None:
    """Whatever may vary varies: chains, alignments, completions, stalls, settings."""
    rng = random.Random(CASE["draw"] * 1000 + SEED)
    host, net = draw_host(rng), draw_driver(rng)
    paces: dict[str, Any] = dict(draw_paces(rng))
    dut._log.info("%s", host)
    dut._log.info("%s", net)
    card = await bring_up(dut, options=host, net=net, **paces)
    longest = card.config.max_frame_bytes
    count = CASE["frames"]
    dut._log.info("up at %d; paces %s", card.ticker.cycle, sorted(paces))
    await both_ways(card, frames(draw_sizes(rng, count, longest)),
                    frames(draw_sizes(rng, count, longest), 1 << 20), batch=rng.choice((1, 5, 32)))
    dut._log.info("done at %d; %s", card.ticker.cycle, card.device.statistics)
    await card.ticker.sleep(3000)
    assert not await balance(card)
    await settle(card)


@cocotb.test
async def overload(dut: Any) -> None:
    """More frames than the driver takes: what is lost is counted, what is not is whole."""
    rng = random.Random(SEED)
    card = await bring_up(dut, net=NetOptions(
        queue_size=64, receive_buffers=32, max_payload=given_config().max_payload_bytes,
        max_read=given_config().max_read_bytes))
    count = CASE["frames"]
    sent = frames([rng.choice((60, 60, 300, 1514)) for _ in range(count)])
    for frame in sent:
        card.wire.send(frame)
    place, got = 0, 0
    while (received := await card.device.receive(5000)) is not None:
        try:
            place = sent.index(received, place) + 1  # in order, each at most once
        except ValueError:
            raise AssertionError(f"frame {got} is none that was sent after {place}") from None
        got += 1
        await card.ticker.sleep(rng.randint(0, 60))
    await card.ticker.sleep(500)
    drops = await balance(card)
    dut._log.info("%d of %d received, drops %s", got, count, drops)
    assert drops and sum(drops.values()) == count - got
    assert drops.keys() <= {"entry_full", "pool_full", "queue_full"}
    card.wire.rx_rate = LINE_100G
    await both_ways(card, frames([1514, 60]), frames([60, 1514, 64], 1 << 20))
    await settle(card)


@cocotb.test
async def positions_wrap(dut: Any) -> None:
    """More chains than a ring has entries, many times over."""
    config = given_config()
    card = await bring_up(dut, options=RootComplexOptions(latency_cycles=20), net=NetOptions(
        queue_size=16, max_payload=config.max_payload_bytes, max_read=config.max_read_bytes))
    count = CASE["frames"]
    await both_ways(card, frames([60] * count), frames([60] * count, 1 << 20), batch=7)
    assert not await balance(card)
    await settle(card)


