"""The host and the wire on a mirror: what they send comes back to them, as if the card sent it."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import cocotb
import dpkt

from hw.pcie.types import CompletionStatus, RequestKind
from sw_driver.port import HostPort
from tb.host_port import CocotbPort
from tb.pcie_host import PcieHost
from tb.root_complex import RootComplexOptions
from tb.scoreboard import Scoreboard
from tb.stream import bursty
from tb.ticker import Ticker
from tb.tlp import Request, byte_enables
from tb.wire import LINE_100G, OVERHEAD, Wire, WireFrame

CARD = 0x0100
LANES = int(os.environ["RINGLET_LANES"])


def master(host: PcieHost) -> None:
    """Let the mirror be a bus master with extended tags, MPS 256, MRRS 512."""
    card = host.root.function(CARD)
    card.note_read(0x34, 0xF, 0x40)
    card.note_read(0x40, 0xF, 0x0010)
    card.note_written(0x48, 0xF, 0x2120, 0)
    card.note_sent(4, 3, 6)


@cocotb.test
@cocotb.parametrize(stalls=[False, True], credits_=[None, 16])
async def memory_through_the_mirror(dut: Any, stalls: bool, credits_: int | None) -> None:
    """Writes and reads of every size come back exactly, in spite of stalls and reordering."""
    rng = random.Random(5)
    ticker = Ticker(dut)
    paces: dict[str, Any] = {f"{name}_pace": bursty(seed, 0.2)
                             for seed, name in enumerate(("rq", "rc", "cq"))}
    host = PcieHost(dut, ticker, options=RootComplexOptions(
        latency_cycles=40, jitter_cycles=60, splitting="random", boundary_bytes=128,
        credits=credits_, credit_cycles=1), **(paces if stalls else {}))
    master(host)
    region = host.root.memory.allocate(1 << 16, align=4096)
    image = bytearray(1 << 16)
    await ticker.start()
    reads = []
    for _ in range(60):
        size = rng.choice([1, 3, 4, LANES - 1, LANES, LANES + 1, 2 * LANES, 200, 253])
        start = rng.randrange(16) * 4096 + rng.randrange(4096 - size + 1)
        size = min(size, 256 - (start & 3))
        data = rng.randbytes(size)
        image[start:start + size] = data
        lead = (region.address + start) & 3
        host.root.access.issue(Request(
            RequestKind.MEM_WRITE, (region.address + start) & ~3,
            *byte_enables(region.address + start, size), requester_id=CARD,
            payload=bytes(lead) + data + bytes(-(lead + size) & 3)))
        dwords = rng.randrange(1, 65)
        at = rng.randrange(16) * 4096 + 4 * rng.randrange(1024 - dwords)
        # The mirror sends it on with the tag that the host gave it.
        access = host.root.access.issue(Request(
            RequestKind.MEM_READ, region.address + at, dwords, 0xF, 0xF if dwords > 1 else 0,
            requester_id=CARD))
        # Posted writes come before it and after it: what it sees is what is there when it comes,
        # or later. So compare the unchanged rest at the end, and this one at once.
        await host.wait(access)
        assert access.ok
        assert access.data == image[at:at + 4 * dwords]
        reads.append(access)
    # Many at once, out of order.
    accesses = [(at, host.root.access.issue(Request(
        RequestKind.MEM_READ, region.address + at, 16, 0xF, 0xF, requester_id=CARD)))
        for at in range(0, 1 << 14, 256)]
    await host.wait(*(access for _at, access in accesses))
    for at, access in accesses:
        assert access.data == image[at:at + 64]
    assert region.read() == image
    assert host.idle
    host.root.check()
    if credits_ is not None:
        sent = host.root.counts["rq.reads"]
        await ticker.sleep(5)
        assert int(dut.np_credit.value) & 0xFF == (credits_ + sent) & 0xFF
    assert int(dut.np_credit.value) >> 8 == (credits_ is None)


@cocotb.test
async def the_latency_is_exact(dut: Any) -> None:
    """From the edge that takes the request's last beat to the one that takes the first answer."""
    ticker = Ticker(dut)
    host = PcieHost(dut, ticker, options=RootComplexOptions(latency_cycles=100))
    master(host)
    region = host.root.memory.allocate(64)
    taken: list[int] = []
    ticker.add(lambda cycle: taken.append(cycle) if dut.rc__valid.value == 1 else None)
    await ticker.start()
    access = host.root.access.issue(
        Request(RequestKind.MEM_READ, region.address, requester_id=CARD))
    await host.wait(access)
    request, = host.root.records("rq")
    answer, = host.root.records("rc")
    assert answer.cycle - request.cycle == 100
    assert taken == [answer.cycle]


@cocotb.test
async def violations_fail_the_test(dut: Any) -> None:
    """A stray write is noticed; a strict host raises, another one keeps it."""
    ticker = Ticker(dut)
    host = PcieHost(dut, ticker, strict=False)
    master(host)
    await ticker.start()
    host.root.access.issue(Request(RequestKind.MEM_WRITE, 0x1000, requester_id=CARD,
                                   payload=bytes(4)))
    await ticker.sleep(20)
    assert "no driver gave" in host.root.violations[0].text
    host.strict = True
    try:
        host.root.violate("again")
    except AssertionError:
        return
    raise AssertionError("a strict host must raise")


@cocotb.test
async def a_stalled_completion_is_noticed(dut: Any) -> None:
    """When cc stalls for ever, the mirror fills up and refuses completions."""
    ticker = Ticker(dut)
    host = PcieHost(dut, ticker, strict=False, cc_pace=iter(lambda: False, True),
                    options=RootComplexOptions(latency_cycles=1, host_timeout_cycles=100_000))
    master(host)
    region = host.root.memory.allocate(4096, align=4096)
    await ticker.start()
    for _ in range(250):
        host.root.access.issue(Request(RequestKind.MEM_READ, region.address, 8 * LANES // 4, 0xF,
                                       0xF, requester_id=CARD))
    await ticker.sleep(1500)
    assert any("does not accept a completion" in one.text for one in host.root.violations)


@cocotb.test
async def the_port_of_the_driver(dut: Any) -> None:
    """Interrupts, time-outs, configuration of what does not exist."""
    ticker = Ticker(dut)
    host = PcieHost(dut, ticker)
    master(host)
    await ticker.start()
    port: HostPort = CocotbPort(host)
    interrupt, other = port.allocate_interrupt(), port.allocate_interrupt()
    begun = port.now()
    assert not await port.wait_interrupts([(interrupt, 0), (other, 0)], 100)
    assert 99 <= port.now() - begun <= 102
    host.root.access.issue(Request(RequestKind.MEM_WRITE, other.address, requester_id=CARD,
                                   payload=other.data.to_bytes(4, "little")))
    assert await port.wait_interrupts([(interrupt, 0), (other, 0)], 100)
    assert (interrupt.count, other.count) == (0, 1)
    assert await port.wait_interrupts([(other, 0)], 0)
    assert not await port.wait_interrupts([(other, 1)], 10)
    assert await port.config_read(0x0200, 0, 4) == 0xFFFF_FFFF
    assert await port.config_read(0x0108, 0, 2) == 0xFFFF
    assert host.root.counts["cq"] == 1


@cocotb.test
async def an_unanswered_access(dut: Any) -> None:
    """The mirror answers no configuration read: it sends it on, which a card must not."""
    ticker = Ticker(dut)
    host = PcieHost(dut, ticker, strict=False,
                    options=RootComplexOptions(host_timeout_cycles=200, latency_cycles=10_000))
    await ticker.start()
    assert await host.config_read(CARD, 0, 4) == 0xFFFF_FFFF
    texts = " ".join(one.text for one in host.root.violations)
    assert "does not send CONFIG_READ" in texts
    assert "not answered within 200 cycles" in texts


@cocotb.test
@cocotb.parametrize(rate=[None, LINE_100G], stalls=[False, True])
async def frames_around_the_wire(dut: Any, rate: float | None, stalls: bool) -> None:
    """Frames of all sizes come back; the line rate is kept to within a frame."""
    rng = random.Random(7)
    ticker = Ticker(dut)
    rate = rate and rate * LANES / 64
    # The mirror forwards at once: gaps of the source would be gaps inside frames.
    wire = Wire(dut, ticker, rx_rate=rate, tx_pace=bursty(3) if stalls else None)
    board = Scoreboard("mirror")
    wire.on_frame.append(lambda frame: (board.expect if frame.direction == "rx" else board.got)(
        frame.data))
    await ticker.start()
    frames = [rng.randbytes(rng.choice([1, 59, 60, LANES])) for _ in range(40)]
    if rate is None:
        frames += [rng.randbytes(rng.choice([LANES + 1, 2 * LANES, 9 * LANES])) for _ in range(20)]
    for frame in frames:
        wire.send(frame)
        if LANES < 60 and rate is not None and len(frame) > LANES:
            wire._queue.pop()  # it would have gaps
    await wire.drain()
    sent = [frame for frame in wire.frames if frame.direction == "rx"]
    await ticker.until(lambda: board.outstanding == 0, 2000)
    board.finish()
    assert [frame.data for frame in wire.transmitted] == [frame.data for frame in sent]
    if rate is not None:
        line = sum(max(60, len(frame.data)) + OVERHEAD for frame in sent[:-1])
        took = sent[-1].first_cycle - sent[0].first_cycle
        assert abs(took - line / rate) <= 2 * LANES / rate
    elif not stalls:
        beats = sum(-(-len(frame.data) // LANES) for frame in sent)
        assert sent[-1].last_cycle - sent[0].first_cycle == beats - 1
    path = Path("mirror.pcap")
    wire.write_pcap(path)
    with path.open("rb") as file:
        packets = [data for _time, data in dpkt.pcap.Reader(file)]
    assert sorted(packets) == sorted(frame.data for frame in wire.frames)


@cocotb.test
async def the_sink_keeps_the_line_rate(dut: Any) -> None:
    """A MAC takes frames no faster than its line; in short bursts it takes more."""
    ticker = Ticker(dut)
    rate = LANES * 0.5
    wire = Wire(dut, ticker, tx_rate=rate)
    await ticker.start()
    for _ in range(40):
        wire.send(bytes(4 * LANES))
    await wire.drain()
    await ticker.until(lambda: len(wire.transmitted) == 40, 5000)
    took = wire.transmitted[-1].last_cycle - wire.transmitted[0].first_cycle
    line = 39 * (max(60, 4 * LANES) + OVERHEAD) / rate
    assert abs(took - line) < 20


@cocotb.test
async def gaps_inside_a_frame_are_noticed(dut: Any) -> None:
    """The mirror passes gaps on, and the sink must say so."""
    ticker = Ticker(dut)
    wire = Wire(dut, ticker, rx_pace=bursty(9))
    noticed = []
    step = ticker._steps.pop()

    def guarded(cycle: int) -> None:
        try:
            step(cycle)
        except AssertionError as error:
            noticed.append(str(error))

    ticker.add(guarded)
    await ticker.start()
    wire.send(bytes(20 * LANES))
    await ticker.sleep(200)
    assert noticed
    assert set(noticed) == {"wire_tx: a gap inside a frame"}


@cocotb.test
async def bad_frames_are_marked(dut: Any) -> None:
    """The error flag comes with the last beat alone."""
    ticker = Ticker(dut)
    wire = Wire(dut, ticker)
    seen: list[tuple[int, int]] = []
    last_at = len(dut.wire_rx__payload) - 2

    def look(_cycle: int) -> None:
        if dut.wire_rx__valid.value:
            beat = int(dut.wire_rx__payload.value)
            seen.append((beat >> last_at & 1, beat >> last_at + 1))

    ticker.add(look)
    await ticker.start()
    wire.send(bytes(3 * LANES), error=True)
    wire.send(bytes(2 * LANES))
    await wire.drain()
    await ticker.sleep(5)
    assert seen == [(0, 0), (0, 0), (1, 1), (0, 0), (1, 0)]
    assert wire.frames[0].error and not wire.frames[1].error
    assert isinstance(wire.frames[0], WireFrame)
    assert (await wire.receive()).data == bytes(3 * LANES)
    assert CompletionStatus.SUCCESS.value == 0
