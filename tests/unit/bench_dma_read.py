"""DmaRead: right bytes in the right order, nobody held up by another, and the rate."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from tb.stream import always, cycles, reset
from tests.unit.dma_read_clients import finish, most_bytes_of, pieces_of, random_segments, start
from tests.unit.dma_read_completer import (
    ABORT,
    BEHAVIOUR_AT,
    FUNCTIONS,
    HELD,
    LANES,
    MAX_READ,
    PLAIN,
    POISON,
    QUEUES,
    QUOTAS,
    RETRY,
    TAGS,
    TIMEOUT,
    UNSENT,
    UNSUPPORTED,
)


@cocotb.test
@cocotb.parametrize((("stalls", "boundary", "size_code"), [
    (False, 64, 2), (False, 128, 0), (True, 64, 0), (True, 128, 2)]))
async def random_traffic(dut: Any, stalls: bool, boundary: int, size_code: int) -> None:
    """Groups of every shape from every client: right bytes, right order, nothing left over."""
    completer, clients, rng = start(dut, stalls=stalls, latency=(1, 300),
                                    gaps=0.3 if stalls else 0.0, boundary=boundary,
                                    unexpected=0.05)
    dut.read_size.value = size_code
    completer.read_size = 128 << size_code
    await reset(dut)
    limit = min(128 << size_code, MAX_READ)
    for number in range(30):
        for index, client in enumerate(clients):
            if number % 8 == 7 and rng.random() < 0.5:
                segments = [(rng.randrange(1 << 40), 3) for _ in range(QUOTAS[index] + 3)]
            else:
                segments = random_segments(rng, most_bytes_of(index) if number % 4 == 0 else 300,
                                           QUOTAS[index], limit)
            if rng.random() < 0.1:
                behaviour = rng.choice([UNSUPPORTED, ABORT, POISON, RETRY, UNSENT])
                place = rng.randrange(len(segments))
                address, length = segments[place]
                segments[place] = (address | behaviour << BEHAVIOUR_AT, length)
            client.ask(rng.choice([0, 1, 1, QUEUES - 1]), segments, lead=rng.randrange(LANES),
                       function=rng.randrange(FUNCTIONS), fenced=rng.randrange(2))
    await finish(dut, completer, clients)
    assert completer.timed_out_seen == 0
    # All clients had their share of the tags all the time, and all tags were used again.
    assert {read.tag for _, read in completer.tlps} == set(range(TAGS))


@cocotb.test
async def late_queue(dut: Any) -> None:
    """A completion that does not come holds up its queue, and no other."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 20))
    await reset(dut)
    client = clients[0]
    # Two pieces for the late group, and two groups behind it.
    client.ask(1, [(HELD << BEHAVIOUR_AT | 0x1000, 10), (0x2000, 10)])
    client.ask(1, [(0x3000, 20)])
    client.ask(1, [(0x4000, 20)])
    for number in range(4 * QUOTAS[0]):
        client.ask(2 if number % 2 else 0, [(0x5000 + 64 * number, 30)])
    for _ in range(TIMEOUT - 100):
        await RisingEdge(dut.clk)
        if client.answered == 4 * QUOTAS[0]:
            break
    assert client.answered == 4 * QUOTAS[0], "other queues waited"
    assert [queue for _, queue in client.log].count(1) == 0
    completer.hold = False
    await finish(dut, completer, clients)
    assert [queue for _, queue in client.log[-3:]] == [1, 1, 1]


@cocotb.test
async def order_of_a_queue(dut: Any) -> None:
    """Many groups of one queue, completed in any order, some all at once behind the first."""
    completer, clients, rng = start(dut, stalls=False, latency=(1, 60))
    await reset(dut)
    for burst in range(2000 // TAGS // 8 + 2):
        for index, client in enumerate(clients):
            for number in range(QUOTAS[index]):
                late = HELD if burst % 3 == 0 and number == 0 else PLAIN
                client.ask(3 % QUEUES, [(late << BEHAVIOUR_AT | rng.randrange(1 << 20) & ~15, 16)])
        await cycles(dut, 150 + 8 * TAGS)
        completer.hold = False
        await cycles(dut, 100)
        completer.hold = True
    completer.hold = False
    await finish(dut, completer, clients)


@cocotb.test
async def stalled_client(dut: Any) -> None:
    """A client that takes nothing (in mid-answer) does not slow down another."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 5), whole=True)
    await reset(dut)
    clients[0].ask(0, [(0x1000, 200)])
    await finish(dut, completer, clients)

    async def others() -> int:
        begin = completer.now
        for number in range(60):
            clients[1].ask(number % 2, [(64 * number, 4 * LANES + 5)], lead=number % LANES)
        await finish(dut, completer, clients[1:])
        return completer.now - begin

    alone = await others()
    clients[0].sink.pace = iter([True] * 3 + [False] * 100_000)
    for number in range(3 * QUOTAS[0]):
        clients[0].ask(number % 3 % QUEUES, [(0x8000 + 256 * number, 10 * LANES)])
    await cycles(dut, 20 * TAGS)
    assert clients[0].open
    together = await others()
    assert together <= alone + 20, f"{together} cycles beside a stalled client, {alone} alone"
    clients[0].sink.pace = always()
    await finish(dut, completer, clients)


@cocotb.test
async def cuts(dut: Any) -> None:
    """A segment is read by one TLP where that may be, and cut at multiples of the size if not."""
    completer, clients, _rng = start(dut, stalls=False, latency=(5, 30))
    await reset(dut)
    limit = min(completer.read_size, MAX_READ)
    page = 0x7000
    for address, length, lengths in (
            (page + limit - 8, 16, [16]),                          # over a multiple, but small
            (page + 8, limit, [limit]), (page + 1, limit - 1, [limit - 1]),
            (page + 2, limit - 1, [limit - 2, 1]),                 # one dword too many
            (page - 8, 16, [8, 8]), (page - limit, limit, [limit]),
            (page - limit + 4, limit, [limit - 4, 4]),             # over a page
            (page + 4, 2 * limit, [limit - 4, limit, 4])):
        completer.tlps.clear()
        clients[0].ask(0, [(address, length)])
        await finish(dut, completer, clients)
        assert [read.length for _, read in completer.tlps] == lengths, (address, length)


@cocotb.test
async def full_rate(dut: Any) -> None:
    """Print and check the cycles that groups take, and the latencies."""
    completer, clients, _rng = start(dut, stalls=False, latency=(20, 20), whole=True)
    await reset(dut)
    await cycles(dut, TAGS + 10)
    rates = {}
    sizes = {"16 bytes": ([(0, 16)], 0), "16 bytes, many queues": ([(0, 16)], 0),
             "72 bytes": ([(0x40, 72)], -12),
             "12 + 60 bytes": ([(0x40, 12), (0x800, 60)], -12),
             "1514 bytes": ([(0x42, 12), (0x802, 1514)], -12)}
    for name, (segments, offset) in sizes.items():
        lead = offset % LANES
        total = sum(length for _, length in segments)
        if pieces_of(segments, MAX_READ) * 3 > QUOTAS[0]:
            continue
        count = 100
        for number in range(count):
            clients[0].ask(number % 7 % QUEUES if "many" in name else 0,
                           [(address + 0x1000 * number, length)
                            for address, length in segments], lead=lead)
        await finish(dut, completer, clients)
        times = [at for at, _ in clients[0].log[-count:]]
        rates[name] = (times[-1] - times[count // 4]) / (count - 1 - count // 4)
        beats = -(-(lead + total) // LANES)
        dut._log.info(f"{name}: {rates[name]:.2f} cycles a group of {beats} beats")

    sent = completer.now
    clients[0].ask(0, [(0x40, 8)])
    await finish(dut, completer, clients)
    left_at = completer.tlps[-1][0]
    answer = clients[0].log[-1][0] - completer.last_beat_at
    dut._log.info(f"request to TLP: {left_at - sent} cycles; completion to answer: {answer} cycles")
    if QUOTAS[0] >= 64:  # enough under way for a latency of 20 and the card's own
        assert rates["72 bytes"] <= max(2, (72 + LANES - 12) / LANES) + 0.1
        assert rates["12 + 60 bytes"] <= 2.1
        assert rates["16 bytes"] <= 2.1
        assert rates["16 bytes, many queues"] <= 1.1
    assert left_at - sent <= 4
    assert answer <= 7
