"""What an event of an available ring leads to: a read, a write, a fault, an answer, a visit."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadRequestLayout
from hw.stream.types import LENGTH_BITS
from hw.virtio.prefetch_types import (
    BURST_MAX,
    DiscardLayout,
    FaultSourceLayout,
    NotifyFlagLayout,
    PrefetchContextLayout,
    PrefetchSizes,
)
from hw.virtio.ring_decision import RingAction
from hw.virtio.told_positions import ForgetLayout
from hw.virtio.types import FaultReason, ObligationLayout

__all__ = ["IssueLayout", "RingIssue"]


class IssueLayout(data.StructLayout):
    """What is to be done for ``member``.

    ========= ==================================================================================
    field     meaning
    ========= ==================================================================================
    action    `RingAction`
    address   Of what is read, written, or faulty
    length    RING, LOOK: bytes; ``fenced`` and ``context`` are the read's too
    value     HUSH, LISTEN: what is written; ``wide``: all of it
    reason    FAULT
    discard   FORGET: the answer
    lend      LOOK: besides, as many obligations as a look may find chains (`BURST_MAX`)
    repay     They are given back
    revisit   Something is left to do; ``wait``: for what may take a while
    ========= ==================================================================================
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "action": RingAction, "member": sizes.member_bits, "address": 64,
            "length": LENGTH_BITS, "fenced": 1, "context": PrefetchContextLayout(sizes),
            "value": 32, "wide": 1, "reason": FaultReason, "discard": DiscardLayout(sizes),
            "lend": 1, "repay": 1, "revisit": 1, "wait": 1,
        })


class RingIssue(wiring.Component):
    """Hold what was decided until each of its parts is taken.

    A fault is told before its obligation is given back. A look leaves no sooner than what it lends
    is taken.

    | Latency: 1 cycle. Throughput: one a cycle (a fault, two).

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    i : In(stream.Signature(IssueLayout(sizes)))
    reads : Out(stream.Signature(ReadRequestLayout(...)))
    flags : Out(stream.Signature(NotifyFlagLayout(sizes)))
    faults : Out(stream.Signature(FaultSourceLayout(sizes)))
    returns : Out(stream.Signature(ObligationLayout()))
        One less, or `BURST_MAX` more or less.
    stopped : Out(stream.Signature(DiscardLayout(sizes)))
    forget : Out(stream.Signature(ForgetLayout(sizes)))
        Nothing that was told to the member counts any more.
    visits, waits : Out(stream.Signature(range(members)))
    """

    i: stream.Interface
    reads: stream.Interface
    flags: stream.Interface
    faults: stream.Interface
    returns: stream.Interface
    stopped: stream.Interface
    forget: stream.Interface
    visits: stream.Interface
    waits: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        context = PrefetchContextLayout(sizes)
        member = range(sizes.members)
        super().__init__({
            "i": In(stream.Signature(IssueLayout(sizes))),
            "reads": Out(stream.Signature(ReadRequestLayout(sizes.lanes, context.size))),
            "flags": Out(stream.Signature(NotifyFlagLayout(sizes))),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
            "returns": Out(stream.Signature(ObligationLayout())),
            "stopped": Out(stream.Signature(DiscardLayout(sizes))),
            "forget": Out(stream.Signature(ForgetLayout(sizes))),
            "visits": Out(stream.Signature(member)),
            "waits": Out(stream.Signature(member)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        held: Any = Signal(IssueLayout(sizes), reset_less=True)
        outputs = (self.reads, self.flags, self.faults, self.returns, self.stopped, self.forget,
                   self.visits, self.waits)
        reads, flags, faults, returns, stopped, forget, visits, waits = range(len(outputs))
        lends = Signal()    # to be told by way of `returns`; likewise
        repays = Signal()
        todo = Signal(len(outputs))
        valids = Signal(len(outputs))
        left = Signal(len(outputs))
        waits_for_loan = Signal()
        m.d.comb += [
            valids.eq(todo),
            waits_for_loan.eq(lends & ~self.returns.ready),
            left.eq(todo & ~(valids & Cat(o.ready & (~waits_for_loan if o is self.reads else 1)
                                          for o in outputs))),
            self.i.ready.eq((left == 0) & ~lends & ~repays),
        ]
        with m.If(todo[faults]):
            m.d.comb += valids[returns].eq(0)
        with m.If(lends | repays):
            # Not the returning of one: it comes behind.
            m.d.comb += left[returns].eq(todo[returns])
            with m.If(self.returns.ready):
                m.d.sync += [lends.eq(0), repays.eq(0)]
        with m.If(todo[forget]):
            m.d.comb += valids[stopped].eq(0)
        m.d.comb += [
            *(output.valid.eq(valids[index]) for index, output in enumerate(outputs)
              if index not in (reads, returns)),
            self.reads.valid.eq(todo[reads] & ~waits_for_loan),
            self.returns.valid.eq(valids[returns] | lends | repays),
        ]

        action, new = self.i.p.action, self.i.p
        m.d.sync += todo.eq(left)
        with m.If(self.i.ready):
            m.d.sync += held.eq(new)
            with m.If(self.i.valid):
                m.d.sync += [
                    todo[reads].eq((action == RingAction.RING) | (action == RingAction.LOOK)),
                    todo[flags].eq((action == RingAction.HUSH) | (action == RingAction.LISTEN)),
                    todo[faults].eq(action == RingAction.FAULT),
                    todo[returns].eq((action == RingAction.RELEASE) | (action == RingAction.FAULT)),
                    todo[stopped].eq(action == RingAction.FORGET),
                    todo[forget].eq((action == RingAction.FORGET) & new.discard.reset),
                    lends.eq(new.lend),
                    repays.eq(new.repay),
                    todo[visits].eq(new.revisit),
                    todo[waits].eq(new.wait),
                ]
        m.d.comb += [
            self.reads.p.function.eq(sizes.function(held.member)),
            self.reads.p.queue.eq(sizes.queue(held.member)),
            self.reads.p.last.eq(1),
            self.reads.p.address.eq(held.address),
            self.reads.p.length.eq(held.length),
            self.reads.p.fenced.eq(held.fenced),
            self.reads.p.context.eq(held.context),
            self.flags.p.member.eq(held.member),
            self.flags.p.address.eq(held.address),
            self.flags.p.value.eq(held.value),
            self.flags.p.wide.eq(held.wide),
            self.flags.p.silent.eq(held.action == RingAction.HUSH),
            self.faults.p.member.eq(held.member),
            self.faults.p.address.eq(held.address),
            self.faults.p.reason.eq(held.reason),
            self.returns.p.queue.eq(sizes.queue(held.member)),
            self.returns.p.delta.eq(Mux(lends, BURST_MAX, Mux(repays, -BURST_MAX, -1))),
            self.stopped.payload.eq(held.discard),
            self.forget.p.member.eq(held.member),
            self.forget.p.position.eq(held.discard.position),
            self.visits.payload.eq(held.member),
            self.waits.payload.eq(held.member),
        ]
        return m
