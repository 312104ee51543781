# amaranth: UnusedElaboratable=no
"""DmaWrite and Requester: construction, and cocotb on the Verilog of both together."""

from __future__ import annotations

from typing import Any

import pytest

from hw.pcie.dma_write import DmaWrite
from hw.pcie.requester import Requester
from sim.runner import run_cocotb
from tests.unit.dma_write_path import DmaWritePath


@pytest.mark.parametrize(("wrong", "says"), [
    ({"lanes": 4}, "lanes must be at least 8, not 4"),
    ({"lanes": 12}, "lanes must be a power of two"),
    ({"clients": 0}, "clients must be from 1 to 16, not 0"),
    ({"functions": 257}, "functions must be from 1 to 256, not 257"),
    ({"max_payload_bytes": 1024}, "max_payload_bytes must be 128, 256 or 512, not 1024"),
])
def test_sizes(wrong: dict[str, int], says: str) -> None:
    sizes: dict[str, Any] = {"lanes": 64, "clients": 2, "functions": 1, "max_payload_bytes": 256}
    with pytest.raises(ValueError, match=says):
        DmaWrite(**(sizes | wrong))


def test_requester_sizes() -> None:
    with pytest.raises(ValueError, match="lanes must be at least 4, not 2"):
        Requester(2, functions=1)
    with pytest.raises(ValueError, match="functions must be from 1 to 256, not 0"):
        Requester(64, functions=0)


@pytest.mark.parametrize("bench", ["dma_write", "requester"])
@pytest.mark.parametrize(("simulator", "lanes", "clients", "functions"), [
    ("icarus", 8, 3, 4),
    ("verilator", 64, 3, 9),
], indirect=["simulator"])
def test_cocotb(simulator: str, lanes: int, clients: int, functions: int, bench: str) -> None:
    run_cocotb(
        DmaWritePath(lanes, clients=clients, functions=functions, max_payload_bytes=512),
        f"dma_write_{8 * lanes}", f"tests.unit.bench_{bench}", simulator=simulator,
        parameters={"lanes": lanes, "clients": clients, "functions": functions})
