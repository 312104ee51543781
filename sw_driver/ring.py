"""What split and packed rings have in common: the chains in them, and who owns these.

A ring knows what a driver does with a queue, and not what the queue is for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from sw_driver.port import DmaMemory, HostPort

__all__ = ["Chain", "Element", "Ring", "RingError", "RingFull", "Segment", "UsedChain"]

Token = TypeVar("Token")
Segment = tuple[int, int]
"""Bus address and bytes."""
Element = tuple[int, int, bool]
"""Bus address, bytes, and whether the device writes there."""


class RingError(Exception):
    """The device wrote something into the ring that makes no sense."""


class RingFull(Exception):
    """There are not enough free descriptors."""


@dataclass
class Chain(Generic[Token]):
    """A chain that was given to the device."""

    token: Token
    descriptors: list[int]
    """Places that it holds in the table or in the ring."""
    writable_bytes: int
    table: DmaMemory | None


@dataclass
class UsedChain(Generic[Token]):
    """A chain that came back: what was given with it, and how many bytes the device wrote."""

    token: Token
    written: int


class Ring(ABC, Generic[Token]):
    """One queue as a driver keeps it.

    The caller puts chains in with `add`, shows them to the device with `publish`, kicks when
    `kick_wanted` says so, and takes them back with `take_used`.

    Parameters
    ----------
    port
        Gives the memory.
    size
        Entries.
    event_idx
        EVENT_IDX was negotiated: kicks and interrupts are asked for by place, not by flag.
    in_order
        IN_ORDER was negotiated: chains come back in the order in which they were added, and one
        used entry may stand for several of them.
    indirect
        Chains of so many buffers or more are described in a table of their own (None: none are,
        as must be without INDIRECT_DESC).
    direct_first
        So many descriptors of such a chain stand in the ring all the same, before the one that
        names the table, which has at least one. Not in a packed ring.
    """

    def __init__(self, port: HostPort, size: int, *, name: str, event_idx: bool, in_order: bool,
                 indirect: int | None, direct_first: int) -> None:
        if (indirect is not None and indirect < 1) or direct_first < 0:
            raise ValueError(f"tables from {indirect} buffers on, behind {direct_first}")
        self.port = port
        self.size = size
        self.name = name
        self.event_idx = event_idx
        self.in_order = in_order
        self.indirect = indirect
        self.direct_first = direct_first
        self._chains: dict[int, Chain[Token]] = {}  # by head or buffer id
        self._order: deque[int] = deque()  # the same in the order of `add`, if it comes back in it
        self._batch: tuple[int, int] | None = None  # the used entry that stands for several chains

    @property
    @abstractmethod
    def areas(self) -> tuple[DmaMemory, DmaMemory, DmaMemory]:
        """The descriptors, what else the driver writes, and what the device writes."""

    # --- giving

    @property
    @abstractmethod
    def free_descriptors(self) -> int:
        """Descriptors that no chain holds."""

    @property
    def outstanding(self) -> int:
        """Chains that were added and did not come back."""
        return len(self._chains)

    @property
    def tokens(self) -> dict[int, Token]:
        """What was given with each chain that did not come back, by number."""
        return {number: chain.token for number, chain in self._chains.items()}

    @abstractmethod
    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: Token) -> int:
        """Add a chain; the device does not see it before `publish`. Gives its number.

        Readable segments come first. `RingFull` when there are not enough descriptors.
        """

    @abstractmethod
    def publish(self) -> int:
        """Show everything that was added to the device; give the number of chains."""

    @property
    @abstractmethod
    def kick_data(self) -> int:
        """What NOTIFICATION_DATA tells of the ring: 16 bits."""

    @abstractmethod
    def kick_wanted(self) -> bool:
        """Whether the device wants to be told of what was published since this was asked last.

        To be asked once after `publish`. By EVENT_IDX: whether the entry that the device waits for
        is among the new ones.
        """

    @abstractmethod
    def awaits_kick(self) -> bool:
        """Whether the device waits to be told of the next entry, as things are; decides nothing."""

    def _elements(self, readable: Sequence[Segment],
                  writable: Sequence[Segment]) -> tuple[list[Element], list[Element]]:
        """Give what stands in the ring, and what stands in a table behind it.

        Nothing is in the table if there is to be none; else the ring has one descriptor more.
        """
        elements = [*((*segment, False) for segment in readable),
                    *((*segment, True) for segment in writable)]
        count = len(elements)
        if not count:
            raise ValueError("a chain has at least one descriptor")
        if sum(length for _address, length, _written in elements) >= 1 << 32:
            raise ValueError("a chain has less than 2**32 bytes")
        if self.indirect is None or count < self.indirect:
            split = count
        else:
            split = min(self.direct_first, count - 1)
        wanted = split + (split < count)
        # No chain is longer than the queue, wherever it stands.
        if count > self.size or wanted > self.free_descriptors:
            raise RingFull(f"{self.name}: {count} buffers in {wanted} descriptors wanted, "
                           f"{self.free_descriptors} free of {self.size}")
        return elements[:split], elements[split:]

    def _make_table(self, elements: Sequence[Element]) -> DmaMemory:
        """Write a table of descriptors."""
        table = self.port.allocate(16 * len(elements), align=16, device_writes=False,
                                   name=f"{self.name} indirect descriptors")
        for place, element in enumerate(elements):
            table.write(16 * place, self._table_entry(place, element, place + 1 == len(elements)))
        return table

    @abstractmethod
    def _table_entry(self, place: int, element: Element, last: bool) -> bytes:
        """Give a descriptor of an indirect table."""

    def _remember(self, number: int, token: Token, descriptors: list[int],
                  writable: Sequence[Segment], table: DmaMemory | None) -> None:
        self._chains[number] = Chain(token, descriptors,
                                     sum(length for _address, length in writable), table)
        if self.in_order:
            self._order.append(number)

    # --- taking

    @abstractmethod
    def has_used(self) -> bool:
        """Whether a chain came back that was not yet taken."""

    @abstractmethod
    def take_used(self) -> UsedChain[Token] | None:
        """Take the next chain that came back. `RingError` when it is none that was given.

        With EVENT_IDX, and interrupts asked for, the next one is asked for as well: look again
        before you wait for it.
        """

    @abstractmethod
    def _entry(self) -> tuple[int, int]:
        """Read the next used entry: the number of a chain, and the bytes written."""

    def _take(self, among: int, at: int) -> tuple[Chain[Token], int]:
        """Take the chain that the next used entry gives back, which is one of the first ``among``.

        ``at`` is where the entry lies, for the text of errors.
        """
        number, written = self._in_turn(among, at) if self.in_order else self._entry()
        chain = self._chains.get(number)
        if chain is None:
            raise RingError(f"{self.name}: used element {at} names {number}, which is no chain of "
                            "the device")
        if written > chain.writable_bytes:
            raise RingError(f"{self.name}: {written} bytes written to chain {number}, which has "
                            f"room for {chain.writable_bytes}")
        self._let_go(number)
        if self._batch is not None and self._batch[0] == number:
            self._batch = None
        return chain, written

    def _let_go(self, number: int) -> None:
        chain = self._chains.pop(number)
        if self.in_order:
            self._order.popleft()
        if chain.table is not None:
            chain.table.free()

    def _in_turn(self, among: int, at: int) -> tuple[int, int]:
        """Give number and bytes of the chain whose turn it is, maybe without an entry of its own.

        A chain that a later one's entry stands for was used completely: read, or written to its
        end.
        """
        first = self._order[0]
        if self._batch is None:
            last, written = self._entry()
            if last in self._chains and last not in islice(self._order, among):
                raise RingError(f"{self.name}: used element {at} names {last}, which is not among "
                                f"the {among} next, from {first} on")
            self._batch = last, written
        last, written = self._batch
        if last == first or last not in self._chains:
            return last, written
        return first, self._chains[first].writable_bytes

    @abstractmethod
    def suppress_interrupts(self, suppress: bool) -> None:
        """Ask the device for no interrupts, or for interrupts again.

        After asking for them again, look at the ring once more: what came before the device saw
        the wish raises none.
        """

    # --- the end

    def free(self) -> list[Token]:
        """Give the memory back, once the device no longer uses it; give what it never returned."""
        tables = [chain.table for chain in self._chains.values() if chain.table is not None]
        for memory in (*self.areas, *tables):
            memory.free()
        tokens = [chain.token for chain in self._chains.values()]
        self._chains.clear()
        self._order.clear()
        return tokens
