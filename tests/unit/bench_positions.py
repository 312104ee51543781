"""cocotb side of test_positions.py."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb

from hw.vf.positions import LoadedLayout
from hw.virtio.types import PositionAnswerLayout, PositionRequestLayout, QueueLayout
from tb.stream import (
    Fields,
    StreamMonitor,
    StreamSink,
    StreamSource,
    cycles,
    pace,
    reset,
)

QUEUES = int(os.environ["RINGLET_QUEUES"])


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2])
async def loaded_until_cleared(dut: Any, stalls: bool, seed: int) -> None:
    """What is stored is found until it is cleared; a reset of the card clears all."""
    rng = random.Random(100 * cocotb.RANDOM_SEED + seed)
    store = StreamSource(dut, "store", PositionRequestLayout(), pace(stalls, 2 * seed))
    cleared = StreamSource(dut, "cleared", QueueLayout(), pace(stalls, 2 * seed + 1))
    kept: dict[int, int] = {}
    StreamMonitor(dut, "store", PositionRequestLayout(),
                  lambda told: kept.update({told["queue"]: told["position"]}))

    def clear(told: dict[str, int]) -> None:
        kept.pop(told["queue"], None)

    StreamMonitor(dut, "cleared", QueueLayout(), clear)
    fields = Fields(LoadedLayout())
    dut.queue.value = dut.stopping.value = 0
    await reset(dut)

    async def check() -> None:
        await store.drain()
        await cleared.drain()
        await cycles(dut, 3)
        for queue in range(QUEUES):
            dut.queue.value, dut.stopping.value = queue, QUEUES - 1 - queue
            await cycles(dut, 3)
            for port, number in ((dut.found, queue), (dut.to_load, QUEUES - 1 - queue)):
                found: Any = fields.unpack(int(port.value))
                assert bool(found["loaded"]) == (number in kept)
                if number in kept:
                    assert found["position"] == kept[number]

    for turn in range(12):
        for _ in range(rng.randrange(3 * QUEUES)):
            store.send({"queue": rng.randrange(QUEUES), "load": 1,
                        "position": rng.getrandbits(16)})
        for _ in range(rng.randrange(QUEUES)):
            cleared.send({"queue": rng.randrange(QUEUES)})
        if turn % 4 == 3:
            await store.drain()
            await cleared.drain()
            dut.rst.value = 1
            await cycles(dut, 1 + turn % 2)
            kept.clear()
            dut.rst.value = 0
            cleared.send({"queue": QUEUES - 1})
            await cycles(dut, QUEUES + 3)
        await check()


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2])
async def queue_is_asked_for(dut: Any, stalls: bool, seed: int) -> None:
    """The used ring is asked for what was started, and nobody for what does not exist."""
    rng = random.Random(100 * cocotb.RANDOM_SEED + seed)
    asked = StreamSource(dut, "asked", PositionRequestLayout(), pace(stalls, 1))
    told = StreamSink(dut, "told", PositionAnswerLayout(), pace(stalls, 2))
    answers = StreamSource(dut, "answers", PositionAnswerLayout(), pace(stalls, 3))
    stands_at = StreamSource(dut, "stands_at", 16, pace(stalls, 4))
    rings = [rng.getrandbits(16) for _ in range(QUEUES)]
    states = [{"position": rng.getrandbits(16), "started": rng.getrandbits(1),
               "loaded": rng.getrandbits(1), "refused": rng.getrandbits(1)}
              for _ in range(QUEUES)]
    requests: list[dict[str, int]] = []
    used: list[int] = []

    def request(told: dict[str, int]) -> None:
        requests.append(told)
        answers.send(states[told["queue"]])

    def ring(told: dict[str, int]) -> None:
        used.append(told["queue"])
        stands_at.send(rings[told["queue"]])

    StreamSink(dut, "requests", PositionRequestLayout(), pace(stalls, 5), request)
    StreamSink(dut, "used", QueueLayout(), pace(stalls, 6), ring)
    await reset(dut)
    given = [{"queue": rng.choice([rng.randrange(QUEUES), QUEUES - 1, QUEUES,
                                   rng.randrange(1 << 14)]),
              "load": rng.getrandbits(1), "position": rng.getrandbits(16)} for _ in range(60)]
    for one in given:
        asked.send(one)
    for one in given:
        answer = await told.get()
        if one["queue"] >= QUEUES:
            assert answer == {"position": 0, "started": 0, "loaded": 0, "refused": 1}
            continue
        want = dict(states[one["queue"]])
        if want["started"]:
            want["position"] = rings[one["queue"]]
        assert answer == want
    there = [one for one in given if one["queue"] < QUEUES]
    assert requests == there
    assert used == [one["queue"] for one in there if states[one["queue"]]["started"]]
