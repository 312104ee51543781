"""Pages that need nothing else: no network, no script. Their templates are in `sim/templates`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from hw.verilog import write_if_changed

__all__ = ["write_page"]


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page; a value that the template names must be there (`jinja2.UndefinedError`)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    write_if_changed(path, environment.get_template(template).render(**values) + "\n")
