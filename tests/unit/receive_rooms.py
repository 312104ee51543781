"""The rooms around receive: frame queues and pool on one side, prefetch and DMA on the other."""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from collections.abc import Iterator
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
from hw.wire.types import ArrivalLayout, FrameHandle, PoolReadLayout
from tb.dma import WriteServer
from tb.queue_config import QueueConfigs
from tb.stream import PacketSource, StreamMonitor, StreamSink, StreamSource, cycles, pace, reset

__all__ = ["DOWN", "LANES", "NO_FIT", "QUEUES", "buffers", "start"]

LANES = int(os.environ.get("RINGLET_LANES", "8"))
CELLS = 1024
DOWN, NO_FIT = 0, 1
QUEUES = (0, 2, 4, 6)


class World:
    """The rooms around: frame queues and pool on one side, prefetch and DMA on the other."""

    def __init__(self, dut: Any, stalls: bool, seed: int) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        table: dict[int, dict[str, Any]] = {queue: {"running": 1} for queue in QUEUES}
        self.configs = QueueConfigs(dut, "config", table)
        self.queued: dict[int, deque[int]] = defaultdict(deque)
        self.pool: dict[int, bytes] = {}
        self.chains: dict[int, deque[tuple[int, list[tuple[int, int]]]]] = defaultdict(deque)
        self.memory: dict[int, bytearray] = {}
        self._next = 0x10_0000
        self.arrivals = StreamSource(dut, "arrivals", ArrivalLayout(), pace(stalls, 51))
        self.ready = StreamSource(dut, "ready", ReadyLayout(), pace(stalls, 52))
        self.commands = StreamSource(dut, "commands", QueueCommandLayout(), pace(False, 0))
        self._popped = StreamSource(dut, "popped", FrameHandle(CELLS), pace(stalls, 53))
        StreamSink(dut, "pops", QueueLayout(), pace(stalls, 54), self._pop)
        self._chains = StreamSource(dut, "chains", ChainLayout(), pace(stalls, 55))
        self._segments = StreamSource(dut, "segments", SegmentLayout(), pace(stalls, 56))
        self.untaken = 0  # chains whose buffers have not been asked for, as prefetch counts them
        StreamMonitor(dut, "segments", SegmentLayout(), self._segment)
        StreamSink(dut, "takes", TakeLayout(), self._room(pace(stalls, 57)), self._take)
        self.held: dict[int, int] = defaultdict(int)  # obligations: chains taken and not used
        self.unannounced: dict[int, deque[int]] = defaultdict(deque)
        self.announced: dict[int, deque[int]] = defaultdict(deque)
        self.bounds = True  # whether announcements tell the shortest and the longest chain
        self._merged: dict[int, list[tuple[int, int, int, bytes]]] = defaultdict(list)
        self.chains_used: dict[int, list[int]] = defaultdict(list)  # of each frame
        self._frames = PacketSource(dut, "frames", BeatLayout(LANES), pace(stalls, 58))
        StreamSink(dut, "pool_reads", PoolReadLayout(CELLS), pace(stalls, 59), self._read)
        WriteServer(dut, "write_segments", "write_data", "write_accepted", lanes=LANES,
                    write=self._write, pace=pace(stalls, 60), data_pace=pace(stalls, 61),
                    accept_pace=pace(stalls, 62))
        cocotb.start_soon(self._heads())
        self.used: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.used_frames: dict[int, list[bytes]] = defaultdict(list)
        self._taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.used_ring = StreamSink(dut, "used", UsedLayout(), pace(stalls, 63), self._use)
        self.drops: dict[int, list[int]] = defaultdict(list)
        StreamSink(dut, "dropped", DroppedLayout(), pace(stalls, 64),
                   lambda drop: self.drops[drop["queue"]].append(drop["reason"]))

    def frame(self, queue: int, frame: bytes) -> None:
        """A frame has come into the pool for this queue."""
        cell = self.rng.choice([c for c in range(CELLS) if c not in self.pool])
        self.pool[cell] = frame
        self.queued[queue].append(cell)
        self.arrivals.send({"queue": queue, "bytes": len(frame)})

    def chain(self, queue: int, chain_id: int, lengths: list[int]) -> None:
        """The driver has given a chain of buffers of these lengths."""
        buffers = []
        for length in lengths:
            address = self._next + self.rng.randrange(64)
            self._next = (address + length + 256) & ~63
            self.memory[address] = bytearray(b"\xEE" * length)
            buffers.append((address, length))
        self.chains[queue].append((chain_id, buffers))
        self.unannounced[queue].append(sum(lengths))

    def announce(self, queue: int, count: int | None = None) -> None:
        """Tell of chains that were given and not yet told; of all without ``count``."""
        waiting = self.unannounced[queue]
        told = [waiting.popleft() for _ in range(len(waiting) if count is None else count)]
        self.announced[queue] += told
        for first in range(0, len(told), 64):
            some = told[first:first + 64]
            self.ready.send({"queue": queue, "count": len(some), "bytes": sum(some),
                             "shortest": min(some) if self.bounds else 0,
                             "longest": max(some) if self.bounds else 0})

    def merges(self, *queues: int) -> None:
        """Let frames of these queues take several chains."""
        for queue in queues:
            self.configs.table[queue]["modes"] = {"mrg_rxbuf": 1}

    def _room(self, inner: Iterator[bool]) -> Iterator[bool]:
        """No takes while the buffers of a dozen chains wait."""
        return (go and self.untaken < 12 for go in inner)

    def _segment(self, segment: dict[str, int]) -> None:
        self.untaken -= segment["last"]

    async def _heads(self) -> None:
        """Tell how long the oldest frame of a queue is; nonsense while one is being popped."""
        edge = RisingEdge(self.dut.clk)
        queue = 0
        while True:
            known = self._popped.idle and self.queued[queue]
            self.dut.head__bytes.value = (len(self.pool[self.queued[queue][0]]) if known
                                          else self.rng.randrange(1 << 17))
            await edge
            if self.dut.head__enable.value:
                queue = int(self.dut.head__queue.value)

    def _pop(self, pop: dict[str, int]) -> None:
        cell = self.queued[pop["queue"]].popleft()
        self._popped.send({"cell": cell, "bytes": len(self.pool[cell])})

    def _take(self, take: dict[str, int]) -> None:
        queue = take["queue"]
        config = self.configs.table[queue]
        if take["begun"]:
            assert config.get("modes"), "a second chain without MRG_RXBUF"
            assert self.held[queue], "a frame goes on that has no chain"
            assert self.announced[queue], "more chains than were announced"
        running = config.get("running") or take["begun"]
        if not self.chains[queue] or not running:
            assert not running, "a take in vain"
            self._chains.send({"queue": queue, "status": ChainStatus.NONE})
            return
        chain_id, buffers = self.chains[queue][0]
        total = sum(length for _, length in buffers)
        if total < take["bytes"]:
            assert not config.get("modes"), "a take of which it was known that it is in vain"
            self._chains.send({"queue": queue, "status": ChainStatus.SHORT, "bytes": total})
            return
        if self.announced[queue]:
            assert self.announced[queue].popleft() == total
        self.held[queue] += 1
        self.untaken += 1
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
        """What the driver finds at this moment: the frame must be there already, all of it."""
        queue, chain_id = used["queue"], used["id"]
        assert used["slots"] == chain_id * 7 % 65521 + 1
        buffers = self._taken.pop((queue, chain_id))
        self.held[queue] -= 1
        content = b"".join(bytes(self.memory[base]) for base, _ in buffers)
        merged = self._merged[queue]
        merged.append((chain_id, used["bytes"], len(content), content[:used["bytes"]]))
        assert set(content[used["bytes"]:]) <= {0xEE}, "bytes behind the frame were written"
        assert not any(parts for other, parts in self._merged.items() if other != queue), \
            "another queue's chain amid those of a frame"
        if used["more"]:
            return
        assert all(size == room for _, size, room, _ in merged[:-1]), "a chain was not filled"
        whole = b"".join(part for *_, part in merged)
        assert whole[:12] == bytes(10) + len(merged).to_bytes(2, "little")
        self.used[queue] += [(number, size) for number, size, *_ in merged]
        self.used_frames[queue].append(whole[12:])
        self.chains_used[queue].append(len(merged))
        merged.clear()

    async def until(self, count: int, timeout: int = 40_000) -> None:
        """Wait until so many frames have reached a driver or were dropped."""
        for _ in range(timeout):
            done = sum(map(len, self.used_frames.values())) + sum(map(len, self.drops.values()))
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
