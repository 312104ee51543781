"""The writes of used rings, in order, and what they tell when they stand in the order of writes."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import WriteSegmentLayout
from hw.stream.queue import StreamQueue
from hw.stream.register import StreamRegister
from hw.stream.types import QUEUE_BITS, BeatLayout
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.used_types import ENTRY_BYTES, PublishedLayout, WritesLayout

__all__ = ["UsedWrites"]

_BURSTS_MAX = 32   # on their way into the order of writes
_ON_THE_WAY = 6    # that may come after ``room`` was seen


class _BurstLayout(data.StructLayout):
    """A burst on its way: whether it has ``two`` writes, and ``tells`` of chains."""

    def __init__(self) -> None:
        super().__init__({"published": PublishedLayout(), "tells": 1, "two": 1})


class UsedWrites(wiring.Component):
    """Give the writes of each burst to the DMA, and tell of its chains when the last is accepted.

    | Latency: 2 cycles. Throughput: a write a cycle, if it has one beat.
    | Storage: two beats; 32 bursts that wait for their acceptance.

    Parameters
    ----------
    lanes
        Byte lanes of ``data``, 8 at least.
    numbers
        Whose queues are whose.

    Members
    -------
    i : In(stream.Signature(WritesLayout(lanes // 4)))
        Given only while there is ``room``.
    room : Out(1)
        For a burst more than may be on its way here.
    segments : Out(stream.Signature(WriteSegmentLayout()))
    data : Out(stream.Signature(BeatLayout(lanes)))
    accepted : In(1)
        A write stands in the order of writes; a pulse each.
    published : Out(stream.Signature(PublishedLayout()))
    telling : Out(QUEUE_BITS)
        The queue that is told of.
    follows : In(1)
        Another burst of it is sure to come, also where none was left waiting by this one.
    again : Out(stream.Signature(QUEUE_BITS))
        There is more of this queue.
    """

    i: stream.Interface
    room: Signal
    segments: stream.Interface
    data: stream.Interface
    accepted: Signal
    published: stream.Interface
    telling: Signal
    follows: Signal
    again: stream.Interface

    def __init__(self, lanes: int, numbers: QueueNumbers) -> None:
        self.lanes = lanes
        self.numbers = numbers
        self.row = 2 * lanes // ENTRY_BYTES
        super().__init__({
            "i": In(stream.Signature(WritesLayout(self.row))),
            "room": Out(1),
            "segments": Out(stream.Signature(WriteSegmentLayout())),
            "data": Out(stream.Signature(BeatLayout(lanes))),
            "accepted": In(1),
            "published": Out(stream.Signature(PublishedLayout())),
            "telling": Out(QUEUE_BITS),
            "follows": In(1),
            "again": Out(stream.Signature(QUEUE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        m.submodules.segment_register = segment = StreamRegister(WriteSegmentLayout())
        m.submodules.data_register = beat = StreamRegister(BeatLayout(lanes))
        connect(m, segment.o, flipped(self.segments))
        connect(m, beat.o, flipped(self.data))

        m.submodules.again = again = StreamQueue(QUEUE_BITS, 2)
        connect(m, again.o, flipped(self.again))

        held: Any = Signal(WritesLayout(self.row), reset_less=True)
        first = Signal()   # to be written; likewise
        second = Signal()
        upper = Signal()   # the second beat of a write is next
        at = Signal(64)
        length = Signal.like(held.first.length)
        content = Signal(2 * 8 * lanes)
        long = Signal()    # than a beat
        goes = Signal()
        last = Signal()
        ends = Signal()    # a write
        m.d.comb += [
            at.eq(Mux(first, held.first.address, held.second.address)),
            length.eq(Mux(first, held.first.length, held.second.length)),
            content.eq(Mux(first, held.first.data, held.second.data)),
            long.eq(length > lanes),
            last.eq(upper | ~long),
            goes.eq((first | second) & beat.i.ready & (upper | segment.i.ready)),
            ends.eq(goes & last),
            segment.i.valid.eq(goes & ~upper),
            segment.i.p.function.eq(self.numbers.function(held.published.queue)),
            segment.i.p.address.eq(at),
            segment.i.p.length.eq(length),
            segment.i.p.last.eq(1),
            beat.i.valid.eq(goes),
            beat.i.p.data.eq(content.word_select(upper, 8 * lanes)),
            beat.i.p.empty.eq(Mux(last, Mux(upper, 2 * lanes, lanes) - length, 0)),
            beat.i.p.last.eq(last),
            again.i.valid.eq(self.i.valid & self.i.ready & self.i.p.more),
            again.i.payload.eq(self.i.p.published.queue),
            self.i.ready.eq(again.i.ready & ((~first & ~second) | (ends & ~(first & second)))),
        ]
        with m.If(goes):
            m.d.sync += upper.eq(~last)
        with m.If(ends):
            m.d.sync += first.eq(0)
            with m.If(~first):
                m.d.sync += second.eq(0)
        with m.If(self.i.ready):
            m.d.sync += [
                held.eq(self.i.payload),
                first.eq(self.i.valid & self.i.p.any),
                second.eq(self.i.valid & self.i.p.two),
            ]

        # With the acceptance of its last write a burst is published.
        m.submodules.bursts = bursts = StreamQueue(_BurstLayout(), _BURSTS_MAX)
        pulses = Signal(range(2 * _BURSTS_MAX + 1))  # accepted, and not told yet
        leaves = Signal()
        stands = Signal()
        gone = Signal(2)
        stalled = Signal()  # what was offered, and not taken, stays as it is
        followed = Signal()
        burst: Any = bursts.o.p
        m.d.comb += [
            self.room.eq(bursts.level <= _BURSTS_MAX - _ON_THE_WAY),
            bursts.i.valid.eq(self.i.valid & self.i.ready & self.i.p.any),
            bursts.i.p.published.eq(self.i.p.published),
            bursts.i.p.published.follows.eq(self.i.p.more),
            bursts.i.p.tells.eq(self.i.p.tells),
            bursts.i.p.two.eq(self.i.p.two),
            stands.eq(bursts.o.valid & ((pulses > 1) | (pulses[0] & ~burst.two))),
            self.telling.eq(burst.published.queue),
            self.published.payload.eq(burst.published),
            self.published.p.follows.eq(Mux(
                stalled, followed, burst.published.follows | self.follows)),
            self.published.valid.eq(stands & burst.tells),
            leaves.eq(stands & (self.published.ready | ~burst.tells)),
            bursts.o.ready.eq(leaves),
            gone.eq(Mux(leaves, Mux(burst.two, 2, 1), 0)),
        ]
        m.d.sync += [
            pulses.eq(pulses + self.accepted - gone),
            stalled.eq(self.published.valid & ~self.published.ready),
            followed.eq(self.published.p.follows),
        ]
        return m
