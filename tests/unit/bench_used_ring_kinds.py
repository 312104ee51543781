"""UsedRing: split and packed rings side by side."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb

from tb.stream import cycles, reset
from tests.unit.used_ring_drivers import Chain, Ring, Rings
from tests.unit.used_ring_host import SIZES, until


async def start_rings(dut: Any, stalls: bool, seed: int) -> Rings:
    host = Rings(dut, stalls, seed)
    await reset(dut)
    await host.tell_where()
    return host


def finish(host: Rings, ring: Ring, chain: Chain) -> None:
    """The card is done with the chain; of a split ring the places do not matter."""
    host.used[ring.queue % 2].send({
        "queue": ring.queue, "id": chain.id, "bytes": chain.bytes, "more": not chain.ends,
        "slots": chain.slots})


@cocotb.test
@cocotb.parametrize(stalls=[False, True], seed=[1, 2, 3])
async def rings_of_every_kind(dut: Any, stalls: bool, seed: int) -> None:
    """Split and packed side by side, of any size, in order or not, frames over several chains:
    after each piece that lands the driver sees whole frames, and each chain once."""
    host = await start_rings(dut, stalls, 100 * cocotb.RANDOM_SEED + seed)
    rng = host.rng
    for _ in range(4):
        # Frames of different queues come mixed, and pauses fall into them.
        sources: dict[int, deque[Chain]] = {queue: deque() for queue in SIZES}
        total = 0
        for _ in range(120):
            ring = rng.choice(host.queues)
            if not sources[ring.queue]:
                sources[ring.queue].extend(ring.frame())
            for _ in range(rng.randint(1, 8)):
                if sources[ring.queue]:
                    finish(host, ring, sources[ring.queue].popleft())
                    total += 1
            if rng.random() < 0.2:
                dut.busy.value = rng.randrange(2)
                await cycles(dut, rng.choice([1, 10, 60]))
        for queue, chains in sources.items():
            for chain in chains:
                finish(host, host.queues[queue], chain)
                total += 1
        await until(dut, lambda total=total: host.published_chains == total)
        await cycles(dut, 40)
        assert host.published_chains == total
        assert not any(host.expected.values()) and not host.due and not host.promised
        for ring in host.queues:
            ring.settled()
        await host.check_positions()
        # A stop keeps the position, a reset does not, and loads another one perhaps.
        host.published_chains = 0
        host.begin()
        await host.tell_where()
        await host.check_positions()
