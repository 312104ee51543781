"""What the write engine's tests run on: the engine and the requester, connected."""

from __future__ import annotations

from typing import Any

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.dma_write import DmaWrite
from hw.pcie.requester import Requester
from hw.pcie.types import (
    CreditLayout,
    ReadTlpLayout,
    RequestHeader,
    TlpLayout,
    WriteSegmentLayout,
)
from hw.stream.types import FUNCTION_BITS, BeatLayout

__all__ = ["DmaWritePath"]


class DmaWritePath(wiring.Component):
    """`DmaWrite` and behind it `Requester`."""

    segments: Any
    data: Any
    accepted: Any
    payload_size: Any
    bus_device: Any
    bus_master: Any
    np_credit: Any
    reads: Any
    reads_master: Any
    refused: Any
    rq: Any
    discarded: Any
    writes_accepted: Any
    writes_left: Any

    def __init__(self, lanes: int, *, clients: int, functions: int,
                 max_payload_bytes: int) -> None:
        self.engine = DmaWrite(lanes, clients=clients, functions=functions,
                               max_payload_bytes=max_payload_bytes)
        self.requester = Requester(lanes, functions=functions)
        super().__init__({
            "segments": In(stream.Signature(WriteSegmentLayout())).array(clients),
            "data": In(stream.Signature(BeatLayout(lanes))).array(clients),
            "accepted": Out(1).array(clients),
            "payload_size": In(3),
            "bus_device": In(13),
            "bus_master": In(functions),
            "discarded": Out(stream.Signature(FUNCTION_BITS, always_ready=True)),
            "reads": In(stream.Signature(ReadTlpLayout())),
            "reads_master": In(functions),
            "refused": Out(stream.Signature(10)),
            "np_credit": In(CreditLayout()),
            "rq": Out(stream.Signature(TlpLayout(lanes, RequestHeader()))),
            "writes_accepted": Out(8),
            "writes_left": Out(8),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.requester = requester = self.requester
        for outside, inside in zip((*self.segments, *self.data), (*engine.segments, *engine.data),
                                   strict=True):
            connect(m, flipped(outside), inside)
        connect(m, engine.tlps, requester.writes)
        connect(m, engine.discarded, flipped(self.discarded))
        connect(m, flipped(self.reads), requester.reads)
        connect(m, requester.refused, flipped(self.refused))
        connect(m, requester.rq, flipped(self.rq))
        m.d.comb += [
            *(outside.eq(inside) for outside, inside in
              zip(self.accepted, engine.accepted, strict=True)),
            engine.payload_size.eq(self.payload_size),
            engine.bus_device.eq(self.bus_device),
            engine.bus_master.eq(self.bus_master),
            requester.writes_accepted.eq(engine.writes_accepted),
            requester.bus_master.eq(self.reads_master),
            requester.np_credit.eq(self.np_credit),
            self.writes_accepted.eq(engine.writes_accepted),
            self.writes_left.eq(requester.writes_left),
        ]
        return m
