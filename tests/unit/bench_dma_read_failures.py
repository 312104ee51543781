"""DmaRead: reads that are not answered, cannot leave, or are forgotten by a reset."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from tb.stream import cycles, reset
from tests.unit.dma_read_clients import finish, random_segments, start
from tests.unit.dma_read_completer import (
    BEHAVIOUR_AT,
    FUNCTIONS,
    LANES,
    MAX_READ,
    QUEUES,
    QUOTAS,
    SILENT,
    TAGS,
    TIMEOUT,
)


@cocotb.test
async def time_out(dut: Any) -> None:
    """A read that is never answered ends with TIMEOUT, in time; what comes later is unexpected."""
    completer, clients, rng = start(dut, stalls=False, latency=(5, 30))
    await reset(dut)
    for index, client in enumerate(clients):
        for number in range(QUOTAS[index] // 5):
            client.ask(number % QUEUES, [(0x1000 * number + 7, 70),
                                         (SILENT << BEHAVIOUR_AT | 0x777, 100), (0x5000, 40)],
                       lead=rng.randrange(LANES))
    await cycles(dut, TIMEOUT - 20)
    assert not any(client.answered for client in clients), "too early"
    silent = [read for read in completer.reads.values() if read.behaviour == SILENT]
    for _ in range(TIMEOUT // 8 + 4 * TAGS + 400):
        await RisingEdge(dut.clk)
        if not any(client.open for client in clients):
            break
    assert not any(client.open for client in clients), "too late"
    assert completer.timed_out_seen == len(silent) > 0
    # Every tag was given back: all can be in use again, and none of the late ones is believed.
    for read in silent:
        del completer.reads[read.tag]
    completer.unexpected = 0.2
    for index, client in enumerate(clients):
        for number in range(3 * QUOTAS[index]):
            client.ask(0, [(64 * number, 50)])
    await finish(dut, completer, clients)


@cocotb.test
async def no_time_out(dut: Any) -> None:
    """A read may be told to wait forever, and to do so no longer."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 30))
    await reset(dut)
    dut.timeout_disable.value = 1
    assert not int(dut.pending.value)
    clients[0].ask(0, [(SILENT << BEHAVIOUR_AT | 0x777, 9)])
    clients[0].ask(1, [(0x777, 100)])
    await cycles(dut, 3 * TIMEOUT)
    assert clients[0].answered == 1
    assert int(dut.pending.value)
    assert not completer.errors_seen["non_fatal"]
    dut.timeout_disable.value = 0
    await finish(dut, completer, clients, 6 * TIMEOUT)
    assert completer.timed_out_seen == 1


@cocotb.test
async def too_many_tags(dut: Any) -> None:
    """A group that needs more tags than there are for its client fails, and things go on."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 50))
    await reset(dut)
    for index, client in enumerate(clients):
        quota = QUOTAS[index]
        client.ask(0, [(0x100 * number, 9) for number in range(quota)], lead=3)  # just fits
        client.ask(0, [(0x100 * number, 9) for number in range(quota + 1)], lead=2)
        client.ask(0, [(0x100, 9)])
        client.ask(0, [(0x100, MAX_READ * (quota + 2))])
        client.ask(0, [*((0x100 * number, 5) for number in range(quota - 1)), (0x10, MAX_READ * 3)])
        client.ask(0, [(0x10, 200)])
    await finish(dut, completer, clients)


@cocotb.test
async def bus_mastering_off(dut: Any) -> None:
    """A function without bus mastering reads nothing, and is told so."""
    completer, clients, rng = start(dut, stalls=True, latency=(5, 50), gaps=0.3)
    off = FUNCTIONS - 1
    dut.bus_master.value = (1 << off) - 1
    await reset(dut)
    for number in range(20):
        for index, client in enumerate(clients):
            function = rng.randrange(FUNCTIONS) if number % 2 else off
            client.ask(number % min(QUEUES, 3), random_segments(rng, 200, QUOTAS[index], MAX_READ),
                       lead=rng.randrange(LANES), function=function, failed=function == off)
    await finish(dut, completer, clients)
    assert off not in {read.function for _, read in completer.tlps}


@cocotb.test
async def reset_while_busy(dut: Any) -> None:
    """A reset forgets what was under way; the completions that still come are dropped."""
    completer, clients, _rng = start(dut, stalls=False, latency=(3 * TAGS, 4 * TAGS), whole=True)
    await reset(dut)
    for index, client in enumerate(clients):
        for number in range(QUOTAS[index]):
            client.ask(0, [(64 * number, 50)])
    for client in clients:
        await client.source.drain()
    await cycles(dut, 10)
    dut.rst.value = 1
    await cycles(dut, 3)
    for client in clients:
        client.waiting.clear()
    old = list(completer.reads.values())
    completer.reads.clear()
    dut.rst.value = 0
    await cycles(dut, TAGS + 10)
    for read in old[:5]:
        completer.injected += 1
        completer.errors_made["correctable"] += 1
        dut.rc__payload.value = completer.fields.pack(completer._beat(
            {"tag": read.tag, "requester_id": read.requester, "byte_count": 4, "dwords": 1,
             "lower_address": (read.address + read.length - 4) & 0x7F}, bytes(4), 1))
        dut.rc__valid.value = 1
        await RisingEdge(dut.clk)
    dut.rc__valid.value = 0
    for index, client in enumerate(clients):
        for number in range(2 * QUOTAS[index]):
            client.ask(0, [(64 * number, 50)])
    await finish(dut, completer, clients)
