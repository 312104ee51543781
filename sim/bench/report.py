"""The benchmark's results as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sim.bench.pictures import cycles_picture, eta_picture, latency_picture, to_svg
from sim.page import write_page

__all__ = ["write_html"]


def write_html(results: Mapping[str, Any], path: Path) -> None:
    """Write the page of the results (docs/schema/bench.schema.json has their fields)."""
    pictures = [Markup(to_svg(draw(results)))  # our own drawing
                for draw in (eta_picture, cycles_picture, latency_picture)]
    write_page(path, "bench.html", pictures=pictures, **results)
