"""Registers: what starts, stops and resets queues and functions."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from tb.stream import cycles
from tests.unit.registers_host import (
    ACKNOWLEDGE,
    CTRL_VQ,
    DRIVER_OK,
    FEATURES_OK,
    FUNCTIONS,
    MQ,
    NEEDS_RESET,
    NEGOTIATING,
    OFFERED,
    PLAN,
    RING_RESET,
    SIZE_MAX,
    STRIDE,
    SUSPEND,
    SUSPENSION,
    VERSION_1,
    Host,
    check_fresh,
    queues_of,
)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def driver_ok_starts_queues(dut: Any, stalls: bool) -> None:
    """Enabled queues start with DRIVER_OK and not before; what is enabled is fixed."""
    host = Host(dut, stalls=stalls)
    await host.start()
    for function in range(FUNCTIONS):
        numbers = queues_of(function, OFFERED[function])
        enabled = [index for index in numbers if (index + function) % 3 != 1]
        await host.negotiate(function, OFFERED[function])
        for index in enabled:
            host.set(function, "queue_select", index)
            host.set(function, "queue_size", 16)
            host.set(function, "queue_desc_lo", 0x1000 * index)
            host.set(function, "queue_enable", 0)
            assert await host.get(function, "queue_enable") == 0
            host.set(function, "queue_enable", 1)
            assert await host.get(function, "queue_enable") == 1
            host.set(function, "queue_enable", 0)
            host.set(function, "queue_size", 8)
            host.set(function, "queue_desc_lo", 0xFFFF_FFFF)
            assert await host.get(function, "queue_enable") == 1
            assert await host.get(function, "queue_size") == 16
            assert await host.get(function, "queue_desc_lo") == 0x1000 * index
        await host.settle()
        assert not host.running & set(PLAN.of(function))
        host.set(function, "device_status", DRIVER_OK)
        host.set(function, "device_status", DRIVER_OK)  # once more: nothing starts twice
        await host.settle()
        assert (host.running & set(PLAN.of(function))
                == {numbers[index] for index in enabled})
        late = next(index for index in numbers if index not in enabled)
        host.set(function, "queue_select", late)
        host.set(function, "queue_enable", 1)
        host.set(function, "queue_enable", 1)
        await host.settle()
        assert numbers[late] in host.running
        assert (await host.config_of(numbers[late]))["running"] == 1
    assert not [kind for kind, _ in host.asked if kind != "START"]


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def one_queue_is_reset(dut: Any, stalls: bool) -> None:
    """Queue_reset reads 1 until that queue has stopped; then it is new, and the others as ever."""
    host = Host(dut, stalls=stalls)
    await host.start()
    for function in range(FUNCTIONS):
        base = function * STRIDE
        for turn in range(3):
            if turn == 0:
                await host.bring_up(function, [0, 1])
            victim, other = turn % 2, 1 - turn % 2
            for index in (0, 1):
                host.set(function, "queue_select", index)
                host.set(function, "queue_msix_vector", 1)
            host.asked.clear()
            host.hold_stops = True
            host.set(function, "queue_select", victim)
            host.set(function, "queue_reset", 0)  # does nothing
            assert await host.get(function, "queue_reset") == 0
            host.set(function, "queue_reset", 1)
            host.set(function, "queue_reset", 1)
            for _ in range(3):
                assert await host.get(function, "queue_reset") == 1
                assert await host.get(function, "queue_enable") == 1
            host.set(function, "queue_size", 8)  # not while it is enabled
            host.set(function, "queue_select", other)
            assert await host.get(function, "queue_reset") == 0
            assert host.asked == [("RESET_QUEUE", base + victim)]
            host.report_stopped(function)
            await host.settle()
            assert await host.get(function, "queue_enable") == 1
            assert await host.get(function, "queue_msix_vector") == 1
            assert base + other in host.running
            host.set(function, "queue_select", victim)
            assert await host.get(function, "queue_reset") == 0
            assert await host.get(function, "queue_enable") == 0
            assert await host.get(function, "queue_size") == SIZE_MAX
            assert await host.get(function, "queue_msix_vector") == 0xFFFF
            host.set(function, "queue_reset", 1)  # of one that is not enabled: done already
            assert await host.get(function, "queue_reset") == 0
            host.set(function, "queue_size", 4)
            host.set(function, "queue_enable", 1)
            await host.settle()
            assert host.asked == [("RESET_QUEUE", base + victim), ("START", base + victim)]
            assert (await host.config_of(base + victim))["size"] == 4
            host.hold_stops = False


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def queue_resets_amid_others(dut: Any, stalls: bool) -> None:
    """Of several queues, before DRIVER_OK, without the feature, amid a reset of the function."""
    host = Host(dut, stalls=stalls)
    await host.start()
    for function in range(FUNCTIONS):
        base = function * STRIDE
        # Two at once are done one after another.
        await host.bring_up(function, [0, 1])
        host.asked.clear()
        for index in (1, 0):
            host.set(function, "queue_select", index)
            host.set(function, "queue_reset", 1)
        await host.settle(400)
        assert sorted(host.asked) == [("RESET_QUEUE", base), ("RESET_QUEUE", base + 1)]
        for index in (0, 1):
            host.set(function, "queue_select", index)
            assert await host.get(function, "queue_enable") == 0
        await host.reset(function)
        # One that was enabled and has not been started is not started while it is being reset.
        await host.negotiate(function, OFFERED[function])
        for index in (0, 1):
            host.set(function, "queue_select", index)
            host.set(function, "queue_enable", 1)
        host.hold_stops = True
        host.asked.clear()
        host.set(function, "queue_reset", 1)
        await host.settle()
        host.set(function, "device_status", DRIVER_OK)
        await host.settle()
        assert host.asked == [("RESET_QUEUE", base + 1), ("START", base)]
        # A reset of the function waits for it, and then is one of everything: none is left to do.
        host.set(function, "queue_select", 0)
        host.set(function, "queue_reset", 1)
        host.set(function, "device_status", 0)
        await host.settle()
        assert len(host.asked) == 2
        host.hold_stops = False
        host.report_stopped(function)
        await host.settle(400)
        assert host.asked[2:] == [("RESET", base)]
        await check_fresh(host, function)
        # Without the feature there is no such register.
        await host.negotiate(function, OFFERED[function] & ~RING_RESET)
        host.set(function, "queue_select", 0)
        host.set(function, "queue_enable", 1)
        host.set(function, "queue_reset", 1)
        await host.settle()
        assert await host.get(function, "queue_reset") == 0
        assert len(host.asked) == 3
        await host.reset(function)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def reset_takes_its_time(dut: Any, stalls: bool) -> None:
    """Status stays as it was until the queues have stopped; others are served; then all is new."""
    host = Host(dut, stalls=stalls)
    await host.start()
    for function in range(FUNCTIONS):
        await host.bring_up(function, [0, 1])
        host.set(function, "config_msix_vector", 1)
    host.hold_stops = True
    up = NEGOTIATING | FEATURES_OK | DRIVER_OK
    for function in range(FUNCTIONS):
        host.asked.clear()
        host.set(function, "device_status", 0)
        host.set(function, "device_status", 0)
        for _ in range(5):
            assert await host.get(function, "device_status") == up
        assert host.asked == [("RESET", function * STRIDE)]
        # Writes meanwhile have no effect; the others' have.
        host.set(function, "device_status", ACKNOWLEDGE)
        host.set(function, "queue_select", 1)
        host.set(function, "queue_msix_vector", 1)
        assert await host.get(function, "queue_select") == 1
        if FUNCTIONS > 1:
            other = (function + 1) % FUNCTIONS
            host.set(other, "queue_select", 1)
            host.set(other, "queue_msix_vector", 1)
            assert await host.get(other, "queue_msix_vector") == 1
        assert await host.get(function, "device_status") == up
        host.report_stopped(function)
        await host.settle()
        assert await host.get(function, "device_status") == 0
        await check_fresh(host, function)
        # Status is zero: another reset is done at once, and clears what was written.
        host.set(function, "queue_select", 1)
        host.set(function, "queue_size", 4)
        host.set(function, "config_msix_vector", 1)
        host.set(function, "driver_feature", 5)
        host.set(function, "device_status", 0)
        await check_fresh(host, function)
        assert host.asked == [("RESET", function * STRIDE)]
        # And the function comes up again.
        await host.bring_up(function, [1])
        assert host.asked[-1] == ("START", function * STRIDE + 1)


@cocotb.test
async def function_level_reset(dut: Any) -> None:
    """FLR ends in the same stop, whatever the status; it is told when it is done."""
    host = Host(dut)
    await host.start()
    host.hold_stops = True
    function = FUNCTIONS - 1
    host.set(function, "queue_select", 1)  # written, but status is 0
    host.begin_flr(function)
    await host.settle(40)
    assert host.asked == [("RESET", function * STRIDE)]
    assert host.flr_done.empty()
    host.report_stopped(function)
    assert await host.flr_done.get() == function
    await check_fresh(host, function)

    await host.bring_up(function, [0])
    host.asked.clear()
    host.set(function, "device_status", 0)  # a reset is under way when the FLR comes
    await host.settle(40)
    host.begin_flr(function)
    host.begin_flr(function)
    await host.settle(40)
    assert host.asked == [("RESET", function * STRIDE)]
    host.report_stopped(function)
    assert await host.flr_done.get() == function
    await host.settle()
    assert host.flr_done.empty()
    await check_fresh(host, function)
    assert len(host.asked) == 1


def _something(host: Host, rng: random.Random, function: int, asleep: int) -> int:
    """Let something happen to ``function``; give which functions sleep then."""
    match rng.randrange(15):
        case 0:
            host.set(function, "device_status", 0)
        case 1:
            host.begin_flr(function)
        case 2 | 3:
            asleep ^= 1 << function
            host.dut.sleep.value = asleep
        case 4:
            host.fault(function)
        case 5:
            host.dut.link_up.value = rng.randrange(2)
        case 11 | 12:
            host.set(function, "device_status", NEGOTIATING | FEATURES_OK | SUSPEND)
        case 13 | 14:
            host.set(function, "device_status", NEGOTIATING | FEATURES_OK | DRIVER_OK)
        case 6 | 7:
            for _ in range(rng.randint(1, 2)):
                host.set(function, "queue_select", rng.randrange(STRIDE + 1))
                host.set(function, "queue_reset", 1)
        case _:
            host.accept(function, VERSION_1 | RING_RESET | SUSPENSION
                        | rng.choice([0, CTRL_VQ, CTRL_VQ | MQ]) & OFFERED[function])
            host.set(function, "device_status", NEGOTIATING | FEATURES_OK)
            for index in range(STRIDE + 1):
                if rng.randrange(2):
                    host.set(function, "queue_select", index)
                    host.set(function, "queue_enable", 1)
            host.set(function, "device_status", NEGOTIATING | FEATURES_OK | DRIVER_OK)
    return asleep


@cocotb.test
@cocotb.parametrize(seed=range(2))
async def anything_at_any_time(dut: Any, seed: int) -> None:
    """Resets, sleep, faults and status writes in any order: nothing is lost, nothing hangs."""
    host = Host(dut, stalls=True)
    await host.start()
    rng = random.Random(100 * cocotb.RANDOM_SEED + seed)
    asleep = 0
    for _ in range(130):
        asleep = _something(host, rng, rng.randrange(FUNCTIONS), asleep)
        if rng.randrange(3):
            await cycles(dut, rng.randrange(120))
        if rng.randrange(4) == 0:
            assert await host.get(rng.randrange(FUNCTIONS), "num_queues") in range(2, STRIDE + 2)
    await host.settle(800)
    assert not host.stopping
    suspended = 0
    for function in range(FUNCTIONS):
        status = await host.get(function, "device_status")
        suspended += status & SUSPEND != 0
        if status & SUSPEND:
            assert not status & DRIVER_OK and not host.running & set(PLAN.of(function))
            host.set(function, "device_status", NEGOTIATING | FEATURES_OK | DRIVER_OK)
            await host.settle()
            status = await host.get(function, "device_status")
            assert not status & SUSPEND and status & DRIVER_OK
        enabled = set()
        for index, number in (await host.queues(function)).items():
            host.set(function, "queue_select", index)
            if await host.get(function, "queue_enable"):
                enabled.add(number)
        running = host.running & set(PLAN.of(function))
        if status & DRIVER_OK == 0 or asleep >> function & 1:
            assert not running
        elif not status & NEEDS_RESET:
            assert running == enabled
        for queue in PLAN.of(function):
            assert (await host.config_of(queue))["running"] == (queue in running)
    dut._log.info("%d of the functions were suspended at the end", suspended)
    # Each FLR has ended; one that came during another ended with it.
    told = {await host.flr_done.get() for _ in range(host.flr_done.transfers)}
    assert told == host.flrs
    # Everybody can be reset, and comes up again.
    dut.sleep.value = 0
    await host.settle()
    for function in range(FUNCTIONS):
        await host.reset(function)
        await check_fresh(host, function)
        await host.bring_up(function, [0])
        await host.settle()
        assert function * STRIDE in host.running


@cocotb.test
async def reset_of_the_card(dut: Any) -> None:
    """A reset of the card in the middle of everything clears all memories."""
    host = Host(dut)
    await host.start()
    for function in range(FUNCTIONS):
        await host.bring_up(function, [0, 1])
        host.set(function, "queue_select", 1)
        host.set(function, "config_msix_vector", 1)
        host.fault(function)
    await host.settle(37)
    dut.rst.value = 1
    await cycles(dut, 1)
    dut.rst.value = 0
    host.running.clear()
    dut.port__queue.value = FUNCTIONS * STRIDE - STRIDE
    dut.port__enable.value = 1
    for _ in range(len(PLAN.all) + 4):
        await host.edge
        assert not host.fields.unpack(int(dut.port__config.value))["running"]
    await host.settle()
    for function in range(FUNCTIONS):
        await check_fresh(host, function)
