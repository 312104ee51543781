"""Registers: what drivers are told, of faults and the link, and by which interrupts."""

from __future__ import annotations

from typing import Any

import cocotb

from tb.stream import always, cycles
from tests.unit.registers_host import (
    DEVICE,
    DRIVER_OK,
    FEATURES_OK,
    FUNCTIONS,
    ISR,
    NEEDS_RESET,
    NEGOTIATING,
    OFFERED,
    STRIDE,
    VECTORS,
    VERSION_1,
    Host,
    check_fresh,
    queues_of,
)


@cocotb.test
async def needs_reset(dut: Any) -> None:
    """A fault sets the status bit, the ISR bit and, if there is a vector, raises an interrupt."""
    host = Host(dut)
    await host.start()
    up = NEGOTIATING | FEATURES_OK | DRIVER_OK
    for function in range(FUNCTIONS):
        host.fault(function)  # of the time before a reset: nobody is concerned
        await host.settle()
        assert await host.get(function, "device_status") == 0
        await host.bring_up(function, [0])
        if function % 2 == 0:
            host.set(function, "config_msix_vector", VECTORS - 1)
        await host.settle(20)
        host.fault(function)
        host.fault(function)
        await host.settle(100)
        assert await host.get(function, "device_status") == up | NEEDS_RESET
        # The driver cannot clear it, nor start more.
        host.set(function, "device_status", up)
        host.set(function, "queue_select", 1)
        host.set(function, "queue_enable", 1)
        await host.settle(100)
        assert await host.get(function, "device_status") == up | NEEDS_RESET
        assert function * STRIDE + 1 not in host.running
        if function % 2 == 0:
            interrupt = await host.interrupts.get()
            assert interrupt == {"function": function, "vector": VECTORS - 1}
        assert host.interrupts.empty()
        if function == 0:
            assert int(dut.interrupt_status.value) == 1
        assert await host.read(function, ISR, 1) == 2
        assert await host.read(function, ISR, 1) == 0
        assert int(dut.interrupt_status.value) == 0
        await host.reset(function)
        await check_fresh(host, function)


@cocotb.test
async def link(dut: Any) -> None:
    """The status field follows the link, the generation with it; whoever asked for it is told."""
    host = Host(dut)
    await host.start()
    dut.link_up.value = 1
    await host.settle()
    for function in range(FUNCTIONS):
        assert await host.read(function, DEVICE + 6, 2) == 1
    assert host.interrupts.empty()
    listening = [function for function in range(FUNCTIONS) if function % 2 == 0]
    for function in range(FUNCTIONS):
        features = OFFERED[function] if function in listening else VERSION_1
        await host.negotiate(function, features)
        host.set(function, "config_msix_vector", 0)
        host.set(function, "device_status", DRIVER_OK)
    for state in (0, 1, 0):
        before = [await host.get(function, "config_generation") for function in range(FUNCTIONS)]
        assert before == [await host.get(f, "config_generation") for f in range(FUNCTIONS)]
        dut.link_up.value = state
        await host.settle(30 * FUNCTIONS)
        told = set()
        while not host.interrupts.empty():
            told.add((await host.interrupts.get())["function"])
        assert told == set(listening)
        for function in range(FUNCTIONS):
            assert await host.read(function, DEVICE + 6, 2) == state
            assert await host.get(function, "config_generation") != before[function]
            assert await host.read(function, ISR, 1) == (2 if function in listening else 0)


@cocotb.test
async def generation_is_never_late(dut: Any) -> None:
    """Whoever reads generation, status, generation with equal generations read the old or new one.

    (And so does one who reads the status twice: 4.1.4.3.1.)
    """
    host = Host(dut, stalls=True)
    await host.start()
    cocotb.start_soon(_toggle_link(host))
    for _ in range(40):
        before = await host.get(0, "config_generation")
        first = await host.read(0, DEVICE + 6, 1)
        second = await host.read(0, DEVICE + 4, 4) >> 16
        if before == await host.get(0, "config_generation"):
            assert first == second


async def _toggle_link(host: Host) -> None:
    while True:
        await cycles(host.dut, host.rng.randrange(10, 80))
        host.dut.link_up.value = host.rng.randrange(2)


@cocotb.test
async def stalled_interrupts_hold_nobody_up(dut: Any) -> None:
    """With the interrupt path shut, registers answer; then each interrupt leaves once."""
    host = Host(dut)
    await host.start()
    for function in range(FUNCTIONS):
        await host.bring_up(function, [])
        host.set(function, "config_msix_vector", function % VECTORS)
    await host.settle(20)
    host.interrupts.pace = iter(lambda: False, True)
    for state in (1, 0, 1, 0):
        dut.link_up.value = state
        for function in range(FUNCTIONS):
            assert (await host.get(function, "num_queues")
                    == len(queues_of(function, OFFERED[function])))
        await host.settle(30 * FUNCTIONS)
    host.interrupts.pace = always()
    await host.settle()
    told = [await host.interrupts.get() for _ in range(host.interrupts.transfers)]
    counts = {f: [i["function"] for i in told].count(f) for f in range(FUNCTIONS)}
    # One was leaving when the path was shut, and another of the same function may follow it.
    assert sorted(counts.values())[:-1] == [1] * (FUNCTIONS - 1)
    assert max(counts.values()) <= 2
    assert all(i["vector"] == i["function"] % VECTORS for i in told)


@cocotb.test
async def silent_after_a_reset(dut: Any) -> None:
    """Status does not read zero before the last interrupt has left; what waited behind it goes."""
    host = Host(dut)
    await host.start()
    function = FUNCTIONS - 1
    await host.bring_up(function, [0])
    host.set(function, "config_msix_vector", 1)
    await host.settle(20)
    host.interrupts.pace = iter(lambda: False, True)
    dut.link_up.value = 1
    await host.settle(30 * FUNCTIONS)
    host.fault(function)  # a second interrupt, behind the one that is leaving
    await host.settle(60)
    host.set(function, "device_status", 0)
    await host.settle(60)
    assert host.running == set()
    assert await host.get(function, "device_status") & DRIVER_OK
    host.interrupts.pace = always()
    await host.reset(function)
    sent = host.interrupts.transfers
    assert sent == 1
    await host.settle()
    assert host.interrupts.transfers == sent
    await check_fresh(host, function)
