"""Transmit, first half: chains of the queues that were granted become groups of DMA reads."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import ReadRequestLayout
from hw.stream.register import StreamRegister
from hw.stream.types import LENGTH_BITS, QUEUE_BITS
from hw.vf.scheduler import GrantLayout
from hw.virtio.layouts import NET_HEADER
from hw.virtio.types import ChainLayout, ChainStatus, SegmentLayout, TakeLayout

__all__ = ["GATHER_CONTEXT_BITS", "Gather", "GatherContext"]


class GatherContext(data.StructLayout):
    """What comes back with the answer to a group: which frame, and which part of it.

    =========== ==== =====================================================================
    field       bits meaning
    =========== ==== =====================================================================
    queue       13
    id          16   of the chain
    long        1    the frame is read in several groups
    begin       1    first group of the frame
    end         1    last group of the frame
    lead        6    lane of the group's first byte
    header_rows 2    how many of the group's first rows hold the virtio header
    bytes       17   of the frame
    =========== ==== =====================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "id": 16, "long": 1, "begin": 1, "end": 1, "lead": 6,
            "header_rows": 2, "bytes": LENGTH_BITS,
        })


GATHER_CONTEXT_BITS = GatherContext().size


class Gather(wiring.Component):
    """Take granted chains and ask for their bytes, many packets ahead of the answers.

    The first byte of a chain is asked into such a lane that the frame, behind the virtio header,
    begins at lane 0: the header is stripped without a shifter. Space in the egress buffer is
    reserved before the first read, so that answers never wait for it.

    A chain is one group of reads, answered in one piece, unless it may need more than
    ``group_tlps`` TLPs. Such a *long* chain is asked for in pieces of at most one read's size, each
    a group. One long chain is in flight at a time; the frame buffer keeps its open frame apart,
    so that others pass.

    | Latency: 4 cycles from ``chains`` to the first read. Throughput: a chain of one segment every
      2 cycles. Storage: registers.

    Parameters
    ----------
    lanes
        Byte lanes of the answers.
    stride
        Data queues a function, a power of two.
    cell_bytes
        A cell of the egress buffer.
    max_cells
        Most cells a frame takes.
    group_tlps
        Most TLPs of a group, at least 4.

    Members
    -------
    grants : In(stream.Signature(GrantLayout()))
    takes : Out(stream.Signature(TakeLayout()))
    chains : In(stream.Signature(ChainLayout()))
    segments : In(stream.Signature(SegmentLayout()))
    reserve : Out(stream.Signature(range(max_cells + 1)))
        Cells of the egress buffer, taken before the first read.
    reads : Out(stream.Signature(ReadRequestLayout(lanes, GATHER_CONTEXT_BITS)))
    read_size : In(3)
        Code of the largest read: 128 bytes times 2 to the power of it; 5 at most.
    long_done : In(1)
        The frame of the long chain has been put together, or given up.
    """

    grants: stream.Interface
    takes: stream.Interface
    chains: stream.Interface
    segments: stream.Interface
    reserve: stream.Interface
    reads: stream.Interface
    read_size: Signal
    long_done: Signal

    def __init__(self, lanes: int, *, stride: int, cell_bytes: int, max_cells: int,
                 group_tlps: int) -> None:
        if cell_bytes < 64 or cell_bytes & (cell_bytes - 1):
            raise ValueError(f"cell_bytes must be a power of two and at least 64, "
                             f"not {cell_bytes!r}")
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of two and at least 2, not {stride!r}")
        if group_tlps < 4:
            raise ValueError(f"group_tlps must be at least 4, not {group_tlps!r}")
        self.lanes = lanes
        self.stride = stride
        self.cell_bytes = cell_bytes
        self.max_cells = max_cells
        self.group_tlps = group_tlps
        super().__init__({
            "grants": In(stream.Signature(GrantLayout())),
            "takes": Out(stream.Signature(TakeLayout())),
            "chains": In(stream.Signature(ChainLayout())),
            "segments": In(stream.Signature(SegmentLayout())),
            "reserve": Out(stream.Signature(range(max_cells + 1))),
            "reads": Out(stream.Signature(ReadRequestLayout(lanes, GATHER_CONTEXT_BITS))),
            "read_size": In(3),
            "long_done": In(1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()
        self._take(m)

        m.submodules.request = request = StreamRegister(self.reads.payload.shape())
        connect(m, request.o, flipped(self.reads))

        # --- The chain at hand: sizes first, then space, then its segments. -----------------------

        queue = Signal(QUEUE_BITS)
        chain_id = Signal(16)
        sending = Signal(LENGTH_BITS)
        cells = Signal(range(self.max_cells + 1))
        long = Signal()
        long_busy = Signal()
        with m.If(self.long_done):
            m.d.sync += long_busy.eq(0)

        frame_bytes = Signal(LENGTH_BITS)
        last_byte = Signal(LENGTH_BITS)
        whole_reads = Signal(LENGTH_BITS - 7)
        tlps = Signal(LENGTH_BITS)
        cell_bits = (self.cell_bytes - 1).bit_length()
        m.d.comb += [
            frame_bytes.eq(self.chains.p.bytes - NET_HEADER.size),
            last_byte.eq(frame_bytes - 1),
            whole_reads.eq((self.chains.p.bytes >> 7) >> self.read_size),
            # A buffer of n bytes touches at most n / size + 2 aligned pieces of that size.
            tlps.eq(whole_reads + (self.chains.p.segments << 1)),
        ]

        # Where the next byte falls: the lane, and how much of the header is still to come.
        header_lead = -NET_HEADER.size % self.lanes
        lane = Signal(range(self.lanes))
        header_left = Signal(range(NET_HEADER.size + 1))
        begin = Signal()
        segment = self.segments.p
        piece_address = Signal(64)
        piece_left = Signal(LENGTH_BITS)
        piece_last = Signal()
        read_bytes = Signal(13)
        m.d.comb += read_bytes.eq(128 << self.read_size)

        context: Any = Signal(GatherContext())
        m.d.comb += [
            request.i.p.function.eq(queue >> (self.stride - 1).bit_length()),
            request.i.p.queue.eq(queue),
            request.i.p.context.eq(context),
            request.i.p.lead.eq(lane),
            context.queue.eq(queue),
            context.id.eq(chain_id),
            context.long.eq(long),
            context.lead.eq(lane),
            context.bytes.eq(sending),
        ]
        with m.If(header_left > self.lanes):
            m.d.comb += context.header_rows.eq(2)
        with m.Elif(header_left != 0):
            m.d.comb += context.header_rows.eq(1)

        length = Signal(13)
        final = Signal()
        m.d.comb += [
            final.eq(piece_left <= read_bytes),
            length.eq(Mux(final, piece_left, read_bytes)),
        ]

        with m.FSM():
            with m.State("CHAIN"):
                m.d.comb += self.chains.ready.eq(1)
                m.d.sync += [
                    queue.eq(self.chains.p.queue),
                    chain_id.eq(self.chains.p.id),
                    sending.eq(frame_bytes),
                    cells.eq((last_byte >> cell_bits) + 1),
                    long.eq(tlps > self.group_tlps),
                    lane.eq(header_lead),
                    header_left.eq(NET_HEADER.size),
                    begin.eq(1),
                ]
                with m.If(self.chains.valid & (self.chains.p.status == ChainStatus.FOUND)):
                    m.next = "RESERVE"
            with m.State("RESERVE"):
                m.d.comb += [
                    self.reserve.payload.eq(cells),
                    self.reserve.valid.eq(~(long & long_busy)),
                ]
                with m.If(self.reserve.valid & self.reserve.ready):
                    with m.If(long):
                        m.d.sync += long_busy.eq(1)
                        m.next = "SEGMENT"
                    with m.Else():
                        m.next = "WHOLE"
            with m.State("WHOLE"):
                m.d.comb += [
                    request.i.valid.eq(self.segments.valid),
                    self.segments.ready.eq(request.i.ready),
                    request.i.p.address.eq(segment.address),
                    request.i.p.length.eq(segment.length),
                    request.i.p.last.eq(segment.last),
                    context.begin.eq(1),
                    context.end.eq(1),
                ]
                with m.If(self.segments.valid & self.segments.ready & segment.last):
                    m.next = "CHAIN"

            with m.State("SEGMENT"):
                m.d.comb += self.segments.ready.eq(1)
                m.d.sync += [
                    piece_address.eq(segment.address),
                    piece_left.eq(segment.length),
                    piece_last.eq(segment.last),
                ]
                with m.If(self.segments.valid):
                    m.next = "PIECE"
            with m.State("PIECE"):
                m.d.comb += [
                    request.i.valid.eq(1),
                    request.i.p.address.eq(piece_address),
                    request.i.p.length.eq(length),
                    request.i.p.last.eq(1),
                    context.begin.eq(begin),
                    context.end.eq(final & piece_last),
                ]
                with m.If(request.i.ready):
                    m.d.sync += [
                        begin.eq(0),
                        lane.eq(lane + length),
                        header_left.eq(Mux(header_left > length, header_left - length, 0)),
                        piece_address.eq(piece_address + length),
                        piece_left.eq(piece_left - length),
                    ]
                    with m.If(final):
                        m.next = "SEGMENT"
                        with m.If(piece_last):
                            m.next = "CHAIN"
        return m

    def _take(self, m: Module) -> None:
        """Ask for as many chains as were granted, one a cycle."""
        queue = Signal(QUEUE_BITS)
        left = Signal(8)
        m.d.comb += [
            self.takes.p.queue.eq(queue),
            self.takes.valid.eq(left != 0),
            self.grants.ready.eq((left == 0) | ((left == 1) & self.takes.ready)),
        ]
        with m.If(self.takes.valid & self.takes.ready):
            m.d.sync += left.eq(left - 1)
        with m.If(self.grants.valid & self.grants.ready):
            m.d.sync += [queue.eq(self.grants.p.queue), left.eq(self.grants.p.count)]
