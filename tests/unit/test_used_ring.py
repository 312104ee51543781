# amaranth: UnusedElaboratable=no
"""UsedRing: entries before their index, each once, in bursts."""

from __future__ import annotations

import pytest

from hw.virtio.used_ring import UsedRing
from sim.runner import run_cocotb


@pytest.mark.parametrize(("lanes", "stride"), [(4, 2), (64, 3), (64, 8)])
def test_impossible_sizes_are_refused(lanes: int, stride: int) -> None:
    with pytest.raises(ValueError, match="must be a power of two"):
        UsedRing(lanes, queues=4, stride=stride)


@pytest.mark.virtio("SPL-USED-01", "IMP-SPL-INO-01", "IMP-SPL-INO-02", "IMP-SPL-INO-03",
                    "PKT-RING-02", "PKT-RING-07", "IMP-PKT-WRAP-01", "IMP-PKT-WRAP-03",
                    "IMP-PKT-WRAP-04", "IMP-PKT-RING-01", "IMP-PKT-RING-03", "IMP-PKT-INO-01",
                    "IMP-PKT-MBUF-01")
@pytest.mark.parametrize("bench", ["used_ring", "used_ring_kinds"])
@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)],
                         indirect=["simulator"])
def test_used_ring(simulator: str, lanes: int, bench: str) -> None:
    run_cocotb(UsedRing(lanes, queues=4, stride=2), f"used_ring_{lanes}",
               f"tests.unit.bench_{bench}", simulator=simulator, parameters={"lanes": lanes})
