"""`ringlet serve`: cards at sockets, for a QEMU that the user starts."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from hw.config import NicConfig
from sim.guest.qemu import card_options
from sim.guest.served_card import ServedCard
from sim.guest.wire_end import Cable, WireEnd
from sim.guest.wire_tap import Tap
from sim.native.build import card_library

__all__ = ["ServeOptions", "command_line", "run_serve", "terminated"]

_WIRES = ("tap", "cable", "none")
_MOST_CARDS = 8
_LONGEST_PATH = 107  # of a Unix socket
_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What is to be served."""

    config: NicConfig
    socket: Path
    """Where guests attach; with several cards their number stands before the suffix."""
    cards: int = 1
    """1 to 8."""
    wire: str = "tap"
    """``tap``: a network namespace for each card; ``cable``: two cards, connected; ``none``."""
    pcap: Path | None = None
    """Frames of each card, as a file; numbered like the sockets."""

    def __post_init__(self) -> None:
        if not 1 <= self.cards <= _MOST_CARDS:
            raise ValueError(f"--cards must be from 1 to {_MOST_CARDS}, not {self.cards}")
        if self.wire not in _WIRES:
            raise ValueError(f"--wire must be one of {', '.join(_WIRES)}, not {self.wire!r}")
        if self.wire == "cable" and self.cards != 2:
            raise ValueError(f"--wire cable connects 2 cards, and --cards is {self.cards}")
        for path in self.sockets:
            if len(str(path).encode()) > _LONGEST_PATH:
                raise ValueError(f"--socket must have at most {_LONGEST_PATH} bytes as a whole "
                                 f"path, not {path}")

    def _numbered(self, path: Path) -> list[Path]:
        path = path.absolute()
        if self.cards == 1:
            return [path]
        return [path.with_stem(f"{path.stem}-{number}") for number in range(self.cards)]

    @property
    def sockets(self) -> list[Path]:
        """A path for each card."""
        return self._numbered(self.socket)

    @property
    def pcaps(self) -> list[Path | None]:
        """A file for each card, or nothing."""
        return list(self._numbered(self.pcap)) if self.pcap else [None] * self.cards


def command_line(sockets: list[Path]) -> str:
    """Give the options that a user's QEMU needs beside its own."""
    options = ["-machine", "q35,memory-backend=ram",
               "-object", "memory-backend-memfd,id=ram,size=1G,share=on"]
    for number, path in enumerate(sockets):
        options += card_options(path, number)
    lines, line = [], "qemu-system-x86_64 ..."
    for word in options:
        if word.startswith("-"):
            lines.append(line)
            line = f"  {word}"
        else:
            line += f" {shlex.quote(word)}"
    return " \\\n".join([*lines, line])


@contextmanager
def terminated() -> Iterator[None]:
    """Let SIGTERM end the body as Ctrl-C does, so that it can clean up."""
    def end(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _state(cards: list[ServedCard]) -> Table:
    table = Table(box=None)
    for title in ("card", "guest", "frames in", "frames out", "interrupts", "simulated",
                  "kcycles/s"):
        table.add_column(title, justify="left" if title in ("card", "guest") else "right")
    for number, card in enumerate(cards):
        spent, session = card.spent, card.server.session
        table.add_row(
            str(number), "attached" if session is not None and session.open else "none",
            str(spent.frames_in), str(spent.frames_out), str(card.server.endpoint.interrupts),
            f"{1000 * card.simulated_s:.1f} ms", f"{card.engine.cycles_per_second / 1000:.0f}")
    return table


def run_serve(options: ServeOptions) -> int:
    """Serve until Ctrl-C, or SIGTERM. Everything that was made is removed again."""
    console = Console()
    with console.status("building the card's library (minutes, but only once)"):
        card_library(options.config)
    said: list[str] = []
    lock = threading.Lock()
    with ExitStack() as stack, terminated():
        ends: list[WireEnd | None] = [None] * options.cards
        if options.wire == "cable":
            ends = list(Cable().ends)
        cards = []
        try:
            for number, (path, pcap) in enumerate(zip(options.sockets, options.pcaps,
                                                      strict=True)):
                if options.wire == "tap":
                    ends[number] = tap = Tap(f"10.20.{number}.1/24", mtu=options.config.mtu)
                    console.print(f"card {number}: wire in namespace {tap.name}, address "
                                  f"10.20.{number}.1, e.g. ip netns exec {tap.name} ping "
                                  f"10.20.{number}.2", highlight=False, soft_wrap=True)

                def tell(line: str, number: int = number) -> None:
                    with lock:
                        said.append(f"card {number}: {line}")

                try:
                    card = ServedCard(options.config, path, ends[number], pcap=pcap, tell=tell)
                except BaseException:
                    end = ends[number]
                    if end is not None:
                        end.close()
                    raise
                cards.append(stack.enter_context(card))
            console.print(command_line(options.sockets), markup=False, highlight=False,
                          soft_wrap=True)
            with Live(_state(cards), console=console, refresh_per_second=2) as live:
                while True:
                    time.sleep(_LOOK_S)
                    for card in cards:
                        card.check()
                    with lock:
                        lines, said[:] = said[:], []
                    for line in lines:
                        live.console.print(line, markup=False, highlight=False)
                    live.update(_state(cards))
        except KeyboardInterrupt:
            console.print("ended; sockets and namespaces are removed")
    return 0
