"""Give released groups to their clients as packets, from the store."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.answer_buffer import AnswerBuffer
from hw.pcie.read_layouts import (
    GroupLayout,
    NoteLayout,
    ReadSizes,
    RowLayout,
    StepLayout,
    TagLayout,
)
from hw.pcie.read_walker import ReadWalker
from hw.pcie.tag_queue import TagQueue
from hw.pcie.types import ReadAnswerLayout
from hw.stream.connect import connect_streams

__all__ = ["ReadDelivery"]


class ReadDelivery(wiring.Component):
    """Answer the groups of each client in the order of their release; the clients share the store.

    Each client has its own queue of groups, its own walk and its own buffer; the port of the store
    is shared, row by row in turn. A client takes part only while its buffer has room, so one that
    is stalled holds up nobody.

    ::

        released ──► queue ──► walk ──┐            ┌──► buffer ──► answers_0
                                      ├──► store ──┤
        released ──► queue ──► walk ──┘            └──► buffer ──► answers_1

    | Latency: 4 cycles from ``released`` to ``answers``.
    | Throughput: 1 row a cycle, from any one client or several.

    Parameters
    ----------
    sizes
        The engine's sizes.

    Members
    -------
    notes : In(stream.Signature(NoteLayout(sizes), always_ready=True))
    complete : In(stream.Signature(GroupLayout(sizes), always_ready=True))
    released : In(stream.Signature(TagLayout(sizes), always_ready=True))
    row : Out(stream.Signature(RowLayout(sizes), always_ready=True))
    row_data : In(8 * lanes)
        The row, in the cycle after it was asked for.
    freed : Out(stream.Signature(TagLayout(sizes), always_ready=True))
        A tag whose last row is being read: its slot may be filled anew by what leaves from now on.
    answers_0, answers_1, ... : Out(stream.Signature(ReadAnswerLayout(lanes, contexts[k])))
    """

    notes: stream.Interface
    complete: stream.Interface
    released: stream.Interface
    row: stream.Interface
    row_data: Signal
    freed: stream.Interface

    def __init__(self, sizes: ReadSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "notes": In(stream.Signature(NoteLayout(sizes), always_ready=True)),
            "complete": In(stream.Signature(GroupLayout(sizes), always_ready=True)),
            "released": In(stream.Signature(TagLayout(sizes), always_ready=True)),
            "row": Out(stream.Signature(RowLayout(sizes), always_ready=True)),
            "row_data": In(8 * sizes.lanes),
            "freed": Out(stream.Signature(TagLayout(sizes), always_ready=True)),
            **{f"answers_{k}": Out(stream.Signature(ReadAnswerLayout(sizes.lanes, context_bits)))
               for k, context_bits in enumerate(sizes.contexts)},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        walkers = []
        buffers = []
        for k in range(sizes.clients):
            # A group has a tag of the client's at least, so its quota bounds the groups.
            m.submodules[f"queue_{k}"] = queue = TagQueue(sizes.tag_bits, sizes.quotas[k])
            m.submodules[f"walker_{k}"] = walker = ReadWalker(sizes, k)
            m.submodules[f"buffer_{k}"] = buffer = AnswerBuffer(sizes, k)
            m.d.comb += [
                queue.i.valid.eq(self.released.valid & (self.released.p.client == k)),
                queue.i.payload.eq(self.released.p.tag),
                walker.notes.valid.eq(self.notes.valid),
                walker.notes.payload.eq(self.notes.payload),
                walker.complete.valid.eq(self.complete.valid),
                walker.complete.payload.eq(self.complete.payload),
                walker.room.eq(buffer.room),
                buffer.opens.eq(walker.opens),
            ]
            connect_streams(m, queue.o, walker.groups)
            connect_streams(m, buffer.answers, wiring.flipped(getattr(self, f"answers_{k}")))
            walkers.append(walker)
            buffers.append(buffer)

        grant = self._turns(m, [walker.steps for walker in walkers])
        step: Any = Signal(StepLayout(sizes))
        stepped: Any = Signal(StepLayout(sizes), reset_less=True)  # its row is here
        m.d.comb += [
            Value.cast(step).eq(reduce(or_, (Mux(grant[k], Value.cast(walker.steps.payload), 0)
                                             for k, walker in enumerate(walkers)))),
            self.freed.p.client.eq(reduce(or_, (Mux(grant[k], k, 0)
                                                for k in range(sizes.clients)))),
        ]
        stepped_by = Signal(sizes.clients)
        m.d.sync += [stepped.eq(step), stepped_by.eq(grant)]
        m.d.comb += [
            self.row.valid.eq(grant.any()),
            self.row.p.slot.eq(step.slot),
            self.row.p.row.eq(step.row),
            self.freed.valid.eq(grant.any() & step.releases),
            self.freed.p.tag.eq(step.slot),
        ]
        for k, buffer in enumerate(buffers):
            m.d.comb += [
                buffer.write.eq(stepped_by[k]),
                buffer.row.eq(self.row_data),
                buffer.step.eq(stepped),
            ]
        return m

    def _turns(self, m: Module, streams: list[Any]) -> Signal:
        """Grant one of the valid streams in each cycle, in turn; give who it is, one-hot or 0."""
        count = len(streams)
        valids = Signal(count)
        later = Signal(count)   # those after the one that had the last turn
        preferred = Signal(count)
        grant = Signal(count)

        def lowest(requests: Signal) -> Value:
            return Cat(requests[k] & ~requests[:k].any() for k in range(count))

        m.d.comb += [
            valids.eq(Cat(one.valid for one in streams)),
            preferred.eq(valids & later),
            grant.eq(lowest(preferred)),
        ]
        with m.If(preferred == 0):
            m.d.comb += grant.eq(lowest(valids))
        with m.If(grant.any()):
            m.d.sync += later.eq(~(grant | (grant - 1)))
        for one, granted in zip(streams, grant, strict=True):
            m.d.comb += one.ready.eq(granted)
        return grant
