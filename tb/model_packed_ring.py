"""The card's side of a packed ring, in plain Python."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tb.model_rings import EVENT_IDX, ModelQueue, ModelRing, Taken

__all__ = ["PackedSide"]


class PackedSide(ModelRing):
    """One ring of descriptors, and the event suppression structures of both sides."""

    alignments = (16, 4, 4)
    junk = 0xFFFF_FFFF
    """Length of a used descriptor that has no WRITE: it says nothing."""

    def good_size(self, size: int) -> bool:
        return size > 0

    def _next(self, queue: ModelQueue, position: int, count: int = 1) -> int:
        place = (position & 0x7FFF) + count
        if place < queue.size:
            return position & 0x8000 | place
        return (position & 0x8000 ^ 0x8000) | place - queue.size

    def _flags(self, queue: ModelQueue, position: int) -> tuple[int, bool]:
        """Give the flags of a descriptor, and whether they make it available."""
        flags, = struct.unpack("<H", self.host.fetch(
            queue.address(0) + 16 * (position & 0x7FFF) + 14, 2))
        return flags, flags & 0x8080 == (0x0080 if position & 0x8000 else 0x8000)

    def _after_chain(self, queue: ModelQueue, position: int) -> int | None:
        """Give where the chain at a position ends; None if there is no chain."""
        flags, there = self._flags(queue, position)
        if not there:
            return None
        for _ in range(queue.size):
            position = self._next(queue, position)
            if not flags & 1:
                return position
            flags, _there = self._flags(queue, position)
        self.complain("a chain that does not end")
        return None

    def index(self, queue: ModelQueue) -> int:
        position = queue.seen
        while (after := self._after_chain(queue, position)) is not None:
            position = after
        return position

    def count(self, queue: ModelQueue) -> int:
        position, count = queue.seen, 0
        while position != queue.known:
            after = self._after_chain(queue, position)
            if after is None:
                self.complain(f"chains up to {queue.known:#x}, and none at {position:#x}")
                return count
            position, count = after, count + 1
        return count

    def between(self, queue: ModelQueue, old: int, new: int) -> list[int]:
        found: list[int] = []
        while old != new and len(found) < 2 * queue.size:
            found.append(old)
            old = self._next(queue, old)
        return found

    def laps(self, queue: ModelQueue) -> int:
        return 2 * queue.size

    def asked(self, queue: ModelQueue) -> int | bool:
        position, flags = struct.unpack("<HH", self.host.memory.read(queue.address(2), 4))
        return int(position) if flags == 2 else flags == 0

    def ask(self, queue: ModelQueue, wanted: bool) -> None:
        queue.no_notify = not wanted
        by_place = wanted and self.host.accepts(EVENT_IDX)
        self.host.store(queue.address(2), struct.pack(
            "<HH", queue.seen if by_place else 0, 2 if by_place else int(not wanted)))

    def wish(self, queue: ModelQueue) -> int | bool:
        position, flags = struct.unpack("<HH", self.host.fetch(queue.address(1), 4))
        if flags == 2 and self.host.accepts(EVENT_IDX):
            if position & 0x7FFF >= queue.size:
                self.complain(f"an interrupt wanted for descriptor {position & 0x7FFF}")
            return int(position)
        if flags > 1:
            self.complain(f"driver event flags {flags:#x}")
        return bool(flags == 0)

    def _read(self, queue: ModelQueue) -> Taken:
        chain = Taken(0, [], [], 0, [])
        while True:
            position = queue.seen
            _flags, there = self._flags(queue, position)
            if not there:
                self.complain(f"descriptor {position:#x} of a chain is not there yet")
            address, length, buffer_id, flags = self._descriptor(
                chain, queue.address(0) + 16 * (position & 0x7FFF))
            if flags & ~0x8087:
                self.complain(f"descriptor flags {flags:#x}")
            if flags & 4:
                if chain.slots:
                    self.complain("an indirect descriptor in a list")
                self._read_table(chain, address, self._table_size(length, flags))
            else:
                self._element(chain, address, length, flags)
            chain.slots += 1
            queue.seen = self._next(queue, position)
            if not flags & 1 or chain.slots > queue.size:
                break
        chain.number = buffer_id
        held = chain.slots + sum(other.slots for other in queue.chains.values())
        if held > queue.size:
            self.complain(f"{held} descriptors in use, of {queue.size}")
        return chain

    def _read_table(self, chain: Taken, table: int, size: int) -> None:
        for at in range(size):
            address, length, _reserved, flags = self._descriptor(chain, table + 16 * at)
            if flags & ~2:
                self.complain(f"flags {flags:#x} in an indirect table")
            self._element(chain, address, length, flags)

    def _write(self, queue: ModelQueue, entries: Sequence[tuple[int, int, list[Taken]]]) -> None:
        flags = []
        for number, written, chains in entries:
            at = queue.address(0) + 16 * (queue.used & 0x7FFF)
            self.host.store(at + 8, struct.pack("<IH", written or self.junk, number))
            flags.append((at + 14, (0x8080 if queue.used & 0x8000 else 0) | (2 if written else 0)))
            after = self._next(queue, queue.used, sum(chain.slots for chain in chains))
            # Descriptors of chains that are still in use may have been there: now it is free.
            gone = {queue.address(0) + 16 * (position & 0x7FFF)
                    for position in self.between(queue, queue.used, after)}
            for other in queue.chains.values():
                other.seen = [each for each in other.seen if each[0] not in gone]
            queue.used = after
        for at, value in reversed(flags):  # the first one shows all of them
            self.host.store(at, struct.pack("<H", value))
