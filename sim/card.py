"""The whole card for a simulator: elaborated only when something that it is made of has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import amaranth
from amaranth.lib import wiring

import hw
from hw.config import NicConfig

__all__ = ["Design", "card_design"]


@dataclass(frozen=True)
class Design:
    """A component that is made when it is needed, and the name of all that it is made of.

    Equal names, equal designs: who keeps what was built from it under that name need not make it.
    """

    make: Callable[[], wiring.Component]
    made_of: str


def card_design(config: NicConfig) -> Design:
    """Give the whole card of a configuration. Elaborating it takes half a minute; this does not."""
    def make() -> wiring.Component:
        from hw.nic import SmartNic  # noqa: PLC0415  # only who makes it needs the whole house

        return SmartNic(config)

    text = hashlib.sha256(f"{amaranth.__version__} {config}".encode())  # type: ignore[attr-defined]
    root = Path(hw.__file__).parent
    for source in sorted(root.rglob("*.py")):
        text.update(f"{source.relative_to(root)}\n".encode() + source.read_bytes())
    return Design(make, text.hexdigest())
