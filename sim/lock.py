"""Renew ``requirements.lock``: the exact version of every package, of all dependency groups.

Runs on the system's Python with the standard library alone; resolves in an environment of its own,
which is thrown away.
"""

from __future__ import annotations

import subprocess
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Exact versions of everything in pyproject.toml and below. Renewed by `make lock`.
"""


def main() -> None:
    """Resolve the newest versions that pyproject.toml allows, and write them down."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for group in project["dependency-groups"].values():
        wanted += group
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        frozen = subprocess.run([python, "-m", "pip", "freeze", "--all"], check=True, text=True,
                                capture_output=True).stdout
    lines = [line for line in frozen.splitlines() if not line.startswith("pip==")]
    (ROOT / "requirements.lock").write_text(HEAD + "\n".join(sorted(lines, key=str.lower)) + "\n")


if __name__ == "__main__":
    main()
