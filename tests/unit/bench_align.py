"""The byte aligner: bytes in equal bytes out, wherever they are cut, joined, or put."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.stream.align import CutLayout, HeaderLayout, StrippedHeaderLayout
from hw.stream.types import BeatLayout
from tb.stream import (
    Packet,
    PacketSink,
    PacketSource,
    StreamSink,
    StreamSource,
    always,
    cycles,
    pace,
    reset,
)

LANES = int(os.environ["RINGLET_LANES"])
BEAT = BeatLayout(LANES)
EDGES = [1, LANES - 1, LANES, LANES + 1, 2 * LANES, 5 * LANES + 3]


def sizes(rng: random.Random, total: int) -> list[int]:
    """Sizes of packets or commands, the edges often, that sum to ``total``."""
    found: list[int] = []
    while total:
        size = min(total, rng.choice([*EDGES, rng.randint(1, 3 * LANES), rng.randint(1, 4)]))
        found.append(size)
        total -= size
    return found


def content(rng: random.Random, size: int) -> bytes:
    return rng.randbytes(size)


@cocotb.test
@cocotb.parametrize(source_stalls=[False, True], command_stalls=[False, True],
                    sink_stalls=[False, True], seed=[1, 2])
async def cuts_and_joins(dut: Any, source_stalls: bool, command_stalls: bool, sink_stalls: bool,
                         seed: int) -> None:
    """Packets and commands end where they will: each command gets its bytes, at its lane."""
    source = PacketSource(dut, "cutter__i", BEAT, pace(source_stalls, 1))
    commands = StreamSource(dut, "cutter__commands", CutLayout(LANES), pace(command_stalls, 2))
    sink = PacketSink(dut, "cutter__o", BEAT, pace(sink_stalls, 3))
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED * 10 + seed)
    total = 60 * LANES
    stream = content(rng, total)
    at = 0
    for size in sizes(rng, total):
        source.send(stream[at:at + size])
        at += size
    cuts = [(size, rng.randrange(LANES)) for size in sizes(rng, total)]
    for size, lead in cuts:
        commands.send({"length": size, "lead": lead})
    at = 0
    for number, (size, lead) in enumerate(cuts):
        packet = await sink.get_bytes(3000)
        assert packet[lead:] == stream[at:at + size], f"command {number}: {size} bytes from {at}"
        at += size
    await cycles(dut, 5)
    assert sink.empty()
    assert source.idle
    assert commands.idle


@cocotb.test
async def bytes_wait_for_commands(dut: Any) -> None:
    """Nothing leaves without a command; commands that come one by one find the bytes in place."""
    source = PacketSource(dut, "cutter__i", BEAT, always())
    commands = StreamSource(dut, "cutter__commands", CutLayout(LANES), always())
    sink = PacketSink(dut, "cutter__o", BEAT, always())
    await reset(dut)
    data = bytes(k % 251 for k in range(4 * LANES))
    source.send(data[:LANES + 3])
    source.send(data[LANES + 3:])
    await cycles(dut, 10)
    assert sink.empty()
    for number, lead in enumerate(range(LANES)):
        commands.send({"length": 3, "lead": lead})
        assert (await sink.get_bytes(20))[lead:] == data[3 * number:3 * number + 3]


@cocotb.test
@cocotb.parametrize(offset=[0, 1, LANES - 1], lead=[0, 1, LANES - 1])
async def one_beat_a_cycle(dut: Any, offset: int, lead: int) -> None:
    """One long packet, cut at any offset into packets of some beats: no cycle is lost."""
    source = PacketSource(dut, "cutter__i", BEAT, always())
    commands = StreamSource(dut, "cutter__commands", CutLayout(LANES), always())
    sink = PacketSink(dut, "cutter__o", BEAT, always())
    await reset(dut)
    await cycles(dut, 3)
    count, beats = 20, 4
    if offset:
        commands.send({"length": offset, "lead": 0})
    length = beats * LANES - lead
    for _ in range(count):
        commands.send({"length": length, "lead": lead})
    source.send(bytes(offset + count * length))
    needed = count * beats + bool(offset)
    edge = RisingEdge(dut.clk)
    waited = 0
    while sink.transfers < needed:
        await edge
        waited += 1
        assert waited <= needed + 6
    assert waited <= needed + 4  # 1 for the command, 2 of latency, 1 to notice


@cocotb.test
@cocotb.parametrize(most=[12, 20], header_stalls=[False, True], source_stalls=[False, True],
                    sink_stalls=[False, True])
async def headers_inserted(dut: Any, most: int, header_stalls: bool, source_stalls: bool,
                           sink_stalls: bool) -> None:
    """Header and packet leave as one, whatever their lengths."""
    name = f"insert{most}"
    headers = StreamSource(dut, f"{name}__headers", HeaderLayout(most), pace(header_stalls, 1))
    source = PacketSource(dut, f"{name}__i", BEAT, pace(source_stalls, 2))
    sink = PacketSink(dut, f"{name}__o", BEAT, pace(sink_stalls, 3))
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    expected = []
    for number in range(120):
        size = EDGES[number] if number < len(EDGES) else rng.choice(
            [*EDGES, rng.randint(1, 3 * LANES)])
        header, packet = content(rng, rng.randint(0, most)), content(rng, size)
        headers.send({"data": int.from_bytes(header, "little"), "bytes": len(header)})
        source.send(packet)
        expected.append(header + packet)
    for number, packet in enumerate(expected):
        assert await sink.get_bytes(1000) == packet, f"packet {number}"
    await cycles(dut, 3)
    assert sink.empty()


@cocotb.test
@cocotb.parametrize(most=[12, 20], size=[1, LANES - 12 if LANES > 12 else 1, LANES, 3 * LANES + 1])
async def headers_inserted_at_full_rate(dut: Any, most: int, size: int) -> None:
    """A beat leaves every cycle, from packet to packet."""
    name = f"insert{most}"
    headers = StreamSource(dut, f"{name}__headers", HeaderLayout(most), always())
    source = PacketSource(dut, f"{name}__i", BEAT, always())
    sink = PacketSink(dut, f"{name}__o", BEAT, always())
    await reset(dut)
    await cycles(dut, 3)
    for _ in range(40):
        headers.send({"data": 7, "bytes": 12})
        source.send(bytes(size))
    beats = 40 * -(-(size + 12) // LANES)
    await cycles(dut, beats + 3)
    assert sink.transfers == beats


def strip_names() -> dict[str, int]:
    return {"strip12": 12, "strip3": 3, "strip_beat": LANES}


@cocotb.test
@cocotb.parametrize(name=list(strip_names()), source_stalls=[False, True],
                    header_stalls=[False, True], sink_stalls=[False, True])
async def headers_stripped(dut: Any, name: str, source_stalls: bool, header_stalls: bool,
                           sink_stalls: bool) -> None:
    """Header and body part, whatever the packet's length; no body leaves before its header."""
    length = strip_names()[name]
    source = PacketSource(dut, f"{name}__i", BEAT, pace(source_stalls, 1))
    told: list[tuple[bytes, bool]] = []
    bodies: list[bytes] = []
    promised = 0

    def header(payload: dict[str, int]) -> None:
        nonlocal promised
        promised += payload["body"]
        told.append((payload["data"].to_bytes(length, "little")[:payload["bytes"]],
                     bool(payload["body"])))

    def body(packet: Packet) -> None:
        bodies.append(packet.data)

    StreamSink(dut, f"{name}__headers", StrippedHeaderLayout(length), pace(header_stalls, 2),
               tell=header)
    sink = PacketSink(dut, f"{name}__o", BEAT, pace(sink_stalls, 3), tell=body)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    packets = []
    for number in range(150):
        near = [length - 1, length, length + 1]
        size = max(1, (EDGES + near)[number] if number < len(EDGES) + 3 else rng.choice(
            [*EDGES, *near, rng.randint(1, 3 * LANES)]))
        packets.append(content(rng, size))
        source.send(packets[-1])
    await source.drain(6000)
    await cycles(dut, 40)
    assert told == [(packet[:length], len(packet) > length) for packet in packets]
    assert bodies == [packet[length:] for packet in packets if len(packet) > length]
    assert not sink.inside


@cocotb.test
@cocotb.parametrize(name=list(strip_names()), size=[LANES, 2 * LANES, 3 * LANES + 1])
async def headers_stripped_at_full_rate(dut: Any, name: str, size: int) -> None:
    """A beat is taken every cycle, from packet to packet."""
    length = strip_names()[name]
    source = PacketSource(dut, f"{name}__i", BEAT, always())
    sink = PacketSink(dut, f"{name}__o", BEAT, always())
    StreamSink(dut, f"{name}__headers", StrippedHeaderLayout(length), always())
    await reset(dut)
    await cycles(dut, 3)
    for _ in range(30):
        source.send(bytes(size))
    beats = 30 * -(-size // LANES)
    leaves = 30 * -(-max(0, size - length) // LANES)
    await cycles(dut, max(beats, leaves) + 4)
    assert source.idle
    assert sink.transfers == leaves

