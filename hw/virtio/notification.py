"""Used buffer notifications: whether the driver wants one, and the interrupt."""

from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import InterruptLayout, ReadAnswerLayout, ReadError, ReadRequestLayout
from hw.stream.memory import ForwardingMemory
from hw.stream.types import FUNCTION_BITS, QUEUE_BITS
from hw.virtio.queue_numbers import QueueNumbers
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
_RING_OFFSET = 4


class _StateLayout(data.StructLayout):
    """What is kept of a queue. ``reading`` and ``again`` are 0 whenever it has no obligations, and
    then nothing else means anything: so a stop has nothing to clear here.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    reading  1    A read is in flight
    again    1    Entries were published since it was asked for: the next decides about those
    wrapped  1    They are 2^16 or more
    index    16   The used index when it was asked for
    count    16   The entries before ``index`` that its answer decides about
    later    16   Those published since, modulo 2^16
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "reading": 1, "again": 1, "wrapped": 1, "index": 16, "count": 16, "later": 16,
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

    | Latency: 3 cycles from ``published`` to the read, 4 from its answer to ``interrupts``; one
      more each with ``event_idx``. Throughput: an event every 3 cycles. Storage: 51 bits a queue.

    Parameters
    ----------
    lanes
        Byte lanes of the read answers.
    queues
        Data queues of the card; its control queues are served as well (`QueueNumbers`).
    stride
        Data queues a function, a power of two.

    Members
    -------
    published : In(stream.Signature(PublishedLayout()))
    config : Out(QueueConfigSignature())
    reads : Out(stream.Signature(ReadRequestLayout(lanes, NOTIFICATION_CONTEXT_BITS)))
    read_answers : In(stream.Signature(ReadAnswerLayout(lanes, NOTIFICATION_CONTEXT_BITS)))
    interrupts : Out(stream.Signature(InterruptLayout()))
        Not for a queue whose vector is FFFFh.
    queue_interrupts : Out(stream.Signature(FunctionLayout()))
        For the ISR status: the driver was to be told, by whatever means.
    obligations : Out(stream.Signature(ObligationLayout()))
        Gives back those of the published chains; holds one while a read is in flight.
    faults : Out(stream.Signature(FaultLayout()))
        The flags, or used_event, could not be read.
    """

    published: stream.Interface
    config: Any
    reads: stream.Interface
    read_answers: stream.Interface
    interrupts: stream.Interface
    queue_interrupts: stream.Interface
    obligations: stream.Interface
    faults: stream.Interface

    def __init__(self, lanes: int, *, queues: int, stride: int) -> None:
        if stride < 2 or stride & (stride - 1) or queues % stride:
            raise ValueError(f"stride must be a power of two that divides queues ({queues}), "
                             f"not {stride!r}")
        self.lanes = lanes
        self.queues = queues
        self.stride = stride
        self.numbers = QueueNumbers(queues // stride, stride)
        super().__init__({
            "published": In(stream.Signature(PublishedLayout())),
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

        m.submodules.states = states = ForwardingMemory(_StateLayout(), self.numbers.total)
        found: Any = states.read_data
        next_state: Any = Signal(_StateLayout())

        queue = Signal(QUEUE_BITS)
        function = Signal(FUNCTION_BITS)
        count = Signal(9)
        index = Signal(16)
        error = Signal(ReadError)
        event = Signal(16)  # or the flags
        config = self.config.config
        m.d.comb += [
            function.eq(self.numbers.function(queue)),
            states.write_address.eq(queue),
            states.write_data.eq(next_state),
            self.reads.p.function.eq(function),
            self.reads.p.queue.eq(queue),
            self.reads.p.context.eq(queue),
            self.reads.p.length.eq(_READ_BYTES),
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
        vector = Signal(16)
        address = Signal(64)
        offset = Signal(17)
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
            ]
            m.d.sync += queue.eq(of)

        def keep_context() -> None:
            m.d.sync += [
                vector.eq(config.vector), address.eq(config.driver), state.eq(found),
                offset.eq((config.size << 1) + _RING_OFFSET),
            ]

        def go_to_event() -> None:
            m.d.sync += address.eq(address + offset)

        later = Signal(17)
        behind = Signal(16)  # entries from the one behind used_event to the newest that count here
        m.d.comb += later.eq(found.later + count)

        answer = self.read_answers.p
        with m.FSM():
            with m.State("IDLE"):
                # Answers first: they give back what the others wait for.
                with m.If(self.read_answers.valid):
                    m.d.comb += self.read_answers.ready.eq(1)
                    look_up(answer.context)
                    m.d.sync += [error.eq(answer.error), event.eq(answer.data)]
                    m.next = "ANSWER"
                with m.Elif(self.published.valid):
                    m.d.comb += self.published.ready.eq(1)
                    look_up(self.published.p.queue)
                    m.d.sync += [
                        count.eq(self.published.p.count), index.eq(self.published.p.index),
                    ]
                    m.next = "PUBLISHED"

            with m.State("PUBLISHED"):
                keep_context()
                m.d.comb += [
                    next_state.reading.eq(1),
                    next_state.again.eq(found.reading),
                    next_state.index.eq(Mux(found.reading, found.index, index)),
                    next_state.count.eq(Mux(found.reading, found.count, count)),
                    next_state.later.eq(Mux(found.again, later, count)),
                    next_state.wrapped.eq(found.again & (found.wrapped | later[16])),
                    states.write_enable.eq(1),
                ]
                m.d.sync += delta.eq(1 - count)
                m.next = "READ"
                with m.If(config.modes.event_idx):
                    m.next = "EVENT-READ"
                with m.If(found.reading):
                    m.d.sync += delta.eq(-count)
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
                    next_state.index.eq(found.index + found.later),
                    next_state.count.eq(Mux(found.wrapped, 0xFFFF, found.later)),
                    states.write_enable.eq(1),
                ]
                m.d.sync += behind.eq(found.index + ~event)
                with m.If(config.modes.event_idx):
                    m.next = "EVENT"
                with m.Elif(error != ReadError.NONE):
                    m.next = "FAULT"
                with m.Elif(event[0]):
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
            with m.State("FAULT"):
                m.d.comb += self.faults.valid.eq(1)
                with m.If(self.faults.ready):
                    m.next = "GIVE-BACK"

            with m.State("GIVE-BACK"):
                m.d.comb += self.obligations.valid.eq(1)
                with m.If(self.obligations.ready):
                    m.next = "IDLE"
        return m
