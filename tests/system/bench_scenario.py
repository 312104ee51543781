"""The scenario of `tests.system.scenario` in cocotb; leaves what came of it in a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from sim.bring_up import bring_up
from tests.system.scenario import play

RESULTS = "scenario.json"


@cocotb.test
async def scenario(dut: Any) -> None:
    """Frames both ways."""
    case = json.loads(os.environ["RINGLET_CASE"])
    card = await bring_up(dut, rx_rate=case["rx_rate"])

    def give(frames: list[bytes]) -> None:
        for frame in frames:
            card.wire.send(frame)

    results = await play(card.device, card.function, seed=case["seed"], count=case["count"],
                         give=give, start=cocotb.start_soon)
    results["transmitted"] = [
        frame.data.hex() for frame in card.wire.frames if frame.direction == "tx"]
    card.host.root.check()
    Path(RESULTS).write_text(json.dumps(results))
