"""The card's side of a split ring, in plain Python."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tb.model_rings import EVENT_IDX, IN_ORDER, ModelQueue, ModelRing, Taken

__all__ = ["SplitSide"]


class SplitSide(ModelRing):
    """Descriptor table, available ring and used ring."""

    alignments = (16, 2, 4)

    def good_size(self, size: int) -> bool:
        return size > 0 and not size & (size - 1)

    def index(self, queue: ModelQueue) -> int:
        index, = struct.unpack("<H", self.host.fetch(queue.address(1) + 2, 2))
        return int(index)

    def count(self, queue: ModelQueue) -> int:
        count = (queue.known - queue.seen) & 0xFFFF
        if count > queue.size:
            self.complain(f"available index {queue.known}, {queue.seen} seen")
        return count

    def between(self, queue: ModelQueue, old: int, new: int) -> list[int]:
        return [(old + more) & 0xFFFF for more in range((new - old) & 0xFFFF)]

    def laps(self, queue: ModelQueue) -> int:
        return 1 << 16

    def asked(self, queue: ModelQueue) -> int | bool:
        if not self.host.accepts(EVENT_IDX):
            return not queue.no_notify
        event, = struct.unpack("<H", self.host.memory.read(
            queue.address(2) + 4 + 8 * queue.size, 2))
        return int(event)

    def ask(self, queue: ModelQueue, wanted: bool) -> None:
        queue.no_notify = not wanted
        if self.host.accepts(EVENT_IDX):  # else an entry that the card has seen already
            event = queue.seen if wanted else queue.seen - 1
            self.host.store(queue.address(2) + 4 + 8 * queue.size,
                            struct.pack("<H", event & 0xFFFF))
        else:
            self.host.store(queue.address(2), struct.pack("<H", not wanted))

    def wish(self, queue: ModelQueue) -> int | bool:
        flags, = struct.unpack("<H", self.host.fetch(queue.address(1), 2))
        by_index = self.host.accepts(EVENT_IDX)
        if flags > (0 if by_index else 1):
            self.complain(f"available flags {flags:#x}")
        if not by_index:
            return not flags & 1
        event, = struct.unpack("<H", self.host.fetch(queue.address(1) + 4 + 2 * queue.size, 2))
        return int(event)

    def _read(self, queue: ModelQueue) -> Taken:
        head, = struct.unpack("<H", self.host.fetch(
            queue.address(1) + 4 + 2 * (queue.seen % queue.size), 2))
        queue.seen = (queue.seen + 1) & 0xFFFF
        in_order = self.host.accepts(IN_ORDER)
        if in_order and head != queue.next_descriptor:
            self.complain(f"chain {head}, and the next descriptor in ring order is "
                          f"{queue.next_descriptor}")
        chain = Taken(head, [], [], 1, [])
        at = head
        for _ in range(queue.size):
            if at >= queue.size:
                self.complain(f"descriptor {at} of {queue.size}")
                return chain
            address, length, flags, following = self._descriptor(chain, queue.address(0) + 16 * at)
            if flags & ~7:
                self.complain(f"descriptor flags {flags:#x}")
            if in_order:
                queue.next_descriptor = (at + 1) % queue.size
                if flags & 1 and following != queue.next_descriptor:
                    self.complain(f"descriptor {at} goes on with {following}")
            if flags & 4:
                self._read_table(chain, address, self._table_size(length, flags))
            else:
                self._element(chain, address, length, flags)
            if not flags & 1:
                return chain
            at = following
        self.complain("a chain that does not end")
        return chain

    def _read_table(self, chain: Taken, table: int, size: int) -> None:
        at = 0
        for _ in range(size):
            address, length, flags, following = self._descriptor(chain, table + 16 * at)
            if flags & ~3:
                self.complain(f"flags {flags:#x} in an indirect table")
            self._element(chain, address, length, flags)
            if not flags & 1:
                return
            if following >= size or (self.host.accepts(IN_ORDER) and following != at + 1):
                self.complain(f"descriptor {at} of an indirect table of {size} goes on with "
                              f"{following}")
                return
            at = following
        self.complain("an indirect table that does not end")

    def _write(self, queue: ModelQueue, entries: Sequence[tuple[int, int, list[Taken]]]) -> None:
        base, used = queue.address(2), queue.used
        for number, written, chains in entries:
            self.host.store(base + 4 + 8 * (used % queue.size), struct.pack("<II", number, written))
            used = (used + len(chains)) & 0xFFFF
        queue.used = used
        self.host.store(base + 2, struct.pack("<H", used))
