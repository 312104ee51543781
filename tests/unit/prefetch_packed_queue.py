"""A packed virtqueue and its driver: one ring of descriptors."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from tests.unit.prefetch_memory import DESCRIPTOR
from tests.unit.prefetch_queue import (
    AT_DESCRIPTOR,
    AVAIL,
    DISABLE,
    ENABLE,
    INDIRECT,
    NEXT,
    USED,
    WRITE,
    Chain,
    Queue,
)

__all__ = ["PackedQueue"]



@dataclass
class _Hidden:
    """A chain of a packed ring that is not available yet: what is still to be written."""

    tails: list[tuple[int, bytes]]
    head: list[tuple[int, bytes]]  # the flags last


class PackedQueue(Queue):
    """A packed virtqueue: one ring, and two structures for event suppression.

    ``index`` counts descriptors and never wraps. The world plays the card's part of the ring too:
    what is given back is marked used here.
    """

    packed = True
    hidden: deque[_Hidden]
    used: int
    begin_at = 0

    @property
    def _origin(self) -> int:
        # All 64 bits of an address count, and it is aligned to 16 bytes and to no more.
        return (self.base + DESCRIPTOR * (2 * self.number + 1)) | 0x5A5A_0000_0000_0000

    @property
    def desc(self) -> int:
        return self._origin

    @property
    def driver(self) -> int:
        return self._origin + 16 * self.size + 4

    @property
    def device(self) -> int:
        return self._origin + 16 * self.size + 64 + 4 * (self.number % 4)

    @property
    def suppression(self) -> tuple[int, int]:
        return self.device, 4

    @property
    def room(self) -> int:
        return self.size - (self.index - self.used)

    def move(self, rng: random.Random) -> int:
        self.begin_at = rng.randrange(2 * self.size)
        self.restart()
        place = self.begin_at % self.size
        for slot in range(self.size):
            used = self._wrap(self.begin_at) ^ (slot >= place)
            self._put(self._slot(slot) + 14, (AVAIL | USED) * used, 2)
        self._put(self.device, self.told() | DISABLE << 16, 4)
        return place | (self.begin_at >= self.size) << 15

    def _restart(self) -> None:
        self.index = self.begin_at
        self.used = self.begin_at
        self.hidden = deque()
        self.memory.write(self.desc, bytes(16 * self.size + 128))

    def holds(self, address: int, length: int) -> bool:
        return self.desc <= address and address + length <= self.desc + 16 * self.size

    def _wrap(self, position: int) -> int:
        """Give the wrap counter there: it starts at 1."""
        return 1 - position // self.size % 2

    def _slot(self, position: int) -> int:
        return self.desc + DESCRIPTOR * (position % self.size)

    def available(self, position: int) -> int:
        """Give the flags that make the descriptor there available."""
        return AVAIL if self._wrap(position) else USED

    def add(self, lengths: list[int], rng: random.Random, *, table: bool = False) -> Chain:
        buffers = [(rng.getrandbits(64), length) for length in lengths]
        taken = {chain.id for chain in (*self.posted, *self.taken)}
        number = rng.choice([rng.getrandbits(16), rng.randrange(self.size)])
        while number in taken:
            number = rng.getrandbits(16)
        chain = Chain(number, 1 if table else len(buffers), buffers)
        if table:
            chain.table = self.table(buffers, rng)
            # WRITE means nothing here.
            self.slots([(chain.table, self.tables.live[chain.table],
                         INDIRECT | rng.choice([0, WRITE]))], number, rng)
        else:
            self.slots([(address, length, self.right | (NEXT if place < len(buffers) - 1 else 0))
                        for place, (address, length) in enumerate(buffers)], number, rng)
        self.posted.append(chain)
        return chain

    def table(self, buffers: list[tuple[int, int]], rng: random.Random) -> int:
        """Write an indirect table; of ids and flags only WRITE means anything."""
        assert len(buffers) <= self.table_max
        address = self.tables.allocate(DESCRIPTOR * len(buffers), rng)
        for place, buffer in enumerate(buffers):
            self.memory.write(address + DESCRIPTOR * place, self._descriptor(
                *buffer, rng.getrandbits(16), rng.getrandbits(16) & ~WRITE | self.right))
        return address

    @staticmethod
    def _descriptor(address: int, length: int, id_: int, flags: int) -> bytes:
        return (address | length << 64 | id_ << 96 | flags << 112).to_bytes(DESCRIPTOR, "little")

    def slots(self, descriptors: list[tuple[int, int, int]], id_: int,
              rng: random.Random) -> None:
        """Put a chain of (address, length, flags) into the ring, with the id in its last one.

        Some of it is written at once; the head's flags are not before `publish` or `reveal`.
        """
        assert len(descriptors) <= self.room, "the ring is full"
        hidden = _Hidden([], [])
        early = rng.choice([True, False])
        for place, (address, length, flags) in enumerate(descriptors):
            last = place == len(descriptors) - 1
            slot = self._slot(self.index)
            content = self._descriptor(address, length, id_ if last else rng.getrandbits(16),
                                       flags | self.available(self.index))
            if place == 0:
                hidden.head = [(slot, content[:14]), (slot + 14, content[14:])]
            else:
                hidden.tails.append((slot, content))
            self.index += 1
        if early:
            for address, content in (*hidden.tails, hidden.head.pop(0)):
                self.memory.write(address, content)
            hidden.tails.clear()
        self.hidden.append(hidden)

    def reveal(self, which: int = 0) -> None:
        """Make one chain available, of those that are not: the others follow."""
        hidden = self.hidden[which]
        del self.hidden[which]
        for address, content in (*hidden.tails, *hidden.head):
            self.memory.write(address, content)

    def publish(self) -> None:
        while self.hidden:
            self.reveal()

    def _event(self) -> tuple[int, int, int]:
        """Read the card's event suppression: flags, offset, wrap counter."""
        word = self.memory.number(self.device, 4)
        flags, offset, wrap = word >> 16, word & 0x7FFF, word >> 15 & 1
        assert flags in ((ENABLE, DISABLE, AT_DESCRIPTOR) if self.event_idx
                         else (ENABLE, DISABLE)), f"event suppression {word:#x}"
        assert flags != AT_DESCRIPTOR or offset < self.size, f"event suppression {word:#x}"
        return flags, offset, wrap

    def _kicks_at(self, positions: range) -> bool:
        """Whether a chain that takes these places, or some that do, want a kick."""
        flags, offset, wrap = self._event()
        if flags == AT_DESCRIPTOR:
            return any((position % self.size, self._wrap(position)) == (offset, wrap)
                       for position in positions)
        return flags == ENABLE

    @property
    def silent(self) -> bool:
        return not self._kicks_at(range(self.index, self.index + 1))

    def wants_kick(self) -> bool:
        positions = range(self.decided, self.index)
        self.decided = self.index
        return self._kicks_at(positions)

    def told(self, ahead: int = 0) -> int:
        position = self.index + ahead
        return position % self.size | self._wrap(position) << 15

    def lie(self, rng: random.Random) -> int:
        return rng.choice([self.told(), self.size, rng.randint(self.size, 0x7FFF), 0x7FFF,
                           0x8000 | rng.randint(self.size, 0x7FFF)])

    def needs(self, count: int, *, table: bool = False) -> int:
        return 1 if table else count

    def _give_back(self, chain: Chain) -> None:
        flags = AVAIL | USED if self._wrap(self.used) else 0
        self.memory.write(self._slot(self.used), self._descriptor(
            0xDEAD_0000_0000_BEEF, chain.told, chain.id, flags | self.right))
        self.used += chain.slots
