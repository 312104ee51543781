"""cocotb side of tests/unit/test_used_ring.py."""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import WriteSegmentLayout
from hw.stream.types import BeatLayout
from hw.virtio.types import QueueCommandLayout, QueueLayout, UsedLayout
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
        assert not host.promised
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
async def what_is_left_behind_follows(dut: Any) -> None:
    """A burst that takes not all promises another, also where chains of other queues came since."""
    host = await start(dut)
    host.segments.pace = never()
    for index in range(60):
        for queue in (2, 0):
            host.used[0].send({"queue": queue, "id": index, "bytes": 60})
    await cycles(dut, 300)
    host.segments.pace = always()
    await until(dut, lambda: host.announced[2] == host.announced[0] == 60)
    full = [follows for queue, count, follows in host.told_of
            if queue == 2 and count == LANES // 4]
    assert len(full) >= 2
    assert all(full[:-1]), full
    assert not host.promised


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
    assert host.promises > 200 / (2 * row) / 2, "the bursts of a flood follow one another"
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


# --- Rings of every kind, as a driver sees them. --------------------------------------------------

@dataclass
class Chain:
    """What a driver made available, and what it is to find of it."""

    id: int
    slots: int
    bytes: int
    ends: bool  # its frame


class Ring:
    """A queue in the driver's memory, as the standard has it: wrap counters, not laps.

    `add` makes a chain available, `use` says in which order the card is done with them, and
    `write` lets bytes land and looks after each aligned piece what the driver sees by now.
    """

    def __init__(self, queue: int, rng: random.Random) -> None:
        self.queue = queue
        self.rng = rng
        self.packed = rng.random() < 0.6
        self.size = rng.choice([1, 3, 7, 16, 33, 100] if self.packed else [1, 2, 4, 16, 64])
        self.in_order = rng.random() < 0.5
        self.frames = not queue % 2 and rng.random() < 0.7
        self.batches = self.in_order and bool(queue % 2)
        self.ring = [bytes(16)] * self.size if self.packed else [b""] * self.size
        self.outstanding: deque[Chain] = deque()  # in the order in which they are used
        self.free = self.size
        self.next = 0                 # driver's place
        self.driver_wrap = True
        self.place = 0                # where the next used one is expected
        self.device_wrap = True
        self.index = 0
        self.fresh: list[int] = []    # places written and not yet seen used
        self.seen_chains = self.seen_slots = 0
        self.entries = 0
        self.moved = rng.random() < 0.5  # another device has used it
        if self.moved:
            self._move()

    def _move(self) -> None:
        """Begin anywhere: what another device used stands in the ring."""
        if not self.packed:
            self.index = self.rng.choice([0, 0xFFFF, self.rng.randrange(1 << 16)])
            return
        self.next = self.place = self.rng.randrange(self.size)
        self.driver_wrap = self.device_wrap = self.rng.random() < 0.5
        for place in range(self.size):
            wrap = self.device_wrap ^ (place >= self.place)
            self.ring[place] = self.rng.randbytes(14) + (0x8080 * wrap).to_bytes(2, "little")

    @property
    def stands_at(self) -> int:
        """The position, in the standard's terms."""
        return self.place | self.device_wrap << 15 if self.packed else self.index

    @property
    def command(self) -> dict[str, int]:
        """What makes the card begin where the ring does."""
        position = self.stands_at ^ self.packed << 15
        return {"queue": self.queue, "reset": 1, "load": int(self.moved),
                "position": position if self.moved else self.rng.randrange(1 << 16)}

    @property
    def config(self) -> dict[str, Any]:
        used = ("desc", "device") if self.packed else ("device", "desc")
        modes = {"ring_packed": self.packed, "in_order": self.in_order, "mrg_rxbuf": self.frames}
        base = 0x1_0000_0000 * (self.queue + 1)
        return {used[0]: base + 0xFFFF_F000, used[1]: base + 0x8000_0000, "size": self.size,
                "running": 1, "modes": {name: int(value) for name, value in modes.items()}}

    def frame(self) -> list[Chain]:
        """Chains of a frame (or one for itself), as far as there is room."""
        long = self.rng.random() < 0.2
        wanted = self.rng.choice([1, 1, 2, 5, self.size if long else 3]) if self.frames else 1
        chains: list[Chain] = []
        while self.free and len(chains) < wanted:
            several = self.packed and self.rng.random() < 0.25
            slots = self.rng.randint(1, min(self.free, 4)) if several else 1
            length = 0 if self.queue % 2 else self.rng.choice([0, 1, 60, 1 << 16])
            chains.append(Chain(self.rng.randrange(1 << 16), slots, length, False))
            self.free -= slots
            if self.packed:
                self._make_available(chains[-1])
        for chain in chains:
            while any(other is not chain and other.id == chain.id
                      for other in (*chains, *self.outstanding)):
                chain.id = self.rng.randrange(1 << 16)
        if chains:
            chains[-1].ends = True
        self.outstanding.extend(chains)
        return chains

    def _make_available(self, chain: Chain) -> None:
        for _ in range(chain.slots):
            flags = 1 << 7 if self.driver_wrap else 1 << 15
            content = self.rng.randbytes(14) + flags.to_bytes(2, "little")
            self.ring[self.next] = content
            self.next += 1
            if self.next == self.size:
                self.next = 0
                self.driver_wrap = not self.driver_wrap

    def write(self, offset: int, content: bytes) -> tuple[int, int, int] | None:
        """Apply a write. Give the position, chains and places that became visible by it."""
        chains, slots = self.seen_chains, self.seen_slots
        if self.packed:
            assert offset % 16 == len(content) % 16 == 0
            assert offset + len(content) <= 16 * self.size
            pieces = list(range(0, len(content), 16))
            self.rng.shuffle(pieces)
            for piece in pieces:
                place = (offset + piece) // 16
                assert place not in self.fresh, "written twice"
                self.fresh.append(place)
                self.ring[place] = content[piece:piece + 16]
                self.entries += 1
                self._look()
        elif offset == 2:
            self._advance(int.from_bytes(content, "little"))
        else:
            assert (offset - 4) % 8 == len(content) % 8 == 0
            assert offset - 4 + len(content) <= 8 * self.size
            for piece in range(0, len(content), 8):
                place = (offset - 4 + piece) // 8
                assert place not in self.fresh, "written twice"
                self.fresh.append(place)
                self.ring[place] = content[piece:piece + 8]
                self.entries += 1
        if self.seen_chains == chains:
            return None
        position = self.place | (not self.device_wrap) << 15 if self.packed else self.index
        return position, self.seen_chains - chains, self.seen_slots - slots

    def _seen(self, id_: int, length: int) -> None:
        """The driver finds a used element: of one chain, or of all up to this one."""
        while True:
            chain = self.outstanding.popleft()
            self.seen_chains += 1
            self.seen_slots += chain.slots
            self.free += chain.slots
            self.place += chain.slots
            ended = chain.ends
            if chain.id == id_ or not self.batches:
                break
        assert (chain.id, chain.bytes) == (id_, length)
        if self.packed and self.place >= self.size:
            self.place -= self.size
            self.device_wrap = not self.device_wrap
        self.whole = ended

    def _look(self) -> None:
        self.whole = True
        while True:
            word = int.from_bytes(self.ring[self.place], "little")
            flags = word >> 112
            if not bool(flags & 0x80) == bool(flags & 0x8000) == self.device_wrap:
                break
            assert flags & ~0x8082 == 0
            assert bool(flags & 2) == bool(word >> 64 & 0xFFFF_FFFF)
            self.fresh.remove(self.place)
            self._seen(word >> 96 & 0xFFFF, word >> 64 & 0xFFFF_FFFF)
        assert self.whole, "the driver sees a part of a frame"

    def _advance(self, index: int) -> None:
        chains = self.seen_chains
        count = (index - self.index) % 65536
        assert 0 < count <= len(self.outstanding)
        while self.seen_chains - chains < count:
            place = (self.index + self.seen_chains - chains) % self.size
            self.fresh.remove(place)
            entry = self.ring[place]
            self._seen(int.from_bytes(entry[:4], "little"), int.from_bytes(entry[4:], "little"))
        assert self.seen_chains - chains == count, "a batch goes beyond the index"
        assert self.whole, "the driver sees a part of a frame"
        self.index = index

    def settled(self) -> None:
        assert not self.outstanding and not self.fresh and self.free == self.size


class Rings(Host):
    """The write client's other side for rings of every kind."""

    def __init__(self, dut: Any, stalls: bool, seed: int) -> None:
        self.rng = random.Random(seed)
        super().__init__(dut, stalls, seed)
        self.expected: dict[int, deque[tuple[int, int, int]]] = defaultdict(deque)
        self.due: deque[tuple[int, tuple[int, int, int] | None]] = deque()
        self.published_chains = 0
        self.queues: list[Ring] = []
        self.begin()

    def begin(self) -> None:
        """Start other rings, of other kinds."""
        self.queues = [Ring(queue, self.rng) for queue in SIZES]
        for ring in self.queues:
            self.configs.table[ring.queue] = ring.config

    async def tell_where(self) -> None:
        """Have the card begin where the rings do."""
        for ring in self.queues:
            self.commands.send(ring.command)
        await self.commands.drain()

    async def check_positions(self) -> None:
        """The card tells where each ring stands."""
        for ring in self.queues:
            self.asked.send({"queue": ring.queue})
        assert [await self.told.get() for _ in self.queues] == [
            ring.stands_at for ring in self.queues]

    def _write(self, segment: dict[str, int], words: bytes) -> None:
        assert segment["last"] == 1 and segment["length"] == len(words)
        queue, offset = next((q, segment["address"] - base) for q, base in self.device.items()
                             if base <= segment["address"] < base + 0x1000)
        assert segment["function"] == queue // 2
        self.due.append((queue, self.queues[queue].write(offset, words)))

    async def _run(self) -> None:
        edge = RisingEdge(self.dut.clk)
        segments: deque[dict[str, int]] = deque()
        while True:
            await edge
            while not self.segments.empty():
                segments.append(await self.segments.get())
            while segments and not self.data.empty():
                self._write(segments.popleft(), await self.data.get_bytes())
            go = bool(self.due and next(self.accept))
            if go:
                queue, visible = self.due.popleft()
                if visible:
                    self.expected[queue].append(visible)
            self.dut.accepted.value = go

    def _published(self, event: dict[str, int]) -> None:
        """What became visible is told, once it is accepted."""
        found = event["index"], event["count"], event["slots"]
        assert found == self.expected[event["queue"]].popleft()
        self.published_chains += event["count"]
        self._promise(event)


async def start_rings(dut: Any, stalls: bool, seed: int) -> Rings:
    host = Rings(dut, stalls, seed)
    await reset(dut)
    await host.tell_where()
    return host


def finish(host: Rings, ring: Ring, chain: Chain) -> None:
    """The card is done with the chain; of a split ring the places do not matter."""
    host.used[ring.queue % 2].send({
        "queue": ring.queue, "id": chain.id, "bytes": chain.bytes, "more": not chain.ends,
        "slots": chain.slots})


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2, 3])
async def rings_of_every_kind(dut: Any, stalls: bool, seed: int) -> None:
    """Split and packed side by side, of any size, in order or not, frames over several chains:
    after each piece that lands the driver sees whole frames, and each chain once."""
    host = await start_rings(dut, stalls, 100 * cocotb.RANDOM_SEED + seed)
    rng = host.rng
    for _ in range(4):
        # Frames of different queues come mixed, and pauses fall into them.
        sources: dict[int, deque[Chain]] = {queue: deque() for queue in SIZES}
        total = 0
        for _ in range(120):
            ring = rng.choice(host.queues)
            if not sources[ring.queue]:
                sources[ring.queue].extend(ring.frame())
            for _ in range(rng.randint(1, 8)):
                if sources[ring.queue]:
                    finish(host, ring, sources[ring.queue].popleft())
                    total += 1
            if rng.random() < 0.2:
                dut.busy.value = rng.randrange(2)
                await cycles(dut, rng.choice([1, 10, 60]))
        for queue, chains in sources.items():
            for chain in chains:
                finish(host, host.queues[queue], chain)
                total += 1
        await until(dut, lambda total=total: host.published_chains == total)
        await cycles(dut, 40)
        assert host.published_chains == total
        assert not any(host.expected.values()) and not host.due and not host.promised
        for ring in host.queues:
            ring.settled()
        await host.check_positions()
        # A stop keeps the position, a reset does not, and loads another one perhaps.
        host.published_chains = 0
        host.begin()
        await host.tell_where()
        await host.check_positions()
