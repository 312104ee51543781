"""How fast a PCI Express link is, by the costs of its layers (Neugebauer et al., SIGCOMM 2018)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Link"]

_GIGATRANSFERS = {3: 8.0, 4: 16.0, 5: 32.0}
_ACK_BYTES = {128: 144, 256: 168, 512: 182}
"""Bytes from one acknowledgement, and one update of credits, to the next; by MPS, 16 lanes."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of ``lanes`` lanes of a generation, for TLPs of at most ``max_payload`` bytes."""

    generation: int = 3
    """3, 4 or 5."""
    lanes: int = 16
    """1 to 32, a power of two."""
    max_payload: int = 256
    """128, 256 or 512."""

    def __post_init__(self) -> None:
        for name, allowed in (("generation", tuple(_GIGATRANSFERS)),
                              ("lanes", (1, 2, 4, 8, 16, 32)),
                              ("max_payload", tuple(_ACK_BYTES))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, "
                                 f"not {getattr(self, name)!r}")

    @property
    def gbps(self) -> float:
        """Bandwidth for TLPs each way, Gbit/s: without acknowledgements, credits and skips."""
        raw = _GIGATRANSFERS[self.generation] * self.lanes * 128 / 130
        every = _ACK_BYTES[self.max_payload]
        return raw * (1 - 8 / every - 8 / every - 4 / 1538)

    def bytes_per_cycle(self, clock_mhz: int) -> float:
        """Give the same in bytes in each cycle of the card's clock."""
        return self.gbps * 1000 / 8 / clock_mhz
