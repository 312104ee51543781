"""Prefetch: a spoilt ring or a failed read stops its queue alone."""

from __future__ import annotations

from typing import Any

import cocotb

from hw.virtio.types import FaultReason
from tb.stream import cycles
from tests.unit.prefetch_faults import Fault, fault_cases
from tests.unit.prefetch_traffic import KINDS, MAX_BYTES, Queue, feed, lengths, number, world
from tests.unit.prefetch_world import World


@cocotb.test
@cocotb.parametrize(kind=range(len(KINDS)))
async def each_fault_stops_its_queue_alone(dut: Any, kind: int) -> None:
    """One record with the right reason, no more reads; a reset heals; nobody else notices."""
    modes = KINDS[kind]
    w = world(dut, True, 9, modes=((*modes, "event_idx", "data"), (), (*modes, "data")),
              latency=(10, 80))
    victim, other = await w.begin({number(0): 16, number(2): 32})
    for turn, (name, fault) in enumerate(fault_cases(victim, max_bytes=MAX_BYTES).items()):
        feeder = cocotb.start_soon(feed(w, other, 12, seed=turn, longest=3, pause=20))
        await one_fault(w, victim, name, fault, 0 if fault.alone else turn % 3 + 1)
        await feeder
    await w.settle()


async def one_fault(w: World, victim: Queue, name: str, fault: Fault, before: int) -> None:
    """Spoil a queue, with good chains before and behind; and heal it by a reset."""
    for _ in range(before):
        victim.add(lengths(w.rng, 2), w.rng)
    w.consume = not fault.known
    w.kick(victim)
    if fault.known:
        await w.until(lambda: w.credit[victim.number] == len(victim.posted))
    fault.spoil(w.rng)
    behind = 0 if fault.last else 2
    for _ in range(behind):
        victim.add(lengths(w.rng, 1), w.rng)
    w.kick(victim, always=True)
    await w.until(lambda: any(told["queue"] == victim.number for told in w.faults), why=name)
    w.consume = True
    await w.until(lambda: w.count[victim.number] == 0, why=f"end of work after {name}")
    reads = sum(read["queue"] == victim.number for read in w.reads)
    w.kick(victim, always=True)
    await cycles(w.dut, 150)
    assert reads == sum(read["queue"] == victim.number for read in w.reads), name
    assert [(told["queue"], told["reason"]) for told in w.faults] == [
        (victim.number, fault.reason.value)], name
    # What came before it in the ring could be taken, nothing behind it.
    assert not w.credit[victim.number]
    assert len(victim.posted) >= behind, name
    w.faults.clear()
    await w.stop(victim, reset=True)
    await w.until(lambda: not victim.taken)
    victim.restart()
    w.start(victim)
    victim.add(lengths(w.rng, 3), w.rng)
    w.kick(victim, always=True)
    await w.until(lambda: not victim.posted and not victim.taken, why=f"life after {name}")


@cocotb.test
@cocotb.parametrize(kind=[0, 1, 2, 3])
async def failed_reads(dut: Any, kind: int) -> None:
    """A read that fails is a fault with its reason: index, ring entry, descriptor or next."""
    w = world(dut, True, 11 + kind, modes=((), ("event_idx", "data")))  # the first reads all kinds
    victim, other = await w.begin({number(0): 16, number(1): 16})
    error = kind % 3 + 1

    def fails(request: dict[str, int]) -> int:
        if request["queue"] != victim.number:
            return 0
        return error if request["context"] & 3 == kind else 0

    w.read_error = fails
    for queue in (victim, other):
        for count in (2, 5):
            # Against the order of the table: each is read by itself.
            queue.add(lengths(w.rng, count), w.rng)
        w.kick(queue)
    await w.until(lambda: bool(w.faults), why="fault")
    await w.until(lambda: not other.posted and not any(w.count.values()), why="the other")
    assert [(fault["queue"], fault["reason"]) for fault in w.faults] == [
        (victim.number, FaultReason.READ_FAILED.value + error - 1)]
    w.faults.clear()
    w.read_error = lambda _request: 0
    await w.stop(victim, reset=True)
    victim.restart()
    w.start(victim)
    victim.add(lengths(w.rng, 3), w.rng)
    w.kick(victim, always=True)
    await w.settle()


@cocotb.test
@cocotb.parametrize(kind=range(1, len(KINDS)), table=[False, True])
async def failed_reads_of_descriptors(dut: Any, kind: int, table: bool) -> None:
    """The same for a packed ring, and for tables: the queue alone stops, after what came before."""
    if table > ("indirect" in KINDS[kind]):
        return
    w = world(dut, True, 31 + kind, modes=(KINDS[kind],))
    victim, other = await w.begin({number(0): 16, number(1): 16})
    error = kind % 3 + 1
    for queue in (victim, other):
        queue.add(lengths(w.rng, 2), w.rng)
        w.kick(queue)
    await w.until(w.drained, why="the first")

    def fails(request: dict[str, int]) -> int:
        in_ring = victim.holds(request["address"], request["length"])
        return error if request["queue"] == victim.number and in_ring != table else 0

    w.read_error = fails
    for queue in (victim, other):
        for count in (2, 5):
            queue.add(lengths(w.rng, count), w.rng, table=table)
        w.kick(queue)
    await w.until(lambda: bool(w.faults), why="fault")
    await w.until(lambda: not other.posted and not any(w.count.values()), why="the other")
    assert [(fault["queue"], fault["reason"]) for fault in w.faults] == [
        (victim.number, FaultReason.READ_FAILED.value + error - 1)]
    assert len(victim.posted) == 2
    w.faults.clear()
    w.read_error = lambda _request: 0
    await w.stop(victim, reset=True)
    victim.restart()
    w.start(victim)
    victim.add(lengths(w.rng, 3), w.rng, table=table)
    w.kick(victim, always=True)
    await w.settle()


@cocotb.test
@cocotb.parametrize(kind=range(1, len(KINDS)))
async def a_failed_look_spoils_no_chain(dut: Any, kind: int) -> None:
    """What comes with the error is not kept: its place is still that of a chain of the last lap."""
    w = world(dut, True, 51 + kind, modes=(KINDS[kind],))
    victim, other = await w.begin({number(0): 16, number(1): 16})
    looked = 0
    for _ in range(3):
        w.consume = False
        while victim.room >= 2:
            victim.add(lengths(w.rng, 2), w.rng)
        w.kick(victim, always=True)
        await w.until(lambda: w.credit[victim.number] == len(victim.posted), why="announced")
        w.read_error = lambda request: int(request["queue"] == victim.number)
        w.kick(victim, always=True)
        other.add(lengths(w.rng, 3), w.rng)
        w.kick(other)
        await cycles(dut, 400)
        failed = bool(w.faults)
        w.consume = True
        w.read_error = lambda _request: 0
        await w.until(lambda: not other.posted and not any(w.count.values())
                      and not w.credit[victim.number], why="what came before the fault")
        looked += failed
        assert not victim.posted
        w.faults.clear()
        await w.stop(victim, reset=True)
        await w.until(lambda: not victim.taken)
        victim.restart()
        w.start(victim)
        victim.add(lengths(w.rng, 3), w.rng)
        w.kick(victim, always=True)
        await w.settle()
    if "packed" in KINDS[kind]:
        assert looked == 3
