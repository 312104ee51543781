"""Build the native engine: the card's Verilog, Verilated, with our clock loop, in one library.

Two things are kept, each in a folder named by what it is made of: the card (minutes) and the
library around it (seconds), so that a change of the loop does not compile the card again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from amaranth.hdl import Shape
from amaranth.lib import data

from hw.config import NicConfig
from hw.pcie.types import CompletionHeader, CreditLayout, RequestHeader, TlpLayout
from hw.stream.types import BeatLayout, WireBeatLayout
from hw.verilog import FORM, describe, to_rtlil, to_verilog, write_if_changed
from sim import toolchain
from sim.cache import QUIET, built_once, run_logged, tail
from sim.card import Design, card_design
from sim.native.tighten import TIGHTENED, tighten

__all__ = ["NativeBuildError", "card_library", "host_library", "layout_header", "wrapper"]

_SOURCES = Path(__file__).parent / "cpp"
_TOP = "engine_top"
_COMPILER = "g++"

_VERILATE = ("--cc", "--prefix", f"V{_TOP}", "--top-module", _TOP, "-O3", "--x-assign", "fast",
             "--x-initial", "fast", "--no-assert",
             # Small processes as tables: looking up costs more than their logic.
             "-fno-table",
             # Small functions: compiled in half the time, by all cores, and no slower.
             "--output-split", "6000", "--output-split-cfuncs", "1500", *QUIET)
# What runs each cycle is worth every effort of the compiler, what runs once none at all.
# A cycle goes once through more code than the first cache holds: it lies as close as it can.
_DENSE = ("-fno-align-functions -fno-align-loops -fno-align-jumps -fno-align-labels "
          "-fvisibility=hidden -fno-semantic-interposition -fno-plt")
_MAKE = (f"OPT_FAST=-O2 -fPIC -fno-stack-protector {_DENSE}", "OPT_SLOW=-O0 -fPIC",
         "OPT_GLOBAL=-O2 -fPIC")
# A run that leaves waves is slow whatever the compiler does, and is not often wanted.
_MAKE_WAVES = ("OPT_FAST=-O0 -fPIC", "OPT_SLOW=-O0 -fPIC", "OPT_GLOBAL=-O1 -fPIC")
_COMPILE = ("-std=gnu++20", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror",
            "-fno-stack-protector")


class NativeBuildError(RuntimeError):
    """The library does not build. The text ends with the compiler's own words."""


def _fields(prefix: str, layout: data.StructLayout, base: int = 0) -> Iterator[str]:
    for name, field in layout:
        yield (f"constexpr Field {prefix}_{name}{{{base + field.offset}, "
               f"{Shape.cast(field.shape).width}}};")


def layout_header(config: NicConfig) -> str:
    """Write where each field of the card's ports lies, from the layouts of the card itself."""
    lanes = config.lanes
    lines = ["// Made from the card's layouts by sim/native/build.py.", "#pragma once", "",
             '#include "bits.h"', "", "namespace ringlet::layout {", "",
             f"constexpr unsigned lanes = {lanes};",
             f"constexpr unsigned half_cycle_ps = {500_000 // config.clock_mhz};"]
    for name, header in (("request", RequestHeader()), ("completion", CompletionHeader())):
        beat = TlpLayout(lanes, header)
        lines += [f"constexpr unsigned {name}_words = {-(-Shape.cast(beat).width // 32)};",
                  *_fields(f"{name}_beat", beat),
                  *_fields(name, header, beat["header"].offset)]
    for name, layout in (("rx", WireBeatLayout(lanes)), ("tx", BeatLayout(lanes))):
        lines += [f"constexpr unsigned {name}_words = {-(-Shape.cast(layout).width // 32)};",
                  *_fields(name, layout)]
    lines += [*_fields("credit", CreditLayout())]
    for name in ("request_beat", "completion_beat", "rx", "tx"):
        lines.append(f"static_assert({name}_data.at == 0);  // bytes are copied as they are")
    return "\n".join([*lines, "", "}  // namespace ringlet::layout", ""])


def wrapper(ports: Sequence[dict[str, object]], module: str) -> str:
    """Write the top level around the card: registers on its inputs, and no reset.

    Nothing depends on an input before the next edge then, so that a cycle is worked out once, and
    not again when the inputs change. The card starts as its flip-flops do when an FPGA is loaded;
    another start is another card.
    """
    pins, registers, connections = ["input clk", "input rst"], [], [".clk(clk)", ".rst(1'b0)"]
    for port in ports:
        name, bits = str(port["name"]), int(str(port["bits"]))
        if name in ("clk", "rst"):
            continue
        width = f"[{bits - 1}:0] " if bits > 1 else ""
        plain = name.replace("__", "_")
        pins.append(f"{port['direction']} {width}{plain}")
        if port["direction"] == "input":
            registers += [f"  reg {width}{plain}_q = 0;",
                          f"  always @(posedge clk) {plain}_q <= {plain};"]
            connections.append(f".{name}({plain}_q)")
        else:
            connections.append(f".{name}({plain})")
    return "\n".join([f"module {_TOP}(", "  " + ",\n  ".join(pins), ");", *registers,
                      f"  {module} card(", "    " + ",\n    ".join(connections), "  );",
                      "endmodule", ""])


def _text_of(folder: Path) -> str:
    """Name all of our C++ by its contents."""
    text = hashlib.sha256()
    for source in sorted(folder.iterdir()):
        text.update(f"{source.name}\n".encode() + source.read_bytes())
    return text.hexdigest()


def _fail(what: str, reason: object, log: Path) -> NativeBuildError:
    return NativeBuildError(f"{what} does not build: {reason}\n{tail(log, 40)}")


def _verilated(config: NicConfig, design: Design, *, waves: bool) -> Path:
    """Give the folder of the compiled card."""
    trace = ("--trace-vcd", "--trace-structs") if waves else ()
    make = _MAKE_WAVES if waves else _MAKE
    name = f"card_{config.data_bits}{'-waves' if waves else ''}"
    environment = toolchain.environment()
    # Waves show the card as others have it.
    form = (FORM,) if waves else (FORM, TIGHTENED)
    with built_once("native", name, *form, design.made_of, _VERILATE, make, trace,
                    wrapper((), "")) as kept:
        folder = kept.folder
        if kept.done:
            return folder
        text = to_rtlil(design.make(), "ringlet")
        ports = describe(text, "ringlet", "", config)["ports"]
        verilog = to_verilog(text)
        write_if_changed(folder / "ringlet.v", verilog if waves else tighten(verilog))
        write_if_changed(folder / f"{_TOP}.v", wrapper(ports, "ringlet"))
        log = folder / "build.log"
        log.unlink(missing_ok=True)
        made = folder / "verilated"
        try:
            run_logged([
                [str(toolchain.verilator()), *_VERILATE, *trace, "-Mdir", str(made),
                 str(folder / f"{_TOP}.v"), str(folder / "ringlet.v")],
                ["make", "-C", str(made), "-f", f"V{_TOP}.mk", "-j2", *make],
            ], log=log, folder=folder, environment=environment)
        except SystemExit as end:
            raise _fail("the card", end, log) from None
    return folder


def _link(folder: Path, header: str, sources: Sequence[str], others: Sequence[str]) -> Path:
    """Compile our part, and make the library; it appears whole, or not at all."""
    log, library = folder / "build.log", folder / "engine.so"
    log.unlink(missing_ok=True)
    write_if_changed(folder / "layout.h", header)
    environment = toolchain.environment()
    ccache = environment.get("OBJCACHE")
    compiler = [ccache, _COMPILER] if ccache else [_COMPILER]
    if shutil.which(_COMPILER) is None:
        raise toolchain.ToolMissing(f"{_COMPILER} is not installed; the native engine needs it")
    objects = [str(folder / f"{Path(source).stem}.o") for source in sources]
    includes = ["-I", str(folder), "-I", str(_SOURCES), *others[:-1]]
    new = folder / "engine.so.new"
    try:
        run_logged([
            *([*compiler, *_COMPILE, *includes, "-c", str(_SOURCES / source), "-o", made]
              for source, made in zip(sources, objects, strict=True)),
            [_COMPILER, "-shared", "-o", str(new), *objects,
             *([others[-1]] if others else []), "-lpthread"],
        ], log=log, folder=folder, environment=environment)
    except SystemExit as end:
        raise _fail("the native engine", end, log) from None
    new.replace(library)
    return library


_OURS = ("api.cpp", "contents.cpp", "driver.cpp", "engine.cpp", "host_access.cpp", "memory.cpp",
         "packed_driver.cpp", "root_complex.cpp", "rules.cpp", "split_driver.cpp", "wire.cpp")


def host_library(lanes: int = 64) -> Path:
    """Build the library without a card: the host alone, for tests that play the card by hand."""
    header = layout_header(NicConfig(data_bits=8 * lanes))
    with built_once("native", "host", header, _text_of(_SOURCES), _COMPILE) as kept:
        if kept.done:
            return kept.folder / "engine.so"
        return _link(kept.folder, header, [*_OURS, "no_card.cpp"], [])


def card_library(config: NicConfig, *, waves: bool = False) -> Path:
    """Build the library of a card, unless an equal one is there (minutes, but only once).

    With ``waves`` it can leave a VCD file, and is slower even when it does not.
    """
    card = _verilated(config, card_design(config), waves=waves)
    header = layout_header(config)
    made = card / "verilated"
    root = toolchain.environment().get("VERILATOR_ROOT") or os.environ.get("VERILATOR_ROOT", "")
    include = Path(root) / "include"
    with built_once("native", f"engine_{config.data_bits}{'-waves' if waves else ''}", header,
                    card.name, _text_of(_SOURCES), _COMPILE) as kept:
        if kept.done:
            return kept.folder / "engine.so"
        return _link(kept.folder, header, [*_OURS, "card.cpp"], [
            "-isystem", str(include), "-isystem", str(include / "vltstd"), "-isystem", str(made),
            f"-DRINGLET_TRACE={int(waves)}",
            f"-Wl,--whole-archive,{made}/V{_TOP}__ALL.a,--no-whole-archive,{made}/libverilated.a"])
