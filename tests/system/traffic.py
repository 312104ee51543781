"""Numbered frames through a whole card: made, sent, received, checked, and counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cocotb

from sim.bring_up import Card
from sw_driver.management import Management
from tb.wire import WireFrame

__all__ = ["Flow", "balance", "both_ways", "check_frame", "make_frame", "number_of",
           "receive_all", "settle", "transmit_all"]

_NUMBER = 4  # bytes of a frame that hold its number
_POOL = random.Random(0x52494E47).randbytes(32768)
_PATIENCE = 30_000  # cycles without any progress that are a failure
_REST = 3000  # after so many cycles nothing is on its way any more


def make_frame(number: int, size: int) -> bytes:
    """Give a frame of ``size`` bytes, unlike all with other numbers."""
    start = number * 1237 % 16381
    return (number.to_bytes(_NUMBER, "big") + _POOL[start:start + size])[:size]


def number_of(frame: bytes) -> int:
    """Give the number that a frame was made with."""
    return int.from_bytes(frame[:_NUMBER], "big")


def check_frame(frame: bytes, way: str) -> int:
    """See that a frame is as it was made (any length); give its number."""
    number = number_of(frame)
    assert frame == make_frame(number, len(frame)), f"{way}: frame {number} was changed"
    return number


def _compare(frame: bytes, expected: bytes, place: int, way: str) -> None:
    if frame == expected:
        return
    at = next((index for index, (one, other) in enumerate(zip(frame, expected, strict=False))
               if one != other), min(len(frame), len(expected)))
    raise AssertionError(
        f"{way}: frame {place} has {len(frame)} bytes (number {number_of(frame)}), expected "
        f"{len(expected)} (number {number_of(expected)}); they differ from byte {at} on")


async def transmit_all(card: Card, frames: Sequence[bytes], *, batch: int = 32) -> None:
    """Send the frames; each must leave on the wire, as it was and in its turn."""
    seen: list[bytes] = []

    def watch(frame: WireFrame) -> None:
        if frame.direction == "tx":
            _compare(frame.data, frames[len(seen)], len(seen), "transmit")
            seen.append(frame.data)

    card.wire.on_frame.append(watch)
    await card.device.send_many(frames, batch=batch)
    await card.device.drain()
    await card.ticker.until(lambda: len(seen) == len(frames), _PATIENCE, "the last frame")
    card.wire.on_frame.remove(watch)


async def receive_all(card: Card, frames: Sequence[bytes]) -> None:
    """Give the frames to the wire; each must reach the driver, as it was and in its turn.

    No more are on their way than the card has room for, so that none may be dropped.
    """
    room = card.config.pool_bytes // card.config.cell_bytes // 4

    def cells(frame: bytes) -> int:
        return -(-len(frame) // card.config.cell_bytes)

    # A queue that was enabled a moment ago does not run yet; what comes before it does is dropped.
    await card.ticker.sleep(100)
    given = taken = ahead = 0
    while taken < len(frames):
        while given < len(frames) and (ahead == 0 or ahead + cells(frames[given]) <= room):
            card.wire.send(frames[given])
            ahead += cells(frames[given])
            given += 1
        received = await card.device.receive(_PATIENCE)
        assert received is not None, f"receive: frame {taken} of {len(frames)} does not come"
        _compare(received, frames[taken], taken, "receive")
        ahead -= cells(frames[taken])
        taken += 1


async def both_ways(card: Card, transmit: Sequence[bytes], receive: Sequence[bytes], *,
                    batch: int = 32) -> None:
    """Send and receive at the same time."""
    out = cocotb.start_soon(transmit_all(card, transmit, batch=batch))
    await receive_all(card, receive)
    await out


async def balance(card: Card, *, bad: int = 0, driver: bool = True) -> dict[str, int]:
    """See that every frame and byte that passed was counted; give the drops, by reason.

    ``bad`` frames of those given to the wire may not count as good. Without ``driver`` the
    driver has not seen all that was given to it, as after a reset. To be called when nothing is
    on its way, on a card that has counted since its reset.
    """
    management = Management(card.function)
    drops = await management.drops()
    statistics = card.device.statistics
    given = [frame for frame in card.wire.frames if frame.direction == "rx"]
    left = [frame for frame in card.wire.frames if frame.direction == "tx"]
    good = await management.count("wire_received", "frames")
    sent = await management.count("wire_sent", "frames")
    transmitted = await management.count("transmitted", "frames")
    received = await management.count("received", "frames")
    lost = await management.count("completions_dropped", "unexpected_completion")
    at_entry = sum(drops[name] for name in ("entry_full", "frame_error", "oversize", "runt"))
    later = sum(drops[name] for name in ("pool_full", "queue_full", "queue_down", "no_fit"))
    found = (f"given {len(given)}, good {good}, received {received}, driver "
             f"{statistics.rx_frames}, drops {drops}")
    assert len(given) - bad == good.events + drops["entry_full"], found
    assert at_entry == bad + drops["entry_full"], found
    assert good.events == received.events + later, found
    total = sum(len(frame.data) for frame in left)
    assert (sent.events, sent.bytes) == (len(left), total), f"{sent}, wire {len(left)}, {total}"
    assert sent == transmitted, f"{sent}, {transmitted}"
    if driver:
        assert (received.events, received.bytes) == (
            statistics.rx_frames, statistics.rx_bytes), found
        assert (sent.events, sent.bytes) == (statistics.tx_frames, statistics.tx_bytes), (
            f"{sent}, {statistics}")
    assert not lost.events, f"{lost.events} completions belonged to nothing"
    return {name: count for name, count in drops.items() if count}


async def settle(card: Card, *, cycles: int = 1500) -> None:
    """Let everything come to rest, close the device, and see that the card stays quiet."""
    await card.ticker.sleep(cycles)
    assert await card.device.read_status() & 0x40 == 0, "the device asks for a reset"
    await card.device.close()
    before = card.host.root.counts["rq.reads"], card.host.root.counts["rq.writes"]
    await card.ticker.sleep(cycles)
    assert before == (card.host.root.counts["rq.reads"], card.host.root.counts["rq.writes"])
    card.host.root.check()


class Flow:
    """Traffic both ways that goes on until it is stopped, whatever happens to the card meanwhile.

    Frames may get lost; those that come through must be whole, and in order.

    Parameters
    ----------
    card
        The card. Its device must be open whenever the flow runs.
    sizes
        Gives the length of each frame.
    receive_ahead
        Frames that wait at the wire at a time; 0 for no receive traffic.
    """

    def __init__(self, card: Card, sizes: Callable[[], int], *, receive_ahead: int = 4,
                 batch: int = 8) -> None:
        self.card = card
        self.sent = self.out = self.given = self.got = 0
        self._sizes = sizes
        self._ahead = receive_ahead
        self._batch = batch
        self._last_out = self._last_got = -1
        self._ending = False
        self._tasks: dict[str, Any] = {}
        card.wire.on_frame.append(self._watch)

    def _watch(self, frame: WireFrame) -> None:
        if frame.direction == "tx":
            number = check_frame(frame.data, "transmit")
            assert number > self._last_out, f"frame {number} after {self._last_out}"
            self._last_out = number
            self.out += 1
        elif self._ahead and not self._ending:
            self._feed()

    def _feed(self) -> None:
        while self.card.wire.rx_waiting < self._ahead:
            self.card.wire.send(make_frame(self.given, self._sizes()))
            self.given += 1

    def start(self) -> None:
        """Begin, or go on."""
        for name, way in (("transmit", self._transmit), ("receive", self._receive)):
            if name not in self._tasks:
                self._tasks[name] = cocotb.start_soon(way())
        if self._ahead:
            self._feed()

    def stop(self, *ways: str) -> None:
        """Stop the driver where it stands, or one way of it; the wire's frames go on coming."""
        for name in ways or ("transmit", "receive"):
            task = self._tasks.pop(name, None)
            if task is not None and not task.done():
                task.cancel()

    async def finish(self) -> None:
        """Let all that was sent and given come through; the device must be open and well."""
        self._ending = True
        self.card.wire.forget()
        for task in self._tasks.values():
            await task
        self._tasks = {}
        await self.card.ticker.sleep(_REST)
        self.card.wire.on_frame.remove(self._watch)

    def _frames(self) -> Iterator[bytes]:
        for _ in range(self._batch):
            yield make_frame(self.sent, self._sizes())
            self.sent += 1

    async def _transmit(self) -> None:
        while not self._ending:
            await self.card.device.send_many(self._frames())
            await self.card.ticker.sleep(1)
        await self.card.device.drain()

    async def _receive(self) -> None:
        while True:
            last = self._ending  # when nothing has come in all the time from here on
            frame = await self.card.device.receive(_REST)
            if frame is None:
                if last:
                    return
            else:
                number = check_frame(frame, "receive")
                assert number > self._last_got, f"frame {number} after {self._last_got}"
                self._last_got = number
                self.got += 1
