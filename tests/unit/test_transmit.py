# amaranth: UnusedElaboratable=no
"""Gather and FrameAssembly together: chains in, frames out."""

from __future__ import annotations

import pytest

from hw.virtio.gather import Gather
from hw.virtio.transmit import Transmit
from sim.runner import run_cocotb


@pytest.mark.parametrize(("stride", "cell_bytes", "group_tlps", "words"), [
    (3, 256, 64, "stride"), (2, 100, 64, "cell_bytes"), (2, 256, 2, "group_tlps"),
    (2, 256, 48, "group_tlps")])
def test_impossible_sizes_are_refused(stride: int, cell_bytes: int, group_tlps: int,
                                      words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Gather(64, stride=stride, cell_bytes=cell_bytes, max_cells=40, group_tlps=group_tlps)


@pytest.mark.virtio("CORE-RSVD-05")
@pytest.mark.parametrize(("simulator", "lanes", "group_tlps", "read_size"), [
    ("icarus", 8, 8, 0), ("verilator", 64, 64, 2)], indirect=["simulator"])
def test_transmit(simulator: str, lanes: int, group_tlps: int, read_size: int) -> None:
    dut = Transmit(lanes, queues=8, stride=2, cell_bytes=256, max_cells=(16384 + 12) // 256 + 1,
                   group_tlps=group_tlps)
    run_cocotb(dut, f"transmit_{lanes}", "tests.unit.bench_transmit", simulator=simulator,
               parameters={"lanes": lanes, "group_tlps": group_tlps, "read_size": read_size})
