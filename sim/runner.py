"""Run a cocotb bench on a component: one call, either simulator, nothing built twice.

The way into cocotb is cocotb-test. `_Icarus` and `_Verilator` are its simulators with what is slow
or missing in them replaced; a build is separate from a run, so that many runs share one build.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cocotb
from amaranth.lib import wiring
from cocotb_test import simulator as cocotb_test
from filelock import FileLock

from hw.verilog import FORM, design_hash, to_rtlil, to_verilog, write_if_changed
from sim import toolchain
from sim.cache import QUIET, built_once, run_logged, tail
from sim.card import Design

__all__ = ["SIMULATORS", "CocotbFailure", "build_simulator", "missing", "run_cocotb"]

SIMULATORS = ("icarus", "verilator")

DEFAULT_SEED = 1
"""Tests are the same every time unless ``RINGLET_SEED`` (`make test SEED=n`) says otherwise."""

# The simulator is cocotb's runtime and a small design: compiling costs more than a slow run does.
# A whole card that runs long is given better ones.
_QUICK_TO_COMPILE = ("OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1")


class CocotbFailure(AssertionError):
    """A bench failed. The text holds each failed test with its own words."""


class _Words:
    """What both simulators share: our environment, and all they say kept in a file."""

    env: dict[str, str]
    work_dir: str
    log: Path

    def set_env(self) -> None:
        """Add ours last: cocotb-test copies the process's variables over what it was given."""
        given = dict(self.env)
        super().set_env()  # type: ignore[misc]
        self.env.update(given)

    def execute(self, commands: Sequence[Sequence[str]]) -> None:
        """Run each command, its words to the log; stop at the first that fails."""
        run_logged(commands, log=self.log, folder=self.work_dir, environment=self.env)


class _Icarus(_Words, cocotb_test.Icarus):  # type: ignore[misc]  # cocotb-test ships no types
    """Icarus, which builds and runs apart."""

    def build_command(self) -> list[list[str]]:
        if self.compile_only:
            commands: list[list[str]] = super().build_command()
            return commands
        if self.waves:
            self.plus_args.append("-fst")
        return [self.run_command()]


class _Verilator(_Words, cocotb_test.Verilator):  # type: ignore[misc]  # the same
    """Verilator with only the ports visible to the bench.

    cocotb-test asks for ``--public-flat-rw``: every signal kept, none optimised. Amaranth's Verilog
    has many aliases per signal, so that costs most of the speed; and a bench that looks at ports
    only needs none of it. Waves are VCD: FST needs a header that the wheel does not bring.
    """

    def build_command(self) -> list[list[str]]:
        name = self.toplevel_module
        if not self.compile_only:
            return [[str(Path(self.sim_dir) / name), *(["--trace"] if self.waves else [])]]
        runtime = Path(cocotb.__file__).parent / "share" / "lib" / "verilator" / "verilator.cpp"
        verilate = [
            str(toolchain.verilator()), "--cc", "--exe", "--vpi", "--public-depth", "1",
            "--prefix", "Vtop", "--top-module", name, "-Mdir", self.sim_dir, "-o", name,
            "-DCOCOTB_SIM=1", "--timescale", self.timescale,
            "-LDFLAGS", f"-Wl,-rpath,{self.lib_dir} -L{self.lib_dir} -lcocotbvpi_verilator",
            *(["--trace-vcd", "--trace-structs"] if self.waves else []),
            *self.compile_args, str(runtime), *self.verilog_sources_flat]
        return [verilate, ["make", "-C", self.sim_dir, "-f", "Vtop.mk", *self.make_args]]


_CLASSES: dict[str, Any] = {"icarus": _Icarus, "verilator": _Verilator}


def missing(simulator: str) -> str | None:
    """Say in one line why a simulator cannot be used here, or None if it can."""
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    if simulator == "icarus" and shutil.which("iverilog") is None:
        return "Icarus Verilog is not installed: `make system-deps` does it"
    return None


def seed_of_the_day() -> int:
    """Give the seed of this run: ``RINGLET_SEED`` or the fixed one."""
    given = os.environ.get("RINGLET_SEED") or str(DEFAULT_SEED)
    if not given.isdecimal():
        raise ValueError(f"SEED must be a whole number, not {given!r}")
    return int(given)


def build_simulator(dut: wiring.Component | Design, name: str, simulator: str, *, waves: bool,
           flags: Sequence[str]) -> Path:
    """Build the simulator of ``dut`` unless an equal one is there; give its folder."""
    options: dict[str, Any] = {"waves": waves, "timescale": "1ns/1ps"}
    if simulator == "verilator":
        options |= {"compile_args": list(QUIET), "make_args": ["-j2", *flags]}
    if isinstance(dut, Design):
        text, what = "", f"{FORM} {dut.made_of}"
    else:
        text = to_rtlil(dut, name)
        what = design_hash(text)
    with built_once("cocotb", f"{name}-{simulator}", what, options) as kept:
        folder = kept.folder
        if kept.done:
            return folder
        if isinstance(dut, Design):
            text = to_rtlil(dut.make(), name)
        source = folder / f"{name}.v"
        write_if_changed(source, to_verilog(text))
        log = folder / "build.log"
        log.unlink(missing_ok=True)
        builder = _make(simulator, log, toplevel=name, module="none", sim_build=str(folder),
                        verilog_sources=[str(source)], compile_only=True, force_compile=True,
                        extra_env=toolchain.environment(), **options)
        try:
            builder.set_env()
            builder.execute(builder.build_command())
        except SystemExit as end:
            raise CocotbFailure(f"{name} does not build on {simulator}: {end}\n"
                                f"{tail(log, 60)}") from None
    return folder


def _make(simulator: str, log: Path, **options: Any) -> Any:
    with warnings.catch_warnings():  # cocotb-test turns all DeprecationWarnings on in the process
        made = _CLASSES[simulator](**options)
    made.log = log
    return made


def _failures(results: Path) -> tuple[int, list[str]]:
    """Read cocotb's results: how many tests ran, and the names of those that failed."""
    tests = list(ET.parse(results).getroot().iter("testcase"))
    bad = [case.get("name", "?") for case in tests
           if case.find("failure") is not None or case.find("error") is not None]
    ran = sum(1 for case in tests if case.find("skipped") is None)
    return ran, bad


def run_cocotb(dut: wiring.Component | Design, name: str, bench: str, *, simulator: str,
               waves: bool = False, seed: int | None = None, testcase: str | None = None,
               parameters: Mapping[str, object] | None = None,
               flags: Sequence[str] = _QUICK_TO_COMPILE) -> Path:
    """Run the cocotb tests of module ``bench`` on ``dut``; raise `CocotbFailure` if one fails.

    Parameters
    ----------
    dut
        The component, or the `Design` of one. The bench sees its ports alone, named as in the
        Verilog: ``i__payload``.
    name
        Name of the Verilog module, and of the build; one for each set of parameters is clearest.
    bench
        Dotted name of the bench's module, such as ``tests.unit.bench_packet``.
    simulator
        ``icarus`` or ``verilator``.
    waves
        Leave a wave file in the run's folder. ``WAVES=1`` in the environment does the same.
    seed
        Seed of ``cocotb.RANDOM_SEED`` and Python's ``random``; ``RINGLET_SEED``, else 1.
    testcase
        A regular expression: run only the tests whose name it matches.
    parameters
        What the bench must know of this build. It finds them in its environment, as text:
        ``max_bytes=5`` is ``os.environ["RINGLET_MAX_BYTES"]``.
    flags
        Words for make, which compiles what Verilator wrote.

    Returns the folder of the run: the log, cocotb's results, waves.
    """
    if reason := missing(simulator):
        raise toolchain.ToolMissing(reason)
    waves = waves or os.environ.get("WAVES", "0") not in ("", "0")
    seed = seed_of_the_day() if seed is None else seed
    variables = {f"RINGLET_{key.upper()}": str(value) for key, value in (parameters or {}).items()}
    build = build_simulator(dut, name, simulator, waves=waves, flags=flags)
    key = hashlib.sha256(json.dumps([bench, testcase, seed, variables]).encode()).hexdigest()[:8]
    folder = build / f"run-{bench.rpartition('.')[2]}-{key}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "run.lock"):
        log, results = folder / "run.log", folder / "results.xml"
        for old in (log, results):
            old.unlink(missing_ok=True)
        runner = _make(simulator, log, toplevel=name, module=bench, sim_build=str(build),
                       work_dir=str(folder), verilog_sources=[str(build / f"{name}.v")],
                       waves=waves, seed=seed, testcase=testcase, extra_env={
                           **toolchain.environment(), **variables,
                           "COCOTB_RESULTS_FILE": str(results), "COCOTB_ANSI_OUTPUT": "0",
                           "COCOTB_RANDOM_SEED": str(seed)})
        where = f"{bench} on {name}, {simulator}, seed {seed}"
        print(f"{where}: {log}")
        try:
            runner.set_env()
            runner.execute(runner.build_command())
        except SystemExit as end:
            raise CocotbFailure(f"{where}: {end}\n{tail(log, 60)}") from None
        if not results.exists():
            raise CocotbFailure(f"{where}: ended without results\n{tail(log, 60)}")
        ran, bad = _failures(results)
        if bad:
            raise CocotbFailure(f"{where}: failed: {', '.join(bad)}\n{tail(log, 120)}")
        if not ran:
            raise CocotbFailure(f"{where}: no test ran; testcase={testcase!r}\n{tail(log, 20)}")
    return folder
