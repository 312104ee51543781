"""Available rings: when to look, which entries to read, which kicks to ask for."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.types import ReadRequestLayout
from hw.stream.arbiter import lowest
from hw.stream.connect import connect_streams
from hw.stream.memory import ForwardingMemory
from hw.stream.register import SkidRegister
from hw.virtio.prefetch_types import (
    BURST_MAX,
    IN_PIPELINE,
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
    read_fault,
)
from hw.virtio.ring_decision import (
    FIRST_SLOTS,
    SURE_BITS,
    JudgedLayout,
    RingAction,
    RingDecision,
    RingEvent,
    RingState,
)
from hw.virtio.ring_issue import IssueLayout, RingIssue
from hw.virtio.ring_visits import RingVisits
from hw.virtio.told_positions import ToldPositions
from hw.virtio.types import (
    DoorbellLayout,
    FaultReason,
    ObligationLayout,
    QueueCommandLayout,
    QueueConfigSignature,
)

__all__ = ["SLOTS_LEAST", "AvailableRing"]

SLOTS_LEAST = IN_PIPELINE * BURST_MAX
"""Fewer places of packed rings do not do."""

_INDEX_OFFSET = 2
_INDEX_BYTES = 2
_RING_OFFSET = 4

_FLAG_DISABLE, _FLAG_EVENT = 1, 2  # of a packed ring's event suppression; 0 enables


class AvailableRing(wiring.Component):
    """Look at available rings: the index first, then the entries that it shows, in bursts.

    ::

        kicks, visits ─► RingVisits ─► turns ──┐ look up    ┌────────┐    ┌────────┐    ┌───────┐
        indices that were read ────────────────┼──────────► │ judged │ ─► │decided │ ─► │ issue │─►
        flags that were written, stops ────────┘  state ◄── └────────┘    └────────┘    └───────┘

    A pipeline over events of all members: a kick, a visit, an index that was read, a suppression
    flag that was written. Each event holds one obligation, and hands it to the read or write that
    it starts, or gives it back. What is left to do puts the member on the list of visits. Events of
    one member are two cycles apart, so that each sees what the one before it left.

    *Kicks.* A kick means one look at the index, or one more if a look is on its way. When one
    look shows `_BUSY_ENTRIES` or more new entries, the card writes NO_NOTIFY and from then on
    looks by itself as long as that brings new entries. When it does not, NO_NOTIFY is cleared,
    and after that write stands in the order of writes a *fenced* look follows: the driver either
    sees the flag clear and kicks, or its index was written before that look.

    *EVENT_IDX.* The driver kicks for the entry that avail_event names. Any new entry disarms it, so
    there is nothing to write for silence: the card looks by itself as long as that brings new
    entries, if the first look found many; else it arms again at once, with the fenced look behind.
    Where looking by itself was in vain it does that from then on, until such a fenced look
    finds something: so many queues that share the wire cost no looks that find nothing.

    *NOTIFICATION_DATA.* A position that is told, and lies ahead by no more than the ring has room
    for, is taken as what a look found. Any other makes a plain kick, and so does one that comes
    while a look is on its way.

    *Packed rings.* A look reads places of the ring itself, and its answer is what
    `DescriptorParser` reports of them. Where nothing is known to be there, a look is a short one.
    With each that finds all that it asks for one more may be on its way, behind the others, up to
    6 and less than a lap in all. When one finds less, those behind it were in vain: half as many
    may follow, and the next look begins where it ended, when they are back. A position that is
    told says up to where looks are not in vain. For the rest it is as above, with the device event
    suppression structure in place of NO_NOTIFY and avail_event.

    *Tables* may wait for cells, and so for chains to be taken. Of a queue with INDIRECT_DESC no
    more is fetched while `OPEN_MAX` chains are not complete: so those that wait never take the
    places of other queues. It is visited now and then meanwhile.

    *Rooms.* An answer must never wait for another one. So an index is read only when there is
    room for its answer (`answers_max`), and likewise ring entries (`bursts_max`).

    | Latency: 7 cycles from a doorbell to the read of the index (or of entries, where the position
      was told), 3 from its answer to the read of entries.
    | Throughput: an event a cycle (two for a member), each up to 32 entries.
    | Storage: 77 bits a member, 34 of what was told, and three lists.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.
    answers_max
        Index reads on their way, their answers included until they are taken here; 8 at least.
    bursts_max
        Reads of entries on their way, until ``ring_done``; 8 at least.
    slots_max
        Places of packed rings whose chains may still go on somewhere, at least `SLOTS_LEAST`.
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
        Begun only while ``flags_room``.
    flags_room : In(1)
        For `IN_PIPELINE` of them.
    flags_done : In(stream.Signature(NotifyFlagLayout(sizes)))
        Comes after the acceptance of each flag write.
    obligations, returns : Out(stream.Signature(ObligationLayout()))
        Taken on, and given back.
    obliged : In(1)
        An obligation that was taken on has reached its counter (a pulse).
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
    returns: stream.Interface
    obliged: Signal
    faults: stream.Interface
    stops: stream.Interface
    stopped: stream.Interface

    def __init__(self, sizes: PrefetchSizes, *, answers_max: int, bursts_max: int,
                 slots_max: int, first_position: int = 0) -> None:
        if slots_max < SLOTS_LEAST:
            raise ValueError(f"slots_max must be at least {SLOTS_LEAST}, not {slots_max!r}")
        for name, value in (("answers_max", answers_max), ("bursts_max", bursts_max)):
            if value < IN_PIPELINE + 3:
                raise ValueError(f"{name} must be at least {IN_PIPELINE + 3}, not {value!r}")
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
            "returns": Out(stream.Signature(ObligationLayout())),
            "obliged": In(1),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
            "stops": In(stream.Signature(QueueCommandLayout())),
            "stopped": Out(stream.Signature(DiscardLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        m.submodules.visits = visits = RingVisits(sizes)
        m.submodules.states = states = ForwardingMemory(RingState(), sizes.members)
        m.submodules.positions = positions = ToldPositions(sizes)
        m.submodules.decision = decision = RingDecision(sizes)
        m.submodules.issue = issue = RingIssue(sizes)
        connect_streams(m, flipped(self.doorbells), positions.doorbells)
        connect_streams(m, positions.kicks, visits.kicks)
        connect_streams(m, visits.obligations, flipped(self.obligations))
        # Where the parts of an issue take their turns is not felt here in the same cycle.
        m.submodules.ordered = ordered = SkidRegister(IssueLayout(sizes))
        connect_streams(m, ordered.o, issue.i)
        connect_streams(m, issue.visits, visits.visits)
        connect_streams(m, issue.waits, visits.waits)
        connect_streams(m, issue.forget, positions.forget)
        for name in ("reads", "flags", "faults", "returns", "stopped"):
            connect_streams(m, getattr(issue, name), flipped(getattr(self, name)))
        m.d.comb += visits.obliged.eq(self.obliged)

        judges = Signal()   # an event is being judged
        decides = Signal()  # what was judged is being decided about
        judge_free = Signal()
        decide_free = Signal()
        m.d.comb += [
            decide_free.eq(~decides | ordered.i.ready),
            judge_free.eq(~judges | decide_free),
        ]
        looks = Signal()
        event, member = self._choose(m, visits, looks, judges=judges, free=judge_free)
        self._look_up(m, member, states, positions, looks)
        judged: Any = Signal(JudgedLayout(sizes), reset_less=True)
        with m.If(decide_free):
            m.d.sync += decides.eq(judges)
        self._judge(m, event, states, positions, judged, free=decide_free)

        # The state is written at once, however long the rest takes: so the next event of the
        # member, which comes into judgement when this one has left it, sees it.
        writes = Signal()
        m.d.sync += writes.eq(judges & decide_free)
        m.d.comb += [
            decision.judged.eq(judged),
            states.write_enable.eq(writes),
            states.write_address.eq(judged.member),
            states.write_data.eq(decision.after),
            ordered.i.valid.eq(decides),
        ]
        self._order(m, judged, decision, ordered.i.p)
        return m

    def _choose(self, m: Module, visits: RingVisits, looks: Signal, *, judges: Signal,
                free: Signal) -> tuple[Any, Signal]:
        """Choose an event; give it as it is kept, and its member as it is chosen (``looks``)."""
        sizes = self.sizes
        answers_room, visits_room = self._rooms(m)
        layout = data.StructLayout({
            "event": RingEvent, "member": sizes.member_bits, "answer": IndexAnswerLayout(sizes),
            "silent": 1, "forget": 1, "load": 1, "position": 16,
        })
        kept: Any = Signal(layout, reset_less=True)
        # What ends something comes first: it makes room for others.
        turn = visits.turns
        sources: list[tuple[Any, Value, Value | int, Any]] = [
            (flipped(self.flags_done), self.flags_done.p.member, 1, RingEvent.FLAG),
            (flipped(self.stops), self.stops.p.queue >> 1, 1, RingEvent.STOP),
            (flipped(self.index_answers), self.index_answers.p.member, answers_room,
             RingEvent.INDEX),
            (turn, turn.p.member, visits_room,
             Mux(turn.p.kicked, RingEvent.KICK, RingEvent.VISIT)),
        ]
        # The event in judgement has not left its state yet.
        wanted = Signal(len(sources))
        grants = Signal(len(sources))
        m.d.comb += grants.eq(lowest(wanted))
        chosen_member = Signal(sizes.member_bits)
        words = []
        for index, (source, member, room, event) in enumerate(sources):
            clash = Signal(name=f"clash_{index}")
            m.d.comb += [
                clash.eq(judges & (member[:sizes.member_bits] == kept.member)),
                wanted[index].eq(source.valid & room & ~clash),
                source.ready.eq(grants[index] & free),
            ]
            words.append(Mux(grants[index], Cat(member[:sizes.member_bits], event), 0))
        word = Signal(sizes.member_bits + 3)
        m.d.comb += [
            word.eq(reduce(or_, words)),
            chosen_member.eq(word[:sizes.member_bits]),
            looks.eq(free & wanted.any()),
        ]
        with m.If(free):
            m.d.sync += [
                judges.eq(looks),
                kept.member.eq(chosen_member),
                Value.cast(kept.event).eq(word[sizes.member_bits:]),
                kept.answer.eq(self.index_answers.payload),
                kept.silent.eq(self.flags_done.p.silent),
                kept.forget.eq(self.stops.p.reset),
                kept.load.eq(self.stops.p.load),
                kept.position.eq(self.stops.p.position),
            ]
        return kept, chosen_member

    def _rooms(self, m: Module) -> tuple[Signal, Signal]:
        """Whether there is room for what the answer to an index may lead to, and a visit."""
        outstanding = Signal(range(self.answers_max + 1))  # index reads, answers included
        bursts = Signal(range(self.bursts_max + 1))        # reads of entries
        slots = Signal(range(self.slots_max + 1), init=self.slots_max)
        slots_finished = Signal.like(self.slots_finished)
        answers_room = Signal()
        visits_room = Signal()
        context: Any = data.View(self._context, self.reads.p.context)
        moves = Signal()
        reads_index = Signal()
        reads_ring = Signal()
        reads_slots = Signal()
        m.d.comb += [
            moves.eq(self.reads.valid & self.reads.ready),
            reads_ring.eq(moves & (context.kind == ReadKind.RING)),
            reads_slots.eq(moves & (context.kind == ReadKind.SLOTS)),
            reads_index.eq(moves & ~reads_ring),
        ]
        m.d.sync += [
            outstanding.eq(outstanding + reads_index
                           - (self.index_answers.valid & self.index_answers.ready)),
            bursts.eq(bursts + reads_ring - self.ring_done),
            slots_finished.eq(self.slots_finished),
            slots.eq(slots + slots_finished - Mux(reads_slots, BURST_MAX, 0)),
            answers_room.eq((bursts <= self.bursts_max - IN_PIPELINE) & self.flags_room),
            visits_room.eq((bursts <= self.bursts_max - IN_PIPELINE) & self.flags_room
                           & (outstanding <= self.answers_max - IN_PIPELINE)
                           & (slots >= SLOTS_LEAST)),
        ]
        return answers_room, visits_room

    def _look_up(self, m: Module, member: Signal, states: ForwardingMemory,
                 positions: ToldPositions, looks: Signal) -> None:
        """Look everything up by the member that is chosen, at once."""
        config: Any = self.config
        m.d.comb += [
            config.queue.eq(self.sizes.queue(member)),
            config.enable.eq(looks),
            states.read_address.eq(member),
            states.read_enable.eq(looks),
        ]
        for lookup in (self.position, self.faulted, self.limit, positions.told):
            port: Any = lookup
            m.d.comb += [port.address.eq(member), port.enable.eq(looks)]

    def _judge(self, m: Module, event: Any, states: ForwardingMemory, positions: ToldPositions,
               judged: Any, *, free: Signal) -> None:
        """Add up what was looked up, and keep it when there is a place (``free``)."""
        config: Any = self.config
        position: Any = self.position
        faulted: Any = self.faulted
        limit: Any = self.limit
        ring: Any = config.config
        told: Any = positions.told.data
        state: Any = states.read_data
        packed = ring.modes.ring_packed
        kicked = event.event == RingEvent.KICK
        place = Signal(16)   # in the ring, of the next entry to read
        behind = Signal(16)  # places up to the ring's end, without that
        known = Signal(16)   # entries, with those of the answer
        news = Signal(16)    # that were told; since the consumer's position likewise
        held = Signal(16)
        counts = Signal()    # what was told counts as an answer
        ahead = Signal(16)   # places up to the one that was told
        begin = Mux(event.load, event.position, Mux(packed, 0, self.first_position))
        m.d.comb += [
            place.eq(Mux(packed, packed_place(state.fetch), state.fetch & (ring.size - 1))),
            behind.eq(ring.size + ~place),
            known.eq(Mux(event.event == RingEvent.INDEX, event.answer.index, state.known)),
            news.eq(told.position - state.known),
            held.eq(told.position - position.data),
            counts.eq(kicked & ring.modes.notification_data & told.positioned & ~packed
                      & (state.flight == 0) & (news != 0) & (news <= ring.size)
                      & (held != 0) & (held <= ring.size)),
            # The wrap counter is the lap turned round: where they look alike, the laps differ.
            ahead.eq(Mux(told.latest[15] == state.fetch[15], ring.size, 0)
                     + told.latest[:15] - place),
        ]
        tells = ((kicked | state.told) & (state.flight == 0) & ring.modes.notification_data
                 & told.tells & (ahead <= ring.size))
        # Up to where the ring was seen to be available one lap ago. Behind that it may still hold
        # what is two laps old, which looks available.
        seen = (Mux(state.fetch[15] == state.known[15], ring.size, 0)
                + packed_place(state.known) - packed_place(state.fetch))
        unsure = Mux(state.streak != 0, BURST_MAX, FIRST_SLOTS)

        def up_to(places: Value) -> Value:  # found for each before one of them is chosen
            return Mux(places == 0, unsure, Mux(places < BURST_MAX, places[:6], BURST_MAX))

        sure = Mux(tells, Mux(ahead < 1 << SURE_BITS, ahead, (1 << SURE_BITS) - 1), state.sure)
        run_ends = behind < BURST_MAX
        with m.If(free):
            m.d.sync += [
                judged.event.eq(event.event),
                judged.member.eq(event.member),
                judged.answer.eq(event.answer),
                judged.silent.eq(event.silent),
                judged.forget.eq(event.forget),
                judged.load.eq(event.load),
                judged.begin.eq(Mux(event.forget, begin, position.data)),
                judged.alive.eq(ring.running & ~faulted.data),
                judged.state.eq(state),
                judged.pending.eq(Mux(packed, 0, known - state.fetch)),
                judged.delta.eq(event.answer.index - state.known),
                judged.room.eq(ring.size - (state.known - position.data)[:16]),
                judged.size.eq(ring.size),
                judged.order.eq(_log2(ring.size)),
                judged.place.eq(place),
                judged.run.eq(Mux(run_ends, behind[:5] + 1, BURST_MAX)),
                judged.run_ends.eq(run_ends),
                judged.sure.eq(sure),
                judged.want.eq(Mux(tells, up_to(ahead), up_to(state.sure))),
                judged.roomy.eq(seen >= BURST_MAX),
                judged.held.eq(ring.modes.indirect_desc & (
                    Mux(packed, Mux(state.fetch[15] == limit.data[15], 0, ring.size)
                        + packed_place(state.fetch) - packed_place(limit.data),
                        (state.fetch - limit.data)[:16]) >= OPEN_MAX)),
                judged.packed.eq(packed),
                judged.by_event.eq(ring.modes.event_idx),
                judged.indirect.eq(ring.modes.indirect_desc),
                judged.entries.eq(Mux(packed, ring.desc, ring.driver)
                                  + Mux(packed, place << 4, (place << 1) + _RING_OFFSET)),
                judged.index.eq(ring.driver + _INDEX_OFFSET),
                # The size is a power of two: nothing is carried.
                judged.flag.eq(ring.device + Mux(ring.modes.event_idx & ~packed,
                                                 _RING_OFFSET | Cat(Const(0, 3), ring.size), 0)),
            ]
            with m.If(counts):
                m.d.sync += [
                    judged.event.eq(RingEvent.INDEX),
                    judged.answer.index.eq(told.position),
                    judged.answer.error.eq(0),
                    judged.pending.eq(told.position - state.fetch),
                    judged.delta.eq(news),
                ]

    def _order(self, m: Module, judged: Any, decision: RingDecision, issue: Any) -> None:
        """Say what is to be done."""
        action: Any = decision.action
        after: Any = decision.after
        state, packed, place, top = judged.state, judged.packed, judged.place, judged.size - 1
        context, discard = issue.context, issue.discard
        m.d.comb += [
            issue.action.eq(action),
            issue.member.eq(judged.member),
            issue.address.eq(judged.entries),
            issue.length.eq(Mux(packed, decision.count << 4, decision.count << 1)),
            issue.revisit.eq(decision.revisit),
            issue.wait.eq(decision.wait),
            # Chains of a packed ring's look that go on in tables have obligations of their own, but
            # only from the end of its answer on; in a queue that is stopped, the first ones are
            # given up, and theirs given back, before that. What the look lends outweighs them.
            issue.lend.eq((action == RingAction.LOOK) & packed & judged.indirect),
            issue.repay.eq((judged.event == RingEvent.INDEX) & packed & judged.indirect),
            issue.wide.eq(packed),
            issue.reason.eq(read_fault(judged.answer.error, FaultReason.INDEX_JUMP)),
            context.kind.eq(ReadKind.RING),
            context.member.eq(judged.member),
            context.order.eq(judged.order),
            context.top.eq(top),
            context.index.eq(place),
            context.lap.eq(Mux(packed, state.fetch[15], lap_of(state.fetch, judged.order))),
            context.count.eq(decision.count),
            context.trusted.eq(state.flight == 0),
            context.packed.eq(packed),
            context.indirect.eq(judged.indirect),
            discard.member.eq(judged.member),
            discard.order.eq(judged.order),
            discard.top.eq(top),
            discard.packed.eq(packed & (~judged.forget | judged.load)),
            discard.reset.eq(judged.forget),
            discard.position.eq(judged.begin),
        ]
        with m.Switch(Value.cast(action)):
            with m.Case(RingAction.LOOK):
                m.d.comb += [
                    issue.fenced.eq(state.fence),
                    context.kind.eq(Mux(packed, ReadKind.SLOTS, ReadKind.INDEX)),
                ]
                with m.If(packed):
                    m.d.comb += context.descriptor.eq(place)
                with m.Else():
                    m.d.comb += [issue.address.eq(judged.index), issue.length.eq(_INDEX_BYTES)]
            with m.Case(RingAction.HUSH, RingAction.LISTEN):
                m.d.comb += issue.address.eq(judged.flag)
            with m.Case(RingAction.FAULT):
                m.d.comb += issue.address.eq(judged.index - _INDEX_OFFSET)
        hush = action == RingAction.HUSH
        known = after.known
        with m.If(packed):
            m.d.comb += issue.value.eq(Mux(
                judged.by_event,
                Cat(known[:15], ~known[15], Const(_FLAG_EVENT, 16)),
                Cat(Const(0, 16), Mux(hush, _FLAG_DISABLE, 0))))
        with m.Else():
            m.d.comb += issue.value.eq(Mux(judged.by_event, known, hush))


def _log2(one_hot: Value) -> Value:
    """Number of the one bit that is set, of 16."""
    return Cat(Cat(one_hot[k] for k in range(16) if k >> bit & 1).any() for bit in range(4))
