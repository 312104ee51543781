"""Cut the segments of one client's reads into pieces, each for one TLP."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import PieceLayout, ReadSizes
from hw.pcie.types import ReadRequestLayout
from hw.stream.types import LENGTH_BITS

__all__ = ["ReadSplitter"]

_PAGE_BITS = 12  # no TLP crosses a multiple of 4 KiB


class ReadSplitter(wiring.Component):
    """Cut segments at multiples of the read size, and keep within the client's quota of tags.

    A segment that fits into one TLP - its dwords are no more than the read size, and it crosses no
    4 KiB boundary - stays whole. Others are cut at *addresses* that are multiples of the read size,
    128 to 4096 bytes: so none of their pieces crosses 4 KiB, and the completions of all but the
    first begin at a boundary.

    **Quota.** A piece leaves only while fewer tags than ``quota`` are in use for this client. As
    the quotas of all clients fit into the tags that exist, a client waits for its own answers
    alone. A group that needs more tags than the quota could never be answered; its last tag goes to
    a *void* piece, which stands for all the rest and fails it (`PieceLayout`).

    | Latency: 1 cycle. Throughput: 1 piece a cycle; the last tag of the quota takes 2, and
      2 more each segment that a void piece stands for.
    | Storage: 2 segments. No path from ``pieces.ready`` to ``requests.ready``.

    Parameters
    ----------
    sizes
        The engine's sizes.
    client
        Number of the client: its context and its quota are those of ``sizes``.

    Members
    -------
    requests : In(stream.Signature(ReadRequestLayout(lanes, context_bits)))
    pieces : Out(stream.Signature(PieceLayout(sizes)))
        While ``boundary`` is constant the rules of streams are kept.
    boundary : In(slot_bits)
        The read size in bytes, less one: a mask.
    released : In(1)
        A tag of this client has become free; for each piece once, some time after it left.
    """

    requests: stream.Interface
    pieces: stream.Interface
    boundary: Signal
    released: Signal

    def __init__(self, sizes: ReadSizes, client: int) -> None:
        self.sizes = sizes
        self.client = client
        self.quota = sizes.quotas[client]
        self.shape = ReadRequestLayout(sizes.lanes, sizes.contexts[client])
        super().__init__({
            "requests": In(stream.Signature(self.shape)),
            "pieces": Out(stream.Signature(PieceLayout(sizes))),
            "boundary": In(sizes.slot_bits),
            "released": In(1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()
        sizes = self.sizes

        work: Any = Signal(self.shape, reset_less=True)   # what is left of the segment
        work_valid = Signal()
        spare: Any = Signal(self.shape, reset_less=True)  # the segment behind it
        spare_valid = Signal()
        following: Any = Signal(self.shape)
        following_valid = Signal()
        # Of the whole segment at hand, as it came: so a piece of it never looks whole.
        span = Signal(LENGTH_BITS + 1, reset_less=True)  # bytes of its dwords, up to the last byte
        upto = Signal(LENGTH_BITS + 1, reset_less=True)  # from the start of its page to there
        whole = Signal()
        m.d.comb += [
            whole.eq((span <= self.boundary + 1) & (upto <= 1 << _PAGE_BITS)),
            self.requests.ready.eq(~spare_valid),
            following.eq(Mux(spare_valid, spare, self.requests.payload)),
            following_valid.eq(spare_valid | self.requests.valid),
        ]

        # How far to the next cut, and whether the segment ends before.
        low = Signal(sizes.slot_bits)
        distance = Signal(sizes.slot_bits + 1)
        final = Signal()
        m.d.comb += [
            low.eq(work.address),
            distance.eq((~low & self.boundary) + 1),
            final.eq(whole | (work.length <= distance)),
        ]

        first = Signal(init=1)  # the next piece begins a group
        ordinal = Signal(sizes.tag_bits + 1)
        left = Signal(range(self.quota + 1), init=self.quota)
        some_left = Signal(init=1)                # left != 0
        at_limit = Signal(init=self.quota == 1)   # one more tag, and the group has them all
        fits = Signal()      # at the limit: this piece ends the group
        void = Signal()      # at the limit: it does not, and all the rest becomes one void piece
        leaves = Signal()
        ends_group = Signal()
        m.d.comb += [
            self.pieces.valid.eq(
                work_valid & some_left & (~at_limit | fits | (void & work.last))),
            leaves.eq(self.pieces.valid & self.pieces.ready),
            ends_group.eq((final | void) & work.last),
        ]
        with m.If(work_valid & at_limit & ~fits & ~void):
            m.d.sync += [fits.eq(ends_group), void.eq(~ends_group)]
        with m.If(leaves):
            m.d.sync += [
                first.eq(ends_group),
                ordinal.eq(Mux(ends_group, 0, ordinal + 1)),
                at_limit.eq(Mux(ends_group, self.quota == 1, ordinal == self.quota - 2)),
                fits.eq(0),
                void.eq(0),
            ]
        with m.If(leaves & ~self.released):
            m.d.sync += [left.eq(left - 1), some_left.eq(left != 1)]
        with m.Elif(self.released & ~leaves):
            m.d.sync += [left.eq(left + 1), some_left.eq(1)]

        piece = self.pieces.p
        m.d.comb += [
            piece.function.eq(work.function),
            piece.queue.eq(work.queue),
            piece.context.eq(work.context),
            piece.address.eq(work.address),
            piece.bytes.eq(Mux(final | void, work.length, distance)),
            piece.lead.eq(work.lead),
            piece.fenced.eq(work.fenced),
            piece.first.eq(first),
            piece.last.eq(ends_group),
            piece.void.eq(void),
            piece.ordinal.eq(ordinal),
        ]

        # A void piece swallows what follows in its group, up to the last segment: one in 2 cycles.
        swallows = Signal()
        total = Signal(LENGTH_BITS)
        m.d.comb += [
            swallows.eq(work_valid & void & ~work.last),
            total.eq(work.length + spare.length),
        ]
        with m.If(swallows & spare_valid):
            m.d.sync += [work.length.eq(total), work.last.eq(spare.last)]
        with m.Elif(~work_valid | leaves & (final | void)):
            m.d.sync += [
                work.eq(following),
                work_valid.eq(following_valid),
                span.eq(following.length + following.address[:2]),
                upto.eq(following.length + following.address[:_PAGE_BITS]),
            ]
        with m.Elif(leaves):
            above = len(work.address) - sizes.slot_bits
            upper = Signal(above + sizes.slot_bits)
            m.d.comb += upper.eq((work.address | self.boundary) + 1)
            m.d.sync += [work.address.eq(upper), work.length.eq(work.length - distance)]

        with m.If(~work_valid | leaves & (final | void) | swallows & spare_valid):
            m.d.sync += spare_valid.eq(0)  # it went, or was not there and the port's went past it
        with m.Elif(self.requests.ready):
            m.d.sync += [spare.eq(self.requests.payload), spare_valid.eq(self.requests.valid)]
        return m
