"""Prefetch: rings in, chains out, and what a take is answered."""

from __future__ import annotations

from typing import Any

import cocotb

from tb.stream import cycles
from tests.unit.prefetch_split_queue import SplitQueue
from tests.unit.prefetch_traffic import RINGS, SIZE_MAX, TRANSMIT, feed, number, sizes, world


@cocotb.test
@cocotb.parametrize(stalls=[False, True], rings=list(RINGS))
async def all_chains_come_in_order(dut: Any, stalls: bool, rings: str) -> None:
    """Random chains on every queue, several laps: everything comes once, nothing is left over."""
    w = world(dut, stalls, 2 * stalls, rings=rings, latency=(10, 200 + 100 * stalls))
    queues = await w.begin(sizes(w, *((16, 32, SIZE_MAX) if rings == "split" else (16, 23, 61))))
    tasks = [cocotb.start_soon(feed(w, queue, 60, seed=queue.number + 40 * stalls))
             for queue in queues]
    for task in tasks:
        await task
    await w.settle()
    assert len(w.delivered) == 180
    assert not w.faults and not w.none


@cocotb.test
@cocotb.parametrize(rings=list(RINGS))
async def few_reads_at_a_time(dut: Any, rings: str) -> None:
    """The engine takes no more than two reads before an answer was taken: no deadlock."""
    w = world(dut, True, 3, rings=rings, latency=(5, 40), reads_max=2)
    queues = await w.begin({number(index): 32 for index in range(3)})
    tasks = [cocotb.start_soon(feed(w, queue, 60, seed=queue.number, longest=6, pause=10))
             for queue in queues]
    for task in tasks:
        await task
    await w.settle()
    assert len(w.delivered) == 180


@cocotb.test
async def runs_are_read_together(dut: Any) -> None:
    """Neighbours in the table, upwards or downwards, cost one read; a chain of neighbours few."""
    w = world(dut, False, 19, latency=(30, 30), hold=(0, 0))
    queue, = await w.begin({number(0): 32})
    assert isinstance(queue, SplitQueue)
    for turn in range(2):
        for _ in range(32):
            queue.add([60], w.rng)  # from the end of the table down, then as they were freed: up
        before = len(w.reads)
        w.kick(queue)
        await w.settle()
        reads = [read for read in w.reads[before:] if read["length"] == 512]
        assert len(reads) == 1, turn
        assert reads[0]["address"] == queue.desc
        assert sum(read["context"] & 2 != 0 for read in w.reads[before:]) == 1
        queue.free.sort(reverse=turn == 0)
    # Chains side by side, in the order of the table or against it, and one that goes over its end.
    for size, down in ((2, False), (2, True), (3, False), (4, True)):
        heads = list(range(0, 32 - size + 1, size))
        for head in reversed(heads) if down else heads:
            queue.add([60] * size, w.rng, numbers=list(range(head, head + size)))
        before = len(w.reads)
        w.kick(queue)
        await w.settle()
        assert sum(read["context"] & 2 != 0 for read in w.reads[before:]) == 1, (size, down)
    queue.free = list(range(32))
    before = len(w.reads)
    queue.add([60] * 9, w.rng, pick=0)
    w.kick(queue)
    await w.settle()
    assert sum(read["context"] & 2 != 0 for read in w.reads[before:]) == 3  # 1, 4 and 4


@cocotb.test
@cocotb.parametrize(rings=list(RINGS))
async def short_chains_stay(dut: Any, rings: str) -> None:
    """A take of more bytes than the chain has is answered SHORT; the chain stays."""
    w = world(dut, True, 21, rings=rings)
    queue, = await w.begin({number(0): 16})
    w.min_bytes = lambda _queue: w.rng.choice([1, 99, 100, 101, 500])
    for _ in range(16):
        queue.add([90, 10], w.rng, table=queue.indirect) if queue.room > 2 else None
    w.kick(queue)
    await w.until(lambda: not queue.posted)
    assert w.short
    w.min_bytes = lambda _queue: 0
    await w.settle()
    if not TRANSMIT:  # longer than any count
        w.min_bytes = lambda _queue: (1 << 17) - 1
        queue.add([100_000, 40_000, 0xFFFF_FFFF, 1], w.rng)
        w.kick(queue)
        await w.settle()


@cocotb.test
async def a_take_in_vain(dut: Any) -> None:
    """A take without a chain is answered NONE, and leaves no obligation behind."""
    w = world(dut, True, 23)
    queue, = await w.begin({number(0): 16})
    w.strict = False
    w.credit[queue.number] = 5
    await w.until(lambda: w.none == 5)
    queue.running = False
    queue.add([60], w.rng)
    w.kick(queue)
    await cycles(dut, 100)
    w.start(queue)
    await w.settle()
    assert len(w.delivered) == 1


@cocotb.test
async def a_frame_that_has_begun_is_finished(dut: Any) -> None:
    """It gets further chains while its queue is being stopped; another one gets none."""
    w = world(dut, True, 27)
    queue, = await w.begin({number(0): 16})
    w.consume = False
    for _ in range(3):
        queue.add([60], w.rng)
    w.kick(queue)
    await w.until(lambda: w.credit[queue.number] == 3)

    def take(begun: int) -> None:
        w.credit[queue.number] -= 1
        w._expected_takes.append((queue.number, 0))
        w.takes.send({"queue": queue.number, "bytes": 0, "begun": begun})

    take(0)
    await w.until(lambda: bool(queue.taken or w.delivered))
    queue.running = False
    take(1)
    take(0)
    await w.until(lambda: w.none == 1 and len(w.delivered) == 2)
    await w.stop(queue, reset=False)
    w.consume = True
    w.start(queue)
    await w.settle()
    assert len(w.delivered) == 3
