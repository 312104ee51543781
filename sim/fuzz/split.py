"""A split ring that nothing keeps from being wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from sim.fuzz.arena import Arena
from sim.fuzz.rings import Area, Given, HostileRing, Modes, Raw
from sw_driver.layouts import DescriptorFlag, SplitLayout

__all__ = ["HostileSplit"]

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_HALF = struct.Struct("<H")
_NEVER = 0x8000
"""So far ahead is a used_event that no short run comes to."""


class HostileSplit(HostileRing):
    """A split ring: parameters as of `HostileRing`; the size is a power of two."""

    def __init__(self, arena: Arena, size: int, modes: Modes, rng: random.Random) -> None:
        super().__init__(arena, size, modes, rng)
        self._used_event = SplitLayout.used_event(size).offset
        avail_event = SplitLayout.avail_event(size).offset
        self.descriptors = arena.take(16 * size, align=16, lead=16 * rng.randrange(4))
        self.available = arena.take(self._used_event + 2, align=2, lead=2 * rng.randrange(8))
        self.used = arena.take(avail_event + 2, align=4, lead=4 * rng.randrange(8))
        arena.name(self.descriptors, 16 * size, written=False)
        arena.name(self.available, self._used_event + 2, written=False)
        arena.name(self.used, avail_event + 2, written=True)
        self._free = list(range(size))
        self.added = 0
        self.published = 0
        self._seen = 0

    @property
    def areas(self) -> tuple[Area, Area, Area]:
        """Descriptor table, available ring, used ring."""
        return Area(self.descriptors), Area(self.available), Area(self.used)

    @property
    def kick_data(self) -> int:
        """The available index."""
        return self.published & 0xFFFF

    def false_kick_data(self) -> int:
        """An index that was passed long ago, or one that no ring of this size can have."""
        return (self.published + self.rng.choice((
            -1, -self.size, self.size + 1, 0x8000,
            self.rng.randint(self.size + 1, 0xFFFF - self.size)))) & 0xFFFF

    def room(self) -> int:
        """Free descriptors, 0 if the available ring is full."""
        return len(self._free) if len(self.chains) < self.size else 0

    def describe(self, place: int, raw: Raw, following: int) -> None:
        """Write a descriptor."""
        link = following if raw.link is None else raw.link
        self.arena.write(self.descriptors + 16 * place,
                         _DESCRIPTOR.pack(raw.address, raw.length, raw.flags, link))

    def add(self, raws: Sequence[Raw], chain: Given, *, head: int | None = None) -> None:
        """Write a chain at free places."""
        if self.modes.in_order:
            places = [self._free.pop(0) for _ in raws]  # in the order of the table
        else:
            places = [self._free.pop(self.rng.randrange(len(self._free))) for _ in raws]
        for number, raw in enumerate(raws):
            if raw.link is not None and raw.link < 0:
                raw = raw._replace(link=places[-1 - raw.link])  # noqa: PLW2901
            following = places[number + 1] if number + 1 < len(places) else 0
            self.describe(places[number], raw, following)
        chain.number = places[0] if head is None else head
        chain.places = places
        self.arena.write(self.available + SplitLayout.ENTRIES
                         + 2 * (self.added % self.size), _HALF.pack(chain.number))
        self.added += 1
        self._remember(chain)

    def publish(self) -> None:
        """Write the index."""
        self.published = self.added
        self.write_index(self.published)

    def write_index(self, index: int) -> None:
        """Write any index."""
        self.arena.write(self.available + 2, _HALF.pack(index & 0xFFFF))

    def wish(self, interrupts: bool) -> None:
        """By the flag, or by used_event."""
        if self.modes.event_idx:
            event = self._seen if interrupts else self._seen + _NEVER
            self.arena.write(self.available + self._used_event, _HALF.pack(event & 0xFFFF))
        else:
            self.arena.write(self.available, _HALF.pack(
                0 if interrupts else DescriptorFlag.AVAIL_NO_INTERRUPT))

    def _entry(self) -> tuple[int, int] | None:
        index, = _HALF.unpack(self.arena.read(self.used + 2, 2))
        if index == self._seen & 0xFFFF:
            return None
        at = self.used + SplitLayout.ENTRIES + 8 * (self._seen % self.size)
        number, written = _USED.unpack(self.arena.read(at, 8))
        return number, written

    def _let_go(self, chain: Given) -> None:
        self._seen += 1
        self._free += chain.places
        chain.places = []

    def scramble(self, scratch: Sequence[Raw]) -> None:
        """Change a descriptor, an entry, the index, the flags or the event."""
        rng, what = self.rng, self.rng.random()
        if what < 0.6:
            self.describe(rng.randrange(self.size), rng.choice(scratch),
                          rng.choice((rng.randrange(self.size), rng.randrange(65536))))
        elif what < 0.8:
            entry = rng.choice((rng.randrange(self.size), rng.randrange(self.size),
                                rng.randrange(65536)))
            at = self.available + SplitLayout.ENTRIES + 2 * rng.randrange(self.size)
            self.arena.write(at, _HALF.pack(entry))
        elif what < 0.95:
            self.published += rng.choice((1, 1, 2, rng.randrange(self.size + 1), -1))
            self.write_index(self.published)
        else:
            self.arena.write(self.available, _HALF.pack(rng.choice((0, 1, 0xFFFF))))
            self.arena.write(self.available + self._used_event, _HALF.pack(rng.randrange(65536)))
