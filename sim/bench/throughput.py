"""Measure a point: keep the rings full, and see how often a packet goes through."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from hw.config import NicConfig
from hw.virtio.features import offered_features
from sim.bench.limits import NET_HEADER_BYTES, link_of
from sim.bench.points import Abilities, Point
from sim.bench.results import Measured
from sim.native.bring_up import NativeCard, open_card
from sim.native.engine import Engine, EngineOptions
from sim.native.rings import RingDriver
from sw_driver.buffers import Shape, make_buffer
from sw_driver.layouts import Feature, NetHeader
from sw_driver.net import NetOptions, without

__all__ = ["Spent", "abilities", "cycles_of", "engine_options", "flows", "measure"]

_SETTLE_CYCLES = 4000
_WARM_UP_CYCLES = 20_000         # and for each pair of queues so many:
_WARM_UP_CYCLES_OF_A_PAIR = 5000  # until the card has fetched all that it can hold of each
_WINDOW_CYCLES = 40_000
_PACKETS_MIN = 100  # in the window, of each direction; else it was too short
_RECEIVE, _TRANSMIT = 0, 1  # of a pair
_FLOWS_OF_A_QUEUE = 64  # on average: no queue has none, or much more than others
_MACS = bytes.fromhex("02524e470000020000000001")
_FLOW = struct.Struct(">12sHBBHHHBBH8s4sHH")
"""Ethernet, IPv4 and UDP; addresses and ports are what a flow is known by."""


@dataclass
class Spent:
    """What the engine has done so far."""

    cycles: int = 0
    cpu_s: float = 0.0

    def add(self, engine: Engine) -> None:
        """Count what an engine did."""
        self.cycles += engine.cycle
        self.cpu_s += engine.cpu_seconds


def abilities(config: NicConfig) -> Abilities:
    """Say what a card can do, by what it offers to drivers."""
    offered = offered_features(config)
    return Abilities(
        rings=("split", "packed") if "RING_PACKED" in offered else ("split",),
        queues=config.queue_pairs if "MQ" in offered else 1,
        in_order="IN_ORDER" in offered, max_frame_bytes=config.max_frame_bytes,
        notification_data="NOTIFICATION_DATA" in offered)


def cycles_of(nanoseconds: int, config: NicConfig) -> int:
    """Give a time in cycles of the card's clock."""
    return round(nanoseconds * config.clock_mhz / 1000)


def _line_rate(config: NicConfig) -> float:
    """Bytes a cycle of the wire, its overhead included."""
    return config.link_mbps / 8 / config.clock_mhz


def engine_options(config: NicConfig, *, link: str, rtt_ns: int, seed: int,
                   **more: Any) -> EngineOptions:
    """Say how host and wire are to behave."""
    return EngineOptions(
        latency_cycles=cycles_of(rtt_ns, config), seed=seed, rx_rate=_line_rate(config),
        tx_rate=_line_rate(config),
        link=link_of(link, config.max_payload_bytes), **more)


def measure(point: Point, config: NicConfig, *, seed: int, spent: Spent) -> Measured:
    """Run a point into its steady state, and measure from there.

    A driver in Python brings the card up and fills the rings; one in C++ keeps them full. Received
    frames come as the line can bring them; those that are too many are dropped, as everywhere. A
    transmitted packet counts when it is on the wire, a received one when the driver sees it.
    """
    options = engine_options(config, link=point.link, rtt_ns=point.rtt_ns, seed=seed,
                             keep="records", tlp_log=0)
    left_out = [Feature.RING_PACKED] * (point.ring == "split") + (
        [Feature.IN_ORDER] * (not point.in_order))
    net = NetOptions(
        max_payload=config.max_payload_bytes, max_read=config.max_read_bytes, interrupts=False,
        pairs=point.queues, features=without(*left_out),
        receive_bytes=NET_HEADER_BYTES + max(point.frame_bytes, 1514),
        receive_shape=Shape(offsets=(point.align, point.align)))
    with open_card(config, options=options, net=net) as card:
        engine = card.engine
        _check_device(card, point)
        receive: list[RingDriver] = []
        if point.direction != "tx":
            receive = [card.drive(2 * pair + _RECEIVE, transmit=False, batch=point.batch)
                       for pair in range(point.queues)]
            # The card has its descriptors before the first frame comes: no backlog to be made up.
            engine.run(_SETTLE_CYCLES)
            card.wire.generate(flows(point.frame_bytes, point.queues))
        if point.direction != "rx":
            for pair in range(point.queues):
                queue = 2 * pair + _TRANSMIT
                card.port.run(_fill(card, queue, point))
                card.drive(queue, transmit=True, batch=point.batch)
        engine.run(_WARM_UP_CYCLES + point.queues * _WARM_UP_CYCLES_OF_A_PAIR)
        begun = engine.cycle
        card.wire.take()
        engine.run(_WINDOW_CYCLES)
        engine.check()
        frames, _bytes = card.wire.take()
        measured = []
        if receive:
            each = [driver.times[driver.times >= begun] for driver in receive]
            if not all(map(len, each)):
                raise RuntimeError(f"{point}: a queue received nothing")
            measured.append(_steady(np.sort(np.concatenate(each)), point))
        if point.direction != "rx":
            measured.append(_steady(frames["last_cycle"][frames["received"] == 0], point))
        spent.add(engine)
    return max(measured, key=lambda each: each.cycles_per_packet)


def _check_device(card: NativeCard, point: Point) -> None:
    """Refuse a card that is not as the point wants it."""
    for name, feature, wanted in (
            ("IN_ORDER", Feature.IN_ORDER, point.in_order),
            ("RING_PACKED", Feature.RING_PACKED, point.ring == "packed")):
        if card.device.virtio.has(feature) != wanted:
            raise ValueError(f"{point}: the card does not offer {name}")
    if card.device.active_pairs != point.queues:
        raise ValueError(f"{point}: the card has {card.device.config.max_pairs} pairs of queues")


def flows(size: int, queues: int) -> list[bytes]:
    """Give frames to be received: one, or so many flows (UDP) that they spread over the queues."""
    if queues == 1:
        return [(bytes(range(256)) * 64)[:size]]
    rng = random.Random(0)
    return [_FLOW.pack(_MACS, 0x0800, 0x45, 0, size - 14, 0, 0, 64, 17, 0, rng.randbytes(8),
                       rng.randbytes(4), size - 34, 0).ljust(size, b"\0")
            for _ in range(_FLOWS_OF_A_QUEUE * queues)]


async def _fill(card: NativeCard, queue: int, point: Point) -> None:
    """Fill a transmit ring, and let the card see all of it."""
    ring = card.device.rings[queue]
    shape = Shape(offsets=(point.align, point.align))
    rng = random.Random(0)
    content = NetHeader().pack() + (bytes(range(256)) * 64)[:point.frame_bytes]
    while ring.free_descriptors:
        buffer = make_buffer(card.port, len(content), shape, rng, name="transmit buffer", most=1,
                             device_reads=True)
        buffer.write(content)
        ring.add(buffer.segments, [], buffer)
    ring.publish()
    await card.device.virtio.notify(queue)


def _steady(times: np.ndarray[Any, np.dtype[np.uint64]], point: Point) -> Measured:
    """Give packets and cycles from the first packet to the last, at these times.

    Used entries come in bursts: those of the first opened the window, and do not count.
    """
    if len(times) < _PACKETS_MIN:
        raise RuntimeError(f"{point}: {len(times)} packets in {_WINDOW_CYCLES} cycles, the card "
                           f"hardly moves")
    first, last = int(times[0]), int(times[-1])
    return Measured(packets=int(np.count_nonzero(times > first)), cycles=last - first)
