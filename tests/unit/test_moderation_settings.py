# amaranth: UnusedElaboratable=no
"""ModerationSettings: what is asked for and what a reset takes back, in order."""

from __future__ import annotations

import pytest

from hw.vf.moderation_settings import ModerationSettings
from sim.runner import run_cocotb


def test_sizes() -> None:
    with pytest.raises(ValueError, match="queues must be from 2 to 16384, not 1"):
        ModerationSettings(1)
    with pytest.raises(ValueError, match="queues must be from 2 to 16384, not 16385"):
        ModerationSettings(16385)


@pytest.mark.parametrize(("simulator", "queues"), [("icarus", 2), ("verilator", 6)],
                         indirect=["simulator"])
def test_cocotb(simulator: str, queues: int) -> None:
    run_cocotb(ModerationSettings(queues), f"moderation_settings_{queues}",
               "tests.unit.bench_moderation_settings", simulator=simulator,
               parameters={"queues": queues})
