"""The packet pool: frames into cells and out again, at full rate, and no cell lost."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.wire.types import FrameHandle, PoolReadLayout, PoolWriteLayout
from tb.stream import (
    PacketSink,
    StreamMonitor,
    StreamSink,
    StreamSource,
    always,
    cycles,
    never,
    pace,
    reset,
)
from tests.unit.wire_frames import (
    BEAT,
    CELL,
    CELLS,
    LANES,
    LONGEST,
    MAX_CELLS,
    STALLS,
    frame_bytes,
    frame_size,
)


class Pool:
    """The client of a pool: reserves, writes frames in either context, reads them."""

    def __init__(self, dut: Any, name: str, *, write_stalls: bool, read_stalls: bool,
                 data_stalls: bool) -> None:
        self.cell_bytes = CELL if name == "pool" else LANES
        self.cells = 32 * CELL // self.cell_bytes
        handle = FrameHandle(self.cells)
        self.free = getattr(dut, f"{name}__free_cells")
        most = range(-(-LONGEST // self.cell_bytes) + 1)
        self.reserve = StreamSource(dut, f"{name}__reserve", most, always())
        self.write = StreamSource(dut, f"{name}__write", PoolWriteLayout(LANES),
                                  pace(write_stalls, 1))
        self.write_ready = getattr(dut, f"{name}__write__ready")
        self.frames = StreamSink(dut, f"{name}__frames", handle, pace(read_stalls, 2))
        self.reads = StreamSource(dut, f"{name}__reads", PoolReadLayout(self.cells),
                                  pace(read_stalls, 3))
        self.data = PacketSink(dut, f"{name}__data", BEAT, pace(data_stalls, 4))

    async def reserved(self, size: int) -> None:
        self.reserve.send(-(-size // self.cell_bytes))
        await self.reserve.drain()

    def rows(self, packet: bytes, context: int, rng: random.Random | None = None, *,
             abort: bool = False) -> list[dict[str, int]]:
        """Writes of a frame; with ``rng`` its rows are written in several pieces."""
        writes = []
        at = 0
        while at < len(packet):
            lane = at % LANES
            size = min(LANES - lane, len(packet) - at)
            if rng and rng.random() < 0.5:
                size = rng.randint(1, size)
            writes.append({
                "data": int.from_bytes(packet[at:at + size], "little") << 8 * lane
                | (rng.getrandbits(8 * lane) if rng and lane else 0),
                "start": lane, "empty": LANES - lane - size, "context": context,
                "begin": at == 0, "end": at + size == len(packet),
                "abort": abort and at + size == len(packet)})
            at += size
        return writes

    async def write_frames(self, rng: random.Random, total: int, ended: list[bytes]) -> None:
        """Write so many frames, two at a time; some more are aborted."""
        open_rows: list[list[dict[str, int]]] = [[], []]
        open_bytes = [b"", b""]
        aborts = [False, False]
        begun = 0
        while begun < total or any(open_rows):
            for context in (0, 1):
                if not open_rows[context] and begun < total:
                    size = frame_size(rng)
                    await self.reserved(size)
                    open_bytes[context] = frame_bytes(rng, size)
                    aborts[context] = rng.random() < 0.15
                    open_rows[context] = self.rows(open_bytes[context], context,
                                                   rng if context else None, abort=aborts[context])
                    begun += not aborts[context]
            context = rng.randrange(2)
            for _ in range(rng.choice([1, 1, 3, 30])):
                if not open_rows[context]:
                    break
                if len(open_rows[context]) == 1 and not aborts[context]:
                    ended.append(open_bytes[context])
                self.write.send(open_rows[context].pop(0))
                await self.write.drain()
                assert int(self.write_ready.value)


@cocotb.test
@cocotb.parametrize(
    ("name", ["pool", "fine"]),
    (("write_stalls", "read_stalls", "data_stalls"), STALLS))
async def frames_in_and_out(dut: Any, name: str, write_stalls: bool, read_stalls: bool,
                            data_stalls: bool) -> None:
    """Two frames are written at a time, some are aborted or dropped; the rest comes back whole."""
    pool = Pool(dut, name, write_stalls=write_stalls, read_stalls=read_stalls,
                data_stalls=data_stalls)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    ended: list[bytes] = []     # in the order of their last rows
    expected: list[bytes] = []
    total = 60

    async def reader() -> None:
        waiting: list[tuple[dict[str, int], bytes]] = []
        for number in range(total):
            handle = await pool.frames.get()
            assert handle["bytes"] == len(ended[number]), f"frame {number}"
            waiting.append((handle, ended[number]))
            rng_read = random.Random(number)
            if rng_read.random() < 0.5 or number > total - 4 or int(pool.free.value) < 8:
                rng_read.shuffle(waiting)
                for held, packet in waiting:
                    drop = rng_read.random() < 0.2
                    pool.reads.send({"frame": held, "drop": drop})
                    if not drop:
                        expected.append(packet)
                waiting.clear()

    reading = cocotb.start_soon(reader())
    await pool.write_frames(rng, total, ended)
    await reading
    await pool.reads.drain()
    await cycles(dut, 400 if data_stalls else 150)
    for packet in expected:
        assert await pool.data.get_bytes(1) == packet
    assert pool.data.empty()
    assert int(pool.free.value) == pool.cells, "cells were lost"
    assert pool.frames.empty()


@cocotb.test
@cocotb.parametrize(name=["pool", "fine"], size=[LANES - 4, LANES, 4 * LANES, 5 * LANES + 1])
async def a_row_a_cycle(dut: Any, name: str, size: int) -> None:
    """In, and out: frames follow each other without a gap."""
    pool = Pool(dut, name, write_stalls=False, read_stalls=False, data_stalls=False)
    pool.frames.pace = never()
    await reset(dut)
    await cycles(dut, 2)
    rows = -(-size // LANES)
    count = 20 // -(-size // CELL)
    for number in range(count):
        await pool.reserved(size)
        for row in pool.rows(bytes([number]) * size, 0):
            pool.write.send(row)
    await pool.write.drain()
    handles = []
    pool.frames.pace = always()
    for _ in range(count):
        handles.append(await pool.frames.get())
    for handle in handles:
        pool.reads.send({"frame": handle})
    await cycles(dut, count * rows + 3 + 1)
    assert pool.data.transfers == count * rows
    for number in range(count):
        assert await pool.data.get_bytes(1) == bytes([number]) * size
    await cycles(dut, 4)
    assert int(pool.free.value) == pool.cells


@cocotb.test
async def pool_latency(dut: Any) -> None:
    """1 cycle from the last row to the handle, 3 from the handle to the first beat."""
    pool = Pool(dut, "pool", write_stalls=False, read_stalls=False, data_stalls=False)
    await reset(dut)
    await pool.reserved(LANES)
    await cycles(dut, 2)
    pool.write.send(pool.rows(bytes(LANES), 0)[0])
    for expected in (False, True):
        await RisingEdge(dut.clk)
        assert bool(dut.pool__frames__valid.value) == expected
    pool.reads.send({"frame": await pool.frames.get()})
    for expected in (False, False, False, True):
        await RisingEdge(dut.clk)
        assert bool(dut.pool__data__valid.value) == expected


@cocotb.test
@cocotb.parametrize(every=[2, 3], held=[20, 60, 100])
async def free_cells_are_at_hand(dut: Any, every: int, held: int) -> None:
    """A cell a cycle is taken while one comes back now and then, until none is left: each frame
    has cells of its own, and comes back as it was."""
    pool = Pool(dut, "fine", write_stalls=False, read_stalls=False, data_stalls=False)
    await reset(dut)
    rng = random.Random(every + held)
    frames: list[bytes] = []

    def write(_count: int) -> None:
        frames.append(frame_bytes(rng, LANES))
        pool.write.send(pool.rows(frames[-1], 0)[0])

    StreamMonitor(dut, "fine__reserve", range(-(-LONGEST // LANES) + 1), write)
    for _ in range(pool.cells):
        pool.reserve.send(1)
    handles = [await pool.frames.get() for _ in range(pool.cells)]
    given = [handle["cell"] for handle in handles]
    assert sorted(given) == list(range(pool.cells))
    for handle in handles[:held]:
        pool.reads.send({"frame": handle})
    await pool.reads.drain()
    await cycles(dut, 20)
    turns = iter(range(1 << 20))
    pool.data.pace = (next(turns) % every == 0 for _ in iter(int, 1))
    for handle in handles[held:]:
        pool.reads.send({"frame": handle})
    for _ in range(pool.cells):
        pool.reserve.send(1)
    new = [await pool.frames.get() for _ in range(pool.cells)]
    assert sorted(handle["cell"] for handle in new) == list(range(pool.cells))
    for handle in new:
        pool.reads.send({"frame": handle})
    for frame in frames:
        assert await pool.data.get_bytes() == frame
    await cycles(dut, 10)
    assert int(pool.free.value) == pool.cells


@cocotb.test
async def reservations_wait(dut: Any) -> None:
    """A reservation is accepted when the cells are free, and not before."""
    pool = Pool(dut, "pool", write_stalls=False, read_stalls=False, data_stalls=False)
    pool.frames.pace = never()
    await reset(dut)
    for _ in range(6):
        await pool.reserved(LONGEST)
    assert int(pool.free.value) == CELLS - 6 * MAX_CELLS
    pool.reserve.send(3)
    await cycles(dut, 20)
    assert not pool.reserve.idle
    for row in pool.rows(bytes(LONGEST), 0):
        pool.write.send(row)
    await pool.write.drain()
    pool.frames.pace = always()
    pool.reads.send({"frame": await pool.frames.get(), "drop": 1})
    await pool.reserve.drain(20)
    await cycles(dut, 10)
    assert int(pool.free.value) == CELLS - 5 * MAX_CELLS - 3
