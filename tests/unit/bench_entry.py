"""The entry FIFO: good frames are kept, others dropped whole."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from hw.stream.types import WireBeatLayout
from hw.wire.types import EnteredLayout, EntryDrop
from tb.stream import (
    PacketSink,
    PacketSource,
    StreamMonitor,
    StreamSink,
    always,
    cycles,
    never,
    pace,
    reset,
)
from tests.unit.wire_frames import BEAT, LANES, LONGEST, STALLS, frame_bytes, frame_size


@cocotb.test
@cocotb.parametrize((("wire_stalls", "length_stalls", "frame_stalls"), STALLS))
async def entry_keeps_good_frames(dut: Any, wire_stalls: bool, length_stalls: bool,
                                  frame_stalls: bool) -> None:
    """Every frame comes out whole with its length, or is an event with its reason."""
    wire = PacketSource(dut, "entry__wire", WireBeatLayout(LANES), pace(wire_stalls, 1))
    lengths = StreamSink(dut, "entry__lengths", EnteredLayout(), pace(length_stalls, 2))
    frames = PacketSink(dut, "entry__frames", BEAT, pace(frame_stalls, 3))
    drops: list[int] = []
    StreamMonitor(dut, "entry__drops", EntryDrop, tell=drops.append)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    sent = []
    bad = []
    for _ in range(150):
        kind = rng.random()
        error = kind < 0.1
        size = frame_size(rng)
        if 0.1 < kind < 0.2:
            size = LONGEST + rng.choice([1, LANES, 60 * LANES])
        elif 0.2 < kind < 0.3:
            size = rng.randint(1, 13)
        packet = frame_bytes(rng, size)
        wire.send(packet, last={"error": error})
        if size > LONGEST:
            bad.append(EntryDrop.LONG.value)
        elif error:
            bad.append(EntryDrop.ERROR.value)
        elif size < 14:
            bad.append(EntryDrop.SHORT.value)
        else:
            sent.append(packet)
    await wire.drain(20_000)
    await cycles(dut, 100)
    found = []
    while not frames.empty():
        found.append((await frames.get()).data)
    told = []
    while not lengths.empty():
        told.append((await lengths.get())["bytes"])
    assert told == [len(packet) for packet in found]
    full = drops.count(EntryDrop.FULL.value)
    assert len(found) + len(drops) == 150
    if not (frame_stalls or length_stalls):
        assert not full
    if not full:
        assert found == sent
        assert drops == bad
    else:
        rest = iter(sent)
        assert all(packet in rest for packet in found), "an order was changed, or a frame"
    assert not frames.inside


@cocotb.test
async def entry_full(dut: Any) -> None:
    """What does not fit is rolled back, whole, and what fits again is taken again."""
    wire = PacketSource(dut, "entry__wire", WireBeatLayout(LANES), always())
    lengths = StreamSink(dut, "entry__lengths", EnteredLayout(), always())
    frames = PacketSink(dut, "entry__frames", BEAT, never())
    drops: list[int] = []
    StreamMonitor(dut, "entry__drops", EntryDrop, tell=drops.append)
    await reset(dut)
    # 32 rows, and one in the output register: 20 + 12 fit, then 2 do not, then 1 does.
    for beats in (20, 12, 2, 1, 1):
        wire.send(bytes([beats]) * (beats * LANES if beats * LANES >= 14 else 14))
    await wire.drain()
    await cycles(dut, 3)
    kept = (20, 12, 1) if LANES >= 14 else (20, 12)
    assert lengths.transfers == len(kept)
    assert set(drops) == {EntryDrop.FULL.value}
    frames.pace = always()
    await cycles(dut, 4)
    wire.send(bytes([7]) * 14)
    for number in (*kept, 7):
        assert (await frames.get_bytes())[0] == number
