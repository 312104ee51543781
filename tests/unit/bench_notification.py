"""Notification: used buffers are told of, by as few reads as will do; debts, faults, latency."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from tb.stream import cycles, reset
from tests.unit.notification_drivers import BASES, DESC, INDICES, QUEUES, SIZES, Driver


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def what_is_published_is_told(dut: Any, stalls: bool) -> None:
    """After the last entry at least one interrupt, unless the driver wants none; debts are paid."""
    rng = random.Random(cocotb.RANDOM_SEED)
    driver = Driver(dut, stalls, (5, 60))
    await reset(dut)
    for _ in range(30):
        driver.flags = {queue: rng.randrange(2) for queue in QUEUES}
        before = dict(driver.interrupts)
        named = set()
        for _ in range(rng.randint(1, 6)):
            queue = rng.choice(QUEUES)
            named.add(queue)
            await driver.publish_several(dut, queue, rng.randint(1, 8), rng)
            await cycles(dut, rng.choice([0, 1, 7, 40]))
        await cycles(dut, 300)
        for queue in QUEUES:
            new = driver.interrupts[queue] - before.get(queue, 0)
            assert bool(new) == (queue in named and not driver.flags[queue])
        assert not any(driver.owed.values()), driver.owed
    assert not driver.faults


@cocotb.test
@cocotb.parametrize(event_idx=[False, True])
async def one_read_is_in_flight(dut: Any, event_idx: bool) -> None:
    """What is published while a read is under way makes exactly one more."""
    driver = Driver(dut, False, (200, 200), event_idx=(2,) if event_idx else ())
    driver.event[2] = 9  # among those of the second read
    await reset(dut)
    for _ in range(10):
        driver.publish(2, 1)
        await cycles(dut, 10)
    await cycles(dut, 600)
    assert driver.server.groups == 2
    assert driver.interrupts[2] == driver.status == (1 if event_idx else 2)
    driver.settled()


@cocotb.test
@cocotb.parametrize(packed=[False, True], event_idx=[False, True])
async def what_follows_is_waited_for(dut: Any, packed: bool, event_idx: bool) -> None:
    """A burst that another one follows is left to that one; but not two in a row."""
    driver = Driver(dut, False, (10, 10))
    await reset(dut)
    for moderated in (False, True):
        if moderated:  # then packets and time decide alone
            driver.moderate(2, 6, 1000)
            await driver.moderation.drain()
        driver.start(2, 4, event_idx, packed)
        driver.flags[2] = DESC * packed * event_idx
        driver.event[2] = driver.word(2, 5)  # among those of the first burst
        before, reads = driver.interrupts[2], driver.server.groups
        driver.publish(2, 3, follows=True)
        await cycles(dut, 100)
        assert driver.server.groups == reads
        assert driver.owed[2] == 1  # what is left has one obligation
        driver.publish(2, 2, follows=True)
        await cycles(dut, 100)
        assert driver.server.groups == reads + (not moderated)
        driver.publish(2, 1)
        await cycles(dut, 100)
        assert driver.interrupts[2] == before + (1 if event_idx or moderated else 2)
        driver.settled()
        driver.start(0, 7, event_idx, packed)
        driver.publish(0, 1)  # others are told of meanwhile
        await cycles(dut, 100)
        driver.settled()
    driver.moderate(2, 0, 0)
    await driver.moderation.drain()


@cocotb.test
async def without_a_vector_the_status_alone_tells(dut: Any) -> None:
    driver = Driver(dut, False, (10, 10))
    driver.configs[1]["vector"] = 0xFFFF
    await reset(dut)
    driver.publish(1, 3)
    await cycles(dut, 100)
    assert driver.status == 1
    assert not driver.interrupts
    assert driver.owed[1] == 0
    assert driver.decided == driver.placed


@cocotb.test
@cocotb.parametrize(event_idx=[False, True])
async def a_failed_read_is_a_fault(dut: Any, event_idx: bool) -> None:
    """With its reason and address; the debts are paid, and the other queues go on."""
    driver = Driver(dut, True, (10, 30), (30, 30), event_idx=(0, 3) if event_idx else ())
    address = BASES[0] + (4 + 2 * SIZES[0] if event_idx else 0)
    await reset(dut)
    for error in (1, 2, 3):
        driver.error[0] = error
        driver.event[3] = driver.placed[3] + 1
        driver.publish(0, 2)
        driver.publish(3, 2)
        await cycles(dut, 25)
        driver.publish(0, 1)  # while the read is under way: it is not read for once more
        await cycles(dut, 300)
        assert driver.faults.pop() == {"queue": 0, "reason": 8 + error, "address": address}
        assert not driver.faults
        assert driver.reads[0] == driver.interrupts[3] == error
        driver.settled()
    assert not driver.interrupts[0]
    driver.error[0] = 0
    driver.event[0] = driver.placed[0] - 1  # what was lost stays lost
    driver.publish(0, 1)
    await cycles(dut, 200)
    assert driver.interrupts[0] == (0 if event_idx else 1)
    driver.settled()


@cocotb.test
async def many_chains_at_once(dut: Any) -> None:
    """A frame in more chains than one piece of news has room for: all of them are paid back."""
    driver = Driver(dut, True, (5, 20))
    await reset(dut)
    for count in (255, 256, 257, 1000, 1024, 32768):
        driver.start(1, 0, False)
        before = driver.interrupts[1]
        driver.publish(1, count)
        driver.publish(1, 1)
        await cycles(dut, 1000)
        assert driver.interrupts[1] > before
        driver.settled()


@cocotb.test
async def more_entries_than_indices(dut: Any) -> None:
    """While one read is under way all indices go by: none of the last 65535 is forgotten."""
    driver = Driver(dut, False, (1, 1), (1100, 1100), event_idx=(2,))
    await reset(dut)
    for total, back in ((INDICES - 1, 1), (INDICES, 2), (INDICES + 254, 300),
                        (INDICES + 254, 0x8000), (INDICES + 254, 0)):
        driver.start(2, 50, True)
        driver.event[2] = 49
        before = driver.interrupts[2]
        driver.publish(2, 1)
        left = total
        while left:
            driver.publish(2, min(left, 255))
            left -= min(left, 255)
        await driver.published.drain()
        assert driver.reads[2] % 2, "the bench is too slow: the first answer is back"
        driver.event[2] = (driver.placed[2] - back) % INDICES
        await cycles(dut, 2400)
        assert driver.interrupts[2] - before == bool(back), (total, back)
        driver.settled()


@cocotb.test
async def latencies(dut: Any) -> None:
    """In cycles, the first and the last counted; nothing is in the way."""
    driver = Driver(dut, False, (5, 5), event_idx=(1,))
    await reset(dut)
    driver.start(2, 0, True, packed=True)
    driver.start(3, 0, True, packed=True)
    driver.flags[3] = DESC
    driver.event[3] = driver.word(3, 0)
    for queue, to_read, to_interrupt in ((0, 3, 4), (1, 4, 5), (2, 3, 4), (3, 3, 6)):
        driver.publish(queue, 1)
        await cycles(dut, 40)
        times = driver.times
        assert times["read"] - times["published"] + 1 == to_read, times
        assert times["interrupt"] - times["answer"] + 1 == to_interrupt, times
