"""The driver's choice of rings, and of chains that go into indirect tables."""

from __future__ import annotations

import pytest

from sw_driver.buffers import Shape
from sw_driver.layouts import Feature
from sw_driver.packed_ring import PackedRing
from sw_driver.split_ring import SplitRing
from tb.model_host import run
from tests.unit.driver_world import BOTH_RINGS, INDIRECT, OFFERED, PACKED, machine, opened, quiet


@pytest.mark.virtio("DRV-CORE-RSVD-06", "DRV-PCI-COM-02", "DRV-PCI-COM-03")
@pytest.mark.parametrize("features", BOTH_RINGS)
def test_the_ring_that_was_agreed_on(features: int) -> None:
    """A packed one of any size; and none where the driver does not want it."""
    host = machine(features=features, queue_size=64 if features == OFFERED else 61)
    device = opened(host)
    kind = PackedRing if features & PACKED else SplitRing
    assert [(type(ring), ring.size) for ring in device.rings.values()] == [
        (kind, host.card.queue_size_max)] * 2
    quiet(host)
    host = machine(features=features)
    device = opened(host, features=[Feature.ACCESS_PLATFORM])
    assert {type(ring) for ring in device.rings.values()} == {SplitRing}
    quiet(host)


@pytest.mark.virtio("DRV-SPL-IND-01", "DRV-PKT-IND-01")
@pytest.mark.parametrize("features", BOTH_RINGS)
@pytest.mark.parametrize(("offered", "indirect", "direct_first", "slots"), [
    (True, "always", 0, (1, 1, 1)), (True, "chains", 0, (1, 1, 1)), (True, "never", 0, (1, 2, 3)),
    (False, "always", 0, (1, 2, 3)), (True, "chains", 1, (1, 2, 2))])
def test_which_chains_are_in_tables(features: int, offered: bool, indirect: str, direct_first: int,
                                    slots: tuple[int, int, int]) -> None:
    features |= INDIRECT if offered else 0
    for pieces, wanted in zip((1, 2, 3), slots, strict=True):
        host = machine(features=features)
        device = opened(host, transmit_shape=Shape(segments=(pieces, pieces)), indirect=indirect,
                        direct_first=direct_first)
        ring = device.rings[1]
        tables = "transmit indirect descriptors"
        run(device.send(b"a" * 60))
        held = ring.size - ring.free_descriptors
        assert held == (min(wanted, 1) if features & PACKED and indirect != "never" and offered
                        else wanted)
        count = sum(tables in region.name for region in host.memory.regions)
        assert count == (offered and (indirect == "always"
                                      or (indirect == "chains" and pieces > 1)))
        run(device.drain())
        assert host.card.sent == [b"a" * 60]
        assert not any(tables in region.name for region in host.memory.regions)
        quiet(host)


def test_tables_are_given_back_by_a_reset() -> None:
    host = machine(features=OFFERED | INDIRECT)
    device = opened(host, receive_shape=Shape(segments=(3, 3)))
    assert sum("indirect" in region.name for region in host.memory.regions) == 64
    run(device.close())
    assert host.memory.regions == []
