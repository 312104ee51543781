"""Prefetch: cycles a chain, and cycles from a doorbell to a chain."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from tb.stream import cycles
from tests.unit.prefetch_traffic import KINDS, SIZE_MAX, TABLE_MAX, number, world


@cocotb.test(skip=SIZE_MAX < 1024)
@cocotb.parametrize(kind=range(len(KINDS)))
async def rate(dut: Any, kind: int) -> None:
    """One queue of 60-byte frames, reads of 250 cycles: at most 2.5 cycles a chain.

    With a table for each 6 of a packed ring, 8.5 of a split one: no more than 320 chains wait.
    """
    w = world(dut, False, 25, modes=(KINDS[kind],), latency=(250, 250), write_latency=(20, 20),
              hold=(0, 0))
    queue, = await w.begin({number(0): 1000 if "packed" in KINDS[kind] else 1024})
    chains = 4000 if not kind else 2500
    posted = 0
    begin = 0
    edge = RisingEdge(dut.clk)
    while len(w.delivered) < chains:
        if queue.room >= 32 and posted < chains + 1024:
            for _ in range(32):
                queue.add([60], w.rng, table=queue.indirect)
            posted += 32
            w.kick(queue)
        if not begin and len(w.delivered) >= 1000:
            begin = w.now
        await edge
    spent = (w.now - begin) / (chains - 1000)
    reads = len(w.reads) / posted
    dut._log.info(f"{KINDS[kind]}: {spent:.2f} cycles a chain, {reads:.3f} reads a chain, "
                  f"{w.flag_writes} flag writes, {queue.kicks} kicks")
    assert spent <= (2.5 if not queue.indirect else 6 if queue.packed else 8.5)
    await w.settle()


LATENCIES: list[tuple[tuple[str, ...], int]] = [
    ((), 3), (("data",), 2), (("packed",), 1)]  # with a position, not the index
if TABLE_MAX:
    LATENCIES += [(("packed", "indirect"), 2), (("indirect", "data"), 3)]


@cocotb.test(skip=SIZE_MAX < 1024)
@cocotb.parametrize(case=range(len(LATENCIES)))
async def latency(dut: Any, case: int) -> None:
    """From a doorbell to the answer to a take, with reads of no latency worth the name."""
    modes, reads = LATENCIES[case]
    w = world(dut, False, 27, modes=(modes,), latency=(100, 100), hold=(0, 0))
    queue, = await w.begin({number(0): 1024})
    await cycles(dut, 20)
    before = len(w.reads)
    queue.add([60], w.rng, table=queue.indirect)
    start = w.now
    w.kick(queue)
    await w.until(lambda: len(w.reads) > before)
    first = w.now - start
    await w.until(lambda: bool(w.ready_at[queue.number]))
    ready = w.ready_at[queue.number][0] - start
    await w.until(lambda: len(w.delivered) > 0)
    dut._log.info(f"{modes}: doorbell to first read {first}, to announcement {ready}, of which "
                  f"reads {100 * reads}; to the segment {w.now - start}")
    assert first <= 15
    assert ready <= 100 * reads + 60
    assert len(w.reads) - before == reads
    await w.settle()
