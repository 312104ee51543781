"""A driver's queue for a `Prefetch`, of either kind: chains, tables, kicks."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from tests.unit.prefetch_memory import DESCRIPTOR, PAGE, QUEUES, Memory

__all__ = ["AT_DESCRIPTOR", "AVAIL", "DISABLE", "ENABLE", "INDIRECT", "LONGEST",
           "NEXT", "NO_NOTIFY", "USED", "WRITE", "Chain", "Queue"]

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
NO_NOTIFY = 1
ENABLE, DISABLE, AT_DESCRIPTOR = 0, 1, 2
LONGEST = (1 << 17) - 1
"""Bytes saturate there."""


@dataclass
class Chain:
    """A chain as the driver made it."""

    id: int
    """What its used entry names."""
    slots: int
    """Places that it takes in the ring."""
    buffers: list[tuple[int, int]]
    numbers: list[int] = field(default_factory=list)
    """Split: descriptors of the queue's table that it holds."""
    table: int | None = None
    """Address of its indirect table."""

    @property
    def bytes(self) -> int:
        return sum(length for _address, length in self.buffers)

    @property
    def told(self) -> int:
        """Bytes as the card counts them."""
        return min(self.bytes, LONGEST)


class _Tables:
    """Room for the indirect tables of a queue: anywhere in a page, aligned to 16 bytes."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.live: dict[int, int] = {}  # bytes by address
        self._used: set[int] = set()    # each 16 bytes of those

    @staticmethod
    def _parts(address: int, length: int) -> range:
        return range(address // DESCRIPTOR, -(-(address + length) // DESCRIPTOR))

    def allocate(self, length: int, rng: random.Random) -> int:
        """Find a free place; often one across 4 KiB."""
        for _ in range(1000):
            address = self.base + DESCRIPTOR * rng.randrange((PAGE - length) // DESCRIPTOR)
            if rng.random() < 0.3 and length > DESCRIPTOR:
                address = self.base + 0x1000 * rng.randrange(1, PAGE // 0x1000 - 1)
                address -= DESCRIPTOR * rng.randrange(1, -(-length // DESCRIPTOR))
            parts = self._parts(address, length)
            if self._used.isdisjoint(parts):
                self._used.update(parts)
                self.live[address] = length
                return address
        raise MemoryError(f"no room for a table of {length} bytes")

    def free(self, address: int) -> None:
        self._used.difference_update(self._parts(address, self.live.pop(address)))

    def clear(self) -> None:
        self.live.clear()
        self._used.clear()

    def hold(self, address: int, length: int) -> bool:
        """Whether these bytes lie in one table that is in use."""
        return self.live.get(address, 0) >= length or any(
            at <= address and address + length <= at + size for at, size in self.live.items())


class Queue(ABC):
    """A virtqueue and its driver. ``modes``: "event_idx", "data", "indirect" (and "packed").

    ``index`` is where the next chain goes. Receive queues are the even ones.
    """

    packed = False

    def __init__(self, number: int, size: int, base: int, memory: Memory, *,
                 modes: Collection[str] = (), first_position: int = 0, table_max: int = 0) -> None:
        self.number = number
        self.size = size
        self.base = base
        self.memory = memory
        self.first_position = first_position
        self.event_idx = "event_idx" in modes
        self.notification_data = "data" in modes
        self.indirect = "indirect" in modes
        self.table_max = min(size, table_max or size)  # entries of an indirect table
        self.right = WRITE if number % 2 == 0 else 0
        self.tables = _Tables((base + QUEUES * PAGE) | 0x0C3C_3C00_0000_0000)
        self.posted: deque[Chain] = deque()  # not yet taken, in ring order
        self.taken: list[Chain] = []         # not yet returned
        self.index = 0
        self.decided = 0  # the index at the last decision about a kick
        self.running = True
        self.kicks = 0
        self.restart()

    @property
    def modes(self) -> dict[str, bool]:
        """The fields of `RingModesLayout`."""
        return {"event_idx": self.event_idx, "notification_data": self.notification_data,
                "ring_packed": self.packed, "indirect_desc": self.indirect}

    @property
    @abstractmethod
    def desc(self) -> int: ...

    @property
    @abstractmethod
    def driver(self) -> int: ...

    @property
    @abstractmethod
    def device(self) -> int: ...

    def restart(self) -> None:
        """Begin again with empty rings."""
        self.posted.clear()
        self.taken.clear()
        self.tables.clear()
        self._restart()
        self.decided = self.index

    @abstractmethod
    def _restart(self) -> None: ...

    @abstractmethod
    def move(self, rng: random.Random) -> int:
        """Begin again anywhere, as after another device, which has left that it wants no kicks.

        Gives the position as the card has it inside.
        """

    @abstractmethod
    def add(self, lengths: list[int], rng: random.Random, *, table: bool = False) -> Chain:
        """Make a chain of buffers of these lengths, with or without an indirect table.

        It is not available before `publish`.
        """

    @property
    @abstractmethod
    def room(self) -> int:
        """Free descriptors."""

    @abstractmethod
    def needs(self, count: int, *, table: bool = False) -> int:
        """Descriptors that a chain of ``count`` buffers takes at most."""

    @abstractmethod
    def publish(self) -> None:
        """Make all chains available."""

    @property
    @abstractmethod
    def suppression(self) -> tuple[int, int]:
        """Address and bytes of what the card writes about kicks."""

    @property
    @abstractmethod
    def silent(self) -> bool:
        """The card wants no kick for the next chain."""

    @abstractmethod
    def wants_kick(self) -> bool:
        """Decide about a kick for what was published since the last decision."""

    @abstractmethod
    def told(self, ahead: int = 0) -> int:
        """Give the position that a doorbell tells: of the next chain, or one so far ahead."""

    @abstractmethod
    def lie(self, rng: random.Random) -> int:
        """Give a position that is not ahead, or cannot be true."""

    @abstractmethod
    def holds(self, address: int, length: int) -> bool:
        """Whether these bytes are of one of the rings, and the card's to read."""

    def may_read(self, address: int, length: int) -> bool:
        """Whether the card may read these bytes now."""
        return self.holds(address, length) or self.tables.hold(address, length)

    def give_back(self, chain: Chain) -> None:
        """Take a chain back: its used entry has come."""
        self.taken.remove(chain)
        if chain.table is not None:
            self.tables.free(chain.table)
        self._give_back(chain)

    @abstractmethod
    def _give_back(self, chain: Chain) -> None: ...

    def _put(self, address: int, value: int, length: int) -> None:
        self.memory.write(address, value.to_bytes(length, "little"))
