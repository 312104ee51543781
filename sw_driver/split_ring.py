"""A split virtqueue as a driver keeps it: three rings in memory, chains of any length."""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from sw_driver.layouts import DescriptorFlag, SplitLayout
from sw_driver.port import DmaMemory, HostPort

__all__ = ["RingError", "RingFull", "Segment", "SplitRing", "UsedChain"]

Token = TypeVar("Token")
Segment = tuple[int, int]
"""Bus address and bytes."""

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_HALF = struct.Struct("<H")


class RingError(Exception):
    """The device wrote something into the used ring that makes no sense."""


class RingFull(Exception):
    """There are not enough free descriptors."""


@dataclass
class _Chain(Generic[Token]):
    token: Token
    descriptors: list[int]
    writable_bytes: int


@dataclass
class UsedChain(Generic[Token]):
    """A chain that came back: what was given with it, and how many bytes the device wrote."""

    token: Token
    written: int


class SplitRing(Generic[Token]):
    """Descriptor table, available ring and used ring of one queue.

    The caller puts chains in with `add`, shows them to the device with `publish`, kicks when
    `kick_wanted` says so, and takes them back with `take_used`.

    Parameters
    ----------
    port
        Gives the memory.
    size
        Entries: a power of two, at most 32768.
    shuffle
        Source of random numbers to pick free descriptors by; without it they are used in turn.
    event_idx
        EVENT_IDX was negotiated: kicks and interrupts are asked for by index, not by flag.
    in_order
        IN_ORDER was negotiated: chains come back in the order in which they were added, and one
        used entry may stand for several of them. Descriptors are then used in ring order.
    """

    def __init__(self, port: HostPort, size: int, *, name: str = "queue",
                 shuffle: random.Random | None = None, event_idx: bool = False,
                 in_order: bool = False) -> None:
        if size < 1 or size > 32768 or size & (size - 1):
            raise ValueError(f"queue size must be a power of two up to 32768, not {size}")
        if in_order and shuffle is not None:
            raise ValueError("descriptors are used in ring order with in_order, not shuffled")
        self.size = size
        self.name = name
        self.event_idx = event_idx
        self.in_order = in_order
        self._shuffle = shuffle
        self._used_event = SplitLayout.used_event(size).offset
        self._avail_event = SplitLayout.avail_event(size).offset
        self.descriptors: DmaMemory = port.allocate(
            16 * size, align=16, name=f"{name} descriptors", device_writes=False)
        self.available: DmaMemory = port.allocate(
            self._used_event + 2, align=2, name=f"{name} available ring", device_writes=False)
        self.used: DmaMemory = port.allocate(
            self._avail_event + 2, align=4, name=f"{name} used ring", device_reads=False)
        self._free = deque(range(size - 1, -1, -1))
        self._chains: dict[int, _Chain[Token]] = {}
        self._order: deque[int] = deque()  # their heads, if they come back in order
        self._batch: tuple[int, int] | None = None  # the used entry that stands for several chains
        self._next_available = 0  # as far as chains were added
        self._published = 0  # as far as the device was told
        self._decided = 0  # as far as was asked whether to kick
        self._last_used = 0
        self._no_interrupt = False
        self._asked_for = 0  # used_event as it was written last

    # --- giving

    @property
    def free_descriptors(self) -> int:
        """Descriptors that no chain holds."""
        return len(self._free)

    @property
    def outstanding(self) -> int:
        """Chains that were added and did not come back."""
        return len(self._chains)

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: Token) -> int:
        """Add a chain; the device does not see it before `publish`. Gives its head.

        Readable segments come first. `RingFull` when there are not enough descriptors.
        """
        count = len(readable) + len(writable)
        if not count:
            raise ValueError("a chain has at least one descriptor")
        if sum(length for _address, length in (*readable, *writable)) >= 1 << 32:
            raise ValueError("a chain has less than 2**32 bytes")
        if count > len(self._free):
            raise RingFull(f"{self.name}: {count} descriptors wanted, {len(self._free)} free")
        numbers = [self._take_free() for _ in range(count)]
        for place, (address, length) in enumerate((*readable, *writable)):
            flags = DescriptorFlag.WRITE if place >= len(readable) else 0
            following = 0
            if place + 1 < count:
                flags |= DescriptorFlag.NEXT
                following = numbers[place + 1]
            self.descriptors.write(16 * numbers[place],
                                   _DESCRIPTOR.pack(address, length, flags, following))
        head = numbers[0]
        if self.in_order:
            self._order.append(head)
        self._chains[head] = _Chain(token, numbers, sum(length for _address, length in writable))
        self.available.write(4 + 2 * (self._next_available % self.size), _HALF.pack(head))
        self._next_available = (self._next_available + 1) & 0xFFFF
        return head

    def _take_free(self) -> int:
        if self._shuffle is not None:
            place = self._shuffle.randrange(len(self._free))
            self._free[place], self._free[-1] = self._free[-1], self._free[place]
        return self._free.pop()

    def publish(self) -> int:
        """Show everything that was added to the device; give the number of chains.

        The index is written after the entries and the descriptors: memory is in program order.
        """
        fresh = (self._next_available - self._published) & 0xFFFF
        if fresh:
            self._published = self._next_available
            self.available.write(2, _HALF.pack(self._published))
        return fresh

    @property
    def available_index(self) -> int:
        """The index that `publish` has shown last, modulo 65536."""
        return self._published

    def kick_wanted(self) -> bool:
        """Whether the device wants to be told of what was published since this was asked last.

        To be asked once after `publish`. By EVENT_IDX: whether the entry that the device waits for
        is among the new ones.
        """
        if not self.event_idx:
            return self.awaits_kick()
        old, self._decided = self._decided, self._published
        return ((self._published - self._event() - 1) & 0xFFFF) < ((self._published - old) & 0xFFFF)

    def awaits_kick(self) -> bool:
        """Whether the device waits to be told of the next entry, as things are; decides nothing."""
        if self.event_idx:
            return self._event() == self._published
        flags, = _HALF.unpack(self.used.read(0, 2))
        return not flags & DescriptorFlag.USED_NO_NOTIFY

    def _event(self) -> int:
        return int(_HALF.unpack(self.used.read(self._avail_event, 2))[0])

    # --- taking

    @property
    def used_index(self) -> int:
        """What the device says it has used so far, modulo 65536."""
        return int(_HALF.unpack(self.used.read(2, 2))[0])

    def has_used(self) -> bool:
        """Whether a chain came back that was not yet taken."""
        return self.used_index != self._last_used

    def take_used(self) -> UsedChain[Token] | None:
        """Take the next chain that came back. `RingError` when it is none that was given.

        With EVENT_IDX, and interrupts asked for, the next one is asked for as well: look again
        before you wait for it.
        """
        pending = (self.used_index - self._last_used) & 0xFFFF
        if not pending:
            return None
        published = len(self._chains) - ((self._next_available - self._published) & 0xFFFF)
        if pending > published:
            raise RingError(f"{self.name}: {pending} chains used, {published} given")
        head, written = self._in_turn(pending) if self.in_order else self._entry()
        chain = self._chains.get(head)
        if chain is None:
            raise RingError(f"{self.name}: used element {self._last_used} names {head}, which is "
                            "no chain of the device")
        if written > chain.writable_bytes:
            raise RingError(f"{self.name}: {written} bytes written to chain {head}, which has room "
                            f"for {chain.writable_bytes}")
        del self._chains[head]
        if self.in_order:
            self._order.popleft()
            self._free.extendleft(chain.descriptors)  # behind all others that are free
        else:
            self._free.extend(reversed(chain.descriptors))
        self._last_used = (self._last_used + 1) & 0xFFFF
        if self.event_idx and not self._no_interrupt:
            self._ask_for(self._last_used)
        return UsedChain(chain.token, written)

    def _entry(self) -> tuple[int, int]:
        head, written = _USED.unpack(self.used.read(4 + 8 * (self._last_used % self.size), 8))
        return head, written

    def _in_turn(self, pending: int) -> tuple[int, int]:
        """Give head and bytes of the chain whose turn it is, which may have no entry of its own."""
        head = self._order[0]
        if self._batch is None:
            last, written = self._entry()
            if last in self._chains and last not in islice(self._order, pending):
                raise RingError(f"{self.name}: used element {self._last_used} names {last}, which "
                                f"is not among the {pending} next, from {head} on")
            self._batch = last, written
        last, written = self._batch
        if last == head or last not in self._chains:
            self._batch = None
            return last, written
        if self._chains[head].writable_bytes:
            raise RingError(f"{self.name}: used element {self._last_used} names {last}, and "
                            f"nothing tells how much was written to {head}")
        return head, 0

    def suppress_interrupts(self, suppress: bool) -> None:
        """Ask the device for no interrupts, or for interrupts again.

        After asking for them again, look at the used ring once more: what came before the device
        saw the wish raises none. By EVENT_IDX it is asked for the next used entry; who wants none
        leaves it with one that is used already (and may get an interrupt 65536 entries later).
        """
        if self.event_idx:
            if not suppress:
                self._ask_for(self._last_used)
            elif not self._no_interrupt and self._asked_for == self.used_index:
                self._ask_for((self._asked_for - 1) & 0xFFFF)  # nothing came meanwhile
            self._no_interrupt = suppress
        elif suppress != self._no_interrupt:
            self._no_interrupt = suppress
            flags = DescriptorFlag.AVAIL_NO_INTERRUPT if suppress else 0
            self.available.write(0, _HALF.pack(flags))

    def _ask_for(self, index: int) -> None:
        """Ask for an interrupt once this entry of the used ring is written."""
        if self._asked_for != index:
            self._asked_for = index
            self.available.write(self._used_event, _HALF.pack(index))

    # --- the end

    def free(self) -> list[Token]:
        """Give the memory back, once the device no longer uses it; give what it never returned."""
        for memory in (self.descriptors, self.available, self.used):
            memory.free()
        tokens = [chain.token for chain in self._chains.values()]
        self._chains.clear()
        self._order.clear()
        return tokens
