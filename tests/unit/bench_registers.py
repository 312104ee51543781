"""Registers: every field, in any width, and status and features."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import cocotb

from tb.stream import cycles
from tests.unit.registers_host import (
    ACKNOWLEDGE,
    ADDRESSES,
    COMMON,
    DEVICE,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    FUNCTIONS,
    ISR,
    MAC,
    MBPS,
    MTU,
    NEEDS_RESET,
    NEGOTIATING,
    NONE,
    NOTIFY,
    OFFERED,
    STRIDE,
    VERSION_1,
    Host,
    check_fresh,
    queues_of,
)


@cocotb.test
async def reset_values(dut: Any) -> None:
    """Every field of every function has its reset value; what lies between fields reads zero."""
    host = Host(dut)
    await host.start()
    for function in range(FUNCTIONS):
        await check_fresh(host, function)
    for offset in (0x40, 0x80, 0xFFC, 0x1004, 0x1FFC, DEVICE + 28, DEVICE + 60, DEVICE + 64,
                   NOTIFY, NOTIFY + 4, 0x5000, 0x7FFC):
        host.post(0, offset, 4, 0x1234_0000 if offset >> 12 != NOTIFY >> 12 else NONE)
        assert await host.read(0, offset, 4) == 0
    await check_fresh(host, 0)


@cocotb.test
async def device_config(dut: Any) -> None:
    """The network device's fields, in every width; writes change nothing."""
    host = Host(dut)
    await host.start()
    for function in range(FUNCTIONS):
        def field(feature: int, value: int, function: int = function) -> int:
            return value if OFFERED[function] >> feature & 1 else 0
        image = bytearray((MAC + function).to_bytes(6, "big"))
        image += field(16, 0).to_bytes(2, "little")
        image += field(22, STRIDE // 2).to_bytes(2, "little")
        image += field(3, MTU).to_bytes(2, "little")
        image += field(63, MBPS).to_bytes(4, "little") + field(63, 1).to_bytes(1, "little")
        image += bytes(28 - len(image))
        for size in (1, 2, 4):
            for offset in range(0, 28, size):
                host.post(function, DEVICE + offset, size, (1 << 8 * size) - 1)
                found = await host.read(function, DEVICE + offset, size)
                assert found == int.from_bytes(image[offset:offset + size], "little"), offset


@cocotb.test
async def every_feature_window(dut: Any) -> None:
    """Offered features by window; windows that do not exist read zero; all bits read back."""
    host = Host(dut)
    await host.start()
    for function in range(FUNCTIONS):
        assert await host.offered(function) == OFFERED[function]
        for select in (4, 7, 0x8000_0000, 0xFFFF_FFFF, 0x100):
            host.set(function, "device_feature_select", select)
            assert await host.get(function, "device_feature_select") == select
            assert await host.get(function, "device_feature") == 0
            host.set(function, "driver_feature_select", select)
            host.set(function, "driver_feature", 0xFFFF_FFFF)
            assert await host.get(function, "driver_feature") == 0
        words = [0x1234_5678 + function * 0x0101_0101 * (window + 1) for window in range(4)]
        for window, word in enumerate(words):
            host.set(function, "driver_feature_select", window)
            host.set(function, "driver_feature", word)
        for window, word in enumerate(words):
            host.set(function, "driver_feature_select", window)
            assert await host.get(function, "driver_feature") == word


@cocotb.test
async def negotiation(dut: Any) -> None:
    """FEATURES_OK stays only for a subset of what is offered, with VERSION_1; then all is fixed."""
    host = Host(dut)
    await host.start()
    function = FUNCTIONS - 1
    offered = OFFERED[function]
    bits = [bit for bit in range(128) if offered >> bit & 1]
    wrong = [bit for bit in (0, 1, 15, 31, 34, 40, 62, 64, 95, 96, 127) if not offered >> bit & 1]
    good = [offered, VERSION_1, *(VERSION_1 | 1 << bit for bit in bits)]
    bad = [0, offered & ~VERSION_1, *(offered | 1 << bit for bit in wrong)]
    for features in [*bad, *good, *bad[:2]]:
        status = await host.negotiate(function, features)
        assert (status & FEATURES_OK != 0) == (features in good), hex(features)
        # DRIVER_OK is not to be had without it.
        host.set(function, "device_status", status | DRIVER_OK)
        status = await host.get(function, "device_status")
        assert (status & DRIVER_OK != 0) == (features in good)
        if features in good:
            host.accept(function, 0)
            host.set(function, "driver_feature_select", 1)
            assert await host.get(function, "driver_feature") == features >> 32 & 0xFFFF_FFFF
        else:  # a better choice is taken without a reset
            host.accept(function, VERSION_1)
            host.set(function, "device_status", NEGOTIATING | FEATURES_OK)
            assert await host.get(function, "device_status") == NEGOTIATING | FEATURES_OK
        await host.reset(function)
    await check_fresh(host, function)


@cocotb.test
async def status_bits(dut: Any) -> None:
    """What the driver sets stays set until a reset; bits that are not its own stay clear."""
    host = Host(dut)
    await host.start()
    host.set(0, "device_status", ACKNOWLEDGE)
    assert await host.get(0, "device_status") == ACKNOWLEDGE
    host.set(0, "device_status", DRIVER)
    assert await host.get(0, "device_status") == NEGOTIATING
    host.set(0, "device_status", NEEDS_RESET | 16 | 32)
    assert await host.get(0, "device_status") == NEGOTIATING
    host.set(0, "device_status", FAILED)
    assert await host.get(0, "device_status") == NEGOTIATING | FAILED
    for function in range(1, FUNCTIONS):
        assert await host.get(function, "device_status") == 0
    await host.reset(0)
    # All of it in one write, features first.
    host.accept(0, VERSION_1)
    host.set(0, "device_status", NEGOTIATING | FEATURES_OK | DRIVER_OK)
    assert await host.get(0, "device_status") == NEGOTIATING | FEATURES_OK | DRIVER_OK


@cocotb.test
@cocotb.parametrize(stalls=[False, True], all_queues=[False, True])
async def random_accesses(dut: Any, stalls: bool,  # noqa: PLR0912, PLR0915  # one model
                          all_queues: bool) -> None:
    """Thousands of bytes written anywhere in any width and function read back as a model says."""
    host = Host(dut, stalls=stalls)
    await host.start()
    rng = random.Random(cocotb.RANDOM_SEED + stalls)
    plain = ["device_feature_select", "driver_feature_select", "queue_select"]
    select = [dict.fromkeys(plain, 0) for _ in range(FUNCTIONS)]
    features = [[0] * 4 for _ in range(FUNCTIONS)]
    numbers = [queues_of(function, all_queues * OFFERED[function]) for function in range(FUNCTIONS)]
    queues = [[{f"{name}_{half}": 0 for name in ADDRESSES for half in ("lo", "hi")}
               for _ in numbers[function]] for function in range(FUNCTIONS)]
    if all_queues:  # which fixes the features
        for function in range(FUNCTIONS):
            await host.negotiate(function, OFFERED[function])
            features[function] = [OFFERED[function] >> 32 * n & 0xFFFF_FFFF for n in range(4)]
            host.set(function, "driver_feature_select", 0)

    def merge(old: int, at: int, size: int, value: int) -> int:
        mask = ((1 << 8 * size) - 1) << 8 * at
        return old & ~mask | value << 8 * at & mask

    for step in range(160):
        function = rng.randrange(FUNCTIONS)
        name = rng.choice([*plain, "driver_feature",
                           *(f"queue_{name}_{half}" for name in ADDRESSES
                             for half in ("lo", "hi"))])
        offset, width = COMMON[name]
        size = rng.choice([size for size in (1, 2, 4) if size <= width])
        at = rng.randrange(0, width, size)
        value = rng.getrandbits(8 * size)
        if name == "queue_select":
            size, at, value = 2, 0, rng.randrange(len(numbers[function]))
        elif name.endswith("_select"):
            size, at, value = 4, 0, rng.randrange(5)
        host.post(function, offset + at, size, value)
        mine = select[function]
        if name in plain:
            mine[name] = merge(mine[name], at, size, value)
        elif name == "driver_feature":
            window = mine["driver_feature_select"]
            if window < 4 and not all_queues:
                features[function][window] = merge(features[function][window], at, size, value)
        else:
            queue = queues[function][mine["queue_select"]]
            queue[name[6:]] = merge(queue[name[6:]], at, size, value)
        if step % 4 == 3:
            function = rng.randrange(FUNCTIONS)
            mine = select[function]
            queue = queues[function][mine["queue_select"]]
            want = dict(mine)
            window = mine["device_feature_select"]
            want["device_feature"] = OFFERED[function] >> 32 * window & 0xFFFF_FFFF
            window = mine["driver_feature_select"]
            want["driver_feature"] = features[function][window] if window < 4 else 0
            want["queue_notify_off"] = mine["queue_select"]
            want |= {f"queue_{name}": value for name, value in queue.items()}
            for name in rng.sample(sorted(want), 3):
                assert await host.get(function, name) == want[name], (function, name)
    await host.settle()
    for function in range(FUNCTIONS):
        for index, number in numbers[function].items():
            config = await host.config_of(number)
            for name in ADDRESSES:
                queue = queues[function][index]
                assert config[name] == queue[f"{name}_lo"] | queue[f"{name}_hi"] << 32


@cocotb.test
async def access_time(dut: Any) -> None:
    """An access takes the time that `Registers` says."""
    host = Host(dut)
    await host.start()
    await host.get(0, "device_status")
    await cycles(dut, 20)
    taken: list[int] = []
    now = 0
    for _ in range(20):
        host.mmio.send({"function": 0, "bar": 2, "offset": 20, "write": 0, "enable": 15, "data": 0})
    while host.answers.received.qsize() < 20 and now < 600:
        await host.edge
        now += 1
        if len(taken) < host.answers.transfers:
            taken.append(now)
    steps = {b - a for a, b in pairwise(taken[4:])}
    assert max(steps) <= 11, taken


@cocotb.test
async def isr_races(dut: Any) -> None:
    """No queue interrupt is lost to a read that clears, at any distance of the two."""
    host = Host(dut)
    await host.start()
    await host.get(0, "device_status")
    for distance in range(24):
        seen = 0
        host.mmio.send({"function": 0, "bar": 2, "offset": ISR, "write": 0, "enable": 1, "data": 0})
        await cycles(dut, distance)
        host.queue_interrupts.send({"function": 0})
        seen += (await host.answers.get())["data"]
        await host.queue_interrupts.drain()
        await cycles(dut, 20)
        seen += await host.read(0, ISR, 1)
        assert seen == 1, distance
    # A read of the other bytes does not clear.
    host.queue_interrupts.send({"function": FUNCTIONS - 1})
    await cycles(dut, 20)
    assert await host.read(FUNCTIONS - 1, ISR + 1, 1) == 0
    assert await host.read(FUNCTIONS - 1, ISR + 2, 2) == 0
    host.post(FUNCTIONS - 1, ISR, 4, 0)
    if FUNCTIONS > 1:
        assert await host.read(0, ISR, 1) == 0
    assert await host.read(FUNCTIONS - 1, ISR, 4) == 1
