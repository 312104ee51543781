"""Chains that are a fault: of each kind that there is."""

from __future__ import annotations

from collections.abc import Callable

from hw.virtio.types import FaultReason
from sim.fuzz.chains import ALL_ONES, HEADER, INDIRECT, NEXT, WRITE, Chains
from sim.fuzz.rings import Fate, Given, Raw
from sim.fuzz.split import HostileSplit

__all__ = ["Mistakes"]

_Make = Callable[[str, list[Raw]], None]


class Mistakes(Chains):
    """Makes chains of which every one is a mistake; parameters as of `Chains`.

    Whatever buffers they name, the card may touch none; only tables, and what a read that fails
    must have asked for.
    """

    def mistake(self) -> str | None:
        """Add one of them, if there is room for any; give its name."""
        if not self.room():
            return None
        names = self._menu()
        name = self.rng.choice(sorted(names))
        self.kinds[name] += 1
        names[name](name, self._some())
        return name

    def _menu(self) -> dict[str, _Make]:
        """Give what can be done in a ring like this one, with the room that it has."""
        room, split, indirect = self.ring.room(), not self.packed, self.ring.modes.indirect
        menu: dict[str, _Make] = {"zero": self._zero, "direction": self._direction,
                                  "reserved flags": self._reserved_flags}
        if room > 1:
            menu["indirect and next"] = self._indirect_and_next
        if split:
            menu |= {"loop": self._loop, "next out of range": self._next_out_of_range,
                     "head out of range": self._head_out_of_range}
        elif room == self.ring.size:
            menu["as long as the ring"] = self._as_long_as_the_ring
        if self.transmit:
            menu |= {"header alone": self._header_alone, "too long": self._too_long,
                     "4 GiB to send": self._four_gib, "sent from nowhere": self._nowhere}
        if not indirect:
            menu["table not negotiated"] = self._not_negotiated
            return menu
        menu |= {"odd table": self._odd_table, "empty table": self._empty_table,
                 "huge table": self._huge_table, "long table": self._long_table,
                 "table nowhere": self._table_nowhere}
        if split:
            menu |= {"table loop": self._table_loop, "table in a table": self._table_in_a_table,
                     "table next out of range": self._table_next_out_of_range}
        elif room > 1:
            menu["table in a list"] = self._table_in_a_list
        return menu

    def _some(self) -> list[Raw]:
        """Give one to four descriptors of a chain whose buffers the card must not touch."""
        count = min(self.ring.room(), self.rng.randint(1, 4))
        return [Raw(self.buffer(size, named=False), size,
                    self.own | (NEXT if number + 1 < count else 0))
                for number, size in enumerate(self.cut(HEADER + 60, count))]

    def _add(self, why: str, raws: list[Raw], *reasons: FaultReason, fate: Fate = Fate.BAD,
             head: int | None = None) -> None:
        self.ring.add(raws, Given(fate, why, named=self.taken_names(), reasons=frozenset(
            reason.value for reason in reasons)), head=head)

    def _changed(self, some: list[Raw], **what: int) -> list[Raw]:
        """Change one of them."""
        at = self.rng.randrange(len(some))
        return [*some[:at], some[at]._replace(**what), *some[at + 1:]]

    def _flipped(self, some: list[Raw], bit: int) -> list[Raw]:
        """Change a flag of one of them."""
        at = self.rng.randrange(len(some))
        return [*some[:at], some[at]._replace(flags=some[at].flags ^ bit), *some[at + 1:]]

    def _linked(self, some: list[Raw], link: int) -> list[Raw]:
        """Let one of them go on at ``link``."""
        at = self.rng.randrange(len(some))
        return [*some[:at], some[at]._replace(flags=self.own | NEXT, link=link), *some[at + 1:]]

    # --- in the ring, or in a table

    def _zero(self, why: str, some: list[Raw]) -> None:
        self._add(why, self.placed(self._changed(some, length=0)), FaultReason.ZERO_LENGTH)

    def _direction(self, why: str, some: list[Raw]) -> None:
        self._add(why, self.placed(self._flipped(some, WRITE)), FaultReason.DIRECTION)

    def _reserved_flags(self, why: str, some: list[Raw]) -> None:
        # Bits 7 and 15 say in a packed ring what is available, and nothing in its tables.
        bit = self.rng.choice([bit for bit in range(3, 16) if not self.packed or bit % 8 != 7])
        wrong = self._flipped(some, 1 << bit)
        self._add(why, wrong if self.packed else self.placed(wrong), FaultReason.BAD_FLAGS)

    def _header_alone(self, why: str, some: list[Raw]) -> None:
        size = self.rng.randint(1, HEADER)
        self._add(why, self.placed([Raw(some[0].address, size, 0)]), FaultReason.BAD_LENGTH)

    def _too_long(self, why: str, some: list[Raw]) -> None:
        size = self.sizes.frame + HEADER + 1
        self._add(why, self.placed(self._changed(some, length=size)), FaultReason.BAD_LENGTH)

    def _four_gib(self, why: str, some: list[Raw]) -> None:
        self._add(why, self.placed(self._changed(some, length=ALL_ONES)), FaultReason.BAD_LENGTH)

    def _nowhere(self, why: str, some: list[Raw]) -> None:
        size = HEADER + 60
        address = self.nowhere(size)
        self.named(address, size, written=False)
        self._add(why, self.placed([Raw(address, size, 0)]), FaultReason.READ_FAILED,
                  fate=Fate.LATE)

    # --- in the ring

    def _loop(self, why: str, some: list[Raw]) -> None:
        back = self.rng.randrange(len(some))
        self._add(why, [*some[:-1], some[-1]._replace(flags=self.own | NEXT, link=-1 - back)],
                  FaultReason.LOOP)

    def _as_long_as_the_ring(self, why: str, _some: list[Raw]) -> None:
        raws = [Raw(self.buffer(1, named=False), 1, self.own | NEXT)
                for _ in range(self.ring.size)]
        self._add(why, raws, FaultReason.LOOP)

    def _next_out_of_range(self, why: str, some: list[Raw]) -> None:
        link = self.rng.choice((self.ring.size, self.ring.size, 0xFFFF, 0x8000))
        self._add(why, self._linked(some, link), FaultReason.NEXT_RANGE)

    def _head_out_of_range(self, why: str, _some: list[Raw]) -> None:
        size = self.ring.size
        self._add(why, [], FaultReason.HEAD_RANGE,
                  head=self.rng.choice((size, size, size, size + 1, 0x8000, 0xFFFF)))

    # --- of tables

    def _indirect_and_next(self, why: str, some: list[Raw]) -> None:
        self._add(why, [self.table(some, flags=NEXT), some[-1]], FaultReason.BAD_FLAGS)

    def _not_negotiated(self, why: str, some: list[Raw]) -> None:
        table = self.table(some)
        self.arena.forget(table.address, table.length, written=False)
        self._add(why, [table], FaultReason.BAD_FLAGS)

    def _odd_table(self, why: str, some: list[Raw]) -> None:
        size = 16 * len(some) + self.rng.choice((-15, -1, 1, 8, 15))
        self._add(why, [self.table(some, size=size)], FaultReason.BAD_LENGTH)

    def _empty_table(self, why: str, some: list[Raw]) -> None:
        self._add(why, [self.table(some, size=0)], FaultReason.BAD_LENGTH)

    def _huge_table(self, why: str, some: list[Raw]) -> None:
        size = self.rng.choice((ALL_ONES - 15, ALL_ONES, 1 << 31, 16 << 16))
        self._add(why, [self.table(some, size=size)], FaultReason.BAD_LENGTH)

    def _long_table(self, why: str, some: list[Raw]) -> None:
        self._add(why, [self.table(some, size=16 * (self.table_max + 1))], FaultReason.BAD_LENGTH)

    def _table_in_a_table(self, why: str, some: list[Raw]) -> None:
        at = self.rng.randrange(len(some))
        inner = self.table(some)
        self.arena.forget(inner.address, inner.length, written=False)
        inner = inner._replace(flags=INDIRECT | some[at].flags & NEXT)
        self._add(why, [self.table([*some[:at], inner, *some[at + 1:]])], FaultReason.BAD_FLAGS)

    def _table_nowhere(self, why: str, _some: list[Raw]) -> None:
        count = self.rng.randint(1, self.table_max)
        address = self.nowhere(16)
        self.named(address, 16 * count, written=False)
        self._add(why, [Raw(address, 16 * count, INDIRECT)], FaultReason.READ_FAILED)

    def _table_loop(self, why: str, some: list[Raw]) -> None:
        self._add(why, [self.table([*some[:-1], some[-1]._replace(
            flags=self.own | NEXT, link=0)])], FaultReason.LOOP)

    def _table_next_out_of_range(self, why: str, some: list[Raw]) -> None:
        assert isinstance(self.ring, HostileSplit)
        link = self.rng.choice((len(some), len(some) + 1, 0xFFFF))
        # If it is the last entry that goes on, the chain is longer than its table as well.
        self._add(why, [self.table(self._linked(some, link))], FaultReason.NEXT_RANGE,
                  FaultReason.LOOP)

    def _table_in_a_list(self, why: str, some: list[Raw]) -> None:
        first = Raw(self.buffer(20, named=False), 20, self.own | NEXT)
        table = self.table(some)
        self.arena.forget(table.address, table.length, written=False)
        self._add(why, [first, table], FaultReason.BAD_FLAGS)
