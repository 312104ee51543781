"""That the card in plain Python complains of chains which a driver must not give."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import pytest

from sw_driver.ring import Ring
from tests.unit.driver_world import (
    EVENT_IDX,
    IN_ORDER,
    INDIRECT,
    PACKED,
    attach,
    machine,
    make_ring,
    quiet,
)

# --- that the card looks at all


def mistake(ring: Ring[Any], at: int, *fields: tuple[int, int, int]) -> None:
    """Overwrite parts of a descriptor: offset, bytes, value."""
    for offset, size, value in fields:
        ring.areas[0].write(16 * at + offset, value.to_bytes(size, "little"))


def in_table(ring: Ring[Any], at: int, *fields: tuple[int, int, int]) -> None:
    """The same in an indirect table."""
    for offset, size, value in fields:
        table = next(iter(ring._chains.values())).table
        assert table is not None
        table.write(16 * at + offset, value.to_bytes(size, "little"))


Wrong = tuple[Callable[..., None], int, tuple[int, int, int]]
SPLIT_FLAGS, SPLIT_NEXT, PACKED_FLAGS, PACKED_ID = (12, 2), (14, 2), (14, 2), (12, 2)


@pytest.mark.parametrize(("features", "indirect", "wrong", "text"), [
    (0, None, (mistake, 1, (*SPLIT_FLAGS, 1)), "a chain that does not end"),
    (0, None, (mistake, 0, (*SPLIT_FLAGS, 9)), "descriptor flags 0x9"),
    (0, None, (mistake, 0, (*SPLIT_NEXT, 9)), "descriptor 9 of 8"),
    (0, None, (mistake, 0, (8, 4, 0xFFFF_FFFF)), "a chain of 2\\*\\*32 bytes"),
    (IN_ORDER, None, (mistake, 0, (*SPLIT_NEXT, 2)), "descriptor 0 goes on with 2"),
    (0, 2, (mistake, 0, (8, 4, 32)), "an indirect descriptor that was not negotiated"),
    (INDIRECT, 2, (mistake, 0, (8, 4, 40)), "an indirect table of 40 bytes"),
    (INDIRECT, 2, (mistake, 0, (*SPLIT_FLAGS, 5)), "an indirect descriptor that goes on"),
    (INDIRECT, 2, (in_table, 0, (*SPLIT_FLAGS, 5)), "flags 0x5 in an indirect table"),
    (INDIRECT, 2, (in_table, 0, (*SPLIT_NEXT, 0)), "an indirect table that does not end"),
    (INDIRECT, 2, (in_table, 0, (*SPLIT_NEXT, 2)), "table of 2 goes on with 2"),
    (INDIRECT | IN_ORDER, 2, (in_table, 0, (*SPLIT_NEXT, 0)), "table of 2 goes on with 0"),
    (PACKED, None, (mistake, 1, (*PACKED_FLAGS, 2)), "is not there yet"),
    (PACKED, None, (mistake, 1, (*PACKED_FLAGS, 0x8082)), "is not there yet"),
    (PACKED, None, (mistake, 0, (*PACKED_FLAGS, 0x91)), "descriptor flags 0x91"),
    (PACKED, None, (mistake, 1, (*PACKED_FLAGS, 0x84)), "an indirect descriptor in a list"),
    (PACKED, 2, (mistake, 0, (8, 4, 32)), "an indirect descriptor that was not negotiated"),
    (PACKED | INDIRECT, 2, (mistake, 0, (8, 4, 0)), "an indirect table of 0 bytes"),
    (PACKED | INDIRECT, 2, (mistake, 0, (*PACKED_FLAGS, 0x85)), "indirect descriptor that goes on"),
    (PACKED | INDIRECT, 2, (in_table, 1, (*PACKED_FLAGS, 3)), "flags 0x3 in an indirect table"),
])
def test_the_card_complains_of_chains(features: int, indirect: int | None, wrong: Wrong,
                                      text: str) -> None:
    host = machine()
    ring = make_ring(host, 8, features=features, indirect=indirect)
    attach(host, ring, features=features)
    ring.add([(0x1000, 10)], [(0x2000, 20)], None)
    ring.publish()
    do, at, field = wrong
    do(ring, at, field)
    host.card.take_chain(0)
    assert any(re.search(text, each) for each in host.card.complaints)


@pytest.mark.parametrize("features", [0, PACKED, INDIRECT, PACKED | INDIRECT])
def test_the_card_complains_of_what_it_may_not_write(features: int) -> None:
    """Behind what it may: a buffer of three parts, of which the last is for reading."""
    host = machine()
    ring = make_ring(host, 8, features=features, indirect=2 if features & INDIRECT else None)
    attach(host, ring, features=features)
    ring.add([], [(0x1000, 10)] * 3, None)
    ring.publish()
    flags = 0x80 if features == PACKED else 0
    (in_table if features & INDIRECT else mistake)(
        ring, 2, (*(PACKED_FLAGS if features & PACKED else SPLIT_FLAGS), flags))
    host.card.take_chain(0)
    assert host.card.complaints == ["a readable descriptor after a writable one"]


@pytest.mark.virtio("DRV-PKT-RING-03")
@pytest.mark.parametrize("features", [0, PACKED, INDIRECT, PACKED | INDIRECT])
def test_the_card_complains_of_changes(features: int) -> None:
    """Of what it was given, and did not give back; and of an id that comes twice."""
    host = machine()
    ring = make_ring(host, 8, features=features, indirect=2 if features & INDIRECT else None)
    attach(host, ring, features=features)
    for _ in range(2):
        ring.add([(0x1000, 10)], [(0x2000, 20)], None)
    ring.publish()
    first, _readable, _writable = host.card.take_chain(0)
    quiet(host)
    (in_table if features & INDIRECT else mistake)(ring, 0, (0, 8, 0x9000))
    host.card.put_used(0, first, 0)
    assert host.card.complaints == [f"a descriptor of chain {first} changes in use"]
    if features == PACKED:
        host.card.complaints.clear()
        second, _readable, _writable = host.card.take_chain(0)
        ring.take_used()
        ring.add([(0x1000, 10)], [], None)
        mistake(ring, 4, (*PACKED_ID, second))
        ring.publish()
        host.card.take_chain(0)
        assert host.card.complaints == [f"chain {second} is in use already"]


@pytest.mark.parametrize(("features", "place", "flags", "text"), [
    (PACKED, 0, 2, "driver event flags 0x2"), (PACKED, 0, 4, "driver event flags 0x4"),
    (PACKED | EVENT_IDX, 0, 3, "driver event flags 0x3"),
    (PACKED | EVENT_IDX, 0x8008, 2, "an interrupt wanted for descriptor 8"),
    (0, 2, 0, "available flags 0x2"), (EVENT_IDX, 1, 0, "available flags 0x1")])
def test_the_card_complains_of_wishes(features: int, place: int, flags: int, text: str) -> None:
    host = machine()
    ring = make_ring(host, 8, features=features)
    attach(host, ring, features=features)
    ring.areas[1].write(0, struct.pack("<HH", place, flags))
    host.card.raise_used(0)
    assert host.card.complaints == [text]
