"""cocotb side of test_moderation_settings.py."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb

from hw.virtio.moderation import ModerationLayout
from hw.virtio.types import QueueLayout
from tb.stream import StreamMonitor, StreamSource, cycles, pace, reset

QUEUES = int(os.environ["RINGLET_QUEUES"])
Settings = tuple[int, int]


class Around:
    """The operator, the registers, and the memory that the settings go to."""

    def __init__(self, dut: Any, *, stalls: bool = False, seed: int = 1) -> None:
        self.dut = dut
        self.asked = StreamSource(dut, "asked", ModerationLayout(), pace(stalls, 2 * seed))
        self.resets = StreamSource(dut, "resets", QueueLayout(), pace(stalls, 2 * seed + 1))
        self.kept: dict[int, Settings] = {}      # as they come out
        self.expected: dict[int, Settings] = {}  # as they went in
        self.expected_writes = 0
        self.writes = 0
        StreamMonitor(dut, "asked", ModerationLayout(), self._asks)
        StreamMonitor(dut, "resets", QueueLayout(), lambda named: self._expect(named["queue"]))
        StreamMonitor(dut, "settings", ModerationLayout(), self._writes)

    def _asks(self, asked: dict[str, int]) -> None:
        self._expect(asked["queue"], asked["max_packets"], asked["max_usecs"])

    def _expect(self, queue: int, max_packets: int = 0, max_usecs: int = 0) -> None:
        if queue < QUEUES:
            self.expected[queue] = max_packets, max_usecs
            self.expected_writes += 1

    def _writes(self, told: dict[str, int]) -> None:
        assert told["queue"] < QUEUES
        self.kept[told["queue"]] = told["max_packets"], told["max_usecs"]
        self.writes += 1

    def ask(self, queue: int, max_packets: int, max_usecs: int) -> None:
        self.asked.send({"queue": queue, "max_packets": max_packets, "max_usecs": max_usecs})

    async def settle(self) -> None:
        await self.asked.drain()
        await self.resets.drain()
        await cycles(self.dut, 3)

    def check(self, lives: int = 1) -> None:
        """All that was taken was done, in order, and nothing else but the clearings."""
        assert self.kept == {queue: (0, 0) for queue in range(QUEUES)} | self.expected
        assert self.writes == self.expected_writes + lives * QUEUES


def some_queue(rng: random.Random) -> int:
    """Give a queue, or now and then the number of none."""
    return rng.choice([rng.randrange(QUEUES), rng.randrange(QUEUES), QUEUES - 1, QUEUES,
                       rng.randrange(1 << 14)])


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2, 3])
async def in_order(dut: Any, stalls: bool, seed: int) -> None:
    rng = random.Random(cocotb.RANDOM_SEED + seed)
    around = Around(dut, stalls=stalls, seed=seed)
    await reset(dut)
    for _ in range(8):
        for _ in range(rng.randrange(40)):
            around.ask(some_queue(rng), rng.getrandbits(16), rng.getrandbits(16))
        for _ in range(rng.randrange(30)):
            around.resets.send({"queue": some_queue(rng)})
        await around.settle()
        around.check()


@cocotb.test
async def a_reset_goes_first(dut: Any) -> None:
    """It is never missed, and what is asked for at the same time stands behind it."""
    around = Around(dut)
    await reset(dut)
    await cycles(dut, QUEUES + 4)
    around.ask(1, 8, 9)
    await around.settle()
    assert around.kept[1] == (8, 9)
    for _ in range(5):
        around.resets.send({"queue": 1})
        around.ask(1, 10, 11)
        await around.settle()
        assert around.kept == {queue: (0, 0) for queue in range(QUEUES)} | {1: (10, 11)}
    around.resets.send({"queue": 1})
    await around.settle()
    assert around.kept[1] == (0, 0)
    around.check()


@cocotb.test
async def reset_of_the_card(dut: Any) -> None:
    """Clears all queues before anything is taken, whatever is reset meanwhile."""
    around = Around(dut)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    for life in range(1, 6):
        for queue in range(QUEUES):
            around.ask(queue, 1 + rng.randrange(100), 1 + rng.randrange(100))
        await around.settle()
        assert (0, 0) not in around.kept.values()
        around.check(life)
        dut.rst.value = 1
        await cycles(dut, 1 + life % 2)
        around.expected.clear()
        dut.rst.value = 0
        for _ in range(life - 1):
            around.resets.send({"queue": QUEUES - 1})
        if life % 2:
            around.ask(0, 5, 6)
        await cycles(dut, QUEUES)
        assert 0 not in around.expected, "taken while queues are being cleared"
        await cycles(dut, life + 4)
        await around.settle()
        around.check(life + 1)
        assert around.kept[0] == ((5, 6) if life % 2 else (0, 0))


@cocotb.test
async def every_cycle(dut: Any) -> None:
    """What is asked for is not held up by anything but a reset."""
    around = Around(dut)
    await reset(dut)
    await cycles(dut, QUEUES + 4)
    dut.asked__payload.value = 1
    dut.asked__valid.value = 1
    await cycles(dut, 21)
    dut.asked__valid.value = 0
    await cycles(dut, 3)
    assert around.writes >= QUEUES + 20
    around.check()
