"""The control queues of all functions: commands in, what they do, answers out."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout, WriteSegmentLayout
from hw.stream.arbiter import StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.memory import ForwardingMemory
from hw.stream.types import QUEUE_BITS, BeatLayout
from hw.stream.worklist import WorkList
from hw.virtio.control_chain import CONTROL_CONTEXT_BITS, ChainAnswer, ControlChain
from hw.virtio.control_commands import ControlCommands, ControlFeaturesSignature
from hw.virtio.prefetch_types import read_fault
from hw.virtio.types import (
    DoorbellLayout,
    FaultLayout,
    FaultReason,
    ObligationLayout,
    PairsLayout,
    QueueCommandLayout,
    QueueConfigSignature,
    UsedLayout,
)

__all__ = ["ControlQueue"]

_INDEX_OFFSET = 2
_RING_OFFSET = 4
_WORD_BYTES = 2       # an index, an entry, avail_event
_EVENT_BYTES = 4      # a packed ring's event suppression structure
_ACK_BYTES = 1
_EVENT_DESCRIPTOR = 2  # its flags: a kick is wanted from a descriptor on


class _Write(enum.Enum, shape=1):
    """What is written, and so what comes after it."""

    ACK = 0
    EVENT = 1


class _State(data.StructLayout):
    """What is kept of a control queue.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    position 16   The next chain to be looked for: the available index, or the packed position
    armed    1    EVENT_IDX: the driver was asked for a kick from ``position`` on
    held     1    It met a fault
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({"position": 16, "armed": 1, "held": 1, "unused": 14})


class ControlQueue(wiring.Component):
    """Serve the control queues of all functions, one command at a time (virtio 1.4, 5.1.6.5).

    ::

        doorbells ─► work list ─► ring ─► ControlChain ─► ControlCommands ─► ack ─► used
                         ▲          │        descriptors    what it does
                         └──────────┘ until a look finds nothing

    A visit takes on an obligation, looks whether the queue runs, and looks for one chain: in a
    split ring by the index and the entry, in a packed one by the descriptor itself. The chain's
    command is carried out, its answer is written to the first writable byte, and when that stands
    in the order of writes the chain goes to ``used``, with the visit's obligation, which comes back
    when it is published. Then the function goes behind the others in the work list. A chain without
    a writable byte is used with no bytes written, and does nothing.

    *Kicks.* Without EVENT_IDX nothing is written: the driver kicks for all that it adds. With it,
    a look that finds nothing is followed by a write of avail_event (packed: of the device's event
    suppression structure), and that by a *fenced* look: the driver either sees the event and kicks,
    or its chain was available before that look. NOTIFICATION_DATA's positions are not needed.

    *Rings* of any size up to ``queue_size_max``, packed ones of any number of entries. An index
    that is ahead by more than the ring has entries is the fault INDEX_JUMP; those of chains are
    told in `ControlChain`. A fault holds its queue until a command comes for it.

    *Others.* All functions share one sequencer. What a driver can make of a command is bounded:
    `DESCRIPTORS_MAX` descriptors and as many reads of data, each with an end. A command for a
    stopped queue never waits for that.

    | Latency: 9 cycles from a doorbell to the first read (packed: 11); from there about 30 to
    |   ``used`` for a command of two buffers in a split ring, and the waits of 5 reads and a write.
    | Throughput: one command at a time. Storage: 34 bits a function.

    Parameters
    ----------
    lanes
        Byte lanes of a beat, 8 to 64.
    functions
        1 to 256.
    first_queue
        The card's number of function 0's control queue; the others follow.
    max_pairs
        What a function has of queue pairs, 1 to 32768.
    queue_size_max
        Entries of the largest ring, a power of two from 2 to 32768.
    first_position
        Where a ring begins after a reset.

    Members
    -------
    doorbells : In(stream.Signature(DoorbellLayout()))
        Of control queues alone: kicks, and "look once" when one begins to run. Ready at least every
        fourth cycle (after a reset when the work list is).
    config : Out(QueueConfigSignature())
    reads : Out(stream.Signature(ReadRequestLayout(lanes, CONTROL_CONTEXT_BITS)))
        Of 64 bytes at most; one at a time. Two tags are enough for any.
    read_answers : In(stream.Signature(ReadAnswerLayout(lanes, CONTROL_CONTEXT_BITS)))
    write_segments : Out(stream.Signature(WriteSegmentLayout()))
    write_data : Out(stream.Signature(BeatLayout(lanes)))
    write_accepted : In(1)
        The write stands in the order of writes (a pulse).
    features : Out(ControlFeaturesSignature())
    pairs : Out(stream.Signature(PairsLayout()))
        An effect is taken before the answer to its command is written.
    used : Out(stream.Signature(UsedLayout()))
        Its obligation goes along with each chain.
    obligations : Out(stream.Signature(ObligationLayout()))
        To be connected directly: one that is taken has reached its counter.
    faults : Out(stream.Signature(FaultLayout()))
        The obligation is given back after it was taken.
    commands : In(stream.Signature(QueueCommandLayout()))
        A control queue that is stopped goes on after the chains that it used; with ``reset``, from
        ``first_position``; with ``load``, from the position that is given.
    """

    doorbells: stream.Interface
    config: Any
    reads: stream.Interface
    read_answers: stream.Interface
    write_segments: stream.Interface
    write_data: stream.Interface
    write_accepted: Signal
    features: Any
    pairs: stream.Interface
    used: stream.Interface
    obligations: stream.Interface
    faults: stream.Interface
    commands: stream.Interface

    def __init__(self, lanes: int, *, functions: int, first_queue: int, max_pairs: int,
                 queue_size_max: int, first_position: int = 0) -> None:
        if not 1 <= functions <= 256:
            raise ValueError(f"functions must be from 1 to 256, not {functions!r}")
        if not 0 <= first_queue <= (1 << QUEUE_BITS) - functions:
            raise ValueError(f"first_queue must leave room for {functions} queues in "
                             f"{1 << QUEUE_BITS}, not {first_queue!r}")
        if not 2 <= queue_size_max <= 32768 or queue_size_max & (queue_size_max - 1):
            raise ValueError("queue_size_max must be a power of two from 2 to 32768, "
                             f"not {queue_size_max!r}")
        if not 0 <= first_position < 1 << 16:
            raise ValueError(f"first_position must be from 0 to 65535, not {first_position!r}")
        self.lanes = lanes
        self.first_position = first_position
        self.functions = functions
        self.first_queue = first_queue
        self.max_pairs = max_pairs
        self.queue_size_max = queue_size_max
        # Made here, so that their checks of parameters are ours.
        self._chain = ControlChain(lanes)
        self._commands = ControlCommands(max_pairs=max_pairs)
        super().__init__({
            "doorbells": In(stream.Signature(DoorbellLayout())),
            "config": Out(QueueConfigSignature()),
            "reads": Out(stream.Signature(ReadRequestLayout(lanes, CONTROL_CONTEXT_BITS))),
            "read_answers": In(stream.Signature(ReadAnswerLayout(lanes, CONTROL_CONTEXT_BITS))),
            "write_segments": Out(stream.Signature(WriteSegmentLayout())),
            "write_data": Out(stream.Signature(BeatLayout(lanes))),
            "write_accepted": In(1),
            "features": Out(ControlFeaturesSignature()),
            "pairs": Out(stream.Signature(PairsLayout())),
            "used": Out(stream.Signature(UsedLayout())),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "faults": Out(stream.Signature(FaultLayout())),
            "commands": In(stream.Signature(QueueCommandLayout())),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        members = max(2, self.functions)
        m.submodules.visits = visits = WorkList(members)
        m.submodules.adders = adders = StreamArbiter(range(members), 2)
        m.submodules.states = states = ForwardingMemory(_State(), members, granularity_bits=16)
        m.submodules.chain = chain = self._chain
        m.submodules.commands = commands = self._commands
        from_doorbells, from_visits = adders.i
        connect_streams(m, adders.o, visits.add)
        connect_streams(m, commands.pairs, flipped(self.pairs))
        connect(m, commands.features, flipped(self.features))
        found: Any = chain.chains.p

        # Doorbells are told from the work list by a register: a subtraction lies between.
        bell = Signal(range(members), reset_less=True)
        bell_valid = Signal()
        m.d.comb += [
            self.doorbells.ready.eq(~bell_valid | from_doorbells.ready),
            from_doorbells.valid.eq(bell_valid),
            from_doorbells.payload.eq(bell),
        ]
        with m.If(self.doorbells.ready):
            m.d.sync += [bell_valid.eq(self.doorbells.valid),
                         bell.eq(self.doorbells.p.queue - self.first_queue)]

        # The visit at hand. Everything is looked up by its function at once.
        function = Signal(range(members), reset_less=True)
        queue = Signal(QUEUE_BITS)
        ring: Any = self.config.config
        state: Any = states.read_data
        size = Signal(range(self.queue_size_max + 1))
        position = Signal(16, reset_less=True)
        armed = Signal(reset_less=True)
        fenced = Signal(reset_less=True)  # the next look is
        looks_up = Signal()
        m.d.comb += [
            queue.eq(self.first_queue + function),
            size.eq(ring.size),
            self.config.queue.eq(queue),
            self.config.enable.eq(looks_up),
            states.read_address.eq(function),
            states.read_enable.eq(looks_up),
        ]

        # What changes of the state. A queue that gets a command has no obligation, so it is none
        # that a visit has found running: the two never write about the same one.
        after: Any = Signal(_State())
        keeps = Signal(2)  # position, the rest
        m.d.comb += [
            states.write_address.eq(function),
            states.write_data.eq(after),
            states.write_enable.eq(keeps),
        ]
        with m.If(self.commands.valid & (keeps == 0)):
            m.d.comb += [
                self.commands.ready.eq(1),
                states.write_address.eq(self.commands.p.queue - self.first_queue),
                states.write_data.eq(Mux(self.commands.p.load, self.commands.p.position,
                                         self.first_position)),
                states.write_enable.eq(Cat(self.commands.p.reset, 1)),
            ]

        # Reads of the ring and of the chain, one at a time: what is to be read is held for it.
        address = Signal(64, reset_less=True)
        reads_ring = Signal()
        takes_ring = Signal()
        m.d.comb += [
            self.reads.valid.eq(reads_ring | chain.reads.valid),
            self.reads.payload.eq(chain.reads.payload),
            chain.reads.ready.eq(self.reads.ready & ~reads_ring),
            chain.read_answers.valid.eq(self.read_answers.valid & ~takes_ring),
            chain.read_answers.payload.eq(self.read_answers.payload),
            self.read_answers.ready.eq(takes_ring | chain.read_answers.ready),
        ]
        with m.If(reads_ring):
            m.d.comb += [
                self.reads.p.function.eq(function),
                self.reads.p.queue.eq(queue),
                self.reads.p.context.eq(0),
                self.reads.p.address.eq(address),
                self.reads.p.length.eq(_WORD_BYTES),
                self.reads.p.lead.eq(0),
                self.reads.p.fenced.eq(fenced),
                self.reads.p.last.eq(1),
            ]
        word = Signal(16)
        m.d.comb += word.eq(self.read_answers.p.data)
        read_error = Value.cast(self.read_answers.p.error)

        head = Signal(16, reset_less=True)   # split: as the ring has it
        delta = Signal(16, reset_less=True)  # split: chains that are available
        place = Signal(16, reset_less=True)  # split: of the next entry
        m.d.comb += [
            chain.starts.p.queue.eq(queue),
            chain.starts.p.function.eq(function),
            chain.starts.p.packed.eq(ring.modes.ring_packed),
            chain.starts.p.indirect.eq(ring.modes.indirect_desc),
            # In a split ring the look is that at the index.
            chain.starts.p.fenced.eq(fenced & ring.modes.ring_packed),
            chain.starts.p.table.eq(ring.desc),
            chain.starts.p.size.eq(size),
            chain.starts.p.place.eq(Mux(ring.modes.ring_packed, position, head)),
            commands.commands.p.function.eq(function),
            commands.commands.p.bytes.eq(found.bytes),
            commands.commands.p.cut.eq(found.cut),
            commands.commands.p.content.eq(found.content),
        ]

        reason = Signal(FaultReason, reset_less=True)
        m.d.comb += [
            self.used.p.queue.eq(queue),
            self.used.p.id.eq(found.id),
            self.used.p.slots.eq(found.slots),
            self.used.p.bytes.eq(Mux(found.writable, _ACK_BYTES, 0)),
            self.obligations.p.queue.eq(queue),
            self.faults.p.queue.eq(queue),
            self.faults.p.reason.eq(reason),
            self.faults.p.address.eq(address),
            from_visits.payload.eq(function),
        ]

        # Writes, one at a time.
        write = Signal(_Write, reset_less=True)
        value = Signal(32, reset_less=True)
        length = Signal(range(_EVENT_BYTES + 1), reset_less=True)
        segment_sent = Signal()
        data_sent = Signal()
        in_order = Signal()
        m.d.comb += [
            self.write_segments.p.function.eq(function),
            self.write_segments.p.address.eq(address),
            self.write_segments.p.length.eq(length),
            self.write_segments.p.last.eq(1),
            self.write_data.p.data.eq(value),
            self.write_data.p.empty.eq(self.lanes - length),
            self.write_data.p.last.eq(1),
        ]

        def fail(why: Any) -> None:
            m.d.sync += Value.cast(reason).eq(Value.cast(why))
            m.next = "HOLD"

        # A packed ring's place behind the chain, and the same less the ring's size.
        step = Signal(17, reset_less=True)
        beyond = Signal(17)
        m.d.comb += beyond.eq(step - size)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += visits.take.ready.eq(1)
                m.d.sync += [function.eq(visits.take.payload), fenced.eq(0)]
                with m.If(visits.take.valid):
                    m.next = "OBLIGE"
            with m.State("OBLIGE"):
                # Only what the counter has seen keeps this queue from being stopped.
                m.d.comb += [self.obligations.valid.eq(1), self.obligations.p.delta.eq(1)]
                with m.If(self.obligations.ready):
                    m.next = "LOOK-UP"
            with m.State("LOOK-UP"):
                m.d.comb += looks_up.eq(1)
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += [position.eq(state.position), armed.eq(state.armed)]
                m.next = "RELEASE"
                with m.If(ring.running & ~state.held):
                    m.next = "LOOK"

            # The ring.
            with m.State("LOOK"):
                m.d.sync += [address.eq(ring.driver + _INDEX_OFFSET),
                             place.eq(position & (size - 1))]
                m.next = "INDEX-READ"
                with m.If(ring.modes.ring_packed):
                    m.next = "CHAIN"
            with m.State("INDEX-READ"):
                m.d.comb += reads_ring.eq(1)
                with m.If(self.reads.ready):
                    m.next = "INDEX"
            with m.State("INDEX"):
                m.d.comb += takes_ring.eq(1)
                m.d.sync += [delta.eq(word - position), fenced.eq(0)]
                with m.If(self.read_answers.valid):
                    m.next = "ENTRIES"
                    with m.If(read_error != 0):
                        fail(read_fault(read_error, FaultReason.NONE))
            with m.State("ENTRIES"):
                m.next = "ENTRY-READ"
                with m.If(delta == 0):
                    m.next = "NOTHING"
                with m.Elif(delta > size):
                    fail(FaultReason.INDEX_JUMP)
                with m.Else():
                    m.d.sync += address.eq(ring.driver + ((place << 1) + _RING_OFFSET))
            with m.State("ENTRY-READ"):
                m.d.comb += reads_ring.eq(1)
                with m.If(self.reads.ready):
                    m.next = "ENTRY"
            with m.State("ENTRY"):
                m.d.comb += takes_ring.eq(1)
                m.d.sync += head.eq(word)
                with m.If(self.read_answers.valid):
                    m.next = "CHAIN"
                    with m.If(read_error != 0):
                        fail(read_fault(read_error, FaultReason.NONE))

            # The chain and its command.
            with m.State("CHAIN"):
                m.d.comb += chain.starts.valid.eq(1)
                with m.If(chain.starts.ready):
                    m.next = "FOUND"
            with m.State("FOUND"):
                m.d.sync += address.eq(found.address)
                with m.If(chain.chains.valid):
                    with m.Switch(Value.cast(found.answer)):
                        with m.Case(ChainAnswer.NONE):
                            m.d.comb += chain.chains.ready.eq(1)
                            m.next = "NOTHING"
                        with m.Case(ChainAnswer.FAULT):
                            m.d.comb += chain.chains.ready.eq(1)
                            fail(found.reason)
                        with m.Default():  # it stays on the stream until it is used
                            m.next = "ADVANCE"
                            with m.If(found.writable):
                                m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += commands.commands.valid.eq(1)
                with m.If(commands.commands.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += commands.answers.ready.eq(1)
                m.d.sync += [write.eq(_Write.ACK), length.eq(_ACK_BYTES),
                             value.eq(Value.cast(commands.answers.payload))]
                with m.If(commands.answers.valid):
                    m.next = "WRITE"

            # What is written: the answer, or from where on a kick is wanted.
            with m.State("NOTHING"):
                m.d.sync += [
                    write.eq(_Write.EVENT),
                    length.eq(_WORD_BYTES),
                    value.eq(position),
                    # The size is a power of two: nothing is carried.
                    address.eq(ring.device + ((size << 3) | _RING_OFFSET)),
                ]
                with m.If(ring.modes.ring_packed):
                    # The standard's wrap counter is a lap's inverse.
                    m.d.sync += [
                        length.eq(_EVENT_BYTES),
                        value.eq(Cat(position[:15], ~position[15]) | _EVENT_DESCRIPTOR << 16),
                        address.eq(ring.device),
                    ]
                m.next = "RELEASE"
                with m.If(ring.modes.event_idx & ~armed):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [
                    self.write_segments.valid.eq(~segment_sent),
                    self.write_data.valid.eq(~data_sent),
                ]
                with m.If(self.write_segments.ready):
                    m.d.sync += segment_sent.eq(1)
                with m.If(self.write_data.ready):
                    m.d.sync += data_sent.eq(1)
                with m.If(self.write_accepted):
                    m.d.sync += in_order.eq(1)
                # It may stand in the order of writes before its data have been taken.
                with m.If(in_order & segment_sent & data_sent):
                    m.d.sync += [segment_sent.eq(0), data_sent.eq(0), in_order.eq(0)]
                    m.next = "ADVANCE"
                    with m.If(write == _Write.EVENT):
                        m.next = "ARMED"
            with m.State("ARMED"):
                m.d.comb += [keeps.eq(0b10), after.armed.eq(1)]
                m.d.sync += [armed.eq(1), fenced.eq(1)]
                m.next = "LOOK"

            # The chain is done with.
            with m.State("ADVANCE"):
                m.d.sync += step.eq(position[:15] + found.slots)
                m.next = "KEEP"
                with m.If(ring.modes.ring_packed):
                    m.next = "WRAP"
                with m.Else():
                    m.d.sync += position.eq(position + 1)
            with m.State("WRAP"):
                m.d.sync += position[:15].eq(step)
                with m.If(~beyond[16]):
                    m.d.sync += position.eq(Cat(beyond[:15], ~position[15]))
                m.next = "KEEP"
            with m.State("KEEP"):
                # Before it is used: with that its obligation is out of our hands.
                m.d.comb += [keeps.eq(0b11), after.position.eq(position)]
                m.next = "USED"
            with m.State("USED"):
                m.d.comb += [self.used.valid.eq(1), chain.chains.ready.eq(self.used.ready)]
                with m.If(self.used.ready):
                    m.next = "AGAIN"
            with m.State("AGAIN"):
                m.d.comb += from_visits.valid.eq(1)
                with m.If(from_visits.ready):
                    m.next = "IDLE"

            with m.State("HOLD"):
                m.d.comb += [keeps.eq(0b10), after.held.eq(1)]
                m.next = "FAULT"
            with m.State("FAULT"):
                m.d.comb += self.faults.valid.eq(1)
                with m.If(self.faults.ready):
                    m.next = "RELEASE"
            with m.State("RELEASE"):
                m.d.comb += [self.obligations.valid.eq(1), self.obligations.p.delta.eq(-1)]
                with m.If(self.obligations.ready):
                    m.next = "IDLE"
        return m
