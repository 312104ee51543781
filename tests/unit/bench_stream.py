"""Registers, queues, arbiters, demultiplexers, work lists and the forwarding memory."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import cocotb
from amaranth.lib import data
from cocotb.triggers import RisingEdge

from tb.stream import StreamSink, StreamSource, always, bursty, cycles, pace, reset

WORD = data.StructLayout({"a": 9, "b": 8})
WIDE = data.StructLayout({"a": 9, "b": 70})
MERGED = data.StructLayout({"input": 4, "number": 12, "last": 1})
DEMULTIPLEXED = data.StructLayout({"target": 2, "number": 12, "last": 1})

ONE_TO_ONE = ["register", "pipe", "skid", "queue2", "queue3", "queue16", "queue65", "queue100",
              "wide100", "passing2", "passing16", "passing100"]


def shape(name: str) -> data.StructLayout:
    return WIDE if name.startswith("wide") else WORD


@cocotb.test
@cocotb.parametrize(name=ONE_TO_ONE, source_stalls=[False, True], sink_stalls=[False, True])
async def in_order(dut: Any, name: str, source_stalls: bool, sink_stalls: bool) -> None:
    """Every transfer leaves once, in order; the level is what is inside."""
    source = StreamSource(dut, f"{name}__i", shape(name), pace(source_stalls, 1))
    sink = StreamSink(dut, f"{name}__o", shape(name), pace(sink_stalls, 2))
    await reset(dut)
    sent = [{"a": k, "b": 255 - k % 256} for k in range(300)]
    for payload in sent:
        source.send(payload)
    for payload in sent:
        assert await sink.get(200) == payload
    await cycles(dut, 3)
    assert sink.empty()
    if name.startswith(("queue", "wide", "passing")):
        assert int(getattr(dut, f"{name}__level").value) == 0


@cocotb.test
@cocotb.parametrize(name=ONE_TO_ONE)
async def full_rate(dut: Any, name: str) -> None:
    """One transfer a cycle, after at most two of latency."""
    source = StreamSource(dut, f"{name}__i", shape(name), always())
    sink = StreamSink(dut, f"{name}__o", shape(name), always())
    await reset(dut)
    await cycles(dut, 3)
    for k in range(200):
        source.send({"a": k})
    await cycles(dut, 200 + 4)
    assert sink.transfers == 200


@cocotb.test
@cocotb.parametrize(name=ONE_TO_ONE)
async def latency(dut: Any, name: str) -> None:
    """As the docstrings say, and valid does not wait for ready."""
    expected = 0 if name.startswith(("skid", "passing")) else 2 if name == "wide100" else 1
    source = StreamSource(dut, f"{name}__i", shape(name), always())
    getattr(dut, f"{name}__o__ready").value = 0
    valid = getattr(dut, f"{name}__o__valid")
    await reset(dut)
    await cycles(dut, 2)
    source.send({"a": 5})
    found = []
    for _ in range(4):
        await RisingEdge(dut.clk)
        found.append(int(valid.value))
    assert found.index(1) == expected


@cocotb.test
@cocotb.parametrize(name=["queue2", "queue3", "queue16", "queue65", "queue100", "wide100",
                          "passing2", "passing16", "passing100"])
async def depth_is_exact(dut: Any, name: str) -> None:
    """A queue takes as many as it says, and level counts them."""
    depth = int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
    source = StreamSource(dut, f"{name}__i", shape(name), always())
    sink = StreamSink(dut, f"{name}__o", shape(name), iter(lambda: False, None))
    await reset(dut)
    for k in range(depth + 5):
        source.send({"a": k})
    await cycles(dut, depth + 10)
    assert int(getattr(dut, f"{name}__level").value) == depth
    assert not int(getattr(dut, f"{name}__i__ready").value)
    sink.pace = always()
    await cycles(dut, depth + 5 + 2)  # one a cycle, from full to empty
    assert sink.transfers == depth + 5
    for k in range(depth + 5):
        assert (await sink.get(1))["a"] == k


def alternating() -> Iterator[bool]:
    while True:
        yield True
        yield False


@cocotb.test
@cocotb.parametrize(name=["merge1", "merge3", "pass1", "pass3", "packets2", "packets5"],
                    source_stalls=[False, True], sink_stalls=[False, True])
async def merged(dut: Any, name: str, source_stalls: bool, sink_stalls: bool) -> None:
    """Every input keeps its order, packets stay whole, and the source is named."""
    inputs = int(name[-1])
    packets = name.startswith("packets")
    sources = [StreamSource(dut, f"{name}__i__{k}", MERGED, pace(source_stalls, 10 + k))
               for k in range(inputs)]
    named: list[int] = []
    got: list[dict[str, int]] = []

    def leaves(payload: dict[str, int]) -> None:
        named.append(int(getattr(dut, f"{name}__source").value))
        got.append(payload)

    sink = StreamSink(dut, f"{name}__o", MERGED, pace(sink_stalls, 2), tell=leaves)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    sent: list[list[dict[str, int]]] = [[] for _ in range(inputs)]
    for k, source in enumerate(sources):
        while len(sent[k]) < 100:
            size = rng.choice([1, 1, 2, 5])
            for number in range(size):
                sent[k].append({"input": k, "number": len(sent[k]), "last": number == size - 1})
        for payload in sent[k]:
            source.send(payload)
    total = sum(map(len, sent))
    for _ in range(8 * total):
        if len(got) == total:
            break
        await RisingEdge(dut.clk)
    assert len(got) == total
    assert sink.transfers == total
    inside = None
    for payload, source_number in zip(got, named, strict=True):
        assert payload == sent[payload["input"]].pop(0)
        assert source_number == payload["input"]
        if packets:
            assert inside in (None, payload["input"]), "a packet was torn"
            inside = None if payload["last"] else payload["input"]


@cocotb.test
@cocotb.parametrize(name=["merge3", "pass3", "packets2", "packets5"])
async def fair_and_without_gap(dut: Any, name: str) -> None:
    """All inputs busy: each has its turn, and something leaves every cycle."""
    inputs = int(name[-1])
    sources = [StreamSource(dut, f"{name}__i__{k}", MERGED, always()) for k in range(inputs)]
    order: list[int] = []
    StreamSink(dut, f"{name}__o", MERGED, always(),
               tell=lambda payload: order.append(payload["input"]))
    await reset(dut)
    await cycles(dut, 3)
    size = 3 if name.startswith("packets") else 1
    for k, source in enumerate(sources):
        for number in range(30 * size):
            source.send({"input": k, "number": number, "last": number % size == size - 1})
    await cycles(dut, 30 * size * inputs + 4)
    assert len(order) == 30 * size * inputs
    turns = order[::size]
    for at in range(0, len(turns), inputs):
        assert sorted(turns[at:at + inputs]) == list(range(inputs))


@cocotb.test
async def a_late_input_waits_for_nobody(dut: Any) -> None:
    """An arbiter that served one input has no cycle lost for another one."""
    sources = [StreamSource(dut, f"packets2__i__{k}", MERGED, always()) for k in range(2)]
    sink = StreamSink(dut, "packets2__o", MERGED, always())
    await reset(dut)
    await cycles(dut, 2)
    for number in range(10):
        sources[number % 2].send({"input": number % 2, "number": number, "last": 1})
        await cycles(dut, 1)
    await cycles(dut, 2)
    assert sink.transfers == 10


@cocotb.test
@cocotb.parametrize(name=["deal1", "deal3", "deal_packets3"],
                    source_stalls=[False, True], sink_stalls=[False, True])
async def dealt(dut: Any, name: str, source_stalls: bool, sink_stalls: bool) -> None:
    """Each output has what is meant for it, in order; what is for nobody is gone."""
    outputs = int(name[-1])
    packets = "packets" in name
    select = getattr(dut, f"{name}__select")
    select.value = 0
    valid = getattr(dut, f"{name}__i__valid")
    valid.value = 0
    payload_port = getattr(dut, f"{name}__i__payload")
    ready = getattr(dut, f"{name}__i__ready")
    sinks = [StreamSink(dut, f"{name}__o__{k}", DEMULTIPLEXED, pace(sink_stalls, 20 + k))
             for k in range(outputs)]
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    expected: list[list[int]] = [[] for _ in range(outputs)]
    go = pace(source_stalls, 3)
    target, inside = 0, False
    for number in range(300):
        if not (packets and inside):
            target = rng.randrange(4 if outputs == 3 else 1)
        last = rng.random() < 0.4
        while not next(go):
            await RisingEdge(dut.clk)
        valid.value = 1
        payload_port.value = target | number << 2 | last << 14
        select.value = rng.randrange(4) if packets and inside else target
        await RisingEdge(dut.clk)
        while not int(ready.value):
            await RisingEdge(dut.clk)
        valid.value = 0
        inside = not last
        if target < outputs:
            expected[target].append(number)
    await cycles(dut, 40)
    for k, sink in enumerate(sinks):
        found = []
        while not sink.empty():
            payload = sink.received.get_nowait()
            assert payload["target"] == k
            found.append(payload["number"])
        assert found == expected[k]


@cocotb.test
@cocotb.parametrize(count=[2, 5, 100], add_stalls=[False, True], take_stalls=[False, True])
async def no_wake_up_is_lost(dut: Any, count: int, add_stalls: bool, take_stalls: bool) -> None:
    """First in, first out, each at most once, against a model that sees the same transfers."""
    name = f"work{count}"
    listed: deque[int] = deque()
    pending: list[int] = []
    adds = StreamSource(dut, f"{name}__add", range(count), pace(add_stalls, 1))
    add_port = (getattr(dut, f"{name}__add__valid"), getattr(dut, f"{name}__add__ready"),
                getattr(dut, f"{name}__add__payload"))

    def taken(member: int) -> None:
        assert listed, f"{member} was taken and had not been added"
        assert member == listed.popleft()

    sink = StreamSink(dut, f"{name}__take", range(count), pace(take_stalls, 2), tell=taken)

    async def watch_adds() -> None:
        edge = RisingEdge(dut.clk)
        refused = 0
        while True:
            await edge
            if dut.rst.value:
                continue
            valid, ready = bool(add_port[0].value), bool(add_port[1].value)
            refused = refused + 1 if valid and not ready else 0
            assert refused < count + 3, "an add waits too long"
            if started and valid:
                assert refused < 2, "an add is refused twice"
            if valid and ready:
                member = int(add_port[2].value)
                if member not in listed:
                    listed.append(member)

    started: list[int] = []
    cocotb.start_soon(watch_adds())
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    members = [rng.randrange(count) for _ in range(600)]
    for member in members[:3]:
        adds.send(member)
    await adds.drain(200)
    started.append(1)
    for member in members[3:]:
        adds.send(member)
    await adds.drain(5000)
    sink.pace = always()
    await cycles(dut, 2 * count + 10)
    assert not listed, f"never taken: {listed}"
    assert not pending


@cocotb.test
async def an_add_that_meets_its_take(dut: Any) -> None:
    """The same member added at every distance from its take is taken again, or was not yet gone."""
    adds = StreamSource(dut, "work5__add", range(5), always())
    sink = StreamSink(dut, "work5__take", range(5), always())
    await reset(dut)
    await cycles(dut, 10)
    for distance in range(8):
        adds.send(3)
        await cycles(dut, distance + 1)
        looked = sink.transfers
        adds.send(3)
        await adds.drain(20)
        await cycles(dut, 10)
        assert sink.transfers > looked, f"lost at distance {distance}"
        while not sink.empty():
            assert sink.received.get_nowait() == 3


@cocotb.test
@cocotb.parametrize(name=["memory", "memory1", "parts"])
async def forwarded(dut: Any, name: str) -> None:
    """Read data are what all writes before this cycle left, also while they are held."""
    depth = 1 if name == "memory1" else 5
    bits, parts = (32, 4) if name == "parts" else (17, 1)
    ports = {port: getattr(dut, f"{name}__{port}") for port in (
        "read_enable", "read_address", "read_data", "write_enable", "write_address", "write_data")}
    for port, handle in ports.items():
        if port != "read_data":
            handle.value = 0
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    edge = RisingEdge(dut.clk)
    for address in range(depth):
        ports["write_enable"].value = (1 << parts) - 1
        ports["write_address"].value = address
        ports["write_data"].value = address
        await edge
    contents = list(range(depth))
    ports["read_enable"].value = 1
    ports["write_enable"].value = 0
    ports["read_address"].value = 0
    await edge
    held = 0
    ports["read_enable"].value = 0
    for _ in range(2000):
        read, address = rng.random() < 0.5, rng.randrange(depth)
        write = rng.randrange(1 << parts) if rng.random() < 0.6 else 0
        target, value = rng.randrange(depth), rng.getrandbits(bits)
        ports["read_enable"].value = read
        ports["read_address"].value = address
        ports["write_enable"].value = write
        ports["write_address"].value = target
        ports["write_data"].value = value
        await edge
        assert int(ports["read_data"].value) == contents[held]
        for part in range(parts):
            if write >> part & 1:
                mask = ((1 << bits // parts) - 1) << part * (bits // parts)
                contents[target] = contents[target] & ~mask | value & mask
        if read:
            held = address


@cocotb.test
async def second_reset(dut: Any) -> None:
    """A reset in the middle empties everything, the work list's memory too."""
    adds = StreamSource(dut, "work5__add", range(5), always())
    stopped = StreamSink(dut, "work5__take", range(5), iter(lambda: False, None))
    queued = StreamSource(dut, "queue100__i", WORD, bursty(3))
    dut.queue100__o__ready.value = 0
    await reset(dut)
    for member in (1, 2, 3):
        adds.send(member)
        queued.send({"a": member})
    await adds.drain(100)
    await queued.drain(100)
    dut.rst.value = 1
    await cycles(dut, 2)
    dut.rst.value = 0
    await cycles(dut, 10)
    assert not int(dut.work5__take__valid.value)
    assert int(dut.queue100__level.value) == 0
    stopped.pace = always()
    adds.send(2)
    assert await stopped.get(20) == 2
