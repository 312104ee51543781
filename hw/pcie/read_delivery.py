"""Give released groups to their clients as packets, from the store."""

from typing import Any

from amaranth import Module, Signal, Value
from amaranth.hdl import Cat
from amaranth.lib import memory, stream, wiring
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
from hw.pcie.read_walker import ReadWalker, RecordLayout
from hw.pcie.tag_queue import TagQueue
from hw.pcie.types import ReadAnswerLayout
from hw.stream.connect import connect_streams

__all__ = ["ReadDelivery"]


class ReadDelivery(wiring.Component):
    """Answer the groups of each client in the order of their release; the clients share the store.

    Each client has its own queue of groups, its own walk and its own buffer; the port of the store
    and the memory of records are shared, row by row and record by record, in turn. A client takes
    part only while its buffer has room, so one that is stalled holds up nobody.

    ::

        released ──► queue ──► walk ──┐            ┌──► buffer ──► answers_0
                                      ├──► store ──┤
        released ──► queue ──► walk ──┘            └──► buffer ──► answers_1

    | Latency: 5 cycles from ``released`` to ``answers``.
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
        record, fetch_tag = self._records(m)

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
                walker.record.eq(record),
                walker.room.eq(buffer.room),
                buffer.opens.eq(walker.opens),
            ]
            connect_streams(m, queue.o, walker.groups)
            connect_streams(m, buffer.answers, wiring.flipped(getattr(self, f"answers_{k}")))
            walkers.append(walker)
            buffers.append(buffer)

        fetch_grant = self._turns(m, [walker.fetches for walker in walkers], "fetch")
        step_grant = self._turns(m, [walker.steps for walker in walkers], "step")

        step: Any = Signal(StepLayout(sizes))
        stepped: Any = Signal(StepLayout(sizes), reset_less=True)  # its row is here
        for k, walker in enumerate(walkers):
            with m.If(fetch_grant[k]):
                m.d.comb += fetch_tag.eq(walker.fetches.payload)
            with m.If(step_grant[k]):
                m.d.comb += [
                    step.eq(walker.steps.payload),
                    self.freed.p.client.eq(k),
                ]
        stepped_grant = Signal(sizes.clients)
        m.d.sync += [stepped.eq(step), stepped_grant.eq(step_grant)]
        m.d.comb += [
            self.row.valid.eq(step_grant.any()),
            self.row.p.slot.eq(step.slot),
            self.row.p.row.eq(step.row),
            self.freed.valid.eq(step_grant.any() & step.releases),
            self.freed.p.tag.eq(step.slot),
        ]
        for k, buffer in enumerate(buffers):
            m.d.comb += [
                buffer.write.eq(stepped_grant[k]),
                buffer.row.eq(self.row_data),
                buffer.step.eq(stepped),
            ]
        return m

    def _records(self, m: Module) -> tuple[Any, Signal]:
        """Make the memories of records; give the record, and the tag of the next cycle's record."""
        sizes = self.sizes
        record: Any = Signal(RecordLayout(sizes))
        tag = Signal(sizes.tag_bits)
        note = self.notes.p
        names = ("start_lane", "end_lane", "rows", "last", "context")
        whole = RecordLayout(sizes)
        pieces: memory.Memory[Any, Any] = memory.Memory(
            shape=sum(whole[name].width for name in names), depth=sizes.tags, init=[])
        following: memory.Memory[Any, Any] = memory.Memory(
            shape=sizes.tag_bits, depth=sizes.tags, init=[])
        errors: memory.Memory[Any, Any] = memory.Memory(shape=2, depth=sizes.tags, init=[])
        m.submodules.pieces = pieces
        m.submodules.following = following
        m.submodules.errors = errors
        writes = [
            (pieces, self.notes.valid, note.tag, Cat(note[name] for name in names)),
            (following, self.notes.valid & ~note.first, note.previous, note.tag),
            (errors, self.complete.valid, self.complete.p.group,
             self.complete.p.error.as_value()),
        ]
        reads: list[Any] = []
        for mem, enable, address, value in writes:
            write = mem.write_port()
            read = mem.read_port()
            m.d.comb += [write.en.eq(enable), write.addr.eq(address), write.data.eq(value),
                         read.addr.eq(tag)]
            reads.append(read.data)
        m.d.comb += [
            Cat(record[name] for name in names).eq(reads[0]),
            record.following.eq(reads[1]),
            record.error.eq(reads[2]),
        ]
        return record, tag

    def _turns(self, m: Module, streams: list[Any], what: str) -> Signal:
        """Grant one of the valid streams in each cycle, in turn; give who it is, one-hot or 0."""
        count = len(streams)
        valids = Signal(count, name=f"{what}_valids")
        later = Signal(count, name=f"{what}_later")   # those after the one that had the last turn
        preferred = Signal(count, name=f"{what}_preferred")
        grant = Signal(count, name=f"{what}_grant")

        def lowest(requests: Signal) -> Value:
            return requests & (~requests + 1)[:count]

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
