"""One queue of a vhost-user front-end: where its ring lies, its descriptors, where it stands."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from sim.guest.vhost_user_card import QueueSetup
from sim.guest.vhost_user_memory import GuestMemory
from sim.guest.vhost_user_messages import ProtocolError, VringAddress, close_all
from sw_driver.layouts import DescriptorFlag, PackedLayout, SplitLayout

__all__ = ["FrontEndRing", "base_of"]

_ONE = (1).to_bytes(8, "little")
_FIRST_LAP = 0x8000
"""The place 0 of a packed ring with its wrap counter 1."""
_DESCRIPTOR = 16


def base_of(position: int, packed: bool) -> int:
    """Give a position of the card as GET_VRING_BASE tells it.

    In a packed ring that is the available place and the used one, each with its wrap counter.
    """
    return position | position << 16 if packed else position


@dataclass(eq=False)
class FrontEndRing:
    """What a front-end has said of one of its queues. Descriptors here belong to it."""

    index: int
    size: int = 0
    address: VringAddress | None = None
    base: int = 0
    """As SET_VRING_BASE said, or as the queue stood when it was stopped."""
    kick: int | None = None
    call: int | None = None
    error: int | None = None
    stopped: bool = True
    """Not started since the front-end asked for its base, or set it."""
    enabled: bool = False
    call_due: bool = False
    """The card has raised its interrupt, and the front-end was not told."""

    @property
    def ready(self) -> bool:
        """Whether the card may run it."""
        return (not self.stopped and self.enabled and self.size > 0 and self.address is not None)

    def setup(self, memory: GuestMemory, packed: bool) -> QueueSetup:
        """Give the queue as the card is to have it; `ProtocolError` where it lies nowhere."""
        address = self.address
        assert address is not None
        size = self.size
        if not packed and size & (size - 1):
            raise ProtocolError(f"queue {self.index} of {size} entries: a split ring must have a "
                                "power of two")
        driver, device = PackedLayout.EVENT_BYTES, PackedLayout.EVENT_BYTES
        if not packed:
            # The event fields behind the rings are there even where nobody uses them.
            driver = SplitLayout.used_event(size).offset + 2
            device = SplitLayout.avail_event(size).offset + 2
        descriptors = memory.translate(address.descriptors, _DESCRIPTOR * size)
        available = memory.translate(address.available, driver)
        used = memory.translate(address.used, device)
        if address.logged and address.log != used:
            raise ProtocolError(f"queue {self.index}: its used ring at {used:#x} is to be logged "
                                f"as {address.log:#x}, must be the same")
        for what, at, align in (("descriptors", descriptors, 16),
                                ("available ring", available, 4 if packed else 2),
                                ("used ring", used, 4)):
            if at % align:
                raise ProtocolError(f"queue {self.index}: {what} at {at:#x}, must be a multiple "
                                    f"of {align}")
        position = (self._packed_position(memory, descriptors) if packed
                    else self._split_position(memory, used))
        return QueueSetup(self.index, size, descriptors, available, used, position)

    def _split_position(self, memory: GuestMemory, used: int) -> int | None:
        """Give where a split ring begins: where its used ring says.

        The card keeps one position for both rings. What another device had taken and not used is
        taken again: its chains are used in the order of the ring, so that is right.
        """
        at = memory.read(used + SplitLayout.INDEX.offset, SplitLayout.INDEX.size)
        return int.from_bytes(at, "little") or None

    def _packed_position(self, memory: GuestMemory, descriptors: int) -> int | None:
        """Give where a packed ring begins, by the used half where front-ends give one.

        A fresh ring is told as 80008000h, 8000h or 0. The last is also a ring that begins its
        second lap: there the first descriptor has been used, and in a fresh one it has not.
        """
        used = self.base >> 16
        position = used or self.base & 0xFFFF
        if (position & 0x7FFF) >= self.size:
            raise ProtocolError(f"queue {self.index} of {self.size} entries begins at "
                                f"{position & 0x7FFF}")
        if position == 0:
            flags = memory.read(descriptors + PackedLayout.FLAGS.offset, PackedLayout.FLAGS.size)
            return 0 if int.from_bytes(flags, "little") & DescriptorFlag.USED else None
        return None if position == _FIRST_LAP else position

    # --- descriptors

    def take_kick(self) -> bool:
        """Take what has been written to the kick; False when nobody can write any more."""
        assert self.kick is not None
        try:
            return bool(os.read(self.kick, 8))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def signal(self) -> None:
        """Write to the call: exactly 8 bytes. What finds no room would say nothing new."""
        if self.call is not None:
            _write_one(self.call)
            self.call_due = False

    def signal_error(self) -> None:
        """Tell that the queue does not work."""
        if self.error is not None:
            _write_one(self.error)

    def close(self) -> None:
        """Close all descriptors."""
        close_all(fd for fd in (self.kick, self.call, self.error) if fd is not None)
        self.kick = self.call = self.error = None


def _write_one(fd: int) -> None:
    try:
        os.write(fd, _ONE)
    except OSError:  # no room, or nobody there: then its socket tells, too
        pass


def check_event(fd: int, what: str) -> int:
    """Give a descriptor that is to be waited for or signalled, made never to block."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise ProtocolError(f"{what} is a file, must be an eventfd or a pipe")
        os.set_blocking(fd, False)
    except (OSError, ProtocolError) as error:
        close_all([fd])
        raise ProtocolError(f"{what}: {error}") from None
    return fd
