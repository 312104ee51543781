"""cocotb side of tests/unit/test_prefetch.py."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import FaultReason
from tb.stream import cycles, reset
from tests.unit.prefetch_world import NEXT, WRITE, Queue, World

LANES = int(os.environ.get("RINGLET_LANES", "8"))
CONTEXT_BITS = int(os.environ.get("RINGLET_CONTEXT_BITS", "52"))
TRANSMIT = os.environ.get("RINGLET_DIRECTION", "transmit") == "transmit"
SIZE_MAX = int(os.environ.get("RINGLET_SIZE_MAX", "64"))
MAX_BYTES = 9100


def world(dut: Any, stalls: bool = False, seed: int = 0, **options: Any) -> World:
    return World(dut, lanes=LANES, context_bits=CONTEXT_BITS, stalls=stalls,
                 seed=seed + cocotb.RANDOM_SEED, **options)


def number(index: int) -> int:
    """Queue ``index`` of this direction, by the card's count."""
    return 2 * index + int(TRANSMIT)


def lengths(rng: random.Random, count: int) -> list[int]:
    """Random buffers that make a chain that may be sent."""
    return [rng.randint(13, MAX_BYTES // count) for _ in range(count)]


async def feed(w: World, queue: Queue, chains: int, seed: int, *, longest: int = 20,
               batch: int = 12, pause: int = 150) -> None:
    """Post random chains in random batches as descriptors come free."""
    rng = random.Random(seed)
    while chains:
        for _ in range(min(chains, rng.randint(1, batch))):
            count = min(rng.choice([1, 1, 1, 2, 3, rng.randint(1, longest)]), queue.size)
            if len(queue.free) < count:
                w.kick(queue)
                await w.until(lambda count=count: len(queue.free) >= count, why="descriptors")
            if rng.random() < 0.2:
                rng.shuffle(queue.free)
            queue.add(lengths(rng, count), rng, pick=rng.choice([-1, -1, 0]))
            chains -= 1
        w.kick(queue)
        await cycles(w.dut, rng.randint(0, pause))


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def all_chains_come_in_order(dut: Any, stalls: bool) -> None:
    """Random chains on every queue, several laps; everything comes once, and nothing is left over."""
    w = world(dut, stalls, latency=(10, 300))
    queues = await w.begin({number(0): 16, number(1): 32, number(2): SIZE_MAX})
    tasks = [cocotb.start_soon(feed(w, queue, 100, seed=queue.number + 40 * stalls))
             for queue in queues]
    for task in tasks:
        await task
    await w.settle()
    assert len(w.delivered) == 300
    assert not w.faults and not w.none


@cocotb.test
async def few_reads_at_a_time(dut: Any) -> None:
    """The engine takes no more than two reads before an answer was taken: no deadlock."""
    w = world(dut, True, 3, latency=(5, 40), reads_max=2)
    queues = await w.begin({number(index): 32 for index in range(3)})
    tasks = [cocotb.start_soon(feed(w, queue, 60, seed=queue.number, longest=6, pause=10))
             for queue in queues]
    for task in tasks:
        await task
    await w.settle()
    assert len(w.delivered) == 180
