"""Which interrupt vector tells of what."""

from __future__ import annotations

from sw_driver.layouts import CommonConfig
from sw_driver.net.context import DeviceContext
from sw_driver.pci import Msix
from sw_driver.port import Interrupt
from sw_driver.virtio_pci import TransportError

__all__ = ["Vectors"]


class Vectors:
    """The vectors of a function: the first for its configuration, the others for its queues."""

    def __init__(self, context: DeviceContext) -> None:
        self._context = context
        self.msix: Msix | None = None

    async def set_up(self, queues: int) -> list[tuple[int, Interrupt | None]]:
        """Give each queue a vector: its own if there are enough, else the last one for several."""
        none = CommonConfig.NO_VECTOR
        context = self._context
        function, virtio = context.function, context.virtio
        self.msix = await function.msix()
        if self.msix is None or not context.options.interrupts:
            context.config_interrupt = None
            await virtio.set_config_vector(none)
            return [(none, None)] * queues
        await self.msix.enable()
        vectors = min(self.msix.vectors, 1 + queues)
        interrupts = [context.port.allocate_interrupt(f"{function.bdf:04x} vector {vector}")
                      for vector in range(vectors)]
        for vector, interrupt in enumerate(interrupts):
            await self.msix.route(vector, interrupt)
        context.config_interrupt, context.config_seen = interrupts[0], 0
        if not await virtio.set_config_vector(0):
            raise TransportError("no vector for configuration changes")
        shares = [min(1 + queue, vectors - 1) for queue in range(queues)]
        return [(vector, interrupts[vector]) for vector in shares]

    async def disable(self) -> None:
        """Have the function send no more messages."""
        if self.msix is not None and self._context.options.interrupts:
            await self.msix.disable()
