"""Drivers' queues for a `Prefetch`: rings and tables, what a card is to find there, kicks.

Written from the standard (virtio 1.4, "Split Virtqueues" and "Packed Virtqueues"). Nothing here
knows of a simulator.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

__all__ = [
    "AVAIL",
    "INDIRECT",
    "LONGEST",
    "NEXT",
    "PAGE",
    "USED",
    "WRITE",
    "Chain",
    "Memory",
    "PackedQueue",
    "Queue",
    "SplitQueue",
    "make_queue",
    "torn",
]

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
NO_NOTIFY = 1
ENABLE, DISABLE, AT_DESCRIPTOR = 0, 1, 2
DESCRIPTOR = 16
LONGEST = (1 << 17) - 1
"""Bytes saturate there."""
PAGE = 0x1_0000
"""A queue's rings lie in one, its tables in another."""
QUEUES = 8


class Memory:
    """The host's memory: 2 * QUEUES pages, seen again at every multiple of them."""

    def __init__(self) -> None:
        self._bytes = bytearray(2 * QUEUES * PAGE)

    def _at(self, address: int, length: int) -> slice:
        start = address % len(self._bytes)
        assert start + length <= len(self._bytes), f"{length} bytes at {address:#x}"
        return slice(start, start + length)

    def read(self, address: int, length: int) -> bytes:
        return bytes(self._bytes[self._at(address, length)])

    def write(self, address: int, content: bytes) -> None:
        self._bytes[self._at(address, len(content))] = content

    def number(self, address: int, length: int) -> int:
        """Read a little-endian number."""
        return int.from_bytes(self.read(address, length), "little")


def torn(address: int, early: bytes, late: bytes, rng: random.Random) -> bytes:
    """Mix what a read found at two moments: no more than aligned 16 bytes are of one."""
    result = b""
    while len(result) < len(early):
        at = len(result)
        end = at + DESCRIPTOR - (address + at) % DESCRIPTOR
        result += (early, late)[rng.getrandbits(1)][at:end]
    return result


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


def make_queue(number: int, size: int, page: int, memory: Memory, *, modes: Collection[str] = (),
               first_position: int = 0, table_max: int = 0) -> SplitQueue | PackedQueue:
    """Make a queue of the kind that its modes say, with its rings in this page.

    Only split rings begin at ``first_position``.
    """
    assert 0 < page < QUEUES
    kind = PackedQueue if "packed" in modes else SplitQueue
    return kind(number, size, PAGE * page, memory, modes=modes, first_position=first_position,
                table_max=table_max)
