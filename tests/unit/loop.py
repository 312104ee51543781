"""A mirror instead of a card: what the host sends comes back, as if the card had sent it."""

from typing import Any

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import CompletionHeader, CreditLayout, RequestHeader, TlpLayout
from hw.stream.queue import StreamQueue
from hw.stream.types import BeatLayout, WireBeatLayout

__all__ = ["Loop"]


class Loop(wiring.Component):
    """The ports of the card, with ``cq`` tied to ``rq``, ``rc`` to ``cc``, the wire to itself."""

    cq: Any
    cc: Any
    rq: Any
    rc: Any
    wire_rx: Any
    wire_tx: Any

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        request = TlpLayout(lanes, RequestHeader())
        completion = TlpLayout(lanes, CompletionHeader())
        super().__init__({
            "cq": In(stream.Signature(request)), "rq": Out(stream.Signature(request)),
            "rc": In(stream.Signature(completion)), "cc": Out(stream.Signature(completion)),
            "np_credit": In(CreditLayout()),
            "wire_rx": In(stream.Signature(WireBeatLayout(lanes), always_ready=True)),
            "wire_tx": Out(stream.Signature(BeatLayout(lanes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for one, other in ((self.cq, self.rq), (self.rc, self.cc)):
            queue = StreamQueue(one.payload.shape(), 256)
            m.submodules += queue
            connect(m, flipped(one), queue.i)
            connect(m, queue.o, flipped(other))
        m.submodules.wire = wire = StreamQueue(BeatLayout(self.lanes), 512)
        m.d.comb += wire.i.valid.eq(self.wire_rx.valid)
        for name in ("data", "empty", "last"):
            m.d.comb += wire.i.payload[name].eq(self.wire_rx.payload[name])
        connect(m, wire.o, flipped(self.wire_tx))
        return m
