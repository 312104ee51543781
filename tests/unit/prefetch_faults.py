"""What a driver can do wrong with its rings and tables, and what a card is to say of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from hw.virtio.types import FaultReason
from tests.unit.prefetch_memory import DESCRIPTOR
from tests.unit.prefetch_packed_queue import PackedQueue
from tests.unit.prefetch_queue import INDIRECT, NEXT, WRITE
from tests.unit.prefetch_split_queue import SplitQueue

__all__ = ["Fault", "fault_cases"]

_AT = 0x1234_5678_9ABC


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of the driver's making."""

    reason: FaultReason
    spoil: Callable[[random.Random], None]
    """Do it; what was added is not published."""
    known: bool = False
    """It is about chains that the card knows, and that were not taken yet."""
    alone: bool = False
    """Nothing may be in the ring."""
    last: bool = False
    """Nothing can come behind it."""


# Split rings.

def _bad_chain(queue: SplitQueue, **fields: int) -> None:
    """Add a chain of one descriptor with something wrong in it."""
    number = queue.free.pop()
    queue.descriptor(number, **{"address": _AT, "length": 100, "flags": queue.right, "next_": 0,
                                **fields})
    queue.entry(number)


def _two(queue: SplitQueue, next_: Callable[[int], int]) -> None:
    """Add a chain whose first descriptor names another one as ``next_`` says."""
    first = queue.free.pop()
    queue.descriptor(first, _AT, 100, NEXT | queue.right, next_(first))
    queue.entry(first)


def _circle(queue: SplitQueue, count: int) -> None:
    """Add a chain that comes back to its first descriptor after ``count``."""
    numbers = [queue.free.pop() for _ in range(count)]
    for place, number in enumerate(numbers):
        queue.descriptor(number, _AT, 1, NEXT | queue.right, numbers[(place + 1) % count])
    queue.entry(numbers[0])


def _inside(queue: SplitQueue) -> None:
    """Add a chain of neighbours with an empty buffer in the middle of a walk's answer."""
    queue.free.sort()
    place = next(k for k in range(len(queue.free)) if queue.free[k + 4] == queue.free[k] + 4)
    numbers = [queue.free.pop(place) for _ in range(5)]
    for step, number in enumerate(numbers):
        queue.descriptor(number, _AT, 0 if step == 2 else 100,
                         (NEXT if step < 4 else 0) | queue.right, number + 1)
    queue.entry(numbers[0])


def _advance(queue: SplitQueue, count: int) -> None:
    queue.index = (queue.index + count) & 0xFFFF


def _split_faults(q: SplitQueue) -> dict[str, Fault]:
    right = q.right

    def bad(reason: FaultReason, **fields: int) -> Fault:
        return Fault(reason=reason, spoil=lambda _rng: _bad_chain(q, **fields))

    def next_is(reason: FaultReason, next_: Callable[[int], int]) -> Fault:
        return Fault(reason=reason, spoil=lambda _rng: _two(q, next_))

    def head(number: int) -> Fault:
        return Fault(reason=FaultReason.HEAD_RANGE, spoil=lambda _rng: q.entry(number))

    def index(count: int) -> Fault:
        return Fault(reason=FaultReason.INDEX_JUMP, spoil=lambda _rng: _advance(q, count),
                     known=True, last=True)

    return {
        "index_jump": index(q.size + 1),
        "index_back": index(-1),
        "head": head(q.size),
        "head_far": head(0xFFFF),
        "next": next_is(FaultReason.NEXT_RANGE, lambda _: q.size),
        "next_far": next_is(FaultReason.NEXT_RANGE, lambda _: 0x8000),
        "loop_one": next_is(FaultReason.LOOP, lambda first: first),
        "loop": Fault(reason=FaultReason.LOOP, spoil=lambda _rng: _circle(q, 7)),
        "shared": Fault(reason=FaultReason.LOOP, known=True,
                        spoil=lambda _rng: _two(q, lambda _: q.posted[-1].numbers[-1])),
        "zero": bad(FaultReason.ZERO_LENGTH, length=0),
        "inside": Fault(reason=FaultReason.ZERO_LENGTH, spoil=lambda _rng: _inside(q)),
        "direction": bad(FaultReason.DIRECTION, flags=right ^ WRITE),
        "unknown": bad(FaultReason.BAD_FLAGS, flags=right | 1 << 15),
    }


# Packed rings: chains are lists of (address, length, flags), each a place in the ring.

def _slots(queue: PackedQueue, descriptors: list[tuple[int, int, int]],
           rng: random.Random) -> None:
    queue.slots(descriptors, rng.getrandbits(16), rng)


def _linked(queue: PackedQueue, count: int, spoilt: Mapping[str, int], *,
            ends: bool = True) -> list[tuple[int, int, int]]:
    """Make a chain whose buffer in the middle has something wrong in it."""
    descriptors = []
    for place in range(count):
        length, flags = 100, queue.right
        if place == count // 2:
            length, flags = spoilt.get("length", length), spoilt.get("flags", flags)
        more = place < count - 1 or not ends
        descriptors.append((_AT + place, length, flags | (NEXT if more else 0)))
    return descriptors


def _packed_faults(q: PackedQueue) -> dict[str, Fault]:
    right = q.right

    def chain(reason: FaultReason, count: int, **spoilt: int) -> Fault:
        return Fault(reason=reason,
                     spoil=lambda rng: _slots(q, _linked(q, count, spoilt), rng))

    return {
        "loop": Fault(reason=FaultReason.LOOP, alone=True, last=True,
                      spoil=lambda rng: _slots(q, _linked(q, q.size, {}, ends=False), rng)),
        "zero": chain(FaultReason.ZERO_LENGTH, 1, length=0),
        "inside": chain(FaultReason.ZERO_LENGTH, 6, length=0),
        "direction": chain(FaultReason.DIRECTION, 1, flags=right ^ WRITE),
        "direction_inside": chain(FaultReason.DIRECTION, 3, flags=right ^ WRITE),
    }


# Indirect tables, and what names them: as the ring has it.

def _table(queue: SplitQueue | PackedQueue, count: int, rng: random.Random,
           **spoilt: int) -> int:
    """Make a table that is right but for one entry, or quite so: the last one before it ends.

    ``at``: which entry; ``length``, ``flags``, ``next_``: what is wrong there.
    """
    if isinstance(queue, PackedQueue):
        buffers = [(_AT, spoilt.get("length", 100) if place == spoilt.get("at", 0) else 100)
                   for place in range(count)]
        table = queue.table(buffers, rng)
        if "flags" in spoilt:
            at = table + DESCRIPTOR * spoilt["at"] + 14
            queue.memory.write(at, spoilt["flags"].to_bytes(2, "little"))
        return table
    table = queue.tables.allocate(DESCRIPTOR * count, rng)
    for place in range(count):
        fields = {"address": _AT, "length": 100, "next_": place + 1,
                  "flags": queue.right | (NEXT if place < count - 1 else 0)}
        if place == spoilt.get("at"):
            fields |= {name: value for name, value in spoilt.items() if name != "at"}
        queue.descriptor(place, **fields, table=table)
    return table


def _name(queue: SplitQueue | PackedQueue, table: int, length: int, rng: random.Random, *,
          flags: int = INDIRECT, behind: bool = False) -> None:
    """Add a chain of a descriptor that names the table; maybe ``behind`` a buffer's."""
    if isinstance(queue, PackedQueue):
        first = [(_AT, 100, queue.right | NEXT)] if behind else []
        _slots(queue, [*first, (table, length, flags)], rng)
        return
    number = queue.free.pop()
    queue.descriptor(number, table, length, flags, queue.free[0])
    if behind:
        second = number
        number = queue.free.pop()
        queue.descriptor(number, _AT, 100, queue.right | NEXT, second)
    queue.entry(number)


def _table_faults(q: SplitQueue | PackedQueue) -> dict[str, Fault]:
    right = q.right
    split = isinstance(q, SplitQueue)

    def table(reason: FaultReason, count: int = 5, *, behind: bool = False,
              **spoilt: int) -> Fault:
        def spoil(rng: random.Random) -> None:
            _name(q, _table(q, count, rng, **spoilt), DESCRIPTOR * count, rng, behind=behind)
        return Fault(reason=reason, spoil=spoil)

    def length(length: int) -> Fault:
        def spoil(rng: random.Random) -> None:
            _name(q, q.tables.allocate(length, rng) if 0 < length < 1 << 15 else _AT << 4, length,
                  rng)
        return Fault(reason=FaultReason.BAD_LENGTH, spoil=spoil)

    def flags(flags: int) -> Fault:
        def spoil(rng: random.Random) -> None:
            _name(q, _table(q, 2, rng), 2 * DESCRIPTOR, rng, flags=flags)
            if flags & NEXT and isinstance(q, PackedQueue):
                # The chain that it begins is complete.
                _slots(q, [(_AT, 100, right)], rng)
        return Fault(reason=FaultReason.BAD_FLAGS, spoil=spoil)

    cases = {
        "table_empty": length(0),
        "table_ragged": length(3 * DESCRIPTOR + 8),
        "table_tiny": length(DESCRIPTOR - 1),
        "table_long": length((q.table_max + 1) * DESCRIPTOR),
        "table_huge": length(0xFFFF_FFF0),
        "table_zero": table(FaultReason.ZERO_LENGTH, at=3, length=0),
        "table_zero_first": table(FaultReason.ZERO_LENGTH, at=0, length=0),
        "table_direction": table(FaultReason.DIRECTION, at=4, flags=right ^ WRITE),
        "table_and_next": flags(INDIRECT | NEXT),
    }
    if split:
        cases |= {
            "table_next": table(FaultReason.NEXT_RANGE, at=2, next_=5),
            "table_next_far": table(FaultReason.NEXT_RANGE, at=0, next_=0xFFFF),
            "table_loop": table(FaultReason.LOOP, at=4, flags=right | NEXT, next_=1),
            "table_loop_one": table(FaultReason.LOOP, 1, at=0, flags=right | NEXT, next_=0),
            "table_in_table": table(FaultReason.BAD_FLAGS, at=3, flags=INDIRECT | right),
            "table_in_table_first": table(FaultReason.BAD_FLAGS, at=0, flags=INDIRECT),
            "table_behind": table(FaultReason.DIRECTION, behind=True, at=1, flags=right ^ WRITE),
        }
    else:
        # A list of descriptors holds none that names a table.
        cases["table_behind"] = table(FaultReason.BAD_FLAGS, behind=True)
    return cases


def fault_cases(q: SplitQueue | PackedQueue, *, max_bytes: int) -> dict[str, Fault]:
    """All that can be wrong in a queue of these modes, by name."""
    cases = _split_faults(q) if isinstance(q, SplitQueue) else _packed_faults(q)
    if q.indirect:
        cases |= _table_faults(q)
    else:
        cases["indirect"] = Fault(
            reason=FaultReason.BAD_FLAGS,
            spoil=lambda rng: _name(q, _AT << 4, 100, rng, flags=INDIRECT | q.right))
    if not q.right:  # only what is sent has a length that can be wrong
        def sent(buffer: int, rng: random.Random) -> None:
            if isinstance(q, PackedQueue):
                _slots(q, [(_AT, buffer, 0)], rng)
            else:
                _bad_chain(q, length=buffer)

        def sent_by_table(buffer: int, rng: random.Random) -> None:
            _name(q, _table(q, 1, rng, at=0, length=buffer), DESCRIPTOR, rng)

        for name, length in (("short", 12), ("long", max_bytes + 1), ("huge", 0x8000_0020)):
            cases[name] = Fault(reason=FaultReason.BAD_LENGTH, spoil=partial(sent, length))
            if q.indirect:
                cases[f"table_{name}_chain"] = Fault(reason=FaultReason.BAD_LENGTH,
                                                     spoil=partial(sent_by_table, length))
    return cases
