"""Used rings: gather finished chains per queue, write entries in bursts, then the index."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import WriteSegmentLayout
from hw.stream.arbiter import StreamArbiter
from hw.stream.memory import ForwardingMemory
from hw.stream.queue import StreamQueue
from hw.stream.register import StreamRegister
from hw.stream.types import LENGTH_BITS, QUEUE_BITS, BeatLayout
from hw.stream.worklist import WorkList
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.types import (
    QueueCommandLayout,
    QueueConfigSignature,
    QueueLayout,
    UsedLayout,
)

__all__ = ["PublishedLayout", "UsedRing"]

_ENTRY_BYTES = 8  # of a split ring's used entry, and of what waits in memory
_DESCRIPTOR_BYTES = 16
_INDEX_OFFSET = 2
_RING_OFFSET = 4
_WAITING_MAX = 32  # finished chains a queue that wait for their burst
_BURSTS_MAX = 16   # bursts on their way into the order of writes
_SPACING = 16      # cycles from a small burst to the next, while the bus is busy


class PublishedLayout(data.StructLayout):
    """``count`` more chains of ``queue`` stand in the order of writes, for the driver to see.

    ======= ==== ===========================================================================
    field   bits meaning
    ======= ==== ===========================================================================
    queue   13
    count   16   Chains
    slots   16   Places by which the ring's used position moved; of a split ring ``count``
    index   16   That position: what was written to the used ring's idx, or a packed ring's
                 lap (bit 15) and place
    ======= ==== ===========================================================================
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "count": 16, "slots": 16, "index": 16})


class _WaitingLayout(data.StructLayout):
    """A chain that waits for its burst. ``sum`` counts the places of all chains of the queue up to
    this one, modulo 2^16; ``single`` says that it takes one, ``wrote`` that it has bytes."""

    def __init__(self) -> None:
        super().__init__({
            "id": 16, "sum": 16, "bytes": LENGTH_BITS, "more": 1, "single": 1, "wrote": 1,
            "reserved": 8 * _ENTRY_BYTES - 35 - LENGTH_BITS,
        })


class _ContextLayout(data.StructLayout):
    """Where a queue's ring is, and what of a frame the driver cannot see yet.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    position 16   Packed: lap and place of what is written next
    sum      16   Packed: places of all chains before that
    open     1    Packed: a frame has begun; ``id``, ``bytes`` and ``place`` are of its first
                  chain, which is written last, and ``slots`` the places of its chains so far
    chains   16   Chains of an unfinished frame so far
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "position": 16, "sum": 16, "open": 1, "id": 16, "bytes": LENGTH_BITS, "place": 16,
            "slots": 16, "chains": 16,
        })


class _BurstLayout(data.StructLayout):
    """A burst on its way: its groups (one, or ``two``), and whether it ``tells`` of chains."""

    def __init__(self) -> None:
        super().__init__({"published": PublishedLayout(), "tells": 1, "two": 1})


class UsedRing(wiring.Component):
    """Write the used rings of all queues (virtio 1.4, split and packed virtqueues).

    Finished chains of a queue gather in a row of memory while the writer is busy, and leave
    together. So bursts grow with the load, and a single entry leaves at once. While other writes
    are on their way, a burst that did not fill its row is followed by the next one no earlier than
    16 cycles later, as it would take a beat from theirs.

    *Split rings*: one write of up to ``lanes / 8`` entries, then one of the index, which so follows
    its entries in the order of writes: the driver never sees it first (SPL-USED-01). Of a frame in
    several chains the entries are written as they come, and the index when it moves behind the
    frame's last one.

    *Packed rings* (``modes.ring_packed``): one write of up to ``lanes / 16`` descriptors that
    follow one another (a chain of several places ends it), in place of those of the driver. Each is
    an aligned 16 bytes, seen whole, so their order within the write does not matter. AVAIL and USED
    are the device's wrap counter, the inverse of the lap (IMP-PKT-WRAP-01, 03, 04); WRITE is
    set where bytes were written (IMP-PKT-RING-01); the position moves on by a chain's places
    (IMP-PKT-RING-03). Of a frame in several chains the first one's descriptor is kept here, and
    written behind all others (IMP-PKT-MBUF-01).

    *In order* (``modes.in_order``, transmit queues): all that wait leave as one entry, at the place
    of the first, with the id of the last (IMP-SPL-INO-01 to 03, IMP-PKT-INO-01).

    | Latency: 10 cycles from ``used`` to the entries' segment, 12 in a packed ring; behind another
      burst up to 16 more.
    | Throughput: a chain a cycle in; a burst every 7 cycles out. Storage: 32 entries and 194 bits
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
        descriptors. The one who takes it gives the obligations back.
    busy : In(1)
        Writes are on their way: what leaves now waits behind them, or makes others wait.
    commands : In(stream.Signature(QueueCommandLayout()))
        With ``reset``, the queue's used position starts again from 0, or where it is loaded.
    asked : In(stream.Signature(QueueLayout()))
    told : Out(stream.Signature(16))
        Where the used ring of a queue stands, in the standard's terms: the index, or the place and
        the wrap counter (of the kind that it was started as last). Within a burst and 4 cycles.
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
        if lanes < _ENTRY_BYTES or lanes & (lanes - 1):
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

        row_entries = self.lanes // _ENTRY_BYTES
        row_descriptors = max(1, self.lanes // _DESCRIPTOR_BYTES)
        rows = _WAITING_MAX // row_entries
        row_bits = (row_entries - 1).bit_length()
        slot_bits = (_WAITING_MAX - 1).bit_length()

        # `finished` counts chains in, and their places, `written` chains out; free running, so
        # `written` is where a split ring's next entry stands. Each side keeps its own, and a copy
        # of the other's.
        depth = self.numbers.total
        counts = data.StructLayout({"chains": 16, "sum": 16})
        m.submodules.finished = finished = ForwardingMemory(counts, depth)
        m.submodules.finished_copy = finished_copy = ForwardingMemory(16, depth)
        m.submodules.written = written = ForwardingMemory(16, depth)
        m.submodules.written_copy = written_copy = ForwardingMemory(16, depth)
        m.submodules.contexts = contexts = ForwardingMemory(_ContextLayout(), depth)
        entries: Any = memory.Memory(
            shape=8 * self.lanes, depth=depth * rows, init=[])
        m.submodules.entries = entries
        entry_write = entries.write_port(granularity=8 * _ENTRY_BYTES)
        entry_read = entries.read_port()
        m.submodules.dirty = dirty = WorkList(self.numbers.total)
        # Two add to the list: the intake, and the writer where more than a burst was waiting.
        m.submodules.adders = adders = StreamArbiter(QUEUE_BITS, 2)
        from_intake, from_writer = adders.i
        m.d.comb += [
            dirty.add.payload.eq(adders.o.payload),
            dirty.add.valid.eq(adders.o.valid),
            adders.o.ready.eq(dirty.add.ready),
        ]

        queue = Signal(QUEUE_BITS)  # the one at hand in the writer

        # --- Intake: a chain a cycle, in two stages. ----------------------------------------------

        m.submodules.arbiter = arbiter = StreamArbiter(UsedLayout(), 2)
        # Whether there is room is known late: those who give chains are not to wait for it.
        for side, used in enumerate((self.used_transmit, self.used_receive)):
            m.submodules[f"register_{side}"] = register = StreamRegister(UsedLayout())
            connect(m, flipped(used), register.i)
            connect(m, register.o, arbiter.i[side])

        chain: Any = Signal(UsedLayout(), reset_less=True)
        chain_valid = Signal()
        so_far: Any = finished.read_data
        waiting = Signal(16)
        stored = Signal()
        slot = Signal(slot_bits)
        places = Signal(16)
        m.d.comb += [
            finished.read_address.eq(arbiter.o.p.queue),
            written_copy.read_address.eq(arbiter.o.p.queue),
            waiting.eq(so_far.chains - written_copy.read_data),
            slot.eq(so_far.chains),
            places.eq(so_far.sum + chain.slots),
        ]

        clear = Signal()  # the writer below zeroes a queue: it has the write ports in this cycle
        room = Signal()
        m.d.comb += [
            room.eq(waiting < _WAITING_MAX),
            from_intake.payload.eq(chain.queue),
            from_intake.valid.eq(chain_valid & room),
            stored.eq(from_intake.valid & from_intake.ready & ~clear),
            arbiter.o.ready.eq(~chain_valid | stored),
            finished.read_enable.eq(arbiter.o.valid & arbiter.o.ready),
            written_copy.read_enable.eq(finished.read_enable),
        ]
        with m.If(arbiter.o.ready):
            m.d.sync += [chain_valid.eq(arbiter.o.valid), chain.eq(arbiter.o.payload)]

        chains_in = Signal(16)
        begin = Signal(16)  # where a cleared queue begins
        m.d.comb += [
            begin.eq(Mux(self.commands.p.load, self.commands.p.position, 0)),
            chains_in.eq(Mux(clear, begin, so_far.chains + 1)),
            Value.cast(finished.write_data).eq(Cat(chains_in, Mux(clear, 0, places))),
            finished_copy.write_data.eq(chains_in),
        ]
        for count_in in (finished, finished_copy):
            m.d.comb += [
                count_in.write_address.eq(Mux(clear, queue, chain.queue)),
                count_in.write_enable.eq(stored | clear),
            ]

        entry: Any = Signal(_WaitingLayout())
        m.d.comb += [
            entry.id.eq(chain.id),
            entry.sum.eq(places),
            entry.bytes.eq(chain.bytes),
            entry.more.eq(chain.more),
            entry.single.eq(chain.slots == 1),
            entry.wrote.eq(chain.bytes != 0),
            entry_write.addr.eq(Cat(slot[row_bits:], chain.queue)
                                if rows > 1 else chain.queue),
            entry_write.data.eq(Value.cast(entry).replicate(row_entries)),
            entry_write.en.eq(Mux(stored, 1 << slot[:row_bits] if row_bits else 1, 0)),
        ]

        # --- Writer: a burst of the next dirty queue. ---------------------------------------------

        look = Signal(QUEUE_BITS)
        looks = Signal()
        m.d.comb += [
            written.read_address.eq(look),
            written.read_enable.eq(looks),
            finished_copy.read_address.eq(look),
            finished_copy.read_enable.eq(looks),
            contexts.read_address.eq(look),
            contexts.read_enable.eq(looks),
            self.config.queue.eq(look),
            self.config.enable.eq(looks),
        ]
        with m.If(looks):
            m.d.sync += queue.eq(look)

        reads_row = Signal()  # only then: `index` moves on while the row waits
        m.d.comb += entry_read.en.eq(reads_row)
        index = Signal(16)   # of the first chain of the burst, and then behind its last
        newest = Signal(16)  # of the last chain that waits
        packed = Signal()
        batch = Signal()     # one entry for all that wait
        context: Any = Signal(_ContextLayout())
        found: Any = contexts.read_data
        # In the cycle after a look: what waits, and where it lies. A cycle later: how many leave.
        waits = Signal(16)
        position = Signal(16)
        to_row_end = Signal(range(row_entries + 1))
        to_ring_end = Signal(16)
        bounded = Signal(range(row_entries + 1))
        burst = Signal(range(row_entries + 1))
        left = Signal(16)
        place = Signal(16)
        size = Signal(16)
        row_of = Signal(16)
        config = self.config.config
        modes = config.modes
        m.d.comb += [
            waits.eq(finished_copy.read_data - written.read_data),
            position.eq(Mux(modes.ring_packed, found.position[:15],
                            written.read_data & (config.size - 1))),
            to_row_end.eq(row_entries - index[:row_bits] if row_bits else row_entries),
            to_ring_end.eq(size - place),
            # Only a ring shorter than a row can end before the row does, or one of any size.
            bounded.eq(Mux(to_ring_end < to_row_end, to_ring_end, to_row_end)),
            burst.eq(Mux(left < bounded, left, bounded)),
            row_of.eq(Mux(batch, newest, index)),
            entry_read.addr.eq(Cat(row_of[row_bits:slot_bits], queue) if rows > 1 else queue),
        ]

        count = Signal(range(_WAITING_MAX + 1))       # chains
        written_entries = Signal(range(row_entries + 1))  # and the entries that tell of them
        first = Signal(max(row_bits, 1))
        base = Signal(64)
        offset = Signal(20)
        more = Signal()

        m.submodules.bursts = bursts = StreamQueue(_BurstLayout(), _BURSTS_MAX)
        m.submodules.segment_register = segment = StreamRegister(WriteSegmentLayout())
        m.submodules.data_register = beat = StreamRegister(BeatLayout(self.lanes))
        connect(m, segment.o, flipped(self.segments))
        connect(m, beat.o, flipped(self.data))

        row = Signal(8 * self.lanes)
        m.d.comb += row.eq(entry_read.data)
        shifted = Signal(8 * self.lanes)
        m.d.comb += shifted.eq(row >> (first << 6) if row_bits else row)
        leaving: list[Any] = []  # the entries of the burst, and what follows them in the row
        for k in range(row_entries):
            view: Any = Signal(_WaitingLayout(), name=f"leaving_{k}")
            m.d.comb += Value.cast(view).eq(shifted[64 * k:64 * (k + 1)])
            leaving.append(view)

        address = Signal(64)
        told = bursts.i.p.published
        m.d.comb += [
            segment.i.p.function.eq(self.numbers.function(queue)),
            segment.i.p.last.eq(1),
            segment.i.p.address.eq(address),
            beat.i.p.last.eq(1),
            told.queue.eq(queue),
        ]

        def send(sent: Signal) -> None:
            """Offer segment and beat together; ``sent`` when both are taken."""
            m.d.comb += [
                sent.eq(segment.i.ready & beat.i.ready),
                segment.i.valid.eq(sent),
                beat.i.valid.eq(sent),
            ]

        # A beat of 8 lanes holds half a descriptor. The address means nothing in a used one.
        upper = Signal()

        def send_descriptors(sent: Signal, halves: list[Value], number: Value) -> None:
            m.d.comb += [
                address.eq(base + offset),
                segment.i.p.length.eq(number << 4),
            ]
            if self.lanes >= _DESCRIPTOR_BYTES:
                send(sent)
                m.d.comb += [
                    beat.i.p.data.eq(Cat(Cat(Const(0, 64), half) for half in halves)),
                    beat.i.p.empty.eq(self.lanes - (number << 4)),
                ]
            else:
                goes = Signal.like(sent)
                m.d.comb += [
                    goes.eq((upper | segment.i.ready) & beat.i.ready),
                    segment.i.valid.eq(goes & ~upper),
                    beat.i.valid.eq(goes),
                    beat.i.p.last.eq(upper),
                    beat.i.p.data.eq(Mux(upper, halves[0], 0)),
                    sent.eq(goes & upper),
                ]
                with m.If(goes):
                    m.d.sync += upper.eq(~upper)

        def half(id_: Value, length: Value, wrote: Value, lap: Value) -> Value:
            """The upper half of a used descriptor."""
            wrap = ~lap
            flags = Cat(Const(0, 1), wrote, Const(0, 5), wrap, Const(0, 7), wrap)
            return Cat(length, Const(0, 32 - LENGTH_BITS), id_, flags)

        since = Signal(range(_SPACING + 1))  # the last burst began
        small = Signal()                     # and did not fill its row
        busy = Signal()
        may_begin = Signal()
        m.d.sync += [busy.eq(self.busy), may_begin.eq(~busy | ~small | (since == _SPACING))]
        with m.If(since != _SPACING):
            m.d.sync += since.eq(since + 1)

        # Split rings: entries from the burst's first to the last that ends a frame.
        seen = Signal.like(count)
        shown = Signal.like(count)
        for k in range(row_entries):
            with m.If(~leaving[k].more & (written_entries > k)):
                m.d.comb += seen.eq(k + 1)
        start = Signal(16)
        before = Signal(16)     # chains of the frame before this burst
        with_all = Signal(16)   # and with it
        none_shown = Signal()
        behind = Signal(16)
        m.d.comb += [
            none_shown.eq(shown == 0),
            behind.eq(start + shown),
        ]

        # Packed rings: descriptors that follow one another, of whole frames or of an open one.
        takes: list[Value] = [Const(1, 1)]
        for k in range(1, row_descriptors):
            take = Signal(name=f"takes_{k}")
            ahead = leaving[k - 1]
            m.d.comb += take.eq(
                takes[k - 1] & ahead.single & (ahead.more == context.open)
                & (context.open | ~leaving[k].more) & (written_entries > k))
            takes.append(take)
        ends = Signal(row_descriptors)
        last_one = Signal(row_descriptors)  # of those that leave
        taken = Signal(range(row_descriptors + 1))
        m.d.comb += ends.eq(Cat(takes) & ~Cat(*takes[1:], Const(0, 1)))
        for k in range(row_descriptors):
            with m.If(ends[k]):
                m.d.comb += taken.eq(k + 1)
        sum_after = Signal(16)
        more_after = Signal()
        m.d.comb += [
            sum_after.eq(reduce(or_, (Mux(last_one[k], leaving[k].sum, 0)
                                      for k in range(row_descriptors)))),
            more_after.eq(reduce(or_, (last_one[k] & leaving[k].more
                                       for k in range(row_descriptors)))),
        ]
        held = Signal()     # the first of a frame: not written yet
        closes = Signal()   # no frame is open behind the burst
        lap = Signal()
        # The place behind the burst is that before it and the places of its chains; or, in the next
        # lap, as much less the ring's size. Neither goes beyond 16 bits.
        lead = Signal(16)
        lead_over = Signal(16)
        lead_slots = Signal(16)
        reached = Signal(16)
        over = Signal(16)
        slots = Signal(16)
        chains = Signal(16)
        total = Signal(16)
        next_position = Signal(16)
        descriptors = [half(view.id, view.bytes, view.wrote, lap)
                       for view in leaving[:row_descriptors]]
        kept = half(context.id, context.bytes, context.bytes != 0, context.place[15])

        next_context: Any = Signal(_ContextLayout())
        finishes = Signal()
        entries_sent = Signal()
        index_sent = Signal()
        descriptors_sent = Signal()
        kept_sent = Signal()

        tells = Signal()  # where a queue stands; it was asked for
        stands_at = Signal(16, reset_less=True)
        m.d.comb += [self.told.valid.eq(tells), self.told.payload.eq(stands_at)]
        with m.If(self.told.ready):
            m.d.sync += tells.eq(0)

        def end() -> None:
            m.d.comb += finishes.eq(1)
            m.next = "IDLE"
            with m.If(more):
                m.next = "AGAIN"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.commands.valid):
                    m.d.comb += [look.eq(self.commands.p.queue), looks.eq(1)]
                    m.next = "CLEAR"
                with m.Elif(self.asked.valid & ~tells):
                    m.d.comb += [look.eq(self.asked.p.queue), looks.eq(1), self.asked.ready.eq(1)]
                    m.next = "TELL"
                with m.Elif(dirty.take.valid & bursts.i.ready & may_begin):
                    m.d.comb += [look.eq(dirty.take.payload), looks.eq(1), dirty.take.ready.eq(1)]
                    m.next = "LOOK"
            with m.State("CLEAR"):
                m.d.comb += [clear.eq(self.commands.p.reset), self.commands.ready.eq(1)]
                m.next = "IDLE"
            with m.State("TELL"):
                m.d.sync += [
                    tells.eq(1),
                    stands_at.eq(Mux(modes.ring_packed, found.position ^ (1 << 15),
                                     written.read_data)),
                ]
                m.next = "IDLE"
            with m.State("LOOK"):
                m.d.sync += [
                    left.eq(waits),
                    place.eq(position),
                    size.eq(config.size),
                    index.eq(written.read_data),
                    newest.eq(finished_copy.read_data - 1),
                    base.eq(Mux(modes.ring_packed, config.desc, config.device)),
                    packed.eq(modes.ring_packed),
                    batch.eq(modes.in_order & queue[0] & ~self.numbers.is_control(queue)),
                    context.eq(found),
                    lap.eq(found.position[15]),
                ]
                m.next = "BURST"
                with m.If(waits == 0):  # an earlier burst took it along
                    m.next = "IDLE"
            with m.State("BURST"):
                m.d.comb += reads_row.eq(1)
                m.d.sync += [
                    count.eq(Mux(batch, left, burst)),
                    written_entries.eq(Mux(batch, 1, burst)),
                    first.eq(row_of),
                    offset.eq(Mux(packed, place << 4, (place << 3) + _RING_OFFSET)),
                    more.eq(~batch & (left > burst)),
                    since.eq(0),
                    small.eq(batch | (burst != row_entries)),
                    may_begin.eq(0),
                    lead.eq(place - context.sum),
                    lead_slots.eq(context.slots - context.sum),
                ]
                m.next = "ENTRIES"
                with m.If(packed):
                    m.next = "CUT"

            with m.State("ENTRIES"):
                send(entries_sent)
                m.d.comb += [
                    address.eq(base + offset),
                    segment.i.p.length.eq(written_entries << 3),
                    beat.i.p.data.eq(Cat(
                        Cat(view.id, Const(0, 16), view.bytes, Const(0, 32 - LENGTH_BITS))
                        for view in leaving)),
                    beat.i.p.empty.eq(self.lanes - (written_entries << 3)),
                ]
                m.d.sync += shown.eq(Mux(batch, count, seen))
                with m.If(entries_sent):
                    m.d.sync += [
                        start.eq(index), index.eq(index + count),
                        before.eq(context.chains), with_all.eq(context.chains + count),
                    ]
                    m.next = "INDEX"
            with m.State("INDEX"):
                m.d.comb += [
                    address.eq(base + _INDEX_OFFSET),
                    segment.i.p.length.eq(2),
                    beat.i.p.data.eq(behind),
                    beat.i.p.empty.eq(self.lanes - 2),
                    bursts.i.p.tells.eq(~none_shown),
                    bursts.i.p.two.eq(~none_shown),
                    told.index.eq(behind),
                    told.count.eq(before + shown),
                    told.slots.eq(before + shown),
                    next_context.chains.eq(Mux(none_shown, with_all, count - shown)),
                ]
                with m.If(none_shown):
                    m.d.comb += index_sent.eq(1)
                with m.Else():
                    send(index_sent)
                with m.If(index_sent):
                    m.d.comb += bursts.i.valid.eq(1)
                    end()

            with m.State("CUT"):
                m.d.sync += [
                    last_one.eq(Mux(batch, 1, ends)),
                    held.eq(~batch & ~context.open & leaving[0].more),
                    lead_over.eq(lead - size),
                    # Where a chain of several places ends it, it is not for want of more.
                    small.eq(batch | (left == taken) & (taken != row_descriptors)),
                ]
                with m.If(~batch):
                    m.d.sync += [
                        count.eq(taken), written_entries.eq(taken), more.eq(left != taken)]
                m.next = "STEP"
            with m.State("STEP"):
                m.d.sync += [
                    reached.eq(lead + sum_after),
                    over.eq(lead_over + sum_after),
                    total.eq(sum_after),
                    slots.eq(lead_slots + sum_after),
                    chains.eq(context.chains + count),
                    index.eq(index + count),
                    closes.eq(batch | ~more_after),
                ]
                m.next = "DESCRIPTORS"
            with m.State("DESCRIPTORS"):
                m.d.sync += next_position.eq(
                    Mux(over[15], Cat(reached[:15], lap), Cat(over[:15], ~lap)))
                with m.If(held):
                    m.next = "END"
                with m.Else():
                    send_descriptors(descriptors_sent, descriptors, written_entries)
                with m.If(descriptors_sent):
                    m.next = "END"
                    with m.If(context.open & closes):
                        m.d.sync += offset.eq(context.place[:15] << 4)
                        m.next = "KEPT"
            with m.State("KEPT"):
                send_descriptors(kept_sent, [kept], Const(1, 1))
                with m.If(kept_sent):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += [
                    bursts.i.valid.eq(~held),
                    bursts.i.p.tells.eq(closes),
                    bursts.i.p.two.eq(context.open & closes),
                    told.index.eq(next_position),
                    told.count.eq(chains),
                    told.slots.eq(slots),
                    next_context.eq(context),
                    next_context.position.eq(next_position),
                    next_context.sum.eq(total),
                    next_context.open.eq(~closes),
                    next_context.chains.eq(Mux(closes, 0, chains)),
                    next_context.slots.eq(Mux(closes, 0, slots)),
                ]
                with m.If(held):
                    m.d.comb += [
                        next_context.id.eq(leaving[0].id),
                        next_context.bytes.eq(leaving[0].bytes),
                        next_context.place.eq(Cat(place[:15], lap)),
                    ]
                end()

            with m.State("AGAIN"):  # behind the other queues
                m.d.comb += [from_writer.payload.eq(queue), from_writer.valid.eq(1)]
                with m.If(from_writer.ready):
                    m.next = "IDLE"

        # The slots of a burst are free as soon as its row has left the memory.
        for count_out in (written, written_copy):
            m.d.comb += [
                count_out.write_address.eq(queue),
                count_out.write_data.eq(Mux(clear, begin, index)),
                count_out.write_enable.eq(finishes | clear),
            ]
        fresh: Any = Signal(_ContextLayout())
        m.d.comb += [
            fresh.position.eq(begin),
            contexts.write_address.eq(queue),
            Value.cast(contexts.write_data).eq(
                Mux(clear, Value.cast(fresh), Value.cast(next_context))),
            contexts.write_enable.eq(finishes | clear),
        ]

        # --- With the acceptance of its last group a burst is published. --------------------------

        pulses = Signal(range(2 * _BURSTS_MAX + 1))
        leaves = Signal()
        stands = Signal()
        gone = Signal(2)
        m.d.comb += [
            stands.eq(bursts.o.valid & ((pulses > 1) | (pulses[0] & ~bursts.o.p.two))),
            self.published.payload.eq(bursts.o.p.published),
            self.published.valid.eq(stands & bursts.o.p.tells),
            leaves.eq(stands & (self.published.ready | ~bursts.o.p.tells)),
            bursts.o.ready.eq(leaves),
            gone.eq(Mux(leaves, Mux(bursts.o.p.two, 2, 1), 0)),
        ]
        m.d.sync += pulses.eq(pulses + self.accepted - gone)
        return m
