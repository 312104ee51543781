"""Make the project's own environment, ``.venv``: what `make` runs before everything else.

Runs on the system's Python with the standard library alone. It may be interrupted at any point and
run again: the stamp that says "ready" is removed first and written last. Two at once wait for
each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "ready"
LOCK = ROOT / "requirements.lock"
NEEDED = (3, 11)  # tomllib, which is imported above, is as old


def fingerprint() -> str:
    """Say what a finished environment was made from: the versions, the place, the Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = [LOCK.read_bytes(), (ROOT / "sim" / "toolchain.py").read_bytes(), str(ROOT).encode(),
             sys.version.encode(), repr(project["project"]).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def works() -> bool:
    """Whether there is an environment whose Python still starts, and is the one asked for."""
    if not PYTHON.exists():
        return False
    ask = subprocess.run([PYTHON, "-c", "import sys, pip; print(sys.version)"],
                         capture_output=True, text=True, check=False)
    return ask.returncode == 0 and ask.stdout.strip() == sys.version.strip()


def pip(*arguments: str, expected: int = 0) -> None:
    """Run pip; on a terminal count the packages, of which ``expected`` will come."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    log: list[str] = []
    seen = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied")):
                seen += 1
                if expected and sys.stderr.isatty():
                    bar = "#" * (30 * seen // expected)
                    print(f"\r  [{bar:<30}] {seen}/{expected} packages ", end="", file=sys.stderr)
            elif line.startswith("Installing collected") and sys.stderr.isatty():
                print("\n  installing them", file=sys.stderr)
    if process.returncode:
        print("".join(log[-30:]), file=sys.stderr)
        raise SystemExit("set-up: pip could not install the packages; its words are above")


def missing() -> list[str]:
    """Name what of the system a simulation needs and is not here."""
    absent = [program for program in ("g++", "make", "perl") if shutil.which(program) is None]
    if importlib.util.find_spec("ensurepip") is None:
        absent.append("Python's venv (Debian: python3-venv)")
    return absent


def main() -> int:
    """Make the environment unless it is there already."""
    if sys.version_info < NEEDED:
        raise SystemExit(f"set-up: Python {sys.version.split()[0]} is too old, at least "
                         f"{'.'.join(map(str, NEEDED))} is needed; name another: make PYTHON=...")
    if absent := missing():
        raise SystemExit(f"set-up: not on this machine, and needed: {', '.join(absent)}")
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "set-up.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        wanted = fingerprint()
        if STAMP.exists() and STAMP.read_text() == wanted and works():
            STAMP.touch()
            return 0
        STAMP.unlink(missing_ok=True)
        started = time.monotonic()
        print("Setting up .venv, once: a minute or two", file=sys.stderr)
        if not works():
            venv.create(ENVIRONMENT, clear=True, with_pip=True)
        count = sum(1 for line in LOCK.read_text().splitlines() if "==" in line)
        pip("--requirement", str(LOCK), expected=count)
        pip("--no-deps", "--no-build-isolation", "--config-settings", "editable_mode=compat",
            "--editable", str(ROOT))
        if subprocess.run([PYTHON, "-m", "sim.toolchain"], cwd=ROOT, check=False).returncode:
            raise SystemExit("set-up: not finished; the reason is above")
        STAMP.write_text(wanted)
        print(f"Ready after {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("set-up: interrupted; the next run goes on") from None
