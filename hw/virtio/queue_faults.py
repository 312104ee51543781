"""The first fault of each queue: told once, and the queue held until it is stopped."""

from typing import Any

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.virtio.prefetch_types import FaultSourceLayout, LookupSignature, PrefetchSizes
from hw.virtio.types import FaultLayout

__all__ = ["QueueFaults"]


class QueueFaults(wiring.Component):
    """Keep one bit a member, set by its first fault; tell that one, and drop the others.

    A source's transfer ends when its fault has been told: it gives the obligation of what failed
    back after that, and so a queue is never stopped before its fault is known.

    | Latency: 3 cycles from a source to the bit and to ``faults``.
    | Throughput: a fault every 5 cycles. Storage: a bit a member.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.
    sources
        How many parts find faults.
    readers
        How many parts ask for the bit.

    Members
    -------
    sources : In(stream.Signature(FaultSourceLayout(sizes))).array(sources)
    lookups : In(LookupSignature(range(members), 1)).array(readers)
    clears : In(stream.Signature(range(members)))
        A member is stopped, and no longer held.
    faults : Out(stream.Signature(FaultLayout()))
    """

    sources: list[stream.Interface]
    lookups: list[wiring.PureInterface]
    clears: stream.Interface
    faults: stream.Interface

    def __init__(self, sizes: PrefetchSizes, *, sources: int, readers: int) -> None:
        self.sizes = sizes
        member = range(sizes.members)
        super().__init__({
            "sources": In(stream.Signature(FaultSourceLayout(sizes))).array(sources),
            "lookups": In(LookupSignature(member, 1)).array(readers),
            "clears": In(stream.Signature(member)),
            "faults": Out(stream.Signature(FaultLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        bits: memory.Memory[Any, Any] = memory.Memory(shape=1, depth=sizes.members, init=[])
        m.submodules.bits = bits
        write = bits.write_port()
        own = bits.read_port()
        for lookup in self.lookups:
            asked: Any = lookup
            port = bits.read_port()
            m.d.comb += [port.en.eq(asked.enable), port.addr.eq(asked.address),
                         asked.data.eq(port.data)]

        count = len(self.sources)
        valids = Signal(count)
        chosen = Signal(range(max(2, count)))  # held while its fault is at hand
        first: Any = Signal(FaultSourceLayout(sizes), reset_less=True)
        member = Signal(range(sizes.members))
        m.d.comb += [
            valids.eq(Cat(source.valid for source in self.sources)),
            own.en.eq(1),
            own.addr.eq(first.member),
            self.faults.p.queue.eq(sizes.queue(first.member)),
            self.faults.p.reason.eq(first.reason),
            self.faults.p.address.eq(first.address),
            write.addr.eq(member),
            member.eq(first.member),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.clears.valid):
                    m.d.comb += [member.eq(self.clears.payload), write.en.eq(1),
                                 self.clears.ready.eq(1)]
                with m.Elif(valids.any()):
                    for index, source in reversed(list(enumerate(self.sources))):
                        with m.If(source.valid):
                            m.d.sync += [chosen.eq(index),
                                         Value.cast(first).eq(Value.cast(source.payload))]
                    m.next = "LOOK-UP"
            with m.State("LOOK-UP"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.comb += [write.data.eq(1), write.en.eq(1)]
                m.next = "TELL"
                with m.If(own.data):
                    m.next = "DONE"
            with m.State("TELL"):
                m.d.comb += self.faults.valid.eq(1)
                with m.If(self.faults.ready):
                    m.next = "DONE"
            with m.State("DONE"):
                for index, source in enumerate(self.sources):
                    m.d.comb += source.ready.eq(chosen == index)
                m.next = "IDLE"
        return m
