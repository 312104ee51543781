"""The quick proofs, and that the machinery can say no."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from amaranth import Module, Signal

from sim import toolchain
from sim.formal import Harness, Proof, prove
from tests.formal.faults import FAULTS
from tests.formal.proofs import PROOFS

QUICK = [proof for proof in PROOFS if not proof.slow]


@pytest.mark.parametrize("proof", QUICK, ids=lambda proof: proof.name)
def test_proof(proof: Proof, tmp_path: Path) -> None:
    outcome = prove(proof, tmp_path)
    assert not outcome.failures
    assert outcome.checks


class _Counter(Harness):
    """A counter from 0 to 5, of which something is said."""

    def __init__(self, *, below: int, reaches: int, allowed: bool = True) -> None:
        super().__init__()
        self.below = below
        self.reaches = reaches
        self.allowed = allowed

    def build(self, m: Module) -> None:
        count = Signal(4)
        goes = self.free(1, "goes")
        with m.If(goes):
            m.d.sync += count.eq(count + 1)
        with m.If(count == 5):
            m.d.sync += count.eq(0)
        self.assume(m, self.allowed)
        self.check(m, count < self.below, "below")
        self.cover(m, count == self.reaches)


@pytest.mark.parametrize(("harness", "depth", "induction", "failures"), [
    (lambda: _Counter(below=6, reaches=5), 8, 1, []),
    (lambda: _Counter(below=5, reaches=4), 5, 0, []),     # the 5 comes in the sixth cycle
    (lambda: _Counter(below=5, reaches=4), 6, 0, ["bounded"]),
    (lambda: _Counter(below=9, reaches=5), 8, 2, ["induction"]),  # 8 to 9, if it were ever there
    (lambda: _Counter(below=6, reaches=6), 8, 0, ["cover"]),
    (lambda: _Counter(below=6, reaches=5, allowed=False), 8, 0, ["bounded", "cover"]),
], ids=["holds", "not-so-soon", "broken", "not-inductive", "unreached", "nothing-allowed"])
def test_the_machinery_says_no(harness: type[Harness], depth: int, induction: int,
                               failures: list[str], tmp_path: Path) -> None:
    outcome = prove(Proof(name="counter", harness=harness, depth=depth, induction=induction),
                    tmp_path)
    assert [failure.split(":")[0] for failure in outcome.failures] == failures


def test_summary(tmp_path: Path) -> None:
    """What ``make formal`` leaves is as the schema has it, and its last line counts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.formal", "--exact", "arbiter_2", "--folder", tmp_path],
        cwd=toolchain.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "formal: 1 passed, 0 failed, 0 skipped"
    summary = json.loads((tmp_path / "summary.json").read_text())
    schema = toolchain.ROOT / "docs" / "schema" / "formal.schema.json"
    jsonschema.validate(summary, json.loads(schema.read_text()))
    assert [proof["status"] for proof in summary["proofs"]] == ["passed"]


def test_every_proof_has_a_fault() -> None:
    """Each harness was seen to fail; each fault still has a place to be planted in."""
    planted = {fault.proof for fault in FAULTS}
    names = [proof.name for proof in PROOFS]
    assert len(names) == len(set(names))
    assert planted <= set(names)
    kinds = {name.rstrip("0123456789").rstrip("_") for name in names}
    assert kinds == {name.rstrip("0123456789").rstrip("_") for name in planted}
    for fault in FAULTS:
        text = (toolchain.ROOT / "hw" / fault.file).read_text()
        assert text.count(fault.old) == 1, fault
