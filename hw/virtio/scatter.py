"""Receive, second half: frames out of the pool, behind their header, into the chains' buffers."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import WriteSegmentLayout
from hw.stream.align import HeaderInsert
from hw.stream.queue import StreamQueue
from hw.stream.register import StreamRegister
from hw.stream.types import LENGTH_BITS, BeatLayout
from hw.virtio.deliver import DeliveryLayout
from hw.virtio.layouts import NET_HEADER
from hw.virtio.types import SegmentLayout, UsedLayout

__all__ = ["Scatter"]

_WRITING_MAX = 16  # frames on their way into the order of writes


class Scatter(wiring.Component):
    """Write frames into buffers of chains: the virtio header, then the frame (virtio 1.4, network
    device, processing of incoming packets).

    The header says what is true without offloads: no flags, no GSO, one buffer
    (NET-RX, VERSION_1). The chain's buffers are cut to the bytes that are written;
    those behind stay as they are. When the write stands in the order of writes the chain is used.

    | Latency: 3 cycles from ``frames`` to ``data``. Throughput: a beat a cycle; a chain of one
      buffer every 2 cycles. Storage: 16 deliveries.

    Parameters
    ----------
    lanes
        Byte lanes of a beat.
    stride
        Data queues a function, a power of two.

    Members
    -------
    deliveries : In(stream.Signature(DeliveryLayout()))
    frames : In(stream.Signature(BeatLayout(lanes)))
        The frames of the deliveries, in their order.
    chain_segments : In(stream.Signature(SegmentLayout()))
        The buffers of their chains: together at least as long as the delivery.
    segments : Out(stream.Signature(WriteSegmentLayout()))
    data : Out(stream.Signature(BeatLayout(lanes)))
    accepted : In(1)
        The oldest group stands in the order of writes.
    used : Out(stream.Signature(UsedLayout()))
    """

    deliveries: stream.Interface
    frames: stream.Interface
    chain_segments: stream.Interface
    segments: stream.Interface
    data: stream.Interface
    accepted: Signal
    used: stream.Interface

    def __init__(self, lanes: int, *, stride: int) -> None:
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of two and at least 2, not {stride!r}")
        self.lanes = lanes
        self.stride = stride
        super().__init__({
            "deliveries": In(stream.Signature(DeliveryLayout())),
            "frames": In(stream.Signature(BeatLayout(lanes))),
            "chain_segments": In(stream.Signature(SegmentLayout())),
            "segments": Out(stream.Signature(WriteSegmentLayout())),
            "data": Out(stream.Signature(BeatLayout(lanes))),
            "accepted": In(1),
            "used": Out(stream.Signature(UsedLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.insert = insert = HeaderInsert(self.lanes, max_header_bytes=NET_HEADER.size)
        connect(m, flipped(self.frames), insert.i)
        connect(m, insert.o, flipped(self.data))
        m.submodules.writing = writing = StreamQueue(DeliveryLayout(), _WRITING_MAX)
        m.submodules.segment = segment = StreamRegister(WriteSegmentLayout())
        connect(m, segment.o, flipped(self.segments))

        delivery: Any = Signal(DeliveryLayout())
        left = Signal(LENGTH_BITS)  # bytes that have no buffer yet
        buffer = self.chain_segments.p
        fits = Signal()
        m.d.comb += [
            fits.eq(left <= buffer.length),
            segment.i.p.function.eq(delivery.queue >> (self.stride - 1).bit_length()),
            segment.i.p.address.eq(buffer.address),
            segment.i.p.length.eq(Mux(fits, left, buffer.length)),
            segment.i.p.last.eq(fits),
            # num_buffers is the last field of the header; all others are 0.
            insert.headers.p.data.eq(1 << 8 * (NET_HEADER.size - 2)),
            insert.headers.p.bytes.eq(NET_HEADER.size),
            insert.headers.valid.eq(1),
            writing.i.payload.eq(self.deliveries.payload),
        ]
        with m.FSM():
            with m.State("DELIVERY"):
                m.d.comb += [
                    self.deliveries.ready.eq(writing.i.ready),
                    writing.i.valid.eq(self.deliveries.valid),
                ]
                with m.If(self.deliveries.valid & self.deliveries.ready):
                    m.d.sync += [
                        delivery.eq(self.deliveries.payload), left.eq(self.deliveries.p.bytes),
                    ]
                    m.next = "BUFFERS"
            with m.State("BUFFERS"):
                m.d.comb += [
                    segment.i.valid.eq(self.chain_segments.valid),
                    self.chain_segments.ready.eq(segment.i.ready),
                ]
                with m.If(self.chain_segments.valid & segment.i.ready):
                    m.d.sync += left.eq(left - buffer.length)
                    with m.If(buffer.last):
                        m.next = "DELIVERY"
                    with m.Elif(fits):
                        m.next = "REST"
            with m.State("REST"):  # buffers behind the last byte are not written
                m.d.comb += self.chain_segments.ready.eq(1)
                with m.If(self.chain_segments.valid & buffer.last):
                    m.next = "DELIVERY"

        # Groups are accepted in order; the used ring may lag behind.
        due = Signal(range(_WRITING_MAX + 1))
        finished = writing.o.p
        m.d.comb += [
            self.used.valid.eq(writing.o.valid & (due != 0)),
            self.used.p.queue.eq(finished.queue),
            self.used.p.id.eq(finished.id),
            self.used.p.slots.eq(finished.slots),
            self.used.p.bytes.eq(finished.bytes),
            writing.o.ready.eq(self.used.ready & (due != 0)),
        ]
        m.d.sync += due.eq(due + self.accepted - (self.used.valid & self.used.ready))
        return m
