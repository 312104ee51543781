"""The demonstration itself: a card, a driver, frames both ways, and what is measured of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hw.config import NicConfig
from hw.verilog import write_if_changed
from sim.bench.points import Point
from sim.bench.results import point_row
from sim.bench.throughput import Spent, engine_options, measure
from sim.native.bring_up import NativeCard, open_card
from sim.native.log import as_records, as_text
from sim.trace import Step, annotate
from sw_driver.layouts import Feature
from sw_driver.management import Management
from sw_driver.net import NetOptions, without
from tb.root_complex import TlpRecord

__all__ = ["POINTS", "Demonstration", "demonstrate"]

POINTS = tuple(Point(direction=direction, ring="split", frame_bytes=frame_bytes)
               for frame_bytes in (60, 1514) for direction in ("tx", "rx", "duplex"))
_RTT_NS = 1000
_LINK = "gen3x16"
_AHEAD = 32  # frames that wait at the wire
_SETTLE_CYCLES = 3000
"""Until every buffer that the driver gave has been fetched ahead, and all has come to rest."""
_PATIENCE_CYCLES = 20_000


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What is to be shown."""

    config: NicConfig
    seed: int
    transmit: Sequence[bytes]
    receive: Sequence[bytes]
    pcap: Path
    """Where the frames of the wire go."""
    log: Path
    """Where the text of all TLPs goes."""
    waves: Path | None = None
    window: range | None = None
    """Cycles of which waves are kept (None: all)."""


def _compare(seen: Sequence[bytes], frames: Sequence[bytes]) -> dict[str, Any]:
    """Say how many frames came through, and whether each is what it was."""
    wrong = [index for index, (one, other) in enumerate(zip(seen, frames, strict=False))
             if one != other]
    return {"frames": len(seen), "bytes": sum(map(len, seen)),
            "identical": len(seen) == len(frames) and not wrong,
            "expected": len(frames), "first_difference": wrong[0] if wrong else None}


async def _transmit_all(card: NativeCard, frames: Sequence[bytes]) -> dict[str, Any]:
    """Send every frame; compare each with what comes out on the wire."""
    await card.device.send_many(frames)
    await card.device.drain()
    await card.port.sleep(_SETTLE_CYCLES)
    return _compare([frame.data for frame in card.wire.take_frames()
                     if frame.direction == "tx"], frames)


async def _receive_all(card: NativeCard, frames: Sequence[bytes]) -> dict[str, Any]:
    """Give every frame to the wire; compare each with what the driver receives."""
    seen: list[bytes] = []
    given = 0
    while len(seen) < len(frames):
        # No faster than the driver, so that none has to be dropped.
        while given < min(len(seen) + _AHEAD, len(frames)):
            card.wire.send(frames[given])
            given += 1
        received = await card.device.receive(_PATIENCE_CYCLES)
        if received is None:
            break
        seen.append(received)
    return _compare(seen, frames)


async def _one_out(card: NativeCard, frame: bytes) -> None:
    await card.device.send(frame)
    await card.device.drain()
    await card.port.sleep(_SETTLE_CYCLES)


async def _one_in(card: NativeCard, frame: bytes) -> None:
    card.wire.send(frame)
    if await card.device.receive(_PATIENCE_CYCLES) != frame:
        raise RuntimeError("the frame of the ladder did not come through as it was")
    await card.port.sleep(_SETTLE_CYCLES)


def _way(card: NativeCard, go: Any, log: list[TlpRecord]) -> list[Step]:
    """Send or receive one frame with the idle card; give its way."""
    card.engine.run(_SETTLE_CYCLES)
    log += as_records(card.engine.take_tlps())
    card.wire.take()
    card.port.run(go)
    seen = as_records(card.engine.take_tlps())
    log += seen
    return annotate(card.engine.memory.find, seen, card.wire.take_frames())


def _between(way: Sequence[Step], first: str, last: str) -> int:
    """Give the cycles between two steps of a way."""
    cycles: dict[str, int] = {}
    for step in way:
        cycles.setdefault(step.name, step.cycle)
    return cycles[last] - cycles[first]


def _reads_in_turn(way: Sequence[Step]) -> int:
    """Count the reads before the frame leaves of which each waited for the answer to another."""
    asked: dict[str, int] = {}
    spans = []
    for step in way:
        if step.name == "frame on the wire":
            break
        if step.name.startswith("read "):
            asked[step.name.removeprefix("read ")] = step.cycle
        elif step.name in asked:
            spans.append((step.cycle, asked.pop(step.name)))
    count = free = 0
    for answered, begun in sorted(spans):
        if begun >= free:
            count, free = count + 1, answered
    return count


def demonstrate(what: Demonstration, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run the demonstration; give all that the report tells.

    ``progress`` is told what comes next.
    """
    config = what.config
    options = engine_options(config, link=_LINK, rtt_ns=_RTT_NS, seed=what.seed, keep="bytes")
    log: list[TlpRecord] = []
    progress("a driver brings the card up")
    # A split ring's steps are those that most readers know.
    net = NetOptions(max_payload=config.max_payload_bytes, max_read=config.max_read_bytes,
                     features=without(Feature.RING_PACKED))
    with open_card(config, options=options, net=net, waves=what.waves,
                   window=what.window) as card:
        results: dict[str, Any] = {"up_cycles": card.engine.cycle}
        device = card.device
        told = device.config
        results["device"] = {
            "mac": told.mac.hex(":"), "mtu": told.mtu, "speed_mbps": told.speed_mbps,
            "link_up": told.link_up,
            "features": [name for name, bit in vars(Feature).items()
                         if isinstance(bit, int) and device.virtio.has(bit)]}
        card.wire.tap(what.pcap)
        progress("it sends")
        results["tx"] = card.port.run(_transmit_all(card, what.transmit))
        log += as_records(card.engine.take_tlps())
        progress("it receives")
        results["rx"] = card.port.run(_receive_all(card, what.receive))
        card.wire.untap()
        progress("one frame, step by step")
        small = random.Random(what.seed).randbytes(60)
        out = _way(card, _one_out(card, small), log)
        come = _way(card, _one_in(card, small), log)
        results["latency"] = {
            "doorbell_to_wire_cycles": _between(out, "doorbell", "frame on the wire"),
            "doorbell_to_wire_reads": _reads_in_turn(out),
            "wire_to_used_cycles": _between(come, "frame on the wire", "used index")}
        results["ways"] = {"tx": [step.row() for step in out], "rx": [step.row() for step in come]}
        card.port.run(_account(card, results))
        log += as_records(card.engine.take_tlps())
        card.engine.check()
        spent = Spent()
        spent.add(card.engine)
    write_if_changed(what.log, as_text(log))
    results["throughput"] = []
    for point in POINTS:
        progress(f"full speed: {point.direction}, {point.frame_bytes} B")
        results["throughput"].append(point_row(
            point, measure(point, config, seed=what.seed, spent=spent), config))
    results["cycles"], results["cpu_s"] = spent.cycles, spent.cpu_s
    return results


async def _account(card: NativeCard, results: dict[str, Any]) -> None:
    """Read the card's own counters, and close it."""
    management = Management(card.function)
    await management.check()
    results["drops"] = await management.drops()
    results["counters"] = {
        name: asdict(await management.count(name, "frames"))
        for name in ("wire_received", "wire_sent", "received", "transmitted")}
    await card.device.close()
