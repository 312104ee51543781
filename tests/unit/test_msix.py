# amaranth: UnusedElaboratable=no
"""MsixTable: construction, and cocotb on the Verilog."""

from __future__ import annotations

import pytest

from hw.pcie.msix import MsixTable
from sim.runner import run_cocotb


@pytest.mark.parametrize(("functions", "vectors", "lanes", "says"), [
    (0, 4, 64, "functions must be from 1 to 256, not 0"),
    (257, 4, 64, "functions must be from 1 to 256, not 257"),
    (1, 3, 64, "vectors must be a power of two from 2 to 64, not 3"),
    (1, 128, 64, "vectors must be a power of two from 2 to 64, not 128"),
    (1, 4, 2, "lanes must be at least 4, not 2"),
])
def test_sizes(functions: int, vectors: int, lanes: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MsixTable(functions, vectors, lanes=lanes)


@pytest.mark.parametrize(("simulator", "functions", "vectors", "lanes"), [
    ("icarus", 1, 4, 8),
    ("icarus", 3, 4, 8),
    ("verilator", 5, 64, 64),
], indirect=["simulator"])
def test_cocotb(simulator: str, functions: int, vectors: int, lanes: int) -> None:
    run_cocotb(MsixTable(functions, vectors, lanes=lanes), f"msix_{functions}x{vectors}",
               "tests.unit.bench_msix", simulator=simulator,
               parameters={"functions": functions, "vectors": vectors, "lanes": lanes})
