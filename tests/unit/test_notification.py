# amaranth: UnusedElaboratable=no
"""Notification: whether the driver wants an interrupt, and that none is lost."""

from __future__ import annotations

import pytest

from hw.virtio.notification import Notification
from sim.runner import run_cocotb


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="stride must be a power of two"):
        Notification(64, queues=6, stride=3)


@pytest.mark.virtio("SPL-EVT-01", "SPL-EVT-02", "SPL-EVT-03", "SPL-EVT-04", "SPL-EVT-05",
                    "SPL-EVT-06", "IMP-SPL-EVT-01")
@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)],
                         indirect=["simulator"])
def test_notification(simulator: str, lanes: int) -> None:
    run_cocotb(Notification(lanes, queues=4, stride=2), f"notification_{lanes}",
               "tests.unit.bench_notification", simulator=simulator, parameters={"lanes": lanes})
