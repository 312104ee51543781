"""Registers: functions that sleep (D3hot), and resets amid that."""

from __future__ import annotations

from typing import Any

import cocotb

from tests.unit.registers_host import FUNCTIONS, STRIDE, Host, check_fresh


@cocotb.test
async def sleep(dut: Any) -> None:
    """D3hot stops the queues and keeps all registers; on return they start, interrupts follow."""
    host = Host(dut)
    await host.start()
    host.hold_stops = True
    function = FUNCTIONS - 1
    base = function * STRIDE
    await host.bring_up(function, [0, 1])
    host.set(function, "config_msix_vector", 0)
    await host.settle(40)
    host.asked.clear()
    dut.sleep.value = 1 << function
    await host.settle()
    assert host.asked == [("STOP", base)]
    host.report_stopped(function)
    dut.link_up.value = 1  # while it sleeps, nobody is woken
    await host.settle()
    assert host.interrupts.empty()
    dut.sleep.value = 0
    await host.settle()
    assert host.asked == [("STOP", base), ("START", base), ("START", base + 1)]
    assert await host.interrupts.get() == {"function": function, "vector": 0}

    # Awake again before the stop has ended: it starts when it has.
    host.asked.clear()
    dut.sleep.value = 1 << function
    await host.settle()
    dut.sleep.value = 0
    await host.settle()
    assert host.asked == [("STOP", base)]
    host.report_stopped(function)
    await host.settle()
    assert host.asked == [("STOP", base), ("START", base), ("START", base + 1)]


@cocotb.test
async def sleep_and_reset(dut: Any) -> None:
    """A reset that comes during a stop follows it; nothing starts in sleep or during a stop."""
    host = Host(dut)
    await host.start()
    host.hold_stops = True
    function = FUNCTIONS - 1
    base = function * STRIDE
    await host.bring_up(function, [0, 1])
    await host.settle(40)
    host.asked.clear()
    dut.sleep.value = 1 << function
    await host.settle()
    host.set(function, "device_status", 0)
    host.begin_flr(function)
    await host.settle()
    assert host.asked == [("STOP", base)]
    host.report_stopped(function)
    await host.settle()
    assert host.asked == [("STOP", base), ("RESET", base)]
    host.report_stopped(function)
    assert await host.flr_done.get() == function
    await check_fresh(host, function)
    # Asleep: nothing starts until it wakes.
    host.asked.clear()
    await host.bring_up(function, [1])
    await host.settle()
    assert host.asked == []
    dut.sleep.value = 0
    await host.settle()
    assert host.asked == [("START", base + 1)]

    # Awake, and the driver is ready before the stop has ended: a start would come before its end.
    await _reset_now(host, function)
    dut.sleep.value = 1 << function
    await host.settle()
    dut.sleep.value = 0
    await host.settle()
    host.asked.clear()
    await host.bring_up(function, [0])
    await host.settle()
    assert host.asked == []
    host.report_stopped(function)
    await host.settle()
    assert host.asked == [("START", base)]


async def _reset_now(host: Host, function: int) -> None:
    """Reset a function whose stops are held."""
    host.set(function, "device_status", 0)
    await host.settle()
    host.report_stopped(function)
    await host.settle()
    assert await host.get(function, "device_status") == 0
