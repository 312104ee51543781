"""One queue of a network device: what is put in it is published, and what was used awaited."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sw_driver.buffers import Buffer
from sw_driver.net.context import DeviceContext
from sw_driver.port import Interrupt
from sw_driver.ring import Ring
from sw_driver.virtio_pci import TransportError

__all__ = ["NetQueue"]


@dataclass(eq=False)
class NetQueue:
    """A queue with its ring, its interrupt, and buffers that wait for room in it."""

    context: DeviceContext
    index: int
    name: str
    ring: Ring[Any]
    vector: int
    interrupt: Interrupt | None
    spare: list[Buffer] = field(default_factory=list)

    async def publish(self) -> None:
        """Show the device what was added, and kick it if it wants that; it waits for `resume`."""
        context = self.context
        while context.is_suspended:
            await context.port.sleep(context.options.poll_cycles)
            context.refuse_broken()
        if not self.ring.publish():
            return
        context.publishing += 1
        try:
            if self.ring.kick_wanted():
                context.statistics.kicks += 1
                await context.virtio.notify(self.index)
            else:
                context.statistics.kicks_spared += 1
        finally:
            context.publishing -= 1

    def reclaim(self) -> None:
        """Free the buffers that the device has used."""
        while (used := self.ring.take_used()) is not None:
            used.token.free()

    def give_back(self) -> int:
        """Free the ring and its buffers; give how many the device had not used."""
        lost = self.ring.free()
        for buffer in (*lost, *self.spare):
            buffer.free()
        return len(lost)

    async def require_used(self) -> None:
        """Wait until the device has used something; `TransportError` when it does not in time."""
        limit = self.context.options.timeout_cycles
        if await self.wait_used(limit):
            return
        await self.context.read_status()
        self.context.refuse_broken()
        raise TransportError(f"{self.ring.name}: nothing was used within {limit} cycles")

    async def wait_used(self, timeout_cycles: int) -> bool:
        """Wait until the device has used something; False when it has not within the time."""
        context, ring, interrupt = self.context, self.ring, self.interrupt
        deadline = context.port.now() + timeout_cycles
        while True:
            # Count first, ask second, look third: a chain that is used between the look and the
            # wait has raised the count, and one that was used before has been seen by the look.
            seen = interrupt.count if interrupt is not None else 0
            ring.suppress_interrupts(interrupt is None)
            if ring.has_used():
                break
            left = deadline - context.port.now()
            if left <= 0:
                break
            await self._sleep(seen, left)
            await context.check()
            if not ring.has_used():
                context.statistics.empty_wakes += 1
        ring.suppress_interrupts(interrupt is None or context.options.suppress)
        return ring.has_used()

    async def _sleep(self, seen: int, left: int) -> None:
        context = self.context
        context.statistics.waits += 1
        if self.interrupt is None:
            await context.port.sleep(min(left, context.options.poll_cycles))
            return
        waits = [(self.interrupt, seen)]
        if context.config_interrupt is not None:
            waits.append((context.config_interrupt, context.config_seen))
        await context.port.wait_interrupts(waits, left)
