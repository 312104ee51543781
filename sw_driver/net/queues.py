"""The queues of a network device: made as was agreed on, set up, replaced, given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sw_driver.layouts import Feature
from sw_driver.net.context import DeviceContext
from sw_driver.net.queue import NetQueue
from sw_driver.net.vectors import Vectors
from sw_driver.packed_ring import PackedRing
from sw_driver.port import Interrupt
from sw_driver.ring import Ring
from sw_driver.split_ring import SplitRing
from sw_driver.virtio_pci import TransportError

__all__ = ["NetQueues", "make_ring"]


def make_ring(context: DeviceContext, size: int, name: str) -> Ring[Any]:
    """Give an empty ring as was agreed on with the device."""
    options, has = context.options, context.virtio.has
    in_order, event_idx = has(Feature.IN_ORDER), has(Feature.EVENT_IDX)
    shuffle = context.rng if options.shuffle and not in_order else None
    indirect = None
    if has(Feature.INDIRECT_DESC):
        indirect = {"always": 1, "chains": 2, "never": None}[options.indirect]
    if has(Feature.RING_PACKED):
        return PackedRing(context.port, size, name=name, shuffle=shuffle, event_idx=event_idx,
                          in_order=in_order, indirect=indirect)
    return SplitRing(context.port, size, name=name, shuffle=shuffle, event_idx=event_idx,
                     in_order=in_order, indirect=indirect, direct_first=options.direct_first)


class NetQueues:
    """Pairs of queues, and the control queue if there is one.

    ``make_ring(size, name)`` gives the ring of a queue.
    """

    def __init__(self, context: DeviceContext, make_ring: Callable[[int, str], Ring[Any]]) -> None:
        self._context = context
        self._make_ring = make_ring
        self.vectors = Vectors(context)
        self.receive: list[NetQueue] = []
        self.transmit: list[NetQueue] = []
        self.control: NetQueue | None = None

    @property
    def all(self) -> list[NetQueue]:
        """Receive queues, transmit queues, the control queue."""
        return [*self.receive, *self.transmit, *([self.control] if self.control else [])]

    async def set_up(self) -> None:
        """Give the device its queues, in the order of their numbers."""
        context = self._context
        if context.options.pairs < 1:
            raise ValueError(f"{context.options.pairs} pairs of queues")
        pairs = min(context.options.pairs, context.config.max_pairs)
        names = [(2 * pair + side, name + (f" {pair}" if pair else ""))
                 for pair in range(pairs) for side, name in enumerate(("receive", "transmit"))]
        if context.virtio.has(Feature.CTRL_VQ):
            names.append((2 * context.config.max_pairs, "control"))
        shares = await self.vectors.set_up(len(names))
        for (index, name), share in zip(names, shares, strict=True):
            self._put(await self._set_up_one(index, name, *share))

    async def set_up_again(self, old: NetQueue) -> NetQueue:
        """Set a queue that was reset up with a fresh ring; it is not enabled yet."""
        new = await self._set_up_one(old.index, old.name, old.vector, old.interrupt)
        self._put(new)
        return new

    async def enable(self) -> None:
        """Have the device serve them."""
        for queue in self.all:
            await self._context.virtio.enable_queue(queue.index)

    def give_back(self) -> None:
        """Free all rings and buffers, and have no queues any more."""
        for queue in self.all:
            queue.give_back()
        self.receive, self.transmit, self.control = [], [], None

    def _put(self, queue: NetQueue) -> None:
        """Take a queue over, instead of the one that had its number."""
        if queue.index == 2 * self._context.config.max_pairs:
            self.control = queue
            return
        queues = self.receive if queue.index % 2 == 0 else self.transmit
        queues[queue.index // 2:queue.index // 2 + 1] = [queue]

    async def _set_up_one(self, index: int, name: str, vector: int,
                          interrupt: Interrupt | None) -> NetQueue:
        context = self._context
        most = await context.virtio.queue_size(index)
        if not most:
            raise TransportError(f"there is no queue {index}")
        ring = self._make_ring(min(context.options.queue_size or most, most),
                               f"{context.function.bdf:04x} {name}")
        await context.virtio.set_up_queue(index, ring, vector=vector)
        ring.suppress_interrupts(interrupt is None or context.options.suppress)
        return NetQueue(context, index, name, ring, vector, interrupt)
