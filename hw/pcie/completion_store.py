"""Keep the bytes of completions, where the answers will want them."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import ReadSizes, RowLayout, StoreBeatLayout
from hw.stream.rotate import lanes_from

__all__ = ["CompletionStore"]


class CompletionStore(wiring.Component):
    """A slot of rows for each tag; completion beats of any alignment in, rows out.

    Rows are as wide as a beat, and bytes lie in the lane in which the answer gives them. So a beat
    of a completion is rotated, and lands in two rows; even and odd rows are memories of their own,
    and both are written at once. Bytes behind the slot's end go on in its first row: the piece
    starts in a lane of it, and what a full slot lacks at its end is free there.

    ::

        beats ──► register ──► rotate ──►┬─► even rows ─►┐
                                         └─► odd rows ──►┴─► row_data

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
        beat: Any = Signal(StoreBeatLayout(self.sizes), reset_less=True)
        valid = Signal()
        m.d.sync += [beat.eq(self.beats.payload), valid.eq(self.beats.valid)]

        # The enabled lanes go the same way as the bytes.
        amount = beat.offset[:self.sizes.lane_bits]
        rotated = Signal.like(beat.data, reset_less=True)
        m.d.sync += rotated.eq(_rotate(m, beat.data, amount, 8))
        enable = _rotate(m, self._enabled(m, beat, valid), amount, 1)
        self._banks(m, rotated, enable, beat.slot, beat.offset)
        return m

    def _enabled(self, m: Module, beat: Any, valid: Signal) -> Signal:
        """Give the source lanes that hold bytes that were asked for."""
        lanes, lane_bits = self.sizes.lanes, self.sizes.lane_bits
        enable = Signal(lanes)
        wanted = Signal(lanes)  # from the first byte that was asked for on
        full = Signal()
        m.d.comb += [
            wanted.eq(Cat(lanes_from(beat.skip, 3), Const(-1, lanes - 3))),
            full.eq(beat.extent[lane_bits:].any()),
            enable.eq(Mux(valid, wanted & (full.replicate(lanes)
                                           | ~lanes_from(beat.extent[:lane_bits], lanes)), 0)),
        ]
        return enable

    def _banks(self, m: Module, word: Signal, enable: Signal, slot: Signal,
               offset: Signal) -> None:
        """Make the memories. ``enable``, ``slot`` and ``offset`` are a cycle ahead of ``word``."""
        sizes = self.sizes
        lanes = sizes.lanes
        address_bits = sizes.tag_bits + sizes.row_bits - 1
        row = Signal(sizes.row_bits)
        next_row = Signal(sizes.row_bits)
        stays = Signal(lanes)  # the other lanes have come around, to the next row
        m.d.comb += [
            row.eq(offset[sizes.lane_bits:]),
            next_row.eq(row + 1),
            stays.eq(lanes_from(offset[:sizes.lane_bits], lanes)),
        ]
        reads_odd = Signal(reset_less=True)
        m.d.sync += reads_odd.eq(self.row.p.row[0])
        words = []
        for bank, name in enumerate(("even", "odd")):
            rows: memory.Memory[Any, Any] = memory.Memory(
                shape=8 * lanes, depth=1 << address_bits, init=[])
            m.submodules[name] = rows
            write = rows.write_port(granularity=8)
            read = rows.read_port()
            own = Signal(name=f"{name}_has_row")  # the row itself, not the one after it
            write_enable = Signal(lanes, name=f"{name}_enable")
            write_address = Signal(address_bits, name=f"{name}_address", reset_less=True)
            m.d.comb += own.eq(row[0] == bank)
            m.d.sync += [
                write_enable.eq(enable & Mux(own, stays, ~stays)),
                write_address.eq(Cat(Mux(own, row, next_row)[1:], slot)),
            ]
            m.d.comb += [
                write.en.eq(write_enable),
                write.addr.eq(write_address),
                write.data.eq(word),
                # Both banks are read, always: no path for an enable.
                read.addr.eq(Cat(self.row.p.row[1:], self.row.p.slot)),
            ]
            words.append(read.data)
        m.d.comb += self.row_data.eq(Mux(reads_odd, words[1], words[0]))


def _rotate(m: Module, word: Signal, amount: Value, unit: int) -> Signal:
    """Move bit k of ``word`` to bit k + ``unit * amount``, around the end, by logic in ``m``."""
    for bit in range(len(amount)):
        turned = Signal(len(word))
        step = unit << bit
        m.d.comb += turned.eq(Mux(amount[bit], Cat(word[-step:], word[:-step]), word))
        word = turned
    return word
