"""Give a wrapper's members to the component inside, for tests of several components together."""

from __future__ import annotations

from typing import Any

from amaranth import Module
from amaranth.hdl import Const, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

__all__ = ["expose"]


def expose(m: Module, inner: wiring.Component, outer: wiring.Component, name: str) -> None:
    """Connect the member ``name`` of ``inner`` with that of ``outer``, which has the same one."""
    members = wiring.Signature({name: inner.signature.members[name]})
    # By signal and not by `connect`: a flipped interface has no arrays of interfaces.
    inside, outside = members.flatten(inner), members.flatten(outer)
    member: Any
    for (_path, member, theirs), (_, _, ours) in zip(inside, outside, strict=True):
        one, other = Value.cast(theirs), Value.cast(ours)
        if member.flow is Out and not isinstance(other, Const):
            m.d.comb += other.eq(one)
        elif member.flow is not Out and not isinstance(one, Const):
            m.d.comb += one.eq(other)
