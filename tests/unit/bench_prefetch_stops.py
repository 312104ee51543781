"""Prefetch: queues that are stopped, go on, or begin in a ring that another device has used."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from tb.stream import cycles
from tests.unit.prefetch_traffic import RINGS, Queue, by_table, feed, lengths, sizes, world
from tests.unit.prefetch_world import World


@cocotb.test
@cocotb.parametrize(stalls=[False, True], rings=list(RINGS))
async def stop_and_go(dut: Any, stalls: bool, rings: str) -> None:
    """Stopped at any moment, a queue goes on where it was, or from the start after a reset."""
    w = world(dut, stalls, 7, rings=rings, latency=(10, 120))
    queues = await w.begin(sizes(w, 32, 32) if rings == "split" else sizes(w, 37, 37))
    rng = random.Random(17)
    victim, other = queues
    feeder = cocotb.start_soon(feed(w, other, 150, seed=5, longest=4, pause=60))
    for turn in range(12):
        while victim.room >= 4:
            count = rng.randint(1, 4)
            victim.add(lengths(rng, count), rng, table=by_table(victim, count, rng))
        w.kick(victim)
        w.consume = turn % 3 != 0  # with full caches, and with takes on their way
        await cycles(dut, rng.randint(0, 300))
        again = turn % 4 == 3
        w.consume = True
        await w.stop(victim, reset=again)
        await w.until(lambda: not victim.taken)
        if again:
            victim.restart()
            continue
        await cycles(dut, rng.randint(0, 20))
        if turn % 2:
            w.kick(victim, always=True)  # of a queue that does not run
            await cycles(dut, 60)
        w.start(victim)
        if turn % 5 == 4:
            await w.until(lambda: not victim.posted, why="all of the victim")
    await feeder
    if not victim.running:
        w.start(victim)
    await w.settle()
    assert not w.faults


async def begin_anywhere(w: World, queue: Queue, rng: random.Random) -> None:
    """Let a queue go on in a ring that another device has used, when its own is done with."""
    await w.until(lambda: not queue.posted and not queue.taken, why="all of the queue")
    queue.running = False
    await w.until(lambda: w.count[queue.number] == 0)
    await w.stop(queue, reset=True, load=queue.move(rng))
    w.start(queue)


async def until_kicks_are_wanted(w: World, queue: Queue) -> None:
    await w.until(lambda: not queue.silent, why="a kick is wanted")


@cocotb.test
@cocotb.parametrize(stalls=[False, True], rings=list(RINGS))
async def rings_of_another_device(dut: Any, stalls: bool, rings: str) -> None:
    """A queue begins where it is loaded, in a ring that says that no kicks are wanted."""
    w = world(dut, stalls, 13, rings=rings, latency=(10, 120))
    queues = await w.begin(sizes(w, 32, 32, 16) if rings == "split" else sizes(w, 37, 37, 21))
    rng = random.Random(cocotb.RANDOM_SEED)
    for turn in range(15):
        victim = queues[turn % len(queues)]
        await begin_anywhere(w, victim, rng)
        if turn % 2:
            # Nothing is there at first: now the card says that it wants a kick.
            await until_kicks_are_wanted(w, victim)
        for _ in range(rng.randint(1, 6)):
            if victim.room >= 4:
                count = rng.randint(1, 4)
                victim.add(lengths(rng, count), rng, table=by_table(victim, count, rng))
        w.kick(victim)
    await w.settle()
    assert not w.faults
