"""Proofs about the cells for entries of indirect tables."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value

from hw.virtio.prefetch_types import PrefetchSizes
from hw.virtio.table_cells import TableCells
from sim.formal import Harness, Proof

__all__ = ["PROOFS"]


class CellsAreHandedOutOnce(Harness):
    """No cell of `TableCells` is handed out while it is in use, none gets lost, and a member is
    handed out its own alone, whatever another one does. 2 members with 8 cells each, from the
    state after configuration, in which all are free.

    Its user keeps to the contract: it looks up the place at the front of the member's list, takes
    no more than are free, and gives back only what it has, as it likes. Each cell that is handed
    out is none of those in use, and as many can be handed out as are not: so none is lost.
    """

    def build(self, m: Module) -> None:
        sizes = PrefetchSizes(lanes=8, transmit=False, functions=2, stride=2, queue_size_max=16,
                              table_cells=8)
        dut: Any
        m.submodules.dut = dut = TableCells(sizes)
        member = self.fixed(m, 1, "member")

        # The front is looked up in one cycle, taken in the next.
        front = Signal(3)
        looks = self.free(1, "looks")
        takes = Signal()
        gives = self.free(1, "gives")
        cell = self.free(3, "cell")
        other_looks, other_place = self.free(1, "other_looks"), self.free(3, "other_place")
        other_gives = self.free(1, "other_gives")
        asks, asks_other = self.free(1, "asks"), self.free(1, "asks_other")
        used = Signal(8)
        # What is given back stands in the list 2 cycles later.
        listed = Signal(4, init=8)
        coming = Signal(2)
        self.assume(m, ~looks | (listed > takes))
        self.assume(m, ~gives | used.bit_select(cell, 1))
        handed = dut.lookup.data
        m.d.sync += [
            takes.eq(looks),
            front.eq(front + looks),
            coming.eq(Mux(gives, 2, 0) | (coming >> 1)),
            listed.eq(listed - takes + coming[0]),
            used.eq((used | Mux(takes, 1 << handed, 0)) & ~Mux(gives, 1 << cell, 0)),
        ]
        freed = Signal(4)
        before = Signal(4)
        counts: Any = dut.counts.data
        m.d.comb += [
            dut.lookup.enable.eq(looks | other_looks),
            dut.lookup.address.eq(Mux(looks, _slot(member, front), _slot(~member, other_place))),
            dut.freed.enable.eq(gives | other_gives),
            dut.freed.address.eq(_slot(Mux(gives, member, ~member), cell)),
            dut.counts.enable.eq(asks),
            dut.counts.address.eq(Mux(asks_other, ~member, member)),
        ]
        m.d.sync += [freed.eq(freed + gives), before.eq(freed)]
        self.check(m, ~takes | ~used.bit_select(handed, 1), "none that is in use")
        asked = Signal()
        m.d.sync += asked.eq(asks & ~asks_other)
        self.check(m, ~asked | (counts.freed == before), "what came back is counted 2 cycles later")
        self.cover(m, takes & (front == 2) & (freed == 3) & (handed == 5))


def _slot(member: Value, place: Value) -> Value:
    """Give the number of a cell, or of a place, among those of all members of 8."""
    return Cat(place, member[0])


PROOFS = [
    Proof(name="table_cells", harness=CellsAreHandedOutOnce, depth=12, cover=15, slow=True),
]
