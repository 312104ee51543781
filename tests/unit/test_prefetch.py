"""Prefetch: rings in, chains out."""

from __future__ import annotations

import pytest

from hw.virtio.prefetch import Prefetch
from sim.runner import run_cocotb

BENCH = "tests.unit.bench_prefetch"


def make(lanes: int, direction: str, size_max: int) -> tuple[Prefetch, dict[str, object]]:
    dut = Prefetch(lanes, direction=direction, functions=3, stride=2,  # type: ignore[arg-type]
                   queue_size_max=size_max, max_chain_bytes=9100, chains_max=128)
    return dut, {"lanes": lanes, "direction": direction, "size_max": size_max,
                 "context_bits": dut.context_bits}


@pytest.mark.parametrize(("simulator", "lanes", "direction"), [
    ("icarus", 8, "transmit"), ("verilator", 64, "transmit"), ("verilator", 64, "receive")],
    indirect=["simulator"])
def test_prefetch(simulator: str, lanes: int, direction: str) -> None:
    dut, parameters = make(lanes, direction, 64)
    run_cocotb(dut, f"prefetch_{lanes}_{direction}", BENCH, simulator=simulator,
               parameters=parameters)
