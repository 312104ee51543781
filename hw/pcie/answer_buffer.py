"""Build the beats of one client's answers, and hold them until they are taken."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import ReadSizes, StepLayout
from hw.pcie.types import ReadAnswerLayout, ReadError
from hw.stream.rotate import lanes_from

__all__ = ["AnswerBuffer"]

_DEPTH = 3
"""Beats. A beat is claimed 2 cycles before it is whole, and its place is free again the cycle after
it was taken: with 3 places one is claimed every cycle."""


class AnswerBuffer(wiring.Component):
    """A ring of beats that are built in their places, lane by lane.

    Lanes are written from the row's first lane on; what lies above the bytes of a piece is
    overwritten by the row of the next piece, or is behind the end.

    | Latency: 1 cycle. Throughput: 1 row in and 1 beat out a cycle. Storage: 3 beats.
    | Paths: ``answers`` is a multiplexer behind flip-flops; ``answers.ready`` to flip-flops only.

    Parameters
    ----------
    sizes
        The engine's sizes.
    client
        Number of the client.

    Members
    -------
    opens : In(1)
        A place is claimed, for a beat whose first row comes in the next cycle.
    room : Out(1)
        There is a place to claim.
    write : In(1)
        A row is here: ``row`` and ``step``.
    row : In(8 * lanes)
    step : In(StepLayout(sizes))
    answers : Out(stream.Signature(ReadAnswerLayout(lanes, context_bits)))
    """

    opens: Signal
    room: Signal
    write: Signal
    row: Signal
    step: Any
    answers: stream.Interface

    def __init__(self, sizes: ReadSizes, client: int) -> None:
        self.sizes = sizes
        self.client = client
        super().__init__({
            "opens": In(1),
            "room": Out(1),
            "write": In(1),
            "row": In(8 * sizes.lanes),
            "step": In(StepLayout(sizes)),
            "answers": Out(stream.Signature(
                ReadAnswerLayout(sizes.lanes, sizes.contexts[client]))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        side_shape = data.StructLayout({
            "empty": sizes.lane_bits, "first": 1, "last": 1,
            "context": sizes.contexts[self.client], "error": ReadError,
        })
        beats = [Signal(8 * sizes.lanes, name=f"beat_{k}", reset_less=True) for k in range(_DEPTH)]
        sides: list[Any] = [Signal(side_shape, name=f"side_{k}", reset_less=True)
                            for k in range(_DEPTH)]
        building = Signal(_DEPTH, init=1)   # one-hot: the place of the beat that is built
        leaving = Signal(range(_DEPTH))     # the place that leaves next
        whole = Signal(range(_DEPTH + 1))   # beats that are complete
        free = Signal(range(_DEPTH + 1), init=_DEPTH)
        taken = Signal()
        closes = Signal()
        m.d.comb += [
            taken.eq(self.answers.valid & self.answers.ready),
            closes.eq(self.write & self.step.closes),
            self.room.eq(free != 0),
            self.answers.valid.eq(whole != 0),
        ]
        with m.If(self.opens & ~taken):
            m.d.sync += free.eq(free - 1)
        with m.Elif(taken & ~self.opens):
            m.d.sync += free.eq(free + 1)
        with m.If(closes & ~taken):
            m.d.sync += whole.eq(whole + 1)
        with m.Elif(taken & ~closes):
            m.d.sync += whole.eq(whole - 1)
        with m.If(closes):
            m.d.sync += building.eq(building.rotate_left(1))
        with m.If(taken):
            m.d.sync += leaving.eq(Mux(leaving == _DEPTH - 1, 0, leaving + 1))

        lanes = Signal(sizes.lanes)
        m.d.comb += lanes.eq(lanes_from(self.step.start, sizes.lanes))
        for place, (beat, side) in enumerate(zip(beats, sides, strict=True)):
            with m.If(self.write & building[place]):
                m.d.sync += [side[name].eq(self.step[name]) for name in side_shape.members]
                for lane, written in enumerate(lanes):  # an enable for each lane, and no logic
                    with m.If(written):
                        m.d.sync += beat[8 * lane:8 * lane + 8].eq(
                            self.row[8 * lane:8 * lane + 8])

        answer = self.answers.p
        with m.Switch(leaving):
            for place in range(_DEPTH):
                with m.Case(place):
                    m.d.comb += [
                        answer.data.eq(beats[place]),
                        *(answer[name].eq(sides[place][name]) for name in side_shape.members),
                    ]
        return m
