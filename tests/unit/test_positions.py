# amaranth: UnusedElaboratable=no
"""QueuePositions and LoadedPositions: where queues stand, and are to begin."""

from __future__ import annotations

import pytest

from hw.vf.positions import LoadedPositions, QueuePositions
from sim.runner import run_cocotb


def test_sizes() -> None:
    for block in (LoadedPositions, QueuePositions):
        for queues in (1, 16385):
            with pytest.raises(ValueError, match=f"from 2 to 16384, not {queues}"):
                block(queues)


@pytest.mark.parametrize(("simulator", "queues"), [("icarus", 3), ("icarus", 12)],
                         indirect=["simulator"])
def test_cocotb(simulator: str, queues: int) -> None:
    for block, name in ((LoadedPositions(queues), "loaded"), (QueuePositions(queues), "queue")):
        run_cocotb(block, f"{name}_positions_{queues}", "tests.unit.bench_positions",
                   simulator=simulator, parameters={"queues": queues}, testcase=f"{name}.*")
