"""The whole card with the driver, a host and a wire around it: what only all rooms together show.

Both presets run in Verilator, each built once, like `make sim` does; ``small`` once in Icarus, too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from hw.config import NicConfig
from sim.bring_up import config_parameter
from sim.card import card_design
from sim.runner import missing, run_cocotb


def run(preset: str, bench: str, testcase: str, *, simulator: str = "verilator",
        **case: Any) -> None:
    """Run one test of a bench; it finds ``case`` in RINGLET_CASE."""
    if reason := missing(simulator):
        pytest.skip(reason)
    config = NicConfig.preset(preset)
    run_cocotb(card_design(config), f"card_{preset}", f"tests.system.bench_{bench}",
               simulator=simulator, testcase=f"{testcase}$",
               parameters={**config_parameter(config), "case": json.dumps(case)})


@pytest.mark.virtio("CORE-RSVD-01", "CORE-FEAT-02", "SPL-USED-01", "SPL-USED-02", "SPL-RING-06",
                    "SPL-EVT-02", "SPL-EVT-03", "SPL-EVT-07", "IMP-SPL-USED-01", "NET-RXB-01",
                    "NET-RXB-02", "NET-RX-01", "NET-RX-05", "NET-RX-26", "NET-RX-31",
                    "NET-CFG-06", "NET-CFG-07", "IMP-NET-TX-01", "IMP-NET-RX-02", "CORE-RSVD-05")
@pytest.mark.parametrize(("preset", "simulator", "lengths"), [
    ("full", "verilator", (60, 1514, 1)), ("full", "verilator", (1515, 9018, 83)),
    ("small", "icarus", (60, 76, 8)), ("small", "verilator", (60, 2000, 30))])
def test_lengths(preset: str, simulator: str, lengths: tuple[int, int, int]) -> None:
    run(preset, "frames", "lengths", simulator=simulator, lengths=lengths)


@pytest.mark.virtio("SPL-RING-01", "SPL-RING-03", "SPL-RING-04", "SPL-RING-06", "SPL-RING-07",
                    "SPL-RING-08", "SPL-EVT-08", "IMP-SPL-RING-01")
@pytest.mark.parametrize("draw", range(10))
def test_anything(draw: int) -> None:
    run("full", "frames", "anything", draw=draw, frames=150)


@pytest.mark.virtio("SPL-RING-01", "SPL-RING-03", "SPL-RING-04")
@pytest.mark.parametrize("draw", range(100, 103))
def test_anything_small(draw: int) -> None:
    run("small", "frames", "anything", draw=draw, frames=60)


def test_overload() -> None:
    run("full", "frames", "overload", frames=2000)


@pytest.mark.virtio("IMP-SPL-USED-01")
def test_positions_wrap() -> None:
    run("full", "frames", "positions_wrap", frames=300)


@pytest.mark.parametrize(("preset", "count"), [("full", 60), ("small", 20)])
def test_frames_that_fit_no_buffer(preset: str, count: int) -> None:
    run(preset, "faults", "no_fit", frames=count)


@pytest.mark.virtio("NET-CFG-05")
@pytest.mark.parametrize(("preset", "count"), [("full", 80)])
def test_bad_frames(preset: str, count: int) -> None:
    run(preset, "faults", "bad_frames", frames=count)


@pytest.mark.virtio("CORE-STAT-03", "CORE-STAT-04", "PCI-ISR-02", "SPL-RING-03", "SPL-RING-04",
                    "SPL-EVT-11", "CORE-RST-02", "PCI-COM-07", "PCI-COM-08")
def test_driver_mistakes() -> None:
    run("full", "faults", "driver_mistakes")


@pytest.mark.virtio("CORE-STAT-03", "CORE-STAT-04", "PCI-ISR-02")
def test_host_failures() -> None:
    run("full", "faults", "host_failures", kinds=["UNSUPPORTED", "ABORT", "POISONED"],
        reads=["index", "entry", "descriptor", "data", "flags"])


@pytest.mark.virtio("CORE-STAT-03", "CORE-STAT-04")
def test_receive_failures() -> None:
    run("full", "faults", "receive_failures", kinds=["UNSUPPORTED", "ABORT", "POISONED"],
        reads=["entry", "descriptor"])


@pytest.mark.virtio("CORE-STAT-03", "CORE-STAT-04")
def test_read_timeout() -> None:
    run("small", "faults", "host_failures", kinds=["NEVER"], reads=["data"])


@pytest.mark.virtio("CORE-RST-01", "CORE-RST-02", "CORE-FEAT-05", "PCI-COM-07", "PCI-COM-08",
                    "PCI-COM-09", "PCI-MSIX-07", "IMP-PCI-COM-01")
@pytest.mark.parametrize("kind", ["device", "function", "abrupt"])
def test_resets_in_traffic(kind: str) -> None:
    run("full", "resets", "in_traffic", kind=kind, turns=12, packed=kind != "function")


@pytest.mark.virtio("CORE-VQR-01", "CORE-VQR-02", "CORE-VQR-03", "CORE-VQR-04", "PCI-COM-12",
                    "PCI-COM-14", "IMP-CORE-VQR-01", "DRV-CORE-VQR-01", "DRV-PCI-COM-07")
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_queue_resets_in_traffic(packed: bool) -> None:
    run("full", "resets", "one_queue", turns=12, packed=packed)


@pytest.mark.virtio("CORE-SUSP-03", "CORE-SUSP-04", "CORE-SUSP-08", "CORE-SUSP-09",
                    "CORE-SUSP-10", "CORE-SUSP-11", "CORE-SUSP-12", "IMP-CORE-SUSP-01")
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_suspended_in_traffic(packed: bool) -> None:
    run("full", "resets", "suspended", turns=12, packed=packed)


def test_sleep_in_traffic() -> None:
    run("full", "resets", "asleep", turns=12, packed=True)


@pytest.mark.virtio("SPL-EVT-07", "SPL-EVT-08", "SPL-EVT-09", "SPL-EVT-10", "SPL-RING-07")
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event"])
@pytest.mark.parametrize("direction", ["transmit", "receive"])
def test_kick_races(direction: str, event_idx: bool) -> None:
    run("full", "races", f"kick_of_{direction}", latency=20, window=(0, 200), event_idx=event_idx,
        packed=False)


@pytest.mark.virtio("SPL-EVT-02", "SPL-EVT-03", "SPL-EVT-05")
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event"])
@pytest.mark.parametrize("direction", ["transmit", "receive"])
def test_rearm_races(direction: str, event_idx: bool, packed: bool) -> None:
    run("full", "races", f"rearm_of_{direction}", latency=20, around=(60, 100),
        event_idx=event_idx, packed=packed)


@pytest.mark.virtio("SPL-EVT-02", "SPL-EVT-03", "SPL-EVT-05", "IMP-PKT-EVT-04")
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event"])
def test_rearm_in_bursts(event_idx: bool, packed: bool) -> None:
    run("full", "races", "rearm_in_bursts", latency=40, turns=150, event_idx=event_idx,
        packed=packed)


PCI = {
    "facts": ("PCI-GEN-01", "PCI-ID-01", "PCI-ID-02", "PCI-ID-05", "PCI-ID-06", "PCI-ID-07",
              "PCI-COM-02", "PCI-NOTIF-01", "PCI-ISR-01", "PCI-DCFG-01", "PCI-PCFG-01",
              "PCI-MSIX-01", "PCI-MSIX-02", "CORE-RSVD-01", "CORE-RSVD-03", "CORE-FEAT-02",
              "NET-CFG-02", "NET-CFG-03", "NET-CFG-11", "NET-CFG-12"),
    "masked_vectors": ("PCI-GEN-01", "PCI-MSIX-04", "PCI-MSIX-06"),
    "one_vector_for_all": ("PCI-MSIX-04", "PCI-INT-03"),
    "without_interrupts": ("PCI-ISR-03", "PCI-ISR-04", "PCI-ISR-05", "IMP-PCI-ISR-01"),
    "vectors_unmapped": ("PCI-INT-01", "PCI-INT-02", "PCI-MSIX-05"),
    "link_changes": ("PCI-ISR-02", "PCI-COM-06", "IMP-PCI-COM-04", "IMP-NET-CFG-01"),
    "window": ("PCI-PCFG-01", "PCI-PCFG-02", "PCI-PCFG-03", "IMP-PCI-PCFG-01"),
}


@pytest.mark.parametrize("testcase", [
    pytest.param(name, marks=pytest.mark.virtio(*ids)) for name, ids in PCI.items()])
def test_pci(testcase: str) -> None:
    run("full", "pci", testcase)


def test_pci_small() -> None:
    run("small", "pci", "masked_vectors")
