"""The limits against figures worked out by hand, and against each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bench.limits import Direction, Ring, Work, limit_of


@pytest.mark.parametrize(("frame", "ring", "direction", "mpps", "by"), [
    (60, "split", "tx", 106.7, "bus"), (60, "split", "rx", 109.6, "bus"),
    (60, "split", "duplex", 70.2, "bus"), (60, "packed", "tx", 109.6, "bus"),
    (60, "packed", "rx", 108.1, "bus"), (60, "packed", "duplex", 69.0, "bus"),
    (124, "split", "tx", 74.8, "bus"), (124, "split", "rx", 76.2, "bus"),
    (124, "split", "duplex", 54.8, "bus"), (252, "split", "tx", 43.6, "pcie_down"),
    (252, "split", "rx", 43.8, "pcie_up"), (252, "split", "duplex", 38.1, "bus"),
    (508, "split", "tx", 23.5, "line"), (508, "split", "duplex", 21.4, "pcie_up"),
    (1514, "split", "rx", 8.1, "line"), (1514, "split", "duplex", 8.0, "pcie_up"),
])
def test_known_limits(frame: int, ring: Ring, direction: Direction, mpps: float, by: str) -> None:
    limit = limit_of(Work(direction=direction, ring=ring, frame_bytes=frame))
    assert round(limit.mpps, 1) == mpps
    assert limit.by == by


def test_in_order() -> None:
    """One used entry for many lifts the bus limit of a packed ring."""
    limit = limit_of(Work(direction="duplex", ring="packed", in_order=True, frame_bytes=60))
    assert round(limit.mpps, 1) == 73.4


@given(st.integers(60, 9014), st.sampled_from(["split", "packed"]), st.sampled_from([1, 8, 32]))
def test_more_work_is_slower(frame: int, ring: Ring, batch: int) -> None:
    """Both ways at once are no faster than one, larger frames and smaller batches neither."""
    def mpps(direction: Direction, frame: int = frame, batch: int = batch) -> float:
        return limit_of(Work(direction=direction, ring=ring, frame_bytes=frame, batch=batch)).mpps

    for direction in ("tx", "rx"):
        assert mpps("duplex") <= mpps(direction)
        assert mpps(direction, frame + 1) <= mpps(direction)
        assert mpps(direction, batch=1) <= mpps(direction)
