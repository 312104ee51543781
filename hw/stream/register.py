"""Register slices of a stream: which paths are cut, and what that costs."""

from amaranth import Module, Mux, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PipeRegister", "SkidRegister", "StreamRegister"]


class _Slice(wiring.Component):
    """A stage with a stream in and a stream out."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike) -> None:
        self.shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
        })


class StreamRegister(_Slice):
    """Register a stream in both directions, at one transfer a cycle.

    Every output, ``i.ready`` included, comes straight from a flip-flop: no path crosses this
    stage in either direction.

    ::

        i ──►┬──────────────►┌─────┐
             │   ┌───────┐   │ out │──► o
             └──►│ spare │──►└─────┘
                 └───────┘  filled only when a beat arrives and o is stalled

    | Latency: 1 cycle. Throughput: 1 transfer a cycle. Storage: 2 payloads.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Only control is reset. Payload registers are qualified by a valid bit, and a reset tree
        # over hundreds of data bits would buy nothing.
        out = Signal(self.shape, reset_less=True)
        out_valid = Signal()
        spare = Signal(self.shape, reset_less=True)
        spare_valid = Signal()

        m.d.comb += [
            self.i.ready.eq(~spare_valid),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
        ]

        # `spare` is older than anything at `i`, so it leaves first; and while it is full `i` is
        # not ready, so nothing is accepted that this choice would drop.
        with m.If(self.o.ready | ~out_valid):
            m.d.sync += [
                out_valid.eq(spare_valid | self.i.valid),
                spare_valid.eq(0),
            ]
            with m.If(spare_valid | self.i.valid):  # an idle stage costs a simulator no wide copy
                m.d.sync += out.eq(Mux(spare_valid, spare, self.i.payload))
        with m.Elif(self.i.ready):
            m.d.sync += spare_valid.eq(self.i.valid)
        # Filled whether it is needed or not: what it holds counts only with its valid bit, and so
        # the consumer's ready does not fan out to it.
        with m.If(~spare_valid & self.i.valid):
            m.d.sync += spare.eq(self.i.payload)

        return m


class PipeRegister(_Slice):
    """Register payload and valid of a stream; ready passes straight through.

    | Latency: 1 cycle. Throughput: 1 transfer a cycle. Storage: 1 payload.
    | Paths: ``o.ready`` -> ``i.ready`` (one gate); none forward.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        out = Signal(self.shape, reset_less=True)
        out_valid = Signal()
        m.d.comb += [
            self.i.ready.eq(self.o.ready | ~out_valid),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
        ]
        with m.If(self.i.ready):
            m.d.sync += out_valid.eq(self.i.valid)
            with m.If(self.i.valid):  # an idle stage costs a simulator no wide copy
                m.d.sync += out.eq(self.i.payload)
        return m


class SkidRegister(_Slice):
    """Register ready of a stream; payload and valid pass straight through while nothing stalls.

    | Latency: 0 cycles. Throughput: 1 transfer a cycle. Storage: 1 payload.
    | Paths: ``i.valid``, ``i.payload`` -> ``o`` (one multiplexer); none backward.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spare = Signal(self.shape, reset_less=True)
        spare_valid = Signal()
        m.d.comb += [
            self.i.ready.eq(~spare_valid),
            self.o.valid.eq(spare_valid | self.i.valid),
            self.o.payload.eq(Mux(spare_valid, spare, self.i.payload)),
        ]
        with m.If(~spare_valid & self.i.valid):
            m.d.sync += spare.eq(self.i.payload)
        m.d.sync += spare_valid.eq(self.o.valid & ~self.o.ready)
        return m
