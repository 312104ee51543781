"""A plain consumer of virtqueues, written from the standard, beside the benches' queues."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hw.virtio.types import FaultReason
from tests.unit.prefetch_packed_queue import PackedQueue
from tests.unit.prefetch_queue import Chain
from tests.unit.prefetch_split_queue import SplitQueue

__all__ = ["MAX_BYTES", "Found", "Taken", "UsedRing", "consumer"]

MAX_BYTES = 9100


class Found(Exception):
    """A fault that the consumer found."""

    def __init__(self, reason: FaultReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@dataclass
class Taken:
    """A chain as the consumer found it."""

    id: int
    slots: int
    buffers: list[tuple[int, int]]


class _Consumer:
    """What the two kinds share: which buffers are right."""

    def __init__(self, queue: SplitQueue | PackedQueue) -> None:
        self.memory = queue.memory
        self.ring = queue.desc
        self.size = queue.size
        self.may_read = queue.may_read
        self.receives = queue.number % 2 == 0
        self.tables = queue.indirect

    def get(self, form: str, address: int) -> tuple[int, ...]:
        length = struct.calcsize(form)
        assert self.may_read(address, length), hex(address)
        return struct.unpack(form, self.memory.read(address, length))

    def buffer(self, address: int, length: int, flags: int) -> tuple[int, int]:
        if not length:
            raise Found(FaultReason.ZERO_LENGTH)
        if bool(flags & 0b10) != self.receives:
            raise Found(FaultReason.DIRECTION)
        return address, length

    def table(self, length: int) -> int:
        """Give the entries of a table."""
        if length % 16 or not 0 < length <= 16 * self.size:
            raise Found(FaultReason.BAD_LENGTH)
        return length // 16

    def whole(self, buffers: list[tuple[int, int]]) -> list[tuple[int, int]]:
        total = sum(length for _address, length in buffers)
        if not self.receives and not 12 < total <= MAX_BYTES:
            raise Found(FaultReason.BAD_LENGTH)
        return buffers


class SplitConsumer(_Consumer):
    """Reads a split virtqueue: `struct virtq_avail`, `struct virtq_desc`."""

    def __init__(self, queue: SplitQueue) -> None:
        super().__init__(queue)
        self.available = queue.driver
        self.next = queue.first_position
        self.seen = self.next
        self.holding: dict[int, list[int]] = {}

    def look(self) -> None:
        index, = self.get("<H", self.available + 2)
        open_ = (self.seen - self.next) % 65536 + len(self.holding)
        if (index - self.seen) % 65536 > self.size - open_:
            raise Found(FaultReason.INDEX_JUMP)
        self.seen = index

    def take(self) -> Taken | None:
        self.look()
        if self.seen == self.next:
            return None
        head, = self.get("<H", self.available + 4 + 2 * (self.next % self.size))
        if head >= self.size:
            raise Found(FaultReason.HEAD_RANGE)
        in_use = {number for numbers in self.holding.values() for number in numbers}
        buffers: list[tuple[int, int]] = []
        numbers: list[int] = []
        number = head
        while True:
            if number >= self.size:
                raise Found(FaultReason.NEXT_RANGE)
            if number in in_use or number in numbers:
                raise Found(FaultReason.LOOP)
            numbers.append(number)
            address, length, flags, after = self.get("<QIHH", self.ring + 16 * number)
            if flags & ~7 or (flags & 4 and (flags & 1 or not self.tables)):
                raise Found(FaultReason.BAD_FLAGS)
            if flags & 4:
                buffers += self.walk(address, self.table(length))
                break
            buffers.append(self.buffer(address, length, flags))
            if not flags & 1:
                break
            number = after
        self.next = (self.next + 1) % 65536
        self.holding[head] = numbers
        return Taken(head, 1, self.whole(buffers))

    def walk(self, table: int, entries: int) -> list[tuple[int, int]]:
        buffers: list[tuple[int, int]] = []
        entry = 0
        while True:
            if entry >= entries:
                raise Found(FaultReason.NEXT_RANGE)
            if len(buffers) == entries:
                raise Found(FaultReason.LOOP)
            address, length, flags, entry = self.get("<QIHH", table + 16 * entry)
            if flags & 4:
                raise Found(FaultReason.BAD_FLAGS)
            buffers.append(self.buffer(address, length, flags))
            if not flags & 1:
                return buffers

    def give_back(self, taken: Taken) -> None:
        del self.holding[taken.id]


class PackedConsumer(_Consumer):
    """Reads a packed virtqueue: `struct pvirtq_desc`."""

    def __init__(self, queue: PackedQueue) -> None:
        super().__init__(queue)
        self.place = 0
        self.counter = True

    def look(self) -> None:
        """There is no index."""

    def is_available(self, place: int, counter: bool) -> bool:
        flags, = self.get("<H", self.ring + 16 * place + 14)
        return bool(flags & 0x80) == counter and bool(flags & 0x8000) != counter

    def give_back(self, taken: Taken) -> None:
        """The ring shows by itself what is available."""

    def take(self) -> Taken | None:
        place, counter = self.place, self.counter
        if not self.is_available(place, counter):
            return None
        buffers: list[tuple[int, int]] = []
        slots = 0
        while True:
            assert self.is_available(place, counter), "the head is available, and its tail is not"
            address, length, id_, flags = self.get("<QIHH", self.ring + 16 * place)
            if flags & 4 and (flags & 1 or slots or not self.tables):
                raise Found(FaultReason.BAD_FLAGS)
            place += 1
            slots += 1
            if place == self.size:
                place, counter = 0, not counter
            if flags & 4:
                for entry in range(self.table(length)):
                    buffers.append(self.buffer(*self.get("<QIxxH", address + 16 * entry)))
            else:
                buffers.append(self.buffer(address, length, flags))
            if not flags & 1:
                break
            if slots == self.size:
                raise Found(FaultReason.LOOP)
        self.place, self.counter = place, counter
        return Taken(id_, slots, self.whole(buffers))


def consumer(queue: SplitQueue | PackedQueue) -> SplitConsumer | PackedConsumer:
    return SplitConsumer(queue) if isinstance(queue, SplitQueue) else PackedConsumer(queue)


class UsedRing:
    """A driver's eye on the used descriptors of a packed ring."""

    def __init__(self, queue: PackedQueue) -> None:
        self.queue = queue
        self.place = 0
        self.counter = True

    def returns(self, chain: Chain) -> None:
        """Give back a chain, and see it come back."""
        queue = self.queue
        assert not self.is_used()
        queue.give_back(chain)
        assert self.is_used()
        id_, = struct.unpack("<H", queue.memory.read(queue.desc + 16 * self.place + 12, 2))
        assert id_ == chain.id
        self.place += chain.slots
        if self.place >= queue.size:
            self.place -= queue.size
            self.counter = not self.counter

    def is_used(self) -> bool:
        flags, = struct.unpack("<H", self.queue.memory.read(
            self.queue.desc + 16 * self.place + 14, 2))
        return bool(flags & 0x80) == bool(flags & 0x8000) == self.counter
