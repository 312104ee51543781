"""A packed virtqueue as a driver keeps it: one ring of descriptors, and two event structures."""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sw_driver.layouts import DescriptorFlag, PackedLayout
from sw_driver.port import DmaMemory, HostPort
from sw_driver.ring import Element, Ring, RingError, Segment, UsedChain

__all__ = ["GivenChain", "PackedRing"]

Token = TypeVar("Token")

_DESCRIPTOR = struct.Struct("<QIHH")
_UP_TO_ID = struct.Struct("<QIH")
_USED = struct.Struct("<IHH")
_EVENT = struct.Struct("<HH")
_HALF = struct.Struct("<H")
_BOTH = DescriptorFlag.AVAIL | DescriptorFlag.USED


@dataclass(frozen=True)
class GivenChain:
    """A chain that is with the device."""

    buffer_id: int
    descriptors: list[tuple[int, int, int]]
    """Address, bytes, and flags but NEXT, AVAIL and USED: those that stand in the ring."""
    writable_bytes: int


class PackedRing(Ring[Token]):
    """Descriptor ring and event suppression structures of one queue.

    Positions count two laps of the ring, 0 up to twice its size: in the first the wrap counters
    are 1, in the second 0.

    Parameters
    ----------
    size
        Entries: 1 to 32768.
    shuffle
        Source of random numbers: buffer ids are any 16 bits, and free ones are picked at random.
        Without it they are 0 up to the size, used in turn.
    port, event_idx, in_order, indirect
        As of `Ring`.
    """

    def __init__(self, port: HostPort, size: int, *, name: str = "queue",
                 shuffle: random.Random | None = None, event_idx: bool = False,
                 in_order: bool = False, indirect: int | None = None) -> None:
        if not 1 <= size <= 32768:
            raise ValueError(f"queue size must be 1 to 32768, not {size}")
        super().__init__(port, size, name=name, event_idx=event_idx, in_order=in_order,
                         indirect=indirect, direct_first=0)
        self._shuffle = shuffle
        self.descriptors: DmaMemory = port.allocate(
            16 * size, align=16, name=f"{name} descriptor ring")
        self.driver_event: DmaMemory = port.allocate(
            PackedLayout.EVENT_BYTES, align=4, name=f"{name} driver events", device_writes=False)
        self.device_event: DmaMemory = port.allocate(
            PackedLayout.EVENT_BYTES, align=4, name=f"{name} device events", device_reads=False)
        self._ids = deque(range(size) if shuffle is None else shuffle.sample(range(65536), size))
        self._free = size
        self._hidden: deque[tuple[int, int]] = deque()  # heads that the device does not see: flags
        self._next = 0  # position of the next descriptor
        self._published = 0
        self._decided = 0  # as far as was asked whether to kick
        self._used = 0  # where the next used descriptor will be
        self._no_interrupt = False
        self._driver_event = 0, PackedLayout.ENABLE  # as it was written last
        self._given: dict[int, list[tuple[int, int, int]]] = {}  # as it stood, by buffer id

    @property
    def areas(self) -> tuple[DmaMemory, DmaMemory, DmaMemory]:
        """The descriptor ring, the driver's event structure and the device's."""
        return self.descriptors, self.driver_event, self.device_event

    def _after(self, position: int, count: int) -> int:
        return (position + count) % (2 * self.size)

    def _wrap(self, position: int) -> bool:
        """Give the wrap counter of a position."""
        return position < self.size

    def _told(self, position: int) -> int:
        """Give a position as the standard writes it: the place, and the wrap counter above."""
        return position % self.size | self._wrap(position) << 15

    # --- giving

    @property
    def free_descriptors(self) -> int:
        """Descriptors that no chain holds."""
        return self._free

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment], token: Token) -> int:
        """Add a chain; the device does not see it before `publish`. Gives its buffer id.

        All but the flags of the first descriptor is written. The id that counts is the one in the
        last descriptor: the others have another one.
        """
        direct, behind = self._elements(readable, writable)
        entries = [(address, length, DescriptorFlag.WRITE if written else 0)
                   for address, length, written in direct]
        table = None
        if behind:
            table = self._make_table(behind)
            entries.append((table.address, 16 * len(behind), DescriptorFlag.INDIRECT))
        buffer_id = self._take_id()
        start = self._next
        for number, (address, length, kind) in enumerate(entries):
            position = self._after(start, number)
            last = number + 1 == len(entries)
            flags = kind | (0 if last else DescriptorFlag.NEXT) | (
                DescriptorFlag.AVAIL if self._wrap(position) else DescriptorFlag.USED)
            at = 16 * (position % self.size)
            marked = buffer_id if last else ~buffer_id & 0xFFFF
            if number:
                self.descriptors.write(at, _DESCRIPTOR.pack(address, length, marked, flags))
            else:
                self.descriptors.write(at, _UP_TO_ID.pack(address, length, marked))
                self._hidden.append((at + PackedLayout.FLAGS.offset, flags))
        self._next = self._after(start, len(entries))
        self._free -= len(entries)
        places = [self._after(start, number) for number in range(len(entries))]
        self._given[buffer_id] = entries
        self._remember(buffer_id, token, places, writable, table)
        return buffer_id

    def _table_entry(self, place: int, element: Element, last: bool) -> bytes:
        """Give a descriptor of an indirect table: of its flags none but WRITE is set."""
        address, length, written = element
        return _DESCRIPTOR.pack(address, length, 0, DescriptorFlag.WRITE if written else 0)

    def _take_id(self) -> int:
        if self._shuffle is not None:
            self._ids.rotate(self._shuffle.randrange(len(self._ids)))
        return self._ids.popleft()

    def publish(self) -> int:
        """Show everything that was added to the device; give the number of chains.

        The flags of a chain's first descriptor come after all else of it: memory is in program
        order.
        """
        fresh = len(self._hidden)
        for at, flags in self._hidden:
            self.descriptors.write(at, _HALF.pack(flags))
        self._hidden.clear()
        self._published = self._next
        return fresh

    @property
    def kick_data(self) -> int:
        """What NOTIFICATION_DATA tells: where the next descriptor will be, and its wrap counter."""
        return self._told(self._published)

    def kick_wanted(self) -> bool:
        """Whether the device wants to be told of what was published since this was asked last."""
        old, self._decided = self._decided, self._published
        event = self._event()
        if isinstance(event, bool):
            return event
        laps = 2 * self.size
        return (event - old) % laps < (self._published - old) % laps

    def awaits_kick(self) -> bool:
        """Whether the device waits to be told of the next entry, as things are; decides nothing."""
        event = self._event()
        return event if isinstance(event, bool) else event == self._published

    def _event(self) -> bool | int:
        """Give the position that the device waits for, or whether it waits for any or none."""
        place, flags = _EVENT.unpack(self.device_event.read(0, PackedLayout.EVENT_BYTES))
        if flags == PackedLayout.AT_DESCRIPTOR and self.event_idx:
            lap = 0 if place >> 15 else self.size
            place &= 0x7FFF
            if place >= self.size:
                raise RingError(f"{self.name}: the device waits for descriptor {place} of "
                                f"{self.size}")
            return int(place) + lap
        if flags not in (PackedLayout.ENABLE, PackedLayout.DISABLE):
            raise RingError(f"{self.name}: the device's event flags are {flags:#x}, "
                            f"with{'' if self.event_idx else 'out'} EVENT_IDX")
        return bool(flags == PackedLayout.ENABLE)

    def given(self) -> tuple[int, list[GivenChain]]:
        """Give where the next used descriptor will be, and the chains that stand from there on.

        For who goes on with the ring without this driver. `RuntimeError` while chains were added
        and not published, or when a used descriptor was taken in part.
        """
        if self._hidden or self._batch is not None:
            raise RuntimeError(f"{self.name}: chains are not published, or a batch is half taken")
        return self._used, [
            GivenChain(number, self._given[number], chain.writable_bytes)
            for number, chain in self._chains.items()]

    # --- taking

    def has_used(self) -> bool:
        """Whether a chain came back that was not yet taken."""
        if self._batch is not None:
            return True
        at = 16 * (self._used % self.size) + PackedLayout.FLAGS.offset
        flags, = _HALF.unpack(self.descriptors.read(at, 2))
        return bool(flags & _BOTH == (_BOTH if self._wrap(self._used) else 0))

    def take_used(self) -> UsedChain[Token] | None:
        """Take the next chain that came back. `RingError` when it is none that was given."""
        if not self.has_used():
            return None
        published = len(self._chains) - len(self._hidden)
        if not published:
            raise RingError(f"{self.name}: a chain used, none given")
        chain, written = self._take(published, self._used % self.size)
        self._used = self._after(self._used, len(chain.descriptors))
        self._free += len(chain.descriptors)
        if self.event_idx and not self._no_interrupt and self._batch is None:
            self._ask_for(self._used)
        return UsedChain(chain.token, written)

    def _entry(self) -> tuple[int, int]:
        """Read the used descriptor. Without WRITE nothing was written, whatever its length."""
        at = 16 * (self._used % self.size) + PackedLayout.LENGTH.offset
        written, buffer_id, flags = _USED.unpack(self.descriptors.read(at, _USED.size))
        if buffer_id in self._unseen():
            raise RingError(f"{self.name}: used element {self._used % self.size} names "
                            f"{buffer_id}, which the device has not been given yet")
        return buffer_id, written if flags & DescriptorFlag.WRITE else 0

    def _unseen(self) -> set[int]:
        """Give the ids of chains that were not published: the ones that were added last."""
        count = len(self._hidden)
        return set(list(self._chains)[-count:]) if count else set()

    def _let_go(self, number: int) -> None:
        super()._let_go(number)
        self._ids.append(number)
        del self._given[number]

    def suppress_interrupts(self, suppress: bool) -> None:
        """Ask the device for no interrupts, or for interrupts again.

        By EVENT_IDX it is asked for the next used descriptor.
        """
        self._no_interrupt = suppress
        if suppress:
            self._wish(PackedLayout.DISABLE)
        elif self.event_idx:
            self._ask_for(self._used)
        else:
            self._wish(PackedLayout.ENABLE)

    def _ask_for(self, position: int) -> None:
        """Ask for an interrupt once this descriptor is used; the place is written first."""
        told = self._told(position)
        place, flags = self._driver_event
        if told != place:
            self._driver_event = told, flags
            self.driver_event.write(PackedLayout.EVENT_PLACE.offset, _HALF.pack(told))
        self._wish(PackedLayout.AT_DESCRIPTOR)

    def _wish(self, flags: int) -> None:
        place, before = self._driver_event
        if flags != before:
            self._driver_event = place, flags
            self.driver_event.write(PackedLayout.EVENT_FLAGS.offset, _HALF.pack(flags))
