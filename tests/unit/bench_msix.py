"""MSI-X: the vector table against races at every offset in cycles."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cocotb

from hw.pcie.bar_map import MSIX_PBA_OFFSET, MSIX_TABLE_OFFSET
from tb.stream import (
    always,
    cycles,
)
from tests.unit.msix_host import (
    BAR,
    FUNCTIONS,
    MASKED,
    VECTORS,
    WHOSE,
    Bench,
    entry_of,
    ready_bench,
)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def table(dut: Any, stalls: bool) -> None:
    """Reset state, every dword, byte enables, what cannot be written, and nothing beside it."""
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    model: dict[tuple[int, int], int] = {}
    offsets = range(MSIX_TABLE_OFFSET, MSIX_TABLE_OFFSET + 16 * VECTORS, 4)
    functions = {0, 1 % FUNCTIONS, FUNCTIONS - 1}
    for function in functions:
        for offset in offsets:
            model[function, offset] = MASKED if offset % 16 == 12 else 0
            assert await bench.read(function, offset) == model[function, offset]
    for _ in range(200):
        function, offset = bench.rng.choice(sorted(functions)), bench.rng.choice(offsets)
        value, enable = bench.rng.getrandbits(32), bench.rng.randrange(16)
        bench.write(function, offset, value, enable)
        keep = sum(0xFF << 8 * byte for byte in range(4) if not enable >> byte & 1)
        kinds = {0: 0xFFFF_FFFC, 12: 1}
        model[function, offset] = (model[function, offset] & keep
                                   | value & ~keep & kinds.get(offset % 16, 0xFFFF_FFFF))
    for offset in (MSIX_PBA_OFFSET, MSIX_PBA_OFFSET + 4, MSIX_TABLE_OFFSET + 16 * VECTORS,
                   MSIX_PBA_OFFSET + 16 * VECTORS, 0x7FFC, 0x8000):
        bench.write(0, offset, 0xFFFF_FFFF)
        assert await bench.read(0, offset) == 0
    for (function, offset), value in model.items():
        assert await bench.read(function, offset) == value, (function, hex(offset))
    assert not bench.messages and bench.answers.empty()


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def every_vector(dut: Any, stalls: bool) -> None:
    """An open vector sends at once; a masked one when it is opened; a disabled function never."""
    bench = await ready_bench(dut, stalls=stalls)
    every = sorted(WHOSE.values())
    for function, vector in every:
        bench.interrupt(function, vector)
        bench.interrupt(function, VECTORS + vector)  # there is no such vector
        bench.interrupt(function, 0x7FF)
    await bench.settle(len(every))
    assert [(f, v) for _w, f, v in bench.messages] == every

    bench.messages.clear()
    for function, vector in every:
        bench.mask(function, vector, 1)
    await bench.mmio.drain()
    for function, vector in every:
        for _ in range(1 + vector % 3):
            bench.interrupt(function, vector)
    await bench.settle()
    for function in range(FUNCTIONS):
        assert await bench.pending(function) == (1 << VECTORS) - 1
    assert not bench.messages
    for function, vector in every:
        bench.mask(function, vector, 0)
    await bench.settle(len(every))
    assert bench.count() == Counter(every)
    for function in range(FUNCTIONS):
        assert await bench.pending(function) == 0

    bench.messages.clear()
    dut.enable.value = 0
    for function, vector in every:
        bench.interrupt(function, vector)
    await bench.settle()
    dut.enable.value = (1 << FUNCTIONS) - 1
    await bench.settle()
    assert not bench.messages and await bench.pending(0) == 0


@cocotb.test
async def function_mask(dut: Any) -> None:
    """Masking a function keeps all pending; unmasking sends them; so does enabling."""
    bench = await ready_bench(dut, stalls=True)
    last = FUNCTIONS - 1
    for gate, closed, opened in ((dut.function_mask, 1 << last, 0),
                                 (dut.enable, (1 << last) - 1, (1 << FUNCTIONS) - 1)):
        dut.function_mask.value = 1 << last
        await cycles(dut, 2)
        for vector in range(VECTORS):
            bench.interrupt(last, vector)
            if last:
                bench.interrupt(0, vector)
        await bench.settle(VECTORS)
        expected = [(0, vector) for vector in range(VECTORS) if last]
        assert [(f, v) for _w, f, v in bench.messages] == expected
        assert await bench.pending(last) == (1 << VECTORS) - 1
        bench.messages.clear()
        gate.value = closed
        await cycles(dut, 2)
        dut.function_mask.value = 0 if gate is dut.enable else closed
        await bench.settle()
        assert not bench.messages
        bench.mask(last, 1, 1)  # one of them stays masked by itself
        await bench.settle()
        gate.value = opened
        await bench.settle(VECTORS)
        assert bench.count() == Counter((last, v) for v in range(VECTORS) if v != 1)
        assert await bench.pending(last) == 2
        bench.mask(last, 1, 0)
        await bench.settle()
        assert bench.count()[last, 1] == 1 and await bench.pending(last) == 0
        bench.messages.clear()


@cocotb.test
async def vector_races(dut: Any) -> None:
    """One interrupt against a mask that closes and opens: one message, whatever the offset.

    And once a read after the mask was answered, nothing is accepted until it is opened again.
    """
    bench = await ready_bench(dut)
    where = (FUNCTIONS - 1, VECTORS - 1)
    for offset in range(-8, 14):
        for masked_for in (0, 1, 2, 3, 5, 8, 40):
            bench.messages.clear()

            async def close_and_open(masked_for: int = masked_for,
                                     offset: int = offset) -> tuple[int, int]:
                await cycles(dut, max(0, -offset) + 1)
                bench.mask(*where, 1)
                if masked_for < 20:
                    await cycles(dut, masked_for)
                    closed = 1 << 30
                else:
                    assert await bench.read(where[0], 16 * where[1] + 12) == MASKED
                    closed = bench.now
                    await cycles(dut, masked_for)
                opened = bench.now
                bench.mask(*where, 0)
                return closed, opened

            task = cocotb.start_soon(close_and_open())
            await cycles(dut, max(0, offset) + 1)
            bench.interrupt(*where)
            closed_at, opened_at = await task
            await bench.settle()
            assert bench.count() == Counter([where]), (offset, masked_for, bench.messages)
            assert not closed_at < bench.messages[0][0] <= opened_at, (offset, masked_for)
            assert await bench.pending(where[0]) == 0


@cocotb.test
async def function_mask_races(dut: Any) -> None:
    """The same with the function's mask and enable; `sending` says when the old ones are done."""
    bench = await ready_bench(dut)
    where = (FUNCTIONS - 1, 1)
    bit = 1 << where[0]
    for gate in (dut.function_mask, dut.enable):
        for offset in range(-6, 12):
            for closed_for in (1, 2, 3, 4, 5, 8, 25):
                bench.messages.clear()
                open_value = int(gate.value)

                async def close_and_open(gate: Any = gate, closed_for: int = closed_for,
                                         offset: int = offset,
                                         open_value: int = open_value) -> tuple[int, int]:
                    await cycles(dut, max(0, -offset) + 1)
                    gate.value = open_value ^ bit
                    quiet = 1 << 30
                    for _ in range(closed_for):
                        await bench.edge
                        if not dut.sending.value:
                            quiet = min(quiet, bench.now)
                    opened = bench.now
                    gate.value = open_value
                    return quiet, opened

                task = cocotb.start_soon(close_and_open())
                await cycles(dut, max(0, offset) + 1)
                bench.interrupt(*where)
                quiet_at, opened_at = await task
                await bench.settle()
                count = bench.count()
                # Dropped, or sent: an interrupt that meets a disabled function may not stay.
                assert count == Counter([where]) or (gate is dut.enable and not count)
                if count:
                    assert not quiet_at < bench.messages[0][0] <= opened_at, (offset, closed_for)
                assert await bench.pending(where[0]) == 0


@cocotb.test
async def soak(dut: Any) -> None:
    """Masks, function masks, reads and interrupts at random: none lost, none twice."""
    bench = await ready_bench(dut, stalls=True)
    rng = bench.rng
    every = sorted(WHOSE.values())[:8] + sorted(WHOSE.values())[-8:]
    raised: Counter[tuple[int, int]] = Counter()
    for _ in range(40):
        for _ in range(30):
            where = rng.choice(every)
            what = rng.random()
            if what < 0.45:
                raised[where] += 1
                bench.interrupt(*where)
            elif what < 0.8:
                bench.mask(*where, rng.random() < 0.5)
            elif what < 0.9:
                dut.function_mask.value = int(dut.function_mask.value) ^ 1 << where[0]
            else:
                bench.mmio.send({"function": where[0], "bar": BAR, "offset": MSIX_PBA_OFFSET})
            await cycles(dut, rng.randrange(6))
        await bench.settle()
        # Everything is open again: for each vector that was raised the last message comes after.
        last = rng.choice(every)
        bench.mask(*last, 1)
        await bench.mmio.drain()
        await cycles(dut, 10)
        seen = bench.count()[last]
        bench.interrupt(*last)
        raised[last] += 1
        dut.function_mask.value = 0
        for where in every:
            bench.mask(*where, 0)
        await bench.settle(2 * len(every))
        assert bench.count()[last] > seen
        for where in every:
            assert bench.count()[where] <= raised[where]
            assert not raised[where] or bench.count()[where]
        for function in range(FUNCTIONS):
            while not bench.answers.empty():
                await bench.answers.get()
            assert await bench.pending(function) == 0


@cocotb.test
async def cleared(dut: Any) -> None:
    """A function that is cleared is as after reset, and its neighbours are as they were."""
    bench = await ready_bench(dut, stalls=True)
    victim = FUNCTIONS // 2
    others = [function for function in range(FUNCTIONS) if function != victim]
    for function in range(FUNCTIONS):
        bench.mask(function, 0, 1)
    await bench.mmio.drain()
    for function in range(FUNCTIONS):
        bench.interrupt(function, 0)
        bench.interrupt(function, 1)
    bench.clear.send(victim)
    await bench.clear.drain()
    await bench.settle(FUNCTIONS)
    bench.mask(victim, 0, 1)
    assert await bench.pending(victim) in (0, 1, 2, 3)  # raised after the clear, perhaps
    bench.clear.send(victim)
    await bench.clear.drain()
    assert await bench.pending(victim) == 0
    for vector in range(VECTORS):
        for dword in range(4):
            expected = MASKED if dword == 3 else 0
            assert await bench.read(victim, 16 * vector + 4 * dword) == expected
    for function in others:
        assert await bench.pending(function) == 1
        for vector in range(VECTORS):
            address, message = entry_of(function, vector)
            assert await bench.read(function, 16 * vector) == address & 0xFFFF_FFFF
            assert await bench.read(function, 16 * vector + 4) == address >> 32
            assert await bench.read(function, 16 * vector + 8) == message
            assert await bench.read(function, 16 * vector + 12) == (vector == 0)


@cocotb.test
async def posted_writes_do_not_wait(dut: Any) -> None:
    """While a message cannot leave, table writes are taken; reads and a reset wait for it."""
    bench = await ready_bench(dut)
    bench.segments.pace = iter(lambda: False, None)
    await cycles(dut, 2)
    bench.interrupt(0, 0)
    await cycles(dut, 10)
    assert dut.segments__valid.value and dut.sending.value
    for _ in range(8):
        bench.mask(0, 1, 1)
    await bench.mmio.drain(40)
    bench.mmio.send({"function": 0, "bar": BAR, "offset": 12, "enable": 0xF})
    bench.clear.send(FUNCTIONS - 1)
    await cycles(dut, 30 + 2 * VECTORS)
    assert bench.answers.empty() and not bench.clear.idle
    bench.segments.pace = always()
    await bench.clear.drain(20 + VECTORS)
    await cycles(dut, 12)
    assert not bench.answers.empty() and not dut.sending.value
    assert bench.count() == Counter([(0, 0)])


@cocotb.test
async def latency(dut: Any) -> None:
    """Cycles from each cause to the segment, and at what rate interrupts are sent."""
    bench = await ready_bench(dut)

    async def until_segment() -> int:
        for count in range(1000):
            await bench.edge
            if dut.segments__valid.value:
                return count
        raise TimeoutError

    dut.interrupts__payload.value = 0
    dut.interrupts__valid.value = 1
    await bench.edge
    dut.interrupts__valid.value = 0
    raised = await until_segment()
    await bench.settle()
    bench.mask(0, 0, 1)
    await bench.settle()
    bench.interrupt(0, 0)
    await bench.settle()
    bench.mask(0, 0, 0)
    while not (dut.mmio__valid.value and dut.mmio__ready.value):
        await bench.edge
    opened = await until_segment()
    await bench.settle()
    bench.messages.clear()
    for _ in range(20):
        bench.interrupt(0, 0)
    await bench.settle(10)
    spans = [b[0] - a[0] for a, b in zip(bench.messages, bench.messages[1:], strict=False)]
    dut._log.info("interrupt to segment %d cycles, opening to segment %d, one interrupt in %d",
                  raised + 1, opened + 1, max(spans))
    assert raised + 1 <= 3 and opened + 1 <= 9 and max(spans) <= 6
