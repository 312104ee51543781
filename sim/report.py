"""The demonstration's report as a page that needs nothing else: no network, no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from hw.verilog import write_if_changed
from sim.ladder import ladder

__all__ = ["write_html"]

_LINE_GBPS = 100
_OVERHEAD_BYTES = 24  # FCS, preamble and gap: what a frame costs on the line beside its bytes


def _line_share(point: dict[str, Any], clock_mhz: int) -> float:
    """Give the share of a 100 Gb/s line that a throughput point fills, in per cent."""
    bits = (point["frame_bytes"] + _OVERHEAD_BYTES) * 8
    return float(bits * clock_mhz / 1000 / point["cycles_per_packet"] / _LINE_GBPS * 100)


def write_html(report: dict[str, Any], path: Path) -> None:
    """Write the page of a report (docs/schema/report.json has its fields)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    clock_mhz = report["config"]["clock_mhz"]
    cycle_ns = 1000 / clock_mhz
    ways = {way: jinja2.filters.do_mark_safe(ladder(steps, cycle_ns=cycle_ns))
            for way, steps in report["ways"].items()}
    points = [{**point, "share": _line_share(point, clock_mhz),
               "mpps": clock_mhz / point["cycles_per_packet"]} for point in report["throughput"]]
    page = environment.get_template("report.html").render(
        report=report, ways=ways, points=points, cycle_ns=cycle_ns)
    write_if_changed(path, page + "\n")
