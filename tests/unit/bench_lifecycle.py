"""Lifecycle: queues start and stop while engines work."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from hw.virtio.types import FaultReason, LifecycleRequest
from tb.stream import always, cycles
from tests.unit.lifecycle_engines import FUNCTIONS, PLAN, STRIDE, Bench, modes


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
