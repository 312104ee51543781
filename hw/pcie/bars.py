"""Find the BAR that a memory address lies in."""

from amaranth import Cat, Const, Module, Signal, Value
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

__all__ = ["BarDecoder"]

_GROUP_BITS = 12
"""So many bits of an address are compared in two LUTs in series."""


class BarDecoder(wiring.Component):
    """Compare an address with the BARs of the PF, in two steps with a register between.

    Bits are compared in groups in the first cycle, and the groups' results put together in the
    second: no path is longer than three LUTs. Where BARs overlap (only a driver's mistake can make
    them so), the lowest number is hit.

    | Latency: 1 cycle. Throughput: 1 address a cycle. Storage: about 40 flip-flops.

    Members
    -------
    address : In(64)
    bar0 : In(32)
    bar2, bar4 : In(64)
        Base addresses; the bits below the size are ignored.
    enable : In(1)
        Memory Space Enable and what else must be. Belongs to the cycle of ``hit``.
    hit : Out(1)
    bar : Out(3)
        Which one; means nothing without ``hit``.
    offset : Out(20)
        Where in it.
    """

    address: Signal
    bar0: Signal
    bar2: Signal
    bar4: Signal
    enable: Signal
    hit: Signal
    bar: Signal
    offset: Signal

    def __init__(self) -> None:
        super().__init__({
            "address": In(64), "bar0": In(32), "bar2": In(64), "bar4": In(64), "enable": In(1),
            "hit": Out(1), "bar": Out(3), "offset": Out(20),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low = Signal(20, reset_less=True)
        m.d.sync += low.eq(self.address)

        def equal(base: Value, size: int) -> Value:
            """In the next cycle: the address is in the window of this size at this base."""
            first = size.bit_length() - 1
            groups = [Signal(reset_less=True) for _ in range(first, 64, _GROUP_BITS)]
            for group, start in zip(groups, range(first, 64, _GROUP_BITS), strict=True):
                end = min(64, start + _GROUP_BITS)
                m.d.sync += group.eq(self.address[start:end] == base[start:end])
            return Cat(groups).all()

        windows = (
            (MANAGEMENT_BAR, MANAGEMENT_BAR_BYTES, Cat(self.bar0, Const(0, 32))),
            (VIRTIO_BAR, VIRTIO_BAR_BYTES, self.bar2),
            (MSIX_BAR, MSIX_BAR_BYTES, self.bar4),
        )
        for number, size, base in reversed(windows):
            inside = Signal(name=f"inside_{number}")
            m.d.comb += inside.eq(equal(base, size))
            with m.If(inside):
                m.d.comb += [
                    self.hit.eq(self.enable),
                    self.bar.eq(number),
                    self.offset.eq(low[:size.bit_length() - 1]),
                ]
        return m
