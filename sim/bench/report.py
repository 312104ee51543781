"""The benchmark's results as a page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hw.verilog import write_if_changed
from sim.bench.pictures import cycles_picture, eta_picture, latency_picture, to_svg

__all__ = ["write_html"]

_TEMPLATES = Path(__file__).parents[1] / "templates"


def write_html(results: Mapping[str, Any], path: Path) -> None:
    """Write the page of the results (docs/schema/bench.schema.json has their fields)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pictures = [Markup(to_svg(draw(results)))  # our own drawing
                for draw in (eta_picture, cycles_picture, latency_picture)]
    page = environment.get_template("bench.html").render(pictures=pictures, **results)
    write_if_changed(path, page + "\n")
