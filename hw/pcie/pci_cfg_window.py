"""The window of configuration space on the BARs: virtio's PCI_CFG capability."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.bar_map import (
    MANAGEMENT_BAR,
    MANAGEMENT_BAR_BYTES,
    MSIX_BAR,
    MSIX_BAR_BYTES,
    VIRTIO_BAR,
    VIRTIO_BAR_BYTES,
)
from hw.pcie.config_types import WindowAccess

__all__ = ["PciCfgWindow"]

_BARS = {
    MANAGEMENT_BAR: MANAGEMENT_BAR_BYTES,
    VIRTIO_BAR: VIRTIO_BAR_BYTES,
    MSIX_BAR: MSIX_BAR_BYTES,
}


class PciCfgWindow(wiring.Component):
    """Turn what the driver wrote to the capability into the access that it stands for.

    A window of another length than 1, 2 or 4, one that is not aligned to its length, and one that
    is not inside a BAR are no windows: nothing is accessed, reads find zero (clauses PCI-PCFG-02,
    PCI-PCFG-03, IMP-PCI-PCFG-01; what is answered to a driver against DRV-PCI-PCFG-01 and -02).

    A read is of the window's whole length whatever bytes of the data were asked for; a write writes
    those bytes of it that are enabled.

    | Latency: 2 cycles from the capability's fields to ``access``, 1 from ``enable``, ``write``.

    Members
    -------
    bar : In(8)
    offset : In(32)
    length : In(32)
        Fields of the capability.
    enable : In(4)
    write : In(1)
        Of the access to the capability's data.
    data : In(32)
        What is written there.
    access : Out(WindowAccess())
    access_data : Out(32)
        What to write to the BAR.
    """

    bar: Signal
    offset: Signal
    length: Signal
    enable: Signal
    write: Signal
    data: Signal
    access: Any
    access_data: Signal

    def __init__(self) -> None:
        super().__init__({
            "bar": In(8), "offset": In(32), "length": In(32),
            "enable": In(4), "write": In(1), "data": In(32),
            "access": Out(WindowAccess()), "access_data": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # The fields stand still for many cycles before the data are accessed: all comparisons end
        # in registers.
        inside = Signal()
        natural = Signal()
        window_bytes = Signal(4)
        bar = Signal(3)
        offset = Signal(20)
        with m.Switch(self.bar):
            for number, size in _BARS.items():
                with m.Case(number):
                    m.d.sync += inside.eq(self.offset[size.bit_length() - 1:] == 0)
            with m.Default():
                m.d.sync += inside.eq(0)
        with m.Switch(self.length):
            with m.Case(1):
                m.d.sync += [natural.eq(1), window_bytes.eq(0b0001)]
            with m.Case(2):
                m.d.sync += [natural.eq(~self.offset[0]), window_bytes.eq(0b0011)]
            with m.Case(4):
                m.d.sync += [natural.eq(self.offset[:2] == 0), window_bytes.eq(0b1111)]
            with m.Default():
                m.d.sync += natural.eq(0)
        m.d.sync += [bar.eq(self.bar), offset.eq(self.offset)]

        shift = offset[:2]
        access: Any = Signal(WindowAccess())
        access_data = Signal(32, reset_less=True)
        touched = Signal(4)
        m.d.comb += touched.eq(window_bytes & Mux(self.write, self.enable, 0b1111))
        m.d.sync += [
            access.wanted.eq(inside & natural & (self.enable != 0) & (touched != 0)),
            access.bar.eq(bar),
            access.offset.eq(Cat(Const(0, 2), offset[2:])),
            access.enable.eq(touched << shift),
            access.shift.eq(shift),
            access.bytes.eq(window_bytes),
            access_data.eq(self.data << (shift << 3)),
        ]
        m.d.comb += [self.access.eq(access), self.access_data.eq(access_data)]
        return m
