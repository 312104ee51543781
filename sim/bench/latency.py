"""Measure latencies: one frame through the idle card, taken apart by what it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from hw.config import NicConfig
from hw.pcie.types import RequestKind
from sim.bench.limits import Ring as RingKind
from sim.bench.points import Abilities
from sim.bench.throughput import Spent, abilities, cycles_of, engine_options
from sim.native.bring_up import NativeCard, open_card
from sim.native.library import TLP
from sw_driver.buffers import Shape
from sw_driver.layouts import Feature
from sw_driver.net import NetOptions, without
from sw_driver.ring import Ring
from sw_driver.split_ring import SplitRing

__all__ = ["FRAME_BYTES", "ROUND_TRIPS_NS", "latencies"]

FRAME_BYTES = 60
ROUND_TRIPS_NS = (500, 1000)
_LINK = "gen3x16"
_SETTLE_CYCLES = 4000
_AFTER_CYCLES = 3000
_RECEIVE, _TRANSMIT = 0, 1
_ALIGN = 128  # of buffers: none crosses a page, which would take two reads
_USED_INDEX = 2  # offset in the used ring
_DESCRIPTOR_BYTES = 16
_CQ, _RQ, _RC = 0, 2, 3  # channels of the log


@dataclass(frozen=True)
class _Read:
    """A read of the card."""

    asked: int
    answered: int


def _reads(log: np.ndarray[Any, Any]) -> list[_Read]:
    """Pair reads with their last completions."""
    asked: dict[int, int] = {}
    answered: dict[int, int] = {}
    found = []
    for record in log:
        tag, cycle = int(record["tag"]), int(record["cycle"])
        if record["channel"] == _RQ and record["kind"] == RequestKind.MEM_READ.value:
            if tag in answered:
                found.append(_Read(asked[tag], answered.pop(tag)))
            asked[tag] = cycle
        elif record["channel"] == _RC and tag in asked:
            answered[tag] = cycle
    return found + [_Read(asked[tag], cycle) for tag, cycle in answered.items()]


def _chain(reads: list[_Read], begin: int, end: int) -> int:
    """Give how many reads follow on one another between two cycles: the longest such chain."""
    count, free = 0, begin
    for read in sorted(reads, key=lambda read: read.answered):
        if read.asked >= free and read.answered <= end:
            count, free = count + 1, read.answered
    return count


def _cycle(log: np.ndarray[Any, Any], what: Any, *, last: bool = False) -> int:
    """Give the cycle of the first record for which ``what`` holds (or of the last)."""
    found = log["cycle"][what]
    if not len(found):
        raise RuntimeError("a step of the packet's way was not seen")
    return int(found[-1 if last else 0])


@dataclass(frozen=True)
class _Case:
    """What latencies are measured with."""

    rtt_ns: int
    notification_data: bool
    ring: RingKind

    @property
    def features(self) -> tuple[int, ...]:
        """What the driver may negotiate."""
        return without(*[Feature.NOTIFICATION_DATA] * (not self.notification_data),
                       *[Feature.RING_PACKED] * (self.ring == "split"))

    def row(self, path: str, config: NicConfig, cycles: int, reads: int) -> dict[str, Any]:
        floor = reads * cycles_of(self.rtt_ns, config)
        return {"path": path, "ring": self.ring, "notification_data": self.notification_data,
                "frame_bytes": FRAME_BYTES, "rtt_ns": self.rtt_ns, "reads": reads,
                "cycles": cycles, "floor_cycles": floor, "added_cycles": cycles - floor,
                "blocks": []}


def _cases(can: Abilities) -> Iterator[_Case]:
    for ring, notification_data, rtt_ns in product(can.rings, (False, True), ROUND_TRIPS_NS):
        if can.notification_data or not notification_data:
            yield _Case(rtt_ns, notification_data, ring)


def _is_seen(ring: Ring[Any], log: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Say which writes show the driver a used chain: of the used index, or of a descriptor."""
    address = log["address"]
    if isinstance(ring, SplitRing):
        return np.asarray(address == ring.used.address + _USED_INDEX)
    start = ring.areas[0].address
    return np.asarray((address >= start) & (address < start + _DESCRIPTOR_BYTES * ring.size))


def _log_of(card: NativeCard) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Take TLPs and frames."""
    records, _data = card.wire.take()
    return card.engine.take_tlps().astype(TLP), records


async def _send(card: NativeCard, frame: bytes) -> None:
    await card.device.send(frame)
    await card.port.sleep(_AFTER_CYCLES)
    await card.device.drain()


async def _receive(card: NativeCard, frame: bytes) -> None:
    ring = card.device.rings[_RECEIVE]
    ring.suppress_interrupts(False)
    card.wire.send(frame)
    await card.port.sleep(_AFTER_CYCLES)
    if await card.device.receive(0) != frame:
        raise RuntimeError("the frame did not come through as it was")


def latencies(config: NicConfig, *, seed: int, spent: Spent) -> Iterator[dict[str, Any]]:
    """Measure every path with every ring at every round trip, with and without NOTIFICATION_DATA.

    ``doorbell_to_wire``: from the kick's TLP to the frame's first beat on the wire.
    ``wire_to_used``: from its last beat on the wire to the write of the used index (of the used
    descriptor in a packed ring), descriptors being there. ``used_to_interrupt``: from that write
    to the interrupt's. The floor is the reads that follow on one another, times the round trip.
    """
    frame = bytes(range(FRAME_BYTES))
    for case in _cases(abilities(config)):
        options = engine_options(config, link=_LINK, rtt_ns=case.rtt_ns, seed=seed, keep="records")
        net = NetOptions(max_payload=config.max_payload_bytes, max_read=config.max_read_bytes,
                         suppress=False, features=case.features,
                         transmit_shape=Shape(align=_ALIGN), receive_shape=Shape(align=_ALIGN))
        with open_card(config, options=options, net=net) as card:
            card.engine.run(_SETTLE_CYCLES)
            _log_of(card)
            card.port.run(_send(card, frame))
            log, frames = _log_of(card)
            kick = _cycle(log, (log["channel"] == _CQ) & (
                log["address"] == card.device.virtio.notify_address(_TRANSMIT)))
            wire = int(frames["first_cycle"][0])
            yield case.row("doorbell_to_wire", config, wire - kick,
                           _chain(_reads(log), kick, wire))

            card.engine.run(_SETTLE_CYCLES)
            _log_of(card)
            card.port.run(_receive(card, frame))
            log, frames = _log_of(card)
            writes = (log["channel"] == _RQ) & (log["kind"] == RequestKind.MEM_WRITE.value)
            used = _cycle(log, writes & _is_seen(card.device.rings[_RECEIVE], log))
            came = int(frames["last_cycle"][0])
            yield case.row("wire_to_used", config, used - came,
                           _chain(_reads(log), came, used))
            vector = _cycle(log, writes & (log["cycle"] > used) & (log["size"] == 4)
                            & (log["address"] >> 20 == _DOORBELL_WINDOW >> 20))
            yield case.row("used_to_interrupt", config, vector - used,
                           _chain(_reads(log), used, vector))
            card.engine.check()
            spent.add(card.engine)


_DOORBELL_WINDOW = 0xFEE0_0000
"""Where interrupts are written."""
