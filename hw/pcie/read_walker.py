"""Walk over the rows of one client's groups, in the order of the answer."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import GroupLayout, NoteLayout, ReadSizes, StepLayout
from hw.pcie.types import ReadError

__all__ = ["ReadWalker"]


class ReadWalker(wiring.Component):
    """Follow the pieces of each group, and read their rows one after the other.

    The records of the next pieces are looked up while the rows of this one are read; a record that
    has just come names the piece to look up in the same cycle. Where a piece ends and the next
    begins within one beat, each gives its own row to that beat.

    | Latency: 1 cycle from a group to its first step.
    | Throughput: 1 row a cycle, also of pieces of a single row.
    | Storage: a record for each tag, in memory; the records of 3 pieces.

    Parameters
    ----------
    sizes
        The engine's sizes.
    client
        Number of the client whose answers these are.

    Members
    -------
    notes : In(stream.Signature(NoteLayout(sizes), always_ready=True))
        Of any client; others are ignored.
    complete : In(stream.Signature(GroupLayout(sizes), always_ready=True))
        No later than the group comes on ``groups``.
    groups : In(stream.Signature(tag_bits))
        Groups to be answered, in this order.
    steps : Out(stream.Signature(StepLayout(sizes)))
    room : In(1)
        Another beat may be opened. Once set, it stays until a step opens one.
    opens : Out(1)
        The step transferred in this cycle opens a beat.
    """

    notes: stream.Interface
    complete: stream.Interface
    groups: stream.Interface
    steps: stream.Interface
    room: Signal
    opens: Signal

    def __init__(self, sizes: ReadSizes, client: int) -> None:
        self.sizes = sizes
        self.client = client
        self._piece = data.StructLayout({
            "tag": sizes.tag_bits, "start_lane": sizes.lane_bits, "end_lane": sizes.lane_bits,
            "rows": sizes.rows_bits, "last": 1, "context": sizes.contexts[client],
            "error": ReadError,
        })
        super().__init__({
            "notes": In(stream.Signature(NoteLayout(sizes), always_ready=True)),
            "complete": In(stream.Signature(GroupLayout(sizes), always_ready=True)),
            "groups": In(stream.Signature(sizes.tag_bits)),
            "steps": Out(stream.Signature(StepLayout(sizes))),
            "room": In(1),
            "opens": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arrives = Signal()
        finished = Signal()
        arriving: Any = Signal(self._piece)
        self._look_up(m, arrives, arriving, finished)
        self._step(m, arrives, arriving, finished)
        return m

    def _records(self, m: Module, tag: Signal) -> tuple[Any, Any, Any]:
        """Make the memories of records; give the record, its successor and the group's error."""
        sizes = self.sizes
        note = self.notes.p
        record_shape = data.StructLayout({
            "start_lane": sizes.lane_bits, "end_lane": sizes.lane_bits, "rows": sizes.rows_bits,
            "last": 1, "context": sizes.contexts[self.client],
        })
        record: Any = Signal(record_shape)
        m.d.comb += [record[name].eq(note[name]) for name in record_shape.members]
        own = Signal()
        m.d.comb += own.eq(self.notes.valid & (note.client == self.client))
        parts: list[Any] = []
        for name, shape, enable, address, value in (
                ("records", record_shape, own, note.tag, record),
                ("following", sizes.tag_bits, own & ~note.first, note.previous, note.tag),
                ("errors", ReadError, self.complete.valid, self.complete.p.group,
                 self.complete.p.error)):
            mem: memory.Memory[Any, Any] = memory.Memory(shape=shape, depth=sizes.tags, init=[])
            m.submodules[name] = mem
            write = mem.write_port()
            read = mem.read_port()
            m.d.comb += [write.en.eq(enable), write.addr.eq(address), write.data.eq(value),
                         read.addr.eq(tag)]
            parts.append(read.data)
        return parts[0], parts[1], parts[2]

    def _look_up(self, m: Module, arrives: Signal, arriving: Any, finished: Signal) -> None:
        """Look pieces up. Three are held or on their way: one walked over, one waiting, one coming.

        ``arrives``: a record has come, ``arriving``. ``finished``: a piece has left.
        """
        sizes = self.sizes
        wanted = Signal(sizes.tag_bits)
        record, following, group_error = self._records(m, wanted)
        chases = Signal()          # the group goes on, with the piece `chased`
        chased = Signal(sizes.tag_bits)
        chases_on = Signal()       # as much, for the cycles in which no record comes
        chased_on = Signal(sizes.tag_bits, reset_less=True)
        first = Signal(reset_less=True)  # of its group
        tag = Signal(sizes.tag_bits, reset_less=True)
        context = Signal(sizes.contexts[self.client], reset_less=True)  # of its group
        error = Signal(ReadError, reset_less=True)
        held = Signal(range(4))
        fetches = Signal()
        m.d.comb += [
            chases.eq(Mux(arrives, ~record.last, chases_on)),
            chased.eq(Mux(arrives, following, chased_on)),
            wanted.eq(Mux(chases, chased, self.groups.payload)),
            fetches.eq((chases | self.groups.valid) & (held != 3)),
            self.groups.ready.eq(~chases & (held != 3)),
            arriving.tag.eq(tag),
            arriving.start_lane.eq(record.start_lane),
            arriving.end_lane.eq(record.end_lane),
            arriving.rows.eq(record.rows),
            arriving.last.eq(record.last),
            arriving.context.eq(Mux(first, record.context, context)),
            arriving.error.eq(Mux(first, group_error, error)),
        ]
        m.d.sync += [
            arrives.eq(fetches),
            tag.eq(wanted),
            first.eq(~chases),
            chases_on.eq(chases & ~fetches),
            chased_on.eq(chased),
        ]
        with m.If(arrives):
            m.d.sync += [context.eq(arriving.context), error.eq(arriving.error)]
        with m.If(fetches & ~finished):
            m.d.sync += held.eq(held + 1)
        with m.Elif(finished & ~fetches):
            m.d.sync += held.eq(held - 1)

    def _step(self, m: Module, arrives: Signal, arriving: Any, finished: Signal) -> None:
        sizes = self.sizes
        ahead: list[Any] = [Signal(self._piece, name=f"ahead_{k}", reset_less=True)
                            for k in range(2)]
        ahead_valid = Signal(2)  # the lower first
        piece: Any = Signal(self._piece, reset_less=True)  # `rows` counts down
        piece_valid = Signal()
        row = Signal(sizes.row_bits, reset_less=True)
        begun = Signal(reset_less=True)  # its first row was read
        # A record that comes while there is no piece (and so none ahead) is one at once.
        now: Any = Signal(self._piece)
        now_row = Signal.like(row)
        now_begun = Signal()
        is_open = Signal()               # the beat has a part of its lanes
        opened = Signal()                # a beat of this group is complete
        final = Signal()
        taken = Signal()
        step = self.steps.p
        m.d.comb += [
            now.eq(Mux(piece_valid, piece, arriving)),
            now_row.eq(Mux(piece_valid, row, 0)),
            now_begun.eq(piece_valid & begun),
            self.steps.valid.eq((piece_valid | arrives) & (is_open | self.room)),
            taken.eq(self.steps.valid & self.steps.ready),
            final.eq(now.rows == 0),
            finished.eq(taken & final),
            step.slot.eq(now.tag),
            step.row.eq(now_row),
            step.start.eq(Mux(now_begun, 0, now.start_lane)),
            step.closes.eq(~final | (now.end_lane == sizes.lanes - 1) | now.last),
            step.releases.eq(final),
            step.first.eq(~opened),
            step.last.eq(final & now.last),
            step.empty.eq(Mux(step.last, ~now.end_lane, 0)),
            step.context.eq(now.context),
            step.error.eq(now.error),
            self.opens.eq(taken & ~is_open),
        ]
        with m.If(taken):
            m.d.sync += is_open.eq(~step.closes)
            with m.If(step.closes):
                m.d.sync += opened.eq(~step.last)
        with m.If(finished):
            m.d.sync += [
                piece_valid.eq(piece_valid & (ahead_valid[0] | arrives)),
                piece.eq(Mux(ahead_valid[0], ahead[0], arriving)),
                row.eq(0),
                begun.eq(0),
                # With both places taken no record arrives.
                ahead[0].eq(Mux(ahead_valid[1], ahead[1], arriving)),
                ahead_valid.eq(Cat(ahead_valid[1] | ahead_valid[0] & arrives, 0)),
            ]
        with m.Else():
            m.d.sync += [
                piece_valid.eq(piece_valid | arrives),
                piece.eq(now),
                row.eq(now_row),
                begun.eq(now_begun),
            ]
            with m.If(taken):
                m.d.sync += [row.eq(now_row + 1), begun.eq(1), piece.rows.eq(now.rows - 1)]
            with m.If(arrives & piece_valid):
                with m.If(ahead_valid[0]):
                    m.d.sync += [ahead[1].eq(arriving), ahead_valid[1].eq(1)]
                with m.Else():
                    m.d.sync += [ahead[0].eq(arriving), ahead_valid[0].eq(1)]
