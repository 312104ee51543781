"""Keep the bytes of completions, where the answers will want them."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import ReadSizes, RowLayout, StoreBeatLayout
from hw.stream.rotate import lanes_from, rotate_bytes

__all__ = ["CompletionStore"]


class CompletionStore(wiring.Component):
    """A slot of rows for each tag; completion beats of any alignment in, rows out.

    Rows are as wide as a beat, and bytes lie in the lane in which the answer gives them. So a beat
    of a completion is rotated, and lands in two rows; even and odd rows are memories of their own,
    and both are written at once. Bytes behind the slot's end go on in its first row: the piece
    starts in a lane of it, and what a full slot lacks at its end is free there.

    ::

        beats ──► rotate ──► rotate ──►┬─► even rows ─►┐
                  coarsely   finely    └─► odd rows ──►┴─► row_data

    | Latency: 3 cycles from ``beats`` until a row may be read; ``row_data`` 1 cycle after ``row``.
    | Throughput: 1 beat and 1 row a cycle.
    | Storage: ``tags * max_read_bytes`` in block memory.

    Parameters
    ----------
    sizes
        The engine's sizes.

    Members
    -------
    beats : In(stream.Signature(StoreBeatLayout(sizes), always_ready=True))
    row : In(stream.Signature(RowLayout(sizes), always_ready=True))
    row_data : Out(8 * lanes)
        The row asked for in the cycle before.
    """

    beats: stream.Interface
    row: stream.Interface
    row_data: Signal

    def __init__(self, sizes: ReadSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "beats": In(stream.Signature(StoreBeatLayout(sizes), always_ready=True)),
            "row": In(stream.Signature(RowLayout(sizes), always_ready=True)),
            "row_data": Out(8 * sizes.lanes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        lanes, lane_bits = sizes.lanes, sizes.lane_bits
        fine_bits = lane_bits // 2
        coarse_lanes = 1 << fine_bits
        address_bits = sizes.tag_bits + sizes.row_bits - 1

        # Coarse: the upper bits of the rotation. The enabled lanes go the same way as the bytes.
        beat: Any = Signal(StoreBeatLayout(sizes), reset_less=True)
        valid = Signal()
        m.d.sync += [beat.eq(self.beats.payload), valid.eq(self.beats.valid)]
        enable = Signal(lanes)
        wanted = Signal(lanes)  # from the first byte that was asked for on
        full = Signal()
        m.d.comb += [
            wanted.eq(Cat(lanes_from(beat.skip, 3), Const(-1, lanes - 3))),
            full.eq(beat.extent[lane_bits:].any()),
            enable.eq(Mux(valid, wanted & (full.replicate(lanes)
                                           | ~lanes_from(beat.extent[:lane_bits], lanes)), 0)),
        ]

        def rotate_lanes(flags: Signal, amount: Any, lowest: int) -> Signal:
            for bit in range(len(amount)):
                step = lowest << bit
                turned = Signal(lanes)
                m.d.comb += turned.eq(
                    Mux(amount[bit], Cat(flags[-step:], flags[:-step]), flags))
                flags = turned
            return flags

        def rotate_groups(word: Signal, amount: Any) -> Signal:
            for bit in range(len(amount)):
                step = 8 * coarse_lanes << bit
                turned = Signal(8 * lanes)
                m.d.comb += turned.eq(Mux(amount[bit], Cat(word[-step:], word[:-step]), word))
                word = turned
            return word

        coarse_data = Signal(8 * lanes, reset_less=True)
        coarse_enable = Signal(lanes)
        slot = Signal(sizes.tag_bits, reset_less=True)
        offset = Signal(sizes.slot_bits, reset_less=True)
        coarse = beat.offset[fine_bits:lane_bits]
        m.d.sync += [
            coarse_data.eq(rotate_groups(beat.data, coarse)),
            coarse_enable.eq(rotate_lanes(enable, coarse, coarse_lanes)),
            slot.eq(beat.slot),
            offset.eq(beat.offset),
        ]

        # Fine: the lower bits. Lanes below the rotation have come around, to the next row.
        fine_data = Signal(8 * lanes, reset_less=True)
        stays = Signal(lanes)
        turned = rotate_lanes(coarse_enable, offset[:fine_bits], 1)
        m.d.comb += stays.eq(lanes_from(offset[:lane_bits], lanes))
        m.d.sync += fine_data.eq(rotate_bytes(m, coarse_data, offset[:fine_bits]))
        row = Signal(sizes.row_bits)
        next_row = Signal(sizes.row_bits)
        m.d.comb += [row.eq(offset[lane_bits:]), next_row.eq(row + 1)]

        read_odd = Signal(reset_less=True)
        m.d.sync += read_odd.eq(self.row.p.row[0])
        words = []
        for bank, name in enumerate(("even", "odd")):
            rows: memory.Memory[Any, Any] = memory.Memory(
                shape=8 * lanes, depth=1 << address_bits, init=[])
            m.submodules[name] = rows
            write = rows.write_port(granularity=8)
            read = rows.read_port()
            own = Signal(name=f"{name}_holds_row")  # the row itself, not the one after it
            write_enable = Signal(lanes, name=f"{name}_enable")
            write_address = Signal(address_bits, name=f"{name}_address", reset_less=True)
            m.d.comb += own.eq(row[0] == bank)
            m.d.sync += [
                write_enable.eq(turned & Mux(own, stays, ~stays)),
                write_address.eq(Cat(Mux(own, row, next_row)[1:], slot)),
            ]
            m.d.comb += [
                write.en.eq(write_enable),
                write.addr.eq(write_address),
                write.data.eq(fine_data),
                # Reading the other bank as well costs nothing, and no path for an enable.
                read.addr.eq(Cat(self.row.p.row[1:], self.row.p.slot)),
            ]
            words.append(read.data)
        m.d.comb += self.row_data.eq(Mux(read_odd, words[1], words[0]))
        return m
