"""Chains in the driver's rings, split and packed."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_driver.layouts import PackedLayout
from sw_driver.packed_ring import PackedRing
from sw_driver.ring import RingError, RingFull
from sw_driver.split_ring import SplitRing
from tests.unit.driver_world import (
    EVENT_IDX,
    IN_ORDER,
    INDIRECT,
    PACKED,
    machine,
    make_ring,
    quiet,
)
from tests.unit.ring_traffic import Traffic


@settings(max_examples=150)
@given(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 32]), st.booleans(), st.integers(0, 3),
       st.tuples(st.sampled_from([None, 1, 2, 3]), st.integers(0, 2)),
       st.tuples(st.booleans(), st.integers(0, 10_000)))
@pytest.mark.virtio(
    "DRV-SPL-RING-02", "DRV-SPL-RING-04", "DRV-SPL-RING-05", "DRV-SPL-RING-06", "DRV-SPL-RING-07",
    "DRV-SPL-IND-02", "DRV-SPL-IND-03", "DRV-SPL-IND-04", "DRV-SPL-IND-05", "DRV-PKT-RING-02",
    "DRV-PKT-RING-03", "DRV-PKT-RING-07", "DRV-PKT-RING-08", "DRV-PKT-RING-10", "DRV-PKT-IND-02",
    "DRV-PKT-IND-03", "DRV-PKT-IND-04")
def test_a_ring_over_many_wraps(size: int, packed: bool, ring_features: int,
                                tables: tuple[int | None, int],
                                chance: tuple[bool, int]) -> None:
    """Chains of any length, used in any order, past the wrap of the ring and of the index.

    In order, now and then a used entry closes a batch of chains.
    """
    features = (PACKED if packed else 0) | (EVENT_IDX if ring_features & 1 else 0) | (
        IN_ORDER if ring_features & 2 else 0) | (INDIRECT if tables[0] else 0)
    if not packed and size & (size - 1):
        size += 1 + (size == 5) * 2
    traffic = Traffic(size, features=features, indirect=tables[0],
                      direct_first=0 if packed else tables[1], shuffle=chance[0], seed=chance[1])
    ring, rng = traffic.ring, traffic.rng
    for _ in range(200):
        traffic.add()
        if rng.random() < 0.6:
            ring.publish()
            ring.kick_wanted()
        traffic.take()
        if traffic.held and rng.random() < 0.7:
            traffic.give_back()
        assert ring.free_descriptors == size - sum(map(traffic.slots, traffic.out))
        assert ring.outstanding == len(traffic.out)
    quiet(traffic.host)
    assert sorted(ring.free()) == sorted(traffic.out)
    assert traffic.host.memory.regions == []


@pytest.mark.parametrize("features", [0, PACKED])
def test_chains_that_are_none(features: int) -> None:
    ring = make_ring(machine(), 4, features=features)
    with pytest.raises(ValueError, match="at least one descriptor"):
        ring.add([], [], None)
    with pytest.raises(ValueError, match="less than 2\\*\\*32"):
        ring.add([(0x1000, 1 << 31)], [(0x2000, 1 << 31)], None)
    indirect = make_ring(machine(), 4, features=features, indirect=2)
    with pytest.raises(RingFull, match="5 buffers in 1 descriptors wanted, 4 free of 4"):
        indirect.add([(0x1000, 60)] * 5, [], None)
    with pytest.raises(ValueError, match="tables from 0 buffers on"):
        make_ring(machine(), 4, features=features, indirect=0)


@pytest.mark.parametrize("size", [0, 32769])
def test_sizes_that_no_packed_ring_has(size: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 32768, not {size}"):
        PackedRing(machine(), size)


@pytest.mark.virtio("DRV-PKT-RING-01")
@pytest.mark.parametrize("size", [1, 3, 256, 32768])
def test_where_a_packed_ring_lies(size: int) -> None:
    ring: PackedRing[None] = PackedRing(machine(), size)
    assert [area.size for area in ring.areas] == [16 * size, 4, 4]
    assert [area.address % align for area, align in zip(ring.areas, (16, 4, 4), strict=True)] == [
        0, 0, 0]


# --- the packed ring, bit by bit


def descriptors(ring: PackedRing[Any]) -> list[tuple[int, ...]]:
    """Give address, length, id and flags of all descriptors."""
    return list(struct.iter_unpack("<QIHH", ring.descriptors.read()))


@pytest.mark.virtio("DRV-PKT-RING-11", "DRV-PKT-RING-12", "DRV-PKT-RING-04")
def test_the_first_descriptor_is_shown_last() -> None:
    """What the standard calls AVAIL and USED, over the end of the ring and back to its start."""
    ring: PackedRing[str] = PackedRing(machine(), 3)
    assert ring.kick_data == 0x8000
    first = ring.add([(0x1000, 10), (0x2000, 20)], [], "a")
    other = ~first & 0xFFFF
    assert descriptors(ring)[:2] == [(0x1000, 10, other, 0), (0x2000, 20, first, 0x80)]
    assert (ring.publish(), ring.kick_data) == (1, 0x8002)
    assert descriptors(ring)[0] == (0x1000, 10, other, 0x81)
    ring.descriptors.write(8, struct.pack("<IHH", 0, first, 0x8080))
    assert ring.take_used() is not None
    second = ring.add([(0x3000, 30)], [(0x4000, 40)], "b")
    assert (ring.publish(), ring.kick_data) == (1, 0x0001)
    other = ~second & 0xFFFF
    assert descriptors(ring)[2] == (0x3000, 30, other, 0x81)  # still the first lap
    assert descriptors(ring)[0] == (0x4000, 40, second, 0x8002)  # the second one
    assert not ring.has_used()
    ring.descriptors.write(32 + 8, struct.pack("<IHH", 7, second, 0x8082))
    used = ring.take_used()
    assert used is not None and (used.token, used.written) == ("b", 7)
    third = ring.add([(0x5000, 50)], [], "c")
    ring.publish()
    assert descriptors(ring)[1] == (0x5000, 50, third, 0x8000)
    ring.descriptors.write(16 + 8, struct.pack("<IHH", 99, third, 0))
    used = ring.take_used()
    assert used is not None and (used.token, used.written) == ("c", 0)  # 99 says nothing


@pytest.mark.virtio("DRV-PKT-IND-02")
def test_tables_of_both_rings() -> None:
    host = machine()
    packed: PackedRing[None] = PackedRing(host, 4, indirect=2)
    buffer_id = packed.add([(0x1000, 10), (0x2000, 20)], [(0x3000, 30)], None)
    packed.publish()
    address, length, number, flags = descriptors(packed)[0]
    assert (length, number, flags) == (48, buffer_id, 0x84)
    assert list(struct.iter_unpack("<QIHH", host.memory.read(address, 48))) == [
        (0x1000, 10, 0, 0), (0x2000, 20, 0, 0), (0x3000, 30, 0, 2)]
    split: SplitRing[None] = SplitRing(host, 4, indirect=2, direct_first=1)
    split.add([(0x1000, 10), (0x2000, 20)], [(0x3000, 30)], None)
    head, second = struct.iter_unpack("<QIHH", split.descriptors.read(0, 32))
    assert head == (0x1000, 10, 1, 1)
    assert second[1:] == (32, 4, 0)
    assert list(struct.iter_unpack("<QIHH", host.memory.read(second[0], 32))) == [
        (0x2000, 20, 1, 1), (0x3000, 30, 2, 0)]


def test_ids_are_any_sixteen_bits() -> None:
    ring: PackedRing[None] = PackedRing(machine(), 64, shuffle=random.Random(1))
    ids = {ring.add([(0x1000, 60)], [], None) for _ in range(64)}
    assert len(ids) == 64
    assert max(ids) > 0x8000 and sorted(ids) != list(ids)


@settings(max_examples=300)
@given(st.sampled_from([1, 3, 8, 100]), st.integers(0, 10_000), st.integers(0, 100),
       st.integers(0, 10_000), st.booleans())
def test_a_kick_is_for_the_descriptor_that_the_device_waits_for(
        size: int, old: int, count: int, event: int, event_idx: bool) -> None:
    """What was decided once is not decided again; and flags rule where there is no place."""
    ring: PackedRing[None] = PackedRing(machine(), size, event_idx=event_idx)
    old, event, count = old % (2 * size), event % (2 * size), min(count, size)
    fresh = [(old + more) % (2 * size) for more in range(count)]

    def begin(flags: int) -> None:
        ring._decided = old
        ring._published = ring._next = (old + count) % (2 * size)
        ring.device_event.write(0, struct.pack(
            "<HH", event % size | (0x8000 if event < size else 0), flags))

    begin(PackedLayout.ENABLE)
    assert ring.awaits_kick() and ring.kick_wanted()
    begin(PackedLayout.DISABLE)
    assert not ring.awaits_kick() and not ring.kick_wanted()
    begin(PackedLayout.AT_DESCRIPTOR)
    if event_idx:
        assert ring.awaits_kick() == (event == ring._published)
        assert ring.kick_wanted() == (event in fresh)
        assert not ring.kick_wanted()
    else:
        with pytest.raises(RingError, match="flags are 0x2, without EVENT_IDX"):
            ring.kick_wanted()


@pytest.mark.parametrize(("place", "flags", "text"), [
    (3, 2, "waits for descriptor 3 of 3"), (0x8003, 2, "waits for descriptor 3"),
    (0, 3, "flags are 0x3, with EVENT_IDX"), (0, 0x100, "flags are 0x100")])
def test_event_structures_that_make_no_sense(place: int, flags: int, text: str) -> None:
    ring: PackedRing[None] = PackedRing(machine(), 3, event_idx=True)
    ring.device_event.write(0, struct.pack("<HH", place, flags))
    with pytest.raises(RingError, match=text):
        ring.awaits_kick()


@pytest.mark.parametrize("event_idx", [False, True])
def test_what_a_packed_ring_asks_for(event_idx: bool) -> None:
    ring: PackedRing[None] = PackedRing(machine(), 2, event_idx=event_idx)

    def asked() -> tuple[int, ...]:
        return struct.unpack("<HH", ring.driver_event.read())

    assert asked() == (0, 0)
    ring.suppress_interrupts(True)
    assert asked() == (0, 1)
    ring.suppress_interrupts(False)
    assert asked() == ((0x8000, 2) if event_idx else (0, 0))
    for at in (0x8001, 0, 1, 0x8000):
        buffer_id = ring.add([(0x1000, 60)], [], None)
        ring.publish()
        place = (at - 1) % 2
        ring.descriptors.write(16 * place + 12, struct.pack(
            "<HH", buffer_id, 0x8080 if at in (0x8001, 0) else 0))
        assert ring.take_used() is not None
        assert asked() == ((at, 2) if event_idx else (0, 0))
    ring.suppress_interrupts(True)
    assert asked() == ((0x8000, 1) if event_idx else (0, 1))


@pytest.mark.parametrize(("used", "text"), [
    ((0, 2, 0x8080), "names 2, which is no chain"),
    ((101, 0, 0x8082), "101 bytes written to chain 0, which has room for 100"),
    ((0, 1, 0x8080), "names 1, which the device has not been given yet"),
])
def test_a_packed_ring_that_makes_no_sense(used: tuple[int, int, int], text: str) -> None:
    ring: PackedRing[str] = PackedRing(machine(), 8)
    ring.add([(0x1000, 10)], [(0x2000, 60), (0x3000, 40)], "token")
    ring.publish()
    assert not ring.has_used()
    ring.add([(0x1000, 10)], [], "not published")
    ring.descriptors.write(8, struct.pack("<IHH", *used))
    for _ in range(2):
        with pytest.raises(RingError, match=text):
            ring.take_used()


def test_a_packed_ring_that_was_given_nothing() -> None:
    ring: PackedRing[str] = PackedRing(machine(), 8)
    ring.add([(0x1000, 10)], [], "token")
    ring.descriptors.write(14, struct.pack("<H", 0x8080))
    with pytest.raises(RingError, match="none given"):
        ring.take_used()


@pytest.mark.parametrize(("last", "written", "text"), [
    (4, 0, "names 4, which is no chain"), (2, 1, "1 bytes written to chain 2")])
def test_a_batch_in_a_packed_ring_that_makes_no_sense(last: int, written: int, text: str) -> None:
    ring: PackedRing[int] = PackedRing(machine(), 8, in_order=True)
    for number in range(3):
        ring.add([(0x1000, 60)], [], number)
    ring.publish()
    ring.descriptors.write(8, struct.pack("<IHH", written, last, 0x8082))
    for _ in range(2):
        with pytest.raises(RingError, match=text):
            while ring.take_used() is not None:
                pass
