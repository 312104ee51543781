"""The packet pool: whole frames as chains of cells in one block memory."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.queue import PassingQueue, StreamQueue
from hw.stream.register import PipeRegister
from hw.stream.rotate import lanes_from
from hw.stream.types import LENGTH_BITS, BeatLayout, check_lanes
from hw.wire.types import FrameHandle, PoolReadLayout, PoolWriteLayout

__all__ = ["PacketPool"]

_AT_HAND_CYCLES = 4  # a cell that was given back can be taken so much later


class PacketPool(wiring.Component):
    """Store frames as chains of cells, whatever their lengths; give them back by their handles.

    ::

        write ──► rows with byte enables ──► memory ──► read-out ──► data
          │ one cell a begun cell               ▲          │ cells that were left
          └──◄── free cells ◄───────────────────┼──────────┘
        last row ──► frames (handles)         reads

    A frame is written row by row; two frames may be open at a time, one of each ``context``. It
    occupies ``ceil(bytes / cell_bytes)`` cells. The client reserves exactly so many before it
    writes its first row, and so ``write`` never stalls. A reservation belongs to no frame: cells
    are alike. Cells are free again, one by one, as they are read, or when their frame is dropped or
    aborted. An aborted frame must have been written to the length it was reserved for.

    A frame has one reader; there are no counts of references. A cell counts as free 4 cycles after
    it was given back: the list of free cells has it at hand then.

    | Latency: 1 cycle from the last row to ``frames``, 3 from ``reads`` to ``data``.
    | Throughput: a row in and a row out every cycle, from frame to frame without a gap, frames of
      one row included. A dropped frame costs the read-out a cycle a cell.
    | Storage: the frames; in block memory log2(cells) bits a cell twice and a handle a cell.

    Parameters
    ----------
    lanes
        Byte lanes of a row.
    cell_bytes
        A cell: a power of two, at least ``lanes``.
    pool_bytes
        All cells: a power of two, at least 2 of them.
    max_frame_bytes
        The longest frame.

    Members
    -------
    reserve : In(stream.Signature(range(max_cells + 1)))
        Cells, set aside for a frame. Waits until so many are free.
    free_cells : Out(range(cells + 1))
        Cells that are neither occupied nor reserved.
    write : In(stream.Signature(PoolWriteLayout(lanes)))
        Always ready.
    frames : Out(stream.Signature(FrameHandle(cells)))
        Frames that are whole, in the order of their last rows.
    reads : In(stream.Signature(PoolReadLayout(cells)))
        Each handle is to be given back once.
    data : Out(stream.Signature(BeatLayout(lanes)))
        The frames of ``reads``, without those dropped; no gap inside a frame unless it stalls.
    """

    reserve: stream.Interface
    free_cells: Signal
    write: stream.Interface
    frames: stream.Interface
    reads: stream.Interface
    data: stream.Interface

    def __init__(self, lanes: int, *, cell_bytes: int, pool_bytes: int,
                 max_frame_bytes: int) -> None:
        check_lanes(lanes)
        if cell_bytes < lanes or cell_bytes & (cell_bytes - 1):
            raise ValueError(f"cell_bytes must be a power of two and at least {lanes}, "
                             f"not {cell_bytes!r}")
        if pool_bytes < 2 * cell_bytes or pool_bytes & (pool_bytes - 1):
            raise ValueError(f"pool_bytes must be a power of two and at least two cells "
                             f"({2 * cell_bytes}), not {pool_bytes!r}")
        if not 1 <= max_frame_bytes <= pool_bytes:
            raise ValueError(f"max_frame_bytes must be from 1 to pool_bytes ({pool_bytes}), "
                             f"not {max_frame_bytes!r}")
        self.lanes = lanes
        self.cell_bytes = cell_bytes
        self.pool_bytes = pool_bytes
        self.max_frame_bytes = max_frame_bytes
        self.cells = pool_bytes // cell_bytes
        self.max_cells = -(-max_frame_bytes // cell_bytes)
        self.rows = cell_bytes // lanes
        super().__init__({
            "reserve": In(stream.Signature(range(self.max_cells + 1))),
            "free_cells": Out(range(self.cells + 1)),
            "write": In(stream.Signature(PoolWriteLayout(lanes))),
            "frames": Out(stream.Signature(FrameHandle(self.cells))),
            "reads": In(stream.Signature(PoolReadLayout(self.cells))),
            "data": Out(stream.Signature(BeatLayout(lanes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._row_bits = (self.rows - 1).bit_length()
        rows: memory.Memory[Any, Any] = memory.Memory(
            shape=8 * self.lanes, depth=self.cells * self.rows, init=[])
        m.submodules.rows = rows
        links: memory.Memory[Any, Any] = memory.Memory(
            shape=range(self.cells), depth=self.cells, init=[])  # a frame's cell after this one
        m.submodules.links = links
        ended = self._write(m, rows.write_port(granularity=8), links.write_port())
        m.d.comb += [
            self.frames.valid.eq(ended.valid & ~ended.p.abort),
            self.frames.payload.eq(ended.p.frame),
        ]
        self._read(m, rows.read_port(), links.read_port(), ended)
        return m

    def _row(self, cell: Value, row: Value) -> Value:
        """Address of a row of a cell."""
        return Cat(row[:self._row_bits], cell) if self._row_bits else cell

    def _free_cells(self, m: Module, freed: stream.Interface) -> tuple[Signal, Signal]:
        """Keep the cells that are free. Give the next one, and the signal that it is taken."""
        m.submodules.free = free = StreamQueue(range(self.cells), max(self.cells, 2))
        count = Signal(range(self.cells + 1), init=self.cells)
        fresh = Signal(range(self.cells + 1))  # from here on cells have never been used
        is_fresh = Signal()
        cell = Signal(range(self.cells))
        takes = Signal()
        reserved = Signal(range(self.max_cells + 1))
        m.d.comb += [
            self.free_cells.eq(count),
            self.reserve.ready.eq(self.reserve.payload <= count),
            reserved.eq(Mux(self.reserve.valid & self.reserve.ready, self.reserve.payload, 0)),
            is_fresh.eq(fresh != self.cells),
            cell.eq(Mux(is_fresh, fresh, free.o.payload)),
            # What is counted as free can be taken in the same cycle, and so what is reserved too.
            free.o.ready.eq(takes & ~is_fresh),
            free.i.valid.eq(freed.valid),
            free.i.payload.eq(freed.payload),
        ]
        # What is given back may go through the queue's block memory, and what counts can be taken.
        back = Signal(_AT_HAND_CYCLES)
        m.d.sync += [
            back.eq(Cat(freed.valid, back[:-1])),
            count.eq(count + back[-1] - reserved),
        ]
        with m.If(takes & is_fresh):
            m.d.sync += fresh.eq(fresh + 1)
        return cell, takes

    def _write(self, m: Module, rows: Any, links: Any) -> stream.Interface:
        """Put rows into cells. Give the frames that have ended."""
        lanes = self.lanes
        self._freed = freed = stream.Signature(range(self.cells)).create()
        new_cell, takes = self._free_cells(m, freed)

        # Where each open frame is to go on.
        place = data.StructLayout({
            "first": range(self.cells), "cell": range(self.cells),
            "row": range(max(self.rows, 2)), "full": 1, "bytes": LENGTH_BITS})
        write = self.write.p
        here: Any = Signal(place)
        after: Any = Signal(place)
        places: list[Any] = [Signal(place, name=f"place{k}", reset_less=True) for k in range(2)]
        row_done = Signal()
        m.d.comb += [
            self.write.ready.eq(1),
            here.eq(Mux(write.context, places[1].as_value(), places[0].as_value())),
            takes.eq(self.write.valid & (write.begin | here.full)),
            row_done.eq(write.empty == 0),
            after.first.eq(Mux(write.begin, new_cell, here.first)),
            after.bytes.eq(Mux(write.begin, 0, here.bytes) + lanes - write.empty - write.start),
            links.addr.eq(here.cell),
            links.data.eq(new_cell),
            links.en.eq(takes & ~write.begin),
        ]
        row = Signal(range(max(self.rows, 2)))
        m.d.comb += [
            after.cell.eq(Mux(takes, new_cell, here.cell)),
            row.eq(Mux(takes, 0, here.row)),
            after.row.eq(row + row_done),
            after.full.eq(row_done & (row == self.rows - 1)),
        ]
        for context, kept in enumerate(places):
            with m.If(self.write.valid & (write.context == context)):
                m.d.sync += kept.eq(after)

        # The memory is large and far: its inputs come straight from registers.
        address = Signal(range(self.cells * self.rows), reset_less=True)
        enable = Signal(lanes)
        bytes_in = Signal(8 * lanes, reset_less=True)
        end = Signal()
        m.submodules.ended = ended = PassingQueue(
            data.StructLayout({"frame": FrameHandle(self.cells), "abort": 1}), self.cells)
        end_frame: Any = Signal(ended.shape, reset_less=True)
        m.d.sync += [
            enable.eq(Mux(self.write.valid, lanes_from(write.start, lanes)
                          & lanes_from(write.empty, lanes)[::-1], 0)),
            end.eq(self.write.valid & write.end),
        ]
        with m.If(self.write.valid):
            m.d.sync += [
                address.eq(self._row(after.cell, row)),
                bytes_in.eq(write.data),
                end_frame.frame.cell.eq(after.first),
                end_frame.frame.bytes.eq(after.bytes),
                end_frame.abort.eq(write.abort),
            ]
        m.d.comb += [
            rows.addr.eq(address),
            rows.data.eq(bytes_in),
            rows.en.eq(enable),
            # There are no more frames than cells: never refused.
            ended.i.valid.eq(end),
            ended.i.payload.eq(end_frame),
        ]
        return ended.o

    def _read(self, m: Module, rows: Any, links: Any, ended: stream.Interface) -> None:
        """Walk along the cells of frames, one row a cycle, and free them."""
        lanes = self.lanes
        lane_bits = (lanes - 1).bit_length()
        freed = self._freed

        # Aborted frames are dropped as well, and first: they are in the way of `frames`.
        aborted = Signal()
        drop = Signal()
        frame: Any = Signal(FrameHandle(self.cells))
        last_byte = Signal(LENGTH_BITS)
        m.d.comb += [
            aborted.eq(ended.valid & ended.p.abort),
            frame.eq(Mux(aborted, Value.cast(ended.p.frame), Value.cast(self.reads.p.frame))),
            drop.eq(aborted | self.reads.p.drop),
            last_byte.eq(frame.bytes - 1),
        ]

        active = Signal()
        drops = Signal(reset_less=True)
        first_cell = Signal(range(self.cells), reset_less=True)
        linked = Signal()  # the cell is what the links say, and was asked for in the last cycle
        row = Signal(range(max(self.rows, 2)), reset_less=True)
        rows_after = Signal(LENGTH_BITS - lane_bits, reset_less=True)
        empty = Signal(range(lanes), reset_less=True)
        cell = Signal(range(self.cells))
        moves = Signal()
        out_free = Signal()
        last = Signal()
        leaves_cell = Signal()
        load = Signal()
        m.d.comb += [
            cell.eq(Mux(linked, links.data, first_cell)),
            moves.eq(active & (drops | out_free)),
            last.eq(Mux(drops, (rows_after >> self._row_bits) == 0, rows_after == 0)),
            leaves_cell.eq(last | drops | (row == self.rows - 1)),
            rows.addr.eq(self._row(cell, row)),
            rows.en.eq(moves & ~drops),
            links.addr.eq(cell),
            links.en.eq(moves & leaves_cell),
            freed.valid.eq(moves & leaves_cell),
            freed.payload.eq(cell),
            load.eq(~active | (moves & last)),
            self.reads.ready.eq(load & ~aborted),
            # Frames that were aborted leave their queue here, the others to `frames`.
            ended.ready.eq(Mux(ended.p.abort, load, self.frames.ready)),
        ]
        with m.If(moves):
            m.d.sync += [
                linked.eq(leaves_cell),
                first_cell.eq(cell),
                row.eq(Mux(leaves_cell, 0, row + 1)),
                rows_after.eq(rows_after - Mux(drops, self.rows, 1)),
            ]
        with m.If(load):
            m.d.sync += [
                active.eq(aborted | self.reads.valid),
                linked.eq(0),
                drops.eq(drop),
                first_cell.eq(frame.cell),
                row.eq(0),
                rows_after.eq(last_byte[lane_bits:]),
                empty.eq(~last_byte[:lane_bits]),
            ]

        # Behind the memory's own register stands one more: the memory is many blocks.
        m.submodules.out = out = PipeRegister(BeatLayout(lanes))
        valid = Signal()
        beat_last = Signal(reset_less=True)
        beat_empty = Signal(range(lanes), reset_less=True)
        m.d.comb += [
            out_free.eq(~valid | out.i.ready),
            out.i.valid.eq(valid),
            out.i.p.data.eq(rows.data),
            out.i.p.last.eq(beat_last),
            out.i.p.empty.eq(beat_empty),
            self.data.valid.eq(out.o.valid),
            self.data.payload.eq(out.o.payload),
            out.o.ready.eq(self.data.ready),
        ]
        with m.If(out_free):
            m.d.sync += valid.eq(active & ~drops)
        with m.If(rows.en):
            m.d.sync += [beat_last.eq(last), beat_empty.eq(Mux(last, empty, 0))]
