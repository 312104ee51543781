"""Proofs about requests to the host: where they are cut, and what waits for what."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value

from hw.pcie.dma_write import DmaWrite
from hw.pcie.fence import WriteFence
from hw.pcie.fenced_reads import FencedReads
from hw.pcie.read_layouts import ReadSizes
from hw.pcie.read_splitter import ReadSplitter
from hw.stream.types import LENGTH_BITS
from sim.formal import Harness, Proof

__all__ = ["PROOFS"]

_PAGE = 4096


class _Segments:
    """Segments as they went in: what is still to be asked for of each, the oldest first, and whose
    they are, in so many ``bits``.

    Two segments of a group may be joined, the first then is as long as both.
    """

    def __init__(self, depth: int, bits: int) -> None:
        self.depth = depth
        self.count = Signal(range(depth + 1), name="segments")
        self.address = [Signal(64, name=f"segment_{k}_address") for k in range(depth + 1)]
        self.length = [Signal(LENGTH_BITS + 1, name=f"segment_{k}_length")
                       for k in range(depth + 1)]
        self.last = [Signal(name=f"segment_{k}_last") for k in range(depth + 1)]
        self.owner = [Signal(bits, name=f"segment_{k}_owner") for k in range(depth + 1)]
        self.fields = [Cat(*each) for each in zip(self.address, self.length, self.last, self.owner,
                                                  strict=True)]

    def update(self, m: Module, *, gone: Value, joined: Value, first: Value, enters: Value,
               segment: Any, owner: Value) -> None:
        """Take ``gone`` away, or join the first two (never both), put ``segment`` behind."""
        remain = Signal.like(self.count)
        m.d.comb += remain.eq(Mux(joined, self.count - 1, self.count - gone))
        with m.If(gone != 0):
            for k in range(self.depth):
                with m.Switch(gone):
                    for number in range(1, min(self.depth + 1, 1 << len(gone))):
                        with m.Case(number):
                            if k + number <= self.depth:
                                m.d.sync += self.fields[k].eq(self.fields[k + number])
        with m.Elif(joined):
            m.d.sync += [self.length[0].eq(self.length[0] + self.length[1]),
                         self.last[0].eq(self.last[1])]
            for k in range(1, self.depth):
                m.d.sync += self.fields[k].eq(self.fields[k + 1])
        with m.Else():
            m.d.sync += self.fields[0].eq(Cat(first, self.owner[0]))
        for k in range(self.depth):
            with m.If(enters & (remain == k)):
                m.d.sync += [self.address[k].eq(segment.address),
                             self.length[k].eq(segment.length), self.last[k].eq(segment.last),
                             self.owner[k].eq(owner)]
        m.d.sync += self.count.eq(remain + enters)


def _sensible(harness: Harness, m: Module, segment: Any) -> None:
    """Assume a length of 1 at least, and an end within the address space."""
    end = Signal(66)
    m.d.comb += end.eq(segment.address + segment.length)
    harness.assume(m, (segment.length != 0) & (end <= 1 << 64))


class _Cuts(Harness):
    """What holds of each piece of a segment."""

    def piece(self, m: Module, valid: Value, address: Value, length: Value, limit: Value) -> None:
        """Check that a piece takes up ``limit`` bytes of dwords at most, and stays in its page."""
        dwords = Signal(LENGTH_BITS + 2)
        in_page = Signal(LENGTH_BITS + 2)
        m.d.comb += [dwords.eq((address[:2] + length + 3)[2:] << 2),
                     in_page.eq(address[:12] + length)]
        self.check(m, ~valid | (length != 0), "no piece is empty")
        self.check(m, ~valid | (dwords <= limit), "no piece is too long")
        self.check(m, ~valid | (in_page <= _PAGE), "no piece crosses a page")


class ReadsAreCut(_Cuts):
    """Whatever segments `ReadSplitter` is given, no piece crosses 4 KiB nor exceeds the read size,
    pieces follow one another without a gap, and ``last`` ends the group; a void piece is as long as
    all that it stands for; there are no more pieces than the quota has tags; and each piece is of
    the function, queue and context of its segment, fenced if that is.

    Any address and length, read sizes of 128 to 512 bytes.
    """

    def __init__(self, quota: int) -> None:
        super().__init__()
        self.quota = quota

    def build(self, m: Module) -> None:
        sizes = ReadSizes(lanes=8, contexts=(1,), quotas=(self.quota,), tags=8,
                          max_read_bytes=512, queues=2)
        m.submodules.dut = dut = ReadSplitter(sizes, 0)
        enters = self.feed(m, dut.requests, "request")
        leaves = self.drain(m, dut.pieces, "piece")
        _sensible(self, m, dut.requests.p)
        size = self.fixed(m, 2, "size")
        self.assume(m, size != 3)
        limit = Signal(11)
        m.d.comb += [limit.eq(128 << size), dut.boundary.eq(limit - 1),
                     dut.released.eq(self.free(1, "released"))]
        tags = Signal(range(self.quota + 2))
        m.d.sync += tags.eq(tags + leaves - dut.released)
        self.assume(m, ~dut.released | (tags != 0))
        self.check(m, ~leaves | (tags < self.quota), "no more tags than the quota")

        piece = dut.pieces.p

        def owner(of: Any) -> Value:
            return Cat(of.function, of.queue[:2], of.context, of.fenced)

        model = _Segments(2, len(owner(piece)))
        whole = leaves & ~piece.void
        void = leaves & piece.void
        self.piece(m, whole, piece.address, piece.bytes, limit)
        rest = Signal(LENGTH_BITS + 1)
        both = Signal(LENGTH_BITS + 1)
        joins = Signal()
        gone = Signal(range(3))
        ends = Signal()
        single = model.last[0]
        m.d.comb += [
            rest.eq(model.length[0] - piece.bytes),
            both.eq(model.length[0] + Mux(single, 0, model.length[1])),
            ends.eq(whole & (rest == 0)),
            # It swallows what comes, so there is room for a third only then.
            joins.eq(enters & ~leaves & (model.count == 2)),
            gone.eq(Mux(void, Mux(single, 1, 2), ends)),
        ]
        model.update(m, gone=gone, joined=joins,
                     first=Cat(Mux(whole, piece.address + piece.bytes, model.address[0])[:64],
                               Mux(whole, rest, model.length[0]), single),
                     enters=enters, segment=dut.requests.p, owner=owner(dut.requests.p))
        self.assume(m, ~(void | joins) | (both < 1 << LENGTH_BITS))  # a group is no longer
        self.check(m, ~leaves | (model.count != 0), "a piece belongs to a segment")
        self.check(m, ~leaves | (owner(piece) == model.owner[0]), "and is as the segment is")
        self.check(m, ~leaves | (piece.address == model.address[0]), "a piece begins where it must")
        self.check(m, ~whole | (piece.bytes <= model.length[0]), "a piece ends with its segment")
        self.check(m, ~whole | (piece.last == ((rest == 0) & single)), "the last one says so")
        self.check(m, ~void | (piece.last & (piece.bytes == both)
                               & (single | ((model.count == 2) & model.last[1]))),
                   "a void piece stands for all the rest")
        self.check(m, ~joins | ~single, "only a group's own segments are swallowed")
        self.cover(m, whole & (piece.address[:12] + piece.bytes == _PAGE) & ~piece.last)
        if self.quota < 4:
            self.cover(m, void & ~single)


class WritesAreCut(_Cuts):
    """Whatever segments `DmaWrite` is given, no TLP crosses 4 KiB nor exceeds the payload size,
    TLPs follow one another without a gap, and the end of the group is marked; what the Cutter
    is told, early or not, is what the header says, in the same order; and each TLP is of its
    segment's function, and says so in its requester ID.

    Any address and length, payload sizes of 128 to 512 bytes, one client, 8 functions.
    """

    def build(self, m: Module) -> None:
        dut = DmaWrite(8, clients=1, functions=8, max_payload_bytes=512)
        m.submodules.dut = inside = self.inside(dut)
        segments = dut.segments[0]
        enters = self.feed(m, segments, "segment")
        _sensible(self, m, segments.p)
        size = self.fixed(m, 2, "size")
        self.assume(m, size != 3)
        limit = Signal(11)
        m.d.comb += [limit.eq(128 << size), dut.payload_size.eq(size), dut.bus_master.eq(-1),
                     dut.bus_device.eq(self.fixed(m, 13, "bus_device"))]
        self.assume(m, segments.p.function < 8)
        headers: Any = inside.submodules.headers
        commands: Any = inside.submodules.commands
        leaves = headers.i.valid & headers.i.ready
        header = headers.i.p

        model = _Segments(3, 3)
        rest = Signal(LENGTH_BITS + 1)
        m.d.comb += rest.eq(model.length[0] - header.bytes)
        self.piece(m, leaves, header.address, header.bytes, limit)
        model.update(m, gone=leaves & (rest == 0), joined=Signal(),
                     first=Cat(Mux(leaves, header.address + header.bytes, model.address[0])[:64],
                               Mux(leaves, rest, model.length[0]), model.last[0]),
                     enters=enters, segment=segments.p, owner=segments.p.function[:3])
        self.check(m, ~leaves | (model.count != 0), "a TLP belongs to a segment")
        self.check(m, ~(enters & (model.count == 3)) | (leaves & (rest == 0)), "three fit")
        self.check(m, ~leaves | (header.address == model.address[0]), "a TLP begins where it must")
        self.check(m, ~leaves | (header.bytes <= model.length[0]), "a TLP ends with its segment")
        self.check(m, ~leaves | (header.ends_group == ((rest == 0) & model.last[0])),
                   "the last one says so")
        self.check(m, ~leaves | (header.function == model.owner[0]), "of the segment's function")
        self.check(m, ~headers.o.valid | (dut.tlps.p.header.requester_id
                                         == Cat(headers.o.p.function[:3], dut.bus_device)),
                   "and so is the requester ID")
        self.check(m, (commands.i.valid & commands.i.ready) == leaves, "the Cutter is told of it")
        self.check(m, ~leaves | ((commands.i.p.length == header.bytes)
                                 & (commands.i.p.lead == header.address[:2])),
                   "the Cutter is told the same")
        self.check(m, ~(leaves & commands.quick)
                   | (Value.cast(commands.early) == Value.cast(commands.i.p)),
                   "and the same where it is told early")
        self.cover(m, leaves & (header.address[:12] + header.bytes == _PAGE) & (rest != 0))


class _Writes:
    """Writes that are accepted and leave, any number at first; no more than 127 are under way, and
    one leaves no earlier than the cycle after its acceptance.

    What was accepted at some moment has left when ``left_since`` that is 0.
    """

    def __init__(self, harness: Harness, m: Module, dut: Any) -> None:
        begins = Signal(init=1)
        m.d.sync += begins.eq(0)
        self.accepts = harness.free(1, "accepts")
        self.leaves = harness.free(1, "write_leaves")
        accepted = Signal(8)
        later = Signal(8)
        self.under_way = under_way = Signal(8)
        m.d.comb += [
            under_way.eq(Mux(begins, harness.fixed(m, 7, "under_way_at_first"), later)),
            dut.writes_accepted.eq(accepted),
            dut.writes_left.eq(accepted - under_way),
        ]
        m.d.sync += [accepted.eq(accepted + self.accepts),
                     later.eq(under_way + self.accepts - self.leaves)]
        harness.assume(m, ~self.leaves | (under_way != 0))
        harness.assume(m, ~self.accepts | (under_way < 127))

    def ahead(self, m: Module, captured: Value, name: str) -> Signal:
        """Count what was accepted before ``captured`` and has not left."""
        ahead = Signal(8, name=name)
        with m.If(captured):
            m.d.sync += ahead.eq(self.under_way - self.leaves)
        with m.Elif(self.leaves & (ahead != 0)):
            m.d.sync += ahead.eq(ahead - 1)
        return ahead


class FencePasses(Harness):
    """A `WriteFence` has passed if and only if no write is under way that was accepted before it
    was set. Counts that wrap, captures at any time."""

    def build(self, m: Module) -> None:
        m.submodules.dut = dut = WriteFence()
        writes = _Writes(self, m, dut)
        m.d.comb += dut.capture.eq(self.free(1, "capture"))
        ahead = writes.ahead(m, dut.capture, "ahead")
        captured = Signal()
        m.d.sync += captured.eq(dut.capture)
        self.check(m, dut.passed == (ahead == 0), "passed when all have left")
        self.cover(m, captured & ~dut.passed & (dut.writes_left == 255))


class FencedReadsWait(Harness):
    """A read leaves `FencedReads` only after all writes that were accepted before it came, and in
    its turn; and once they have left, and it is the oldest, it does leave. Counts that wrap."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def build(self, m: Module) -> None:
        m.submodules.dut = dut = FencedReads(self.depth)
        enters = self.feed(m, dut.i, "i", bits=2)
        leaves = self.drain(m, dut.o, "o")
        writes = _Writes(self, m, dut)
        mark = self.free(1, "mark")
        before = Signal(range(self.depth + 2))
        inside = Signal(range(self.depth + 2))
        marked = Signal()
        seen = Signal()
        tag = Signal(2)
        captured = Signal()
        m.d.comb += captured.eq(enters & mark & ~seen)
        ahead = writes.ahead(m, captured, "ahead")
        let_go = Signal()  # in the cycle before, none was ahead
        waits = Signal(3)
        m.d.sync += [inside.eq(inside + enters - leaves), let_go.eq(ahead == 0)]
        with m.If(captured):
            m.d.sync += [seen.eq(1), marked.eq(1), before.eq(inside - leaves),
                         tag.eq(Value.cast(dut.i.payload))]
        with m.Elif(leaves & marked):
            m.d.sync += [before.eq(before - 1), marked.eq(before != 0)]
        first = Signal()
        m.d.comb += first.eq(marked & (before == 0))
        m.d.sync += waits.eq(Mux(first & (ahead == 0) & ~dut.o.valid, waits + 1, 0))
        self.check(m, ~(first & dut.o.valid) | let_go, "after all those writes")
        self.check(m, ~(first & dut.o.valid) | (Value.cast(dut.o.payload) == tag), "in its turn")
        self.check(m, ~dut.o.valid | (inside != 0), "nothing from nowhere")
        self.check(m, waits < 2, "once they have left, it does")
        waited = Signal(2)
        with m.If(marked & writes.leaves & (ahead != 0) & (waited != 3)):
            m.d.sync += waited.eq(waited + 1)
        self.cover(m, first & leaves & (waited == 2) & (tag == 1))


PROOFS = [
    Proof(name="reads_are_cut", harness=lambda: ReadsAreCut(8), depth=6, slow=True),
    Proof(name="reads_are_cut_short", harness=lambda: ReadsAreCut(2), depth=6, cover=10, slow=True),
    Proof(name="writes_are_cut", harness=WritesAreCut, depth=6, slow=True),
    Proof(name="fence", harness=FencePasses, depth=8),
    Proof(name="fenced_reads_2", harness=lambda: FencedReadsWait(2), depth=8),
]
