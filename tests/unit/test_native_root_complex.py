"""The native engine's root complex does what the bench's one does, request by request."""

from __future__ import annotations

import random

import pytest

from hw.pcie.types import CompletionStatus, RequestKind
from sim.native.engine import Engine, EngineOptions
from tb.completer import FaultKind
from tb.tlp import Completion, Request, byte_enables
from tests.unit.root_complex_pair import BDF, OPTIONS, REGION, Bench, Pair, contents, read, write


@pytest.mark.parametrize("splitting", ["large", "small"])
@pytest.mark.parametrize("boundary", [64, 128])
def test_reads_and_writes(splitting: str, boundary: int, seed: int) -> None:
    pair = Pair(splitting=splitting, boundary_bytes=boundary)
    pair.start(device_control=0x5110)
    rng = random.Random(seed)
    for turn in range(300):
        number = rng.randrange(4)
        size = rng.choice((1, 2, 3, 4, 8, 16, 63, 64, 65, 255, 256, 512))
        offset = rng.randrange(REGION - size)
        if offset % 4096 + size > 4092:
            offset -= offset % 4096
        address = pair.bases[number] + offset
        if rng.random() < 0.5:
            pair.request(read(address, size, turn % 256))
        else:
            pair.request(write(address, rng.randbytes(min(size, 250))))
        pair.run(rng.choice((0, 1, 1, 3)))
    pair.run(600)
    pair.check()


def test_requests_that_no_card_may_make(seed: int) -> None:
    pair = Pair()
    pair.start()
    rng = random.Random(seed)
    base = pair.bases[0]
    good = base + 0x100
    for request in (
            read(base + 4090, 12, 1), read(good, 513, 2), write(good, bytes(257)),
            read(good, 16, 300), read(0x5000, 4, 3), write(0x7000, b"stray"),
            Request(RequestKind.MEM_READ, good, 2, 0xF, 0, BDF, tag=4),
            Request(RequestKind.MEM_READ, good, 1, 0xF, 1, BDF, tag=5),
            Request(RequestKind.MEM_READ, good, 3, 0x6, 0xF, BDF, tag=6),
            Request(RequestKind.MEM_READ, good, 1, 0, 0, BDF, tag=7),
            Request(RequestKind.MEM_WRITE, good, 2, 0x5, 0xA, BDF, payload=bytes(range(8))),
            Request(RequestKind.MEM_WRITE, good, 1, 0xD, 0, BDF, payload=b"abcd"),
            Request(RequestKind.CONFIG_READ, 4, requester_id=BDF, tag=8),
            read(good, 4, 9, traffic_class=3, attributes=2), read(good, 4, 10, poisoned=1),
            Request(RequestKind.MEM_READ, good, 1, 0xF, 0, 0x0208, tag=11),
            write(0xFEE0_0000, b"xyzw"), write(0xFEE0_0000, b"xy"),
            write(0xFEE0_0000, (0x4021).to_bytes(4, "little"))):
        pair.request(request)
        pair.run(rng.randrange(4))
    pair.run(100)
    assert len(pair.bench.violations()) >= 15
    pair.check()


def test_faults() -> None:
    pair = Pair(splitting="small")
    pair.start()
    for tag, kind in enumerate(FaultKind):
        address = pair.bases[0] + 0x400 * tag
        pair.inject(address + 100, 4, kind, 1)
        pair.request(read(address, 256, tag))
        pair.request(read(address, 256, 0x40 + tag))
    pair.run(300)
    pair.check()


def test_tag_that_is_used_again() -> None:
    pair = Pair(splitting="small", card_timeout_cycles=30)
    pair.start()
    pair.inject(pair.bases[0], 64, FaultKind.NEVER, 2)
    pair.request(read(pair.bases[0], 256, 7))
    pair.run(20)
    pair.request(read(pair.bases[0] + 64, 128, 7))  # too early
    pair.run(41)
    pair.request(read(pair.bases[0], 4, 9))
    pair.run(60)
    pair.request(read(pair.bases[0], 8, 9))  # late enough
    pair.run(100)
    pair.check()


def test_credits() -> None:
    pair = Pair(credits=3, credit_cycles=9)
    pair.start()
    for tag in range(5):
        pair.request(read(pair.bases[0], 4, tag))
        pair.run(2)
    pair.run(100)
    assert pair.native.credits == pair.bench.credits
    assert any("without credit" in text for _cycle, text in pair.bench.violations())
    pair.check()


def test_region_removed_under_traffic() -> None:
    """A read that arrived before is answered with an error, and one that comes after is a fault."""
    bench = Bench()
    with Engine(None, EngineOptions(**OPTIONS)) as engine:
        region = engine.memory.allocate(4096)
        engine.hand_request(read(region.address, 64, 1))
        engine.run(10)
        before = len(engine.take_violations())
        region.free()
        engine.run(100)
        ((_cycle, header, payload),) = engine.hand_sent()
        assert (header["status"], payload) == (CompletionStatus.UNSUPPORTED.value, b"")
        assert header["byte_count"] == 64
        assert not engine.take_violations()
        engine.hand_request(read(region.address, 64, 2))
        engine.run(100)
        ((_cycle, header, payload),) = engine.hand_sent()
        assert header["status"] == CompletionStatus.UNSUPPORTED.value
        assert "memory that no driver gave" in engine.take_violations()[-1][1]
    assert before and bench is not None


def test_host_accesses(seed: int) -> None:
    pair = Pair()
    pair.start()
    rng = random.Random(seed)
    memory = [Request(RequestKind.MEM_READ, 0xC000_0000 + 8 * n, *byte_enables(n % 4, 1 + n % 9))
              for n in range(12)]
    for request in memory:
        pair.bench.access(Request(request.kind, request.address, request.dwords, request.first_be,
                                  request.last_be))
        pair.native.access(request)
        pair.run(2)
        sent = pair.bench.accesses[-1].request
        low, size = sent.span[0] - sent.address, sent.span[1]
        good = rng.random() < 0.7
        payload = rng.randbytes(4 * sent.dwords) if good else b""
        pair.answer(CompletionStatus.SUCCESS if good else CompletionStatus.UNSUPPORTED, payload,
                    byte_count=size, lower_address=sent.address + low & 0x7F)
        pair.run(1)
    pair.run(10)
    pair.check()


def test_answers_that_no_card_may_give() -> None:
    pair = Pair()
    pair.start()
    for more in ({"byte_count": 9}, {"lower_address": 3}, {"traffic_class": 1}, {"attributes": 4}):
        for side in (pair.bench, pair.native):
            side.access(Request(RequestKind.MEM_READ, 0xC000_0000))
        pair.run(2)
        pair.answer(CompletionStatus.SUCCESS, b"good", **more)
    pair.complete(Completion(CompletionStatus.SUCCESS, tag=77))
    pair.run(5)
    assert len(pair.bench.violations()) == 5
    pair.check()


def test_retry_and_time_out() -> None:
    pair = Pair()
    for side in (pair.bench, pair.native):
        side.access(Request(RequestKind.CONFIG_READ, 0, completer_id=BDF))
    pair.run(3)
    pair.answer(CompletionStatus.RETRY)
    pair.run(250)  # it is asked again, and answered
    pair.answer(CompletionStatus.SUCCESS, b"\xf4\x1a\x41\x10")
    for side in (pair.bench, pair.native):
        side.access(Request(RequestKind.MEM_READ, 0xC000_0000))
    pair.run(700)
    assert any("was not answered within" in text for _cycle, text in pair.bench.violations())
    pair.check()


def test_limits_of_a_function() -> None:
    pair = Pair()
    for control, payload, size, tags in ((0x2000, 128, 512, 32), (0x5140, 512, 4096, 256)):
        pair.start(device_control=control)
        assert pair.native.limits() == pair.bench.limits() == (1, payload, size, tags)
    pair.config(0x04, 0)
    pair.run(5)
    for tag in range(3):  # two may come late
        pair.request(read(pair.bases[0], 4, tag))
    pair.run(60)
    assert "is no bus master" in pair.bench.violations()[-1][1]
    pair.config(0x04, 4)
    pair.config(0x48, 0x8000)  # a reset of the function, which ends with the next answer
    pair.request(read(pair.bases[0], 4, 1))
    pair.config(0x00, None, 0x1AF4)
    assert pair.native.limits() == pair.bench.limits() == (0, 128, 512, 32)
    pair.run(60)
    pair.check()


@pytest.mark.parametrize("boundary", [64, 128])
def test_random_splits_are_legal(boundary: int, seed: int) -> None:
    """Every cut lies on a boundary, all bytes come once and in order, and all cuts come up."""
    with Engine(None, EngineOptions(splitting="random", jitter_cycles=60, latency_cycles=10,
                                    boundary_bytes=boundary, seed=seed)) as engine:
        region = engine.memory.allocate(4096, align=4096)
        region.write(0, contents(9)[:4096])
        rng = random.Random(seed)
        ways: set[tuple[int, ...]] = set()
        orders: set[tuple[int, ...]] = set()
        for _ in range(60):
            asked = {tag: (offset := rng.randrange(200), rng.randrange(1, 500 - offset))
                     for tag in range(4)}
            for tag, (offset, size) in asked.items():
                engine.hand_request(read(region.address + offset, size, tag))
            got = dict.fromkeys(asked, b"")
            cuts: dict[int, list[int]] = {tag: [] for tag in asked}
            ends = []
            for _more in range(50):
                engine.run(20)
                for _cycle, header, payload in engine.hand_sent():
                    tag = header["tag"]
                    offset, size = asked[tag]
                    at = offset + len(got[tag])
                    assert header["byte_count"] == size - len(got[tag])
                    assert header["lower_address"] == at & 0x7F
                    data = payload[at & 3:][:header["byte_count"]]
                    got[tag] += data
                    end = at + len(data)
                    assert end == offset + size or end % boundary == 0
                    cuts[tag].append(end)
                    if end == offset + size:
                        ends.append(tag)
            ways.update(tuple(c) for c in cuts.values())
            orders.add(tuple(ends))
            for tag, (offset, size) in asked.items():
                assert got[tag] == contents(9)[offset:offset + size]
        assert len(ways) > 60 and len(orders) > 10
