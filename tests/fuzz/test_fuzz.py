"""A short run of the fuzzer on the native engine; and it sees what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hw.config import NicConfig
from sim.fuzz.arena import Arena
from sim.fuzz.case import fuzz_case
from sim.fuzz.judge import Books
from sim.fuzz.run import FuzzOptions, run_fuzz
from sim.native.wire import NativeWire
from sw_driver.management import FaultRecord, Management, Position
from sw_driver.virtio_pci import VirtioPci

ROOT = Path(__file__).parents[2]
FULL = NicConfig.preset("full")


@pytest.mark.virtio("CORE-STAT-03", "CORE-STAT-04", "CORE-RST-02", "CORE-VQR-01", "SPL-RING-03",
                    "SPL-RING-04", "SPL-RING-06", "PKT-RING-04", "PKT-RING-05")
def test_hostile_rings(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is touched that is not named, each mistake is told, and the card serves again."""
    assert run_fuzz(FuzzOptions(config=FULL, cases=4, seed=seed, folder=tmp_path)) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    jsonschema.validate(summary, json.loads(
        (ROOT / "docs" / "schema" / "fuzz.schema.json").read_text()))
    assert summary["chains"] > 500 and summary["honest"] and summary["accesses"] > 1000
    assert 0.9 * summary["chains"] < summary["used"] <= summary["chains"]
    assert {"device", "function", "queue"} >= set(summary["resets"]) and summary["resets"]
    assert summary["faults"]
    assert capsys.readouterr().out.endswith("fuzz: 4 passed, 0 failed, 0 skipped\n")


def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a byte less than the card may touch."""
    name = Arena.name

    def less(self: Arena, address: int, size: int, *, written: bool) -> None:
        name(self, address, size - 1, written=written)

    monkeypatch.setattr(Arena, "name", less)


def _turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is named be read where it may be written, and the other way round."""
    allows = Arena.allows
    monkeypatch.setattr(Arena, "allows", lambda self, address, size, written: allows(
        self, address, size, written=not written))


def _change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what leaves on the wire be other than it was."""
    take = NativeWire.take_frames

    def changed(self: NativeWire) -> list[Any]:
        return [replace(frame, data=frame.data[:-1] + bytes([frame.data[-1] ^ 1]))
                for frame in take(self)]

    monkeypatch.setattr(NativeWire, "take_frames", changed)


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the log of faults be empty."""
    async def empty(self: Management, name: str, field: str | None = None) -> int:
        return 0

    monkeypatch.setattr(Management, "read", empty)


def _mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each fault be that of another queue."""
    take = Management.take_fault

    async def other(self: Management) -> FaultRecord | None:
        record = await take(self)
        return None if record is None else replace(record, queue=record.queue ^ 1)

    monkeypatch.setattr(Management, "take_fault", other)


def _place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a queue that runs take another position."""
    async def done(self: Management, queue: int, position: int) -> None:
        pass

    monkeypatch.setattr(Management, "load_position", done)


def _sleepless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device not be suspended, whatever it is told."""
    async def done(self: VirtioPci) -> None:
        pass

    monkeypatch.setattr(VirtioPci, "suspend", done)
    monkeypatch.setattr(VirtioPci, "resume", done)


def _stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the card say of queues that they do not run."""
    position = Management.position

    async def other(self: Management, queue: int) -> Position:
        return replace(await position(self, queue), started=False)

    monkeypatch.setattr(Management, "position", other)


@pytest.mark.parametrize(("fault", "says"), [
    (_place, "was given another position"), (_stopped, "says that it does not"),
    (_sleepless, "a suspended device"), (_narrow, "which nothing names"),
    (_turned, "which nothing names"), (_change, "a frame"),
    (_forget, "fault record"), (_mistake, "the fault of another queue"),
])
def test_it_sees_what_is_wrong(fault: Callable[[pytest.MonkeyPatch], None], says: str,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    """What the card would do wrong is found, in one of the first cases."""
    fault(monkeypatch)
    texts = (fuzz_case(FULL, 1, number, Books()) for number in range(6))
    first = next((text for text in texts if text is not None), "nothing")
    assert says in first or (says == "a frame" and "honest transmit" in first)


def test_a_case_is_the_same_each_time() -> None:
    first, second = Books(), Books()
    for books in (first, second):
        assert fuzz_case(FULL, 3, 1, books) is None
        books.engine_cpu_s = 0.0
    assert first == second and first.cycles


def test_several_processes(tmp_path: Path, seed: int) -> None:
    """They share the cases, and find what one finds."""
    counted = []
    for jobs in (1, 2):
        assert run_fuzz(FuzzOptions(config=FULL, cases=2, first=4, seed=seed, jobs=jobs,
                                    folder=tmp_path)) == 0
        counted.append(json.loads((tmp_path / "summary.json").read_text()))
        for name in ("engine_cpu_s", "cpu_s", "wall_s"):
            del counted[-1][name]
    assert counted[0] == counted[1]


def test_a_failure_says_how_to_run_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sim.fuzz.run.fuzz_case", lambda _config, _seed, number, _books: (
        "it burns" if number == 8 else None))
    monkeypatch.setattr("sim.fuzz.run.card_library", lambda _config: None)
    assert run_fuzz(FuzzOptions(config=FULL, card="VFS=3", cases=3, first=7, seed=5,
                                folder=tmp_path)) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["passed"], summary["failed"]) == (2, 1)
    command = "make fuzz VFS=3 SEED=5 FIRST=8 CASES=1"
    assert summary["failures"] == [{"case": 8, "command": command, "text": "it burns"}]
    out = capsys.readouterr().out
    assert command in out and out.endswith("fuzz: 2 passed, 1 failed, 0 skipped\n")
