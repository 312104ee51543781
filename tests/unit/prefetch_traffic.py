"""Rings of all kinds for the benches of `Prefetch`, and random chains in them."""

from __future__ import annotations

import os
import random
from functools import partial
from typing import Any

import cocotb

from tb.stream import cycles
from tests.unit.prefetch_packed_queue import PackedQueue
from tests.unit.prefetch_split_queue import SplitQueue
from tests.unit.prefetch_world import World

__all__ = ["KINDS", "MAX_BYTES", "MODES", "RACES", "RINGS", "SIZE_MAX", "TABLE_MAX", "TRANSMIT",
           "Queue", "by_table", "feed", "lengths", "number", "sizes", "world"]

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
