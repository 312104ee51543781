# amaranth: UnusedElaboratable=no
"""Counting: events of the rooms as events of the counters."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator, SimulatorContext  # type: ignore[attr-defined]  # not in stubs

from hw.vf.counting import Counting


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="stride must be a power of two"):
        Counting(stride=3, cells=16)


def test_a_frame_over_several_chains_counts_once() -> None:
    """With its last chain, for its function, with its bytes in all and no header."""
    dut = Counting(stride=4, cells=16)
    chains = [(0, 72, 0), (4, 100, 1), (4, 100, 1), (4, 7, 0), (8, 11, 1), (8, 61, 0), (0, 26, 0)]
    seen: list[tuple[int, int, int]] = []

    async def drive(ctx: SimulatorContext) -> None:
        for index, (queue, size, more) in enumerate(chains):
            ctx.set(dut.delivered.payload,
                    {"queue": queue, "id": 5, "slots": 1, "bytes": size, "more": more})
            ctx.set(dut.delivered.valid, 1)
            await ctx.tick()
            if index % 2:  # what is not valid means nothing
                ctx.set(dut.delivered.payload,
                        {"queue": 4, "id": 0, "slots": 0, "bytes": 999, "more": index == 1})
                ctx.set(dut.delivered.valid, 0)
                await ctx.tick().repeat(2)

    async def watch(ctx: SimulatorContext) -> None:
        event = dut.events.received
        async for *_, valid, payload in ctx.tick().sample(event.valid, event.payload):
            if valid:
                seen.append((payload.function, payload.row, payload.bytes))

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(drive)
    sim.add_testbench(watch, background=True)
    sim.run()
    assert seen == [(0, 0, 60), (1, 0, 195), (2, 0, 60), (0, 0, 14)]
