"""The bench's root complex and the native engine's, doing the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from hw.pcie.types import CompletionStatus, RequestKind
from sim.native.engine import Engine, EngineOptions
from tb.completer import FaultKind
from tb.host_access import Access
from tb.root_complex import RootComplex, RootComplexOptions
from tb.tlp import Completion, Request, byte_enables

__all__ = ["BDF", "OPTIONS", "REGION", "Bench", "Pair", "contents", "read", "write"]

BDF = 0x0100
REGION = 16384
OPTIONS: dict[str, Any] = {"latency_cycles": 40, "host_timeout_cycles": 500}
READ_ONLY, WRITE_ONLY = 1, 2  # of the four regions

Sent = tuple[int, dict[str, int], bytes]
Result = tuple[bool, int | None, bytes, int]


def contents(seed: int) -> bytes:
    return random.Random(seed).randbytes(REGION)


class Bench:
    """The bench's root complex."""

    def __init__(self, **options: Any) -> None:
        self.root = RootComplex(options=RootComplexOptions(
            **{"sampling": "at_once", **OPTIONS, **options}))
        self.regions = [self.root.memory.allocate(
            REGION, align=4096, device_writes=number != READ_ONLY,
            device_reads=number != WRITE_ONLY) for number in range(4)]
        for number, region in enumerate(self.regions):
            region.write(0, contents(number))
        self.interrupt = self.root.interrupts.allocate()
        self.cycle = 0
        self.sent: list[Sent] = []
        self.credits: list[int] = []
        self.accesses: list[Access] = []

    def request(self, request: Request) -> None:
        self.root.now = self.cycle
        self.root.receive_request(request)

    def complete(self, completion: Completion) -> None:
        self.root.now = self.cycle
        self.root.receive_completion(completion)

    def access(self, request: Request) -> None:
        self.accesses.append(self.root.access.issue(request))

    def inject(self, address: int, size: int, kind: FaultKind, count: int | None) -> None:
        self.root.inject(address, size, kind=kind, count=count, late_cycles=70)

    def free(self, number: int) -> None:
        self.regions[number].free()

    def step(self) -> None:
        root = self.root
        root.now = self.cycle + 1
        completion = root.next_completion()
        if completion is not None:
            header = {name: int(getattr(value := getattr(completion, name), "value", value))
                      for name in completion.__slots__ if name != "payload"}
            self.sent.append((root.now, header, completion.payload))
        root.next_request()
        root.now = self.cycle
        if self.cycle % 64 == 0:
            root.expire()
        self.cycle += 1
        root.now = self.cycle
        self.credits.append(root.credit_limit)

    def results(self) -> Iterator[Result]:
        for access in self.accesses:
            yield (access.done, None if access.status is None else access.status.value,
                   access.data if access.done else b"", access.answered_at)

    def violations(self) -> list[tuple[int, str]]:
        return [(violation.cycle, re.sub(r"<[^>]*> is not", "memory that is not", violation.text))
                for violation in self.root.violations]

    def records(self) -> list[tuple[Any, ...]]:
        names = ["cq", "cc", "rq", "rc"]
        return [(record.cycle, names.index(record.channel), record.address & (1 << 64) - 1,
                 record.size, record.tag, record.requester_id, record.data.ljust(16, b"\0"))
                for record in self.root.log or ()]

    def limits(self) -> tuple[int, ...]:
        known = self.root.function(BDF)
        return int(known.bus_master), known.max_payload, known.max_read, known.tags


class Native:
    """The engine's, at the same addresses."""

    def __init__(self, bench: Bench, **options: Any) -> None:
        self.engine = Engine(None, EngineOptions(
            **{"sampling": "arrival", **OPTIONS, **options}))
        self.regions = []
        for number, region in enumerate(bench.regions):
            room = np.zeros(REGION + 16, np.uint8)
            at = -room.ctypes.data % 16
            array = room[at:at + REGION]
            array[:] = np.frombuffer(contents(number), np.uint8)
            self.regions.append(self.engine.memory.lend(
                region.address, array, device_writes=number != READ_ONLY,
                device_reads=number != WRITE_ONLY))
        self.interrupt = self.engine.interrupt()
        self.sent: list[Sent] = []
        self.credits: list[int] = []
        self.accesses: list[int] = []

    def request(self, request: Request) -> None:
        self.engine.hand_request(request)

    def complete(self, completion: Completion) -> None:
        header = {name: int(getattr(value := getattr(completion, name), "value", value))
                  for name in completion.__slots__ if name != "payload"}
        self.engine.hand_completion(completion.payload, **header)

    def access(self, request: Request) -> None:
        self.accesses.append(self.engine.access(request))

    def inject(self, address: int, size: int, kind: FaultKind, count: int | None) -> None:
        self.engine.inject(address, size, kind=kind, count=count, late_cycles=70)

    def free(self, number: int) -> None:
        self.regions[number].free()

    def step(self) -> None:
        self.engine.run(1)
        self.sent += self.engine.hand_sent()
        self.credits.append(self.engine.library.rl_hand_credit(self.engine.handle))

    def results(self) -> Iterator[Result]:
        for number in self.accesses:
            result = self.engine.access_result(number)
            yield (result.done, result.status, result.data if result.done else b"",
                   result.answered_at)

    def records(self) -> list[tuple[Any, ...]]:
        return [(int(r["cycle"]), int(r["channel"]), int(r["address"]), int(r["size"]),
                 int(r["tag"]), int(r["requester_id"]), bytes(r["data"]))
                for r in self.engine.take_tlps()]

    def limits(self) -> tuple[int, ...]:
        known = self.engine.limits(BDF)
        return known.bus_master, known.max_payload, known.max_read, known.tags


class Pair:
    """Both, doing the same."""

    def __init__(self, **options: Any) -> None:
        self.bench = Bench(**options)
        self.native = Native(self.bench, **options)
        self.native.engine.change(tlp_log=1 << 20)
        self.bases = [region.address for region in self.bench.regions]

    def __getattr__(self, name: str) -> Any:
        def both(*arguments: Any) -> None:
            getattr(self.bench, name)(*arguments)
            getattr(self.native, name)(*arguments)
        return both

    def run(self, cycles: int) -> None:
        for _ in range(cycles):
            self.bench.step()
            self.native.step()

    def answer(self, status: CompletionStatus, payload: bytes = b"", **more: int) -> None:
        """Answer the last access, as the card."""
        request = self.bench.accesses[-1].request
        self.complete(Completion(
            status, dwords=len(payload) // 4, requester_id=request.requester_id,
            completer_id=request.completer_id, tag=request.tag, payload=payload, **more))

    def config(self, register: int, value: int | None, answer: int = 0) -> None:
        """One access to the configuration space that succeeds."""
        kind = RequestKind.CONFIG_READ if value is None else RequestKind.CONFIG_WRITE
        payload = b"" if value is None else value.to_bytes(4, "little")
        self.bench.access(Request(kind, address=register, completer_id=BDF, payload=payload))
        self.native.access(Request(kind, address=register, completer_id=BDF, payload=payload))
        self.run(3)
        self.answer(CompletionStatus.SUCCESS,
                    answer.to_bytes(4, "little") if value is None else b"")
        self.run(1)

    def start(self, *, device_control: int = 0x2110) -> None:
        """Let the function be a bus master, with 256-byte payload and extended tags."""
        self.config(0x34, None, 0x40)
        self.config(0x40, None, 0x10)
        self.config(0x48, device_control)
        self.config(0x04, 6)

    def check(self) -> None:
        """Compare all there is."""
        bench, native = self.bench, self.native
        assert native.sent == bench.sent
        assert native.engine.take_violations() == bench.violations()[-256:]
        assert native.records() == bench.records()
        assert list(native.results()) == list(bench.results())
        assert native.limits() == bench.limits()
        assert native.interrupt.count == bench.interrupt.count
        for one, other in zip(bench.regions, native.regions, strict=True):
            if other in native.engine.memory.regions:
                assert other.read() == one.read()
        native.engine.close()


def read(address: int, size: int, tag: int, **more: Any) -> Request:
    return Request(RequestKind.MEM_READ, address & ~3, *byte_enables(address, size),
                   requester_id=BDF, tag=tag, **more)


def write(address: int, data: bytes, **more: Any) -> Request:
    lead = address & 3
    payload = b"\xa1" * lead + data + b"\xa2" * (-(lead + len(data)) & 3)
    return Request(RequestKind.MEM_WRITE, address & ~3, *byte_enables(address, len(data)),
                   requester_id=BDF, payload=payload, **more)
