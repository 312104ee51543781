"""The driver's rings where EVENT_IDX, NOTIFICATION_DATA or IN_ORDER was negotiated."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Generator, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_driver.buffers import Shape
from sw_driver.layouts import SplitLayout, Status
from sw_driver.pci import scan
from sw_driver.ring import Ring, RingError
from sw_driver.split_ring import SplitRing
from sw_driver.virtio_pci import TransportError, VirtioPci
from tb.memory import Region
from tb.model_host import run
from tests.unit.driver_world import (
    COMBINATIONS,
    EVENT_IDX,
    IN_ORDER,
    LATE_INDEX,
    NOTIFICATION_DATA,
    OFFERED,
    PACKED,
    PLAIN,
    LateRing,
    attach,
    machine,
    make_ring,
    opened,
    quiet,
)


@pytest.mark.virtio("DRV-PCI-KICK-01", "DRV-PCI-KICK-02", "DRV-PCI-KICK-03", "DRV-PCI-KICK-04")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_what_a_kick_tells(wide: bool, late: bool) -> None:
    """With NOTIFICATION_DATA the available index, all 16 bits of it, above the queue."""
    first = LATE_INDEX if late else 0
    host = machine(features=PLAIN | (NOTIFICATION_DATA if wide else 0), first_index=first)
    with patch("sw_driver.net.queues.SplitRing", LateRing if late else SplitRing):
        device = opened(host)
    run(device.send_many([b"a" * 60] * 12, batch=3))
    run(device.drain())
    assert len(host.card.sent) == 12
    if wide:
        told = [(64, 0), (3, 1), (6, 1), (9, 1), (12, 1)]
        assert host.card.doorbells == [
            (4, (first + index) % 65536 << 16 | queue) for index, queue in told]
    else:
        assert host.card.doorbells == [(2, 0)] + [(2, 1)] * 4
    assert device.virtio.notify_bytes == (4 if wide else 2)
    quiet(host)


@pytest.mark.parametrize(("place", "value", "text"), [
    (16, 2, "notify_off_multiplier is 2"), (8, 0x2002, "at 0x2002"), (12, 3, "in 3 bytes")])
def test_doorbells_too_narrow_for_what_a_kick_tells(place: int, value: int, text: str) -> None:
    for features in (PLAIN, OFFERED):
        host = machine(features=features)
        host.card._config[0xB4 + place:0xB4 + place + 4] = struct.pack("<I", value)
        if features == OFFERED:
            with pytest.raises(TransportError, match=f"{text}.* with NOTIFICATION_DATA"):
                opened(host)
            assert host.card.status & (Status.FAILED | Status.DRIVER_OK) == Status.FAILED
        else:
            function, = run(scan(host))
            virtio = VirtioPci(function)
            run(virtio.discover())
            run(virtio.start([], {}))


@pytest.mark.parametrize("multiplier", [1, 3, 6, 12])
def test_a_multiplier_that_is_none(multiplier: int) -> None:
    with pytest.raises(TransportError, match=f"notify_off_multiplier is {multiplier}"):
        opened(machine(notify_multiplier=multiplier))


@pytest.mark.parametrize("features", COMBINATIONS)
def test_each_queue_is_used_as_was_agreed(features: int) -> None:
    host = machine(features=features)
    host.card.kicks_only = host.card.close_batches = True
    device = opened(host, transmit_shape=Shape(segments=(1, 3)))
    frames = [bytes([number]) * 100 for number in range(100)]
    run(device.send_many(frames, batch=8))
    run(device.drain())
    assert host.card.sent == frames
    for ring in device.rings.values():
        assert ring.event_idx == bool(features & EVENT_IDX)
        assert ring.in_order == bool(features & IN_ORDER)
    quiet(host)


def test_who_shuffles_does_not_want_the_order_of_the_ring() -> None:
    host = machine(features=COMBINATIONS[-1] | IN_ORDER)
    device = opened(host, shuffle=True)
    assert not any(ring.in_order for ring in device.rings.values())
    frames = [bytes([number]) * 100 for number in range(100)]
    run(device.send_many(frames, batch=8))
    run(device.drain())
    assert host.card.sent == frames
    quiet(host)


HOST = machine()
RING: SplitRing[None] = SplitRing(HOST, 1024, event_idx=True)


@settings(max_examples=300)
@given(st.integers(0, 65535), st.integers(0, 1024), st.one_of(
    st.integers(0, 65535), st.integers(-3, 3), st.integers(1021, 1027)), st.booleans())
@pytest.mark.virtio("DRV-SPL-EVT-11", "DRV-SPL-EVT-12", "DRV-SPL-EVT-10")
def test_a_kick_is_for_the_entry_that_the_device_waits_for(
        old: int, count: int, event: int, flag: bool) -> None:
    """Whatever its flag says; and what was decided once is not decided again."""
    if abs(event) < 2000:
        event = (old + event) % 65536
    fresh = [(old + place) % 65536 for place in range(count)]
    RING._decided = old
    RING._published = RING._next_available = (old + count) % 65536
    RING.used.write(0, struct.pack("<H", flag))
    RING.used.write(4 + 8 * 1024, struct.pack("<H", event))
    assert RING.awaits_kick() == (event == RING.available_index)
    assert RING.kick_wanted() == (event in fresh)
    assert not RING.kick_wanted()


def test_batches_that_need_no_kick_are_counted() -> None:
    """A card that takes nothing meanwhile waits for the first entry alone."""
    host = machine()
    device = opened(host)
    run(device.send_many([b"a" * 60] * 64, batch=8))
    assert (device.statistics.kicks, device.statistics.kicks_spared) == (2, 7)
    run(device.drain())
    run(device.send(b"b" * 60))
    assert device.statistics.kicks == 3
    run(device.drain())
    assert len(host.card.sent) == 65
    quiet(host)


class RacedMemory:
    """Memory of a driver: before each of its accesses somebody else has a turn."""

    def __init__(self, region: Region, turn: Callable[[], None]) -> None:
        self._region = region
        self._turn = turn
        self.address = region.address
        self.size = region.size

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        self._turn()
        return self._region.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._turn()
        self._region.write(offset, data)

    def free(self) -> None:
        self._region.free()


class Race:
    """A ring of the driver, and a card that may do a few steps before each access of it."""

    def __init__(self, *, features: int, turns: Iterator[int], late: bool) -> None:
        self.host = machine(first_index=LATE_INDEX if late else 0)
        self.turns = turns
        self.card_does: Generator[None] | None = None
        real = self.host.allocate

        def allocate(*arguments: Any, **options: Any) -> Any:
            return RacedMemory(real(*arguments, **options), self.turn)

        with patch.object(self.host, "allocate", allocate):
            self.ring: Ring[int] = make_ring(self.host, 13 if features & PACKED else 16,
                                             features=features, late=late)
        attach(self.host, self.ring, features=features)
        self.card, self.queue = self.host.card, self.host.card.queues[0]
        self.kicked = False

    def turn(self) -> None:
        if self.card_does is not None:
            self.steps(next(self.turns, 0))

    def steps(self, count: int) -> None:
        """Let the card do something."""
        assert self.card_does is not None
        card_does, self.card_does = self.card_does, None  # its own accesses are no turns
        for _ in range(count):
            next(card_does)
        self.card_does = card_does

    def work(self) -> Generator[None]:
        """Take chains; look once more after having asked for a kick, then sleep until it comes."""
        card, queue = self.card, self.queue
        while True:
            if card.index(0) == queue.seen:
                card.set_no_notify(0, False)
                yield
                if card.index(0) == queue.seen:
                    yield
                    while not self.kicked:
                        yield
                self.kicked = False
                card.set_no_notify(0, True)
                yield
                continue
            yield
            head, _readable, _writable = card.take_chain(0)
            yield
            card.write_used(0, [(head, 0)])
            yield

    def give_back(self, schedule: random.Random) -> Generator[None]:
        """Give chains back, some at a time, and raise an interrupt where one is wanted."""
        card, queue = self.card, self.queue
        while True:
            while card.index(0) != queue.seen:
                head, _readable, _writable = card.take_chain(0)
                card.write_used(0, [(head, 0)])
                yield
                if schedule.random() < 0.6:
                    card.raise_used(0)
                    yield
            card.raise_used(0)
            yield


BOTH = [*COMBINATIONS, *(features | PACKED for features in COMBINATIONS)]
TURNS = st.lists(st.integers(0, 6), max_size=200)


@settings(max_examples=200)
@given(st.sampled_from(BOTH), TURNS, st.lists(st.integers(1, 8), max_size=20),
       st.booleans())
@pytest.mark.virtio("DRV-SPL-RING-08", "DRV-SPL-EVT-11", "DRV-SPL-EVT-09", "DRV-PKT-RING-12",
                    "DRV-PKT-RING-13")
def test_no_kick_is_lost(features: int, turns: list[int], batches: list[int],
                         late: bool) -> None:
    """The card falls asleep around the driver's publishing: every chain is taken all the same."""
    race = Race(features=features, turns=iter(turns), late=late)
    ring = race.ring
    race.card_does = race.work()
    given = 0
    for batch in batches:
        for _ in range(batch):
            if ring.free_descriptors >= 2:
                ring.add([(0x1000, 60)] * (1 + given % 2), [], given)
                given += 1
        ring.publish()
        if ring.kick_wanted():
            race.kicked = True
        while ring.take_used() is not None:
            pass
    race.steps(500)
    assert race.queue.seen == ring.kick_data
    while ring.take_used() is not None:
        pass
    assert not ring.outstanding


@settings(max_examples=200)
@given(st.sampled_from(BOTH), TURNS, st.integers(1, 40),
       st.tuples(st.booleans(), st.booleans()), st.integers(0, 1000))
@pytest.mark.virtio("DRV-SPL-EVT-04")
def test_no_interrupt_is_lost(features: int, turns: list[int], rounds: int,
                              switches: tuple[bool, bool], seed: int) -> None:
    """The card uses a chain around the driver's re-arming: the driver does not sleep over it."""
    suppress, late = switches
    race = Race(features=features, turns=iter(turns), late=late)
    ring, queue = race.ring, race.queue
    host = race.host
    interrupts: list[int] = []
    with patch.object(host.card, "_raise", interrupts.append):
        race.card_does = race.give_back(random.Random(seed))
        ring.suppress_interrupts(suppress)
        for number in range(rounds):
            for _ in range(number % 3 + 1):
                if ring.free_descriptors >= 2:
                    ring.add([(0x1000, 60)] * (1 + number % 2), [], number)
            ring.publish()
            while ring.take_used() is not None:
                pass
            if not ring.outstanding:
                continue
            seen = len(interrupts)
            ring.suppress_interrupts(False)
            if not ring.has_used():
                race.steps(100)
                assert queue.used == ring.kick_data
                assert len(interrupts) > seen, "the driver would sleep for ever"
            ring.suppress_interrupts(suppress)
    quiet(host)


def in_order_ring(*chains: int) -> SplitRing[int]:
    """Give a ring with chains of so many writable bytes, the card's to use: heads 0, 1, ..."""
    ring: SplitRing[int] = SplitRing(machine(), 8, in_order=True)
    for number, writable in enumerate(chains):
        if writable:
            ring.add([], [(0x2000, writable)], number)
        else:
            ring.add([(0x1000, 60)], [], number)
    ring.publish()
    return ring


def use(ring: SplitRing[int], index: int, *entries: tuple[int, int, int]) -> None:
    """Write used entries (place, head, bytes), and the index."""
    for place, head, written in entries:
        ring.used.write(4 + 8 * place, struct.pack("<II", head, written))
    ring.used.write(2, struct.pack("<H", index))


def test_a_used_entry_that_closes_a_batch() -> None:
    """It lies where the first of the batch would, and the next one behind the whole batch."""
    ring = in_order_ring(0, 0, 0, 100, 70, 0)
    use(ring, 3, (0, 2, 0), (1, 77, 7), (2, 77, 7))
    taken = [ring.take_used() for _ in range(4)]
    assert [(each.token, each.written) if each else None for each in taken] == [
        (0, 0), (1, 0), (2, 0), None]
    use(ring, 6, (3, 3, 50), (4, 5, 0), (5, 77, 7))  # what is skipped was written to its end
    taken = [ring.take_used() for _ in range(4)]
    assert [(each.token, each.written) if each else None for each in taken] == [
        (3, 50), (4, 70), (5, 0), None]
    assert ring.free_descriptors == 8


@pytest.mark.parametrize(("chains", "index", "entry", "text"), [
    ((0, 0, 0), 1, (0, 1, 0), "names 1, which is not among the 1 next, from 0 on"),
    ((0, 0, 0), 2, (0, 2, 0), "names 2, which is not among the 2 next"),
    ((0, 0, 0), 1, (0, 7, 0), "names 7, which is no chain"),
    ((100, 100), 2, (0, 1, 101), "101 bytes written to chain 1, which has room for 100"),
])
def test_used_entries_out_of_order(chains: tuple[int, ...], index: int,
                                   entry: tuple[int, int, int], text: str) -> None:
    ring = in_order_ring(*chains)
    use(ring, index, entry)
    for _ in range(2):  # and it stays wrong
        with pytest.raises(RingError, match=text):
            while ring.take_used() is not None:
                pass


@pytest.mark.virtio("DRV-SPL-RING-05")
def test_descriptors_in_ring_order() -> None:
    ring: SplitRing[int] = SplitRing(machine(), 8, in_order=True)
    heads = []
    for number in range(6):
        heads.append(ring.add([(0x1000, 20)] * 3, [], number))
        ring.publish()
        use(ring, number + 1, (number, heads[-1], 0))
        assert ring.take_used() is not None
    assert heads == [0, 3, 6, 1, 4, 7]
    with pytest.raises(ValueError, match="in ring order with in_order, not shuffled"):
        SplitRing(machine(), 8, in_order=True, shuffle=random.Random(1))


def test_rings_end_behind_the_events() -> None:
    for size in (1, 8, 1024):
        ring: SplitRing[int] = SplitRing(machine(), size, event_idx=True)
        assert ring.available.size == sum(SplitLayout.used_event(size))
        assert ring.used.size == sum(SplitLayout.avail_event(size))
