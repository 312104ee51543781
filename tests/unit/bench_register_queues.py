"""Registers: queues that there are, and that there are not."""

from __future__ import annotations

from typing import Any

import cocotb

from tests.unit.registers_host import (
    COMMON,
    CTRL_VQ,
    DRIVER_OK,
    FEATURES_OK,
    FUNCTIONS,
    MQ,
    NONE,
    OFFERED,
    RING_PACKED,
    RING_RESET,
    SIZE_MAX,
    STRIDE,
    VECTORS,
    VERSION_1,
    Host,
    check_fresh,
    queues_of,
)


@cocotb.test
async def queue_sizes(dut: Any) -> None:
    """A size is a power of two up to the largest; anything else is ignored. Vectors likewise."""
    host = Host(dut)
    await host.start()
    function = FUNCTIONS - 1
    # Packed rings may have any, but only once they are chosen.
    if OFFERED[function] & RING_PACKED:
        host.accept(function, VERSION_1 | RING_PACKED)
    await queue_sizes_of(host, function, packed=False)
    if OFFERED[function] & RING_PACKED:
        assert await host.negotiate(function, VERSION_1 | RING_PACKED) & FEATURES_OK
        await queue_sizes_of(host, function, packed=True)
        await host.reset(function)
        assert await host.negotiate(function, VERSION_1) & FEATURES_OK
        await queue_sizes_of(host, function, packed=False)


async def queue_sizes_of(host: Host, function: int, *, packed: bool) -> None:
    host.set(function, "queue_select", 1)
    size = await host.get(function, "queue_size")
    for wanted in [1, 2, 3, 0, SIZE_MAX, SIZE_MAX * 2, SIZE_MAX + 1, SIZE_MAX // 2, NONE, 0x8000,
                   SIZE_MAX // 2 + 1, 16, 12, 8]:
        host.set(function, "queue_size", wanted & 0xFFFF)
        if 0 < wanted <= SIZE_MAX and (packed or not wanted & wanted - 1):
            size = wanted
        assert await host.get(function, "queue_size") == size
    # A byte of it, merged: 0008h and then 00h into the high byte.
    host.post(function, COMMON["queue_size"][0] + 1, 1, 0)
    assert await host.get(function, "queue_size") == 8
    for field in ("queue_msix_vector", "config_msix_vector"):
        for wanted in [0, VECTORS - 1, VECTORS, 1, NONE, 0, 0x100, 1, 0x8000]:
            host.set(function, field, wanted)
            assert await host.get(function, field) == (wanted if wanted < VECTORS else NONE)
    host.set(function, "queue_size", 4)
    host.set(function, "queue_msix_vector", 1)
    await host.settle(20)
    config = await host.config_of(function * STRIDE + 1)
    assert (config["size"], config["vector"]) == (4, 1)
    # A size and a vector in one access.
    host.post(function, COMMON["queue_size"][0], 4, 2 | VECTORS << 16)
    await host.settle(20)
    config = await host.config_of(function * STRIDE + 1)
    assert (config["size"], config["vector"]) == (2, NONE)


@cocotb.test
@cocotb.parametrize(chosen=[0, CTRL_VQ, MQ, CTRL_VQ | MQ])
async def queues_that_do_not_exist(dut: Any, chosen: int) -> None:
    """A queue that was not negotiated has size 0, and nothing can be done to it or by it."""
    host = Host(dut)
    await host.start()
    for function in range(FUNCTIONS):
        features = VERSION_1 | RING_RESET | chosen & OFFERED[function]
        assert await host.negotiate(function, features) & FEATURES_OK
        host.set(function, "device_status", DRIVER_OK)
        queues = queues_of(function, features)
        for index, number in queues.items():
            host.set(function, "queue_select", index)
            assert await host.get(function, "queue_size") == SIZE_MAX
            assert await host.get(function, "queue_notify_off") == index
            host.set(function, "queue_desc_lo", 0x1000 * (number + 1))
            await host.settle(20)
            assert (await host.config_of(number))["desc"] == 0x1000 * (number + 1)
        for index in (2, STRIDE, STRIDE + 1, STRIDE + 2, 2 * STRIDE, 0x100, 0x8000, NONE):
            if index in queues:
                continue
            host.set(function, "queue_select", index)
            assert await host.get(function, "queue_select") == index
            for name, (_, size) in COMMON.items():
                if name.startswith("queue_") and name != "queue_select":
                    host.set(function, name, (1 << 8 * size) - 1 if size == 4 else 1)
                    none = NONE if name == "queue_msix_vector" else 0
                    assert await host.get(function, name) == none, name
    assert not host.asked
    for function in range(FUNCTIONS):
        await host.reset(function)
        await check_fresh(host, function)


@cocotb.test
async def each_queue_runs(dut: Any) -> None:
    """All that was negotiated, the control queue among it, is enabled, started, reset and started.

    With one pair alone, and with all of them; what follows a reset of the function is told.
    """
    host = Host(dut)
    await host.start()
    for chosen in (CTRL_VQ | MQ, CTRL_VQ, 0):
        for function in range(FUNCTIONS):
            features = VERSION_1 | RING_RESET | chosen & OFFERED[function]
            queues = queues_of(function, features)
            assert await host.negotiate(function, features) & FEATURES_OK
            for index, number in queues.items():
                host.set(function, "queue_select", index)
                host.set(function, "queue_msix_vector", number % VECTORS)
                host.set(function, "queue_enable", 1)
            host.asked.clear()
            host.set(function, "device_status", DRIVER_OK)
            assert await host.get(function, "device_status") & DRIVER_OK
            await host.settle()
            assert host.asked == [("START", number) for number in queues.values()]
            for index, number in queues.items():
                assert (await host.config_of(number))["vector"] == number % VECTORS
                host.asked.clear()
                host.set(function, "queue_select", index)
                host.set(function, "queue_reset", 1)
                await host.settle()
                assert host.asked == [("RESET_QUEUE", number)]
                assert await host.get(function, "queue_reset") == 0
                assert await host.get(function, "queue_enable") == 0
                assert (await host.config_of(number))["vector"] == NONE
                for other in queues.values():
                    if other != number:
                        assert (await host.config_of(other))["vector"] == other % VECTORS
                host.set(function, "queue_msix_vector", number % VECTORS)
                host.set(function, "queue_enable", 1)
                await host.settle()
                assert host.asked[1:] == [("START", number)]
            assert host.running == set(queues.values())
            host.asked.clear()
            host.resets.clear()
            await host.reset(function)
            assert host.asked == [("RESET", function * STRIDE)]
            assert set(host.resets) == {function}
            await check_fresh(host, function)
