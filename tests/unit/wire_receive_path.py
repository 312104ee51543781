"""The receive side of hw/wire put together, for its bench: from the wire to queued frames."""

from typing import Any

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.stream.connect import connect_streams
from hw.stream.types import BeatLayout, WireBeatLayout
from hw.virtio.types import QueueLayout
from hw.wire.admission import Admission
from hw.wire.entry import EntryFifo
from hw.wire.frame_queues import FrameQueues
from hw.wire.pool import PacketPool
from hw.wire.types import (
    AdmissionDropLayout,
    ArrivalLayout,
    EnteredLayout,
    EntryDrop,
    FrameHandle,
    HeadSignature,
    PoolReadLayout,
    SteeredLayout,
)

__all__ = ["WireReceivePath"]


class WireReceivePath(wiring.Component):
    """EntryFifo, Admission, PacketPool and FrameQueues; steering is the bench's."""

    def __init__(self, lanes: int, *, entry_bytes: int, cell_bytes: int, pool_bytes: int,
                 max_frame_bytes: int, queues: int, share: int = 0) -> None:
        self.pool = PacketPool(lanes, cell_bytes=cell_bytes, pool_bytes=pool_bytes,
                               max_frame_bytes=max_frame_bytes)
        cells = self.pool.cells
        self.entry = EntryFifo(lanes, entry_bytes=entry_bytes, max_frame_bytes=max_frame_bytes)
        self.admission = Admission(lanes, cells=cells, cell_bytes=cell_bytes,
                                   max_frame_bytes=max_frame_bytes, share=share)
        self.queues = FrameQueues(queues=queues, cells=cells, cell_bytes=cell_bytes)
        super().__init__({
            "wire": In(stream.Signature(WireBeatLayout(lanes), always_ready=True)),
            "lengths": Out(stream.Signature(EnteredLayout())),
            "steered": In(stream.Signature(SteeredLayout())),
            "entry_drops": Out(stream.Signature(EntryDrop, always_ready=True)),
            "admission_drops": Out(stream.Signature(AdmissionDropLayout(), always_ready=True)),
            "arrivals": Out(stream.Signature(ArrivalLayout())),
            "head": In(HeadSignature()),
            "pops": In(stream.Signature(QueueLayout())),
            "popped": Out(stream.Signature(FrameHandle(cells))),
            "reads": In(stream.Signature(PoolReadLayout(cells))),
            "data": Out(stream.Signature(BeatLayout(lanes))),
            "free_cells": Out(range(cells + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        this: Any = self
        entry, admission, pool, queues = self.entry, self.admission, self.pool, self.queues
        m.submodules.entry = entry
        m.submodules.admission = admission
        m.submodules.pool = pool
        m.submodules.queues = queues
        for inner, outer in (
                (entry.wire, this.wire), (entry.lengths, this.lengths),
                (entry.drops, this.entry_drops), (admission.steered, this.steered),
                (admission.drops, this.admission_drops), (queues.arrivals, this.arrivals),
                (queues.pops, this.pops), (queues.popped, this.popped),
                (pool.reads, this.reads), (pool.data, this.data)):
            connect_streams(m, inner, flipped(outer))
        connect_streams(m, entry.frames, admission.frames)
        connect_streams(m, admission.reserve, pool.reserve)
        connect_streams(m, admission.write, pool.write)
        connect_streams(m, pool.frames, admission.stored)
        connect_streams(m, admission.queued, queues.push)
        connect(m, admission.held, queues.held)
        connect(m, flipped(this.head), queues.head)
        m.d.comb += [
            admission.free_cells.eq(pool.free_cells),
            this.free_cells.eq(pool.free_cells),
        ]
        return m
