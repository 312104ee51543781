"""cocotb side of test_lifecycle.py: the counts, against a model and against races."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import ObligationLayout, QueueLayout
from tb.stream import Fields, StreamSink, StreamSource, always, cycles, pace, reset

QUEUES = int(os.environ["RINGLET_QUEUES"])
PORTS = int(os.environ["RINGLET_PORTS"])


class Bench:
    """Ports that count, and one who asks."""

    def __init__(self, dut: Any, *, stalls: bool = False) -> None:
        self.dut = dut
        self.edge = RisingEdge(dut.clk)
        self.events = [StreamSource(dut, f"events__{port}", ObligationLayout(),
                                    pace(stalls, 10 + port)) for port in range(PORTS)]
        self.query = StreamSource(dut, "query", QueueLayout(), pace(stalls, 1))
        self.idle = StreamSink(dut, "idle", 1, pace(stalls, 2))

    async def start(self) -> None:
        await reset(self.dut)

    def send(self, port: int, queue: int, delta: int) -> None:
        self.events[port].send({"queue": queue, "delta": delta & 0x1FF})

    async def drain(self) -> None:
        for port in self.events:
            await port.drain()

    async def ask(self, queue: int) -> bool:
        self.query.send({"queue": queue})
        return bool(await self.idle.get())


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def counts(dut: Any, stalls: bool) -> None:
    """After any events through any ports, a queue is idle exactly if they add up to zero."""
    bench = Bench(dut, stalls=stalls)
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    totals = [0] * QUEUES
    for _ in range(25):
        for _ in range(rng.randrange(1, 40)):
            queue = rng.choice([0, QUEUES - 1, rng.randrange(QUEUES)])
            # Often what brings it back to zero: what is wrong by one must not hide.
            delta = rng.choice([1, -1, 2, 255, -256, -totals[queue]])
            delta = max(-256, min(255, delta))
            totals[queue] += delta
            bench.send(rng.randrange(PORTS), queue, delta)
        await bench.drain()
        for queue in {0, QUEUES - 1, rng.randrange(QUEUES)}:
            assert await bench.ask(queue) == (totals[queue] == 0), (queue, totals[queue])
    for queue in range(QUEUES):
        while totals[queue]:
            delta = max(-256, min(255, -totals[queue]))
            bench.send(queue % PORTS, queue, delta)
            totals[queue] += delta
    await bench.drain()
    for queue in range(QUEUES):
        assert await bench.ask(queue)


@cocotb.test
async def work_that_is_handed_on(dut: Any) -> None:
    """A queue whose work goes from port to port, each taking it on before the last one gives it up,
    is never idle, whatever the others do."""
    bench = Bench(dut)
    await bench.start()
    rng = random.Random(cocotb.RANDOM_SEED)
    queue = 1
    stop = False

    async def noise(port: int) -> None:
        while not stop:
            other = rng.choice([q for q in range(QUEUES) if q != queue])
            for delta in (1, -1):
                bench.send(port, other, delta)
            await bench.events[port].drain()

    holder = 0
    bench.send(holder, queue, 1)
    await bench.drain()
    for port in range(PORTS):
        cocotb.start_soon(noise(port))

    async def hand_on() -> None:
        nonlocal holder
        while not stop:
            taker = rng.randrange(PORTS)
            bench.send(taker, queue, 1)
            await bench.events[taker].drain()
            bench.send(holder, queue, -1)
            await bench.events[holder].drain()
            holder = taker

    cocotb.start_soon(hand_on())
    for _ in range(80):
        assert not await bench.ask(queue)
        await cycles(dut, rng.randrange(4))
    stop = True
    await cycles(dut, 100)
    assert not await bench.ask(queue)
    bench.send(0, queue, -1)
    await bench.drain()
    for each in range(QUEUES):  # no query has cost the others a count
        assert await bench.ask(each)


@cocotb.test
async def query_behind_full_ports(dut: Any) -> None:
    """A query counts what was taken just before it, though all ports are full of others."""
    bench = Bench(dut)
    await bench.start()
    await cycles(dut, QUEUES + 4)
    fields = Fields(ObligationLayout())
    noise = fields.pack({"queue": 3 if QUEUES > 3 else 0, "delta": 1})
    for victim in range(PORTS):
        for port in range(PORTS):
            getattr(dut, f"events__{port}__payload").value = noise
            getattr(dut, f"events__{port}__valid").value = 1
        await cycles(dut, 12)
        payload = getattr(dut, f"events__{victim}__payload")
        payload.value = fields.pack({"queue": 1, "delta": 1})
        ready = getattr(dut, f"events__{victim}__ready")
        await bench.edge
        while not ready.value:
            await bench.edge
        payload.value = noise
        assert not await bench.ask(1), victim
        for port in range(PORTS):
            getattr(dut, f"events__{port}__valid").value = 0
        await cycles(dut, 6)
        bench.send(victim, 1, -1)
        await bench.drain()
        assert await bench.ask(1)


@cocotb.test
async def full_rate(dut: Any) -> None:
    """An event a cycle for each direction; all ports are served alike."""
    bench = Bench(dut)
    await bench.start()
    await cycles(dut, QUEUES + 4)
    fields = Fields(ObligationLayout())
    taken = [0] * PORTS
    for port in range(PORTS):
        getattr(dut, f"events__{port}__payload").value = fields.pack(
            {"queue": port % 2, "delta": 1})
        getattr(dut, f"events__{port}__valid").value = 1
    readies = [getattr(dut, f"events__{port}__ready") for port in range(PORTS)]
    clocks = 120
    await cycles(dut, 10)
    for _ in range(clocks):
        await bench.edge
        for port in range(PORTS):
            taken[port] += int(readies[port].value)
    for parity in range(min(2, PORTS)):
        shares = taken[parity::2]
        assert clocks - 2 <= sum(shares) <= clocks + 2
        assert max(shares) - min(shares) <= 2
    for port in range(PORTS):
        getattr(dut, f"events__{port}__valid").value = 0


@cocotb.test
async def answers_are_held(dut: Any) -> None:
    """The answer waits for its taker, and comes in the time that `Obligations` says."""
    bench = Bench(dut)
    await bench.start()
    await cycles(dut, QUEUES + 4)
    bench.idle.pace = iter(lambda: False, True)
    bench.query.send({"queue": 0})
    await cycles(dut, 3 * PORTS + 12)
    assert dut.idle__valid.value
    bench.send(0, 0, 1)
    await cycles(dut, 10)
    bench.idle.pace = always()
    assert await bench.idle.get() == 1
    assert not await bench.ask(0)
