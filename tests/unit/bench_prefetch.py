"""cocotb side of tests/unit/test_prefetch.py."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import FaultReason
from tb.stream import cycles
from tests.unit.prefetch_world import INDIRECT, NEXT, WRITE, Queue, World

LANES = int(os.environ.get("RINGLET_LANES", "8"))
CONTEXT_BITS = int(os.environ.get("RINGLET_CONTEXT_BITS", "52"))
TRANSMIT = os.environ.get("RINGLET_DIRECTION", "transmit") == "transmit"
SIZE_MAX = int(os.environ.get("RINGLET_SIZE_MAX", "64"))
MAX_BYTES = 9100
FIRST_POSITION = int(os.environ.get("RINGLET_FIRST_POSITION", "0"))


MODES: tuple[tuple[str, ...], ...] = ((), ("event_idx", "data"), ("event_idx",), ("data",))


def world(dut: Any, stalls: bool = False, seed: int = 0, *,
          modes: tuple[tuple[str, ...], ...] | None = None, **options: Any) -> World:
    """Make a world; its queues are of all modes, unless ``modes`` says of which."""
    turn = seed % len(MODES)
    return World(dut, lanes=LANES, context_bits=CONTEXT_BITS, stalls=stalls,
                 first_position=FIRST_POSITION, seed=seed + cocotb.RANDOM_SEED,
                 modes=modes or MODES[turn:] + MODES[:turn], **options)


def number(index: int) -> int:
    """Queue ``index`` of this direction, by the card's count."""
    return 2 * index + int(TRANSMIT)


def lengths(rng: random.Random, count: int) -> list[int]:
    """Random buffers that make a chain that may be sent."""
    return [rng.randint(13, MAX_BYTES // count) for _ in range(count)]


def has_free(queue: Queue, count: int) -> bool:
    """Whether there are so many free descriptors."""
    return len(queue.free) >= count


async def feed(w: World, queue: Queue, chains: int, seed: int, *, longest: int = 20,
               batch: int = 12, pause: int = 150) -> None:
    """Post random chains in random batches as descriptors come free."""
    rng = random.Random(seed)
    while chains:
        for _ in range(min(chains, rng.randint(1, batch))):
            count = min(rng.choice([1, 1, 1, 2, 3, rng.randint(1, longest)]), queue.size)
            if len(queue.free) < count:
                w.kick(queue)
                await w.until(partial(has_free, queue, count), why="descriptors")
            # From a stack, in the order of the table, or anyhow.
            order = rng.random()
            if order < 0.3:
                queue.free.sort()
            elif order < 0.4:
                rng.shuffle(queue.free)
            queue.add(lengths(rng, count), rng, pick=rng.choice([-1, 0]))
            chains -= 1
        w.kick(queue)
        await cycles(w.dut, rng.randint(0, pause))


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def all_chains_come_in_order(dut: Any, stalls: bool) -> None:
    """Random chains on every queue, several laps: everything comes once, nothing is left over."""
    w = world(dut, stalls, 2 * stalls, latency=(10, 200 + 100 * stalls))
    queues = await w.begin({number(0): 16, number(1): 32, number(2): SIZE_MAX})
    tasks = [cocotb.start_soon(feed(w, queue, 60, seed=queue.number + 40 * stalls))
             for queue in queues]
    for task in tasks:
        await task
    await w.settle()
    assert len(w.delivered) == 180
    assert not w.faults and not w.none


@cocotb.test
async def few_reads_at_a_time(dut: Any) -> None:
    """The engine takes no more than two reads before an answer was taken: no deadlock."""
    w = world(dut, True, 3, latency=(5, 40), reads_max=2)
    queues = await w.begin({number(index): 32 for index in range(3)})
    tasks = [cocotb.start_soon(feed(w, queue, 60, seed=queue.number, longest=6, pause=10))
             for queue in queues]
    for task in tasks:
        await task
    await w.settle()
    assert len(w.delivered) == 180


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def stop_and_go(dut: Any, stalls: bool) -> None:
    """Stopped at any moment, a queue goes on where it was, or from the start after a reset."""
    w = world(dut, stalls, 7, latency=(10, 120))
    queues = await w.begin({number(index): 32 for index in range(2)})
    rng = random.Random(17)
    victim, other = queues
    feeder = cocotb.start_soon(feed(w, other, 150, seed=5, longest=4, pause=60))
    for turn in range(12):
        while len(victim.free) >= 4:
            victim.add(lengths(rng, rng.randint(1, 4)), rng)
        w.kick(victim)
        w.consume = turn % 3 != 0  # with full caches, and with takes on their way
        await cycles(dut, rng.randint(0, 300))
        again = turn % 4 == 3
        w.consume = True
        await w.stop(victim, reset=again)
        await w.until(lambda: not victim.taken)
        if again:
            victim.restart()
            continue
        await cycles(dut, rng.randint(0, 20))
        if turn % 2:
            w.kick(victim, always=True)  # of a queue that does not run
            await cycles(dut, 60)
        w.start(victim)
        if turn % 5 == 4:
            await w.until(lambda: not victim.posted, why="all of the victim")
    await feeder
    if not victim.running:
        w.start(victim)
    await w.settle()
    assert not w.faults


def bad_chain(queue: Queue, **fields: int) -> None:
    """Add a chain of one descriptor with something wrong in it."""
    good = {"address": 0x1234, "length": 100, "flags": 0 if TRANSMIT else WRITE, "next_": 0}
    number_ = queue.free.pop()
    queue.descriptor(number_, **{**good, **fields})
    queue.entry(number_)


def two(queue: Queue, next_: Callable[[int], int]) -> None:
    """Add a chain whose first descriptor names another one as ``next_`` says."""
    first = queue.free.pop()
    flags = NEXT | (0 if TRANSMIT else WRITE)
    queue.descriptor(first, 0x1234, 100, flags, next_(first))
    queue.entry(first)


def ring(queue: Queue, count: int) -> None:
    """Add a chain that comes back to its first descriptor after ``count``."""
    numbers = [queue.free.pop() for _ in range(count)]
    for place, number_ in enumerate(numbers):
        queue.descriptor(number_, 0x1234, 1, NEXT | (0 if TRANSMIT else WRITE),
                         numbers[(place + 1) % count])
    queue.entry(numbers[0])


def shared(queue: Queue, rng: random.Random) -> None:
    """Add a chain that uses a descriptor of one that has not been taken."""
    chain = queue.posted[-1]
    two(queue, lambda _first: chain.numbers[-1])


def inside(queue: Queue) -> None:
    """Add a chain of neighbours with an empty buffer in the middle of a walk's answer."""
    queue.free.sort()
    place = next(k for k in range(len(queue.free)) if queue.free[k + 4] == queue.free[k] + 4)
    numbers = [queue.free.pop(place) for _ in range(5)]
    for step, number_ in enumerate(numbers):
        queue.descriptor(number_, 0x1234, 0 if step == 2 else 100,
                         (NEXT if step < 4 else 0) | (0 if TRANSMIT else WRITE), number_ + 1)
    queue.entry(numbers[0])


def advance(queue: Queue, count: int) -> None:
    queue.index = (queue.index + count) & 0xFFFF


def fault_cases() -> dict[str, tuple[FaultReason, Callable[[Queue, World], None]]]:
    right = 0 if TRANSMIT else WRITE
    cases: dict[str, tuple[FaultReason, Callable[[Queue, World], None]]] = {
        "index_jump": (FaultReason.INDEX_JUMP, lambda q, w: advance(q, q.size + 1)),
        "index_back": (FaultReason.INDEX_JUMP, lambda q, w: advance(q, -1)),
        "head": (FaultReason.HEAD_RANGE, lambda q, w: q.entry(q.size)),
        "head_far": (FaultReason.HEAD_RANGE, lambda q, w: q.entry(0xFFFF)),
        "next": (FaultReason.NEXT_RANGE, lambda q, w: two(q, lambda _: q.size)),
        "next_far": (FaultReason.NEXT_RANGE, lambda q, w: two(q, lambda _: 0x8000)),
        "loop_one": (FaultReason.LOOP, lambda q, w: two(q, lambda first: first)),
        "loop": (FaultReason.LOOP, lambda q, w: ring(q, 7)),
        "shared": (FaultReason.LOOP, lambda q, w: shared(q, w.rng)),
        "zero": (FaultReason.ZERO_LENGTH, lambda q, w: bad_chain(q, length=0)),
        "inside": (FaultReason.ZERO_LENGTH, lambda q, w: inside(q)),
        "direction": (FaultReason.DIRECTION, lambda q, w: bad_chain(q, flags=right ^ WRITE)),
        "indirect": (FaultReason.BAD_FLAGS, lambda q, w: bad_chain(q, flags=right | INDIRECT)),
        "unknown": (FaultReason.BAD_FLAGS, lambda q, w: bad_chain(q, flags=right | 1 << 15)),
    }
    if TRANSMIT:
        cases |= {
            "short": (FaultReason.BAD_LENGTH, lambda q, w: bad_chain(q, length=12)),
            "long": (FaultReason.BAD_LENGTH, lambda q, w: bad_chain(q, length=MAX_BYTES + 1)),
            "huge": (FaultReason.BAD_LENGTH, lambda q, w: bad_chain(q, length=0x8000_0020)),
        }
    return cases


@cocotb.test
async def each_fault_stops_its_queue_alone(dut: Any) -> None:
    """One record with the right reason, no more reads; a reset heals; nobody else notices."""
    w = world(dut, True, 9, latency=(10, 80))
    victim, other = await w.begin({number(0): 16, number(2): 32})
    for turn, (name, (reason, spoil)) in enumerate(fault_cases().items()):
        feeder = cocotb.start_soon(feed(w, other, 12, seed=turn, longest=3, pause=20))
        for _ in range(turn % 3 + 1):
            victim.add(lengths(w.rng, 2), w.rng)
        # Some are about chains that are known, and not yet taken.
        known = name in ("shared", "index_jump", "index_back")
        w.consume = not known
        w.kick(victim)
        if known:
            await w.until(lambda: w.credit[victim.number] == len(victim.posted))
        spoil(victim, w)
        if name not in ("index_jump", "index_back"):
            for _ in range(2):
                victim.add(lengths(w.rng, 1), w.rng)
        w.kick(victim, always=True)
        await w.until(lambda: bool(w.faults), 3000, why=name)
        w.consume = True
        await w.until(lambda: w.count[victim.number] == 0, why=f"end of work after {name}")
        reads = sum(read["queue"] == victim.number for read in w.reads)
        w.kick(victim, always=True)
        await cycles(dut, 150)
        assert reads == sum(read["queue"] == victim.number for read in w.reads), name
        assert [(fault["queue"], fault["reason"]) for fault in w.faults] == [
            (victim.number, reason.value)], name
        # What came before it in the ring could be taken, nothing behind it.
        assert not w.credit[victim.number]
        if name not in ("index_jump", "index_back"):
            assert len(victim.posted) >= 2, name
        w.faults.clear()
        await w.stop(victim, reset=True)
        await w.until(lambda: not victim.taken)
        victim.restart()
        w.start(victim)
        victim.add(lengths(w.rng, 3), w.rng)
        w.kick(victim, always=True)
        await w.until(lambda: not victim.posted and not victim.taken, why=f"life after {name}")
        await feeder
    await w.settle()


@cocotb.test
@cocotb.parametrize(kind=[0, 1, 2, 3])
async def failed_reads(dut: Any, kind: int) -> None:
    """A read that fails is a fault with its reason: index, ring entry, descriptor or next."""
    w = world(dut, True, 11 + kind, modes=((), ("event_idx", "data")))  # the first reads all kinds
    victim, other = await w.begin({number(0): 16, number(1): 16})
    error = kind % 3 + 1

    def fails(request: dict[str, int]) -> int:
        if request["queue"] != victim.number:
            return 0
        return error if request["context"] & 3 == kind else 0

    w.read_error = fails
    for queue in (victim, other):
        for count in (2, 5):
            # Against the order of the table: each is read by itself.
            queue.add(lengths(w.rng, count), w.rng)
        w.kick(queue)
    await w.until(lambda: bool(w.faults), why="fault")
    await w.until(lambda: not other.posted and not any(w.count.values()), why="the other")
    assert [(fault["queue"], fault["reason"]) for fault in w.faults] == [
        (victim.number, FaultReason.READ_FAILED.value + error - 1)]
    w.faults.clear()
    w.read_error = lambda _request: 0
    await w.stop(victim, reset=True)
    victim.restart()
    w.start(victim)
    victim.add(lengths(w.rng, 3), w.rng)
    w.kick(victim, always=True)
    await w.settle()


@cocotb.test
@cocotb.parametrize(mode=[0, 1])
async def no_kick_is_lost(dut: Any, mode: int) -> None:
    """An entry that comes at any moment of a silence is seen, kicked or not."""
    w = world(dut, False, 13, modes=(MODES[mode],), latency=(6, 6), write_latency=(3, 3),
              hold=(0, 0))
    queue, = await w.begin({number(1): 32})
    silences = 0
    for landing in (0, 30):  # sooner and later than the card looks again
        w.fixed_landing = landing
        for burst in (8, 3) if queue.event_idx else (8,):  # enough to be asked for silence, or not
            for offset in range(110 if burst == 8 else 60):
                for _ in range(burst):
                    queue.add([60], w.rng)
                w.kick(queue)
                await cycles(dut, offset)
                queue.add([60], w.rng)
                queue.publish()
                await cycles(dut, offset % 3)  # the driver looks somewhat later
                if queue.wants_kick():
                    w.ring(queue, queue.index)
                else:
                    silences += 1
                await w.until(lambda: not queue.posted, 600, why=f"entry at {offset}, {landing}")
                await w.until(lambda: w.drained() and not queue.silent, 600, why="end of silence")
    assert silences > 20  # the race was run
    await w.settle()


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
    assert w.reads[-1]["fenced"]


@cocotb.test
async def positions_that_tell_nothing(dut: Any) -> None:
    """Positions too late, repeated, or beyond the ring do no harm: the index itself counts."""
    w = world(dut, False, 17, modes=(("data",),), latency=(20, 40), hold=(0, 0))
    queue, other = await w.begin({number(0): 16, number(1): 16})
    for turn in range(60):
        count = w.rng.randint(1, 7)
        for _ in range(count):
            queue.add([60], w.rng)
        queue.publish()
        told = [queue.index, queue.index - w.rng.randint(1, count + 3),
                queue.index + w.rng.choice([0, 17, 0x4000, 0x8000, 0xC000])]
        if turn % 3:
            w.rng.shuffle(told)
        if turn % 4 == 3:
            told = [queue.index] * 2
        # While the card looks at another queue, several doorbells become one kick.
        w.ring(other, other.index)
        for position in told:
            # A driver that tells more than it has made available harms itself alone.
            harms = 0 < (position - queue.index) & 0xFFFF <= queue.size
            w.ring(queue, queue.index if harms else position)
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
    assert looks_of(w) == before


@cocotb.test
async def runs_are_read_together(dut: Any) -> None:
    """Neighbours in the table, upwards or downwards, cost one read; a chain of neighbours few."""
    w = world(dut, False, 19, latency=(30, 30), hold=(0, 0))
    queue, = await w.begin({number(0): 32})
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
async def short_chains_stay(dut: Any) -> None:
    """A take of more bytes than the chain has is answered SHORT; the chain stays."""
    w = world(dut, True, 21)
    queue, = await w.begin({number(0): 16})
    w.min_bytes = lambda _queue: w.rng.choice([1, 99, 100, 101, 500])
    for _ in range(16):
        queue.add([90, 10], w.rng) if len(queue.free) > 1 else None
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
    await w.until(lambda: queue.taken or w.delivered)
    queue.running = False
    take(1)
    take(0)
    await w.until(lambda: w.none == 1 and len(w.delivered) == 2)
    await w.stop(queue, reset=False)
    w.consume = True
    w.start(queue)
    await w.settle()
    assert len(w.delivered) == 3


@cocotb.test(skip=SIZE_MAX < 1024)
async def rate(dut: Any) -> None:
    """One queue of 60-byte frames, reads of 250 cycles: at most 2.5 cycles a chain."""
    w = world(dut, False, 25, modes=((),), latency=(250, 250), write_latency=(20, 20), hold=(0, 0))
    queue, = await w.begin({number(0): 1024})
    chains = 4000
    posted = 0
    begin = 0
    edge = RisingEdge(dut.clk)
    while len(w.delivered) < chains:
        if len(queue.free) >= 32 and posted < chains + 1024:
            for _ in range(32):
                queue.add([60], w.rng)
            posted += 32
            w.kick(queue)
        if not begin and len(w.delivered) >= 1000:
            begin = w.now
        await edge
    spent = (w.now - begin) / (chains - 1000)
    reads = len(w.reads) / posted
    dut._log.info(f"{spent:.2f} cycles a chain, {reads:.3f} reads a chain, "
                  f"{w.flag_writes} flag writes, {queue.kicks} kicks")
    assert spent <= 2.5
    await w.settle()


@cocotb.test(skip=SIZE_MAX < 1024)
async def latency(dut: Any) -> None:
    """From a doorbell to the answer to a take, with reads of no latency worth the name."""
    w = world(dut, False, 27, modes=((), ("data",)), latency=(100, 100), hold=(0, 0))
    queues = await w.begin({number(0): 1024, number(1): 1024})
    await cycles(dut, 20)
    for reads, queue in zip((3, 2), queues, strict=True):  # with a position, not the index
        before, came = len(w.reads), len(w.delivered)
        queue.add([60], w.rng)
        start = w.now
        w.kick(queue)
        await w.until(lambda since=before: len(w.reads) > since)  # type: ignore[misc]
        first = w.now - start
        await w.until(lambda number=queue.number: bool(w.ready_at[number]))  # type: ignore[misc]
        ready = w.ready_at[queue.number][0] - start
        await w.until(lambda since=came: len(w.delivered) > since)  # type: ignore[misc]
        dut._log.info(f"doorbell to first read {first}, to announcement {ready}, of which reads "
                      f"{100 * reads}; to the segment {w.now - start}")
        assert first <= 15
        assert ready <= 100 * reads + 50
        assert len(w.reads) - before == reads
        await w.settle()
