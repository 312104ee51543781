"""What a soak draws: hosts, drivers and their manners, sizes of frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from hw.config import NicConfig
from sim.native.engine import EngineOptions
from sim.native.link import Link
from sim.soak.catalogue import SHORTEST
from sw_driver.buffers import Shape
from sw_driver.layouts import Feature
from sw_driver.net import NetOptions, without

__all__ = ["RING_FEATURES", "Manners", "draw_driver", "draw_host", "draw_sizes", "turns"]

RING_FEATURES = (Feature.EVENT_IDX, Feature.NOTIFICATION_DATA, Feature.IN_ORDER)
_MANNERS = tuple(product((False, True), repeat=3))
_SMALL_BUFFERS = (64, 200, 1024)  # bytes that a frame is received in, several at a time


def draw_host(rng: random.Random, config: NicConfig) -> EngineOptions:
    """Draw a host and a link."""
    return EngineOptions(
        latency_cycles=rng.choice((20, 120, 250)), jitter_cycles=rng.choice((0, 0, 50, 300)),
        boundary_bytes=rng.choice((64, 128)), splitting=rng.choice(("large", "small", "random")),
        credits=rng.choice((None, None, None, 4, 32)),
        link=rng.choice((None, None, Link(generation=3, lanes=rng.choice((4, 16)),
                                          max_payload=config.max_payload_bytes))),
        rx_rate=rng.choice((50.0, 50.0, 10.0)), tx_rate=rng.choice((None, None, 50.0, 10.0)),
        stalls=rng.choice((0.0, 0.0, 0.05, 0.3)),
        # A function that is being reset has its requests repeated, for a millisecond at most.
        host_timeout_cycles=250_000, tlp_log=0, seed=rng.randrange(1 << 30))


@dataclass(frozen=True)
class Manners:
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


def turns(rng: random.Random) -> Iterator[Manners]:
    """Give one manner after the other, in random order, so that each comes as often as others."""
    while True:
        for packed, merged, tables in rng.sample(_MANNERS, len(_MANNERS)):
            yield Manners(packed, merged, tables)


def draw_driver(rng: random.Random, config: NicConfig, manners: Manners) -> NetOptions:
    """Draw the rest of a driver's manners.

    A driver in C++ is to go on with its rings: one that knows chains of a packed ring by a single
    descriptor, and takes those of a split ring in the order in which they came back. So without
    tables all chains of a packed ring, and of one in order, are of one descriptor.
    """
    left_out = [feature for feature in RING_FEATURES if rng.random() < 0.5]
    shuffle = rng.random() < 0.5
    in_order = Feature.IN_ORDER not in left_out and not shuffle
    single = (manners.packed or in_order) and not manners.tables
    most = 1 if manners.merged or single else rng.choice((1, 1, 3))
    left_out += [feature for feature, wanted in (
        (Feature.RING_PACKED, manners.packed), (Feature.MRG_RXBUF, manners.merged),
        (Feature.INDIRECT_DESC, manners.tables)) if not wanted]
    queue_size = rng.choice((16, 64, 64, None))
    receive_bytes = None
    if manners.merged:
        # All buffers together hold the longest frame twice.
        room = 2 * (config.mtu + 30) // min(queue_size or 64, config.queue_size_max) + 1
        receive_bytes = max(room, rng.choice(_SMALL_BUFFERS))
    return NetOptions(
        features=without(*left_out), receive_bytes=receive_bytes,
        pairs=min(rng.choice((1, 1, 1, 2, 2, 4, 16)), config.queue_pairs),
        indirect=rng.choice(("always", "chains")),
        direct_first=0 if in_order else rng.choice((0, 1)),
        queue_size=queue_size, refill_batch=1 if in_order else rng.choice((1, 8, 32)),
        receive_shape=Shape(segments=(1, most), offsets=(0, rng.choice((0, 63)))),
        transmit_shape=Shape(segments=(1, 1 if single else rng.choice((1, 4))),
                             offsets=(0, rng.choice((0, 63)))),
        interrupts=rng.random() < 0.8, suppress=rng.random() < 0.7, shuffle=shuffle,
        max_payload=rng.choice((128, config.max_payload_bytes)),
        max_read=rng.choice((128, config.max_read_bytes)), seed=rng.randrange(1 << 30))


def draw_sizes(rng: random.Random, longest: int) -> Callable[[], int]:
    """Draw how long frames are: mostly short ones, in most cases with longer ones among them."""
    def mixed() -> int:
        kind = rng.random()
        if kind < 0.9:
            return rng.choice((SHORTEST, SHORTEST, 61, 64, 65, 100, 127, 128, 129))
        return rng.randint(SHORTEST, 1514 if kind < 0.985 else longest)

    return rng.choice((
        lambda: SHORTEST, lambda: rng.choice((SHORTEST, SHORTEST, 61, 64, 65, 127, 128)),
        mixed, mixed, mixed, lambda: rng.randint(SHORTEST, 1514)))
