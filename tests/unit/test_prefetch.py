# amaranth: UnusedElaboratable=no
"""Prefetch: rings in, chains out."""

from __future__ import annotations

from typing import Any

import pytest

from hw.virtio.prefetch import Prefetch
from sim.runner import run_cocotb

WRAP = 0x10000 - 21  # positions wrap early in each test


def make(lanes: int, direction: str, size_max: int,
         functions: int = 3, first_position: int = 0) -> tuple[Prefetch, dict[str, object]]:
    dut = Prefetch(lanes, direction=direction, functions=functions, stride=2,  # type: ignore[arg-type]
                   queue_size_max=size_max, max_chain_bytes=9100,
                   chains_max=64 if size_max < 1024 else 512, first_position=first_position)
    return dut, {"lanes": lanes, "direction": direction, "size_max": size_max,
                 "context_bits": dut.context_bits, "first_position": first_position,
                 "table_max": dut.sizes.table_max}


CLAUSES = {
    "prefetch": pytest.mark.virtio(
        "SPL-RING-01", "SPL-RING-04", "SPL-IND-01", "SPL-IND-02", "IMP-SPL-IND-01", "PKT-RING-01",
        "PKT-RING-06", "PKT-RING-10", "IMP-PKT-WRAP-01", "IMP-PKT-WRAP-02", "IMP-PKT-WRAP-04",
        "IMP-PKT-RING-02", "IMP-PKT-IND-01", "IMP-PKT-IND-02"),
    "prefetch_stops": pytest.mark.virtio("CORE-STAT-01", "CORE-VQR-01", "CORE-VQR-03"),
    "prefetch_kicks": pytest.mark.virtio(
        "SPL-RING-07", "SPL-RING-08", "SPL-EVT-07", "SPL-EVT-08", "SPL-EVT-09", "SPL-EVT-10",
        "SPL-EVT-11", "IMP-CORE-NOTIF-01", "IMP-CORE-NOTIF-03", "PKT-RING-09"),
}


WIDE = [
    ("transmit", "prefetch", None),
    ("transmit", "prefetch_stops", None),
    ("transmit", "prefetch_faults", None),
    ("transmit", "prefetch_kicks", None),
    ("receive", "prefetch", "all_chains.*(split|mixed)|short_chains"),
    ("receive", "prefetch_stops", "stop_and_go.*True.*split"),
    ("receive", "prefetch_faults", "each_fault.*kind=[03]"),
]


@pytest.mark.parametrize(("direction", "bench", "tests"), [
    pytest.param(*case, marks=CLAUSES.get(case[1], ())) for case in WIDE])
def test_wide(direction: str, bench: str, tests: str | None) -> None:
    dut, parameters = make(64, direction, 64, first_position=WRAP if direction == "receive" else 0)
    run_cocotb(dut, f"prefetch_64_{direction}", f"tests.unit.bench_{bench}", simulator="verilator",
               parameters=parameters, testcase=tests)


@pytest.mark.parametrize(("simulator", "bench", "tests"), [
    # What is slow runs where it is fast.
    ("icarus", "prefetch", "few_reads.*(split|mixed)|short_|in_vain|begun"),
    ("icarus", "prefetch_kicks", "in_vain"),
    ("verilator", "prefetch", "all_chains.*(split|mixed)"),
    ("verilator", "prefetch_faults", "each_fault.*kind=0")], indirect=["simulator"])
def test_narrow(simulator: str, bench: str, tests: str) -> None:
    dut, parameters = make(8, "transmit", 64, first_position=WRAP)
    run_cocotb(dut, "prefetch_8_transmit", f"tests.unit.bench_{bench}", simulator=simulator,
               parameters=parameters, testcase=tests)


def test_rate() -> None:
    dut, parameters = make(64, "transmit", 1024, functions=1)
    run_cocotb(dut, "prefetch_64_rate", "tests.unit.bench_prefetch_rate", simulator="verilator",
               parameters=parameters)


@pytest.mark.parametrize(("change", "words"), [
    ({"lanes": 4}, "lanes"), ({"lanes": 24}, "lanes"), ({"direction": "both"}, "direction"),
    ({"functions": 0}, "functions"), ({"functions": 257}, "functions"), ({"stride": 3}, "stride"),
    ({"stride": 64}, "stride"), ({"queue_size_max": 8}, "queue_size_max"),
    ({"queue_size_max": 100}, "queue_size_max"), ({"first_position": 1 << 16}, "first_position")])
def test_impossible_sizes_are_refused(change: dict[str, Any], words: str) -> None:
    sizes: dict[str, Any] = {"direction": "transmit", "functions": 1, "stride": 2,
                             "queue_size_max": 64, "max_chain_bytes": 9100, "lanes": 8} | change
    with pytest.raises(ValueError, match=words):
        Prefetch(sizes.pop("lanes"), **sizes)
