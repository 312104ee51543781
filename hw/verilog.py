"""Turn a component into Verilog that is the same bytes on every machine.

``python -m hw.verilog full`` writes the whole card of a preset and what it is made of.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import amaranth
from amaranth.back import rtlil, verilog  # type: ignore[attr-defined]  # not in stubs
from amaranth.hdl import Const, Fragment, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hw.config import NicConfig

__all__ = ["FORM", "design_hash", "parse_overrides", "to_rtlil", "to_verilog", "write_card",
           "write_if_changed", "write_verilog"]

FORM = "4"
"""Counts up when the text made from the same RTLIL changes: part of every hash."""


def _ports(top: wiring.Component) -> dict[str, tuple[Value, PortDirection]]:
    """List what can be a port: a constant `ready` or `valid` of an always_* stream cannot.

    Amaranth would list those too, and then reject them (amaranth-lang/amaranth#1574).
    """
    ports = {}
    for path, member, member_value in top.signature.flatten(top):
        value = Value.cast(member_value)
        if not isinstance(value, Const):
            way = PortDirection.Input if member.flow is In else PortDirection.Output
            ports["__".join(map(str, path))] = (value, way)
    return ports


@contextmanager
def _zeroed_memories_unwritten() -> Iterator[None]:
    """While this lasts, a memory that starts as all zero gets no list of its words.

    Amaranth writes every word of every memory, at 70 us and one line of Verilog each: minutes for a
    card's memories. `_zero_loops` says the same in one line.
    """
    emit = rtlil.ModuleEmitter.emit_memory

    def emit_unless_zero(self: Any, cell_idx: int, cell: Any) -> None:
        if any(cell.init):
            emit(self, cell_idx, cell)

    rtlil.ModuleEmitter.emit_memory = emit_unless_zero
    try:
        yield
    finally:
        rtlil.ModuleEmitter.emit_memory = emit


def to_rtlil(top: wiring.Component, name: str, fragment: Fragment | None = None) -> str:
    """Give ``top`` as RTLIL, Yosys's own language: what synthesis reads and hashes are made of.

    Who has elaborated ``top`` already gives the ``fragment``.
    """
    fragment = Fragment.get(top, None) if fragment is None else fragment
    with _zeroed_memories_unwritten():
        # No source locations: they hold absolute paths, and change with every edit.
        text, _names = rtlil.convert_fragment(fragment, _ports(top), name, emit_src=False)
    return str(text)


_MEMORY = re.compile(r"^  (?:\(\*.*\*\) *)?reg (?:\[(\d+):0\] )?(\\\S+ |\w+) ?\[(\d+):0\];$")


def _zero_loops(text: str) -> str:
    """Set every memory without initial contents to zero, by a loop after its declaration.

    The design says that they start as zero, and a simulator would take them as unknown.
    """
    lines = text.split("\n")
    after: list[str] = []
    count = 0
    for number, line in enumerate(lines):
        after.append(line)
        if (found := _MEMORY.match(line)) is None:
            continue
        high, memory, last = found.groups()
        if lines[number + 1:number + 2] == ["  initial begin"]:
            continue
        bits, depth = int(high or 0) + 1, int(last) + 1
        index = f"zero_{count}"
        count += 1
        after += [
            f"  integer {index};",
            f"  initial for ({index} = 0; {index} < {depth}; {index} = {index} + 1)",
            f"    {memory}[{index}] = {bits}'d0;",
        ]
    return "\n".join(after)


_KICK = re.compile(r"^( *)reg (\\\$auto\$verilog_backend\S+) += 0;$", re.MULTILINE)


def _started_processes(text: str) -> str:
    """Make every ``always @*`` run once in Icarus, as it does elsewhere.

    Each reads a register that Yosys declares for this alone; but Icarus sets that before the
    processes wait for it, and one of which no other input changes at time 0 would leave x behind.
    """
    return _KICK.sub(r"\g<0>\n`ifdef __ICARUS__\n\1initial \2 <= 1;\n`endif", text)


_MODULE = re.compile(r"^module .*?^endmodule$", re.MULTILINE | re.DOTALL)
_PART = re.compile(r"^( *)always @\*\n *(\S.* = .*;)$", re.MULTILINE)


def _started_parts(text: str) -> str:
    """Give each process that sets a part of a signal something that starts it.

    Yosys forgets its register there; one that sets a constant, or what never changes, would leave
    its part unknown.
    """
    def start_all(module: re.Match[str]) -> str:
        first = True

        def start(found: re.Match[str]) -> str:
            nonlocal first
            indent, assignment = found.groups()
            declare = (f"{indent}reg \\$start  = 0;\n`ifdef __ICARUS__\n"
                       f"{indent}initial \\$start  <= 1;\n`endif\n" if first else "")
            first = False
            return (f"{declare}{indent}always @* begin\n{indent}  if (\\$start ) begin end\n"
                    f"{indent}  {assignment}\n{indent}end")

        return _PART.sub(start, module[0])

    return _MODULE.sub(start_all, text)


def design_hash(text: str) -> str:
    """Name the Verilog of this RTLIL: equal hashes, equal Verilog."""
    version = amaranth.__version__  # type: ignore[attr-defined]  # not in stubs
    return hashlib.sha256(f"{FORM} {version}\n{text}".encode()).hexdigest()


def _head(text: str) -> str:
    return f"// design {design_hash(text)}\n"


def to_verilog(text: str) -> str:
    """Translate RTLIL of `to_rtlil` to Verilog."""
    # Amaranth's own Yosys, of one version: the words of another would be other bytes.
    os.environ["AMARANTH_USE_YOSYS"] = "builtin"
    body = verilog._convert_rtlil_text(  # type: ignore[attr-defined]  # not in stubs
        text, strip_internal_attrs=True)
    return _head(text) + _started_parts(_started_processes(_zero_loops(body)))


def write_if_changed(path: Path, text: str) -> None:
    """Write a file, unless it has this text already: then not even its date changes."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_text(text)
        new.replace(path)


def _write(text: str, path: Path) -> Path:
    """Write the Verilog of ``text`` to ``path``; Yosys is not even asked if it is there already."""
    if path.exists():
        with path.open() as old:
            if old.readline() == _head(text):
                return path
    write_if_changed(path, to_verilog(text))
    return path


def write_verilog(top: wiring.Component, name: str, folder: Path) -> Path:
    """Write ``top`` as module ``name`` to ``folder/name.v``; leave an unchanged file untouched."""
    return _write(to_rtlil(top, name), folder / f"{name}.v")


def _sizes(text: str) -> dict[str, Any]:
    """Count what a design holds, before any synthesis, from its RTLIL."""
    memories: list[dict[str, str | int]] = []
    memory_bits = 0
    module = ""
    modules = flip_flops = 0
    in_flip_flop = False
    for line in text.split("\n"):
        word = line.split()
        match word:
            case ["module", name]:
                modules, module = modules + 1, name.removeprefix("\\")
            case ["memory", "width", width, "size", depth, name]:
                memory_bits += int(width) * int(depth)
                memories.append({"module": module, "name": name.removeprefix("\\"),
                                 "bits": int(width), "words": int(depth)})
            case ["cell", kind, _name]:
                in_flip_flop = kind in ("$dff", "$adff")
            case ["parameter", "\\WIDTH", width] if in_flip_flop:
                flip_flops += int(width)
    return {"modules": modules, "flip_flop_bits": flip_flops,
            "memory_bits": memory_bits, "memories": memories}


_PORT = re.compile(r"^  wire width (\d+) (input|output) \d+ +\\(\S+)$")


def describe(text: str, module: str, preset: str, config: NicConfig) -> dict[str, Any]:
    """Say what a card's Verilog is: its ports, parameters and sizes, from its RTLIL."""
    ports = []
    inside = False
    for line in text.split("\n"):
        if line.startswith("module "):
            inside = line == f"module \\{module}"
        elif inside and (found := _PORT.match(line)):
            ports.append({"name": found[3], "direction": found[2], "bits": int(found[1])})
    return {"config": preset, "module": module, "design": design_hash(text),
            "parameters": asdict(config), "ports": ports, "sizes": _sizes(text)}


def write_card(preset: str, overrides: dict[str, Any], folder: Path) -> Path:
    """Write the card of a preset as ``<preset>.v``, and its ports and sizes as ``<preset>.json``.

    Overridden fields are part of the name: ``full-vfs64.v``.
    """
    config = NicConfig.preset(preset, **overrides)
    from hw.nic import SmartNic  # noqa: PLC0415  # only the whole card needs the whole house

    name = "-".join([preset, *(f"{key}{value}" for key, value in sorted(overrides.items()))])
    text = to_rtlil(SmartNic(config), "ringlet")
    path = _write(text, folder / f"{name}.v")
    about = describe(text, "ringlet", preset, config)
    write_if_changed(folder / f"{name}.json", json.dumps(about, indent=2) + "\n")
    return path


def parse_overrides(pairs: Sequence[str]) -> dict[str, int]:
    """Read fields of a card from words such as ``vfs=64``; `ValueError` names what is wrong."""
    overrides = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if not re.fullmatch(r"[a-z_]+=(0x[0-9a-fA-F_]+|[0-9_]+)", pair):
            raise ValueError(f"{pair!r} must be FIELD=NUMBER, such as vfs=64")
        overrides[key] = int(value, 0)
    return overrides


def main() -> int:
    """Write a card as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m hw.verilog", description=main.__doc__)
    parser.add_argument("preset", help="a preset of hw/config.py, such as full or small")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                        help="override a field of the preset, such as vfs=64")
    parser.add_argument("--folder", type=Path, default=Path("build/verilog"))
    options = parser.parse_args()
    try:
        print(write_card(options.preset, parse_overrides(options.set), options.folder))
    except ValueError as error:
        print(f"hw.verilog: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
