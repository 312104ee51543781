"""Takes: the next chain of a queue and its buffers, from the cache."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.stream.connect import connect_streams
from hw.stream.memory import ForwardingMemory
from hw.stream.queue import PassingQueue, StreamQueue
from hw.stream.register import SkidRegister
from hw.virtio.descriptor_cache import DescriptorLayout, TotalsLayout, WriteSignature
from hw.virtio.prefetch_types import (
    DiscardLayout,
    LookupSignature,
    PrefetchSizes,
    packed_place,
    packed_position,
)
from hw.virtio.types import (
    ChainLayout,
    ChainStatus,
    ObligationLayout,
    QueueConfigSignature,
    SegmentLayout,
    TakeLayout,
)

__all__ = ["ChainTake"]

_DEPTH = 16   # answers that wait for their consumer, and chains that wait to be read out
_FLIGHT = 4   # takes between the test for room and their place in the queues


class _ListLayout(data.StructLayout):
    """A chain whose buffers are to be read out."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({"member": sizes.member_bits, "number": sizes.index_bits,
                          "segments": sizes.index_bits + 1})


class _SegmentReader(wiring.Component):
    """Read out the buffers of chains, and free their descriptors and cells.

    | Latency: 1 cycle to the first buffer. Throughput: a buffer a cycle.
    """

    chains: stream.Interface
    descriptors: wiring.PureInterface
    cells: wiring.PureInterface
    freed: wiring.PureInterface
    freed_cells: wiring.PureInterface
    segments: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "chains": In(stream.Signature(_ListLayout(sizes))),
            "descriptors": Out(LookupSignature(range(sizes.slots), DescriptorLayout(sizes))),
            "cells": Out(LookupSignature(range(sizes.cells), DescriptorLayout(sizes))),
            "freed": Out(WriteSignature(sizes.slots, 1)),
            "freed_cells": Out(WriteSignature(sizes.cells, 1)),
            "segments": Out(stream.Signature(SegmentLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        descriptors: Any = self.descriptors
        cells: Any = self.cells
        freed: Any = self.freed
        freed_cells: Any = self.freed_cells
        m.submodules.out = out = SkidRegister(SegmentLayout())
        connect_streams(m, out.o, flipped(self.segments))

        found: Any = Signal(DescriptorLayout(sizes))
        in_cell = Signal(reset_less=True)                    # it is one of a table
        cell = Signal(range(sizes.cells), reset_less=True)   # where that lies
        m.d.comb += found.eq(Mux(in_cell, cells.data.as_value(), descriptors.data.as_value()))
        valid = Signal()                                     # a descriptor stands at the memory
        member = Signal(range(sizes.members), reset_less=True)
        slot = Signal(range(sizes.slots), reset_less=True)   # where it lies
        behind = Signal(sizes.index_bits + 1, reset_less=True)  # buffers of the chain after it
        last = Signal(reset_less=True)
        moves = Signal()
        goes_on = Signal()
        m.d.comb += [
            out.i.valid.eq(valid),
            out.i.p.address.eq(found.address),
            out.i.p.length.eq(found.length),
            out.i.p.last.eq(last),
            moves.eq(~valid | out.i.ready),
            goes_on.eq(valid & ~last),
            self.chains.ready.eq(moves & ~goes_on),
            # As often as it stands there: to free a descriptor twice changes nothing.
            freed.enable.eq(valid & ~in_cell),
            freed.address.eq(slot),
            freed.data.eq(found.mark),
            freed_cells.enable.eq(valid & in_cell & out.i.ready),
            freed_cells.address.eq(cell),
            cells.enable.eq(moves),
            cells.address.eq(Cat(found.next[:sizes.cell_bits], member)),
            descriptors.enable.eq(moves),
            descriptors.address.eq(Mux(
                goes_on, sizes.slot(member, found.next),
                sizes.slot(self.chains.p.member, self.chains.p.number))),
        ]
        with m.If(moves):
            m.d.sync += [valid.eq(goes_on | self.chains.valid), slot.eq(descriptors.address),
                         cell.eq(cells.address), in_cell.eq(goes_on & found.in_cell)]
            with m.If(goes_on):
                m.d.sync += [behind.eq(behind - 1), last.eq(behind == 1)]
            with m.Else():
                m.d.sync += [
                    member.eq(self.chains.p.member),
                    behind.eq(self.chains.p.segments - 1),
                    last.eq(self.chains.p.segments == 1),
                ]
        return m


class ChainTake(wiring.Component):
    """Answer takes, in order.

    ::

        takes ─► obligation, look up ─► place in the ring ─► judge ─► chains
                                                               └► read out ─► segments

    A take takes on an obligation before it looks whether the queue runs (or whether its frame has
    begun: then it is finished). FOUND leaves it to the consumer, who gives it back with the chain's
    used entry; otherwise it is given back here. Of SHORT, where the chain stays, ``more`` is set.

    | Latency: 3 cycles from a take to its answer when the obligation is accepted at once (4 to
      receive), 4 to its first buffer.
    | Throughput: a take every 2 cycles, a buffer a cycle. Storage: 16 bits a member, 16 answers.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    takes : In(stream.Signature(TakeLayout()))
    chains : Out(stream.Signature(ChainLayout()))
    segments : Out(stream.Signature(SegmentLayout()))
    config : Out(QueueConfigSignature())
    limit : Out(LookupSignature(range(members), 16))
        Position behind the last chain that may be taken.
    ids, totals : Out(LookupSignature(range(slots), ...))
        Of the chain at a place.
    descriptors : Out(LookupSignature(range(slots), DescriptorLayout(sizes)))
    cells : Out(LookupSignature(range(cells), DescriptorLayout(sizes)))
    freed : Out(WriteSignature(slots, 1))
        Half of the marks of use.
    freed_cells : Out(WriteSignature(cells, 1))
        A cell is given back, each.
    position : In(LookupSignature(range(members), 16))
        The next chain to take of a member.
    loads : In(stream.Signature(DiscardLayout(sizes)))
        Go on from a position, in a member that is stopped.
    obligations : Out(stream.Signature(ObligationLayout()))
        One more, each.
    obliged : In(1)
        The oldest of them has reached its counter (a pulse).
    returns : Out(stream.Signature(ObligationLayout()))
        One less, each.
    """

    takes: stream.Interface
    chains: stream.Interface
    segments: stream.Interface
    config: wiring.PureInterface
    limit: wiring.PureInterface
    ids: wiring.PureInterface
    totals: wiring.PureInterface
    descriptors: wiring.PureInterface
    cells: wiring.PureInterface
    freed: wiring.PureInterface
    freed_cells: wiring.PureInterface
    position: wiring.PureInterface
    loads: stream.Interface
    obligations: stream.Interface
    obliged: Signal
    returns: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        member = range(sizes.members)
        slot = range(sizes.slots)
        super().__init__({
            "takes": In(stream.Signature(TakeLayout())),
            "chains": Out(stream.Signature(ChainLayout())),
            "segments": Out(stream.Signature(SegmentLayout())),
            "config": Out(QueueConfigSignature()),
            "limit": Out(LookupSignature(member, 16)),
            "ids": Out(LookupSignature(slot, 16)),
            "totals": Out(LookupSignature(slot, TotalsLayout(sizes))),
            "descriptors": Out(LookupSignature(slot, DescriptorLayout(sizes))),
            "cells": Out(LookupSignature(range(sizes.cells), DescriptorLayout(sizes))),
            "freed": Out(WriteSignature(sizes.slots, 1)),
            "freed_cells": Out(WriteSignature(sizes.cells, 1)),
            "position": In(LookupSignature(member, 16)),
            "loads": In(stream.Signature(DiscardLayout(sizes))),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "obliged": In(1),
            "returns": Out(stream.Signature(ObligationLayout())),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()
        sizes = self.sizes
        config: Any = self.config
        limit: Any = self.limit
        ids: Any = self.ids
        totals: Any = self.totals
        position: Any = self.position

        m.submodules.own = own = ForwardingMemory(16, sizes.members)
        m.submodules.shown = shown = ForwardingMemory(16, sizes.members)
        # What is received goes on with its length at once; what is sent has time for that.
        m.submodules.answers = answers = (
            PassingQueue if sizes.transmit else StreamQueue)(ChainLayout(), _DEPTH)
        m.submodules.lists = lists = PassingQueue(_ListLayout(sizes), _DEPTH)
        m.submodules.given_back = given_back = StreamQueue(range(sizes.members), _DEPTH)
        m.submodules.reader = reader = _SegmentReader(sizes)
        connect_streams(m, answers.o, flipped(self.chains))
        connect_streams(m, lists.o, reader.chains)
        connect_streams(m, reader.segments, flipped(self.segments))
        connect(m, reader.descriptors, flipped(self.descriptors))
        connect(m, reader.cells, flipped(self.cells))
        connect(m, reader.freed, flipped(self.freed))
        connect(m, reader.freed_cells, flipped(self.freed_cells))
        m.d.comb += [
            shown.read_enable.eq(position.enable),
            shown.read_address.eq(position.address),
            position.data.eq(shown.read_data),
            given_back.o.ready.eq(self.returns.ready),
            self.returns.valid.eq(given_back.o.valid),
            self.returns.p.queue.eq(sizes.queue(given_back.o.payload)),
            self.returns.p.delta.eq(-1),
        ]

        # ASK: one take at a time waits for its obligation, so every second cycle one goes on.
        room = Signal()
        asked: Any = Signal(TakeLayout(), reset_less=True)
        asks = Signal()
        may_ask = Signal()
        offered = Signal()
        obliged = Signal()
        m.d.comb += [
            may_ask.eq((room | offered) & ~asks),
            self.obligations.valid.eq(self.takes.valid & may_ask),
            self.obligations.p.queue.eq(self.takes.p.queue),
            self.obligations.p.delta.eq(1),
            self.takes.ready.eq(self.obligations.ready & may_ask),
            obliged.eq(asks & self.obliged),
        ]
        with m.If(self.takes.valid & self.takes.ready):
            m.d.sync += [asks.eq(1), asked.eq(self.takes.payload)]
        with m.If(obliged):
            m.d.sync += asks.eq(0)
        # It is known one cycle late, and some takes are on their way: room is kept for them. What
        # was offered once stays offered.
        full = _DEPTH - _FLIGHT
        m.d.sync += room.eq((answers.level < full) & (lists.level < full)
                            & (given_back.level < full))
        m.d.sync += offered.eq(self.obligations.valid & ~self.obligations.ready)

        # LOOK-UP: in the cycle in which the obligation is counted. A stop that this look does not
        # see asks for the count later, and finds it.
        member = Signal(range(sizes.members))
        m.d.comb += [
            member.eq(asked.queue >> 1),
            config.queue.eq(asked.queue),
            config.enable.eq(obliged),
            own.read_address.eq(member),
            own.read_enable.eq(obliged),
            limit.address.eq(member),
            limit.enable.eq(obliged),
        ]

        # PLACE
        place: Any = Signal(TakeLayout(), reset_less=True)
        places = Signal()
        index = Signal(sizes.index_bits)
        m.d.sync += [places.eq(obliged), place.eq(asked)]
        m.d.comb += [
            index.eq(Mux(config.config.modes.ring_packed, packed_place(own.read_data),
                         own.read_data & (config.config.size - 1))),
            ids.address.eq(sizes.slot((place.queue >> 1)[:sizes.member_bits], index)),
            ids.enable.eq(places),
            totals.address.eq(ids.address),
            totals.enable.eq(places),
        ]

        # JUDGE
        judge: Any = Signal(TakeLayout(), reset_less=True)
        judges = Signal()
        available = Signal(reset_less=True)
        packed = Signal(reset_less=True)
        more = Signal()
        number = Signal(sizes.index_bits, reset_less=True)  # of the first descriptor, if packed
        next_one = Signal(16, reset_less=True)
        limits = Signal(16, reset_less=True)
        after = Signal(16)
        found = Signal()
        short = Signal()
        m.d.sync += [
            judges.eq(places),
            judge.eq(place),
            available.eq((config.config.running | place.begun) & (own.read_data != limit.data)),
            packed.eq(config.config.modes.ring_packed),
            number.eq(own.read_data),
            next_one.eq(own.read_data + 1),
            limits.eq(limit.data),
        ]
        judged = (judge.queue >> 1)[:sizes.member_bits]
        chain: Any = totals.data
        m.d.comb += [
            after.eq(Mux(packed, packed_position(chain.after, chain.after_lap), next_one)),
            more.eq(after != limits),
            short.eq(available & (chain.bytes < judge.bytes)),
            found.eq(available & ~short),
            answers.i.valid.eq(judges),
            answers.i.p.queue.eq(judge.queue),
            answers.i.p.status.eq(Mux(found, ChainStatus.FOUND,
                                      Mux(short, ChainStatus.SHORT, ChainStatus.NONE))),
            answers.i.p.id.eq(ids.data),
            answers.i.p.slots.eq(Mux(packed, chain.slots, 1)),
            answers.i.p.bytes.eq(chain.bytes),
            answers.i.p.segments.eq(chain.segments),
            answers.i.p.more.eq(short | (found & more)),
            lists.i.valid.eq(judges & found),
            lists.i.p.member.eq(judged),
            lists.i.p.number.eq(Mux(packed, number, ids.data)),
            lists.i.p.segments.eq(chain.segments),
            given_back.i.valid.eq(judges & ~found),
            given_back.i.payload.eq(judged),
        ]
        load: Any = self.loads.payload
        m.d.comb += self.loads.ready.eq(~(judges & found))
        for copy in (own, shown):
            m.d.comb += [
                copy.write_enable.eq((judges & found) | self.loads.valid),
                copy.write_address.eq(Mux(judges & found, judged, load.member)),
                copy.write_data.eq(Mux(judges & found, after, load.position)),
            ]
        return m
