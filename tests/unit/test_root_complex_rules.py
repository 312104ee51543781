"""The host model: what it refuses of a card."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hw.pcie.types import CompletionStatus, RequestKind
from tb.tlp import Completion
from tests.unit.root_complex_machine import CARD, machine, read_request, write_request


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
