"""A root complex and host memory, by cycles and whole TLPs; no simulator in it.

::

    rq ──► receive_request ──► memory, interrupts
                          └──► reads being answered ──► next_completion ──► rc
    host ──► access ──► next_request ──► cq
    cc ──► receive_completion ──► the access that waits

All that the card does wrong is kept in `violations`, and all that passes in `log`.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hw.pcie.types import CompletionStatus, RequestKind
from tb.completer import Fault, FaultKind, Splitting, answer, cuts
from tb.host_access import Access, HostAccess
from tb.interrupts import DOORBELL_WINDOW, InterruptController
from tb.memory import HostMemory, ReadInFlight, Region
from tb.tlp import Completion, Request
from tb.tlp_rules import FunctionShadow, completion_faults, request_faults

__all__ = ["RootComplex", "RootComplexOptions", "TlpRecord", "Violation"]

Channel = Literal["cq", "cc", "rq", "rc"]


@dataclass(kw_only=True)
class RootComplexOptions:
    """How the host behaves. Times are in cycles of the card's clock."""

    latency_cycles: int = 250
    """From a read request's last beat to its first completion: 1 us at 250 MHz."""
    jitter_cycles: int = 0
    """Up to so much is added to each completion: reads with different tags overtake one another."""
    boundary_bytes: int = 64
    """Read completion boundary: 64 or 128."""
    splitting: Splitting = "large"
    """Completions as large as may be, as small as may be, or cut at random boundaries."""
    sampling: Literal["chunks", "at_once"] = "chunks"
    """Whether each aligned 16 bytes of a read are looked at in their own time."""
    credits: int | None = None
    """Non-posted requests that the host holds at a time, 1 to 127 (None: any number)."""
    credit_cycles: int = 8
    """How long it holds one."""
    host_timeout_cycles: int = 20_000
    """When an access to the card is given up."""
    card_timeout_cycles: int = 256
    """The card may use the tag of an unanswered read again after so long."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that the card must not do."""

    cycle: int
    text: str

    def __str__(self) -> str:
        return f"cycle {self.cycle}: {self.text}"


@dataclass(frozen=True, slots=True)
class TlpRecord:
    """One TLP that passed."""

    cycle: int
    """Of a request or completion of the card, its last beat; of the host's, when it was due."""
    channel: Channel
    kind: str
    """Kind of a request, status of a completion."""
    address: int
    """First byte that is written or asked for. Of a completion: where its data lie; -1 when nobody
    knows."""
    size: int
    """Bytes that are written or asked for; of completions and the host's requests whole dwords."""
    tag: int
    requester_id: int
    data: bytes
    """The first 16 bytes of the payload."""


class _Read:
    """A read of the card that is being answered."""

    __slots__ = ("begun_at", "delayed", "in_flight", "left", "order", "pieces", "request", "size",
                 "start")

    def __init__(self, request: Request, cycle: int, order: int) -> None:
        self.request = request
        self.start, self.size = request.span
        self.left = self.size
        self.begun_at = cycle
        self.order = order
        self.pieces: list[tuple[int, int]] = []  # what is still to be sent; none when refused
        self.delayed: set[int] = set()  # addresses of pieces that were late already
        self.in_flight: ReadInFlight | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.request.requester_id, self.request.tag


class RootComplex:
    """The host's side of PCI Express.

    Parameters
    ----------
    memory
        Host memory; made here when not given.
    options
        `RootComplexOptions`; all but ``credits`` may be changed while running.
    """

    def __init__(self, memory: HostMemory | None = None,
                 options: RootComplexOptions | None = None) -> None:
        self.options = options or RootComplexOptions()
        self.memory = memory or HostMemory(seed=self.options.seed)
        self.memory.clock = lambda: self.now
        self.interrupts = InterruptController()
        self.access = HostAccess(timeout_cycles=self.options.host_timeout_cycles)
        self.functions: dict[int, FunctionShadow] = {}
        self.faults: list[Fault] = []
        self.now = 0
        """The present cycle; whoever drives the model keeps it up to date."""
        self.violations: list[Violation] = []
        self.on_violation: Callable[[Violation], None] | None = None
        self.on_write: Callable[[int, int], None] | None = None
        """Called after a write of the card to memory, with address and bytes."""
        self.log: list[TlpRecord] | None = []
        """Every TLP; set to None to keep none."""
        self.counts: Counter[str] = Counter()
        """TLPs and bytes: ``rq.reads``, ``rq.read_bytes``, ``rq.writes``, ``rq.write_bytes``,
        ``rq.interrupts``, ``rc``, ``rc.bytes``, ``cq``, ``cc``."""
        self._rng = random.Random(self.options.seed)
        self._reads: dict[tuple[int, int], _Read] = {}
        self._due: list[tuple[int, int, _Read]] = []
        self._arrivals = 0
        self._limit = self.options.credits or 0
        self._used = 0
        self._releases: deque[int] = deque()

    # --- what the card may use

    @property
    def credit_limit(self) -> int:
        """How many non-posted requests the card may have sent in all, modulo 256."""
        while self._releases and self._releases[0] <= self.now:
            self._releases.popleft()
            self._limit += 1
        return self._limit & 0xFF

    @property
    def credit_infinite(self) -> bool:
        """Whether the card need not count."""
        return self.options.credits is None

    def inject(self, region: Region | int, size: int | None = None, *, kind: FaultKind,
               count: int | None = None, late_cycles: int = 0) -> Fault:
        """Let reads of a region (or of ``size`` bytes at an address) go wrong."""
        address = region if isinstance(region, int) else region.address
        if size is None:
            size = 1 if isinstance(region, int) else region.size
        fault = Fault(address, size, kind, count, late_cycles)
        self.faults.append(fault)
        return fault

    # --- requests of the card

    def receive_request(self, request: Request, first_cycle: int | None = None) -> None:
        """Take a request TLP whose last beat came now (its first one in ``first_cycle``)."""
        function = self.functions.get(request.requester_id)
        first = self.now if first_cycle is None else first_cycle
        for text in request_faults(request, function, first):
            self.violate(f"rq {request.kind.name}: {text}")
        self._record("rq", request.kind.name, *request.span, request)
        if request.kind == RequestKind.MEM_WRITE:
            self._write(request)
        elif not request.posted:
            self._read(request)

    def _write(self, request: Request) -> None:
        self.counts["rq.writes"] += 1
        self.counts["rq.write_bytes"] += 4 * request.dwords
        if request.address in DOORBELL_WINDOW:
            self._interrupt(request)
            return
        start, size = request.span
        region = self.memory.find(start, size)
        if region is None or not region.device_writes:
            whose = f"{region!r} is not for writing" if region else "memory that no driver gave"
            self.violate(f"rq write of {size} bytes at {start:#x}: {whose}")
            return
        base = request.address - region.address
        for at, count in _enabled_runs(request):
            region.write(base + at, request.payload[at:at + count])
        if self.on_write is not None:
            self.on_write(start, size)

    def _interrupt(self, request: Request) -> None:
        self.counts["rq.interrupts"] += 1
        value = int.from_bytes(request.payload[:4], "little")
        if request.dwords != 1 or request.first_be != 0xF:
            self.violate(f"interrupt at {request.address:#x} is no single whole dword")
        elif self.interrupts.deliver(request.address, value, request.requester_id,
                                     self.now) is None:
            self.violate(f"interrupt {value:#x} at {request.address:#x} was given to nobody")

    def _read(self, request: Request) -> None:
        self.counts["rq.reads"] += 1
        self.counts["rq.read_bytes"] += 4 * request.dwords
        options = self.options
        self._take_credit()
        self._arrivals += 1
        read = _Read(request, self.now, self._arrivals)
        old = self._reads.get(read.key)
        if old is not None:
            if self.now - old.begun_at < options.card_timeout_cycles:
                self.violate(
                    f"rq read: tag {request.tag} of {request.requester_id:#06x} is in use")
            self._end(old)  # whatever was still to come would be taken for the new answer
        self._reads[read.key] = read
        due = self.now + options.latency_cycles + self._jitter()
        region = self.memory.find(read.start, read.size)
        if request.kind != RequestKind.MEM_READ or region is None or not region.device_reads:
            whose = f"{region!r} is not for reading" if region else "memory that no driver gave"
            self.violate(f"rq read of {read.size} bytes at {read.start:#x}: {whose}")
        else:
            function = self.functions.get(request.requester_id)
            read.in_flight = self.memory.begin_read(
                read.start, read.size, self.now if options.sampling == "at_once" else due)
            read.pieces = cuts(
                read.start, read.size, boundary=options.boundary_bytes,
                max_payload=function.max_payload if function else 128,
                splitting=options.splitting, rng=self._rng)
        heapq.heappush(self._due, (due, read.order, read))

    def _jitter(self) -> int:
        jitter = self.options.jitter_cycles
        return self._rng.randrange(jitter + 1) if jitter else 0

    def _take_credit(self) -> None:
        _ = self.credit_limit  # brings the limit up to date
        self._used += 1
        self._releases.append(self.now + self.options.credit_cycles)
        if self.options.credits is not None and self._used > self._limit:
            self.violate(f"rq read without credit: {self._used} sent, limit {self._limit}")

    # --- completions to the card

    @property
    def reads_waiting(self) -> int:
        """Reads of the card that have not been answered to the end."""
        return len(self._reads)

    def next_completion(self) -> Completion | None:
        """Give the next completion that is due, if any; the caller sends it now."""
        while self._due and self._due[0][0] <= self.now:
            due, order, read = heapq.heappop(self._due)
            if self._reads.get(read.key) is not read:
                continue
            completion = self._next_piece(read)
            if completion is None:
                continue
            if not read.left:
                self._end(read)
            else:
                # Without jitter the completions of a read stay together.
                jitter = self._jitter()
                heapq.heappush(self._due, (self.now + jitter if jitter else due, order, read))
            self.counts["rc"] += 1
            self.counts["rc.bytes"] += len(completion.payload)
            self._record("rc", completion.status.name,
                         read.start + read.size - completion.byte_count,
                         len(completion.payload), completion)
            return completion
        return None

    def _next_piece(self, read: _Read) -> Completion | None:
        """Make the next completion of a read; None when it is late, or never comes."""
        left = read.left
        address, size = read.pieces[0] if read.pieces else (read.start, 0)
        fault = next((fault for fault in self.faults if fault.touches(address, size) and not (
            fault.kind == FaultKind.LATE and address in read.delayed)), None)
        kind = fault.kind if fault else None if read.pieces else FaultKind.UNSUPPORTED
        if fault is not None:
            fault.use()
            if kind == FaultKind.LATE:
                read.delayed.add(address)
                heapq.heappush(self._due, (self.now + fault.late_cycles, read.order, read))
                return None
        self._settle(read)
        if kind == FaultKind.NEVER:
            return None
        if kind in (FaultKind.UNSUPPORTED, FaultKind.ABORT):
            read.left = 0
            return answer(read.request, address, 0, left, b"", status=(
                CompletionStatus.ABORT if kind == FaultKind.ABORT
                else CompletionStatus.UNSUPPORTED))
        assert read.in_flight is not None
        offset = address - read.start
        data = bytes(read.in_flight.data[offset:offset + size])
        if kind == FaultKind.POISONED:
            data = bytes(byte ^ 0xFF for byte in data)
        del read.pieces[0]
        read.left -= size
        return answer(read.request, address, size, left, data,
                      poisoned=kind == FaultKind.POISONED)

    def _settle(self, read: _Read) -> None:
        """Memory has been looked at; what is written now comes too late for this read."""
        if read.in_flight is not None:
            self.memory.finish_read(read.in_flight)

    def _end(self, read: _Read) -> None:
        self._settle(read)
        del self._reads[read.key]

    # --- requests to the card, and its completions

    def next_request(self) -> Request | None:
        """Give the next request of the host, if any; the caller sends it now."""
        access = self.access.next_request(self.now)
        if access is None:
            return None
        request = access.request
        self.counts["cq"] += 1
        if request.kind == RequestKind.CONFIG_WRITE:
            self.function(request.completer_id).note_sent(
                request.address, request.first_be, int.from_bytes(request.payload, "little"))
        self._record("cq", request.kind.name, request.address, 4 * request.dwords, request)
        return request

    def function(self, bdf: int) -> FunctionShadow:
        """Give what is known of a function."""
        if bdf not in self.functions:
            self.functions[bdf] = FunctionShadow(bdf)
        return self.functions[bdf]

    def receive_completion(self, completion: Completion) -> None:
        """Take a completion TLP of the card."""
        self.counts["cc"] += 1
        access = self.access.find(completion)
        if access is None:
            self._record("cc", completion.status.name, -1, len(completion.payload), completion)
            self.violate(f"cc: a completion for tag {completion.tag} that nobody waits for")
            return
        request = access.request
        self._record("cc", completion.status.name, request.address + len(access.data),
                     len(completion.payload), completion)
        for text in completion_faults(request, completion, len(access.data)):
            self.violate(f"cc to {request.kind.name} of {request.address:#x}: {text}")
        if self.access.take(access, completion, self.now) and access.ok:
            self._note_config(access)

    def _note_config(self, access: Access) -> None:
        request = access.request
        if request.kind == RequestKind.CONFIG_READ:
            value = int.from_bytes(access.completions[-1].payload, "little")
            self.function(request.completer_id).note_read(
                request.address, request.first_be, value, self.now)
        elif request.kind == RequestKind.CONFIG_WRITE:
            self.function(request.completer_id).note_written(
                request.address, request.first_be, int.from_bytes(request.payload, "little"),
                self.now)

    def expire(self) -> None:
        """Give up accesses that the card has not answered in time; to be called now and then."""
        for access in self.access.expire(self.now):
            request = access.request
            self.violate(f"{request.kind.name} of {request.address:#x} was not answered within "
                         f"{self.access.timeout_cycles} cycles")

    # --- what there is to tell

    @property
    def idle(self) -> bool:
        """Nothing waits in either direction (reads that are never answered do not count)."""
        return self.access.idle and not self._due

    def violate(self, text: str) -> None:
        """Note that the card did what it must not."""
        violation = Violation(self.now, text)
        self.violations.append(violation)
        if self.on_violation is not None:
            self.on_violation(violation)

    def check(self) -> None:
        """Fail with all violations, if there are any."""
        if self.violations:
            raise AssertionError("\n".join(map(str, self.violations[:20])))

    def records(self, channel: Channel) -> Iterator[TlpRecord]:
        """Give the log of one stream."""
        return (record for record in self.log or () if record.channel == channel)

    def _record(self, channel: Channel, kind: str, address: int, size: int,
                tlp: Request | Completion) -> None:
        if self.log is not None:
            self.log.append(TlpRecord(self.now, channel, kind, address, size, tlp.tag,
                                      tlp.requester_id, tlp.payload[:16]))


def _enabled_runs(request: Request) -> Iterator[tuple[int, int]]:
    """Give ``(offset, bytes)`` of what a write enables: one run, but for odd byte enables."""
    if request.dwords > 2:
        start, size = request.span
        yield start - request.address, size
        return
    enables = request.first_be | (request.last_be << 4 if request.dwords == 2 else 0)
    at = 0
    while enables >> at:
        if not enables >> at & 1:
            at += 1
            continue
        start = at
        while enables >> at & 1:
            at += 1
        yield start, at - start
