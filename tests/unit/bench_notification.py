"""cocotb side of tests/unit/test_notification.py."""

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
from tb.stream import CLOCK_NS, StreamMonitor, StreamSink, StreamSource, cycles, pace, reset

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


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def what_is_published_is_told(dut: Any, stalls: bool) -> None:
    """After the last entry at least one interrupt, unless the driver wants none; debts are paid."""
    rng = random.Random(cocotb.RANDOM_SEED)
    driver = Driver(dut, stalls, (5, 60))
    await reset(dut)
    for _ in range(30):
        driver.flags = {queue: rng.randrange(2) for queue in QUEUES}
        before = dict(driver.interrupts)
        named = set()
        for _ in range(rng.randint(1, 6)):
            queue = rng.choice(QUEUES)
            named.add(queue)
            await driver.publish_several(dut, queue, rng.randint(1, 8), rng)
            await cycles(dut, rng.choice([0, 1, 7, 40]))
        await cycles(dut, 300)
        for queue in QUEUES:
            new = driver.interrupts[queue] - before.get(queue, 0)
            assert bool(new) == (queue in named and not driver.flags[queue])
        assert not any(driver.owed.values()), driver.owed
    assert not driver.faults


@cocotb.test
@cocotb.parametrize(event_idx=[False, True])
async def one_read_is_in_flight(dut: Any, event_idx: bool) -> None:
    """What is published while a read is under way makes exactly one more."""
    driver = Driver(dut, False, (200, 200), event_idx=(2,) if event_idx else ())
    driver.event[2] = 9  # among those of the second read
    await reset(dut)
    for _ in range(10):
        driver.publish(2, 1)
        await cycles(dut, 10)
    await cycles(dut, 600)
    assert driver.server.groups == 2
    assert driver.interrupts[2] == driver.status == (1 if event_idx else 2)
    driver.settled()


@cocotb.test
@cocotb.parametrize(packed=[False, True], event_idx=[False, True])
async def what_follows_is_waited_for(dut: Any, packed: bool, event_idx: bool) -> None:
    """A burst that another one follows is left to that one; but not two in a row."""
    driver = Driver(dut, False, (10, 10))
    await reset(dut)
    for moderated in (False, True):
        if moderated:  # then packets and time decide alone
            driver.moderate(2, 6, 1000)
            await driver.moderation.drain()
        driver.start(2, 4, event_idx, packed)
        driver.flags[2] = DESC * packed * event_idx
        driver.event[2] = driver.word(2, 5)  # among those of the first burst
        before, reads = driver.interrupts[2], driver.server.groups
        driver.publish(2, 3, follows=True)
        await cycles(dut, 100)
        assert driver.server.groups == reads
        assert driver.owed[2] == 1  # what is left has one obligation
        driver.publish(2, 2, follows=True)
        await cycles(dut, 100)
        assert driver.server.groups == reads + (not moderated)
        driver.publish(2, 1)
        await cycles(dut, 100)
        assert driver.interrupts[2] == before + (1 if event_idx or moderated else 2)
        driver.settled()
        driver.start(0, 7, event_idx, packed)
        driver.publish(0, 1)  # others are told of meanwhile
        await cycles(dut, 100)
        driver.settled()
    driver.moderate(2, 0, 0)
    await driver.moderation.drain()


@cocotb.test
async def without_a_vector_the_status_alone_tells(dut: Any) -> None:
    driver = Driver(dut, False, (10, 10))
    driver.configs[1]["vector"] = 0xFFFF
    await reset(dut)
    driver.publish(1, 3)
    await cycles(dut, 100)
    assert driver.status == 1
    assert not driver.interrupts
    assert driver.owed[1] == 0
    assert driver.decided == driver.placed


@cocotb.test
@cocotb.parametrize(event_idx=[False, True])
async def a_failed_read_is_a_fault(dut: Any, event_idx: bool) -> None:
    """With its reason and address; the debts are paid, and the other queues go on."""
    driver = Driver(dut, True, (10, 30), (30, 30), event_idx=(0, 3) if event_idx else ())
    address = BASES[0] + (4 + 2 * SIZES[0] if event_idx else 0)
    await reset(dut)
    for error in (1, 2, 3):
        driver.error[0] = error
        driver.event[3] = driver.placed[3] + 1
        driver.publish(0, 2)
        driver.publish(3, 2)
        await cycles(dut, 25)
        driver.publish(0, 1)  # while the read is under way: it is not read for once more
        await cycles(dut, 300)
        assert driver.faults.pop() == {"queue": 0, "reason": 8 + error, "address": address}
        assert not driver.faults
        assert driver.reads[0] == driver.interrupts[3] == error
        driver.settled()
    assert not driver.interrupts[0]
    driver.error[0] = 0
    driver.event[0] = driver.placed[0] - 1  # what was lost stays lost
    driver.publish(0, 1)
    await cycles(dut, 200)
    assert driver.interrupts[0] == (0 if event_idx else 1)
    driver.settled()


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def the_event_decides(dut: Any, stalls: bool) -> None:
    """Split and packed rings, with and without EVENT_IDX side by side; an interrupt for each answer
    that has one due, and no other. The driver writes its event at any time, mostly near the
    index."""
    rng = random.Random(cocotb.RANDOM_SEED)
    driver = Driver(dut, stalls, (1, 50), (0, 40))
    await reset(dut)
    for _ in range(25):
        for queue in QUEUES:
            if rng.random() < 0.3:  # stopped, reset and started again, in whatever modes
                index = rng.choice([0, INDICES - rng.randrange(20), rng.randrange(INDICES)])
                packed = rng.random() < 0.6
                size = rng.choice([1, 3, 7, 16, 33, 4096, 32768]) if packed else 0
                driver.start(queue, index, rng.random() < 0.75, packed, size)
        for _ in range(rng.randint(2, 25)):
            queue = rng.choice(QUEUES)
            if rng.random() < 0.5:
                event = driver.placed[queue] + rng.randint(-3, 6)
                if rng.random() < 0.2:
                    event = rng.randrange(INDICES)
                driver.event[queue] = driver.word(queue, max(event, 0))
                driver.flags[queue] = rng.randrange(2)
                if driver.packed(queue):
                    driver.flags[queue] = rng.choice([ENABLE, DISABLE, DESC, DESC, DESC, RESERVED])
            elif driver.packed(queue):
                count = rng.randint(1, 8)
                await driver.publish_several(dut, queue, count, rng,
                                             count + rng.choice([0, 0, 3]))
            else:
                await driver.publish_several(dut, queue, rng.randint(1, 8), rng)
            await cycles(dut, rng.choice([0, 1, 7, 20, 60]))
        await cycles(dut, 400)
        driver.settled()
    assert driver.status == sum(driver.interrupts.values()) == driver.yes
    assert min(driver.yes, driver.no) > 20, (driver.yes, driver.no)
    assert not driver.faults


@cocotb.test
async def events_around_a_burst(dut: Any) -> None:
    """Any entry of a burst counts, across the wrap too; one behind it, or ahead of it, does not."""
    driver = Driver(dut, False, (3, 3), event_idx=(1,))
    driver.flags[1] = 1  # means nothing
    await reset(dut)
    for start in (0, 100, 0x7FFE, INDICES - 5, INDICES - 3, INDICES):
        for offset in (*range(-3, 9), 0x7FFF, 0x8000, 0x8004):
            driver.start(1, start, True)
            driver.event[1] = (start + offset) % INDICES
            before = driver.interrupts[1]
            driver.publish(1, 5)
            await cycles(dut, 20)
            assert driver.interrupts[1] - before == (0 <= offset < 5), (start, offset)
            driver.settled()


@cocotb.test
async def places_around_a_burst(dut: Any) -> None:
    """Of packed rings: any place of the burst counts, in its lap and not in the one before."""
    driver = Driver(dut, False, (3, 3))
    driver.flags[1] = DESC
    await reset(dut)
    for size in (3, 7, 16, 33, 32768):
        count = min(5, size)
        for start in {0, size - 1, size, 2 * size - 3, 2 * size, 3 * size - 2}:
            for offset in {*range(-3, 7), size, -size}:
                if not -(2 * size - count) <= offset < 2 * size or start + offset < 0:
                    continue
                driver.start(1, start, True, True, size)
                driver.event[1] = driver.word(1, start + offset)
                before = driver.interrupts[1]
                driver.publish(1, 1, count)
                await cycles(dut, 18)
                wanted = any((offset - k) % (2 * size) == 0 for k in range(count))
                assert driver.interrupts[1] - before == wanted, (size, start, offset)
                driver.settled()


@cocotb.test
async def many_chains_at_once(dut: Any) -> None:
    """A frame in more chains than one piece of news has room for: all of them are paid back."""
    driver = Driver(dut, True, (5, 20))
    await reset(dut)
    for count in (255, 256, 257, 1000, 1024, 32768):
        driver.start(1, 0, False)
        before = driver.interrupts[1]
        driver.publish(1, count)
        driver.publish(1, 1)
        await cycles(dut, 1000)
        assert driver.interrupts[1] > before
        driver.settled()


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2])
async def interrupts_are_moderated(dut: Any, stalls: bool, seed: int) -> None:
    """Rings of all kinds, with settings or without: nothing is asked before the packets are there
    or the time is over, and then at once; every word of the driver is obeyed as ever."""
    rng = random.Random(100 * cocotb.RANDOM_SEED + seed)
    driver = Driver(dut, stalls, (1, 40))
    await reset(dut)
    early = timed = counted = 0
    slack = 200  # a read that is under way, stalls, and a round
    for _ in range(8):
        settings = {}
        for queue in QUEUES:
            packed = rng.random() < 0.5
            driver.start(queue, 0, rng.random() < 0.5, packed, 33 if packed else 0)
            driver.flags[queue] = rng.choice([ENABLE, ENABLE, DISABLE, DESC * packed])
            driver.event[queue] = driver.word(queue, rng.randrange(30))
            settings[queue] = rng.choice([(0, 0), (3, 0), (0, 9), (1, 40), (4, 30), (10, 60),
                                          (60_000, 25)])
            driver.moderate(queue, *settings[queue])
            driver.asked[queue].clear()
        await driver.moderation.drain()
        for _ in range(40):
            await driver.publish_several(dut, rng.choice(QUEUES), rng.randint(1, 4), rng)
            await cycles(dut, rng.choice([0, 3, 20, 100]))
        await cycles(dut, 60 * CYCLES_A_MICROSECOND + 2 * slack)
        driver.settled()
        for queue, (packets, usecs) in settings.items():
            for chains, age in driver.asked[queue]:
                if not packets or not usecs:
                    early += 1
                    assert age <= slack
                elif chains >= packets:
                    counted += 1
                    assert age <= usecs * CYCLES_A_MICROSECOND + slack
                else:
                    timed += 1
                    least = (usecs - 1) * CYCLES_A_MICROSECOND
                    assert least <= age <= least + CYCLES_A_MICROSECOND + slack, (age, usecs)
    for queue in QUEUES:
        driver.moderate(queue, 0, 0)
    await driver.moderation.drain()
    assert min(early, timed, counted) > 10, (early, timed, counted)
    assert not driver.faults


@cocotb.test
async def the_last_packet_ends_the_wait(dut: Any) -> None:
    """As soon as there are enough, also of those that came while a read was under way."""
    driver = Driver(dut, False, (30, 30))
    await reset(dut)
    driver.moderate(2, 4, 1000)
    await driver.moderation.drain()
    for _ in range(3):
        driver.publish(2, 3)
        await cycles(dut, 100)
        assert not driver.pending[0] and driver.pending[2] == 3
        assert driver.owed[2] == 1  # what is held back has one obligation, and not its chains
        driver.publish(2, 1)
        await cycles(dut, 20)
        assert driver.pending[2] == 0
        driver.publish(2, 4)  # while the answer is under way
        await cycles(dut, 100)
        assert driver.pending[2] == 0
        driver.settled()
    assert driver.asked[2] == [(4, age) for _, age in driver.asked[2]]
    assert driver.interrupts[2] == 6
    driver.moderate(2, 0, 0)
    await driver.moderation.drain()


@cocotb.test
@cocotb.parametrize(how=["stopped", "off", "fewer packets", "less time"])
async def what_is_held_is_let_go(dut: Any, how: str) -> None:
    """A stop ends the wait within a round, and so does a change of the settings: the driver is
    told, and no obligation is left."""
    driver = Driver(dut, False, (5, 5))
    await reset(dut)
    for queue, packed in ((1, False), (2, True)):
        driver.start(queue, 0, False, packed)
        driver.moderate(queue, 60_000, 60_000)
        driver.publish(queue, 7)
    await cycles(dut, 400)
    assert not driver.server.groups
    assert driver.owed == {1: 1, 2: 1}
    for queue in (1, 2):
        if how == "stopped":
            driver.configs[queue]["running"] = 0
        else:
            driver.moderate(queue, *{
                "off": (0, 0), "fewer packets": (7, 60_000), "less time": (60_000, 9)}[how])
    await cycles(dut, 80)
    assert driver.interrupts == {1: 1, 2: 1}
    driver.settled()
    for queue in (1, 2):
        driver.moderate(queue, 0, 0)
    await driver.moderation.drain()


@cocotb.test
async def a_long_wait_holds_nobody_up(dut: Any) -> None:
    """It ends in its time, and the other queues are told meanwhile."""
    driver = Driver(dut, False, (5, 5))
    await reset(dut)
    driver.moderate(1, 65_535, 400)
    await driver.moderation.drain()
    driver.publish(1, 1)
    for told in range(1, 20):
        driver.publish(0, 1)
        await cycles(dut, 20 * CYCLES_A_MICROSECOND)
        assert driver.interrupts[0] == told
        assert driver.pending[1] == 1
    await cycles(dut, 20 * CYCLES_A_MICROSECOND + 60)
    assert driver.interrupts[1] == 1
    driver.settled()
    driver.moderate(1, 0, 0)
    await driver.moderation.drain()


@cocotb.test
@cocotb.parametrize((("latency", "hold"), [(1, 0), (2, 14), (14, 1)]))
async def the_driver_sees_or_is_told(dut: Any, latency: int, hold: int) -> None:
    """A driver that writes used_event, at every distance from the burst, and then looks at the
    index: it sees the entry, or it gets its interrupt. So also while a read is under way."""
    driver = Driver(dut, False, (latency, latency), (hold, hold), event_idx=(3,))
    await reset(dut)
    saw = told = 0
    for ahead in (False, True):
        for offset in range(34 + 24 * ahead):
            start = INDICES - 2 if offset % 2 else 7000
            driver.start(3, start, True)
            driver.event[3] = (start - 1) % INDICES
            wanted = start + ahead + offset % 3
            if ahead:
                driver.publish(3, 1)
            for cycle in range(100):
                if cycle == (12 if not ahead else 7):
                    driver.publish(3, 3)
                if cycle == offset:
                    driver.event[3] = wanted % INDICES
                    before = driver.interrupts[3]
                if cycle == offset + 1:
                    sees = driver.visible[3] > wanted
                await cycles(dut, 1)
            tells = driver.interrupts[3] > before
            assert sees or tells, (ahead, offset)
            saw += sees
            told += tells
            driver.settled()
    assert saw > 10 and told > 10, (saw, told)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def who_sleeps_is_woken(dut: Any, stalls: bool) -> None:
    """Drivers that sleep until some entry is used, on all queues at once: none is forgotten."""
    rng = random.Random(cocotb.RANDOM_SEED)
    driver = Driver(dut, stalls, (1, 40), (0, 40), event_idx=(0, 1, 2, 3))
    await reset(dut)
    seen = {queue: INDICES - 20 for queue in QUEUES}
    slept = dict.fromkeys(QUEUES, 0)
    for queue in QUEUES:
        driver.start(queue, seen[queue], True)

    async def drive(queue: int, rng: random.Random) -> None:
        while seen[queue] < INDICES + 60:
            wanted = seen[queue] + rng.randrange(min(6, SIZES[queue]))
            driver.event[queue] = wanted % INDICES
            before = driver.interrupts[queue]
            await cycles(dut, rng.randint(1, 6))
            if driver.visible[queue] <= wanted:
                slept[queue] += 1
                for _ in range(2000):
                    if driver.interrupts[queue] > before:
                        break
                    await cycles(dut, 1)
                else:
                    raise AssertionError(f"queue {queue} sleeps for entry {wanted} for ever")
            await cycles(dut, rng.choice([0, 0, 10]))
            seen[queue] = driver.visible[queue]

    drivers = [cocotb.start_soon(drive(queue, random.Random(queue))) for queue in QUEUES]
    while not all(task.done() for task in drivers):
        queue = rng.choice(QUEUES)
        free = min(8, SIZES[queue]) - (driver.placed[queue] - seen[queue])
        if free > 0:
            driver.publish(queue, rng.randint(1, free))
        await cycles(dut, rng.choice([0, 1, 5, 15]))
    await cycles(dut, 400)
    driver.settled()
    assert all(times >= 10 for times in slept.values()), slept


@cocotb.test
async def more_entries_than_indices(dut: Any) -> None:
    """While one read is under way all indices go by: none of the last 65535 is forgotten."""
    driver = Driver(dut, False, (1, 1), (1100, 1100), event_idx=(2,))
    await reset(dut)
    for total, back in ((INDICES - 1, 1), (INDICES, 2), (INDICES + 254, 300),
                        (INDICES + 254, 0x8000), (INDICES + 254, 0)):
        driver.start(2, 50, True)
        driver.event[2] = 49
        before = driver.interrupts[2]
        driver.publish(2, 1)
        left = total
        while left:
            driver.publish(2, min(left, 255))
            left -= min(left, 255)
        await driver.published.drain()
        assert driver.reads[2] % 2, "the bench is too slow: the first answer is back"
        driver.event[2] = (driver.placed[2] - back) % INDICES
        await cycles(dut, 2400)
        assert driver.interrupts[2] - before == bool(back), (total, back)
        driver.settled()


@cocotb.test
async def latencies(dut: Any) -> None:
    """In cycles, the first and the last counted; nothing is in the way."""
    driver = Driver(dut, False, (5, 5), event_idx=(1,))
    await reset(dut)
    driver.start(2, 0, True, packed=True)
    driver.start(3, 0, True, packed=True)
    driver.flags[3] = DESC
    driver.event[3] = driver.word(3, 0)
    for queue, to_read, to_interrupt in ((0, 3, 4), (1, 4, 5), (2, 3, 4), (3, 3, 6)):
        driver.publish(queue, 1)
        await cycles(dut, 40)
        times = driver.times
        assert times["read"] - times["published"] + 1 == to_read, times
        assert times["interrupt"] - times["answer"] + 1 == to_interrupt, times
