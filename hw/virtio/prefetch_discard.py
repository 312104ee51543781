"""A stopped queue forgets what was prefetched: every part in turn."""

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.virtio.prefetch_types import (
    DiscardLayout,
    PrefetchSizes,
    SweepLayout,
    index_mask,
    lap_of,
    packed_place,
)
from hw.virtio.types import QueueCommandLayout

__all__ = ["PrefetchDiscard"]


class PrefetchDiscard(wiring.Component):
    """Carry a command out: the ring's state, then both ends of the cache, then every place that
    the queue has there.

    | Throughput: a command every ``size + table_cells`` cycles and 20, four times as much at most
      when other queues are busy. Storage: the command.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    commands : In(stream.Signature(QueueCommandLayout()))
        Of a queue that is stopped and has no obligations. Ready when it is done.
    stops : Out(stream.Signature(QueueCommandLayout()))
    stopped : In(stream.Signature(DiscardLayout(sizes)))
        To the ring, and its answer: where the queue goes on.
    publish, take : Out(stream.Signature(DiscardLayout(sizes)))
        To the two ends of the cache.
    clears : Out(stream.Signature(range(members)))
        To the faults.
    cells : Out(stream.Signature(range(members)))
        To the cells of tables.
    sweeps : Out(stream.Signature(SweepLayout(sizes)))
        To the parser: what is parsed later finds the places clear.
    """

    commands: stream.Interface
    stops: stream.Interface
    stopped: stream.Interface
    publish: stream.Interface
    take: stream.Interface
    clears: stream.Interface
    cells: stream.Interface
    sweeps: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "commands": In(stream.Signature(QueueCommandLayout())),
            "stops": Out(stream.Signature(QueueCommandLayout())),
            "stopped": In(stream.Signature(DiscardLayout(sizes))),
            "publish": Out(stream.Signature(DiscardLayout(sizes))),
            "take": Out(stream.Signature(DiscardLayout(sizes))),
            "clears": Out(stream.Signature(range(sizes.members))),
            "cells": Out(stream.Signature(range(sizes.members))),
            "sweeps": Out(stream.Signature(SweepLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        discard: Any = Signal(DiscardLayout(sizes), reset_less=True)
        begin = Signal(sizes.index_bits, reset_less=True)  # place where the queue goes on
        lap = Signal(reset_less=True)
        index = Signal(sizes.index_bits)
        m.d.comb += [
            self.stops.payload.eq(self.commands.payload),
            self.publish.payload.eq(discard),
            self.take.payload.eq(discard),
            self.clears.payload.eq(discard.member),
            self.cells.payload.eq(discard.member),
            self.sweeps.p.member.eq(discard.member),
            self.sweeps.p.index.eq(index),
            # A complete chain bears the opposite of its lap; places before `begin` are used next in
            # the lap after.
            self.sweeps.p.mark.eq(lap ^ (index < begin)),
            self.sweeps.p.place.eq(begin),
            self.sweeps.p.lap.eq(lap),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.stops.valid.eq(self.commands.valid)
                with m.If(self.commands.valid & self.stops.ready):
                    m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += self.stopped.ready.eq(1)
                m.d.sync += discard.eq(self.stopped.payload)
                with m.If(self.stopped.valid):
                    m.next = "PUBLISH"
            with m.State("PUBLISH"):
                m.d.comb += self.publish.valid.eq(1)
                m.d.sync += [
                    begin.eq(discard.position & index_mask(discard.order)),
                    lap.eq(lap_of(discard.position, discard.order)),
                    index.eq(0),
                ]
                with m.If(discard.packed):
                    m.d.sync += [
                        begin.eq(packed_place(discard.position)),
                        lap.eq(discard.position[15]),
                    ]
                with m.If(self.publish.ready):
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += self.take.valid.eq(1)
                with m.If(self.take.ready):
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += self.clears.valid.eq(1)
                with m.If(self.clears.ready):
                    m.next = "CELLS"
            with m.State("CELLS"):
                m.d.comb += self.cells.valid.eq(1)
                with m.If(self.cells.ready):
                    m.next = "SWEEP"
            with m.State("SWEEP"):
                m.d.comb += self.sweeps.valid.eq(1)
                with m.If(self.sweeps.ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == discard.top):
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.commands.ready.eq(1)
                m.next = "IDLE"
        return m
