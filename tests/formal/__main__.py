"""Carry all proofs out, and leave ``summary.json``: ``python -m tests.formal``."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

from hw.verilog import write_if_changed
from sim import toolchain
from sim.formal import ProofError, prove
from tests.formal.proofs import PROOFS


def _cpu_seconds() -> float:
    used = [resource.getrusage(whose)
            for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> int:
    """Run the proofs whose names begin with one of the words given, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.formal", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", type=Path, default=toolchain.build_folder() / "formal")
    parser.add_argument("--exact", action="store_true", help="names are whole")
    options = parser.parse_args()
    chosen = [proof for proof in PROOFS
              if not options.names or any(
                  proof.name == name if options.exact else proof.name.startswith(name)
                  for name in options.names)]
    proofs = []
    for proof in chosen:
        begin = _cpu_seconds()
        try:
            outcome = prove(proof, options.folder / proof.name)
            failures, claim = outcome.failures, outcome.claim
            status = "failed" if failures else "passed"
        except ProofError as error:
            failures, status = (str(error),), "error"
            claim = ""
        seconds = round(_cpu_seconds() - begin, 2)
        proofs.append({"name": proof.name, "status": status, "method": proof.method,
                       "claim": claim, "failures": list(failures), "cpu_seconds": seconds})
        print(f"{status:6} {seconds:6.1f} s  {proof.name}", *failures, sep="\n    "
              if failures else "", flush=True)
    passed = sum(proof["status"] == "passed" for proof in proofs)
    summary = {"passed": passed, "failed": len(proofs) - passed, "skipped": 0, "proofs": proofs}
    write_if_changed(options.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    print(f"formal: {passed} passed, {len(proofs) - passed} failed, 0 skipped")
    return 0 if passed == len(proofs) and proofs else 1


if __name__ == "__main__":
    sys.exit(main())
