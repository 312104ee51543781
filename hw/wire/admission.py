"""Admission: which received frames get into the packet pool."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.queue import StreamQueue
from hw.stream.types import LENGTH_BITS, QUEUE_BITS, BeatLayout, check_lanes
from hw.virtio.types import QueueLayout
from hw.wire.types import (
    AdmissionDrop,
    AdmissionDropLayout,
    FrameHandle,
    HeldSignature,
    PoolWriteLayout,
    QueuedFrame,
    SteeredLayout,
)

__all__ = ["Admission"]

_ON_THE_WAY_MAX = 16  # frames between their first row in the pool and their queue


class Admission(wiring.Component):
    """Move whole frames from the entry FIFO into the pool, or drop them.

    A frame is admitted if the pool has the cells for it, and its queue then holds no more than

        max(reserve_cells, free cells * 2 ** share)

    So a queue that nobody empties takes a share of the pool, which shrinks as others fill theirs,
    and the rest stays free for others. The limit is soft: what is on its way into its queue, up to
    16 frames, is not counted yet. Both are looked at while the frame before moves: what becomes
    free later does not count. A dropped frame is an event.

    | Latency: 2 cycles from ``steered`` to ``write``, 0 from ``frames``. Throughput: a beat a
      cycle, frames of one beat included. Storage: 18 queue numbers.

    Parameters
    ----------
    lanes
        Byte lanes of a beat.
    cells, cell_bytes, max_frame_bytes
        Those of the pool.
    share
        See above, 0 to 7.
    reserve_cells
        What a queue may always hold, if it is free. None: a frame of the longest.

    Members
    -------
    steered : In(stream.Signature(SteeredLayout()))
    frames : In(stream.Signature(BeatLayout(lanes)))
        The frames of ``steered``, in order.
    held : Out(HeldSignature(cells))
    free_cells : In(range(cells + 1))
        Of the pool, which has no other client.
    reserve : Out(stream.Signature(range(max_cells + 1)))
        Always ready, where ``free_cells`` says so.
    write : Out(stream.Signature(PoolWriteLayout(lanes)))
    stored : In(stream.Signature(FrameHandle(cells)))
        The pool's frames.
    queued : Out(stream.Signature(QueuedFrame(cells)))
    drops : Out(stream.Signature(AdmissionDropLayout(), always_ready=True))
        An event for each frame that was not admitted.
    """

    steered: stream.Interface
    frames: stream.Interface
    held: Any  # HeldSignature
    free_cells: Signal
    reserve: stream.Interface
    write: stream.Interface
    stored: stream.Interface
    queued: stream.Interface
    drops: stream.Interface

    def __init__(self, lanes: int, *, cells: int, cell_bytes: int, max_frame_bytes: int,
                 share: int = 0, reserve_cells: int | None = None) -> None:
        check_lanes(lanes)
        if cell_bytes < lanes or cell_bytes & (cell_bytes - 1):
            raise ValueError(f"cell_bytes must be a power of two and at least {lanes}, "
                             f"not {cell_bytes!r}")
        if not 0 <= share <= 7:
            raise ValueError(f"share must be from 0 to 7, not {share!r}")
        max_cells = -(-max_frame_bytes // cell_bytes)
        if not 1 <= max_cells <= cells:
            raise ValueError(f"max_frame_bytes must fit into the pool, not {max_frame_bytes!r}")
        if reserve_cells is None:
            reserve_cells = max_cells
        if not 0 <= reserve_cells <= cells:
            raise ValueError(f"reserve_cells must be from 0 to cells ({cells}), "
                             f"not {reserve_cells!r}")
        self.lanes = lanes
        self.cells = cells
        self.cell_bytes = cell_bytes
        self.max_cells = max_cells
        self.share = share
        self.reserve_cells = reserve_cells
        super().__init__({
            "steered": In(stream.Signature(SteeredLayout())),
            "frames": In(stream.Signature(BeatLayout(lanes))),
            "held": Out(HeldSignature(cells)),
            "free_cells": In(range(cells + 1)),
            "reserve": Out(stream.Signature(range(max_cells + 1))),
            "write": Out(stream.Signature(PoolWriteLayout(lanes))),
            "stored": In(stream.Signature(FrameHandle(cells))),
            "queued": Out(stream.Signature(QueuedFrame(cells))),
            "drops": Out(stream.Signature(AdmissionDropLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.on_the_way = on_the_way = StreamQueue(QueueLayout(), _ON_THE_WAY_MAX)

        limit = Signal(range(max(self.cells << self.share, self.reserve_cells) + 1),
                       init=self.reserve_cells)
        m.d.sync += limit.eq(Mux((self.free_cells << self.share) > self.reserve_cells,
                                 self.free_cells << self.share, self.reserve_cells))

        # The frame that comes next: what its queue holds is looked up as it comes here.
        looked = Signal()
        looked_queue = Signal(QUEUE_BITS, reset_less=True)
        looked_cells = Signal(range(self.max_cells + 1), reset_less=True)
        last_byte = Signal(LENGTH_BITS)
        cell_bits = (self.cell_bytes - 1).bit_length()
        # The frame at hand.
        known = Signal()
        queue = Signal(QUEUE_BITS, reset_less=True)
        cells = Signal.like(looked_cells, reset_less=True)
        has_share = Signal(reset_less=True)
        has_room = Signal(reset_less=True)
        inside = Signal()  # its first beat has gone
        moves_on = Signal()
        done = Signal()
        m.d.comb += [
            moves_on.eq(~known | done),
            self.steered.ready.eq(~looked | moves_on),
            self.held.queue.eq(self.steered.p.queue),
            self.held.enable.eq(self.steered.valid & self.steered.ready),
            last_byte.eq(self.steered.p.bytes - 1),
        ]
        with m.If(self.steered.ready):
            m.d.sync += looked.eq(self.steered.valid)
        with m.If(self.held.enable):
            m.d.sync += [
                looked_queue.eq(self.steered.p.queue),
                looked_cells.eq((last_byte >> cell_bits) + 1),
            ]
        with m.If(moves_on):
            m.d.sync += [
                known.eq(looked),
                queue.eq(looked_queue),
                cells.eq(looked_cells),
                has_share.eq(self.held.cells + looked_cells <= limit),
                # Nobody else reserves, so what is free remains; but what the frame before takes in
                # this very cycle, if it does, is not counted yet.
                has_room.eq(looked_cells + Mux(known & ~inside, cells, 0) <= self.free_cells),
            ]

        # The decision falls with the first beat.
        admitted = Signal()
        admits = Signal()
        m.d.comb += [
            admits.eq(Mux(inside, admitted, has_room & has_share)),
        ]

        beat = self.frames.p
        moves = Signal()
        first = Signal()
        m.d.comb += [
            self.write.valid.eq(known & self.frames.valid & admits
                                & (inside | on_the_way.i.ready)),
            self.frames.ready.eq(known & Mux(admits, self.write.ready
                                             & (inside | on_the_way.i.ready), 1)),
            moves.eq(self.frames.valid & self.frames.ready),
            first.eq(moves & ~inside),
            done.eq(moves & beat.last),
            self.write.p.data.eq(beat.data),
            self.write.p.start.eq(0),
            self.write.p.empty.eq(beat.empty),
            self.write.p.context.eq(0),
            self.write.p.begin.eq(~inside),
            self.write.p.end.eq(beat.last),
            self.write.p.abort.eq(0),
            self.reserve.valid.eq(first & admits),
            self.reserve.payload.eq(cells),
            on_the_way.i.valid.eq(first & admits),
            on_the_way.i.p.queue.eq(queue),
            self.drops.valid.eq(first & ~admits),
            self.drops.p.queue.eq(queue),
            self.drops.p.reason.eq(
                Mux(has_room, AdmissionDrop.QUEUE_FULL, AdmissionDrop.POOL_FULL)),
        ]
        with m.If(moves):
            m.d.sync += [inside.eq(~beat.last), admitted.eq(admits)]

        m.d.comb += [
            self.queued.valid.eq(self.stored.valid & on_the_way.o.valid),
            self.queued.p.queue.eq(on_the_way.o.p.queue),
            self.queued.p.frame.eq(self.stored.payload),
            self.stored.ready.eq(self.queued.ready & on_the_way.o.valid),
            on_the_way.o.ready.eq(self.queued.ready & self.stored.valid),
        ]
        return m
