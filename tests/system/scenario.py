"""A scenario for any machine that the driver runs on: what goes in, comes out and is counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from sw_driver.management import Management
from sw_driver.net import NetDevice
from sw_driver.pci import PciFunction

__all__ = ["frames_of", "play"]

REST_CYCLES = 3000
_COUNTED = ("wire_received", "wire_sent", "received", "transmitted")


def frames_of(seed: int, count: int, longest: int) -> list[bytes]:
    """Give frames of all lengths, short ones more often."""
    rng = random.Random(seed)
    return [rng.randbytes(rng.choice((60, 61, rng.randrange(15, 200),
                                      rng.randrange(60, longest + 1)))) for _ in range(count)]


async def play(device: NetDevice, function: PciFunction, *, seed: int, count: int,
               give: Callable[[list[bytes]], None],
               start: Callable[[Coroutine[Any, Any, None]], Any]) -> dict[str, Any]:
    """Send and receive at the same time, some frames of them long; then read the counters.

    Parameters
    ----------
    give
        Queues frames on the wire, for the card to receive.
    start
        Starts a task beside this one; what it returns can be awaited.
    """
    longest = min(device.config.max_frame, 1514)
    outgoing, incoming = frames_of(seed, count, longest), frames_of(seed + 1, count, longest)
    received: list[bytes] = []

    async def transmit() -> None:
        await device.send_many(outgoing, batch=5)
        await device.drain()

    async def receive() -> None:
        while len(received) < len(incoming):
            frame = await device.receive(20_000)
            if frame is None:
                break
            received.append(frame)

    give(incoming)
    tasks = start(transmit()), start(receive())
    for task in tasks:
        await task
    await device.port.sleep(REST_CYCLES)
    management = Management(function)
    await management.check()
    counts = {}
    for name in _COUNTED:
        value = await management.count(name, "frames")
        counts[name] = (value.events, value.bytes)
    drops = await management.drops()
    await device.close()
    return {"sent": [frame.hex() for frame in outgoing],
            "given": [frame.hex() for frame in incoming],
            "received": [frame.hex() for frame in received], "counts": counts, "drops": drops}
