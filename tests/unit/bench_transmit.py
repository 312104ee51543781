"""cocotb side of tests/unit/test_transmit.py."""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.vf.scheduler import GrantLayout
from hw.virtio.gather import GATHER_CONTEXT_BITS
from hw.virtio.types import (
    ChainLayout,
    ChainStatus,
    FaultLayout,
    ObligationLayout,
    QueueCommandLayout,
    SegmentLayout,
    TakeLayout,
    UsedLayout,
)
from hw.wire.types import PoolWriteLayout
from tb.dma import ReadServer
from tb.stream import Fields, StreamSink, StreamSource, cycles, pace, reset

LANES = int(os.environ.get("RINGLET_LANES", "8"))
GROUP_TLPS = int(os.environ.get("RINGLET_GROUP_TLPS", "64"))
HEADER = 12
CELL = 256


class Pool:
    """Put rows together as a frame buffer does; one open frame a context."""

    def __init__(self, dut: Any, stalls: bool) -> None:
        self.frames: list[bytes] = []
        self.aborted = 0
        self._open: dict[int, bytearray] = {}
        self._place: dict[int, int] = {}
        self.sink = StreamSink(dut, "write", PoolWriteLayout(LANES), pace(stalls, 21), self._take)

    def _take(self, write: dict[str, int]) -> None:
        context = write["context"]
        if write["begin"]:
            assert context not in self._open
            self._open[context] = bytearray()
            assert write["start"] == 0
        frame = self._open[context]
        assert len(frame) % LANES == write["start"]
        end = LANES - write["empty"]
        assert write["start"] < end
        frame += write["data"].to_bytes(LANES, "little")[write["start"]:end]
        if write["end"]:
            del self._open[context]
            if write["abort"]:
                self.aborted += 1
            else:
                self.frames.append(bytes(frame))


def _slots(chain_id: int) -> int:
    """Places in the ring of a chain."""
    return chain_id * 7 % 65521 + 1


class Host:
    """Driver memory and the prefetch room: chains that can be taken, and reads of their buffers."""

    def __init__(self, dut: Any, stalls: bool, seed: int,
                 latency: tuple[int, int] = (10, 80)) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        self.memory: dict[int, bytes] = {}
        self.errors: dict[int, int] = {}
        self.chains: dict[int, deque[tuple[int, list[tuple[int, bytes]]]]] = defaultdict(deque)
        self._next = 0x1000
        self.grants = StreamSource(dut, "grants", GrantLayout(), pace(stalls, 31))
        self._takes = StreamSink(dut, "takes", TakeLayout(), pace(stalls, 32))
        self._chains = StreamSource(dut, "chains", ChainLayout(), pace(stalls, 33))
        self._segments = StreamSource(dut, "segments", SegmentLayout(), pace(stalls, 34))
        cells = Fields(range((16384 + HEADER) // CELL + 2)).bits
        self.reserved: list[int] = []
        StreamSink(dut, "reserve", cells, pace(stalls, 35), self.reserved.append)
        self.reads = ReadServer(dut, "reads", "read_answers", lanes=LANES,
                                context_bits=GATHER_CONTEXT_BITS, read=self._read, seed=seed,
                                latency=latency, pace=pace(stalls, 36),
                                answer_pace=pace(stalls, 37))
        self.pool = Pool(dut, stalls)
        self.used: list[tuple[int, int]] = []
        StreamSink(dut, "used", UsedLayout(), pace(stalls, 38),
                   self._use)
        self.faults: list[dict[str, int]] = []
        StreamSink(dut, "faults", FaultLayout(), pace(stalls, 39), self.faults.append)
        self.given_back: list[int] = []
        StreamSink(dut, "obligations", ObligationLayout(), pace(stalls, 40),
                   self._give_back)
        dut.read_size.value = int(os.environ.get("RINGLET_READ_SIZE", "2"))
        cocotb.start_soon(self._serve())

    def _read(self, address: int, length: int) -> bytes | int:
        for base, content in self.memory.items():
            if base <= address < base + len(content):
                if error := self.errors.get(base):
                    return error
                return content[address - base:address - base + length]
        raise AssertionError(f"a read of {address:#x}, which no chain named")

    def _use(self, used: dict[str, int]) -> None:
        assert used["slots"] == _slots(used["id"]) and not used["more"]
        self.used.append((used["queue"], used["id"]))

    def _give_back(self, given: dict[str, int]) -> None:
        assert given["delta"] == (1 << ObligationLayout()["delta"].width) - 1, "not minus one"
        self.given_back.append(given["queue"])

    def add(self, queue: int, chain_id: int, pieces: list[bytes]) -> list[int]:
        """Make a chain of buffers with these contents; give their addresses."""
        buffers = []
        for piece in pieces:
            address = self._next + self.rng.randrange(64)
            self._next = (address + len(piece) + 0x1000) & ~0xFFF
            self.memory[address] = piece
            buffers.append((address, piece))
        self.chains[queue].append((chain_id, buffers))
        return [address for address, _ in buffers]

    async def _serve(self) -> None:
        while True:
            take = await self._takes.get(1_000_000)
            queue = take["queue"]
            if not self.chains[queue]:
                self._chains.send({"queue": queue, "status": ChainStatus.NONE})
                continue
            chain_id, buffers = self.chains[queue].popleft()
            self._chains.send({
                "queue": queue, "status": ChainStatus.FOUND, "id": chain_id,
                "slots": _slots(chain_id),
                "bytes": sum(len(content) for _, content in buffers), "segments": len(buffers),
                "more": int(bool(self.chains[queue]))})
            for index, (address, content) in enumerate(buffers):
                self._segments.send({"address": address, "length": len(content),
                                     "last": int(index == len(buffers) - 1)})

    async def until(self, count: int, timeout: int = 60_000) -> None:
        for _ in range(timeout):
            if len(self.used) + len(self.given_back) >= count:
                await cycles(self.dut, 5)
                return
            await RisingEdge(self.dut.clk)
        raise TimeoutError(f"{len(self.used)} used, {len(self.faults)} faults of {count}")


def cut(rng: random.Random, content: bytes, pieces: int) -> list[bytes]:
    """Cut into so many pieces, none empty."""
    marks = sorted(rng.sample(range(1, len(content)), min(pieces, len(content)) - 1))
    return [content[a:b] for a, b in zip([0, *marks], [*marks, len(content)], strict=True)]


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def every_frame_arrives_whole(dut: Any, stalls: bool) -> None:
    """Any length, any cut, several queues; order is kept within a queue; the header is stripped."""
    rng = random.Random(cocotb.RANDOM_SEED)
    host = Host(dut, stalls, 5)
    await reset(dut)
    sent: dict[int, list[bytes]] = defaultdict(list)
    sizes = [1, 14, 60, LANES - 1, LANES, LANES + 1, 2 * LANES, 1514, 9014]
    sizes += [rng.randint(1, 1600) for _ in range(30)]
    rng.shuffle(sizes)
    for index, size in enumerate(sizes):
        queue = rng.choice([1, 3, 5])
        frame = rng.randbytes(max(size, 1))
        sent[queue].append(frame)
        most = rng.choice([1, 1, 2, 3, 8, 25, 60])
        host.add(queue, index, cut(rng, rng.randbytes(HEADER) + frame, most))
    for queue, frames in sent.items():
        left = len(frames)
        while left:
            count = min(left, rng.randint(1, 9))
            host.grants.send({"queue": queue, "count": count})
            left -= count
    host.grants.send({"queue": 1, "count": 2})  # there are no more: NONE harms nobody
    await host.until(len(sizes))
    assert sorted(host.pool.frames) == sorted(frame for frames in sent.values() for frame in frames)
    owner = {frame: queue for queue, frames in sent.items() for frame in frames}
    for queue, frames in sent.items():
        assert [frame for frame in host.pool.frames if owner[frame] == queue] == frames
    assert len(host.used) == len(sizes)
    assert sum(host.reserved) == sum(-(-len(f) // CELL) for fs in sent.values() for f in fs)
    assert not host.faults
    assert not host.given_back
    # No group may need more tags than it was promised.
    read_bytes = 128 << int(dut.read_size.value)
    tlps = 0
    for segment in host.reads.segments:
        first = segment["address"] // read_bytes
        tlps += (segment["address"] + segment["length"] - 1) // read_bytes - first + 1
        if segment["last"]:
            assert tlps <= GROUP_TLPS
            tlps = 0


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def a_failed_read_is_a_fault_of_its_queue(dut: Any, stalls: bool) -> None:
    """The frame is given up, long ones too, whichever piece fails. Until the queue is stopped, it
    has that one fault, and none of its chains is used; those of others are."""
    rng = random.Random(cocotb.RANDOM_SEED)
    host = Host(dut, stalls, 6)
    commands = StreamSource(dut, "commands", QueueCommandLayout(), pace(stalls, 41))
    await reset(dut)
    for turn in range(4):
        good = []
        used, given_back = len(host.used), len(host.given_back)
        frames = len(host.pool.frames)
        fails_at = 2 * rng.randrange(8) + 1
        passed = 0
        for index in range(24):
            queue = 1 if index % 2 else 3
            pieces = rng.choice([1, 4, 60])
            content = rng.randbytes(HEADER + 700)
            addresses = host.add(queue, 24 * turn + index, cut(rng, content, pieces))
            # Others fail behind it, or not.
            fails = index == fails_at or (queue == 1 and index > fails_at and rng.random() < 0.4)
            if fails:
                host.errors[rng.choice(addresses)] = rng.choice([1, 2, 3])
            else:
                good.append(content[HEADER:])
            passed += queue == 3 or index < fails_at
            host.grants.send({"queue": queue, "count": 1})
        await host.until(used + given_back + 24)
        await cycles(dut, 30)
        assert len(host.used) == used + passed
        assert len(host.given_back) == given_back + 24 - passed
        assert sorted(host.pool.frames[frames:]) == sorted(good)
        assert len(host.faults) == turn + 1
        assert host.faults[-1]["queue"] == 1
        assert host.faults[-1]["reason"] in (9, 10, 11)
        host.errors.clear()
        commands.send({"queue": 1, "reset": rng.choice([0, 1])})
        await commands.drain()


@cocotb.test
async def long_chains_of_two_queues(dut: Any) -> None:
    """One long chain has the pool's open frame at a time, whatever ends meanwhile."""
    rng = random.Random(cocotb.RANDOM_SEED)
    host = Host(dut, False, 8, latency=(5, 400))
    await reset(dut)
    sent = []
    for index in range(12):
        frame = rng.randbytes(700)
        sent.append(frame)
        queue, pieces = [(1, 60), (3, 1), (5, 60)][index % 3]
        host.add(queue, index, cut(rng, bytes(HEADER) + frame, pieces))
        host.grants.send({"queue": queue, "count": 1})
    await host.until(len(sent))
    assert sorted(host.pool.frames) == sorted(sent)


@cocotb.test
async def small_frames_at_full_rate(dut: Any) -> None:
    """Many packets are in flight: the latency of a read is not paid by each."""
    host = Host(dut, False, 7, latency=(250, 250))
    await reset(dut)
    count = 120
    for index in range(count):
        host.add(1, index, [bytes(HEADER + 60)])
    host.grants.send({"queue": 1, "count": count})
    began = cocotb.utils.get_sim_time("ns")
    await host.until(count)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4
    per_packet = (taken - 270) / count
    dut._log.info("%.2f cycles a packet", per_packet)
    beats = -(-HEADER // LANES) + -(-60 // LANES)
    assert per_packet <= beats + 1.5, per_packet
