"""A card's side of a queue in plain Python, split or packed, for `tb.model_nic`.

Written from the standard, apart from the driver's side: what the driver puts into the rings is
looked at with suspicion, and looked at again when it is given back.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tb.memory import HostMemory

__all__ = ["EVENT_IDX", "INDIRECT", "IN_ORDER", "ModelQueue", "ModelRing", "PackedSide",
           "SplitSide", "Taken"]

INDIRECT, EVENT_IDX, IN_ORDER = 28, 29, 35

Places = list[tuple[int, int]]
"""Addresses and bytes."""


class Host(Protocol):
    """What a ring needs of its card."""

    memory: HostMemory
    complaints: list[str]

    def accepts(self, feature: int) -> bool:
        """Whether the driver accepted a feature."""

    def fetch(self, address: int, size: int) -> bytes:
        """Read memory of the host."""

    def store(self, address: int, data: bytes) -> None:
        """Write memory of the host."""


@dataclass
class Taken:
    """A chain that the card has."""

    number: int
    """Head, or buffer id."""
    readable: Places
    writable: Places
    slots: int
    """Places that it takes in a packed ring."""
    seen: list[tuple[int, bytes]]
    """Where its descriptors are, and what they were."""


@dataclass
class ModelQueue:
    """Registers and positions of one queue.

    Positions are as a kick tells them: an index for a split ring; for a packed one the place, with
    the wrap counter above it.
    """

    size: int
    vector: int = 0xFFFF
    enabled: bool = False
    was_reset: bool = False
    addresses: list[int] = field(default_factory=lambda: [0] * 6)
    seen: int = 0
    used: int = 0
    no_notify: bool = False
    known: int = 0
    """How far there is something, as the card knows, if it only looks when it is kicked."""
    asleep: bool = True
    kicked: int = 0
    """How far there was something at the last kick."""
    passed: int = 0
    """Positions from the last kick to `seen`, or fewer than none."""
    told: int = 0
    """Position of the next used entry when the driver's wish was last looked at."""
    taken: list[int] = field(default_factory=list)
    """Chains in the order in which they were taken, until they are given back."""
    chains: dict[int, Taken] = field(default_factory=dict)
    next_descriptor: int = 0
    """Where the next chain must begin, if descriptors are used in ring order."""

    def address(self, which: int) -> int:
        """Address of the descriptors, of what the driver, and of what the device writes."""
        return self.addresses[2 * which] | self.addresses[2 * which + 1] << 32

    def start(self, position: int) -> None:
        """Let the ring begin at a position."""
        self.seen = self.used = self.known = self.kicked = self.told = position


class ModelRing(ABC):
    """What a card does with a ring."""

    alignments: tuple[int, int, int]

    def __init__(self, host: Host) -> None:
        self.host = host

    def complain(self, text: str) -> None:
        """Say what the driver must not do."""
        self.host.complaints.append(text)

    @abstractmethod
    def good_size(self, size: int) -> bool:
        """Whether a ring may be that large."""

    @abstractmethod
    def index(self, queue: ModelQueue) -> int:
        """Give the position up to which there are chains."""

    @abstractmethod
    def count(self, queue: ModelQueue) -> int:
        """Give the number of chains from `seen` to `known`."""

    @abstractmethod
    def between(self, queue: ModelQueue, old: int, new: int) -> list[int]:
        """List the positions that were passed from ``old`` to ``new``."""

    @abstractmethod
    def laps(self, queue: ModelQueue) -> int:
        """Give the number of positions."""

    def may_kick(self, queue: ModelQueue, index: int) -> bool:
        """Whether the card wants a kick for what is new since the last one, up to ``index``.

        Who asked for a place, and was not kicked, is asked for it again when the ring comes round.
        """
        asked = self.asked(queue)
        if isinstance(asked, bool):
            return asked
        ahead = len(self.between(queue, queue.seen, index))
        return (queue.passed + ahead >= self.laps(queue)
                or asked in self.between(queue, queue.kicked, index))

    def kicked(self, queue: ModelQueue, index: int) -> None:
        """Take note of a kick, when there are chains up to ``index``."""
        queue.kicked = queue.known = index
        queue.passed = -len(self.between(queue, queue.seen, index))
        queue.asleep = False

    @abstractmethod
    def asked(self, queue: ModelQueue) -> int | bool:
        """Give the position that the card wants a kick for, or whether it wants any."""

    @abstractmethod
    def ask(self, queue: ModelQueue, wanted: bool) -> None:
        """Ask for a kick for what the card would take next, or for none."""

    @abstractmethod
    def wish(self, queue: ModelQueue) -> int | bool:
        """Give the position that the driver wants an interrupt for, or whether it wants any."""

    # --- taking

    def take(self, queue: ModelQueue) -> Taken:
        """Take the next chain, and see that it is one."""
        before = queue.seen
        chain = self._read(queue)
        queue.passed += len(self.between(queue, before, queue.seen))
        elements = len(chain.readable) + len(chain.writable)
        if elements > queue.size:
            self.complain(f"a chain of {elements} elements, of a queue of {queue.size}")
        if sum(length for _address, length in (*chain.readable, *chain.writable)) >= 1 << 32:
            self.complain("a chain of 2**32 bytes")
        if chain.number in queue.chains:
            self.complain(f"chain {chain.number} is in use already")
        queue.taken.append(chain.number)
        queue.chains[chain.number] = chain
        return chain

    @abstractmethod
    def _read(self, queue: ModelQueue) -> Taken:
        """Read the next chain."""

    def _element(self, chain: Taken, address: int, length: int, flags: int) -> None:
        """Put an element into its chain."""
        if flags & 2:
            chain.writable.append((address, length))
            return
        if chain.writable:
            self.complain("a readable descriptor after a writable one")
        chain.readable.append((address, length))

    def _descriptor(self, chain: Taken, address: int) -> tuple[int, int, int, int]:
        """Read a descriptor, and remember it."""
        data = self.host.fetch(address, 16)
        chain.seen.append((address, data))
        first, length, third, fourth = struct.unpack("<QIHH", data)
        return first, length, third, fourth

    def _table_size(self, length: int, flags: int) -> int:
        """See that a descriptor may name a table; give how many there are in that."""
        if not self.host.accepts(INDIRECT):
            self.complain("an indirect descriptor that was not negotiated")
        if flags & 1:
            self.complain("an indirect descriptor that goes on")
        if not length or length % 16:
            self.complain(f"an indirect table of {length} bytes")
        return length // 16

    # --- giving back

    def give_back(self, queue: ModelQueue, used: Sequence[tuple[int, int]]) -> None:
        """Write used entries, all of which are seen at once: chains and bytes written.

        With IN_ORDER all chains that were taken before one are given back with it.
        """
        entries = []
        for number, written in used:
            stop = queue.taken.index(number) + 1
            group = queue.taken[:stop] if self.host.accepts(IN_ORDER) else [number]
            entries.append((number, written, [queue.chains.pop(each) for each in group]))
            queue.taken = [each for each in queue.taken if each not in group]
            for chain in entries[-1][2]:
                for address, data in chain.seen:
                    if self.host.fetch(address, 16) != data:
                        self.complain(f"a descriptor of chain {chain.number} changes in use")
        self._write(queue, entries)

    @abstractmethod
    def _write(self, queue: ModelQueue, entries: Sequence[tuple[int, int, list[Taken]]]) -> None:
        """Write used entries, each with the chains that it stands for."""


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
