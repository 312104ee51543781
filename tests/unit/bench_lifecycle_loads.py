"""Lifecycle: queues that are told where to begin."""

from __future__ import annotations

from typing import Any

import cocotb

from hw.virtio.types import LifecycleRequest
from tb.stream import always, cycles
from tests.unit.lifecycle_engines import FUNCTIONS, PLAN, STRIDE, Bench, modes


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
