"""Cells for entries of indirect tables: which of them are free, per member."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.memory import ForwardingMemory
from hw.virtio.descriptor_cache import WriteSignature
from hw.virtio.prefetch_types import CellCountLayout, LookupSignature, PrefetchSizes

__all__ = ["TableCells"]


class TableCells(wiring.Component):
    """Keep a list of the free cells of each member: taken from its front, given back at its end.

    The list is a ring with a place for each cell. Before the read of a table leaves, as many cells
    as it can need are *set apart*, by number alone; an entry takes the one at the front when it
    comes. Those that are set apart and not taken are always in the list. A member's cells are its
    own: nobody waits for those of another.

    | Latency: 1 cycle for each lookup; what is given back is counted 2 cycles later.
    | Throughput: a cell a cycle each way. Storage: log2(cells) bits a cell, 5 counts a member.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    counts : In(LookupSignature(range(members), CellCountLayout(sizes)))
    take : In(WriteSignature(members, cell_bits))
        So many more are set apart; of the member that was looked up last in ``counts``.
    lookup : In(LookupSignature(range(cells), cell_bits))
        The cell at a place of a member's list.
    front : In(LookupSignature(range(members), cell_bits))
    front_moves : In(WriteSignature(members, cell_bits))
        Where the list begins.
    freed : In(WriteSignature(cells, 1))
        A cell is given back: member and cell.
    unneeded : In(WriteSignature(members, cell_bits))
        So many were set apart and not taken.
    clears : In(stream.Signature(range(members)))
        All cells of a member are free. Ready when done, after a cycle a cell and a few more; not
        to be asked while any of them is in use.
    """

    counts: wiring.PureInterface
    take: wiring.PureInterface
    lookup: wiring.PureInterface
    front: wiring.PureInterface
    front_moves: wiring.PureInterface
    freed: wiring.PureInterface
    unneeded: wiring.PureInterface
    clears: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        member = range(sizes.members)
        super().__init__({
            "counts": In(LookupSignature(member, CellCountLayout(sizes))),
            "take": In(WriteSignature(sizes.members, sizes.cell_bits)),
            "lookup": In(LookupSignature(range(sizes.cells), sizes.cell_bits)),
            "front": In(LookupSignature(member, sizes.cell_bits)),
            "front_moves": In(WriteSignature(sizes.members, sizes.cell_bits)),
            "freed": In(WriteSignature(sizes.cells, 1)),
            "unneeded": In(WriteSignature(sizes.members, sizes.cell_bits)),
            "clears": In(stream.Signature(member)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        bits = sizes.cell_bits
        # When the card is configured all are free, as after a clear.
        cells: memory.Memory[Any, Any] = memory.Memory(
            shape=bits, depth=sizes.cells,
            init=[place % sizes.table_cells for place in range(sizes.cells)])
        m.submodules.list = cells
        store = cells.write_port()
        load = cells.read_port()
        counts: Any = self.counts
        take: Any = self.take
        lookup: Any = self.lookup
        front: Any = self.front
        front_moves: Any = self.front_moves
        freed: Any = self.freed
        unneeded: Any = self.unneeded
        m.submodules.taken = taken = _Count(sizes, bits + 1)
        m.submodules.fronts = fronts = _Count(sizes, bits)
        m.submodules.freed_count = freed_count = _Sum(sizes)
        m.submodules.unneeded_count = unneeded_count = _Sum(sizes)
        for total in (freed_count, unneeded_count):
            m.d.comb += [
                total.shown_address.eq(counts.address),
                total.shown_enable.eq(counts.enable),
            ]
        m.d.comb += [
            load.addr.eq(lookup.address),
            load.en.eq(lookup.enable),
            lookup.data.eq(load.data),

            # Of the member at hand: what was looked up is what it is.
            taken.read_address.eq(counts.address),
            taken.read_enable.eq(counts.enable),
            taken.write_enable.eq(take.enable),
            taken.write_address.eq(take.address),
            taken.write_data.eq(taken.read_data + take.data),
            counts.data.taken.eq(taken.read_data),
            counts.data.freed.eq(freed_count.shown),
            counts.data.unneeded.eq(unneeded_count.shown),

            fronts.read_address.eq(front.address),
            fronts.read_enable.eq(front.enable),
            fronts.write_enable.eq(front_moves.enable),
            fronts.write_address.eq(front_moves.address),
            fronts.write_data.eq(front_moves.data),
            front.data.eq(fronts.read_data),

            freed_count.enable.eq(freed.enable),
            freed_count.member.eq(freed.address[bits:]),
            freed_count.amount.eq(1),
            unneeded_count.enable.eq(unneeded.enable),
            unneeded_count.member.eq(unneeded.address),
            unneeded_count.amount.eq(unneeded.data),
        ]

        # A cell goes to the end of its member's list; that is where its count stands.
        listing = Signal()
        place = Signal(bits)
        cell = Signal(bits, reset_less=True)
        with m.If(freed.enable):
            m.d.sync += cell.eq(freed.address[:bits])
        m.d.comb += [
            store.addr.eq(Mux(freed_count.counts, Cat(freed_count.before[:bits], freed_count.at),
                              Cat(place, self.clears.payload))),
            store.data.eq(Mux(freed_count.counts, cell, place)),
            store.en.eq(freed_count.counts | listing),
        ]

        clear = Signal()
        zeroed = Signal(4)   # in this cycle
        left = Signal(4)     # not yet
        parts: tuple[Any, ...] = (taken, fronts, freed_count, unneeded_count)
        for index, one in enumerate(parts):
            m.d.comb += [
                one.clear.eq(clear),
                one.clear_address.eq(self.clears.payload),
                zeroed[index].eq(one.zeroed),
            ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [place.eq(0), left.eq(~0)]
                with m.If(self.clears.valid):
                    m.next = "LIST"
            with m.State("LIST"):
                m.d.comb += listing.eq(1)
                with m.If(~freed_count.counts):
                    m.d.sync += place.eq(place + 1)
                    with m.If(place == sizes.table_cells - 1):
                        m.next = "COUNTS"
            with m.State("COUNTS"):
                # Again for all until each had a cycle: zero is zero.
                m.d.comb += clear.eq(1)
                m.d.sync += left.eq(left & ~zeroed)
                with m.If((left & ~zeroed) == 0):
                    m.d.comb += self.clears.ready.eq(1)
                    m.next = "IDLE"
        return m


class _Count(wiring.Component):
    """A count of each member, written by one part, and put to zero when that leaves a cycle."""

    read_enable: Signal
    read_address: Signal
    read_data: Signal
    write_enable: Signal
    write_address: Signal
    write_data: Signal
    clear: Signal
    clear_address: Signal
    zeroed: Signal

    def __init__(self, sizes: PrefetchSizes, width: int) -> None:
        self.sizes = sizes
        self.width = width
        member = range(sizes.members)
        super().__init__({
            "read_enable": In(1), "read_address": In(member), "read_data": Out(width),
            "write_enable": In(1), "write_address": In(member), "write_data": In(width),
            "clear": In(1), "clear_address": In(member), "zeroed": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = count = ForwardingMemory(self.width, self.sizes.members)
        m.d.comb += [
            count.read_enable.eq(self.read_enable),
            count.read_address.eq(self.read_address),
            self.read_data.eq(count.read_data),
            self.zeroed.eq(self.clear & ~self.write_enable),
            count.write_enable.eq(self.write_enable | self.clear),
            count.write_address.eq(Mux(self.write_enable, self.write_address, self.clear_address)),
            count.write_data.eq(Mux(self.write_enable, self.write_data, 0)),
        ]
        return m


class _Sum(wiring.Component):
    """Add amounts up per member: looked up in one cycle, counted in the next; and show the sums."""

    enable: Signal
    member: Signal
    amount: Signal
    counts: Signal
    at: Signal
    before: Signal
    shown_enable: Signal
    shown_address: Signal
    shown: Signal
    clear: Signal
    clear_address: Signal
    zeroed: Signal

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        bits = sizes.cell_bits
        member = range(sizes.members)
        super().__init__({
            "enable": In(1), "member": In(member), "amount": In(bits),
            "counts": Out(1), "at": Out(member), "before": Out(bits + 1),
            "shown_enable": In(1), "shown_address": In(member), "shown": Out(bits + 1),
            "clear": In(1), "clear_address": In(member), "zeroed": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.sizes.cell_bits
        m.submodules.own = own = _Count(self.sizes, bits + 1)
        m.submodules.copy = copy = _Count(self.sizes, bits + 1)
        amount = Signal(bits, reset_less=True)
        counts = Signal()
        at = Signal.like(self.at, reset_less=True)
        m.d.sync += counts.eq(self.enable)
        with m.If(self.enable):
            m.d.sync += [at.eq(self.member), amount.eq(self.amount)]
        m.d.comb += [
            self.counts.eq(counts),
            self.at.eq(at),
            self.before.eq(own.read_data),
            self.zeroed.eq(own.zeroed),
            own.read_enable.eq(self.enable),
            own.read_address.eq(self.member),
            copy.read_enable.eq(self.shown_enable),
            copy.read_address.eq(self.shown_address),
            self.shown.eq(copy.read_data),
        ]
        for count in (own, copy):
            m.d.comb += [
                count.write_enable.eq(counts),
                count.write_address.eq(at),
                count.write_data.eq(own.read_data + amount),
                count.clear.eq(self.clear),
                count.clear_address.eq(self.clear_address),
            ]
        return m
