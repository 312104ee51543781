"""Which queue is served next: round robin over the queues that have chains, a burst at a time."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.memory import ForwardingMemory
from hw.stream.types import QUEUE_BITS
from hw.stream.worklist import WorkList
from hw.virtio.types import QueueCommandLayout, ReadyLayout

__all__ = ["GrantLayout", "Scheduler"]


class GrantLayout(data.StructLayout):
    """Leave to take ``count`` chains (at least 1) of ``queue``."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "count": 8})


class Scheduler(wiring.Component):
    """Grant bursts of chains to the queues that have some, in turn.

    Each queue has a credit, the chains that were announced for it and not yet granted. A queue with
    credit stands in a list; at its turn it is granted a burst, and goes to the end of the list
    with what remains. So a queue waits for at most one burst of each other queue.

    While the list is empty, a queue that is announced is granted at once.

    | Latency: 2 cycles from an announcement to its grant while nothing waits, else 6. Throughput:
      an announcement, a grant or a command every 2 cycles. Storage: 16 bits a queue and the list.

    Parameters
    ----------
    queues
        Data queues of the card; those of one direction are served: local number ``queue >> 1``.
    transmit
        Serve the odd queues, not the even ones.
    burst
        Most chains of a grant, 1 to 255.

    Members
    -------
    ready : In(stream.Signature(ReadyLayout()))
        Chains that can be taken from now on.
    commands : In(stream.Signature(QueueCommandLayout()))
        The queue is stopped: its credit is void.
    grants : Out(stream.Signature(GrantLayout()))
    """

    ready: stream.Interface
    commands: stream.Interface
    grants: stream.Interface

    def __init__(self, queues: int, *, transmit: bool, burst: int = 32) -> None:
        if queues < 2 or queues % 2:
            raise ValueError(f"queues must be an even number, at least 2, not {queues!r}")
        if not 1 <= burst <= 255:
            raise ValueError(f"burst must be from 1 to 255 chains, not {burst!r}")
        self.queues = queues
        self.transmit = transmit
        self.burst = burst
        super().__init__({
            "ready": In(stream.Signature(ReadyLayout())),
            "commands": In(stream.Signature(QueueCommandLayout())),
            "grants": Out(stream.Signature(GrantLayout())),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()

        members = self.queues // 2
        m.submodules.credits = credits = ForwardingMemory(16, members)
        m.submodules.waiting = waiting = WorkList(max(members, 2))

        grant: Any = Signal(GrantLayout(), reset_less=True)
        grant_valid = Signal()
        m.d.comb += [self.grants.payload.eq(grant), self.grants.valid.eq(grant_valid)]
        with m.If(self.grants.ready):
            m.d.sync += grant_valid.eq(0)

        queue = Signal(QUEUE_BITS)  # the one at hand
        member = Signal(range(max(members, 2)))
        count = Signal(8)
        total = Signal(16)  # no more than a queue has entries
        held = Signal(16)
        adds = Signal()
        given = Signal(16)   # the credit that is to be granted from
        granted = Signal(16)
        rest = Signal(16)
        many = Signal()      # there is a rest
        at_once = Signal()   # nothing waits: what is announced need not either
        m.d.comb += [
            at_once.eq(~waiting.take.valid & (~grant_valid | self.grants.ready)),
            credits.read_address.eq(member),
            credits.write_address.eq(queue >> 1),
            held.eq(credits.read_data),
            total.eq(held + count),
            given.eq(Mux(adds, total, held)),
            many.eq(given > self.burst),
            granted.eq(Mux(many, self.burst, given)),
            rest.eq(Mux(many, given - self.burst, 0)),
        ]

        def look_up(of: Signal) -> None:
            m.d.comb += [member.eq(of >> 1), credits.read_enable.eq(1)]
            m.d.sync += queue.eq(of)

        with m.FSM():
            with m.State("IDLE"):
                # Commands first: credit that is void is not to be granted any more. Announcements
                # before grants: they are the input of a pipeline that others share.
                with m.If(self.commands.valid):
                    look_up(self.commands.p.queue)
                    m.next = "VOID"
                with m.Elif(self.ready.valid):
                    m.d.comb += self.ready.ready.eq(1)
                    look_up(self.ready.p.queue)
                    m.d.sync += count.eq(self.ready.p.count)
                    m.next = "ADD"
                with m.Elif(waiting.take.valid & (~grant_valid | self.grants.ready)):
                    m.d.comb += waiting.take.ready.eq(1)
                    look_up((waiting.take.payload << 1) | int(self.transmit))
                    m.next = "GRANT"
            with m.State("VOID"):
                m.d.comb += [
                    credits.write_data.eq(0),
                    credits.write_enable.eq(1),
                    self.commands.ready.eq(1),
                ]
                m.next = "IDLE"
            with m.State("ADD"):
                m.d.comb += [
                    adds.eq(1),
                    # Each time, not only when the credit was zero: the list holds a queue once.
                    # (One that stood there, and has no credit any more, is granted none.)
                    waiting.add.payload.eq(queue >> 1),
                    waiting.add.valid.eq(~at_once | many),
                    credits.write_data.eq(Mux(at_once, rest, total)),
                ]
                with m.If(waiting.add.ready | ~waiting.add.valid):
                    m.d.comb += credits.write_enable.eq(1)
                    m.next = "IDLE"
                    with m.If(at_once):
                        m.d.sync += [
                            grant.queue.eq(queue),
                            grant.count.eq(granted),
                            grant_valid.eq(1),
                        ]
            with m.State("GRANT"):
                m.d.comb += [
                    credits.write_data.eq(rest),
                    waiting.add.payload.eq(queue >> 1),
                    waiting.add.valid.eq(many),
                ]
                with m.If(waiting.add.ready | ~many):
                    m.d.comb += credits.write_enable.eq(1)
                    m.d.sync += [
                        grant.queue.eq(queue),
                        grant.count.eq(granted),
                        grant_valid.eq(granted != 0),  # zero where a command voided the credit
                    ]
                    m.next = "IDLE"
        return m
