"""cocotb side of tests/unit/test_receive.py."""

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
from tb.stream import (
    PacketSource,
    StreamMonitor,
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
        StreamSink(dut, "used", UsedLayout(), pace(stalls, 63), self._use)
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
                world.announce(queue)
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
    world.announce(2)
    await world.until(8)
    assert len(world.used[2]) == 8
    assert not world.used[0]
    for index in range(8):
        world.chain(0, index, [50, 50])
    world.announce(0)
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
    world.announce(4)
    await world.until(7)
    assert world.used_frames[4] == [b"\x07" * 60]


@cocotb.test
async def a_stop_amid_a_frame_that_does_not_fit(dut: Any) -> None:
    """A chain that turns out to be too short while its queue stops counts no more after that."""
    world = await start(dut, False)
    world.chain(6, 0, [60])
    world.announce(6)
    world.frame(6, bytes(100))
    world._chains.pace = never()
    await cycles(dut, 60)
    world.configs.table[6]["running"] = 0
    world.commands.send({"queue": 6, "reset": 0})
    await cycles(dut, 60)
    world._chains.pace = always()
    await world.commands.drain()
    world.chains[6].clear()
    world.announced[6].clear()
    await world.until(1)
    assert world.drops[6] == [NO_FIT]
    world.configs.table[6]["running"] = 1
    world.frame(6, b"\x05" * 60)
    await cycles(dut, 60)  # a take would be in vain
    world.chain(6, 1, [72])
    world.announce(6)
    await world.until(2)
    assert world.used_frames[6] == [b"\x05" * 60]


@cocotb.test
@cocotb.parametrize(merges=[False, True])
async def small_frames_at_full_rate(dut: Any, merges: bool) -> None:
    """Nine cycles for four frames, in the long run; no slower where chains may be merged."""
    world = await start(dut, False)
    if merges:
        world.merges(0)
    count = 320
    pause = 9 if LANES >= 32 else 12 + 4 * -(-72 // LANES)
    for index in range(count):
        world.chain(0, index, [1536])
    world.announce(0, 32)
    for index in range(count):
        world.frame(0, bytes(60))
        if index % 32 == 0 and world.unannounced[0]:
            world.announce(0, 32)
        await cycles(dut, (index + 1) * pause // 4 - index * pause // 4)
    late = 0
    while len(world.used_frames[0]) < count:
        await RisingEdge(dut.clk)
        late += 1
        assert late < 60
    dut._log.info("%d cycles after the last frame", late)


def uneven(rng: random.Random, kind: int) -> int:
    """Bytes of a chain, in one of several manners of drivers."""
    return (rng.choice([1, 2, 5, 11, 12, 13]), rng.choice([100, 128]), 1536,
            rng.choice([1, 12, 40, 64, 300, 1536, 9100]))[kind]


@cocotb.test
@cocotb.parametrize(stalls=[False, True], bounds=[True, False], seed=[1, 2])
async def frames_over_several_chains(dut: Any, stalls: bool, bounds: bool, seed: int) -> None:
    """Whole, in order, in as many chains as it takes and no more; two queues merge, two do not."""
    rng = random.Random(seed)
    world = await start(dut, stalls, seed)
    world.bounds = bounds
    world.merges(0, 2)
    sent: dict[int, list[bytes]] = defaultdict(list)
    ids: dict[int, int] = defaultdict(int)
    kinds = dict.fromkeys(QUEUES, 0)
    room = dict.fromkeys(QUEUES, 0)
    for step in range(60):
        if step % 20 == 0:
            kinds = {queue: rng.randrange(4) for queue in QUEUES}
        queue = rng.choice(QUEUES)
        size = rng.choice([14, 60, 60, LANES, rng.randint(14, 1514)])
        if kinds[queue] == 0:
            size = rng.randint(14, 300)
        frame = rng.randbytes(size)
        sent[queue].append(frame)
        world.frame(queue, frame)
        room[queue] -= size + 12
        # What is left in a frame's last chain is lost; so there may have to be more later.
        while room[queue] < 0 or rng.random() < 0.2:
            total = uneven(rng, kinds[queue]) if queue in (0, 2) else 1600
            world.chain(queue, ids[queue] % 65536, buffers(rng, total))
            ids[queue] += 1
            room[queue] += total
            if queue not in (0, 2):
                room[queue] = 0
            if rng.random() < 0.3:
                world.announce(queue)
        await cycles(dut, rng.choice([0, 0, 1, 5, 40, 300]))
    for queue in QUEUES:
        for _ in range(60):
            await cycles(dut, 100)
            world.announce(queue)
            if len(world.used_frames[queue]) == len(sent[queue]):
                break
            world.chain(queue, ids[queue], buffers(rng, 1600))
            ids[queue] += 1
    await world.until(60, 20_000)
    assert world.used_frames == sent
    assert not world.drops
    for used in world.used.values():
        assert [number for number, _ in used] == list(range(len(used)))
    assert all(count == 1 for queue in (4, 6) for count in world.chains_used[queue])
    assert sum(count > 1 for count in world.chains_used[0] + world.chains_used[2]) > 3
    assert not any(world.held.values())
    assert not world.pool, "frames were left in the pool"


@cocotb.test
async def a_frame_waits_for_the_bytes_it_needs(dut: Any) -> None:
    """It sets out when the chains that were announced hold it, not before; others go on."""
    world = await start(dut, False)
    world.merges(0, 2)
    world.frame(0, b"\x01" * 500)
    world.frame(0, b"\x02" * 60)
    for number, size in enumerate((100, 11, 400)):
        world.chain(0, number, [size])
        world.announce(0)
    await cycles(dut, 200)
    assert not world.held[0] and not world.used[0]
    for number in range(10):
        world.chain(2, number, [70])
        world.frame(2, bytes([number]) * 60)
    world.announce(2)
    await world.until(5)
    assert len(world.used_frames[2]) == 5
    world.chain(0, 3, [1])
    world.announce(0)
    await world.until(6)
    assert world.chains_used[0] == [4]
    world.chain(0, 4, [71])
    world.announce(0)
    await cycles(dut, 200)
    assert not world.held[0]
    world.chain(0, 5, [1])
    world.announce(0)
    await world.until(7)
    assert world.used[0][4:] == [(4, 71), (5, 1)]


@cocotb.test
async def the_number_of_chains_wherever_it_lies(dut: Any) -> None:
    """A hostile driver's chains may be shorter than the header, and cut its last field in two."""
    world = await start(dut, True)
    world.merges(0)
    cases = [[[10], [100]], [[11], [100]], [[12], [60]], [[1]] * 72, [[5, 6], [1, 60]],
             [[4, 4, 3, 1], [60]], [[10, 1], [1], [60]], [[3, 7, 2, 30], [40]],
             [[13]] * 6, [[9, 2, 1], [60, 40]], [[72]], [[71], [1, 1, 50]], [[7, 4], [1, 59, 1, 8]]]
    number = 0
    for index, lengths in enumerate(cases):
        for chain in lengths:
            world.chain(0, number, chain)
            number += 1
        world.announce(0)
        world.frame(0, bytes([index + 1]) * 60)
        await world.until(index + 1)
    assert world.chains_used[0] == [len(lengths) for lengths in cases]


@cocotb.test
@cocotb.parametrize(stalls=[False, True], bounds=[True, False])
async def as_many_chains_as_a_queue_has(dut: Any, stalls: bool, bounds: bool) -> None:
    """Every chain of the ring for one frame, and the entries of its chains wait for its end."""
    world = await start(dut, stalls)
    world.bounds = bounds
    world.merges(2)
    frame = random.Random(5).randbytes(2 * 128 - 12)
    for lap in range(2):
        for number in range(128):
            world.chain(2, number, [1, 1] if number % 3 else [2])
        world.frame(2, frame)
        world.announce(2)
        world.frame(0, bytes(60))
        world.chain(0, lap, [72])
        world.announce(0)
        await world.until(2 * lap + 2)
    assert world.used_frames[2] == [frame] * 2
    assert world.chains_used[2] == [128, 128]


@cocotb.test
async def a_stop_amid_a_frame_of_several_chains(dut: Any) -> None:
    """A frame that has a chain is finished; those behind it are dropped; no chain is held."""
    world = await start(dut, False)
    world.bounds = False
    world.merges(4)
    for number in range(6):
        world.chain(4, number, [100])
    world.announce(4)
    for number in range(3):
        world.frame(4, bytes([number]) * 280)
    for _ in range(1000):
        if world.held[4]:
            break
        await RisingEdge(dut.clk)
    assert world.held[4] == 1
    world.configs.table[4]["running"] = 0
    # The lifecycle's order: the command comes when nothing of the queue is in flight.
    for _ in range(1000):
        if not world.held[4]:
            break
        await RisingEdge(dut.clk)
    assert world.used_frames[4] == [bytes(280)]
    world.chains[4].clear()
    world.announced[4].clear()
    world.commands.send({"queue": 4, "reset": 0})
    await world.until(3)
    assert world.drops[4] == [DOWN] * 2
    # The chains that were announced before are void, their bytes as well.
    world.configs.table[4]["running"] = 1
    world.frame(4, b"\x05" * 280)
    world.chain(4, 8, [100])
    world.announce(4)
    await cycles(dut, 200)
    assert not world.held[4]
    world.chain(4, 9, [192])
    world.announce(4)
    await world.until(4)
    assert world.used[4][3:] == [(8, 100), (9, 192)]


@cocotb.test
@cocotb.parametrize(chain=[64, 256, 1536])
async def long_frames_at_full_rate(dut: Any, chain: int) -> None:
    """The chains of a frame follow each other closely."""
    world = await start(dut, False)
    world.merges(0)
    size, count = 1514, 12
    needed = -(-(size + 12) // chain)
    for number in range(count * needed):
        world.chain(0, number, [chain])
    for _ in range(count):
        world.frame(0, bytes(size))
    world.announce(0)
    began = cocotb.utils.get_sim_time("ns")
    await world.until(count)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4 - 20
    dut._log.info("%d chains a frame: %.1f cycles a frame", needed, taken / count)
    assert taken / count <= max(2.5 * needed + 30, 1.1 * -(-(size + 12) // LANES) + 12)


@cocotb.test
async def one_long_frame_among_short_ones(dut: Any) -> None:
    """While it waits all are looked at one by one; soon after it has gone no longer."""
    world = await start(dut, False)
    world.merges(0)
    for number in range(110):
        world.chain(0, number, [200])
    world.announce(0)
    world.frame(0, bytes(60))
    world.frame(0, bytes(500))
    for _ in range(30):
        world.frame(0, bytes(60))
    await world.until(32)
    began = cocotb.utils.get_sim_time("ns")
    for _ in range(60):
        world.frame(0, bytes(60))
    await world.until(92)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4 - 20
    assert world.chains_used[0] == [1, 3, *[1] * 90]
    dut._log.info("%.2f cycles a frame", taken / 60)
    assert taken / 60 <= (4.5 if LANES >= 32 else 6.5 + 72 // LANES)
