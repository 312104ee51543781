"""cocotb side of tests/unit/test_prefetch.py."""

from __future__ import annotations

import os
import random
from functools import partial
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.prefetch_types import ReadKind
from hw.virtio.types import FaultReason
from tb.stream import cycles
from tests.unit.prefetch_faults import Fault, fault_cases
from tests.unit.prefetch_queues import PackedQueue, SplitQueue
from tests.unit.prefetch_world import World

LANES = int(os.environ.get("RINGLET_LANES", "8"))
CONTEXT_BITS = int(os.environ.get("RINGLET_CONTEXT_BITS", "52"))
TRANSMIT = os.environ.get("RINGLET_DIRECTION", "transmit") == "transmit"
SIZE_MAX = int(os.environ.get("RINGLET_SIZE_MAX", "64"))
MAX_BYTES = 9100
FIRST_POSITION = int(os.environ.get("RINGLET_FIRST_POSITION", "0"))
TABLE_MAX = int(os.environ.get("RINGLET_TABLE_MAX", "0"))

Queue = SplitQueue | PackedQueue
MODES: tuple[tuple[str, ...], ...] = ((), ("event_idx", "data"), ("event_idx",), ("data",))
# By turns for the queues of a world. A card without tables has none of those with them.
RINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "split": MODES,
    "packed": (("packed",), ("packed", "event_idx", "data"), ("packed", "event_idx")),
}
if TABLE_MAX:
    RINGS |= {
        "tables": (("packed", "indirect"), ("indirect", "event_idx", "data"),
                   ("packed", "indirect", "event_idx")),
        "mixed": (("indirect",), ("packed", "data"), ("packed", "indirect", "event_idx", "data")),
    }
KINDS: list[tuple[str, ...]] = [(), ("packed",)]
if TABLE_MAX:
    KINDS += [("indirect",), ("packed", "indirect")]
# Ways to be asked for kicks: by a flag, or by a position.
RACES = [(*kind, *event) for kind in KINDS if "indirect" not in kind
         for event in ((), ("event_idx", "data"), ("event_idx",))]


def world(dut: Any, stalls: bool = False, seed: int = 0, *,
          rings: str = "split", modes: tuple[tuple[str, ...], ...] | None = None,
          **options: Any) -> World:
    """Make a world; its queues are of these rings in all modes, or of ``modes`` by turns."""
    turn = seed % len(RINGS[rings])
    return World(dut, lanes=LANES, context_bits=CONTEXT_BITS, stalls=stalls,
                 first_position=FIRST_POSITION, seed=seed + cocotb.RANDOM_SEED,
                 modes=modes or RINGS[rings][turn:] + RINGS[rings][:turn],
                 table_max=TABLE_MAX, **options)


def number(index: int) -> int:
    """Queue ``index`` of this direction, by the card's count."""
    return 2 * index + int(TRANSMIT)


def lengths(rng: random.Random, count: int) -> list[int]:
    """Random buffers that make a chain that may be sent."""
    return [rng.randint(13, MAX_BYTES // count) for _ in range(count)]


def sizes(w: World, *wanted: int) -> dict[int, int]:
    """Sizes of queues 0, 1 and so on: packed rings have any, others a power of two."""
    return {number(index): size if "packed" in w.modes[index % len(w.modes)]
            else 1 << size.bit_length() - 1 for index, size in enumerate(wanted)}


def by_table(queue: Queue, count: int, rng: random.Random) -> bool:
    """Whether a chain of ``count`` buffers is to have an indirect table: mostly, where it may."""
    return queue.indirect and count <= queue.table_max and rng.random() < 0.6


def has_free(queue: Queue, count: int) -> bool:
    """Whether there are so many free descriptors."""
    return queue.room >= count


async def feed(w: World, queue: Queue, chains: int, seed: int, *, longest: int = 20,
               batch: int = 12, pause: int = 150) -> None:
    """Post random chains in random batches as descriptors come free."""
    rng = random.Random(seed)
    while chains:
        for _ in range(min(chains, rng.randint(1, batch))):
            count = min(rng.choice([1, 1, 1, 2, 3, rng.randint(1, longest)]), queue.size)
            table = by_table(queue, count, rng)
            needs = queue.needs(count, table=table)
            if queue.room < needs:
                w.kick(queue)
                await w.until(partial(has_free, queue, needs), why="descriptors")
            if isinstance(queue, SplitQueue):
                # From a stack, in the order of the table, or anyhow.
                order = rng.random()
                if order < 0.3:
                    queue.free.sort()
                elif order < 0.4:
                    rng.shuffle(queue.free)
                queue.add(lengths(rng, count), rng, table=table, pick=rng.choice([-1, 0]))
            else:
                queue.add(lengths(rng, count), rng, table=table)
            chains -= 1
        # Before the kick they become available one by one, the first one maybe last.
        while isinstance(queue, PackedQueue) and queue.hidden and rng.random() < 0.8:
            queue.reveal(rng.choice([0, 0, len(queue.hidden) - 1]))
            await cycles(w.dut, rng.choice([0, 0, 1, 7, 20]))
        w.kick(queue)
        await cycles(w.dut, rng.randint(0, pause))


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
@cocotb.parametrize(stalls=[False, True], rings=list(RINGS))
async def stop_and_go(dut: Any, stalls: bool, rings: str) -> None:
    """Stopped at any moment, a queue goes on where it was, or from the start after a reset."""
    w = world(dut, stalls, 7, rings=rings, latency=(10, 120))
    queues = await w.begin(sizes(w, 32, 32) if rings == "split" else sizes(w, 37, 37))
    rng = random.Random(17)
    victim, other = queues
    feeder = cocotb.start_soon(feed(w, other, 150, seed=5, longest=4, pause=60))
    for turn in range(12):
        while victim.room >= 4:
            count = rng.randint(1, 4)
            victim.add(lengths(rng, count), rng, table=by_table(victim, count, rng))
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


async def begin_anywhere(w: World, queue: Queue, rng: random.Random) -> None:
    """Let a queue go on in a ring that another device has used, when its own is done with."""
    await w.until(lambda: not queue.posted and not queue.taken, why="all of the queue")
    queue.running = False
    await w.until(lambda: w.count[queue.number] == 0)
    await w.stop(queue, reset=True, load=queue.move(rng))
    w.start(queue)


async def until_kicks_are_wanted(w: World, queue: Queue) -> None:
    await w.until(lambda: not queue.silent, why="a kick is wanted")


@cocotb.test
@cocotb.parametrize(stalls=[False, True], rings=list(RINGS))
async def rings_of_another_device(dut: Any, stalls: bool, rings: str) -> None:
    """A queue begins where it is loaded, in a ring that says that no kicks are wanted."""
    w = world(dut, stalls, 13, rings=rings, latency=(10, 120))
    queues = await w.begin(sizes(w, 32, 32, 16) if rings == "split" else sizes(w, 37, 37, 21))
    rng = random.Random(cocotb.RANDOM_SEED)
    for turn in range(15):
        victim = queues[turn % len(queues)]
        await begin_anywhere(w, victim, rng)
        if turn % 2:
            # Nothing is there at first: now the card says that it wants a kick.
            await until_kicks_are_wanted(w, victim)
        for _ in range(rng.randint(1, 6)):
            if victim.room >= 4:
                count = rng.randint(1, 4)
                victim.add(lengths(rng, count), rng, table=by_table(victim, count, rng))
        w.kick(victim)
    await w.settle()
    assert not w.faults


@cocotb.test
@cocotb.parametrize(kind=range(len(KINDS)))
async def each_fault_stops_its_queue_alone(dut: Any, kind: int) -> None:
    """One record with the right reason, no more reads; a reset heals; nobody else notices."""
    modes = KINDS[kind]
    w = world(dut, True, 9, modes=((*modes, "event_idx", "data"), (), (*modes, "data")),
              latency=(10, 80))
    victim, other = await w.begin({number(0): 16, number(2): 32})
    for turn, (name, fault) in enumerate(fault_cases(victim, max_bytes=MAX_BYTES).items()):
        feeder = cocotb.start_soon(feed(w, other, 12, seed=turn, longest=3, pause=20))
        await one_fault(w, victim, name, fault, 0 if fault.alone else turn % 3 + 1)
        await feeder
    await w.settle()


async def one_fault(w: World, victim: Queue, name: str, fault: Fault, before: int) -> None:
    """Spoil a queue, with good chains before and behind; and heal it by a reset."""
    for _ in range(before):
        victim.add(lengths(w.rng, 2), w.rng)
    w.consume = not fault.known
    w.kick(victim)
    if fault.known:
        await w.until(lambda: w.credit[victim.number] == len(victim.posted))
    fault.spoil(w.rng)
    behind = 0 if fault.last else 2
    for _ in range(behind):
        victim.add(lengths(w.rng, 1), w.rng)
    w.kick(victim, always=True)
    await w.until(lambda: any(told["queue"] == victim.number for told in w.faults), why=name)
    w.consume = True
    await w.until(lambda: w.count[victim.number] == 0, why=f"end of work after {name}")
    reads = sum(read["queue"] == victim.number for read in w.reads)
    w.kick(victim, always=True)
    await cycles(w.dut, 150)
    assert reads == sum(read["queue"] == victim.number for read in w.reads), name
    assert [(told["queue"], told["reason"]) for told in w.faults] == [
        (victim.number, fault.reason.value)], name
    # What came before it in the ring could be taken, nothing behind it.
    assert not w.credit[victim.number]
    assert len(victim.posted) >= behind, name
    w.faults.clear()
    await w.stop(victim, reset=True)
    await w.until(lambda: not victim.taken)
    victim.restart()
    w.start(victim)
    victim.add(lengths(w.rng, 3), w.rng)
    w.kick(victim, always=True)
    await w.until(lambda: not victim.posted and not victim.taken, why=f"life after {name}")


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
@cocotb.parametrize(kind=range(1, len(KINDS)), table=[False, True])
async def failed_reads_of_descriptors(dut: Any, kind: int, table: bool) -> None:
    """The same for a packed ring, and for tables: the queue alone stops, after what came before."""
    if table > ("indirect" in KINDS[kind]):
        return
    w = world(dut, True, 31 + kind, modes=(KINDS[kind],))
    victim, other = await w.begin({number(0): 16, number(1): 16})
    error = kind % 3 + 1
    for queue in (victim, other):
        queue.add(lengths(w.rng, 2), w.rng)
        w.kick(queue)
    await w.until(w.drained, why="the first")

    def fails(request: dict[str, int]) -> int:
        in_ring = victim.holds(request["address"], request["length"])
        return error if request["queue"] == victim.number and in_ring != table else 0

    w.read_error = fails
    for queue in (victim, other):
        for count in (2, 5):
            queue.add(lengths(w.rng, count), w.rng, table=table)
        w.kick(queue)
    await w.until(lambda: bool(w.faults), why="fault")
    await w.until(lambda: not other.posted and not any(w.count.values()), why="the other")
    assert [(fault["queue"], fault["reason"]) for fault in w.faults] == [
        (victim.number, FaultReason.READ_FAILED.value + error - 1)]
    assert len(victim.posted) == 2
    w.faults.clear()
    w.read_error = lambda _request: 0
    await w.stop(victim, reset=True)
    victim.restart()
    w.start(victim)
    victim.add(lengths(w.rng, 3), w.rng, table=table)
    w.kick(victim, always=True)
    await w.settle()


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


@cocotb.test(skip=SIZE_MAX < 1024)
@cocotb.parametrize(kind=range(len(KINDS)))
async def rate(dut: Any, kind: int) -> None:
    """One queue of 60-byte frames, reads of 250 cycles: at most 2.5 cycles a chain.

    With a table for each 6 of a packed ring, 8.5 of a split one: no more than 320 chains wait.
    """
    w = world(dut, False, 25, modes=(KINDS[kind],), latency=(250, 250), write_latency=(20, 20),
              hold=(0, 0))
    queue, = await w.begin({number(0): 1000 if "packed" in KINDS[kind] else 1024})
    chains = 4000 if not kind else 2500
    posted = 0
    begin = 0
    edge = RisingEdge(dut.clk)
    while len(w.delivered) < chains:
        if queue.room >= 32 and posted < chains + 1024:
            for _ in range(32):
                queue.add([60], w.rng, table=queue.indirect)
            posted += 32
            w.kick(queue)
        if not begin and len(w.delivered) >= 1000:
            begin = w.now
        await edge
    spent = (w.now - begin) / (chains - 1000)
    reads = len(w.reads) / posted
    dut._log.info(f"{KINDS[kind]}: {spent:.2f} cycles a chain, {reads:.3f} reads a chain, "
                  f"{w.flag_writes} flag writes, {queue.kicks} kicks")
    assert spent <= (2.5 if not queue.indirect else 6 if queue.packed else 8.5)
    await w.settle()


LATENCIES: list[tuple[tuple[str, ...], int]] = [
    ((), 3), (("data",), 2), (("packed",), 1)]  # with a position, not the index
if TABLE_MAX:
    LATENCIES += [(("packed", "indirect"), 2), (("indirect", "data"), 3)]


@cocotb.test(skip=SIZE_MAX < 1024)
@cocotb.parametrize(case=range(len(LATENCIES)))
async def latency(dut: Any, case: int) -> None:
    """From a doorbell to the answer to a take, with reads of no latency worth the name."""
    modes, reads = LATENCIES[case]
    w = world(dut, False, 27, modes=(modes,), latency=(100, 100), hold=(0, 0))
    queue, = await w.begin({number(0): 1024})
    await cycles(dut, 20)
    before = len(w.reads)
    queue.add([60], w.rng, table=queue.indirect)
    start = w.now
    w.kick(queue)
    await w.until(lambda: len(w.reads) > before)
    first = w.now - start
    await w.until(lambda: bool(w.ready_at[queue.number]))
    ready = w.ready_at[queue.number][0] - start
    await w.until(lambda: len(w.delivered) > 0)
    dut._log.info(f"{modes}: doorbell to first read {first}, to announcement {ready}, of which "
                  f"reads {100 * reads}; to the segment {w.now - start}")
    assert first <= 15
    assert ready <= 100 * reads + 60
    assert len(w.reads) - before == reads
    await w.settle()
