"""A driver's ring and the card's side of it, with chains at random."""

from __future__ import annotations

import random

from sw_driver.ring import Ring, RingFull
from tests.unit.driver_world import (
    IN_ORDER,
    LATE_INDEX,
    attach,
    machine,
    make_ring,
)

__all__ = ["Traffic"]

Places = list[tuple[int, int]]


class Traffic:
    """A driver's ring and the card's side of it, both with chance."""

    def __init__(self, size: int, *, features: int, indirect: int | None, direct_first: int,
                 shuffle: bool, seed: int) -> None:
        self.rng = random.Random(seed)
        self.features = features
        self.host = machine(first_index=LATE_INDEX)
        self.ring: Ring[int] = make_ring(
            self.host, size, features=features, late=True, indirect=indirect,
            direct_first=direct_first, shuffle=self.rng if shuffle else None)
        attach(self.host, self.ring, features=features)
        self.given: dict[int, tuple[Places, Places]] = {}
        self.held: list[tuple[int, int]] = []  # by the card: its number, the driver's
        self.out: set[int] = set()
        self.taken = 0

    def elements(self, least: int) -> Places:
        """Give some buffers."""
        return [(self.rng.randrange(1 << 60), self.rng.randrange(1, 5000))
                for _ in range(self.rng.randrange(least, 4))]

    def add(self) -> None:
        """Add a chain of any shape."""
        readable = self.elements(0)
        writable = self.elements(0 if readable else 1)
        token, count = len(self.given), len(readable) + len(writable)
        try:
            self.ring.add(readable, writable, token)
        except RingFull:
            assert count > min(self.ring.free_descriptors, self.ring.size)
        else:
            self.given[token] = readable, writable
            self.out.add(token)

    def take(self) -> None:
        """Let the card take some chains: the very ones that were added, in order."""
        while self.host.card.available(0) and self.rng.random() < 0.7:
            number, readable, writable = self.host.card.take_chain(0)
            assert (readable, writable) == self.given[self.taken]
            self.held.append((number, self.taken))
            self.taken += 1

    def give_back(self) -> None:
        """Let the card give back one chain, or several at once, and the driver take them."""
        batches = bool(self.features & IN_ORDER)
        entries: list[tuple[int, int]] = []
        wanted: list[tuple[int, int]] = []
        for _ in range(self.rng.randrange(1, 3)):
            if not self.held:
                break
            place = 0 if batches else self.rng.randrange(len(self.held))
            while batches and place + 1 < len(self.held) and self.rng.random() < 0.5:
                number, token = self.held.pop(0)  # it gets no entry: it was used to its end
                wanted.append((token, self.room(token)))
            number, token = self.held.pop(place)
            written = self.rng.choice([0, self.room(token), self.rng.randint(0, self.room(token))])
            entries.append((number, written))
            wanted.append((token, written))
        self.host.card.write_used(0, entries)
        self.host.card.raise_used(0)
        for each in wanted:
            assert self.ring.has_used()
            used = self.ring.take_used()
            assert used is not None
            assert (used.token, used.written) == each
            self.out.remove(used.token)
        assert not self.ring.has_used()
        assert self.ring.take_used() is None

    def room(self, token: int) -> int:
        """Bytes that a chain has room for."""
        return sum(length for _address, length in self.given[token][1])

    def slots(self, token: int) -> int:
        """Descriptors that a chain should have in the ring."""
        count = sum(map(len, self.given[token]))
        if self.ring.indirect is None or count < self.ring.indirect:
            return count
        return 1 + min(self.ring.direct_first, count - 1)
