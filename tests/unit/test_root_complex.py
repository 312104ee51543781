"""The host model: completions by the rules, memory that changes under a read, its checks."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hw.pcie.types import CompletionStatus, RequestKind
from tb.completer import FaultKind, cuts
from tb.host_access import Access
from tb.memory import HostMemory, MemoryFault
from tb.root_complex import RootComplex, RootComplexOptions
from tb.tlp import Completion, Request, TlpAssembler, TlpCodec, bdf, byte_enables, enabled_bytes

CARD = bdf(1, 0, 0)


def machine(**options: object) -> RootComplex:
    """Give a host whose card is a bus master with extended tags, MPS 256, MRRS 512."""
    host = RootComplex(options=RootComplexOptions(**options))  # type: ignore[arg-type]
    host.now = 10
    card = host.function(CARD)
    card.note_read(0x34, 0xF, 0x40)
    card.note_read(0x40, 0xF, 0x0010)
    card.note_written(0x48, 0xF, 0x2120, 0)
    card.note_sent(4, 3, 6)
    return host


def read_request(address: int, size: int, tag: int = 0) -> Request:
    return Request(RequestKind.MEM_READ, address & ~3, *byte_enables(address, size),
                   requester_id=CARD, tag=tag)


def write_request(address: int, data: bytes) -> Request:
    lead = address & 3
    padded = bytes(lead) + data + bytes(-(lead + len(data)) & 3)
    return Request(RequestKind.MEM_WRITE, address & ~3, *byte_enables(address, len(data)),
                   requester_id=CARD, payload=padded)


def run(host: RootComplex, cycles: int = 2000) -> list[Completion]:
    """Let time pass; give the completions in the order of their leaving."""
    seen = []
    for _ in range(cycles):
        host.now += 1
        completion = host.next_completion()
        if completion is not None:
            seen.append(completion)
    return seen


def reassemble(request: Request, completions: list[Completion], boundary: int,
               max_payload: int) -> bytes:
    """Put a read together as a requester does, checking each header against the standard."""
    start, left = request.span
    data = b""
    for completion in completions:
        assert completion.byte_count == left
        assert completion.lower_address == start & 0x7F
        assert completion.dwords * 4 == len(completion.payload) <= max_payload
        size = min(left, len(completion.payload) - (start & 3))
        assert size > 0
        data += completion.payload[start & 3:(start & 3) + size]
        start, left = start + size, left - size
        assert left == 0 or start % boundary == 0
    assert left == 0
    return data


# --- TLPs and beats


@given(st.integers(0, 4095), st.integers(1, 4096))
def test_byte_enables_name_exactly_the_bytes(address: int, size: int) -> None:
    dwords, first, last = byte_enables(address, size)
    low, count = enabled_bytes(dwords, first, last)
    assert (address & ~3) + low == address
    assert count == size
    assert dwords == ((address & 3) + size + 3) // 4


def test_bytes_are_counted_from_the_first_to_the_last_enabled() -> None:
    assert enabled_bytes(1, 0b1001, 0) == (0, 4)
    assert enabled_bytes(1, 0b1010, 0) == (1, 3)
    assert enabled_bytes(1, 0, 0) == (0, 1)
    assert enabled_bytes(2, 0b0100, 0b0010) == (2, 4)


@pytest.mark.parametrize("lanes", [8, 16, 32, 64])
@pytest.mark.parametrize("dwords", [0, 1, 2, 3, 15, 16, 17, 64])
def test_beats_and_back(lanes: int, dwords: int) -> None:
    rng = random.Random(lanes + dwords)
    codec = TlpCodec.requests(lanes)
    kind = RequestKind.MEM_WRITE if dwords else RequestKind.MEM_READ
    request = Request(kind, address=rng.randrange(1 << 62) << 2, dwords=dwords or 5, first_be=0xE,
                      last_be=0x3, requester_id=0x1234, tag=0x3A5, attributes=5,
                      traffic_class=6, payload=rng.randbytes(4 * dwords))
    beats = codec.beats(request)
    assert len(beats) == max(1, -(-4 * dwords // lanes))
    assembler = TlpAssembler(codec)
    *early, final = [assembler.feed(beat) for beat in beats]
    assert early == [None] * len(early)
    assert final == request
    assert not assembler.inside


def test_a_beat_that_lies_is_refused() -> None:
    codec = TlpCodec.completions(8)
    good = Completion(CompletionStatus.SUCCESS, dwords=3, payload=bytes(12))
    beats = codec.beats(replace(good, dwords=4))
    assembler = TlpAssembler(codec)
    assert assembler.feed(beats[0]) is None
    with pytest.raises(ValueError, match="12 bytes of payload for 4 dwords"):
        assembler.feed(beats[1])
    with pytest.raises(ValueError, match="does not fit"):
        codec.beats(replace(good, byte_count=8192))


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


@pytest.mark.parametrize(("change", "text"), [
    ({"dwords": 3, "last_be": 0xF, "address": 0xFF8}, "cross a 4 KiB boundary"),
    ({"first_be": 0xF, "last_be": 1}, "of a single dword"),
    ({"dwords": 3, "last_be": 0}, "byte enables 0xf, 0x0 of 3 dwords"),
    ({"dwords": 3, "first_be": 0b0111, "last_be": 0xF}, "not contiguous"),
    ({"dwords": 3, "last_be": 0b1000}, "not contiguous"),
    ({"dwords": 129, "last_be": 0xF}, "a read of 516 bytes, 512 allowed"),
    ({"kind": RequestKind.MEM_WRITE, "dwords": 65, "last_be": 0xF, "payload": bytes(260)},
     "260 bytes of payload, 256 allowed"),
    ({"requester_id": 0x0200}, "is no bus master"),
    ({"tag": 256}, "tag 256, 256 allowed"),
    ({"address": 2}, "no multiple of 4"),
    ({"kind": RequestKind.IO_READ}, "a card does not send IO_READ"),
    ({"poisoned": 1}, "poisoned"),
    ({"traffic_class": 1}, "traffic class 1"),
])
def test_rules_for_requests(change: dict[str, object], text: str) -> None:
    host = machine()
    region = host.memory.allocate(8192, align=4096)
    request = read_request(region.address, 4)
    if "address" in change:
        change = {**change, "address": region.address + int(change["address"])}  # type: ignore[call-overload]
    host.receive_request(replace(request, **change))  # type: ignore[arg-type]
    assert any(text in violation.text for violation in host.violations), host.violations


def test_a_tag_is_not_used_twice() -> None:
    host = machine()
    region = host.memory.allocate(64)
    host.receive_request(read_request(region.address, 64, 5))
    host.now += 10
    host.receive_request(read_request(region.address, 64, 5))
    assert "tag 5 of 0x0100 is in use" in host.violations[0].text


def test_credits() -> None:
    host = machine(credits=4, credit_cycles=20)
    region = host.memory.allocate(64)
    assert (host.credit_limit, host.credit_infinite) == (4, False)
    for tag in range(4):
        host.receive_request(read_request(region.address, 4, tag))
    host.check()
    host.now += 20
    assert host.credit_limit == 8
    for tag in range(4, 9):
        host.receive_request(read_request(region.address, 4, tag))
    assert ["without credit" in violation.text for violation in host.violations] == [True]


def test_bus_mastering_ends_with_the_answer_of_the_write_that_ends_it() -> None:
    host = machine()
    region = host.memory.allocate(64)
    host.access.config(CARD, 4, 2, 0)
    request = host.next_request()
    assert request is not None
    host.receive_request(write_request(region.address, b"on its way"))
    begun = host.now
    host.now += 5
    host.receive_completion(Completion(CompletionStatus.SUCCESS, completer_id=CARD,
                                       tag=request.tag))
    host.receive_request(write_request(region.address, b"begun before"), begun)
    host.check()
    host.now += 1
    host.receive_request(write_request(region.address, b"after"))
    assert "no bus master" in host.violations[0].text


def test_a_function_that_is_told_to_reset_itself_may_finish_until_it_answers_again() -> None:
    host = machine()
    region = host.memory.allocate(64)

    def config(offset: int, value: int | None, status: CompletionStatus) -> None:
        host.access.config(CARD, offset, 2, value)
        host.now += 300  # one that was answered with a retry is sent again
        request = host.next_request()
        assert request is not None
        host.receive_completion(Completion(
            status, completer_id=CARD, tag=request.tag,
            payload=bytes(4) if value is None and status == CompletionStatus.SUCCESS else b""))

    config(0x48, 0xA120, CompletionStatus.SUCCESS)
    host.receive_request(write_request(region.address, b"on its way"))
    config(0, None, CompletionStatus.RETRY)
    host.receive_request(write_request(region.address, b"still on its way"))
    host.check()
    host.now += 300
    request = host.next_request()
    assert request is not None
    host.receive_completion(Completion(CompletionStatus.SUCCESS, completer_id=CARD,
                                       tag=request.tag, payload=bytes(4), byte_count=4))
    host.now += 1
    host.receive_request(write_request(region.address, b"after"))
    assert "no bus master" in host.violations[-1].text


# --- interrupts


def test_interrupts() -> None:
    host = machine()
    one, two = (host.interrupts.allocate(name) for name in ("one", "two"))
    host.receive_request(write_request(one.address, one.data.to_bytes(4, "little")))
    host.receive_request(write_request(one.address, one.data.to_bytes(4, "little")))
    assert (one.count, two.count, one.requester_id) == (2, 0, CARD)
    host.check()
    host.receive_request(write_request(one.address, two.data.to_bytes(4, "little")))
    host.receive_request(write_request(two.address, two.data.to_bytes(4, "little")[:2]))
    assert (two.count, len(host.violations)) == (0, 2)


# --- the host asks


def respond(host: RootComplex, request: Request, memory: bytes, boundary: int = 4096) -> None:
    """Answer as a card does, cut at ``boundary``."""
    start, left = request.span
    while left:
        size = min(left, boundary - start % boundary)
        base = start & ~3
        payload = memory[base:(start + size + 3) & ~3]
        host.receive_completion(Completion(
            CompletionStatus.SUCCESS, left, start & 0x7F, len(payload) // 4, tag=request.tag,
            completer_id=CARD, payload=payload))
        start, left = start + size, left - size


@example(4001, 300, 1024)
@given(st.integers(0, 5000), st.integers(1, 300), st.sampled_from([1, 2, 64, 1024]))
def test_host_reads_are_cut_and_put_together(address: int, size: int, max_dwords: int) -> None:
    host = machine()
    memory = random.Random(3).randbytes(8192)
    accesses = host.access.read(address, size, max_dwords=max_dwords)
    while (request := host.next_request()) is not None:
        assert request.dwords <= max_dwords
        assert request.address // 4096 == (request.address + 4 * request.dwords - 1) // 4096
        respond(host, request, memory, 128)
    host.check()
    assert all(access.ok for access in accesses)
    assert b"".join(access.data for access in accesses) == memory[address:address + size]
    assert host.access.idle


@given(st.integers(0, 5000), st.binary(min_size=1, max_size=40), st.sampled_from([1, 2, 64]))
def test_host_writes_enable_their_bytes(address: int, data: bytes, max_dwords: int) -> None:
    host = machine()
    image = bytearray(8192)
    host.access.write(address, data, max_dwords=max_dwords)
    while (request := host.next_request()) is not None:
        for index in range(request.dwords):
            for lane in range(4):
                if request.mask(index) >> lane & 1:
                    at = 4 * index + lane
                    image[request.address + at] = request.payload[at]
    wanted = bytearray(8192)
    wanted[address:address + len(data)] = data
    assert image == wanted


def test_configuration_accesses() -> None:
    host = machine()
    done: list[Access] = []
    host.access.config(CARD, 0x0E, 1, on_done=done.append)
    host.access.config(CARD, 0x06, 2, 0x1234, on_done=done.append)
    read, write = host.next_request(), host.next_request()
    assert read is not None
    assert write is not None
    assert (read.address, read.first_be, read.completer_id) == (0x0C, 4, CARD)
    assert (write.address, write.first_be) == (0x04, 0xC)
    assert write.payload[2:] == b"\x34\x12"
    host.receive_completion(Completion(CompletionStatus.SUCCESS, dwords=1, tag=read.tag,
                                       completer_id=CARD, payload=b"\x01\x02\x03\x04"))
    host.receive_completion(Completion(CompletionStatus.SUCCESS, tag=write.tag,
                                       completer_id=CARD))
    assert done[0].value == 3
    assert all(access.ok for access in done)
    host.check()


def test_an_unsupported_read_gives_all_ones() -> None:
    host = machine()
    access = host.access.config(CARD, 0, 2)
    request = host.next_request()
    assert request is not None
    host.receive_completion(Completion(CompletionStatus.UNSUPPORTED, tag=request.tag,
                                       completer_id=CARD))
    assert (access.done, access.ok, access.value) == (True, False, 0xFFFF)
    host.check()


def test_a_function_that_is_not_ready_is_asked_again() -> None:
    host = machine()
    access = host.access.config(CARD, 0, 4)
    for _ in range(2):
        request = None
        while request is None:
            host.now += 50
            request = host.next_request()
        host.receive_completion(Completion(CompletionStatus.RETRY, tag=request.tag,
                                           completer_id=CARD))
        assert not access.done
    host.now += 1000
    request = host.next_request()
    assert request is not None
    host.receive_completion(Completion(CompletionStatus.SUCCESS, dwords=1, tag=request.tag,
                                       completer_id=CARD, payload=b"\xf4\x1a\x41\x10"))
    assert access.value == 0x10411AF4
    host.check()


@pytest.mark.parametrize(("change", "text"), [
    ({"byte_count": 3}, "byte count 3, not 4"),
    ({"lower_address": 4}, "lower address 0x4, not 0x0"),
    ({"dwords": 0, "payload": b""}, "0 dwords where 1 are missing"),
    ({"requester_id": 1}, "requester_id 0x1"),
    ({"attributes": 1}, "attributes 0x1"),
    ({"tag": 77}, "nobody waits for"),
    ({"status": CompletionStatus.ABORT}, "data beside an error"),
])
def test_rules_for_answers(change: dict[str, object], text: str) -> None:
    host = machine()
    host.access.read(0x1000, 4)
    request = host.next_request()
    assert request is not None
    good = Completion(CompletionStatus.SUCCESS, 4, 0, 1, tag=request.tag, completer_id=CARD,
                      payload=bytes(4))
    host.receive_completion(replace(good, **change))  # type: ignore[arg-type]
    assert any(text in violation.text for violation in host.violations), host.violations


def test_an_answer_that_does_not_come() -> None:
    host = machine(host_timeout_cycles=100)
    (access,) = host.access.read(0x1000, 4)
    host.next_request()
    host.now += 99
    host.expire()
    assert not access.done
    host.now += 1
    host.expire()
    assert (access.done, access.value) == (True, 0xFFFF_FFFF)
    assert "not answered within 100 cycles" in host.violations[0].text


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
