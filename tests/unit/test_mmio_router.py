# amaranth: UnusedElaboratable=no
"""The MMIO router: windows that make sense, accesses and answers in order."""

from __future__ import annotations

import pytest

from hw.pcie.mmio_router import TARGETS, MmioRouter, MmioTarget
from sim.runner import missing, run_cocotb


@pytest.mark.parametrize("wrong", [
    {"size": 2}, {"size": 24}, {"size": 1 << 21}, {"size": 64, "first": 32},
    {"size": 64, "first": 1 << 20}, {"size": 64, "bar": 6},
])
def test_windows_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="x: "):
        MmioTarget("x", **{"bar": 0, **wrong})


def test_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="targets must not be empty"):
        MmioRouter([])
    with pytest.raises(ValueError, match="targets a and b overlap"):
        MmioRouter([MmioTarget("a", 2, 64), MmioTarget("b", 2, 16, 48)])
    with pytest.raises(ValueError, match="outstanding must be from 2 to 64, not 65"):
        MmioRouter(outstanding=65)
    assert [target.name for target in TARGETS] == ["virtio", "msix", "management"]


def test_accesses() -> None:
    if reason := missing("icarus"):
        pytest.skip(reason)
    router = MmioRouter([MmioTarget("virtio", 2, 0x8000), MmioTarget("msix", 4, 0x8000),
                         MmioTarget("management", 0, 0x4000, 0x4000)])
    run_cocotb(router, "mmio_router", "tests.unit.bench_mmio_router", simulator="icarus")
