# amaranth: UnusedElaboratable=no
"""Configuration space: its table, its registers, function-level reset, the virtio window."""

from __future__ import annotations

from typing import Any

import pytest

from hw.pcie.capabilities import ConfigRow, config_rows
from hw.pcie.config_space import ConfigSpace
from sim.runner import missing, run_cocotb

BENCH = "tests.unit.bench_config_space"


@pytest.mark.parametrize(("wrong", "words"), [
    ({"max_payload_bytes": 100}, "max_payload_bytes must be 128, 256 or 512, not 100"),
    ({"msix_vectors": 1}, "msix_vectors must be from 2 to 2048, not 1"),
    ({"msix_vectors": 2048}, "a table of 2048 does not fit"),
    ({"subsystem_device": 0x3F}, "subsystem_device must be from 0x40"),
    ({"functions": 2}, "functions must be 1"),
])
def test_what_cannot_be_built(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConfigSpace(**wrong)


@pytest.mark.parametrize("wrong", [
    {"offset": 2}, {"offset": 4096}, {"offset": 0, "value": 1 << 32},
    {"offset": 0, "writable": 3, "clears": 1}, {"offset": 0, "writable": 1, "kept": 2},
])
def test_rows_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="row"):
        ConfigRow(name="row", **wrong)


@pytest.mark.virtio("PCI-MSIX-02")
def test_sizes_show_in_the_table() -> None:
    for vectors in (2, 4, 33, 512):
        for payload, code in ((128, 0), (256, 1), (512, 2)):
            rows = {row.offset: row for row in config_rows(max_payload_bytes=payload,
                                                           msix_vectors=vectors)}
            assert rows[0x48].value >> 16 & 0x7FF == vectors - 1
            assert rows[0x5C].value & 7 == code


@pytest.mark.virtio(
    "PCI-GEN-01", "PCI-ID-01", "PCI-ID-02", "PCI-ID-05", "PCI-ID-06", "PCI-ID-07", "PCI-CAP-04",
    "PCI-COM-01", "PCI-COM-02", "PCI-NOTIF-01", "PCI-NOTIF-02", "PCI-NOTIF-03", "PCI-NOTIF-04",
    "PCI-NOTIF-05", "PCI-NOTIF-06", "PCI-NOTIF-07", "PCI-NOTIF-08", "PCI-NOTIF-09",
    "PCI-NOTIF-10", "PCI-NOTIF-11", "PCI-ISR-01", "PCI-ISR-04", "PCI-DCFG-01", "PCI-DCFG-02",
    "PCI-PCFG-01", "PCI-PCFG-02", "PCI-PCFG-03", "PCI-MSIX-01", "PCI-MSIX-02",
    "IMP-PCI-PCFG-01")
def test_registers() -> None:
    if reason := missing("icarus"):
        pytest.skip(reason)
    run_cocotb(ConfigSpace(), "config_space", BENCH, simulator="icarus")
