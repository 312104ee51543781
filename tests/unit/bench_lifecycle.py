"""cocotb side of test_lifecycle.py: engines that work, and are stopped and started meanwhile."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import (
    DoorbellLayout,
    FaultLayout,
    FaultReason,
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
from tb.stream import Fields, StreamSink, StreamSource, always, cycles, pace, reset
from tests.unit.queue_plan import QueuePlan

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


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def start_and_stop(dut: Any, stalls: bool) -> None:
    """A queue runs before it goes; a stop ends all of a function, and tells each engine its own."""
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    for function in range(FUNCTIONS):
        for queue in PLAN.of(function):
            for engine in bench.engines:
                assert not await engine.look(queue)
            bench.request(LifecycleRequest.START, queue)
        while bench.control_go.transfers <= function:
            await bench.edge
        await cycles(dut, 20)
        assert await bench.gone() == PLAN.of(function)
    for function in range(FUNCTIONS):
        kind = [LifecycleRequest.STOP, LifecycleRequest.RESET][function % 2]
        bench.request(kind, function * STRIDE)
        await bench.stopped(function)
        for queue in PLAN.all:
            for engine in bench.engines:
                assert await engine.look(queue) == (PLAN.owner(queue) > function)
                assert engine.modes() == modes(queue)  # work that ends goes by them
        for engine in bench.engines:
            want = [(q, function % 2) for q in PLAN.of(function) if q in engine.serves]
            assert engine.commands_taken == want
            engine.commands_taken.clear()
    assert bench.told == [("STOPPED", function) for function in range(FUNCTIONS)]


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def one_queue_is_stopped(dut: Any, stalls: bool) -> None:
    """A reset of a queue waits for its work alone, and tells those engines that serve it."""
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    for queue in PLAN.all:
        bench.request(LifecycleRequest.START, queue)
    await bench.requests.drain()
    await cycles(dut, 60)
    for queue in PLAN.all:
        function = PLAN.owner(queue)
        own = PLAN.of(function)
        busy = own[(own.index(queue) + 1) % len(own)]  # may go on
        for number in (queue, busy):
            bench.engines[0].events.send({"queue": number, "delta": 1})
            bench.in_flight[number] = 1
        await bench.engines[0].events.drain()
        bench.request(LifecycleRequest.RESET_QUEUE, queue)
        await cycles(dut, 300)
        assert function in bench.stopping
        for engine in bench.engines:
            assert await engine.look(queue) is False
            assert await engine.look(busy) == bench.may_run[busy]
        bench.in_flight[queue] = 0
        bench.engines[-1].events.send({"queue": queue, "delta": (1 << 9) - 1})
        await bench.stopped(function)
        bench.in_flight[busy] = 0
        bench.engines[-1].events.send({"queue": busy, "delta": (1 << 9) - 1})
        await bench.engines[-1].events.drain()
        for engine in bench.engines:
            assert engine.commands_taken == [(queue, 1)] * (queue in engine.serves)
            engine.commands_taken.clear()


@cocotb.test
async def what_was_not_started_is_passed_over(dut: Any) -> None:
    """A stop tells the engines of queues that were started since their last reset, and no other."""
    bench = Bench(dut, stalls=False)
    await bench.start()
    own = PLAN.of(0)
    for started in (own[:1], own[-1:], own, []):
        for queue in started:
            bench.request(LifecycleRequest.START, queue)
        await bench.requests.drain()
        await cycles(dut, 60)
        # A stop that keeps positions forgets nothing: the reset comes to the same queues.
        for kind, forgets in ((LifecycleRequest.STOP, 0), (LifecycleRequest.RESET, 1)):
            bench.told.clear()
            bench.request(kind, 0)
            await bench.stopped(0)
            for engine in bench.engines:
                assert engine.commands_taken == [
                    (queue, forgets) for queue in started if queue in engine.serves]
                engine.commands_taken.clear()


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def loaded_queues_begin_there(dut: Any, stalls: bool) -> None:
    """Each engine is told before the queue runs, once; a reset takes the position back."""
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    for turn in range(2):
        loaded = {queue: bench.rng.randrange(1 << 16) for queue in PLAN.all if queue % 3 != turn}
        for queue, position in loaded.items():
            assert await bench.position(queue) == (0, 0, 0, 0)
            assert await bench.position(queue, 0x1234) == (0x1234, 0, 1, 0)
            assert await bench.position(queue, position) == (position, 0, 1, 0)
        for function in range(FUNCTIONS):
            for queue in PLAN.of(function):
                bench.request(LifecycleRequest.START, queue)
            # A stop comes behind the loads, and starts from it on load nothing.
            bench.request(LifecycleRequest.STOP, function * STRIDE)
            await bench.stopped(function)
            assert await bench.gone() == PLAN.of(function)
            for queue in PLAN.of(function):
                assert not await bench.engines[-1].look(queue)
            for engine in bench.engines:
                own = [queue for queue in PLAN.of(function) if queue in engine.serves]
                assert engine.loads_taken == [
                    (queue, loaded[queue] ^ modes(queue)["ring_packed"] << 15)
                    for queue in own if queue in loaded]
                assert engine.commands_taken == [
                    *((queue, 1) for queue in own if queue in loaded),
                    *((queue, 0) for queue in own)]
                engine.loads_taken.clear()
                engine.commands_taken.clear()
            for queue in PLAN.of(function):
                bench.request(LifecycleRequest.START, queue)
            await bench.requests.drain()
            await cycles(dut, 60)
            assert await bench.gone() == PLAN.of(function)
            for queue in PLAN.of(function):
                assert (await bench.position(queue))[1:] == (1, int(queue in loaded), 0)
                assert (await bench.position(queue, 5))[1:] == (1, int(queue in loaded), 1)
                assert await bench.engines[-1].look(queue)
                assert bench.engines[-1].modes() == modes(queue)
            bench.request(LifecycleRequest.RESET, function * STRIDE)
            await bench.stopped(function)
            bench.clear(PLAN.of(function))
            await bench.cleared.drain()
            await cycles(dut, 3)
            for engine in bench.engines:
                own = [queue for queue in PLAN.of(function) if queue in engine.serves]
                assert engine.commands_taken == [(queue, 1) for queue in own]
                assert not engine.loads_taken
                engine.commands_taken.clear()
            for queue in PLAN.of(function):
                assert await bench.position(queue) == (0, 0, 0, 0)


@cocotb.test
async def a_loaded_queue_that_is_not_started(dut: Any) -> None:
    """What was loaded is void after a reset, and after one of the card."""
    bench = Bench(dut, stalls=False)
    await bench.start()
    own = PLAN.of(0)
    for way in ("reset", "clear", "card"):
        for queue in own:
            await bench.position(queue, 0x4321)
        if way == "reset":
            bench.request(LifecycleRequest.RESET, 0)
            await bench.stopped(0)
        if way == "card":
            dut.rst.value = 1
            await cycles(dut, 2)
            dut.rst.value = 0
            await cycles(dut, len(PLAN.all) + 8)
        else:
            bench.clear(own)
            await cycles(dut, 60)
        for queue in own:
            assert await bench.position(queue) == (0, 0, 0, 0)
            bench.request(LifecycleRequest.START, queue)
        await bench.requests.drain()
        await cycles(dut, 40)
        assert await bench.gone() == own
        for engine in bench.engines:
            assert not engine.commands_taken
        bench.request(LifecycleRequest.RESET, 0)
        await bench.stopped(0)
        for engine in bench.engines:
            engine.commands_taken.clear()


@cocotb.test
async def a_load_holds_no_start_up(dut: Any) -> None:
    """While an engine takes its time for a loaded queue, that one does not run, and others do."""
    bench = Bench(dut, stalls=False)
    await bench.start()
    own = PLAN.of(FUNCTIONS - 1)
    slow = next(engine for engine in bench.engines if own[1] in engine.serves)
    slow.commands.pace = iter(lambda: False, True)
    await bench.position(own[1], 77)
    others = {name: 1 - bit for name, bit in modes(own[1]).items()}  # than any time before
    bench.requests.send({"kind": LifecycleRequest.START, "queue": own[1], "modes": others})
    for queue in (own[0], own[-1]):
        bench.request(LifecycleRequest.START, queue)
    bench.request(LifecycleRequest.RESET, own[0])  # stands behind the load
    await cycles(dut, 400)
    assert await bench.gone() == [own[0], own[-1]]
    assert not await slow.look(own[1])
    assert slow.modes() == others
    assert (await bench.position(own[1], 78))[1:] == (1, 1, 1)
    # It starts when starts are served again, and the reset waits for that.
    bench.position_answers.pace = iter(lambda: False, True)
    bench.positions.send({"queue": own[0]})
    await cycles(dut, 20)
    slow.commands.pace = always()
    await cycles(dut, 400)
    assert FUNCTIONS - 1 in bench.stopping and await bench.gone() == []
    bench.position_answers.pace = always()
    await bench.stopped(FUNCTIONS - 1)
    assert await bench.gone() == [own[1]]
    for queue in own:
        assert not await slow.look(queue)
    assert slow.loads_taken == [(own[1], 77 ^ others["ring_packed"] << 15)]


@cocotb.test
async def a_stop_waits_for_work_alone(dut: Any) -> None:
    """While one function drains, others start and faults are served; their stops wait in turn."""
    bench = Bench(dut, stalls=False)
    await bench.start()
    last = FUNCTIONS - 1
    busy = last * STRIDE + 1
    bench.request(LifecycleRequest.START, busy)
    bench.engines[0].events.send({"queue": busy, "delta": 3})
    bench.in_flight[busy] = 3
    await cycles(dut, 40)
    bench.request(LifecycleRequest.RESET, last * STRIDE)
    for function in range(last):
        bench.request(LifecycleRequest.START, function * STRIDE)
    await cycles(dut, 60 + 10 * FUNCTIONS)
    assert await bench.gone() == sorted([busy, *(f * STRIDE for f in range(last))])
    def faulty(function: int) -> int:
        return PLAN.of(function)[-1 if function % 2 else 0]

    for function in range(last):
        bench.request(LifecycleRequest.START, PLAN.control_of(function))
    await cycles(dut, 10 * FUNCTIONS)
    await bench.gone()
    for function in range(FUNCTIONS):
        bench.faults.send({"queue": faulty(function), "reason": FaultReason.LOOP,
                           "address": 0x1234_5678_9ABC_DEF0 + function})
    await cycles(dut, 12 * FUNCTIONS + 20)
    assert bench.told == [("NEEDS_RESET", function) for function in range(FUNCTIONS)]
    for function in range(FUNCTIONS):
        assert await bench.log.get() == {
            "function": function, "queue": faulty(function), "reason": FaultReason.LOOP.value,
            "address": 0x1234_5678_9ABC_DEF0 + function}
        assert not await bench.engines[0].look(faulty(function))
    for function in range(last):
        bench.request(LifecycleRequest.STOP, function * STRIDE)
    await cycles(dut, 500)
    assert len(bench.told) == FUNCTIONS
    for left in (2, 1, 0):
        bench.in_flight[busy] = left
        bench.engines[-1].events.send({"queue": busy, "delta": (1 << 9) - 1})
        await cycles(dut, 100)
        assert (len(bench.told) > FUNCTIONS) == (left == 0)
    for function in range(FUNCTIONS):
        await bench.stopped(function)
    stops = [function for kind, function in bench.told if kind == "STOPPED"]
    assert stops == [last, *range(last)]


@cocotb.test
async def an_engine_that_takes_long(dut: Any) -> None:
    """The end of a stop waits for each engine; a fault meanwhile is told before it."""
    bench = Bench(dut, stalls=False)
    await bench.start()
    for slow in range(len(bench.engines)):
        function = slow % FUNCTIONS
        engine = bench.engines[slow]
        for queue in PLAN.of(function):
            bench.request(LifecycleRequest.START, queue)
        await bench.requests.drain()
        await cycles(dut, 40)
        await bench.gone()
        engine.commands.pace = iter(lambda: False, True)
        bench.told.clear()
        bench.request(LifecycleRequest.RESET, function * STRIDE)
        await cycles(dut, 1500)
        bench.faults.send({"queue": function * STRIDE, "reason": 1, "address": 0})
        await cycles(dut, 40)
        assert bench.told == [("NEEDS_RESET", function)]
        bench.reports.pace = iter(lambda: False, True)
        await cycles(dut, 5)
        engine.commands.pace = always()
        bench.faults.send({"queue": function * STRIDE, "reason": 1, "address": 0})
        await cycles(dut, 300)
        # Starts do not wait for reports.
        other = (function + 1) % FUNCTIONS
        if other != function:
            bench.request(LifecycleRequest.START, other * STRIDE)
            await cycles(dut, 40)
            assert await bench.gone() == [other * STRIDE]
        bench.reports.pace = always()
        await bench.stopped(function)
        assert bench.told == [("NEEDS_RESET", function)] * 2 + [("STOPPED", function)]


@cocotb.test
@cocotb.parametrize(seed=range(2))
async def work_all_the_time(dut: Any, seed: int) -> None:
    """Engines work on everything while functions start and stop: none begins after a stop."""
    bench = Bench(dut, stalls=True)
    await bench.start()
    rng = random.Random(seed)
    for engine in bench.engines:
        engine.rng.seed(100 * seed + engine.number)
        cocotb.start_soon(engine.run())
    started = [0] * FUNCTIONS
    for _ in range(30):
        function = rng.randrange(FUNCTIONS)
        if rng.randrange(2):
            await bench.stopped(function)
            for queue in PLAN.of(function):
                bench.request(LifecycleRequest.START, queue)
                started[function] += 1
        elif function not in bench.stopping:
            if rng.randrange(3):
                bench.request(rng.choice([LifecycleRequest.STOP, LifecycleRequest.RESET]),
                              function * STRIDE)
            else:
                bench.request(LifecycleRequest.RESET_QUEUE, rng.choice(PLAN.of(function)))
        if rng.randrange(3) == 0:
            bench.faults.send({"queue": rng.choice(PLAN.all), "reason": 2,
                               "address": 0})
        await cycles(dut, rng.randrange(200))
    for function in range(FUNCTIONS):
        await bench.stopped(function)
    await cycles(dut, 50)
    for function in range(FUNCTIONS):
        bench.request(LifecycleRequest.STOP, function * STRIDE)
        await bench.stopped(function)
    assert sum(bench.in_flight) == 0
    assert sum(sink.transfers for sink in bench.goes.values()) == sum(started)
    for engine in bench.engines:
        engine.busy = False
    await cycles(dut, 100)
