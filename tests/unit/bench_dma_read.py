"""cocotb side of test_dma_read.py: a completer that does all it may, and clients that check."""

from __future__ import annotations

import os
import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.config_types import ErrorLayout
from hw.pcie.types import (
    CompletionHeader,
    CompletionStatus,
    ReadAnswerLayout,
    ReadError,
    ReadRequestLayout,
    ReadTlpLayout,
    RequestKind,
    TlpLayout,
)
from tb.stream import (
    Fields,
    Packet,
    PacketSink,
    StreamSink,
    StreamSource,
    always,
    bursty,
    cycles,
    reset,
)

LANES = int(os.environ["RINGLET_LANES"])
TAGS = int(os.environ["RINGLET_TAGS"])
MAX_READ = int(os.environ["RINGLET_MAX_READ_BYTES"])
TIMEOUT = int(os.environ["RINGLET_TIMEOUT_CYCLES"])
FUNCTIONS = int(os.environ["RINGLET_FUNCTIONS"])
QUOTAS = [int(word) for word in os.environ["RINGLET_QUOTAS"].split(",")]
CONTEXTS = [int(word) for word in os.environ["RINGLET_CONTEXTS"].split(",")]
QUEUES = int(os.environ["RINGLET_QUEUES"])
CLIENTS = len(QUOTAS)
BUS_DEVICE = 0x5A7

# What the completer does is written in the upper address bits.
PLAIN, UNSUPPORTED, ABORT, POISON, SILENT, HELD, RETRY, UNSENT = range(8)
ERRORS = {PLAIN: ReadError.NONE, UNSUPPORTED: ReadError.FAILED, ABORT: ReadError.FAILED,
          RETRY: ReadError.FAILED, UNSENT: ReadError.FAILED, POISON: ReadError.POISONED,
          SILENT: ReadError.TIMEOUT, HELD: ReadError.NONE}
BEHAVIOUR_AT = 56

_PERIOD = 65521  # a prime: no two addresses that may be mistaken for each other hold the same bytes
_BLOCK = random.Random(7).randbytes(_PERIOD)
_BLOCK += _BLOCK


def memory_at(function: int, address: int, length: int) -> bytes:
    """Give what host memory holds, as ``function`` sees it."""
    at = (address + 7919 * function) % _PERIOD
    return (_BLOCK * (1 + length // _PERIOD))[at:at + length]


def function_of(requester: int) -> int:
    if FUNCTIONS > 8:
        assert requester >> 8 == BUS_DEVICE >> 5
        return requester & 0xFF
    assert requester >> 3 == BUS_DEVICE
    return requester & 7


@dataclass
class Read:
    """A read that waits for completions."""

    tag: int
    requester: int
    address: int
    length: int
    due: int
    left_at: int
    behaviour: int = PLAIN
    done: int = 0

    @property
    def function(self) -> int:
        return function_of(self.requester)


class Completer:
    """Check the TLPs that leave, and answer them: late, in any order of tags, in any legal cuts."""

    def __init__(self, dut: Any, rng: random.Random, *, tlp_pace: Iterator[bool],
                 gaps: float, latency: tuple[int, int], boundary: int = 64,
                 whole: bool = False, unexpected: float = 0.0) -> None:
        self.dut = dut
        self.rng = rng
        self.gaps = gaps
        self.latency = latency
        self.boundary = boundary
        self.whole = whole
        self.unexpected = unexpected
        self.read_size = 512
        self.reads: dict[int, Read] = {}
        self.tlps: list[tuple[int, Read]] = []
        self.now = 0
        self.injected = 0
        self.unexpected_seen = 0
        self.timed_out_seen = 0
        self.errors = Fields(ErrorLayout())
        self.errors_seen: Counter[str] = Counter()
        self.errors_made: Counter[str] = Counter()
        self.hold = True  # whether HELD reads are held
        self.last_beat_at = 0
        self.fields = Fields(TlpLayout(LANES, CompletionHeader()))
        self.sink = StreamSink(dut, "tlps", ReadTlpLayout(), tlp_pace, self._tlp)
        self.refused = StreamSource(dut, "refused", 10, always())
        dut.rc__valid.value = 0
        dut.rc__payload.value = 0
        self.sending = False
        cocotb.start_soon(self._run())

    def _tlp(self, tlp: dict[str, Any]) -> None:
        header = tlp["header"]
        assert header["kind"] == RequestKind.MEM_READ.value
        assert header["address"] % 4 == 0
        dwords, first_be, last_be = header["dwords"], header["first_be"], header["last_be"]
        assert dwords >= 1 and first_be
        enables = first_be if dwords == 1 else first_be | last_be << 4 * (dwords - 1)
        if dwords == 1:
            assert last_be == 0
        else:
            assert last_be
            enables |= ((1 << 4 * (dwords - 2)) - 1) << 4
        skip = (enables & -enables).bit_length() - 1
        length = enables.bit_length() - skip
        assert skip < 4 and enables == ((1 << length) - 1) << skip, "a hole in the byte enables"
        assert length > 4 * (dwords - 1) - skip
        address = header["address"] + skip
        limit = min(self.read_size, MAX_READ)
        assert 4 * dwords <= limit, "more than may be read at once"
        assert address >> 12 == (address + length - 1) >> 12, "over a 4 KiB boundary"
        tag = header["tag"]
        assert tag < TAGS
        if tag in self.reads:
            old = self.reads[tag]
            assert old.behaviour == SILENT and self.now - old.left_at > TIMEOUT, (
                f"tag {tag} is in use")
        read = Read(tag, header["requester_id"], address, length,
                    due=self.now + self.rng.randint(*self.latency), left_at=self.now,
                    behaviour=address >> BEHAVIOUR_AT)
        self.tlps.append((self.now, read))
        if read.behaviour == UNSENT:
            self.refused.send(tag)
        else:
            self.reads[tag] = read

    def _completion(self, read: Read) -> Iterator[dict[str, Any]]:
        """Make the next completion of a read, and note that it is sent."""
        rng = self.rng
        address = read.address + read.done
        left = read.length - read.done
        ends = [stop - address for stop in range(address // self.boundary * self.boundary
                                                  + self.boundary, address + left, self.boundary)]
        length = left if self.whole else rng.choice([*ends, left])
        header = {"byte_count": left, "lower_address": address & 0x7F,
                  "requester_id": read.requester, "completer_id": 0x100, "tag": read.tag,
                  "status": 0, "poisoned": 0}
        bad = {UNSUPPORTED: CompletionStatus.UNSUPPORTED, ABORT: CompletionStatus.ABORT,
               RETRY: CompletionStatus.RETRY}.get(read.behaviour)
        if bad is not None and (length == left or rng.random() < 0.5):
            del self.reads[read.tag]
            self.errors_made[
                "target_abort" if bad == CompletionStatus.ABORT else "master_abort"] += 1
            yield self._beat(header | {"status": bad.value, "dwords": 0, "byte_count": 4}, b"", 1)
            return
        if read.behaviour == POISON and (length == left or rng.random() < 0.5):
            header["poisoned"] = 1
            self.errors_made.update(("correctable", "poisoned", "master_parity"))
        if read.behaviour == POISON and length != left:
            # Poisoned once is poisoned for all: the rest may be whole.
            read.behaviour = PLAIN if header["poisoned"] else POISON
        data = memory_at(read.function, address, length)
        skip = address & 3
        payload = rng.randbytes(skip) + data
        payload += rng.randbytes(-len(payload) % 4)
        header["dwords"] = len(payload) // 4
        read.done += length
        if read.done == read.length:
            del self.reads[read.tag]
        yield from self._beats(header, payload)

    def _beats(self, header: dict[str, int], payload: bytes) -> Iterator[dict[str, Any]]:
        for start in range(0, len(payload), LANES):
            yield self._beat(header if start == 0 else
                             {"tag": self.rng.randrange(1024), "byte_count": 1},  # means nothing
                             payload[start:start + LANES], start + LANES >= len(payload))

    def _beat(self, header: dict[str, int], chunk: bytes, last: bool | int) -> dict[str, Any]:
        return {"data": int.from_bytes(chunk, "little"), "last": int(last),
                "empty": (LANES - len(chunk)) % LANES, "header": header}

    def _wrong(self) -> Iterator[dict[str, Any]]:
        """Make a completion that answers nothing."""
        rng = self.rng
        header = {"requester_id": BUS_DEVICE << 3, "tag": rng.randrange(TAGS), "byte_count": 64,
                  "lower_address": 0, "dwords": 16}
        read = rng.choice(list(self.reads.values())) if self.reads else None
        free = [tag for tag in range(TAGS) if tag not in self.reads]
        if read is not None and read.done == 0 and (not free or rng.random() < 0.8):
            header = {"requester_id": read.requester, "tag": read.tag, "byte_count": read.length,
                      "lower_address": read.address & 0x7F, "dwords": 16}
            change = rng.choice(["requester_id", "tag", "byte_count", "lower_address", "status"])
            if change == "tag":
                header["tag"] |= TAGS if TAGS < 1024 else 0
            elif change == "status":
                header |= {"status": 1, "requester_id": read.requester ^ 1}
            else:
                header[change] ^= 1
        elif free:
            header["tag"] = rng.choice(free)
        else:
            return
        self.injected += 1
        self.errors_made["correctable"] += 1
        yield from self._beats(header, rng.randbytes(4 * header["dwords"]))

    def _next(self) -> Iterator[dict[str, Any]] | None:
        if self.unexpected and self.rng.random() < self.unexpected:
            return self._wrong()
        ready = [read for read in self.reads.values() if read.due <= self.now
                 and read.behaviour != SILENT and not (self.hold and read.behaviour == HELD)]
        if not ready:
            return None
        read = ready[0] if self.whole else self.rng.choice(ready)
        return self._completion(read)

    async def _run(self) -> None:
        dut, rng = self.dut, self.rng
        edge = RisingEdge(dut.clk)
        packet: Iterator[dict[str, Any]] | None = None
        driven = False
        while True:
            await edge
            self.now += 1
            if dut.rst.value:
                continue
            self.unexpected_seen += int(dut.unexpected.value)
            self.timed_out_seen += int(dut.timed_out.value)
            self.errors_seen.update(self.errors.unpack(int(dut.errors.value)))
            beat = None
            if not (self.gaps and rng.random() < self.gaps):
                if packet is None:
                    packet = self._next()
                if packet is not None:
                    beat = next(packet, None)
                    if beat is None:
                        packet = self._next()
                        beat = next(packet, None) if packet is not None else None
                    if beat is None or beat["last"]:
                        packet = None
            self.sending = packet is not None
            if beat is not None:
                dut.rc__payload.value = self.fields.pack(beat)
                self.last_beat_at = self.now
            if (beat is not None) != driven:
                driven = beat is not None
                dut.rc__valid.value = int(driven)


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


@cocotb.test
@cocotb.parametrize((("stalls", "boundary", "size_code"), [
    (False, 64, 2), (False, 128, 0), (True, 64, 0), (True, 128, 2)]))
async def random_traffic(dut: Any, stalls: bool, boundary: int, size_code: int) -> None:
    """Groups of every shape from every client: right bytes, right order, nothing left over."""
    completer, clients, rng = start(dut, stalls=stalls, latency=(1, 300),
                                    gaps=0.3 if stalls else 0.0, boundary=boundary,
                                    unexpected=0.05)
    dut.read_size.value = size_code
    completer.read_size = 128 << size_code
    await reset(dut)
    limit = min(128 << size_code, MAX_READ)
    for number in range(30):
        for index, client in enumerate(clients):
            if number % 8 == 7 and rng.random() < 0.5:
                segments = [(rng.randrange(1 << 40), 3) for _ in range(QUOTAS[index] + 3)]
            else:
                segments = random_segments(rng, most_bytes_of(index) if number % 4 == 0 else 300,
                                           QUOTAS[index], limit)
            if rng.random() < 0.1:
                behaviour = rng.choice([UNSUPPORTED, ABORT, POISON, RETRY, UNSENT])
                place = rng.randrange(len(segments))
                address, length = segments[place]
                segments[place] = (address | behaviour << BEHAVIOUR_AT, length)
            client.ask(rng.choice([0, 1, 1, QUEUES - 1]), segments, lead=rng.randrange(LANES),
                       function=rng.randrange(FUNCTIONS), fenced=rng.randrange(2))
    await finish(dut, completer, clients)
    assert completer.timed_out_seen == 0
    # All clients had their share of the tags all the time, and all tags were used again.
    assert {read.tag for _, read in completer.tlps} == set(range(TAGS))


@cocotb.test
async def late_queue(dut: Any) -> None:
    """A completion that does not come holds up its queue, and no other."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 20))
    await reset(dut)
    client = clients[0]
    # Two pieces for the late group, and two groups behind it.
    client.ask(1, [(HELD << BEHAVIOUR_AT | 0x1000, 10), (0x2000, 10)])
    client.ask(1, [(0x3000, 20)])
    client.ask(1, [(0x4000, 20)])
    for number in range(4 * QUOTAS[0]):
        client.ask(2 if number % 2 else 0, [(0x5000 + 64 * number, 30)])
    for _ in range(TIMEOUT - 100):
        await RisingEdge(dut.clk)
        if client.answered == 4 * QUOTAS[0]:
            break
    assert client.answered == 4 * QUOTAS[0], "other queues waited"
    assert [queue for _, queue in client.log].count(1) == 0
    completer.hold = False
    await finish(dut, completer, clients)
    assert [queue for _, queue in client.log[-3:]] == [1, 1, 1]


@cocotb.test
async def order_of_a_queue(dut: Any) -> None:
    """Many groups of one queue, completed in any order, some all at once behind the first."""
    completer, clients, rng = start(dut, stalls=False, latency=(1, 60))
    await reset(dut)
    for burst in range(2000 // TAGS // 8 + 2):
        for index, client in enumerate(clients):
            for number in range(QUOTAS[index]):
                late = HELD if burst % 3 == 0 and number == 0 else PLAIN
                client.ask(3 % QUEUES, [(late << BEHAVIOUR_AT | rng.randrange(1 << 20) & ~15, 16)])
        await cycles(dut, 150 + 8 * TAGS)
        completer.hold = False
        await cycles(dut, 100)
        completer.hold = True
    completer.hold = False
    await finish(dut, completer, clients)


@cocotb.test
async def stalled_client(dut: Any) -> None:
    """A client that takes nothing (in mid-answer) does not slow down another."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 5), whole=True)
    await reset(dut)
    clients[0].ask(0, [(0x1000, 200)])
    await finish(dut, completer, clients)

    async def others() -> int:
        begin = completer.now
        for number in range(60):
            clients[1].ask(number % 2, [(64 * number, 4 * LANES + 5)], lead=number % LANES)
        await finish(dut, completer, clients[1:])
        return completer.now - begin

    alone = await others()
    clients[0].sink.pace = iter([True] * 3 + [False] * 100_000)
    for number in range(3 * QUOTAS[0]):
        clients[0].ask(number % 3 % QUEUES, [(0x8000 + 256 * number, 10 * LANES)])
    await cycles(dut, 20 * TAGS)
    assert clients[0].open
    together = await others()
    assert together <= alone + 20, f"{together} cycles beside a stalled client, {alone} alone"
    clients[0].sink.pace = always()
    await finish(dut, completer, clients)


@cocotb.test
async def time_out(dut: Any) -> None:
    """A read that is never answered ends with TIMEOUT, in time; what comes later is unexpected."""
    completer, clients, rng = start(dut, stalls=False, latency=(5, 30))
    await reset(dut)
    for index, client in enumerate(clients):
        for number in range(QUOTAS[index] // 5):
            client.ask(number % QUEUES, [(0x1000 * number + 7, 70),
                                         (SILENT << BEHAVIOUR_AT | 0x777, 100), (0x5000, 40)],
                       lead=rng.randrange(LANES))
    await cycles(dut, TIMEOUT - 20)
    assert not any(client.answered for client in clients), "too early"
    silent = [read for read in completer.reads.values() if read.behaviour == SILENT]
    for _ in range(TIMEOUT // 8 + 4 * TAGS + 400):
        await RisingEdge(dut.clk)
        if not any(client.open for client in clients):
            break
    assert not any(client.open for client in clients), "too late"
    assert completer.timed_out_seen == len(silent) > 0
    # Every tag was given back: all can be in use again, and none of the late ones is believed.
    for read in silent:
        del completer.reads[read.tag]
    completer.unexpected = 0.2
    for index, client in enumerate(clients):
        for number in range(3 * QUOTAS[index]):
            client.ask(0, [(64 * number, 50)])
    await finish(dut, completer, clients)


@cocotb.test
async def cuts(dut: Any) -> None:
    """A segment is read by one TLP where that may be, and cut at multiples of the size if not."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 30))
    await reset(dut)
    limit = min(completer.read_size, MAX_READ)
    page = 0x7000
    for address, length, lengths in (
            (page + limit - 8, 16, [16]),                          # over a multiple, but small
            (page + 8, limit, [limit]), (page + 1, limit - 1, [limit - 1]),
            (page + 2, limit - 1, [limit - 2, 1]),                 # one dword too many
            (page - 8, 16, [8, 8]), (page - limit, limit, [limit]),
            (page - limit + 4, limit, [limit - 4, 4]),             # over a page
            (page + 4, 2 * limit, [limit - 4, limit, 4])):
        completer.tlps.clear()
        clients[0].ask(0, [(address, length)])
        await finish(dut, completer, clients)
        assert [read.length for _, read in completer.tlps] == lengths, (address, length)


@cocotb.test
async def no_time_out(dut: Any) -> None:
    """A read may be told to wait forever, and to do so no longer."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 30))
    await reset(dut)
    dut.timeout_disable.value = 1
    assert not int(dut.pending.value)
    clients[0].ask(0, [(SILENT << BEHAVIOUR_AT | 0x777, 9)])
    clients[0].ask(1, [(0x777, 100)])
    await cycles(dut, 3 * TIMEOUT)
    assert clients[0].answered == 1
    assert int(dut.pending.value)
    assert not completer.errors_seen["non_fatal"]
    dut.timeout_disable.value = 0
    await finish(dut, completer, clients, 6 * TIMEOUT)
    assert completer.timed_out_seen == 1


@cocotb.test
async def too_many_tags(dut: Any) -> None:
    """A group that needs more tags than there are for its client fails, and things go on."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 50))
    await reset(dut)
    for index, client in enumerate(clients):
        quota = QUOTAS[index]
        client.ask(0, [(0x100 * number, 9) for number in range(quota)], lead=3)  # just fits
        client.ask(0, [(0x100 * number, 9) for number in range(quota + 1)], lead=2)
        client.ask(0, [(0x100, 9)])
        client.ask(0, [(0x100, MAX_READ * (quota + 2))])
        client.ask(0, [*((0x100 * number, 5) for number in range(quota - 1)), (0x10, MAX_READ * 3)])
        client.ask(0, [(0x10, 200)])
    await finish(dut, completer, clients)


@cocotb.test
async def bus_mastering_off(dut: Any) -> None:
    """A function without bus mastering reads nothing, and is told so."""
    completer, clients, rng = start(dut, stalls=True, latency=(5, 50), gaps=0.3)
    off = FUNCTIONS - 1
    dut.bus_master.value = (1 << off) - 1
    await reset(dut)
    for number in range(20):
        for index, client in enumerate(clients):
            function = rng.randrange(FUNCTIONS) if number % 2 else off
            client.ask(number % min(QUEUES, 3), random_segments(rng, 200, QUOTAS[index], MAX_READ),
                       lead=rng.randrange(LANES), function=function, failed=function == off)
    await finish(dut, completer, clients)
    assert off not in {read.function for _, read in completer.tlps}


@cocotb.test
async def reset_while_busy(dut: Any) -> None:
    """A reset forgets what was under way; the completions that still come are dropped."""
    completer, clients, _rng = start(dut, stalls=False, latency=(3 * TAGS, 4 * TAGS), whole=True)
    await reset(dut)
    for index, client in enumerate(clients):
        for number in range(QUOTAS[index]):
            client.ask(0, [(64 * number, 50)])
    for client in clients:
        await client.source.drain()
    await cycles(dut, 10)
    dut.rst.value = 1
    await cycles(dut, 3)
    for client in clients:
        client.waiting.clear()
    old = list(completer.reads.values())
    completer.reads.clear()
    dut.rst.value = 0
    await cycles(dut, TAGS + 10)
    for read in old[:5]:
        completer.injected += 1
        completer.errors_made["correctable"] += 1
        dut.rc__payload.value = completer.fields.pack(completer._beat(
            {"tag": read.tag, "requester_id": read.requester, "byte_count": 4, "dwords": 1,
             "lower_address": (read.address + read.length - 4) & 0x7F}, bytes(4), 1))
        dut.rc__valid.value = 1
        await RisingEdge(dut.clk)
    dut.rc__valid.value = 0
    for index, client in enumerate(clients):
        for number in range(2 * QUOTAS[index]):
            client.ask(0, [(64 * number, 50)])
    await finish(dut, completer, clients)


@cocotb.test
async def full_rate(dut: Any) -> None:
    """Print and check the cycles that groups take, and the latencies."""
    completer, clients, _rng = start(dut, stalls=False, latency=(20, 20), whole=True)
    await reset(dut)
    await cycles(dut, TAGS + 10)
    rates = {}
    sizes = {"16 bytes": ([(0, 16)], 0), "16 bytes, many queues": ([(0, 16)], 0),
             "72 bytes": ([(0x40, 72)], -12),
             "12 + 60 bytes": ([(0x40, 12), (0x800, 60)], -12),
             "1514 bytes": ([(0x42, 12), (0x802, 1514)], -12)}
    for name, (segments, offset) in sizes.items():
        lead = offset % LANES
        total = sum(length for _, length in segments)
        if pieces_of(segments, MAX_READ) * 3 > QUOTAS[0]:
            continue
        count = 100
        for number in range(count):
            clients[0].ask(number % 7 % QUEUES if "many" in name else 0,
                           [(address + 0x1000 * number, length)
                            for address, length in segments], lead=lead)
        await finish(dut, completer, clients)
        times = [at for at, _ in clients[0].log[-count:]]
        rates[name] = (times[-1] - times[count // 4]) / (count - 1 - count // 4)
        beats = -(-(lead + total) // LANES)
        dut._log.info(f"{name}: {rates[name]:.2f} cycles a group of {beats} beats")

    sent = completer.now
    clients[0].ask(0, [(0x40, 8)])
    await finish(dut, completer, clients)
    left_at = completer.tlps[-1][0]
    answer = clients[0].log[-1][0] - completer.last_beat_at
    dut._log.info(f"request to TLP: {left_at - sent} cycles; completion to answer: {answer} cycles")
    if QUOTAS[0] >= 64:  # enough under way for a latency of 20 and the card's own
        assert rates["72 bytes"] <= max(2, (72 + LANES - 12) / LANES) + 0.1
        assert rates["12 + 60 bytes"] <= 2.1
        assert rates["16 bytes"] <= 2.1
        assert rates["16 bytes, many queues"] <= 1.1
    assert left_at - sent <= 4
    assert answer <= 7
