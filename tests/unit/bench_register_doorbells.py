"""Registers: kicks of 16 and 32 bits, and how many there can be."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from hw.pcie.types import MmioRequest
from tb.stream import Fields, cycles
from tests.unit.registers_host import (
    CTRL_VQ,
    FEATURES_OK,
    FUNCTIONS,
    MQ,
    NONE,
    NOTIFY,
    OFFERED,
    PLAN,
    STRIDE,
    VERSION_1,
    Host,
    queues_of,
)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def doorbells(dut: Any, stalls: bool) -> None:
    """Kicks of 16 and 32 bits, anywhere in the region; what names no queue is reported.

    What an index names is as the function's driver negotiated it, and nobody else's.
    """
    host = Host(dut, stalls=stalls)
    await host.start()
    await host.get(0, "device_status")
    rng = random.Random(cocotb.RANDOM_SEED + 77)
    want: dict[str, list[Any]] = {"receive": [], "transmit": [], "control": [], "bad": []}
    queues = [queues_of(function, 0) for function in range(FUNCTIONS)]
    for step in range(400):
        function = rng.randrange(FUNCTIONS)
        if step % 25 == 24:
            features = VERSION_1 | rng.choice([0, CTRL_VQ, MQ, CTRL_VQ | MQ]) & OFFERED[function]
            await host.reset(function)
            assert await host.negotiate(function, features) & FEATURES_OK
            queues[function] = queues_of(function, features)
            if rng.randrange(4) == 0:
                await host.reset(function)
                queues[function] = queues_of(function, 0)
        index = rng.choice([*range(STRIDE + 2), 2, STRIDE, NONE, 0x100])
        size = rng.choice([2, 4])
        place = NOTIFY + 4 * rng.choice([index if index < STRIDE else 0, rng.randrange(1024)])
        high = rng.getrandbits(16) if size == 4 else 0
        if rng.random() < 0.1:  # a byte, or the other half: no doorbell
            host.post(function, place + rng.choice([0, 1, 2, 3]), 1, index & 0xFF)
            want["bad"].append(function)
        else:
            host.post(function, place, size, index | high << 16)
            number = queues[function].get(index)
            if number is not None:
                want[PLAN.kind(number)].append((number, size == 4, high))
            else:
                want["bad"].append(function)
        if rng.random() < 0.05:
            assert await host.get(function, "queue_select") == 0
    await host.settle()
    assert want["control"] or not OFFERED[0] & CTRL_VQ
    got: list[Any]
    for name, wanted in want.items():
        sink = getattr(host, name)
        got = []
        while not sink.empty():
            told = await sink.get()
            got.append(told["function"] if name == "bad" else
                       (told["queue"], bool(told["positioned"]), told["position"]
                        if told["positioned"] else 0))
        assert got == wanted, name


@cocotb.test
async def doorbell_rate(dut: Any) -> None:
    """A doorbell a cycle, and one that comes behind register accesses waits for those alone."""
    host = Host(dut)
    await host.start()
    await host.get(0, "device_status")
    # Driven here: the source takes two cycles for each.
    count = 0
    dut.mmio__payload.value = Fields(MmioRequest()).pack({
        "function": 0, "bar": 2, "offset": NOTIFY, "write": 1, "enable": 3, "data": 1})
    dut.mmio__valid.value = 1
    for _ in range(64):
        await host.edge
        count += int(dut.mmio__ready.value)
    dut.mmio__valid.value = 0
    await cycles(dut, 4)
    assert count >= 63
    assert host.transmit.transfers == count
