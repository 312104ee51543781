"""The DMA engines as their clients see them: a bench's stand-in for `DmaRead` and `DmaWrite`."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout, WriteSegmentLayout
from hw.stream.types import BeatLayout
from tb.stream import PacketSink, PacketSource, StreamSink

__all__ = ["ReadServer", "WriteServer"]

ReadFunction = Callable[[int, int], "bytes | int"]
"""Give the bytes at (address, length), or the number of a `ReadError`."""


class ReadServer:
    """Answer groups of reads after a random latency: in order within a queue alone."""

    def __init__(self, dut: Any, requests: str, answers: str, *, lanes: int, context_bits: int,
                 read: ReadFunction, latency: tuple[int, int] = (10, 60), seed: int = 0,
                 pace: Iterator[bool], answer_pace: Iterator[bool]) -> None:
        self._dut = dut
        self._read = read
        self._latency = latency
        self._rng = random.Random(seed)
        self._sink = StreamSink(dut, requests, ReadRequestLayout(lanes, context_bits), pace)
        self._source = PacketSource(dut, answers, ReadAnswerLayout(lanes, context_bits),
                                    answer_pace)
        self._lanes = lanes
        self.groups = 0
        """Groups that were asked for."""
        self.segments: list[dict[str, int]] = []
        """Every request, in order."""
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        edge = RisingEdge(self._dut.clk)
        now = 0
        group: list[dict[str, int]] = []
        waiting: dict[int, deque[tuple[int, list[dict[str, int]]]]] = defaultdict(deque)
        while True:
            await edge
            now += 1
            while not self._sink.empty():
                segment = await self._sink.get()
                assert segment["length"] >= 1
                self.segments.append(segment)
                if group:
                    assert segment["queue"] == group[0]["queue"], "groups are mixed"
                group.append(segment)
                if segment["last"]:
                    self.groups += 1
                    due = now + self._rng.randint(*self._latency)
                    waiting[segment["queue"]].append((due, group))
                    group = []
            ready = [queue for queue, list_ in waiting.items() if list_ and list_[0][0] <= now]
            if ready:
                _due, done = waiting[self._rng.choice(ready)].popleft()
                self._answer(done)

    def _answer(self, group: list[dict[str, int]]) -> None:
        content = b""
        error = 0
        for segment in group:
            found = self._read(segment["address"], segment["length"])
            if isinstance(found, int):
                error = error or found
                found = bytes(segment["length"])
            assert len(found) == segment["length"]
            content += found
        self._source.send(content, lead=group[0]["lead"],
                          each={"context": group[0]["context"], "error": error})


class WriteServer:
    """Take groups of writes, apply them in order, and accept each after a while."""

    def __init__(self, dut: Any, segments: str, data: str, accepted: str, *, lanes: int,
                 write: Callable[[int, bytes, int], None], pace: Iterator[bool],
                 data_pace: Iterator[bool], accept_pace: Iterator[bool]) -> None:
        self._dut = dut
        self._write = write
        self._segments = StreamSink(dut, segments, WriteSegmentLayout(), pace)
        self._data = PacketSink(dut, data, BeatLayout(lanes), data_pace)
        self._accepted = getattr(dut, accepted)
        self._accepted.value = 0
        self._pace = accept_pace
        self.groups = 0
        """Groups that were written."""
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        edge = RisingEdge(self._dut.clk)
        group: list[dict[str, int]] = []
        due = 0
        while True:
            await edge
            while not self._segments.empty() and not (group and group[-1]["last"]):
                group.append(await self._segments.get())
                assert group[-1]["length"] >= 1
            if group and group[-1]["last"] and not self._data.empty():
                content = await self._data.get_bytes()
                assert len(content) == sum(segment["length"] for segment in group)
                for segment in group:
                    self._write(segment["address"], content[:segment["length"]],
                                segment["function"])
                    content = content[segment["length"]:]
                group = []
                self.groups += 1
                due += 1
            go = bool(due and next(self._pace))
            due -= go
            self._accepted.value = go
