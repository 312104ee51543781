"""A driver one of whose queues is hostile, and what is drawn of it and of its host."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

from hw.config import NicConfig
from sim.fuzz.rings import HostileRing
from sim.native.engine import EngineOptions
from sw_driver.layouts import ConfigType, Feature
from sw_driver.net import NetDevice, NetOptions, without
from sw_driver.net.context import DeviceContext
from sw_driver.net.queue import NetQueue
from sw_driver.port import Interrupt
from sw_driver.ring import Ring

__all__ = ["RECEIVE", "TRANSMIT", "HostileDevice", "draw_host", "draw_manners"]

RECEIVE, TRANSMIT = 0, 1
TLP_LOG = 1 << 17

_OPTIONAL = (Feature.EVENT_IDX, Feature.NOTIFICATION_DATA, Feature.IN_ORDER, Feature.INDIRECT_DESC,
             Feature.MRG_RXBUF, Feature.RING_PACKED, Feature.CTRL_VQ)


class _Undaunted(DeviceContext):
    def refuse_broken(self) -> None:
        """Go on: a fault is the other queue's."""


class HostileDevice(NetDevice):
    """A driver one queue of which is hostile; it goes on after a fault of that one."""

    victim = RECEIVE
    """The number of that queue."""
    make_hostile: Callable[[], HostileRing]

    def _make_ring(self, size: int, name: str) -> Ring[Any]:
        if name.endswith("transmit" if self.victim == TRANSMIT else "receive"):
            return cast("Ring[Any]", self.make_hostile())
        return super()._make_ring(size, name)

    async def _refill(self, queue: NetQueue) -> None:
        if not isinstance(queue.ring, HostileRing):
            await super()._refill(queue)

    def _make_context(self) -> DeviceContext:
        return _Undaunted(self.port, self.function, self.options)

    @property
    def _hostile_queue(self) -> NetQueue:
        return (self.queues.receive, self.queues.transmit)[self.victim][0]

    @property
    def has_control(self) -> bool:
        """Whether there is a control queue."""
        return self.queues.control is not None

    @property
    def config_interrupt(self) -> Interrupt | None:
        """What tells of changes of the configuration."""
        return self.context.config_interrupt

    @property
    def victim_interrupt(self) -> Interrupt | None:
        """What tells of used buffers of the hostile queue."""
        return self._hostile_queue.interrupt

    async def set_up_again(self) -> None:
        """Set the hostile queue up and enable it, after it was reset."""
        await self.queues.set_up_again(self._hostile_queue)
        await self.virtio.enable_queue(self.victim)

    async def tell(self, told: int) -> None:
        """Kick the hostile queue, and tell any position (NOTIFICATION_DATA)."""
        virtio = self.virtio
        await virtio.write(ConfigType.NOTIFY, virtio._notify_offsets[self.victim],
                           virtio.notify_bytes, self.victim | (
                               (told & 0xFFFF) << 16 if virtio.notify_bytes == 4 else 0))

    def forget(self) -> None:
        """Give up all queues, of a device that was reset, and whatever it asked for."""
        super().forget()
        self.context.needs_reset = False


def draw_host(rng: random.Random) -> EngineOptions:
    """Draw a host, mostly a quick one: more happens in a cycle."""
    return EngineOptions(
        latency_cycles=rng.choice((4, 20, 60, 200)), jitter_cycles=rng.choice((0, 0, 30, 200)),
        boundary_bytes=rng.choice((64, 128)), splitting=rng.choice(("large", "small", "random")),
        sampling=rng.choice(("answer", "arrival")), credits=rng.choice((None, None, 4, 32)),
        stalls=rng.choice((0.0, 0.0, 0.05, 0.3)), tlp_log=TLP_LOG, seed=rng.randrange(1 << 30))


def draw_manners(rng: random.Random, config: NicConfig, *, tables: bool = False) -> NetOptions:
    """Draw what a driver agrees on, and what it does with its honest queue.

    ``tables``: it agrees on tables in any case.
    """
    left_out = [feature for feature in _OPTIONAL if rng.random() < 0.5
                and not (tables and feature == Feature.INDIRECT_DESC)]
    return NetOptions(
        features=without(*left_out), queue_size=rng.choice((16, 64)), refill_batch=8,
        interrupts=rng.random() < 0.8, max_payload=config.max_payload_bytes,
        max_read=rng.choice((128, config.max_read_bytes)), seed=rng.randrange(1 << 30))
