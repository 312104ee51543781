"""The honest traffic beside a hostile queue, and the frames that come for that one."""

from __future__ import annotations

import random

from sim.fuzz.arena import Broken
from sim.fuzz.chains import LONGEST_RECEIVED, frame_of
from sim.fuzz.driver import TRANSMIT, HostileDevice
from sim.fuzz.judge import Books
from sim.native.engine import Engine
from sim.native.port import NativePort, Task
from sw_driver.net import CommandRefused

__all__ = ["FOREVER_CYCLES", "Honest", "feed"]

FOREVER_CYCLES = 50_000
"""What has not happened by then never will."""

_NO_CLASS = 9  # of commands
_HELD_CYCLES = 20


class Honest:
    """Passes numbered frames by the queue of the other direction, and commands by that of control.

    Parameters
    ----------
    device
        The driver.
    engine, port
        The card.
    books
        Where arrived frames are counted.
    seed
        Of its pace: tasks do not share one.
    """

    def __init__(self, device: HostileDevice, engine: Engine, port: NativePort, books: Books,
                 seed: float) -> None:
        self.device = device
        self.engine = engine
        self.port = port
        self.books = books
        self.sends = device.victim != TRANSMIT
        self.given: list[bytes] = []
        self.came: list[bytes] = []
        """What it sent, off the wire."""
        self._pace = random.Random(seed)
        self._going = True
        self._held = False
        self._between = False
        self._number = 0
        self._task: Task[None] = port.spawn(self._run())

    async def _run(self) -> None:
        pace = self._pace
        while self._going:
            self._between = True
            while self._held:
                await self.port.sleep(_HELD_CYCLES)
            self._between = False
            frames = [frame_of(self._number + number, pace.choice((60, 61, 300, 1500)))
                      for number in range(pace.randint(1, 6))]
            self._number += len(frames)
            if self.sends:
                self.given += frames
                await self.device.send_many(frames, batch=pace.choice((1, 4)))
                await self.device.drain()
            else:
                self.engine.wire.send(*frames)
                for frame in frames:
                    came = await self.device.receive(FOREVER_CYCLES)
                    if came != frame:
                        raise Broken(f"honest receive: {came and came[:16].hex()} came, not "
                                     f"{frame[:16].hex()}")
                    self.books.honest += 1
            if self.device.has_control and pace.random() < 0.2:
                try:
                    await self.device.command(_NO_CLASS, 0)
                except CommandRefused:
                    pass
                else:
                    raise Broken("a command that does not exist was done")
            await self.port.sleep(pace.choice((1, 200, 1500)))

    async def hold(self) -> None:
        """Let no frame come from the wire: a device that is suspended would drop it, and may.

        Frames that are sent are given meanwhile, and go on later.
        """
        self._held = not self.sends
        while self._held and not self._between:
            await self.port.sleep(_HELD_CYCLES)

    def go_on(self) -> None:
        """Let frames come again."""
        self._held = False

    def check(self, *, whole: bool) -> bool:
        """See that what left on the wire is what was given; say whether it is all of it."""
        if self.came != self.given[:len(self.came)]:
            raise Broken(f"honest transmit: of {len(self.given)} frames given, {len(self.came)} "
                         "came, and they differ")
        if whole and len(self.came) != len(self.given):
            raise Broken(f"honest transmit: {len(self.given)} frames given, {len(self.came)} came")
        return len(self.came) == len(self.given)

    async def end(self) -> None:
        """Let it end what it has begun."""
        self._going = False
        await self._task

    def drop(self) -> None:
        """End it wherever it is: its device is reset."""
        self._going = False
        self._task.close()
        self.check(whole=False)
        self.books.honest += len(self.came)


async def feed(engine: Engine, port: NativePort, wire: list[int], seed: float) -> None:
    """Let frames come from the wire without end, for a hostile receive queue."""
    pace = random.Random(seed)
    most, rest = pace.choice((8, 32, 32)), pace.choice(((20, 100), (100, 300)))
    sizes = (60, 60, 64, 200, LONGEST_RECEIVED) if pace.random() < 0.3 else (60, 60, 64, 100)
    while True:
        if engine.wire.rx_waiting < most:
            fresh = [pace.choice(sizes) for _ in range(pace.randint(1, most))]
            engine.wire.send(*(frame_of(len(wire) + number, size)
                               for number, size in enumerate(fresh)))
            wire += fresh
        await port.sleep(pace.choice(rest))
