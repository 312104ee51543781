"""Proofs about who looks at an available ring, and that no work which is left is forgotten."""

from typing import Any
from unittest import mock

from amaranth import Cat, Const, Module, Mux, Signal, Value

from hw.virtio import ring_visits
from hw.virtio.prefetch_types import BURST_MAX, PrefetchSizes, packed_place
from hw.virtio.ring_decision import RingAction, RingDecision, RingEvent, RingState
from hw.virtio.ring_visits import RingVisits
from sim.formal import Harness, Proof
from tests.formal.ring_proofs import advance
from tests.formal.stream_proofs import Order

__all__ = ["PROOFS"]

_TURNS = 2
_WAIT_BITS = 2


def _sizes() -> PrefetchSizes:
    return PrefetchSizes(lanes=8, transmit=True, functions=1, stride=4, queue_size_max=16,
                         table_cells=8)


class VisitsAreMade(Harness):
    """`RingVisits` gives a member its turn if and only if it was kicked, or a visit or wait was
    asked for, since its last turn of that kind began; each turn has one obligation, of its own
    queue, and comes after that was counted, in order. Kicks and visits take
    turns, and each waits for no more than two others of its kind; whoever waits for some time is
    visited. With room for a turn the next one is offered.

    Two members, 2 turns on their way, who waits is looked at every 4 cycles. Kicks, visits and
    waits come, and turns are taken, at any time.
    """

    def build(self, m: Module) -> None:  # noqa: PLR0915  # one model
        sizes = _sizes()
        dut: Any = RingVisits(sizes)
        with mock.patch.object(ring_visits, "_TURNS", _TURNS), \
                mock.patch.object(ring_visits, "_WAIT_BITS", _WAIT_BITS):
            m.submodules.dut = inside = self.inside(dut)
        claimed = inside.submodules.claimed
        moves = inside.submodules.wait_list.take
        kicks = self.feed(m, dut.kicks, "kick")
        visits = self.feed(m, dut.visits, "visit")
        waits = self.feed(m, dut.waits, "wait")
        member = self.fixed(m, 1, "member")

        # A turn begins with its obligation.
        begins = self.drain(m, dut.obligations, "obligation")
        turn = claimed.i.p
        self.check(m, begins == (claimed.i.valid & claimed.i.ready), "an obligation each")
        self.check(m, ~begins | ((dut.obligations.p.queue == sizes.queue(turn.member))
                                 & (dut.obligations.p.delta == 1)), "of its queue")
        counted = Signal(range(_TURNS + 1))
        obliged = self.free(1, "obliged")
        self.assume(m, ~obliged | (counted != 0))
        m.d.comb += dut.obliged.eq(obliged)
        m.d.sync += counted.eq(counted + begins - obliged)
        turns = self.drain(m, dut.turns, "turn")
        order = Order(self, m, "turns", enters=begins, entering=Cat(turn.member, turn.kicked),
                      leaves=turns, leaving=Value.cast(dut.turns.payload), capacity=_TURNS)
        self.check(m, ~turns | (order.inside > counted) | obliged, "after it was counted")
        self.check(m, (order.inside == counted) | dut.turns.valid, "and then it comes")

        # What is asked for of one member.
        mine = begins & (turn.member == member)
        kicked, visited, waiting = Signal(), Signal(), Signal()
        moved = moves.valid & moves.ready & (moves.payload == member)
        self.check(m, ~(mine & turn.kicked) | kicked, "a kick's turn is for a kick")
        self.check(m, ~(mine & ~turn.kicked) | visited, "a visit's turn is for a visit")
        self.check(m, ~moved | waiting, "who waits was to wait")
        with m.If(mine & turn.kicked):
            m.d.sync += kicked.eq(0)
        with m.If(kicks & (dut.kicks.payload == member)):
            m.d.sync += kicked.eq(1)
        with m.If(moved):
            m.d.sync += waiting.eq(0)
        with m.If(waits & (dut.waits.payload == member)):
            m.d.sync += waiting.eq(1)
        # What stands between the arbiter and the list comes there behind a turn that begins.
        arbiter = inside.submodules.arbiter
        stands = arbiter.o.valid & (arbiter.o.payload == member)
        with m.If(mine & ~turn.kicked):
            m.d.sync += visited.eq(stands)
        with m.If((visits & (dut.visits.payload == member)) | moved):
            m.d.sync += visited.eq(1)

        # Nobody waits for ever.
        for name, asked, served in (("kick", kicked, mine & turn.kicked),
                                    ("visit", visited, mine & ~turn.kicked)):
            passed = Signal(3, name=f"{name}_passed")
            idle = Signal(3, name=f"{name}_idle")
            m.d.sync += [
                passed.eq(Mux(asked & ~served, passed + (begins & (passed != 7)), 0)),
                idle.eq(Mux(asked & ~served & ~dut.obligations.valid & (order.inside != _TURNS),
                            idle + (idle != 7), 0)),
            ]
            self.check(m, passed <= 5, f"a {name} waits for two others at most")
            self.check(m, idle <= 6, f"a {name} is offered")
        patience = Signal(5)
        m.d.sync += patience.eq(Mux(waiting & ~moved, patience + (patience != 31), 0))
        self.check(m, patience <= 12, "who waits is looked at")
        self.cover(m, turns & ~dut.turns.p.kicked & (dut.turns.p.member == member) & kicked)
        self.cover(m, mine & ~turn.kicked & waiting)


class NoWorkIsForgotten(Harness):
    """`RingDecision` forgets no work of a queue that runs: entries that are known and not read, a
    look or a write of the suppression flag that is to come, each wait for a visit that was asked
    for, or for the answer of a look on its way. A kick is always followed by a look. While the
    driver is asked for no kicks, or after new entries was not asked for the next one, there is a
    look to come, or the write that asks for kicks; behind that write a look comes too.

    Entries are read once each, as many as are known up to the ring's end, 32 at most. Places of a
    packed ring are looked at one after another round the ring, 6 times before an answer at most.
    Nothing is done for a queue that does not run, or has not the room. An index that moves by more
    than there is room for, or cannot be read, is a fault of a split ring; nothing else is. What was
    asked for in vain is not asked for again.

    From a stop on the state goes round as `AvailableRing` keeps it. Events come in any order, in
    rings of any size; an answer comes only of a look, or, of a split ring, of an index that was
    told. The consumer has taken none but what was read.
    """

    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.packed = packed

    def build(self, m: Module) -> None:  # noqa: PLR0915  # one model
        packed = self.packed
        dut = RingDecision(_sizes())
        m.submodules.dut = dut
        judged: Any = dut.judged
        after: Any = dut.after
        state: Any = Signal(RingState())
        answer = judged.answer
        size = self.fixed(m, 16, "size")
        by_event = self.fixed(m, 1, "by_event")
        self.assume(m, (size != 0) & (size <= 32768)
                    & (packed | ((size & (size - 1)[:16]) == 0)))
        stopped = Signal(init=1)  # until it was started by a kick
        visit = Signal()          # one was asked for
        event = self.free(3, "event")
        runs, held = self.free(1, "runs"), self.free(1, "held")
        acts = self.free(1, "acts")
        self.assume(m, event <= RingEvent.STOP.value)
        kick, index, flag, stop = (acts & (event == each.value) for each in (
            RingEvent.KICK, RingEvent.INDEX, RingEvent.FLAG, RingEvent.STOP))
        visits = acts & (event == RingEvent.VISIT.value)
        told = ~Const(packed, 1) & (state.flight == 0) & (answer.index != state.known)
        place, behind, known = Signal(16), Signal(16), Signal(16)
        room, want, sure = self.free(16, "room"), self.free(6, "want"), self.free(8, "sure")
        begin = self.free(16, "begin")
        self.assume(m, (want != 0) & (want <= BURST_MAX))
        waiting = Signal(16)  # known and not read, before the event
        m.d.comb += [
            judged.event.eq(event), judged.silent.eq(self.free(1, "silent")),
            Value.cast(answer).eq(self.free(len(Value.cast(answer)), "answer")),
            judged.forget.eq(self.free(1, "forget")), judged.load.eq(self.free(1, "load")),
            judged.begin.eq(begin), judged.alive.eq(runs), judged.state.eq(state),
            known.eq(Mux(index, answer.index, state.known)),
            waiting.eq(0 if packed else state.known - state.fetch),
            judged.pending.eq(0 if packed else known - state.fetch),
            judged.delta.eq(answer.index - state.known),
            judged.room.eq(room), judged.size.eq(size),
            place.eq(packed_place(state.fetch) if packed else state.fetch & (size - 1)),
            behind.eq(size - 1 - place), judged.place.eq(place),
            judged.run_ends.eq(behind < BURST_MAX),
            judged.run.eq(Mux(judged.run_ends, behind[:5] + 1, BURST_MAX)),
            judged.sure.eq(sure), judged.want.eq(want), judged.roomy.eq(self.free(1, "roomy")),
            judged.held.eq(held), judged.packed.eq(packed), judged.by_event.eq(by_event),
        ]
        # Once it does not run, it is stopped before it runs again. Then a kick comes first.
        fresh, ran = Signal(init=1), Signal()
        self.assume(m, ~runs | ran | fresh)
        self.assume(m, ~stop | ~runs)
        self.assume(m, ~(acts & runs) | ~stopped | kick)
        # A look's answer, or an index that was told and fits.
        jump = (judged.delta > room) | (Value.cast(answer.error) != 0)
        self.assume(m, ~index | (state.flight != 0) | (told & ~jump))
        # The consumer is between the entries read and a ring's size before those known.
        self.assume(m, room + waiting <= size)
        if packed:
            self.assume(m, (packed_place(answer.index) < size) & (packed_place(begin) < size))
            self.assume(m, ~answer.full | (answer.found != 0))  # a look has a place at least

        action = Value.cast(dut.action)

        def does(*actions: RingAction) -> Value:
            found: Value = acts & Cat(action == each.value for each in actions).any()
            return found

        faults = does(RingAction.FAULT)
        serves = acts & runs & ~faults
        asks = Signal()
        m.d.comb += asks.eq((visit & ~visits) | (acts & (dut.revisit | dut.wait)))
        with m.If(acts):
            m.d.sync += [Value.cast(state).eq(Value.cast(after)), visit.eq(asks)]
        # Where it does not run, or met a fault, nothing is promised until it is started again.
        m.d.sync += [fresh.eq(stop | (fresh & ~runs)), ran.eq(runs & ~faults)]
        with m.If(~runs | faults):
            m.d.sync += stopped.eq(1)
        with m.Elif(serves & kick):
            m.d.sync += stopped.eq(0)

        # What always holds of a queue that runs.
        works = ~stopped
        looks = state.flight != 0
        self.check(m, stopped | ran, "what was started ran")
        self.check(m, ~(fresh | (stopped & ran))
                   | ~(looks | state.vain | state.again | state.hush | (waiting != 0)),
                   "nothing is left of what was before a stop")
        self.check(m, stopped | (waiting == 0) | visit, "entries wait for a visit")
        self.check(m, stopped | ~state.look | looks | visit, "so does a look")
        self.check(m, stopped | ~state.hush | visit, "so does a write")
        self.check(m, ~state.again | looks, "another look waits for an answer")
        self.check(m, stopped | ~state.vain | looks, "looks in vain are on their way")
        quiet = Mux(by_event, ~state.armed, state.quiet)
        self.check(m, ~(works & quiet) | looks | state.look | state.hush,
                   "who asks for no kicks looks")
        self.check(m, by_event | ~(works & state.hush) | state.look, "and who is about to")
        if packed:
            self.check(m, (state.flight <= 6) & (state.streak <= 6), "6 looks at most")
            self.check(m, packed_place(state.fetch) < size, "in the ring")
        else:
            self.check(m, state.flight <= 1, "one look")
            self.check(m, (waiting == 0) | ~looks, "nothing else is left when it leaves")
            self.check(m, waiting <= size, "no more than the ring has")

        # What each event leads to.
        look = does(RingAction.LOOK)
        self.check(m, ~(serves & (kick | (index & state.again)))
                   | look | after.look | after.again, "a kick leads to a look")
        self.check(m, ~(serves & flag & ~judged.silent)
                   | (after.fence & (after.look | after.again)), "so does a written flag")
        self.check(m, ~(acts & state.fence) | after.fence | look | stop, "which waits for it")
        self.check(m, ~(acts & ~runs) | does(RingAction.RELEASE, RingAction.FORGET),
                   "nothing for who does not run")
        self.check(m, stop == does(RingAction.FORGET), "a stop is answered")
        self.check(m, ~stop | ((after.known == begin) & (after.fetch == begin)
                               & ~after.look & (after.flight == 0) & ~after.again
                               & ~(dut.revisit | dut.wait)),
                   "and all is forgotten")
        self.check(m, faults == (index & runs & jump & (not packed)), "a jump is a fault")
        ring = does(RingAction.RING)
        if packed:
            self.check(m, ~ring, "no entries of a packed ring")
            self.check(m, ~look | (dut.count == Mux(want < judged.run, want, judged.run)),
                       "places up to the ring's end")
            self.check(m, ~look | (after.fetch == advance(m, state.fetch, dut.count, size, "next")),
                       "and on behind it")
            self.check(m, ~acts | look | stop | (index & runs & ~answer.full)
                       | (after.fetch == state.fetch), "or it stays")
            self.check(m, ~(look & held), "no places while there is no room")
            self.check(m, ~(serves & index & answer.partial) | after.look, "a chain goes on")
            self.check(m, ~(serves & index & answer.full) | after.look | after.hush
                       | does(RingAction.LISTEN), "what was full is not all")
        else:
            most = Mux(judged.pending < judged.run, judged.pending, judged.run)
            self.check(m, ~ring | ((dut.count == most) & (dut.count != 0) & ~held),
                       "entries that are known, if there is room")
            self.check(m, ~acts | stop
                       | (after.fetch == (state.fetch + Mux(ring, dut.count, 0))[:16]),
                       "each once")
            self.check(m, ~acts | stop | (after.known == Mux(index & runs & ~jump, answer.index,
                                                             state.known)), "as it was read")
        self.check(m, ~(visits & does(RingAction.RELEASE)) | ~dut.revisit,
                   "no visit leads to another one alone")
        self.check(m, ~(acts & dut.wait) | held, "who waits has no room")
        self.cover(m, works & visits & does(RingAction.LISTEN))
        self.cover(m, works & (state.flight == (3 if packed else 1)) & state.again)


PROOFS = [
    Proof(name="visits", harness=VisitsAreMade, depth=17, slow=True),
    Proof(name="decision_split", harness=lambda: NoWorkIsForgotten(packed=False), depth=6,
          induction=1, cover=8),
    Proof(name="decision_packed", harness=lambda: NoWorkIsForgotten(packed=True), depth=6,
          induction=1, cover=8),
]
