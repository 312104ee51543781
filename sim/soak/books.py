"""What a soak counts, and how it fails."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

__all__ = ["Books", "SoakFailure"]


class SoakFailure(AssertionError):
    """A frame was lost, repeated, changed or out of order."""


@dataclass
class Books:
    """What was counted."""

    sent: int = 0
    received: int = 0
    given: int = 0
    """Frames for the card from the wire."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Of those, what the card said that it dropped."""
    given_up: int = 0
    """Frames to be sent that a reset took with it, in the rings or on their way."""
    resets: Counter[str] = field(default_factory=Counter)
    """Resets and suspensions, by kind."""
    manners: Counter[str] = field(default_factory=Counter)
    """What was drawn, one each card; and ``frames merged``: those over several buffers."""
    lives: int = 0
    """Times that a device was brought up, and carried traffic until a reset."""
    cycles: int = 0
    engine_cpu_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def packets(self) -> int:
        """Frames that went the whole way."""
        return self.sent + self.received

    def add(self, other: Books) -> None:
        """Count what another one has counted as well."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
