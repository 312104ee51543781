"""ControlQueue: commands are answered, kicks are not lost, nobody is held up."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import cocotb

from tb.stream import cycles
from tests.unit.control_commands import FIRST_POSITION, feed, feed_all, give, pairs_set, world
from tests.unit.control_drivers import (
    KEPT,
)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def all_commands_are_answered(dut: Any, stalls: bool) -> None:
    """Random commands in random shapes, of six functions at once."""
    w = world(dut, stalls=stalls, seed=3 + stalls, split_only=bool(FIRST_POSITION))
    await w.begin()
    await feed_all(w, w.drivers, 25, 17 + stalls)
    assert not w.faults
    done = [command for driver in w.drivers for command in driver.answered]
    assert len(done) == 25 * len(w.drivers)
    for driver in w.drivers:
        if driver.mq:
            assert sum(command.pairs is not None for command in driver.answered) >= 5
        else:
            assert not any(command.pairs for command in driver.answered)
    assert sum(command.ack == 1 for command in done) > 30
    assert sum(command.ack is None for command in done) > 10
    assert w.event_writes >= sum(driver.event_idx for driver in w.drivers)


@cocotb.test
async def any_cut(dut: Any) -> None:
    """One command, byte by byte, and whole; at each length from nothing to more than is kept."""
    w = world(dut, stalls=False, seed=5, latency=(1, 4), write_latency=(0, 3), lag=(0, 0))
    await w.begin()
    for length in (*range(0, 8), KEPT - 1, KEPT, KEPT + 1, 2 * KEPT):
        content = pairs_set(3, bytes(range(2 * KEPT)))[:length]
        for readable in {1, min(length, 3), min(length, 40)}:
            for number in (4, 5, 3):
                driver = w.drivers[number]
                driver.give(content, readable=readable, writable=(2,),
                            table=0 if driver.indirect else None)
                w.kick(driver)
        await w.settle()
    assert not w.faults


@cocotb.test
@cocotb.parametrize(number=[1, 2])
async def kicks_are_not_lost(dut: Any, number: int) -> None:
    """EVENT_IDX: a command at every offset from the end of the one before is seen, kick or none."""
    w = world(dut, stalls=False, seed=7, split_only=bool(FIRST_POSITION), latency=(8, 24),
              write_latency=(0, 24), lag=(0, 12))
    await w.begin()
    await w.settle()
    driver = w.drivers[number]
    w.kicks = 0
    offsets = range(0, 130, 2)
    for offset in offsets:
        driver.give(pairs_set(1), readable=1, table=0 if driver.indirect else None)
        w.kick(driver)
        w.used = 0
        await w.until(lambda: w.used > 0, why=f"the first at {offset}")
        await cycles(dut, offset)
        driver.give(pairs_set(2), readable=1, table=0 if driver.indirect else None)
        w.kick(driver)
        await w.settle()
    # Both ways were gone.
    assert len(offsets) + 10 < w.kicks < 2 * len(offsets) - 10


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def stop_and_go(dut: Any, stalls: bool) -> None:
    """Queues are stopped and reset amid commands, while others go on."""
    w = world(dut, stalls=stalls, seed=19 + stalls, latency=(1, 15), write_latency=(0, 15))
    await w.begin()
    rng = random.Random(23 + stalls)
    going = [cocotb.start_soon(feed(w, driver, 60, 100 + driver.function))
             for driver in w.drivers[3:]]
    left = 0
    for turn in range(36):
        driver = w.drivers[turn % 3]
        for _ in range(3):
            give(driver, rng)
        w.kick(driver)
        await cycles(dut, rng.randint(0, 250))
        reset = rng.random() < 0.5
        await w.stop(driver, reset=reset)
        left += bool(driver.posted)
        if reset:  # perhaps in a ring that another device has used
            await w.stop(driver, reset=True, load=driver.move(rng))
        await cycles(dut, rng.randint(0, 20))
        w.start(driver)
    for task in going:
        await task
    await w.settle()
    assert left > 5, "never amid commands"
    assert not w.faults


@cocotb.test
async def a_command_is_not_held_up(dut: Any) -> None:
    """While a read of one function has no answer, another one is reset at once."""
    w = world(dut, stalls=False, seed=29)
    await w.begin()
    await w.settle()
    w.slow.add(1)
    w.ring(w.drivers[1])
    await cycles(dut, 60)
    assert w.reads[-1]["function"] == 1 and w.count[1] == 1
    assert await w.stop(w.drivers[0], reset=True) < 10
    w.drivers[0].restart()
    w.slow.clear()
    w.start(w.drivers[0])
    await feed_all(w, w.drivers, 3, 1)


@cocotb.test
async def kicks_for_nothing(dut: Any) -> None:
    """A kick without a command brings one look, and nothing else."""
    w = world(dut, stalls=True, seed=31)
    await w.begin()
    await w.settle()
    for driver in w.drivers:
        reads, writes = len(w.reads), w.event_writes
        w.ring(driver)
        await w.until(partial(lambda reads: len(w.reads) > reads, reads), why="a look")
        await w.settle()
        assert len(w.reads) == reads + 1 and w.event_writes == writes and not w.used


@cocotb.test
async def latency(dut: Any) -> None:
    """Cycles from a doorbell to the first read, and of a command without waits."""
    w = world(dut, stalls=False, seed=37, latency=(1, 1), write_latency=(0, 0), lag=(0, 0))
    await w.begin()
    await w.settle()
    for number, first, whole in ((0, 8, 38), (1, 10, 34)):
        driver = w.drivers[number]
        driver.give(pairs_set(1), readable=1)
        w.times.clear()
        w.ring(driver)
        await w.settle()
        (began,) = w.times["doorbell"]
        got = w.times["read"][0] - began, w.times["used"][0] - began
        assert got == (first, whole), (number, got)
