"""`ringlet soak`: random traffic, stalls and resets, with every frame accounted for."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.native.bring_up import NativeCard, open_card
from sim.native.build import card_library
from sim.native.engine import EngineOptions
from sim.native.link import Link
from sw_driver.buffers import Shape
from sw_driver.layouts import Feature
from sw_driver.management import Management
from sw_driver.net import NetOptions, without

__all__ = ["SoakFailure", "SoakOptions", "run_soak", "soak"]

_NUMBER_BYTES = 8
_EPISODE_PACKETS = 20_000  # of one card, with one kind of host and link
_TURN_PACKETS = (1, 2000)
_REST_CYCLES = 6000  # after so long nothing is on its way any more
_UNDER_WAY_CYCLES = 100
_RING_FEATURES = (Feature.EVENT_IDX, Feature.NOTIFICATION_DATA, Feature.IN_ORDER)
_MANNERS = tuple(product((False, True), repeat=3))
_SMALL_BUFFERS = (64, 200, 1024)  # bytes that a frame is received in, several at a time
_POOL = random.Random(0x736F616B).randbytes(1 << 16)
_EXPECTED_DROPS = {"queue_down", "queue_full", "pool_full", "entry_full"}


class SoakFailure(AssertionError):
    """A frame was lost, repeated, changed or out of order."""


@dataclass(frozen=True, kw_only=True)
class SoakOptions:
    """What a run is asked for."""

    config: NicConfig
    packets: int
    """Frames to send and to receive in all."""
    seed: int = 1
    folder: Path = Path("build/soak")


@dataclass
class Books:
    """What was counted."""

    sent: int = 0
    received: int = 0
    given: int = 0
    """Frames for the card from the wire."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Of those, what the card said that it dropped."""
    given_up: int = 0
    """Frames that a reset took with it, in the rings or on their way."""
    resets: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    """Of the drivers, one each episode; and ``frames merged``: those over several buffers."""
    cycles: int = 0
    cpu_s: float = 0.0

    @property
    def packets(self) -> int:
        """Frames that went the whole way."""
        return self.sent + self.received


def _frame(number: int, size: int) -> bytes:
    """Make a frame unlike all others."""
    start = number * 40_503 % (len(_POOL) - size)
    return number.to_bytes(_NUMBER_BYTES, "big") + _POOL[start:start + size - _NUMBER_BYTES]


def _number(frame: bytes, way: str) -> int:
    """Give the number of a frame that is as it was made."""
    number = int.from_bytes(frame[:_NUMBER_BYTES], "big")
    if frame != _frame(number, len(frame)):
        raise SoakFailure(f"{way}: frame {number} of {len(frame)} bytes was changed")
    return number


class _Way:
    """Frames of one direction that are to come out: each at most once, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next = 0
        """Number of the next frame to make."""
        self.out = 0
        self._last = -1

    def make(self, size: int) -> bytes:
        """Make the next frame."""
        self.next += 1
        return _frame(self.next - 1, size)

    def came(self, frame: bytes) -> None:
        """Take a frame that came out."""
        number = _number(frame, self.name)
        if number <= self._last or number >= self.next:
            raise SoakFailure(f"{self.name}: frame {number} after {self._last}, of {self.next}")
        self._last = number
        self.out += 1


class _Episode:
    """One card, with a host, a link and a driver of random manners."""

    def __init__(self, card: NativeCard, rng: random.Random, books: Books) -> None:
        self.card = card
        self.rng = rng
        self.books = books
        self.transmit = _Way("transmit")
        self.receive = _Way("receive")
        self.given_up = {"transmit": 0, "receive": 0}
        top = min(card.config.max_frame_bytes, 4000)
        self.size: Callable[[], int] = rng.choice((
            lambda: rng.choice((60, 60, 64, 128, 1514)), lambda: rng.randint(60, 1514),
            lambda: rng.randint(60, top), lambda: 60))

    def _take_frames(self) -> None:
        """Look at what left on the wire."""
        for frame in self.card.wire.take_frames():
            if frame.direction == "tx":
                self.transmit.came(frame.data)

    async def _rest(self) -> None:
        """Wait until nothing comes any more.

        A buffer is given back before its frame is on the wire, and that may be a slow one.
        """
        came = -1
        while came != self.transmit.out:
            came = self.transmit.out
            await self.card.port.sleep(_REST_CYCLES)
            self._take_frames()

    async def _send(self, count: int) -> None:
        batch = self.rng.choice((1, 4, 32))
        for start in range(0, count, 64):
            size = min(64, count - start)
            await self.card.device.send_many(
                [self.transmit.make(self.size()) for _ in range(size)], batch=batch)
            self._take_frames()

    async def _receive(self, count: int) -> None:
        ahead = self.rng.choice((4, 16, 64))
        given = 0
        while True:
            while given < count and self.card.wire.rx_waiting < ahead:
                self.card.wire.send(self.receive.make(self.size()))
                given += 1
            frame = await self.card.device.receive(_REST_CYCLES)
            if frame is not None:
                self.receive.came(frame)
            elif given == count and self.card.wire.rx_idle:
                return

    async def turn(self, packets: int) -> None:
        """Send and receive at once, and wait until all has come through."""
        port = self.card.port
        out = port.spawn(self._send(self.rng.randint(0, packets)))
        rests = port.spawn(self._rest_amid(self.rng.choice((0, 0, 1, 5))))
        await self._receive(self.rng.randint(0, packets))
        await out
        await rests
        await self.card.device.drain()
        await self._rest()

    async def _rest_amid(self, times: int) -> None:
        """Suspend the card for a while, again and again: nothing may leave it meanwhile."""
        port = self.card.port
        for _ in range(times):
            await port.sleep(self.rng.choice((self.rng.randint(1, 300),
                                              self.rng.randint(300, 4000))))
            await self.card.device.suspend()
            begun = self._requests()
            await port.sleep(self.rng.randint(1, 1000))
            if begun != self._requests():
                raise SoakFailure("a suspended card reads, writes or interrupts")
            await self.card.device.resume()
            self.books.resets["suspension"] += 1

    def _requests(self) -> list[int]:
        """Give how much the card has asked of the host."""
        counters = self.card.engine.counters
        return [counters[name] for name in ("rq_reads", "rq_writes", "rq_interrupts")]

    async def reset(self) -> None:
        """Reset the card amid traffic, one way or another, and open it again."""
        card, port = self.card, self.card.port
        kind = self.rng.choice(("device", "function", "queue"))
        out = port.spawn(self._until_reset())
        for _ in range(self.rng.randint(1, 40)):
            card.wire.send(self.receive.make(self.size()))
        await port.sleep(self.rng.choice((self.rng.randint(1, 300), self.rng.randint(300, 4000))))
        out.close()
        card.wire.forget()
        if kind == "device":
            await card.device.close()
        elif kind == "function":
            await card.device.reset_function()
        else:  # that of transmit always: its driver was stopped with frames half given
            for queue in self.rng.choice(((1,), (0, 1), (1, 0))):
                await card.device.reset_queue(queue)
        self.books.resets[kind] += 1
        # What was on its way into the card may still come, and is dropped.
        await self._rest()
        if not card.device.is_open:
            await card.device.open()
        await port.sleep(_UNDER_WAY_CYCLES)

    async def _until_reset(self) -> None:
        while True:
            await self.card.device.send_many([self.transmit.make(self.size()) for _ in range(8)])
            self._take_frames()
            await self.card.port.sleep(1)

    async def account(self) -> None:
        """See that every frame that went in is out, dropped and counted, or lost in a reset."""
        management = Management(self.card.function)
        drops = await management.drops()
        counted = await management.count("wire_received", "frames")
        received = await management.count("received", "frames")
        sent = await management.count("wire_sent", "frames")
        self.books.dropped.update({name: count for name, count in drops.items() if count})
        unexpected = {name for name, count in drops.items() if count} - _EXPECTED_DROPS
        if unexpected:
            raise SoakFailure(f"frames were dropped as {', '.join(sorted(unexpected))}")
        came = self.card.engine.counters["wire_rx_frames"]
        if came != counted.events + drops["entry_full"]:
            raise SoakFailure(f"{came} frames came from the wire, the card counts {counted.events} "
                              f"and {drops['entry_full']} without room")
        later = sum(drops[name] for name in ("pool_full", "queue_full", "queue_down", "no_fit"))
        if counted.events != received.events + later:
            raise SoakFailure(f"{counted.events} frames came into the card, {received.events} "
                              f"left it and {later} were dropped")
        if sent.events != self.transmit.out:
            raise SoakFailure(f"the card counts {sent.events} frames sent, the wire "
                              f"{self.transmit.out}")


def _host(rng: random.Random, config: NicConfig) -> EngineOptions:
    """Draw a host and a link."""
    return EngineOptions(
        latency_cycles=rng.choice((20, 120, 250)), jitter_cycles=rng.choice((0, 0, 50, 300)),
        boundary_bytes=rng.choice((64, 128)), splitting=rng.choice(("large", "small", "random")),
        credits=rng.choice((None, None, 4, 32)),
        link=rng.choice((None, Link(generation=3, lanes=rng.choice((4, 16)),
                                    max_payload=config.max_payload_bytes))),
        rx_rate=rng.choice((50.0, 50.0, 10.0)), tx_rate=rng.choice((None, 50.0, 10.0)),
        stalls=rng.choice((0.0, 0.0, 0.05, 0.3)), tlp_log=0, seed=rng.randrange(1 << 30))


@dataclass(frozen=True)
class _Manners:
    """What a driver does with its rings."""

    packed: bool
    merged: bool
    """Frames are received in several buffers, each shorter than they are."""
    tables: bool
    """Chains are described in tables."""

    def __iter__(self) -> Iterator[str]:
        """Name them."""
        yield "packed" if self.packed else "split"
        if self.merged:
            yield "merged"
        if self.tables:
            yield "tables"


def _turns(rng: random.Random) -> Iterator[_Manners]:
    """Give one manner after the other, in random order, so that each comes as often as others."""
    while True:
        for packed, merged, tables in rng.sample(_MANNERS, len(_MANNERS)):
            yield _Manners(packed, merged, tables)


def _driver(rng: random.Random, config: NicConfig, manners: _Manners) -> NetOptions:
    """Draw the rest of a driver's manners."""
    most = 1 if manners.merged else rng.choice((1, 1, 3))
    left_out = [feature for feature in _RING_FEATURES if rng.random() < 0.5]
    left_out += [feature for feature, wanted in (
        (Feature.RING_PACKED, manners.packed), (Feature.MRG_RXBUF, manners.merged),
        (Feature.INDIRECT_DESC, manners.tables)) if not wanted]
    queue_size = rng.choice((16, 64, None))
    receive_bytes = None
    if manners.merged:
        # All buffers together hold the longest frame twice.
        room = 2 * (config.mtu + 30) // min(queue_size or 64, config.queue_size_max) + 1
        receive_bytes = max(room, rng.choice(_SMALL_BUFFERS))
    return NetOptions(
        features=without(*left_out), receive_bytes=receive_bytes,
        indirect=rng.choice(("always", "chains")), direct_first=rng.choice((0, 1)),
        queue_size=queue_size, refill_batch=rng.choice((1, 8, 32)),
        receive_shape=Shape(segments=(1, most), offsets=(0, rng.choice((0, 63)))),
        transmit_shape=Shape(segments=(1, rng.choice((1, 4))), offsets=(0, rng.choice((0, 63)))),
        interrupts=rng.random() < 0.8, shuffle=rng.random() < 0.5,
        max_payload=rng.choice((128, config.max_payload_bytes)),
        max_read=rng.choice((128, config.max_read_bytes)), seed=rng.randrange(1 << 30))


def soak(options: SoakOptions, progress: Callable[[int], None] = lambda done: None) -> Books:
    """Run until so many frames went the whole way; `SoakFailure` at the first that did not."""
    rng = random.Random(options.seed)
    books = Books()
    turns = _turns(rng)
    while books.packets < options.packets:
        manners = next(turns)
        with open_card(options.config, options=_host(rng, options.config),
                       net=_driver(rng, options.config, manners)) as card:
            episode = _Episode(card, rng, books)
            goal = min(_EPISODE_PACKETS, options.packets - books.packets)
            while episode.transmit.out + episode.receive.out < goal:
                before = episode.transmit.out + episode.receive.out
                lost = episode.transmit.next - episode.transmit.out
                card.port.run(episode.turn(rng.randint(*_TURN_PACKETS)))
                if episode.transmit.next - episode.transmit.out != lost:
                    raise SoakFailure(f"transmit: {episode.transmit.next} frames given, "
                                      f"{episode.transmit.out} came out, {lost} lost in resets")
                if rng.random() < 0.25:
                    card.port.run(episode.reset())
                progress(episode.transmit.out + episode.receive.out - before)
            card.port.run(episode.account())
            card.engine.check()
            books.sent += episode.transmit.out
            books.received += episode.receive.out
            books.given += episode.receive.next
            books.given_up += episode.transmit.next - episode.transmit.out
            books.manners.update(manners)
            books.manners["frames merged"] += card.device.statistics.merged_frames
            books.cycles += card.engine.cycle
            books.cpu_s += card.engine.cpu_seconds
    return books


def run_soak(options: SoakOptions) -> int:
    """Run the soak; give 0, or 1 when a frame was lost, repeated, changed or out of order.

    Leaves ``summary.json`` in the folder. The last line is ``soak: N passed, N failed, N skipped``,
    in frames.
    """
    console = Console()
    if options.packets < 1:
        raise ValueError(f"packets must be at least 1, not {options.packets}")
    with console.status("building the card's library (minutes, but only once)"):
        card_library(options.config)
    begun = time.process_time()
    failure = ""
    books = Books()
    with Progress(TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console, transient=True) as progress:
        task = progress.add_task("", total=options.packets)
        try:
            books = soak(options, lambda done: progress.advance(task, done))
        except AssertionError as error:
            failure = str(error)
    summary: dict[str, Any] = {
        "passed": books.packets, "failed": 1 if failure else 0, "skipped": 0,
        "seed": options.seed, "failure": failure, "sent": books.sent,
        "received": books.received, "given": books.given, "given_up": books.given_up,
        "dropped": dict(books.dropped), "resets": dict(books.resets),
        "manners": dict(books.manners), "cycles": books.cycles,
        "engine_cpu_s": round(books.cpu_s, 1), "cpu_s": round(time.process_time() - begun, 1)}
    options.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(options.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    if failure:
        console.print(f"seed {options.seed}: {failure}", markup=False)
    print(f"soak: {books.packets} passed, {summary['failed']} failed, 0 skipped")
    return 1 if failure else 0
