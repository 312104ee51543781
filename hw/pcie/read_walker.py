"""Walk over the rows of one client's groups, in the order of the answer."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import ReadSizes, StepLayout
from hw.pcie.types import ReadError

__all__ = ["ReadWalker", "RecordLayout"]


class RecordLayout(data.StructLayout):
    """What the walk over a piece needs; ``context`` and ``error`` count in the first of a group."""

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "start_lane": sizes.lane_bits, "end_lane": sizes.lane_bits, "rows": sizes.rows_bits,
            "last": 1, "following": sizes.tag_bits, "context": sizes.context_bits,
            "error": ReadError,
        })


class ReadWalker(wiring.Component):
    """Follow the pieces of each group, and read their rows one after the other.

    The records of the next pieces are looked up while the rows of this one are read; a record that
    has just come names the piece to look up in the same cycle. Where a piece ends and the next
    begins within one beat, each gives its own row to that beat.

    | Latency: 2 cycles from a group to its first step.
    | Throughput: 1 row a cycle, also of pieces of a single row.
    | Storage: the records of 3 pieces. Paths: ``record`` to ``fetches``.

    Parameters
    ----------
    sizes
        The engine's sizes.
    client
        Number of the client whose answers these are.

    Members
    -------
    groups : In(stream.Signature(tag_bits))
        Groups to be answered, in this order.
    fetches : Out(stream.Signature(tag_bits))
        Pieces to look up.
    record : In(RecordLayout(sizes))
        The record of the piece in the cycle after its transfer on ``fetches``.
    steps : Out(stream.Signature(StepLayout(sizes)))
    room : In(1)
        Another beat may be opened. Once set, it stays until a step opens one.
    opens : Out(1)
        The step transferred in this cycle opens a beat.
    """

    groups: stream.Interface
    fetches: stream.Interface
    record: Any
    steps: stream.Interface
    room: Signal
    opens: Signal

    def __init__(self, sizes: ReadSizes, client: int) -> None:
        self.sizes = sizes
        self.client = client
        super().__init__({
            "groups": In(stream.Signature(sizes.tag_bits)),
            "fetches": Out(stream.Signature(sizes.tag_bits)),
            "record": In(RecordLayout(sizes)),
            "steps": Out(stream.Signature(StepLayout(sizes))),
            "room": In(1),
            "opens": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        context_bits = sizes.contexts[self.client]
        piece_shape = data.StructLayout({
            "tag": sizes.tag_bits, "start_lane": sizes.lane_bits, "end_lane": sizes.lane_bits,
            "rows": sizes.rows_bits, "last": 1, "context": context_bits, "error": ReadError,
        })

        # Look up. Three pieces are held or on their way: one is walked over, one waits, one comes.
        chases = Signal()          # the group goes on, with the piece `chased`
        chased = Signal(sizes.tag_bits)
        chases_on = Signal()       # as much, for the cycles in which no record comes
        chased_on = Signal(sizes.tag_bits, reset_less=True)
        arrives = Signal()         # the record looked up is here
        arriving_tag = Signal(sizes.tag_bits, reset_less=True)
        arriving_first = Signal(reset_less=True)
        context = Signal(context_bits, reset_less=True)  # of the group looked up last
        error = Signal(ReadError, reset_less=True)
        held = Signal(range(4))
        fetched = Signal()
        finished = Signal()
        m.d.comb += [
            chases.eq(Mux(arrives, ~self.record.last, chases_on)),
            chased.eq(Mux(arrives, self.record.following, chased_on)),
            self.fetches.valid.eq((chases | self.groups.valid) & (held != 3)),
            self.fetches.payload.eq(Mux(chases, chased, self.groups.payload)),
            fetched.eq(self.fetches.valid & self.fetches.ready),
            self.groups.ready.eq(self.fetches.ready & (held != 3) & ~chases),
        ]
        m.d.sync += [
            arrives.eq(fetched),
            arriving_tag.eq(self.fetches.payload),
            arriving_first.eq(~chases),
            chases_on.eq(chases & ~fetched),
            chased_on.eq(chased),
        ]
        with m.If(fetched & ~finished):
            m.d.sync += held.eq(held + 1)
        with m.Elif(finished & ~fetched):
            m.d.sync += held.eq(held - 1)
        arriving: Any = Signal(piece_shape)
        m.d.comb += [
            arriving.tag.eq(arriving_tag),
            arriving.start_lane.eq(self.record.start_lane),
            arriving.end_lane.eq(self.record.end_lane),
            arriving.rows.eq(self.record.rows),
            arriving.last.eq(self.record.last),
            arriving.context.eq(Mux(arriving_first, self.record.context, context)),
            arriving.error.eq(Mux(arriving_first, self.record.error, error)),
        ]
        with m.If(arrives):
            m.d.sync += [context.eq(arriving.context), error.eq(arriving.error)]

        # Step.
        ahead: list[Any] = [Signal(piece_shape, name=f"ahead_{k}", reset_less=True)
                            for k in range(2)]
        ahead_valid = Signal(2)  # the lower first
        piece: Any = Signal(piece_shape, reset_less=True)  # `rows` counts down
        piece_valid = Signal()
        row = Signal(sizes.row_bits, reset_less=True)
        begun = Signal(reset_less=True)  # its first row was read
        is_open = Signal()               # the beat has a part of its lanes
        opened = Signal()                # a beat of this group is complete
        final = Signal()
        taken = Signal()
        step = self.steps.p
        m.d.comb += [
            self.steps.valid.eq(piece_valid & (is_open | self.room)),
            taken.eq(self.steps.valid & self.steps.ready),
            final.eq(piece.rows == 0),
            step.slot.eq(piece.tag),
            step.row.eq(row),
            step.start.eq(Mux(begun, 0, piece.start_lane)),
            step.closes.eq(~final | (piece.end_lane == sizes.lanes - 1) | piece.last),
            step.releases.eq(final),
            step.first.eq(~opened),
            step.last.eq(final & piece.last),
            step.empty.eq(Mux(step.last, ~piece.end_lane, 0)),
            step.context.eq(piece.context),
            step.error.eq(piece.error),
            self.opens.eq(taken & ~is_open),
        ]
        with m.If(taken):
            m.d.sync += [
                is_open.eq(~step.closes),
                row.eq(row + 1),
                begun.eq(1),
                piece.rows.eq(piece.rows - 1),
            ]
            with m.If(step.closes):
                m.d.sync += opened.eq(~step.last)
        m.d.comb += finished.eq(taken & final)
        with m.If(~piece_valid | finished):
            m.d.sync += [
                piece_valid.eq(ahead_valid[0] | arrives),
                piece.eq(Mux(ahead_valid[0], ahead[0], arriving)),
                row.eq(0),
                begun.eq(0),
                ahead[0].eq(Mux(ahead_valid[1], ahead[1], arriving)),
                ahead_valid.eq(Cat(ahead_valid[1] | ahead_valid[0] & arrives, 0)),
                ahead[1].eq(arriving),
            ]
            with m.If(ahead_valid[1]):
                m.d.sync += ahead_valid.eq(Cat(1, arrives))
        with m.Elif(arrives):
            with m.If(ahead_valid[0]):
                m.d.sync += [ahead[1].eq(arriving), ahead_valid[1].eq(1)]
            with m.Else():
                m.d.sync += [ahead[0].eq(arriving), ahead_valid[0].eq(1)]
        return m
