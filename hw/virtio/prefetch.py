"""Prefetch of the chains of all queues of one direction: instances and connections."""

from typing import Any, Literal

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout, WriteSegmentLayout
from hw.stream.arbiter import PassingArbiter, StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.queue import PassingQueue, StreamQueue
from hw.stream.types import BeatLayout
from hw.virtio.available_ring import SLOTS_LEAST, AvailableRing
from hw.virtio.chain_publish import ChainPublish
from hw.virtio.chain_take import ChainTake
from hw.virtio.descriptor_cache import (
    DescriptorLayout,
    DoneLayout,
    SlotMemory,
    TotalsLayout,
)
from hw.virtio.descriptor_fetch import DescriptorReads, RunMerger
from hw.virtio.descriptor_parse import DescriptorParser
from hw.virtio.kick_suppression import KickSuppression
from hw.virtio.prefetch_discard import PrefetchDiscard
from hw.virtio.prefetch_types import (
    BURST_MAX,
    CompletionLayout,
    IndexAnswerLayout,
    PrefetchContextLayout,
    PrefetchSizes,
    ReadKind,
    RunLayout,
    WalkLayout,
)
from hw.virtio.queue_faults import QueueFaults
from hw.virtio.table_cells import TableCells
from hw.virtio.types import (
    ChainLayout,
    DoorbellLayout,
    FaultLayout,
    ObligationLayout,
    QueueCommandLayout,
    QueueConfigSignature,
    ReadyLayout,
    SegmentLayout,
    TakeLayout,
)

__all__ = ["Prefetch"]

_INDEX_ANSWERS = 64   # index reads on their way
_COMPLETIONS = 8


class Prefetch(wiring.Component):
    """Fetch descriptor chains of virtqueues before they are asked for, and give them away.

    ::

        doorbells ─► available_ring ─► reads ──────────┐ index, ring entries
                         ▲   │                         ▼
           index answers ┘   └► kick_suppression    (host)
                                                       │
           ring answers ─► runs ─► descriptor_reads ─► reads
                                       ▲ walks         │
           descriptor answers ─► descriptor_parse ◄────┘
                                       │ cache, marks
                                       ▼
                     ready ◄─ chain_publish    chain_take ◄─ takes
                                                  └► chains, segments

    One instance serves all queues of a direction. Nothing waits for one queue: index, entries and
    descriptors of each are read in bursts, and any number of reads are on their way. An answer is
    always accepted within a bounded time whatever ``reads`` does: it goes to memory, for which the
    place was reserved before the read left.

    Every chain that is announced is checked: its buffers are of the right direction and not
    empty, and add up to its bytes; whatever the driver writes later, they are told as they were
    read. A fault stops the queue's prefetch at once; chains before the faulty one can still be
    taken.

    After a reset of the card each queue needs a command with ``reset`` before it runs, as
    memories are not reset. When the card is configured they are in that state, at position 0.

    | Latency: that of its parts; `available_ring`, `chain_publish` and `chain_take` tell theirs.
    | Throughput: a ring entry, a descriptor, and an announced chain a cycle, and about 4 cycles a
      burst of 32; a take every 2 cycles; an event of a ring a cycle.
    | Storage: about 135 + 5 * log2(size) bits for each entry of the largest size of each queue, and
      90 + 2 * log2(cells) for each of its cells.

    Parameters
    ----------
    lanes
        Byte lanes of a beat, a power of two, at least 8.
    direction
        ``"transmit"``: odd queues, chains hold device-readable buffers. ``"receive"``: even ones,
        device-writable.
    functions
        Functions of the card, 1 to 256.
    stride
        Data queues a function, a power of two from 2 to 32.
    queue_size_max
        Most entries of a queue, a power of two from 16 to 32768.
    max_chain_bytes
        Longest chain to send; a longer one is a fault. Below 131071.
    chains_max
        Chains between the read of their first descriptor and their last, at least 64. Those of
        queues with INDIRECT_DESC have 352 places a queue besides.
    table_cells
        Cells a queue for entries of indirect tables, a power of two from 8 to 1024. A table may
        have half as many entries; a longer one is a fault.
    first_position
        Where split rings begin after a reset. The standard says 0; a test that wants to see
        positions wrap begins short of 65536.

    Members
    -------
    doorbells : In(stream.Signature(DoorbellLayout()))
        Kicks, and "look once" when a queue begins to run. Never stalls for more than a cycle.
    config_ring, config_table, config_take : Out(QueueConfigSignature())
        Three read ports on the queue contexts.
    reads : Out(stream.Signature(ReadRequestLayout(lanes, context_bits)))
    read_answers : In(stream.Signature(ReadAnswerLayout(lanes, context_bits)))
        In any order.
    flag_writes : Out(stream.Signature(WriteSegmentLayout()))
    flag_data : Out(stream.Signature(BeatLayout(lanes)))
    flag_accepted : In(1)
        A write stands in the order of writes (a pulse).
    ready : Out(stream.Signature(ReadyLayout()))
        Chains to take; each is announced once.
    takes : In(stream.Signature(TakeLayout()))
    chains : Out(stream.Signature(ChainLayout()))
        ``more`` is set too when the answer is SHORT, as that chain stays.
    segments : Out(stream.Signature(SegmentLayout()))
    obligations : Out(stream.Signature(ObligationLayout()))
        A chain found leaves one behind, which comes back with its used entry.
    faults : Out(stream.Signature(FaultLayout()))
        One a queue, until a command. Told before the obligations of what failed are given back.
    commands : In(stream.Signature(QueueCommandLayout()))
    """

    doorbells: stream.Interface
    config_ring: wiring.PureInterface
    config_table: wiring.PureInterface
    config_take: wiring.PureInterface
    reads: stream.Interface
    read_answers: stream.Interface
    flag_writes: stream.Interface
    flag_data: stream.Interface
    flag_accepted: Signal
    ready: stream.Interface
    takes: stream.Interface
    chains: stream.Interface
    segments: stream.Interface
    obligations: stream.Interface
    faults: stream.Interface
    commands: stream.Interface

    def __init__(self, lanes: int, *, direction: Literal["receive", "transmit"], functions: int,
                 stride: int, queue_size_max: int, max_chain_bytes: int,
                 chains_max: int = 512, table_cells: int = 256,
                 first_position: int = 0) -> None:
        if direction not in ("receive", "transmit"):
            raise ValueError(f"direction must be 'receive' or 'transmit', not {direction!r}")
        self.sizes = PrefetchSizes(lanes=lanes, transmit=direction == "transmit",
                                   functions=functions, stride=stride,
                                   queue_size_max=queue_size_max, table_cells=table_cells)
        if not 0 <= first_position <= 0xFFFF:
            raise ValueError(f"first_position must be from 0 to 65535, not {first_position!r}")
        self.first_position = first_position
        self.table_max = self.sizes.table_max
        self.lanes = lanes
        self.direction = direction
        self.max_chain_bytes = max_chain_bytes
        self.chains_max = chains_max
        self.context = PrefetchContextLayout(self.sizes)
        self.context_bits = self.context.size
        super().__init__({
            "doorbells": In(stream.Signature(DoorbellLayout())),
            "config_ring": Out(QueueConfigSignature()),
            "config_table": Out(QueueConfigSignature()),
            "config_take": Out(QueueConfigSignature()),
            "reads": Out(stream.Signature(ReadRequestLayout(lanes, self.context_bits))),
            "read_answers": In(stream.Signature(ReadAnswerLayout(lanes, self.context_bits))),
            "flag_writes": Out(stream.Signature(WriteSegmentLayout())),
            "flag_data": Out(stream.Signature(BeatLayout(lanes))),
            "flag_accepted": In(1),
            "ready": Out(stream.Signature(ReadyLayout())),
            "takes": In(stream.Signature(TakeLayout())),
            "chains": Out(stream.Signature(ChainLayout())),
            "segments": Out(stream.Signature(SegmentLayout())),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "faults": Out(stream.Signature(FaultLayout())),
            "commands": In(stream.Signature(QueueCommandLayout())),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # connections alone
        m = Module()
        sizes = self.sizes
        lanes = sizes.lanes
        burst_beats = max(1, 2 * BURST_MAX // lanes)
        bursts_max = max(16, 64 // burst_beats)
        answer = ReadAnswerLayout(lanes, self.context_bits)
        # Those that wait for cells have places of their own.
        chains_max = self.chains_max + sizes.waiting_max
        slots_max = max(SLOTS_LEAST, self.chains_max // 2) + sizes.waiting_max

        m.submodules.available_ring = ring = AvailableRing(
            sizes, answers_max=_INDEX_ANSWERS, bursts_max=bursts_max, slots_max=slots_max,
            first_position=self.first_position)
        m.submodules.kick_suppression = suppression = KickSuppression(sizes)
        m.submodules.run_merger = merger = RunMerger(sizes, chains_max=chains_max)
        m.submodules.descriptor_reads = table = DescriptorReads(sizes)
        m.submodules.descriptor_parser = parser = DescriptorParser(
            sizes, max_chain_bytes=self.max_chain_bytes)
        m.submodules.chain_publish = publish = ChainPublish(sizes)
        m.submodules.chain_take = take = ChainTake(sizes)
        m.submodules.queue_faults = queue_faults = QueueFaults(sizes, sources=4, readers=2)
        m.submodules.discard = discard = PrefetchDiscard(sizes)

        m.submodules.index_answers = index_answers = PassingQueue(
            IndexAnswerLayout(sizes), _INDEX_ANSWERS)
        m.submodules.ring_answers = ring_answers = (
            PassingQueue if burst_beats == 1 else StreamQueue)(answer, bursts_max * burst_beats)
        m.submodules.reports = reports = PassingArbiter(IndexAnswerLayout(sizes), 2)
        m.submodules.runs = runs = PassingQueue(RunLayout(sizes), 4)
        m.submodules.walks = walks = StreamQueue(WalkLayout(sizes), chains_max + slots_max)
        m.submodules.completions = completions = StreamQueue(CompletionLayout(sizes), _COMPLETIONS)
        m.submodules.read_arbiter = read_arbiter = PassingArbiter(
            ReadRequestLayout(lanes, self.context_bits), 2)
        m.submodules.obligation_arbiter = obligation_arbiter = StreamArbiter(ObligationLayout(), 7)

        m.submodules.descriptors = descriptors = SlotMemory(DescriptorLayout(sizes), sizes.slots)
        m.submodules.ids = ids = SlotMemory(16, sizes.slots)
        m.submodules.totals = totals = SlotMemory(TotalsLayout(sizes), sizes.slots)
        m.submodules.table_entries = entries = SlotMemory(DescriptorLayout(sizes), sizes.cells)
        m.submodules.table_cells = cells = TableCells(sizes)
        m.submodules.done = done = SlotMemory(DoneLayout(sizes), sizes.slots)
        m.submodules.freed = freed = SlotMemory(1, sizes.slots)

        # Answers by what they are. None of the three ever waits for a read to be accepted.
        came = self.read_answers
        context: Any = data.View(self.context, came.p.context)
        kind = Value.cast(context.kind)
        m.d.comb += [
            reports.i[0].p.member.eq(context.member),
            reports.i[0].p.index.eq(came.p.data[:16]),
            reports.i[0].p.error.eq(came.p.error),
            ring_answers.i.payload.eq(came.payload),
            parser.answers.payload.eq(came.payload),
            came.ready.eq(Mux(kind[1:].any(), parser.answers.ready,
                              Mux(kind[0], ring_answers.i.ready, reports.i[0].ready))),
            reports.i[0].valid.eq(came.valid & (kind == ReadKind.INDEX.value)),
            ring_answers.i.valid.eq(came.valid & (kind == ReadKind.RING.value)),
            parser.answers.valid.eq(came.valid & kind[1:].any()),
        ]
        assert (ReadKind.INDEX.value, ReadKind.RING.value) == (0, 1)
        connect_streams(m, publish.reports, reports.i[1])
        connect_streams(m, reports.o, index_answers.i)

        # Forward.
        connect_streams(m, flipped(self.doorbells), ring.doorbells)
        connect_streams(m, index_answers.o, ring.index_answers)
        connect_streams(m, ring_answers.o, merger.answers)
        connect_streams(m, merger.runs, runs.i)
        connect_streams(m, runs.o, table.runs)
        # There is a place for each: those that wait go between those that come.
        m.d.comb += [
            walks.i.valid.eq(parser.walks.valid | table.waits.valid),
            walks.i.payload.eq(Mux(parser.walks.valid, parser.walks.p.as_value(),
                                   table.waits.p.as_value())),
            parser.walks.ready.eq(walks.i.ready),
            table.waits.ready.eq(walks.i.ready & ~parser.walks.valid),
        ]
        connect_streams(m, walks.o, table.walks)
        connect_streams(m, ring.reads, read_arbiter.i[0])
        connect_streams(m, table.reads, read_arbiter.i[1])
        connect_streams(m, read_arbiter.o, flipped(self.reads))
        connect_streams(m, parser.completions, completions.i)
        connect_streams(m, completions.o, publish.completions)
        m.d.comb += publish.expected.eq(parser.completions.p.member)
        connect_streams(m, publish.ready, flipped(self.ready))
        connect_streams(m, flipped(self.takes), take.takes)
        connect_streams(m, take.chains, flipped(self.chains))
        connect_streams(m, take.segments, flipped(self.segments))
        m.d.comb += [
            ring.ring_done.eq(merger.done),
            merger.finished.eq(table.finished + parser.finished),
            ring.slots_finished.eq(table.slots_finished + parser.slots_finished),
        ]

        # The suppression flag.
        connect_streams(m, ring.flags, suppression.flags)
        connect_streams(m, suppression.done, ring.flags_done)
        connect_streams(m, suppression.segments, flipped(self.flag_writes))
        connect_streams(m, suppression.data, flipped(self.flag_data))
        m.d.comb += [
            ring.flags_room.eq(suppression.room),
            suppression.accepted.eq(self.flag_accepted),
        ]

        # Memories, and who looks into them.
        connect(m, parser.descriptors, descriptors.write)
        connect(m, parser.ids, ids.write)
        connect(m, parser.totals, totals.write)
        connect(m, parser.done, done.write)
        connect(m, parser.freed, freed.read)
        connect(m, take.descriptors, descriptors.read)
        connect(m, take.ids, ids.read)
        connect(m, take.totals, totals.read)
        connect(m, take.freed, freed.write)
        connect(m, publish.done, done.read)
        connect(m, parser.cells, entries.write)
        connect(m, take.cells, entries.read)
        connect(m, table.cells, cells.counts)
        connect(m, table.take_cells, cells.take)
        connect(m, parser.cell_list, cells.lookup)
        connect(m, parser.cell_front, cells.front)
        connect(m, parser.cell_front_moves, cells.front_moves)
        connect(m, parser.cells_unneeded, cells.unneeded)
        connect(m, take.freed_cells, cells.freed)
        connect_streams(m, discard.cells, cells.clears)
        connect(m, take.limit, publish.limits[0])
        connect(m, table.limit, publish.limits[1])
        connect(m, ring.limit, publish.limits[2])
        connect(m, ring.position, take.position)
        connect(m, ring.faulted, queue_faults.lookups[0])
        connect(m, table.faulted, queue_faults.lookups[1])
        connect(m, ring.config, flipped(self.config_ring))
        connect(m, table.config, flipped(self.config_table))
        connect(m, take.config, flipped(self.config_take))

        # Obligations. Who takes one on learns when it has left: until then nothing is begun.
        for index, source in enumerate((ring.obligations, merger.obligations, take.obligations,
                                        take.returns, table.obligations, publish.obligations,
                                        ring.returns)):
            connect_streams(m, source, obligation_arbiter.i[index])
        connect_streams(m, obligation_arbiter.o, flipped(self.obligations))
        left = Signal()
        m.d.comb += left.eq(self.obligations.valid & self.obligations.ready)
        for index, obliged in ((0, ring.obliged), (1, merger.obliged), (2, take.obliged),
                               (5, publish.obliged)):
            m.d.comb += obliged.eq(left & (obligation_arbiter.source == index))

        # Faults, and commands.
        for index, source in enumerate((ring.faults, merger.faults, table.faults, parser.faults)):
            connect_streams(m, source, queue_faults.sources[index])
        connect_streams(m, queue_faults.faults, flipped(self.faults))
        connect_streams(m, flipped(self.commands), discard.commands)
        connect_streams(m, discard.stops, ring.stops)
        connect_streams(m, ring.stopped, discard.stopped)
        connect_streams(m, discard.publish, publish.loads)
        connect_streams(m, discard.take, take.loads)
        connect_streams(m, discard.clears, queue_faults.clears)
        connect_streams(m, discard.sweeps, parser.sweeps)
        return m
