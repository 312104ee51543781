"""The ``ringlet`` command: run the card, write its Verilog, see what it takes of an FPGA."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hw.config import NicConfig
from hw.verilog import parse_overrides, write_card
from sim import toolchain

__all__ = ["app", "main"]

PRESETS = ", ".join(NicConfig.PRESETS)

# The base of all mistakes in the use of a command; Typer itself exports only what derives from it.
_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Ringlet, an open virtio SmartNIC: run it in simulation, write its Verilog, see what it "
         "takes of an FPGA.\n\nA card is a preset with fields overridden: "
         "[bold]ringlet verilog full --vfs 64 --set queue_pairs=4[/bold]. hw/config.py lists the "
         "fields. What is written goes below build/.")

guest = typer.Typer(help="Run real guests on the card: unmodified drivers, in wall time.")
app.add_typer(guest, name="guest")

_Preset = Annotated[str, typer.Argument(
    metavar="PRESET", help=f"The card to start from: {PRESETS}.")]
# Numbers come as text: our own words name the value and what is allowed, in one line.
_Vfs = Annotated[str | None, typer.Option(
    "--vfs", metavar="N", help="Virtual functions, 0 to 255; short for --set vfs=N.")]
_Set = Annotated[list[str] | None, typer.Option(
    "--set", metavar="FIELD=NUMBER",
    help="Override a field of the preset, such as queue_pairs=4. May be given again.")]
_Jobs = Annotated[str | None, typer.Option(
    "--jobs", metavar="N", help="Processes that share the work; without it one for each core.")]


def _overrides(vfs: str | None, pairs: Sequence[str] | None) -> dict[str, int]:
    return parse_overrides([*([f"vfs={vfs}"] if vfs is not None else []), *(pairs or [])])


def _card(preset: str, vfs: str | None, pairs: Sequence[str] | None) -> str:
    """Give what names the card beside a make target."""
    return " ".join([*([f"CONFIG={preset}"] if preset != "full" else []),
                     *([f"VFS={vfs}"] if vfs else []),
                     *([f'SET="{" ".join(pairs)}"'] if pairs else [])])


def _jobs(text: str | None) -> int:
    return os.cpu_count() or 1 if text is None else _whole("--jobs", text)


def _whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, not {text!r}")
    return value


def _window(name: str, text: str | None) -> range | None:
    """Read FROM:TO; either end may be left out."""
    if text is None or text == ":":
        return None
    first, colon, last = text.partition(":")
    if not colon or not all(each.isdecimal() for each in (first, last) if each):
        raise ValueError(f"{name} must be FROM:TO in cycles, such as 1000:2000, not {text!r}")
    window = range(int(first or 0), int(last) if last else 1 << 62)
    if not window:
        raise ValueError(f"{name} must end after it begins, not {text!r}")
    return window


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ringlet {version('ringlet')}")
        raise typer.Exit


@app.callback()
def _root(_version: Annotated[bool, typer.Option(
        "--version", callback=_show_version, is_eager=True,
        help="Print the version and end.")] = False) -> None:
    pass


@app.command()
def sim(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
        seed: Annotated[str, typer.Option(
            metavar="N", help="Seed of everything random: the same seed, the same run.")] = "1",
        pcap: Annotated[Path | None, typer.Option(
            metavar="PCAP", help="Frames to send and to receive.")] = None,
        transmit: Annotated[Path | None, typer.Option(
            metavar="PCAP", help="Frames for the driver to send; without it (and --pcap), what a "
                                 "Linux host once sent (tests/data/linux-out.pcap).")] = None,
        receive: Annotated[Path | None, typer.Option(
            metavar="PCAP", help="Frames to come in from the wire; without it (and --pcap), what "
                                 "that host received (tests/data/linux-in.pcap).")] = None,
        ring: Annotated[str, typer.Option(
            metavar="KIND", help="Kind of the rings; the card has split ones.")] = "split",
        waves: Annotated[str | None, typer.Option(
            metavar="FROM:TO", help="Leave waves of these cycles (waves.vcd, and waves.gtkw, which "
                                    "groups them by room); ':' for all. Takes a build of its own."
            )] = None,
        folder: Annotated[Path, typer.Option(
            metavar="FOLDER", help="Where report and packets go.")] = Path("build/sim"),
        ) -> int:
    """Run the demonstration: a driver brings the card up and sends and receives packets.

    Leaves report.json, report.html, wire.pcap and tlps.txt in the folder. Ends with 1 if a frame
    was lost or changed.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.demo import (  # noqa: PLC0415  # what one command needs, another need not load
        DEFAULT_RECEIVE,
        DEFAULT_TRANSMIT,
        DemoOptions,
        run_demo,
    )

    return run_demo(DemoOptions(
        config=config, preset=preset, seed=_whole("--seed", seed), ring=ring, folder=folder,
        waves=waves is not None, window=_window("--waves", waves),
        transmit=transmit or pcap or DEFAULT_TRANSMIT, receive=receive or pcap or DEFAULT_RECEIVE))


@app.command()
def bench(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
          quick: Annotated[bool, typer.Option(
              "--quick", help="Three frame lengths at the centre, and the latencies.")] = False,
          full: Annotated[bool, typer.Option(
              "--full", help="The whole product of all axes: hours.")] = False,
          seed: Annotated[str, typer.Option(
              metavar="N", help="Seed of everything random: the same seed, the same run.")] = "1",
          compare: Annotated[Path | None, typer.Option(
              metavar="OLD.json", help="Results of an earlier run: say what changed, and end with "
                                       "1 if something got worse.")] = None,
          threshold: Annotated[str, typer.Option(
              metavar="SHARE", help="By what share a figure may be worse than there.")] = "0.02",
          folder: Annotated[Path, typer.Option(
              metavar="FOLDER", help="Where results and report go.")] = Path("build/bench"),
          ) -> int:
    """Measure the card: throughput and latency, each beside what is physically possible.

    Leaves results.json and report.html in the folder. All figures but the engine's own are
    simulated cycles, the same on every machine.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    if quick and full:
        raise ValueError("--quick and --full exclude each other")
    from sim.bench.run import BenchOptions, run_bench  # noqa: PLC0415  # as below

    return run_bench(BenchOptions(
        config=config, preset=preset, seed=_whole("--seed", seed), compare=compare,
        scale="quick" if quick else "full" if full else "star",
        threshold=_share("--threshold", threshold), folder=folder))


@app.command()
def soak(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
         packets: Annotated[str, typer.Option(
             metavar="N", help="Frames that are to go the whole way, in both directions "
                               "together.")] = "100000",
         seed: Annotated[str, typer.Option(
             metavar="N", help="Seed of everything random: the same seed and jobs, the same "
                               "run.")] = "1",
         jobs: _Jobs = None,
         folder: Annotated[Path, typer.Option(
             metavar="FOLDER", help="Where the summary goes.")] = Path("build/soak")) -> int:
    """Run random traffic over random hosts and links, with stalls, resets and suspensions.

    Every frame is accounted for. Ends with 1 at the first that was lost, repeated, changed or out
    of order; how to see it again is printed. Leaves summary.json in the folder.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.soak.run import SoakOptions, run_soak  # noqa: PLC0415  # as below

    return run_soak(SoakOptions(
        config=config, card=_card(preset, vfs, pairs), seed=_whole("--seed", seed),
        packets=_whole("--packets", packets), jobs=_jobs(jobs), folder=folder))


@app.command()
def fuzz(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
         cases: Annotated[str, typer.Option(
             metavar="N", help="Cases to run: each a card and several hostile drivers.")] = "80",
         first: Annotated[str, typer.Option(
             metavar="N", help="Number of the first case.")] = "0",
         seed: Annotated[str, typer.Option(
             metavar="N", help="Seed of everything random: the same seed and case, the same "
                               "run.")] = "1",
         jobs: _Jobs = None,
         folder: Annotated[Path, typer.Option(
             metavar="FOLDER", help="Where the summary goes.")] = Path("build/fuzz")) -> int:
    """Run hostile rings against the card, beside honest queues, with resets.

    Every access to memory is held against what the rings name. Ends with 1 if anything was wrong
    in a case; how to run it again is printed. Leaves summary.json in the folder.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.fuzz.run import FuzzOptions, run_fuzz  # noqa: PLC0415  # as below

    return run_fuzz(FuzzOptions(
        config=config, card=_card(preset, vfs, pairs), cases=_whole("--cases", cases),
        first=_whole("--first", first), seed=_whole("--seed", seed), jobs=_jobs(jobs),
        folder=folder))


@app.command()
def verilog(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
            folder: Annotated[Path, typer.Option(
                metavar="FOLDER", help="Where the files go.")] = Path("build/verilog")) -> None:
    """Write the card as Verilog, and its ports, parameters and sizes as JSON beside it.

    The file is named after the preset and what is overridden (full-vfs64.v), its module is
    ringlet. An unchanged card leaves the file untouched.
    """
    with Console(stderr=True).status("writing Verilog"):
        path = write_card(preset, _overrides(vfs, pairs), folder)
    print(path)


@app.command()
def synth(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
          block: Annotated[str | None, typer.Option(
              metavar="MODULE:CLASS(...)",
              help="Map one component instead of a card, such as "
                   "'hw.stream.register:StreamRegister(64)'. The arguments are Python.")] = None,
          rooms_only: Annotated[bool, typer.Option(
              "--rooms-only", help="Leave out the flattened run of the whole card, which takes "
                                   "longest and finds paths that cross blocks.")] = False,
          folder: Annotated[Path, typer.Option(
              metavar="FOLDER", help="Where the report goes.")] = Path("build/synth")) -> None:
    """Map the card to an UltraScale+ part: LUTs, memories, and LUTs in series.

    Prints a table by room and the longest paths with the registers at their ends, and leaves
    PRESET-vfsN.json. What was mapped once and has not changed is not mapped again.
    """
    from sim.synth import report_block, report_card  # noqa: PLC0415  # as above

    if block is not None:
        report_block(block)
    else:
        print(report_card(preset, _overrides(vfs, pairs), folder, whole=not rooms_only))


@app.command()
def serve(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
          cards: Annotated[str, typer.Option(
              metavar="N", help="How many cards, each at a socket of its own: 1 to 8.")] = "1",
          socket: Annotated[Path, typer.Option(
              metavar="PATH", help="Where QEMU attaches; with several cards PATH-0 and so on.",
              )] = Path("build/guest/card.sock"),
          wire: Annotated[str, typer.Option(
              metavar="KIND", help="What is on the wire: tap (the kernel, in a network namespace; "
                                   "needs root), cable (between two cards), none.")] = "tap",
          pcap: Annotated[Path | None, typer.Option(
              metavar="PCAP", help="Write the frames of the wire here.")] = None) -> int:
    """Serve the card to a QEMU of your own (10.1 or newer), until Ctrl-C.

    The card is a PCI function there, by vfio-user: any guest with a virtio-net driver can use it.
    Prints the options that QEMU needs.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.guest.serve import ServeOptions, run_serve  # noqa: PLC0415  # as above

    return run_serve(ServeOptions(config=config, socket=socket, cards=_whole("--cards", cards),
                                  wire=wire, pcap=pcap))


@guest.command()
def linux(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
          pings: Annotated[str, typer.Option(
              metavar="N", help="Pings to send.")] = "20",
          size: Annotated[str, typer.Option(
              "--bytes", metavar="N", help="Bytes of a TCP stream each way; 0 for none.",
              )] = "1000000",
          processors: Annotated[str, typer.Option(
              metavar="N", help="Processors of the guest, 1 to 16; each gets a pair of queues.",
              )] = "2",
          pcap: Annotated[Path | None, typer.Option(
              metavar="PCAP", help="Write the frames of the wire here.")] = None,
          folder: Annotated[Path, typer.Option(
              metavar="FOLDER", help="Where linux.json and the guest's messages go.",
              )] = Path("build/guest")) -> int:
    """Boot an unmodified Linux in QEMU on the card: first ping, pings, TCP both ways.

    Programs come from Debian's packages the first time, below build/. Ends with 1 if something was
    lost or changed.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.guest.linux import LinuxOptions, run_linux  # noqa: PLC0415  # as above

    return run_linux(LinuxOptions(
        config=config, pings=_whole("--pings", pings), size=_whole("--bytes", size),
        processors=_whole("--processors", processors), pcap=pcap, folder=folder))


@guest.command()
def migrate(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
            size: Annotated[str, typer.Option(
                "--bytes", metavar="N", help="Bytes of a TCP stream each way, before and after.",
                )] = "1000000",
            split: Annotated[bool, typer.Option(
                "--split", help="Do not offer packed rings.")] = False,
            release: Annotated[bool, typer.Option(
                "--release-qemu", help="QEMU of the machine's own release of Debian.")] = False,
            pcap: Annotated[bool, typer.Option(
                "--pcap", help="Write the frames of each wire, migration-N.pcap.")] = False,
            folder: Annotated[Path, typer.Option(
                metavar="FOLDER", help="Where migrate.json and the guests' messages go.",
                )] = Path("build/guest")) -> int:
    """Move a running Linux from one card to another, by vhost-user: pings and TCP go on.

    Ends with 1 if something was lost but around the pause, or changed.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.guest.migrate import MigrateOptions, run_migrate  # noqa: PLC0415  # as above

    return run_migrate(MigrateOptions(
        config=config, size=_whole("--bytes", size), packed=not split, release=release, pcap=pcap,
        folder=folder))


@guest.command()
def uml(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
        pings: Annotated[str, typer.Option(metavar="N", help="Pings to send.")] = "20",
        size: Annotated[str, typer.Option(
            "--bytes", metavar="N", help="Bytes of a TCP stream each way; 0 for none.",
            )] = "1000000",
        queues: Annotated[str, typer.Option(
            metavar="N", help="Pairs of queues that the guest uses.")] = "1",
        split: Annotated[bool, typer.Option("--split", help="Do not offer packed rings.")] = False,
        pcap: Annotated[Path | None, typer.Option(
            metavar="PCAP", help="Write the frames of the wire here.")] = None,
        folder: Annotated[Path, typer.Option(
            metavar="FOLDER", help="Where uml.json and the guest's messages go.",
            )] = Path("build/guest")) -> int:
    """Boot user-mode Linux on the card, by vhost-user: first ping, pings, TCP both ways.

    Needs no QEMU, and is up in seconds. Ends with 1 if something was lost or changed.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.guest.vhost_user_run import UmlRun, run_uml  # noqa: PLC0415  # as above

    return run_uml(UmlRun(config=config, pings=_whole("--pings", pings),
                          size=_whole("--bytes", size), queues=_whole("--queues", queues),
                          packed=not split, pcap=pcap, folder=folder))


@guest.command()
def testpmd(preset: _Preset = "full", *, vfs: _Vfs = None, pairs: _Set = None,
            packets: Annotated[str, typer.Option(
                metavar="N", help="Packets to send; each comes back.")] = "10000",
            queues: Annotated[str, typer.Option(metavar="N", help="Pairs of queues.")] = "1",
            packed: Annotated[bool, typer.Option("--packed", help="Packed rings.")] = False,
            in_order: Annotated[bool, typer.Option(
                "--in-order", help="Chains are used in the order of the ring.")] = False,
            unmerged: Annotated[bool, typer.Option(
                "--unmerged", help="A frame in one receive buffer alone.")] = False,
            vectorized: Annotated[bool, typer.Option(
                "--vectorized", help="The driver's vector paths; with --unmerged.")] = False,
            pcap: Annotated[Path | None, typer.Option(
                metavar="PCAP", help="Write the frames of the wire here.")] = None,
            folder: Annotated[Path, typer.Option(
                metavar="FOLDER", help="Where testpmd.json and its messages go.",
                )] = Path("build/guest")) -> int:
    """Let DPDK's testpmd send packets back through the card, by vhost-user, and count them.

    Ends with 1 if one was lost or changed, or the counters differ.
    """
    config = NicConfig.preset(preset, **_overrides(vfs, pairs))
    from sim.guest.testpmd import TestpmdOptions  # noqa: PLC0415  # as above
    from sim.guest.vhost_user_run import TestpmdRun, run_testpmd  # noqa: PLC0415

    return run_testpmd(TestpmdRun(
        config=config, packets=_whole("--packets", packets), device=TestpmdOptions(
            queues=_whole("--queues", queues), packed=packed, in_order=in_order,
            mergeable=not unmerged, vectorized=vectorized), pcap=pcap, folder=folder))


def _commands(of: typer.Typer) -> list[str]:
    return [each.name or each.callback.__name__ for each in of.registered_commands
            if each.callback]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a mistake of the user is one line, and 2."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = next((word for word in words if not word.startswith("-")), "")
    inside = ""
    if command == "guest":  # the one command that has commands
        inside = next((word for word in words[words.index(command) + 1:]
                       if not word.startswith("-")), "")
        words = words if inside or words[-1] != command else [*words, "--help"]
    where = " ".join(word for word in ("ringlet", command, inside) if word)
    try:
        code = app(words, prog_name="ringlet", standalone_mode=False)
    except _UsageError as error:
        known = [*_commands(app), *(group.name for group in app.registered_groups if group.name)]
        if command and command not in known:
            print(f"ringlet: no command {command!r}; there are {', '.join(known)}",
                  file=sys.stderr)
        elif inside and inside not in _commands(guest):
            print(f"ringlet guest: no guest {inside!r}; there are {', '.join(_commands(guest))}",
                  file=sys.stderr)
        else:
            reason = " ".join(error.format_message().split())
            print(f"{where}: {reason} (see {where} --help)", file=sys.stderr)
        return 2
    except (ValueError, OSError, toolchain.ToolMissing) as error:  # ConfigError is a ValueError
        print(f"{where}: {error}", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except RuntimeError as error:
        print(f"{where}: {error}", file=sys.stderr)
        return 1
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
