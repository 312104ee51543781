"""Receive, first half: match the frames that wait for a queue with its chains."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.stream.arbiter import StreamArbiter
from hw.stream.memory import ForwardingMemory
from hw.stream.queue import StreamQueue
from hw.stream.types import LENGTH_BITS, QUEUE_BITS
from hw.stream.worklist import WorkList
from hw.virtio.layouts import NET_HEADER
from hw.virtio.types import (
    ChainLayout,
    ChainStatus,
    QueueCommandLayout,
    QueueConfigSignature,
    QueueLayout,
    ReadyLayout,
    TakeLayout,
)
from hw.wire.types import FrameHandle, PoolReadLayout

__all__ = ["Deliver", "DeliveryLayout", "DropReason", "DroppedLayout"]

_BURST = 16        # most frames of a queue in a row
_MATCHING_MAX = 16 # frames between their queue and their chain


class DropReason(enum.Enum, shape=1):
    """Why a frame that was in the pool did not reach a driver."""

    QUEUE_DOWN = 0  # the queue is not running
    NO_FIT = 1      # the next chain of the queue is too short for it


class DroppedLayout(data.StructLayout):
    """A frame for ``queue`` was dropped."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "reason": DropReason})


class DeliveryLayout(data.StructLayout):
    """A frame on its way into a chain: where it is used, and how many bytes the driver gets."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "id": 16, "slots": 16, "bytes": LENGTH_BITS})


class Deliver(wiring.Component):
    """Bring together the frames and the chains of each receive queue, in order.

    Frames and announced chains are counted per queue. A queue that has both comes to its turn in a
    list. Then as many frames as have chains, but no more than a burst, set out in a pipeline: leave
    the frame queue, take a chain that is long enough, leave the pool. Frames without a chain wait
    in the pool, at nobody else's cost. A frame that is longer than the chain is dropped, and the
    chain stays for the next one. Frames of a queue that does not run are dropped.

    | Latency: 12 cycles from ``arrivals`` to ``deliveries``. Throughput: an arrival or announcement
    | every 2 cycles, a turn every 4; a frame a cycle within a turn. Storage: 32 bits a queue and
    | the list.

    Parameters
    ----------
    queues
        Data queues of the card; the even ones are served.
    cells
        Cells of the packet pool.

    Members
    -------
    arrivals : In(stream.Signature(QueueLayout()))
        A frame was queued.
    pops : Out(stream.Signature(QueueLayout()))
        Take the first frame of the queue; there is one.
    frames : In(stream.Signature(FrameHandle(cells)))
        What was popped, in order.
    ready : In(stream.Signature(ReadyLayout()))
    takes : Out(stream.Signature(TakeLayout()))
    chains : In(stream.Signature(ChainLayout()))
    config : Out(QueueConfigSignature())
    pool_reads : Out(stream.Signature(PoolReadLayout(cells)))
    deliveries : Out(stream.Signature(DeliveryLayout()))
        One for each frame that is read, in the order of ``pool_reads``.
    dropped : Out(stream.Signature(DroppedLayout()))
    commands : In(stream.Signature(QueueCommandLayout()))
        The queue is stopped: its chains are void, its frames are dropped.
    """

    arrivals: stream.Interface
    pops: stream.Interface
    frames: stream.Interface
    ready: stream.Interface
    takes: stream.Interface
    chains: stream.Interface
    config: Any
    pool_reads: stream.Interface
    deliveries: stream.Interface
    dropped: stream.Interface
    commands: stream.Interface

    def __init__(self, *, queues: int, cells: int) -> None:
        if queues < 2 or queues % 2:
            raise ValueError(f"queues must be an even number, at least 2, not {queues!r}")
        self.queues = queues
        self.cells = cells
        super().__init__({
            "arrivals": In(stream.Signature(QueueLayout())),
            "pops": Out(stream.Signature(QueueLayout())),
            "frames": In(stream.Signature(FrameHandle(cells))),
            "ready": In(stream.Signature(ReadyLayout())),
            "takes": Out(stream.Signature(TakeLayout())),
            "chains": In(stream.Signature(ChainLayout())),
            "config": Out(QueueConfigSignature()),
            "pool_reads": Out(stream.Signature(PoolReadLayout(cells))),
            "deliveries": Out(stream.Signature(DeliveryLayout())),
            "dropped": Out(stream.Signature(DroppedLayout())),
            "commands": In(stream.Signature(QueueCommandLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        turn = _Turn()
        m.submodules.turns = turns = StreamQueue(turn, 2)
        m.submodules.popped = popped = StreamQueue(_Popped(), _MATCHING_MAX)
        m.submodules.matching = matching = StreamQueue(
            data.StructLayout({"frame": FrameHandle(self.cells), "down": 1, "queue": QUEUE_BITS}),
            _MATCHING_MAX)
        m.submodules.credit = credit = StreamArbiter(ReadyLayout(), 2)
        # Given back by way of a queue: what decides below looks at its ready before it is valid.
        m.submodules.returns = returns = StreamQueue(ReadyLayout(), 2)
        returned = returns.i
        connect(m, flipped(self.ready), credit.i[0])
        connect(m, returns.o, credit.i[1])

        settled = Signal()  # nothing of earlier turns is between a frame queue and its chain
        self._turns(m, credit.o, turns.i, settled)

        # --- A turn: pop its frames, one a cycle. -------------------------------------------------

        left = Signal(range(_BURST + 1))
        now: Any = Signal(turn)
        popping = Signal()
        m.d.comb += [
            self.pops.p.queue.eq(now.queue),
            popped.i.p.queue.eq(now.queue),
            popped.i.p.down.eq(now.down),
            self.pops.valid.eq((left != 0) & popped.i.ready),
            popping.eq(self.pops.valid & self.pops.ready),
            popped.i.valid.eq(popping),
            turns.o.ready.eq(left == 0),
        ]
        with m.If(popping):
            m.d.sync += left.eq(left - 1)
        with m.If(turns.o.valid & turns.o.ready):
            m.d.sync += [now.eq(turns.o.payload), left.eq(turns.o.p.count)]

        # --- Each frame asks for a chain that holds it and the header. ----------------------------

        asks = Signal()
        m.d.comb += [
            self.takes.p.queue.eq(popped.o.p.queue),
            self.takes.p.bytes.eq(self.frames.p.bytes + NET_HEADER.size),
            asks.eq(self.frames.valid & popped.o.valid & matching.i.ready),
            self.takes.valid.eq(asks & ~popped.o.p.down),
            matching.i.valid.eq(asks & (self.takes.ready | popped.o.p.down)),
            matching.i.p.frame.eq(self.frames.payload),
            matching.i.p.queue.eq(popped.o.p.queue),
            matching.i.p.down.eq(popped.o.p.down),
            self.frames.ready.eq(matching.i.valid),
            popped.o.ready.eq(matching.i.valid),
        ]

        # --- The answer decides: deliver, or drop. ------------------------------------------------

        m.submodules.read_out = read_out = StreamQueue(PoolReadLayout(self.cells), 2)
        m.submodules.delivery = delivery = StreamQueue(DeliveryLayout(), 2)
        m.submodules.drop = drop = StreamQueue(DroppedLayout(), 2)
        connect(m, read_out.o, flipped(self.pool_reads))
        connect(m, delivery.o, flipped(self.deliveries))
        connect(m, drop.o, flipped(self.dropped))

        frame = matching.o.p
        found = Signal()
        short = Signal()
        decided = Signal()
        m.d.comb += [
            found.eq(~frame.down & (self.chains.p.status == ChainStatus.FOUND)),
            short.eq(~frame.down & (self.chains.p.status == ChainStatus.SHORT)),
            decided.eq(matching.o.valid & (frame.down | self.chains.valid) & read_out.i.ready
                       & delivery.i.ready & drop.i.ready & returned.ready),
            matching.o.ready.eq(decided),
            self.chains.ready.eq(decided & ~frame.down),
            read_out.i.valid.eq(decided),
            read_out.i.p.frame.eq(frame.frame),
            read_out.i.p.drop.eq(~found),
            delivery.i.valid.eq(decided & found),
            delivery.i.p.queue.eq(frame.queue),
            delivery.i.p.id.eq(self.chains.p.id),
            delivery.i.p.slots.eq(self.chains.p.slots),
            delivery.i.p.bytes.eq(frame.frame.bytes + NET_HEADER.size),
            drop.i.valid.eq(decided & ~found),
            drop.i.p.queue.eq(frame.queue),
            drop.i.p.reason.eq(Mux(short, DropReason.NO_FIT, DropReason.QUEUE_DOWN)),
            # The chain that was too short is still there, for the frame behind.
            returned.valid.eq(decided & short),
            returned.p.queue.eq(frame.queue),
            returned.p.count.eq(1),
        ]
        uncounted = Signal(range(8))  # credits that were given back and not yet counted
        counted = Signal()
        m.d.comb += [
            counted.eq(credit.o.valid & credit.o.ready & (credit.source == 1)),
            settled.eq((matching.level == 0) & (popped.level == 0) & (turns.level == 0)
                       & (left == 0) & (uncounted == 0)),
        ]
        m.d.sync += uncounted.eq(uncounted + (returned.valid & returned.ready) - counted)
        return m

    def _turns(self, m: Module, credit: stream.Interface,  # noqa: PLR0915  # one state machine
               turns: stream.Interface,
               settled: Signal) -> None:
        """Count frames and chains of each queue; give turns to those that have both."""
        members = self.queues // 2
        m.submodules.chain_counts = chain_counts = ForwardingMemory(16, members)
        m.submodules.frame_counts = frame_counts = ForwardingMemory(16, members)
        m.submodules.waiting = waiting = WorkList(max(members, 2))

        queue = Signal(QUEUE_BITS)
        looked_up = Signal(QUEUE_BITS)
        looks = Signal()
        count = Signal(8)
        frames = Signal(16)
        chains = Signal(16)
        matched = Signal(16)
        served = Signal(range(_BURST + 1))
        m.d.comb += [
            self.config.queue.eq(looked_up),
            self.config.enable.eq(looks),
            frames.eq(frame_counts.read_data),
            chains.eq(chain_counts.read_data),
            matched.eq(Mux(self.config.config.running & (chains < frames), chains, frames)),
            served.eq(Mux(matched > _BURST, _BURST, matched)),
            waiting.add.payload.eq(queue >> 1),
        ]
        for counts in (chain_counts, frame_counts):
            m.d.comb += [
                counts.read_address.eq(looked_up >> 1),
                counts.read_enable.eq(looks),
                counts.write_address.eq(queue >> 1),
            ]
        with m.If(looks):
            m.d.sync += queue.eq(looked_up)

        # A turn in steps, as its sums are long: look, count, account.
        frames_left = Signal(16)
        chains_left = Signal(16)
        running = Signal()
        serves = Signal(range(_BURST + 1))
        more = Signal()
        m.d.comb += more.eq((frames_left != 0) & (~running | (chains_left != 0)))

        with m.FSM():
            with m.State("IDLE"):
                # A command waits for what was begun: else a chain that was too short for its frame
                # could be counted again after its queue's credit was made void.
                with m.If(self.commands.valid & settled):
                    m.d.comb += [looked_up.eq(self.commands.p.queue), looks.eq(1)]
                    m.next = "VOID"
                with m.Elif(credit.valid):
                    m.d.comb += [looked_up.eq(credit.p.queue), looks.eq(1), credit.ready.eq(1)]
                    m.d.sync += count.eq(credit.p.count)
                    m.next = "CHAINS"
                with m.Elif(self.arrivals.valid):
                    m.d.comb += [
                        looked_up.eq(self.arrivals.p.queue), looks.eq(1), self.arrivals.ready.eq(1),
                    ]
                    m.next = "FRAME"
                with m.Elif(waiting.take.valid & turns.ready & ~self.commands.valid):
                    m.d.comb += [
                        looked_up.eq(waiting.take.payload << 1), looks.eq(1),
                        waiting.take.ready.eq(1),
                    ]
                    m.next = "TURN"
            with m.State("VOID"):
                # Its turn comes once more, for the frames that wait.
                m.d.comb += [
                    chain_counts.write_data.eq(0),
                    chain_counts.write_enable.eq(waiting.add.ready),
                    waiting.add.valid.eq(1),
                    self.commands.ready.eq(waiting.add.ready),
                ]
                with m.If(waiting.add.ready):
                    m.next = "IDLE"
            with m.State("CHAINS"):
                m.d.comb += [
                    chain_counts.write_data.eq(chains + count),
                    chain_counts.write_enable.eq(waiting.add.ready),
                    waiting.add.valid.eq(1),
                ]
                with m.If(waiting.add.ready):
                    m.next = "IDLE"
            with m.State("FRAME"):
                m.d.comb += [
                    frame_counts.write_data.eq(frames + 1),
                    frame_counts.write_enable.eq(waiting.add.ready),
                    waiting.add.valid.eq(1),
                ]
                with m.If(waiting.add.ready):
                    m.next = "IDLE"
            with m.State("TURN"):
                m.d.sync += [running.eq(self.config.config.running), serves.eq(served)]
                m.next = "ACCOUNT"
            with m.State("ACCOUNT"):
                m.d.comb += [
                    turns.valid.eq(serves != 0),
                    turns.p.queue.eq(queue),
                    turns.p.count.eq(serves),
                    turns.p.down.eq(~running),
                    frame_counts.write_data.eq(frames - serves),
                    frame_counts.write_enable.eq(1),
                    chain_counts.write_data.eq(chains - Mux(running, serves, 0)),
                    chain_counts.write_enable.eq(1),
                ]
                m.d.sync += [
                    frames_left.eq(frame_counts.write_data),
                    chains_left.eq(chain_counts.write_data),
                ]
                m.next = "MORE"
            with m.State("MORE"):
                m.d.comb += waiting.add.valid.eq(more)
                with m.If(waiting.add.ready | ~more):
                    m.next = "IDLE"


class _Turn(data.StructLayout):
    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "count": range(_BURST + 1), "down": 1})


class _Popped(data.StructLayout):
    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "down": 1})
