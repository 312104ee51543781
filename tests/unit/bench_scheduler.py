"""cocotb side of tests/unit/test_scheduler.py."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.vf.scheduler import GrantLayout
from hw.virtio.types import QueueCommandLayout, ReadyLayout
from tb.stream import StreamSink, StreamSource, cycles, pace, reset

BURST = 8
QUEUES = (1, 3, 5, 7, 9)


class Around:
    """Who announces chains, who takes grants, who stops queues."""

    def __init__(self, dut: Any, stalls: bool) -> None:
        self.grants: list[tuple[int, int]] = []
        self.ready = StreamSource(dut, "ready", ReadyLayout(), pace(stalls, 71))
        self.commands = StreamSource(dut, "commands", QueueCommandLayout(), pace(stalls, 72))
        self.sink = StreamSink(dut, "grants", GrantLayout(), pace(stalls, 73),
                               lambda grant: self.grants.append((grant["queue"], grant["count"])))

    def granted(self) -> dict[int, int]:
        sums: dict[int, int] = defaultdict(int)
        for queue, count in self.grants:
            sums[queue] += count
        return dict(sums)


async def start(dut: Any, stalls: bool) -> Around:
    around = Around(dut, stalls)
    await reset(dut)
    for queue in QUEUES:  # its memory outlives the block's reset
        around.commands.send({"queue": queue, "reset": 1})
    await around.commands.drain()
    await cycles(dut, 20)
    around.grants.clear()
    return around


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def each_chain_is_granted_once(dut: Any, stalls: bool) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    around = await start(dut, stalls)
    sent: dict[int, int] = defaultdict(int)
    for _ in range(150):
        queue, count = rng.choice(QUEUES), rng.choice([1, 1, 2, 8, 30])
        sent[queue] += count
        around.ready.send({"queue": queue, "count": count})
        if rng.random() < 0.2:
            await cycles(dut, rng.randrange(40))
    for _ in range(40):
        await cycles(dut, 100)
        if around.granted() == sent:
            break
    assert around.granted() == sent
    assert all(1 <= count <= BURST for _, count in around.grants)


@cocotb.test
async def turns_go_round(dut: Any) -> None:
    """With much to do for all, nobody gets a second burst before all others had one."""
    around = await start(dut, False)
    around.sink.pace = iter(lambda: False, True)
    for queue in QUEUES:
        for _ in range(4):
            around.ready.send({"queue": queue, "count": 20})
    await around.ready.drain()
    around.sink.pace = pace(False, 0)
    await cycles(dut, 400)
    order = [queue for queue, _ in around.grants]
    assert around.granted() == {queue: 80 for queue in QUEUES}
    later = order[1:]  # the first grant was there before the others had announced anything
    for begin in range(0, len(later) - 2 * len(QUEUES), len(QUEUES)):
        assert set(later[begin:begin + len(QUEUES)]) == set(QUEUES)


@cocotb.test
async def credit_of_a_stopped_queue_is_void(dut: Any) -> None:
    around = await start(dut, False)
    around.sink.pace = iter(lambda: False, True)
    around.ready.send({"queue": 1, "count": 1})  # takes the place at the output
    await cycles(dut, 20)
    around.ready.send({"queue": 3, "count": 5})
    around.ready.send({"queue": 5, "count": 2})
    await around.ready.drain()
    await cycles(dut, 10)
    around.commands.send({"queue": 3, "reset": 0})
    await around.commands.drain()
    around.sink.pace = pace(False, 0)
    await cycles(dut, 60)
    assert around.granted() == {1: 1, 5: 2}
    around.ready.send({"queue": 3, "count": 4})
    await cycles(dut, 60)
    assert around.granted() == {1: 1, 5: 2, 3: 4}


@cocotb.test
async def granted_at_once(dut: Any) -> None:
    """While nobody waits, an announcement is granted 2 cycles later, and what is left in turn."""
    around = await start(dut, False)
    edge = RisingEdge(dut.clk)
    for queue, count in ((3, 1), (3, 2), (9, BURST + 3)):
        await cycles(dut, 10)
        around.grants.clear()
        around.ready.send({"queue": queue, "count": count})
        while not dut.ready__valid.value:
            await edge
        for granted in (False, True):
            await edge
            assert bool(dut.grants__valid.value) == granted
        await cycles(dut, 20)
        assert around.grants == [(queue, min(count, BURST))] + [(queue, 3)] * (count > BURST)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def who_waits_is_not_passed(dut: Any, stalls: bool) -> None:
    """One queue that announces chain by chain does not keep the others from their turns."""
    around = await start(dut, stalls)
    around.sink.pace = pace(True, 74) if stalls else (turn % 3 == 0 for turn in range(10_000))
    for queue in QUEUES[1:]:
        around.ready.send({"queue": queue, "count": 3 * BURST})
    for _ in range(200):
        around.ready.send({"queue": QUEUES[0], "count": 1})
    await cycles(dut, 1500)
    seen = {queue: [at for at, (one, _) in enumerate(around.grants) if one == queue]
            for queue in QUEUES}
    for queue in QUEUES[1:]:
        assert len(seen[queue]) == 3
        begin, _, end = seen[queue]
        assert sum(begin < at < end for at in seen[QUEUES[0]]) <= 3
