"""Faults that the proofs must find: ``python -m tests.formal.faults``.

Each is one change of the hardware's source, planted in a copy of the tree; the proof beside it must
then fail, and by a check, not for want of a tool.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sim import toolchain

__all__ = ["FAULTS", "Fault", "plant"]


@dataclass(frozen=True)
class Fault:
    """In ``file``, ``new`` stands in place of ``old``, which is there once."""

    proof: str
    file: str
    old: str
    new: str


FAULTS = [
    Fault("memory", "stream/memory.py",
          "Mux(self.read_enable, self.read_address, address)", "self.read_address"),
    Fault("memory_parts", "stream/memory.py",
          "forwarded[index].eq(1), newer[part]", "forwarded.eq(-1), newer[part]"),
    Fault("stream_register", "stream/register.py",
          "out.eq(Mux(spare_valid, spare, self.i.payload))", "out.eq(self.i.payload)"),
    Fault("pipe_register", "stream/register.py",
          "self.i.ready.eq(self.o.ready | ~out_valid)", "self.i.ready.eq(1)"),
    Fault("skid_register", "stream/register.py",
          "self.o.payload.eq(Mux(spare_valid, spare, self.i.payload))",
          "self.o.payload.eq(self.i.payload)"),
    Fault("queue_3", "stream/queue.py",
          "pushes.eq(arrives & ~(free & (stored == 0)))", "pushes.eq(arrives & ~free)"),
    Fault("queue_3", "stream/queue.py", "Mux(address == places - 1, 0, address + 1)",
          "Mux(address == places - 1, 1, address + 1)"),
    Fault("block_queue_2", "stream/queue.py",
          "pops.eq((self.o.ready | ~out_valid) & (stored != 0))", "pops.eq(stored != 0)"),
    Fault("arbiter_2", "stream/arbiter.py",
          "later.eq(~(grant | (grant - 1)))", "later.eq(-1)"),
    Fault("arbiter_3", "stream/arbiter.py",
          "accepts.eq(self.o.ready | ~out_valid)", "accepts.eq(1)"),
    Fault("packet_arbiter_2", "stream/arbiter.py",
          "grant.eq(Mux(locked, holder, turn))", "grant.eq(turn)"),
    Fault("work_list_2", "stream/worklist.py",
          "was_add & ~listed.read_data", "was_add"),
    Fault("work_list_3", "stream/worklist.py",
          "self.add.ready.eq(~clearing & ~takes)", "self.add.ready.eq(~clearing)"),
    Fault("reads_are_cut", "pcie/read_splitter.py",
          "& (upto <= 1 << _PAGE_BITS)", ""),
    Fault("reads_are_cut", "pcie/read_splitter.py",
          "span.eq(following.length + following.address[:2])", "span.eq(following.length)"),
]


def plant(fault: Fault) -> str:
    """Plant a fault and ask its proof; empty if it was found, else what happened instead."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for folder in ("hw", "sim", "tests/formal"):
            shutil.copytree(toolchain.ROOT / folder, copy / folder,
                            ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(toolchain.ROOT / "tests" / "__init__.py", copy / "tests")
        path = copy / "hw" / fault.file
        text = path.read_text()
        if text.count(fault.old) != 1:
            return f"stands {text.count(fault.old)} times in {fault.file}: {fault.old}"
        path.write_text(text.replace(fault.old, fault.new))
        done = subprocess.run(
            [sys.executable, "-m", "tests.formal", "--exact", fault.proof, "--folder",
             str(copy / "formal")], cwd=copy, check=False, capture_output=True, text=True)
        if done.returncode == 1 and "failed" in done.stdout.split("\n", 1)[0]:
            return ""
        return done.stdout + done.stderr[-1000:]


def main() -> int:
    """Plant the faults of the proofs whose names begin with one of the words given, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.formal.faults",
                                     description=main.__doc__)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    missed = 0
    for fault in FAULTS:
        if options.names and not any(fault.proof.startswith(name) for name in options.names):
            continue
        wrong = plant(fault)
        missed += bool(wrong)
        print(f"{'MISSED' if wrong else 'found':6} {fault.proof}: {fault.new or 'no ' + fault.old}",
              wrong, flush=True)
    print(f"faults: {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
