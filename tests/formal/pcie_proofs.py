"""Proofs about requests to the host: where they are cut."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value

from hw.pcie.read_layouts import ReadSizes
from hw.pcie.read_splitter import ReadSplitter
from hw.stream.types import LENGTH_BITS
from sim.formal import Harness, Proof

__all__ = ["PROOFS"]

_PAGE = 4096


class _Segments:
    """Segments as they went in: what is still to be asked for of each, the oldest first.

    Two segments of a group may be joined, the first then is as long as both.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.count = Signal(range(depth + 1), name="segments")
        self.address = [Signal(64, name=f"segment_{k}_address") for k in range(depth + 1)]
        self.length = [Signal(LENGTH_BITS + 1, name=f"segment_{k}_length")
                       for k in range(depth + 1)]
        self.last = [Signal(name=f"segment_{k}_last") for k in range(depth + 1)]
        self.fields = [Cat(*each) for each in zip(self.address, self.length, self.last,
                                                  strict=True)]

    def update(self, m: Module, *, gone: Value, joined: Value, first: Value, enters: Value,
               segment: Any) -> None:
        """Take ``gone`` away, or join the first two (never both), put ``segment`` behind."""
        remain = Signal.like(self.count)
        m.d.comb += remain.eq(Mux(joined, self.count - 1, self.count - gone))
        with m.If(gone != 0):
            for k in range(self.depth):
                with m.Switch(gone):
                    for number in range(1, self.depth + 1):
                        with m.Case(number):
                            if k + number <= self.depth:
                                m.d.sync += self.fields[k].eq(self.fields[k + number])
        with m.Elif(joined):
            m.d.sync += [self.length[0].eq(self.length[0] + self.length[1]),
                         self.last[0].eq(self.last[1])]
            for k in range(1, self.depth):
                m.d.sync += self.fields[k].eq(self.fields[k + 1])
        with m.Else():
            m.d.sync += self.fields[0].eq(first)
        for k in range(self.depth):
            with m.If(enters & (remain == k)):
                m.d.sync += [self.address[k].eq(segment.address),
                             self.length[k].eq(segment.length), self.last[k].eq(segment.last)]
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
    pieces follow one another without a gap, and ``last`` ends the group; and no more of them are
    under way than the quota.

    Any address and length, read sizes of 128 to 512 bytes. With a quota of 8 the depth reaches no
    void piece, though the model has them.
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

        model = _Segments(2)
        piece = dut.pieces.p
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
                     enters=enters, segment=dut.requests.p)
        self.assume(m, ~(void | joins) | (both < 1 << LENGTH_BITS))  # a group is no longer
        self.check(m, ~leaves | (model.count != 0), "a piece belongs to a segment")
        self.check(m, ~leaves | (piece.address == model.address[0]), "a piece begins where it must")
        self.check(m, ~whole | (piece.bytes <= model.length[0]), "a piece ends with its segment")
        self.check(m, ~whole | (piece.last == ((rest == 0) & single)), "the last one says so")
        self.check(m, ~void | (piece.last & (piece.bytes == both)
                               & (single | ((model.count == 2) & model.last[1]))),
                   "a void piece stands for all the rest")
        self.check(m, ~joins | ~single, "only a group's own segments are swallowed")
        self.cover(m, whole & (piece.address[:12] + piece.bytes == _PAGE) & ~piece.last)


PROOFS = [
    Proof(name="reads_are_cut", harness=lambda: ReadsAreCut(8), depth=6, slow=True),
]
