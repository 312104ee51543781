"""Runs inside the simulator: accesses dealt out to targets, answers brought back in order."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import MmioAnswer, MmioRequest
from tb.stream import StreamSink, StreamSource, cycles, never, pace, reset

WINDOWS = {  # name: (bar, first, size)
    "virtio": (2, 0, 0x8000), "msix": (4, 0, 0x8000), "management": (0, 0x4000, 0x4000),
}


def owner(bar: int, offset: int) -> str | None:
    for name, (its_bar, first, size) in WINDOWS.items():
        if bar == its_bar and first <= offset < first + size:
            return name
    return None


class Bench:
    """The targets, each with what it expects, and the answers that are to come."""

    def __init__(self, dut: Any, *, stalls: bool) -> None:
        self.dut = dut
        self.source = StreamSource(dut, "mmio", MmioRequest(), pace(stalls, 1))
        self.sink = StreamSink(dut, "mmio_answers", MmioAnswer(), pace(stalls, 2), tell=self._told)
        self.expected: dict[str, deque[dict[str, int]]] = {name: deque() for name in WINDOWS}
        self.answers: deque[int] = deque()
        self.sources: dict[str, StreamSource] = {}
        self.sinks: dict[str, StreamSink] = {}
        for number, name in enumerate(WINDOWS):
            self.sources[name] = StreamSource(dut, f"{name}_answers", MmioAnswer(),
                                              pace(stalls, 10 + number))
            self.sinks[name] = StreamSink(dut, name, MmioRequest(), pace(stalls, 20 + number),
                                          tell=self._target(name))

    def _target(self, name: str) -> Any:
        def take(access: dict[str, int]) -> None:
            assert access == self.expected[name].popleft()
            if not access["write"]:
                self.sources[name].send({"data": self.value(name, access["offset"])})
        return take

    @staticmethod
    def value(name: str, offset: int) -> int:
        return (offset * 0x1_0001 + len(name)) & 0xFFFF_FFFF

    def _told(self, answer: dict[str, int]) -> None:
        assert answer["data"] == self.answers.popleft()

    def send(self, bar: int, offset: int, write: int, rng: random.Random) -> None:
        access = {"function": rng.randrange(256), "bar": bar, "offset": offset, "write": write,
                  "enable": rng.randrange(16), "data": rng.getrandbits(32)}
        self.source.send(access)
        name = owner(bar, offset)
        if name is not None:
            self.expected[name].append(access)
        if not write:
            self.answers.append(self.value(name, offset) if name else 0)

    async def drain(self) -> None:
        for _ in range(40_000):
            if self.source.idle and not self.answers and not any(self.expected.values()):
                break
            await RisingEdge(self.dut.clk)
        else:
            raise TimeoutError("accesses or answers are missing")
        await cycles(self.dut, 4)


@cocotb.test
@cocotb.parametrize(stalls=[False, True], reads=[0.2, 0.8])
async def accesses(dut: Any, stalls: bool, reads: float) -> None:
    """Every access reaches its target alone, and every answer its place."""
    bench = Bench(dut, stalls=stalls)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED + stalls)
    edges = [0, 4, 0x3FFC, 0x4000, 0x7FFC, 0x8000, 0xFFFC, 0xFFFFC]
    for bar in range(6):
        for offset in edges:
            for write in (0, 1):
                bench.send(bar, offset, write, rng)
    for _ in range(700):
        bench.send(rng.choice([0, 2, 4, 1]),
                   rng.choice([rng.choice(edges), 4 * rng.randrange(8192)]),
                   int(rng.random() > reads), rng)
    await bench.drain()


@cocotb.test
async def full_rate(dut: Any) -> None:
    """An access a cycle, one cycle from end to end."""
    bench = Bench(dut, stalls=False)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    dut.virtio__ready.value = 1
    await cycles(dut, 4)
    seen: list[tuple[bool, bool]] = []

    async def watch() -> None:
        while True:
            await RisingEdge(dut.clk)
            seen.append((bool(dut.mmio__valid.value and dut.mmio__ready.value),
                         bool(dut.virtio__valid.value and dut.virtio__ready.value)))

    watching = cocotb.start_soon(watch())
    for queue in range(30):
        bench.send(2, 0x4000 + 4 * queue, 1, rng)
    await bench.drain()
    watching.cancel()
    came = [number for number, (arrives, _leaves) in enumerate(seen) if arrives]
    left = [number for number, (_arrives, leaves) in enumerate(seen) if leaves]
    assert [there - here for here, there in zip(came, left, strict=True)] == [1] * 30
    assert not seen[0][1]


@cocotb.test
async def writes_pass_targets_that_are_slow_to_answer(dut: Any) -> None:
    """A read that waits for its answer holds up nobody behind it."""
    bench = Bench(dut, stalls=False)

    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    bench.sources["msix"].pace = never()
    for _ in range(16):
        bench.send(4, 0, 0, rng)
    for _ in range(20):
        bench.send(2, 0x4000, 1, rng)
    await cycles(dut, 100)
    assert not bench.expected["virtio"], "doorbells wait"
    assert len(bench.answers) == 16
    bench.sources["msix"].pace = pace(False, 0)
    await bench.drain()
