"""Receive: each frame in one chain, whole and in order, or dropped."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from tb.stream import always, cycles, never
from tests.unit.receive_rooms import DOWN, LANES, NO_FIT, QUEUES, buffers, start


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def every_frame_reaches_its_driver(dut: Any, stalls: bool) -> None:
    """In order, whole, behind a header; what does not fit is dropped, and its chain kept."""
    rng = random.Random(cocotb.RANDOM_SEED)
    world = await start(dut, stalls)
    sent: dict[int, list[bytes]] = defaultdict(list)
    dropped: dict[int, int] = defaultdict(int)
    ids: dict[int, int] = defaultdict(int)
    total = 0
    for _ in range(60):
        queue = rng.choice(QUEUES)
        size = rng.choice([14, 60, LANES, LANES + 1, rng.randint(14, 1514)])
        room = size + 12 + rng.choice([0, 0, 1, 500])
        events = [True, False]
        rng.shuffle(events)
        short = rng.random() < 0.15
        for is_frame in events:
            if is_frame:
                if short:
                    # One frame too long for the next chain, in front of the one that fits.
                    world.frame(queue, rng.randbytes(9100))
                    dropped[queue] += 1
                    total += 1
                frame = rng.randbytes(size)
                sent[queue].append(frame)
                world.frame(queue, frame)
                total += 1
            else:
                # The chains in front may be taken by longer frames than their own: all are ample.
                world.chain(queue, ids[queue], buffers(rng, max(room, 1600)))
                ids[queue] += 1
                world.announce(queue)
        await cycles(dut, rng.choice([0, 0, 1, 5, 40]))
    await world.until(total)
    assert world.used_frames == sent
    assert {queue: len(reasons) for queue, reasons in world.drops.items()} == dict(dropped)
    assert all(reason == NO_FIT for reasons in world.drops.values() for reason in reasons)
    assert {q: [i for i, _ in used] for q, used in world.used.items()} == {
        q: list(range(n)) for q, n in ids.items() if n}
    assert not world.pool, "frames were left in the pool"


@cocotb.test
async def frames_wait_for_chains_at_nobodys_cost(dut: Any) -> None:
    """A queue without chains keeps its frames; the others go on."""
    world = await start(dut, True)
    for index in range(8):
        world.frame(0, bytes([index]) * 60)
        world.frame(2, bytes([index]) * 60)
        world.chain(2, index, [100])
    world.announce(2)
    await world.until(8)
    assert len(world.used[2]) == 8
    assert not world.used[0]
    for index in range(8):
        world.chain(0, index, [50, 50])
    world.announce(0)
    await world.until(16)
    assert [frame[0] for frame in world.used_frames[0]] == list(range(8))


@cocotb.test
async def frames_of_a_stopped_queue_are_dropped(dut: Any) -> None:
    """Those that wait, and those that come; after a start it works again; chains are void."""
    world = await start(dut, True)
    for index in range(5):
        world.frame(4, bytes([index]) * 60)
    await cycles(dut, 200)
    assert not world.drops
    world.configs.table[4]["running"] = 0
    world.commands.send({"queue": 4, "reset": 0})
    await world.until(5)
    world.frame(4, bytes(60))
    await world.until(6)
    assert world.drops[4] == [DOWN] * 6
    # Credit that was announced before a stop means nothing after it.
    world.configs.table[4]["running"] = 1
    world.ready.send({"queue": 4, "count": 3})
    await cycles(dut, 40)
    world.configs.table[4]["running"] = 0
    world.commands.send({"queue": 4, "reset": 1})
    await world.commands.drain()
    world.configs.table[4]["running"] = 1
    world.frame(4, b"\x07" * 60)
    await cycles(dut, 200)
    world.chain(4, 9, [72])
    world.announce(4)
    await world.until(7)
    assert world.used_frames[4] == [b"\x07" * 60]


@cocotb.test
async def a_stop_amid_a_frame_that_does_not_fit(dut: Any) -> None:
    """A chain that turns out to be too short while its queue stops counts no more after that."""
    world = await start(dut, False)
    world.chain(6, 0, [60])
    world.announce(6)
    world.frame(6, bytes(100))
    world._chains.pace = never()
    await cycles(dut, 60)
    world.configs.table[6]["running"] = 0
    world.commands.send({"queue": 6, "reset": 0})
    await cycles(dut, 60)
    world._chains.pace = always()
    await world.commands.drain()
    world.chains[6].clear()
    world.announced[6].clear()
    await world.until(1)
    assert world.drops[6] == [NO_FIT]
    world.configs.table[6]["running"] = 1
    world.frame(6, b"\x05" * 60)
    await cycles(dut, 60)  # a take would be in vain
    world.chain(6, 1, [72])
    world.announce(6)
    await world.until(2)
    assert world.used_frames[6] == [b"\x05" * 60]


@cocotb.test
@cocotb.parametrize(merges=[False, True])
async def small_frames_at_full_rate(dut: Any, merges: bool) -> None:
    """Nine cycles for four frames, in the long run; no slower where chains may be merged."""
    world = await start(dut, False)
    if merges:
        world.merges(0)
    count = 320
    pause = 9 if LANES >= 32 else 12 + 4 * -(-72 // LANES)
    for index in range(count):
        world.chain(0, index, [1536])
    world.announce(0, 32)
    for index in range(count):
        world.frame(0, bytes(60))
        if index % 32 == 0 and world.unannounced[0]:
            world.announce(0, 32)
        await cycles(dut, (index + 1) * pause // 4 - index * pause // 4)
    late = 0
    while len(world.used_frames[0]) < count:
        await RisingEdge(dut.clk)
        late += 1
        assert late < 60
    dut._log.info("%d cycles after the last frame", late)
