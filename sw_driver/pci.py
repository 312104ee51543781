"""Finding PCI functions and setting them up, as firmware and a kernel do it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sw_driver.layouts import Field
from sw_driver.pci_layouts import (
    Capability,
    Express,
    Header,
    MsixCapability,
    MsixTable,
    Power,
)
from sw_driver.port import HostPort, Interrupt

__all__ = ["AddressSpace", "Bar", "Msix", "PciError", "PciFunction", "scan"]

_FLR_CYCLES = 250_000  # 1 ms, of the 100 that the standard gives
_POLL_CYCLES = 50


class PciError(Exception):
    """A function that cannot be set up or does not behave."""


class AddressSpace:
    """Hands out bus addresses for BARs from the windows of the machine."""

    def __init__(self, windows: Iterable[range]) -> None:
        self._windows = [[window.start, window.stop] for window in windows]

    def take(self, size: int, *, below_4g: bool) -> int:
        """Give ``size`` bytes, a power of two, aligned to itself; high addresses if allowed."""
        for window in sorted(self._windows, reverse=not below_4g):
            start = (window[0] + size - 1) & -size
            if start + size <= window[1] and (start + size <= 1 << 32 or not below_4g):
                window[0] = start + size
                return start
        raise PciError(f"no room for a BAR of {size:#x} bytes")


@dataclass
class Bar:
    """A memory BAR: its register is ``0x10 + 4 * index``."""

    index: int
    size: int
    is_64: bool
    prefetchable: bool
    address: int = 0


@dataclass
class PciFunction:
    """A function that was found: its header, BARs and capabilities."""

    port: HostPort
    bdf: int
    vendor_id: int = 0
    device_id: int = 0
    revision_id: int = 0
    class_code: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    multifunction: bool = False
    bars: dict[int, Bar] = field(default_factory=dict)
    capabilities: list[tuple[int, int]] = field(default_factory=list)
    """``(identifier, offset)`` in the order of the list."""
    extended_capabilities: list[tuple[int, int]] = field(default_factory=list)

    # --- configuration space

    async def read(self, register: Field, at: int = 0) -> int:
        """Read a register; ``at`` is where its structure begins."""
        offset, size = register.offset + at, register.size
        if size == 3:
            return (await self.port.config_read(self.bdf, offset & ~3, 4) >> 8 * (offset & 3)
                    & 0xFF_FFFF)
        return await self.port.config_read(self.bdf, offset, size)

    async def write(self, register: Field, value: int, at: int = 0) -> None:
        """Write a register."""
        await self.port.config_write(self.bdf, register.offset + at, register.size, value)

    async def change(self, register: Field, clear: int, put: int, at: int = 0) -> None:
        """Clear some bits of a register and set others."""
        value = await self.read(register, at)
        await self.write(register, value & ~clear | put, at)

    async def discover(self) -> bool:
        """Read the header and the capability lists; False when there is no function."""
        self.vendor_id = await self.read(Header.VENDOR_ID)
        if self.vendor_id == 0xFFFF:
            return False
        self.device_id = await self.read(Header.DEVICE_ID)
        self.revision_id = await self.read(Header.REVISION_ID)
        self.class_code = await self.read(Header.CLASS_CODE)
        header_type = await self.read(Header.HEADER_TYPE)
        self.multifunction = bool(header_type & Header.MULTIFUNCTION)
        if header_type & 0x7F:
            raise PciError(f"header type {header_type & 0x7F} is no endpoint")
        self.subsystem_vendor_id = await self.read(Header.SUBSYSTEM_VENDOR_ID)
        self.subsystem_id = await self.read(Header.SUBSYSTEM_ID)
        await self._walk_capabilities()
        await self._walk_extended_capabilities()
        return True

    async def _walk_capabilities(self) -> None:
        self.capabilities.clear()
        if not await self.read(Header.STATUS) & Header.STATUS_CAPABILITIES:
            return
        at = await self.read(Header.CAPABILITY_LIST) & 0xFC
        while at:
            head = await self.port.config_read(self.bdf, at, 2)
            self.capabilities.append((head & 0xFF, at))
            at = head >> 8 & 0xFC
            if at and (at < 0x40 or len(self.capabilities) >= 48):
                raise PciError(f"the capability list runs astray at {at:#x}")

    async def _walk_extended_capabilities(self) -> None:
        self.extended_capabilities.clear()
        at = 0x100
        while at:
            head = await self.port.config_read(self.bdf, at, 4)
            if head in (0, 0xFFFF_FFFF):
                return
            self.extended_capabilities.append((head & 0xFFFF, at))
            at = head >> 20 & 0xFFC
            if at and (at < 0x100 or len(self.extended_capabilities) >= 960):
                raise PciError(f"the extended capability list runs astray at {at:#x}")

    def capability(self, identifier: int) -> int | None:
        """Give the offset of the first capability of a kind."""
        return next((at for kind, at in self.capabilities if kind == identifier), None)

    def extended_capability(self, identifier: int) -> int | None:
        """Give the offset of the first extended capability of a kind."""
        return next((at for kind, at in self.extended_capabilities if kind == identifier), None)

    # --- BARs

    async def size_bars(self) -> None:
        """Find out what BARs there are. Memory decoding is off while they hold ones."""
        await self.change(Header.COMMAND, Header.COMMAND_MEMORY | Header.COMMAND_MASTER, 0)
        self.bars.clear()
        index = 0
        while index < 6:
            register = Field(Header.BAR0.offset + 4 * index, 4)
            low, mask = await self._probe(register)
            if low & Header.BAR_IO or not mask & ~0xF:
                index += 1
                continue
            is_64 = low & Header.BAR_TYPE == Header.BAR_64
            mask &= ~0xF
            if is_64:
                if index == 5:
                    raise PciError("BAR 5 says it is 64 bits wide")
                _high, high_mask = await self._probe(Field(register.offset + 4, 4))
                mask |= high_mask << 32
            else:
                mask |= 0xFFFF_FFFF << 32
            size = (mask & -mask)
            if mask != ((1 << 64) - 1) & -size:
                raise PciError(f"BAR {index} decodes {mask:#x}, which is no power of two")
            self.bars[index] = Bar(index, size, is_64, bool(low & Header.BAR_PREFETCH))
            index += 2 if is_64 else 1

    async def _probe(self, register: Field) -> tuple[int, int]:
        before = await self.read(register)
        await self.write(register, 0xFFFF_FFFF)
        mask = await self.read(register)
        await self.write(register, before)
        return before, mask

    async def place_bars(self, space: AddressSpace | None = None) -> None:
        """Give every BAR an address, or (without ``space``) the address it had before a reset."""
        for bar in self.bars.values():
            if space is not None:
                bar.address = space.take(bar.size, below_4g=not bar.is_64)
            register = Field(Header.BAR0.offset + 4 * bar.index, 4)
            await self.write(register, bar.address & 0xFFFF_FFFF)
            if bar.is_64:
                await self.write(Field(register.offset + 4, 4), bar.address >> 32)

    async def enable(self, *, bus_master: bool = True) -> None:
        """Let the function answer memory accesses, and ask itself."""
        master = Header.COMMAND_MASTER if bus_master else 0
        await self.change(Header.COMMAND, Header.COMMAND_MASTER,
                          Header.COMMAND_MEMORY | master | Header.COMMAND_INTX_DISABLE)

    async def disable_master(self) -> None:
        """Forbid the function to reach memory."""
        await self.change(Header.COMMAND, Header.COMMAND_MASTER, 0)

    # --- PCI Express

    async def set_limits(self, *, max_payload: int = 256, max_read: int = 512) -> None:
        """Set the largest write and read, in bytes; allow 256 tags if the function can.

        The payload is kept to what the function supports.
        """
        at = self._express()
        capabilities = await self.read(Express.DEVICE_CAPABILITIES, at)
        payload = min((max_payload // 128).bit_length() - 1, capabilities & Express.CAP_PAYLOAD)
        read = (max_read // 128).bit_length() - 1
        tags = Express.CONTROL_EXTENDED_TAG if capabilities & Express.CAP_EXTENDED_TAG else 0
        await self.change(Express.DEVICE_CONTROL,
                          Express.CONTROL_PAYLOAD | Express.CONTROL_READ | Express.CONTROL_FLR,
                          payload << 5 | read << 12 | tags, at)

    def _express(self) -> int:
        at = self.capability(Capability.EXPRESS)
        if at is None:
            raise PciError("no PCI Express capability")
        return at

    async def reset(self, *, wait_cycles: int = 1000) -> None:
        """Reset the function (FLR), and set it up again as it was, but for bus mastering.

        ``wait_cycles`` stands for the 100 ms that the standard gives the function; after them the
        function must answer, perhaps with a retry. `PciError` when it does not.
        """
        at = self._express()
        if not await self.read(Express.DEVICE_CAPABILITIES, at) & Express.CAP_FLR:
            raise PciError("the function has no function-level reset")
        control = await self.read(Express.DEVICE_CONTROL, at)
        await self.disable_master()
        deadline = self.port.now() + _FLR_CYCLES
        while (await self.read(Express.DEVICE_STATUS, at) & Express.STATUS_PENDING
               and self.port.now() < deadline):
            await self.port.sleep(_POLL_CYCLES)
        await self.write(Express.DEVICE_CONTROL, control | Express.CONTROL_FLR, at)
        await self.port.sleep(wait_cycles)
        deadline = self.port.now() + _FLR_CYCLES
        while await self.read(Header.VENDOR_ID) != self.vendor_id:
            if self.port.now() >= deadline:
                raise PciError("the function does not come back from its reset")
            await self.port.sleep(_POLL_CYCLES)
        await self.write(Express.DEVICE_CONTROL, control & ~Express.CONTROL_FLR, at)
        await self.place_bars()
        await self.enable(bus_master=False)

    async def set_power_state(self, state: int, *, wait_cycles: int = 1000) -> None:
        """Go to D0 or D3hot (`Power`)."""
        at = self.capability(Capability.POWER)
        if at is None:
            raise PciError("no power management capability")
        await self.change(Power.CONTROL, Power.STATE, state, at)
        await self.port.sleep(wait_cycles)

    async def msix(self) -> Msix | None:
        """Give the function's MSI-X, when it has some."""
        at = self.capability(Capability.MSIX)
        if at is None:
            return None
        vectors = (await self.read(MsixCapability.CONTROL, at) & MsixCapability.TABLE_SIZE) + 1
        places = []
        for register in (MsixCapability.TABLE, MsixCapability.PENDING):
            value = await self.read(register, at)
            bar = self.bars.get(value & MsixCapability.BAR)
            if bar is None:
                raise PciError(f"MSI-X lies in BAR {value & MsixCapability.BAR}, which is none")
            places.append(bar.address + (value & ~MsixCapability.BAR))
        return Msix(self, at, vectors, *places)


@dataclass
class Msix:
    """The interrupt vectors of a function."""

    function: PciFunction
    at: int
    vectors: int
    table_address: int
    pending_address: int

    async def enable(self) -> None:
        """Switch MSI-X on, every vector masked until `route` gives it a target."""
        control = MsixCapability.CONTROL
        await self.function.change(
            control, 0, MsixCapability.ENABLE | MsixCapability.FUNCTION_MASK, self.at)
        for vector in range(self.vectors):
            await self.mask(vector, True)
        await self.mask_all(False)

    async def disable(self) -> None:
        """Switch MSI-X off."""
        await self.function.change(MsixCapability.CONTROL, MsixCapability.ENABLE, 0, self.at)

    async def mask_all(self, masked: bool) -> None:
        """Mask the function, or let each vector's own mask count."""
        bit = MsixCapability.FUNCTION_MASK
        await self.function.change(MsixCapability.CONTROL, bit, bit if masked else 0, self.at)

    def _entry(self, vector: int, register: Field) -> int:
        if not 0 <= vector < self.vectors:
            raise ValueError(f"vector {vector} of {self.vectors}")
        return self.table_address + MsixTable.SIZE * vector + register.offset

    async def mask(self, vector: int, masked: bool) -> None:
        """Mask one vector, or unmask it: what is pending is then sent."""
        await self.function.port.mmio_write(self._entry(vector, MsixTable.CONTROL), 4,
                                            MsixTable.MASKED if masked else 0)

    async def route(self, vector: int, interrupt: Interrupt) -> None:
        """Point a masked vector to an interrupt of the machine and unmask it."""
        port = self.function.port
        for register, value in ((MsixTable.ADDRESS_LOW, interrupt.address & 0xFFFF_FFFF),
                                (MsixTable.ADDRESS_HIGH, interrupt.address >> 32),
                                (MsixTable.DATA, interrupt.data)):
            await port.mmio_write(self._entry(vector, register), 4, value)
        await self.mask(vector, False)
        # The write is posted; reading it back makes sure that it has arrived.
        await port.mmio_read(self._entry(vector, MsixTable.CONTROL), 4)

    async def pending(self, vector: int) -> bool:
        """Whether a masked vector waits to be sent."""
        self._entry(vector, MsixTable.CONTROL)
        word = await self.function.port.mmio_read(self.pending_address + 4 * (vector // 32), 4)
        return bool(word >> vector % 32 & 1)


async def scan(port: HostPort, bus: int = 1, *, devices: Iterable[int] = (0,)) -> list[PciFunction]:
    """Find the functions on a bus, place their BARs, and let them answer memory accesses.

    On a link of PCI Express there is device 0 alone; a function 0 that is multifunction makes its
    seven siblings worth a look.
    """
    space = AddressSpace(port.memory_windows)
    found = []
    for device in devices:
        for number in range(8):
            function = PciFunction(port, bus << 8 | device << 3 | number)
            if not await function.discover():
                if number == 0:
                    break
                continue
            await function.size_bars()
            await function.place_bars(space)
            await function.enable(bus_master=False)
            found.append(function)
            if number == 0 and not function.multifunction:
                break
    return found
