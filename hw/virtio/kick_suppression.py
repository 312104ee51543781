"""Writes of a ring's event suppression: which kicks the driver is asked for."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.types import WriteSegmentLayout
from hw.stream.connect import connect_streams
from hw.stream.queue import StreamQueue
from hw.stream.types import BeatLayout
from hw.virtio.prefetch_types import IN_PIPELINE, NotifyFlagLayout, PrefetchSizes

__all__ = ["KickSuppression"]

_FLAG_BYTES = 2
_WIDE_BYTES = 4
_DEPTH = 16


class KickSuppression(wiring.Component):
    """Write the used ring's flags or avail_event, or the device event suppression structure of a
    packed ring, and tell when the write is in order.

    | Latency: 2 cycles from ``flags`` to the write. Throughput: one write at a time.
    | Storage: 16 writes that wait.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    flags : In(stream.Signature(NotifyFlagLayout(sizes)))
    room : Out(1)
        ``flags`` will be ready for `IN_PIPELINE` transfers.
    segments : Out(stream.Signature(WriteSegmentLayout()))
    data : Out(stream.Signature(BeatLayout(lanes)))
    accepted : In(1)
        The write stands in the order of writes (a pulse).
    done : Out(stream.Signature(NotifyFlagLayout(sizes)))
        After the acceptance of each write.
    """

    flags: stream.Interface
    room: Signal
    segments: stream.Interface
    data: stream.Interface
    accepted: Signal
    done: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "flags": In(stream.Signature(NotifyFlagLayout(sizes))),
            "room": Out(1),
            "segments": Out(stream.Signature(WriteSegmentLayout())),
            "data": Out(stream.Signature(BeatLayout(sizes.lanes))),
            "accepted": In(1),
            "done": Out(stream.Signature(NotifyFlagLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        m.submodules.waiting = waiting = StreamQueue(NotifyFlagLayout(sizes), _DEPTH)
        connect_streams(m, flipped(self.flags), waiting.i)
        segment_sent = Signal()
        data_sent = Signal()
        in_order = Signal()
        first = waiting.o.p
        m.d.comb += [
            self.room.eq(waiting.level <= _DEPTH - IN_PIPELINE),
            self.segments.valid.eq(waiting.o.valid & ~segment_sent),
            self.segments.p.function.eq(sizes.function(first.member)),
            self.segments.p.address.eq(first.address),
            self.segments.p.length.eq(Mux(first.wide, _WIDE_BYTES, _FLAG_BYTES)),
            self.segments.p.last.eq(1),
            self.data.valid.eq(waiting.o.valid & ~data_sent),
            self.data.p.data.eq(first.value),
            self.data.p.empty.eq(
                Mux(first.wide, sizes.lanes - _WIDE_BYTES, sizes.lanes - _FLAG_BYTES)),
            self.data.p.last.eq(1),
            # A write may stand in the order of writes before its data have been taken.
            self.done.valid.eq(in_order & data_sent),
            self.done.payload.eq(first),
            waiting.o.ready.eq(self.done.valid & self.done.ready),
        ]
        with m.If(self.segments.valid & self.segments.ready):
            m.d.sync += segment_sent.eq(1)
        with m.If(self.data.valid & self.data.ready):
            m.d.sync += data_sent.eq(1)
        with m.If(self.accepted):
            m.d.sync += in_order.eq(1)
        with m.If(self.done.valid & self.done.ready):
            m.d.sync += [segment_sent.eq(0), data_sent.eq(0), in_order.eq(0)]
        return m
