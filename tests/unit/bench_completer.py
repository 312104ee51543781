"""Runs inside the simulator: requests of every kind through completer and configuration space."""

from __future__ import annotations

import os
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
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
from tb.stream import StreamSink, StreamSource, always, cycles, never, pace, reset
from tb.tlp import Completion, Request, TlpAssembler, TlpCodec, byte_enables, enabled_bytes
from tb.tlp_rules import completion_faults

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


CORRECTABLE, NON_FATAL, FATAL, UR = 1, 2, 4, 8


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def lengths(dut: Any, stalls: bool) -> None:
    """Reads and writes of chosen lengths at each alignment."""
    bench = await start(dut, stalls=stalls)
    words = LANES // 4
    sizes = {1, 2, 3, 4, 5, 8, LANES - 1, LANES, LANES + 1, 2 * LANES, 2 * LANES + 3, 4 * words + 2,
             127, 128, 129, 257}
    for size in sorted(sizes):
        for offset in bench.rng.sample([0, 1, 2, 3, 0x7C, 0x7F, LANES - 4], 3 + 2 * (LANES > 8)):
            bench.write(2, 0x1000 + offset, bench.rng.randbytes(size))
            bench.read(2, 0x1000 + offset, size)
    await bench.drain(200_000)
    bench.write(4, 0x7000, bench.rng.randbytes(4096))
    bench.read(4, 0x7000, 4096)
    bench.read(4, 0x7001, 4094)
    await bench.drain(60_000)
    assert bench.memory == bench.model
    assert await bench.errors() == (0, 0)


@cocotb.test
@cocotb.parametrize(seed=[1, 2])
async def random_accesses(dut: Any, seed: int) -> None:
    """Anything legal, many at once, DMA writes leaving all the while."""
    bench = await start(dut, stalls=True, seed=seed)
    rng = bench.rng
    bench.writes = True
    for _ in range(100 if LANES == 8 else 160):
        bar = rng.choice([0, 2, 4])
        offset = rng.randrange(SIZES[bar])
        size = rng.choice([1, 2, 4, 8, rng.randrange(1, 80), rng.randrange(1, 80),
                           rng.randrange(1, 400)])
        size = min(size, 4096 - offset % 4096)
        match rng.randrange(8):
            case 0 | 1 | 2:
                bench.write(bar, offset, rng.randbytes(size))
            case 3 | 4:
                bench.read(bar, offset, size)
            case 5:  # any bytes of one dword, none too
                bench.write_dwords(bar, offset & ~3, rng.randbytes(4), rng.randrange(16), 0)
            case 6:
                bench.read_dwords(bar, offset & ~3, 1, rng.randrange(16), 0)
            case 7:
                bench.send(Request(RequestKind.CONFIG_READ, 0, completer_id=WHO),
                           data=b"\xF4\x1A\x41\x10")
        if rng.random() < 0.1:
            await bench.drain()
    await bench.drain(60_000)
    assert bench.memory == bench.model
    assert not bench.answered_at


@cocotb.test
async def doorbells(dut: Any) -> None:
    """How fast a single-dword write is, and how many there can be."""
    bench = await start(dut)
    entered: list[int] = []
    left: list[int] = []

    async def watch() -> None:
        cycle = 0
        while True:
            await RisingEdge(dut.clk)
            cycle += 1
            if dut.cq__valid.value and dut.cq__ready.value:
                entered.append(cycle)
            if dut.mmio__valid.value and dut.mmio__ready.value:
                left.append(cycle)

    watching = cocotb.start_soon(watch())
    for queue in range(40):
        bench.write_dwords(2, 0x4000 + 4 * queue, queue.to_bytes(4, "little"), 0b0011, 0)
    await bench.drain()
    watching.cancel()
    latency = {there - here for here, there in zip(entered, left, strict=True)}
    gaps = {there - here for here, there in pairwise(left[1:])}
    dut._log.info(f"doorbell: {latency} cycles from cq to mmio, one in {gaps} cycles")
    assert latency == {1}
    assert gaps == {2}


@cocotb.test
async def answers_that_wait(dut: Any) -> None:
    """Doorbells go on while reads, a fence or the host's own stalls hold up completions."""
    bench = await start(dut)

    for holder in ("answers", "fence", "cc"):
        bench.writes = holder == "fence"
        await cycles(dut, 20 if bench.writes else 1)
        if holder == "answers":
            bench.answers.pace = never()
        if holder == "fence":
            bench.leaving = False
            bench.accepted += 1
            dut.writes_accepted.value = bench.accepted & 0xFF
            bench.writes = False
        if holder == "cc":
            bench.beats.pace = never()
        await cycles(dut, 3)
        completions = bench.completions
        for _ in range(7):
            bench.read(2, 0, 4)
        bench.send(Request(RequestKind.CONFIG_READ, 0x2C, completer_id=WHO))
        for queue in range(8):
            bench.write_dwords(2, 0x4000 + 4 * queue, bytes(4), 0b0011, 0)
        await cycles(dut, 150)
        assert not bench.expected_accesses, f"doorbells wait for {holder}"
        assert bench.completions == completions
        bench.leaving = True
        bench.answers.pace, bench.beats.pace = always(), always()
        await bench.drain()


@cocotb.test
async def fence_holds(dut: Any) -> None:
    """No completion leaves before the writes accepted before its data; it waits for no others."""
    bench = await start(dut)
    for count in (1, 5, 127):
        bench.leaving = False
        for _ in range(count):
            bench.accepted += 1
            dut.writes_accepted.value = bench.accepted & 0xFF
            await cycles(dut, 1)
        done = bench.completions
        bench.read(2, 0, 4)
        await cycles(dut, 40)
        late = bench.accepted
        bench.accepted += 0 if count == 127 else 1  # the answer need not wait for this one
        dut.writes_accepted.value = bench.accepted & 0xFF
        await cycles(dut, 3)
        while bench.left < late:
            assert bench.completions == done
            bench.left += 1
            dut.writes_left.value = bench.left & 0xFF
            await cycles(dut, 1)
        await bench.drain(20)
        bench.left = bench.accepted
        dut.writes_left.value = bench.left & 0xFF
        await cycles(dut, 2)
        bench.leaving = True
    # Configuration answers wait too.
    bench.leaving = False
    bench.accepted += 1
    dut.writes_accepted.value = bench.accepted & 0xFF
    await cycles(dut, 3)
    bench.send(Request(RequestKind.CONFIG_READ, 0, completer_id=WHO))
    await cycles(dut, 40)
    assert bench.asked
    bench.leaving = True
    await bench.drain()


@cocotb.test
async def configuration_write_settles(dut: Any) -> None:
    """A write that may turn MSI-X off is answered once no old message is on its way."""
    bench = await start(dut)
    dut.msix_sending.value = 1
    bench.send(Request(RequestKind.CONFIG_READ, 0x48, completer_id=WHO))
    await bench.drain(60)
    bench.send(Request(RequestKind.CONFIG_WRITE, 0x48, first_be=8, completer_id=WHO,
                       payload=b"\x00\x00\x00\x40"))
    await cycles(dut, 60)
    assert bench.asked, "answered although a message is under way"
    bench.leaving = False
    bench.accepted += 1  # the message
    dut.writes_accepted.value = bench.accepted & 0xFF
    dut.msix_sending.value = 0
    await cycles(dut, 60)
    assert bench.asked, "answered although the message has not left"
    bench.leaving = True
    await bench.drain(100)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def refused(dut: Any, stalls: bool) -> None:
    """What is not supported is answered so, what is posted is dropped; each is noted."""
    bench = await start(dut, stalls=stalls)
    nowhere = [0, BASES[0] - 4, BASES[0] + 0x1_0000, BASES[0] | 1 << 32, BASES[2] - 4,
               BASES[2] + 0x8000, BASES[2] ^ 1 << 63, BASES[4] ^ 1 << 40, BASES[4] - 4,
               BASES[2] & 0xFFFF_FFFF, BASES[4] & 0xFFFF_FFFF]
    payload = bench.rng.randbytes(4096)
    for address in nowhere:
        bench.send(Request(READ, address), status=UNSUPPORTED)
    assert await bench.errors() == (CORRECTABLE | UR, 0)
    for address in nowhere:
        size = bench.rng.choice([4, LANES, 64, 2 * LANES])
        size = min(size, 4096 - address % 4096)
        bench.send(Request(WRITE, address, size // 4, 0xF, 0xF if size > 4 else 0,
                           payload=payload[:size]))
    assert await bench.errors() == (NON_FATAL | UR, 0)
    for kind in (RequestKind.IO_READ, RequestKind.IO_WRITE):
        data = b"1234" if kind == RequestKind.IO_WRITE else b""
        bench.send(Request(kind, 0x1000, payload=data), status=UNSUPPORTED)
    for size in (0, 4, 8, 16, 64, 128):
        bench.send(Request(RequestKind.OTHER, BASES[2], max(1, size // 4), payload=payload[:size]),
                   status=UNSUPPORTED)
    assert await bench.errors() == (CORRECTABLE | UR, 0)
    for size in (0, 4, 8, 64, 72, 256):
        bench.send(Request(RequestKind.MESSAGE, bench.rng.getrandbits(62) << 2, size // 4,
                           bench.rng.getrandbits(4), bench.rng.getrandbits(4),
                           payload=payload[:size]))
    assert await bench.errors() == (0, 0)
    for function in range(1, 8):
        await bench.config(4, who=WHO | function, status=UNSUPPORTED)
        await bench.config(4, 0, who=WHO | function, status=UNSUPPORTED)
    assert await bench.errors() == (CORRECTABLE | UR, 0)
    # Poisoned data are not written, anywhere.
    for size in (4, LANES, 3 * LANES):
        bench.send(Request(WRITE, BASES[2], size // 4, 0xF, 0xF if size > 4 else 0, poisoned=1,
                           payload=payload[:size]))
    assert await bench.errors() == (NON_FATAL, 0x80)
    await bench.config(0x3C, 0x55, poisoned=1, status=UNSUPPORTED)
    assert await bench.config(0x3C) == 0
    assert await bench.errors() == (CORRECTABLE, 0x80)
    # The function's memory is shut.
    for off, on, register in ((0x0004, 0x0006, 0x04), (3, 0, 0x44)):
        await bench.config(register, off, enable=1)
        for bar, base in BASES.items():
            bench.send(Request(READ, base + 4 * bar), status=UNSUPPORTED)
            bench.send(Request(WRITE, base, payload=b"5678"))
        assert await bench.errors() == (CORRECTABLE | NON_FATAL | UR, 0)
        await bench.config(register, on, enable=1)
        for bar in BASES:
            bench.write(bar, 8, b"abcd")
            bench.read(bar, 8, 4)
        assert await bench.errors() == (0, 0)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def malformed(dut: Any, stalls: bool) -> None:
    """What breaks the rules of PCI Express is dropped and noted, and the next request is served."""
    bench = await start(dut, stalls=stalls)
    rng = bench.rng
    config = RequestKind.CONFIG_WRITE
    at = BASES[2]
    whole = rng.randbytes(4096 + 64)

    def sends() -> list[Request]:
        return [
            Request(READ, at, 0, 0xF, 0xF), Request(READ, at, 1025, 0xF, 0xF),
            Request(READ, at, 2047, 0xF, 0xF), Request(READ, at, 1, 0xF, 1),
            Request(READ, at, 2, 0, 0xF), Request(READ, at, 2, 0xF, 0),
            Request(READ, at + 0xFFC, 2, 0xF, 0xF), Request(READ, at + 4, 1024, 0xF, 0xF),
            Request(READ, at, 1, payload=whole[:4 * LANES]), Request(READ, at + 4, 1, 0, 8),
            Request(RequestKind.CONFIG_READ, 0, 2, completer_id=WHO),
            Request(RequestKind.CONFIG_READ, 0, 2, 0xF, 0xF, completer_id=WHO),
            Request(RequestKind.CONFIG_READ, 0, 1, last_be=1, completer_id=WHO),
            Request(RequestKind.CONFIG_READ, 0, 1, completer_id=WHO, payload=whole[:2 * LANES]),
            Request(config, 0x3C, 1, completer_id=WHO, payload=whole[:2 * LANES]),
            Request(config, 0x3C, 1, completer_id=WHO, payload=whole[:8]),
            Request(config, 0x3C, 2, completer_id=WHO, payload=whole[:8]),
            Request(config, 0x3C, 2, 0xF, 0xF, completer_id=WHO, payload=whole[:8]),
            Request(RequestKind.IO_READ, 0, 3, 0xF, 0xF),
            Request(RequestKind.IO_WRITE, 0, 1, last_be=2, payload=whole[:4]),
            Request(WRITE, at, 0, 0xF, 0xF, payload=whole[:4]),
            Request(WRITE, at, 1, 0xF, 0xF, payload=whole[:4]),
            Request(WRITE, at, 3, 0, 0xF, payload=whole[:12]),
            Request(WRITE, at, 3, 0xF, 0, payload=whole[:12]),
            Request(WRITE, at + 0xFFC, 2, 0xF, 0xF, payload=whole[:8]),
            Request(WRITE, at, 1025, 0xF, 0xF, payload=whole[:4100]),
            # As long as one beat or shorter, and the beat says otherwise.
            Request(WRITE, at, 1, 0xF, 0, payload=whole[:8]),
            Request(WRITE, at, 2, 0xF, 0xF, payload=whole[:4]),
            Request(WRITE, at, 1, 0xF, 0, payload=whole[:2 * LANES]),
            Request(WRITE, at, LANES // 4 + 1, 0xF, 0xF, payload=whole[:LANES]),
        ]

    for request in sends():
        bench.send(request, answered=False)
        if rng.random() < 0.5 or not stalls:
            assert (await bench.errors())[0] == FATAL, request
    await bench.drain()
    assert await bench.config(0x3C) == 0
    await bench.errors()
    # Where it shows late: what came is written, never more than the header says.
    words = LANES // 4
    for dwords, came in ((3 * words, 2 * words), (3 * words, 2 * words + 1),
                         (words + 1, 3 * words), (2 * words, 2 * words + 1),
                         (2 * words, 4 * words), (2 * words - 1, 2 * words)):
        payload = rng.randbytes(4 * came)
        for index in range(min(dwords, came)):
            value = int.from_bytes(payload[4 * index:4 * index + 4], "little")
            bench.expected_accesses.append((2, 4 * index, 1, 0xF, value))
            bench.model[2, 4 * index] = value
        bench.send(Request(WRITE, at, dwords, 0xF, 0xF, payload=payload))
        bench.read(2, 0, 4 * dwords)
        await bench.drain()
        assert (await bench.errors())[0] == FATAL, (dwords, came)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def window(dut: Any, stalls: bool) -> None:
    """The BARs through configuration space: same accesses, data in the answer."""
    bench = await start(dut, stalls=stalls)
    rng = bench.rng
    await bench.config(0x04, 0, enable=1)  # it works before the BARs have places
    for bar, length, offset in ((2, 1, 0x14), (2, 1, 0x15), (2, 1, 0x17), (2, 2, 0x18),
                                (2, 2, 0x1A), (2, 4, 0x20), (4, 4, 0x7FFC), (0, 4, 0xFFFC),
                                (2, 2, 0x4006)):
        await bench.config(0xDC, bar, enable=1)
        await bench.config(0xE0, offset)
        await bench.config(0xE4, length)
        lead, at = offset & 3, offset & ~3
        enable = ((1 << length) - 1) << lead
        value = rng.getrandbits(32)
        # The window's bytes of what is written, nothing of the others.
        shifted = value << 8 * lead & 0xFFFF_FFFF
        bench.expected_accesses.append((bar, at, 1, enable, shifted))
        mask = lanes_mask(enable)
        bench.model[bar, at] = bench.held(bar, at) & ~mask | shifted & mask
        await bench.config(0xE8, value)
        bench.expected_accesses.append((bar, at, 0, enable, None))
        found = await bench.config(0xE8)
        assert found == (bench.held(bar, at) & mask) >> 8 * lead
        assert found == value & (1 << 8 * length) - 1
        bench.answered_at.clear()
    for bar, length, offset in ((1, 4, 0), (2, 3, 0), (2, 4, 2), (2, 4, 0x8000)):
        await bench.config(0xDC, bar, enable=1)
        await bench.config(0xE0, offset)
        await bench.config(0xE4, length)
        await bench.config(0xE8, 0x1234_5678)
        assert await bench.config(0xE8) == 0
    await bench.config(0x04, 6, enable=1)
    bench.read(2, 0x14, 16)
    await bench.drain()
    assert bench.memory == bench.model


@cocotb.test
async def function_level_reset(dut: Any) -> None:
    """Configuration requests are told to come again, memory is shut, and nothing waits."""
    bench = await start(dut)
    resets = StreamSink(dut, "flr", 8, always())
    await bench.config(0x60, 0xA910, enable=0b0011)
    assert await resets.get() == 0
    for _ in range(20):  # many at once: none of them waits for the reset
        bench.send(Request(RequestKind.CONFIG_READ, 0, completer_id=WHO), status=RETRY)
        bench.send(Request(RequestKind.CONFIG_WRITE, 4, completer_id=WHO, payload=bytes(4)),
                   status=RETRY)
        bench.send(Request(READ, BASES[2]), status=UNSUPPORTED)
        bench.send(Request(WRITE, BASES[2], payload=bytes(4)))
    await bench.drain(2000)
    dut.flr_done__valid.value = 1
    await cycles(dut, 1)
    dut.flr_done__valid.value = 0
    assert await bench.config(0x04) == 0x0010_0000
    bench.send(Request(READ, BASES[2]), status=UNSUPPORTED)
    await bench.drain()
    await bench.enumerate()
    bench.read(2, 0, 4)
    await bench.drain()
