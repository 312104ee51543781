"""Rings as no driver may keep them: written straight into memory, with nothing checked.

Who fills these rings decides what is in them. What is kept is what must be known of it later:
which chains the card was given, and which of them it has used.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.fuzz.arena import Arena, Broken

__all__ = ["Area", "Fate", "Given", "HostileRing", "Modes", "Raw", "Used"]


class Raw(NamedTuple):
    """A descriptor: ``link`` is the next field of a split ring's, if it is not what comes next.

    A negative one, -1 - n, is the place of the chain's own descriptor n.
    """

    address: int
    length: int
    flags: int
    link: int | None = None


class Area(NamedTuple):
    """Where a part of a ring lies."""

    address: int


class Fate(enum.Enum):
    """What is to become of a chain."""

    GOOD = "good"
    """It is used, once."""
    BAD = "bad"
    """It is a fault, before anything of it is touched, and nothing behind it is used."""
    LATE = "late"
    """It is a fault, but what is behind it may be on its way by then."""


@dataclass(eq=False)
class Given:
    """A chain that the card was given."""

    fate: Fate
    why: str
    buffers: list[tuple[int, int]] = field(default_factory=list)
    named: list[tuple[int, int, bool]] = field(default_factory=list)
    """What the card may touch because of it: address, bytes, whether it is written."""
    frame: bytes | None = None
    """What it sends."""
    reasons: frozenset[int] = frozenset()
    lost: bool = False
    """What is written to it goes nowhere."""
    number: int = 0
    places: list[int] = field(default_factory=list)
    order: int = 0

    @property
    def room(self) -> int:
        """Bytes of all buffers."""
        return sum(size for _address, size in self.buffers)


class Used(NamedTuple):
    """A chain that came back; ``written`` is None where a later one's entry stands for it."""

    chain: Given
    written: int | None


class Modes(NamedTuple):
    """What was agreed on."""

    packed: bool = False
    event_idx: bool = False
    in_order: bool = False
    indirect: bool = False
    mrg_rxbuf: bool = False
    notification_data: bool = False


class HostileRing:
    """What both kinds of rings have in common.

    Parameters
    ----------
    arena
        Where it lies.
    size
        Entries.
    modes
        What was agreed on.
    rng
        Draws places and ids.
    """

    def __init__(self, arena: Arena, size: int, modes: Modes, rng: random.Random) -> None:
        self.arena = arena
        self.size = size
        self.modes = modes
        self.rng = rng
        self.chains: deque[Given] = deque()
        """Given, and not used."""
        self.given: list[Given] = []
        # For the driver around it there is nothing in here.
        self.outstanding = 0
        self.indirect = None
        self.free_descriptors = 0
        self.name = "hostile ring"

    # What the driver around it asks of a ring.

    @property
    def areas(self) -> tuple[Area, Area, Area]:
        """Descriptors, what else the driver writes, what the device writes."""
        raise NotImplementedError

    @property
    def kick_data(self) -> int:
        """What NOTIFICATION_DATA tells, if it is true."""
        raise NotImplementedError

    def suppress_interrupts(self, suppress: bool) -> None:
        """Do nothing: interrupts are asked for by `wish`."""

    def has_used(self) -> bool:
        """Nothing is there for the driver around it."""
        return False

    def take_used(self) -> None:
        """Nothing is there for the driver around it."""

    def free(self) -> list[Any]:
        """Do nothing: the arena is freed as a whole."""
        return []

    # What it is for.

    def room(self) -> int:
        """Descriptors that a chain may have now."""
        raise NotImplementedError

    def add(self, raws: Sequence[Raw], chain: Given, *, head: int | None = None) -> None:
        """Write a chain that `publish` shows; its number and places are put into ``chain``."""
        raise NotImplementedError

    def publish(self) -> None:
        """Show what was added."""
        raise NotImplementedError

    def false_kick_data(self) -> int:
        """Give something that NOTIFICATION_DATA may tell without showing more than is shown."""
        raise NotImplementedError

    def wish(self, interrupts: bool) -> None:
        """Ask for interrupts from the next used entry on, or for none."""
        raise NotImplementedError

    def scramble(self, scratch: Sequence[Raw]) -> None:
        """Overwrite something, as if it had always been so: descriptors like those given."""
        raise NotImplementedError

    def _entry(self) -> tuple[int, int] | None:
        """Give id and bytes of the used entry that comes next, if it is there."""
        raise NotImplementedError

    def _let_go(self, chain: Given) -> None:
        """Take the places of a chain back, and go on behind its used entry."""
        raise NotImplementedError

    def _remember(self, chain: Given) -> None:
        chain.order = len(self.given)
        self.given.append(chain)
        self.chains.append(chain)

    def poll(self) -> list[Used]:
        """Take what came back. `Broken` when it was not there to be used."""
        found: list[Used] = []
        while (entry := self._entry()) is not None:
            number, written = entry
            place = next((place for place, chain in enumerate(self.chains)
                          if chain.number == number), None)
            if place is None:
                raise Broken(f"a used entry names {number}, which is no chain of the card")
            if self.modes.in_order:
                # One entry stands for all chains up to the one that it names, and the next one
                # lies behind the places of them all.
                batch = [self.chains.popleft() for _ in range(place + 1)]
            else:
                batch = [self.chains[place]]
                del self.chains[place]
            for chain in batch:
                found.append(Used(chain, written if chain is batch[-1] else None))
                self._let_go(chain)
        return found
