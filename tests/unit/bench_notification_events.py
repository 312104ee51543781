"""Notification: drivers that say at which entry they want an interrupt."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from tb.stream import cycles, reset
from tests.unit.notification_drivers import (
    DESC,
    DISABLE,
    ENABLE,
    INDICES,
    QUEUES,
    RESERVED,
    SIZES,
    Driver,
)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def the_event_decides(dut: Any, stalls: bool) -> None:
    """Split and packed rings, with and without EVENT_IDX side by side; an interrupt for each answer
    that has one due, and no other. The driver writes its event at any time, mostly near the
    index."""
    rng = random.Random(cocotb.RANDOM_SEED)
    driver = Driver(dut, stalls, (1, 50), (0, 40))
    await reset(dut)
    for _ in range(25):
        for queue in QUEUES:
            if rng.random() < 0.3:  # stopped, reset and started again, in whatever modes
                index = rng.choice([0, INDICES - rng.randrange(20), rng.randrange(INDICES)])
                packed = rng.random() < 0.6
                size = rng.choice([1, 3, 7, 16, 33, 4096, 32768]) if packed else 0
                driver.start(queue, index, rng.random() < 0.75, packed, size)
        for _ in range(rng.randint(2, 25)):
            queue = rng.choice(QUEUES)
            if rng.random() < 0.5:
                event = driver.placed[queue] + rng.randint(-3, 6)
                if rng.random() < 0.2:
                    event = rng.randrange(INDICES)
                driver.event[queue] = driver.word(queue, max(event, 0))
                driver.flags[queue] = rng.randrange(2)
                if driver.packed(queue):
                    driver.flags[queue] = rng.choice([ENABLE, DISABLE, DESC, DESC, DESC, RESERVED])
            elif driver.packed(queue):
                count = rng.randint(1, 8)
                await driver.publish_several(dut, queue, count, rng,
                                             count + rng.choice([0, 0, 3]))
            else:
                await driver.publish_several(dut, queue, rng.randint(1, 8), rng)
            await cycles(dut, rng.choice([0, 1, 7, 20, 60]))
        await cycles(dut, 400)
        driver.settled()
    assert driver.status == sum(driver.interrupts.values()) == driver.yes
    assert min(driver.yes, driver.no) > 20, (driver.yes, driver.no)
    assert not driver.faults


@cocotb.test
async def events_around_a_burst(dut: Any) -> None:
    """Any entry of a burst counts, across the wrap too; one behind it, or ahead of it, does not."""
    driver = Driver(dut, False, (3, 3), event_idx=(1,))
    driver.flags[1] = 1  # means nothing
    await reset(dut)
    for start in (0, 100, 0x7FFE, INDICES - 5, INDICES - 3, INDICES):
        for offset in (*range(-3, 9), 0x7FFF, 0x8000, 0x8004):
            driver.start(1, start, True)
            driver.event[1] = (start + offset) % INDICES
            before = driver.interrupts[1]
            driver.publish(1, 5)
            await cycles(dut, 20)
            assert driver.interrupts[1] - before == (0 <= offset < 5), (start, offset)
            driver.settled()


@cocotb.test
async def places_around_a_burst(dut: Any) -> None:
    """Of packed rings: any place of the burst counts, in its lap and not in the one before."""
    driver = Driver(dut, False, (3, 3))
    driver.flags[1] = DESC
    await reset(dut)
    for size in (3, 7, 16, 33, 32768):
        count = min(5, size)
        for start in {0, size - 1, size, 2 * size - 3, 2 * size, 3 * size - 2}:
            for offset in {*range(-3, 7), size, -size}:
                if not -(2 * size - count) <= offset < 2 * size or start + offset < 0:
                    continue
                driver.start(1, start, True, True, size)
                driver.event[1] = driver.word(1, start + offset)
                before = driver.interrupts[1]
                driver.publish(1, 1, count)
                await cycles(dut, 18)
                wanted = any((offset - k) % (2 * size) == 0 for k in range(count))
                assert driver.interrupts[1] - before == wanted, (size, start, offset)
                driver.settled()


@cocotb.test
@cocotb.parametrize((("latency", "hold"), [(1, 0), (2, 14), (14, 1)]))
async def the_driver_sees_or_is_told(dut: Any, latency: int, hold: int) -> None:
    """A driver that writes used_event, at every distance from the burst, and then looks at the
    index: it sees the entry, or it gets its interrupt. So also while a read is under way."""
    driver = Driver(dut, False, (latency, latency), (hold, hold), event_idx=(3,))
    await reset(dut)
    saw = told = 0
    for ahead in (False, True):
        for offset in range(34 + 24 * ahead):
            start = INDICES - 2 if offset % 2 else 7000
            driver.start(3, start, True)
            driver.event[3] = (start - 1) % INDICES
            wanted = start + ahead + offset % 3
            if ahead:
                driver.publish(3, 1)
            for cycle in range(100):
                if cycle == (12 if not ahead else 7):
                    driver.publish(3, 3)
                if cycle == offset:
                    driver.event[3] = wanted % INDICES
                    before = driver.interrupts[3]
                if cycle == offset + 1:
                    sees = driver.visible[3] > wanted
                await cycles(dut, 1)
            tells = driver.interrupts[3] > before
            assert sees or tells, (ahead, offset)
            saw += sees
            told += tells
            driver.settled()
    assert saw > 10 and told > 10, (saw, told)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def who_sleeps_is_woken(dut: Any, stalls: bool) -> None:
    """Drivers that sleep until some entry is used, on all queues at once: none is forgotten."""
    rng = random.Random(cocotb.RANDOM_SEED)
    driver = Driver(dut, stalls, (1, 40), (0, 40), event_idx=(0, 1, 2, 3))
    await reset(dut)
    seen = {queue: INDICES - 20 for queue in QUEUES}
    slept = dict.fromkeys(QUEUES, 0)
    for queue in QUEUES:
        driver.start(queue, seen[queue], True)

    async def drive(queue: int, rng: random.Random) -> None:
        while seen[queue] < INDICES + 60:
            wanted = seen[queue] + rng.randrange(min(6, SIZES[queue]))
            driver.event[queue] = wanted % INDICES
            before = driver.interrupts[queue]
            await cycles(dut, rng.randint(1, 6))
            if driver.visible[queue] <= wanted:
                slept[queue] += 1
                for _ in range(2000):
                    if driver.interrupts[queue] > before:
                        break
                    await cycles(dut, 1)
                else:
                    raise AssertionError(f"queue {queue} sleeps for entry {wanted} for ever")
            await cycles(dut, rng.choice([0, 0, 10]))
            seen[queue] = driver.visible[queue]

    drivers = [cocotb.start_soon(drive(queue, random.Random(queue))) for queue in QUEUES]
    while not all(task.done() for task in drivers):
        queue = rng.choice(QUEUES)
        free = min(8, SIZES[queue]) - (driver.placed[queue] - seen[queue])
        if free > 0:
            driver.publish(queue, rng.randint(1, free))
        await cycles(dut, rng.choice([0, 1, 5, 15]))
    await cycles(dut, 400)
    driver.settled()
    assert all(times >= 10 for times in slept.values()), slept
