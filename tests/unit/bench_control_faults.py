"""ControlQueue: hostile chains and failed reads hold their queue alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import cocotb

from hw.virtio.types import FaultReason
from tb.stream import cycles
from tests.unit.control_commands import FIRST_QUEUE, feed_all, give, pairs_set, world
from tests.unit.control_drivers import (
    DESCRIPTORS_MAX,
    INDIRECT,
    NEXT,
    WRITE,
    Driver,
    PackedDriver,
    SplitDriver,
)

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
