"""UsedRing: entries before their index, each once, in bursts; split rings."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import cocotb

from tb.stream import always, cycles, never
from tests.unit.used_ring_host import LANES, SIZES, start, until


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def every_chain_is_used_once_in_order(dut: Any, stalls: bool) -> None:
    """All entries, in order, each covered by an index only after it was written."""
    rng = random.Random(cocotb.RANDOM_SEED)
    host = await start(dut, stalls, 14)
    sent: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for _ in range(4):
        for _ in range(100):
            queue = rng.choice(list(SIZES))
            # A driver has at most `size` chains under way.
            if len(sent[queue]) - len(host.seen[queue]) >= SIZES[queue]:
                await cycles(dut, 3)
                continue
            chain = (rng.randrange(SIZES[queue]), rng.randrange(1 << 17))
            sent[queue].append(chain)
            host.used[queue % 2].send({"queue": queue, "id": chain[0], "bytes": chain[1]})
            if rng.random() < 0.05:
                await cycles(dut, rng.randrange(60))
        await until(dut, lambda: host.seen == sent)
        await cycles(dut, 60)
        assert host.announced == {queue: len(chains) for queue, chains in sent.items()}
        assert not host.promised
        assert not any(host.indices.values())
        # A reset starts every ring again from 0.
        for queue in SIZES:
            host.commands.send({"queue": queue, "reset": 1})
        await host.commands.drain()
        sent.clear()
        host.seen.clear()
        host.index.clear()
        host.announced.clear()


@cocotb.test
async def positions_survive_a_stop(dut: Any) -> None:
    """Without ``reset`` a command leaves the index where it is."""
    host = await start(dut)
    for index in range(3):
        host.used[0].send({"queue": 0, "id": index, "bytes": 1})
    await until(dut, lambda: host.index[0] == 3)
    host.commands.send({"queue": 0, "reset": 0})
    await host.commands.drain()
    host.used[0].send({"queue": 0, "id": 3, "bytes": 1})
    await until(dut, lambda: host.index[0] == 4)


@cocotb.test
async def more_than_may_wait(dut: Any) -> None:
    """While nothing can be written, a queue's chains fill its memory, and then they wait."""
    host = await start(dut)
    host.segments.pace = never()
    sent = [(index, 7 * index) for index in range(100)]
    for index, size in sent:
        host.used[0].send({"queue": 2, "id": index, "bytes": size})
    await cycles(dut, 300)
    assert not host.used[0].idle
    host.segments.pace = always()
    await until(dut, lambda: host.index[2] == len(sent))
    assert host.seen[2] == sent


@cocotb.test
async def what_is_left_behind_follows(dut: Any) -> None:
    """A burst that takes not all promises another, also where chains of other queues came since."""
    host = await start(dut)
    host.segments.pace = never()
    for index in range(60):
        for queue in (2, 0):
            host.used[0].send({"queue": queue, "id": index, "bytes": 60})
    await cycles(dut, 300)
    host.segments.pace = always()
    await until(dut, lambda: host.announced[2] == host.announced[0] == 60)
    full = [follows for queue, count, follows in host.told_of
            if queue == 2 and count == LANES // 4]
    assert len(full) >= 2
    assert all(full[:-1]), full
    assert not host.promised


@cocotb.test
async def bursts_grow_with_the_load(dut: Any) -> None:
    """A chain alone leaves at once; a flood leaves in bursts, at a chain a cycle or nearly."""
    host = await start(dut)
    host.used[0].send({"queue": 2, "id": 1, "bytes": 60})
    began = cocotb.utils.get_sim_time("ns")
    await until(dut, lambda: host.bursts == [1])
    latency = (cocotb.utils.get_sim_time("ns") - began) / 4
    assert latency <= 14, latency
    await until(dut, lambda: host.index[2] == 1)
    began = cocotb.utils.get_sim_time("ns")
    for index in range(200):
        host.used[0].send({"queue": 2, "id": index, "bytes": 60})
    await until(dut, lambda: host.index[2] == 201)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4
    dut._log.info("%.2f cycles a chain, %d cycles of latency", taken / 200, latency)
    row = LANES // 8
    assert host.promises > 200 / (2 * row) / 2, "the bursts of a flood follow one another"
    assert taken / 200 <= max(2.2, 7.5 / row), taken / 200
    assert max(host.bursts) >= (row + 1) // 2


@cocotb.test
async def bursts_wait_for_more_while_the_bus_is_busy(dut: Any) -> None:
    """Small ones keep their distance then, and only then; a single chain never waits for long."""
    host = await start(dut)
    sizes = {}
    total = 0

    async def all_used() -> None:
        await until(dut, lambda: host.index[2] == total)

    for busy in (0, 1):
        dut.busy.value = busy
        host.bursts.clear()
        for index in range(120):
            host.used[0].send({"queue": 2, "id": index, "bytes": 60})
            await cycles(dut, 4)
        total += 120
        await all_used()
        sizes[busy] = 120 / len(host.bursts)
        # Alone, and one more right behind it.
        for _ in range(2):
            total += 1
            began = cocotb.utils.get_sim_time("ns")
            host.used[0].send({"queue": 2, "id": 0, "bytes": 60})
            await all_used()
            latency = (cocotb.utils.get_sim_time("ns") - began) / 4
            assert latency <= 16 + 17, latency
    dut._log.info("entries a burst: %.1f, busy %.1f", sizes[0], sizes[1])
    if LANES == 64:
        assert sizes[0] <= 2.5 and sizes[1] >= 3.5


@cocotb.test
async def the_index_wraps(dut: Any) -> None:
    """More than 65536 chains through one ring: index and positions wrap."""
    if LANES < 64:
        return
    host = await start(dut)
    total = 65536 + 100
    sent = 0
    while sent < total:
        while sent < total and sent - len(host.seen[2]) < 200:
            host.used[0].send({"queue": 2, "id": sent % 256, "bytes": 60})
            sent += 1
        await cycles(dut, 50)
    await until(dut, lambda: host.announced[2] == total)
    assert host.index[2] == total % 65536
    assert host.seen[2] == [(k % 256, 60) for k in range(total)]
