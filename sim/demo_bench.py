"""The demonstration, inside the simulator: `sim.demo` starts it and reads what it leaves.

Environment: ``RINGLET_TRANSMIT`` and ``RINGLET_RECEIVE`` are pcap files, ``RINGLET_FOLDER`` is
where ``results.json``, ``wire.pcap`` and ``progress`` go.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cocotb

from sim.bring_up import Card, bring_up
from sim.pcap import read_frames
from sim.trace import Step, annotate
from sw_driver.layouts import Feature
from sw_driver.management import Management
from tb.wire import LINE_100G, WireFrame

FOLDER = Path(os.environ.get("RINGLET_FOLDER", "."))
CLOCK_GHZ = 0.25
FRAME_BYTES = (60, 1514)
OFFERED = 4
"""Frames that the line offers for each that is measured, where the card may be the slower one."""
SETTLE_CYCLES = 3000
"""Until every buffer that the driver gave has been fetched ahead."""
WARM_UP = 0.3
"""Share of the frames of a throughput run that pass before the measurement begins."""


class Progress:
    """How far the run is, in a file that `sim.demo` watches: a share and a word."""

    def __init__(self, steps: list[tuple[str, float]]) -> None:
        self._steps = steps
        self._total = sum(weight for _, weight in steps)
        self._done = 0.0

    def at(self, name: str, share: float) -> None:
        """``share`` of the step ``name`` is done."""
        before = 0.0
        for step, weight in self._steps:
            if step == name:
                done = (before + weight * share) / self._total
                if done - self._done > 0.01 or share == 0:
                    self._done = done
                    (FOLDER / "progress").write_text(f"{done:.3f} {name}")
                return
            before += weight


async def transmit_all(card: Card, frames: list[bytes], progress: Progress) -> dict[str, Any]:
    """Send every frame; compare each with what comes out on the wire."""
    seen: list[bytes] = []

    def watch(frame: WireFrame) -> None:
        if frame.direction == "tx":
            seen.append(frame.data)
            progress.at("transmit", len(seen) / len(frames))

    card.wire.on_frame.append(watch)
    await card.device.send_many(frames)
    await card.device.drain()
    await card.ticker.until(lambda: len(seen) >= len(frames), 100_000, "the last frame")
    card.wire.on_frame.remove(watch)
    return compare(seen, frames)


async def receive_all(card: Card, frames: list[bytes], progress: Progress) -> dict[str, Any]:
    """Give every frame to the wire; compare each with what the driver receives."""
    for frame in frames:
        card.wire.send(frame)
    seen: list[bytes] = []
    while len(seen) < len(frames):
        received = await card.device.receive(20_000)
        if received is None:
            break
        seen.append(received)
        progress.at("receive", len(seen) / len(frames))
    return compare(seen, frames)


def compare(seen: list[bytes], frames: list[bytes]) -> dict[str, Any]:
    """Say how many frames came through, and whether each is what it was."""
    wrong = [index for index, (one, other) in enumerate(zip(seen, frames, strict=False))
             if one != other]
    return {"frames": len(seen), "bytes": sum(map(len, seen)),
            "identical": len(seen) == len(frames) and not wrong,
            "expected": len(frames), "first_difference": wrong[0] if wrong else None}


async def one_packet_out(card: Card, frame: bytes) -> tuple[int, list[Step]]:
    """Send one frame through the idle card. Cycles from its doorbell to the wire, and its way."""
    log = card.host.root.log
    assert log is not None
    await card.ticker.sleep(SETTLE_CYCLES)
    begun = len(log)
    passed = len(card.wire.frames)
    await card.device.send(frame)
    await card.device.drain()
    await card.ticker.sleep(600)
    out = card.wire.frames[passed]
    assert out.data == frame
    way = annotate(card, log[begun:], [out])
    doorbell = next(step for step in way if step.name == "doorbell")
    return out.first_cycle - doorbell.cycle, way


async def one_packet_in(card: Card, frame: bytes) -> tuple[int, list[Step]]:
    """Receive one frame with the idle card. Cycles from its end on the wire to the used index."""
    log = card.host.root.log
    assert log is not None
    await card.ticker.sleep(SETTLE_CYCLES)
    begun = len(log)
    passed = len(card.wire.frames)
    card.wire.send(frame)
    assert await card.device.receive(20_000) == frame
    await card.ticker.sleep(600)
    came = card.wire.frames[passed]
    way = annotate(card, log[begun:], [came])
    used = next(step for step in way if step.name == "used index")
    return used.cycle - came.last_cycle, way


def rate(cycles: list[int], frame_bytes: int, direction: str) -> dict[str, Any]:
    """Give the steady rate of events at these cycles, one a frame."""
    first, last = int(len(cycles) * WARM_UP), len(cycles) - 1
    each = (cycles[last] - cycles[first]) / (last - first)
    return {"direction": direction, "frame_bytes": frame_bytes,
            "cycles_per_packet": round(each, 3),
            "gbps": round(frame_bytes * 8 * CLOCK_GHZ / each, 2)}


async def transmit_rate(card: Card, frame_bytes: int, count: int,
                        progress: Progress) -> dict[str, Any]:
    """Keep the ring full, and see how often a frame leaves."""
    frame = bytes(range(256)) * 6
    passed = len(card.wire.frames)
    step = f"tx {frame_bytes}"
    card.wire.tx_rate = LINE_100G

    def frames() -> Iterable[bytes]:
        for index in range(count):
            progress.at(step, index / count)
            yield frame[:frame_bytes]

    await card.device.send_many(frames())
    await card.device.drain()
    await card.ticker.until(lambda: len(card.wire.frames) >= passed + count, 20_000,
                            "the last frame on the wire")
    card.wire.tx_rate = None
    cycles = [out.first_cycle for out in card.wire.frames[passed:]]
    return rate(cycles, frame_bytes, "tx")


async def receive_rate(card: Card, frame_bytes: int, count: int,
                       progress: Progress) -> dict[str, Any]:
    """Fill the line with frames, and see how often one reaches the driver."""
    frame = (bytes(range(256)) * 6)[:frame_bytes]
    log = card.host.root.log
    assert log is not None
    begun = len(log)
    seen = 0
    card.wire.rx_rate = LINE_100G
    step = f"rx {frame_bytes}"
    # More than the card takes, if it takes less than the line gives: what is too much is dropped.
    for _ in range(OFFERED * count if frame_bytes == min(FRAME_BYTES) else count):
        card.wire.send(frame)
    while seen < count and await card.device.receive(20_000) is not None:
        seen += 1
        progress.at(step, seen / count)
    card.wire.rx_rate = None
    card.wire.forget()
    while await card.device.receive(2_000) is not None:
        pass
    # The used index tells how many frames had reached memory at each of its writes.
    ring = next(region for region in card.host.root.memory.regions
                if region.name.endswith("receive used ring"))
    cycles: list[int] = []
    before: int | None = None
    for record in log[begun:]:
        if record.channel == "rq" and (record.address, record.size) == (ring.address + 2, 2):
            index = int.from_bytes(record.data[2:4], "little")
            cycles += [record.cycle] * ((index - before) % 65536 if before is not None else 1)
            before = index
    return rate(cycles[:count], frame_bytes, "rx")


@cocotb.test
async def demonstration(dut: Any) -> None:
    """Everything that the report tells."""
    transmit = read_frames(Path(os.environ["RINGLET_TRANSMIT"]))
    receive = read_frames(Path(os.environ["RINGLET_RECEIVE"]))
    count = {60: int(os.environ.get("RINGLET_FRAMES_60", "3000")),
             1514: int(os.environ.get("RINGLET_FRAMES_1514", "400"))}
    rng = random.Random(cocotb.RANDOM_SEED)
    progress = Progress([
        ("enumerate", 2), ("transmit", 10), ("receive", 10), ("latency", 4),
        *((f"{way} {size}", count[size] * (1 if size == 60 else 3) / 60)
          for size in FRAME_BYTES for way in ("tx", "rx"))])
    progress.at("enumerate", 0)
    card = await bring_up(dut)
    results: dict[str, Any] = {"up_cycles": card.ticker.cycle}
    results["device"] = {
        "mac": card.device.mac.hex(":"), "mtu": card.device.mtu,
        "speed_mbps": card.device.speed_mbps, "link_up": card.device.link_up,
        "features": [name for name, bit in vars(Feature).items()
                     if isinstance(bit, int) and card.device.virtio.has(bit)]}
    results["tx"] = await transmit_all(card, transmit, progress)
    dut._log.info("tx %s", results["tx"])
    results["rx"] = await receive_all(card, receive, progress)
    dut._log.info("rx %s", results["rx"])
    card.wire.write_pcap(FOLDER / "wire.pcap")

    progress.at("latency", 0)
    small = rng.randbytes(60)
    out_cycles, out_way = await one_packet_out(card, small)
    in_cycles, in_way = await one_packet_in(card, small)
    results["latency"] = {"doorbell_to_wire_cycles": out_cycles,
                          "wire_to_used_cycles": in_cycles}
    results["ways"] = {"tx": [step.row() for step in out_way],
                       "rx": [step.row() for step in in_way]}
    dut._log.info("latency %s", results["latency"])
    results["throughput"] = []
    for size in FRAME_BYTES:
        results["throughput"].append(await transmit_rate(card, size, count[size], progress))
        dut._log.info("rate %s", results["throughput"][-1])
        results["throughput"].append(await receive_rate(card, size, count[size], progress))
        dut._log.info("rate %s", results["throughput"][-1])
    management = Management(card.function)
    await management.check()
    results["drops"] = await management.drops()
    results["counters"] = {
        name: asdict(await management.count(name, "frames"))
        for name in ("wire_received", "wire_sent", "received", "transmitted")}
    await card.device.close()
    card.host.root.check()
    results["cycles"] = card.ticker.cycle
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1))
