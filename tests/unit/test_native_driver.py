"""The ring driver in C++, and a card that is played by hand."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sim.native.engine import Engine, EngineOptions
from sim.native.rings import PackedChain

SIZE = 16
DOORBELL = 0xC000_0004
QUEUE = 3
SWITCHES = [(event_idx, notification_data, in_order) for event_idx in (False, True)
            for notification_data in (False, True) for in_order in (False, True)]


def _kicks(engine: Engine) -> list[int]:
    """Give what was written with each kick since the last look: the whole dword."""
    engine.run(20)
    log = engine.take_tlps()
    assert not len(log) or set(log["address"]) == {DOORBELL}
    return [int.from_bytes(bytes(tlp["data"])[:4], "little") for tlp in log]


class World:
    """An engine with a ring whose chains 0, 1, ... are all with the card."""

    def __init__(self, engine: Engine, *, first: int = 0, batch: int = 4, transmit: bool = True,
                 event_idx: bool = False, notification_data: bool = False,
                 in_order: bool = False) -> None:
        self.engine = engine
        self.available = engine.memory.allocate(6 + 2 * SIZE, align=64)
        self.used = engine.memory.allocate(6 + 8 * SIZE, align=64)
        self.first = self.seen = self.given_back = first
        for number in range(SIZE):
            place = (first + number) % SIZE
            self.available.write(4 + 2 * place, struct.pack("<H", number))
        self.available.write(2, struct.pack("<H", (first + SIZE) % 65536))
        self.used.write(2, struct.pack("<H", first))
        self.driver = engine.drive(
            available=self.available.address, used=self.used.address, size=SIZE,
            notify_address=DOORBELL, notify_value=QUEUE, batch=batch, transmit=transmit,
            event_idx=event_idx, notification_data=notification_data, in_order=in_order)
        engine.take_tlps()

    @property
    def index(self) -> int:
        """The available index."""
        index, = struct.unpack("<H", self.available.read(2, 2))
        return int(index)

    def head(self, index: int) -> int:
        head, = struct.unpack("<H", self.available.read(4 + 2 * (index % SIZE), 2))
        return int(head)

    def use(self, head: int, size: int, *, chains: int = 1) -> None:
        """Write a used entry, and the index for so many chains."""
        self.used.write(4 + 8 * (self.given_back % SIZE), struct.pack("<II", head, size))
        self.given_back = (self.given_back + chains) % 65536
        self.used.write(2, struct.pack("<H", self.given_back))

    def kicks(self) -> list[int]:
        return _kicks(self.engine)


@contextmanager
def world(**more: bool | int) -> Iterator[World]:
    with Engine(None, EngineOptions(tlp_log=1 << 12)) as engine:
        yield World(engine, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("event_idx", "notification_data", "in_order"), SWITCHES)
@pytest.mark.parametrize("first", [0, 65500])
def test_kicks(event_idx: bool, notification_data: bool, in_order: bool, first: int,
               seed: int) -> None:
    """A batch is kicked for if the card wants it: by flag, or by an entry among the new ones."""
    rng = random.Random(seed)
    spared = 0
    with world(event_idx=event_idx, notification_data=notification_data, in_order=in_order,
               first=first) as w:
        old = w.index
        for _ in range(60):
            flag = rng.random() < 0.5
            event = (old + rng.randint(-6, 14)) % 65536
            w.used.write(0, struct.pack("<H", flag))
            w.used.write(4 + 8 * SIZE, struct.pack("<H", event))
            most = (w.index - w.given_back) % 65536
            for _ in range(most if rng.random() < 0.2 else rng.randint(0, most)):
                w.use(w.head(w.given_back), 10)
            kicks = w.kicks()
            wanted = []
            while old != w.index:
                fresh = [(old + place) % 65536
                         for place in range(min(4, (w.index - old) % 65536))]
                old = (fresh[-1] + 1) % 65536
                if (event in fresh) if event_idx else not flag:
                    wanted.append(QUEUE | (old << 16 if notification_data else 0))
                else:
                    spared += 1
            assert kicks == wanted
        assert w.driver.state.kicks_spared == spared > 5
        assert w.driver.state.done == (w.given_back - first) % 65536 > 100
        assert w.driver.state.bytes == 10 * w.driver.state.done
        # No interrupt is asked for: what the driver before it left stays.
        assert w.available.read(0, 2) == bytes(2)
        assert w.available.read(4 + 2 * SIZE, 2) == bytes(2)
        w.engine.check()


@pytest.mark.parametrize("first", [0, 65500])
def test_a_used_entry_that_closes_a_batch(first: int, seed: int) -> None:
    """What it stands for is given again in the order in which it was given before."""
    rng = random.Random(seed)
    with world(in_order=True, first=first) as w:
        for number in range(SIZE):  # what stands in the entries that are left out is no matter
            w.used.write(4 + 8 * number, struct.pack("<II", 999, 1 << 20))
        bytes_used = 0
        for _ in range(100):
            chains = rng.randint(1, (w.index - w.given_back) % 65536)
            w.use(w.head(w.given_back + chains - 1), 7, chains=chains)
            bytes_used += 7
            w.engine.run(3)
            assert [w.head(index) for index in range(w.given_back, w.given_back + (
                w.index - w.given_back) % 65536)] == [
                (index - first) % SIZE for index in range(w.given_back, w.given_back + (
                    w.index - w.given_back) % 65536)]
        state = w.driver.state
        assert state.done % 65536 == (w.given_back - first) % 65536
        assert len(w.driver.times) == state.done
        assert state.bytes == bytes_used
        w.engine.check()


@pytest.mark.parametrize(("transmit", "in_order", "head", "chains", "wrong"), [
    (True, True, 2, 3, False), (True, True, 2, 2, True), (True, True, 77, 3, True),
    (False, True, 2, 3, True), (False, True, 0, 1, False), (True, False, 2, 1, False)])
def test_used_entries_out_of_order(transmit: bool, in_order: bool, head: int, chains: int,
                                   wrong: bool) -> None:
    with world(transmit=transmit, in_order=in_order) as w:
        w.use(head, 0, chains=chains)
        w.engine.run(3)
        told = [text for _cycle, text in w.engine.take_violations()]
        assert told == [f"used element 0 names {head}, which is not its turn"] * wrong
        assert w.driver.state.done == (0 if wrong else chains)


def test_parameters_that_cannot_be() -> None:
    with Engine(None) as engine:
        short = {name: engine.memory.allocate(size, align=64) for name, size in (
            ("available", 4 + 2 * SIZE), ("used", 4 + 8 * SIZE))}
        whole = {name: engine.memory.allocate(6 + 8 * SIZE, align=64) for name in short}

        def drive(available: int, used: int, **more: bool | int) -> None:
            engine.drive(**{
                "available": available, "used": used, "size": SIZE, "batch": 4,
                "notify_address": DOORBELL, "notify_value": 0, **more})

        drive(short["available"].address, short["used"].address)
        for name, place in short.items():
            places = {**whole, name: place}
            with pytest.raises(ValueError, match=f"{name} must be the address of a ring"):
                drive(places["available"].address, places["used"].address, event_idx=True)
        good = whole["available"].address, whole["used"].address
        with pytest.raises(ValueError, match="notify_bytes must be 4, not 2"):
            drive(*good, notification_data=True, notify_bytes=2)
        with pytest.raises(ValueError, match="notify_bytes must be 2 or 4, not 3"):
            drive(*good, notify_bytes=3)
        with pytest.raises(ValueError, match="notify_address must be a multiple of 4"):
            drive(*good, notification_data=True, notify_address=DOORBELL + 2)


# --- packed rings

AVAIL, USED, WRITE = 1 << 7, 1 << 15, 2
ENABLE, DISABLE, AT_DESCRIPTOR = range(3)


class PackedWorld:
    """An engine with a packed ring, some chains of which are with the card: played here.

    Positions go over two laps, as wrap counters do: in the first they are 1.
    """

    def __init__(self, engine: Engine, rng: random.Random, *, size: int, first: int = 0,
                 chains: int | None = None, batch: int = 4, transmit: bool = True,
                 event_idx: bool = False, notification_data: bool = False,
                 in_order: bool = False) -> None:
        self.engine, self.size = engine, size
        self.ring = engine.memory.allocate(16 * size, align=16)
        self.event = engine.memory.allocate(4, align=4)
        self.position = self.used = first  # of the next descriptor to come, and to be used
        # What is not available looks used: as the lap before has left it.
        for place in range(size):
            wrap = self.wrap((first + (place - first) % size - size) % (2 * size))
            self.ring.write(16 * place, struct.pack("<QIHH", 0, 0, 0, (AVAIL | USED) * wrap))
        count = size if chains is None else chains
        ids = rng.sample(range(65536), count)
        self.chains = {
            chain.id: chain for chain in (
                PackedChain(rng.randrange(1 << 64), length, 0 if transmit else length, buffer_id,
                            0 if transmit else WRITE)
                for buffer_id in ids for length in (rng.randint(60, 9000),))}
        for number, chain in enumerate(self.chains.values()):
            position = (first + number) % (2 * size)
            self.ring.write(16 * (position % size), self.entry(chain, position))
        self.with_card: list[int] = []
        self.look()
        assert self.with_card == ids
        self.driver = engine.drive_packed(
            descriptors=self.ring.address, device_event=self.event.address, size=size, used=first,
            chains=list(self.chains.values()), notify_address=DOORBELL, notify_value=QUEUE,
            batch=batch, transmit=transmit, event_idx=event_idx,
            notification_data=notification_data, in_order=in_order)
        engine.take_tlps()

    def wrap(self, position: int) -> bool:
        return position < self.size

    def entry(self, chain: PackedChain, position: int) -> bytes:
        return struct.pack("<QIHH", chain.address, chain.length, chain.id,
                           chain.flags | (AVAIL if self.wrap(position) else USED))

    def look(self) -> int:
        """Take what has become available, which must be whole; give how much."""
        found = 0
        while found < self.size:
            raw = self.ring.read(16 * (self.position % self.size), 16)
            _address, _length, buffer_id, flags = struct.unpack("<QIHH", raw)
            if bool(flags & AVAIL) != self.wrap(self.position) or (
                    bool(flags & USED) == self.wrap(self.position)):
                break
            assert raw == self.entry(self.chains[buffer_id], self.position)
            assert buffer_id not in self.with_card
            self.with_card.append(buffer_id)
            self.position = (self.position + 1) % (2 * self.size)
            found += 1
        return found

    def use(self, buffer_id: int, size: int | None = None, *, chains: int = 1) -> None:
        """Write a used descriptor for so many chains; without a size, one that was only read."""
        flags = (AVAIL | USED) * self.wrap(self.used) | (0 if size is None else WRITE)
        # Nobody may read what stood in the address, nor a length without WRITE.
        self.ring.write(16 * (self.used % self.size), struct.pack(
            "<QIHH", 0xDEAD, 7777 if size is None else size, buffer_id, flags))
        self.used = (self.used + chains) % (2 * self.size)

    def told(self, position: int) -> int:
        return position % self.size | self.wrap(position) << 15

    def kicks(self) -> list[int]:
        return _kicks(self.engine)


@contextmanager
def packed_world(rng: random.Random, **more: bool | int | None) -> Iterator[PackedWorld]:
    with Engine(None, EngineOptions(tlp_log=1 << 12)) as engine:
        yield PackedWorld(engine, rng, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("event_idx", "notification_data", "in_order"), SWITCHES)
@pytest.mark.parametrize("place", [(16, 0, 16), (13, 20, 9), (16, 31, 16)])
def test_packed_kicks(event_idx: bool, notification_data: bool, in_order: bool,
                      place: tuple[int, int, int], seed: int) -> None:
    """Chains come again in the order in which they were used, in batches, kicked for if wanted."""
    rng = random.Random(seed)
    spared = done = 0
    held: list[int] = []
    size, first, chains = place
    with packed_world(rng, event_idx=event_idx, notification_data=notification_data,
                      in_order=in_order, size=size, first=first, chains=chains) as w:
        old = w.position
        for _ in range(80):
            flags = rng.choice((ENABLE, DISABLE, *[AT_DESCRIPTOR] * 4 * event_idx))
            event = (old + rng.randint(-6, 14)) % (2 * size)
            w.event.write(0, struct.pack("<HH", w.told(event), flags))
            most = len(w.with_card)
            for _ in range(most if rng.random() < 0.2 else rng.randint(0, most)):
                buffer_id = w.with_card.pop(0 if in_order else rng.randrange(len(w.with_card)))
                w.use(buffer_id)
                held.append(buffer_id)
                done += 1
            kicks = w.kicks()
            wanted, expected = [], list(w.with_card)
            all_back = not w.with_card
            while len(held) >= 4 or (held and all_back):
                count = min(4, len(held))
                fresh = [(old + step) % (2 * size) for step in range(count)]
                old = (old + count) % (2 * size)
                expected += held[:count]
                held, all_back = held[count:], False
                if flags == ENABLE or (flags == AT_DESCRIPTOR and event in fresh):
                    wanted.append(QUEUE | (w.told(old) << 16 if notification_data else 0))
                else:
                    spared += 1
            assert kicks == wanted
            w.look()
            assert w.with_card == expected
            assert w.position == old
        assert w.driver.state.kicks_spared == spared > 5
        assert w.driver.state.done == len(w.driver.times) == done > 100
        assert w.driver.state.bytes == 0
        w.engine.check()


@pytest.mark.parametrize("transmit", [True, False])
@pytest.mark.parametrize(("size", "first"), [(16, 0), (11, 18), (1, 1)])
def test_a_used_descriptor_that_closes_a_batch(size: int, first: int, transmit: bool,
                                               seed: int) -> None:
    """Chains it skips were written to the end; the next one lies behind all of them."""
    rng = random.Random(seed)
    count = done = 0
    with packed_world(rng, in_order=True, size=size, first=first, transmit=transmit,
                      batch=min(3, size)) as w:
        for _ in range(100):
            chains = rng.randint(1, len(w.with_card))
            batch = [w.with_card.pop(0) for _ in range(chains)]
            written = None if transmit else rng.randint(0, w.chains[batch[-1]].length)
            w.use(batch[-1], written, chains=chains)
            count += (written or 0) + sum(w.chains[each].writable for each in batch[:-1])
            done += chains
            w.engine.run(3)
            w.look()
            assert w.driver.state.done == done
            assert w.driver.state.bytes == count
        assert w.driver.state.kicks == w.engine.counters["doorbells"] > 30
        w.engine.check()


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize(("wrong", "says"), [
    ("unknown", "used descriptor 1 names"), ("twice", "used descriptor 1 names"),
    ("long", "used descriptor 1 tells of"), ("event", "event structure is 0002000d"),
    ("reserved", "event structure is 00030000"), (None, "")])
def test_a_card_that_is_wrong(in_order: bool, wrong: str | None, says: str, seed: int) -> None:
    """It is told of, and the ring is left alone from then on."""
    rng = random.Random(seed)
    with packed_world(rng, transmit=False, in_order=in_order, size=13, event_idx=True,
                      batch=1) as w:
        first, second = w.with_card[:2]
        w.use(first, 60)
        w.engine.run(3)
        if wrong in ("event", "reserved"):
            w.event.write(0, struct.pack("<HH", *{"event": (13, 2), "reserved": (0, 3)}[wrong]))
        if wrong == "unknown":
            w.use(next(each for each in range(65536) if each not in w.chains), 60)
        elif wrong == "twice":
            w.driver.stop()  # so that it is not given again
            w.use(second, 60)
            w.engine.run(3)
            w.use(second, 60)
            says = "used descriptor 2 names"
        else:
            w.use(second, w.chains[second].length + (wrong == "long"))
        w.engine.run(3)
        told = [text for _cycle, text in w.engine.take_violations()]
        assert (says in told[0] and len(told) == 1) if wrong else not told
        kept = w.ring.read(0, 16 * w.size)
        w.use(w.with_card[3], 60)
        after = w.ring.read(0, 16 * w.size)
        w.engine.run(3)
        assert (w.ring.read(0, 16 * w.size) == after) == (wrong is not None)
        assert kept != after


def test_packed_parameters_that_cannot_be() -> None:
    with Engine(None) as engine:
        ring, event = (engine.memory.allocate(size, align=16) for size in (16 * SIZE, 4))
        chain = PackedChain(0, 60, 0, 1, 0)
        good = {"descriptors": ring.address, "device_event": event.address, "size": SIZE,
                "used": 0, "chains": [chain], "batch": 4, "notify_address": DOORBELL,
                "notify_value": 0}
        for change, says in (
                ({"size": 0}, "size must be from 1 to 32768, not 0"),
                ({"used": 2 * SIZE}, f"used must be from 0 to {2 * SIZE - 1}, not {2 * SIZE}"),
                ({"chains": [chain, chain]}, "each with its own id"),
                ({"batch": SIZE + 1}, f"batch must be from 1 to {SIZE}, not {SIZE + 1}"),
                ({"size": SIZE + 1}, "descriptors must be the address of a ring"),
                ({"device_event": event.address + 1}, "device_event must be the address"),
                ({"count": 0}, "count must be at least 1")):
            with pytest.raises(ValueError, match=says):
                engine.drive_packed(**{**good, **change})  # type: ignore[arg-type]
        engine.drive_packed(**good)  # type: ignore[arg-type]
