"""Descriptors as they come: checked, marked as in use, added up to chains."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import ReadAnswerLayout
from hw.stream.connect import connect_streams
from hw.stream.memory import ForwardingMemory
from hw.stream.types import LENGTH_BITS
from hw.virtio.descriptor_cache import (
    DescriptorLayout,
    DoneLayout,
    TotalsLayout,
    WriteSignature,
)
from hw.virtio.descriptor_unpack import (
    DescriptorUnpack,
    OperationLayout,
    PartialLayout,
    RawLayout,
)
from hw.virtio.prefetch_types import (
    BURST_MAX,
    CompletionLayout,
    FaultSourceLayout,
    LookupSignature,
    PrefetchContextLayout,
    PrefetchSizes,
    SweepLayout,
    WalkLayout,
    read_fault,
)
from hw.virtio.types import FaultReason

__all__ = ["DescriptorParser"]

_HEADER_BYTES = 12  # struct virtio_net_hdr: a chain to send holds that, and a frame
_LONGEST = (1 << LENGTH_BITS) - 1


class DescriptorParser(wiring.Component):
    """Check and keep descriptors, one a cycle, and follow chains as far as an answer goes.

    ::

        answers ─► unpack ─► check, add up ─► judge ─► cache, totals, marks
                                                    ├► walks (the chain goes on elsewhere)
                                                    └► completions, faults

    Each descriptor in use bears a mark, so that a descriptor can neither belong to two chains nor
    twice to one: that is a fault, and what was announced of a chain stays true whatever the driver
    does to its rings. The mark is two bits that differ: one written here, one where chains are
    taken.

    *Packed rings* are read before it is known what is available. Per member is kept how far that
    was seen to go. An answer counts if it begins there; its descriptors up to the first one that is
    not available (PKT-RING-06) are taken. Within a read no order can be relied on, so each
    descriptor of a chain must show that it is available, as drivers write it. In an answer to a
    read that left after the chain's head was seen it need not (``trusted``): what the driver wrote
    before the head is there by then.

    *Tables* (INDIRECT_DESC). The descriptor that points to one ends its part of the chain
    (SPL-IND-01, SPL-IND-02); the table is read by a walk. Its first entry is kept in that
    descriptor's place, each other one in a cell of the member's (`TableCells`), which were set
    apart before the read left. A table has no more entries than the queue, and than half of the
    member's cells (PKT-RING-11).

    | Latency: 5 cycles from the answer to the completion of its first descriptor's chain; of a
      packed ring 6.
    | Throughput: a descriptor a cycle, and 5 cycles more an answer of a packed ring.
    | Storage: a beat, 4 descriptors, a bit a descriptor, and about 70 bits a member.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.
    max_chain_bytes
        Longest chain to send, below 131071. Of chains to receive into, the length saturates.

    Members
    -------
    answers : In(stream.Signature(ReadAnswerLayout(lanes, context)))
        Runs and walks.
    sweeps : In(stream.Signature(SweepLayout(sizes)))
        Places of stopped members to clear; one in four cycles at least.
    descriptors, ids, totals, done : Out(WriteSignature)
        The cache by descriptor number; by place in the ring the chain's id (the number of its head,
        or what a packed ring says), the totals, and the mark of a complete chain.
    cells : Out(WriteSignature(cells, DescriptorLayout(sizes)))
        Entries of tables.
    cell_list : Out(LookupSignature(range(cells), cell_bits))
    cell_front : Out(LookupSignature(range(members), cell_bits))
    cell_front_moves : Out(WriteSignature(members, cell_bits))
        The list of free cells, and where it begins.
    cells_unneeded : Out(WriteSignature(members, cell_bits))
        So many cells were set apart for a table that did not need them.
    freed : Out(LookupSignature(range(slots), 1))
        The other half of the marks of use.
    walks : Out(stream.Signature(WalkLayout(sizes)))
        Must always be ready: there is a place reserved for each.
    finished : Out(1)
        A chain needs that place no more (a pulse).
    slots_finished : Out(range(BURST_MAX + 1))
        So many places that were reserved for packed rings are free again.
    completions : Out(stream.Signature(CompletionLayout(sizes)))
        After all writes of the chains, one an answer. May stall.
    faults : Out(stream.Signature(FaultSourceLayout(sizes)))
    """

    answers: stream.Interface
    sweeps: stream.Interface
    descriptors: wiring.PureInterface
    ids: wiring.PureInterface
    totals: wiring.PureInterface
    done: wiring.PureInterface
    cells: wiring.PureInterface
    cell_list: wiring.PureInterface
    cell_front: wiring.PureInterface
    cell_front_moves: wiring.PureInterface
    cells_unneeded: wiring.PureInterface
    freed: wiring.PureInterface
    walks: stream.Interface
    finished: Signal
    slots_finished: Signal
    completions: stream.Interface
    faults: stream.Interface

    def __init__(self, sizes: PrefetchSizes, *, max_chain_bytes: int) -> None:
        if not _HEADER_BYTES < max_chain_bytes < _LONGEST:
            raise ValueError(f"max_chain_bytes must be from {_HEADER_BYTES + 1} to {_LONGEST - 1}, "
                             f"not {max_chain_bytes!r}")
        self.sizes = sizes
        self.max_chain_bytes = max_chain_bytes
        self._context = PrefetchContextLayout(sizes)
        slots = sizes.slots
        super().__init__({
            "answers": In(stream.Signature(ReadAnswerLayout(sizes.lanes, self._context.size))),
            "sweeps": In(stream.Signature(SweepLayout(sizes))),
            "descriptors": Out(WriteSignature(slots, DescriptorLayout(sizes))),
            "ids": Out(WriteSignature(slots, 16)),
            "totals": Out(WriteSignature(slots, TotalsLayout(sizes))),
            "done": Out(WriteSignature(slots, DoneLayout(sizes))),
            "cells": Out(WriteSignature(sizes.cells, DescriptorLayout(sizes))),
            "cell_list": Out(LookupSignature(range(sizes.cells), sizes.cell_bits)),
            "cell_front": Out(LookupSignature(range(sizes.members), sizes.cell_bits)),
            "cell_front_moves": Out(WriteSignature(sizes.members, sizes.cell_bits)),
            "cells_unneeded": Out(WriteSignature(sizes.members, sizes.cell_bits)),
            "freed": Out(LookupSignature(range(slots), 1)),
            "walks": Out(stream.Signature(WalkLayout(sizes))),
            "finished": Out(1),
            "slots_finished": Out(range(BURST_MAX + 1)),
            "completions": Out(stream.Signature(CompletionLayout(sizes))),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()
        sizes = self.sizes
        layout = OperationLayout(sizes)
        m.submodules.marks = marks = ForwardingMemory(1, sizes.slots)
        m.submodules.unpack = unpack = DescriptorUnpack(sizes)
        connect_streams(m, flipped(self.answers), unpack.answers)
        connect_streams(m, flipped(self.sweeps), unpack.sweeps)
        connect(m, unpack.cells, flipped(self.cell_list))
        connect(m, unpack.front, flipped(self.cell_front))
        connect(m, unpack.front_moves, flipped(self.cell_front_moves))
        partial: Any = unpack.partial
        unpacked: Any = unpack.operations.p.operation
        advance = Signal()  # all stages move at once
        m.d.comb += unpack.operations.ready.eq(advance)
        freed: Any = self.freed

        # CHECK: the descriptor alone, and what its chain is with it.
        check: Any = Signal(layout, reset_less=True)
        check_valid = Signal()
        raw: Any = Signal(RawLayout(), reset_less=True)
        slot = Signal(range(sizes.slots))
        new_mark = Signal()
        in_use = Signal()
        length = Signal(LENGTH_BITS)
        before = Signal(LENGTH_BITS)
        before_segments = Signal(sizes.index_bits + 1)
        total = Signal(LENGTH_BITS + 1)
        reason = Signal(FaultReason)
        points = Signal()      # to a table
        entries = Signal(28)
        bad_table = Signal()
        in_cell = Signal()     # where a table's entry is kept
        cell = Signal(sizes.cell_bits)
        latest_cell = Signal(sizes.cell_bits, reset_less=True)
        cell_list: Any = self.cell_list
        m.d.comb += [
            slot.eq(sizes.slot(check.member, check.number)),
            marks.read_address.eq(sizes.slot(unpacked.member, unpacked.number)),
            marks.read_enable.eq(advance),
            freed.address.eq(sizes.slot(unpacked.member, unpacked.number)),
            freed.enable.eq(advance),
            in_use.eq(marks.read_data ^ freed.data),
            # Once it differs it stays so: to mark twice changes nothing, and a table's entry finds
            # the mark of the descriptor that points to it.
            new_mark.eq(Mux(check.sweep, freed.data, ~freed.data)),
            marks.write_address.eq(slot),
            marks.write_data.eq(new_mark),
            marks.write_enable.eq(check_valid & advance & (check.sweep | check.named)),
            points.eq(raw.flags.indirect & check.indirect & ~check.table),
            entries.eq(raw.length >> 4),
            # A table of no entries has -1 more than one.
            bad_table.eq(raw.length[:4].any() | ((entries - 1)[:28] > check.top)
                         | (entries > sizes.table_max)),
            in_cell.eq(Mux(check.first, check.in_cell, check.table)),
            cell.eq(Mux(check.first, check.cell, latest_cell)),
            length.eq(Mux(raw.length[LENGTH_BITS:].any(), _LONGEST, raw.length)),
            total.eq(before + length),
            reason.eq(FaultReason.NONE),
        ]
        with m.If(check.error != 0):
            m.d.comb += reason.eq(read_fault(check.error, FaultReason.NONE))
        with m.Elif((in_use & ~check.table)
                    | (check.place & raw.flags.next & (check.slots > check.top))
                    | (check.table & raw.flags.next & (check.room == 0))):
            m.d.comb += reason.eq(FaultReason.LOOP)
        # A list of descriptors in a packed ring holds none that names a table.
        with m.Elif((raw.flags.indirect & (~points | raw.flags.next | (check.place & ~check.head)))
                    | raw.flags.low.any() | raw.flags.high.any()
                    | (~check.packed & (raw.flags.available | raw.flags.used))):
            m.d.comb += reason.eq(FaultReason.BAD_FLAGS)
        with m.Elif(points):
            with m.If(bad_table):
                m.d.comb += reason.eq(FaultReason.BAD_LENGTH)
        with m.Elif(raw.flags.write == int(sizes.transmit)):
            m.d.comb += reason.eq(FaultReason.DIRECTION)
        with m.Elif(raw.length == 0):
            m.d.comb += reason.eq(FaultReason.ZERO_LENGTH)

        # JUDGE: the chain.
        judge: Any = Signal(layout, reset_less=True)
        judge_valid = Signal()
        write_valid = Signal()
        kept: Any = Signal(DescriptorLayout(sizes), reset_less=True)
        has_next = Signal(reset_less=True)
        next_number = Signal(16, reset_less=True)
        judge_reason = Signal(FaultReason, reset_less=True)
        chain: Any = Signal(PartialLayout(sizes), reset_less=True)
        given_up = Signal(reset_less=True)  # the chain, by an earlier descriptor of this answer
        live = Signal()
        bad_length = Signal()
        fails = Signal()
        goes_on = Signal()
        complete = Signal()
        judge_points = Signal(reset_less=True)
        table_address = Signal(64, reset_less=True)
        table_entries = Signal(sizes.cell_bits, reset_less=True)
        judge_in_cell = Signal(reset_less=True)
        judge_cell = Signal(sizes.cell_bits, reset_less=True)
        next_cell = Signal(sizes.cell_bits, reset_less=True)
        m.d.comb += [
            before.eq(Mux(check.first, check.bytes, chain.bytes)),
            before_segments.eq(Mux(check.first, check.segments, chain.segments)),
            live.eq(judge_valid & judge.named & ~(given_up & ~judge.first)),
            fails.eq(live & ((Value.cast(judge_reason) != 0) | bad_length)),
            complete.eq(live & judge.final & ~has_next & ~judge_points & ~fails),
            goes_on.eq(live & judge.final & (judge_points | (has_next & ~judge.place)) & ~fails),
            unpack.drained.eq(~check_valid & ~judge_valid & ~write_valid),
        ]
        if sizes.transmit:
            m.d.comb += bad_length.eq(
                (chain.bytes > self.max_chain_bytes)
                | (judge.final & ~has_next & ~judge_points & (chain.bytes <= _HEADER_BYTES)))

        # WRITE: what came of it.
        write: Any = Signal(layout, reset_less=True)
        written: Any = Signal(DescriptorLayout(sizes), reset_less=True)
        write_id = Signal(16, reset_less=True)
        write_ends_place = Signal()  # the last of its chain in a packed ring
        write_reason = Signal(FaultReason, reset_less=True)
        write_chain: Any = Signal(PartialLayout(sizes), reset_less=True)
        write_live = Signal()
        write_fails = Signal()
        write_goes_on = Signal()
        write_complete = Signal()
        write_points = Signal()
        write_in_cell = Signal(reset_less=True)
        write_cell = Signal(sizes.cell_bits, reset_less=True)
        walk: Any = Signal(WalkLayout(sizes), reset_less=True)
        with m.If(advance):
            m.d.sync += [
                check.eq(unpacked),
                check_valid.eq(unpack.operations.valid),
                raw.eq(unpack.operations.p.raw),

                judge.eq(check),
                judge_valid.eq(check_valid),
                kept.address.eq(raw.address),
                kept.length.eq(length),
                kept.next.eq(Mux(check.table, cell_list.data,
                                 Mux(check.place, check.after, raw.other))),
                kept.in_cell.eq(check.table),
                kept.mark.eq(new_mark),
                has_next.eq(raw.flags.next),
                next_number.eq(raw.other),
                judge_reason.eq(reason),
                judge_points.eq(points),
                table_address.eq(raw.address),
                table_entries.eq(entries),
                judge_in_cell.eq(in_cell),
                judge_cell.eq(cell),
                next_cell.eq(cell_list.data),

                write.eq(judge),
                write_valid.eq(judge_valid),
                written.eq(kept),
                write_id.eq(next_number),
                write_ends_place.eq(judge.place & ~has_next),
                write_reason.eq(Mux(Value.cast(judge_reason) != 0, judge_reason,
                                    FaultReason.BAD_LENGTH)),
                write_chain.eq(chain),
                write_live.eq(live),
                write_fails.eq(fails),
                write_goes_on.eq(goes_on),
                write_complete.eq(complete),
                write_points.eq(judge_points),
                write_in_cell.eq(judge_in_cell),
                write_cell.eq(judge_cell),
            ]
            m.d.sync += [
                walk.eq(0),
                walk.member.eq(judge.member),
                walk.order.eq(judge.order),
                walk.packed.eq(judge.packed),
                walk.index.eq(judge.index),
                walk.lap.eq(judge.lap),
                walk.slots.eq(judge.slots),
                walk.after.eq(judge.after),
                walk.after_lap.eq(judge.after_lap),
                walk.bytes.eq(chain.bytes),
                walk.segments.eq(chain.segments),
                walk.descriptor.eq(next_number),
                walk.table.eq(judge.table),
                walk.address.eq(judge.address),
                walk.entries.eq(judge.entries),
                walk.link.eq(judge.number),
                walk.in_cell.eq(judge.table),
                walk.cell.eq(Mux(judge.table, next_cell, 0)),
                walk.room.eq(judge.room - 1),
            ]
            with m.If(judge_points):
                m.d.sync += [
                    walk.descriptor.eq(0),
                    walk.table.eq(1),
                    walk.fresh.eq(1),
                    walk.address.eq(table_address),
                    walk.entries.eq(table_entries),
                    walk.in_cell.eq(0),
                ]
            # Kept while nothing comes, or places are cleared in between: the chain may go on.
            with m.If(check_valid & check.named):
                m.d.sync += latest_cell.eq(cell_list.data)
            # What points to a table is no buffer.
            with m.If(check_valid & check.named & points):
                m.d.sync += [chain.bytes.eq(before), chain.segments.eq(before_segments)]
            with m.Elif(check_valid & check.named):
                m.d.sync += [
                    chain.bytes.eq(Mux(total[LENGTH_BITS], _LONGEST, total)),
                    chain.segments.eq(before_segments + 1),
                ]
            with m.If(judge_valid & judge.named):
                m.d.sync += given_up.eq(fails | (given_up & ~judge.first))

        descriptors: Any = self.descriptors
        ids: Any = self.ids
        totals: Any = self.totals
        done: Any = self.done
        cells: Any = self.cells
        unneeded: Any = self.cells_unneeded
        place = Signal(range(sizes.slots))
        passes = Signal()
        finishes = Signal()
        count = Signal(range(BURST_MAX + 1))   # chains that ended in this answer, before this
        counted = Signal(range(BURST_MAX + 2))
        told = Signal()
        wants = Signal()
        m.d.comb += [
            place.eq(sizes.slot(write.member, write.index)),
            # A place of a packed ring inside a chain bears the mark too, or a head there would look
            # complete a lap later. The one before it has a write to spare.
            passes.eq(write_live & write.place & ~write_ends_place & ~write_fails),
            descriptors.address.eq(sizes.slot(write.member, write.number)),
            descriptors.data.eq(written),
            # What is a fault stays out: the place may be that of a chain which was not taken yet.
            descriptors.enable.eq(write_live & ~write_in_cell & ~write_fails),
            cells.address.eq(Cat(write_cell, write.member)),
            cells.data.eq(written),
            cells.enable.eq(write_live & write_in_cell & ~write_fails),
            ids.address.eq(place),
            ids.data.eq(Mux(write.place, write_id, write.number)),
            ids.enable.eq(write_live & ~write_fails
                          & Mux(write.place, write_ends_place, write.head)),
            totals.address.eq(place),
            totals.data.bytes.eq(write_chain.bytes),
            totals.data.segments.eq(write_chain.segments),
            totals.data.slots.eq(write.slots),
            totals.data.after.eq(write.after),
            totals.data.after_lap.eq(write.after_lap),
            totals.enable.eq(write_complete),
            done.address.eq(Mux(passes, sizes.slot(write.member, write.after), place)),
            done.data.mark.eq(Mux(passes, ~write.after_lap,
                                  Mux(write.sweep, write.lap, ~write.lap))),
            done.data.bytes.eq(write_chain.bytes),
            done.data.after.eq(write.after),
            done.data.after_lap.eq(write.after_lap),
            done.enable.eq(write_complete | passes | (write_valid & write.sweep)),

            self.walks.valid.eq(write_goes_on & advance),
            self.walks.payload.eq(walk),

            self.faults.valid.eq(write_fails & ~told),
            self.faults.p.member.eq(write.member),
            self.faults.p.reason.eq(write_reason),
            self.faults.p.address.eq(written.address),

            # Of a packed ring those are counted that a table is to be read for.
            finishes.eq(Mux(write.place, write_goes_on, write_fails | write_complete)),
            self.finished.eq(finishes & ~write.packed & advance),
            self.slots_finished.eq(Mux(advance & write_valid & write.packed,
                                       Mux(write.place,
                                           Mux(write.ends, BURST_MAX - counted, 0), finishes), 0)),
            counted.eq(count + finishes),
            wants.eq(write_valid & write.ends & (write.place | (counted != 0))),
            unneeded.address.eq(write.member),
            unneeded.data.eq(write.room),
            unneeded.enable.eq(write_complete & write.table & advance),
            # The fault is told before the obligations of the answer's chains are given back.
            self.completions.valid.eq(wants & (~write_fails | told)),
            self.completions.p.member.eq(write.member),
            self.completions.p.order.eq(write.order),
            self.completions.p.count.eq(counted),
            self.completions.p.packed.eq(write.packed),
            self.completions.p.slots.eq(write.place),
            self.completions.p.report.member.eq(write.member),
            self.completions.p.report.index.eq(write.reached),
            self.completions.p.report.found.eq(write.found),
            self.completions.p.report.full.eq(write.full),
            self.completions.p.report.partial.eq(write.partial),
            partial.address.eq(write.member),
            partial.data.bytes.eq(write_chain.bytes),
            partial.data.segments.eq(write_chain.segments),
            partial.enable.eq(
                write_valid & write.ends & write.place & (write.found != 0) & advance),
            # Not looked at whether there is a completion at all: that is known late.
            advance.eq((~write_fails | told) & (~write_valid | self.completions.ready)),
        ]
        with m.If(advance):
            m.d.sync += told.eq(0)
            with m.If(write_valid & ~write.sweep):
                m.d.sync += count.eq(Mux(write.ends, 0, counted))
        with m.Elif(self.faults.valid & self.faults.ready):
            m.d.sync += told.eq(1)
        return m
