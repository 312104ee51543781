"""Available rings: when to look, which entries to read, which kicks to ask for."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.types import ReadRequestLayout
from hw.stream.connect import connect_streams
from hw.stream.memory import ForwardingMemory
from hw.stream.worklist import WorkList
from hw.virtio.prefetch_types import (
    BURST_MAX,
    OPEN_MAX,
    DiscardLayout,
    FaultSourceLayout,
    IndexAnswerLayout,
    LookupSignature,
    NotifyFlagLayout,
    PrefetchContextLayout,
    PrefetchSizes,
    ReadKind,
    lap_of,
    packed_place,
    packed_position,
    read_fault,
)
from hw.virtio.told_positions import ToldPositions
from hw.virtio.types import (
    DoorbellLayout,
    FaultReason,
    ObligationLayout,
    QueueCommandLayout,
    QueueConfigSignature,
)

__all__ = ["AvailableRing"]

_INDEX_OFFSET = 2
_INDEX_BYTES = 2
_RING_OFFSET = 4
_BUSY_ENTRIES = 8  # so many new ones at once: the driver is asked for no kicks
_AHEAD_MAX = 6     # looks at a packed ring on their way, as long as each finds all it asks for
_FIRST_SLOTS = 8   # places of a packed ring that are looked at, where little is known to be there

_FLAG_DISABLE, _FLAG_EVENT = 1, 2  # of a packed ring's event suppression; 0 enables


class _Event(enum.Enum, shape=3):
    """What is at hand."""

    KICK = 0   # the driver kicked, or the queue has just begun to run
    VISIT = 1  # something was left to do
    INDEX = 2  # an index was read
    FLAG = 3   # a write of the suppression flag stands in the order of writes
    STOP = 4   # the queue is stopped, and is to forget


class _Action(enum.Enum, shape=3):
    """What is done about it."""

    RELEASE = 0  # nothing: the obligation is given back
    RING = 1     # read ring entries
    LOOK = 2     # read the index, or places of a packed ring
    HUSH = 3     # write NO_NOTIFY
    LISTEN = 4   # clear it, or write avail_event
    FAULT = 5


class _RingState(data.StructLayout):
    """State of a member's available ring.

    ====== ==== =================================================================
    field  bits meaning
    ====== ==== =================================================================
    known  16   The index as last read, free running; of a packed ring the position
                up to which it was seen to be available
    fetch  16   The next entry to read, free running; or position
    look   1    The index, or what is available of a packed ring, is to be read
    flight 3    Such reads on their way; more than one of a packed ring alone
    again  1    Something came after they had left: look once more
    fence  1    The next look leaves after all accepted writes
    hush   1    NO_NOTIFY is to be written (EVENT_IDX: avail_event)
    quiet  1    NO_NOTIFY is written, or on its way: the card looks by itself
    armed  1    EVENT_IDX: avail_event names the next entry, or is on its way
    rich   1    Of a packed ring the last look found all that it asked for
    ====== ==== =================================================================
    """

    def __init__(self) -> None:
        super().__init__({"known": 16, "fetch": 16, "look": 1, "flight": 3, "again": 1,
                          "fence": 1, "hush": 1, "quiet": 1, "armed": 1, "rich": 1})


class AvailableRing(wiring.Component):
    """Look at available rings: the index first, then the entries that it shows, in bursts.

    One event at a time of any member: a kick, a visit, an index that was read, a suppression flag
    that was written. Each event holds one obligation, and hands it to the read or write that it
    starts, or gives it back. What is left to do puts the member on the list of visits.

    *Kicks.* A kick means one look at the index, or one more if a look is on its way. When one
    look shows `_BUSY_ENTRIES` or more new entries, the card writes NO_NOTIFY and from then on
    looks by itself as long as that brings new entries. When it does not, NO_NOTIFY is cleared,
    and after that write stands in the order of writes a *fenced* look follows: the driver either
    sees the flag clear and kicks, or its index was written before that look.

    *EVENT_IDX.* The driver kicks for the entry that avail_event names. Any new entry disarms it, so
    there is nothing to write for silence: the card looks by itself as long as that brings new
    entries, if the first look found many; else it arms again at once, with the fenced look behind.

    *NOTIFICATION_DATA.* A position that is told, and lies ahead by no more than the ring has room
    for, is taken as what a look found. Any other makes a plain kick, and so does one that comes
    while a look is on its way.

    *Packed rings.* A look reads places of the ring itself, and its answer is what
    `DescriptorParser` reports of them. As long as each look finds all that it asks for, up to
    `_AHEAD_MAX` are on their way, one behind the other, less than a lap in all. When one finds
    less, the others were in vain: the next look begins where it ended, when they are back. For the
    rest it is as above, with the device event suppression structure in place of NO_NOTIFY and
    avail_event; positions that are told are plain kicks.

    *Tables* may wait for cells, and so for chains to be taken. Of a queue with INDIRECT_DESC no
    more is fetched while `OPEN_MAX` chains are not complete: so those that wait never take the
    places of other queues. It stays on the list of visits meanwhile.

    *Rooms.* An answer must never wait for another one. So an index is read only when there is
    room for its answer (`answers_max`), and likewise ring entries (`bursts_max`).

    | Latency: 10 cycles from a doorbell to the read of the index (11 to that of entries, where the
      position was told), 4 from its answer to the read of entries.
    | Throughput: an event every 5 cycles (8 for a kick or visit), each up to 32 entries; one more
      with INDIRECT_DESC.
    | Storage: 60 bits a member and two lists.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.
    answers_max
        Index reads on their way, their answers included until they are taken here.
    bursts_max
        Reads of entries on their way, until ``ring_done``.
    slots_max
        Places of packed rings whose chains may still go on somewhere, at least 32.
    first_position
        Where a split ring begins after a reset.

    Members
    -------
    doorbells : In(stream.Signature(DoorbellLayout()))
        Kicks, and "look once" when a queue begins to run. Ready every fourth cycle at least.
    config : Out(QueueConfigSignature())
    position, faulted, limit : Out(LookupSignature)
        The next chain to be taken of a member; whether it is held because of a fault; the position
        of its oldest chain that is not complete.
    reads : Out(stream.Signature(ReadRequestLayout(...)))
    ring_done : In(1)
        The answer to a read of entries has been used up (a pulse).
    slots_finished : In(range(BURST_MAX + 2))
        So many places of packed rings count no more, each cycle; 32 in the end for each look.
    index_answers : In(stream.Signature(IndexAnswerLayout(sizes)))
    flags : Out(stream.Signature(NotifyFlagLayout(sizes)))
        Offered only while ``flags_room``.
    flags_room : In(1)
    flags_done : In(stream.Signature(NotifyFlagLayout(sizes)))
        Comes after the acceptance of each flag write.
    obligations : Out(stream.Signature(ObligationLayout()))
    obliged : In(1)
        The obligation taken on last has reached its counter (a pulse).
    faults : Out(stream.Signature(FaultSourceLayout(sizes)))
    stops : In(stream.Signature(QueueCommandLayout()))
        A stopped queue forgets what it knows of the ring.
    stopped : Out(stream.Signature(DiscardLayout(sizes)))
        Answer to ``stops``: where the queue goes on.
    """

    doorbells: stream.Interface
    config: wiring.PureInterface
    position: wiring.PureInterface
    faulted: wiring.PureInterface
    limit: wiring.PureInterface
    reads: stream.Interface
    ring_done: Signal
    slots_finished: Signal
    index_answers: stream.Interface
    flags: stream.Interface
    flags_room: Signal
    flags_done: stream.Interface
    obligations: stream.Interface
    obliged: Signal
    faults: stream.Interface
    stops: stream.Interface
    stopped: stream.Interface

    def __init__(self, sizes: PrefetchSizes, *, answers_max: int, bursts_max: int,
                 slots_max: int, first_position: int = 0) -> None:
        if slots_max < BURST_MAX:
            raise ValueError(f"slots_max must be at least {BURST_MAX}, not {slots_max!r}")
        self.slots_max = slots_max
        self.sizes = sizes
        self.answers_max = answers_max
        self.bursts_max = bursts_max
        self.first_position = first_position
        self._context = PrefetchContextLayout(sizes)
        member = range(sizes.members)
        super().__init__({
            "doorbells": In(stream.Signature(DoorbellLayout())),
            "config": Out(QueueConfigSignature()),
            "position": Out(LookupSignature(member, 16)),
            "faulted": Out(LookupSignature(member, 1)),
            "limit": Out(LookupSignature(member, 16)),
            "reads": Out(stream.Signature(ReadRequestLayout(sizes.lanes, self._context.size))),
            "ring_done": In(1),
            "slots_finished": In(range(BURST_MAX + 2)),
            "index_answers": In(stream.Signature(IndexAnswerLayout(sizes))),
            "flags": Out(stream.Signature(NotifyFlagLayout(sizes))),
            "flags_room": In(1),
            "flags_done": In(stream.Signature(NotifyFlagLayout(sizes))),
            "obligations": Out(stream.Signature(ObligationLayout())),
            "obliged": In(1),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
            "stops": In(stream.Signature(QueueCommandLayout())),
            "stopped": Out(stream.Signature(DiscardLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        sizes = self.sizes
        m.submodules.kicks = kicks = WorkList(sizes.members)
        m.submodules.visits = visits = WorkList(sizes.members)
        m.submodules.states = states = ForwardingMemory(_RingState(), sizes.members)
        m.submodules.positions = positions = ToldPositions(sizes)
        connect_streams(m, flipped(self.doorbells), positions.doorbells)
        connect_streams(m, positions.kicks, kicks.add)

        event = Signal(_Event, reset_less=True)
        member = Signal(range(sizes.members), reset_less=True)
        answer: Any = Signal(IndexAnswerLayout(sizes), reset_less=True)
        silent = Signal(reset_less=True)  # FLAG: what was written
        forget = Signal(reset_less=True)  # STOP: with reset
        loads = Signal(reset_less=True)   # and with a position to begin at
        loaded = Signal(16, reset_less=True)
        action = Signal(_Action, reset_less=True)

        # Everything is looked up by the member at hand, at once.
        config: Any = self.config
        position: Any = self.position
        faulted: Any = self.faulted
        limit: Any = self.limit
        ring: Any = config.config
        told: Any = positions.told
        state: Any = states.read_data
        after: Any = Signal(_RingState())  # what the state becomes
        looks_up = Signal()
        m.d.comb += [
            config.queue.eq(sizes.queue(member)),
            states.read_address.eq(member),
            states.write_address.eq(member),
            states.write_data.eq(after),
            position.address.eq(member),
            faulted.address.eq(member),
            limit.address.eq(member),
            limit.enable.eq(looks_up),
            told.address.eq(member),
            told.enable.eq(looks_up),
            config.enable.eq(looks_up),
            states.read_enable.eq(looks_up),
            position.enable.eq(looks_up),
            faulted.enable.eq(looks_up),
        ]

        # JUDGE: plain differences of what was looked up.
        alive = Signal(reset_less=True)
        pending = Signal(16, reset_less=True)  # entries known and not read
        delta = Signal(16, reset_less=True)    # new ones
        used = Signal(16, reset_less=True)     # known before, and not taken by the consumer
        room_left = Signal(16, reset_less=True)  # entries that the driver can have added since
        positioned = Signal(reset_less=True)     # KICK: the driver told its index, and it can count
        run = Signal(range(BURST_MAX + 1), reset_less=True)  # entries up to the ring's end
        behind = Signal(16)                    # of those, without the first
        packed: Any = ring.modes.ring_packed
        place = Signal(16)                     # in the ring, of the next entry to read
        first_run = Signal.like(run)           # places to look at where little is known
        run_ends = Signal(reset_less=True)     # the run ends with the ring; likewise the short one
        first_run_ends = Signal(reset_less=True)
        # Places of a packed ring that a look ahead may ask for: up to where it was seen to be
        # available one lap ago. Behind that it may still hold what is two laps old, which looks
        # available.
        slack = Signal(16, reset_less=True)
        open_chains = Signal(16, reset_less=True)  # fetched and not complete (packed: places)
        held_back = Signal(reset_less=True)        # enough of them
        order = Signal(4, reset_less=True)

        # DECIDE
        chosen = Signal(_Action)
        requeue = Signal()
        count = Signal(range(BURST_MAX + 1))
        index = Signal(sizes.index_bits)
        m.d.comb += [
            place.eq(Mux(packed, packed_place(state.fetch), state.fetch & (ring.size - 1))),
            behind.eq(ring.size + ~place),
            first_run.eq(Mux(run < _FIRST_SLOTS, run, _FIRST_SLOTS)),
            count.eq(Mux(packed, Mux(state.rich, run, first_run),
                         Mux(pending < run, pending, run))),
            index.eq(place),
        ]
        # The position behind the places of a look.
        ahead = Signal(16)
        m.d.comb += ahead.eq(packed_position((place + count)[:15], state.fetch[15]))
        with m.If(Mux(state.rich, run_ends, first_run_ends)):
            m.d.comb += ahead.eq(packed_position(Const(0, 15), ~state.fetch[15]))
        self._decide(m, event, chosen, after, requeue, state=state, alive=alive,
                     pending=pending, delta=delta, used=used, size=ring.size, count=count,
                     answer=answer, silent=silent, by_event=ring.modes.event_idx, packed=packed,
                     ahead=ahead, roomy=slack >= BURST_MAX, held_back=held_back)

        # ISSUE
        read: Any = Signal(ReadRequestLayout(sizes.lanes, self._context.size), reset_less=True)
        context: Any = data.View(self._context, read.context)
        flag_address = Signal(64, reset_less=True)
        requeues = Signal()  # the member is to be put on the list of visits
        issues = Signal()    # the action is to be done
        issued = Signal()
        m.d.comb += [
            self.reads.payload.eq(read),
            visits.add.payload.eq(member),
            self.flags.p.member.eq(member),
            self.flags.p.address.eq(flag_address),
            self.flags.p.value.eq(
                Mux(ring.modes.event_idx, state.known, action == _Action.HUSH)),
            self.flags.p.wide.eq(packed),
            self.flags.p.silent.eq(action == _Action.HUSH),
            self.faults.p.member.eq(member),
            self.faults.p.address.eq(ring.driver),
            self.faults.p.reason.eq(read_fault(answer.error, FaultReason.INDEX_JUMP)),
            self.obligations.p.queue.eq(sizes.queue(member)),
            self.stopped.p.member.eq(member),
            self.stopped.p.order.eq(order),
            self.stopped.p.top.eq(ring.size - 1),
            self.stopped.p.packed.eq(packed & (~forget | loads)),
            self.stopped.p.reset.eq(forget),
            self.stopped.p.position.eq(state.known),
        ]

        with m.If(packed):
            m.d.comb += self.flags.p.value.eq(Mux(
                ring.modes.event_idx,
                Cat(state.known[:15], ~state.known[15], Const(_FLAG_EVENT, 16)),
                Cat(Const(0, 16), Mux(action == _Action.HUSH, _FLAG_DISABLE, 0))))

        outstanding = Signal(range(self.answers_max + 1))  # index reads, answers included
        looks = Signal()
        answered = Signal()
        m.d.comb += [
            looks.eq(self.reads.valid & self.reads.ready & (action == _Action.LOOK)),
            answered.eq(self.index_answers.valid & self.index_answers.ready),
        ]
        m.d.sync += outstanding.eq(outstanding + looks - answered)
        bursts = Signal(range(self.bursts_max + 1))  # reads of entries
        reads_ring = Signal()
        m.d.comb += reads_ring.eq(self.reads.valid & self.reads.ready & (action == _Action.RING))
        m.d.sync += bursts.eq(bursts + reads_ring - self.ring_done)
        favour_visits = Signal()
        room = Signal()
        may_visit = Signal()
        slots = Signal(range(self.slots_max + 1), init=self.slots_max)
        slots_finished = Signal.like(self.slots_finished)
        slots_room = Signal(init=1)
        takes_slots = Signal()
        m.d.comb += [
            room.eq((bursts != self.bursts_max) & self.flags_room),
            may_visit.eq(room & (outstanding != self.answers_max) & slots_room),
        ]
        m.d.comb += takes_slots.eq(looks & (context.kind == ReadKind.SLOTS))
        m.d.sync += [
            slots_finished.eq(self.slots_finished),
            slots.eq(slots + slots_finished - Mux(takes_slots, BURST_MAX, 0)),
            # A cycle late: no look comes so soon after another.
            slots_room.eq(slots >= BURST_MAX),
        ]

        with m.FSM():
            with m.State("IDLE"):
                # What ends something comes first: it makes room for others.
                with m.If(self.flags_done.valid):
                    m.d.comb += self.flags_done.ready.eq(1)
                    m.d.sync += [event.eq(_Event.FLAG), member.eq(self.flags_done.p.member),
                                 silent.eq(self.flags_done.p.silent)]
                    m.next = "LOOK-UP"
                with m.Elif(self.stops.valid):
                    m.d.comb += self.stops.ready.eq(1)
                    m.d.sync += [event.eq(_Event.STOP), member.eq(self.stops.p.queue >> 1),
                                 forget.eq(self.stops.p.reset), loads.eq(self.stops.p.load),
                                 loaded.eq(self.stops.p.position)]
                    m.next = "LOOK-UP"
                with m.Elif(self.index_answers.valid & room):
                    m.d.comb += self.index_answers.ready.eq(1)
                    m.d.sync += [event.eq(_Event.INDEX), member.eq(self.index_answers.p.member),
                                 answer.eq(self.index_answers.payload)]
                    m.next = "LOOK-UP"
                with m.Elif(visits.take.valid & may_visit & (favour_visits | ~kicks.take.valid)):
                    m.d.comb += visits.take.ready.eq(1)
                    m.d.sync += [event.eq(_Event.VISIT), member.eq(visits.take.payload),
                                 favour_visits.eq(0)]
                    m.next = "OBLIGE"
                with m.Elif(kicks.take.valid & may_visit):
                    m.d.comb += kicks.take.ready.eq(1)
                    m.d.sync += [event.eq(_Event.KICK), member.eq(kicks.take.payload),
                                 favour_visits.eq(1)]
                    m.next = "OBLIGE"
            with m.State("OBLIGE"):
                m.d.comb += [self.obligations.valid.eq(1), self.obligations.p.delta.eq(1)]
                with m.If(self.obligations.ready):
                    m.next = "OBLIGED"
            with m.State("OBLIGED"):
                # Only what the counter has seen keeps this queue from being stopped.
                with m.If(self.obliged):
                    m.next = "LOOK-UP"
            with m.State("LOOK-UP"):
                m.d.comb += looks_up.eq(1)
                m.next = "JUDGE"
            with m.State("JUDGE"):
                known = Mux(event == _Event.INDEX, answer.index, state.known)
                m.d.sync += [
                    alive.eq(ring.running & ~faulted.data),
                    pending.eq(Mux(packed, 0, known - state.fetch)),
                    delta.eq(Mux(event == _Event.KICK, told.data.position, answer.index)
                             - state.known),
                    used.eq(state.known - position.data),
                    room_left.eq(ring.size - (state.known - position.data)),
                    positioned.eq(ring.modes.notification_data & told.data.positioned
                                  & (state.flight == 0) & ~packed),
                    run.eq(Mux(behind >= BURST_MAX, BURST_MAX, behind[:5] + 1)),
                    run_ends.eq(behind < BURST_MAX),
                    first_run_ends.eq(behind < _FIRST_SLOTS),
                    slack.eq(Mux(state.fetch[15] == state.known[15], ring.size, 0)
                             + packed_place(state.known) - packed_place(state.fetch)),
                    order.eq(_log2(ring.size)),
                    open_chains.eq(state.fetch - limit.data),
                    held_back.eq(0),
                ]
                with m.If(packed):
                    m.d.sync += open_chains.eq(
                        Mux(state.fetch[15] == limit.data[15], 0, ring.size)
                        + packed_place(state.fetch) - packed_place(limit.data))
                m.next = "DECIDE"
                with m.If(event == _Event.STOP):
                    m.next = "FORGET"
                with m.Elif(ring.modes.indirect_desc):
                    m.next = "BOUND"
                with m.Elif(event == _Event.KICK):
                    m.next = "POSITION"
            with m.State("BOUND"):
                m.d.sync += held_back.eq(open_chains >= OPEN_MAX)
                m.next = "DECIDE"
                with m.If(event == _Event.KICK):
                    m.next = "POSITION"
            with m.State("POSITION"):
                # What was told counts as an answer, if it can be true.
                with m.If(positioned & (delta != 0) & (delta <= room_left)):
                    m.d.sync += [
                        event.eq(_Event.INDEX), answer.index.eq(told.data.position),
                        answer.error.eq(0), pending.eq(told.data.position - state.fetch),
                    ]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.comb += states.write_enable.eq(1)
                m.d.sync += [
                    action.eq(chosen),
                    requeues.eq(requeue),
                    issues.eq(1),
                    read.eq(0),
                    read.function.eq(sizes.function(member)),
                    read.queue.eq(sizes.queue(member)),
                    read.last.eq(1),
                    read.address.eq(ring.driver + ((index << 1) + _RING_OFFSET)),
                    read.length.eq(count << 1),
                    context.kind.eq(ReadKind.RING),
                    context.member.eq(member),
                    context.order.eq(order),
                    context.top.eq(ring.size - 1),
                    context.index.eq(index),
                    context.lap.eq(Mux(packed, state.fetch[15], lap_of(state.fetch, order))),
                    context.count.eq(count),
                    context.trusted.eq(state.flight == 0),
                    context.packed.eq(packed),
                    context.indirect.eq(ring.modes.indirect_desc),
                    # The size is a power of two: nothing is carried.
                    flag_address.eq(ring.device + Mux(
                        ring.modes.event_idx & ~packed,
                        _RING_OFFSET | Cat(Const(0, 3), ring.size), 0)),
                ]
                with m.If(chosen == _Action.LOOK):
                    m.d.sync += [
                        read.address.eq(ring.driver + _INDEX_OFFSET),
                        read.length.eq(_INDEX_BYTES),
                        read.fenced.eq(state.fence),
                        context.kind.eq(ReadKind.INDEX),
                    ]
                    with m.If(packed):
                        m.d.sync += [
                            read.address.eq(ring.desc + (index << 4)),
                            read.length.eq(count << 4),
                            context.kind.eq(ReadKind.SLOTS),
                            context.descriptor.eq(index),
                        ]
                m.next = "ISSUE"
            with m.State("ISSUE"):
                m.d.comb += [
                    visits.add.valid.eq(requeues),
                    self.reads.valid.eq(
                        issues & ((action == _Action.RING) | (action == _Action.LOOK))),
                    self.flags.valid.eq(
                        issues & ((action == _Action.HUSH) | (action == _Action.LISTEN))),
                    self.faults.valid.eq(issues & (action == _Action.FAULT)),
                    self.obligations.valid.eq(issues & (action == _Action.RELEASE)),
                    self.obligations.p.delta.eq(-1),
                    issued.eq((self.reads.valid & self.reads.ready)
                              | (self.flags.valid & self.flags.ready)
                              | (self.obligations.valid & self.obligations.ready)),
                ]
                with m.If(visits.add.ready):
                    m.d.sync += requeues.eq(0)
                with m.If(issued):
                    m.d.sync += issues.eq(0)
                with m.If(self.faults.valid & self.faults.ready):
                    m.d.sync += action.eq(_Action.RELEASE)
                with m.If((issued | ~issues) & (visits.add.ready | ~requeues)):
                    m.next = "IDLE"
            with m.State("FORGET"):
                # All but what the driver sees: the flag in its memory stays as it is.
                # Of a ring that another device has used: it may show that no kicks are wanted.
                begin = Mux(loads, loaded, Mux(packed, 0, self.first_position))
                m.d.comb += [
                    after.eq(0),
                    after.known.eq(Mux(forget, begin, position.data)),
                    after.fetch.eq(Mux(forget, begin, position.data)),
                    after.quiet.eq(Mux(forget, loads, state.quiet)),
                    states.write_enable.eq(1),
                ]
                m.d.comb += [
                    positions.forget.valid.eq(forget),
                    positions.forget.p.member.eq(member),
                    positions.forget.p.position.eq(begin),
                ]
                with m.If(~forget | positions.forget.ready):
                    m.next = "STOPPED"
            with m.State("STOPPED"):
                # What the memory holds out is the new state already.
                m.d.comb += self.stopped.valid.eq(1)
                with m.If(self.stopped.ready):
                    m.next = "IDLE"
        return m

    def _decide(self, m: Module, event: Any, chosen: Any, after: Any, requeue: Signal, *,
                state: Any, alive: Signal, pending: Signal, delta: Signal, used: Signal,
                size: Value, count: Signal, answer: Any, silent: Signal, by_event: Value,
                packed: Value, ahead: Signal, roomy: Value, held_back: Signal) -> None:
        """Choose what is done about the event, and what the state becomes."""
        quiet = Signal()  # the driver does not kick
        new = Signal()
        many = Signal()
        bad = Signal()
        total = Signal(17)
        look = Signal()
        more = Signal()  # looks at a packed ring: one more may follow those on their way
        rest = Signal(3) # on their way, without this one
        m.d.comb += [
            new.eq(Mux(packed, answer.found != 0, delta != 0)),
            many.eq(Mux(packed, answer.found, delta) >= _BUSY_ENTRIES),
            total.eq(used + delta),
            more.eq(packed & roomy & state.rich
                    & (state.flight != 0) & (state.flight != _AHEAD_MAX)),
            rest.eq(Mux(state.flight == 0, 0, state.flight - 1)),  # 0: the index was told
            # More available than the ring has entries: also when the index went backwards.
            bad.eq(~packed & ((total > size) | (Value.cast(answer.error) != 0))),
            quiet.eq(Mux(by_event, ~state.armed, state.quiet)),
            after.eq(state),
            chosen.eq(_Action.RELEASE),
        ]
        with m.Switch(Value.cast(event)):
            with m.Case(_Event.KICK, _Event.VISIT):
                kicked = event == _Event.KICK
                m.d.comb += [
                    look.eq(state.look | (kicked & (state.flight == 0))),
                    after.look.eq(look),
                    after.again.eq(state.again | (kicked & (state.flight != 0))),
                ]
                with m.If(alive):
                    with m.If(pending != 0):
                        with m.If(~held_back):
                            m.d.comb += [chosen.eq(_Action.RING),
                                         after.fetch.eq(state.fetch + count)]
                    with m.Elif(state.hush):
                        m.d.comb += [
                            chosen.eq(Mux(by_event, _Action.LISTEN, _Action.HUSH)),
                            after.hush.eq(0), after.quiet.eq(~by_event), after.armed.eq(by_event),
                        ]
                    with m.Elif(((look & (state.flight == 0)) | more) & ~(packed & held_back)):
                        m.d.comb += [chosen.eq(_Action.LOOK), after.look.eq(0),
                                     after.flight.eq(state.flight + 1), after.fence.eq(0)]
                        with m.If(packed):
                            m.d.comb += after.fetch.eq(ahead)
            with m.Case(_Event.INDEX):
                m.d.comb += [after.flight.eq(rest), after.again.eq(state.again & (rest != 0))]
                with m.If(alive & bad):
                    m.d.comb += chosen.eq(_Action.FAULT)
                with m.Elif(alive):
                    # While the driver does not kick, each look that found something is followed by
                    # another.
                    m.d.comb += [
                        look.eq(state.look | (state.again & (rest == 0))
                                | (new & (quiet | many))
                                # There may be more, which the driver needs not kick for.
                                | (packed & (answer.partial | answer.full))),
                        after.known.eq(answer.index),
                        after.look.eq(look),
                        after.rich.eq(packed & answer.full),
                        after.armed.eq(state.armed & ~new),
                        after.hush.eq(Mux(by_event,
                                          Mux(new, state.armed & ~many, state.hush),
                                          new & ~quiet & (state.hush | many))),
                    ]
                    with m.If(packed & ~answer.full):
                        m.d.comb += after.fetch.eq(answer.index)
                    with m.If(pending != 0):
                        with m.If(~held_back):
                            m.d.comb += [chosen.eq(_Action.RING),
                                         after.fetch.eq(state.fetch + count)]
                    with m.Elif(quiet & ~look):
                        m.d.comb += [chosen.eq(_Action.LISTEN), after.quiet.eq(0),
                                     after.hush.eq(0), after.armed.eq(by_event)]
            with m.Case(_Event.FLAG):
                # What the driver added before it could see the flag clear came without a kick.
                with m.If(~silent):
                    m.d.comb += [
                        after.fence.eq(1),
                        after.look.eq(state.look | (state.flight == 0)),
                        after.again.eq(state.again | (state.flight != 0)),
                    ]
        m.d.comb += requeue.eq(
            alive & (chosen != _Action.FAULT)
            & (((chosen == _Action.RING) & (pending != count)) | after.hush
               | ((pending != 0) & held_back)
               | (after.look & (after.flight == 0))
               | (packed & after.rich & (roomy | (event == _Event.INDEX))
                  & (after.flight != 0) & (after.flight != _AHEAD_MAX))))


def _log2(one_hot: Value) -> Value:
    """Number of the one bit that is set, of 16."""
    return Cat(Cat(one_hot[k] for k in range(16) if k >> bit & 1).any() for bit in range(4))
