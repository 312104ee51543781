"""Work in flight, counted for every queue in one place: what a stop waits for."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.arbiter import StreamArbiter
from hw.stream.memory import ForwardingMemory
from hw.stream.register import StreamRegister
from hw.stream.types import QUEUE_BITS
from hw.virtio.types import ObligationLayout, QueueLayout

__all__ = ["Obligations"]

_COUNT_BITS = 16


class _Bank(wiring.Component):
    """The counts of the queues of one direction.

    An event that is taken is counted two cycles later. A look holds the events up for one cycle,
    and sees all that were taken two cycles before it.
    """

    events: Any
    member: Signal
    look: Signal
    zero: Signal

    def __init__(self, members: int, ports: int) -> None:
        self.members = members
        self.ports = ports
        super().__init__({
            "events": In(stream.Signature(ObligationLayout())).array(ports),
            "member": In(QUEUE_BITS - 1),
            "look": In(1),
            "zero": Out(1),  # in the cycle after `look`
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.arbiter = arbiter = StreamArbiter(ObligationLayout(), self.ports)
        m.submodules.counts = counts = ForwardingMemory(_COUNT_BITS, self.members)
        for outer, inner in zip(self.events, arbiter.i, strict=True):
            # By signal: own ports of an array cannot be flipped.
            m.d.comb += [
                inner.valid.eq(outer.valid), inner.payload.eq(outer.payload),
                outer.ready.eq(inner.ready),
            ]

        sweeping = Signal(init=1)
        sweep = Signal(range(max(2, self.members)))
        with m.If(sweeping):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == self.members - 1):
                m.d.sync += sweeping.eq(0)

        # Read in one cycle, added and written back in the next; the memory forwards.
        event = arbiter.o.p
        counting = Signal()
        address = Signal(QUEUE_BITS - 1)
        delta = Signal.like(event.delta, reset_less=True)
        after = Signal(_COUNT_BITS)
        m.d.comb += [
            arbiter.o.ready.eq(~sweeping & ~self.look),
            counts.read_address.eq(Mux(self.look, self.member, event.queue >> 1)),
            counts.read_enable.eq(self.look | arbiter.o.valid),
            after.eq(counts.read_data + delta),
            counts.write_address.eq(Mux(sweeping, sweep, address)),
            counts.write_data.eq(Mux(sweeping, 0, after)),
            counts.write_enable.eq(sweeping | counting),
            self.zero.eq(counts.read_data == 0),
        ]
        m.d.sync += [
            counting.eq(arbiter.o.valid & arbiter.o.ready),
            address.eq(event.queue >> 1),
            delta.eq(event.delta),
        ]
        return m


class Obligations(wiring.Component):
    """Count the pieces of work in flight of each queue, and tell whether a queue has none.

    An engine gives an event of +1 before it begins work on a queue, and one of -1 when it is done,
    or one event for several. Events of one queue may come through several ports; the count may then
    be negative for some cycles, and such a queue is not idle.

    ::

        events ──► register ──► even or odd? ──┬──► turn ──► count of an even queue
                   (one a port)                └──► turn ──► count of an odd queue

    | Throughput: an event a cycle for each direction; each port has its turn, after at most one of
      each other port. Latency of an answer: ``3 * ports + 10`` cycles.
    | Storage: 16 bits a queue, in memory. After a reset of the card nothing is counted until
      all are cleared, one of each direction a cycle.

    Parameters
    ----------
    queues
        Queue numbers of the card, at least 2.
    ports
        Engines that give events; at least 1.

    Members
    -------
    events : In(stream.Signature(ObligationLayout())).array(ports)
        An event counts from when it is taken: to be connected directly, without registers between.
    query : In(stream.Signature(QueueLayout()))
    idle : Out(stream.Signature(1))
        The answer to a query: 1 if the queue has no work in flight, with all events that were taken
        before the query was (and perhaps some that were taken later).
    """

    events: Any
    query: stream.Interface
    idle: stream.Interface

    def __init__(self, queues: int, *, ports: int) -> None:
        if not 2 <= queues <= 1 << QUEUE_BITS:
            raise ValueError(f"queues must be from 2 to {1 << QUEUE_BITS}, not {queues!r}")
        if ports < 1:
            raise ValueError(f"ports must be at least 1, not {ports!r}")
        self.queues = queues
        self.ports = ports
        super().__init__({
            "events": In(stream.Signature(ObligationLayout())).array(ports),
            "query": In(stream.Signature(QueueLayout())),
            "idle": Out(stream.Signature(1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        banks = [_Bank((self.queues + 1) // 2, self.ports) for _ in range(2)]
        m.submodules.even, m.submodules.odd = banks
        for port, outer in enumerate(self.events):
            m.submodules[f"register_{port}"] = register = StreamRegister(ObligationLayout())
            odd: Value = register.o.p.queue[0]
            m.d.comb += [
                register.i.valid.eq(outer.valid), register.i.payload.eq(outer.payload),
                outer.ready.eq(register.i.ready),
                register.o.ready.eq(Mux(odd, banks[1].events[port].ready,
                                        banks[0].events[port].ready)),
            ]
            for bank, mine in zip(banks, (~odd, odd), strict=True):
                m.d.comb += [
                    bank.events[port].valid.eq(register.o.valid & mine),
                    bank.events[port].payload.eq(register.o.payload),
                ]

        # What was taken before a query stands in a port's register, or behind another event there.
        # Each leaves after at most one of each other port, so after so many cycles all have; and
        # two more to be counted.
        turns = 2 * self.ports + 4
        queue = Signal(QUEUE_BITS)
        wait = Signal(range(turns + 1))
        look = Signal()
        for parity, bank in enumerate(banks):
            m.d.comb += [bank.member.eq(queue >> 1), bank.look.eq(look & (queue[0] == parity))]
        zeros = Cat(bank.zero for bank in banks)
        idle = Signal()
        m.d.comb += self.idle.payload.eq(idle)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.query.ready.eq(1)
                m.d.sync += [queue.eq(self.query.p.queue), wait.eq(turns)]
                with m.If(self.query.valid):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.comb += look.eq(1)
                m.next = "SEE"
            with m.State("SEE"):
                m.d.sync += idle.eq(zeros.bit_select(queue[0], 1))
                m.next = "TELL"
            with m.State("TELL"):
                m.d.comb += self.idle.valid.eq(1)
                with m.If(self.idle.ready):
                    m.next = "IDLE"
        return m
