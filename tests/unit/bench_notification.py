"""cocotb side of tests/unit/test_notification.py."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from typing import Any

import cocotb

from hw.pcie.types import InterruptLayout
from hw.virtio.notification import NOTIFICATION_CONTEXT_BITS
from hw.virtio.types import FaultLayout, FunctionLayout, ObligationLayout
from hw.virtio.used_ring import PublishedLayout
from tb.dma import ReadServer
from tb.queue_config import QueueConfigs
from tb.stream import StreamSink, StreamSource, cycles, pace, reset

LANES = int(os.environ.get("RINGLET_LANES", "8"))
QUEUES = range(4)


class Driver:
    """The drivers' flags in memory, their interrupts, and the count of obligations."""

    def __init__(self, dut: Any, stalls: bool, latency: tuple[int, int]) -> None:
        self.flags = dict.fromkeys(QUEUES, 0)
        self.error = dict.fromkeys(QUEUES, 0)
        self.reads: dict[int, int] = defaultdict(int)
        self.configs = QueueConfigs(dut, "config", {
            queue: {"driver": 0x1000 * (queue + 1), "vector": 5 + queue, "running": 1}
            for queue in QUEUES})
        self.published = StreamSource(dut, "published", PublishedLayout(), pace(stalls, 81))
        self.server = ReadServer(
            dut, "reads", "read_answers", lanes=LANES, context_bits=NOTIFICATION_CONTEXT_BITS,
            read=self._read, latency=latency, seed=3, pace=pace(stalls, 82),
            answer_pace=pace(stalls, 83))
        self.interrupts: dict[int, int] = defaultdict(int)
        StreamSink(dut, "interrupts", InterruptLayout(), pace(stalls, 84), self._interrupt)
        self.status = 0
        StreamSink(dut, "queue_interrupts", FunctionLayout(), pace(stalls, 85), self._status)
        self.owed: dict[int, int] = defaultdict(int)
        StreamSink(dut, "obligations", ObligationLayout(), pace(stalls, 86), self._oblige)
        self.faults: list[dict[str, int]] = []
        StreamSink(dut, "faults", FaultLayout(), pace(stalls, 87), self.faults.append)

    def publish(self, queue: int, count: int) -> None:
        self.owed[queue] += count
        self.published.send({"queue": queue, "count": count})

    def _read(self, address: int, length: int) -> bytes | int:
        assert length == 2
        queue = address // 0x1000 - 1
        self.reads[queue] += 1
        if self.error[queue]:
            return self.error[queue]
        return bytes([self.flags[queue], 0])

    def _interrupt(self, interrupt: dict[str, int]) -> None:
        queue = interrupt["vector"] - 5
        assert interrupt["function"] == queue // 2
        self.interrupts[queue] += 1

    def _status(self, told: dict[str, int]) -> None:
        self.status += 1

    def _oblige(self, event: dict[str, int]) -> None:
        delta = event["delta"]
        self.owed[event["queue"]] += delta - 512 if delta >= 256 else delta


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
            driver.publish(queue, rng.randint(1, 8))
            await cycles(dut, rng.choice([0, 1, 7, 40]))
        await cycles(dut, 300)
        for queue in QUEUES:
            new = driver.interrupts[queue] - before.get(queue, 0)
            assert bool(new) == (queue in named and not driver.flags[queue])
        assert not any(driver.owed.values()), driver.owed
    assert not driver.faults


@cocotb.test
async def one_read_is_in_flight(dut: Any) -> None:
    """What is published while a read is under way makes exactly one more."""
    driver = Driver(dut, False, (200, 200))
    await reset(dut)
    for _ in range(10):
        driver.publish(2, 1)
        await cycles(dut, 10)
    await cycles(dut, 600)
    assert driver.server.groups == 2
    assert driver.interrupts[2] == 2
    assert driver.status == 2
    assert driver.owed[2] == 0
    assert all(segment["fenced"] for segment in driver.server.segments)


@cocotb.test
async def without_a_vector_the_status_alone_tells(dut: Any) -> None:
    driver = Driver(dut, False, (10, 10))
    driver.configs.table[1]["vector"] = 0xFFFF
    await reset(dut)
    driver.publish(1, 3)
    await cycles(dut, 100)
    assert driver.status == 1
    assert not driver.interrupts
    assert driver.owed[1] == 0


@cocotb.test
async def a_failed_read_is_a_fault(dut: Any) -> None:
    """With its reason; the debts are paid, and the other queues go on."""
    driver = Driver(dut, True, (10, 30))
    await reset(dut)
    for error in (1, 2, 3):
        driver.error[0] = error
        driver.publish(0, 2)
        driver.publish(3, 2)
        await cycles(dut, 250)
        assert driver.faults.pop() == {"queue": 0, "reason": 8 + error, "address": 0x1000}
        assert not driver.faults
        assert driver.interrupts[3] == error
        assert not any(driver.owed.values())
    assert not driver.interrupts[0]
