"""cocotb side of test_dma_write.py: the order of writes and reads on rq, credit, and the counts."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import (
    ReadTlpLayout,
    RequestHeader,
    RequestKind,
    TlpLayout,
    WriteSegmentLayout,
)
from hw.stream.types import BeatLayout
from tb.stream import (
    PacketSource,
    StreamSink,
    StreamSource,
    always,
    bursty,
    cycles,
    pace,
    reset,
)
from tests.unit.bench_dma_write import CLIENTS, LANES

INSIDE = 12  # cycles that the write engine may take from a client to rq


class Bench:
    """Writes, reads and credit on one side; what comes on rq, in order, on the other."""

    def __init__(self, dut: Any, *, stalls: bool = False) -> None:
        self.dut = dut
        self.edge = RisingEdge(dut.clk)
        dut.payload_size.value = 0
        dut.bus_device.value = 0
        dut.bus_master.value = -1 % (1 << len(dut.bus_master))
        dut.reads_master.value = -1 % (1 << len(dut.reads_master))
        self.credit = 0
        self.infinite = 0
        self.reads_sent = 0
        self._set_credit()
        self.segments = [StreamSource(dut, f"segments__{k}", WriteSegmentLayout(), always())
                         for k in range(CLIENTS)]
        self.data = [PacketSource(dut, f"data__{k}", BeatLayout(LANES), pace(stalls, 20 + k))
                     for k in range(CLIENTS)]
        self.reads = StreamSource(dut, "reads", ReadTlpLayout(), pace(stalls, 5))
        self.rq = StreamSink(dut, "rq", TlpLayout(LANES, RequestHeader()), pace(stalls, 7),
                             tell=self._beat)
        self.refused: list[int] = []
        StreamSink(dut, "refused", 10, pace(stalls, 8), tell=self.refused.append)
        self.writes: list[tuple[int, int]] = []  # cycle and address of what has left
        self.read_tags: list[tuple[int, int]] = []  # cycle and tag
        self.kinds: list[str] = []
        self.inside = False
        self.sent: list[deque[int]] = [deque() for _ in range(CLIENTS)]
        self.accepted: list[tuple[int, int]] = []  # cycle and number of the write
        self.to_come: dict[int, int] = {}  # bytes, by write
        self.left_at: dict[int, int] = {}
        self.now = 0
        self.number = 0

    async def start(self) -> None:
        await reset(self.dut)
        cocotb.start_soon(self._watch())

    def _set_credit(self) -> None:
        layout = {"limit": self.credit % 256, "infinite": self.infinite}
        self.dut.np_credit.value = layout["limit"] | layout["infinite"] << 8

    def grant(self, count: int) -> None:
        """Give credit for more reads."""
        self.credit += count
        assert self.credit - self.reads_sent <= 127
        self._set_credit()

    def write(self, size: int = 8, client: int = 0) -> int:
        """Queue a write; give its number, which is also in its address."""
        self.number += 1
        self.to_come[self.number] = size
        self.sent[client].append(self.number)
        self.data[client].send(bytes(size))
        self.segments[client].send({"function": 0, "address": self.number << 16, "length": size,
                                    "last": 1})
        return self.number

    def read(self, tag: int, *, fenced: bool = False) -> None:
        self.reads.send({"fenced": fenced, "header": {
            "kind": RequestKind.MEM_READ, "address": 0x1000 + 8 * tag, "dwords": 2,
            "first_be": 0xF, "last_be": 0xF, "requester_id": 3, "tag": tag}})

    async def _watch(self) -> None:
        pulses = [getattr(self.dut, f"accepted__{k}") for k in range(CLIENTS)]
        last_left = 0
        while True:
            await self.edge
            self.now += 1
            for client, pulse in enumerate(pulses):
                if pulse.value:
                    self.accepted.append((self.now, self.sent[client].popleft()))
            # Every group that a client saw accepted is in the count by then, and no group counts
            # as left before its last beat was taken.
            assert int(self.dut.writes_accepted.value) == len(self.accepted) % 256
            left = int(self.dut.writes_left.value)
            assert (left - last_left) % 256 <= 1
            last_left = left
            assert left == len([1 for at in self.left_at.values() if at < self.now]) % 256

    def _beat(self, beat: dict[str, Any]) -> None:
        header = beat["header"]
        now = self.now + 1  # the watcher, which counts, comes later in every cycle
        first, self.inside = not self.inside, not beat["last"]
        if header["kind"] == RequestKind.MEM_READ.value:
            assert first and beat["last"] and beat["empty"] == 0
            tag = header["tag"]
            expected = {"kind": RequestKind.MEM_READ.value, "address": 0x1000 + 8 * tag,
                        "dwords": 2, "first_be": 15, "last_be": 15, "requester_id": 3,
                        "completer_id": 0, "tag": tag, "traffic_class": 0, "attributes": 0,
                        "poisoned": 0}
            assert header == expected
            self.reads_sent += 1
            assert self.infinite or self.reads_sent <= self.credit, "a read without credit"
            self.read_tags.append((now, tag))
            self.kinds.append("r")
        elif beat["last"]:
            self.kinds.append("w")
            number = header["address"] >> 16
            self.to_come[number] -= 4 * header["dwords"]
            if self.to_come[number] <= 0:
                self.writes.append((now, number))
                self.left_at[number] = now

    async def finish(self, reads: int) -> None:
        for _ in range(20_000):
            if len(self.writes) == self.number and len(self.read_tags) == reads:
                break
            await self.edge
        else:
            raise TimeoutError(f"{len(self.writes)} of {self.number} writes, "
                               f"{len(self.read_tags)} of {reads} reads")
        await cycles(self.dut, INSIDE)
        assert [number for _, number in self.accepted] == [number for _, number in self.writes]
        assert self.reads.idle and not self.inside


@cocotb.test
async def fences_at_every_offset(dut: Any) -> None:
    """A fenced read offered in any cycle leaves behind each write accepted by then.

    The read is offered so many cycles before or behind the moment at which its client could see
    ``accepted``; `rq` stalls for as long as to fill the way of the writes in some rounds.
    """
    bench = Bench(dut)
    await bench.start()
    tag = 0
    for stall in (0, 3, 30):
        for offset in range(-INSIDE, INSIDE + 1):
            bench.grant(1)
            bench.rq.pace = iter([False] * stall + [True] * 10_000)
            seen = len(bench.accepted)
            for client in range(CLIENTS):
                bench.write(8 + 40 * client, client)
            if offset < 0:  # in the middle of it, by time
                await cycles(dut, INSIDE + offset)
            else:           # from the last `accepted` on
                while len(bench.accepted) < seen + CLIENTS:
                    await bench.edge
                await cycles(dut, offset)
            bench.read(tag, fenced=True)
            before = [number for _, number in bench.accepted]
            await bench.finish(tag + 1)
            when = bench.read_tags[-1][0]
            assert all(bench.left_at[number] < when for number in before)
            tag += 1


@cocotb.test
async def a_client_that_sees_accepted_may_fence(dut: Any) -> None:
    """A read that is offered as soon as the pulse is seen waits for that write.

    The counts wrap in the middle of it.
    """
    bench = Bench(dut)
    await bench.start()
    bench.grant(20)
    for _ in range(246):
        bench.write(1)
    await bench.finish(0)
    for tag in range(20):
        # The bytes come when the write has long been accepted.
        bench.data[0].pace = iter([False] * (tag % 13) + [True] * 10_000)
        number = bench.write(8 * (1 + tag % 5))
        while not bench.accepted or bench.accepted[-1][1] != number:
            await bench.edge
        # Driven after the edge at which the pulse was sampled: seen by the card one cycle later.
        bench.read(tag, fenced=True)
        await bench.finish(tag + 1)
        assert bench.left_at[number] < bench.read_tags[-1][0]


@cocotb.test
async def writes_pass_blocked_reads(dut: Any) -> None:
    """Without credit no read leaves, fenced or not, and every write does."""
    bench = Bench(dut)
    await bench.start()
    for tag in range(6):
        bench.read(tag, fenced=tag % 2 == 1)
    await cycles(dut, 5)
    for index in range(40):
        bench.write(8 if index % 3 else 200, index % CLIENTS)
    for _ in range(4000):
        if len(bench.writes) == 40:
            break
        await bench.edge
    assert len(bench.writes) == 40 and not bench.read_tags
    for count in range(6):  # one at a time: each credit frees one read
        bench.grant(1)
        await cycles(dut, 8)
        assert len(bench.read_tags) == count + 1
    await bench.finish(6)
    assert [tag for _, tag in bench.read_tags] == list(range(6))


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def reads_of_a_silenced_function(dut: Any, stalls: bool) -> None:
    """However long they waited they are given back, all but those that cannot be withdrawn."""
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    bench.grant(2)
    for tag in range(8):
        bench.read(tag)
    await cycles(dut, 60)
    assert [tag for _, tag in bench.read_tags] == [0, 1]
    dut.reads_master.value = -1 % (1 << len(dut.reads_master)) ^ 1 << 3  # theirs
    await cycles(dut, 60)
    assert bench.refused == [2, 3, 4, 5, 6, 7]
    number = bench.write(100)  # nobody is in its way
    await cycles(dut, 60)
    assert bench.writes[-1][1] == number
    dut.reads_master.value = 1 << 3
    bench.grant(8)
    await cycles(dut, 1)  # a read gets its tag, and comes, after its function may read
    for tag in range(8, 12):
        bench.read(tag)
    await bench.finish(6)
    assert [tag for _, tag in bench.read_tags] == [0, 1, 8, 9, 10, 11]
    assert len(bench.refused) == 6
    # In a stream of reads that can go: each goes once, or comes back once.
    bench.infinite = 1
    bench._set_credit()
    for tag in range(12, 60):
        bench.read(tag)
    await cycles(dut, 20)
    dut.reads_master.value = 0
    await cycles(dut, 3)
    late = len(bench.read_tags)
    await cycles(dut, 200)
    assert len(bench.read_tags) - late <= 2
    sent = [tag for _, tag in bench.read_tags[6:]]
    assert sorted([*bench.refused[6:], *sent]) == [*range(12, 60)]
    assert len(bench.refused) > 6


@cocotb.test
async def a_fence_is_not_moved_by_later_writes(dut: Any) -> None:
    """A fenced read is not starved by writes that keep coming."""
    bench = Bench(dut)
    await bench.start()
    bench.grant(8)
    for _ in range(60):
        for client in range(CLIENTS):
            bench.write(200, client)
    for tag in range(8):
        await cycles(dut, 30)
        bench.read(tag, fenced=True)
        await bench.reads.drain(200)
    await bench.finish(8)
    assert bench.read_tags[-1][0] < bench.writes[-1][0] - 50


@cocotb.test
async def reads_pass_a_fence(dut: Any) -> None:
    """A read that waits for writes does not hold up those that need not."""
    bench = Bench(dut)
    bench.infinite = 1
    bench._set_credit()
    await bench.start()
    bench.rq.pace = (turn % 8 == 0 for turn in range(1_000_000))
    numbers = [bench.write(500, index % CLIENTS) for index in range(12)]
    await cycles(dut, 100)
    for tag in range(24):
        bench.read(tag, fenced=tag % 3 == 0)
    await bench.finish(24)
    when = {tag: at for at, tag in bench.read_tags}
    accepted = [number for _, number in bench.accepted]
    assert accepted == numbers
    fenced = [tag for _, tag in bench.read_tags if tag % 3 == 0]
    others = [tag for _, tag in bench.read_tags if tag % 3]
    assert fenced == sorted(fenced) and others == sorted(others)
    assert when[0] > bench.left_at[numbers[0]]
    assert when[23] < when[0], "the fence held up the others"


@cocotb.test
async def turns(dut: Any) -> None:
    """When both could always go they take turns, TLP by TLP, at a beat a cycle."""
    bench = Bench(dut)
    bench.infinite = 1
    bench._set_credit()
    await bench.start()
    bench.rq.pace = iter([False] * 40 + [True] * 10_000)
    for index in range(30):
        bench.write(8, index % CLIENTS)
    for tag in range(30):
        bench.read(tag)
    await bench.finish(30)
    order = "".join(bench.kinds)
    assert "wrwrwrwrwrwrwrwrwrwrwrwr" in order, order
    everything = sorted([at for at, _ in bench.writes] + [at for at, _ in bench.read_tags])
    assert everything[-1] - everything[0] <= len(everything) + 2
    bench.read_tags.clear()
    for tag in range(40):
        bench.read(tag)
    await bench.finish(40)
    assert bench.read_tags[-1][0] - bench.read_tags[0][0] == 39  # a read a cycle, alone


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def everything_at_random(dut: Any, stalls: bool) -> None:
    """Reads, fences, writes and credit at random, past the wrap of every count."""
    rng = random.Random(cocotb.RANDOM_SEED)
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    plain = {tag for tag in range(256) if rng.random() < 0.5}
    fences: list[tuple[int, list[int]]] = []
    reads = 0
    while reads < 320:
        for _ in range(rng.randrange(4)):
            bench.write(rng.choice([1, 8, 8, 8, LANES, 300]), rng.randrange(CLIENTS))
        if rng.random() < 0.7:
            tag = reads % 256
            bench.read(tag, fenced=tag not in plain)
            if tag not in plain:
                fences.append((tag, [number for _, number in bench.accepted]))
            reads += 1
        if rng.random() < 0.5:
            bench.grant(min(rng.randint(1, 3), reads - bench.credit + 3,
                            127 - (bench.credit - bench.reads_sent)))
        await cycles(dut, rng.randrange(10))
        if rng.random() < 0.05:
            bench.rq.pace = rng.choice([always(), bursty(reads), bursty(reads + 1, 0.05)])
    bench.rq.pace = always()
    while bench.credit < reads:
        bench.grant(min(20, reads - bench.credit, 127 - (bench.credit - bench.reads_sent)))
        await cycles(dut, 40)
    await bench.finish(320)
    # Each kind in its order; a fenced one behind the writes that it has to wait for.
    given = [number % 256 for number in range(320)]
    assert [tag for _, tag in bench.read_tags if tag in plain] == [
        tag for tag in given if tag in plain]
    for (tag, before), (at, came) in zip(
            fences, [each for each in bench.read_tags if each[1] not in plain], strict=True):
        assert came == tag
        assert all(bench.left_at[number] < at for number in before)
    assert bench.number > 300
