"""Payload that is read takes no more of the bus than payload that is written and waits."""

from typing import Any

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadRequestLayout
from hw.stream.types import LENGTH_BITS

__all__ = ["PayloadBalance"]

_AHEAD_MAX = 1024  # bytes by which reads may be ahead
_WAITED_CYCLES = 64


class PayloadBalance(wiring.Component):
    """Hold reads of payload up while writes of payload wait, and fewer bytes of those went.

    On the request bus a read takes a beat whatever it asks for, and a write as many as it has: in
    turns, transmitted frames would have all that they want, and received ones what is left. So the
    bytes of both are counted against each other while writes wait. Without writes that wait reads
    go as they come, and nothing is remembered. Reads of rings and descriptors are not held up.

    | Latency: none. Throughput: a segment a cycle. Storage: 26 bits.

    Parameters
    ----------
    lanes, context_bits
        As in `ReadRequestLayout`.

    Members
    -------
    i : In(stream.Signature(ReadRequestLayout(lanes, context_bits)))
    o : Out(stream.Signature(ReadRequestLayout(lanes, context_bits)))
    write_goes, write_waits : In(1)
        A segment of a write is taken, or stands and is not.
    write_length : In(17)
        Its bytes.
    """

    i: stream.Interface
    o: stream.Interface
    write_goes: Signal
    write_waits: Signal
    write_length: Signal

    def __init__(self, lanes: int, context_bits: int) -> None:
        shape = ReadRequestLayout(lanes, context_bits)
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)),
            "write_goes": In(1), "write_waits": In(1), "write_length": In(LENGTH_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read = Signal(LENGTH_BITS)   # what went in the last cycle
        written = Signal(LENGTH_BITS)
        ahead: Any = Signal(signed(LENGTH_BITS + 3))
        now: Any = Signal(signed(LENGTH_BITS + 3))
        waited = Signal(range(_WAITED_CYCLES + 1))  # so long ago no write needs to have waited
        blocked = Signal()
        m.d.comb += [
            self.o.payload.eq(self.i.payload),
            self.o.valid.eq(self.i.valid & ~blocked),
            self.i.ready.eq(self.o.ready & ~blocked),
            now.eq(ahead + read - written),
        ]
        m.d.sync += [
            read.eq(Mux(self.i.valid & self.i.ready, self.i.p.length, 0)),
            written.eq(Mux(self.write_goes, self.write_length, 0)),
            ahead.eq(Mux(now < -_AHEAD_MAX, -_AHEAD_MAX, now)),
        ]
        with m.If(self.write_waits):
            m.d.sync += waited.eq(_WAITED_CYCLES)
        with m.Elif(waited != 0):
            m.d.sync += waited.eq(waited - 1)
        with m.Else():
            m.d.sync += ahead.eq(0)
        # What is offered is not withdrawn.
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += blocked.eq((ahead > _AHEAD_MAX) & (waited != 0))
        return m
