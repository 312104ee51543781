"""The vector table between an MMIO host, interrupt sources, and a write engine."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.bar_map import MSIX_PBA_OFFSET, MSIX_TABLE_OFFSET
from hw.pcie.types import InterruptLayout, MmioAnswer, MmioRequest, WriteSegmentLayout
from hw.stream.types import BeatLayout
from tb.stream import (
    PacketSink,
    StreamMonitor,
    StreamSink,
    StreamSource,
    always,
    cycles,
    pace,
    reset,
)

__all__ = ["BAR", "FUNCTIONS", "MASKED", "VECTORS", "WHOSE", "Bench", "entry_of", "ready_bench"]

FUNCTIONS = int(os.environ["RINGLET_FUNCTIONS"])
VECTORS = int(os.environ["RINGLET_VECTORS"])
LANES = int(os.environ["RINGLET_LANES"])
MASKED = 1
BAR = 4


def entry_of(function: int, vector: int) -> tuple[int, int]:
    """Address and data of a vector, different for all."""
    number = function * VECTORS + vector
    return 0x1_2345_0000_0000 + 16 * number, 0xC0DE_0000 + number


WHOSE = {entry_of(f, v): (f, v) for f in range(FUNCTIONS) for v in range(VECTORS)}


class Bench:
    """The table between an MMIO host, interrupt sources, and a write engine that takes its time."""

    def __init__(self, dut: Any, *, stalls: bool) -> None:
        self.dut = dut
        self.edge = RisingEdge(dut.clk)
        self.stalls = stalls
        self.rng = random.Random(cocotb.RANDOM_SEED)
        dut.enable.value = 0
        dut.function_mask.value = 0
        dut.accepted.value = 0
        self.mmio = StreamSource(dut, "mmio", MmioRequest(), pace(stalls, 1))
        self.answers = StreamSink(dut, "answers", MmioAnswer(), pace(stalls, 2))
        self.interrupts = StreamSource(dut, "interrupts", InterruptLayout(), pace(stalls, 3))
        self.clear = StreamSource(dut, "clear", 8, always())
        self.data = PacketSink(dut, "data", BeatLayout(LANES), pace(stalls, 4))
        self.sent = StreamMonitor(dut, "sent", InterruptLayout())
        self.taken: list[dict[str, int]] = []  # segments not yet accepted
        self.segments = StreamSink(dut, "segments", WriteSegmentLayout(), pace(stalls, 5),
                                   tell=self.taken.append)
        self.messages: list[tuple[int, int, int]] = []  # cycle of acceptance, function, vector
        self.now = 0

    async def start(self) -> None:
        await reset(self.dut)
        cocotb.start_soon(self._accept())

    async def _accept(self) -> None:
        """Be the write engine: accept a segment some cycles after it was taken."""
        waits = 0
        while True:
            await self.edge
            self.now += 1
            self.dut.accepted.value = 0
            if not self.taken:
                waits = self.rng.randrange(8) if self.stalls else 1
            elif waits:
                waits -= 1
            else:
                segment = self.taken.pop()
                assert not self.taken, "a message was offered before the last one was accepted"
                assert (segment["length"], segment["last"]) == (4, 1)
                self.dut.accepted.value = 1
                cocotb.start_soon(self._keep(self.now, segment))

    async def _keep(self, when: int, segment: dict[str, int]) -> None:
        payload = (await self.data.get()).data
        assert len(payload) == 4
        function, vector = WHOSE[segment["address"], int.from_bytes(payload, "little")]
        assert segment["function"] == function
        sent = await self.sent.get()
        assert sent == {"function": function, "vector": vector}
        self.messages.append((when, function, vector))

    def write(self, function: int, offset: int, value: int, enable: int = 0xF) -> None:
        self.mmio.send({"function": function, "bar": BAR, "offset": offset, "write": 1,
                        "enable": enable, "data": value})

    async def read(self, function: int, offset: int) -> int:
        self.mmio.send({"function": function, "bar": BAR, "offset": offset, "enable": 0xF})
        return int((await self.answers.get())["data"])

    def mask(self, function: int, vector: int, masked: int) -> None:
        self.write(function, MSIX_TABLE_OFFSET + 16 * vector + 12, masked)

    def program(self, function: int, vector: int, masked: int = 0) -> None:
        address, message = entry_of(function, vector)
        base = MSIX_TABLE_OFFSET + 16 * vector
        self.write(function, base, address & 0xFFFF_FFFF)
        self.write(function, base + 4, address >> 32)
        self.write(function, base + 8, message)
        self.mask(function, vector, masked)

    def program_all(self, masked: int = 0) -> None:
        for function in range(FUNCTIONS):
            for vector in range(VECTORS):
                self.program(function, vector, masked)

    def interrupt(self, function: int, vector: int) -> None:
        self.interrupts.send({"function": function, "vector": vector})

    async def pending(self, function: int) -> int:
        low = await self.read(function, MSIX_PBA_OFFSET)
        return low | await self.read(function, MSIX_PBA_OFFSET + 4) << 32

    async def settle(self, rounds: int = 1) -> None:
        """Wait until all that was sent has been done, and the scan has been everywhere."""
        await self.mmio.drain()
        await self.interrupts.drain()
        await cycles(self.dut, 30 + rounds * (FUNCTIONS + 40))

    def count(self) -> Counter[tuple[int, int]]:
        return Counter((function, vector) for _when, function, vector in self.messages)


async def ready_bench(dut: Any, *, stalls: bool = False) -> Bench:
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    bench.program_all()
    dut.enable.value = (1 << FUNCTIONS) - 1
    await bench.settle()
    return bench
