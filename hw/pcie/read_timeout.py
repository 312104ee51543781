"""Find reads whose completions do not come."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import ReadSizes

__all__ = ["ReadTimeout"]

_TICKS = 16
"""Ticks to which the time-out is rounded."""
_STAMP_BITS = 6
"""A stamp means something for 64 ticks: the sweep must come by in the 46 after the time-out."""


class ReadTimeout(wiring.Component):
    """Look at one tag after the other, and tell which has waited too long.

    Time is counted in ticks, of a sixteenth of the time-out. A read is late after 17 ticks: no
    earlier than ``timeout_cycles``, and no later than 17/16 of that, 16 cycles of rounding, and a
    sweep of ``tags`` cycles (longer only if completions come without any gap).

    Parameters
    ----------
    sizes
        The engine's sizes.
    timeout_cycles
        At least 256.

    Members
    -------
    departed : In(stream.Signature(tag_bits, always_ready=True))
        The time of this tag begins.
    waiting : In(tags)
        Tags that wait for completions, from the cycle after they departed until they are done.
    done : In(stream.Signature(tag_bits, always_ready=True))
        This tag waits no longer from the next cycle on.
    late_valid, late_tag : Out
        A tag that has waited too long. Offered until ``late_taken``, or until it is done.
    late_taken : In(1)
    disable : In(1)
        No other tag is told to be late. When it ends, the time of those that wait is counted modulo
        64 ticks.
    """

    departed: stream.Interface
    waiting: Signal
    done: stream.Interface
    late_valid: Signal
    late_tag: Signal
    late_taken: Signal
    disable: Signal

    def __init__(self, sizes: ReadSizes, *, timeout_cycles: int) -> None:
        if timeout_cycles < 256:
            raise ValueError(f"timeout_cycles must be at least 256, not {timeout_cycles!r}")
        self.sizes = sizes
        self.timeout_cycles = timeout_cycles
        super().__init__({
            "departed": In(stream.Signature(sizes.tag_bits, always_ready=True)),
            "waiting": In(sizes.tags),
            "done": In(stream.Signature(sizes.tag_bits, always_ready=True)),
            "late_valid": Out(1),
            "late_tag": Out(sizes.tag_bits),
            "late_taken": In(1),
            "disable": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        stamps: memory.Memory[Any, Any] = memory.Memory(
            shape=_STAMP_BITS, depth=sizes.tags, init=[])
        m.submodules.stamps = stamps
        write = stamps.write_port()
        read = stamps.read_port()

        tick_cycles = -(-self.timeout_cycles // _TICKS)
        passed = Signal(range(tick_cycles))
        now = Signal(_STAMP_BITS)
        with m.If(passed == tick_cycles - 1):
            m.d.sync += [passed.eq(0), now.eq(now + 1)]
        with m.Else():
            m.d.sync += passed.eq(passed + 1)

        # A tag's stamp and whether it waits are looked at in the same cycle: a tag that departs in
        # that cycle has an old stamp, but does not wait yet.
        looked_at = Signal(sizes.tag_bits)
        tag = Signal(sizes.tag_bits, reset_less=True)
        waits = Signal()
        age = Signal(_STAMP_BITS)
        m.d.comb += [
            write.en.eq(self.departed.valid),
            write.addr.eq(self.departed.payload),
            write.data.eq(now),
            read.addr.eq(looked_at),
            age.eq(now - read.data),
        ]
        m.d.sync += [
            looked_at.eq(looked_at + 1),
            tag.eq(looked_at),
            waits.eq(self.waiting.bit_select(looked_at, 1)),
        ]

        # What is done while it is offered must not be ended: its tag may soon have another read.
        late = Signal()
        late_tag = Signal(sizes.tag_bits, reset_less=True)
        gone = Signal()
        m.d.comb += [
            self.late_valid.eq(late),
            self.late_tag.eq(late_tag),
            gone.eq(self.done.valid & (self.done.payload == Mux(late, late_tag, tag))),
        ]
        with m.If(late):
            m.d.sync += late.eq(~self.late_taken & ~gone)
        with m.Elif(waits & (age > _TICKS) & ~gone & ~self.disable):
            m.d.sync += [late.eq(1), late_tag.eq(tag)]
        return m
