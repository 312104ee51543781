"""cocotb side of test_management.py: every register by its row, every counter by its events."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import MmioAnswer, MmioRequest
from hw.vf.counters import CounterEvent
from hw.vf.regs import COUNTER_BANKS, REGISTERS, counter, register
from hw.virtio.moderation import ModerationLayout
from hw.virtio.types import FaultRecordLayout, PositionAnswerLayout, PositionRequestLayout
from tb.stream import (
    Fields,
    StreamSink,
    StreamSource,
    always,
    cycles,
    never,
    pace,
    reset,
)

FUNCTIONS = int(os.environ["RINGLET_FUNCTIONS"])
RECORDS = int(os.environ["RINGLET_RECORDS"])
CONSTANTS: dict[str, int] = json.loads(os.environ["RINGLET_CONSTANTS"])
SOURCES = [bank for bank in COUNTER_BANKS if bank.name != "faults"]


class Bench:
    """The PF's driver on one side, all that is counted on the other."""

    def __init__(self, dut: Any, *, stalls: bool = False) -> None:
        self.dut = dut
        self.edge = RisingEdge(dut.clk)
        self.mmio = StreamSource(dut, "mmio", MmioRequest(), pace(stalls, 1))
        self.answers = StreamSink(dut, "answers", MmioAnswer(), pace(stalls, 2))
        self.log = StreamSource(dut, "log", FaultRecordLayout(), pace(False, 3))
        self.settings: list[tuple[int, int, int]] = []
        self.moderation = StreamSink(
            dut, "moderation", ModerationLayout(), pace(stalls, 4),
            lambda told: self.settings.append(
                (told["queue"], told["max_packets"], told["max_usecs"])))
        self.asked: list[tuple[int, int, int]] = []
        self.positions = StreamSink(
            dut, "positions", PositionRequestLayout(), pace(stalls, 5),
            lambda told: self.asked.append((told["queue"], told["load"], told["position"])))
        self.position_answers = StreamSource(dut, "position_answers", PositionAnswerLayout(),
                                             pace(stalls, 6))
        self.fields = Fields(CounterEvent())
        self.valids = {}
        self.payloads = {}
        for bank in SOURCES:
            self.valids[bank.name] = getattr(dut, f"events__{bank.name}__valid")
            self.payloads[bank.name] = getattr(dut, f"events__{bank.name}__payload")
            self.valids[bank.name].value = 0
        dut.link_up.value = 0
        self.totals: dict[tuple[int, int, int], list[int]] = {}

    async def start(self) -> None:
        await reset(self.dut)

    def post(self, offset: int, value: int, enable: int = 15) -> None:
        self.mmio.send({"function": 0, "bar": 0, "offset": offset, "write": 1, "enable": enable,
                        "data": value})

    async def read(self, offset: int) -> int:
        self.mmio.send({"function": 0, "bar": 0, "offset": offset, "write": 0, "enable": 15,
                        "data": 0})
        return int((await self.answers.get())["data"])

    async def get(self, name: str) -> int:
        return await self.read(register(name).offset)

    def count(self, bank: str, function: int, row: int, size: int) -> None:
        """Let an event happen in this cycle; at most one of a bank."""
        self.valids[bank].value = 1
        self.payloads[bank].value = self.fields.pack(
            {"function": function, "row": row, "bytes": size})
        number = next(n for n, each in enumerate(COUNTER_BANKS) if each.name == bank)
        total = self.totals.setdefault((number, row, function), [0, 0])
        total[0] += 1
        total[1] += size if COUNTER_BANKS[number].counters[row].bytes else 0

    def quiet(self) -> None:
        """Let nothing happen from this cycle on."""
        for valid in self.valids.values():
            valid.value = 0

    async def counted(self, bank: int, row: int, function: int) -> list[int]:
        """Read a counter: events, bytes."""
        self.post(register("counter_select").offset, bank << 16 | row << 8 | function)
        words = [await self.get(f"counter_{what}_{half}")
                 for what in ("events", "bytes") for half in ("low", "high")]
        return [words[0] | words[1] << 32, words[2] | words[3] << 32]


def fixed(row: str, field: str, reset: int | None) -> int | None:
    return CONSTANTS.get(f"{row}.{field}", reset)


@cocotb.test
async def every_row(dut: Any) -> None:
    """Reset values, what can be written and what cannot, bytes alone, and nothing between."""
    bench = Bench(dut, stalls=True)
    await bench.start()
    rows = {row.offset: row for row in REGISTERS}
    for offset in range(0, 0x100, 4):
        value = await bench.read(offset)
        named = 0
        for field in rows[offset].fields if offset in rows else ():
            named |= field.mask
            want = fixed(rows[offset].name, field.name, field.reset)
            if want is not None:
                assert value >> field.low & (1 << field.bits) - 1 == want, (hex(offset), field)
        assert value & ~named == 0, hex(offset)
    for offset in (0x100, 0x400, 0x1000, 0xFFFC):
        bench.post(offset, 0xFFFF_FFFF)
        assert await bench.read(offset) == 0
    rng = random.Random(cocotb.RANDOM_SEED)
    for row in REGISTERS:
        writable = sum(field.mask for field in row.fields if field.access == "RW")
        still = row.name not in ("cycles_low", "cycles_high")
        before = await bench.read(row.offset)
        for enable in (15, 1, 2, 4, 8, 0, 6):
            data = rng.getrandbits(32)
            bench.post(row.offset, data & ~int(row.name == "fault_next"), enable)
            mask = sum(0xFF << 8 * n for n in range(4) if enable >> n & 1) & writable
            before = before & ~mask | data & mask
            assert not still or await bench.read(row.offset) == before, row.name


@cocotb.test
async def live_values(dut: Any) -> None:
    """The link; and a clock of 64 bits that is read in halves."""
    bench = Bench(dut)
    await bench.start()
    for state in (1, 0, 1):
        dut.link_up.value = state
        await cycles(dut, 2)
        assert await bench.get("status") == state
    first = await bench.get("cycles_low")
    await cycles(dut, 100)
    second = await bench.get("cycles_low")
    assert 100 < second - first < 130
    assert await bench.get("cycles_high") == 0


@cocotb.test
async def fault_log(dut: Any) -> None:
    """The oldest records stay, in order; those that find no room are counted, and all are."""
    bench = Bench(dut)
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    records = [{"function": rng.randrange(FUNCTIONS), "queue": rng.getrandbits(13),
                "reason": rng.randrange(1, 12), "address": rng.getrandbits(64)}
               for _ in range(RECORDS + 5)]
    for record in records:
        bench.log.send(record)
    await bench.log.drain()
    await cycles(dut, 4)
    assert await bench.get("fault_log") == RECORDS
    assert await bench.get("fault_lost") == 5
    bench.post(register("fault_next").offset, 0)         # zero does nothing
    bench.post(register("fault_next").offset, 1, 0b1110)  # nor does a byte that is not written
    for left, record in zip(range(RECORDS, 0, -1), records, strict=False):
        assert await bench.get("fault_log") == left
        who = await bench.get("fault_who")
        assert who == record["function"] | record["reason"] << 8 | record["queue"] << 16
        assert await bench.get("fault_address_low") == record["address"] & 0xFFFF_FFFF
        assert await bench.get("fault_address_high") == record["address"] >> 32
        bench.post(register("fault_next").offset, 1)
    assert await bench.get("fault_log") == 0
    bench.post(register("fault_next").offset, 1)
    assert await bench.get("fault_log") == 0
    bench.log.send(records[-1])
    await bench.log.drain()
    assert await bench.get("fault_log") == 1
    bank, row = counter("faults", "faults")
    for function in range(FUNCTIONS):
        mine = sum(record["function"] == function for record in [*records, records[-1]])
        assert await bench.counted(bank, row, function) == [mine, 0]


@cocotb.test
@cocotb.parametrize(stalls=[False, True], sink=["eager", "slow"])
async def moderation(dut: Any, stalls: bool, sink: str) -> None:
    """Each write of a 1 applies what the two registers hold then, once, in order."""
    bench = Bench(dut, stalls=stalls)
    if sink == "slow":
        bench.moderation.pace = (n % 40 == 39 for n in range(1 << 30))
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    queue = limits = 0
    want: list[tuple[int, int, int]] = []
    while len(want) < 12:
        which, value, enable = rng.randrange(4), rng.getrandbits(32), rng.choice([15, 15, 1, 6, 12])
        mask = sum(0xFF << 8 * n for n in range(4) if enable >> n & 1)
        if which == 0:
            bench.post(register("moderation_queue").offset, value, enable)
            queue = queue & ~mask | value & mask
        elif which == 1:
            bench.post(register("moderation_limits").offset, value, enable)
            limits = limits & ~mask | value & mask
        else:
            bench.post(register("moderation_apply").offset, value, enable)
            if enable & value & 1:
                want.append((queue & 0x3FFF, limits & 0xFFFF, limits >> 16))
    # The reads come behind the writes, and need not wait until what was applied last is taken.
    assert await bench.get("moderation_queue") == queue & 0x3FFF
    assert await bench.get("moderation_limits") == limits
    assert await bench.get("moderation_apply") == 0
    await cycles(dut, 100)
    assert bench.settings == want


@cocotb.test
async def moderation_that_is_not_taken(dut: Any) -> None:
    """The registers answer, and what was applied does not change with them."""
    bench = Bench(dut)
    bench.moderation.pace = never()
    await bench.start()
    bench.post(register("moderation_queue").offset, 3)
    bench.post(register("moderation_limits").offset, 5 | 7 << 16)
    bench.post(register("moderation_apply").offset, 1)
    assert await bench.get("moderation_queue") == 3
    bench.post(register("moderation_queue").offset, 4)
    bench.post(register("moderation_limits").offset, 0)
    assert await bench.get("moderation_queue") == 4
    assert not bench.settings
    bench.moderation.pace = always()
    await cycles(dut, 4)
    assert bench.settings == [(3, 5, 7)]


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def positions(dut: Any, stalls: bool) -> None:
    """A command asks once, with what is written then; another one waits for its answer."""
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    command = register("position_command").offset
    want: list[tuple[int, int, int]] = []
    assert await bench.get("position_state") == 0
    for turn in range(8):
        queue, position, load = rng.getrandbits(14), rng.getrandbits(16), rng.getrandbits(1)
        bench.post(register("position_queue").offset, queue)
        bench.post(register("position_load").offset, position)
        bench.post(command, 0)
        bench.post(command, 1 << load | 0x10, 0xE)
        bench.post(command, 1 << load)
        want.append((queue, load, position))
        busy = 1 << 16
        assert await bench.get("position_state") & busy
        await cycles(dut, 60)
        assert await bench.get("position_state") & busy
        assert bench.asked == want
        if turn % 2:
            # The next one is taken when this one has its answer, and not before.
            bench.post(register("position_queue").offset, 5)
            bench.post(command, 1)
            await cycles(dut, 60)
            assert bench.asked == want
            want.append((5, 0, position))
            bench.position_answers.send({"position": 1, "refused": 1})
            assert await bench.get("position_state") & busy
            await cycles(dut, 60)
            assert bench.asked == want
        answer = {"position": rng.getrandbits(16), "started": rng.getrandbits(1),
                  "loaded": rng.getrandbits(1), "refused": rng.getrandbits(1)}
        bench.position_answers.send(answer)
        await bench.position_answers.drain()
        await cycles(dut, 3)
        assert await bench.get("position_state") == (
            answer["position"] | answer["started"] << 17 | answer["loaded"] << 18
            | answer["refused"] << 19)
        assert await bench.get("position_command") == 0


async def _flood(bench: Bench, rng: random.Random, clocks: int, density: float) -> None:
    """Let things happen in all banks at once, with a liking for few counters."""
    for _ in range(clocks):
        bench.quiet()
        for bank in SOURCES:
            if rng.random() < density:
                functions = FUNCTIONS if bank.of == "function" else 1
                function = rng.choice([0, functions - 1, rng.randrange(functions)])
                bench.count(bank.name, function, rng.randrange(len(bank.counters)),
                            rng.choice([0, 60, 1514, 0x1_FFFF]))
        await bench.edge
    bench.quiet()
    await cycles(bench.dut, 3)


async def _check(bench: Bench) -> None:
    for number, bank in enumerate(COUNTER_BANKS):
        for row in range(len(bank.counters)):
            for function in range(FUNCTIONS if bank.of == "function" else 1):
                want = bench.totals.get((number, row, function), [0, 0])
                assert await bench.counted(number, row, function) == want, (bank, row, function)


@cocotb.test
@cocotb.parametrize(density=[0.4, 1.0])
async def no_event_is_lost(dut: Any, density: float) -> None:
    """An event a cycle in every bank, while the counters are read; then all add up."""
    bench = Bench(dut)
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    flood = cocotb.start_soon(_flood(bench, rng, 400, density))
    before = 0
    while not flood.done():
        events, _ = await bench.counted(0, 0, 0)
        assert before <= events <= bench.totals[0, 0, 0][0]
        before = events
    await _check(bench)
    # What does not exist has counted nothing, and a read of it harms nobody.
    for bank, row, function in ((len(COUNTER_BANKS), 0, 0), (255, 15, 0), (0, 1, 0), (1, 4, 0),
                                (0, 0, 1), (3, 0, FUNCTIONS & 0xFF)):
        assert await bench.counted(bank, row, function) == [0, 0]


@cocotb.test(skip=FUNCTIONS == 1)  # 33 thousand cycles: once will do
async def high_halves(dut: Any) -> None:
    """Bytes carry into the high half."""
    bench = Bench(dut)
    await bench.start()
    need = (1 << 32) // 0x1_FFFF + 2
    bench.count("wire_sent", 0, 0, 0x1_FFFF)
    for _ in range(need):
        await bench.edge
    bench.quiet()
    await cycles(dut, 4)
    bank, row = counter("wire_sent", "frames")
    events, size = await bench.counted(bank, row, 0)
    assert size == events * 0x1_FFFF
    assert size >> 32 == 1


@cocotb.test
async def reset_of_the_card(dut: Any) -> None:
    """A reset clears all; what happens right behind it counts, whatever the memory held."""
    bench = Bench(dut)
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    for round_ in range(6):
        await _flood(bench, rng, 40, 0.7)
        dut.rst.value = 1
        await cycles(dut, 1 + round_ % 2)
        dut.rst.value = 0
        bench.totals.clear()
        await _flood(bench, rng, [0, 1, 2, 30, 0, 60][round_], 0.9)
        await _check(bench)
        await cycles(dut, 16 * FUNCTIONS)
        await _check(bench)
    assert await bench.get("fault_log") == 0
    assert await bench.get("counter_select") & 0xF != 0xF


@cocotb.test
async def many_resets(dut: Any) -> None:
    """Nothing comes back from an earlier life: not after two resets at once, nor after many."""
    bench = Bench(dut)
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    await _flood(bench, rng, 60, 1.0)
    for _ in range(2):
        dut.rst.value = 1
        await cycles(dut, 1)
        dut.rst.value = 0
        await cycles(dut, 1)
    bench.totals.clear()
    await _check(bench)
    await _flood(bench, rng, 60, 1.0)
    for _ in range(4):
        dut.rst.value = 1
        await cycles(dut, 1)
        dut.rst.value = 0
        bench.totals.clear()
        # No cycle is free in which a word could be cleared, for longer than clearing takes.
        for bank in SOURCES:
            bench.count(bank.name, 0, 0, 0)
        await cycles(dut, 20 * FUNCTIONS)
        bench.quiet()
        await cycles(dut, 20 * FUNCTIONS)
    for number, bank in enumerate(COUNTER_BANKS):
        for row in range(1, len(bank.counters)):
            assert await bench.counted(number, row, 0) == [0, 0], (bank.name, row)
        if bank.of == "function" and FUNCTIONS > 1:
            assert await bench.counted(number, 0, FUNCTIONS - 1) == [0, 0], bank.name
