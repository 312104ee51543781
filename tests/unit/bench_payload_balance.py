"""cocotb side of tests/unit/test_payload_balance.py."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import ReadRequestLayout
from tb.stream import StreamSink, StreamSource, always, cycles, pace, reset

LANES, CONTEXT_BITS = 8, 6
AHEAD = 1024 + 3 * 300  # and what is on its way when they are held up


class Around:
    """Reads that come and go, and writes of which only the lengths are seen."""

    def __init__(self, dut: Any, stalls: bool) -> None:
        self.dut = dut
        self.read_bytes = self.written_bytes = 0
        self.seen: list[dict[str, int]] = []
        self.write_pace = always()
        self.waiting: list[int] = []  # writes
        shape = ReadRequestLayout(LANES, CONTEXT_BITS)
        self.reads = StreamSource(dut, "i", shape, pace(stalls, 31))
        self.sink = StreamSink(dut, "o", shape, pace(stalls, 32), self._read)
        for name in ("write_goes", "write_waits", "write_length"):
            getattr(dut, name).value = 0
        cocotb.start_soon(self._writes())

    def _read(self, read: dict[str, int]) -> None:
        self.seen.append(read)
        self.read_bytes += read["length"]

    async def _writes(self) -> None:
        edge = RisingEdge(self.dut.clk)
        while True:
            goes = bool(self.waiting) and bool(next(self.write_pace))
            self.dut.write_goes.value = int(goes)
            self.dut.write_waits.value = int(bool(self.waiting) and not goes)
            self.dut.write_length.value = self.waiting[0] if self.waiting else 99
            await edge
            if goes:
                self.written_bytes += self.waiting.pop(0)


def some_reads(rng: random.Random, count: int) -> list[dict[str, int]]:
    return [{"queue": rng.randrange(64), "address": rng.randrange(1 << 60),
             "context": rng.randrange(64), "length": rng.randint(1, 300), "last": 1}
            for _ in range(count)]


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2])
async def reads_come_through_as_they_are(dut: Any, stalls: bool, seed: int) -> None:
    """In order, each once, whatever the writes do; none is withdrawn (the sink looks after it)."""
    rng = random.Random(seed)
    around = Around(dut, stalls)
    await reset(dut)
    reads = some_reads(rng, 300)
    for read in reads:
        around.reads.send(read)
    while len(around.seen) < len(reads):
        around.waiting += [rng.randint(1, 300) for _ in range(rng.randrange(4))]
        around.write_pace = (rng.random() < 0.4 for _ in iter(int, 1))
        await cycles(dut, rng.choice([1, 10, 100]))
    assert [{name: seen[name] for name in read}
            for read, seen in zip(reads, around.seen, strict=True)] == reads


@cocotb.test
@cocotb.parametrize(share=[2, 6, 20])
async def bytes_are_shared_while_writes_wait(dut: Any, share: int) -> None:
    """Writes that go every so many cycles: reads are no further ahead than the margin, either way
    when they could go any time."""
    rng = random.Random(share)
    around = Around(dut, False)
    await reset(dut)
    turns = iter(range(1_000_000))
    around.write_pace = (next(turns) % share == 0 for _ in iter(int, 1))
    for read in some_reads(rng, 1500):
        around.reads.send(read)
    for _ in range(100):
        while len(around.waiting) < 30:
            around.waiting.append(rng.randint(1, 300))
        await cycles(dut, 10)
        assert abs(around.read_bytes - around.written_bytes) <= AHEAD


@cocotb.test
async def without_writes_reads_go_as_they_come(dut: Any) -> None:
    """Nor is what they had before held against them, or kept for them."""
    rng = random.Random(3)
    around = Around(dut, False)
    await reset(dut)
    for _ in range(2):
        around.waiting += [9000]  # not one by one: reads fall far behind
        await cycles(dut, 100)
        before = len(around.seen)
        for read in some_reads(rng, 100):
            around.reads.send(read)
        await cycles(dut, 110)
        assert len(around.seen) - before == 100
    await cycles(dut, 100)
    begun_read, begun_written = around.read_bytes, around.written_bytes
    turns = iter(range(1_000_000))
    around.write_pace = (next(turns) % 8 == 0 for _ in iter(int, 1))
    around.waiting += [100] * 40
    for read in some_reads(rng, 100):
        around.reads.send(read)
    await cycles(dut, 200)
    ahead = (around.read_bytes - begun_read) - (around.written_bytes - begun_written)
    assert abs(ahead) <= AHEAD


@cocotb.test
async def who_had_nothing_to_read_gains_nothing(dut: Any) -> None:
    """Writes that went while there were no reads are no credit but for the margin."""
    rng = random.Random(4)
    around = Around(dut, False)
    await reset(dut)
    turns = iter(range(1_000_000))
    around.write_pace = (next(turns) % 10 == 0 for _ in iter(int, 1))
    around.waiting += [200] * 400
    await cycles(dut, 1000)
    begun = around.written_bytes
    assert begun > 15_000
    for read in some_reads(rng, 200):
        around.reads.send(read)
    await cycles(dut, 150)
    assert around.read_bytes > 0
    assert around.read_bytes - (around.written_bytes - begun) <= AHEAD + 1024
