"""What the host asks of the card: configuration and memory accesses, matched with their answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hw.pcie.types import CompletionStatus, RequestKind
from tb.tlp import Completion, Request, byte_enables, enabled_bytes

__all__ = ["Access", "HostAccess"]

_TAGS = 256
_RETRY_CYCLES = 200
ROOT = 0x0000
"""Requester ID of the host."""


@dataclass(eq=False)
class Access:
    """A request of the host and what became of it."""

    request: Request
    done: bool = False
    status: CompletionStatus | None = None
    """None while waiting, after a time-out, and for a posted write."""
    data: bytes = b""
    """Enabled bytes of a successful read, from the first to the last."""
    poisoned: bool = False
    issued_at: int = -1
    answered_at: int = -1
    completions: list[Completion] = field(default_factory=list)
    on_done: Callable[[Access], None] | None = None

    @property
    def ok(self) -> bool:
        """Whether it was answered, and well."""
        return self.done and (self.request.posted or self.status == CompletionStatus.SUCCESS)

    @property
    def value(self) -> int:
        """What a processor sees: the bytes as a number, all ones after an error."""
        _start, size = self.request.span
        if self.status != CompletionStatus.SUCCESS:
            return (1 << 8 * size) - 1
        return int.from_bytes(self.data, "little")


class HostAccess:
    """Queue of requests to the card, with their tags; knows which answers are awaited.

    Parameters
    ----------
    timeout_cycles
        When an unanswered request is given up.
    """

    def __init__(self, *, timeout_cycles: int) -> None:
        self.timeout_cycles = timeout_cycles
        self.queue: deque[Access] = deque()
        self.waiting: dict[int, Access] = {}
        self._tag = 0
        self._later: list[tuple[int, Access]] = []

    # --- asking

    def issue(self, request: Request, on_done: Callable[[Access], None] | None = None) -> Access:
        """Queue any request, legal or not. The tag of a non-posted one is filled in."""
        access = Access(request, on_done=on_done)
        self.queue.append(access)
        return access

    def config(self, bdf: int, offset: int, size: int, value: int | None = None,
               on_done: Callable[[Access], None] | None = None) -> Access:
        """Read ``size`` bytes (1, 2 or 4, naturally aligned) of configuration space, or write."""
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < 4096:
            raise ValueError(f"configuration access of {size} bytes at {offset:#x}")
        _dwords, first_be, _last_be = byte_enables(offset, size)
        kind = RequestKind.CONFIG_READ if value is None else RequestKind.CONFIG_WRITE
        payload = b"" if value is None else (
            value.to_bytes(size, "little").rjust((offset & 3) + size, b"\xee").ljust(4, b"\xee"))
        return self.issue(Request(kind, address=offset & ~3, first_be=first_be,
                                  requester_id=ROOT, completer_id=bdf, payload=payload), on_done)

    def read(self, address: int, size: int, *, max_dwords: int = 1,
             on_done: Callable[[Access], None] | None = None) -> list[Access]:
        """Read memory: one request for each ``max_dwords`` dwords, none across 4 KiB."""
        return [self.issue(Request(RequestKind.MEM_READ, start & ~3, *byte_enables(start, count),
                                   requester_id=ROOT), on_done)
                for start, count in _parts(address, size, max_dwords)]

    def write(self, address: int, data: bytes, *, max_dwords: int = 1) -> list[Access]:
        """Write memory, posted: one request for each ``max_dwords`` dwords, none across 4 KiB."""
        accesses = []
        for start, count in _parts(address, len(data), max_dwords):
            lead = start & 3
            chunk = data[start - address:start - address + count]
            # What is not enabled is filled with bytes that would be noticed.
            payload = b"\xee" * lead + chunk + b"\xee" * (-(lead + count) & 3)
            accesses.append(self.issue(
                Request(RequestKind.MEM_WRITE, start & ~3, *byte_enables(start, count),
                        requester_id=ROOT, payload=payload)))
        return accesses

    # --- towards the card

    def next_request(self, cycle: int) -> Access | None:
        """Give the next request to send, with its tag; the caller sends it now."""
        while self._later and self._later[0][0] <= cycle:
            self.queue.append(self._later.pop(0)[1])
        if not self.queue:
            return None
        access = self.queue[0]
        if access.request.posted:
            self.queue.popleft()
            access.issued_at = access.answered_at = cycle
            access.done = True
            if access.on_done is not None:
                access.on_done(access)
            return access
        if len(self.waiting) == _TAGS:
            return None
        self.queue.popleft()
        while self._tag in self.waiting:
            self._tag = (self._tag + 1) % _TAGS
        access.request.tag = self._tag
        self._tag = (self._tag + 1) % _TAGS
        self.waiting[access.request.tag] = access
        if access.issued_at < 0:
            access.issued_at = cycle
        return access

    @property
    def idle(self) -> bool:
        """Nothing is queued and nothing is awaited."""
        return not (self.queue or self.waiting or self._later)

    # --- back

    def find(self, completion: Completion) -> Access | None:
        """Give the access that this completion answers."""
        return self.waiting.get(completion.tag)

    def take(self, access: Access, completion: Completion, cycle: int) -> bool:
        """Add a completion to its access; True when the access has ended by it."""
        request = access.request
        if (completion.status == CompletionStatus.RETRY and completion.dwords == 0
                and request.kind in (RequestKind.CONFIG_READ, RequestKind.CONFIG_WRITE)
                and cycle - access.issued_at < self.timeout_cycles):
            # A function that is not ready yet: ask again, as a root complex does.
            del self.waiting[request.tag]
            self._later.append((cycle + _RETRY_CYCLES, access))
            return False
        access.completions.append(completion)
        access.poisoned |= bool(completion.poisoned)
        if completion.status != CompletionStatus.SUCCESS or request.kind in (
                RequestKind.CONFIG_WRITE, RequestKind.IO_WRITE):
            return self._end(access, completion.status, cycle)
        low, total = enabled_bytes(request.dwords, request.first_be, request.last_be)
        skip = (low + len(access.data)) & 3
        access.data = (access.data + completion.payload[skip:])[:total]
        if len(access.data) < total:
            return False
        return self._end(access, completion.status, cycle)

    def expire(self, cycle: int) -> list[Access]:
        """End the accesses that nobody has answered in time; give them."""
        late = [access for access in self.waiting.values()
                if cycle - access.issued_at >= self.timeout_cycles]
        for access in late:
            self._end(access, None, cycle)
        return late

    def _end(self, access: Access, status: CompletionStatus | None, cycle: int) -> bool:
        del self.waiting[access.request.tag]
        access.done = True
        access.status = status
        access.answered_at = cycle
        if access.on_done is not None:
            access.on_done(access)
        return True


def _parts(address: int, size: int, max_dwords: int) -> list[tuple[int, int]]:
    """Cut an access at every ``max_dwords`` aligned dwords, and at 4 KiB boundaries."""
    if size < 1 or not 1 <= max_dwords <= 1024:
        raise ValueError(f"access of {size} bytes in requests of {max_dwords} dwords")
    parts = []
    end = address + size
    while address < end:
        stop = min(end, (address & ~3) + 4 * max_dwords, (address | 0xFFF) + 1)
        parts.append((address, stop - address))
        address = stop
    return parts
