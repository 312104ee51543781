"""The host's side of the card's four TLP streams: beats and handshakes around a `RootComplex`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from cocotb.triggers import Event

from hw.pcie.types import CompletionStatus, CreditLayout
from tb.host_access import Access
from tb.root_complex import RootComplex, RootComplexOptions, Violation
from tb.stream import always
from tb.ticker import Ticker, bit, word
from tb.tlp import Completion, Request, TlpAssembler, TlpCodec

__all__ = ["PcieHost"]

Dut = Any  # cocotb handles are looked up by name at run time; there is nothing to type
Tlp = TypeVar("Tlp", bound=Request | Completion)

_LIMIT_AT, _INFINITE_AT = (CreditLayout()[name].offset for name in ("limit", "infinite"))
_EXPIRE_CYCLES = 64  # how often unanswered accesses are looked for


def _lanes(payload_bits: int) -> int:
    for lanes in (8, 16, 32, 64, 4, 128):
        if TlpCodec.requests(lanes).bits == payload_bits:
            return lanes
    raise ValueError(f"a beat of {payload_bits} bits is no TLP beat of any width")


class _Incoming(Generic[Tlp]):
    """A stream from the card: takes beats at a pace, checks the rules of streams."""

    def __init__(self, dut: Dut, name: str, codec: TlpCodec[Tlp], pace: Iterator[bool],
                 take: Callable[[Tlp, int], None]) -> None:
        self._name = name
        self._valid = bit(getattr(dut, f"{name}__valid"))
        self._payload = word(getattr(dut, f"{name}__payload"))
        self._ready = getattr(dut, f"{name}__ready")
        self._assembler: TlpAssembler[Tlp] = TlpAssembler(codec)
        self._take = take
        self.pace = pace
        self._ready_now = False
        self._offered: int | None = None
        self._first_cycle = 0
        self._ready.value = 0

    def step(self, cycle: int) -> None:
        if self._valid():
            beat = self._payload()
            if self._offered is not None and beat != self._offered:
                raise AssertionError(f"{self._name}: the payload changed before the transfer")
            if self._ready_now:
                self._offered = None
                if not self._assembler.inside:
                    self._first_cycle = cycle
                tlp = self._assembler.feed(beat)
                if tlp is not None:
                    self._take(tlp, self._first_cycle)
            else:
                self._offered = beat
        elif self._offered is not None:
            raise AssertionError(f"{self._name}: valid was withdrawn before the transfer")
        go = next(self.pace)
        if go != self._ready_now:
            self._ready_now = go
            self._ready.value = go


class _Outgoing(Generic[Tlp]):
    """A stream to the card: sends TLPs, with gaps where the pace stalls."""

    def __init__(self, dut: Dut, name: str, codec: TlpCodec[Tlp], pace: Iterator[bool],
                 give: Callable[[], Tlp | None]) -> None:
        self._codec = codec
        self._give = give
        self._payload = getattr(dut, f"{name}__payload")
        self._valid = getattr(dut, f"{name}__valid")
        ready = getattr(dut, f"{name}__ready", None)  # no port where the card is always ready
        self._ready = bit(ready) if ready is not None else lambda: True
        self.pace = pace
        self._beats: list[int] = []  # still to come, the next one last
        self._driving = False
        self.stalled = 0
        """Cycles that the present beat has waited for the card."""
        self._valid.value = 0
        self._payload.value = 0

    @property
    def idle(self) -> bool:
        return not self._driving and not self._beats

    def step(self, cycle: int) -> None:
        if self._driving:
            if not self._ready():
                self.stalled += 1
                return
            self.stalled = 0
            self._driving = False
            if not next(self.pace) or not self._load():
                self._valid.value = 0
        elif (self._beats or self._fill()) and next(self.pace) and self._load():
            self._valid.value = 1

    def _fill(self) -> bool:
        tlp = self._give()
        if tlp is None:
            return False
        self._beats = self._codec.beats(tlp)[::-1]
        return True

    def _load(self) -> bool:
        if not self._beats and not self._fill():
            return False
        self._payload.value = self._beats.pop()
        self._driving = True
        return True


class PcieHost:
    """A `RootComplex` on ``cq``, ``cc``, ``rq``, ``rc`` and ``np_credit`` of a card.

    A violation fails the test at once, unless ``strict`` is cleared: then it is only kept, in
    ``root.violations``. Completions of reads must always be accepted by the card, from the first
    cycle on; a request may wait ``patience_cycles``.

    Parameters
    ----------
    dut
        The card.
    ticker
        Its clock.
    options
        How the host behaves.
    rq_pace, cc_pace
        When the host accepts beats (default: always).
    rc_pace, cq_pace
        Gaps in what it sends (default: none).
    """

    def __init__(self, dut: Dut, ticker: Ticker, *, options: RootComplexOptions | None = None,
                 root: RootComplex | None = None, rq_pace: Iterator[bool] | None = None,
                 cc_pace: Iterator[bool] | None = None, rc_pace: Iterator[bool] | None = None,
                 cq_pace: Iterator[bool] | None = None, strict: bool = True,
                 patience_cycles: int = 2000) -> None:
        self.ticker = ticker
        self.root = root = root or RootComplex(options=options)
        self.strict = strict
        self.patience_cycles = patience_cycles
        root.on_violation = self._on_violation
        lanes = _lanes(len(dut.rq__payload))
        requests, completions = TlpCodec.requests(lanes), TlpCodec.completions(lanes)
        self.rq = _Incoming(dut, "rq", requests, rq_pace or always(), root.receive_request)
        self.cc = _Incoming(dut, "cc", completions, cc_pace or always(),
                            lambda completion, _first: root.receive_completion(completion))
        self.rc = _Outgoing(dut, "rc", completions, rc_pace or always(), root.next_completion)
        self.cq = _Outgoing(dut, "cq", requests, cq_pace or always(), root.next_request)
        self._credit = getattr(dut, "np_credit", None)
        self._credit_now = -1
        self._drive_credit()
        ticker.add(self._step)

    def _step(self, cycle: int) -> None:
        root = self.root
        root.now = cycle
        self.rq.step(cycle)
        self.cc.step(cycle)
        # What is driven now is taken at the next edge.
        root.now = cycle + 1
        self.rc.step(cycle)
        self.cq.step(cycle)
        root.now = cycle
        if self.rc.stalled:
            root.violate("rc: the card does not accept a completion")
        if self.cq.stalled == self.patience_cycles:
            root.violate(f"cq: the card accepts nothing for {self.patience_cycles} cycles")
        if not root.credit_infinite:
            self._drive_credit()
        if cycle % _EXPIRE_CYCLES == 0:
            root.expire()

    def _drive_credit(self) -> None:
        root = self.root
        credit = root.credit_limit << _LIMIT_AT | root.credit_infinite << _INFINITE_AT
        if self._credit is not None and credit != self._credit_now:
            self._credit_now = credit
            self._credit.value = credit

    def _on_violation(self, violation: Violation) -> None:
        if self.strict:
            raise AssertionError(str(violation))

    @property
    def idle(self) -> bool:
        """Nothing is on its way, in either direction."""
        return self.root.idle and self.rc.idle and self.cq.idle

    # --- accesses of the host

    async def wait(self, *accesses: Access) -> None:
        """Wait until accesses have been answered (or given up, or have left, if posted)."""
        for access in accesses:
            if not access.done:
                done = Event()
                access.on_done = lambda _access, done=done: done.set()
                await done.wait()

    async def config_read(self, bdf: int, offset: int, size: int) -> int:
        """Read configuration space; all ones after an error."""
        access = self.root.access.config(bdf, offset, size)
        await self.wait(access)
        return access.value

    async def config_write(self, bdf: int, offset: int, size: int, value: int) -> CompletionStatus:
        """Write configuration space; give the status of the answer."""
        access = self.root.access.config(bdf, offset, size, value)
        await self.wait(access)
        if access.status is None:
            raise TimeoutError(f"configuration write of {offset:#x} was not answered")
        return access.status

    async def read(self, address: int, size: int, *, max_dwords: int = 1) -> bytes:
        """Read memory of the card; ones where a request failed."""
        accesses = self.root.access.read(address, size, max_dwords=max_dwords)
        await self.wait(*accesses)
        return b"".join(access.value.to_bytes(access.request.span[1], "little")
                        for access in accesses)

    async def write(self, address: int, data: bytes, *, max_dwords: int = 1) -> None:
        """Write memory of the card; returns when the last request has left the host."""
        await self.wait(*self.root.access.write(address, data, max_dwords=max_dwords))

    async def raw(self, request: Request) -> Access:
        """Send any request, legal or not; give what came of it."""
        access = self.root.access.issue(request)
        await self.wait(access)
        return access
