"""Drivers that are to be told of used buffers: their words in memory, interrupts, obligations."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from typing import Any

import cocotb
from cocotb.utils import get_sim_time

from hw.pcie.types import InterruptLayout, ReadAnswerLayout, ReadRequestLayout
from hw.virtio.moderation import ModerationLayout
from hw.virtio.notification import NOTIFICATION_CONTEXT_BITS
from hw.virtio.types import FaultLayout, FunctionLayout, ObligationLayout
from hw.virtio.used_ring import PublishedLayout
from tb.dma import ReadServer
from tb.queue_config import QueueConfigs
from tb.stream import CLOCK_NS, StreamMonitor, StreamSink, StreamSource, cycles, pace

__all__ = ["BASES", "CYCLES_A_MICROSECOND", "DESC", "DISABLE", "ENABLE", "INDICES", "QUEUES",
           "RESERVED", "SIZES", "Driver"]

LANES = int(os.environ.get("RINGLET_LANES", "8"))
QUEUES = range(4)
SIZES = (2, 256, 32768, 16)
BASES = [0x1_0000_0000 * (queue + 1) + 0xFFFF_FF00 for queue in QUEUES]
INDICES = 1 << 16
CYCLES_A_MICROSECOND = int(os.environ.get("RINGLET_CLOCK_MHZ", "10"))
ENABLE, DISABLE, DESC, RESERVED = range(4)


def now() -> int:
    """The number of this cycle."""
    return round(get_sim_time("ns") / CLOCK_NS)


class Memory(ReadServer):
    """Looks at memory after the latency, and holds the answer back for ``hold`` more cycles."""

    hold = (0, 0)

    def _answer(self, group: list[dict[str, int]]) -> None:
        (segment,) = group
        found = self._read(segment["address"], segment["length"])
        cocotb.start_soon(self._give(segment, found, self._rng.randint(*self.hold)))

    async def _give(self, segment: dict[str, int], found: bytes | int, hold: int) -> None:
        if hold:
            await cycles(self._dut, hold)
        failed = isinstance(found, int)
        self._source.send(bytes(segment["length"]) if failed else found, lead=segment["lead"],
                          each={"context": segment["context"], "error": found if failed else 0})


class Driver:
    """The drivers' words in memory, their interrupts, and the count of obligations.

    Each answer is held against the rule as the standard's text has it: is one of the entries, by
    its number, the one that the driver asked for? Its interrupt comes before the next read.

    Of packed rings the numbers count places. The standard's wrap counter is 1 in the first lap, the
    card's own bit for the lap is 0 there.
    """

    def __init__(self, dut: Any, stalls: bool, latency: tuple[int, int],
                 hold: tuple[int, int] = (0, 0), event_idx: tuple[int, ...] = ()) -> None:
        self.flags = dict.fromkeys(QUEUES, 0)
        self.event = dict.fromkeys(QUEUES, 0)
        self.error = dict.fromkeys(QUEUES, 0)
        self.sizes = list(SIZES)
        self.reads: dict[int, int] = defaultdict(int)
        self.configs: dict[int, Any] = {
            queue: {"driver": BASES[queue], "vector": 5 + queue, "running": 1,
                    "size": SIZES[queue], "modes": {"event_idx": int(queue in event_idx)}}
            for queue in QUEUES}
        QueueConfigs(dut, "config", self.configs)
        # Numbers of entries, which do not wrap.
        self.placed = dict.fromkeys(QUEUES, 0)   # by the card
        self.taken = dict.fromkeys(QUEUES, 0)    # of them, made known to the block
        self.decided = dict.fromkeys(QUEUES, 0)  # of them, a read was asked for
        # Chains of which no read was asked for yet, since when; what they were when it was.
        self.pending = dict.fromkeys(QUEUES, 0)
        self.first = dict.fromkeys(QUEUES, 0)
        self.asked: dict[int, list[tuple[int, int]]] = defaultdict(list)
        # The used index as the driver sees it: as late as the fence allows.
        self.visible = dict.fromkeys(QUEUES, 0)
        self.window = dict.fromkeys(QUEUES, range(0))  # that the read in flight decides about
        self.due = dict.fromkeys(QUEUES, False)
        self.yes = self.no = 0
        self.times: dict[str, int] = {}
        self.published = StreamSource(dut, "published", PublishedLayout(), pace(stalls, 81))
        StreamMonitor(dut, "published", PublishedLayout(), self._take)
        self.moderation = StreamSource(dut, "moderation", ModerationLayout(), pace(False, 0))
        StreamMonitor(dut, "reads", ReadRequestLayout(LANES, NOTIFICATION_CONTEXT_BITS), self._ask)
        StreamMonitor(dut, "read_answers", ReadAnswerLayout(LANES, NOTIFICATION_CONTEXT_BITS),
                      lambda _answer: self._stamp("answer"))
        self.server = Memory(
            dut, "reads", "read_answers", lanes=LANES, context_bits=NOTIFICATION_CONTEXT_BITS,
            read=self._read, latency=latency, seed=3, pace=pace(stalls, 82),
            answer_pace=pace(stalls, 83))
        self.server.hold = hold
        self.interrupts: dict[int, int] = defaultdict(int)
        StreamSink(dut, "interrupts", InterruptLayout(), pace(stalls, 84), self._interrupt)
        self.status = 0
        StreamSink(dut, "queue_interrupts", FunctionLayout(), pace(stalls, 85), self._status)
        self.owed: dict[int, int] = defaultdict(int)
        StreamSink(dut, "obligations", ObligationLayout(), pace(stalls, 86), self._oblige)
        self.faults: list[dict[str, int]] = []
        StreamSink(dut, "faults", FaultLayout(), pace(stalls, 87), self._fault)

    def start(self, queue: int, index: int, event_idx: bool, packed: bool = False,
              size: int = 0) -> None:
        """A queue that has nothing in flight goes on from ``index``, in this mode."""
        for numbers in (self.placed, self.taken, self.decided, self.visible):
            numbers[queue] = index
        self.sizes[queue] = size or SIZES[queue]
        self.configs[queue] |= {
            "size": self.sizes[queue],
            "modes": {"event_idx": int(event_idx), "ring_packed": int(packed)}}

    def packed(self, queue: int) -> bool:
        return bool(self.configs[queue]["modes"].get("ring_packed"))

    def word(self, queue: int, number: int) -> int:
        """How the driver names the entry, or the place."""
        if not self.packed(queue):
            return number % INDICES
        laps, place = divmod(number, self.sizes[queue])
        wrap_counter = laps % 2 == 0
        return place | wrap_counter << 15

    def publish(self, queue: int, count: int, slots: int = 0, follows: bool = False) -> None:
        slots = slots or count
        self.owed[queue] += count
        self.placed[queue] += slots
        word = self.word(queue, self.placed[queue])
        self.published.send({
            "queue": queue, "count": count, "slots": slots,
            "index": word ^ 1 << 15 if self.packed(queue) else word, "follows": int(follows)})

    async def publish_several(self, dut: Any, queue: int, count: int, rng: random.Random,
                              slots: int = 0) -> None:
        """Maybe a few bursts, each of which another one follows."""
        for _ in range(rng.choice([0, 0, 0, 1, 2, 3])):
            self.publish(queue, 1, follows=True)
            await cycles(dut, rng.choice([0, 1, 5, 30]))
        self.publish(queue, count, slots)

    def moderate(self, queue: int, max_packets: int, max_usecs: int) -> None:
        self.moderation.send(
            {"queue": queue, "max_packets": max_packets, "max_usecs": max_usecs})

    def settled(self) -> None:
        """Nothing is in flight: so no interrupt is due, and no debt is left."""
        assert not any(self.due.values()), self.due
        assert not any(self.owed.values()), self.owed
        assert self.decided == self.taken == self.placed

    def _stamp(self, what: str) -> None:
        self.times[what] = now()

    def _take(self, published: dict[str, int]) -> None:
        self._stamp("published")
        queue = published["queue"]
        self.taken[queue] += published["slots"]
        if not self.pending[queue]:
            self.first[queue] = now()
        self.pending[queue] += published["count"]

    def _ask(self, read: dict[str, int]) -> None:
        self._stamp("read")
        queue = read["queue"]
        assert read["fenced"] and read["last"]
        assert not self.due[queue], "an interrupt is missing"
        self.window[queue] = range(self.decided[queue], self.taken[queue])
        assert self.window[queue], "a read for nothing"
        self.asked[queue].append((self.pending[queue], now() - self.first[queue]))
        self.pending[queue] = 0
        self.decided[queue] = self.taken[queue]

    def _read(self, address: int, length: int) -> bytes | int:
        """The driver's word is looked at: this decides."""
        queue = next(queue for queue in QUEUES if 0 <= address - BASES[queue] < 1 << 17)
        window = self.window[queue]
        self.reads[queue] += 1
        self.visible[queue] = max(self.visible[queue], window.stop)
        if self.error[queue]:
            return self.error[queue]
        assert length == (4 if self.packed(queue) else 2)
        event_idx = self.configs[queue]["modes"]["event_idx"]
        last = window[-(INDICES - 1):]
        if self.packed(queue):
            assert address == BASES[queue]
            flags, word = self.flags[queue], self.event[queue]
            self.due[queue] = flags != DISABLE and (
                flags != DESC or not event_idx
                or any(self.word(queue, number) == word for number in last))
            word |= (flags | 0x5A58) << 16  # the other bits are reserved
        elif event_idx:
            assert address == BASES[queue] + 4 + 2 * self.sizes[queue]
            word = self.event[queue]
            self.due[queue] = any(number % INDICES == word for number in last)
        else:
            assert address == BASES[queue]
            word = self.flags[queue] | 0x5A5A & ~1  # the other bits are reserved
            self.due[queue] = not self.flags[queue]
        self.yes += self.due[queue]
        self.no += not self.due[queue]
        return word.to_bytes(length, "little")

    def _interrupt(self, interrupt: dict[str, int]) -> None:
        self._stamp("interrupt")
        queue = interrupt["vector"] - 5
        assert interrupt["function"] == queue // 2
        assert self.due[queue], "an interrupt that nobody asked for"
        self.due[queue] = False
        self.interrupts[queue] += 1

    def _status(self, told: dict[str, int]) -> None:
        assert any(self.due[queue] for queue in QUEUES if queue // 2 == told["function"])
        self.status += 1

    def _oblige(self, event: dict[str, int]) -> None:
        delta = event["delta"]
        self.owed[event["queue"]] += delta - 512 if delta >= 256 else delta

    def _fault(self, fault: dict[str, int]) -> None:
        self.faults.append(fault)
        self.decided[fault["queue"]] = self.taken[fault["queue"]]
        self.pending[fault["queue"]] = 0
