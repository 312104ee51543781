"""Used buffer notifications: whether the driver wants one, and the interrupt."""

from typing import Any

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import InterruptLayout, ReadAnswerLayout, ReadError, ReadRequestLayout
from hw.stream.memory import ForwardingMemory
from hw.stream.types import FUNCTION_BITS, QUEUE_BITS
from hw.virtio.moderation import TIME_BITS, Moderation, ModerationLayout
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.ring_positions import packed_apart, packed_behind, split_behind
from hw.virtio.types import (
    FaultLayout,
    FunctionLayout,
    ObligationLayout,
    QueueConfigSignature,
)
from hw.virtio.used_ring import PublishedLayout

__all__ = ["NOTIFICATION_CONTEXT_BITS", "Notification"]

NOTIFICATION_CONTEXT_BITS = QUEUE_BITS

_NO_VECTOR = 0xFFFF
_READ_BYTES = 2   # the available ring's flags, at its beginning, or used_event, behind its entries
_EVENT_BYTES = 4  # a packed ring's driver event suppression structure
_RING_OFFSET = 4
_DISABLE = 1      # what its flags may say
_DESC = 2


class _StateLayout(data.StructLayout):
    """What is kept of a queue. ``reading`` and ``again`` are 0 whenever it has no obligations, and
    then nothing else means anything: so a stop has nothing to clear here.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    reading  1    A read is in flight
    again    1    Places were published since it was asked for: the next decides about those.
                  Without ``reading``: they are held back, or others follow at once
    wrapped  1    They are 2^16 or more
    index    16   The used position when it was asked for
    count    16   The places before ``index`` that its answer decides about
    later    16   Those published since, modulo 2^16
    newest   16   The used position behind those
    chains   16   Chains that are there; 2^16 - 1 and more are that
    since    17   When the first of them was published
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "reading": 1, "again": 1, "wrapped": 1, "index": 16, "count": 16, "later": 16,
            "newest": 16, "chains": 16, "since": TIME_BITS,
        })


class Notification(wiring.Component):
    """Tell the driver of used buffers, if it wants that (virtio 1.4, 2.7.7).

    After a burst was published the available ring's flags are read, fenced, so behind the used
    index on its way to memory: a driver that re-arms, and then looks at the index, either sees the
    entries or is seen by this read. One read is in flight a queue. What is published meanwhile
    makes it be read once more. So interrupts are at most one a round trip and queue.

    Of a queue with ``modes.event_idx`` used_event is read instead, and the flags do not matter
    (SPL-EVT-01 to 06). An answer decides about the entries that were published between the asking
    of the read before and its own: one of them is numbered used_event, or no interrupt
    (IMP-SPL-EVT-01). Each entry so belongs to exactly one read, and to none that is older than its
    index in memory. Of 2^16 entries and more the last 2^16 - 1 count, which is all that a driver
    can sleep on, as no more than 2^15 are out.

    Of a packed ring the driver's event suppression structure is read (IMP-PKT-EVT-01 to 04). Its
    flags are ENABLE, DISABLE, or, with ``event_idx``, DESC: then an answer decides in the same way
    whether the place it names, in the lap it names, is among those that were published. The
    reserved value counts as ENABLE, as does DESC without the feature: no interrupt is lost.

    A burst that another one ``follows`` leaves it at that, if the one before did not: its entries
    count with the next.

    *Moderation* (NET-COAL-07, 08; IMP-NET-COAL-01 to 03): of a queue with settings nothing is read
    until ``max_packets`` chains were published or the first of them is ``max_usecs`` old; then the
    driver's word decides as ever. What is published while a read is under way counts as the next.
    A queue that holds interrupts back has one obligation. When it is being stopped, or the
    settings change, `Moderation` names it within a round, and it reads at once: so a stop is not
    held up, and no interrupt is lost by it (IMP-NET-COAL-04).

    | Latency: 3 cycles from ``published`` to the read, 4 from its answer to ``interrupts``; one
      more each with ``event_idx``. Of a packed ring 3 and 4, and 6 where a place decides. With
      moderation 2 more. Throughput: an event every 3 cycles. Storage: 134 bits a queue.

    Parameters
    ----------
    lanes
        Byte lanes of the read answers.
    queues
        Data queues of the card; its control queues are served as well (`QueueNumbers`).
    stride
        Data queues a function, a power of two.
    clock_mhz
        Cycles of the clock in a microsecond.

    Members
    -------
    published : In(stream.Signature(PublishedLayout()))
    moderation : In(stream.Signature(ModerationLayout()))
        Settings of a queue, 0 at first. Always taken.
    config : Out(QueueConfigSignature())
    reads : Out(stream.Signature(ReadRequestLayout(lanes, NOTIFICATION_CONTEXT_BITS)))
    read_answers : In(stream.Signature(ReadAnswerLayout(lanes, NOTIFICATION_CONTEXT_BITS)))
    interrupts : Out(stream.Signature(InterruptLayout()))
        Not for a queue whose vector is FFFFh.
    queue_interrupts : Out(stream.Signature(FunctionLayout()))
        For the ISR status: the driver was to be told, by whatever means.
    obligations : Out(stream.Signature(ObligationLayout()))
        Gives back those of the published chains; holds one while a read is in flight, or an
        interrupt held back.
    faults : Out(stream.Signature(FaultLayout()))
        The flags, used_event or the structure could not be read.
    """

    published: stream.Interface
    moderation: stream.Interface
    config: Any
    reads: stream.Interface
    read_answers: stream.Interface
    interrupts: stream.Interface
    queue_interrupts: stream.Interface
    obligations: stream.Interface
    faults: stream.Interface

    def __init__(self, lanes: int, *, queues: int, stride: int, clock_mhz: int = 250) -> None:
        if stride < 2 or stride & (stride - 1) or queues % stride:
            raise ValueError(f"stride must be a power of two that divides queues ({queues}), "
                             f"not {stride!r}")
        self.lanes = lanes
        self.queues = queues
        self.stride = stride
        self.numbers = QueueNumbers(queues // stride, stride)
        self.clock_mhz = clock_mhz
        super().__init__({
            "published": In(stream.Signature(PublishedLayout())),
            "moderation": In(stream.Signature(ModerationLayout())),
            "config": Out(QueueConfigSignature()),
            "reads": Out(stream.Signature(ReadRequestLayout(lanes, NOTIFICATION_CONTEXT_BITS))),
            "read_answers": In(stream.Signature(
                ReadAnswerLayout(lanes, NOTIFICATION_CONTEXT_BITS))),
            "interrupts": Out(stream.Signature(InterruptLayout())),
            "queue_interrupts": Out(stream.Signature(FunctionLayout())),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "faults": Out(stream.Signature(FaultLayout())),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()

        total = self.numbers.total
        m.submodules.states = states = ForwardingMemory(_StateLayout(), total)
        m.submodules.moderation = moderation = Moderation(total, clock_mhz=self.clock_mhz)
        connect(m, flipped(self.moderation), moderation.settings)
        found: Any = states.read_data
        limits: Any = moderation.found
        next_state: Any = Signal(_StateLayout())

        # What is looked up stays on its port until the next look-up, so until this one is done.
        queue = Signal(QUEUE_BITS)
        function = Signal(FUNCTION_BITS)
        count = Signal(16)  # chains
        slots = Signal(16)  # and their places
        index = Signal(16)
        follows = Signal()
        error = Signal(ReadError)
        event = Signal(16)  # or the flags
        flags = Signal(2)   # of a packed ring
        config = self.config.config
        packed = config.modes.ring_packed
        m.d.comb += [
            function.eq(self.numbers.function(queue)),
            states.write_address.eq(queue),
            states.write_data.eq(next_state),
            moderation.marked.eq(queue),
            self.reads.p.function.eq(function),
            self.reads.p.queue.eq(queue),
            self.reads.p.context.eq(queue),
            self.reads.p.length.eq(Mux(packed, _EVENT_BYTES, _READ_BYTES)),
            self.reads.p.fenced.eq(1),
            self.reads.p.last.eq(1),
            self.interrupts.p.function.eq(function),
            self.queue_interrupts.p.function.eq(function),
            self.obligations.p.queue.eq(queue),
            self.faults.p.queue.eq(queue),
            # The reasons of failed reads stand behind 8, in the order of `ReadError`.
            Value.cast(self.faults.p.reason).eq(8 + Value.cast(error)),
        ]
        delta = Signal.like(self.obligations.p.delta, reset_less=True)
        rest = Signal(8)  # of the chains to be given back, in 256
        vector = Signal(16)
        address = Signal(64)
        offset = Signal(17)
        at_event = Signal()  # `address` is that of used_event
        state: Any = Signal(_StateLayout())
        m.d.comb += [
            self.obligations.p.delta.eq(delta),
            self.interrupts.p.vector.eq(vector),
            self.reads.p.address.eq(address),
            self.faults.p.address.eq(address),
        ]

        def look_up(of: Signal) -> None:
            m.d.comb += [
                self.config.queue.eq(of), self.config.enable.eq(1),
                states.read_address.eq(of), states.read_enable.eq(1),
                moderation.queue.eq(of), moderation.enable.eq(1),
            ]
            m.d.sync += queue.eq(of)

        def keep_context() -> None:
            m.d.sync += [
                vector.eq(config.vector), address.eq(config.driver), state.eq(found),
                offset.eq((config.size << 1) + _RING_OFFSET), at_event.eq(0),
            ]

        def go_to_event() -> None:
            m.d.sync += [address.eq(address + offset), at_event.eq(1)]

        def everything(of: Any) -> Value:
            """All places that were published, as far as a driver can sleep on them."""
            return Mux(of.wrapped, 0xFFFF, of.later)

        later = Signal(17)
        chains = Signal(17)
        held = Signal()
        slow = Signal()
        leaves_it = Signal()
        behind = Signal(16)  # entries from the one behind used_event to the newest that counts here
        m.d.comb += [
            later.eq(found.later + slots),
            chains.eq(found.chains + count),
            held.eq(found.again & ~found.reading),
            slow.eq(held | limits.on & ~found.reading),
            leaves_it.eq(follows & ~found.reading & ~slow),
        ]
        # The same for a packed ring: from place to place, then with the laps that lie between.
        apart = Signal(signed(17))
        distance = Signal(18)

        elapsed = Signal(TIME_BITS)
        enough = Signal()
        ripe = Signal()
        m.d.comb += ripe.eq(
            ~limits.on | ~config.running | enough | (elapsed >= limits.max_usecs))

        visit_turn = Signal()  # none waits for more than one event and the answers
        takes_published = Signal()
        m.d.comb += takes_published.eq(
            self.published.valid & ~(visit_turn & moderation.visits.valid))

        answer = self.read_answers.p
        with m.FSM():
            with m.State("IDLE"):
                # Answers first: they give back what the others wait for.
                with m.If(self.read_answers.valid):
                    m.d.comb += self.read_answers.ready.eq(1)
                    look_up(answer.context)
                    m.d.sync += [
                        error.eq(answer.error), event.eq(answer.data[:16]),
                        flags.eq(answer.data[16:18]),
                    ]
                    m.next = "ANSWER"
                with m.Elif(takes_published):
                    m.d.comb += self.published.ready.eq(1)
                    look_up(self.published.p.queue)
                    m.d.sync += [
                        count.eq(self.published.p.count), slots.eq(self.published.p.slots),
                        index.eq(self.published.p.index), visit_turn.eq(1),
                        follows.eq(self.published.p.follows),
                    ]
                    m.next = "PUBLISHED"
                with m.Elif(moderation.visits.valid):
                    m.d.comb += moderation.visits.ready.eq(1)
                    look_up(moderation.visits.p.queue)
                    m.d.sync += visit_turn.eq(0)
                    m.next = "VISIT"

            with m.State("PUBLISHED"):
                keep_context()
                m.d.comb += [
                    next_state.reading.eq(~leaves_it),
                    next_state.again.eq(found.reading | leaves_it),
                    next_state.index.eq(Mux(found.reading, found.index, index)),
                    next_state.count.eq(Mux(found.reading, found.count, slots)),
                    next_state.later.eq(Mux(found.again, later, slots)),
                    next_state.wrapped.eq(found.again & (found.wrapped | later[16])),
                    next_state.newest.eq(index),
                    next_state.chains.eq(Mux(found.again, chains | chains[16].replicate(16),
                                             count)),
                    next_state.since.eq(Mux(found.again, found.since, moderation.now)),
                    states.write_enable.eq(~slow),
                ]
                m.d.sync += [
                    delta.eq(~(found.reading | found.again) - count[:8]),
                    rest.eq(count[8:]),
                ]
                m.next = "READ"
                with m.If(config.modes.event_idx & ~packed):
                    m.next = "EVENT-READ"
                with m.If(found.reading):
                    m.next = "GIVE-BACK"
                with m.Elif(slow):
                    m.d.sync += state.eq(next_state)
                    m.next = "WEIGH"
                with m.Elif(leaves_it):
                    m.next = "GIVE-BACK"
            with m.State("EVENT-READ"):
                go_to_event()
                m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.reads.valid.eq(1)
                with m.If(self.reads.ready):
                    m.next = "GIVE-BACK"

            with m.State("ANSWER"):
                keep_context()
                m.d.sync += delta.eq(-1)
                # Looked at again at once, where entries were published since: this answer may be
                # older than the driver's last word.
                m.d.comb += [
                    next_state.reading.eq(found.again & (error == ReadError.NONE)),
                    next_state.index.eq(found.newest),
                    next_state.count.eq(everything(found)),
                    states.write_enable.eq(1),
                ]
                m.d.sync += [
                    behind.eq(split_behind(found.index, event)),
                    apart.eq(packed_apart(found.index, event)),
                ]
                with m.If(config.modes.event_idx & ~packed):
                    m.next = "EVENT"
                with m.Elif(error != ReadError.NONE):
                    m.next = "FAULT"
                with m.Elif(packed & config.modes.event_idx & (flags == _DESC)):
                    m.next = "DISTANCE"
                with m.Elif(Mux(packed, flags == _DISABLE, event[0])):
                    m.next = "ANSWERED"
                with m.Else():
                    m.next = "STATUS"
            with m.State("EVENT"):
                go_to_event()
                m.next = "ANSWERED"
                with m.If(error != ReadError.NONE):
                    m.next = "FAULT"
                # (new - event - 1) mod 2^16 < (new - old) mod 2^16
                with m.Elif(behind < state.count):
                    m.next = "STATUS"
            with m.State("DISTANCE"):
                m.d.sync += distance.eq(packed_behind(apart, state.index, event, config.size))
                m.next = "PASSED"
            with m.State("PASSED"):
                m.next = "ANSWERED"
                with m.If(distance < state.count):
                    m.next = "STATUS"
            with m.State("STATUS"):
                m.d.comb += self.queue_interrupts.valid.eq(1)
                with m.If(self.queue_interrupts.ready):
                    m.next = "INTERRUPT"
            with m.State("INTERRUPT"):
                m.d.comb += self.interrupts.valid.eq(vector != _NO_VECTOR)
                with m.If(self.interrupts.ready | (vector == _NO_VECTOR)):
                    m.next = "ANSWERED"
            with m.State("ANSWERED"):
                m.next = "GIVE-BACK"
                with m.If(state.again):
                    m.d.sync += delta.eq(0)  # the read's obligation passes on to the next one
                    m.next = "READ"
                    with m.If(limits.on):
                        m.next = "WEIGH"
            with m.State("FAULT"):
                m.d.comb += self.faults.valid.eq(1)
                with m.If(self.faults.ready):
                    m.next = "GIVE-BACK"

            with m.State("VISIT"):
                keep_context()
                m.d.sync += delta.eq(0)
                m.next = "WEIGH"
                with m.If(~held):
                    m.d.comb += moderation.mark.eq(1)
                    m.next = "IDLE"
            # `state` is what waits, and what it waits for may be reached.
            with m.State("WEIGH"):
                m.d.sync += [
                    enough.eq(state.chains >= limits.max_packets),
                    elapsed.eq(moderation.now - state.since),
                ]
                m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.comb += [
                    next_state.eq(state),
                    next_state.reading.eq(ripe),
                    next_state.again.eq(~ripe),
                    next_state.index.eq(state.newest),
                    next_state.count.eq(everything(state)),
                    states.write_enable.eq(1),
                    moderation.mark.eq(1),
                    moderation.held.eq(~ripe),
                ]
                with m.If(~ripe):
                    m.next = "GIVE-BACK"
                with m.Elif(config.modes.event_idx & ~packed & ~at_event):
                    m.next = "EVENT-READ"
                with m.Else():
                    m.next = "READ"

            with m.State("GIVE-BACK"):
                m.d.comb += self.obligations.valid.eq(1)
                with m.If(self.obligations.ready):
                    m.next = "IDLE"
                    with m.If(rest != 0):
                        m.d.sync += [delta.eq(-256), rest.eq(rest - 1)]
                        m.next = "GIVE-BACK"
        return m
