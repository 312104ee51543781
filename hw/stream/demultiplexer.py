"""Deal a stream out to several: by transfer, or by packet."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PacketDemultiplexer", "StreamDemultiplexer"]


class StreamDemultiplexer(wiring.Component):
    """Give each transfer to the output that ``select`` names.

    A transfer whose output stalls holds up all behind it. One for an output that does not exist
    (``select`` of ``outputs`` or more) is thrown away.

    | Latency: 1 cycle. Throughput: 1 transfer a cycle. Storage: 1 payload.
    | Paths: ``o.ready`` -> ``i.ready``; none forward.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.
    outputs
        How many outputs; at least 1.

    Members
    -------
    i : In(stream.Signature(shape))
    select : In(range(outputs))
        Belongs to the payload of ``i``: valid and held with it.
    o : Out(stream.Signature(shape)).array(outputs)
    """

    i: stream.Interface
    select: Signal
    o: list[stream.Interface]

    def __init__(self, shape: ShapeLike, outputs: int) -> None:
        if outputs < 1:
            raise ValueError(f"outputs must be at least 1, not {outputs!r}")
        self.shape = shape
        self.outputs = outputs
        super().__init__({
            "i": In(stream.Signature(shape)),
            "select": In(range(max(2, outputs))),
            "o": Out(stream.Signature(shape)).array(outputs),
        })

    def _target(self, m: Module, taken: Signal) -> Signal:
        """One-hot: where the payload at ``i`` goes."""
        target = Signal(self.outputs)
        m.d.comb += target.eq(Cat(self.select == k for k in range(self.outputs)))
        return target

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valids = Signal(self.outputs)  # at most one is set
        payload = Signal(self.shape, reset_less=True)
        taken = Signal()
        target = self._target(m, taken)
        stalled = Signal()
        m.d.comb += [
            stalled.eq((valids & ~Cat(o.ready for o in self.o)).any()),
            self.i.ready.eq(~stalled),
            taken.eq(self.i.valid & self.i.ready),
        ]
        for index, o in enumerate(self.o):
            m.d.comb += [o.valid.eq(valids[index]), o.payload.eq(payload)]
        with m.If(~stalled):
            m.d.sync += valids.eq(Mux(self.i.valid, target, 0))
            with m.If(self.i.valid):
                m.d.sync += payload.eq(self.i.payload)
        return m


class PacketDemultiplexer(StreamDemultiplexer):
    """Give each packet to the output that ``select`` names at its first beat.

    As `StreamDemultiplexer`; on later beats of a packet ``select`` means nothing.

    Parameters
    ----------
    shape
        A struct with a field ``last``.
    outputs
        How many outputs; at least 1.
    """

    def __init__(self, shape: data.StructLayout, outputs: int) -> None:
        if "last" not in shape.members:
            raise ValueError(f"shape must have a field 'last', not {shape!r}")
        super().__init__(shape, outputs)

    def _target(self, m: Module, taken: Signal) -> Signal:
        first = super()._target(m, taken)
        inside = Signal()
        held = Signal(self.outputs, reset_less=True)
        target = Signal(self.outputs)
        m.d.comb += target.eq(Mux(inside, held, first))
        with m.If(taken):
            m.d.sync += [inside.eq(~self.i.p.last), held.eq(target)]
        return target
