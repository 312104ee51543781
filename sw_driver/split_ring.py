"""A split virtqueue as a driver keeps it: three rings in memory, chains of any length."""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Sequence
from typing import TypeVar

from sw_driver.layouts import DescriptorFlag, SplitLayout
from sw_driver.port import DmaMemory, HostPort
from sw_driver.ring import Element, Ring, RingError, Segment, UsedChain

__all__ = ["SplitRing"]

Token = TypeVar("Token")

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_HALF = struct.Struct("<H")


class SplitRing(Ring[Token]):
    """Descriptor table, available ring and used ring of one queue.

    With IN_ORDER, descriptors are used in the order of the table.

    Parameters
    ----------
    size
        Entries: a power of two, at most 32768.
    shuffle
        Source of random numbers to pick free descriptors by; without it they are used in turn.
    port, event_idx, in_order, indirect, direct_first
        As of `Ring`.
    """

    def __init__(self, port: HostPort, size: int, *, name: str = "queue",
                 shuffle: random.Random | None = None, event_idx: bool = False,
                 in_order: bool = False, indirect: int | None = None,
                 direct_first: int = 0) -> None:
        if size < 1 or size > 32768 or size & (size - 1):
            raise ValueError(f"queue size must be a power of two up to 32768, not {size}")
        if in_order and shuffle is not None:
            raise ValueError("descriptors are used in ring order with in_order, not shuffled")
        super().__init__(port, size, name=name, event_idx=event_idx, in_order=in_order,
                         indirect=indirect, direct_first=direct_first)
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
        self._next_available = 0  # as far as chains were added
        self._published = 0  # as far as the device was told
        self._decided = 0  # as far as was asked whether to kick
        self._last_used = 0
        self._no_interrupt = False
        self._asked_for = 0  # used_event as it was written last

    @property
    def areas(self) -> tuple[DmaMemory, DmaMemory, DmaMemory]:
        """The descriptor table, the available ring and the used ring."""
        return self.descriptors, self.available, self.used

    # --- giving

    @property
    def free_descriptors(self) -> int:
        """Descriptors that no chain holds."""
        return len(self._free)

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: Token) -> int:
        """Add a chain; the device does not see it before `publish`. Gives its head."""
        direct, behind = self._elements(readable, writable)
        entries = [(address, length, DescriptorFlag.WRITE if written else 0)
                   for address, length, written in direct]
        table = None
        if behind:
            table = self._make_table(behind)
            entries.append((table.address, 16 * len(behind), DescriptorFlag.INDIRECT))
        numbers = [self._take_free() for _ in entries]
        following = [*numbers[1:], None]
        for number, (address, length, flags), after in zip(numbers, entries, following,
                                                           strict=True):
            more = DescriptorFlag.NEXT if after is not None else 0
            self.descriptors.write(16 * number,
                                   _DESCRIPTOR.pack(address, length, flags | more, after or 0))
        head = numbers[0]
        self._remember(head, token, numbers, writable, table)
        self.available.write(4 + 2 * (self._next_available % self.size), _HALF.pack(head))
        self._next_available = (self._next_available + 1) & 0xFFFF
        return head

    def _table_entry(self, place: int, element: Element, last: bool) -> bytes:
        """Give a descriptor of an indirect table: each goes on with the one behind it."""
        address, length, written = element
        return _DESCRIPTOR.pack(address, length, (DescriptorFlag.WRITE if written else 0)
                                | (0 if last else DescriptorFlag.NEXT), 0 if last else place + 1)

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

    @property
    def kick_data(self) -> int:
        """What NOTIFICATION_DATA tells: the available index."""
        return self._published

    def kick_wanted(self) -> bool:
        """Whether the device wants to be told of what was published since this was asked last."""
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
        """Take the next chain that came back. `RingError` when it is none that was given."""
        pending = (self.used_index - self._last_used) & 0xFFFF
        if not pending:
            return None
        published = len(self._chains) - ((self._next_available - self._published) & 0xFFFF)
        if pending > published:
            raise RingError(f"{self.name}: {pending} chains used, {published} given")
        chain, written = self._take(pending, self._last_used)
        if self.in_order:
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

    def suppress_interrupts(self, suppress: bool) -> None:
        """Ask the device for no interrupts, or for interrupts again.

        By EVENT_IDX it is asked for the next used entry; who wants none leaves it with one that is
        used already (and may get an interrupt 65536 entries later).
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
