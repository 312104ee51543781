"""Complete chains, in the order of the ring: announced once each."""

from typing import Any

from amaranth import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.memory import ForwardingMemory
from hw.stream.types import LENGTH_BITS
from hw.virtio.descriptor_cache import DoneLayout
from hw.virtio.prefetch_types import (
    BURST_MAX,
    CompletionLayout,
    DiscardLayout,
    IndexAnswerLayout,
    LookupSignature,
    PrefetchSizes,
    index_mask,
    lap_of,
    packed_place,
    packed_position,
)
from hw.virtio.types import ObligationLayout, ReadyLayout

__all__ = ["ChainPublish"]

_BATCH_MAX = 64  # chains of one announcement


class ChainPublish(wiring.Component):
    """Follow the marks of complete chains from the last one announced, and announce what is new.

    Chains complete in any order. Each completion makes this look at the place behind the last chain
    that was announced, and go on while chains are complete. Completions of the same member that
    wait in a row are done in one go. After the announcement the obligations of the
    completed chains are given back: so nothing of a queue is announced after it has stopped.
    Those that were found in a packed ring have none of their own: the one of their answer passes
    on with ``reports``. Only those that go on in a table get one each, before that.

    While nothing else waits, the first chain that is found is announced at once, and those behind
    it together. Where a member was announced up to is looked up as soon as one is ``expected``.

    | Latency: 2 cycles from a completion that was expected to the announcement of its first chain,
      else 3.
    | Throughput: a chain a cycle, and 3 cycles a completion. Storage: 16 bits a member.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    completions : In(stream.Signature(CompletionLayout(sizes)))
    expected : In(range(members))
        The next completion will be this member's, perhaps.
    done : Out(LookupSignature(range(slots), DoneLayout(sizes)))
        The marks of complete chains, by place.
    loads : In(stream.Signature(DiscardLayout(sizes)))
        Go on from a position.
    limits : In(LookupSignature(range(members), 16)).array(3)
        Position behind the last chain announced; up to date before the announcement.
    ready : Out(stream.Signature(ReadyLayout()))
    reports : Out(stream.Signature(IndexAnswerLayout(sizes)))
        What was seen of packed rings, after their chains were announced.
    obligations : Out(stream.Signature(ObligationLayout()))
    obliged : In(1)
        The obligation told last has reached its counter (a pulse).
    """

    completions: stream.Interface
    expected: Signal
    done: wiring.PureInterface
    loads: stream.Interface
    limits: list[wiring.PureInterface]
    ready: stream.Interface
    reports: stream.Interface
    obligations: stream.Interface
    obliged: Signal

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "completions": In(stream.Signature(CompletionLayout(sizes))),
            "expected": In(range(sizes.members)),
            "done": Out(LookupSignature(range(sizes.slots), DoneLayout(sizes))),
            "loads": In(stream.Signature(DiscardLayout(sizes))),
            "limits": In(LookupSignature(range(sizes.members), 16)).array(3),
            "ready": Out(stream.Signature(ReadyLayout())),
            "reports": Out(stream.Signature(IndexAnswerLayout(sizes))),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "obliged": In(1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        sizes = self.sizes
        done: Any = self.done
        m.submodules.own = own = ForwardingMemory(16, sizes.members)
        write_enable = Signal()
        write_member = Signal(range(sizes.members))
        write_position = Signal(16)
        copies = [own]
        for number, limit in enumerate(self.limits):
            asked: Any = limit
            m.submodules[f"shown_{number}"] = shown = ForwardingMemory(16, sizes.members)
            copies.append(shown)
            m.d.comb += [
                shown.read_enable.eq(asked.enable),
                shown.read_address.eq(asked.address),
                asked.data.eq(shown.read_data),
            ]
        for copy in copies:
            m.d.comb += [
                copy.write_enable.eq(write_enable),
                copy.write_address.eq(write_member),
                copy.write_data.eq(write_position),
            ]

        member = Signal(range(sizes.members), reset_less=True)
        order = Signal(4, reset_less=True)
        released = Signal(8, reset_less=True)      # chains whose obligations are to be given back
        position = Signal(16, reset_less=True)
        probe = Signal(16)                         # the place that is looked at
        count = Signal(range(_BATCH_MAX + 1), reset_less=True)
        total = Signal(len(self.ready.p.bytes), reset_less=True)
        shortest = Signal(LENGTH_BITS, reset_less=True)
        longest = Signal(LENGTH_BITS, reset_less=True)
        packed = Signal(reset_less=True)
        report: Any = Signal(IndexAnswerLayout(sizes), reset_less=True)
        reports = Signal()
        begun = Signal(reset_less=True)            # its first chain was announced by itself
        following = Signal(16)                     # position behind the chain at hand
        complete = Signal()
        absorbs = Signal()
        looked_up = Signal(range(sizes.members), reset_less=True)  # whose position `own` shows
        shows = Signal()                                           # it shows one
        # Whose places are looked at.
        probed = Signal.like(member)
        probed_packed = Signal()
        probed_order = Signal.like(order)
        m.d.comb += [
            probed.eq(member),
            probed_packed.eq(packed),
            probed_order.eq(order),
            done.address.eq(sizes.slot(
                probed, Mux(probed_packed, packed_place(probe),
                            probe & index_mask(probed_order)))),
            complete.eq(done.data.mark != Mux(packed, position[15], lap_of(position, order))),
            following.eq(Mux(packed, packed_position(done.data.after, done.data.after_lap),
                             position + 1)),
            absorbs.eq(self.completions.valid & (self.completions.p.member == member)
                       & ~self.completions.p.slots & ~reports & ~released[7]),
        ]

        # What is told, while the next completion is looked into.
        told_member = Signal.like(member)
        told_count = Signal.like(count)
        told_released = Signal.like(released)
        told_bytes = Signal.like(total)
        told_shortest = Signal.like(shortest)
        told_longest = Signal.like(longest)
        told_report: Any = Signal(IndexAnswerLayout(sizes), reset_less=True)
        tells = Signal()
        releases = Signal()
        passes_on = Signal()
        walks = Signal(range(_BATCH_MAX), reset_less=True)  # chains that go on in a table
        obliges = Signal()
        told = Signal()
        m.d.comb += [
            self.ready.valid.eq(tells),
            self.ready.p.queue.eq(sizes.queue(told_member)),
            self.ready.p.count.eq(told_count),
            self.ready.p.bytes.eq(told_bytes),
            self.ready.p.shortest.eq(told_shortest),
            self.ready.p.longest.eq(told_longest),
            self.reports.valid.eq(passes_on & ~tells),
            self.reports.payload.eq(told_report),
            self.obligations.valid.eq((releases & ~tells) | obliges),
            self.obligations.p.queue.eq(sizes.queue(Mux(obliges, member, told_member))),
            self.obligations.p.delta.eq(Mux(obliges, walks, -told_released)),
            told.eq(~tells & ~releases & ~passes_on),
        ]
        with m.If(self.reports.valid & self.reports.ready):
            m.d.sync += passes_on.eq(0)
        with m.If(self.ready.ready):
            m.d.sync += tells.eq(0)
        with m.If(self.obligations.valid & self.obligations.ready & ~obliges):
            m.d.sync += releases.eq(0)

        def tell(release: Value, pass_on: Value) -> None:
            m.d.comb += [
                write_enable.eq(1),
                write_member.eq(member),
                write_position.eq(position),
            ]
            m.d.sync += [
                told_member.eq(member),
                told_count.eq(count),
                told_bytes.eq(total),
                told_shortest.eq(shortest),
                told_longest.eq(longest),
                told_released.eq(release),
                told_report.eq(report),
                passes_on.eq(pass_on),
                tells.eq(count != 0),
                releases.eq(release != 0),
            ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [
                    own.read_enable.eq(1),
                    own.read_address.eq(Mux(self.completions.valid, self.completions.p.member,
                                            self.expected)),
                    probe.eq(own.read_data),
                    probed.eq(self.completions.p.member),
                    probed_packed.eq(self.completions.p.packed),
                    probed_order.eq(self.completions.p.order),
                    done.enable.eq(1),
                ]
                m.d.sync += [looked_up.eq(own.read_address), shows.eq(1),
                             position.eq(own.read_data)]
                with m.If(self.loads.valid):
                    m.d.comb += [
                        self.loads.ready.eq(1),
                        write_enable.eq(1),
                        write_member.eq(self.loads.p.member),
                        write_position.eq(self.loads.p.position),
                    ]
                with m.Elif(self.completions.valid):
                    m.d.comb += self.completions.ready.eq(1)
                    m.d.sync += [
                        member.eq(self.completions.p.member),
                        order.eq(self.completions.p.order),
                        packed.eq(self.completions.p.packed),
                        report.eq(self.completions.p.report),
                        reports.eq(self.completions.p.slots),
                        released.eq(Mux(
                            self.completions.p.slots, 0, self.completions.p.count)),
                        walks.eq(self.completions.p.count),
                        begun.eq(0),
                        count.eq(0),
                        total.eq(0),
                    ]
                    m.next = "FETCH"
                    with m.If(self.completions.p.slots & (self.completions.p.count != 0)):
                        m.next = "OBLIGE"
                    with m.Elif(shows & (looked_up == self.completions.p.member)):
                        m.next = "SCAN"
            with m.State("OBLIGE"):
                # The port is free when all was told.
                m.d.comb += obliges.eq(told)
                with m.If(obliges & self.obligations.ready):
                    m.next = "OBLIGED"
            with m.State("OBLIGED"):
                with m.If(self.obliged):
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += [probe.eq(own.read_data), done.enable.eq(1)]
                m.d.sync += position.eq(own.read_data)
                # What it wrote was written before it came: the probe sees it, as it goes out now.
                with m.If(absorbs):
                    m.d.comb += self.completions.ready.eq(1)
                    m.d.sync += released.eq(released + self.completions.p.count)
                m.next = "SCAN"
            with m.State("SCAN"):
                m.d.comb += probe.eq(following)
                # After the chains of a packed ring's answer the report is due: others are on their
                # way, and might keep it for long. What follows has completions of its own.
                with m.If(complete & (count == 0) & told & ~begun & ~self.completions.valid):
                    m.d.comb += done.enable.eq(1)
                    tell(Const(0), Const(0))
                    m.d.comb += write_position.eq(following)
                    m.d.sync += [
                        position.eq(following),
                        told_count.eq(1),
                        told_bytes.eq(done.data.bytes),
                        told_shortest.eq(done.data.bytes),
                        told_longest.eq(done.data.bytes),
                        tells.eq(1),
                        begun.eq(1),
                    ]
                with m.Elif(complete & (count != Mux(reports, BURST_MAX, _BATCH_MAX))):
                    m.d.comb += done.enable.eq(1)
                    m.d.sync += [
                        position.eq(following),
                        count.eq(count + 1),
                        total.eq(total + done.data.bytes),
                    ]
                    with m.If((count == 0) | (done.data.bytes < shortest)):
                        m.d.sync += shortest.eq(done.data.bytes)
                    with m.If((count == 0) | (done.data.bytes > longest)):
                        m.d.sync += longest.eq(done.data.bytes)
                with m.Elif(told):
                    with m.If(complete & ~reports):
                        # The place at hand is looked at again, and counted then.
                        tell(Const(0), Const(0))
                        m.d.sync += [count.eq(0), total.eq(0)]
                    with m.Else():
                        tell(released, reports)
                        m.next = "IDLE"
        return m
