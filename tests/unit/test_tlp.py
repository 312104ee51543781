"""TLPs: byte enables, and beats."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.pcie.types import CompletionStatus, RequestKind
from tb.tlp import Completion, Request, TlpAssembler, TlpCodec, byte_enables, enabled_bytes


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
