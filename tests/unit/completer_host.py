"""The host, the MMIO targets and the DMA writes of the card around a completer."""

from __future__ import annotations

import os
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import (
    CompletionHeader,
    CompletionStatus,
    MmioAnswer,
    MmioRequest,
    RequestHeader,
    RequestKind,
    TlpLayout,
)
from tb.stream import StreamSink, StreamSource, cycles, pace, reset
from tb.tlp import Completion, Request, TlpAssembler, TlpCodec, byte_enables, enabled_bytes
from tb.tlp_rules import completion_faults

__all__ = ["BASES", "LANES", "READ", "RETRY", "SIZES", "UNSUPPORTED", "WHO", "WRITE", "lanes_mask",
           "start"]

LANES = int(os.environ.get("RINGLET_LANES", "8"))
SUCCESS, UNSUPPORTED, RETRY = (
    CompletionStatus.SUCCESS, CompletionStatus.UNSUPPORTED, CompletionStatus.RETRY)
WHO = 0x0100
BASES = {0: 0xABCD_0000, 2: 0xFE_1234_8000, 4: 0xCAFE_F00D_8765_0000}
SIZES = {0: 0x1_0000, 2: 0x8000, 4: 0x8000}
READ, WRITE = RequestKind.MEM_READ, RequestKind.MEM_WRITE


@dataclass
class Asked:
    """A request that wants an answer, and what came."""

    request: Request
    status: CompletionStatus
    data: bytes | None = None          # of all dwords; None: not looked at
    got: bytearray = field(default_factory=bytearray)
    received: int = 0


class Bench:
    """The host, the MMIO targets and the DMA writes of the card, with a model of all three."""

    def __init__(self, dut: Any, *, stalls: bool = False, seed: int = 0) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED + seed)
        self.codec = TlpCodec.requests(LANES)
        self.cq = StreamSource(dut, "cq", TlpLayout(LANES, RequestHeader()), pace(stalls, 11))
        self.assembler: TlpAssembler[Completion] = TlpAssembler(TlpCodec.completions(LANES))
        self.beats = Beats(dut, "cc", TlpLayout(LANES, CompletionHeader()), pace(stalls, 12),
                           tell=self._beat)
        self.mmio = StreamSink(dut, "mmio", MmioRequest(), pace(stalls, 13), tell=self._access)
        self.answers = Answers(dut, "mmio_answers", MmioAnswer(), pace(stalls, 14))
        self.expected_accesses: deque[tuple[int, int, int, int, int | None]] = deque()
        self.asked: deque[Asked] = deque()
        self.completions = 0
        self.model: dict[tuple[int, int], int] = {}  # what the targets hold in the end
        self.memory: dict[tuple[int, int], int] = {}  # what they hold now
        self.tag = 0
        # DMA writes of the card, counted without end.
        self.accepted = self.left = 0
        self.writes = False
        self.leaving = True
        self.answered_at: deque[int] = deque()  # `accepted` when each answer dword was taken
        self.first_beat_left = 0
        for name in ("writes_accepted", "writes_left", "msix_sending", "flr__ready",
                     "flr_done__valid", "flr_done__payload"):
            getattr(dut, name).value = 0

    # --- what runs beside the test

    async def start(self) -> None:
        await reset(self.dut)
        cocotb.start_soon(self._dma_writes())
        cocotb.start_soon(self._watch_answers())

    async def _dma_writes(self) -> None:
        """Let DMA writes be accepted, and leave."""
        rng = random.Random(99)
        pending = deque([0, 0])
        while True:
            await RisingEdge(self.dut.clk)
            # A write leaves two cycles after it was accepted, or later.
            pending.append(self.accepted)
            may_leave = pending.popleft()
            if self.leaving and self.left < may_leave and rng.random() < 0.2:
                self.left += 1
                self.dut.writes_left.value = self.left & 0xFF
            if self.writes and rng.random() < 0.2 and self.accepted - self.left < 100:
                self.accepted += 1
                self.dut.writes_accepted.value = self.accepted & 0xFF

    async def _watch_answers(self) -> None:
        edge = RisingEdge(self.dut.clk)
        valid, ready = self.dut.mmio_answers__valid, self.dut.mmio_answers__ready
        while True:
            await edge
            if valid.value and ready.value:
                # The count that the card sees in this very cycle.
                self.answered_at.append(self.accepted)

    def _access(self, access: dict[str, Any]) -> None:
        assert self.expected_accesses, f"an access too many: {access}"
        bar, offset, write, enable, value = self.expected_accesses.popleft()
        assert (access["function"], access["bar"], access["offset"], access["write"],
                access["enable"]) == (0, bar, offset, write, enable), access
        if write:
            mask = lanes_mask(enable)
            assert value is not None
            assert access["data"] & mask == value & mask
            old = self.memory.get((bar, offset), pattern(bar, offset))
            self.memory[bar, offset] = old & ~mask | value & mask
        else:
            self.answers.send({"data": self.memory.get((bar, offset), pattern(bar, offset))})

    def _beat(self, beat: int) -> None:
        if not self.assembler.inside:
            self.first_beat_left = self.left
        completion = self.assembler.feed(beat)
        if completion is not None:
            self._completed(completion)

    def _completed(self, completion: Completion) -> None:
        assert self.asked, f"an answer too many: {completion}"
        asked = self.asked[0]
        self.completions += 1
        faults = list(completion_faults(asked.request, completion, asked.received))
        assert not faults, (asked.request, completion, faults)
        assert completion.tag == asked.request.tag
        assert completion.status == asked.status, (asked.request, completion.status)
        assert not completion.poisoned
        assert completion.completer_id == (asked.request.completer_id or WHO)
        low, total = enabled_bytes(asked.request.dwords, asked.request.first_be,
                                   asked.request.last_be)
        asked.got += completion.payload
        if asked.request.kind == READ and asked.status == SUCCESS and asked.request.first_be:
            # None of the writes that were accepted before the data came are passed.
            for _ in range(completion.dwords):
                assert self.first_beat_left >= self.answered_at.popleft()
        asked.received = min(total, len(asked.got) - low)
        if (asked.status != SUCCESS or len(asked.got) == 4 * asked.request.dwords
                or asked.request.kind == RequestKind.CONFIG_WRITE):
            if asked.data is not None:
                assert bytes(asked.got) == asked.data, asked.request
            self.asked.popleft()

    # --- what a test does

    def send(self, request: Request, *, status: CompletionStatus = SUCCESS,
             data: bytes | None = None, answered: bool = True) -> Asked | None:
        """Send any request; non-posted ones are expected to be answered unless told otherwise."""
        request.tag = self.tag
        self.tag = (self.tag + 1) % 1024
        request.requester_id = self.rng.getrandbits(16)
        request.attributes = self.rng.getrandbits(3)
        request.traffic_class = self.rng.getrandbits(3)
        asked = None
        if not request.posted and answered:
            asked = Asked(request, status, data)
            self.asked.append(asked)
        for beat in self.codec.beats(request):
            self.cq.send(beat)
        return asked

    async def drain(self, limit: int = 20_000) -> None:
        """Wait until all is answered, and see that nothing is left over."""
        for _ in range(limit):
            if self.cq.idle and not self.asked and not self.expected_accesses:
                break
            await RisingEdge(self.dut.clk)
        else:
            raise TimeoutError(f"{len(self.asked)} answers and {len(self.expected_accesses)} "
                               f"accesses are missing")
        await cycles(self.dut, 12)
        assert not self.assembler.inside and self.answers.idle

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Write bytes to a BAR, and expect the accesses."""
        dwords, first_be, last_be = byte_enables(offset, len(data))
        payload = (self.rng.randbytes(offset & 3) + data).ljust(4 * dwords, b"\x77")
        self.write_dwords(bar, offset & ~3, payload, first_be, last_be)

    def write_dwords(self, bar: int, offset: int, payload: bytes, first_be: int,
                     last_be: int) -> None:
        request = Request(WRITE, BASES[bar] + offset, len(payload) // 4, first_be, last_be,
                          payload=payload)
        for index in range(request.dwords):
            enable = request.mask(index)
            if request.dwords == 1 and not enable:
                continue
            at = offset + 4 * index
            value = int.from_bytes(payload[4 * index:4 * index + 4], "little")
            mask = lanes_mask(enable)
            self.model[bar, at] = self.held(bar, at) & ~mask | value & mask
            self.expected_accesses.append((bar, at, 1, enable, value))
        self.send(request)

    def held(self, bar: int, offset: int) -> int:
        return self.model.get((bar, offset), pattern(bar, offset))

    def read(self, bar: int, offset: int, size: int) -> Asked:
        """Read bytes of a BAR, and expect the accesses and the data."""
        dwords, first_be, last_be = byte_enables(offset, size)
        return self.read_dwords(bar, offset & ~3, dwords, first_be, last_be)

    def read_dwords(self, bar: int, offset: int, dwords: int, first_be: int,
                    last_be: int) -> Asked:
        request = Request(READ, BASES[bar] + offset, dwords, first_be, last_be)
        data = b""
        for index in range(dwords):
            at = offset + 4 * index
            data += self.held(bar, at).to_bytes(4, "little")
            if dwords > 1 or first_be:
                self.expected_accesses.append((bar, at, 0, request.mask(index), None))
        asked = self.send(request, data=data if dwords > 1 or first_be else bytes(4))
        assert asked is not None
        return asked

    async def config(self, at: int, value: int | None = None, *, enable: int = 0xF, who: int = WHO,
                     status: CompletionStatus = SUCCESS, **other: Any) -> int:
        """Access configuration space and wait for the answer."""
        kind = RequestKind.CONFIG_READ if value is None else RequestKind.CONFIG_WRITE
        asked = self.send(
            Request(kind, at, first_be=enable, completer_id=who,
                    payload=b"" if value is None else value.to_bytes(4, "little"), **other),
            status=status)
        await self.drain()
        assert asked is not None
        return int.from_bytes(asked.got, "little")

    async def enumerate(self) -> None:
        """Give the BARs their places."""
        await self.config(0x10, BASES[0])
        await self.config(0x18, BASES[2] & 0xFFFF_FFFF)
        await self.config(0x1C, BASES[2] >> 32)
        await self.config(0x20, BASES[4] & 0xFFFF_FFFF)
        await self.config(0x24, BASES[4] >> 32)
        await self.config(0x04, 0x6, enable=1)

    async def errors(self) -> tuple[int, int]:
        """Give and clear the error bits: device status 3:0, and PCI status 15:8."""
        device = await self.config(0x60)
        status = await self.config(0x04)
        await self.config(0x60, 0x000F_0000, enable=0b0100)
        await self.config(0x04, 0xFF00_0000, enable=0b1000)
        return device >> 16 & 0xF, status >> 24


class Beats(StreamSink):
    """Gives beats as numbers, for an assembler."""

    def _take(self, word: int) -> None:
        self._tell(word)


class Answers(StreamSource):
    """What the targets answer."""


def pattern(bar: int, offset: int) -> int:
    """What a target holds before anybody wrote to it."""
    return (offset * 0x9E37_79B1 ^ bar * 0x1234_5679) & 0xFFFF_FFFF


def lanes_mask(enable: int) -> int:
    return sum(0xFF << 8 * lane for lane in range(4) if enable >> lane & 1)


async def start(dut: Any, *, stalls: bool = False, seed: int = 0) -> Bench:
    bench = Bench(dut, stalls=stalls, seed=seed)
    await bench.start()
    await bench.enumerate()
    return bench
