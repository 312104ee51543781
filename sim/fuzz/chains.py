"""Good chains of all kinds, and the parts that others are made of."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

from sim.fuzz.rings import Fate, Given, HostileRing, Raw
from sw_driver.layouts import DescriptorFlag, NetHeader

__all__ = ["ALL_ONES", "HEADER", "NUMBER_BYTES", "ChainSizes", "Chains", "frame_of"]

NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT
HEADER = NetHeader.SIZE
ALL_ONES = (1 << 32) - 1
"""Bytes: 4 GiB - 1."""
NUMBER_BYTES = 8
LONGEST_RECEIVED = 1500

_NOWHERE = (0x0000_4000, 0xF0_0000_0000, 0x8000_0000_0000_0000, 0xFFFF_FFFF_FFFF_0000)
_POOL = random.Random(0x66757A7A).randbytes(1 << 16)


def frame_of(number: int, size: int) -> bytes:
    """Make a frame unlike all others, if it is long enough."""
    start = number * 40_503 % (len(_POOL) - size)
    return (number.to_bytes(NUMBER_BYTES, "big") + _POOL[start:start + size])[:size]


class ChainSizes(NamedTuple):
    """What the card takes."""

    frame: int
    """Bytes of the longest frame."""
    table: int
    """Entries of the longest table."""


class Chains:
    """Makes good chains for one ring.

    Parameters
    ----------
    ring
        The ring.
    rng
        Draws everything.
    transmit
        Whether its buffers are read, or written.
    sizes
        What the card takes.
    kinds
        Where what is odd is counted.
    """

    def __init__(self, ring: HostileRing, rng: random.Random, *, transmit: bool,
                 sizes: ChainSizes, kinds: Counter[str]) -> None:
        self.ring = ring
        self.arena = ring.arena
        self.rng = rng
        self.transmit = transmit
        self.own = 0 if transmit else WRITE
        self.sizes = sizes
        self.kinds = kinds
        self.frames = 0
        self.packed = ring.modes.packed
        self.table_max = min(ring.size, sizes.table)
        self._named: list[tuple[int, int, bool]] = []
        longest = sizes.frame if rng.random() < 0.25 else 300
        self._lengths = (1, 60, 60, 60, 61, 127, 128, 200, longest)
        self._plain = rng.random() < 0.4  # most chains of one or two descriptors

    # --- parts

    def named(self, address: int, size: int, *, written: bool) -> None:
        """Let the card touch bytes, for the chain that is being made."""
        self.arena.name(address, size, written=written)
        self._named.append((address, size, written))

    def taken_names(self) -> list[tuple[int, int, bool]]:
        """Give what the chain being made has named, and begin another."""
        named, self._named = self._named, []
        return named

    def nowhere(self, size: int) -> int:
        """Give an address where nothing is, or where memory ends too early."""
        if self.rng.random() < 0.4 and size > 1:
            return self.arena.end - self.rng.randint(1, min(size - 1, 4000))
        return self.rng.choice(_NOWHERE) + self.rng.randrange(0x4000)

    def buffer(self, size: int, *, named: bool) -> int:
        """Give memory; the card may not touch it unless it is ``named``."""
        rng = self.rng
        lead, align = rng.choice((0, 0, rng.randrange(64))), 1
        if rng.random() < 0.1:  # over the end of a page, if it can be
            lead, align = 4096 - rng.randint(1, min(size, 64)), 4096
        address = self.arena.take(size, align=align, lead=lead)
        if named:
            self.named(address, size, written=not self.transmit)
        return address

    def cut(self, total: int, count: int) -> list[int]:
        """Cut bytes into so many parts, none of them empty."""
        cuts = sorted(self.rng.sample(range(1, total), count - 1)) if count > 1 else []
        return [stop - start for start, stop in zip([0, *cuts], [*cuts, total], strict=True)]

    def table(self, entries: list[Raw], *, size: int | None = None, flags: int = 0) -> Raw:
        """Write a table, in any order if links say so; give the descriptor that names it."""
        rng, count = self.rng, len(entries)
        # Entries after the first lie anywhere in a split ring's table.
        places = [0, *rng.sample(range(1, count), count - 1)]
        if self.packed or rng.random() < 0.5:
            places = list(range(count))
        address = self.arena.take(16 * count, align=16,
                                  lead=rng.choice((0, 0, 0, rng.randrange(16))))
        self.named(address, 16 * count, written=False)
        for number, entry in enumerate(entries):
            flag, link = entry.flags, entry.link
            if link is None:
                link = places[number + 1] if number + 1 < count else rng.choice((0, 0xFFFF))
            last = flag.to_bytes(2, "little") + link.to_bytes(2, "little")
            if self.packed:
                # The order says all: ids, and all flags but WRITE, mean nothing.
                flag = flag & WRITE | rng.choice((0, 0xFFFF, rng.randrange(65536))) & ~WRITE
                last = rng.randbytes(2) + flag.to_bytes(2, "little")
            self.arena.write(address + 16 * places[number], entry.address.to_bytes(8, "little")
                             + entry.length.to_bytes(4, "little") + last)
        return Raw(address, 16 * count if size is None else size, INDIRECT | flags)

    def placed(self, entries: list[Raw]) -> list[Raw]:
        """Put descriptors in the ring, or all of them, or the last of them, in a table."""
        rng, room = self.rng, self.ring.room()
        if not self.ring.modes.indirect:
            return entries
        if len(entries) <= room and (len(entries) > self.table_max or rng.random() < 0.4):
            return entries
        first = 0
        if not self.packed and rng.random() < 0.3:
            first = rng.randrange(min(len(entries), room))
        # The device ignores WRITE beside INDIRECT.
        return [*entries[:first], self.table(entries[first:], flags=rng.choice((0, 0, WRITE)))]

    # --- chains

    def room(self) -> bool:
        """Whether a chain of any kind can be added now."""
        return self.ring.room() > 0 and self.arena.left() > 2 * self.sizes.frame + 40_000

    def _count(self, total: int) -> int:
        """Give how many descriptors a good chain has, wherever they lie."""
        rng, most = self.rng, self.ring.room()
        if self.ring.modes.indirect and rng.random() < 0.3:
            most = self.table_max
        wish = rng.choice((1, 1, 1, 2, 2, 3, 4, rng.randint(1, 20)))
        if self._plain or (self.ring.modes.mrg_rxbuf and not self.transmit):
            wish = min(wish, rng.choice((1, 1, 2, 3)))  # a full ring must hold any frame
        return min(wish, most, total)

    def _total(self) -> int:
        """Give the bytes of a good chain."""
        rng = self.rng
        if self.transmit:
            return HEADER + rng.choice((rng.choice(self._lengths), rng.randint(1, 300)))
        if self.ring.modes.mrg_rxbuf:
            # A ring of few must be able to hold the longest frame that comes.
            return rng.choice((200, 333, 1600)) if self.ring.size >= 64 else 1600
        return 1600 + rng.randrange(64)

    def good(self) -> bool:
        """Add a good chain, if there is room."""
        if not self.room():
            return False
        total = self._total()
        buffers = [(self.buffer(size, named=True), size)
                   for size in self.cut(total, self._count(total))]
        frame = None
        if self.transmit:
            frame = frame_of(self.frames, total - HEADER)
            data, at = bytes(HEADER) + frame, 0
            for address, size in buffers:
                self.arena.write(address, data[at:at + size])
                at += size
        last = len(buffers) - 1
        raws = self.placed([Raw(address, size, self.own | (NEXT if number != last else 0))
                            for number, (address, size) in enumerate(buffers)])
        self.frames += 1
        self.ring.add(raws, Given(Fate.GOOD, "good", buffers, self.taken_names(), frame))
        return True

    def odd(self) -> bool:
        """Add a chain that is odd and yet no mistake: to nowhere, or with more room than exists."""
        if self.transmit or self.ring.modes.mrg_rxbuf or not self.room():
            return False
        lost = self.rng.random() < 0.5
        size = 1600 if lost else ALL_ONES
        if lost:
            address = self.rng.choice(_NOWHERE) + self.rng.randrange(0x4000)
            self.named(address, size, written=True)
        else:
            address = self.buffer(self.sizes.frame + HEADER, named=True)
        why = "received nowhere" if lost else "4 GiB of room"
        self.kinds[why] += 1
        self.ring.add([Raw(address, size, WRITE)], Given(
            Fate.GOOD, why, [(address, size)], self.taken_names(), lost=lost))
        return True

    def scratch(self) -> list[Raw]:
        """Give descriptors to scramble a ring with: what they name may all be touched."""
        rng, size = self.rng, self.sizes.frame + HEADER
        pool: list[Raw] = []
        for _ in range(6):
            address = self.arena.take(size)
            self.named(address, size, written=not self.transmit)
            for flags in (self.own, self.own, self.own | NEXT, self.own | NEXT):
                length = rng.choice((1, 12, 80, 80, 1600, size, 0))
                pool.append(Raw(address, min(length, size), flags))
        pool.append(Raw(pool[0].address, 80, self.own ^ WRITE))
        pool.append(Raw(pool[0].address, 80, self.own | 1 << rng.choice((3, 4, 8, 12))))
        if self.transmit:
            pool.append(Raw(pool[0].address, ALL_ONES, 0))
        for _ in range(4):
            table = self.table(rng.choices(pool[:24], k=rng.randint(2, 5)))
            pool.append(table)
            pool.append(table._replace(length=rng.choice((0, 8, 16, 24)), flags=INDIRECT | NEXT))
        if self.packed:
            # The card leaves 0 as the address of what it has used; somebody may show that again.
            self.named(0, 1 << 17, written=True)
            self.named(0, 1 << 17, written=False)
        self._named.clear()
        return pool
