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

_PENDING_MAX = 8   # deliveries that wait for their buffers
_FRAMES_MAX = 16   # frames whose data have not all been given


class Scatter(wiring.Component):
    """Write frames into buffers of chains: the virtio header, then the frame (virtio 1.4, network
    device, processing of incoming packets).

    The header says what is true without offloads: no flags, no GSO, and how many chains the frame
    is in (NET-RXB-01, VERSION_1). It is written once, before the frame (IMP-NET-RX-01). The last
    chain's buffers are cut to the bytes that are written; those behind stay as they are. When the
    write stands in the order of writes the chain is used.

    A frame of several chains is one group of writes, over the buffers of one chain after the other
    as they come. Its header leaves with 0 for the number of chains, which is known at the
    end: then it is written to its two bytes, wherever they lie, by a group of its own. Only when
    that stands in the order of writes as well are the chains used. So nothing waits for all chains
    of a frame, but the entries of the used ring. A frame of several chains is begun only when there
    is room for all that it may have: amid a group nothing waits for the used ring, whose own writes
    would wait for the end of the group.

    | Latency: 3 cycles from ``frames`` to ``data``. Throughput: a beat a cycle; a chain of one
      buffer every 2 cycles; 3 cycles and a beat more for a frame of several chains.
    | Storage: 8 deliveries, and 1.5 times ``chains`` of those that are not used yet.

    Parameters
    ----------
    lanes
        Byte lanes of a beat.
    stride
        Data queues a function, a power of two.
    chains
        Most chains of a frame, at least 2: the largest size of a queue is enough.

    Members
    -------
    deliveries : In(stream.Signature(DeliveryLayout()))
        The chains of a frame together, each but the last with as many bytes as it holds.
    frames : In(stream.Signature(BeatLayout(lanes)))
        The frames of the deliveries, in their order.
    chain_segments : In(stream.Signature(SegmentLayout()))
        The buffers of the chains: together at least as long as the delivery.
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

    def __init__(self, lanes: int, *, stride: int, chains: int) -> None:
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of two and at least 2, not {stride!r}")
        if chains < 2:
            raise ValueError(f"chains must be at least 2, not {chains!r}")
        self.lanes = lanes
        self.stride = stride
        self.chains = chains
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
        m.submodules.pending = pending = StreamQueue(DeliveryLayout(), _PENDING_MAX)
        # Of each frame, whether it is in several chains: for its header, and for what is behind it.
        m.submodules.headers = headers = StreamQueue(1, _FRAMES_MAX)
        m.submodules.tails = tails = StreamQueue(1, _FRAMES_MAX)
        m.submodules.totals = totals = StreamQueue(16, 2)  # chains of those that are in several

        arriving = self.deliveries.p
        takes_frame = Signal()
        m.d.comb += [
            self.deliveries.ready.eq(pending.i.ready & headers.i.ready & tails.i.ready),
            pending.i.valid.eq(self.deliveries.valid & headers.i.ready & tails.i.ready),
            pending.i.payload.eq(self.deliveries.payload),
            takes_frame.eq(self.deliveries.valid & self.deliveries.ready & arriving.first),
            headers.i.valid.eq(takes_frame),
            headers.i.payload.eq(~arriving.last),
            tails.i.valid.eq(takes_frame),
            tails.i.payload.eq(~arriving.last),
        ]
        self._data(m, headers.o, tails.o, totals.o)
        writing = self._segments(m, pending.o, totals.i)

        # Groups are accepted in order; the used ring may lag behind. The first chain of a frame of
        # several waits for both of its groups, and the others come with it.
        due = Signal(range(2 * writing.depth + 4))
        need = Signal(2)
        finished = writing.o.p
        goes = Signal()
        m.d.comb += [
            need.eq(Mux(finished.first, Mux(finished.last, 1, 2), 0)),
            goes.eq(((need == 0) | (due != 0)) & ((need != 2) | (due > 1))),
            self.used.valid.eq(writing.o.valid & goes),
            self.used.p.queue.eq(finished.queue),
            self.used.p.id.eq(finished.id),
            self.used.p.slots.eq(finished.slots),
            self.used.p.bytes.eq(finished.bytes),
            self.used.p.more.eq(~finished.last),
            writing.o.ready.eq(self.used.ready & goes),
        ]
        m.d.sync += due.eq(due + self.accepted - Mux(self.used.valid & self.used.ready, need, 0))
        return m

    def _data(self, m: Module, headers: stream.Interface, tails: stream.Interface,
              totals: stream.Interface) -> None:
        """Frames behind their headers, and the number of chains behind those of several."""
        m.submodules.insert = insert = HeaderInsert(self.lanes, max_header_bytes=NET_HEADER.size)
        connect(m, flipped(self.frames), insert.i)
        counts = Signal()  # the number comes next
        total: Any = Signal(BeatLayout(self.lanes))
        m.d.comb += [
            # num_buffers is the last field of the header; all others are 0.
            insert.headers.p.data.eq(Mux(headers.payload, 0, 1 << 8 * (NET_HEADER.size - 2))),
            insert.headers.p.bytes.eq(NET_HEADER.size),
            insert.headers.valid.eq(headers.valid),
            headers.ready.eq(insert.headers.ready),
            total.data.eq(totals.payload),
            total.empty.eq(self.lanes - 2),
            total.last.eq(1),
            self.data.valid.eq(Mux(counts, totals.valid, insert.o.valid & tails.valid)),
            self.data.payload.eq(Mux(counts, total.as_value(), insert.o.payload.as_value())),
            insert.o.ready.eq(~counts & self.data.ready & tails.valid),
            tails.ready.eq(insert.o.valid & insert.o.ready & insert.o.p.last),
            totals.ready.eq(counts & self.data.ready),
        ]
        with m.If(tails.ready):
            m.d.sync += counts.eq(tails.payload)
        with m.Elif(totals.valid & totals.ready):
            m.d.sync += counts.eq(0)

    def _segments(self, m: Module, deliveries: stream.Interface,  # noqa: PLR0915  # one machine
                  totals: stream.Interface) -> StreamQueue:
        """The buffers that frames go to; give the chains in the order in which they are used."""
        behind = max(_FRAMES_MAX, self.chains // 2)  # chains that wait while a long frame is begun
        m.submodules.writing = writing = StreamQueue(DeliveryLayout(), self.chains + behind)
        m.submodules.segment = segment = StreamRegister(WriteSegmentLayout())
        connect(m, segment.o, flipped(self.segments))

        low_at, high_at = NET_HEADER.size - 2, NET_HEADER.size - 1
        delivery: Any = Signal(DeliveryLayout())
        left = Signal(LENGTH_BITS)  # bytes that have no buffer yet
        offset = Signal(range(NET_HEADER.size + 1))  # of the buffer in the frame, within the header
        end = Signal(LENGTH_BITS + 1)
        chains = Signal(16)  # of the frame
        # The buffers of both bytes of the number of chains, and where in them they are.
        low = Signal(64, reset_less=True)
        low_lead = Signal(4, reset_less=True)
        high = Signal(64, reset_less=True)
        high_lead = Signal(4, reset_less=True)
        apart = Signal(reset_less=True)  # they lie in two buffers
        buffer = self.chain_segments.p
        several = Signal()
        fits = Signal()
        room = Signal()
        m.d.sync += room.eq(writing.level < behind)  # one less: it may be a cycle late
        m.d.comb += [
            several.eq(~(delivery.first & delivery.last)),
            fits.eq(left <= buffer.length),
            end.eq(offset + buffer.length),
            segment.i.p.function.eq(delivery.queue >> (self.stride - 1).bit_length()),
            segment.i.p.address.eq(buffer.address),
            segment.i.p.length.eq(Mux(fits, left, buffer.length)),
            segment.i.p.last.eq(fits & delivery.last),
            totals.payload.eq(chains),
            writing.i.payload.eq(deliveries.payload),
        ]
        with m.FSM():
            with m.State("DELIVERY"):
                begins = deliveries.p.first & ~deliveries.p.last
                m.d.comb += [
                    deliveries.ready.eq(writing.i.ready & (room | ~begins)),
                    writing.i.valid.eq(deliveries.valid & (room | ~begins)),
                ]
                with m.If(deliveries.valid & deliveries.ready):
                    m.d.sync += [
                        delivery.eq(deliveries.payload), left.eq(deliveries.p.bytes),
                        chains.eq(Mux(deliveries.p.first, 1, chains + 1)),
                    ]
                    with m.If(deliveries.p.first):
                        m.d.sync += offset.eq(0)
                    m.next = "BUFFERS"
            with m.State("BUFFERS"):
                m.d.comb += [
                    segment.i.valid.eq(self.chain_segments.valid),
                    self.chain_segments.ready.eq(segment.i.ready),
                ]
                with m.If(self.chain_segments.valid & segment.i.ready):
                    m.d.sync += [
                        left.eq(left - buffer.length),
                        offset.eq(Mux(end > high_at, NET_HEADER.size, end)),
                    ]
                    with m.If(offset <= low_at):
                        m.d.sync += [low.eq(buffer.address), low_lead.eq(low_at - offset),
                                     apart.eq(end <= high_at)]
                    with m.If(offset <= high_at):
                        m.d.sync += [high.eq(buffer.address), high_lead.eq(high_at - offset)]
                    with m.If(~buffer.last & fits):
                        m.next = "REST"
                    with m.Elif(buffer.last & delivery.last & several):
                        m.next = "COUNT"
                    with m.Elif(buffer.last):
                        m.next = "DELIVERY"
            with m.State("REST"):  # buffers behind the last byte are not written
                m.d.comb += self.chain_segments.ready.eq(1)
                with m.If(self.chain_segments.valid & buffer.last):
                    with m.If(delivery.last & several):
                        m.next = "COUNT"
                    with m.Else():
                        m.next = "DELIVERY"
            with m.State("COUNT"):
                m.d.comb += totals.valid.eq(1)
                with m.If(totals.ready):
                    m.d.sync += [low.eq(low + low_lead), high.eq(high + high_lead)]
                    m.next = "LOW"
            with m.State("LOW"):
                m.d.comb += [
                    segment.i.valid.eq(1),
                    segment.i.p.address.eq(low),
                    segment.i.p.length.eq(Mux(apart, 1, 2)),
                    segment.i.p.last.eq(~apart),
                ]
                with m.If(segment.i.ready & apart):
                    m.next = "HIGH"
                with m.Elif(segment.i.ready):
                    m.next = "DELIVERY"
            with m.State("HIGH"):
                m.d.comb += [
                    segment.i.valid.eq(1),
                    segment.i.p.address.eq(high),
                    segment.i.p.length.eq(1),
                    segment.i.p.last.eq(1),
                ]
                with m.If(segment.i.ready):
                    m.next = "DELIVERY"
        return writing
