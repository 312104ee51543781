"""What a card in plain Python does with a queue's ring, of either kind, for `tb.model_nic`.

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

__all__ = ["EVENT_IDX", "INDIRECT", "IN_ORDER", "ModelQueue", "ModelRing", "Places", "Taken"]

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
