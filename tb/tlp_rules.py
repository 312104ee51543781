"""What makes a request of the card legal, and what the host knows of each function.

The host learns the state of a function by looking at the configuration accesses that pass: it
needs no help from the driver, and no knowledge of where the card keeps its capabilities.
"""

from __future__ import annotations

from collections.abc import Iterator

from hw.pcie.types import CompletionStatus, RequestKind
from tb.tlp import Completion, Request, enabled_bytes

__all__ = ["FunctionShadow", "completion_faults", "request_faults"]

_COMMAND = 0x04
_CAPABILITIES = 0x34
_PCI_EXPRESS = 0x10  # capability
_DEVICE_CONTROL = 8  # in it


_LATE_READS = 2
"""Reads that may leave after a function was told to ask no more."""


class FunctionShadow:
    """What was read from and written to the configuration space of one function."""

    def __init__(self, bdf: int) -> None:
        self.bdf = bdf
        self._known: dict[int, int] = {}
        self.bus_master = False
        self.bus_master_off_at = -1
        """Cycle in which the function was told, and answered, that it may no longer ask."""
        self._late_reads = 0
        self._resetting = False

    def _express(self) -> int | None:
        """Where the PCI Express capability is, if the host has walked that far."""
        at = self._known.get(_CAPABILITIES, 0) & 0xFC
        for _ in range(48):
            head = self._known.get(at, 0)
            if not at or not head:
                return None
            if head & 0xFF == _PCI_EXPRESS:
                return at
            at = head >> 8 & 0xFC
        return None

    def _device_control(self) -> int:
        express = self._express()
        # 512-byte reads, 128-byte payload: what a function has after reset.
        default = 0x2000
        if express is None:
            return default
        return self._known.get(express + _DEVICE_CONTROL, default) & 0xFFFF

    @property
    def max_payload(self) -> int:
        """Bytes that a write or a completion may carry."""
        return 128 << min(self._device_control() >> 5 & 7, 5)

    @property
    def max_read(self) -> int:
        """Bytes that a read may ask for."""
        return 128 << min(self._device_control() >> 12 & 7, 5)

    @property
    def tags(self) -> int:
        """Number of tags that the function may use."""
        return 256 if self._device_control() >> 8 & 1 else 32

    def note_read(self, register: int, enables: int, value: int, cycle: int = 0) -> None:
        """A configuration read has succeeded."""
        self._end_reset(cycle)
        mask = _lanes(enables)
        self._known[register] = self._known.get(register, 0) & ~mask | value & mask

    def note_sent(self, register: int, enables: int, value: int) -> None:
        """A configuration write leaves: the function may do at once what it allows."""
        if register == _COMMAND and enables & 1 and value & 4:
            self.bus_master = True
            self._late_reads = 0

    def note_written(self, register: int, enables: int, value: int, cycle: int) -> None:
        """A configuration write has succeeded: what it forbids is forbidden from now on.

        A function that is told to reset itself has time to do so: it may finish what is under
        way until it answers the next access with anything but a retry.
        """
        self._end_reset(cycle)
        mask = _lanes(enables)
        after = self._known.get(register, 0) & ~mask | value & mask
        self._known[register] = after
        if register == _COMMAND and enables & 1 and not value & 4 and self.bus_master:
            self.bus_master = False
            self.bus_master_off_at = cycle
        express = self._express()
        if express is not None and register == express + _DEVICE_CONTROL and after & 0x8000:
            self._resetting = True

    def _end_reset(self, cycle: int) -> None:
        if self._resetting:
            self._resetting = False
            self.forget(cycle)

    def forget(self, cycle: int) -> None:
        """The function was reset: it is no bus master, and its limits are those after reset."""
        express = self._express()
        if express is not None:
            self._known.pop(express + _DEVICE_CONTROL, None)
        self._known.pop(_COMMAND, None)
        if self.bus_master:
            self.bus_master = False
            self.bus_master_off_at = cycle

    def may_ask(self, first_cycle: int, *, reads: bool) -> bool:
        """Whether a request whose first beat came in ``first_cycle`` was allowed to.

        Two reads may come late: what stands in the registers of a stream cannot be withdrawn. No
        write may, as the answer to what forbids them passes none.
        """
        if self.bus_master or first_cycle <= self.bus_master_off_at:
            return True
        self._late_reads += reads
        return reads and self._late_reads <= _LATE_READS


def _lanes(enables: int) -> int:
    """Give the bits of the dword that the byte enables name."""
    return sum(0xFF << 8 * lane for lane in range(4) if enables >> lane & 1)


def request_faults(request: Request, function: FunctionShadow | None,
                   first_cycle: int) -> Iterator[str]:
    """Say all that is wrong with a request of the card, but for its tag and its memory."""
    size = 4 * request.dwords
    if request.kind not in (RequestKind.MEM_READ, RequestKind.MEM_WRITE):
        yield f"a card does not send {request.kind.name}"
    if request.address & 3:
        yield f"address {request.address:#x} is no multiple of 4"
    if not 1 <= request.dwords <= 1024:
        yield f"{request.dwords} dwords"
    if request.address % 4096 + size > 4096:
        yield f"{size} bytes at {request.address:#x} cross a 4 KiB boundary"
    yield from _enable_faults(request)
    if request.traffic_class:
        yield f"traffic class {request.traffic_class}"
    if request.poisoned:
        yield "poisoned"
    if function is None or not function.may_ask(
            first_cycle, reads=request.kind == RequestKind.MEM_READ):
        yield f"requester {request.requester_id:#06x} is no bus master"
        return
    if request.kind == RequestKind.MEM_WRITE and size > function.max_payload:
        yield f"{size} bytes of payload, {function.max_payload} allowed"
    if request.kind == RequestKind.MEM_READ:
        if size > function.max_read:
            yield f"a read of {size} bytes, {function.max_read} allowed"
        if request.tag >= function.tags:
            yield f"tag {request.tag}, {function.tags} allowed"


def _enable_faults(request: Request) -> Iterator[str]:
    first, last = request.first_be, request.last_be
    if request.dwords == 1:
        if last:
            yield f"last_be = {last:#x} of a single dword"
        return
    if not first or not last:
        yield f"byte enables {first:#x}, {last:#x} of {request.dwords} dwords"
    elif not (request.dwords == 2 and request.address % 8 == 0) and (
            first not in (0x8, 0xC, 0xE, 0xF) or last not in (0x1, 0x3, 0x7, 0xF)):
        yield f"byte enables {first:#x}, {last:#x} are not contiguous"


def completion_faults(request: Request, completion: Completion, received: int) -> Iterator[str]:
    """Say all that is wrong with the card's answer to ``request``, ``received`` bytes into it."""
    for name in ("requester_id", "traffic_class", "attributes"):
        asked, told = getattr(request, name), getattr(completion, name)
        if asked != told:
            yield f"{name} {told:#x}, the request had {asked:#x}"
    if request.completer_id and completion.completer_id != request.completer_id:
        yield (f"completer {completion.completer_id:#06x}, asked was "
               f"{request.completer_id:#06x}")
    good = completion.status == CompletionStatus.SUCCESS
    if request.kind == RequestKind.MEM_READ:
        yield from _read_faults(request, completion, received, good)
        return
    wanted = 1 if good and request.kind in (RequestKind.CONFIG_READ, RequestKind.IO_READ) else 0
    if completion.dwords != wanted:
        yield f"{completion.dwords} dwords of data, {wanted} wanted"
    if completion.byte_count != 4 or completion.lower_address:
        yield (f"byte count {completion.byte_count} and lower address "
               f"{completion.lower_address:#x}, not 4 and 0")


def _read_faults(request: Request, completion: Completion, received: int,
                 good: bool) -> Iterator[str]:
    low, total = enabled_bytes(request.dwords, request.first_be, request.last_be)
    left = total - received
    start = request.address + low + received
    # After an error nobody looks at the count: completers in use say either.
    if completion.byte_count != left and (good or completion.byte_count != 4):
        yield f"byte count {completion.byte_count}, not {left}"
    if not good:
        if completion.dwords:
            yield "data beside an error"
        return
    if completion.lower_address != start & 0x7F:
        yield f"lower address {completion.lower_address:#x}, not {start & 0x7F:#x}"
    whole = ((start & 3) + left + 3) // 4
    if not 1 <= completion.dwords <= whole:
        yield f"{completion.dwords} dwords where {whole} are missing"
    end = (start & ~3) + 4 * completion.dwords
    if completion.dwords < whole and end % 128:
        yield f"a completion ends at {end & 0xFFF:#x}, inside a completion boundary"
