"""The demonstration's report as a page that needs nothing else: no network, no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from hw.verilog import write_if_changed
from sim.ladder import ladder

__all__ = ["write_html"]

def write_html(report: dict[str, Any], path: Path) -> None:
    """Write the page of a report (docs/schema/report.json has its fields)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    cycle_ns = 1000 / report["config"]["clock_mhz"]
    ways = {way: jinja2.filters.do_mark_safe(ladder(steps, cycle_ns=cycle_ns))
            for way, steps in report["ways"].items()}
    page = environment.get_template("report.html").render(
        report=report, ways=ways, cycle_ns=cycle_ns)
    write_if_changed(path, page + "\n")
