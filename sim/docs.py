"""Pages of docs/ that are made from data: `python -m sim.docs` writes them, `--check` compares.

docs/registers.md comes from `hw.vf.regs` and `hw.pcie.bar_map`, docs/performance.md and its picture
from the last run of the benchmark. Only the first can be out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from hw.pcie import bar_map
from hw.vf.regs import COUNTER_BANKS, REGISTERS, Field
from hw.virtio.types import FaultReason

__all__ = ["PAGES", "main", "registers_page", "stale"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "bench" / "results.json"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bits(field: Field) -> str:
    high = field.low + field.bits - 1
    return str(field.low) if field.bits == 1 else f"{high}:{field.low}"


def _reset(field: Field) -> str:
    return "varies" if field.reset is None else f"{field.reset:#x}" if field.reset else "0"


def registers_page() -> str:
    """Write docs/registers.md."""
    registers = _table(
        ("offset", "register", "bits", "field", "access", "reset", "meaning"),
        ((f"{row.offset:03X}h" if not n else "", row.name if not n else "", _bits(field),
          field.name, field.access, _reset(field),
          (f"{row.meaning}: " if not n else "") + field.meaning)
         for row in REGISTERS for n, field in enumerate(row.fields)))
    counters = _table(
        ("bank", "counter", "name", "of", "bytes", "counts"),
        ((str(number), str(row), f"{bank.name}.{each.name}", bank.of,
          "yes" if each.bytes else "", each.meaning)
         for number, bank in enumerate(COUNTER_BANKS)
         for row, each in enumerate(bank.counters)))
    reasons = _table(("value", "reason"),
                     ((str(reason.value), reason.name) for reason in FaultReason))
    return f"""\
# Registers of the card's own

Made from `hw/vf/regs.py` by `make docs`. The virtio and PCI registers are the standards'.

They lie in BAR {bar_map.MANAGEMENT_BAR} of the physical function
({bar_map.MANAGEMENT_BAR_BYTES >> 10} KiB); a virtual function has none. Accesses are of 32 bits,
little-endian. What is not listed reads zero and ignores writes.

Access: RO is read only, RW is read and written, WO has an effect when written and reads zero. A
reset value that varies depends on how the card was built, or on what is connected.

{registers}

## Counters

Each has two values of 64 bits: how often something happened, and, where bytes are counted, how many
bytes it concerned. Write bank, counter and function to `counter_select`, then read the four
registers behind it. A reset of the card clears all counters; a reset of a function does not.

{counters}

Received frames are all accounted for: `wire_received.frames` is the sum over all functions of
`received`, `admission_dropped` and `receive_dropped`, and of the frames that the card still holds.

## Reasons of faults

{reasons}
"""


PAGES: dict[Path, Callable[[], str]] = {ROOT / "docs" / "registers.md": registers_page}


def stale() -> list[Path]:
    """List the pages that are not as their data would have them."""
    return [path for path, page in PAGES.items()
            if not path.exists() or path.read_text(encoding="utf-8") != page()]


def write_performance() -> list[Path]:
    """Write docs/performance.md and its picture, if the benchmark has been run."""
    if not RESULTS.exists():
        return []
    from sim.bench.page import performance_page  # noqa: PLC0415  # lint need not load matplotlib
    from sim.bench.pictures import eta_picture, to_png  # noqa: PLC0415  # the same
    from sim.bench.results import read_results  # noqa: PLC0415  # the same

    results = read_results(RESULTS)
    page, picture = ROOT / "docs" / "performance.md", ROOT / "docs" / "img" / "eta.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(performance_page(results), encoding="utf-8")
    picture.write_bytes(to_png(eta_picture(results)))
    return [page, picture]


def main(words: list[str] | None = None) -> int:
    """Write the pages, or with ``--check`` name those that are out of date."""
    parser = argparse.ArgumentParser(prog="python -m sim.docs", description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(words)
    old = stale()
    if options.check:
        for path in old:
            print(f"{path.relative_to(ROOT)} is out of date: run `make docs`", file=sys.stderr)
        return 1 if old else 0
    for path in old:
        path.write_text(PAGES[path](), encoding="utf-8")
        print(path.relative_to(ROOT))
    for path in write_performance():
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
