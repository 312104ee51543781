"""Random commands for the benches of `ControlQueue`, in any shape."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb

from tb.stream import cycles
from tests.unit.control_drivers import (
    DESCRIPTORS_MAX,
    KEPT,
    Driver,
    PackedDriver,
    SplitDriver,
)
from tests.unit.control_world import World

__all__ = ["FIRST_POSITION", "FIRST_QUEUE", "feed", "feed_all", "give", "pairs_set", "world"]

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
