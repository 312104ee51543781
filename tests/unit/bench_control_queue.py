"""cocotb side of tests/unit/test_control_queue.py."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import cocotb

from hw.virtio.types import FaultReason
from tb.stream import cycles
from tests.unit.control_drivers import (
    DESCRIPTORS_MAX,
    INDIRECT,
    KEPT,
    NEXT,
    WRITE,
    Driver,
    PackedDriver,
    SplitDriver,
)
from tests.unit.control_world import World

LANES = int(os.environ.get("RINGLET_LANES", "8"))
FIRST_QUEUE = int(os.environ.get("RINGLET_FIRST_QUEUE", "0"))
FUNCTIONS = int(os.environ.get("RINGLET_FUNCTIONS", "6"))
MAX_PAIRS = int(os.environ.get("RINGLET_MAX_PAIRS", "4"))
SIZE_MAX = int(os.environ.get("RINGLET_SIZE_MAX", "256"))
FIRST_POSITION = int(os.environ.get("RINGLET_FIRST_POSITION", "0"))


def world(dut: Any, *, stalls: bool, seed: int, split_only: bool = False, **manners: Any) -> World:
    """Six functions: both rings, with and without EVENT_IDX and INDIRECT_DESC; one without MQ."""
    packed = SplitDriver if split_only else PackedDriver
    kinds: list[tuple[type[SplitDriver | PackedDriver], int, bool, bool]] = [
        (SplitDriver, 16, False, False), (packed, 16 if split_only else 5, True, False),
        (SplitDriver, 4, True, True), (packed, 8, False, True),
        (packed, SIZE_MAX, True, True), (SplitDriver, SIZE_MAX, True, False)]
    drivers: list[Driver] = [
        kind(function, size, event_idx=event_idx, indirect=indirect, max_pairs=MAX_PAIRS,
             seed=seed * 10 + function, first_position=0 if kind.packed else FIRST_POSITION)
        for function, (kind, size, event_idx, indirect) in enumerate(kinds)]
    drivers[5].mq = False
    return World(dut, drivers, lanes=LANES, first_queue=FIRST_QUEUE, stalls=stalls, seed=seed,
                 **manners)


def pairs_set(pairs: int, more: bytes = b"") -> bytes:
    return b"\x04\x00" + pairs.to_bytes(2, "little") + more


def random_command(rng: random.Random) -> bytes:
    """A command as a driver may give it; half of them are to be done."""
    pairs = rng.choice([1, MAX_PAIRS, rng.randint(1, MAX_PAIRS)])
    if rng.random() < 0.5:
        return pairs_set(pairs, rng.randbytes(rng.choice([0, 0, 0, 1, 9, KEPT - 4])))
    return rng.choice([
        pairs_set(0), pairs_set(MAX_PAIRS + 1), pairs_set(pairs | 0x100), pairs_set(0xFFFF),
        pairs_set(pairs)[:rng.randint(0, 3)],             # too short
        pairs_set(pairs, rng.randbytes(KEPT - 3)),        # too long
        pairs_set(pairs, rng.randbytes(rng.randint(KEPT, 250))),
        b"\x04" + bytes([rng.randint(1, 255)]) + pairs_set(pairs)[2:],
        bytes([rng.choice([0, 1, 2, 3, 5, 6, 132, 255])]) + pairs_set(pairs)[1:],
        rng.randbytes(rng.randint(1, 80))])


def give(driver: Driver, rng: random.Random, content: bytes | None = None) -> bool:
    """Give a command in a random shape, or say that there is no room for it now."""
    content = random_command(rng) if content is None else content
    most = min(driver.size, DESCRIPTORS_MAX - 1, 20)
    if driver.indirect:
        most = max(most, 12)
    writable = tuple(rng.choice([1, 1, 2, 40]) for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3])))
    writable = writable[:max(0, most - 2)]
    readable = min(len(content), max(1, most - len(writable)),
                   rng.choice([1, 1, 2, 2, 3, 4, rng.randint(1, 20)]))
    if not content and not writable:
        writable = (1,)
    total = readable + len(writable)
    table = None
    if driver.indirect and (total > driver.size or rng.random() < 0.6):
        table = 0 if driver.packed else rng.randint(0, min(total - 1, driver.size - 1))
    needs = total if table is None else table + 1
    if driver.free() < needs:
        return False
    driver.give(content, readable=readable, writable=writable, table=table)
    return True


async def feed(w: World, driver: Driver, commands: int, seed: int, *, batch: int = 4,
               pause: int = 400) -> None:
    """Give so many commands, in batches, as there is room."""
    rng = random.Random(seed)
    while commands:
        for _ in range(min(commands, rng.randint(1, batch))):
            commands -= give(driver, rng)
        w.kick(driver)
        await cycles(w.dut, rng.randint(0, pause))


async def feed_all(w: World, drivers: list[Driver], commands: int, seed: int) -> None:
    tasks = [cocotb.start_soon(feed(w, driver, commands, seed + driver.function))
             for driver in drivers]
    for task in tasks:
        await task
    await w.settle()


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def all_commands_are_answered(dut: Any, stalls: bool) -> None:
    """Random commands in random shapes, of six functions at once."""
    w = world(dut, stalls=stalls, seed=3 + stalls, split_only=bool(FIRST_POSITION))
    await w.begin()
    await feed_all(w, w.drivers, 25, 17 + stalls)
    assert not w.faults
    done = [command for driver in w.drivers for command in driver.answered]
    assert len(done) == 25 * len(w.drivers)
    for driver in w.drivers:
        if driver.mq:
            assert sum(command.pairs is not None for command in driver.answered) >= 5
        else:
            assert not any(command.pairs for command in driver.answered)
    assert sum(command.ack == 1 for command in done) > 30
    assert sum(command.ack is None for command in done) > 10
    assert w.event_writes >= sum(driver.event_idx for driver in w.drivers)


@cocotb.test
async def any_cut(dut: Any) -> None:
    """One command, byte by byte, and whole; at each length from nothing to more than is kept."""
    w = world(dut, stalls=False, seed=5, latency=(1, 4), write_latency=(0, 3), lag=(0, 0))
    await w.begin()
    for length in (*range(0, 8), KEPT - 1, KEPT, KEPT + 1, 2 * KEPT):
        content = pairs_set(3, bytes(range(2 * KEPT)))[:length]
        for readable in {1, min(length, 3), min(length, 40)}:
            for number in (4, 5, 3):
                driver = w.drivers[number]
                driver.give(content, readable=readable, writable=(2,),
                            table=0 if driver.indirect else None)
                w.kick(driver)
        await w.settle()
    assert not w.faults


@cocotb.test
@cocotb.parametrize(number=[1, 2])
async def kicks_are_not_lost(dut: Any, number: int) -> None:
    """EVENT_IDX: a command at every offset from the end of the one before is seen, kick or none."""
    w = world(dut, stalls=False, seed=7, split_only=bool(FIRST_POSITION), latency=(8, 24),
              write_latency=(0, 24), lag=(0, 12))
    await w.begin()
    await w.settle()
    driver = w.drivers[number]
    w.kicks = 0
    offsets = range(0, 130, 2)
    for offset in offsets:
        driver.give(pairs_set(1), readable=1, table=0 if driver.indirect else None)
        w.kick(driver)
        w.used = 0
        await w.until(lambda: w.used > 0, why=f"the first at {offset}")
        await cycles(dut, offset)
        driver.give(pairs_set(2), readable=1, table=0 if driver.indirect else None)
        w.kick(driver)
        await w.settle()
    # Both ways were gone.
    assert len(offsets) + 10 < w.kicks < 2 * len(offsets) - 10


# What a driver does wrong: its reason, and how.
Spoil = Callable[[Driver], None]
CASES: list[tuple[str, int, FaultReason, Spoil]] = []


def case(number: int, reason: FaultReason) -> Callable[[Spoil], Spoil]:
    """A case for the driver of this number."""
    def add(spoil: Spoil) -> Spoil:
        CASES.append((spoil.__name__, number, reason, spoil))
        return spoil
    return add


def split_chain(driver: Driver, descriptors: list[tuple[int, int, int]]) -> None:
    """Descriptors {length, flags, next} from 0 on; the ring names the first."""
    assert isinstance(driver, SplitDriver)
    for number, (length, flags, next_) in enumerate(descriptors):
        driver.descriptor(driver.desc + 16 * number, (driver.allocate(max(length, 1)), length),
                          flags, next_)
    driver.entry(0)
    driver.publish()


def packed_chain(driver: Driver, descriptors: list[tuple[int, int]]) -> None:
    """Descriptors {length, flags} at the next places."""
    assert isinstance(driver, PackedDriver)
    steps = [driver.step() for _ in descriptors]
    for (length, flags), (place, own) in zip(descriptors, steps, strict=True):
        driver.descriptor(driver.desc + 16 * place, (driver.allocate(max(length, 1)), length),
                          0, own | flags)


@case(0, FaultReason.INDEX_JUMP)
def index_far_ahead(driver: Driver) -> None:
    assert isinstance(driver, SplitDriver)
    driver.index += driver.size + 1
    driver.publish()


@case(0, FaultReason.INDEX_JUMP)
def index_goes_back(driver: Driver) -> None:
    assert isinstance(driver, SplitDriver)
    driver.index = (driver.index - 1) & 0xFFFF
    driver.publish()


@case(0, FaultReason.HEAD_RANGE)
def head_outside(driver: Driver) -> None:
    assert isinstance(driver, SplitDriver)
    driver.entry(driver.size)
    driver.publish()


@case(0, FaultReason.NEXT_RANGE)
def next_outside(driver: Driver) -> None:
    split_chain(driver, [(4, NEXT, driver.size), (1, WRITE, 0)])


@case(0, FaultReason.LOOP)
def loop_of_one(driver: Driver) -> None:
    split_chain(driver, [(4, NEXT, 0)])


@case(5, FaultReason.LOOP)
def loop_of_two(driver: Driver) -> None:
    split_chain(driver, [(4, NEXT, 1), (3, NEXT, 0)])


@case(0, FaultReason.LOOP)
def longer_than_the_ring(driver: Driver) -> None:
    # Each is another one, but for the last.
    split_chain(driver, [(1, NEXT, (number + 1) % 16) for number in range(16)])


@case(5, FaultReason.LOOP)
def longer_than_is_allowed(driver: Driver) -> None:
    split_chain(driver, [(1, NEXT if number < DESCRIPTORS_MAX else WRITE, number + 1)
                         for number in range(DESCRIPTORS_MAX + 1)])


@case(0, FaultReason.ZERO_LENGTH)
def empty_buffer(driver: Driver) -> None:
    split_chain(driver, [(4, NEXT, 1), (0, NEXT, 2), (1, WRITE, 0)])


@case(0, FaultReason.ZERO_LENGTH)
def empty_answer(driver: Driver) -> None:
    split_chain(driver, [(4, NEXT, 1), (0, WRITE, 0)])


@case(0, FaultReason.DIRECTION)
def readable_behind_writable(driver: Driver) -> None:
    split_chain(driver, [(4, NEXT, 1), (1, WRITE | NEXT, 2), (4, 0, 0)])


@case(0, FaultReason.BAD_FLAGS)
def table_not_negotiated(driver: Driver) -> None:
    split_chain(driver, [(64, INDIRECT, 0)])


@case(2, FaultReason.BAD_FLAGS)
def table_with_next(driver: Driver) -> None:
    split_chain(driver, [(64, INDIRECT | NEXT, 1), (4, WRITE, 0)])


@case(2, FaultReason.BAD_LENGTH)
def table_too_short(driver: Driver) -> None:
    split_chain(driver, [(15, INDIRECT, 0)])


@case(2, FaultReason.ZERO_LENGTH)
def table_of_nothing(driver: Driver) -> None:
    split_chain(driver, [(0, INDIRECT, 0)])


def split_table(driver: Driver, entries: list[tuple[int, int, int]], told: int) -> None:
    """One descriptor that names a table of these, told to be of so many."""
    assert isinstance(driver, SplitDriver)
    at = driver.allocate_table(len(entries))
    for number, (length, flags, next_) in enumerate(entries):
        driver.descriptor(at + 16 * number, (driver.allocate(max(length, 1)), length), flags, next_)
    driver.descriptor(driver.desc, (at, 16 * told), INDIRECT, 0)
    driver.entry(0)
    driver.publish()


@case(2, FaultReason.BAD_FLAGS)
def table_in_a_table(driver: Driver) -> None:
    split_table(driver, [(4, NEXT, 1), (64, INDIRECT, 0)], 2)


@case(2, FaultReason.NEXT_RANGE)
def next_outside_the_table(driver: Driver) -> None:
    split_table(driver, [(4, NEXT, 2), (1, WRITE, 0), (1, WRITE, 0)], 2)


@case(2, FaultReason.LOOP)
def loop_in_a_table(driver: Driver) -> None:
    split_table(driver, [(4, NEXT, 1), (4, NEXT, 0)], 2)


@case(2, FaultReason.LOOP)
def loop_in_a_large_table(driver: Driver) -> None:
    split_table(driver, [(4, NEXT, 1), (4, NEXT, 0)], 0xFFF_FFFF)


@case(1, FaultReason.LOOP)
def packed_without_an_end(driver: Driver) -> None:
    packed_chain(driver, [(4, NEXT)] * 5)


@case(1, FaultReason.ZERO_LENGTH)
def packed_empty(driver: Driver) -> None:
    packed_chain(driver, [(4, NEXT), (0, WRITE)])


@case(1, FaultReason.DIRECTION)
def packed_readable_behind_writable(driver: Driver) -> None:
    packed_chain(driver, [(4, NEXT | WRITE), (4, 0)])


@case(1, FaultReason.BAD_FLAGS)
def packed_table_not_negotiated(driver: Driver) -> None:
    packed_chain(driver, [(64, INDIRECT)])


@case(3, FaultReason.BAD_FLAGS)
def packed_table_with_next(driver: Driver) -> None:
    packed_chain(driver, [(64, INDIRECT | NEXT), (4, WRITE)])


@case(3, FaultReason.BAD_FLAGS)
def packed_table_in_a_list(driver: Driver) -> None:
    packed_chain(driver, [(4, NEXT), (64, INDIRECT)])


@case(3, FaultReason.BAD_LENGTH)
def packed_table_too_short(driver: Driver) -> None:
    packed_chain(driver, [(8, INDIRECT)])


@case(3, FaultReason.LOOP)
def packed_table_too_long(driver: Driver) -> None:
    assert isinstance(driver, PackedDriver)
    at = driver.allocate_table(DESCRIPTORS_MAX)
    for number in range(DESCRIPTORS_MAX):
        driver.descriptor(at + 16 * number, (driver.allocate(1), 1), 0, 0)
    place, flags = driver.step()
    driver.descriptor(driver.desc + 16 * place, (at, 16 * DESCRIPTORS_MAX), 0, flags | INDIRECT)


@cocotb.test
async def each_fault_holds_its_queue_alone(dut: Any) -> None:
    """A hostile chain is told once with its reason; other functions go on; a reset heals."""
    w = world(dut, stalls=True, seed=11, latency=(1, 8), write_latency=(0, 8), lag=(0, 4))
    await w.begin()
    rng = random.Random(9)
    for turn, (name, number, reason, spoil) in enumerate(CASES):
        driver = w.drivers[number]
        for _ in range(2 if turn % 2 else 0):
            give(driver, rng)
        w.kick(driver)
        await w.settle()
        others = [other for other in w.drivers if other is not driver][turn % 2::2]
        spoil(driver)
        driver.faulty = True
        w.ring(driver)
        before = sum(len(other.answered) for other in others)
        await feed_all(w, others, 2, turn)
        await w.until(lambda: bool(w.faults), why=name)
        await w.settle()
        assert sum(len(other.answered) for other in others) == before + 2 * len(others)
        assert [(fault["queue"], fault["reason"]) for fault in w.faults] == [
            (FIRST_QUEUE + number, reason.value)], name
        # A table has an address of the driver's own; all others are of its memory anyhow.
        assert w.faults[0]["address"] - driver.base < 1 << 17, name
        # It is held.
        w.faults.clear()
        reads = len(w.reads)
        w.ring(driver)
        await cycles(dut, 60)
        assert len(w.reads) == reads and not w.faults, name
        await w.stop(driver, reset=True)
        driver.restart()
        w.start(driver)
        assert give(driver, rng, pairs_set(1))
        w.kick(driver)
        await w.settle()


@cocotb.test
async def failed_reads_are_faults(dut: Any) -> None:
    """Whichever read of a command fails: index, entry, descriptor, data."""
    w = world(dut, stalls=False, seed=13, latency=(1, 8), write_latency=(0, 8), lag=(0, 4))
    await w.begin()
    await w.settle()
    for number, reads in ((0, 8), (4, 7), (2, 9)):
        driver = w.drivers[number]
        for which in range(reads):
            error = 1 + which % 3
            seen = 0

            def fails(request: dict[str, int], function: int = number, which: int = which,
                      error: int = error) -> int:
                nonlocal seen
                seen += request["function"] == function
                return error if seen == which + 1 else 0

            w.read_error = fails
            asked = len(w.reads)
            driver.give(pairs_set(2), table=0 if driver.indirect else None)
            driver.faulty = True
            w.kick(driver)
            await w.until(lambda: bool(w.faults), why=f"read {which} of {number}")
            await w.settle()
            assert [(fault["queue"], fault["reason"]) for fault in w.faults] == [
                (FIRST_QUEUE + number, 8 + error)]
            assert w.faults[0]["address"] == w.reads[-1]["address"]
            # The last read is one behind the command that was answered.
            assert len(w.reads) == asked + which + 1
            assert len(driver.posted) == (which < reads - 1)
            w.faults.clear()
            await w.stop(driver, reset=True)
            w.read_error = lambda _request: 0
            driver.restart()
            w.start(driver)
            await w.settle()


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def stop_and_go(dut: Any, stalls: bool) -> None:
    """Queues are stopped and reset amid commands, while others go on."""
    w = world(dut, stalls=stalls, seed=19 + stalls, latency=(1, 15), write_latency=(0, 15))
    await w.begin()
    rng = random.Random(23 + stalls)
    going = [cocotb.start_soon(feed(w, driver, 60, 100 + driver.function))
             for driver in w.drivers[3:]]
    left = 0
    for turn in range(36):
        driver = w.drivers[turn % 3]
        for _ in range(3):
            give(driver, rng)
        w.kick(driver)
        await cycles(dut, rng.randint(0, 250))
        reset = rng.random() < 0.5
        await w.stop(driver, reset=reset)
        left += bool(driver.posted)
        if reset:  # perhaps in a ring that another device has used
            await w.stop(driver, reset=True, load=driver.move(rng))
        await cycles(dut, rng.randint(0, 20))
        w.start(driver)
    for task in going:
        await task
    await w.settle()
    assert left > 5, "never amid commands"
    assert not w.faults


@cocotb.test
async def a_command_is_not_held_up(dut: Any) -> None:
    """While a read of one function has no answer, another one is reset at once."""
    w = world(dut, stalls=False, seed=29)
    await w.begin()
    await w.settle()
    w.slow.add(1)
    w.ring(w.drivers[1])
    await cycles(dut, 60)
    assert w.reads[-1]["function"] == 1 and w.count[1] == 1
    assert await w.stop(w.drivers[0], reset=True) < 10
    w.drivers[0].restart()
    w.slow.clear()
    w.start(w.drivers[0])
    await feed_all(w, w.drivers, 3, 1)


@cocotb.test
async def kicks_for_nothing(dut: Any) -> None:
    """A kick without a command brings one look, and nothing else."""
    w = world(dut, stalls=True, seed=31)
    await w.begin()
    await w.settle()
    for driver in w.drivers:
        reads, writes = len(w.reads), w.event_writes
        w.ring(driver)
        await w.until(partial(lambda reads: len(w.reads) > reads, reads), why="a look")
        await w.settle()
        assert len(w.reads) == reads + 1 and w.event_writes == writes and not w.used


@cocotb.test
async def latency(dut: Any) -> None:
    """Cycles from a doorbell to the first read, and of a command without waits."""
    w = world(dut, stalls=False, seed=37, latency=(1, 1), write_latency=(0, 0), lag=(0, 0))
    await w.begin()
    await w.settle()
    for number, first, whole in ((0, 8, 38), (1, 10, 34)):
        driver = w.drivers[number]
        driver.give(pairs_set(1), readable=1)
        w.times.clear()
        w.ring(driver)
        await w.settle()
        (began,) = w.times["doorbell"]
        got = w.times["read"][0] - began, w.times["used"][0] - began
        assert got == (first, whole), (number, got)
