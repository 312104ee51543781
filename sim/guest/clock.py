"""The pace of a card that serves others in wall time: runs while there is work, and else waits."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from hw.pcie.types import RequestKind
from sim.guest.wire_end import Nowhere, WireEnd
from sim.native.engine import AccessResult, Engine
from sim.native.library import Event
from tb.tlp import Request, byte_enables

__all__ = ["Clock", "Spent"]

_EVENTS = Event.ACCESS_DONE | Event.INTERRUPT | Event.TRANSMITTED
_SHORTEST, _LONGEST = 32, 2000
_AHEAD = 4  # frames that wait at the card, all others at the far end
_RIGHTS = select.POLLIN | select.POLLHUP | select.POLLERR
_VIOLATIONS = 1000
_TRIM = 1024
ANSWERED = 0
"""Status of an access that went well."""


@dataclass(frozen=True)
class Spent:
    """What a while of running took, for a report."""

    wall_s: float
    cpu_s: float
    """CPU time of the thread of the clock."""
    card_cpu_s: float
    """The part of it inside the engine."""
    waited_s: float
    """Wall time in which the card was quiet and the clock waited for somebody."""
    cycles: int
    frames_in: int
    frames_out: int

    def __sub__(self, before: Spent) -> Spent:
        return Spent(*(getattr(self, name) - getattr(before, name)
                       for name in self.__dataclass_fields__))


class Clock:
    """The poll loop of one card: one thread, in which everything of the card happens.

    While there is work the engine runs in short bursts, which end early with an answer, an
    interrupt or a frame, and between bursts all file descriptors are looked at. When nothing has
    passed on PCI Express or on the wire for ``quiet_cycles`` and nothing is under way, the loop
    waits in ``poll`` until a descriptor or the wire has something: simulated time stands still.

    *What another protocol has to implement.* An object that calls `watch` for its socket and its
    eventfds; a callback is called, between bursts, when its descriptor is readable or was hung up,
    and must not block. It asks the card with `request`, `read`, `write` and the like, which let the
    engine run until the card has answered; or queues posted writes (`post`), which pass in order
    and before any later read. It registers `on_interrupt` to pass interrupts on: called between
    bursts, also in the middle of a `request` of somebody else; it may signal and may not ask the
    card. Before it acknowledges that memory has gone, it calls `drain`. When its peer goes away it
    frees its regions of memory (`Engine.memory`), stops watching, and resets the function.

    A callback that fails ends `run`: protocols handle what their peers may do wrong themselves.

    | Times: a burst is about ``burst_s`` of wall time; an access takes as long as its cycles.

    Parameters
    ----------
    engine
        The engine. It should answer reads at once (``latency_cycles`` 0) and keep bytes of frames.
    wire
        What is on the other end of the wire (`sim.guest.wire_end`). None: nothing.
    burst_s
        Seconds that a burst should take: how long a socket may wait, 0.0001 to 1.
    quiet_cycles
        Cycles without any TLP or frame after which the card has nothing left to do by itself, so
        longer than each of its timers; at least 100. May be changed at any time.
    """

    def __init__(self, engine: Engine, wire: WireEnd | None = None, *, burst_s: float = 0.001,
                 quiet_cycles: int = 4000) -> None:
        if not 0.0001 <= burst_s <= 1:
            raise ValueError(f"burst_s must be from 0.0001 to 1 seconds, not {burst_s!r}")
        if quiet_cycles < 100:
            raise ValueError(f"quiet_cycles must be at least 100, not {quiet_cycles!r}")
        self.engine = engine
        self.wire: WireEnd = wire or Nowhere()
        self.quiet_cycles = quiet_cycles
        self.violations: deque[tuple[int, str]] = deque(maxlen=_VIOLATIONS)
        """What the host did not take from the card: cycle and words, the newest. A guest that
        names memory it has not lent makes some, so they are for reading, not for failing."""
        self.violations_seen = 0
        self._burst_s = burst_s
        self._poll = select.poll()
        self._posted: deque[int] = deque()
        self._watched: dict[int, Callable[[], None]] = {}
        self._interrupt: list[Callable[[], None]] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.POLLIN)
        self._wire_fd = -1
        self._stopped = False
        self._seen: tuple[int, ...] = ()
        self._active_at = engine.cycle
        self._cycles_per_s = 50_000.0
        self._cpu_s = self._wall_s = self._waited_s = 0.0
        self._frames_in = self._frames_out = 0
        self._closed = False
        self._watch_wire(True)

    # --- who has a say

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` between bursts whenever ``fd`` is readable or hung up."""
        if fd in self._watched:
            raise ValueError(f"descriptor {fd} is watched already")
        self._watched[fd] = callback
        self._poll.register(fd, _RIGHTS)

    def unwatch(self, fd: int) -> None:
        """Watch a descriptor no more; to be called before it is closed. Others are ignored."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def on_interrupt(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each burst in which the card raised interrupts."""
        self._interrupt.append(callback)

    def off_interrupt(self, callback: Callable[[], None]) -> None:
        """End that."""
        self._interrupt.remove(callback)

    def stop(self) -> None:
        """End `run` soon. For any thread, and for handlers of signals."""
        self._stopped = True
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give up what the clock holds; the engine and the wire stay their owners'."""
        if not self._closed:
            self._closed = True
            os.close(self._wake)

    # --- asking the card

    def request(self, request: Request) -> AccessResult:
        """Send a request that is not posted; let the card run until it is answered.

        Its status is None when the card did not answer within ``host_timeout_cycles``.
        """
        number = self.engine.access(request)
        while not self.engine.access_done(number):
            self._burst(_LONGEST)
        return self.engine.access_result(number)

    def requests(self, requests: Sequence[Request]) -> list[AccessResult]:
        """Send several of them at once, so that they take less time; give their results."""
        numbers = [self.engine.access(request) for request in requests]
        for number in numbers:
            while not self.engine.access_done(number):
                self._burst(_LONGEST)
        return [self.engine.access_result(number) for number in numbers]

    def post(self, request: Request) -> None:
        """Queue a posted request: it leaves in order, before any later read.

        The queue takes any number; a protocol that takes what a peer sends looks at `backlog`.
        """
        self._posted.append(self.engine.access(request, forget=True))
        if len(self._posted) % _TRIM == 0:
            self._forget_sent()

    @property
    def backlog(self) -> int:
        """Posted requests that have not left yet."""
        self._forget_sent()
        return len(self._posted)

    def _forget_sent(self) -> None:
        with suppress(IndexError):  # `backlog` may be looked at by another thread meanwhile
            while self.engine.access_done(self._posted[0]):
                self._posted.popleft()

    def read(self, address: int, size: int) -> bytes:
        """Read 1 to 4096 bytes of the card's memory; all ones where it answers with an error."""
        words = list(_words(address, size))
        results = self.requests([
            Request(RequestKind.MEM_READ, start & ~3, *byte_enables(start, count))
            for start, count in words])
        return b"".join(
            result.data if result.status == ANSWERED else b"\xff" * count
            for result, (_start, count) in zip(results, words, strict=True))

    def write(self, address: int, data: bytes) -> None:
        """Write to the card's memory, posted: a request for each dword."""
        for start, count in _words(address, len(data)):
            part = data[start - address:start - address + count]
            self.post(Request(RequestKind.MEM_WRITE, start & ~3, *byte_enables(start, count),
                              payload=_dwords(start, part)))

    def config_read(self, bdf: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 aligned bytes of configuration space; all ones after an error."""
        _count, first_be, _last = byte_enables(offset, size)
        result = self.request(Request(RequestKind.CONFIG_READ, offset & ~3, first_be=first_be,
                                      completer_id=bdf))
        if result.status != ANSWERED:
            return (1 << 8 * size) - 1
        return int.from_bytes(result.data[:size], "little")

    def config_write(self, bdf: int, offset: int, size: int, value: int) -> bool:
        """Write 1, 2 or 4 aligned bytes of configuration space; whether the card took it."""
        _count, first_be, _last = byte_enables(offset, size)
        payload = _dwords(offset, value.to_bytes(size, "little"))
        return self.request(Request(RequestKind.CONFIG_WRITE, offset & ~3, first_be=first_be,
                                    completer_id=bdf, payload=payload)).status == ANSWERED

    def advance(self, cycles: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most until something is so; give whether it is."""
        end = self.engine.cycle + cycles
        while not until():
            left = end - self.engine.cycle
            if left <= 0:
                return False
            self._burst(min(left, _LONGEST), shortest=1)
        return True

    def drain(self, limit_cycles: int = 100_000) -> bool:
        """Run until nothing is under way on PCI Express; whether that came within the limit."""
        end = self.engine.cycle + limit_cycles
        while self._on_the_way() and self.engine.cycle < end:
            self._burst(_LONGEST)
        return not self._on_the_way()

    # --- running

    def run(self, until: Callable[[], bool] | None = None,
            timeout_s: float | None = None) -> bool:
        """Run until `stop`, until something is so, or for so many seconds.

        Gives whether ``until`` became so; without it, whether it was stopped. A stop that came
        before counts.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        wall, cpu = time.monotonic(), time.thread_time()
        met = False
        while not self._stopped and not (met := until is not None and until()):
            if deadline is not None and time.monotonic() >= deadline:
                break
            if self.quiet:
                self._look(self._pause(deadline))
            else:
                self._look(0)
                self._burst(int(self._cycles_per_s * self._burst_s))
            before = wall, cpu
            wall, cpu = time.monotonic(), time.thread_time()
            self._wall_s += wall - before[0]
            self._cpu_s += cpu - before[1]
        met = met or (self._stopped and until is None)
        self._stopped = False
        return met

    @property
    def quiet(self) -> bool:
        """Whether the card has come to rest: only somebody from outside can make it go on."""
        return (self.engine.cycle - self._active_at >= self.quiet_cycles
                and not self._on_the_way() and self.engine.wire.rx_idle)

    @property
    def spent(self) -> Spent:
        """All that `run` took so far; take the difference of two for a while."""
        return Spent(self._wall_s, self._cpu_s, self.engine.cpu_seconds, self._waited_s,
                     self.engine.cycle, self._frames_in, self._frames_out)

    def _on_the_way(self) -> bool:
        engine = self.engine
        return not engine.idle or bool(engine.library.rl_reads_waiting(engine.handle))

    @staticmethod
    def _pause(deadline: float | None) -> int | None:
        """Give how many milliseconds a wait may take."""
        return None if deadline is None else max(0, int(1000 * (deadline - time.monotonic())) + 1)

    def _look(self, timeout_ms: int | None) -> None:
        """Look at all descriptors, and call who has something."""
        # A far end whose frames are not wanted yet is not waited for.
        self._watch_wire(self.engine.wire.rx_waiting < _AHEAD)
        begun = time.monotonic() if timeout_ms != 0 else 0.0
        ready = self._poll.poll(timeout_ms)
        if timeout_ms != 0:
            self._waited_s += time.monotonic() - begun
        for fd, _what in ready:
            if fd == self._wake:
                os.eventfd_read(self._wake)
            elif fd == self._wire_fd:
                self._take_in()
            else:
                callback = self._watched.get(fd)  # one before it may have closed it
                if callback is not None:
                    callback()

    def _watch_wire(self, wanted: bool) -> None:
        fd = self.wire.fileno() if wanted else -1
        if fd == self._wire_fd:
            return
        if self._wire_fd >= 0:
            self._poll.unregister(self._wire_fd)
        if fd >= 0:
            self._poll.register(fd, select.POLLIN)
        self._wire_fd = fd

    def _take_in(self) -> None:
        """Move frames from the far end to the card, a few at a time."""
        while self.engine.wire.rx_waiting < _AHEAD:
            frame = self.wire.receive()
            if frame is None:
                return
            self.engine.wire.send(frame)
            self._frames_in += 1
            self._active_at = self.engine.cycle

    def _burst(self, cycles: int, *, shortest: int = _SHORTEST) -> None:
        engine = self.engine
        begun_cycle, begun = engine.cycle, time.monotonic()
        happened = engine.run_until(_EVENTS, max(shortest, min(cycles, _LONGEST)))
        done, took = engine.cycle - begun_cycle, time.monotonic() - begun
        if done >= _SHORTEST and took > 0:
            self._cycles_per_s += 0.1 * (done / took - self._cycles_per_s)
        if happened & Event.VIOLATION:
            found = engine.take_violations()
            self.violations_seen += len(found)
            self.violations.extend(found)
        seen = self._passed()
        if seen != self._seen:
            frames = seen[-2:] != self._seen[-2:]
            self._seen, self._active_at = seen, engine.cycle
            if frames:
                self._put_out()
        if happened & Event.INTERRUPT:
            for callback in (*self._interrupt,):
                callback()

    def _passed(self) -> tuple[int, ...]:
        """Count all that passed on PCI Express and on the wire."""
        counters = self.engine.counters
        return tuple(counters[name] for name in (
            "rq_beats", "rc_beats", "cq_beats", "cc_beats", "wire_rx_frames", "wire_tx_frames"))

    def _put_out(self) -> None:
        """Hand on what the card transmitted; what it received is kept as well, and let go."""
        records, data = self.engine.wire.take()
        for record in records[records["received"] == 0]:
            at = int(record["offset"])
            self._frames_out += 1
            self.wire.transmit(np.ascontiguousarray(data[at:at + int(record["bytes"])]).tobytes())


def _words(address: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut an access into parts of one dword each."""
    end = address + size
    while address < end:
        stop = min(end, (address & ~3) + 4)
        yield address, stop - address
        address = stop


def _dwords(address: int, data: bytes) -> bytes:
    """Fill bytes up to whole dwords; what is not enabled is filled so that it would be noticed."""
    lead = address & 3
    return b"\xee" * lead + data + b"\xee" * (-(lead + len(data)) & 3)
