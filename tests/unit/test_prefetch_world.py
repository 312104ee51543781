"""The queues of the prefetch bench, read by a plain consumer that is written from the standard."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.unit.prefetch_consumer import MAX_BYTES, Found, Taken, UsedRing, consumer
from tests.unit.prefetch_faults import fault_cases
from tests.unit.prefetch_memory import Memory, torn
from tests.unit.prefetch_packed_queue import PackedQueue
from tests.unit.prefetch_queue import Chain
from tests.unit.prefetch_queues import make_queue
from tests.unit.prefetch_split_queue import SplitQueue

KINDS = [("indirect",), ("packed",), ("packed", "indirect"), ()]


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
