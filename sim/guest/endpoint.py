"""A function of the card as a guest is given it: virtual BAR registers, and vectors by eventfd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hw.pcie.types import RequestKind
from sim.guest.clock import ANSWERED, Clock
from sim.guest.clock_port import ClockPort
from sim.native.engine import NativeInterrupt
from sw_driver.pci import AddressSpace, Msix, PciError, PciFunction
from sw_driver.pci_layouts import Capability, Express, Header, MsixTable
from tb.tlp import Request

__all__ = ["CONFIG_BYTES", "Endpoint"]

CONFIG_BYTES = 4096
_BDF = 0x0100
_BARS = range(0x10, 0x28)
_RESET_CYCLES = 100_000


class Endpoint:
    """One function of a card, handed to a guest.

    The BARs of the card lie where we place them, and the guest sees registers of its own in their
    stead. The MSI-X table is ours as well: each entry names an interrupt of the engine, which
    signals the guest's eventfd. Every other register is the card's, read and written by TLPs.

    All offsets and sizes are within bounds that the caller has checked (`bar_bytes`). Accesses
    wait for the card, some tens of cycles each.

    Parameters
    ----------
    clock
        The clock of a card, at its start.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        port = ClockPort(clock)
        self._function = function = PciFunction(port, _BDF)
        if not port.run(function.discover()):
            raise PciError("the card has no function 0")
        port.run(function.size_bars())
        port.run(function.place_bars(AddressSpace(port.memory_windows)))
        msix = port.run(function.msix())
        if msix is None:
            raise PciError("the card has no MSI-X")
        self._port = port
        self._msix: Msix = msix
        self._express = function.capability(Capability.EXPRESS)
        self._interrupts: list[NativeInterrupt] = [
            clock.engine.interrupt(f"vector {vector}") for vector in range(msix.vectors)]
        self._seen = [0] * msix.vectors
        self._eventfds: dict[int, int] = {}
        self._masked: set[int] = set()
        self.interrupts = 0
        """Interrupts that were passed on."""
        self._types = [clock.config_read(_BDF, at, 4) & 0xF if self._is_low(at) else 0
                       for at in _BARS[::4]]
        self._bars = list(self._types)
        clock.on_interrupt(self._pass_on)

    # --- what there is

    @property
    def vectors(self) -> int:
        """MSI-X vectors."""
        return self._msix.vectors

    def bar_bytes(self, index: int) -> int:
        """Size of a BAR; 0 for one that is none, or the upper half of another."""
        bar = self._function.bars.get(index)
        return bar.size if bar else 0

    def _is_low(self, offset: int) -> bool:
        return (offset - _BARS.start) // 4 in self._function.bars

    def _bar_mask(self, number: int) -> int:
        """Bits of a BAR's register that the guest may write."""
        if number in self._function.bars:
            return -self._function.bars[number].size & 0xFFFF_FFF0
        below = self._function.bars.get(number - 1)
        if below is not None and below.is_64:
            return -below.size >> 32 & 0xFFFF_FFFF
        return 0

    # --- configuration space

    def config_read(self, offset: int, size: int) -> bytes:
        """Read any bytes of configuration space."""
        start, end = offset & ~3, (offset + size + 3) & ~3
        places = [at for at in range(start, end, 4) if at not in _BARS]
        results = self.clock.requests([
            Request(RequestKind.CONFIG_READ, at, completer_id=_BDF) for at in places])
        words = {at: result.data if result.status == ANSWERED else b"\xff" * 4
                 for at, result in zip(places, results, strict=True)}
        for at in range(start, end, 4):
            if at in _BARS:
                words[at] = self._bars[(at - _BARS.start) // 4].to_bytes(4, "little")
        whole = b"".join(words[at] for at in range(start, end, 4))
        return whole[offset - start:offset - start + size]

    def config_write(self, offset: int, data: bytes) -> None:
        """Write any bytes of configuration space, in the largest parts that are allowed."""
        at, end = offset, offset + len(data)
        while at < end:
            size = next(size for size in (4, 2, 1) if at % size == 0 and at + size <= end)
            self._write_part(at, size, int.from_bytes(data[at - offset:at - offset + size],
                                                      "little"))
            at += size

    def _write_part(self, at: int, size: int, value: int) -> None:
        if at in _BARS:
            number, shift = divmod(at - _BARS.start, 4)
            touched = ((1 << 8 * size) - 1) << 8 * shift & self._bar_mask(number)
            self._bars[number] = (self._bars[number] & ~touched | value << 8 * shift & touched)
            return
        self.clock.config_write(_BDF, at, size, value)
        if self._express is not None and self._starts_reset(at, size, value):
            self._after_reset()

    def _starts_reset(self, at: int, size: int, value: int) -> bool:
        """Whether a write has set the bit that starts a function-level reset."""
        control = (self._express or 0) + Express.DEVICE_CONTROL.offset
        bit = 8 * (control - at) + Express.CONTROL_FLR.bit_length() - 1
        return 0 <= bit < 8 * size and bool(value >> bit & 1)

    def reset(self) -> None:
        """Reset the function (FLR), whatever state it is in; its registers are as at the start."""
        if self._express is None:
            raise PciError("no PCI Express capability")
        self.clock.config_write(_BDF, Header.COMMAND.offset, 2, 0)
        self.clock.drain(10_000)
        self.clock.config_write(_BDF, self._express + Express.DEVICE_CONTROL.offset, 2,
                                Express.CONTROL_FLR)
        self._after_reset()

    def _after_reset(self) -> None:
        """Wait for the end of a reset, and restore what is not the guest's."""
        for _turn in range(8):
            # A function that is being reset asks to be asked again, and so the host does.
            if self.clock.config_read(_BDF, 0, 2) == self._function.vendor_id:
                break
        else:
            raise PciError("the function does not come back from its reset")
        self._port.run(self._function.place_bars())
        self._bars = list(self._types)
        self._write_entries(self._eventfds)

    # --- BARs

    def bar_read(self, index: int, offset: int, size: int) -> bytes:
        """Read a BAR; all ones while the function's memory is off."""
        return self.clock.read(self._function.bars[index].address + offset, size)

    def bar_write(self, index: int, offset: int, data: bytes) -> None:
        """Write a BAR, posted. What falls into the MSI-X table has no effect."""
        address = self._function.bars[index].address + offset
        table = self._msix.table_address
        if address < table + MsixTable.SIZE * self.vectors and table < address + len(data):
            return
        self.clock.write(address, data)

    # --- vectors

    def set_vector(self, vector: int, eventfd: int | None) -> None:
        """Let a vector signal an eventfd, which becomes ours; or (None) nothing any more.

        While a vector has none it is masked, so that what the card raises stays pending.
        """
        old = self._eventfds.pop(vector, None)
        if old is not None:
            os.close(old)
        if eventfd is not None:
            self._eventfds[vector] = eventfd
            self._masked.discard(vector)
        if old is not None or eventfd is not None:
            self._write_entries([vector])

    def mask_vector(self, vector: int, masked: bool) -> None:
        """Mask a vector that has an eventfd, or unmask it."""
        if masked:
            self._masked.add(vector)
        else:
            self._masked.discard(vector)
        self._write_entries([vector])

    def signal(self, vector: int) -> None:
        """Signal the eventfd of a vector, if it has one."""
        eventfd = self._eventfds.get(vector)
        if eventfd is None:
            return
        try:
            os.eventfd_write(eventfd, 1)
        except BlockingIOError:
            pass  # it is signalled already, as often as can be counted
        self.interrupts += 1

    def release(self) -> None:
        """Give back the eventfds, after a reset."""
        for eventfd in self._eventfds.values():
            os.close(eventfd)
        self._eventfds.clear()
        self._masked.clear()

    def _pass_on(self) -> None:
        for vector, interrupt in enumerate(self._interrupts):
            if interrupt.count != self._seen[vector]:
                self._seen[vector] = interrupt.count
                self.signal(vector)

    def _write_entries(self, vectors: Iterator[int] | dict[int, int] | list[int]) -> None:
        if not vectors:
            return
        with self._memory_on():
            for vector in vectors:
                entry = self._msix.table_address + MsixTable.SIZE * vector
                if vector not in self._eventfds or vector in self._masked:
                    self.clock.write(entry + MsixTable.CONTROL.offset,
                                     MsixTable.MASKED.to_bytes(4, "little"))
                    continue
                interrupt = self._interrupts[vector]
                self.clock.write(entry, interrupt.address.to_bytes(8, "little")
                                 + interrupt.data.to_bytes(4, "little") + bytes(4))

    @contextmanager
    def _memory_on(self) -> Iterator[None]:
        """Let the BARs answer for a while, whatever the guest has told the function."""
        command = self.clock.config_read(_BDF, Header.COMMAND.offset, 2)
        if command & Header.COMMAND_MEMORY:
            yield
            return
        self.clock.config_write(_BDF, Header.COMMAND.offset, 2, command | Header.COMMAND_MEMORY)
        yield
        self.clock.drain(1000)
        self.clock.config_write(_BDF, Header.COMMAND.offset, 2, command)
