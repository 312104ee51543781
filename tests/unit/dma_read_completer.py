"""Host memory behind `DmaRead`: a completer that does all it may."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.config_types import ErrorLayout
from hw.pcie.types import (
    CompletionHeader,
    CompletionStatus,
    ReadError,
    ReadTlpLayout,
    RequestKind,
    TlpLayout,
)
from tb.stream import Fields, StreamSink, StreamSource, always

__all__ = ["ABORT", "BEHAVIOUR_AT", "BUS_DEVICE", "CLIENTS", "CONTEXTS", "ERRORS", "FUNCTIONS",
           "HELD", "LANES", "MAX_READ", "PLAIN", "POISON", "QUEUES", "QUOTAS", "RETRY", "SILENT",
           "TAGS", "TIMEOUT", "UNSENT", "UNSUPPORTED", "Completer", "memory_at"]

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
