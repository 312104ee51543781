"""cocotb side of tests/unit/test_used_ring.py."""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import WriteSegmentLayout
from hw.stream.types import BeatLayout
from hw.virtio.types import QueueCommandLayout, UsedLayout
from hw.virtio.used_ring import PublishedLayout
from tb.queue_config import QueueConfigs
from tb.stream import (
    PacketSink,
    StreamSink,
    StreamSource,
    always,
    cycles,
    never,
    pace,
    reset,
)

LANES = int(os.environ.get("RINGLET_LANES", "8"))
SIZES = {0: 4, 1: 16, 2: 256, 3: 2}


class Host:
    """Memory behind the write client: checks each group, and keeps the used rings."""

    def __init__(self, dut: Any, stalls: bool, accept_seed: int) -> None:
        self.dut = dut
        self.device = {queue: 0x1_0000_0000 * (queue + 1) + 0xFFFF_F000 for queue in SIZES}
        self.configs = QueueConfigs(dut, "config", {
            queue: {"device": self.device[queue], "size": size, "running": 1}
            for queue, size in SIZES.items()})
        self.segments = StreamSink(dut, "segments", WriteSegmentLayout(), pace(stalls, 11))
        self.data = PacketSink(dut, "data", BeatLayout(LANES), pace(stalls, 12))
        StreamSink(dut, "published", PublishedLayout(), pace(stalls, 13), self._published)
        self.announced: dict[int, int] = defaultdict(int)
        self.indices: dict[int, deque[tuple[int, int]]] = defaultdict(deque)
        self.accept = pace(stalls, accept_seed)
        self.rings: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.index: dict[int, int] = defaultdict(int)
        self.bursts: list[int] = []
        self.seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.used = [StreamSource(dut, "used_receive", UsedLayout(), pace(stalls, 15)),
                     StreamSource(dut, "used_transmit", UsedLayout(), pace(stalls, 16))]
        self.commands = StreamSource(dut, "commands", QueueCommandLayout(), pace(False, 0))
        dut.accepted.value = 0
        dut.busy.value = 0
        cocotb.start_soon(self._run())

    def _write(self, segment: dict[str, int], words: bytes) -> None:
        assert segment["last"] == 1
        assert segment["length"] == len(words)
        queue = next(q for q, base in self.device.items()
                     if base <= segment["address"] < base + 0x1000)
        assert segment["function"] == queue // 2
        offset = segment["address"] - self.device[queue]
        if offset == 2:
            index = int.from_bytes(words, "little")
            count = (index - self.index[queue]) % 65536
            assert 0 < count <= SIZES[queue]
            for position in range(self.index[queue], self.index[queue] + count):
                entry = self.rings[queue].pop(position % SIZES[queue])
                self.seen[queue].append((int.from_bytes(entry[:4], "little"),
                                         int.from_bytes(entry[4:], "little")))
            self.index[queue] = index
            self.indices[queue].append((index, count))
            assert not self.rings[queue], "an entry was written that the index does not cover"
        else:
            assert (offset - 4) % 8 == 0
            assert len(words) % 8 == 0
            self.bursts.append(len(words) // 8)
            for k in range(0, len(words), 8):
                position = (offset - 4 + k) // 8
                assert position < SIZES[queue], "beyond the end of the ring"
                self.rings[queue][position] = words[k:k + 8]

    async def _run(self) -> None:
        edge = RisingEdge(self.dut.clk)
        due = 0
        segments: deque[dict[str, int]] = deque()
        while True:
            await edge
            while not self.segments.empty():
                segments.append(await self.segments.get())
            while segments and not self.data.empty():
                self._write(segments.popleft(), await self.data.get_bytes())
                due += 1
            go = bool(due and next(self.accept))
            due -= go
            self.dut.accepted.value = go

    def _published(self, event: dict[str, int]) -> None:
        """Each index is announced once, as it was written, and not before."""
        queue = event["queue"]
        assert (event["index"], event["count"]) == self.indices[queue].popleft()
        self.announced[queue] += event["count"]


async def start(dut: Any, stalls: bool = False, accept_seed: int = 1) -> Host:
    """Reset the block, then each queue, as its memory outlives the block's reset."""
    host = Host(dut, stalls, accept_seed)
    await reset(dut)
    for queue in SIZES:
        host.commands.send({"queue": queue, "reset": 1})
    await host.commands.drain()
    return host


async def until(dut: Any, condition: Any, timeout: int = 20_000) -> None:
    for _ in range(timeout):
        if condition():
            return
        await RisingEdge(dut.clk)
    raise TimeoutError


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def every_chain_is_used_once_in_order(dut: Any, stalls: bool) -> None:
    """All entries, in order, each covered by an index only after it was written."""
    rng = random.Random(cocotb.RANDOM_SEED)
    host = await start(dut, stalls, 14)
    sent: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for _ in range(4):
        for _ in range(100):
            queue = rng.choice(list(SIZES))
            # A driver has at most `size` chains under way.
            if len(sent[queue]) - len(host.seen[queue]) >= SIZES[queue]:
                await cycles(dut, 3)
                continue
            chain = (rng.randrange(SIZES[queue]), rng.randrange(1 << 17))
            sent[queue].append(chain)
            host.used[queue % 2].send({"queue": queue, "id": chain[0], "bytes": chain[1]})
            if rng.random() < 0.05:
                await cycles(dut, rng.randrange(60))
        await until(dut, lambda: host.seen == sent)
        await cycles(dut, 60)
        assert host.announced == {queue: len(chains) for queue, chains in sent.items()}
        assert not any(host.indices.values())
        # A reset starts every ring again from 0.
        for queue in SIZES:
            host.commands.send({"queue": queue, "reset": 1})
        await host.commands.drain()
        sent.clear()
        host.seen.clear()
        host.index.clear()
        host.announced.clear()


@cocotb.test
async def positions_survive_a_stop(dut: Any) -> None:
    """Without ``reset`` a command leaves the index where it is."""
    host = await start(dut)
    for index in range(3):
        host.used[0].send({"queue": 0, "id": index, "bytes": 1})
    await until(dut, lambda: host.index[0] == 3)
    host.commands.send({"queue": 0, "reset": 0})
    await host.commands.drain()
    host.used[0].send({"queue": 0, "id": 3, "bytes": 1})
    await until(dut, lambda: host.index[0] == 4)


@cocotb.test
async def more_than_may_wait(dut: Any) -> None:
    """While nothing can be written, a queue's chains fill its memory, and then they wait."""
    host = await start(dut)
    host.segments.pace = never()
    sent = [(index, 7 * index) for index in range(100)]
    for index, size in sent:
        host.used[0].send({"queue": 2, "id": index, "bytes": size})
    await cycles(dut, 300)
    assert not host.used[0].idle
    host.segments.pace = always()
    await until(dut, lambda: host.index[2] == len(sent))
    assert host.seen[2] == sent


@cocotb.test
async def bursts_grow_with_the_load(dut: Any) -> None:
    """A chain alone leaves at once; a flood leaves in bursts, at a chain a cycle or nearly."""
    host = await start(dut)
    host.used[0].send({"queue": 2, "id": 1, "bytes": 60})
    began = cocotb.utils.get_sim_time("ns")
    await until(dut, lambda: host.bursts == [1])
    latency = (cocotb.utils.get_sim_time("ns") - began) / 4
    assert latency <= 14, latency
    await until(dut, lambda: host.index[2] == 1)
    began = cocotb.utils.get_sim_time("ns")
    for index in range(200):
        host.used[0].send({"queue": 2, "id": index, "bytes": 60})
    await until(dut, lambda: host.index[2] == 201)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4
    dut._log.info("%.2f cycles a chain, %d cycles of latency", taken / 200, latency)
    row = LANES // 8
    assert taken / 200 <= max(2.2, 7.5 / row), taken / 200
    assert max(host.bursts) >= (row + 1) // 2


@cocotb.test
async def bursts_wait_for_more_while_the_bus_is_busy(dut: Any) -> None:
    """Small ones keep their distance then, and only then; a single chain never waits for long."""
    host = await start(dut)
    sizes = {}
    total = 0

    async def all_used() -> None:
        await until(dut, lambda: host.index[2] == total)

    for busy in (0, 1):
        dut.busy.value = busy
        host.bursts.clear()
        for index in range(120):
            host.used[0].send({"queue": 2, "id": index, "bytes": 60})
            await cycles(dut, 4)
        total += 120
        await all_used()
        sizes[busy] = 120 / len(host.bursts)
        # Alone, and one more right behind it.
        for _ in range(2):
            total += 1
            began = cocotb.utils.get_sim_time("ns")
            host.used[0].send({"queue": 2, "id": 0, "bytes": 60})
            await all_used()
            latency = (cocotb.utils.get_sim_time("ns") - began) / 4
            assert latency <= 16 + 17, latency
    dut._log.info("entries a burst: %.1f, busy %.1f", sizes[0], sizes[1])
    if LANES == 64:
        assert sizes[0] <= 2.5 and sizes[1] >= 3.5


@cocotb.test
async def the_index_wraps(dut: Any) -> None:
    """More than 65536 chains through one ring: index and positions wrap."""
    if LANES < 64:
        return
    host = await start(dut)
    total = 65536 + 100
    sent = 0
    while sent < total:
        while sent < total and sent - len(host.seen[2]) < 200:
            host.used[0].send({"queue": 2, "id": sent % 256, "bytes": 60})
            sent += 1
        await cycles(dut, 50)
    await until(dut, lambda: host.announced[2] == total)
    assert host.index[2] == total % 65536
    assert host.seen[2] == [(k % 256, 60) for k in range(total)]
