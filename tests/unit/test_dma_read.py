# amaranth: UnusedElaboratable=no
"""DmaRead: construction, and cocotb on the Verilog."""

from __future__ import annotations

from typing import Any

import pytest

from hw.pcie.dma_read import DmaRead
from sim.runner import run_cocotb

_GOOD: dict[str, Any] = {"lanes": 8, "clients": [16, 16], "tags": 16, "max_read_bytes": 128,
                         "timeout_cycles": 1000, "functions": 3, "queues": 8}


@pytest.mark.parametrize(("change", "says"), [
    ({"lanes": 12}, "lanes must be a power of two from 4 to 64, not 12"),
    ({"tags": 512}, "tags must be a power of two from 2 to 256, not 512"),
    ({"max_read_bytes": 96}, "max_read_bytes must be a power of two from 128 to 4096, not 96"),
    ({"timeout_cycles": 255}, "timeout_cycles must be at least 256, not 255"),
    ({"functions": 0}, "functions must be from 1 to 256, not 0"),
    ({"clients": []}, "there must be a client"),
    ({"clients": [16, 0]}, "each context at least 1 bit"),
    ({"quotas": [16, 1]}, "16 together at most, not (16, 1)"),
    ({"quotas": [16]}, "quotas must give each of 2 clients a tag"),
    ({"queues": 0}, "queues must be from 1 to 16384, not 0"),
])
def test_sizes(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(").replace(")", r"\)")):
        DmaRead(**{**_GOOD, **change})


@pytest.mark.parametrize(("simulator", "sizes"), [
    ("icarus", {"lanes": 8, "tags": 16, "max_read_bytes": 128, "timeout_cycles": 2000,
                "functions": 3, "queues": 8, "clients": (16, 17), "quotas": (11, 5)}),
    ("verilator", {"lanes": 64, "tags": 256, "max_read_bytes": 512, "timeout_cycles": 4000,
                   "functions": 256, "queues": 512, "clients": (16, 24, 32),
                   "quotas": (160, 64, 32)}),
], indirect=["simulator"])
@pytest.mark.parametrize("bench", ["dma_read", "dma_read_failures"])
def test_cocotb(simulator: str, sizes: dict[str, Any], bench: str) -> None:
    words = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value
             for name, value in sizes.items() if name != "clients"}
    words["contexts"] = ",".join(map(str, sizes["clients"]))
    run_cocotb(DmaRead(**sizes), f"dma_read_{8 * sizes['lanes']}", f"tests.unit.bench_{bench}",
               simulator=simulator, parameters=words)
