"""cocotb side of test_registers.py: every register, and the doorbells."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import cocotb

from hw.pcie.types import MmioRequest
from tb.stream import Fields, cycles
from tests.unit.registers_host import (
    ACKNOWLEDGE,
    ADDRESSES,
    COMMON,
    CTRL_VQ,
    DEVICE,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    FUNCTIONS,
    ISR,
    MAC,
    MBPS,
    MQ,
    MTU,
    NEEDS_RESET,
    NEGOTIATING,
    NONE,
    NOTIFY,
    OFFERED,
    PLAN,
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
