"""The demonstration's report as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from sim.ladder import ladder
from sim.page import write_page

__all__ = ["write_html"]


def write_html(report: dict[str, Any], path: Path) -> None:
    """Write the page of a report (docs/schema/report.json has its fields)."""
    cycle_ns = 1000 / report["config"]["clock_mhz"]
    ways = {way: Markup(ladder(steps, cycle_ns=cycle_ns))  # our own drawing
            for way, steps in report["ways"].items()}
    write_page(path, "report.html", report=report, ways=ways, cycle_ns=cycle_ns)
