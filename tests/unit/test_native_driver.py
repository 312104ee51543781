"""The ring driver in C++, and a card that is played by hand."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sim.native.engine import Engine, EngineOptions

SIZE = 16
DOORBELL = 0xC000_0004
QUEUE = 3
SWITCHES = [(event_idx, notification_data, in_order) for event_idx in (False, True)
            for notification_data in (False, True) for in_order in (False, True)]


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
        """What was written with each kick since the last look: the whole dword."""
        self.engine.run(20)
        log = self.engine.take_tlps()
        assert not len(log) or set(log["address"]) == {DOORBELL}
        return [int.from_bytes(bytes(tlp["data"])[:4], "little") for tlp in log]


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
            engine.drive(**{  # type: ignore[arg-type]
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
