"""Virtio over PCI: the capabilities, the common configuration, features, status, queues, kicks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sw_driver.layouts import CommonConfig, ConfigType, Feature, Field, Status
from sw_driver.pci import PciFunction
from sw_driver.pci_layouts import Capability
from sw_driver.ring import Ring

__all__ = ["Region", "TransportError", "VirtioPci", "accept_features"]

VENDOR = 0x1AF4
_RESET_CYCLES = 3_000_000  # more than a card needs to let a read time out
_POLL_CYCLES = 50


class TransportError(Exception):
    """The device does not do what the standard says it must, or lacks what is needed."""


@dataclass(frozen=True)
class Region:
    """Where a structure lies."""

    bar: int
    offset: int
    length: int
    capability: int
    """Offset of its capability in configuration space."""


def accept_features(offered: int, wanted: Iterable[int],
                    dependencies: Mapping[int, Sequence[Sequence[int]]]) -> int:
    """Give the mask of wanted features that are offered, with all that they depend on."""
    accepted = {bit for bit in wanted if offered >> bit & 1}
    while True:
        orphans = {bit for bit in accepted if not all(
            accepted.intersection(group) for group in dependencies.get(bit, ()))}
        if not orphans:
            return sum(1 << bit for bit in accepted)
        accepted -= orphans


class VirtioPci:
    """A virtio device on a PCI function, found by its capabilities alone.

    ``through_config`` may be set to reach the structures through the PCI_CFG capability, without
    any BAR access (kicks included), as firmware does.
    """

    def __init__(self, function: PciFunction) -> None:
        self.function = function
        self.port = function.port
        self.regions: dict[int, Region] = {}
        self.notify_multiplier = 0
        self.through_config = False
        self.features = 0
        """Features accepted, as a mask."""
        self._notify_offsets: dict[int, int] = {}
        self._rings: dict[int, Ring[Any]] = {}

    @property
    def device_type(self) -> int:
        """Virtio's device number: 1 for a network device."""
        device_id = self.function.device_id
        if self.function.vendor_id != VENDOR or not 0x1000 <= device_id <= 0x107F:
            raise TransportError(f"{self.function.vendor_id:04x}:{device_id:04x} is not virtio")
        return device_id - 0x1040 if device_id >= 0x1040 else {0x1000: 1}.get(device_id, 0)

    def has(self, feature: int) -> bool:
        """Whether a feature was accepted."""
        return bool(self.features >> feature & 1)

    # --- finding the structures

    async def discover(self) -> None:
        """Walk the capabilities; the first usable one of a kind counts."""
        self.regions.clear()
        for kind, at in self.function.capabilities:
            if kind != Capability.VENDOR:
                continue
            config_type = await self.function.read(ConfigType.CFG_TYPE, at)
            length = await self.function.read(ConfigType.CAP_LEN, at)
            needed = 20 if config_type in (ConfigType.NOTIFY, ConfigType.PCI) else 16
            if not ConfigType.COMMON <= config_type <= ConfigType.PCI or length < needed:
                continue
            region = Region(await self.function.read(ConfigType.BAR, at),
                            await self.function.read(ConfigType.OFFSET, at),
                            await self.function.read(ConfigType.LENGTH, at), at)
            if config_type in self.regions or not self._usable(config_type, region):
                continue
            self.regions[config_type] = region
            if config_type == ConfigType.NOTIFY:
                self.notify_multiplier = await self.function.read(
                    ConfigType.NOTIFY_OFF_MULTIPLIER, at)
        for config_type, name in ((ConfigType.COMMON, "common"), (ConfigType.NOTIFY, "notify"),
                                  (ConfigType.ISR, "ISR")):
            if config_type not in self.regions:
                raise TransportError(f"no {name} configuration structure")
        multiplier = self.notify_multiplier
        if multiplier and (multiplier & 1 or multiplier & (multiplier - 1)):
            raise TransportError(f"notify_off_multiplier is {multiplier}")

    def _usable(self, config_type: int, region: Region) -> bool:
        if config_type == ConfigType.PCI:
            return True  # it lies nowhere: the driver says where to look
        bar = self.function.bars.get(region.bar)
        least = {ConfigType.COMMON: CommonConfig.SIZE_BASIC, ConfigType.NOTIFY: 2}.get(
            config_type, 1)
        align = {ConfigType.COMMON: 4, ConfigType.DEVICE: 4, ConfigType.NOTIFY: 2}.get(
            config_type, 1)
        return (bar is not None and region.length >= least and region.offset % align == 0
                and region.offset + region.length <= bar.size)

    # --- reaching them

    async def read(self, config_type: int, offset: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes; 8 as two halves."""
        if size == 8:
            low = await self.read(config_type, offset, 4)
            return low | await self.read(config_type, offset + 4, 4) << 32
        region = self._within(config_type, offset, size)
        if self.through_config:
            window = await self._aim(region, offset, size)
            return await self.port.config_read(self.function.bdf, window, size)
        return await self.port.mmio_read(self._address(region, offset), size)

    async def write(self, config_type: int, offset: int, size: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes; 8 as two halves."""
        if size == 8:
            await self.write(config_type, offset, 4, value & 0xFFFF_FFFF)
            await self.write(config_type, offset + 4, 4, value >> 32)
            return
        region = self._within(config_type, offset, size)
        if self.through_config:
            window = await self._aim(region, offset, size)
            await self.port.config_write(self.function.bdf, window, size, value)
        else:
            await self.port.mmio_write(self._address(region, offset), size, value)

    def _within(self, config_type: int, offset: int, size: int) -> Region:
        region = self.regions.get(config_type)
        if region is None or offset + size > region.length:
            raise TransportError(f"{size} bytes at {offset} of structure {config_type}: "
                                 f"{region or 'it does not exist'}")
        return region

    def _address(self, region: Region, offset: int) -> int:
        return self.function.bars[region.bar].address + region.offset + offset

    async def _aim(self, region: Region, offset: int, size: int) -> int:
        """Point the PCI_CFG window to a structure; give where its data register is."""
        window = self.regions.get(ConfigType.PCI)
        if window is None:
            raise TransportError("no PCI_CFG capability")
        at = window.capability
        await self.function.write(ConfigType.BAR, region.bar, at)
        await self.function.write(ConfigType.OFFSET, region.offset + offset, at)
        await self.function.write(ConfigType.LENGTH, size, at)
        return at + ConfigType.PCI_CFG_DATA.offset

    async def get(self, register: Field) -> int:
        """Read a register of the common configuration."""
        return await self.read(ConfigType.COMMON, register.offset, register.size)

    async def put(self, register: Field, value: int) -> None:
        """Write a register of the common configuration."""
        await self.write(ConfigType.COMMON, register.offset, register.size, value)

    async def read_isr(self) -> int:
        """Read the interrupt status, which clears it: bit 0 a queue, bit 1 the configuration."""
        return await self.read(ConfigType.ISR, 0, 1)

    # --- status

    async def status(self) -> int:
        """Read device_status."""
        return await self.get(CommonConfig.DEVICE_STATUS)

    async def add_status(self, bits: int) -> None:
        """Set more bits of device_status; none is ever cleared this way."""
        await self.put(CommonConfig.DEVICE_STATUS, await self.status() | bits)

    async def reset(self) -> None:
        """Reset the device, and wait until it says that it is done."""
        await self.put(CommonConfig.DEVICE_STATUS, 0)
        deadline = self.port.now() + _RESET_CYCLES
        while await self.status():
            if self.port.now() >= deadline:
                raise TransportError("the reset does not end")
            await self.port.sleep(_POLL_CYCLES)
        self.features = 0
        self._notify_offsets.clear()
        self._rings.clear()

    async def suspend(self) -> None:
        """Have the device rest, and wait until it says that it does.

        From the call on until `resume` nothing may be given to it, and nothing configured.
        """
        if not self.has(Feature.SUSPEND):
            raise TransportError("the device cannot be suspended")
        status = await self.status()
        if not status & Status.DRIVER_OK:
            raise TransportError(f"nothing to suspend: the device's status is {status:#x}")
        await self.put(CommonConfig.DEVICE_STATUS, status | Status.SUSPEND)
        await self._until_status(Status.SUSPEND, Status.DRIVER_OK)

    async def resume(self) -> None:
        """Let a suspended device go on, and wait until it says that it does."""
        status = await self.status()
        if not status & Status.SUSPEND:
            raise TransportError(f"nothing to resume: the device's status is {status:#x}")
        await self.put(CommonConfig.DEVICE_STATUS, status & ~Status.SUSPEND | Status.DRIVER_OK)
        await self._until_status(Status.DRIVER_OK, Status.SUSPEND)

    async def _until_status(self, bit: int, instead_of: int) -> None:
        deadline = self.port.now() + _RESET_CYCLES
        while (status := await self.status()) & (bit | instead_of) != bit:
            if status & Status.NEEDS_RESET:
                raise TransportError("the device asks for a reset")
            if self.port.now() >= deadline:
                raise TransportError(f"the device's status stays {status:#x}")
            await self.port.sleep(_POLL_CYCLES)

    async def offered_features(self) -> int:
        """Read what the device offers: 128 bits."""
        offered = 0
        for word in range(4):
            await self.put(CommonConfig.DEVICE_FEATURE_SELECT, word)
            offered |= await self.get(CommonConfig.DEVICE_FEATURE) << 32 * word
        return offered

    async def start(self, wanted: Iterable[int],
                    dependencies: Mapping[int, Sequence[Sequence[int]]]) -> int:
        """Reset, acknowledge and agree on features, up to FEATURES_OK; give those accepted.

        `TransportError`, and FAILED in the device, when it is no modern device or refuses.
        """
        await self.reset()
        await self.add_status(Status.ACKNOWLEDGE)
        await self.add_status(Status.DRIVER)
        offered = await self.offered_features()
        if not offered >> Feature.VERSION_1 & 1:
            await self.fail("the device does not offer VERSION_1")
        accepted = accept_features(offered, {*wanted, Feature.VERSION_1}, dependencies)
        for word in range(4 if accepted >> 64 else 2):
            await self.put(CommonConfig.DRIVER_FEATURE_SELECT, word)
            await self.put(CommonConfig.DRIVER_FEATURE, accepted >> 32 * word & 0xFFFF_FFFF)
        await self.add_status(Status.FEATURES_OK)
        if not await self.status() & Status.FEATURES_OK:
            await self.fail(f"the device refuses the features {accepted:#x}")
        if accepted >> Feature.NOTIFICATION_DATA & 1:
            await self._check_wide_kicks()
        self.features = accepted
        return accepted

    async def _check_wide_kicks(self) -> None:
        """Refuse doorbells at which 32 bits cannot be written."""
        region, multiplier = self.regions[ConfigType.NOTIFY], self.notify_multiplier
        if multiplier % 4:  # 0, or a power of two, it is anyhow
            await self.fail(f"notify_off_multiplier is {multiplier}, with NOTIFICATION_DATA")
        if region.offset % 4 or region.length < 4:
            await self.fail(f"doorbells in {region.length} bytes at {region.offset:#x}, with "
                            "NOTIFICATION_DATA")

    async def fail(self, text: str) -> None:
        """Give up: set FAILED and raise `TransportError`."""
        await self.add_status(Status.FAILED)
        raise TransportError(text)

    # --- device configuration

    async def read_config(self, fields: Iterable[tuple[str, Field]]) -> dict[str, int]:
        """Read some fields of the device configuration that belong to one state of it.

        A field of 6 bytes is read byte by byte and given with its first byte lowest.
        """
        fields = list(fields)
        for _ in range(100):
            generation = await self.get(CommonConfig.CONFIG_GENERATION)
            values = {}
            for name, register in fields:
                if register.size in (1, 2, 4, 8):
                    values[name] = await self.read(ConfigType.DEVICE, *register)
                else:
                    values[name] = sum([
                        await self.read(ConfigType.DEVICE, register.offset + byte, 1) << 8 * byte
                        for byte in range(register.size)])
            if await self.get(CommonConfig.CONFIG_GENERATION) == generation:
                return values
        raise TransportError("the configuration changes without end")

    @property
    def config_length(self) -> int:
        """Bytes of device configuration, 0 without any."""
        region = self.regions.get(ConfigType.DEVICE)
        return region.length if region else 0

    # --- interrupts and queues

    async def set_config_vector(self, vector: int) -> bool:
        """Bind configuration changes to an MSI-X vector; False when the device has no room."""
        await self.put(CommonConfig.CONFIG_MSIX_VECTOR, vector)
        return await self.get(CommonConfig.CONFIG_MSIX_VECTOR) == vector

    async def queue_size(self, queue: int) -> int:
        """Give the largest size of a queue that is not in use, 0 when it does not exist."""
        await self.put(CommonConfig.QUEUE_SELECT, queue)
        if await self.get(CommonConfig.QUEUE_ENABLE):
            raise TransportError(f"queue {queue} is enabled already")
        return await self.get(CommonConfig.QUEUE_SIZE)

    async def set_up_queue(self, queue: int, ring: Ring[Any], *,
                           vector: int = CommonConfig.NO_VECTOR) -> None:
        """Tell the device all about a queue, but do not enable it."""
        await self.put(CommonConfig.QUEUE_SELECT, queue)
        await self.put(CommonConfig.QUEUE_SIZE, ring.size)
        await self.put(CommonConfig.QUEUE_MSIX_VECTOR, vector)
        if await self.get(CommonConfig.QUEUE_MSIX_VECTOR) != vector:
            raise TransportError(f"queue {queue} did not take vector {vector}")
        for register, area in zip((CommonConfig.QUEUE_DESC, CommonConfig.QUEUE_DRIVER,
                                   CommonConfig.QUEUE_DEVICE), ring.areas, strict=True):
            await self.put(register, area.address)
        self._notify_offsets[queue] = (await self.get(CommonConfig.QUEUE_NOTIFY_OFF)
                                       * self.notify_multiplier)
        self._rings[queue] = ring

    async def reset_queue(self, queue: int) -> None:
        """Reset one queue (RING_RESET), and wait until the device says that it is done.

        Afterwards the queue is to be set up from the beginning, and enabled.
        """
        if not self.has(Feature.RING_RESET):
            raise TransportError("the device resets no single queue")
        await self.put(CommonConfig.QUEUE_SELECT, queue)
        await self.put(CommonConfig.QUEUE_RESET, 1)
        deadline = self.port.now() + _RESET_CYCLES
        while await self.get(CommonConfig.QUEUE_RESET):
            if self.port.now() >= deadline:
                raise TransportError(f"the reset of queue {queue} does not end")
            await self.port.sleep(_POLL_CYCLES)
        if await self.get(CommonConfig.QUEUE_ENABLE):
            raise TransportError(f"queue {queue} is enabled after its reset")

    async def enable_queue(self, queue: int) -> None:
        """Switch a queue on, when all the rest of it is set."""
        await self.put(CommonConfig.QUEUE_SELECT, queue)
        await self.put(CommonConfig.QUEUE_ENABLE, 1)

    @property
    def notify_bytes(self) -> int:
        """Bytes of a kick."""
        return 4 if self.has(Feature.NOTIFICATION_DATA) else 2

    def notify_address(self, queue: int) -> int:
        """Give where `notify` writes, for who kicks without this driver."""
        offset = self._notify_offsets[queue]
        return self._address(self._within(ConfigType.NOTIFY, offset, self.notify_bytes), offset)

    async def notify(self, queue: int) -> None:
        """Kick a queue. With NOTIFICATION_DATA the device is told how far its ring goes as well."""
        value = queue
        if self.has(Feature.NOTIFICATION_DATA):
            value |= self._rings[queue].kick_data << 16
        await self.write(ConfigType.NOTIFY, self._notify_offsets[queue], self.notify_bytes, value)
