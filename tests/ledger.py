"""The ledger of virtio's clauses: which apply to the card, and which tests show each.

The clauses stand in docs/virtio, numbered by us. A test names those it shows by
``@pytest.mark.virtio("NET-RX-07")``. A clause applies if its feature is offered by the preset
``full``, and if it can be tested at all.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hw.config import NicConfig
from hw.virtio.features import offered_features

__all__ = ["Clause", "Ledger", "applicable", "clauses"]

ROOT = Path(__file__).parents[1]
SOURCES = ("device_requirements", "implied_requirements", "driver_requirements")

# What the lists call a feature and is none: each has its own reason not to be offered, until there
# is something in the card that offers it.
_NO_FEATURE_BIT = {
    "legacy": "no legacy interface",
    "NOTIFY_ON_EMPTY": "no legacy interface",
    "FF": "no flow-filter capability",
}

# Clauses about something that no card with this one's ids can meet.
_NO_CASE = dict.fromkeys(
    ("PCI-NTLD-01", "PCI-NTLD-02"), "no legacy driver exists for the device's ids (1AF4:1041)")


@dataclass
class Clause:
    """A clause of the standard, and what the tests said of it."""

    id: str
    level: str
    feature: str
    testable_at: str
    outcomes: dict[str, str] = field(default_factory=dict)
    evidence: set[str] = field(default_factory=set)

    def result(self) -> str:
        """Give the worst of what its tests said; ``untested`` without any."""
        said = set(self.outcomes.values())
        return next((each for each in ("failed", "skipped", "passed") if each in said), "untested")


def clauses() -> dict[str, Clause]:
    """Read the lists of docs/virtio."""
    found: dict[str, Clause] = {}
    for source in SOURCES:
        with (ROOT / "docs" / "virtio" / f"{source}.csv").open(newline="") as lines:
            for row in csv.DictReader(lines):
                assert row["id"] not in found, f"two clauses {row['id']}"
                found[row["id"]] = Clause(row["id"], row["level"], row["feature"],
                                          row["testable_at"])
    return found


def _alternatives(name: str) -> list[str]:
    """Write ``HOST_TSO4/6/USO`` out as HOST_TSO4, HOST_TSO6, HOST_USO."""
    first, *others = name.split("/")
    names = [first]
    for other in others:
        if other.isdigit():
            names.append(re.sub(r"\d+$", other, first))
        elif first.startswith(("HOST_", "GUEST_")) and not other.startswith(("HOST_", "GUEST_")):
            names.append(f"{first.partition('_')[0]}_{other}")
        else:
            names.append(other)
    return names


def applicable(clause: Clause, offered: Set[str]) -> tuple[bool, str]:
    """Tell whether a clause applies to a card that offers these features, and why (not)."""
    if clause.testable_at == "n/a":
        return False, "nothing that a card could be seen to do"
    if clause.id in _NO_CASE:
        return False, _NO_CASE[clause.id]
    if clause.feature == "-":
        return True, "always"
    lacking = []
    for part in clause.feature.replace(" (FF caps)", "+FF").split("+"):
        names = _alternatives(part)
        if not any(name + version in offered for name in names for version in ("", "4", "6")):
            lacking.append(_NO_FEATURE_BIT.get(part, f"{'/'.join(names)} not offered"))
    if lacking:
        return False, ", ".join(lacking)
    return True, f"{clause.feature} offered"


class Ledger:
    """Collects what the marked tests say, in the process that gathers all reports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clauses = clauses()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ids = [str(value) for name, value in report.user_properties if name == "virtio"]
        if not ids or (report.when != "call" and report.outcome == "passed"):
            return
        logs = {str(Path(path).relative_to(ROOT)) for path in
                re.findall(r"\S+/run\.log$", report.capstdout, re.MULTILINE)
                if Path(path).is_relative_to(ROOT)}
        for clause in (self._clauses[each] for each in ids):
            if clause.outcomes.get(report.nodeid) != "failed":
                clause.outcomes[report.nodeid] = report.outcome
            clause.evidence |= logs

    def pytest_sessionfinish(self) -> None:
        offered = offered_features(NicConfig.preset("full"))
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = [_row(clause, offered) for clause in self._clauses.values()]
        with (self._folder / "ledger.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (self._folder / "summary.json").write_text(
            json.dumps(_summary(rows, offered), indent=2) + "\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        summary = json.loads((self._folder / "summary.json").read_text())
        terminalreporter.write_line(
            "clauses: {clauses}, applicable: {applicable}; {passed} passed, {failed} failed, "
            "{skipped} skipped, {untested} without a test".format(**summary))


def _row(clause: Clause, offered: Set[str]) -> dict[str, str]:
    applies, reason = applicable(clause, offered)
    return {
        "id": clause.id, "level": clause.level, "applicable": "yes" if applies else "no",
        "reason": reason, "tests": " ".join(sorted(clause.outcomes)),
        "result": clause.result() if applies or clause.outcomes else "",
        "evidence": " ".join(sorted(clause.evidence)),
    }


def _summary(rows: Iterable[dict[str, str]], offered: Set[str]) -> dict[str, Any]:
    def count(chosen: list[dict[str, str]]) -> dict[str, int]:
        results = Counter(row["result"] for row in chosen)
        return {"applicable": len(chosen), **{
            each: results[each] for each in ("passed", "failed", "skipped", "untested")}}

    rows = list(rows)
    applies = [row for row in rows if row["applicable"] == "yes"]
    return {
        "clauses": len(rows), **count(applies),
        "by_level": {level: count([row for row in applies if row["level"] == level])
                     for level in ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY")},
        "by_side": {side: count([row for row in applies
                                 if row["id"].startswith("DRV-") == (side == "driver")])
                    for side in ("device", "driver")},
        "features": sorted(offered),
    }
