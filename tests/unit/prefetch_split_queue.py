"""A split virtqueue and its driver: a table of descriptors, and two rings."""

from __future__ import annotations

import random

from tests.unit.prefetch_memory import DESCRIPTOR
from tests.unit.prefetch_queue import INDIRECT, NEXT, NO_NOTIFY, WRITE, Chain, Queue

__all__ = ["SplitQueue"]



class SplitQueue(Queue):
    """A split virtqueue: a table of descriptors, and two rings."""

    free: list[int]

    @property
    def desc(self) -> int:
        return self.base

    @property
    def driver(self) -> int:
        return self.base + 16 * self.size + 2  # as ill aligned as the standard allows

    @property
    def device(self) -> int:
        return self.base + 20 * self.size + 64

    @property
    def avail_event(self) -> int:
        return self.device + 4 + 8 * self.size

    @property
    def suppression(self) -> tuple[int, int]:
        return self.avail_event if self.event_idx else self.device, 2

    @property
    def room(self) -> int:
        return len(self.free)

    def _restart(self) -> None:
        self.free = list(range(self.size))
        self.index = self.first_position
        self.memory.write(self.base, bytes(self.avail_event + 2 - self.base))
        self.publish()

    def move(self, rng: random.Random) -> int:
        self.first_position = rng.choice([0, 0xFFFF, rng.getrandbits(16)])
        self.restart()
        if self.event_idx:
            self._put(self.avail_event, self.index - rng.randint(1, 100) & 0xFFFF, 2)
        else:
            self._put(self.device, NO_NOTIFY, 2)
        return self.index

    def holds(self, address: int, length: int) -> bool:
        end = address + length
        return (self.desc <= address and end <= self.desc + 16 * self.size) or (
            self.driver + 2 <= address and end <= self.driver + 4 + 2 * self.size)

    def descriptor(self, number: int, address: int, length: int, flags: int, next_: int,
                   *, table: int | None = None) -> None:
        """Write a descriptor of the queue's table, or of an indirect one."""
        self._put((self.desc if table is None else table) + DESCRIPTOR * number,
                  address | length << 64 | flags << 96 | next_ << 112, DESCRIPTOR)

    def entry(self, head: int) -> None:
        """Put a head into the ring; it is not available before `publish`."""
        self._put(self.driver + 4 + 2 * (self.index % self.size), head, 2)
        self.index = (self.index + 1) & 0xFFFF

    def publish(self) -> None:
        self._put(self.driver + 2, self.index, 2)

    @property
    def silent(self) -> bool:
        flags = self.memory.number(self.device, 2)
        if self.event_idx:
            assert flags == 0
            return self.memory.number(self.avail_event, 2) != self.index
        assert flags in (0, NO_NOTIFY)
        return flags == NO_NOTIFY

    def wants_kick(self) -> bool:
        entries = range(self.decided, self.decided + ((self.index - self.decided) & 0xFFFF))
        self.decided = self.index
        if self.event_idx:
            event = self.memory.number(self.avail_event, 2)
            return any(entry & 0xFFFF == event for entry in entries)
        return not self.silent

    def told(self, ahead: int = 0) -> int:
        return (self.index + ahead) & 0xFFFF

    def lie(self, rng: random.Random) -> int:
        # A driver that tells more than it has made available harms itself alone.
        return self.told(rng.choice([0, self.size + 1, 0x4000, 0x8000, 0xC000]))

    def needs(self, count: int, *, table: bool = False) -> int:
        return min(count, 3) if table else count

    def add(self, lengths: list[int], rng: random.Random, *, table: bool = False,
            numbers: list[int] | None = None, pick: int = -1) -> Chain:
        """Make a chain of free descriptors.

        ``pick``: -1 takes the last that was freed, 0 the first. With ``table`` up to two buffers
        have descriptors in front of the one that names the table.
        """
        direct = min(rng.choice([0, 0, 1, 2]), len(lengths) - 1) if table else len(lengths)
        if numbers is None:
            numbers = [self.free.pop(pick) for _ in range(direct + table)]
        buffers = [(rng.getrandbits(64), length) for length in lengths]
        address = self._table(buffers[direct:], rng) if table else None
        for place, number in enumerate(numbers):
            last = place == len(numbers) - 1
            next_ = rng.randrange(1 << 16) if last else numbers[place + 1]
            if place < direct:
                self.descriptor(number, *buffers[place], self.right | (0 if last else NEXT), next_)
            else:
                assert address is not None
                # WRITE means nothing here.
                self.descriptor(number, address, self.tables.live[address],
                                INDIRECT | rng.choice([0, WRITE]), next_)
        chain = Chain(numbers[0], 1, buffers, numbers, address)
        self.posted.append(chain)
        self.entry(chain.id)
        return chain

    def _table(self, buffers: list[tuple[int, int]], rng: random.Random) -> int:
        """Write an indirect table: from entry 0 on in sequence or anyhow, and what is unused."""
        entries = min(len(buffers) + rng.choice([0, 0, 1, 5]), self.table_max)
        assert len(buffers) <= entries
        address = self.tables.allocate(DESCRIPTOR * entries, rng)
        order = list(range(1, entries))
        if rng.random() < 0.5:
            rng.shuffle(order)
        order = [0, *order]
        for place, entry in enumerate(order):
            if place >= len(buffers):
                self.descriptor(entry, rng.getrandbits(64), rng.getrandbits(32),
                                rng.getrandbits(16), rng.getrandbits(16), table=address)
                continue
            last = place == len(buffers) - 1
            self.descriptor(entry, *buffers[place], self.right | (0 if last else NEXT),
                            rng.getrandbits(16) if last else order[place + 1], table=address)
        return address

    def _give_back(self, chain: Chain) -> None:
        self.free += reversed(chain.numbers)
