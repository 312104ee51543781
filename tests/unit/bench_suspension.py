"""cocotb side of test_registers.py: suspension, and what comes across it."""

from __future__ import annotations

from typing import Any

import cocotb

from tests.unit.registers_host import (
    COMMON,
    DEVICE,
    DRIVER_OK,
    FEATURES_OK,
    FUNCTIONS,
    ISR,
    NEEDS_RESET,
    NEGOTIATING,
    OFFERED,
    PLAN,
    STRIDE,
    SUSPEND,
    SUSPENSION,
    VECTORS,
    Host,
    check_fresh,
)

UP = NEGOTIATING | FEATURES_OK | DRIVER_OK
DOWN = NEGOTIATING | FEATURES_OK | SUSPEND


async def suspend(host: Host, function: int) -> None:
    """Suspend a function that is up."""
    host.set(function, "device_status", UP | SUSPEND)
    await host.settle(300)
    assert await host.get(function, "device_status") == DOWN


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def suspension(dut: Any, stalls: bool) -> None:
    """SUSPEND stops the queues, and is shown when they are; DRIVER_OK starts them, and is shown."""
    host = Host(dut, stalls=stalls)
    await host.start()
    host.hold_stops = True
    for function in range(FUNCTIONS):
        base = function * STRIDE
        # Not before DRIVER_OK, nor in the same write; and not without the feature.
        await host.negotiate(function, OFFERED[function] & ~SUSPENSION)
        host.set(function, "device_status", UP | SUSPEND)
        host.set(function, "device_status", UP | SUSPEND)
        await host.settle()
        assert await host.get(function, "device_status") == UP
        host.set(function, "device_status", 0)
        await host.settle()
        host.report_stopped(function)
        await host.settle()
        status = await host.negotiate(function, OFFERED[function])
        for index in (0, 1):
            host.set(function, "queue_select", index)
            host.set(function, "queue_enable", 1)
        host.set(function, "config_msix_vector", 1)
        host.asked.clear()
        host.set(function, "device_status", status | SUSPEND)
        await host.settle()
        assert await host.get(function, "device_status") == status
        host.set(function, "device_status", UP | SUSPEND)
        await host.settle(300)
        assert await host.get(function, "device_status") == UP
        assert host.asked == [("START", base), ("START", base + 1)]
        for _turn in range(2):
            host.asked.clear()
            host.set(function, "device_status", UP | SUSPEND)
            host.set(function, "device_status", UP | SUSPEND)
            host.set(function, "device_status", UP)  # too early to resume
            await host.settle(300)
            assert await host.get(function, "device_status") == UP
            assert host.asked == [("STOP", base)]
            host.report_stopped(function)
            await host.settle(300)
            assert await host.get(function, "device_status") == DOWN
            host.set(function, "device_status", DOWN)
            await host.settle()
            assert await host.get(function, "device_status") == DOWN
            assert host.asked == [("STOP", base)]
            host.set(function, "device_status", UP)
            assert await host.get(function, "device_status") == UP
            await host.settle(300)
            assert host.asked == [("STOP", base), ("START", base), ("START", base + 1)]
        assert await host.read(function, ISR, 1) == 0
        assert host.interrupts.empty()


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def suspended(dut: Any, stalls: bool) -> None:
    """Nothing but device_status can be written or changes; what changed is told on resume."""
    host = Host(dut, stalls=stalls)
    await host.start()
    for function in range(FUNCTIONS):
        base = function * STRIDE
        await host.bring_up(function, [0])
        host.set(function, "queue_select", 1)
        host.set(function, "queue_desc_lo", 0x5000)
        host.set(function, "config_msix_vector", function % VECTORS)
        await suspend(host, function)
        host.asked.clear()

        async def image(function: int = function) -> dict[str, int]:
            return {name: await host.get(function, name) for name in COMMON}

        before = await image()
        configs = [await host.config_of(queue) for queue in PLAN.of(function)]
        for name, (_offset, size) in COMMON.items():
            if name != "device_status":
                for value in ((1 << 8 * size) - 1, 1, 0):
                    host.set(function, name, value)
        for state in (1, 0, 1):
            dut.link_up.value = state
            await host.settle(40 * FUNCTIONS)
        assert await image() == before
        assert await host.read(function, DEVICE + 6, 2) == 0
        assert [await host.config_of(queue) for queue in PLAN.of(function)] == configs
        assert await host.read(function, ISR, 1) == 0
        assert host.interrupts.empty()
        assert host.asked == []
        host.set(function, "device_status", UP)
        await host.settle(300)
        assert await host.get(function, "device_status") == UP
        assert host.asked == [("START", base)]
        assert await host.read(function, DEVICE + 6, 2) == 1
        assert await host.get(function, "config_generation") != before["config_generation"]
        assert await host.read(function, ISR, 1) == 2
        assert await host.interrupts.get() == {"function": function,
                                               "vector": function % VECTORS}
        await host.settle(300)
        assert host.interrupts.empty()
        assert await host.get(function, "queue_select") == 1
        host.set(function, "queue_select", 0)
        assert await host.get(function, "queue_select") == 0
        await host.reset(function)
        dut.link_up.value = 0
        await host.settle(40 * FUNCTIONS)
        while not host.interrupts.empty():
            await host.interrupts.get()


class LastFunction:
    """The last function, with two queues that run, and stops that end when the test says so."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.host = Host(dut)
        self.host.hold_stops = True
        self.number = FUNCTIONS - 1
        self.stop = ("STOP", self.number * STRIDE)
        self.starts = [("START", self.number * STRIDE), ("START", self.number * STRIDE + 1)]

    async def up(self) -> None:
        await self.host.bring_up(self.number, [0, 1])
        await self.host.settle()
        self.host.asked.clear()

    async def write(self, status: int) -> None:
        self.host.set(self.number, "device_status", status)
        await self.host.settle()

    async def stopped(self) -> None:
        self.host.report_stopped(self.number)
        await self.host.settle()

    async def sleeps(self, asleep: bool) -> None:
        self.dut.sleep.value = asleep << self.number
        await self.host.settle()

    async def shows(self, status: int) -> None:
        assert await self.host.get(self.number, "device_status") == status

    async def reset(self) -> None:
        await self.write(0)
        await self.stopped()
        await check_fresh(self.host, self.number)


@cocotb.test
@cocotb.parametrize(flr=[False, True], late=[False, True])
async def reset_of_a_suspended_function(dut: Any, flr: bool, late: bool) -> None:
    """A reset while it is being suspended follows that stop; one when it is, comes at once."""
    function = LastFunction(dut)
    host, number = function.host, function.number
    await host.start()
    await function.up()
    await function.write(UP | SUSPEND)
    if late:
        await function.stopped()
        await function.shows(DOWN)
    if flr:
        host.begin_flr(number)
        await host.settle()
    else:
        await function.write(0)
    await function.write(UP)  # without effect
    if not late:
        await function.stopped()
    await function.shows(DOWN if late else UP)
    assert host.asked == [function.stop, ("RESET", number * STRIDE)]
    await function.stopped()
    await function.shows(0)
    if flr:
        assert await host.flr_done.get() == number
    await check_fresh(host, number)
    assert host.asked == [function.stop, ("RESET", number * STRIDE)]
    await function.up()
    await function.shows(UP)


@cocotb.test
async def fault_while_suspending(dut: Any) -> None:
    """It is not suspended then, but broken; and the driver hears of it."""
    function = LastFunction(dut)
    host, number = function.host, function.number
    await host.start()
    await function.up()
    host.set(number, "config_msix_vector", 1)
    await function.write(UP | SUSPEND)
    host.fault(number)
    await host.settle()
    await function.shows(UP | NEEDS_RESET)
    await function.stopped()
    await function.shows(UP | NEEDS_RESET)
    await function.write(UP)
    await function.shows(UP | NEEDS_RESET)
    assert await host.read(number, ISR, 1) == 2
    assert await host.interrupts.get() == {"function": number, "vector": 1}
    assert host.asked == [function.stop]
    await function.reset()


@cocotb.test
@cocotb.parametrize(wakes_first=[False, True])
async def asleep_while_suspended(dut: Any, wakes_first: bool) -> None:
    """It runs again when it is neither."""
    function = LastFunction(dut)
    host = function.host
    await host.start()
    for early in (False, True):
        await function.up()
        await function.write(UP | SUSPEND)
        if early:  # one stop is enough for both
            await function.sleeps(True)
        await function.stopped()
        await function.shows(DOWN)
        await function.sleeps(True)
        for wakes in (wakes_first, not wakes_first):
            assert host.asked == [function.stop]
            if wakes:
                await function.sleeps(False)
            else:
                await function.write(UP)
        assert host.asked == [function.stop, *function.starts]
        await function.shows(UP)
        await function.reset()


@cocotb.test
@cocotb.parametrize(queue_first=[False, True])
async def queue_reset_and_suspension(dut: Any, queue_first: bool) -> None:
    """One stop follows the other; the function is shown as suspended when both have ended."""
    function = LastFunction(dut)
    host, number = function.host, function.number
    await host.start()
    await function.up()
    host.set(number, "queue_select", 1)
    for queue in (queue_first, not queue_first):
        if queue:
            host.set(number, "queue_reset", 1)
            await host.settle()
        else:
            await function.write(UP | SUSPEND)
    stops = [function.stop, ("RESET_QUEUE", number * STRIDE + 1)]
    if queue_first:
        stops.reverse()
    assert host.asked == stops[:1]
    await function.stopped()
    await function.shows(UP)
    assert host.asked == stops
    await function.stopped()
    await function.shows(DOWN)
    assert await host.get(number, "queue_reset") == 0
    assert await host.get(number, "queue_enable") == 0
    await function.write(UP)
    assert host.asked == [*stops, function.starts[0]]
    await function.reset()
