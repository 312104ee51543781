"""Used rings: gather finished chains per queue, write entries in bursts, then the index."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import WriteSegmentLayout
from hw.stream.arbiter import StreamArbiter
from hw.stream.memory import ForwardingMemory
from hw.stream.queue import StreamQueue
from hw.stream.register import StreamRegister
from hw.stream.types import QUEUE_BITS, BeatLayout
from hw.stream.worklist import WorkList
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.types import QueueCommandLayout, QueueConfigSignature, UsedLayout

__all__ = ["PublishedLayout", "UsedRing"]

_ENTRY_BYTES = 8
_INDEX_OFFSET = 2
_RING_OFFSET = 4
_WAITING_MAX = 32  # finished chains a queue that wait for their burst
_BURSTS_MAX = 16   # bursts on their way into the order of writes
_SPACING = 16      # cycles from a small burst to the next, while the bus is busy


class PublishedLayout(data.StructLayout):
    """``count`` used entries of ``queue``, and ``index`` behind them, stand in the order of writes.

    ``index`` is what was written to the used ring's idx: that of the next entry.
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "count": 8, "index": 16})


class UsedRing(wiring.Component):
    """Write the used rings of all queues (virtio 1.4, split virtqueues, the used ring).

    Finished chains of a queue gather in a row of memory while the writer is busy, and leave
    together: one write of up to ``lanes / 8`` entries, then one of the index. So bursts grow with
    the load, and a single entry leaves at once. While other writes are on their way, a burst that
    did not fill its row is followed by the next one no earlier than 16 cycles later, as its index
    would take a beat from theirs. The index follows its entries in the order of writes, so the
    driver never sees it first (SPL-USED-01).

    | Latency: 10 cycles from ``used`` to the entries' segment; behind another burst up to 16 more.
    | Throughput: a chain a cycle in; a burst every 7 cycles out. Storage: 32 entries and 64 bits a
    | queue.

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
        Finished chains; of one queue in the order in which they are to be published.
    config : Out(QueueConfigSignature())
    segments : Out(stream.Signature(WriteSegmentLayout()))
    data : Out(stream.Signature(BeatLayout(lanes)))
    accepted : In(1)
        A write group stands in the order of writes; a pulse each.
    published : Out(stream.Signature(PublishedLayout()))
        After the acceptance of a burst's index. The one who takes it gives the obligations back.
    busy : In(1)
        Writes are on their way: what leaves now waits behind them, or makes others wait.
    commands : In(stream.Signature(QueueCommandLayout()))
        With ``reset``, the queue's used index starts again from 0.
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
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()

        row_entries = self.lanes // _ENTRY_BYTES
        rows = _WAITING_MAX // row_entries
        row_bits = (row_entries - 1).bit_length()
        slot_bits = (_WAITING_MAX - 1).bit_length()

        # `finished` counts chains in, `written` chains out; free running, so `written` is the used
        # index of the ring. Each side keeps its own, and a copy of the other's.
        m.submodules.finished = finished = ForwardingMemory(16, self.numbers.total)
        m.submodules.finished_copy = finished_copy = ForwardingMemory(16, self.numbers.total)
        m.submodules.written = written = ForwardingMemory(16, self.numbers.total)
        m.submodules.written_copy = written_copy = ForwardingMemory(16, self.numbers.total)
        entries: Any = memory.Memory(
            shape=8 * self.lanes, depth=self.numbers.total * rows, init=[])
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
        waiting = Signal(16)
        stored = Signal()
        slot = Signal(slot_bits)
        m.d.comb += [
            finished.read_address.eq(arbiter.o.p.queue),
            written_copy.read_address.eq(arbiter.o.p.queue),
            waiting.eq(finished.read_data - written_copy.read_data),
            slot.eq(finished.read_data),
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

        for count_in in (finished, finished_copy):
            m.d.comb += [
                count_in.write_address.eq(Mux(clear, queue, chain.queue)),
                count_in.write_data.eq(Mux(clear, 0, finished.read_data + 1)),
                count_in.write_enable.eq(stored | clear),
            ]

        entry = Signal(8 * _ENTRY_BYTES)
        m.d.comb += [
            entry.eq(Cat(chain.id, Signal(16), chain.bytes)),
            entry_write.addr.eq(Cat(slot[row_bits:], chain.queue)
                                if rows > 1 else chain.queue),
            entry_write.data.eq(entry.replicate(row_entries)),
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
            self.config.queue.eq(look),
            self.config.enable.eq(looks),
        ]
        with m.If(looks):
            m.d.sync += queue.eq(look)

        reads_row = Signal()  # only then: `index` moves on while the row waits
        m.d.comb += entry_read.en.eq(reads_row)
        index = Signal(16)  # of the first entry of the burst, and then behind its last
        # In the cycle after a look: what waits, and where it lies. A cycle later: how many leave.
        waits = Signal(16)
        position = Signal(16)
        to_row_end = Signal(range(row_entries + 1))
        to_ring_end = Signal(16)
        bounded = Signal(range(row_entries + 1))
        burst = Signal(range(row_entries + 1))
        left = Signal(16)
        place = Signal(16)
        config = self.config.config
        m.d.comb += [
            waits.eq(finished_copy.read_data - written.read_data),
            position.eq(written.read_data & (config.size - 1)),
            to_row_end.eq(row_entries - index[:row_bits] if row_bits else row_entries),
            to_ring_end.eq(config.size - place),
            # Only a ring shorter than a row can end before the row does.
            bounded.eq(Mux(to_ring_end < to_row_end, to_ring_end, to_row_end)),
            burst.eq(Mux(left < bounded, left, bounded)),
            entry_read.addr.eq(Cat(index[row_bits:slot_bits], queue) if rows > 1 else queue),
        ]

        count = Signal.like(burst)
        first = Signal(max(row_bits, 1))
        base = Signal(64)
        offset = Signal(20)
        more = Signal()

        m.submodules.bursts = bursts = StreamQueue(PublishedLayout(), _BURSTS_MAX)
        m.submodules.segment_register = segment = StreamRegister(WriteSegmentLayout())
        m.submodules.data_register = beat = StreamRegister(BeatLayout(self.lanes))
        connect(m, segment.o, flipped(self.segments))
        connect(m, beat.o, flipped(self.data))

        row = Signal(8 * self.lanes)
        m.d.comb += row.eq(entry_read.data)
        shifted = Signal(8 * self.lanes)
        m.d.comb += shifted.eq(row >> (first << 6) if row_bits else row)
        address = Signal(64)
        m.d.comb += [
            segment.i.p.function.eq(self.numbers.function(queue)),
            segment.i.p.last.eq(1),
            segment.i.p.address.eq(address),
            beat.i.p.last.eq(1),
            bursts.i.p.queue.eq(queue),
            bursts.i.p.count.eq(count),
            bursts.i.p.index.eq(index),
        ]

        def send(sent: Signal) -> None:
            """Offer segment and beat together; ``sent`` when both are taken."""
            m.d.comb += [
                sent.eq(segment.i.ready & beat.i.ready),
                segment.i.valid.eq(sent),
                beat.i.valid.eq(sent),
            ]

        since = Signal(range(_SPACING + 1))  # the last burst began
        small = Signal()                     # and did not fill its row
        busy = Signal()
        may_begin = Signal()
        m.d.sync += [busy.eq(self.busy), may_begin.eq(~busy | ~small | (since == _SPACING))]
        with m.If(since != _SPACING):
            m.d.sync += since.eq(since + 1)

        entries_sent = Signal()
        index_sent = Signal()
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.commands.valid):
                    m.d.comb += [look.eq(self.commands.p.queue), looks.eq(1)]
                    m.next = "CLEAR"
                with m.Elif(dirty.take.valid & bursts.i.ready & may_begin):
                    m.d.comb += [look.eq(dirty.take.payload), looks.eq(1), dirty.take.ready.eq(1)]
                    m.next = "LOOK"
            with m.State("CLEAR"):
                m.d.comb += [clear.eq(self.commands.p.reset), self.commands.ready.eq(1)]
                m.next = "IDLE"
            with m.State("LOOK"):
                m.d.sync += [
                    left.eq(waits),
                    place.eq(position),
                    index.eq(written.read_data),
                    base.eq(config.device),
                ]
                m.next = "BURST"
                with m.If(waits == 0):  # an earlier burst took it along
                    m.next = "IDLE"
            with m.State("BURST"):
                m.d.comb += reads_row.eq(1)
                m.d.sync += [
                    count.eq(burst),
                    first.eq(index),
                    offset.eq((place << 3) + _RING_OFFSET),
                    index.eq(index + burst),
                    more.eq(left > burst),
                    since.eq(0),
                    small.eq(burst != row_entries),
                    may_begin.eq(0),
                ]
                m.next = "ENTRIES"
            with m.State("ENTRIES"):
                send(entries_sent)
                m.d.comb += [
                    address.eq(base + offset),
                    segment.i.p.length.eq(count << 3),
                    beat.i.p.data.eq(shifted),
                    beat.i.p.empty.eq(self.lanes - (count << 3)),
                ]
                with m.If(entries_sent):
                    m.next = "INDEX"
            with m.State("INDEX"):
                send(index_sent)
                m.d.comb += [
                    address.eq(base + _INDEX_OFFSET),
                    segment.i.p.length.eq(2),
                    beat.i.p.data.eq(index),
                    beat.i.p.empty.eq(self.lanes - 2),
                    bursts.i.valid.eq(index_sent),
                ]
                with m.If(index_sent):
                    m.next = "IDLE"
                    with m.If(more):
                        m.next = "AGAIN"
            with m.State("AGAIN"):  # behind the other queues
                m.d.comb += [from_writer.payload.eq(queue), from_writer.valid.eq(1)]
                with m.If(from_writer.ready):
                    m.next = "IDLE"

        # The slots of a burst are free as soon as its row has left the memory.
        for count_out in (written, written_copy):
            m.d.comb += [
                count_out.write_address.eq(queue),
                count_out.write_data.eq(Mux(clear, 0, index)),
                count_out.write_enable.eq(index_sent | clear),
            ]

        # --- Two groups a burst: with the second acceptance it is published. ----------------------

        pulses = Signal(range(2 * _BURSTS_MAX + 1))
        leaves = Signal()
        m.d.comb += [
            self.published.payload.eq(bursts.o.payload),
            self.published.valid.eq(bursts.o.valid & (pulses >= 2)),
            leaves.eq(self.published.valid & self.published.ready),
            bursts.o.ready.eq(leaves),
        ]
        m.d.sync += pulses.eq(pulses + self.accepted - (leaves << 1))
        return m
