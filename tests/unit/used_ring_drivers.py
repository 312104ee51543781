"""Used rings of every kind in their drivers' memory, as the standard has them."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

from cocotb.triggers import RisingEdge

from tests.unit.used_ring_host import SIZES, Host

__all__ = ["Chain", "Ring", "Rings"]



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
