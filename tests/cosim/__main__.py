"""Run the tests with real guests, and leave ``summary.json``: ``python -m tests.cosim``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from sim import toolchain
from tests.cosim.summary import Summary


def main() -> int:
    """Run all tests, or those that pytest is asked for by further words; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.cosim", description=main.__doc__)
    parser.add_argument("--full", action="store_true", help="more of everything: an hour")
    parser.add_argument("--folder", type=Path, default=toolchain.build_folder() / "cosim")
    options, words = parser.parse_known_args()
    folder = Path(__file__).parent
    named = [word for word in words if not word.startswith("-") and Path(
        word.partition("::")[0]).exists()]
    summary = Summary(full=options.full)
    code = pytest.main([*words, *([] if named else [str(folder)]), "-p", "no:cacheprovider"],
                       plugins=[summary])
    summary.write(options.folder / "summary.json")
    print(summary.line)
    return 0 if code == pytest.ExitCode.OK and summary.count("passed") else 1


if __name__ == "__main__":
    sys.exit(main())
