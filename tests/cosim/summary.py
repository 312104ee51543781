"""What the tests with real guests found: ``summary.json``, and the last line of `make cosim`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hw.verilog import write_if_changed

__all__ = ["Summary"]


class Summary:
    """Collects results and figures of all tests. Where it is not there, the tests are skipped."""

    NAME = "cosim-summary"

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix("tests/cosim/")
        test = self._tests.setdefault(name, {
            "name": name, "result": "passed", "seconds": 0.0, "reason": "", "figures": {}})
        test["seconds"] = round(test["seconds"] + report.duration, 2)
        if report.failed:
            test["result"] = "failed"
            test["reason"] = report.longreprtext.strip().splitlines()[-1]
        elif report.skipped and test["result"] == "passed":
            test["result"] = "skipped"
            where = report.longrepr
            test["reason"] = where[2] if isinstance(where, tuple) else str(where)
        if report.when == "teardown":
            test["figures"] = {key: value for key, value in report.user_properties
                               if isinstance(value, int | float | str) and key != "virtio"}

    def count(self, result: str) -> int:
        return sum(test["result"] == result for test in self._tests.values())

    @property
    def content(self) -> dict[str, Any]:
        return {**{result: self.count(result) for result in ("passed", "failed", "skipped")},
                "full": self.full, "tests": list(self._tests.values())}

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_if_changed(path, json.dumps(self.content, indent=1) + "\n")

    @property
    def line(self) -> str:
        return (f"cosim: {self.count('passed')} passed, {self.count('failed')} failed, "
                f"{self.count('skipped')} skipped")
