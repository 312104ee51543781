"""Configuration space: every register, from the driver's side."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from tb.stream import StreamSink, always, cycles, pace
from tests.unit.config_space_model import (
    EXPECTED,
    FLR,
    RETRY,
    SUCCESS,
    UNSUPPORTED,
    Model,
    byte_mask,
    start,
)


@cocotb.test
async def reset_values(dut: Any) -> None:
    """All 1024 dwords; what is not there reads zero."""
    host = await start(dut)
    for at in range(0, 4096, 4):
        assert await host.read(at) == Model().read(at), f"{at:#x}"


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def random_accesses(dut: Any, stalls: bool) -> None:
    """Writes of any bytes of any register, errors that come in between, against the model."""
    host = await start(dut, stalls=stalls)
    rng = random.Random(cocotb.RANDOM_SEED + stalls)
    model = Model()
    for _ in range(1200):
        at = rng.choice([rng.choice(list(EXPECTED)), 4 * rng.randrange(64),
                         4 * rng.randrange(1024)])
        if at in (0x60, 0xE8):  # a reset and the window have tests of their own
            at = 0x04
        enable = rng.randrange(16)
        value = rng.choice([0, 0xFFFF_FFFF, rng.getrandbits(32)])
        if rng.random() < 0.5:
            await host.write(at, value, enable)
            model.write(at, enable, value)
        assert await host.read(at) == model.read(at), f"{at:#x}"
        if rng.random() < 0.1:
            errors = rng.getrandbits(8)
            port = rng.choice([dut.completer_errors, dut.requester_errors])
            port.value = errors
            await cycles(dut, 1)
            port.value = 0
            parity = errors >> 5 & 1 and model.read(0x04) >> 6 & 1
            model.values[0x04] |= (errors >> 4 & 1) << 31 | (errors >> 6 & 1) << 28 | (
                errors >> 7 & 1) << 29 | parity << 24
            model.values[0x60] |= (errors & 0xF) << 16
    for at in EXPECTED:
        assert await host.read(at) == model.read(at), f"{at:#x}"


@cocotb.test
async def error_wins_over_clear(dut: Any) -> None:
    """An error in the cycle in which its bit is cleared is not lost."""
    host = await start(dut)
    dut.requester_errors.value = 0x0F  # for ever
    await cycles(dut, 1)
    await host.write(0x60, 0x000F_2910)
    dut.requester_errors.value = 0
    assert await host.read(0x60) == 0x000F_2910
    await host.write(0x60, 0x0005_2910)
    assert await host.read(0x60) == 0x000A_2910


@cocotb.test
async def bar_sizes(dut: Any) -> None:
    """A driver's way to size BARs; the bases come out where they were written."""
    host = await start(dut)
    sizes = {}
    at = 0x10
    while at < 0x28:
        old = await host.read(at)
        await host.write(at, 0xFFFF_FFFF)
        mask = await host.read(at)
        await host.write(at, old)
        assert await host.read(at) == old
        assert not mask & 1, "an I/O BAR"
        if mask & 6 == 4:
            await host.write(at + 4, 0xFFFF_FFFF)
            high = await host.read(at + 4)
            await host.write(at + 4, 0)
            sizes[(at - 0x10) // 4] = -(high << 32 | mask & ~0xF) & (1 << 64) - 1
            at += 8
        else:
            sizes[(at - 0x10) // 4] = -(mask & ~0xF) & 0xFFFF_FFFF
            at += 4
    # BAR1 is not there: nothing of it can be written.
    assert sizes == {0: 0x1_0000, 1: 0, 2: 0x8000, 4: 0x8000}
    for at, value in ((0x10, 0xABCD_0000), (0x18, 0x1234_8000), (0x1C, 0x0000_00FE),
                      (0x20, 0x8765_0000), (0x24, 0xCAFE_F00D)):
        await host.write(at, value)
    await RisingEdge(dut.clk)
    assert int(dut.bar0.value) == 0xABCD_0000
    assert int(dut.bar2.value) == 0xFE_1234_8000
    assert int(dut.bar4.value) == 0xCAFE_F00D_8765_0000


@cocotb.test
async def identity_and_capabilities(dut: Any) -> None:
    """What a virtio driver looks at before it touches a BAR."""
    host = await start(dut)
    identity = await host.read(0x00)
    assert identity & 0xFFFF == 0x1AF4
    assert identity >> 16 == 0x1040 + 1
    assert await host.read_byte(0x08) >= 1, "revision"
    assert (await host.read(0x08)) >> 8 == 0x020000, "class: Ethernet"
    assert (await host.read(0x2C)) >> 16 >= 0x40, "subsystem"
    found = await host.capabilities()
    assert [kind for kind, _at in found] == [0x01, 0x11, 0x10, 9, 9, 9, 9, 9]
    seen: dict[int, tuple[int, int, int]] = {}
    at_type: dict[int, int] = {}
    spans: list[range] = []
    for kind, at in found:
        size = {0x01: 8, 0x11: 12, 0x10: 60}.get(kind) or await host.read_byte(at + 2)
        spans.append(range(at, at + size))
        if kind == 9:
            cfg_type = await host.read_byte(at + 3)
            assert cfg_type not in seen
            at_type[cfg_type] = at
            assert size == (20 if cfg_type in (2, 5) else 16)
            seen[cfg_type] = (await host.read_byte(at + 4), await host.read(at + 8),
                              await host.read(at + 12))
    assert not any(set(a) & set(b) for a in spans for b in spans if a is not b)
    assert sorted(seen) == [1, 2, 3, 4, 5]
    sizes = {0: 0x1_0000, 2: 0x8000, 4: 0x8000}
    for cfg_type in (1, 2, 3, 4):
        bar, offset, length = seen[cfg_type]
        assert bar == 2 and offset + length <= sizes[bar] and offset % 4 == 0
    assert seen[1][2] >= 64 and seen[3][2] >= 1 and seen[4][2] >= 4 and seen[5][2] == 0
    multiplier = await host.read(at_type[2] + 16)
    assert multiplier % 4 == 0 and multiplier & (multiplier - 1) == 0
    queues = 2 * 16 + 2
    assert seen[2][2] >= (queues - 1) * multiplier + 4, "the largest card's last queue"
    msix = next(at for kind, at in found if kind == 0x11)
    vectors = (await host.read(msix) >> 16 & 0x7FF) + 1
    assert 2 <= vectors <= 0x800
    table, pending = await host.read(msix + 4), await host.read(msix + 8)
    assert table & 7 == pending & 7 == 4
    assert (table & ~7) + 16 * vectors <= (pending & ~7)
    assert (pending & ~7) + 8 * ((vectors + 63) // 64) <= sizes[4]


@cocotb.test
async def outputs(dut: Any) -> None:
    """What other rooms see of the registers."""
    host = await start(dut)

    async def see(name: str) -> int:
        await RisingEdge(dut.clk)
        return int(getattr(dut, name).value)

    assert [await see(name) for name in ("bus_master", "memory_enable", "msix_enable", "msix_mask",
                                         "power_state", "timeout_disable", "extended_tags",
                                         "payload_size", "read_size", "bus_device")] == [
        0, 0, 0, 0, 0, 0, 1, 0, 2, 0]
    await host.write(0x04, 0x0006, 0b0001)
    assert await see("bus_master") and await see("memory_enable")
    await host.write(0x04, 0x0002, 0b0001)
    assert not await see("bus_master")
    for value, bits in ((0x8000_0000, (1, 0)), (0xC000_0000, (1, 1)), (0x4000_0000, (0, 1))):
        await host.write(0x48, value, 0b1000)
        assert (await see("msix_enable"), await see("msix_mask")) == bits
    await host.write(0x80, 0x10)
    assert await see("timeout_disable")
    for size, payload in ((0, 0), (1, 1), (2, 1), (5, 1), (7, 1)):  # 256 bytes are supported
        await host.write(0x60, 0x0800 | size << 5 | (5 - size & 7) << 12, 0b0011)
        assert await see("payload_size") == payload
        assert await see("read_size") == 5 - size & 7
        assert not await see("extended_tags")


@cocotb.test
async def functions_and_capture(dut: Any) -> None:
    """Other functions are not there; bus and device number come from configuration writes."""
    host = await start(dut)
    for function in range(1, 8):
        for value in (None, 0x6):
            answer = await host.ask(0x04, value=value, who=0x3F00 | function)
            assert answer["status"] == UNSUPPORTED
    await host.ask(0x04, who=0x2208)
    assert int(dut.bus_device.value) == 0, "a read is no write, and a missing function no function"
    assert await host.read(0x04) == 0x0010_0000
    await host.ask(0x3C, value=0x0B, enable=1, who=0x5A18)
    await RisingEdge(dut.clk)
    assert int(dut.bus_device.value) == 0x5A18 >> 3
    await host.ask(0x3C, value=0x0C, enable=0, who=0x0700)
    await RisingEdge(dut.clk)
    assert int(dut.bus_device.value) == 0x0700 >> 3
    assert await host.read(0x3C) == 0x0B


@cocotb.test
async def live_status(dut: Any) -> None:
    """Interrupt Status is the ISR while MSI-X is disabled; transactions pending as they are."""
    host = await start(dut)
    assert not await host.read(0x04) >> 19 & 1
    dut.interrupt_status.value = 1
    dut.transactions_pending.value = 1
    await cycles(dut, 1)
    assert await host.read(0x04) >> 19 & 1
    assert await host.read(0x60) >> 21 & 1
    await host.write(0x04, 0xFFFF_0000, 0b1100)
    assert await host.read(0x04) >> 19 & 1, "read-only"
    await host.write(0x48, 0x8000_0000, 0b1000)
    assert not await host.read(0x04) >> 19 & 1
    await host.write(0x48, 0, 0b1000)
    dut.interrupt_status.value = 0
    dut.transactions_pending.value = 0
    await cycles(dut, 1)
    assert not await host.read(0x04) >> 19 & 1
    assert not await host.read(0x60) >> 21 & 1


@cocotb.test
async def power_states(dut: Any) -> None:
    """D3hot shuts the memory, keeps everything, and there is no other state."""
    host = await start(dut)
    await host.write(0x04, 0x0406)
    await host.write(0x10, 0xABCD_0000)
    for wrong in (1, 2):
        await host.write(0x44, wrong)
        assert await host.read(0x44) & 3 == 0
    await host.write(0x44, 3, 0b1110)
    assert await host.read(0x44) & 3 == 0
    await host.write(0x44, 3)
    assert await host.read(0x44) == 0xB
    await RisingEdge(dut.clk)
    assert int(dut.power_state.value) == 1 and int(dut.memory_enable.value) == 0
    for wrong in (1, 2):
        await host.write(0x44, wrong)
        assert await host.read(0x44) & 3 == 3
    assert await host.read(0x04) == 0x0010_0406
    await host.write(0x44, 0)
    await RisingEdge(dut.clk)
    assert int(dut.power_state.value) == 0 and int(dut.memory_enable.value) == 1
    assert await host.read(0x10) == 0xABCD_0000


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def function_level_reset(dut: Any, stalls: bool) -> None:
    """The reset goes out, RETRY until it is done, and then only what the link owns is left."""
    host = await start(dut, stalls=stalls)
    resets: StreamSink = StreamSink(dut, "flr", 8, always())
    model = Model()
    rng = random.Random(cocotb.RANDOM_SEED)

    async def done(function: int) -> None:
        dut.flr_done__payload.value = function
        dut.flr_done__valid.value = 1
        await cycles(dut, 1)
        dut.flr_done__valid.value = 0
        await cycles(dut, 1)

    for round_number in range(3):
        for at in EXPECTED:
            value = rng.getrandbits(32) & ~FLR if at == 0x60 else rng.getrandbits(32)
            value |= 0x6 if at == 0x04 else 0
            value &= ~3 if at == 0x44 else ~0
            await host.write(at, value)
            model.write(at, 0xF, value)
        await done(0)  # nobody asked
        if round_number == 1:
            await host.write(0x44, 3)  # in D3hot as well
        assert await host.read(0x04) == model.read(0x04)
        resets.pace = pace(True, 7 + round_number)
        control = model.read(0x60)
        await host.write(0x60, control | FLR, 0b1101)  # not that byte
        assert resets.empty() and await host.read(0x60) == control
        await host.write(0x60, (control | FLR) & 0xFFFF, 0b0010)
        assert await resets.get() == 0
        assert int(dut.memory_enable.value) == 0
        assert int(dut.bus_master.value) == 1, "what is under way is to be finished"
        for _ in range(3):
            at = rng.choice(list(EXPECTED))
            for written in (None, 0xFFFF_FFFF):
                answer = await host.ask(at, value=written)
                assert answer["status"] == RETRY and not answer["window"]["wanted"]
        await done(3)  # another function
        assert (await host.ask(0x00))["status"] == RETRY
        await done(0)
        model.flr()
        assert int(dut.bus_master.value) == 0
        for at in EXPECTED:
            assert await host.read(at) == model.read(at), f"{at:#x}"
        assert int(dut.bus_device.value) == 0x0100 >> 3, "the number belongs to the link"
        assert resets.empty()


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def window(dut: Any, stalls: bool) -> None:
    """Each combination of BAR, offset, length and bytes: the right access, or none."""
    host = await start(dut, stalls=stalls)
    rng = random.Random(cocotb.RANDOM_SEED + stalls)
    sizes = {0: 0x1_0000, 2: 0x8000, 4: 0x8000}
    cases = [(2, offset, length) for offset in range(8) for length in (0, 1, 2, 3, 4, 5, 8)]
    cases += [(bar, offset, 4) for bar in range(8) for offset in (0, 0x7FFC, 0x8000, 0xFFFC,
                                                                 0x1_0000, 0x8000_0000)]
    cases += [(18, 0, 4), (2, 0, 0x8000_0004), (2, 0, 0x0100_0001), (0x82, 0, 1)]
    for bar, offset, length in cases:
        await host.write(0xDC, 0xFFFF_FF00 | bar)
        await host.write(0xE0, offset)
        await host.write(0xE4, length)
        assert await host.read(0xDC) == bar
        allowed = (bar in sizes and length in (1, 2, 4) and offset % length == 0
                   and offset < sizes[bar])
        for write in (False, True):
            enable = rng.choice([0xF, 1, 3, 0, rng.randrange(16)])
            value = rng.getrandbits(32)
            answer = await host.ask(0xE8, enable=enable, value=value if write else None)
            assert answer["status"] == SUCCESS
            access = answer["window"]
            whole = (1 << length) - 1 if allowed else 0
            touched = whole & enable if write else whole if enable else 0
            assert access["wanted"] == bool(touched), (bar, offset, length, enable)
            if not touched:
                assert write or answer["data"] == 0
                continue
            lead = offset & 3
            assert (access["bar"], access["offset"]) == (bar, offset & ~3)
            assert access["enable"] == touched << lead
            if write:
                mask = byte_mask(touched << lead)
                assert answer["data"] & mask == value << 8 * lead & mask
            else:
                assert (access["shift"], access["bytes"]) == (lead, whole)
    # A window that is right does nothing in D3hot.
    await host.write(0xDC, 2)
    await host.write(0xE0, 0)
    await host.write(0xE4, 4)
    assert (await host.ask(0xE8))["window"]["wanted"]
    await host.write(0x44, 3)
    assert await host.read(0xE8) == 0
    await host.write(0xE8, 1)
