"""A network device as all parts of its driver see it: whether it is open, broken or suspended."""

from __future__ import annotations

import random

from sw_driver.layouts import Status
from sw_driver.net.config import DeviceConfig
from sw_driver.net.options import NetOptions
from sw_driver.net.statistics import NetStatistics
from sw_driver.pci import PciFunction
from sw_driver.port import HostPort, Interrupt
from sw_driver.virtio_pci import VirtioPci

__all__ = ["DeviceContext", "DeviceNeedsReset"]


class DeviceNeedsReset(Exception):
    """The device has set DEVICE_NEEDS_RESET; `NetDevice.recover` brings it back."""


class DeviceContext:
    """What the parts of the driver share: the way to the device, options, and its state."""

    def __init__(self, port: HostPort, function: PciFunction, options: NetOptions) -> None:
        self.port = port
        self.function = function
        self.options = options
        self.virtio = VirtioPci(function)
        self.config = DeviceConfig()
        self.statistics = NetStatistics()
        self.rng = random.Random(options.seed)
        self.is_open = False
        self.needs_reset = False
        self.is_suspended = False
        self.publishing = 0
        """Tasks that show something to the device at the moment."""
        self.config_interrupt: Interrupt | None = None
        self.config_seen = 0
        """How many of it have been looked into."""

    async def read_config(self) -> None:
        """Read the whole configuration."""
        await self.config.read(self.virtio, self.rng)

    async def check(self) -> None:
        """Look whether the device reported a change; raise `DeviceNeedsReset` if it is broken."""
        interrupt = self.config_interrupt
        if interrupt is not None and interrupt.count != self.config_seen:
            self.config_seen = interrupt.count
            await self.read_status()
            if not self.needs_reset:
                await self.read_config()
        self.refuse_broken()

    async def read_status(self) -> int:
        """Read device_status now, and remember whether the device needs a reset."""
        status = await self.virtio.status()
        self.needs_reset = bool(status & Status.NEEDS_RESET)
        return status

    def refuse_broken(self) -> None:
        """Raise `DeviceNeedsReset` or `RuntimeError` unless the device can be used."""
        if self.needs_reset:
            raise DeviceNeedsReset("the device asks for a reset")
        if not self.is_open:
            raise RuntimeError("the device is not open")
