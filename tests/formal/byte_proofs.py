"""Proofs about bytes: where they go when packets are cut and joined."""

from typing import Any

from amaranth import Cat, Const, Module, Signal

from hw.stream.align import Cutter
from sim.formal import Harness, Proof

__all__ = ["PROOFS"]


class CutterKeepsBytes(Harness):
    """`Cutter` loses, repeats and moves no byte, and makes a packet of each command's length, from
    its lead on, in the commands' order. Some byte is looked at; so it holds of each.

    2 and 4 lanes, packets of any length and commands of less than 3 beats, that end anywhere
    against one another.
    """

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self.lanes = lanes

    def build(self, m: Module) -> None:  # noqa: PLR0915  # one model
        lanes = self.lanes
        lane_bits = lanes.bit_length() - 1
        m.submodules.dut = dut = Cutter(lanes)
        # Of each byte a bit tells enough: which it is does not matter to the hardware.
        bits = self.free(lanes, "bits")
        last, empty = self.free(1, "last"), self.free(lane_bits, "empty")
        valid = self.free(1, "valid")
        held = Signal()
        kept = Signal(lanes + 1 + lane_bits)
        now = Cat(bits, last, empty)
        self.assume(m, ~held | (valid & (now == kept)))
        self.assume(m, last | (empty == 0))
        i: Any = dut.i.p
        m.d.comb += [
            dut.i.valid.eq(valid), i.last.eq(last), i.empty.eq(empty),
            i.data.eq(Cat(Cat(bit, Const(0, 7)) for bit in bits)),
        ]
        m.d.sync += [held.eq(valid & ~dut.i.ready), kept.eq(now)]
        ordered = self.feed(m, dut.commands, "command")
        command: Any = dut.commands.p
        self.assume(m, (command.length != 0) & (command.length < 3 * lanes))
        o: Any = dut.o.p
        ready = self.free(1, "ready")
        m.d.comb += dut.o.ready.eq(ready)
        leaves = dut.o.valid & ready

        # Commands inside, the oldest first: what is left of it, and where its next byte goes.
        places = 3
        inside = Signal(range(places + 1))
        left = [Signal(4, name=f"left_{k}") for k in range(places + 1)]
        lead = [Signal(lane_bits, name=f"lead_{k}") for k in range(places + 1)]
        count = Signal(4)
        ends = Signal()
        remain = Signal.like(inside)
        m.d.comb += [
            count.eq(lanes - lead[0] - o.empty),
            ends.eq(leaves & o.last),
            remain.eq(inside - ends),
        ]
        m.d.sync += inside.eq(remain + ordered)
        with m.If(ends):
            for k in range(places):
                m.d.sync += [left[k].eq(left[k + 1]), lead[k].eq(lead[k + 1])]
        with m.Elif(leaves):
            m.d.sync += [left[0].eq(left[0] - count), lead[0].eq(0)]
        for k in range(places):
            with m.If(ordered & (remain == k)):
                m.d.sync += [left[k].eq(command.length), lead[k].eq(command.lead)]
        self.check(m, ~dut.o.valid | (inside != 0), "no packet without a command")
        self.check(m, ~(ordered & (remain == places)), "so many are inside")
        self.check(m, ~dut.o.valid | ((lead[0] + o.empty < lanes) & (count <= left[0])),
                   "no more than was asked for")
        self.check(m, ~dut.o.valid | (o.last == (count == left[0])), "and no less")
        self.check(m, ~dut.o.valid | o.last | (o.empty == 0), "no gap inside")

        number = self.fixed(m, 4, "number")
        came, went = Signal(4), Signal(4)
        bit = Signal()
        seen = Signal()
        arrives = valid & dut.i.ready
        at_in, at_out = Signal(4), Signal(4)
        shown = Signal()
        here = Signal()
        m.d.comb += [
            at_in.eq(number - came), at_out.eq(number - went + lead[0]),
            here.eq((went <= number) & (number - went < count)),
            shown.eq(Cat(o.data[8 * lane] for lane in range(lanes))
                     .bit_select(at_out[:lane_bits], 1)),
        ]
        with m.If(arrives):
            m.d.sync += came.eq(came + lanes - empty)
            with m.If((came <= number) & (at_in < lanes - empty)):
                m.d.sync += [bit.eq(bits.bit_select(at_in[:lane_bits], 1)), seen.eq(1)]
        with m.If(leaves):
            m.d.sync += went.eq(went + count)
        self.check(m, ~(dut.o.valid & here) | (seen & (shown == bit)), "each byte in its place")
        self.cover(m, leaves & here & bit & (number > 3) & (lead[0] != 0))


PROOFS = [
    Proof(name="cutter_2", harness=lambda: CutterKeepsBytes(2), depth=7, cover=9, slow=True),
    Proof(name="cutter_4", harness=lambda: CutterKeepsBytes(4), depth=5, cover=9, slow=True),
]
