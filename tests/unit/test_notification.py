# amaranth: UnusedElaboratable=no
"""Notification: whether the driver wants an interrupt, and that none is lost."""

from __future__ import annotations

import pytest

from hw.virtio.moderation import Moderation
from hw.virtio.notification import Notification
from sim.runner import run_cocotb


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="stride must be a power of two"):
        Notification(64, queues=6, stride=3)
    with pytest.raises(ValueError, match="clock_mhz must be at least 2"):
        Moderation(4, clock_mhz=1)
    with pytest.raises(ValueError, match="queues must be at least 2"):
        Moderation(1, clock_mhz=250)


@pytest.mark.virtio("SPL-EVT-01", "SPL-EVT-02", "SPL-EVT-03", "SPL-EVT-04", "SPL-EVT-05",
                    "SPL-EVT-06", "IMP-SPL-EVT-01", "IMP-PKT-EVT-01", "IMP-PKT-EVT-02",
                    "IMP-PKT-EVT-03", "IMP-PKT-EVT-04", "NET-COAL-07", "NET-COAL-08",
                    "IMP-NET-COAL-01", "IMP-NET-COAL-02", "IMP-NET-COAL-03", "IMP-NET-COAL-04")
@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)],
                         indirect=["simulator"])
def test_notification(simulator: str, lanes: int) -> None:
    clock_mhz = 10  # microseconds are short, so that waits of many are
    run_cocotb(Notification(lanes, queues=4, stride=2, clock_mhz=clock_mhz),
               f"notification_{lanes}", "tests.unit.bench_notification", simulator=simulator,
               parameters={"lanes": lanes, "clock_mhz": clock_mhz})
