"""The host model: its own reads, writes and configuration accesses."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hw.pcie.types import CompletionStatus
from tb.host_access import Access
from tb.root_complex import RootComplex
from tb.tlp import Completion, Request
from tests.unit.root_complex_machine import CARD, machine

__all__ = ["respond"]



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
