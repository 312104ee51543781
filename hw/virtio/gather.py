"""Transmit, first half: chains of the queues that were granted become groups of DMA reads."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadRequestLayout
from hw.stream.queue import PassingQueue, StreamQueue
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
    slots       16   that it takes in the ring
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
            "queue": QUEUE_BITS, "id": 16, "slots": 16, "long": 1, "begin": 1, "end": 1, "lead": 6,
            "header_rows": 2, "bytes": LENGTH_BITS,
        })


GATHER_CONTEXT_BITS = GatherContext().size


class _ChainLayout(data.StructLayout):
    """A chain on its way: the frame's bytes and cells, and whether it is long."""

    def __init__(self, max_cells: int) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "id": 16, "slots": 16, "bytes": LENGTH_BITS,
            "cells": range(max_cells + 1), "long": 1,
        })


class Gather(wiring.Component):
    """Take granted chains and ask for their bytes, many packets ahead of the answers.

    The first byte of a chain is asked into such a lane that the frame, behind the virtio header,
    begins at lane 0: the header is stripped without a shifter. Space in the egress buffer is
    reserved before the first read, so that answers never wait for it.

    A chain is one group of reads, answered in one piece, unless it may need ``group_tlps`` TLPs
    or more. Such a *long* chain is asked for in pieces of at most one read's size, each
    a group. One long chain is in flight at a time; the frame buffer keeps its open frame apart,
    so that others pass.

    ::

        grants ──► takes      chains ──► sizes ──► space reserved ──┐
                                         segments ──────────────────┴──► reads

    | Latency: 0 cycles from ``grants`` to ``takes``, 1 from ``chains`` to the first read.
    | Throughput: a segment a cycle. Storage: registers, and four chains.

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
        A group has fewer TLPs; a power of two, at least 4.

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
        if group_tlps < 4 or group_tlps & (group_tlps - 1):
            raise ValueError(f"group_tlps must be a power of two and at least 4, "
                             f"not {group_tlps!r}")
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

        reads = self.reads
        m.submodules.sized = sized = StreamQueue(_ChainLayout(self.max_cells), 2)
        m.submodules.reserved = reserved = PassingQueue(_ChainLayout(self.max_cells), 2)

        # --- A chain was found: its sizes. --------------------------------------------------------

        frame_bytes = Signal(LENGTH_BITS)
        last_byte = Signal(LENGTH_BITS)
        whole_reads = Signal(LENGTH_BITS - 7)
        tlps = Signal(LENGTH_BITS)
        cell_bits = (self.cell_bytes - 1).bit_length()
        found = Signal()
        m.d.comb += [
            frame_bytes.eq(self.chains.p.bytes - NET_HEADER.size),
            last_byte.eq(frame_bytes - 1),
            whole_reads.eq((self.chains.p.bytes >> 7) >> self.read_size),
            # A buffer of n bytes touches at most n / size + 2 aligned pieces of that size.
            tlps.eq(whole_reads + (self.chains.p.segments << 1)),
            found.eq(self.chains.p.status == ChainStatus.FOUND),
            self.chains.ready.eq(sized.i.ready),
            sized.i.valid.eq(self.chains.valid & found),
            sized.i.p.queue.eq(self.chains.p.queue),
            sized.i.p.id.eq(self.chains.p.id),
            sized.i.p.slots.eq(self.chains.p.slots),
            sized.i.p.bytes.eq(frame_bytes),
            sized.i.p.cells.eq((last_byte >> cell_bits) + 1),
            sized.i.p.long.eq((tlps >> (self.group_tlps - 1).bit_length()).any()),
        ]

        # --- Its place in the egress buffer; a long chain waits for the one before. ---------------

        long_busy = Signal()
        may_go = Signal()
        m.d.comb += [
            may_go.eq(sized.o.valid & reserved.i.ready & ~(sized.o.p.long & long_busy)),
            self.reserve.payload.eq(sized.o.p.cells),
            self.reserve.valid.eq(may_go),
            reserved.i.payload.eq(sized.o.payload),
            reserved.i.valid.eq(may_go & self.reserve.ready),
            sized.o.ready.eq(reserved.i.valid),
        ]
        with m.If(self.long_done):
            m.d.sync += long_busy.eq(0)
        with m.If(reserved.i.valid & sized.o.p.long):
            m.d.sync += long_busy.eq(1)

        # --- Its segments. ------------------------------------------------------------------------

        chain = reserved.o.p
        segment = self.segments.p
        # Where the next byte of a long chain falls: the lane, and how much of the header is still
        # to come.
        header_lead = -NET_HEADER.size % self.lanes
        lane = Signal(range(self.lanes), init=header_lead)
        header_left = Signal(range(NET_HEADER.size + 1), init=NET_HEADER.size)
        begin = Signal(init=1)
        piece_address = Signal(64)
        piece_left = Signal(LENGTH_BITS)
        piece_last = Signal()
        read_bytes = Signal(13)
        final = Signal()
        length = Signal(13)
        m.d.comb += [
            read_bytes.eq(128 << self.read_size),
            final.eq(piece_left <= read_bytes),
            length.eq(Mux(final, piece_left, read_bytes)),
        ]

        context: Any = Signal(GatherContext())
        m.d.comb += [
            reads.p.function.eq(chain.queue >> (self.stride - 1).bit_length()),
            reads.p.queue.eq(chain.queue),
            reads.p.context.eq(context),
            reads.p.lead.eq(lane),
            context.queue.eq(chain.queue),
            context.id.eq(chain.id),
            context.slots.eq(chain.slots),
            context.long.eq(chain.long),
            context.lead.eq(lane),
            context.bytes.eq(chain.bytes),
        ]
        with m.If(header_left > self.lanes):
            m.d.comb += context.header_rows.eq(2)
        with m.Elif(header_left != 0):
            m.d.comb += context.header_rows.eq(1)

        with m.FSM():
            with m.State("SEGMENT"):
                with m.If(chain.long):
                    m.d.comb += self.segments.ready.eq(reserved.o.valid)
                    m.d.sync += [
                        piece_address.eq(segment.address),
                        piece_left.eq(segment.length),
                        piece_last.eq(segment.last),
                    ]
                    with m.If(reserved.o.valid & self.segments.valid):
                        m.next = "PIECE"
                with m.Else():
                    m.d.comb += [
                        reads.valid.eq(reserved.o.valid & self.segments.valid),
                        self.segments.ready.eq(reserved.o.valid & reads.ready),
                        reads.p.address.eq(segment.address),
                        reads.p.length.eq(segment.length),
                        reads.p.last.eq(segment.last),
                        context.begin.eq(1),
                        context.end.eq(1),
                        reserved.o.ready.eq(self.segments.valid & reads.ready & segment.last),
                    ]
            with m.State("PIECE"):
                m.d.comb += [
                    reads.valid.eq(1),
                    reads.p.address.eq(piece_address),
                    reads.p.length.eq(length),
                    reads.p.last.eq(1),
                    context.begin.eq(begin),
                    context.end.eq(final & piece_last),
                ]
                with m.If(reads.ready):
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
                            m.d.comb += reserved.o.ready.eq(1)
                            m.d.sync += [
                                begin.eq(1), lane.eq(header_lead), header_left.eq(NET_HEADER.size),
                            ]
        return m

    def _take(self, m: Module) -> None:
        """Ask for as many chains as were granted, one a cycle; the first when the grant comes."""
        queue = Signal(QUEUE_BITS)
        left = Signal(8)
        idle = Signal(init=1)  # left == 0
        taken = Signal()
        m.d.comb += [
            self.takes.p.queue.eq(Mux(idle, self.grants.p.queue, queue)),
            self.takes.valid.eq(~idle | self.grants.valid),
            self.grants.ready.eq(idle),
            taken.eq(self.takes.valid & self.takes.ready),
        ]
        with m.If(idle & self.grants.valid):
            m.d.sync += [
                queue.eq(self.grants.p.queue),
                left.eq(self.grants.p.count - taken),
                idle.eq((self.grants.p.count == 1) & taken),
            ]
        with m.Elif(~idle & taken):
            m.d.sync += [left.eq(left - 1), idle.eq(left == 1)]
