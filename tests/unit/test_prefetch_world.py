"""The queues of the prefetch bench, read by a plain consumer that is written from the standard."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hw.virtio.types import FaultReason
from tests.unit.prefetch_faults import fault_cases
from tests.unit.prefetch_memory import Memory, torn
from tests.unit.prefetch_packed_queue import PackedQueue
from tests.unit.prefetch_queue import Chain
from tests.unit.prefetch_queues import make_queue
from tests.unit.prefetch_split_queue import SplitQueue

MAX_BYTES = 9100
KINDS = [("indirect",), ("packed",), ("packed", "indirect"), ()]


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


def lengths(rng: random.Random, count: int) -> list[int]:
    return [rng.randint(13, MAX_BYTES // count) for _ in range(count)]


def wrong(number: int, modes: tuple[str, ...]) -> list[str]:
    """Names of all faults of such a queue."""
    return list(fault_cases(make_queue(number, 16, 1, Memory(), modes=modes),
                            max_bytes=MAX_BYTES))


class Play:
    """A driver, and the consumer that plays the card, on one queue."""

    def __init__(self, queue: SplitQueue | PackedQueue, rng: random.Random) -> None:
        self.queue = queue
        self.rng = rng
        self.card = consumer(queue)
        self.eye = UsedRing(queue) if isinstance(queue, PackedQueue) else None
        self.open: list[tuple[Chain, Taken]] = []
        self.newest: Chain | None = None  # of those that were published
        self.done = self.tables = self.crossings = self.unaligned = 0

    def add(self) -> None:
        """Make a chain, if there is room."""
        queue, rng = self.queue, self.rng
        count = rng.choice([1, 1, 2, 3, rng.randint(1, 16)])
        table = queue.indirect and rng.random() < 0.5
        before = queue.room
        if before < queue.needs(count, table=table):
            return
        chain = queue.add(lengths(rng, count), rng, table=table)
        assert before - queue.room == (chain.slots if queue.packed else len(chain.numbers))
        if chain.table is not None:
            self.tables += 1
            self.crossings += chain.table >> 12 != (chain.table + 16 * count - 1) >> 12
            self.unaligned += chain.table % 64 != 0

    def show(self) -> None:
        """Make some chains available, or all."""
        queue, rng = self.queue, self.rng
        if isinstance(queue, PackedQueue) and rng.random() < 0.8:
            for _ in range(min(len(queue.hidden), rng.randint(0, 2))):
                queue.reveal(rng.randrange(len(queue.hidden)))
            return
        queue.publish()
        self.newest = queue.posted[-1] if queue.posted else None

    def take(self) -> None:
        """Take some chains; all, if there are no more."""
        for _ in range(self.rng.randint(0, 6)):
            taken = self.card.take()
            if taken is None:
                assert self.newest is None or self.newest not in self.queue.posted
                return
            chain = self.queue.posted.popleft()
            assert taken == Taken(chain.id, chain.slots, chain.buffers)
            self.queue.taken.append(chain)
            self.open.append((chain, taken))

    def give_back(self) -> None:
        """Give some chains back, in any order."""
        for _ in range(min(len(self.open), self.rng.randint(0, 4))):
            chain, taken = self.open.pop(self.rng.randrange(len(self.open)))
            if self.eye is None:
                self.queue.give_back(chain)
            else:
                self.eye.returns(chain)
            self.card.give_back(taken)
            self.done += 1


@pytest.mark.parametrize("modes", KINDS, ids="-".join)
@pytest.mark.parametrize("size", [16, 64, 23])
def test_chains_are_found_as_they_were_made(modes: tuple[str, ...], size: int, seed: int) -> None:
    """Many laps of chains of all forms, made visible one by one, and given back in any order."""
    if "packed" not in modes:
        size &= 0x70
    play = Play(make_queue(size & 2, size, 3, Memory(), modes=modes, first_position=0x10000 - 50,
                           table_max=20), random.Random(seed + size))
    while play.done < 40 * size:
        for _ in range(play.rng.randint(0, 4)):
            play.add()
        play.show()
        play.take()
        play.give_back()
    assert "indirect" not in modes or (play.tables > 5 * size and play.crossings
                                       and play.unaligned)


@pytest.mark.parametrize("modes", [("packed", "indirect"), ("indirect",)], ids="-".join)
def test_a_table_is_the_cards_while_its_chain_is(modes: tuple[str, ...], seed: int) -> None:
    """Reads are allowed of rings and of tables in use, and of nothing beside them."""
    queue = make_queue(2, 16, 2, Memory(), modes=modes)
    chain = queue.add([50] * 5, random.Random(seed), table=True)
    assert chain.table is not None
    assert queue.may_read(queue.desc, 16 * queue.size)
    assert not queue.may_read(queue.desc + 16, 16 * queue.size)
    assert not queue.may_read(queue.desc - 16, 32)
    assert not queue.may_read(queue.suppression[0], 2)
    assert queue.may_read(chain.table, 80) and queue.may_read(chain.table + 64, 16)
    assert not queue.may_read(chain.table - 16, 32)
    assert not queue.may_read(chain.table, 80 + 16 * 9)
    queue.taken.append(queue.posted.popleft())
    assert queue.may_read(chain.table, 80)
    queue.give_back(chain)
    assert not queue.may_read(chain.table, 16)


@pytest.mark.parametrize(("number", "modes", "name"), [
    pytest.param(number, modes, name, id="-".join([str(number), *modes, name]))
    for number in (2, 3) for modes in KINDS for name in wrong(number, modes)])
def test_each_fault_is_one(number: int, modes: tuple[str, ...], name: str, seed: int) -> None:
    """The consumer takes what is right before it, and then finds the fault with its reason."""
    rng = random.Random(seed)
    queue = make_queue(number, 16, 1, Memory(), modes=modes, first_position=0xFFFE)
    fault = fault_cases(queue, max_bytes=MAX_BYTES)[name]
    card = consumer(queue)
    for _ in range(0 if fault.alone else 3):
        queue.add(lengths(rng, 2), rng)
    queue.publish()
    while queue.posted and not fault.known:
        assert card.take() is not None
        queue.taken.append(queue.posted.popleft())
    card.look()
    fault.spoil(rng)
    if not fault.last:
        queue.add(lengths(rng, 1), rng)
    queue.publish()
    with pytest.raises(Found) as found:
        for _ in range(5):
            assert card.take() is not None
    assert found.value.reason is fault.reason
    queue.restart()
    card = consumer(queue)
    assert card.take() is None
    chain = queue.add(lengths(rng, 3), rng)
    queue.publish()
    assert card.take() == Taken(chain.id, chain.slots, chain.buffers)


def _by_the_index(queue: SplitQueue, card: random.Random) -> Callable[[int, int], bool]:
    """Name an index for the next kick, near what comes; give the standard's formula for it."""
    event = (queue.index + card.randint(-3, 9)) & 0xFFFF
    queue.memory.write(queue.suppression[0], event.to_bytes(2, "little"))
    return lambda old, new: (new - event - 1) % 65536 < (new - old) % 65536


def _by_the_place(queue: PackedQueue, card: random.Random) -> Callable[[int, int], bool]:
    """Likewise for a packed ring: a place, and the wrap counter there (1 in the first lap)."""
    place = max(0, queue.index + card.randint(-3, 9) + card.choice([0, 0, queue.size]))
    lap, offset = divmod(place, queue.size)
    word = offset | (lap % 2 == 0) << 15 | 2 << 16
    queue.memory.write(queue.suppression[0], word.to_bytes(4, "little"))
    return lambda old, new: old <= place < new


@pytest.mark.parametrize("modes", [("event_idx",), ("packed", "event_idx")], ids="-".join)
@pytest.mark.parametrize("size", [16, 23])
def test_kicks_by_position(modes: tuple[str, ...], size: int, seed: int) -> None:
    """A kick is wanted if and only if the batch passes the position that the card named."""
    rng = random.Random(seed)
    queue = make_queue(1, size if "packed" in modes else 16, 1, Memory(), modes=modes,
                       first_position=0xFFC0)
    card = consumer(queue)
    wanted = 0
    for turn in range(1500):
        rule = (_by_the_place(queue, rng) if isinstance(queue, PackedQueue)
                else _by_the_index(queue, rng))
        old = queue.index
        silent = queue.silent
        count = rng.randint(0, 4)
        for _ in range(count):
            queue.add([60] * rng.randint(1, 2), rng)
        queue.publish()
        wants = queue.wants_kick()
        assert wants == rule(old, queue.index), turn
        if (queue.index - old) % 65536 == 1:
            assert silent != wants
        assert not queue.wants_kick()  # there is nothing since
        wanted += wants
        while (taken := card.take()) is not None:
            chain = queue.posted.popleft()
            queue.taken.append(chain)
            queue.give_back(chain)
            card.give_back(taken)
    assert 200 < wanted < 1300
    assert queue.index > 20 * size or not queue.packed


@pytest.mark.parametrize("event_idx", [False, True])
def test_kicks_of_a_packed_ring_by_a_flag(event_idx: bool) -> None:
    """They are wanted at first and when enabled, else not, wherever the offset points."""
    rng = random.Random(1)
    modes = ("packed", "event_idx") if event_idx else ("packed",)
    queue = make_queue(1, 16, 1, Memory(), modes=modes)
    for flags in (None, 1, 0, 1):
        if flags is not None:
            queue.memory.write(queue.device, (0x8000 | flags << 16).to_bytes(4, "little"))
        queue.add([60], rng)
        queue.publish()
        assert queue.silent == (flags == 1)
        assert queue.wants_kick() == (flags != 1)
    for word in (3 << 16, 4 << 16, *(() if event_idx else (2 << 16,)), 2 << 16 | 16):
        queue.memory.write(queue.device, word.to_bytes(4, "little"))
        with pytest.raises(AssertionError, match="event suppression"):
            queue.wants_kick()


@pytest.mark.parametrize("size", [16, 23])
def test_positions_that_doorbells_tell(size: int, seed: int) -> None:
    """Of a packed ring: place and wrap counter; of a split one: the available index."""
    rng = random.Random(seed)
    queue = make_queue(1, size, 1, Memory(), modes=("packed", "data"))
    assert queue.told() == 0x8000
    place, counter = 0, 1
    for _ in range(10 * size):
        for _ in range(2):
            place += 1
            if place == size:
                place, counter = 0, 1 - counter
        assert queue.told(2) == counter << 15 | place
        chain = queue.add([60, 60], rng)
        queue.taken.append(queue.posted.popleft())
        queue.give_back(chain)
        assert queue.told() == counter << 15 | place
        assert all(lie == queue.told() or lie & 0x7FFF >= size
                   for lie in (queue.lie(rng) for _ in range(20)))
    split = make_queue(1, 16, 2, Memory(), modes=("data",), first_position=0xFFFF)
    assert split.told() == 0xFFFF
    split.add([60], rng)
    assert (split.told(), split.told(3), split.told(-1)) == (0, 3, 0xFFFF)


def test_a_read_is_torn_between_descriptors_alone(seed: int) -> None:
    rng = random.Random(seed)
    early, late = b"a" * 100, b"b" * 100
    whole = 0
    for _ in range(200):
        start = rng.randrange(64)
        got = torn(start, early, late, rng)
        assert len(got) == 100
        padded = b"?" * start + got
        pieces = [set(padded[at:at + 16]) - {ord("?")} for at in range(0, len(padded), 16)]
        assert all(len(piece) <= 1 for piece in pieces)
        whole += got in (early, late)
    assert whole < 20
