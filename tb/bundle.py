"""Several components as one, so that one build of a simulator serves the benches of all."""

from amaranth import Module
from amaranth.hdl import Const, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

__all__ = ["Bundle"]


class Bundle(wiring.Component):
    """Components side by side, with nothing between them.

    The ports of the component given as ``name=`` get the prefix ``name__``: its stream ``i`` is
    ``name__i__payload`` and so on.
    """

    def __init__(self, **components: wiring.Component) -> None:
        self.components = components
        super().__init__({name: Out(component.signature)
                          for name, component in components.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, component in self.components.items():
            m.submodules[name] = component
            # By signal and not by `connect`: a flipped interface has no arrays of interfaces.
            inside = component.signature.flatten(component)
            outside = component.signature.flatten(getattr(self, name))
            for (_path, member, theirs), (_, _, ours) in zip(inside, outside, strict=True):
                one, other = Value.cast(theirs), Value.cast(ours)
                if member.flow is Out and not isinstance(other, Const):
                    m.d.comb += other.eq(one)
                elif member.flow is not Out and not isinstance(one, Const):
                    m.d.comb += one.eq(other)
        return m
