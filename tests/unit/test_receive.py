# amaranth: UnusedElaboratable=no
"""Deliver and Scatter together: queued frames in, written chains out."""

from __future__ import annotations

import pytest

from hw.virtio.deliver import Deliver
from hw.virtio.receive import Receive
from hw.virtio.scatter import Scatter
from sim.runner import run_cocotb


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="queues must be an even number"):
        Deliver(queues=3, cells=16)
    with pytest.raises(ValueError, match="stride must be a power of two"):
        Scatter(64, stride=3, chains=64)
    with pytest.raises(ValueError, match="chains must be at least 2"):
        Scatter(64, stride=2, chains=1)


@pytest.mark.virtio("SPL-USED-02", "IMP-SPL-USED-01", "NET-RXB-01", "NET-RXB-02", "NET-RX-01",
                    "NET-RX-02", "NET-RX-03", "IMP-NET-RX-01")
@pytest.mark.parametrize("bench", ["receive", "receive_merged"])
@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)],
                         indirect=["simulator"])
def test_receive(simulator: str, lanes: int, bench: str) -> None:
    run_cocotb(Receive(lanes, queues=8, stride=2, cells=1024, queue_size_max=128),
               f"receive_{lanes}", f"tests.unit.bench_{bench}", simulator=simulator,
               parameters={"lanes": lanes})
