# amaranth: UnusedElaboratable=no
"""Scheduler: each announced chain is granted once, queues in turn."""

from __future__ import annotations

import pytest

from hw.vf.scheduler import Scheduler
from sim.runner import run_cocotb


@pytest.mark.parametrize(("queues", "burst", "words"), [(3, 8, "queues"), (4, 0, "burst"),
                                                        (4, 256, "burst")])
def test_impossible_sizes_are_refused(queues: int, burst: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scheduler(queues, transmit=True, burst=burst)


def test_scheduler(simulator: str) -> None:
    run_cocotb(Scheduler(10, transmit=True, burst=8), "scheduler", "tests.unit.bench_scheduler",
               simulator=simulator)
