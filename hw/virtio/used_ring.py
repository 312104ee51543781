"""Used rings: gather finished chains per queue, write entries in bursts, then the index."""

from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.types import WriteSegmentLayout
from hw.stream.arbiter import StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.memory import ForwardingMemory
from hw.stream.types import QUEUE_BITS, BeatLayout
from hw.stream.worklist import WorkList
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.types import (
    QueueCommandLayout,
    QueueConfigSignature,
    QueueLayout,
    UsedLayout,
)
from hw.virtio.used_follow import UsedFollow
from hw.virtio.used_packed import PackedBurst
from hw.virtio.used_split import SplitBurst
from hw.virtio.used_types import (
    ENTRY_BYTES,
    GatheredLayout,
    PublishedLayout,
    UsedContextLayout,
)
from hw.virtio.used_waiting import WAITING_MAX, UsedWaiting
from hw.virtio.used_writes import UsedWrites

__all__ = ["PublishedLayout", "UsedRing"]

_PATIENCE = 40      # cycles that a burst waits for more chains, while the bus is busy


class UsedRing(wiring.Component):
    """Write the used rings of all queues (virtio 1.4, split and packed virtqueues).

    ::

        used ─► UsedWaiting ─► dirty queues ─► look up ─► gather ─► SplitBurst ─┬─► write, write ─►
                     ▲                            ▲                 PackedBurst ┘
                     └─────── what has left ──────┴──────────────────────┘

    Finished chains of a queue gather in memory while the writer is busy with others, and leave
    together: up to ``lanes / 4`` entries or ``lanes / 8`` descriptors, two beats. So bursts grow
    with the load, and a single entry leaves at once. While other writes are on their way, from
    which it would take a beat, a burst waits until as many chains wait as would make full bursts of
    all queues in which some do; but no longer than 40 cycles, and not when chains find no room.

    A pipeline over the dirty queues; those of one queue are four cycles apart.

    *Split rings* (`SplitBurst`): one write of entries, then one of the index, which so follows its
    entries in the order of writes: the driver never sees it first (SPL-USED-01).

    *Packed rings* (``modes.ring_packed``, `PackedBurst`): one write of descriptors, in place of
    those of the driver. Each is an aligned 16 bytes, seen whole, so their order within the write
    does not matter.

    *In order* (``modes.in_order``, transmit queues): all that wait leave as one entry.

    | Latency: 11 cycles from ``used`` to the entries' segment; behind another burst up to 40 more.
    | Throughput: a chain a cycle in; a burst every 2 cycles out. Storage: 32 entries and 210 bits
      a queue.

    Parameters
    ----------
    lanes
        Byte lanes of ``data``, 8 at least.
    queues
        Data queues of the card; its control queues are served as well (`QueueNumbers`).
    stride
        Data queues a function, a power of two.

    Members
    -------
    used_transmit, used_receive : In(stream.Signature(UsedLayout()))
        Finished chains; of one queue in the order in which they are to be published. ``more`` is
        for receive queues, ``slots`` for packed rings. A frame that has begun is finished: without
        its last chain none of it is ever published.
    config : Out(QueueConfigSignature())
    segments : Out(stream.Signature(WriteSegmentLayout()))
    data : Out(stream.Signature(BeatLayout(lanes)))
    accepted : In(1)
        A write group stands in the order of writes; a pulse each.
    published : Out(stream.Signature(PublishedLayout()))
        After the acceptance of what shows the chains to the driver: a burst's index, or its
        descriptors. The one who takes it gives the obligations back. With ``follows`` a chain of
        the queue waits already, and another one of these is sure to come.
    busy : In(1)
        Writes are on their way: what leaves now waits behind them, or makes others wait.
    commands : In(stream.Signature(QueueCommandLayout()))
        With ``reset``, the queue's used position starts again from 0, or where it is loaded.
    asked : In(stream.Signature(QueueLayout()))
    told : Out(stream.Signature(16))
        Where the used ring of a queue stands, in the standard's terms: the index, or the place and
        the wrap counter (of the kind that it was started as last). Within a burst and 3 cycles.
    """

    used_transmit: stream.Interface
    used_receive: stream.Interface
    config: Any
    segments: stream.Interface
    data: stream.Interface
    accepted: Signal
    published: stream.Interface
    busy: Signal
    commands: stream.Interface
    asked: stream.Interface
    told: stream.Interface

    def __init__(self, lanes: int, *, queues: int, stride: int) -> None:
        if lanes < ENTRY_BYTES or lanes & (lanes - 1):
            raise ValueError(f"lanes must be a power of two and at least 8, not {lanes!r}")
        if stride < 2 or stride & (stride - 1) or queues % stride:
            raise ValueError(f"stride must be a power of two that divides queues ({queues}), "
                             f"not {stride!r}")
        self.lanes = lanes
        self.queues = queues
        self.stride = stride
        self.numbers = QueueNumbers(queues // stride, stride)
        super().__init__({
            "used_transmit": In(stream.Signature(UsedLayout())),
            "used_receive": In(stream.Signature(UsedLayout())),
            "config": Out(QueueConfigSignature()),
            "segments": Out(stream.Signature(WriteSegmentLayout())),
            "data": Out(stream.Signature(BeatLayout(lanes))),
            "accepted": In(1),
            "published": Out(stream.Signature(PublishedLayout())),
            "busy": In(1),
            "commands": In(stream.Signature(QueueCommandLayout())),
            "asked": In(stream.Signature(QueueLayout())),
            "told": Out(stream.Signature(16)),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()
        depth = self.numbers.total
        row = 2 * self.lanes // ENTRY_BYTES  # two beats
        m.submodules.waiting = waiting = UsedWaiting(depth, row)
        m.submodules.dirty = dirty = WorkList(depth)
        # Two add to the list: the intake, and the writer where more than a burst was waiting.
        m.submodules.adders = adders = StreamArbiter(QUEUE_BITS, 2)
        m.submodules.written = written = ForwardingMemory(16, depth)
        m.submodules.contexts = contexts = ForwardingMemory(UsedContextLayout(), depth)
        m.submodules.split = split = SplitBurst(row)
        m.submodules.packed = packed = PackedBurst(row)
        m.submodules.writes = writes = UsedWrites(self.lanes, self.numbers)
        m.submodules.follow = follow = UsedFollow()
        connect_streams(m, flipped(self.used_transmit), waiting.used_transmit)
        connect_streams(m, flipped(self.used_receive), waiting.used_receive)
        connect_streams(m, waiting.dirty, adders.i[0])
        connect_streams(m, writes.again, adders.i[1])
        connect_streams(m, writes.segments, flipped(self.segments))
        connect_streams(m, writes.data, flipped(self.data))
        connect_streams(m, writes.published, flipped(self.published))
        m.d.comb += [
            dirty.add.payload.eq(adders.o.payload),
            dirty.add.valid.eq(adders.o.valid),
            adders.o.ready.eq(dirty.add.ready),
            writes.accepted.eq(self.accepted),
        ]

        # Four stages, which move together: look, gather, cut, end.
        advance = writes.i.ready
        looks = Signal()
        look_queue = Signal(QUEUE_BITS, reset_less=True)
        looked = Signal()
        gathers = Signal()
        cuts = Signal()
        ends = Signal()
        end_queue = Signal(QUEUE_BITS, reset_less=True)
        end_packed = Signal(reset_less=True)
        end_index = Signal(16, reset_less=True)
        found: Any = Signal(GatheredLayout(row), reset_less=True)
        cut: Any = Signal(GatheredLayout(row), reset_less=True)

        left = Signal(16)   # chains that wait of the queue that was looked up

        # --- Whose turn it is. ----------------------------------------------------------------
        since = Signal(range(_PATIENCE + 1))  # the last burst began
        free = Signal(init=1)   # and none is on its way through the stages
        counted = Signal(init=1)
        total = Signal(range(WAITING_MAX * depth + 1))  # chains that wait
        many = Signal()
        busy = Signal()
        clash = Signal()
        wanted = Signal(QUEUE_BITS)
        asks = Signal()       # where a queue stands is being looked up
        tells = Signal()      # and can be told
        stands_at = Signal(16, reset_less=True)
        takes = Signal()
        leaves = Signal()
        left_now = Signal(16)
        m.d.sync += [
            busy.eq(self.busy),
            total.eq(total + waiting.comes - Mux(leaves, left_now, 0)),
            many.eq(total >= dirty.level * row),
            counted.eq(free),
        ]
        with m.If(since != _PATIENCE):
            m.d.sync += since.eq(since + 1)
        m.d.comb += [
            self.asked.ready.eq(advance & ~asks & ~tells & ~self.commands.valid),
            self.told.valid.eq(tells),
            self.told.payload.eq(stands_at),
            wanted.eq(Mux(self.asked.valid & self.asked.ready, self.asked.p.queue,
                          dirty.take.payload)),
            clash.eq((looked & (look_queue == wanted)) | (gathers & (found.queue == wanted))
                     | (cuts & (cut.queue == wanted))),
            takes.eq(writes.room & ~clash & ~self.commands.valid
                     & ~(self.asked.valid & self.asked.ready)
                     & (~busy | (free & counted & many) | (since == _PATIENCE) | waiting.stuck)),
            looks.eq(dirty.take.valid & takes & advance),
            dirty.take.ready.eq(takes & advance),
        ]
        m.d.sync += asks.eq(self.asked.valid & self.asked.ready)
        with m.If(self.told.ready):
            m.d.sync += tells.eq(0)
        with m.If(looks):
            m.d.sync += [since.eq(0), free.eq(0)]
        with m.Elif(advance & (ends | (looked & (left == 0)))):
            m.d.sync += free.eq(1)
        with m.If(advance):
            m.d.sync += [looked.eq(looks), gathers.eq(0)]
            with m.If(looks):
                m.d.sync += look_queue.eq(wanted)

        # --- Look: what waits, and where it goes. ---------------------------------------------
        reads = Signal()
        m.d.comb += [
            reads.eq(looks | (self.asked.valid & self.asked.ready)),
            waiting.queue.eq(wanted),
            waiting.looks.eq(reads),
            written.read_address.eq(wanted),
            written.read_enable.eq(reads),
            contexts.read_address.eq(wanted),
            contexts.read_enable.eq(reads),
            self.config.queue.eq(wanted),
            self.config.enable.eq(reads),
        ]
        config = self.config.config
        modes = config.modes
        context: Any = contexts.read_data
        with m.If(asks):
            m.d.sync += [
                tells.eq(1),
                stands_at.eq(Mux(modes.ring_packed, context.position ^ (1 << 15),
                                 written.read_data)),
            ]
        batch = Signal()
        m.d.comb += [
            left.eq(waiting.finished - written.read_data),
            batch.eq(modes.in_order & look_queue[0] & ~self.numbers.is_control(look_queue)),
            waiting.window_queue.eq(look_queue),
            waiting.window.eq(Mux(batch, waiting.finished - 1, written.read_data)),
            waiting.shows.eq(looked & advance),
        ]
        with m.If(looked & advance):
            m.d.sync += [
                gathers.eq(left != 0),  # else an earlier burst took it along
                found.queue.eq(look_queue),
                found.packed.eq(modes.ring_packed),
                found.batch.eq(batch),
                found.base.eq(Mux(modes.ring_packed, config.desc, config.device)),
                found.index.eq(written.read_data),
                found.left.eq(left),
                found.place.eq(Mux(modes.ring_packed, context.position[:15],
                                   written.read_data & (config.size - 1))),
                found.lap.eq(context.position[15]),
                found.size.eq(config.size),
                found.context.eq(context),
            ]

        # --- Gather: the chains themselves, as many as fit before the ring's end. --------------
        to_ring_end = Signal(16)
        most = Signal(range(row + 1))
        m.d.comb += [
            to_ring_end.eq(found.size - found.place),
            most.eq(Mux(found.packed, row // 2, row)),
        ]
        with m.If(advance):
            m.d.sync += [
                cuts.eq(gathers),
                cut.eq(found),
                cut.entries.eq(Mux(
                    found.batch, 1,
                    Mux((to_ring_end < most) & (to_ring_end < found.left), to_ring_end,
                        Mux(found.left < most, found.left, most)))),
                cut.chains.eq(waiting.chains),
            ]

        # --- Cut: what of it leaves; then the writes, and what is left behind. ------------------
        burst: Any = Signal(split.burst.shape())
        m.d.comb += [
            split.gathered.eq(cut),
            split.advance.eq(advance),
            packed.gathered.eq(cut),
            packed.advance.eq(advance),
            burst.eq(Mux(end_packed, packed.burst.as_value(), split.burst.as_value())),
            writes.i.valid.eq(ends),
            writes.i.payload.eq(burst.writes),
        ]
        with m.If(advance):
            m.d.sync += [
                ends.eq(cuts), end_queue.eq(cut.queue), end_packed.eq(cut.packed),
                end_index.eq(cut.index),
            ]

        # The places of a burst are free as soon as it has left the memory. A command finds nothing
        # on its way.
        clear = Signal()
        behind = Signal(16)
        begin = Signal(16)  # where a cleared queue begins
        fresh: Any = Signal(UsedContextLayout())
        queue = Signal(QUEUE_BITS)
        m.d.comb += [
            begin.eq(Mux(self.commands.p.load, self.commands.p.position, 0)),
            fresh.position.eq(begin),
            self.commands.ready.eq(~(looked | gathers | cuts | ends)),
            clear.eq(self.commands.valid & self.commands.ready & self.commands.p.reset),
            leaves.eq(ends & advance),
            follow.comes.eq(waiting.comes & waiting.whole),
            follow.coming.eq(waiting.dirty.payload),
            follow.leaves.eq(leaves),
            follow.leaving.eq(end_queue),
            follow.all.eq(~burst.writes.more),
            follow.queue.eq(writes.telling),
            writes.follows.eq(follow.follows),
            left_now.eq(burst.count),
            behind.eq(end_index + burst.count),
            queue.eq(Mux(clear, self.commands.p.queue, end_queue)),
            waiting.clear.eq(clear),
            waiting.leaves.eq(leaves),
            waiting.leaving_queue.eq(queue),
            waiting.gone.eq(Mux(clear, begin, behind)),
            written.write_address.eq(queue),
            written.write_data.eq(Mux(clear, begin, behind)),
            written.write_enable.eq(leaves | clear),
            contexts.write_address.eq(queue),
            Value.cast(contexts.write_data).eq(
                Mux(clear, fresh.as_value(), burst.context.as_value())),
            contexts.write_enable.eq(leaves | clear),
        ]
        return m
