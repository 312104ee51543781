# amaranth: UnusedElaboratable=no
"""Control queues: commands in any shape, in split and packed rings, and what they do."""

from __future__ import annotations

from typing import Any

import pytest

from hw.stream.types import QUEUE_BITS
from hw.virtio.control_queue import ControlQueue
from sim.runner import run_cocotb


def make(lanes: int, first_position: int = 0) -> tuple[ControlQueue, dict[str, object]]:
    sizes: dict[str, Any] = {"functions": 6, "first_queue": 24, "max_pairs": 5,
                             "first_position": first_position}
    return (ControlQueue(lanes, queue_size_max=128, **sizes),
            {"lanes": lanes, "size_max": 128, **sizes})


@pytest.mark.virtio("IMP-NET-CVQ-02", "IMP-NET-CVQ-03", "SPL-RING-01", "SPL-RING-02", "SPL-RING-03",
                    "SPL-RING-04", "SPL-RING-06", "SPL-IND-01", "SPL-IND-02", "SPL-EVT-07",
                    "SPL-EVT-09", "SPL-EVT-10", "SPL-EVT-11", "PKT-RING-01", "PKT-RING-04",
                    "PKT-RING-05", "PKT-RING-06", "PKT-RING-09", "PKT-RING-10", "PKT-RING-11",
                    "IMP-SPL-RING-01", "IMP-SPL-IND-01", "IMP-PKT-WRAP-02", "IMP-PKT-WRAP-04",
                    "IMP-PKT-RING-02", "IMP-PKT-RING-03", "IMP-PKT-IND-01", "IMP-PKT-IND-02",
                    "IMP-PKT-EVT-03")
@pytest.mark.parametrize(("simulator", "lanes", "bench", "tests"), [
    ("verilator", 64, "control_queue", None),
    ("verilator", 64, "control_faults", None),
    ("icarus", 8, "control_queue", "all_commands.*True|any_cut|for_nothing"),
    ("icarus", 8, "control_faults", "failed_reads")], indirect=["simulator"])
def test_control_queue(simulator: str, lanes: int, bench: str, tests: str | None) -> None:
    dut, parameters = make(lanes)
    run_cocotb(dut, f"control_queue_{lanes}", f"tests.unit.bench_{bench}", simulator=simulator,
               parameters=parameters, testcase=tests)


@pytest.mark.virtio("IMP-SPL-RING-02")
def test_index_wraps() -> None:
    dut, parameters = make(16, first_position=0x10000 - 9)
    run_cocotb(dut, "control_queue_16_wrap", "tests.unit.bench_control_queue",
               simulator="verilator", parameters=parameters,
               testcase="all_commands.*False|not_lost.*2")


@pytest.mark.parametrize(("change", "words"), [
    ({"lanes": 4}, "lanes"), ({"lanes": 24}, "lanes"), ({"lanes": 128}, "lanes"),
    ({"functions": 0}, "functions"), ({"functions": 257}, "functions"),
    ({"first_queue": (1 << QUEUE_BITS) - 3}, "first_queue"), ({"first_queue": -1}, "first_queue"),
    ({"max_pairs": 0}, "max_pairs"), ({"max_pairs": 0x8001}, "max_pairs"),
    ({"queue_size_max": 1}, "queue_size_max"), ({"queue_size_max": 100}, "queue_size_max"),
    ({"first_position": 1 << 16}, "first_position")])
def test_impossible_sizes_are_refused(change: dict[str, Any], words: str) -> None:
    sizes: dict[str, Any] = {"lanes": 8, "functions": 4, "first_queue": 8, "max_pairs": 4,
                             "queue_size_max": 64} | change
    with pytest.raises(ValueError, match=words):
        ControlQueue(sizes.pop("lanes"), **sizes)
