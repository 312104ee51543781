# amaranth: UnusedElaboratable=no
"""Management, Counters and FaultLog: the rows, the page made of them, and cocotb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hw.pcie.bar_map import MANAGEMENT_BAR_BYTES
from hw.vf.counters import CounterBankMemory
from hw.vf.faults import FaultLog
from hw.vf.management import Management
from hw.vf.regs import COUNTER_BANKS, REGISTERS, Field, Register, counter, register
from hw.virtio.deliver import DropReason
from hw.wire.types import AdmissionDrop, EntryDrop
from sim import docs
from sim.runner import run_cocotb

CONSTANTS = {
    "functions.functions": 5, "functions.stride": 4, "queues.size_max": 1024, "queues.lanes": 64,
    "frames.max_bytes": 9018, "frames.clock_mhz": 250,
}


def test_sizes() -> None:
    with pytest.raises(ValueError, match="functions must be from 1 to 256, not 257"):
        Management(257, constants=CONSTANTS)
    with pytest.raises(ValueError, match="fault_records must be from 2 to 255, not 1"):
        Management(1, constants=CONSTANTS, fault_records=1)
    with pytest.raises(ValueError, match=r"constants must be those of frames\.clock_mhz, .*, not "):
        Management(1, constants={})
    with pytest.raises(ValueError, match=r"queues\.lanes must have 8 bits, not 256"):
        Management(1, constants=CONSTANTS | {"queues.lanes": 256})
    with pytest.raises(ValueError, match="depth must be from 2 to 255, not 256"):
        FaultLog(256)
    with pytest.raises(ValueError, match="rows must be from 1 to 16, not 17"):
        CounterBankMemory(1, 17, count_bytes=True)
    with pytest.raises(ValueError, match="functions must be from 1 to 256, not 0"):
        CounterBankMemory(0, 1, count_bytes=False)


def test_rows() -> None:
    assert len({row.offset for row in REGISTERS}) == len({row.name for row in REGISTERS})
    assert len(REGISTERS) == len({row.offset for row in REGISTERS})
    for row in REGISTERS:
        assert 0 <= row.offset < MANAGEMENT_BAR_BYTES
        for field in row.fields:
            assert (field.access, field.source) in {
                ("RO", "constant"), ("RO", "live"), ("RW", "software"), ("WO", "software")}
    with pytest.raises(ValueError, match="b overlaps, or lies outside"):
        Register(0, "x", "", (Field("a", 0, 8, "RO", "live", ""),
                              Field("b", 7, 1, "RO", "live", "")))
    with pytest.raises(ValueError, match="0x2 is no multiple of 4"):
        Register(2, "x", "", ())
    assert register("identity").field("magic").reset == int.from_bytes(b"RNGL", "little")


def test_drop_reasons_are_the_rooms_own() -> None:
    """A room's event is counted in the row of its reason's number."""
    banks = {bank.name: [row.name for row in bank.counters] for bank in COUNTER_BANKS}
    assert banks["wire_dropped"] == ["entry_full", "frame_error", "oversize", "runt"]
    assert [reason.name for reason in EntryDrop] == ["FULL", "ERROR", "LONG", "SHORT"]
    assert banks["admission_dropped"] == [reason.name.lower() for reason in AdmissionDrop]
    assert banks["receive_dropped"] == [reason.name.lower() for reason in DropReason]
    assert counter("receive_dropped", "no_fit") == (5, DropReason.NO_FIT.value)


def test_the_page_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.stale() == []
    assert docs.main(["--check"]) == 0
    page = docs.ROOT / "docs" / "x.md"
    monkeypatch.setattr(docs, "PAGES", {page: lambda: "new"})
    assert docs.main(["--check"]) == 1
    assert "docs/x.md is out of date: run `make docs`" in capsys.readouterr().err
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "RESULTS", tmp_path / "results.json")  # whatever was run before
    monkeypatch.setattr(docs, "PAGES", {tmp_path / "x.md": lambda: "new"})
    assert docs.main([]) == 0
    assert (tmp_path / "x.md").read_text() == "new"
    assert docs.main(["--check"]) == 0


@pytest.mark.parametrize(("simulator", "functions", "records"), [
    ("verilator", 5, 8),
    ("icarus", 1, 64),
], indirect=["simulator"])
def test_cocotb(simulator: str, functions: int, records: int) -> None:
    run_cocotb(Management(functions, constants=CONSTANTS, fault_records=records),
               f"management_{functions}", "tests.unit.bench_management", simulator=simulator,
               parameters={"functions": functions, "records": records,
                           "constants": json.dumps(CONSTANTS)})
