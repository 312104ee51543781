"""Engines that work, and the registers' side, around a `Lifecycle`."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import (
    DoorbellLayout,
    FaultLayout,
    FaultRecordLayout,
    LifecycleReport,
    LifecycleReportLayout,
    LifecycleRequest,
    LifecycleRequestLayout,
    ObligationLayout,
    PositionAnswerLayout,
    PositionRequestLayout,
    QueueCommandLayout,
    QueueConfigLayout,
    QueueLayout,
    RingModesLayout,
)
from tb.stream import Fields, StreamSink, StreamSource, cycles, pace, reset
from tests.unit.queue_plan import QueuePlan

__all__ = ["FUNCTIONS", "PLAN", "STRIDE", "Bench", "modes"]

FUNCTIONS = int(os.environ["RINGLET_FUNCTIONS"])
STRIDE = int(os.environ["RINGLET_STRIDE"])
ENGINES = os.environ["RINGLET_ENGINES"].split(",")
PLAN = QueuePlan(FUNCTIONS, STRIDE)
SERVED = {"receive": {"receive"}, "transmit": {"transmit"}, "both": {"receive", "transmit"},
          "control": {"control"}, "all": {"receive", "transmit", "control"}}


def modes(queue: int) -> dict[str, int]:
    """Give those in which a queue is started, always."""
    return {name: (queue * 5 + 3) >> bit & 1
            for bit, name in enumerate(RingModesLayout().members)}


class Engine:
    """Begins work on queues that run, hands some of it to others, and ends it some time later.

    Each has a port of `Obligations`, and looks the queue up through one of `QueueContexts`.
    """

    def __init__(self, bench: Bench, number: int) -> None:
        self.bench = bench
        self.number = number
        dut = bench.dut
        self.serves = [q for q in PLAN.all if PLAN.kind(q) in SERVED[ENGINES[number]]]
        self.events = StreamSource(dut, f"events__{number}", ObligationLayout(),
                                   pace(bench.stalls, 20 + number))
        self.commands_taken: list[tuple[int, int]] = []
        self.loads_taken: list[tuple[int, int]] = []
        self.commands = StreamSink(dut, f"commands__{number}", QueueCommandLayout(),
                                   pace(bench.stalls, 40 + number), tell=self._commanded)
        self.queue = getattr(dut, f"ports__{number}__queue")
        self.enable = getattr(dut, f"ports__{number}__enable")
        self.config = getattr(dut, f"ports__{number}__config")
        self.fields = Fields(QueueConfigLayout())
        self.enable.value = 0
        self.rng = random.Random(number)
        self.busy = True

    def _commanded(self, command: dict[str, int]) -> None:
        queue = command["queue"]
        assert queue in self.serves, "a queue that this engine does not serve"
        assert not self.bench.in_flight[queue], "work in flight of a queue that is thrown away"
        self.commands_taken.append((queue, command["reset"]))
        if command["load"]:
            assert command["reset"]
            self.loads_taken.append((queue, command["position"]))
        else:
            assert not command["position"]

    async def look(self, queue: int) -> bool:
        """Whether the queue runs; the port answers in the next cycle."""
        self.queue.value = queue
        self.enable.value = 1
        await self.bench.edge
        self.enable.value = 0
        await self.bench.edge
        await self.bench.edge
        config: Any = self.fields.unpack(int(self.config.value))
        if config["running"]:
            assert config["modes"] == modes(queue)
        return bool(config["running"])

    def modes(self) -> Any:
        """Give those of the queue that was looked at last."""
        found: Any = self.fields.unpack(int(self.config.value))
        return found["modes"]

    async def run(self) -> None:
        """Work on anything, all the time."""
        while self.busy:
            queue = self.rng.choice(self.serves)
            self.events.send({"queue": queue, "delta": 1})
            await self.events.drain()
            if not await self.look(queue):
                self.events.send({"queue": queue, "delta": (1 << 9) - 1})
                await self.events.drain()
                continue
            self.bench.begin(queue)
            cocotb.start_soon(self.bench.finish_later(queue, self.rng))
            await cycles(self.bench.dut, self.rng.randrange(20))


class Bench:
    """The registers' side, the engines, and what may not happen."""

    def __init__(self, dut: Any, *, stalls: bool) -> None:
        self.dut = dut
        self.stalls = stalls
        self.edge = RisingEdge(dut.clk)
        self.rng = random.Random(cocotb.RANDOM_SEED)
        queues = len(PLAN.all)
        self.in_flight = [0] * queues
        self.may_run = [False] * queues  # from the request to start to the report of the stop
        self.requests = StreamSource(dut, "requests", LifecycleRequestLayout(), pace(stalls, 1))
        self.reports = StreamSink(dut, "reports", LifecycleReportLayout(), pace(stalls, 2),
                                  tell=self._reported)
        self.receive_go = StreamSink(dut, "receive_go", DoorbellLayout(), pace(stalls, 3))
        self.transmit_go = StreamSink(dut, "transmit_go", DoorbellLayout(), pace(stalls, 4))
        self.control_go = StreamSink(dut, "control_go", DoorbellLayout(), pace(stalls, 7))
        self.goes = {"receive": self.receive_go, "transmit": self.transmit_go,
                     "control": self.control_go}
        self.faults = StreamSource(dut, "faults", FaultLayout(), pace(stalls, 5))
        self.log = StreamSink(dut, "log", FaultRecordLayout(), pace(stalls, 6))
        self.positions = StreamSource(dut, "positions", PositionRequestLayout(), pace(stalls, 8))
        self.position_answers = StreamSink(dut, "position_answers", PositionAnswerLayout(),
                                           pace(stalls, 9))
        self.cleared = StreamSource(dut, "cleared", QueueLayout(), pace(stalls, 10))
        self.told: list[tuple[str, int]] = []
        self.stopping: set[int] = set()
        self.single: dict[int, int | None] = {}  # by function: its stop is one of this queue
        self.engines = [Engine(self, number) for number in range(len(ENGINES))]

    async def start(self) -> None:
        await reset(self.dut)
        await cycles(self.dut, len(PLAN.all) + 8)

    def begin(self, queue: int) -> None:
        assert self.may_run[queue], "work begins on a queue that was stopped"
        self.in_flight[queue] += 1

    async def finish_later(self, queue: int, rng: random.Random) -> None:
        """End a piece of work; perhaps another engine ends it, and perhaps it becomes two first."""
        await cycles(self.dut, rng.randrange(60))
        if rng.randrange(4) == 0:
            self.in_flight[queue] += 1
            rng.choice(self.engines).events.send({"queue": queue, "delta": 1})
            await cycles(self.dut, 30)
            # (Its event is taken by now, or it would wait for the next one of that engine.)
            cocotb.start_soon(self.finish_later(queue, rng))
        engine = rng.choice(self.engines)
        await engine.events.drain()
        self.in_flight[queue] -= 1
        engine.events.send({"queue": queue, "delta": (1 << 9) - 1})

    def request(self, kind: LifecycleRequest, queue: int) -> None:
        if kind == LifecycleRequest.START:
            self.may_run[queue] = True
        else:
            function = PLAN.owner(queue)
            self.single[function] = queue if kind == LifecycleRequest.RESET_QUEUE else None
            assert function not in self.stopping
            self.stopping.add(function)
        self.requests.send({"kind": kind, "queue": queue, "modes": modes(queue)
                            if kind == LifecycleRequest.START else {}})

    def _reported(self, report: dict[str, int]) -> None:
        function = report["function"]
        kind = LifecycleReport(report["kind"])
        self.told.append((kind.name, function))
        if kind == LifecycleReport.STOPPED:
            self.stopping.remove(function)
            for queue in PLAN.of(function):
                if self.single[function] in (None, queue):
                    assert not self.in_flight[queue], "stopped with work in flight"
                    self.may_run[queue] = False

    async def position(self, queue: int, load: int | None = None) -> tuple[int, int, int, int]:
        """Ask for a position, or load one; give it, and started, loaded, refused."""
        self.positions.send({"queue": queue, "load": int(load is not None), "position": load or 0})
        answer = await self.position_answers.get()
        return answer["position"], answer["started"], answer["loaded"], answer["refused"]

    def clear(self, queues: list[int]) -> None:
        """Do as the registers do after a reset."""
        for queue in queues:
            self.cleared.send({"queue": queue})

    async def stopped(self, function: int, clocks: int = 4000) -> None:
        for _ in range(clocks):
            if function not in self.stopping:
                return
            await self.edge
        raise TimeoutError(f"function {function} does not stop")

    async def gone(self) -> list[int]:
        queues = []
        for kind, sink in self.goes.items():
            while not sink.empty():
                queues.append((await sink.get())["queue"])
                assert PLAN.kind(queues[-1]) == kind
        return sorted(queues)
