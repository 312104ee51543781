"""Frames that wait in the pool for their receive queue: one first-in first-out list a queue."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.hdl import Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.memory import ForwardingMemory
from hw.stream.queue import StreamQueue
from hw.stream.types import LENGTH_BITS
from hw.virtio.types import QueueLayout
from hw.wire.types import (
    ArrivalLayout,
    FrameHandle,
    HeadSignature,
    HeldSignature,
    QueuedFrame,
)

__all__ = ["FrameQueues"]

_ARRIVALS_MAX = 16
_POPPED_MAX = 4


class FrameQueues(wiring.Component):
    """Keep the handles of stored frames, in order, for each receive queue.

    The lists lie in memory: each frame's entry, at the number of its first cell, holds the handle
    of the one behind it. A queue's context is its first handle, its last cell, and the cells it
    holds. A push or a pop starts each cycle, in turn when both wait; also of the same queue again
    and again.

    | Latency: 3 cycles from ``push`` to ``arrivals``, 3 from ``pops`` to ``popped``.
    | Throughput: a push or a pop a cycle.
    | Storage: a handle a cell, and two cell numbers, a handle and a length a queue, in memory.
    | After a reset the first push waits a cycle for each queue, in which contexts are cleared.

    Parameters
    ----------
    queues
        Data queues of the card, at least 2; frames are pushed to even numbers alone.
    cells
        Cells of the pool.
    cell_bytes
        A cell, a power of two.

    Members
    -------
    push : In(stream.Signature(QueuedFrame(cells)))
    arrivals : Out(stream.Signature(ArrivalLayout()))
        One for each frame, when it can be popped.
    pops : In(stream.Signature(QueueLayout()))
        Take the oldest frame of the queue. There must be one.
    popped : Out(stream.Signature(FrameHandle(cells)))
        The answers, in order.
    held : In(HeldSignature(cells))
        The cells that a queue's frames occupy here.
    head : In(HeadSignature())
        The length of a queue's oldest frame.
    """

    push: stream.Interface
    arrivals: stream.Interface
    pops: stream.Interface
    popped: stream.Interface
    held: Any  # HeldSignature
    head: Any  # HeadSignature

    def __init__(self, *, queues: int, cells: int, cell_bytes: int) -> None:
        if queues < 2:
            raise ValueError(f"queues must be at least 2, not {queues!r}")
        if cell_bytes < 2 or cell_bytes & (cell_bytes - 1):
            raise ValueError(f"cell_bytes must be a power of two, at least 2, not {cell_bytes!r}")
        self.queues = queues
        self.cells = cells
        self.cell_bytes = cell_bytes
        super().__init__({
            "push": In(stream.Signature(QueuedFrame(cells))),
            "arrivals": Out(stream.Signature(ArrivalLayout())),
            "pops": In(stream.Signature(QueueLayout())),
            "popped": Out(stream.Signature(FrameHandle(cells))),
            "held": In(HeldSignature(cells)),
            "head": In(HeadSignature()),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()
        members = (self.queues + 1) // 2
        handle = FrameHandle(self.cells)
        context = data.StructLayout({
            "first": handle, "last": range(self.cells), "cells": range(self.cells + 1)})

        m.submodules.contexts = contexts = ForwardingMemory(context, members)
        m.submodules.holdings = holdings = ForwardingMemory(range(self.cells + 1), members)
        m.submodules.heads = heads = ForwardingMemory(LENGTH_BITS, members)
        links: memory.Memory[Any, Any] = memory.Memory(shape=handle, depth=self.cells, init=[])
        m.submodules.links = links
        link_write, link_read = links.write_port(), links.read_port()
        m.submodules.arrivals = arrivals = StreamQueue(ArrivalLayout(), _ARRIVALS_MAX)
        m.submodules.popped = popped = StreamQueue(handle, _POPPED_MAX)

        clearing = Signal(init=1)
        sweep = Signal(range(max(2, members)))
        with m.If(clearing):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == members - 1):
                m.d.sync += clearing.eq(0)

        # --- Choose: read the context. An operation starts if what it leaves has room. ------------

        push_turn = Signal()
        can_push = Signal()
        can_pop = Signal()
        pushes = Signal()
        pops = Signal()
        member = Signal(range(max(2, members)))
        m.d.comb += [
            can_push.eq(~clearing & (arrivals.level < _ARRIVALS_MAX - 1)),
            can_pop.eq(~clearing & (popped.level < _POPPED_MAX - 1)),
            self.push.ready.eq(can_push & (push_turn | ~(self.pops.valid & can_pop))),
            self.pops.ready.eq(can_pop & ~(push_turn & self.push.valid & can_push)),
            pushes.eq(self.push.valid & self.push.ready),
            pops.eq(self.pops.valid & self.pops.ready),
            member.eq(Mux(pushes, self.push.p.queue, self.pops.p.queue) >> 1),
            contexts.read_enable.eq(pushes | pops),
            contexts.read_address.eq(member),
        ]
        with m.If(pushes | pops):
            m.d.sync += push_turn.eq(pops)

        # --- The context is here: follow the list, or make it longer. -----------------------------

        is_push = Signal()
        is_pop = Signal()
        member_1 = Signal.like(member, reset_less=True)
        frame: Any = Signal(QueuedFrame(self.cells), reset_less=True)
        again = Signal(reset_less=True)  # the operation before was on the same context
        m.d.sync += [is_push.eq(pushes), is_pop.eq(pops),
                     again.eq((is_push | is_pop) & (member_1 == member))]
        with m.If(pushes | pops):
            m.d.sync += [member_1.eq(member), frame.eq(self.push.payload)]

        writes = Signal()  # the operation before this one is writing its context back
        member_2 = Signal.like(member, reset_less=True)
        next_2: Any = Signal(context)
        now: Any = Signal(context)
        after: Any = Signal(context)
        m.d.comb += now.eq(Mux(again, Value.cast(next_2), Value.cast(contexts.read_data)))
        moved: Any = Signal(handle)  # what is pushed or popped
        cell_bits = (self.cell_bytes - 1).bit_length()
        moved_cells = Signal(range(self.cells + 1))
        m.d.comb += [
            moved.eq(Mux(is_push, Value.cast(frame.frame), Value.cast(now.first))),
            moved_cells.eq((moved.bytes + (self.cell_bytes - 1)) >> cell_bits),
            after.first.eq(Mux(now.cells == 0, Value.cast(frame.frame), Value.cast(now.first))),
            after.last.eq(Mux(is_push, frame.frame.cell, now.last)),
            after.cells.eq(Mux(is_push, now.cells + moved_cells, now.cells - moved_cells)),
            link_write.addr.eq(now.last),
            link_write.data.eq(frame.frame),
            link_write.en.eq(is_push & (now.cells != 0)),
            link_read.addr.eq(now.first.cell),
            link_read.en.eq(is_pop),
            arrivals.i.valid.eq(is_push),
            arrivals.i.p.queue.eq(frame.queue),
            arrivals.i.p.bytes.eq(frame.frame.bytes),
            popped.i.valid.eq(is_pop),
            popped.i.payload.eq(now.first),
        ]

        # --- The handle behind the one that was popped is here: write back. -----------------------

        kept: Any = Signal(context, reset_less=True)
        was_pop = Signal(reset_less=True)
        m.d.sync += writes.eq(is_push | is_pop)
        with m.If(is_push | is_pop):
            m.d.sync += [kept.eq(after), was_pop.eq(is_pop), member_2.eq(member_1)]
        m.d.comb += [
            next_2.last.eq(kept.last),
            next_2.cells.eq(kept.cells),
            next_2.first.eq(Mux(was_pop, Value.cast(link_read.data), Value.cast(kept.first))),
            contexts.write_enable.eq(clearing | writes),
            contexts.write_address.eq(Mux(clearing, sweep, member_2)),
            contexts.write_data.eq(Mux(clearing, 0, Value.cast(next_2))),
            holdings.write_enable.eq(contexts.write_enable),
            holdings.write_address.eq(contexts.write_address),
            holdings.write_data.eq(Mux(clearing, 0, next_2.cells)),
            holdings.read_enable.eq(self.held.enable),
            holdings.read_address.eq(self.held.queue >> 1),
            self.held.cells.eq(holdings.read_data),
            heads.write_enable.eq(contexts.write_enable),
            heads.write_address.eq(contexts.write_address),
            heads.write_data.eq(next_2.first.bytes),
            heads.read_enable.eq(self.head.enable),
            heads.read_address.eq(self.head.queue >> 1),
            self.head.bytes.eq(heads.read_data),
            self.arrivals.valid.eq(arrivals.o.valid),
            self.arrivals.payload.eq(arrivals.o.payload),
            arrivals.o.ready.eq(self.arrivals.ready),
            self.popped.valid.eq(popped.o.valid),
            self.popped.payload.eq(popped.o.payload),
            popped.o.ready.eq(self.popped.ready),
        ]
        return m
