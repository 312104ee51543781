"""The driver's port on the engine: tasks in plain Python, and the engine runs while all wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

from hw.pcie.types import RequestKind
from sim.native.engine import FOREVER, AccessResult, Engine, Event, NativeInterrupt
from sim.native.memory import NativeRegion
from sw_driver.port import Interrupt
from tb.tlp import Request, byte_enables

__all__ = ["CardViolation", "NativePort", "Task"]

Result = TypeVar("Result")

_HANG_CYCLES = 20_000_000
"""A run in which so many cycles pass without anything that a task waits for has failed."""


class CardViolation(AssertionError):
    """The card did what it must not."""


class _Wait:
    """What a task waits for: something that becomes so with an event, or a time."""

    __slots__ = ("deadline", "events", "met")

    def __init__(self, met: Callable[[], bool], events: Event, deadline: int | None) -> None:
        self.met = met
        self.events = events
        self.deadline = deadline

    def __await__(self) -> Generator[_Wait, None, bool]:
        """Give whether it is so; False when the time has come first."""
        if self.met():
            return True
        yield self
        return self.met()


class Task(Generic[Result]):
    """A coroutine that runs beside others; ``await`` it for its result."""

    def __init__(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        self._coroutine = coroutine
        self.done = False
        self._result: Result | None = None
        self._error: BaseException | None = None

    def step(self) -> _Wait | None:
        """Run until it waits; None when it has ended."""
        try:
            wait: _Wait = self._coroutine.send(None)
        except StopIteration as end:
            self.done, self._result = True, end.value
        except BaseException as error:
            self.done, self._error = True, error
        else:
            return wait
        return None

    @property
    def error(self) -> BaseException | None:
        """What it failed with."""
        return self._error

    def result(self) -> Result:
        """Give its result, or fail as it failed."""
        if self._error is not None:
            raise self._error
        if not self.done:
            raise RuntimeError("the task has not ended")
        return self._result  # type: ignore[return-value]  # it ended with one

    def close(self) -> None:
        """End it wherever it is."""
        if not self.done:
            self._coroutine.close()
            self.done = True

    def __await__(self) -> Generator[_Wait, None, Result]:
        while not self.done:
            yield _Wait(lambda: self.done, Event.NONE, None)
        return self.result()


class NativePort:
    """`sw_driver.port.HostPort` over an `Engine`.

    `run` runs a coroutine; those that it starts by `spawn` run beside it. The engine runs only
    while every task waits, and stops at the first event that one of them waits for.

    Parameters
    ----------
    engine
        The engine, with a card.
    bus
        Number of the bus behind the root port; functions elsewhere do not exist.
    ari
        Whether all 256 functions of the bus do; else those of device 0.
    strict
        A violation fails the run at once; else it is only kept, for `Engine.take_violations`.
    """

    def __init__(self, engine: Engine, *, bus: int = 1, ari: bool = False,
                 strict: bool = True) -> None:
        self.engine = engine
        self.bus = bus
        self.ari = ari
        self.strict = strict
        self.memory_windows = (range(0xC000_0000, 0xF000_0000),
                               range(0x80_0000_0000, 0x90_0000_0000))
        self._ready: deque[Task[Any]] = deque()
        self._waiting: list[tuple[Task[Any], _Wait]] = []

    # --- tasks

    def spawn(self, coroutine: Coroutine[Any, Any, Result]) -> Task[Result]:
        """Start a task beside the one that runs."""
        task = Task(coroutine)
        self._ready.append(task)
        return task

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end, and give its result. A task that fails ends all."""
        main = self.spawn(coroutine)
        try:
            while not main.done:
                self._run_ready()
                if not main.done:
                    self._run_engine()
        finally:
            for task in (*self._ready, *(task for task, _wait in self._waiting)):
                task.close()
            self._ready.clear()
            self._waiting.clear()
        return main.result()

    def _run_ready(self) -> None:
        while self._ready:
            task = self._ready.popleft()
            if task.done:  # somebody has closed it
                continue
            wait = task.step()
            if wait is not None:
                self._waiting.append((task, wait))
                continue
            if task.error is not None:
                raise task.error
            self._wake()  # who waits for its end

    def _wake(self) -> None:
        now = self.engine.cycle
        still = []
        for task, wait in self._waiting:
            if task.done:
                continue
            if wait.met() or (wait.deadline is not None and wait.deadline <= now):
                self._ready.append(task)
            else:
                still.append((task, wait))
        self._waiting = still

    def _run_engine(self) -> None:
        begun = self.engine.cycle
        deadlines = [wait.deadline for _task, wait in self._waiting if wait.deadline is not None]
        limit = min([*deadlines, begun + _HANG_CYCLES]) - begun
        events = Event.VIOLATION if self.strict else Event.NONE
        for _task, wait in self._waiting:
            events |= wait.events
        happened = self.engine.run_until(events, max(limit, 0))
        if self.strict and happened & Event.VIOLATION:
            raise CardViolation("\n".join(f"cycle {cycle}: {text}" for cycle, text
                                          in self.engine.take_violations()[:20]))
        self._wake()
        if not self._ready and self.engine.cycle - begun >= _HANG_CYCLES:
            raise TimeoutError(f"nothing that a task waits for came within {_HANG_CYCLES} cycles")

    def wait(self, met: Callable[[], bool], events: Event,
             timeout_cycles: int | None = None) -> Awaitable[bool]:
        """Wait until something is so, looking after each of these events; False at a time-out."""
        deadline = None if timeout_cycles is None else self.engine.cycle + timeout_cycles
        return _Wait(met, events, deadline)

    # --- the host port

    def _reaches(self, bdf: int) -> bool:
        return bdf >> 8 == self.bus and (self.ari or not bdf >> 3 & 0x1F)

    async def request(self, request: Request) -> AccessResult:
        """Send any request to the card; give what came of it."""
        number = self.engine.access(request)
        await self.wait(lambda: self.engine.access_done(number), Event.ACCESS_DONE)
        return self.engine.access_result(number)

    async def _read(self, request: Request, size: int) -> int:
        result = await self.request(request)
        if result.status != 0:
            return (1 << 8 * size) - 1  # what a processor sees after an error
        return int.from_bytes(result.data, "little")

    async def config_read(self, bdf: int, offset: int, size: int) -> int:
        """Read configuration space; all ones after an error, and where no function is."""
        if not self._reaches(bdf):
            return (1 << 8 * size) - 1
        return await self._read(self._config(bdf, offset, size, None), size)

    async def config_write(self, bdf: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        if self._reaches(bdf):
            result = await self.request(self._config(bdf, offset, size, value))
            if result.status is None:
                raise TimeoutError(f"configuration write of {offset:#x} was not answered")

    @staticmethod
    def _config(bdf: int, offset: int, size: int, value: int | None) -> Request:
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < 4096:
            raise ValueError(f"configuration access of {size} bytes at {offset:#x}: must be 1, 2 "
                             "or 4, aligned, from 0 to 4095")
        _dwords, first_be, _last_be = byte_enables(offset, size)
        kind = RequestKind.CONFIG_READ if value is None else RequestKind.CONFIG_WRITE
        payload = b"" if value is None else _dwords_of(offset, value.to_bytes(size, "little"))
        return Request(kind, address=offset & ~3, first_be=first_be, completer_id=bdf,
                       payload=payload)

    async def mmio_read(self, address: int, size: int) -> int:
        """Read memory of the card: a request for each dword."""
        value = 0
        for start, count in _words(address, size):
            part = await self._read(Request(
                RequestKind.MEM_READ, start & ~3, *byte_enables(start, count)), count)
            value |= part << 8 * (start - address)
        return value

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write memory of the card; returns when the request has left the host."""
        data = value.to_bytes(size, "little")
        for start, count in _words(address, size):
            await self.request(Request(
                RequestKind.MEM_WRITE, start & ~3, *byte_enables(start, count),
                payload=_dwords_of(start, data[start - address:start - address + count])))

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> NativeRegion:
        """Give memory."""
        return self.engine.memory.allocate(size, align=align, name=name,
                                           device_reads=device_reads, device_writes=device_writes)

    def allocate_interrupt(self, name: str = "interrupt") -> NativeInterrupt:
        """Give an interrupt."""
        return self.engine.interrupt(name)

    async def wait_interrupts(self, waits: Sequence[tuple[Interrupt, int]],
                              timeout_cycles: int) -> bool:
        """Wait for one of several interrupts."""
        return await self.wait(
            lambda: any(interrupt.count != seen for interrupt, seen in waits), Event.INTERRUPT,
            max(timeout_cycles, 0))

    def now(self) -> int:
        """Give the time."""
        return self.engine.cycle

    async def sleep(self, cycles: int) -> None:
        """Let time pass."""
        if cycles > 0:
            await self.wait(lambda: False, Event.NONE, min(cycles, FOREVER))


def _words(address: int, size: int) -> list[tuple[int, int]]:
    """Cut an access into parts of one dword each."""
    parts = []
    end = address + size
    while address < end:
        stop = min(end, (address & ~3) + 4)
        parts.append((address, stop - address))
        address = stop
    return parts


def _dwords_of(address: int, data: bytes) -> bytes:
    """Fill bytes up to whole dwords; what is not enabled is filled so that it would be noticed."""
    lead = address & 3
    return b"\xee" * lead + data + b"\xee" * (-(lead + len(data)) & 3)
