"""Memory behind a `UsedRing`, and the split rings that it writes."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import WriteSegmentLayout
from hw.stream.types import BeatLayout
from hw.virtio.types import QueueCommandLayout, QueueLayout, UsedLayout
from hw.virtio.used_ring import PublishedLayout
from tb.queue_config import QueueConfigs
from tb.stream import PacketSink, StreamSink, StreamSource, pace, reset

__all__ = ["LANES", "SIZES", "Host", "start", "until"]

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
        self.promised: set[int] = set()  # queues of which another burst follows
        self.promises = 0
        self.told_of: list[tuple[int, int, int]] = []  # queue, chains, whether another follows
        self.indices: dict[int, deque[tuple[int, int, int]]] = defaultdict(deque)
        self.accept = pace(stalls, accept_seed)
        self.rings: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.index: dict[int, int] = defaultdict(int)
        self.bursts: list[int] = []
        self.seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.used = [StreamSource(dut, "used_receive", UsedLayout(), pace(stalls, 15)),
                     StreamSource(dut, "used_transmit", UsedLayout(), pace(stalls, 16))]
        self.commands = StreamSource(dut, "commands", QueueCommandLayout(), pace(False, 0))
        self.asked = StreamSource(dut, "asked", QueueLayout(), pace(stalls, 17))
        self.told = StreamSink(dut, "told", 16, pace(stalls, 18))
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
            self.indices[queue].append((index, count, count))
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
        found = event["index"], event["count"], event["slots"]
        assert found == self.indices[queue].popleft()
        self.announced[queue] += event["count"]
        self._promise(event)

    def _promise(self, event: dict[str, int]) -> None:
        self.told_of.append((event["queue"], event["count"], event["follows"]))
        self.promised.discard(event["queue"])
        if event["follows"]:
            self.promised.add(event["queue"])
            self.promises += 1


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
