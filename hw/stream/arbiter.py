"""Merge streams into one: by transfer, or by packet."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PacketArbiter", "PassingArbiter", "StreamArbiter", "above", "lowest"]


def lowest(requests: Value) -> Value:
    """Keep the lowest bit that is set; without an adder, so with fewer levels."""
    return Cat(requests[k] & ~requests[:k].any() if k else requests[0]
               for k in range(len(requests)))


def above(one_hot: Value) -> Value:
    """Set the bits above the one that is set."""
    return Cat(one_hot[:k].any() if k else Const(0) for k in range(len(one_hot)))


class StreamArbiter(wiring.Component):
    """Merge streams, one transfer of each in turn (round robin over those that are valid).

    An input that is valid waits for at most one transfer of each other input.

    | Latency: 1 cycle. Throughput: 1 transfer a cycle, from any input or mix of them.
    | Storage: 1 payload. Paths: ``o.ready`` and all ``i.valid`` -> ``i.ready``; none forward.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.
    inputs
        How many streams are merged; at least 1.

    Members
    -------
    i : In(stream.Signature(shape)).array(inputs)
    o : Out(stream.Signature(shape))
    source : Out(range(inputs))
        The input that the transfer on ``o`` came from; valid with ``o.valid``.
    """

    i: list[stream.Interface]
    o: stream.Interface
    source: Signal

    def __init__(self, shape: ShapeLike, inputs: int) -> None:
        if inputs < 1:
            raise ValueError(f"inputs must be at least 1, not {inputs!r}")
        self.shape = shape
        self.inputs = inputs
        super().__init__({
            "i": In(stream.Signature(shape)).array(inputs),
            "o": Out(stream.Signature(shape)),
            "source": Out(range(max(2, inputs))),
        })

    def _ends(self, payload: Any) -> Value | int:
        """Whether the turn of an input ends with this payload."""
        return 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valids = Signal(self.inputs)
        later = Signal(self.inputs)    # inputs after the one that was served last
        locked = Signal()              # inside a packet of the input `holder`
        holder = Signal(self.inputs)
        turn = Signal(self.inputs)     # one-hot, when anything is valid
        grant = Signal(self.inputs)
        chosen = Signal(self.shape)
        accepts = Signal()
        out = Signal(self.shape, reset_less=True)
        out_source = Signal.like(self.source, reset_less=True)
        out_valid = Signal()

        preferred = Signal(self.inputs)
        m.d.comb += [
            valids.eq(Cat(i.valid for i in self.i)),
            preferred.eq(valids & later),
            turn.eq(Mux(preferred.any(), lowest(preferred), lowest(valids))),
            grant.eq(Mux(locked, holder, turn)),
            accepts.eq(self.o.ready | ~out_valid),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
            self.source.eq(out_source),
        ]
        for index, i in enumerate(self.i):
            m.d.comb += i.ready.eq(accepts & grant[index])

        # One AND-OR over the inputs, wide words are not decoded from a number.
        def select(values: list[Value]) -> Value:
            return reduce(or_, (Mux(grant[k], value, 0) for k, value in enumerate(values)))

        m.d.comb += Value.cast(chosen).eq(select([Value.cast(i.payload) for i in self.i]))
        moves = Signal()
        m.d.comb += moves.eq((grant & valids).any())
        with m.If(accepts):
            m.d.sync += out_valid.eq(moves)
            with m.If(moves):
                m.d.sync += [
                    Value.cast(out).eq(Value.cast(chosen)),
                    out_source.eq(select([Value.cast(k) for k in range(self.inputs)])),
                    locked.eq(~self._ends(chosen)),
                    holder.eq(grant),
                    later.eq(above(grant)),
                ]
        return m


class PacketArbiter(StreamArbiter):
    """Merge packet streams, one whole packet of each in turn.

    As `StreamArbiter`, but an input once begun is served up to and with its ``last``; there is no
    idle cycle between packets, whichever inputs they come from. An input that stops inside a packet
    stops all: packets are to be offered when they can be given without a wait for others.

    Parameters
    ----------
    shape
        A struct with a field ``last``.
    inputs
        How many streams are merged; at least 1.
    """

    def __init__(self, shape: data.StructLayout, inputs: int) -> None:
        if "last" not in shape.members:
            raise ValueError(f"shape must have a field 'last', not {shape!r}")
        super().__init__(shape, inputs)

    def _ends(self, payload: Any) -> Value | int:
        last: Value = payload.last
        return last


class PassingArbiter(wiring.Component):
    """Merge streams as `StreamArbiter` does, without a register on the way.

    What was offered and not taken stays on offer: another input comes after it.

    | Latency: 0 cycles. Throughput: 1 transfer a cycle, from any input or mix of them.
    | Storage: none. Paths: all ``i.valid`` and payloads -> ``o`` and ``i.ready``; ``o.ready`` ->
      ``i.ready``.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.
    inputs
        How many streams are merged; at least 1.

    Members
    -------
    i : In(stream.Signature(shape)).array(inputs)
    o : Out(stream.Signature(shape))
    source : Out(range(inputs))
        The input that the transfer on ``o`` comes from; valid with ``o.valid``.
    """

    i: list[stream.Interface]
    o: stream.Interface
    source: Signal

    def __init__(self, shape: ShapeLike, inputs: int) -> None:
        if inputs < 1:
            raise ValueError(f"inputs must be at least 1, not {inputs!r}")
        self.shape = shape
        self.inputs = inputs
        super().__init__({
            "i": In(stream.Signature(shape)).array(inputs),
            "o": Out(stream.Signature(shape)),
            "source": Out(range(max(2, inputs))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valids = Signal(self.inputs)
        later = Signal(self.inputs)    # inputs after the one that was served last
        preferred = Signal(self.inputs)
        waits = Signal()               # what `holder` offers was not taken yet
        holder = Signal(self.inputs, reset_less=True)
        grant = Signal(self.inputs)    # one-hot, when anything is valid

        def select(values: list[Value]) -> Value:
            return reduce(or_, (Mux(grant[k], value, 0) for k, value in enumerate(values)))

        m.d.comb += [
            valids.eq(Cat(i.valid for i in self.i)),
            preferred.eq(valids & later),
            grant.eq(Mux(waits, holder,
                         Mux(preferred.any(), lowest(preferred), lowest(valids)))),
            self.o.valid.eq(valids.any()),
            Value.cast(self.o.payload).eq(select([Value.cast(i.payload) for i in self.i])),
            self.source.eq(select([Value.cast(k) for k in range(self.inputs)])),
        ]
        for index, i in enumerate(self.i):
            m.d.comb += i.ready.eq(self.o.ready & grant[index])
        m.d.sync += waits.eq(self.o.valid & ~self.o.ready)
        with m.If(self.o.valid):
            m.d.sync += [holder.eq(grant), later.eq(above(grant))]
        return m
