"""Clients of `DmaRead`: groups of segments, and what must come back."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import ReadAnswerLayout, ReadError, ReadRequestLayout
from tb.stream import Packet, PacketSink, StreamSource, always, bursty, cycles
from tests.unit.dma_read_completer import (
    BEHAVIOUR_AT,
    BUS_DEVICE,
    CLIENTS,
    CONTEXTS,
    ERRORS,
    FUNCTIONS,
    LANES,
    MAX_READ,
    QUOTAS,
    SILENT,
    Completer,
    memory_at,
)

__all__ = ["finish", "most_bytes_of", "pieces_of", "random_segments", "start"]



@dataclass
class Group:
    """A group that was asked for."""

    queue: int
    context: int
    lead: int
    errors: set[int]
    data: bytes
    asked_at: int = 0


def pieces_of(segments: list[tuple[int, int]], limit: int) -> int:
    """One TLP where one will do; else as many as the boundaries make."""
    def pieces(address: int, length: int) -> int:
        if address % 4 + length <= limit and address % 4096 + length <= 4096:
            return 1
        return (address + length - 1) // limit - address // limit + 1

    return sum(pieces(*segment) for segment in segments)


@dataclass
class Client:
    """A client: asks for groups, and checks the answers."""

    dut: Any
    index: int
    completer: Completer
    request_pace: Iterator[bool]
    answer_pace: Iterator[bool]
    waiting: dict[int, deque[Group]] = field(default_factory=dict)
    answered: int = 0
    serial: int = 0
    first_beat_at: int = 0

    def __post_init__(self) -> None:
        bits = CONTEXTS[self.index]
        self.source = StreamSource(self.dut, f"requests_{self.index}",
                                   ReadRequestLayout(LANES, bits), self.request_pace)
        self.sink = PacketSink(self.dut, f"answers_{self.index}", ReadAnswerLayout(LANES, bits),
                               self.answer_pace, self._answer)
        self.log: list[tuple[int, int]] = []

    def ask(self, queue: int, segments: list[tuple[int, int]], *, lead: int = 0, function: int = 0,
            failed: bool = False, fenced: int = 0) -> Group:
        limit = min(self.completer.read_size, MAX_READ)
        serial = self.serial
        self.serial += 1
        context = (serial << 5 | queue & 31) & ((1 << CONTEXTS[self.index]) - 1)
        data = b"".join(memory_at(function, *segment) for segment in segments)
        errors = {ERRORS[address >> BEHAVIOUR_AT].value for address, _ in segments}
        if len(errors) > 1:
            errors.discard(ReadError.NONE.value)
        if failed:
            errors = {ReadError.FAILED.value}
        if pieces_of(segments, limit) > QUOTAS[self.index]:
            errors = errors - {ReadError.NONE.value} | {ReadError.FAILED.value}
        group = Group(queue, context, lead, errors, data, self.completer.now)
        self.waiting.setdefault(queue, deque()).append(group)
        for number, (address, length) in enumerate(segments):
            first = number == 0
            self.source.send({
                "function": function, "queue": queue, "fenced": fenced,
                "context": context if first else random.getrandbits(CONTEXTS[self.index]),
                "address": address, "length": length,
                "lead": lead if first else random.randrange(LANES),
                "last": int(number == len(segments) - 1)})
        return group

    def _answer(self, packet: Packet) -> None:
        queue = packet.first["context"] & 31
        groups = [name for name in self.waiting if name & 31 == queue and self.waiting[name]]
        assert groups, f"client {self.index}: an answer for queue {queue}, which asked nothing"
        group = self.waiting[groups[0]].popleft()
        where = f"client {self.index} queue {group.queue}"
        assert packet.first["context"] == group.context, f"{where}: not in order"
        assert packet.first == packet.last, f"{where}: not the same on every beat"
        got = packet.data[group.lead:]
        assert len(got) == len(group.data), (
            f"{where}: {len(got)} bytes for {len(group.data)}, lead {group.lead}")
        error = packet.first["error"]
        assert error in group.errors, f"{where}: error {error}, not {group.errors}"
        if error == ReadError.NONE.value:
            assert got == group.data, f"{where}: other bytes, lead {group.lead}"
        self.answered += 1
        self.log.append((self.completer.now, group.queue))

    @property
    def open(self) -> int:
        return sum(map(len, self.waiting.values()))


def start(dut: Any, *, stalls: bool, latency: tuple[int, int], gaps: float = 0.0,
          boundary: int = 64, whole: bool = False, unexpected: float = 0.0,
          ) -> tuple[Completer, list[Client], random.Random]:
    rng = random.Random(cocotb.RANDOM_SEED)
    dut.read_size.value = 2
    dut.timeout_disable.value = 0
    dut.bus_device.value = BUS_DEVICE
    dut.bus_master.value = (1 << FUNCTIONS) - 1
    completer = Completer(dut, rng, tlp_pace=bursty(91) if stalls else always(), gaps=gaps,
                          latency=latency, boundary=boundary, whole=whole, unexpected=unexpected)
    clients = [Client(dut, index, completer, bursty(10 + index) if stalls else always(),
                      bursty(20 + index) if stalls else always()) for index in range(CLIENTS)]
    return completer, clients, rng


async def finish(dut: Any, completer: Completer, clients: list[Client],
                 patience: int = 1500) -> None:
    """Wait for all answers, none ``patience`` cycles after another; see that nothing is left."""
    edge = RisingEdge(dut.clk)
    answered, since = 0, 0
    while since < patience and any(client.open for client in clients):
        await edge
        now = sum(client.answered for client in clients)
        since = since + 1 if now == answered else 0
        answered = now
    assert not any(client.open for client in clients), (
        f"not answered: {[client.open for client in clients]}, "
        f"reads {[(read.tag, read.behaviour) for read in completer.reads.values()]}")
    completer.unexpected = 0.0
    await cycles(dut, 60)
    assert not [read for read in completer.reads.values() if read.behaviour != SILENT]
    assert completer.unexpected_seen == completer.injected
    completer.errors_made["non_fatal"] = completer.timed_out_seen
    assert +completer.errors_seen == +completer.errors_made
    assert not int(dut.pending.value) or any(completer.reads)


def random_segments(rng: random.Random, most_bytes: int, most_pieces: int, limit: int,
                    ) -> list[tuple[int, int]]:
    """Make a group: a few segments, or many tiny ones, of at most so many pieces."""
    while True:
        kind = rng.random()
        if kind < 0.25:
            sizes = [rng.choice([1, 2, LANES - 1, LANES, LANES + 1, 2 * LANES, 16, 72])]
        elif kind < 0.5:
            sizes = [rng.randint(1, 9) for _ in range(rng.randint(1, most_pieces))]
        elif kind < 0.75:
            sizes = [12, rng.randint(1, most_bytes)]
        else:
            sizes = [rng.randint(1, most_bytes) for _ in range(rng.randint(1, 4))]
        segments = []
        for size in sizes:
            address = rng.randrange(1 << 48)
            if rng.random() < 0.3:
                address &= ~0xFFF
            if rng.random() < 0.2:
                address = (address | 0xFFF) - rng.randrange(16)
            segments.append((address, size))
        if pieces_of(segments, limit) <= most_pieces and sum(sizes) <= most_bytes:
            return segments


def most_bytes_of(client: int) -> int:
    return min(9030, QUOTAS[client] * MAX_READ)
