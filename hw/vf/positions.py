"""Where queues stand: what the operator asks, and where queues are to begin."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import QUEUE_BITS
from hw.virtio.types import PositionAnswerLayout, PositionRequestLayout, QueueLayout

__all__ = ["LoadedLayout", "LoadedPositions", "QueuePositions"]


class LoadedLayout(data.StructLayout):
    """Whether a queue's position was loaded since its last reset, and that."""

    def __init__(self) -> None:
        super().__init__({"position": 16, "loaded": 1})


class LoadedPositions(wiring.Component):
    """Keep where queues are to begin, until they are reset.

    | Latency: what is stored or cleared can be looked up 2 cycles later. Throughput: a cycle each.
    | Storage: 17 bits a queue, in memory. After a reset of the card all are cleared, one a cycle;
      until then nothing is stored.

    Parameters
    ----------
    queues
        Queues of the card, its control queues among them.

    Members
    -------
    store : In(stream.Signature(PositionRequestLayout()))
        Held up by ``cleared``, and by a reset of the card.
    cleared : In(stream.Signature(QueueLayout(), always_ready=True))
        A queue has been reset: it begins at the beginning.
    queue : In(QUEUE_BITS)
    found : Out(LoadedLayout())
        In the cycle after ``queue``.
    stopping : In(QUEUE_BITS)
    to_load : Out(LoadedLayout())
        The same once more.
    """

    store: stream.Interface
    cleared: stream.Interface
    queue: Signal
    found: Any
    stopping: Signal
    to_load: Any

    def __init__(self, queues: int) -> None:
        if not 2 <= queues <= 1 << QUEUE_BITS:
            raise ValueError(f"queues must be from 2 to {1 << QUEUE_BITS}, not {queues!r}")
        self.queues = queues
        super().__init__({
            "store": In(stream.Signature(PositionRequestLayout())),
            "cleared": In(stream.Signature(QueueLayout(), always_ready=True)),
            "queue": In(QUEUE_BITS),
            "found": Out(LoadedLayout()),
            "stopping": In(QUEUE_BITS),
            "to_load": Out(LoadedLayout()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        mem: memory.Memory[Any, Any] = memory.Memory(
            shape=LoadedLayout(), depth=self.queues, init=[])
        m.submodules.memory = mem
        write = mem.write_port()
        sweeping = Signal(init=1)
        sweep = Signal(range(self.queues))
        stores = Signal()
        m.d.comb += [
            self.store.ready.eq(~sweeping & ~self.cleared.valid),
            stores.eq(self.store.valid & self.store.ready),
            write.addr.eq(Mux(self.cleared.valid, self.cleared.p.queue,
                              Mux(sweeping, sweep, self.store.p.queue))),
            write.data.loaded.eq(stores),
            write.data.position.eq(self.store.p.position),
            write.en.eq(self.cleared.valid | sweeping | stores),
        ]
        for queue, found in ((self.queue, self.found), (self.stopping, self.to_load)):
            read = mem.read_port()
            m.d.comb += [read.addr.eq(queue), read.en.eq(1), found.eq(read.data)]
        with m.If(sweeping & ~self.cleared.valid):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == self.queues - 1):
                m.d.sync += sweeping.eq(0)
        return m


class QueuePositions(wiring.Component):
    """Answer where a queue stands, and have it begin where the operator says.

    ::

        asked ─► is there such a queue? ─► lifecycle: started? loaded? ─► used ring ─► told

    The position of a queue that was started is that of its used ring: of one that has been stopped
    (or suspended) the available position is the same. Of one that runs it was right at one moment.

    | Latency: about 12 cycles, and a burst of the used ring. One request at a time.

    Parameters
    ----------
    queues
        Queues of the card, its control queues among them.

    Members
    -------
    asked : In(stream.Signature(PositionRequestLayout()))
        Any number may be named.
    told : Out(stream.Signature(PositionAnswerLayout()))
        One for each.
    requests : Out(stream.Signature(PositionRequestLayout()))
    answers : In(stream.Signature(PositionAnswerLayout()))
        To and from `Lifecycle`.
    used : Out(stream.Signature(QueueLayout()))
    stands_at : In(stream.Signature(16))
        To and from `UsedRing`.
    """

    asked: stream.Interface
    told: stream.Interface
    requests: stream.Interface
    answers: stream.Interface
    used: stream.Interface
    stands_at: stream.Interface

    def __init__(self, queues: int) -> None:
        if not 2 <= queues <= 1 << QUEUE_BITS:
            raise ValueError(f"queues must be from 2 to {1 << QUEUE_BITS}, not {queues!r}")
        self.queues = queues
        super().__init__({
            "asked": In(stream.Signature(PositionRequestLayout())),
            "told": Out(stream.Signature(PositionAnswerLayout())),
            "requests": Out(stream.Signature(PositionRequestLayout())),
            "answers": In(stream.Signature(PositionAnswerLayout())),
            "used": Out(stream.Signature(QueueLayout())),
            "stands_at": In(stream.Signature(16)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request: Any = Signal(PositionRequestLayout(), reset_less=True)
        answer: Any = Signal(PositionAnswerLayout(), reset_less=True)
        m.d.comb += [
            self.requests.payload.eq(request),
            self.used.p.queue.eq(request.queue),
            self.told.payload.eq(answer),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.asked.ready.eq(1)
                m.d.sync += request.eq(self.asked.payload)
                with m.If(self.asked.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [answer.as_value().eq(0), answer.refused.eq(1)]
                m.next = "TELL"
                with m.If(request.queue < self.queues):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.requests.valid.eq(1)
                with m.If(self.requests.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.answers.ready.eq(1)
                m.d.sync += answer.eq(self.answers.payload)
                with m.If(self.answers.valid):
                    m.next = "TELL"
                    with m.If(self.answers.p.started):
                        m.next = "USED"
            with m.State("USED"):
                m.d.comb += self.used.valid.eq(1)
                with m.If(self.used.ready):
                    m.next = "STANDS-AT"
            with m.State("STANDS-AT"):
                m.d.comb += self.stands_at.ready.eq(1)
                m.d.sync += answer.position.eq(self.stands_at.payload)
                with m.If(self.stands_at.valid):
                    m.next = "TELL"
            with m.State("TELL"):
                m.d.comb += self.told.valid.eq(1)
                with m.If(self.told.ready):
                    m.next = "IDLE"
        return m
