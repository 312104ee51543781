"""Completer and configuration space: accesses, their order, and how fast they are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import RequestKind
from tb.stream import always, cycles, never
from tb.tlp import Request
from tests.unit.completer_host import LANES, SIZES, WHO, lanes_mask, start


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def lengths(dut: Any, stalls: bool) -> None:
    """Reads and writes of chosen lengths at each alignment."""
    bench = await start(dut, stalls=stalls)
    words = LANES // 4
    sizes = {1, 2, 3, 4, 5, 8, LANES - 1, LANES, LANES + 1, 2 * LANES, 2 * LANES + 3, 4 * words + 2,
             127, 128, 129, 257}
    for size in sorted(sizes):
        for offset in bench.rng.sample([0, 1, 2, 3, 0x7C, 0x7F, LANES - 4], 3 + 2 * (LANES > 8)):
            bench.write(2, 0x1000 + offset, bench.rng.randbytes(size))
            bench.read(2, 0x1000 + offset, size)
    await bench.drain(200_000)
    bench.write(4, 0x7000, bench.rng.randbytes(4096))
    bench.read(4, 0x7000, 4096)
    bench.read(4, 0x7001, 4094)
    await bench.drain(60_000)
    assert bench.memory == bench.model
    assert await bench.errors() == (0, 0)


@cocotb.test
@cocotb.parametrize(seed=[1, 2])
async def random_accesses(dut: Any, seed: int) -> None:
    """Anything legal, many at once, DMA writes leaving all the while."""
    bench = await start(dut, stalls=True, seed=seed)
    rng = bench.rng
    bench.writes = True
    for _ in range(100 if LANES == 8 else 160):
        bar = rng.choice([0, 2, 4])
        offset = rng.randrange(SIZES[bar])
        size = rng.choice([1, 2, 4, 8, rng.randrange(1, 80), rng.randrange(1, 80),
                           rng.randrange(1, 400)])
        size = min(size, 4096 - offset % 4096)
        match rng.randrange(8):
            case 0 | 1 | 2:
                bench.write(bar, offset, rng.randbytes(size))
            case 3 | 4:
                bench.read(bar, offset, size)
            case 5:  # any bytes of one dword, none too
                bench.write_dwords(bar, offset & ~3, rng.randbytes(4), rng.randrange(16), 0)
            case 6:
                bench.read_dwords(bar, offset & ~3, 1, rng.randrange(16), 0)
            case 7:
                bench.send(Request(RequestKind.CONFIG_READ, 0, completer_id=WHO),
                           data=b"\xF4\x1A\x41\x10")
        if rng.random() < 0.1:
            await bench.drain()
    await bench.drain(60_000)
    assert bench.memory == bench.model
    assert not bench.answered_at


@cocotb.test
async def doorbells(dut: Any) -> None:
    """How fast a single-dword write is, and how many there can be."""
    bench = await start(dut)
    entered: list[int] = []
    left: list[int] = []

    async def watch() -> None:
        cycle = 0
        while True:
            await RisingEdge(dut.clk)
            cycle += 1
            if dut.cq__valid.value and dut.cq__ready.value:
                entered.append(cycle)
            if dut.mmio__valid.value and dut.mmio__ready.value:
                left.append(cycle)

    watching = cocotb.start_soon(watch())
    for queue in range(40):
        bench.write_dwords(2, 0x4000 + 4 * queue, queue.to_bytes(4, "little"), 0b0011, 0)
    await bench.drain()
    watching.cancel()
    latency = {there - here for here, there in zip(entered, left, strict=True)}
    gaps = {there - here for here, there in pairwise(left[1:])}
    dut._log.info(f"doorbell: {latency} cycles from cq to mmio, one in {gaps} cycles")
    assert latency == {1}
    assert gaps == {2}


@cocotb.test
async def answers_that_wait(dut: Any) -> None:
    """Doorbells go on while reads, a fence or the host's own stalls hold up completions."""
    bench = await start(dut)

    for holder in ("answers", "fence", "cc"):
        bench.writes = holder == "fence"
        await cycles(dut, 20 if bench.writes else 1)
        if holder == "answers":
            bench.answers.pace = never()
        if holder == "fence":
            bench.leaving = False
            bench.accepted += 1
            dut.writes_accepted.value = bench.accepted & 0xFF
            bench.writes = False
        if holder == "cc":
            bench.beats.pace = never()
        await cycles(dut, 3)
        completions = bench.completions
        for _ in range(7):
            bench.read(2, 0, 4)
        bench.send(Request(RequestKind.CONFIG_READ, 0x2C, completer_id=WHO))
        for queue in range(8):
            bench.write_dwords(2, 0x4000 + 4 * queue, bytes(4), 0b0011, 0)
        await cycles(dut, 150)
        assert not bench.expected_accesses, f"doorbells wait for {holder}"
        assert bench.completions == completions
        bench.leaving = True
        bench.answers.pace, bench.beats.pace = always(), always()
        await bench.drain()


@cocotb.test
async def fence_holds(dut: Any) -> None:
    """No completion leaves before the writes accepted before its data; it waits for no others."""
    bench = await start(dut)
    for count in (1, 5, 127):
        bench.leaving = False
        for _ in range(count):
            bench.accepted += 1
            dut.writes_accepted.value = bench.accepted & 0xFF
            await cycles(dut, 1)
        done = bench.completions
        bench.read(2, 0, 4)
        await cycles(dut, 40)
        late = bench.accepted
        bench.accepted += 0 if count == 127 else 1  # the answer need not wait for this one
        dut.writes_accepted.value = bench.accepted & 0xFF
        await cycles(dut, 3)
        while bench.left < late:
            assert bench.completions == done
            bench.left += 1
            dut.writes_left.value = bench.left & 0xFF
            await cycles(dut, 1)
        await bench.drain(20)
        bench.left = bench.accepted
        dut.writes_left.value = bench.left & 0xFF
        await cycles(dut, 2)
        bench.leaving = True
    # Configuration answers wait too.
    bench.leaving = False
    bench.accepted += 1
    dut.writes_accepted.value = bench.accepted & 0xFF
    await cycles(dut, 3)
    bench.send(Request(RequestKind.CONFIG_READ, 0, completer_id=WHO))
    await cycles(dut, 40)
    assert bench.asked
    bench.leaving = True
    await bench.drain()


@cocotb.test
async def configuration_write_settles(dut: Any) -> None:
    """A write that may turn MSI-X off is answered once no old message is on its way."""
    bench = await start(dut)
    dut.msix_sending.value = 1
    bench.send(Request(RequestKind.CONFIG_READ, 0x48, completer_id=WHO))
    await bench.drain(60)
    bench.send(Request(RequestKind.CONFIG_WRITE, 0x48, first_be=8, completer_id=WHO,
                       payload=b"\x00\x00\x00\x40"))
    await cycles(dut, 60)
    assert bench.asked, "answered although a message is under way"
    bench.leaving = False
    bench.accepted += 1  # the message
    dut.writes_accepted.value = bench.accepted & 0xFF
    dut.msix_sending.value = 0
    await cycles(dut, 60)
    assert bench.asked, "answered although the message has not left"
    bench.leaving = True
    await bench.drain(100)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def window(dut: Any, stalls: bool) -> None:
    """The BARs through configuration space: same accesses, data in the answer."""
    bench = await start(dut, stalls=stalls)
    rng = bench.rng
    await bench.config(0x04, 0, enable=1)  # it works before the BARs have places
    for bar, length, offset in ((2, 1, 0x14), (2, 1, 0x15), (2, 1, 0x17), (2, 2, 0x18),
                                (2, 2, 0x1A), (2, 4, 0x20), (4, 4, 0x7FFC), (0, 4, 0xFFFC),
                                (2, 2, 0x4006)):
        await bench.config(0xDC, bar, enable=1)
        await bench.config(0xE0, offset)
        await bench.config(0xE4, length)
        lead, at = offset & 3, offset & ~3
        enable = ((1 << length) - 1) << lead
        value = rng.getrandbits(32)
        # The window's bytes of what is written, nothing of the others.
        shifted = value << 8 * lead & 0xFFFF_FFFF
        bench.expected_accesses.append((bar, at, 1, enable, shifted))
        mask = lanes_mask(enable)
        bench.model[bar, at] = bench.held(bar, at) & ~mask | shifted & mask
        await bench.config(0xE8, value)
        bench.expected_accesses.append((bar, at, 0, enable, None))
        found = await bench.config(0xE8)
        assert found == (bench.held(bar, at) & mask) >> 8 * lead
        assert found == value & (1 << 8 * length) - 1
        bench.answered_at.clear()
    for bar, length, offset in ((1, 4, 0), (2, 3, 0), (2, 4, 2), (2, 4, 0x8000)):
        await bench.config(0xDC, bar, enable=1)
        await bench.config(0xE0, offset)
        await bench.config(0xE4, length)
        await bench.config(0xE8, 0x1234_5678)
        assert await bench.config(0xE8) == 0
    await bench.config(0x04, 6, enable=1)
    bench.read(2, 0x14, 16)
    await bench.drain()
    assert bench.memory == bench.model
