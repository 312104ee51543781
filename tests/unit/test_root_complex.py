"""The host model: completions by the rules, and memory that changes under a read."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.pcie.types import CompletionStatus, RequestKind
from tb.completer import FaultKind, cuts
from tb.memory import HostMemory, MemoryFault
from tb.tlp import Request
from tests.unit.root_complex_machine import (
    CARD,
    machine,
    read_request,
    reassemble,
    run,
    write_request,
)
from tests.unit.test_root_complex_accesses import respond

# --- completions


@given(st.integers(0, 1 << 20), st.integers(1, 4096), st.sampled_from([64, 128]),
       st.sampled_from([128, 256, 512]), st.sampled_from(["large", "small", "random"]))
def test_cuts_are_legal(address: int, size: int, boundary: int, max_payload: int,
                        splitting: str) -> None:
    pieces = cuts(address, size, boundary=boundary, max_payload=max_payload,
                  splitting=splitting, rng=random.Random(size))  # type: ignore[arg-type]
    at = address
    for start, count in pieces:
        assert start == at
        assert 1 <= count
        assert -(-((start & 3) + count) // 4) * 4 <= max_payload
        at += count
        assert at == address + size or at % boundary == 0
    assert at == address + size


@given(st.integers(0, 4095), st.integers(1, 512), st.sampled_from(["large", "small", "random"]),
       st.sampled_from([64, 128]), st.integers(0, 50))
def test_a_read_is_answered_exactly(offset: int, size: int, splitting: str, boundary: int,
                                    jitter: int) -> None:
    host = machine(splitting=splitting, boundary_bytes=boundary, jitter_cycles=jitter)
    region = host.memory.allocate(8192, align=4096)
    region.write(0, random.Random(1).randbytes(8192))
    size = min(size, 4096 - offset, 512 - (offset & 3))  # whole dwords within 4 KiB and MRRS
    request = read_request(region.address + offset, size, tag=7)
    host.receive_request(request)
    host.check()
    completions = run(host, 2000)
    assert {completion.tag for completion in completions} == {7}
    assert reassemble(request, completions, boundary, 256) == region.read(offset, size)
    assert host.reads_waiting == 0


def test_latency_is_what_was_asked() -> None:
    host = machine(latency_cycles=100)
    region = host.memory.allocate(64)
    host.receive_request(read_request(region.address, 64))
    begun = host.now
    while host.next_completion() is None:
        host.now += 1
    assert host.now - begun == 100


def test_tags_overtake_one_another_and_stay_in_order_within() -> None:
    host = machine(jitter_cycles=200, splitting="small")
    region = host.memory.allocate(64 * 512, align=4096)
    region.write(0, random.Random(2).randbytes(64 * 512))
    requests = [read_request(region.address + 512 * tag, 512, tag) for tag in range(64)]
    for request in requests:
        host.receive_request(request)
    completions = run(host, 6000)
    order = [completion.tag for completion in completions]
    assert order != sorted(order)
    changes = sum(one != two for one, two in pairwise(order))
    assert changes > 64  # completions of a read are not always together
    for tag, request in enumerate(requests):
        own = [completion for completion in completions if completion.tag == tag]
        assert reassemble(request, own, 64, 256) == region.read(512 * tag, 512)
    host.check()


def test_a_read_of_nothing() -> None:
    host = machine()
    region = host.memory.allocate(16)
    request = replace(read_request(region.address, 1), first_be=0)
    host.receive_request(request)
    (completion,) = run(host)
    assert (completion.byte_count, completion.dwords) == (1, 1)
    assert completion.lower_address == region.address & 0x7F


# --- memory that changes


def test_sixteen_bytes_are_seen_together_and_lines_apart() -> None:
    """A 64-byte read against four writers: each aligned 16 bytes old or new, the mix at random."""
    mixes = set()
    for seed in range(40):
        host = machine(seed=seed, latency_cycles=100)
        region = host.memory.allocate(64, align=64)
        request = read_request(region.address, 64)
        host.receive_request(request)
        host.now += 50
        region.write(0, b"\xff" * 64)
        data = reassemble(request, run(host, 200), 64, 256)
        for at in range(0, 64, 16):
            assert data[at:at + 16] in (bytes(16), b"\xff" * 16)
        mixes.add(data)
    assert len(mixes) > 8


def test_a_later_write_is_never_seen_before_an_earlier_one_of_the_same_chunk() -> None:
    for seed in range(60):
        host = machine(seed=seed, latency_cycles=100)
        region = host.memory.allocate(16, align=16)
        request = read_request(region.address, 16)
        host.receive_request(request)
        for number in range(1, 10):
            host.now += 10
            region.write(0, bytes([number]))
            region.write(8, bytes([number]))
        data = reassemble(request, run(host, 200), 64, 256)
        assert data[0] == data[8]


def test_a_write_before_the_read_is_seen_and_one_after_the_answer_is_not() -> None:
    host = machine()
    region = host.memory.allocate(64)
    host.receive_request(write_request(region.address + 3, b"before"))
    request = read_request(region.address, 64)
    host.receive_request(request)
    host.now += host.options.latency_cycles
    completion = host.next_completion()
    assert completion is not None
    region.write(0, b"\xee" * 64)
    assert completion.payload[3:9] == b"before"


@given(st.integers(0, 63), st.integers(1, 256), st.randoms(use_true_random=False))
def test_posted_writes_change_their_bytes_alone(offset: int, size: int,
                                                rng: random.Random) -> None:
    host = machine()
    region = host.memory.allocate(512)
    image = bytearray(rng.randbytes(512))
    region.write(0, bytes(image))
    size = min(size, 256 - (offset & 3))
    data = rng.randbytes(size)
    image[offset:offset + size] = data
    host.receive_request(write_request(region.address + offset, data))
    host.check()
    assert region.read() == image


def test_scattered_byte_enables() -> None:
    host = machine()
    region = host.memory.allocate(16, align=16)
    host.receive_request(Request(RequestKind.MEM_WRITE, region.address, 2, 0b1010, 0b0101,
                                 requester_id=CARD, payload=bytes(range(1, 9))))
    host.check()
    assert region.read(0, 8) == bytes([0, 2, 0, 4, 5, 0, 7, 0])


# --- what goes wrong


@pytest.mark.parametrize(("kind", "status"), [
    (FaultKind.UNSUPPORTED, CompletionStatus.UNSUPPORTED),
    (FaultKind.ABORT, CompletionStatus.ABORT),
])
def test_an_error_ends_a_read_after_good_pieces(kind: FaultKind, status: CompletionStatus) -> None:
    host = machine(splitting="small")
    region = host.memory.allocate(512, align=512)
    host.inject(region.address + 130, 1, kind=kind)
    host.receive_request(read_request(region.address, 512))
    completions = run(host)
    assert [completion.status for completion in completions] == [
        CompletionStatus.SUCCESS, CompletionStatus.SUCCESS, status]
    assert (completions[-1].dwords, completions[-1].byte_count) == (0, 512 - 128)
    assert host.reads_waiting == 0
    host.check()


def test_poison_late_and_never() -> None:
    host = machine()
    regions = [host.memory.allocate(64) for _ in range(3)]
    host.inject(regions[0], kind=FaultKind.POISONED)
    host.inject(regions[1], kind=FaultKind.LATE, late_cycles=500)
    host.inject(regions[2], kind=FaultKind.NEVER, count=1)
    for tag, region in enumerate(regions):
        host.receive_request(read_request(region.address, 64, tag))
    poisoned, = run(host, 300)
    assert (poisoned.tag, poisoned.poisoned) == (0, 1)
    assert poisoned.payload == b"\xff" * 64  # what must not be used
    late, = run(host, 2000)
    assert (late.tag, late.poisoned) == (1, 0)
    assert host.reads_waiting == 1
    # The card gives up and asks again: this time there is an answer.
    host.receive_request(read_request(regions[2].address, 64, 2))
    assert [completion.tag for completion in run(host, 300)] == [2]
    host.check()


def test_memory_that_no_driver_gave() -> None:
    host = machine()
    region = host.memory.allocate(64)
    host.receive_request(read_request(region.address + 32, 64))
    (completion,) = run(host)
    assert completion.status == CompletionStatus.UNSUPPORTED
    assert completion.byte_count == 64
    assert "memory that no driver gave" in host.violations[0].text
    region.free()
    host.receive_request(write_request(region.address, b"late"))
    assert len(host.violations) == 2
    with pytest.raises(AssertionError, match="no driver gave"):
        host.check()
    with pytest.raises(MemoryFault, match="freed twice"):
        region.free()


def test_memory_for_one_direction() -> None:
    host = machine()
    sent = host.memory.allocate(64, device_writes=False)
    received = host.memory.allocate(64, device_reads=False)
    host.receive_request(write_request(sent.address, b"no"))
    host.receive_request(read_request(received.address, 4))
    assert ["not for writing" in violation.text for violation in host.violations] == [True, False]
    assert "not for reading" in host.violations[1].text


def test_the_log_tells_all_four_streams() -> None:
    host = machine()
    region = host.memory.allocate(256, align=256)
    host.receive_request(read_request(region.address + 64, 64, 3))
    run(host)
    host.access.read(0x1000, 4)
    request = host.next_request()
    assert request is not None
    respond(host, request, bytes(0x2000))
    assert [(record.channel, record.kind, record.size) for record in host.log or ()] == [
        ("rq", "MEM_READ", 64), ("rc", "SUCCESS", 64), ("cq", "MEM_READ", 4),
        ("cc", "SUCCESS", 4)]
    assert next(host.records("rc")).address == region.address + 64


def test_regions_lie_apart_and_above_and_below_4_gib() -> None:
    memory = HostMemory(seed=4)
    regions = [memory.allocate(100, align=1 << (index % 13)) for index in range(50)]
    for one, two in pairwise(memory.regions):
        assert one.address + one.size + 16 <= two.address
    assert {region.address >> 32 > 0 for region in regions} == {True, False}
    assert all(region.address % (1 << index % 13) == 0 for index, region in enumerate(regions))
    assert memory.find(regions[7].address + 99) is regions[7]
    assert memory.find(regions[7].address + 99, 2) is None
    with pytest.raises(MemoryFault, match="no memory"):
        memory.read(0x10, 4)
