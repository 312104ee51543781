"""A list of members that have work to do, each at most once."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.memory import ForwardingMemory
from hw.stream.queue import PassingQueue

__all__ = ["WorkList"]


class WorkList(wiring.Component):
    """A first-in first-out list in which each member stands at most once.

    What is added while it is in the list stays where it is. No wake-up is lost: whoever takes a
    member and then looks, sees why it was added before; what is added after that is in the list
    again. (An ``add`` and a ``take`` never transfer in one cycle.)

    ::

        add ──► is it in the list? ──► queue ──► take
                   (one bit each)                 │
                          ▲───────── no more ─────┘

    | Latency: 1 cycle from ``add`` to ``take`` of an empty list.
    | Throughput: 1 ``take`` every 2 cycles; 1 ``add`` a cycle in which nothing is taken.
    | Storage: 1 + log2(count) bits a member, in memory. It can never be full.
    | After a reset the first ``add`` waits ``count`` cycles, in which the bits are cleared.
    | Paths: ``take.ready`` -> ``add.ready``.

    Parameters
    ----------
    count
        Members are the numbers from 0 to ``count - 1``; at least 2.

    Members
    -------
    add : In(stream.Signature(range(count)))
        Ready at least every second cycle.
    take : Out(stream.Signature(range(count)))
    level : Out(range(count + 1))
        Members in the list (what was added in the last 2 cycles may be missing).
    """

    add: stream.Interface
    take: stream.Interface
    level: Signal

    def __init__(self, count: int) -> None:
        if count < 2:
            raise ValueError(f"count must be at least 2, not {count!r}")
        self.count = count
        super().__init__({
            "add": In(stream.Signature(range(count))),
            "take": Out(stream.Signature(range(count))),
            "level": Out(range(count + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.listed = listed = ForwardingMemory(1, self.count)
        m.submodules.queue = queue = PassingQueue(range(self.count), self.count)

        # Each cycle one operation starts on the bits: an `add` reads one, and sets it in the cycle
        # after; a `take` clears one in the cycle after. As they follow each other through one
        # pipeline, each sees what those before it did.
        clearing = Signal(init=1)
        sweep = Signal(range(self.count))
        adds = Signal()
        takes = Signal()
        member = Signal(range(self.count), reset_less=True)  # of the operation in its second cycle
        was_add = Signal()
        was_take = Signal()
        m.d.comb += [
            # After a take comes a cycle for an add.
            self.take.valid.eq(queue.o.valid & ~was_take),
            self.take.payload.eq(queue.o.payload),
            self.level.eq(queue.level),
            takes.eq(self.take.valid & self.take.ready),
            queue.o.ready.eq(self.take.ready & ~was_take),
            self.add.ready.eq(~clearing & ~takes),
            adds.eq(self.add.valid & self.add.ready),

            listed.read_enable.eq(adds),
            listed.read_address.eq(self.add.payload),
            listed.write_enable.eq(clearing | was_add | was_take),
            listed.write_address.eq(Mux(clearing, sweep, member)),
            listed.write_data.eq(was_add),

            # The bit keeps a second one out, and there is a place for each member: never refused.
            queue.i.valid.eq(was_add & ~listed.read_data),
            queue.i.payload.eq(member),
        ]
        m.d.sync += [
            was_add.eq(adds),
            was_take.eq(takes),
        ]
        with m.If(adds | takes):
            m.d.sync += member.eq(Mux(takes, queue.o.payload, self.add.payload))
        with m.If(clearing):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == self.count - 1):
                m.d.sync += clearing.eq(0)
        return m
