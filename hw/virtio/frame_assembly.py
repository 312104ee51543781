"""Transmit, second half: answers of DMA reads become frames in the egress buffer."""

from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadAnswerLayout, ReadError
from hw.stream.memory import ForwardingMemory
from hw.stream.queue import StreamQueue
from hw.stream.types import LENGTH_BITS, QUEUE_BITS
from hw.virtio.gather import GATHER_CONTEXT_BITS, GatherContext
from hw.virtio.types import FaultLayout, ObligationLayout, QueueCommandLayout, UsedLayout
from hw.wire.types import PoolWriteLayout

__all__ = ["FrameAssembly", "SentLayout"]

_FINISHED_MAX = 16  # chains that wait for the used ring


class SentLayout(data.StructLayout):
    """A frame of ``queue``, of so many bytes, is whole in the egress buffer."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "bytes": LENGTH_BITS})


class _Finished(data.StructLayout):
    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "id": 16, "slots": 16, "error": ReadError, "bytes": LENGTH_BITS,
        })


class FrameAssembly(wiring.Component):
    """Put the answers to `Gather`'s reads together into frames, and finish their chains.

    Rows of the virtio header are left out. With the last byte the chain is used: the card
    needs nothing more of the driver's memory. A frame of which a read failed is given up, and its
    queue has a fault: one, until it is stopped. None of the queue's chains behind that is used: in
    order, it would tell of the failed one too (CORE-RSVD-05). Their frames may be sent.

    | Latency: 0 cycles to ``write``, 2 to ``used``. Throughput: a beat a cycle. Storage: 16
      finished chains, a bit a queue. Paths: ``answers`` -> ``write`` and back, through a few gates.

    Parameters
    ----------
    lanes
        Byte lanes of a beat.
    queues
        Data queues of the card; the odd ones are served.

    Members
    -------
    answers : In(stream.Signature(ReadAnswerLayout(lanes, GATHER_CONTEXT_BITS)))
    write : Out(stream.Signature(PoolWriteLayout(lanes)))
        Into the egress buffer. Context 0 holds whole frames, context 1 the long one.
    used : Out(stream.Signature(UsedLayout()))
    faults : Out(stream.Signature(FaultLayout()))
    commands : In(stream.Signature(QueueCommandLayout()))
        A queue that is stopped, and has no fault any more.
    obligations : Out(stream.Signature(ObligationLayout()))
        Gives back that of a chain that was given up.
    sent : Out(stream.Signature(SentLayout(), always_ready=True))
        For counters: with each transfer of ``used``.
    long_done : Out(1)
        The long frame was put together, or given up: the next one may be asked for.
    """

    answers: stream.Interface
    write: stream.Interface
    used: stream.Interface
    faults: stream.Interface
    commands: stream.Interface
    obligations: stream.Interface
    sent: stream.Interface
    long_done: Signal

    def __init__(self, lanes: int, *, queues: int) -> None:
        self.lanes = lanes
        self.queues = queues
        super().__init__({
            "answers": In(stream.Signature(ReadAnswerLayout(lanes, GATHER_CONTEXT_BITS))),
            "write": Out(stream.Signature(PoolWriteLayout(lanes))),
            "used": Out(stream.Signature(UsedLayout())),
            "faults": Out(stream.Signature(FaultLayout())),
            "commands": In(stream.Signature(QueueCommandLayout())),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "sent": Out(stream.Signature(SentLayout(), always_ready=True)),
            "long_done": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        m.submodules.finished = finished = StreamQueue(_Finished(), _FINISHED_MAX)

        answer = self.answers.p
        context = data.View(GatherContext(), answer.context)
        row = Signal(2)           # of this answer; counts the header's rows and stays behind them
        header = Signal()         # this row is of the virtio header
        long_open = Signal()      # a row of the long frame has been written
        long_error = Signal(ReadError)
        error = Signal(ReadError)
        ends = Signal()
        taken = Signal()
        m.d.comb += [
            header.eq(row < context.header_rows),
            error.eq(answer.error),
            ends.eq(answer.last & context.end),
            self.write.p.data.eq(answer.data),
            self.write.p.start.eq(Mux(answer.first, context.lead, 0)),
            self.write.p.empty.eq(answer.empty),
            self.write.p.context.eq(context.long),
            self.write.p.begin.eq(Mux(context.long, ~long_open, row == context.header_rows)),
            self.write.p.end.eq(ends),
            self.write.p.abort.eq(Value.cast(error) != 0),
            self.write.valid.eq(self.answers.valid & ~header & (~ends | finished.i.ready)),
            self.answers.ready.eq(header | (self.write.ready & (~ends | finished.i.ready))),
            taken.eq(self.answers.valid & self.answers.ready),
            finished.i.payload.queue.eq(context.queue),
            finished.i.payload.id.eq(context.id),
            finished.i.payload.slots.eq(context.slots),
            finished.i.payload.error.eq(error),
            finished.i.payload.bytes.eq(context.bytes),
            finished.i.valid.eq(taken & ends),
            self.long_done.eq(taken & ends & context.long),
        ]
        with m.If(context.long & ~context.begin & (long_error != ReadError.NONE)):
            m.d.comb += error.eq(long_error)  # the first error of the frame is its reason
        with m.If(taken):
            with m.If(header):
                m.d.sync += row.eq(row + 1)
            with m.Elif(~context.long):
                m.d.sync += row.eq(3)
            with m.If(answer.last):
                m.d.sync += row.eq(0)
            with m.If(context.long):
                m.d.sync += long_error.eq(error)
                with m.If(~header):
                    m.d.sync += long_open.eq(~ends)

        # Of each chain it is looked up whether its queue has had a fault.
        m.submodules.failed = failed = ForwardingMemory(1, max(2, self.queues // 2))
        chain: Any = Signal(_Finished(), reset_less=True)
        chain_valid = Signal()
        done = Signal()
        fails = Signal()
        clears = Signal()
        m.d.comb += [
            finished.o.ready.eq(~chain_valid | done),
            failed.read_address.eq(finished.o.p.queue >> 1),
            failed.read_enable.eq(finished.o.valid & finished.o.ready),
            # A queue that is stopped has nothing in flight.
            clears.eq(self.commands.valid & ~fails),
            self.commands.ready.eq(~fails),
            failed.write_address.eq(Mux(fails, chain.queue >> 1, self.commands.p.queue >> 1)),
            failed.write_data.eq(fails),
            failed.write_enable.eq(fails | clears),
        ]
        with m.If(finished.o.ready):
            m.d.sync += [chain_valid.eq(finished.o.valid), chain.eq(finished.o.payload)]

        # A good chain is used; a bad one is a fault, and gives its obligation back itself.
        m.d.comb += [
            self.used.p.queue.eq(chain.queue),
            self.used.p.id.eq(chain.id),
            self.used.p.slots.eq(chain.slots),
            self.sent.p.queue.eq(chain.queue),
            self.sent.p.bytes.eq(chain.bytes),
            self.sent.valid.eq(self.used.valid & self.used.ready),
            self.faults.p.queue.eq(chain.queue),
            # The reasons of failed reads stand behind 8, in the order of `ReadError`.
            Value.cast(self.faults.p.reason).eq(8 + Value.cast(chain.error)),
            self.obligations.p.queue.eq(chain.queue),
            self.obligations.p.delta.eq(-1),
        ]
        with m.FSM():
            with m.State("CHAIN"):
                with m.If(chain_valid & failed.read_data):
                    m.d.comb += [self.obligations.valid.eq(1), done.eq(self.obligations.ready)]
                with m.Elif(chain_valid & (chain.error == ReadError.NONE)):
                    m.d.comb += [self.used.valid.eq(1), done.eq(self.used.ready)]
                with m.Elif(chain_valid):
                    m.d.comb += [self.faults.valid.eq(1), fails.eq(self.faults.ready)]
                    with m.If(self.faults.ready):
                        m.next = "GIVE-BACK"
            with m.State("GIVE-BACK"):
                m.d.comb += [self.obligations.valid.eq(1), done.eq(self.obligations.ready)]
                with m.If(self.obligations.ready):
                    m.next = "CHAIN"
        return m
