"""A host model with one card, and requests to it, as the tests of the root complex begin."""

from __future__ import annotations

from hw.pcie.types import RequestKind
from tb.root_complex import RootComplex, RootComplexOptions
from tb.tlp import Completion, Request, bdf, byte_enables

__all__ = ["CARD", "machine", "read_request", "reassemble", "run", "write_request"]

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
