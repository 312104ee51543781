"""Frame queues: lists of frames in memory, and what they hold."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import QueueLayout
from hw.wire.types import ArrivalLayout, FrameHandle, QueuedFrame
from tb.stream import StreamSink, StreamSource, always, cycles, never, pace, reset
from tests.unit.wire_frames import CELL, CELLS, LANES, LONGEST, MAX_CELLS, STALLS


@cocotb.test
@cocotb.parametrize((("push_stalls", "pop_stalls", "popped_stalls"), STALLS))
async def lists_keep_order(dut: Any, push_stalls: bool, pop_stalls: bool,  # noqa: PLR0915
                           popped_stalls: bool) -> None:
    """Every queue first in, first out, in any mix of pushes and pops; cells are counted."""
    push = StreamSource(dut, "queues__push", QueuedFrame(CELLS), pace(push_stalls, 1))
    pops = StreamSource(dut, "queues__pops", QueueLayout(), pace(pop_stalls, 2))
    waiting: dict[int, deque[dict[str, int]]] = {queue: deque() for queue in range(0, 8, 2)}
    lengths: dict[int, deque[int]] = {queue: deque() for queue in waiting}
    held = dict.fromkeys(waiting, 0)
    ready: list[int] = []       # a queue for each frame that arrived and was not asked for
    asked: deque[int] = deque()
    free = list(range(CELLS))
    rng = random.Random(cocotb.RANDOM_SEED)

    def arrived(payload: dict[str, int]) -> None:
        queue = payload["queue"]
        assert payload["bytes"] == lengths[queue].popleft()
        ready.append(queue)

    def popped(payload: dict[str, int]) -> None:
        queue = asked.popleft()
        expected = waiting[queue].popleft()
        assert payload == expected, f"queue {queue}"
        held[queue] -= -(-payload["bytes"] // CELL)
        free.append(payload["cell"])

    arrivals = StreamSink(dut, "queues__arrivals", ArrivalLayout(), pace(pop_stalls, 3),
                          tell=arrived)
    StreamSink(dut, "queues__popped", FrameHandle(CELLS), pace(popped_stalls, 4), tell=popped)
    dut.queues__held__enable.value = 0
    dut.queues__held__queue.value = 0
    await reset(dut)
    favourite = 0
    for step in range(1500):
        if step % 40 == 0:
            favourite = rng.choice(list(waiting))
        size = rng.choice([rng.randint(14, LONGEST), LANES + 6])
        cells = sum(held.values()) + -(-size // CELL)
        if cells <= CELLS and rng.random() < 0.6 and push.idle:
            queue = favourite if rng.random() < 0.7 else rng.choice(list(waiting))
            frame = {"cell": free.pop(rng.randrange(len(free))), "bytes": size}
            push.send({"queue": queue, "frame": frame})
            waiting[queue].append(frame)
            lengths[queue].append(size)
            held[queue] += -(-frame["bytes"] // CELL)
        if step % 300 > 100:  # at times the lists grow, at times they shrink
            while ready and len(asked) < 6:
                queue = ready.pop(rng.randrange(min(len(ready), 3)))
                pops.send({"queue": queue})
                asked.append(queue)
        await RisingEdge(dut.clk)
    while any(waiting.values()):
        while ready:
            queue = ready.pop(0)
            pops.send({"queue": queue})
            asked.append(queue)
        await RisingEdge(dut.clk)
    await cycles(dut, 20)
    assert not asked
    assert arrivals.empty()
    assert set(held.values()) == {0}
    for queue in waiting:
        assert await look(dut, queue) == 0


async def look(dut: Any, queue: int, name: str = "queues__held", what: str = "cells") -> int:
    getattr(dut, f"{name}__queue").value = queue
    getattr(dut, f"{name}__enable").value = 1
    await RisingEdge(dut.clk)
    getattr(dut, f"{name}__enable").value = 0
    await RisingEdge(dut.clk)
    return int(getattr(dut, f"{name}__{what}").value)


@cocotb.test
async def cells_held(dut: Any) -> None:
    """What a queue holds is known while it is looked at."""
    push = StreamSource(dut, "queues__push", QueuedFrame(CELLS), always())
    pops = StreamSource(dut, "queues__pops", QueueLayout(), always())
    StreamSink(dut, "queues__arrivals", ArrivalLayout(), always())
    StreamSink(dut, "queues__popped", FrameHandle(CELLS), always())
    await reset(dut)
    for cell, size in enumerate((1, CELL, CELL + 1, LONGEST)):
        push.send({"queue": 6, "frame": {"cell": cell, "bytes": size}})
    await push.drain()
    await cycles(dut, 4)
    assert await look(dut, 6) == 1 + 1 + 2 + MAX_CELLS
    assert await look(dut, 4) == 0
    await look(dut, 6)
    for expected in (1 + 2 + MAX_CELLS, 2 + MAX_CELLS, MAX_CELLS, 0):
        pops.send({"queue": 6})
        await cycles(dut, 5)
        assert int(dut.queues__held__cells.value) == expected


@cocotb.test
async def length_of_the_oldest_frame(dut: Any) -> None:
    """It is known while it is looked at, and when it has changed."""
    push = StreamSource(dut, "queues__push", QueuedFrame(CELLS), always())
    pops = StreamSource(dut, "queues__pops", QueueLayout(), always())
    StreamSink(dut, "queues__arrivals", ArrivalLayout(), always())
    StreamSink(dut, "queues__popped", FrameHandle(CELLS), always())
    dut.queues__head__enable.value = 0
    await reset(dut)
    sizes = (14, CELL + 1, LONGEST, 77)
    for cell, size in enumerate(sizes):
        push.send({"queue": 4, "frame": {"cell": cell, "bytes": size}})
        push.send({"queue": 2, "frame": {"cell": cell + 8, "bytes": size + 100}})
    await push.drain()
    await cycles(dut, 4)
    assert await look(dut, 2, "queues__head", "bytes") == sizes[0] + 100
    assert await look(dut, 4, "queues__head", "bytes") == sizes[0]
    for size in sizes[1:]:
        pops.send({"queue": 4})
        await cycles(dut, 5)
        assert int(dut.queues__head__bytes.value) == size
    assert await look(dut, 2, "queues__head", "bytes") == sizes[0] + 100


@cocotb.test
async def an_operation_a_cycle(dut: Any) -> None:
    """Pushes to one queue, then pops from it: one a cycle, and both at half of that each."""
    push = StreamSource(dut, "queues__push", QueuedFrame(CELLS), always())
    pops = StreamSource(dut, "queues__pops", QueueLayout(), always())
    arrivals = StreamSink(dut, "queues__arrivals", ArrivalLayout(), always())
    popped = StreamSink(dut, "queues__popped", FrameHandle(CELLS), always())
    await reset(dut)
    await cycles(dut, 8)
    for cell in range(20):
        push.send({"queue": 2, "frame": {"cell": cell, "bytes": 60}})
    await cycles(dut, 20 + 3)
    assert arrivals.transfers == 20
    for _ in range(20):
        pops.send({"queue": 2})
    await cycles(dut, 20 + 3)
    assert [(await popped.get(1))["cell"] for _ in range(20)] == list(range(20))
    for cell in range(4):
        push.send({"queue": 2, "frame": {"cell": cell, "bytes": 60}})
    await cycles(dut, 4 + 3)
    for cell in range(4, 24):
        push.send({"queue": 2, "frame": {"cell": cell, "bytes": 60}})
        pops.send({"queue": 2})
    await cycles(dut, 40 + 4)
    assert [(await popped.get(1))["cell"] for _ in range(20)] == list(range(20))


@cocotb.test
async def arrivals_are_never_lost(dut: Any) -> None:
    """Pushes wait while arrivals do; each frame is announced once."""
    push = StreamSource(dut, "queues__push", QueuedFrame(CELLS), always())
    arrivals = StreamSink(dut, "queues__arrivals", ArrivalLayout(), never())
    await reset(dut)
    for cell in range(24):
        push.send({"queue": 2 * (cell % 4), "frame": {"cell": cell, "bytes": 60}})
    await cycles(dut, 60)
    assert not push.idle
    arrivals.pace = always()
    await push.drain(100)
    await cycles(dut, 30)
    assert arrivals.transfers == 24
