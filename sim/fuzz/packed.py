"""A packed ring that nothing keeps from being wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from sim.fuzz.arena import Arena, Broken
from sim.fuzz.rings import Area, Given, HostileRing, Modes, Raw
from sw_driver.layouts import DescriptorFlag, PackedLayout

__all__ = ["HostilePacked"]

_DESCRIPTOR = struct.Struct("<QIHH")
_UP_TO_ID = struct.Struct("<QIH")
_USED = struct.Struct("<IHH")
_HALF = struct.Struct("<H")
_EVENT = struct.Struct("<HH")
_BOTH = DescriptorFlag.AVAIL | DescriptorFlag.USED


class HostilePacked(HostileRing):
    """A packed ring: parameters as of `HostileRing`."""

    def __init__(self, arena: Arena, size: int, modes: Modes, rng: random.Random) -> None:
        super().__init__(arena, size, modes, rng)
        self.descriptors = arena.take(16 * size, align=16, lead=16 * rng.randrange(4))
        self.driver_event = arena.take(4, align=4, lead=4 * rng.randrange(8))
        self.device_event = arena.take(4, align=4, lead=4 * rng.randrange(8))
        arena.name(self.descriptors, 16 * size, written=False)
        arena.name(self.descriptors, 16 * size, written=True)
        arena.name(self.driver_event, 4, written=False)
        arena.name(self.device_event, 4, written=True)
        self._hidden: list[tuple[int, int]] = []
        self._next = 0
        self._published = 0
        self._seen = 0  # where the next used descriptor will be
        self._free = size
        self._ids: set[int] = set()

    @property
    def areas(self) -> tuple[Area, Area, Area]:
        """Descriptor ring, the driver's event structure, the device's."""
        return Area(self.descriptors), Area(self.driver_event), Area(self.device_event)

    def _wrap(self, position: int) -> bool:
        return position % (2 * self.size) < self.size

    @property
    def kick_data(self) -> int:
        """Place and wrap counter of the next descriptor."""
        return self._published % self.size | self._wrap(self._published) << 15

    def false_kick_data(self) -> int:
        """Any place: what is available stands in the ring itself."""
        return self.rng.choice((self.rng.randrange(65536), self.kick_data ^ 0x8000, 0xFFFF))

    def room(self) -> int:
        """Free places."""
        return self._free

    def shown(self, position: int) -> int:
        """Give the flags that make a descriptor available at a position."""
        return DescriptorFlag.AVAIL if self._wrap(position) else DescriptorFlag.USED

    def _new_id(self) -> int:
        if self.modes.in_order:
            return len(self.given) & 0xFFFF
        while True:
            number = self.rng.randrange(65536)
            if number not in self._ids:
                return number

    def add(self, raws: Sequence[Raw], chain: Given, *, head: int | None = None) -> None:
        """Write a chain behind what is there; ``head`` is the id that it bears."""
        chain.number = self._new_id() if head is None else head
        self._ids.add(chain.number)
        for number, raw in enumerate(raws):
            position = self._next + number
            at = self.descriptors + 16 * (position % self.size)
            last = number + 1 == len(raws)
            marked = chain.number if last else self.rng.randrange(65536)
            flags = raw.flags | self.shown(position)
            if number:
                self.arena.write(at, _DESCRIPTOR.pack(raw.address, raw.length, marked, flags))
            else:
                self.arena.write(at, _UP_TO_ID.pack(raw.address, raw.length, marked))
                self._hidden.append((at + PackedLayout.FLAGS.offset, flags))
        chain.places = [(self._next + number) % self.size for number in range(len(raws))]
        self._next += len(raws)
        self._free -= len(raws)
        self._remember(chain)

    def publish(self) -> None:
        """Write the flags of heads, in turn."""
        for at, flags in self._hidden:
            self.arena.write(at, _HALF.pack(flags))
        self._hidden.clear()
        self._published = self._next

    def wish(self, interrupts: bool) -> None:
        """By the driver's event structure."""
        place, flags = 0, PackedLayout.ENABLE if interrupts else PackedLayout.DISABLE
        if interrupts and self.modes.event_idx:
            place = self._seen % self.size | self._wrap(self._seen) << 15
            flags = PackedLayout.AT_DESCRIPTOR
        self.arena.write(self.driver_event, _EVENT.pack(place, flags))

    def _entry(self) -> tuple[int, int] | None:
        at = self.descriptors + 16 * (self._seen % self.size) + PackedLayout.LENGTH.offset
        written, number, flags = _USED.unpack(self.arena.read(at, _USED.size))
        if flags & _BOTH != (_BOTH if self._wrap(self._seen) else 0):
            return None
        if not self.chains:
            raise Broken(f"used descriptor {self._seen % self.size} with nothing to be used")
        return number, written if flags & DescriptorFlag.WRITE else 0

    def _let_go(self, chain: Given) -> None:
        self._free += len(chain.places)
        self._seen += len(chain.places)
        self._ids.discard(chain.number)
        chain.places = []

    def scramble(self, scratch: Sequence[Raw]) -> None:
        """Change a descriptor, flags alone, or what events are wished for."""
        rng, what = self.rng, self.rng.random()
        at = self.descriptors + 16 * rng.randrange(self.size)
        ahead = self._next + rng.randrange(self.size)
        if what < 0.3:
            at = self.descriptors + 16 * (ahead % self.size)
        raw = rng.choice(scratch)
        flags = raw.flags | rng.choice((self.shown(ahead), self.shown(ahead), 0, _BOTH,
                                        DescriptorFlag.AVAIL, DescriptorFlag.USED))
        if what < 0.7:
            self.arena.write(at, _DESCRIPTOR.pack(raw.address, raw.length, rng.randrange(65536),
                                                  flags))
        elif what < 0.9:
            # What is described as a table stays one: nothing else holds descriptors.
            was, = _HALF.unpack(self.arena.read(at + PackedLayout.FLAGS.offset, 2))
            table = DescriptorFlag.INDIRECT
            self.arena.write(at + PackedLayout.FLAGS.offset,
                             _HALF.pack(flags & ~table | was & table))
        elif what < 0.95:
            self._next += rng.randrange(self.size)
        else:
            self.arena.write(self.driver_event, _EVENT.pack(rng.randrange(65536),
                                                            rng.randrange(4)))
