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


@pytest.mark.parametrize("direction", ["transmit", "receive"])
def test_wide(direction: str) -> None:
    dut, parameters = make(64, direction, 64)
    run_cocotb(dut, f"prefetch_64_{direction}", BENCH, simulator="verilator",
               parameters=parameters)


@pytest.mark.parametrize(("simulator", "tests"), [
    # What is slow runs where it is fast.
    ("icarus", "few_reads|failed_reads|light_traffic|runs_are|short_chains|in_vain"),
    ("verilator", "all_chains|stop_and_go|each_fault")], indirect=["simulator"])
def test_narrow(simulator: str, tests: str) -> None:
    dut, parameters = make(8, "transmit", 64)
    run_cocotb(dut, "prefetch_8_transmit", BENCH, simulator=simulator, parameters=parameters,
               testcase=tests)
