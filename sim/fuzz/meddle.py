"""What an honest host does beside a hostile queue: it manages the card, and lets it rest."""

from __future__ import annotations

import random
from collections import Counter

from sim.fuzz.arena import Broken
from sim.fuzz.driver import RECEIVE, TRANSMIT
from sim.native.port import NativePort, Task
from sw_driver.management import Management, ManagementError

__all__ = ["Meddler"]

_PAIR = (RECEIVE, TRANSMIT)


class Meddler:
    """Moderates interrupts of both queues, looks where they stand, and tries to place them.

    Neither the limits nor the looks may harm anything, and queues that run cannot be placed.

    Parameters
    ----------
    management
        Of the card. No other task may use these registers.
    port
        The host.
    kinds
        Where deeds are counted.
    seed
        Of its pace.
    """

    def __init__(self, management: Management, port: NativePort, kinds: Counter[str],
                 seed: float) -> None:
        self.management = management
        self.port = port
        self.kinds = kinds
        self._pace = random.Random(seed)
        self._going = True
        self._task: Task[None] = port.spawn(self._run())

    async def _run(self) -> None:
        pace, management = self._pace, self.management
        while self._going:
            queue, what = pace.choice(_PAIR), pace.random()
            if what < 0.4:
                # So short a wait is over when interrupts are counted.
                self.kinds["moderation"] += 1
                await management.moderate(queue, max_packets=pace.choice((0, 1, 4, 100)),
                                          max_usecs=pace.choice((0, 1, 2)))
            elif what < 0.7:
                self.kinds["position looked at"] += 1
                if not (await management.position(queue)).started:
                    raise Broken(f"queue {queue} runs, and the card says that it does not")
            else:
                self.kinds["position loaded"] += 1
                try:
                    await management.load_position(queue, pace.randrange(1 << 16))
                except ManagementError:
                    pass
                else:
                    raise Broken(f"queue {queue} runs, and was given another position")
            await self.port.sleep(pace.choice((1, 100, 700)))

    async def end(self) -> None:
        """Let it end what it has begun."""
        self._going = False
        await self._task
