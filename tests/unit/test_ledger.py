"""The ledger of clauses: what applies, and that the worst outcome of a clause's tests counts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from tests.ledger import ROOT, Clause, Ledger, applicable, clauses


@pytest.mark.parametrize(("feature", "offered", "applies"), [
    ("-", set(), True),
    ("MQ", set(), False),
    ("MQ", {"MQ"}, True),
    ("MQ+RING_RESET", {"MQ"}, False),
    ("MQ+RING_RESET", {"MQ", "RING_RESET"}, True),
    ("RSS/HASH_REPORT", {"HASH_REPORT"}, True),
    ("HOST_TSO4/6/USO/UFO", {"HOST_TSO6"}, True),
    ("HOST_TSO4/6/USO/UFO", {"HOST_USO"}, True),
    ("HOST_TSO4/6/USO/UFO", {"HOST_ECN"}, False),
    ("GUEST_TSO4/6/USO/UFO", {"GUEST_USO6"}, True),
    ("ADMIN_VQ (FF caps)", {"ADMIN_VQ"}, False),
    ("legacy", {"MQ"}, False),
])
def test_what_applies(feature: str, offered: set[str], applies: bool) -> None:
    assert applicable(Clause("X", "MUST", feature, "rtl-ring"), offered)[0] is applies


def test_what_cannot_be_tested_does_not_apply() -> None:
    assert not applicable(Clause("X", "MUST", "-", "n/a"), set())[0]


@pytest.mark.parametrize(("number", "applies"), [("01", False), ("02", False), ("03", True)])
def test_what_no_driver_exists_for_does_not_apply(number: str, applies: bool) -> None:
    """The others of the same area do."""
    clause = Clause(f"PCI-NTLD-{number}", "SHOULD", "-", "rtl-register")
    found, reason = applicable(clause, set())
    assert found is applies
    assert applies or "1041" in reason


def test_every_list_is_read() -> None:
    known = clauses()
    assert {"CORE-STAT-01", "IMP-CORE-STAT-01", "DRV-CORE-STAT-01"} <= known.keys()


def report(ids: list[str], outcome: str, node: str, when: str = "call") -> Any:
    return SimpleNamespace(user_properties=[("virtio", each) for each in ids], outcome=outcome,
                           nodeid=node, when=when, capstdout=f"x: {ROOT}/build/{node}/run.log\n")


def test_the_worst_outcome_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.pytest_runtest_logreport(report(["CORE-STAT-01", "CORE-STAT-02"], "passed", "a"))
    ledger.pytest_runtest_logreport(report(["CORE-STAT-01"], "failed", "b"))
    ledger.pytest_runtest_logreport(report(["CORE-STAT-03"], "skipped", "c", "setup"))
    ledger.pytest_runtest_logreport(report(["CORE-STAT-04"], "passed", "d", "setup"))
    ledger.pytest_sessionfinish()
    with (tmp_path / "ledger.csv").open(newline="") as lines:
        rows = {row["id"]: row for row in csv.DictReader(lines)}
    assert list(next(iter(rows.values()))) == ["id", "level", "applicable", "reason", "tests",
                                               "result", "evidence"]
    assert [rows[f"CORE-STAT-0{n}"]["result"] for n in (1, 2, 3, 4)] == [
        "failed", "passed", "skipped", "untested"]
    assert rows["CORE-STAT-01"]["tests"] == "a b"
    assert rows["CORE-STAT-01"]["evidence"] == "build/a/run.log build/b/run.log"
    summary = json.loads((tmp_path / "summary.json").read_text())
    jsonschema.validate(summary, json.loads(
        (ROOT / "docs" / "schema" / "conformance.schema.json").read_text()))
    assert summary["failed"] == 1
    assert summary["clauses"] == len(rows)
