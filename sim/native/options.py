"""How the host, the link and the wire of a native engine behave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.native.link import Link
from sim.native.memory import Placement

__all__ = ["SAMPLING", "SPLITTING", "EngineOptions"]

SPLITTING = ("large", "small", "random")
SAMPLING = ("answer", "arrival")


@dataclass(kw_only=True)
class EngineOptions:
    """How the host, the link and the wire behave. Times are in cycles of the card's clock."""

    latency_cycles: int = 250
    """From a read request's last beat to its first completion: 1 us at 250 MHz."""
    jitter_cycles: int = 0
    """Up to so much is added to each completion: reads with different tags overtake one another."""
    boundary_bytes: int = 64
    """Read completion boundary: 64 or 128."""
    splitting: Literal["large", "small", "random"] = "large"
    """Completions as large as may be, as small as may be, or cut at random boundaries."""
    sampling: Literal["answer", "arrival"] = "answer"
    """Whether memory is looked at when each completion leaves, or when the read arrives."""
    credits: int | None = None
    """Non-posted requests that the host holds at a time, 1 to 127 (None: any number)."""
    credit_cycles: int = 8
    """How long it holds one."""
    host_timeout_cycles: int = 20_000
    """When an access to the card is given up."""
    card_timeout_cycles: int = 256
    """The card may use the tag of an unanswered read again after so long."""
    patience_cycles: int = 2000
    """When a request that the card does not accept is reported."""
    link: Link | None = None
    """The PCI Express link (None: no limit but the card's streams)."""
    rx_rate: float | None = None
    """Bytes a cycle of the received line, 24 a frame beside its own (None: a beat every cycle)."""
    tx_rate: float | None = None
    """The same of the transmitted line."""
    stalls: float = 0.0
    """The chance in each cycle that a stream's other side turns from going to stalling or back."""
    keep: Literal["nothing", "records", "bytes"] = "bytes"
    """What is kept of frames on the wire until somebody takes it."""
    tlp_log: int = 65_536
    """Records of TLPs that are kept, 0 for none; the oldest are lost first."""
    placement: Placement = "mixed"
    """Where memory is allocated: below 4 GiB, above, or here and there."""
    seed: int = 1

    def __post_init__(self) -> None:
        self._choice("boundary_bytes", (64, 128))
        self._choice("splitting", SPLITTING)
        self._choice("sampling", SAMPLING)
        self._choice("keep", ("nothing", "records", "bytes"))
        self._range("latency_cycles", 0, 1 << 32)
        self._range("jitter_cycles", 0, 1 << 32)
        self._range("credit_cycles", 0, 1 << 32)
        self._range("host_timeout_cycles", 1, 1 << 40)
        self._range("card_timeout_cycles", 0, 1 << 40)
        self._range("patience_cycles", 1, 1 << 40)
        self._range("tlp_log", 0, 1 << 28)
        self._range("stalls", 0, 1)
        self._range("seed", 0, 1 << 60)
        if self.credits is not None:
            self._range("credits", 1, 127)
        for name in ("rx_rate", "tx_rate"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0 bytes a cycle, or None, not "
                                 f"{getattr(self, name)!r}")

    def _choice(self, name: str, allowed: tuple[object, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not "
                             f"{getattr(self, name)!r}")

    def _range(self, name: str, low: float, high: float) -> None:
        if not low <= getattr(self, name) <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {getattr(self, name)!r}")
