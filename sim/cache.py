"""What is built once and kept: folders named by all that their contents are made of."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sim import toolchain

__all__ = ["QUIET", "Kept", "built_once", "run_logged", "tail"]

QUIET = ("-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC", "-Wno-CASEINCOMPLETE")
"""Verilator's remarks on Yosys output that say nothing: Amaranth has already sized every operand.
What stays fatal is what can be a real fault of ours: UNOPTFLAT (a combinational loop), LATCH,
MULTIDRIVEN."""


@dataclass(frozen=True)
class Kept:
    """A folder for what is built, and whether it is there already."""

    folder: Path
    done: bool


@contextmanager
def built_once(kind: str, name: str, *made_of: object) -> Iterator[Kept]:
    """Give the folder for what is made of ``made_of`` (anything JSON takes), to us alone.

    What the body leaves there counts as built when the body ends well, and not before: one that
    was killed begins again.
    """
    text = json.dumps([*made_of, os.environ.get("VERILATOR", "")])
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = toolchain.build_folder() / kind / f"{name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "built"
    with FileLock(folder / "build.lock"):
        done = stamp.exists()
        yield Kept(folder, done)
        if not done:
            stamp.touch()


def run_logged(commands: Sequence[Sequence[str]], *, log: Path, folder: str | Path,
               environment: Mapping[str, str]) -> None:
    """Run each command, its words to the log; `SystemExit` at the first that fails."""
    with log.open("ab") as file:
        for command in commands:
            file.write((shlex.join(command) + "\n").encode())
            file.flush()
            done = subprocess.run(command, cwd=folder, env=environment, stdout=file,
                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
            if done.returncode:
                raise SystemExit(f"{command[0]} ended with {done.returncode}")


def tail(log: Path, lines: int) -> str:
    """Give the last lines of a log, if there is one."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
