"""A card with a hostile queue on it, and all that is seen of it."""

from __future__ import annotations

import random
from collections.abc import Callable

from hw.config import NicConfig
from sim.fuzz.arena import Arena, Broken
from sim.fuzz.chains import ChainSizes
from sim.fuzz.driver import TRANSMIT, HostileDevice
from sim.fuzz.honest import FOREVER_CYCLES, Honest
from sim.fuzz.judge import Books, Judge, WireBook
from sim.fuzz.mistakes import Mistakes
from sim.fuzz.packed import HostilePacked
from sim.fuzz.rings import HostileRing, Modes
from sim.fuzz.split import HostileSplit
from sim.native.engine import Engine
from sim.native.port import NativePort, Task
from sw_driver.layouts import Feature, Status
from sw_driver.management import FaultRecord, Management

__all__ = ["SETTLE_CYCLES", "Scene"]

SETTLE_CYCLES = 1000
"""What comes late comes within these, on the quick hosts that are drawn."""

_ARENA_BYTES = 1 << 23
_ARENAS = 0x70_0000_0000  # each round's lies elsewhere
_ARENA_STEP = 1 << 33     # so that no 4 GiB reach into the next
_QUIET_CYCLES = 1500      # the card is idle when it has asked for nothing for so long


class Scene:
    """One card, its driver, and the ring of the hostile queue.

    Parameters
    ----------
    config
        The card.
    seed, number
        What all is drawn from.
    books
        Where things are counted.
    """

    def __init__(self, config: NicConfig, seed: int, number: int, books: Books) -> None:
        self.config = config
        self.rng = random.Random(f"ringlet fuzz {seed} {number}")
        self.books = books
        self.story: list[str] = []
        """What was done in this round, for who looks for the cause."""
        self.engine: Engine
        self.port: NativePort
        self.device: HostileDevice
        self.management: Management
        self.ring: HostileRing
        self.maker: Mistakes
        self.judge: Judge
        self.honest: Honest
        self._arena: Arena | None = None
        self._arenas = 0
        self._wire = WireBook()
        self._feeder: Task[None] | None = None
        self._interrupts = True
        self._interrupts_before = 0
        self._wished = (0, 0)
        self._faulted = False  # a fault was seen, and stands
        self._told_before = 0

    @property
    def transmit(self) -> bool:
        """Whether it is the transmit queue that is hostile."""
        return self.device.victim == TRANSMIT

    # --- rings

    def _new_ring(self) -> HostileRing:
        rng, has = self.rng, self.device.virtio.has
        self._drop_arena()
        self._arenas += 1
        arena = self._arena = Arena(self.engine.memory, _ARENAS + self._arenas * _ARENA_STEP,
                                    _ARENA_BYTES)
        modes = Modes(
            packed=has(Feature.RING_PACKED), event_idx=has(Feature.EVENT_IDX),
            in_order=has(Feature.IN_ORDER), indirect=has(Feature.INDIRECT_DESC),
            mrg_rxbuf=has(Feature.MRG_RXBUF), notification_data=has(Feature.NOTIFICATION_DATA))
        most = min(256, self.config.queue_size_max)
        size = rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 256, 256))
        if modes.packed:
            size = rng.choice((1, 2, 3, 5, 8, 31, 32, 33, 64, 200, rng.randint(1, 256), 256))
        size = min(size, most)
        self.ring = (HostilePacked if modes.packed else HostileSplit)(arena, size, modes, rng)
        self.maker = Mistakes(
            self.ring, rng, transmit=self.transmit, kinds=self.books.kinds,
            sizes=ChainSizes(self.config.max_frame_bytes, self.config.table_cells // 2))
        self.judge = Judge(self.engine, self.ring, self.books, transmit=self.transmit,
                           wire=self._wire)
        self._interrupts = rng.random() < 0.6
        self.ring.wish(self._interrupts)
        chosen = [name for name, value in modes._asdict().items() if value and name != "packed"]
        self.story.append(f"{'packed' if modes.packed else 'split'} ring of {size} to "
                          f"{'transmit' if self.transmit else 'receive'}, "
                          f"{', '.join(chosen) or 'plain'}")
        return self.ring

    def _drop_arena(self) -> None:
        if self._arena is not None:
            self._arena.free()
            self._arena = None

    # --- what is seen

    def _take(self) -> None:
        """Take what the hostile queue has used, and what came out on the wire."""
        self.judge.take()
        for frame in self.engine.wire.take_frames():
            if frame.direction == "tx":
                (self.judge.sent if self.transmit else self.honest.came).append(frame.data)
        vector = self.device.victim_interrupt
        if self._interrupts and not self.judge.chaos and (
                vector is None or vector.count != self._wished[0]):
            self._wish()

    def _wish(self) -> None:
        """Ask for an interrupt with the next used entry."""
        vector = self.device.victim_interrupt
        self._wished = (0 if vector is None else vector.count, len(self.judge.used))
        self.ring.wish(True)

    async def _until(self, met: Callable[[], bool], what: str) -> None:
        """Wait until something is so, taking what comes meanwhile."""
        deadline = self.port.now() + FOREVER_CYCLES
        while True:
            self._take()
            if met():
                return
            if self.port.now() > deadline:
                raise Broken(
                    f"{what}: {len(self.judge.used)} of {len(self.ring.given)} chains are used, "
                    f"status {await self.device.virtio.status():#x}, {await self._records()}")
            await self.port.sleep(60)

    async def _pass(self, cycles: int) -> None:
        """Let time pass, taking what comes meanwhile."""
        deadline = self.port.now() + cycles
        while self.port.now() < deadline:
            await self.port.sleep(min(200, deadline - self.port.now()))
            self._take()

    def _starved(self) -> bool:
        """Whether what is left may be too little for the longest frame that comes."""
        return (self.ring.modes.mrg_rxbuf and not self.transmit
                and sum(chain.room for chain in self.ring.chains) < 1600)

    def _begin_counts(self) -> None:
        vector, config = self.device.victim_interrupt, self.device.config_interrupt
        self._interrupts_before = vector.count if vector is not None else 0
        self._told_before = config.count if config is not None else 0
        self._wished = (self._interrupts_before, 0)

    def _see_interrupts(self) -> None:
        """See that interrupts came only as asked for, and that they came."""
        vector, judge = self.device.victim_interrupt, self.judge
        if vector is None or judge.chaos:
            return
        count = vector.count - self._interrupts_before
        if not self._interrupts and count:
            raise Broken(f"{count} interrupts, and none is wanted")
        if count > len(judge.used):
            raise Broken(f"{count} interrupts for {len(judge.used)} used chains")
        before, seen = self._wished
        if self._interrupts and len(judge.used) > seen and vector.count == before:
            raise Broken(f"{len(judge.used) - seen} chains are used, and no interrupt came")

    # --- good chains

    async def _good(self, chains: int) -> None:
        """Pass good chains, and see that each is used once, in order."""
        rng, given, style = self.rng, 0, self.rng.choice(((1, 3, 16), (16, 64), (64, 256), (256,)))
        while given < chains:
            batch, most = 0, rng.choice(style)
            while batch < most and (self.maker.odd() if rng.random() < 0.002
                                    else self.maker.good()):
                batch += 1
            if batch:
                self.ring.publish()
                await self.device.virtio.notify(self.device.victim)
                given += batch
                self.books.chains += batch
            elif self._arena_full():
                break
            await self._until(self._more_than(len(self.judge.used)), "nothing is used any more")
            if self._starved() and not self.ring.room():
                break
        await self._until(lambda: not self.ring.chains or self._starved(), "chains are not used")
        await self._all_sent()

    def _more_than(self, used: int) -> Callable[[], bool]:
        return lambda: len(self.judge.used) > used or not self.ring.chains or self._starved()

    def _arena_full(self) -> bool:
        return not self.maker.room() and self.ring.room() > 0

    async def _all_sent(self) -> None:
        if self.transmit:
            await self._until(self.judge.sent_all, f"{len(self.judge.sent)} frames left")

    async def _clean(self) -> None:
        """See that good chains made no fault, and lost nothing."""
        await self._pass(SETTLE_CYCLES)
        self.judge.order()
        self._see_interrupts()
        if await self.management.take_fault() is not None:
            raise Broken("a fault record without a mistake")
        if await self.device.virtio.status() & Status.NEEDS_RESET:
            raise Broken("NEEDS_RESET without a mistake")

    # --- faults

    async def _await_fault(self) -> None:
        """Wait until the fault is in the log."""
        deadline = self.port.now() + FOREVER_CYCLES
        while not await self.management.read("fault_log", "held"):
            self._take()
            if self.port.now() > deadline:
                raise Broken("a mistake made no fault record")
            await self.port.sleep(100)

    async def _records(self) -> list[FaultRecord]:
        """Take all fault records."""
        found = []
        while (record := await self.management.take_fault()) is not None:
            found.append(record)
        return found

    async def _told(self, records: list[FaultRecord], reasons: frozenset[int] | None, *,
                    must: bool) -> bool:
        """See that a fault is told in all the ways there are, or in none; say whether it was."""
        status = await self.device.virtio.status()
        config = self.device.config_interrupt
        told = 0 if config is None else config.count - self._told_before
        if not records:
            if must:
                raise Broken("a mistake made no fault record")
            if status & Status.NEEDS_RESET or told:
                raise Broken(f"status {status:#x} and {told} configuration interrupts without a "
                             "fault record")
            return False
        self.judge.faults(records, self.device.victim, reasons)
        if not status & Status.NEEDS_RESET:
            raise Broken(f"{records[0]}, and status {status:#x}")
        if config is not None and told != 1:
            raise Broken(f"{records[0]}, and {told} configuration interrupts")
        return True

    async def _quiet(self) -> None:
        """See the card come to rest."""
        deadline = self.port.now() + FOREVER_CYCLES
        last, since = -1, self.port.now()
        while self.port.now() - since < _QUIET_CYCLES:
            counters = self.engine.counters
            asked = counters["rq_reads"] + counters["rq_writes"]
            if asked != last:
                last, since = asked, self.port.now()
            if self.port.now() > deadline:
                raise Broken("the card does not come to rest")
            await self.port.sleep(250)
            self._take()
