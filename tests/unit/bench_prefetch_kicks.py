"""Prefetch: when kicks are wanted, and what looks for new entries cost."""

from __future__ import annotations

from typing import Any

import cocotb

from hw.virtio.prefetch_types import ReadKind
from tb.stream import cycles
from tests.unit.prefetch_traffic import KINDS, MODES, RACES, SIZE_MAX, number, world
from tests.unit.prefetch_world import World


@cocotb.test
@cocotb.parametrize(mode=range(len(RACES)))
async def no_kick_is_lost(dut: Any, mode: int) -> None:
    """An entry that comes at any moment of a silence is seen, kicked or not."""
    w = world(dut, False, 13, modes=(RACES[mode],), latency=(6, 6), write_latency=(3, 3),
              hold=(0, 0))
    queue, = await w.begin({number(1): 37 if "packed" in RACES[mode] else 32})
    silences = 0
    for landing in (0, 30):  # sooner and later than the card looks again
        w.fixed_landing = landing
        for burst in (8, 3) if queue.event_idx else (8,):  # enough to be asked for silence, or not
            for offset in range(0, 110 if burst == 8 else 60, 2 if queue.packed else 1):
                for _ in range(burst):
                    queue.add([60], w.rng)
                w.kick(queue)
                await cycles(dut, offset)
                queue.add([60], w.rng)
                queue.publish()
                await cycles(dut, offset % 3)  # the driver looks somewhat later
                if queue.wants_kick():
                    w.ring(queue, queue.told())
                else:
                    silences += 1
                    if offset % 5 == 4:  # a driver may kick whenever it likes
                        w.ring(queue, queue.told())
                await w.until(lambda: not queue.posted, 600, why=f"entry at {offset}, {landing}")
                await w.until(lambda: w.drained() and not queue.silent, 600, why="end of silence")
    assert silences > 20  # the race was run
    await w.settle()


def is_look(read: dict[str, int]) -> bool:
    """Whether the read is of the index, or of a packed ring."""
    return read["context"] & 3 in (ReadKind.INDEX.value, ReadKind.SLOTS.value)


def looks_of(w: World) -> int:
    """How often the index was read."""
    return sum(read["length"] == 2 and read["context"] & 3 == 0 for read in w.reads)


@cocotb.test
@cocotb.parametrize(mode=range(len(MODES)))
async def light_traffic(dut: Any, mode: int) -> None:
    """A few entries a kick cost one look each, and no write; many at once ask for silence.

    With EVENT_IDX each kick costs a write and a look behind it; with NOTIFICATION_DATA no look.
    """
    w = world(dut, False, 15, modes=(MODES[mode],), latency=(20, 20), hold=(0, 0))
    queue, = await w.begin({number(0): 64 if SIZE_MAX >= 64 else 16})
    await w.until(lambda: w.drained() and not queue.silent)
    await cycles(dut, 100)
    before, writes = looks_of(w), w.flag_writes
    for _ in range(10):
        for _ in range(7):
            queue.add([60], w.rng)
        w.kick(queue)
        await w.until(lambda: w.drained() and not queue.silent)
        await cycles(dut, 60)
    assert queue.kicks == 10
    assert w.flag_writes - writes == 10 * queue.event_idx
    assert looks_of(w) - before == 10 * (queue.event_idx + (not queue.notification_data))
    writes = w.flag_writes
    for _ in range(8):
        queue.add([60], w.rng)
    w.kick(queue)
    await w.until(lambda: queue.silent)
    await w.until(lambda: not queue.silent)
    await w.settle()
    assert w.flag_writes - writes == 1 + (not queue.event_idx)
    assert [read for read in w.reads if is_look(read)][-1]["fenced"]


@cocotb.test
@cocotb.parametrize(kind=range(2), data=[False, True])
async def looks_in_vain(dut: Any, kind: int, data: bool) -> None:
    """With EVENT_IDX: who finds nothing by looking is told from then on, which costs the fenced
    look alone; until the driver is so fast that this one finds something."""
    size = 64 if SIZE_MAX >= 64 else 16
    w = world(dut, False, 19, modes=((*KINDS[kind], "event_idx", *["data"] * data),),
              latency=(20, 20), hold=(0, 0))
    queue, = await w.begin({number(0): size})
    await w.settle()

    async def post(count: int) -> None:
        await w.until(lambda: queue.room >= count)
        for _ in range(count):
            queue.add([60], w.rng)
        w.kick(queue)

    def looks() -> int:
        return sum(map(is_look, w.reads))

    for turn in range(8):
        before, writes = looks(), w.flag_writes
        await post(10)
        await w.settle()
        if turn:
            needed = 1 if data else 2
            if kind:  # read by looks: four places first, without being told; at the end, one more
                needed = (2 if data else 3) + 2 * (10 * turn // size != (10 * turn + 9) // size)
            assert looks() - before <= needed, (turn, looks() - before)
            assert w.flag_writes - writes == 1
    kicks, writes = queue.kicks, w.flag_writes
    for _ in range(30):
        await post(8)
        await cycles(dut, 12)
    await w.settle()
    assert queue.kicks - kicks <= 10, queue.kicks - kicks
    assert w.flag_writes - writes <= 10, w.flag_writes - writes


@cocotb.test
@cocotb.parametrize(kind=range(2))
async def positions_that_tell_nothing(dut: Any, kind: int) -> None:
    """Positions too late, repeated, or beyond the ring do no harm: the index itself counts."""
    w = world(dut, False, 17, modes=((*KINDS[kind], "data"),), latency=(20, 40), hold=(0, 0))
    queue, other = await w.begin({number(0): 16, number(1): 16})
    for turn in range(60):
        count = w.rng.randint(1, 7)
        for _ in range(count):
            queue.add([60], w.rng)
        queue.publish()
        told = [queue.told(), queue.told(-w.rng.randint(1, count + 3)), queue.lie(w.rng)]
        if turn % 3:
            w.rng.shuffle(told)
        if turn % 4 == 3:
            told = [queue.told()] * 2
        # While the card looks at another queue, several doorbells become one kick.
        w.ring(other, other.told())
        for position in told:
            w.ring(queue, position)
            await cycles(dut, w.rng.choice([0, 0, 0, 3, 30]))
        if turn % 8 == 0:
            other.add([60], w.rng)
            w.kick(other)
        await w.until(w.drained, 1000, why=f"turn {turn}")
    await w.settle()
    assert not w.faults
    # After a reset they count from 0 again, and are worth a look no more.
    await w.stop(queue, reset=True)
    queue.restart()
    w.start(queue)
    await cycles(dut, 100)
    before = looks_of(w)
    for _ in range(5):
        queue.add([60], w.rng)
        w.kick(queue, always=True)
        await w.settle()
    assert queue.packed or looks_of(w) == before  # a packed ring shows itself what is available
