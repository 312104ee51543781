"""Receive: frames over as many chains as they take (MRG_RXBUF)."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import WriteSegmentLayout
from tb.stream import StreamMonitor, always, cycles, never
from tests.unit.receive_rooms import DOWN, LANES, QUEUES, buffers, start


def uneven(rng: random.Random, kind: int) -> int:
    """Bytes of a chain, in one of several manners of drivers."""
    return (rng.choice([1, 2, 5, 11, 12, 13]), rng.choice([100, 128]), 1536,
            rng.choice([1, 12, 40, 64, 300, 1536, 9100]))[kind]


@cocotb.test
@cocotb.parametrize(stalls=[False, True], bounds=[True, False], seed=[1, 2])
async def frames_over_several_chains(dut: Any, stalls: bool, bounds: bool, seed: int) -> None:
    """Whole, in order, in as many chains as it takes and no more; two queues merge, two do not."""
    rng = random.Random(seed)
    world = await start(dut, stalls, seed)
    world.bounds = bounds
    world.merges(0, 2)
    sent: dict[int, list[bytes]] = defaultdict(list)
    ids: dict[int, int] = defaultdict(int)
    kinds = dict.fromkeys(QUEUES, 0)
    room = dict.fromkeys(QUEUES, 0)
    for step in range(60):
        if step % 20 == 0:
            kinds = {queue: rng.randrange(4) for queue in QUEUES}
        queue = rng.choice(QUEUES)
        size = rng.choice([14, 60, 60, LANES, rng.randint(14, 1514)])
        if kinds[queue] == 0:
            size = rng.randint(14, 300)
        frame = rng.randbytes(size)
        sent[queue].append(frame)
        world.frame(queue, frame)
        room[queue] -= size + 12
        # What is left in a frame's last chain is lost; so there may have to be more later.
        while room[queue] < 0 or rng.random() < 0.2:
            total = uneven(rng, kinds[queue]) if queue in (0, 2) else 1600
            world.chain(queue, ids[queue] % 65536, buffers(rng, total))
            ids[queue] += 1
            room[queue] += total
            if queue not in (0, 2):
                room[queue] = 0
            if rng.random() < 0.3:
                world.announce(queue)
        await cycles(dut, rng.choice([0, 0, 1, 5, 40, 300]))
    for queue in QUEUES:
        for _ in range(60):
            await cycles(dut, 100)
            world.announce(queue)
            if len(world.used_frames[queue]) == len(sent[queue]):
                break
            world.chain(queue, ids[queue], buffers(rng, 1600))
            ids[queue] += 1
    await world.until(60, 20_000)
    assert world.used_frames == sent
    assert not world.drops
    for used in world.used.values():
        assert [number for number, _ in used] == list(range(len(used)))
    assert all(count == 1 for queue in (4, 6) for count in world.chains_used[queue])
    assert sum(count > 1 for count in world.chains_used[0] + world.chains_used[2]) > 3
    assert not any(world.held.values())
    assert not world.pool, "frames were left in the pool"


@cocotb.test
async def a_frame_waits_for_the_bytes_it_needs(dut: Any) -> None:
    """It sets out when the chains that were announced hold it, not before; others go on."""
    world = await start(dut, False)
    world.merges(0, 2)
    world.frame(0, b"\x01" * 500)
    world.frame(0, b"\x02" * 60)
    for number, size in enumerate((100, 11, 400)):
        world.chain(0, number, [size])
        world.announce(0)
    await cycles(dut, 200)
    assert not world.held[0] and not world.used[0]
    for number in range(10):
        world.chain(2, number, [70])
        world.frame(2, bytes([number]) * 60)
    world.announce(2)
    await world.until(5)
    assert len(world.used_frames[2]) == 5
    world.chain(0, 3, [1])
    world.announce(0)
    await world.until(6)
    assert world.chains_used[0] == [4]
    world.chain(0, 4, [71])
    world.announce(0)
    await cycles(dut, 200)
    assert not world.held[0]
    world.chain(0, 5, [1])
    world.announce(0)
    await world.until(7)
    assert world.used[0][4:] == [(4, 71), (5, 1)]


@cocotb.test
async def the_number_of_chains_wherever_it_lies(dut: Any) -> None:
    """A hostile driver's chains may be shorter than the header, and cut its last field in two."""
    world = await start(dut, True)
    world.merges(0)
    cases = [[[10], [100]], [[11], [100]], [[12], [60]], [[1]] * 72, [[5, 6], [1, 60]],
             [[4, 4, 3, 1], [60]], [[10, 1], [1], [60]], [[3, 7, 2, 30], [40]],
             [[13]] * 6, [[9, 2, 1], [60, 40]], [[72]], [[71], [1, 1, 50]], [[7, 4], [1, 59, 1, 8]]]
    number = 0
    for index, lengths in enumerate(cases):
        for chain in lengths:
            world.chain(0, number, chain)
            number += 1
        world.announce(0)
        world.frame(0, bytes([index + 1]) * 60)
        await world.until(index + 1)
    assert world.chains_used[0] == [len(lengths) for lengths in cases]


@cocotb.test
@cocotb.parametrize(chains=[5, 7])
async def groups_end_while_nothing_is_used(dut: Any, chains: int) -> None:
    """The used ring may wait for others' writes, and those for the end of the group at hand."""
    world = await start(dut, False)
    world.merges(0)
    begun: list[int] = []
    StreamMonitor(dut, "write_segments", WriteSegmentLayout(),
                  lambda segment: begun.append(segment["last"]))
    world.used_ring.pace = never()
    frames = 600 // chains
    for number in range(frames * chains):
        world.chain(0, number, [72 // chains + 1])
    for number in range(frames):
        world.frame(0, bytes([number % 251]) * 60)
    world.announce(0)
    await cycles(dut, 2000)
    seen = -1
    while seen != len(begun):
        seen = len(begun)
        await cycles(dut, 300)
    assert not world.used[0]
    assert 60 < len(begun) < frames * chains, "the flood came to a stand"
    assert begun[-1], "amid a group"
    world.used_ring.pace = always()
    await world.until(frames, 20_000)
    assert world.chains_used[0] == [chains] * frames


@cocotb.test
@cocotb.parametrize(stalls=[False, True], bounds=[True, False])
async def as_many_chains_as_a_queue_has(dut: Any, stalls: bool, bounds: bool) -> None:
    """Every chain of the ring for one frame, and the entries of its chains wait for its end."""
    world = await start(dut, stalls)
    world.bounds = bounds
    world.merges(2)
    frame = random.Random(5).randbytes(2 * 128 - 12)
    for lap in range(2):
        for number in range(128):
            world.chain(2, number, [1, 1] if number % 3 else [2])
        world.frame(2, frame)
        world.announce(2)
        world.frame(0, bytes(60))
        world.chain(0, lap, [72])
        world.announce(0)
        await world.until(2 * lap + 2)
    assert world.used_frames[2] == [frame] * 2
    assert world.chains_used[2] == [128, 128]


@cocotb.test
async def a_stop_amid_a_frame_of_several_chains(dut: Any) -> None:
    """A frame that has a chain is finished; those behind it are dropped; no chain is held."""
    world = await start(dut, False)
    world.bounds = False
    world.merges(4)
    for number in range(6):
        world.chain(4, number, [100])
    world.announce(4)
    for number in range(3):
        world.frame(4, bytes([number]) * 280)
    for _ in range(1000):
        if world.held[4]:
            break
        await RisingEdge(dut.clk)
    assert world.held[4] == 1
    world.configs.table[4]["running"] = 0
    # The lifecycle's order: the command comes when nothing of the queue is in flight.
    for _ in range(1000):
        if not world.held[4]:
            break
        await RisingEdge(dut.clk)
    assert world.used_frames[4] == [bytes(280)]
    world.chains[4].clear()
    world.announced[4].clear()
    world.commands.send({"queue": 4, "reset": 0})
    await world.until(3)
    assert world.drops[4] == [DOWN] * 2
    # The chains that were announced before are void, their bytes as well.
    world.configs.table[4]["running"] = 1
    world.frame(4, b"\x05" * 280)
    world.chain(4, 8, [100])
    world.announce(4)
    await cycles(dut, 200)
    assert not world.held[4]
    world.chain(4, 9, [192])
    world.announce(4)
    await world.until(4)
    assert world.used[4][3:] == [(8, 100), (9, 192)]


@cocotb.test
@cocotb.parametrize(chain=[64, 256, 1536])
async def long_frames_at_full_rate(dut: Any, chain: int) -> None:
    """The chains of a frame follow each other closely."""
    world = await start(dut, False)
    world.merges(0)
    size, count = 1514, 12
    needed = -(-(size + 12) // chain)
    for number in range(count * needed):
        world.chain(0, number, [chain])
    for _ in range(count):
        world.frame(0, bytes(size))
    world.announce(0)
    began = cocotb.utils.get_sim_time("ns")
    await world.until(count)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4 - 20
    dut._log.info("%d chains a frame: %.1f cycles a frame", needed, taken / count)
    assert taken / count <= max(2.5 * needed + 30, 1.1 * -(-(size + 12) // LANES) + 12)


@cocotb.test
async def one_long_frame_among_short_ones(dut: Any) -> None:
    """While it waits all are looked at one by one; soon after it has gone no longer."""
    world = await start(dut, False)
    world.merges(0)
    for number in range(110):
        world.chain(0, number, [200])
    world.announce(0)
    world.frame(0, bytes(60))
    world.frame(0, bytes(500))
    for _ in range(30):
        world.frame(0, bytes(60))
    await world.until(32)
    began = cocotb.utils.get_sim_time("ns")
    for _ in range(60):
        world.frame(0, bytes(60))
    await world.until(92)
    taken = (cocotb.utils.get_sim_time("ns") - began) / 4 - 20
    assert world.chains_used[0] == [1, 3, *[1] * 90]
    dut._log.info("%.2f cycles a frame", taken / 60)
    assert taken / 60 <= (4.5 if LANES >= 32 else 6.5 + 72 // LANES)
