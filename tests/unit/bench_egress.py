"""Egress: frames leave the pool without gaps."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.wire.types import FrameHandle, PoolReadLayout
from tb.stream import PacketSink, PacketSource, StreamSink, StreamSource, always, pace, reset
from tests.unit.wire_frames import BEAT, CELLS, frame_bytes, frame_size


@cocotb.test
@cocotb.parametrize(wire_stalls=[False, True])
async def frames_leave_without_a_gap(dut: Any, wire_stalls: bool) -> None:
    """Egress: valid stays from a frame's first beat to its last."""
    frames = StreamSource(dut, "egress__frames", FrameHandle(CELLS), pace(wire_stalls, 1))
    reads = StreamSink(dut, "egress__reads", PoolReadLayout(CELLS), always())
    data = PacketSource(dut, "egress__data", BEAT, always())
    sink = PacketSink(dut, "egress__wire", BEAT, pace(wire_stalls, 2))
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)

    async def no_gap() -> None:
        edge = RisingEdge(dut.clk)
        while True:
            await edge
            assert dut.egress__wire__valid.value or not sink.inside

    cocotb.start_soon(no_gap())
    sent = [frame_bytes(rng, frame_size(rng)) for _ in range(40)]
    for number, packet in enumerate(sent):
        handle = {"cell": number % CELLS, "bytes": len(packet)}
        frames.send(handle)
        read = await reads.get()
        assert read == {"frame": handle, "drop": 0}
        data.send(packet)
    for packet in sent:
        assert await sink.get_bytes() == packet
