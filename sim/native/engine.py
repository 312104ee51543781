"""The native engine: runs the card, its host and its wire in C++, many cycles a call."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hw.config import NicConfig
from sim.native import library as c
from sim.native.build import card_library, host_library
from sim.native.library import Event
from sim.native.memory import NativeMemory
from sim.native.options import SAMPLING, SPLITTING, EngineOptions
from sim.native.rings import (
    DriveOptions,
    PackedChain,
    RingDriver,
    packed_driver,
    split_driver,
)
from sim.native.save_file import write_save_file
from sim.native.wire import NativeWire
from tb.completer import FaultKind
from tb.tlp import Request

__all__ = ["AccessResult", "Engine", "EngineOptions", "Event", "NativeInterrupt"]

FOREVER = 1 << 62
_PART_CYCLES = 200_000
_FAULTS = (FaultKind.UNSUPPORTED, FaultKind.ABORT, FaultKind.POISONED, FaultKind.NEVER,
           FaultKind.LATE)
_DOORBELLS = range(0xFEE0_0000, 0xFEF0_0000)


class NativeInterrupt:
    """An interrupt: what must be written where, and how often it was."""

    __slots__ = ("_counts", "address", "data", "index", "name")

    def __init__(self, counts: Any, index: int, address: int, data: int, name: str) -> None:
        self._counts = counts
        self.index = index
        self.address = address
        self.data = data
        self.name = name

    @property
    def count(self) -> int:
        """Times it was raised so far."""
        return int(self._counts[self.index])

    def __repr__(self) -> str:
        return f"<interrupt {self.name} {self.data:#x} to {self.address:#x}, raised {self.count}>"


@dataclass(frozen=True)
class AccessResult:
    """What became of an access of the host."""

    done: bool
    status: int | None
    """None while waiting, after a time-out, and for a posted write."""
    data: bytes
    poisoned: bool
    issued_at: int
    answered_at: int
    tag: int


class Engine:
    """A card with a host and a wire around it.

    Nothing happens but in `run` and `run_until`, which return to Python only at the end. Everything
    is the same again with the same seed. Use it in a ``with`` statement, or `close` it.

    | Speed: see docs/architecture.md. Storage: the logs, until they are taken.

    Parameters
    ----------
    config
        The card; None for the host alone (the card is then played by hand: tests).
    options
        `EngineOptions`; `change` changes them while running.
    waves
        A VCD file to write, which appears when it is whole, and beside it a save file for GTKWave
        that groups the signals by room; the library is then a slower one.
    window
        Cycles that the waves show (None: all), with a step of 1.
    """

    def __init__(self, config: NicConfig | None, options: EngineOptions | None = None, *,
                 waves: Path | None = None, window: range | None = None) -> None:
        self.config = config
        self.options = options or EngineOptions()
        path = host_library() if config is None else card_library(config, waves=waves is not None)
        self._library = c.load(path)
        self._clock_mhz = 250 if config is None else config.clock_mhz
        self._handle: int | None = self._library.rl_open(self.options.seed, config is not None)
        self._counter_names = self._library.rl_counter_names().decode().split()
        self._counts = self._library.rl_interrupt_counts(self._handle)
        self._interrupts = 0
        self._waves: tuple[Path, Path] | None = None
        self.memory = NativeMemory(self._library, self.handle, seed=self.options.seed,
                                   placement=self.options.placement)
        self.wire = NativeWire(self._library, self.handle)
        self._apply(self.options)
        self._set("ns_per_cycle", 1000 / self._clock_mhz)
        if waves is not None:
            waves.parent.mkdir(parents=True, exist_ok=True)
            self._waves = waves.with_name(waves.name + ".new"), waves
            shown = range(FOREVER) if window is None else window
            if not self._library.rl_trace(self.handle, str(self._waves[0]).encode(), shown.start,
                                          max(shown.stop, 1) - 1):
                raise ValueError(f"{waves}: cannot be written")

    @property
    def handle(self) -> int:
        """The engine in C++; `ValueError` when it is closed."""
        if self._handle is None:
            raise ValueError("the engine is closed")
        return self._handle

    @property
    def library(self) -> Any:
        """Its functions (`sim.native.library`)."""
        return self._library

    def close(self) -> None:
        """End the engine; regions and arrays of it may not be used any more."""
        if self._handle is not None:
            self.wire.untap()
            self._library.rl_close(self._handle)
            self._handle = None
            if self._waves is not None:
                self._waves[0].replace(self._waves[1])
                write_save_file(self._waves[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    # --- options

    def change(self, **changes: Any) -> None:
        """Change options; ``seed`` and ``placement`` are for the start alone."""
        known = {field.name for field in fields(EngineOptions)} - {"seed", "placement"}
        for name in changes:
            if name not in known:
                raise ValueError(f"{name} is no option to change; there are "
                                 f"{', '.join(sorted(known))}")
        new = replace(self.options, **changes)
        self._apply(new, set(changes))
        self.options = new

    def _set(self, name: str, value: float) -> None:
        if not self._library.rl_set(self.handle, name.encode(), value):
            raise ValueError(f"the engine knows no option {name}")

    def _apply(self, options: EngineOptions, names: set[str] | None = None) -> None:
        for field in fields(options):
            name, value = field.name, getattr(options, field.name)
            if names is not None and name not in names:
                continue
            if name == "link":
                rate = value.bytes_per_cycle(self._clock_mhz) if value else 0
                self._set("down_rate", rate)
                self._set("up_rate", rate)
            elif name == "stalls":
                for stream in ("rq", "cc", "rc", "cq", "rx", "tx"):
                    self._set(f"{stream}_flip", value)
            elif name == "splitting":
                self._set(name, SPLITTING.index(value))
            elif name == "sampling":
                self._set(name, SAMPLING.index(value))
            elif name == "keep":
                self._set(name, ("nothing", "records", "bytes").index(value))
            elif name not in ("seed", "placement"):
                self._set(name, value or 0)

    def set_link_up(self, up: bool) -> None:
        """Say whether the wire's link is there (it is, at the start)."""
        self._set("link_up", up)

    # --- running

    @property
    def cycle(self) -> int:
        """Clock edges so far."""
        return int(self._library.rl_cycle(self.handle))

    @property
    def cpu_seconds(self) -> float:
        """CPU time that was spent in the engine, without Python."""
        return float(self._library.rl_cpu_seconds(self.handle))

    @property
    def cycles_per_second(self) -> float:
        """Cycles in a second of CPU time, over all so far; 0 before the first."""
        seconds = self.cpu_seconds
        return self.cycle / seconds if seconds else 0.0

    def run(self, cycles: int) -> Event:
        """Run so many cycles; give all that happened."""
        return self.run_until(Event.NONE, cycles)

    def run_until(self, events: Event, limit_cycles: int = FOREVER) -> Event:
        """Run until one of these events, ``limit_cycles`` at most; give all that happened.

        The engine stops after the cycle of the event. What happened before the call does not count.
        """
        if not 0 <= limit_cycles <= FOREVER:
            raise ValueError(f"cycles to run must be from 0 to {FOREVER}, not {limit_cycles}")
        happened = 0
        while True:
            # In parts of a second or two, so that an interrupt from the keyboard gets through.
            part = min(limit_cycles, _PART_CYCLES)
            happened |= self._library.rl_run(self.handle, part, int(events))
            limit_cycles -= part
            if not limit_cycles or happened & events:
                return Event(happened)

    @property
    def idle(self) -> bool:
        """Nothing is on its way on PCI Express, in either direction."""
        return bool(self._library.rl_idle(self.handle))

    # --- what the host asks of the card

    def access(self, request: Request, *, forget: bool = False) -> int:
        """Queue a request to the card, legal or not; give its number.

        With ``forget`` nobody will ask what became of it.
        """
        record = c.RequestRecord(
            request.address, request.dwords, request.requester_id, request.completer_id,
            request.tag, int(request.kind.value), request.first_be, request.last_be,
            request.traffic_class, request.attributes, int(request.poisoned))
        if len(request.payload) > 4096:
            raise ValueError(f"a payload must be at most 4096 bytes, not {len(request.payload)}")
        return int(self._library.rl_access(self.handle, ctypes.byref(record), request.payload,
                                           len(request.payload), forget))

    def access_done(self, number: int) -> bool:
        """Whether an access was answered, given up, or (a posted one) has left."""
        return bool(self._library.rl_access_done(self.handle, number))

    def access_result(self, number: int) -> AccessResult:
        """Give what became of an access; one that is done is forgotten thereby."""
        record = c.AccessRecord()
        if not self._library.rl_access_result(self.handle, number, ctypes.byref(record)):
            raise ValueError(f"there is no access {number}, or its result was taken")
        return AccessResult(
            bool(record.done), None if record.status < 0 else record.status,
            bytes(record.data[:record.bytes]), bool(record.poisoned), record.issued_at,
            record.answered_at, record.tag)

    def limits(self, bdf: int) -> c.LimitsRecord:
        """Give what the host has seen a function be told of its limits."""
        record = c.LimitsRecord()
        self._library.rl_function(self.handle, bdf, ctypes.byref(record))
        return record

    def interrupt(self, name: str = "interrupt") -> NativeInterrupt:
        """Give an interrupt that nobody has."""
        # 256 processors a page of the window; data and address are each interrupt's own.
        number = self._interrupts
        address = _DOORBELLS.start + (number % 251 << 12)
        data = 0x4021 + 7 * number
        index = self._library.rl_interrupt_add(self.handle, address, data)
        if index < 0:
            raise ValueError(f"an engine has at most 8192 interrupts, not {number + 1}")
        self._interrupts += 1
        return NativeInterrupt(self._counts, index, address, data, name)

    def inject(self, address: int, size: int, *, kind: FaultKind, count: int | None = None,
               late_cycles: int = 0) -> int:
        """Let reads of ``size`` bytes at an address go wrong, ``count`` times (None: always)."""
        return int(self._library.rl_fault_add(
            self.handle, address, size, _FAULTS.index(kind), -1 if count is None else count,
            late_cycles))

    def heal(self, fault: int) -> None:
        """End a fault that `inject` made."""
        if not self._library.rl_fault_remove(self.handle, fault):
            raise ValueError(f"there is no fault {fault}")

    # --- what happened

    @property
    def counters(self) -> dict[str, int]:
        """Everything that was counted, by name (``counters.h``)."""
        values = np.zeros(len(self._counter_names), np.uint64)
        self._library.rl_counters(self.handle, values.ctypes.data)
        return dict(zip(self._counter_names, values.tolist(), strict=True))

    def _log(self, place: int, take: Any, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
        sizes = np.zeros(6, np.uint64)
        self._library.rl_log_sizes(self.handle, sizes.ctypes.data)
        records = np.zeros(int(sizes[place]), kind)
        got = take(self.handle, records.ctypes.data, len(records))
        return records[:got]

    def take_tlps(self) -> np.ndarray[Any, Any]:
        """Take the log of TLPs (`sim.native.library.TLP`)."""
        return self._log(0, self._library.rl_tlps_take, c.TLP)

    def take_interrupts(self) -> np.ndarray[Any, Any]:
        """Take the log of interrupts (`sim.native.library.INTERRUPT`)."""
        return self._log(2, self._library.rl_interrupts_take, c.INTERRUPT)

    def take_violations(self) -> list[tuple[int, str]]:
        """Take what the card did that it must not: cycle and words."""
        records = self._log(4, self._library.rl_violations_take, c.VIOLATION)
        return [(int(record["cycle"]), record["text"].decode()) for record in records]

    def check(self) -> None:
        """Fail with all violations, if there are any."""
        violations = self.take_violations()
        if violations:
            raise AssertionError("\n".join(
                f"cycle {cycle}: {text}" for cycle, text in violations[:20]))

    # --- rings that need no Python

    def drive(self, *, size: int, available: int, used: int, **options: Any) -> RingDriver:
        """Go on with a split ring that a driver in Python set up: see `split_driver`."""
        return split_driver(self._library, self.handle, DriveOptions(**options), size=size,
                            available=available, used=used)

    def drive_packed(self, *, size: int, descriptors: int, device_event: int, used: int,
                     chains: Sequence[PackedChain], **options: Any) -> RingDriver:
        """Go on with a packed ring that a driver in Python set up: see `packed_driver`."""
        return packed_driver(self._library, self.handle, DriveOptions(**options), size=size,
                             descriptors=descriptors, device_event=device_event, used=used,
                             chains=chains)

    def clear_drivers(self) -> None:
        """Forget all ring drivers; those that there are may not be used any more."""
        self._library.rl_drivers_clear(self.handle)

    # --- the card played by hand

    def hand_request(self, request: Request) -> None:
        """Let the host take a request as the card's, now. For an engine without a card."""
        record = c.RequestRecord(
            request.address, request.dwords, request.requester_id, request.completer_id,
            request.tag, int(request.kind.value), request.first_be, request.last_be,
            request.traffic_class, request.attributes, int(request.poisoned))
        self._library.rl_hand_request(self.handle, ctypes.byref(record), request.payload)

    def play_request(self, request: Request) -> None:
        """Let the host take a request as soon as those before it, the bus and the link allow."""
        record = c.RequestRecord(
            request.address, request.dwords, request.requester_id, request.completer_id,
            request.tag, int(request.kind.value), request.first_be, request.last_be,
            request.traffic_class, request.attributes, int(request.poisoned))
        self._library.rl_play_request(self.handle, ctypes.byref(record), request.payload,
                                      len(request.payload))

    @property
    def played_at(self) -> int:
        """Cycle in which the last of the played requests was taken."""
        return int(self._library.rl_played_at(self.handle))

    def hand_completion(self, payload: bytes, **header: int) -> None:
        """Let the host take a completion as the card's, now."""
        record = c.CompletionRecord(**header)
        self._library.rl_hand_completion(self.handle, ctypes.byref(record), payload)

    def hand_sent(self) -> Iterable[tuple[int, dict[str, int], bytes]]:
        """Take the completions that the host has sent: cycle, header, payload."""
        record, payload = c.CompletionRecord(), ctypes.create_string_buffer(4096)
        names: Sequence[str] = [str(field[0]) for field in record._fields_]
        while self._library.rl_hand_sent(self.handle, ctypes.byref(record), payload):
            header = {name: int(getattr(record, name)) for name in names}
            yield header.pop("cycle"), header, payload.raw[:header.pop("bytes")]
