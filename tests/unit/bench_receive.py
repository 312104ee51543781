"""cocotb side of tests/unit/test_receive.py."""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.stream.types import BeatLayout
from hw.virtio.deliver import DroppedLayout
from hw.virtio.types import (
    ChainLayout,
    ChainStatus,
    QueueCommandLayout,
    QueueLayout,
    ReadyLayout,
    SegmentLayout,
    TakeLayout,
    UsedLayout,
)
from hw.wire.types import FrameHandle, PoolReadLayout
from tb.dma import WriteServer
from tb.queue_config import QueueConfigs
from tb.stream import (
    PacketSource,
    StreamSink,
    StreamSource,
    always,
    cycles,
    never,
    pace,
    reset,
)

LANES = int(os.environ.get("RINGLET_LANES", "8"))
CELLS = 1024
HEADER = bytes(10) + b"\x01\x00"
DOWN, NO_FIT = 0, 1
QUEUES = (0, 2, 4, 6)


class World:
    """The rooms around: frame queues and pool on one side, prefetch and DMA on the other."""

    def __init__(self, dut: Any, stalls: bool, seed: int) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        self.configs = QueueConfigs(dut, "config", {q: {"running": 1} for q in QUEUES})
        self.queued: dict[int, deque[int]] = defaultdict(deque)
        self.pool: dict[int, bytes] = {}
        self.chains: dict[int, deque[tuple[int, list[tuple[int, int]]]]] = defaultdict(deque)
        self.memory: dict[int, bytearray] = {}
        self._next = 0x10_0000
        self.arrivals = StreamSource(dut, "arrivals", QueueLayout(), pace(stalls, 51))
        self.ready = StreamSource(dut, "ready", ReadyLayout(), pace(stalls, 52))
        self.commands = StreamSource(dut, "commands", QueueCommandLayout(), pace(False, 0))
        self._popped = StreamSource(dut, "popped", FrameHandle(CELLS), pace(stalls, 53))
        StreamSink(dut, "pops", QueueLayout(), pace(stalls, 54), self._pop)
        self._chains = StreamSource(dut, "chains", ChainLayout(), pace(stalls, 55))
        self._segments = StreamSource(dut, "segments", SegmentLayout(), pace(stalls, 56))
        StreamSink(dut, "takes", TakeLayout(), pace(stalls, 57), self._take)
        self._frames = PacketSource(dut, "frames", BeatLayout(LANES), pace(stalls, 58))
        StreamSink(dut, "pool_reads", PoolReadLayout(CELLS), pace(stalls, 59), self._read)
        WriteServer(dut, "write_segments", "write_data", "write_accepted", lanes=LANES,
                    write=self._write, pace=pace(stalls, 60), data_pace=pace(stalls, 61),
                    accept_pace=pace(stalls, 62))
        self.used: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.used_frames: dict[int, list[bytes]] = defaultdict(list)
        self._taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
        StreamSink(dut, "used", UsedLayout(), pace(stalls, 63), self._use)
        self.drops: dict[int, list[int]] = defaultdict(list)
        StreamSink(dut, "dropped", DroppedLayout(), pace(stalls, 64),
                   lambda drop: self.drops[drop["queue"]].append(drop["reason"]))

    def frame(self, queue: int, frame: bytes) -> None:
        """A frame has come into the pool for this queue."""
        cell = self.rng.choice([c for c in range(CELLS) if c not in self.pool])
        self.pool[cell] = frame
        self.queued[queue].append(cell)
        self.arrivals.send({"queue": queue})

    def chain(self, queue: int, chain_id: int, lengths: list[int]) -> None:
        """The driver has given a chain of buffers of these lengths."""
        buffers = []
        for length in lengths:
            address = self._next + self.rng.randrange(64)
            self._next = (address + length + 256) & ~63
            self.memory[address] = bytearray(b"\xEE" * length)
            buffers.append((address, length))
        self.chains[queue].append((chain_id, buffers))

    def _pop(self, pop: dict[str, int]) -> None:
        cell = self.queued[pop["queue"]].popleft()
        self._popped.send({"cell": cell, "bytes": len(self.pool[cell])})

    def _take(self, take: dict[str, int]) -> None:
        queue = take["queue"]
        running = self.configs.table[queue].get("running")
        if not self.chains[queue] or not running:
            assert not running, "a take in vain"
            self._chains.send({"queue": queue, "status": ChainStatus.NONE})
            return
        chain_id, buffers = self.chains[queue][0]
        total = sum(length for _, length in buffers)
        if total < take["bytes"]:
            self._chains.send({"queue": queue, "status": ChainStatus.SHORT})
            return
        self.chains[queue].popleft()
        self._taken[queue, chain_id] = buffers
        self._chains.send({"queue": queue, "status": ChainStatus.FOUND, "id": chain_id,
                           "slots": chain_id * 7 % 65521 + 1,
                           "bytes": total, "segments": len(buffers)})
        for index, (address, length) in enumerate(buffers):
            self._segments.send({"address": address, "length": length,
                                 "last": int(index == len(buffers) - 1)})

    def _read(self, read: dict[str, Any]) -> None:
        frame = self.pool.pop(read["frame"]["cell"])
        assert len(frame) == read["frame"]["bytes"]
        if not read["drop"]:
            self._frames.send(frame)

    def _write(self, address: int, content: bytes, function: int) -> None:
        base = next(b for b, m in self.memory.items() if b <= address < b + len(m))
        owner = next(q for (q, _), buffers in self._taken.items()
                     if any(b == base for b, _ in buffers))
        assert function == owner // 2
        assert address - base + len(content) <= len(self.memory[base])
        self.memory[base][address - base:address - base + len(content)] = content

    def _use(self, used: dict[str, int]) -> None:
        """What the driver finds at this moment: the frame must be there already."""
        queue, chain_id = used["queue"], used["id"]
        assert used["slots"] == chain_id * 7 % 65521 + 1 and not used["more"]
        buffers = self._taken.pop((queue, chain_id))
        content = b"".join(bytes(self.memory[base]) for base, _ in buffers)
        assert content[:12] == HEADER
        assert set(content[used["bytes"]:]) <= {0xEE}, "bytes behind the frame were written"
        self.used[queue].append((chain_id, used["bytes"]))
        self.used_frames[queue].append(content[12:used["bytes"]])

    async def until(self, count: int, timeout: int = 40_000) -> None:
        """Wait until so many frames have reached a driver or were dropped."""
        for _ in range(timeout):
            done = sum(map(len, self.used.values())) + sum(map(len, self.drops.values()))
            if done >= count:
                await cycles(self.dut, 20)
                return
            await RisingEdge(self.dut.clk)
        raise TimeoutError(f"{done} of {count}")


async def start(dut: Any, stalls: bool, seed: int = 3) -> World:
    """Reset the block, then each queue, as its memory outlives the block's reset."""
    world = World(dut, stalls, seed)
    await reset(dut)
    for queue in QUEUES:
        world.commands.send({"queue": queue, "reset": 1})
    await world.commands.drain()
    await cycles(dut, 40)
    return world


def buffers(rng: random.Random, total: int) -> list[int]:
    """Lengths of buffers, together ``total`` bytes."""
    lengths = []
    while total:
        lengths.append(min(total, rng.choice([1, 2, 12, 13, 64, 100, 1500, total])))
        total -= lengths[-1]
    return lengths


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def every_frame_reaches_its_driver(dut: Any, stalls: bool) -> None:
    """In order, whole, behind a header; what does not fit is dropped, and its chain kept."""
    rng = random.Random(cocotb.RANDOM_SEED)
    world = await start(dut, stalls)
    sent: dict[int, list[bytes]] = defaultdict(list)
    dropped: dict[int, int] = defaultdict(int)
    ids: dict[int, int] = defaultdict(int)
    total = 0
    for _ in range(60):
        queue = rng.choice(QUEUES)
        size = rng.choice([14, 60, LANES, LANES + 1, rng.randint(14, 1514)])
        room = size + 12 + rng.choice([0, 0, 1, 500])
        events = [True, False]
        rng.shuffle(events)
        short = rng.random() < 0.15
        for is_frame in events:
            if is_frame:
                if short:
                    # One frame too long for the next chain, in front of the one that fits.
                    world.frame(queue, rng.randbytes(9100))
                    dropped[queue] += 1
                    total += 1
                frame = rng.randbytes(size)
                sent[queue].append(frame)
                world.frame(queue, frame)
                total += 1
            else:
                # The chains in front may be taken by longer frames than their own: all are ample.
                world.chain(queue, ids[queue], buffers(rng, max(room, 1600)))
                ids[queue] += 1
                world.ready.send({"queue": queue, "count": 1})
        await cycles(dut, rng.choice([0, 0, 1, 5, 40]))
    await world.until(total)
    assert world.used_frames == sent
    assert {queue: len(reasons) for queue, reasons in world.drops.items()} == dict(dropped)
    assert all(reason == NO_FIT for reasons in world.drops.values() for reason in reasons)
    assert {q: [i for i, _ in used] for q, used in world.used.items()} == {
        q: list(range(n)) for q, n in ids.items() if n}
    assert not world.pool, "frames were left in the pool"


@cocotb.test
async def frames_wait_for_chains_at_nobodys_cost(dut: Any) -> None:
    """A queue without chains keeps its frames; the others go on."""
    world = await start(dut, True)
    for index in range(8):
        world.frame(0, bytes([index]) * 60)
        world.frame(2, bytes([index]) * 60)
        world.chain(2, index, [100])
    world.ready.send({"queue": 2, "count": 8})
    await world.until(8)
    assert len(world.used[2]) == 8
    assert not world.used[0]
    for index in range(8):
        world.chain(0, index, [50, 50])
    world.ready.send({"queue": 0, "count": 8})
    await world.until(16)
    assert [frame[0] for frame in world.used_frames[0]] == list(range(8))


@cocotb.test
async def frames_of_a_stopped_queue_are_dropped(dut: Any) -> None:
    """Those that wait, and those that come; after a start it works again; chains are void."""
    world = await start(dut, True)
    for index in range(5):
        world.frame(4, bytes([index]) * 60)
    await cycles(dut, 200)
    assert not world.drops
    world.configs.table[4]["running"] = 0
    world.commands.send({"queue": 4, "reset": 0})
    await world.until(5)
    world.frame(4, bytes(60))
    await world.until(6)
    assert world.drops[4] == [DOWN] * 6
    # Credit that was announced before a stop means nothing after it.
    world.configs.table[4]["running"] = 1
    world.ready.send({"queue": 4, "count": 3})
    await cycles(dut, 40)
    world.configs.table[4]["running"] = 0
    world.commands.send({"queue": 4, "reset": 1})
    await world.commands.drain()
    world.configs.table[4]["running"] = 1
    world.frame(4, b"\x07" * 60)
    await cycles(dut, 200)
    world.chain(4, 9, [72])
    world.ready.send({"queue": 4, "count": 1})
    await world.until(7)
    assert world.used_frames[4] == [b"\x07" * 60]


@cocotb.test
async def a_stop_amid_a_frame_that_does_not_fit(dut: Any) -> None:
    """A chain that turns out to be too short while its queue stops counts no more after that."""
    world = await start(dut, False)
    world.chain(6, 0, [60])
    world.ready.send({"queue": 6, "count": 1})
    world.frame(6, bytes(100))
    world._chains.pace = never()
    await cycles(dut, 60)
    world.configs.table[6]["running"] = 0
    world.commands.send({"queue": 6, "reset": 0})
    await cycles(dut, 60)
    world._chains.pace = always()
    await world.commands.drain()
    world.chains[6].clear()
    await world.until(1)
    assert world.drops[6] == [NO_FIT]
    world.configs.table[6]["running"] = 1
    world.frame(6, b"\x05" * 60)
    await cycles(dut, 60)  # a take would be in vain
    world.chain(6, 1, [72])
    world.ready.send({"queue": 6, "count": 1})
    await world.until(2)
    assert world.used_frames[6] == [b"\x05" * 60]


@cocotb.test
async def small_frames_at_full_rate(dut: Any) -> None:
    """Many frames between the pool and memory at once."""
    world = await start(dut, False)
    count = 100
    for index in range(count):
        world.chain(0, index, [1536])
        world.frame(0, bytes(60))
    world.ready.send({"queue": 0, "count": count})
    began = cocotb.utils.get_sim_time("ns")
    await world.until(count)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4 - 20
    dut._log.info("%.2f cycles a frame", taken / count)
    assert taken / count <= 6.5 + (72 // LANES if LANES < 32 else 0)
