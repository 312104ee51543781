"""Traffic of both directions at the full rate, by drivers that cost no Python."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from sim.native.bring_up import NativeCard
from sim.native.rings import RingDriver
from sim.soak.books import Books, SoakFailure
from sim.soak.catalogue import MARK, STAMP_AT
from sim.soak.streams import ReceivedStreams, Sent, SentStreams, frames_of_chains
from sim.soak.way import Way
from sw_driver.buffers import Buffer, make_buffer
from sw_driver.layouts import Feature, NetHeader
from sw_driver.management import Management
from sw_driver.packed_ring import PackedRing
from sw_driver.ring import Ring, RingFull

__all__ = ["Traffic"]

_SOON_CYCLES = 50
_END_CYCLES = 100_000  # without a step forward: what was not done by then never will be
_SENT_IN_A_RING = 64   # frames: the more, the longer it takes to fill one
_FLOWS = 64
_HELD_DROPS = ("queue_down", "queue_full", "pool_full", "entry_full", "no_fit")


class Traffic:
    """What passes through a card, from its start to its end, over all lives of its device.

    Parameters
    ----------
    card
        Open, or to be opened.
    rng
        Draws sizes and batches.
    books
        Where merged frames are counted.
    """

    def __init__(self, card: NativeCard, rng: random.Random, books: Books) -> None:
        self.card = card
        self.rng = rng
        self.books = books
        self.way_out = Way("transmit by Python")
        self.way_in = Way("receive by Python")
        """Those that the driver in Python passes; all others are of bursts."""
        self.sent = SentStreams()
        self.received = ReceivedStreams()
        self._management = Management(card.function)
        self._sending: dict[int, tuple[Sent, RingDriver]] = {}
        self._receiving: dict[int, RingDriver] = {}
        self._merged = False
        self._before = (0, 0)  # frames that came from the wire before the burst, and were dropped

    # --- the wire, and what was received

    def look(self) -> None:
        """See all that left on the wire, and all that drivers got."""
        records, data = self.card.wire.take()
        left = records[records["received"] == 0]
        if len(left):
            starts = left["offset"].astype(np.int64)
            sizes = left["bytes"].astype(np.int64)
            mine = data[starts] == MARK
            for start, size in zip(starts[~mine].tolist(), sizes[~mine].tolist(), strict=True):
                self.way_out.came(data[start:start + size].tobytes())
            if mine.any():
                self.sent.take(data, starts[mine], sizes[mine])
        for pair in sorted(self._receiving):
            self._look_received(pair)

    def _look_received(self, pair: int) -> None:
        records, data = self._receiving[pair].take()
        if len(records):
            starts, sizes, merged = frames_of_chains(
                records["written"].astype(np.int64), records["room"].astype(np.int64), data,
                merged=self._merged)
            self.books.manners["frames merged"] += merged
            self.received.take(pair, data, starts, sizes)

    def came(self, frame: bytes, pair: int = 0) -> None:
        """Take a frame that Python received: maybe a late one of a burst."""
        if frame[0] != MARK:
            self.way_in.came(frame)
        else:
            self.received.take(pair, np.frombuffer(frame, np.uint8), np.array([0]),
                               np.array([len(frame)]))

    # --- bursts

    async def begin(self, size: Callable[[], int], *, counted: bool) -> None:
        """Let frames pass without end, both ways, in all pairs; ``size`` draws their bytes.

        ``counted``: the card is at rest, and what it has dropped so far is remembered for `end`.
        """
        card, device = self.card, self.card.device
        self._merged = device.virtio.has(Feature.MRG_RXBUF)
        if counted:
            self._before = card.engine.counters["wire_rx_frames"], await self._dropped()
        for pair in range(device.active_pairs):
            # What came late is Python's: a driver in C++ knows nothing of it.
            while device.rings[2 * pair].has_used():
                frame = await device.receive(1, pair=pair)
                if frame is not None:
                    self.came(frame, pair)
            self.receive(pair)
        count = _FLOWS if device.active_pairs > 1 else self.rng.choice((1, 7, _FLOWS))
        card.wire.generate(self.received.begin(self.rng, [size() for _ in range(count)]),
                           stamp_at=STAMP_AT)
        for pair in range(device.active_pairs):
            await self.send(pair, size)

    def receive(self, pair: int) -> None:
        """Go on with a receive ring that Python has filled."""
        if pair in self._receiving:
            self._look_received(pair)
        pieces = _pieces(self.card.device.rings[2 * pair])
        driver = self._drive(2 * pair)
        driver.keep(pieces)
        self._receiving[pair] = driver

    async def send(self, pair: int, size: Callable[[], int]) -> None:
        """Fill a transmit ring, and go on with it."""
        card, device, options = self.card, self.card.device, self.card.device.options
        ring, queue = device.rings[2 * pair + 1], 2 * pair + 1
        if pair in self._sending:
            _end(*self._sending[pair])
        # In order, all places of a table are used in turn.
        whole = ring.in_order and not isinstance(ring, PackedRing)
        stream = self.sent.begin(pair, lambda: 0)
        count = 0
        while ring.free_descriptors and (whole or count < _SENT_IN_A_RING):
            frame = self.sent.catalogue.make(self.rng, size())
            stamped = (frame[:STAMP_AT] + count.to_bytes(4, "big") + frame[STAMP_AT + 4:])
            buffer = make_buffer(card.port, NetHeader.SIZE + len(frame), options.transmit_shape,
                                 self.rng, name="transmit buffer", most=ring.size,
                                 device_reads=True)
            buffer.write(NetHeader().pack() + stamped)
            try:
                ring.add(buffer.segments, [], buffer)
            except RingFull:
                buffer.free()
                break
            count += 1
        ring.publish()
        pieces = _pieces(ring)
        driver = self._drive(queue)
        driver.number(pieces, stamp_at=NetHeader.SIZE + STAMP_AT, first=count)
        stream.given = lambda: driver.next_number
        self._sending[pair] = stream, driver
        await device.virtio.notify(queue)

    def _drive(self, queue: int) -> RingDriver:
        ring = self.card.device.rings[queue]
        return self.card.drive(queue, transmit=queue % 2 == 1,
                               batch=min(self.rng.choice((1, 8, 32, 32)), max(ring.size // 4, 1)))

    async def stop(self) -> None:
        """Let the burst end, and see that all of it came through, or was dropped and counted."""
        card, engine = self.card, self.card.engine
        card.wire.forget()
        for _stream, driver in self._sending.values():
            driver.stop()
        deadline = engine.cycle + _END_CYCLES
        left = 0
        while not self._all_sent() or not card.wire.rx_idle:
            # A slow wire takes as long as it takes: only standing still is a failure.
            if (now := engine.counters["wire_tx_frames"]) != left:
                left, deadline = now, engine.cycle + _END_CYCLES
            if engine.cycle > deadline:
                states = {pair: (driver.state.done, stream.out, stream.given())
                          for pair, (stream, driver) in self._sending.items()}
                raise SoakFailure("transmit: of each pair, so many were used, left and given: "
                                  f"{states}")
            await card.port.sleep(_SOON_CYCLES)
            self.look()
        deadline = engine.cycle + _END_CYCLES
        given = engine.counters["wire_rx_frames"] - self._before[0]
        while (dropped := await self._dropped() - self._before[1]) + self.received.latest != given:
            if engine.cycle > deadline:
                raise SoakFailure(f"receive: {given} frames came from the wire, "
                                  f"{self.received.latest} were received and {dropped} dropped")
            await card.port.sleep(_SOON_CYCLES)
            self.look()
        self.give_up()

    def _all_sent(self) -> bool:
        return all(stream.out == driver.state.done == stream.given()
                   for stream, driver in self._sending.values())

    async def _dropped(self) -> int:
        drops = await self._management.drops()
        return sum(drops[name] for name in _HELD_DROPS)

    def give_up(self) -> None:
        """Forget the drivers: their rings are gone, or come to their end."""
        self.look()
        for stream, driver in self._sending.values():
            _end(stream, driver)
        self._sending.clear()
        self._receiving.clear()
        self.card.engine.clear_drivers()


def _end(stream: Sent, driver: RingDriver) -> None:
    """Remember how much was given: the driver is not asked any more."""
    given = driver.next_number
    stream.given = lambda: given


def _pieces(ring: Ring[Buffer]) -> list[tuple[int, int, int]]:
    """Give the buffers of all chains as `RingDriver.keep` wants them."""
    names = {number: number for number in ring.tokens}
    if isinstance(ring, PackedRing):
        names = {chain.buffer_id: place for place, chain in enumerate(ring.given()[1])}
    return [(address, size, names[number]) for number, buffer in ring.tokens.items()
            for address, size in buffer.segments]
