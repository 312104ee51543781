"""Notification: interrupts that are held back until there are packets enough, or time is up."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from tb.stream import cycles, reset
from tests.unit.notification_drivers import (
    CYCLES_A_MICROSECOND,
    DESC,
    DISABLE,
    ENABLE,
    QUEUES,
    Driver,
)


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2])
async def interrupts_are_moderated(dut: Any, stalls: bool, seed: int) -> None:
    """Rings of all kinds, with settings or without: nothing is asked before the packets are there
    or the time is over, and then at once; every word of the driver is obeyed as ever."""
    rng = random.Random(100 * cocotb.RANDOM_SEED + seed)
    driver = Driver(dut, stalls, (1, 40))
    await reset(dut)
    early = timed = counted = 0
    slack = 200  # a read that is under way, stalls, and a round
    for _ in range(8):
        settings = {}
        for queue in QUEUES:
            packed = rng.random() < 0.5
            driver.start(queue, 0, rng.random() < 0.5, packed, 33 if packed else 0)
            driver.flags[queue] = rng.choice([ENABLE, ENABLE, DISABLE, DESC * packed])
            driver.event[queue] = driver.word(queue, rng.randrange(30))
            settings[queue] = rng.choice([(0, 0), (3, 0), (0, 9), (1, 40), (4, 30), (10, 60),
                                          (60_000, 25)])
            driver.moderate(queue, *settings[queue])
            driver.asked[queue].clear()
        await driver.moderation.drain()
        for _ in range(40):
            await driver.publish_several(dut, rng.choice(QUEUES), rng.randint(1, 4), rng)
            await cycles(dut, rng.choice([0, 3, 20, 100]))
        await cycles(dut, 60 * CYCLES_A_MICROSECOND + 2 * slack)
        driver.settled()
        for queue, (packets, usecs) in settings.items():
            for chains, age in driver.asked[queue]:
                if not packets or not usecs:
                    early += 1
                    assert age <= slack
                elif chains >= packets:
                    counted += 1
                    assert age <= usecs * CYCLES_A_MICROSECOND + slack
                else:
                    timed += 1
                    least = (usecs - 1) * CYCLES_A_MICROSECOND
                    assert least <= age <= least + CYCLES_A_MICROSECOND + slack, (age, usecs)
    for queue in QUEUES:
        driver.moderate(queue, 0, 0)
    await driver.moderation.drain()
    assert min(early, timed, counted) > 10, (early, timed, counted)
    assert not driver.faults


@cocotb.test
async def the_last_packet_ends_the_wait(dut: Any) -> None:
    """As soon as there are enough, also of those that came while a read was under way."""
    driver = Driver(dut, False, (30, 30))
    await reset(dut)
    driver.moderate(2, 4, 1000)
    await driver.moderation.drain()
    for _ in range(3):
        driver.publish(2, 3)
        await cycles(dut, 100)
        assert not driver.pending[0] and driver.pending[2] == 3
        assert driver.owed[2] == 1  # what is held back has one obligation, and not its chains
        driver.publish(2, 1)
        await cycles(dut, 20)
        assert driver.pending[2] == 0
        driver.publish(2, 4)  # while the answer is under way
        await cycles(dut, 100)
        assert driver.pending[2] == 0
        driver.settled()
    assert driver.asked[2] == [(4, age) for _, age in driver.asked[2]]
    assert driver.interrupts[2] == 6
    driver.moderate(2, 0, 0)
    await driver.moderation.drain()


@cocotb.test
@cocotb.parametrize(how=["stopped", "off", "fewer packets", "less time"])
async def what_is_held_is_let_go(dut: Any, how: str) -> None:
    """A stop ends the wait within a round, and so does a change of the settings: the driver is
    told, and no obligation is left."""
    driver = Driver(dut, False, (5, 5))
    await reset(dut)
    for queue, packed in ((1, False), (2, True)):
        driver.start(queue, 0, False, packed)
        driver.moderate(queue, 60_000, 60_000)
        driver.publish(queue, 7)
    await cycles(dut, 400)
    assert not driver.server.groups
    assert driver.owed == {1: 1, 2: 1}
    for queue in (1, 2):
        if how == "stopped":
            driver.configs[queue]["running"] = 0
        else:
            driver.moderate(queue, *{
                "off": (0, 0), "fewer packets": (7, 60_000), "less time": (60_000, 9)}[how])
    await cycles(dut, 80)
    assert driver.interrupts == {1: 1, 2: 1}
    driver.settled()
    for queue in (1, 2):
        driver.moderate(queue, 0, 0)
    await driver.moderation.drain()


@cocotb.test
async def a_long_wait_holds_nobody_up(dut: Any) -> None:
    """It ends in its time, and the other queues are told meanwhile."""
    driver = Driver(dut, False, (5, 5))
    await reset(dut)
    driver.moderate(1, 65_535, 400)
    await driver.moderation.drain()
    driver.publish(1, 1)
    for told in range(1, 20):
        driver.publish(0, 1)
        await cycles(dut, 20 * CYCLES_A_MICROSECOND)
        assert driver.interrupts[0] == told
        assert driver.pending[1] == 1
    await cycles(dut, 20 * CYCLES_A_MICROSECOND + 60)
    assert driver.interrupts[1] == 1
    driver.settled()
    driver.moderate(1, 0, 0)
    await driver.moderation.drain()
