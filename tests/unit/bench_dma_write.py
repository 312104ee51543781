"""cocotb side of test_dma_write.py: every byte of every write, in the order accepted."""

from __future__ import annotations

import itertools
import os
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import RequestHeader, RequestKind, TlpLayout, WriteSegmentLayout
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
from tb.tlp import Request, TlpAssembler, TlpCodec, byte_enables

LANES = int(os.environ["RINGLET_LANES"])
CLIENTS = int(os.environ["RINGLET_CLIENTS"])
FUNCTIONS = int(os.environ["RINGLET_FUNCTIONS"])
BUS_DEVICE = 0x5A << 5 | (0 if FUNCTIONS > 8 else 19)
PAGE = 4096


def requester_of(function: int) -> int:
    return BUS_DEVICE << 3 | function


@dataclass
class Group:
    """Segments of one function, address and bytes each."""

    function: int
    segments: list[tuple[int, bytes]]


def cut(address: int, size: int, payload: int) -> Iterator[tuple[int, int]]:
    """Give address and length of each TLP that a segment becomes."""
    while size > 0:
        room = min(payload - address % 4, PAGE - address % PAGE)
        yield address, min(size, room)
        address, size = address + room, size - room


class Bench:
    """Clients on one side, a root port that compares on the other."""

    def __init__(self, dut: Any, *, client_stalls: bool = False, stalls: bool = False) -> None:
        self.dut = dut
        self.edge = RisingEdge(dut.clk)
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.payload = 128
        dut.payload_size.value = 0
        dut.bus_device.value = BUS_DEVICE
        dut.bus_master.value = (1 << FUNCTIONS) - 1
        dut.reads_master.value = 0
        dut.refused__ready.value = 0
        dut.reads__valid.value = 0
        dut.reads__payload.value = 0
        dut.np_credit.value = 0
        self.segments = [StreamSource(dut, f"segments__{k}", WriteSegmentLayout(),
                                      pace(client_stalls, 10 + k)) for k in range(CLIENTS)]
        self.data = [PacketSource(dut, f"data__{k}", BeatLayout(LANES),
                                  pace(client_stalls, 30 + k)) for k in range(CLIENTS)]
        self.groups: list[deque[Group]] = [deque() for _ in range(CLIENTS)]
        self.order: list[int] = []                 # clients, as accepted
        self.expected: deque[tuple[Request, bytes]] = deque()
        self.tlps = TlpAssembler(TlpCodec.requests(LANES))
        self.beat_cycles: list[int] = []
        self.now = 0
        self.discarded: list[int] = []
        # Every beat means its header and its enabled bytes; so it is compared as a number here.
        self.rq = StreamSink(dut, "rq", TlpLayout(LANES, RequestHeader()), pace(stalls, 50),
                             tell=self._beat)
        self.rq._port.fields.unpack = lambda word: word  # type: ignore[method-assign]

    async def start(self, payload: int = 128) -> None:
        await reset(self.dut)
        cocotb.start_soon(self._watch())
        self.set_payload(payload)
        await cycles(self.dut, 2)

    def set_payload(self, payload: int) -> None:
        self.payload = payload
        self.dut.payload_size.value = {128: 0, 256: 1, 512: 2}[payload]

    def send(self, client: int, function: int, *segments: tuple[int, int]) -> None:
        """Queue a group of (address, length), with random bytes."""
        group = Group(function, [(at, self.rng.randbytes(size)) for at, size in segments])
        self.groups[client].append(group)
        self.data[client].send(b"".join(chunk for _, chunk in group.segments))
        for index, (at, chunk) in enumerate(group.segments):
            self.segments[client].send({
                "function": function, "address": at, "length": len(chunk),
                "last": index == len(segments) - 1})

    async def _watch(self) -> None:
        """Note what is accepted: that is what must come, and in that order."""
        pulses = [getattr(self.dut, f"accepted__{k}") for k in range(CLIENTS)]
        discarded, whose = self.dut.discarded__valid, self.dut.discarded__payload
        while True:
            await self.edge
            self.now += 1
            accepted = [k for k, pulse in enumerate(pulses) if pulse.value]
            assert len(accepted) <= 1
            for client in accepted:
                group = self.groups[client].popleft()
                self.order.append(client)
                if discarded.value:
                    assert int(whose.value) == group.function
                    self.discarded.append(group.function)
                    continue
                for at, chunk in group.segments:
                    self._expect(group.function, at, chunk)

    def _expect(self, function: int, at: int, chunk: bytes) -> None:
        done = 0
        for address, size in cut(at, len(chunk), self.payload):
            dwords, first, last = byte_enables(address, size)
            tlp = Request(RequestKind.MEM_WRITE, address & ~3, dwords, first, last,
                          requester_of(function))
            self.expected.append((tlp, chunk[done:done + size]))
            done += size

    def _beat(self, word: int) -> None:
        self.beat_cycles.append(self.now)
        tlp = self.tlps.feed(word)
        if tlp is None:
            return
        assert self.expected, f"nothing was accepted that would give {tlp}"
        expected, chunk = self.expected.popleft()
        start = (expected.first_be & -expected.first_be).bit_length() - 1
        assert tlp.payload[start:start + len(chunk)] == chunk, expected
        tlp.payload = b""
        assert tlp == expected

    async def finish(self, timeout_cycles: int = 60_000) -> None:
        """Wait until all is written; nothing may be left over, and the counts agree."""
        for _ in range(timeout_cycles):
            if not any(self.groups) and not self.expected:
                break
            await self.edge
        else:
            raise TimeoutError(f"{len(self.expected)} TLPs and {[len(g) for g in self.groups]} "
                               "groups are missing")
        for source in (*self.segments, *self.data):  # those of discarded groups take longer
            await source.drain()
        await cycles(self.dut, 20)
        assert not self.expected and not self.tlps.inside
        accepted = len(self.order) - len(self.discarded)
        assert int(self.dut.writes_accepted.value) == accepted % 256
        assert int(self.dut.writes_left.value) == accepted % 256


LONG = [4 * LANES - 1, 4 * LANES, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1514, 4096, 4097]


@cocotb.test
@cocotb.parametrize(payload=[128, 256, 512], stalls=[False, True])
async def alignments(dut: Any, payload: int, stalls: bool) -> None:
    """Short writes at every offset in a beat, a payload and a page; long ones at some."""
    bench = Bench(dut, client_stalls=stalls, stalls=stalls)
    await bench.start(payload)
    rng = bench.rng
    sizes = [1, 2, 3, 4, 5, LANES - 1, LANES, LANES + 1, 2 * LANES]
    for index in range(PAGE - LANES - 3, PAGE + 4):
        bench.send(0, 0, (0x1_0000_0000 + index, sizes[index % len(sizes)]))
    for size in [*LONG, rng.randint(1, 9030)]:
        base = rng.choice([0, PAGE - size % PAGE, PAGE - payload, PAGE - 2 * payload])
        bench.send(0, rng.randrange(FUNCTIONS),
                   ((rng.getrandbits(51) << 12) + base + rng.choice([0, 1, 2, 3, 4, 60, 63]), size))
        if rng.random() < 0.7:  # the next one finds nothing on its way
            await bench.finish()
    await bench.finish()


@cocotb.test
async def long_segments(dut: Any) -> None:
    """Any length up to a jumbo frame, and one as long as a segment can be."""
    bench = Bench(dut)
    await bench.start(256)
    rng = bench.rng
    sizes = [9030, 9029, *(rng.randint(1, 9030) for _ in range(LANES // 2))]
    for index, size in enumerate(sizes):
        bench.send(index % CLIENTS, 0, ((rng.getrandbits(50) << 12) + rng.randrange(PAGE), size))
    if LANES == 64:
        bench.send(0, 0, (0x1234_5678_9AB1, (1 << 17) - 1))
    await bench.finish()


@cocotb.test
@cocotb.parametrize(client_stalls=[False, True], stalls=[False, True])
async def groups(dut: Any, client_stalls: bool, stalls: bool) -> None:
    """Groups of many segments from all clients: each group is whole, in the order accepted."""
    bench = Bench(dut, client_stalls=client_stalls, stalls=stalls)
    await bench.start(256)
    rng = bench.rng
    for _ in range(25):
        for client in range(CLIENTS):
            segments = []
            for _ in range(rng.choice([1, 1, 2, 3, 8])):
                size = rng.choice([1, 1, 2, 3, 7, 8, 16, LANES, 72, rng.randint(1, 700)])
                segments.append((rng.getrandbits(62) & ~0xFFF | rng.randrange(PAGE), size))
            bench.send(client, rng.randrange(FUNCTIONS), *segments)
    await bench.finish()
    assert sorted(bench.order) == sorted(list(range(CLIENTS)) * 25)
    if not client_stalls:  # all of them always have something: they take turns
        assert bench.order == list(range(CLIENTS)) * 25


@cocotb.test
async def carries(dut: Any) -> None:
    """Addresses whose next page or payload changes all bits, in long segments."""
    bench = Bench(dut)
    for payload in (128, 256, 512):
        if payload == 128:
            await bench.start(payload)
        else:
            bench.set_payload(payload)
            await cycles(dut, 3)
        for low in (0, 1, 4, payload - 1, payload - 4, payload, payload + 8):
            bench.send(0, 0, ((1 << 40) - PAGE + PAGE - 2 * payload + low - 4, 4 * payload + 9))
        bench.send(0, 0, ((1 << 64) - 3 * payload - 1, 3 * payload + 1))  # the last byte there is
        bench.send(0, 0, (PAGE - payload - 2, 2))
        bench.send(0, 0, (PAGE - payload - 2, 3))
        bench.send(0, 0, (PAGE - payload + 2, payload))
        await bench.finish()


@cocotb.test
async def one_byte_segments(dut: Any) -> None:
    """A group of single bytes becomes as many TLPs, one each cycle."""
    bench = Bench(dut)
    await bench.start(128)
    bench.send(1 % CLIENTS, 1, *((0x7000 + 5 * k, 1) for k in range(3 * LANES + 1)))
    await bench.finish()
    spans = {b - a for a, b in itertools.pairwise(bench.beat_cycles)}
    dut._log.info("cycles between one-byte TLPs: %s", sorted(spans))
    assert spans == {1}


@cocotb.test
async def bus_master_off(dut: Any) -> None:
    """Groups of a function that may not master the bus go nowhere, and hold up nobody."""
    bench = Bench(dut, client_stalls=True, stalls=True)
    await bench.start(128)
    rng = bench.rng
    for _ in range(12):
        dut.bus_master.value = mask = rng.getrandbits(FUNCTIONS)
        before = len(bench.discarded)
        off = 0
        await cycles(dut, 3)
        for client in range(CLIENTS):
            for _ in range(6):
                function = rng.randrange(FUNCTIONS)
                off += not mask >> function & 1
                sizes = rng.choices([1, 2, 8, LANES, 300], k=rng.randint(1, 4))
                bench.send(client, function, *((rng.getrandbits(40), size) for size in sizes))
        await bench.finish()
        assert len(bench.discarded) - before == off


@cocotb.test
async def payload_size_changes(dut: Any) -> None:
    """The size used is never above the one set, nor above the largest of the card."""
    bench = Bench(dut)
    await bench.start(128)
    for code, payload in ((2, 512), (5, 512), (1, 256), (0, 128), (7, 512)):
        dut.payload_size.value = code
        bench.payload = payload
        await cycles(dut, 3)
        bench.send(0, 0, (0x5003, 2000))
        await bench.finish()


async def _rate(bench: Bench, size: int, count: int, clients: int) -> float:
    """Cycles a group, back to back."""
    bench.beat_cycles.clear()
    first_of = -(-size // LANES)
    for index in range(count):
        bench.send(index % clients, 0, (0x1_0000 * (index + 1), size))
    await bench.finish()
    beats = bench.beat_cycles[first_of - 1::first_of]  # the last beat of each
    return (beats[-1] - beats[0]) / (len(beats) - 1)


@cocotb.test
async def rates(dut: Any) -> None:
    """Small writes back to back, from one client and from several, lose no cycle."""
    bench = Bench(dut)
    await bench.start(512)
    for clients in {1, CLIENTS}:
        for size in (2, 8, 72, 128, 1024):
            rate = await _rate(bench, size, 60 if size < 100 else 12, clients)
            beats = -(-size // LANES)
            dut._log.info("%d clients, %d bytes: %.2f cycles a group, %d beats",
                          clients, size, rate, beats)
            assert rate == beats
    # Unaligned and multi-TLP: as many cycles as there are beats.
    for low in (0, 1, 2, 3):
        for size in (1514, 4000):
            bench.beat_cycles.clear()
            for index in range(3):
                bench.send(index % CLIENTS, 0, (0x4_0000 * (index + 1) + low, size))
            await bench.finish()
            span = bench.beat_cycles[-1] - bench.beat_cycles[0] + 1
            dut._log.info("%d bytes at offset %d: %d cycles for %d beats", size, low, span,
                          len(bench.beat_cycles))
            assert span <= len(bench.beat_cycles) * 1.02 + 2


@cocotb.test
async def latency(dut: Any) -> None:
    """From the first beat, offered with its segment, to the beat on rq."""
    bench = Bench(dut)
    await bench.start(128)
    for size in (2, 8, LANES, 2 * LANES):
        await cycles(dut, 20)
        bench.beat_cycles.clear()
        bench.send(0, 0, (0x2000, size))
        while not dut.data__0__valid.value:
            await bench.edge
        offered = bench.now
        await bench.finish()
        dut._log.info("%d bytes: %d cycles from data to rq", size, bench.beat_cycles[0] - offered)
        assert bench.beat_cycles[0] - offered <= 5


@cocotb.test
async def mixture(dut: Any) -> None:
    """What the other tests do apart, at once: paces of all kinds, sizes, functions, groups."""
    bench = Bench(dut, client_stalls=True)
    bench.rq.pace = bursty(77, 0.1)
    await bench.start(512)
    rng = bench.rng
    for round_ in range(3):
        for client in range(CLIENTS):
            bench.data[client].pace = bursty(90 + client, rng.choice([0.05, 0.3, 0.9]))
            bench.segments[client].pace = rng.choice([always(), bursty(client + round_, 0.2)])
            for _ in range(6):
                sizes = [rng.choice([1, 4, 8, 200, LANES]) for _ in range(rng.randint(1, 3))]
                sizes.append(rng.randint(1, 16 * LANES))
                bench.send(client, rng.randrange(FUNCTIONS),
                           *((rng.getrandbits(63), size) for size in sizes))
        await bench.finish()
