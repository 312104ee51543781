"""What is done about an event of an available ring, and what its state becomes."""

from typing import Any

from amaranth import Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from hw.virtio.prefetch_types import (
    BURST_MAX,
    COUNT_BITS,
    IndexAnswerLayout,
    PrefetchSizes,
    packed_place,
    packed_position,
)

__all__ = ["FIRST_SLOTS", "SURE_BITS", "JudgedLayout", "RingAction", "RingDecision", "RingEvent",
           "RingState"]

FIRST_SLOTS = 4
"""Places of a packed ring that are looked at, where nothing is known to be there."""

SURE_BITS = 8

_BUSY_ENTRIES = 8  # so many new ones at once: the driver is asked for no kicks
_AHEAD_MAX = 6     # looks at a packed ring on their way


class RingEvent(enum.Enum, shape=3):
    """What is at hand."""

    KICK = 0   # the driver kicked, or the queue has just begun to run
    VISIT = 1  # something was left to do
    INDEX = 2  # an index was read, or told
    FLAG = 3   # a write of the suppression flag stands in the order of writes
    STOP = 4   # the queue is stopped, and is to forget


class RingAction(enum.Enum, shape=3):
    """What is done about it."""

    RELEASE = 0  # nothing: the obligation is given back
    RING = 1     # read ring entries
    LOOK = 2     # read the index, or places of a packed ring
    HUSH = 3     # write NO_NOTIFY
    LISTEN = 4   # clear it, or write avail_event
    FAULT = 5
    FORGET = 6   # answer a stop


class RingState(data.StructLayout):
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
    streak 3    Of a packed ring: looks that found all they asked for, `_AHEAD_MAX` at
                most; half of them when one did not. So many may be on their way
    sure   8    Of a packed ring: places that are still available, as the driver told
    doubt  1    A look went up to where the driver told: that it finds all says nothing
    vain   1    Looks that are on their way are in vain: no other before they are back
    told   1    What the driver told last counts from the next look on
    listen 1    EVENT_IDX: the look on its way stands behind the arming
    slow   1    EVENT_IDX: looking without being told found nothing lately, so the driver is asked
                for a kick at once
    ====== ==== =================================================================
    """

    def __init__(self) -> None:
        super().__init__({"known": 16, "fetch": 16, "look": 1, "flight": 3, "again": 1,
                          "fence": 1, "hush": 1, "quiet": 1, "armed": 1, "streak": 3,
                          "sure": SURE_BITS, "doubt": 1, "vain": 1,
                          "told": 1, "listen": 1, "slow": 1})


class JudgedLayout(data.StructLayout):
    """An event, with all that is decided by.

    ============== =============================================================================
    field          meaning
    ============== =============================================================================
    event          `RingEvent`
    member         Whose
    answer         INDEX: what was read, or told
    silent, forget FLAG: what was written; STOP: with reset; ``load``: of another device's ring
    begin          STOP: where the ring goes on
    alive          The queue runs, and is not held because of a fault
    state          Of the ring, before
    pending        Entries known and not read, with those of the answer
    delta          INDEX: those that are new
    room           For so many more than those known before: the others are not taken yet
    size           Of the ring; ``order`` is its logarithm
    place          In the ring, of the next entry to read
    run            Entries up to the ring's end, 32 at most; ``run_ends``: the ring ends there
    want           Places of a packed ring that are worth a look
    sure           As in `RingState`, with what was told
    roomy          Behind them are 32 places more, of which none is of two laps ago
    held           So many chains are not complete that no more are fetched
    packed, ...    Modes
    entries        Address of the next entry (packed: of the next place)
    index          Address of the index
    flag           Address of the suppression flag, of avail_event, or of the event structure
    ============== =============================================================================
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "event": RingEvent, "member": sizes.member_bits, "answer": IndexAnswerLayout(sizes),
            "silent": 1, "forget": 1, "load": 1, "begin": 16, "alive": 1, "state": RingState(),
            "pending": 16, "delta": 16, "room": 16, "size": 16, "order": 4, "place": 15,
            "run": COUNT_BITS, "run_ends": 1, "want": COUNT_BITS, "sure": SURE_BITS, "roomy": 1,
            "held": 1, "packed": 1, "by_event": 1, "indirect": 1,
            "entries": 64, "index": 64, "flag": 64,
        })


class RingDecision(wiring.Component):
    """Choose what is done about an event, and what the state of the ring becomes.

    Without registers: the answer comes in the cycle of the question.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    judged : In(JudgedLayout(sizes))
    action : Out(RingAction)
    count : Out(range(33))
        RING, LOOK: so many entries, or places.
    after : Out(RingState())
    revisit, wait : Out(1)
        Something is left to do: soon, or when chains may have been completed.
    """

    judged: Any
    action: Any
    count: Signal
    after: Any
    revisit: Signal
    wait: Signal

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "judged": In(JudgedLayout(sizes)),
            "action": Out(RingAction),
            "count": Out(range(BURST_MAX + 1)),
            "after": Out(RingState()),
            "revisit": Out(1),
            "wait": Out(1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one table of cases
        m = Module()
        judged, state, answer = self.judged, self.judged.state, self.judged.answer
        packed, alive, by_event = judged.packed, judged.alive, judged.by_event
        chosen = Signal(RingAction)
        after: Any = Signal(RingState())
        quiet = Signal()   # the driver does not kick
        new = Signal()
        many = Signal()
        slow = Signal()    # looking without being told is in vain
        waits = Signal()   # what was told is read, and there is no use in looking for more
        bad = Signal()
        beyond = Signal()  # there are more entries than up to the ring's end, or than 32
        surely = Signal()  # the driver told of more places than that
        look = Signal()
        more = Signal()    # looks at a packed ring: one more may follow those on their way
        rest = Signal(3)   # on their way, without this one
        ahead = Signal(16) # the position behind the places of a look
        most = Signal(16)
        ends = Signal()    # they end with the ring
        m.d.comb += [
            new.eq(Mux(packed, answer.found != 0, judged.delta != 0)),
            # A short look that was full: there are more.
            many.eq(Mux(packed, answer.full & (answer.found >= FIRST_SLOTS)
                        | (answer.found >= _BUSY_ENTRIES), judged.delta >= _BUSY_ENTRIES)
                    & ~slow),
            # As long as the fenced look finds nothing either.
            slow.eq(by_event & state.slow & ~(new & state.listen & (state.flight != 0))),
            waits.eq(slow & state.doubt & (rest == 0)),
            more.eq(packed & judged.roomy & (state.flight != 0) & ~state.vain
                    & (state.flight < Mux(judged.sure != 0, _AHEAD_MAX, state.streak))),
            rest.eq(Mux(state.flight == 0, 0, state.flight - 1)),  # 0: the index was told
            # More available than the ring has entries: also when the index went backwards.
            bad.eq(~packed & ((judged.delta > judged.room) | (Value.cast(answer.error) != 0))),
            quiet.eq(Mux(by_event, ~state.armed, state.quiet)),
            beyond.eq(judged.pending > judged.run),
            surely.eq(judged.sure > judged.run),
            most.eq(Mux(packed, judged.want, judged.pending)),
            self.count.eq(Mux(most < judged.run, most, judged.run)),
            ends.eq(judged.run_ends & (judged.want >= judged.run)),
            ahead.eq(Mux(ends, packed_position(Const(0, 15), ~state.fetch[15]),
                         packed_position((packed_place(state.fetch) + self.count)[:15],
                                         state.fetch[15]))),
            after.eq(state),
            chosen.eq(RingAction.RELEASE),
        ]
        with m.Switch(Value.cast(judged.event)):
            with m.Case(RingEvent.KICK, RingEvent.VISIT):
                kicked = judged.event == RingEvent.KICK
                m.d.comb += [
                    look.eq(state.look | (kicked & (state.flight == 0))),
                    after.look.eq(look),
                    after.again.eq(state.again | (kicked & (state.flight != 0))),
                    after.sure.eq(judged.sure),
                    # Looks that left earlier may find less.
                    after.told.eq((state.flight != 0) & (state.told | kicked)),
                ]
                with m.If(alive):
                    with m.If(judged.pending != 0):
                        with m.If(~judged.held):
                            m.d.comb += [chosen.eq(RingAction.RING),
                                         after.fetch.eq(state.fetch + self.count)]
                    with m.Elif(state.hush):
                        m.d.comb += [
                            chosen.eq(Mux(by_event, RingAction.LISTEN, RingAction.HUSH)),
                            after.hush.eq(0), after.quiet.eq(~by_event), after.armed.eq(by_event),
                        ]
                    with m.Elif(((look & (state.flight == 0)) | more) & ~(packed & judged.held)):
                        m.d.comb += [chosen.eq(RingAction.LOOK), after.look.eq(0),
                                     after.flight.eq(state.flight + 1), after.fence.eq(0),
                                     after.listen.eq(state.fence)]
                        with m.If(packed):
                            m.d.comb += [
                                after.fetch.eq(ahead),
                                after.sure.eq(Mux(surely, judged.sure - self.count, 0)),
                            ]
                            with m.If((judged.sure != 0) & ~surely):
                                m.d.comb += [after.doubt.eq(1), after.streak.eq(0)]
            with m.Case(RingEvent.INDEX):
                m.d.comb += [after.flight.eq(rest), after.again.eq(state.again & (rest != 0))]
                with m.If(alive & bad):
                    m.d.comb += chosen.eq(RingAction.FAULT)
                with m.Elif(alive):
                    # While the driver does not kick, each look that found something is followed by
                    # another.
                    m.d.comb += [
                        look.eq(state.look | (state.again & (rest == 0))
                                | (new & ((quiet & ~slow) | many))
                                # There may be more, which the driver needs not kick for.
                                | (packed & (answer.partial | (answer.full & ~waits)))),
                        after.known.eq(answer.index),
                        after.look.eq(look),
                        after.doubt.eq(0),
                        after.vain.eq((rest != 0) & (state.vain | ~answer.full)),
                        after.streak.eq(Mux(answer.full, state.streak + (
                            ~state.doubt & (state.streak != _AHEAD_MAX)),
                            Mux(state.vain, state.streak, state.streak >> 1))),
                        after.slow.eq(Mux(new, slow,
                                          state.slow | (by_event & quiet & ~state.vain
                                                        & (state.flight == 1)))),
                        after.armed.eq(state.armed & ~new),
                        after.hush.eq(Mux(by_event,
                                          Mux(new, ~look, state.hush),
                                          new & ~quiet & (state.hush | many))),
                    ]
                    with m.If(packed & ~answer.full):
                        m.d.comb += [after.fetch.eq(answer.index), after.sure.eq(0)]
                    with m.If(judged.pending != 0):
                        with m.If(~judged.held):
                            m.d.comb += [chosen.eq(RingAction.RING),
                                         after.fetch.eq(state.fetch + self.count)]
                    with m.Elif(quiet & ~look):
                        m.d.comb += [chosen.eq(RingAction.LISTEN), after.quiet.eq(0),
                                     after.hush.eq(0), after.armed.eq(by_event)]
            with m.Case(RingEvent.FLAG):
                # What the driver added before it could see the flag clear came without a kick.
                with m.If(~judged.silent):
                    m.d.comb += [
                        after.fence.eq(1),
                        after.look.eq(state.look | (state.flight == 0)),
                        after.again.eq(state.again | (state.flight != 0)),
                    ]
            with m.Case(RingEvent.STOP):
                # All but what the driver sees: the flag in its memory stays as it is. Of a ring
                # that another device has used it may show that no kicks are wanted.
                m.d.comb += [
                    chosen.eq(RingAction.FORGET),
                    after.eq(0),
                    after.known.eq(judged.begin),
                    after.fetch.eq(judged.begin),
                    after.quiet.eq(Mux(judged.forget, judged.load, state.quiet)),
                ]
        left = Signal()
        sure_after = Signal()  # `after.sure` is not 0
        looks = chosen == RingAction.LOOK
        finds_less = (judged.event == RingEvent.INDEX) & packed & ~answer.full
        m.d.comb += [
            sure_after.eq(Mux(looks & packed, surely,
                              ~finds_less & (Mux(judged.event == RingEvent.INDEX, state.sure,
                                                 judged.sure) != 0))),
            left.eq(alive & (chosen != RingAction.FAULT) & (judged.event != RingEvent.STOP)
                    & (((chosen == RingAction.RING) & beyond) | after.hush
                       | ((judged.pending != 0) & judged.held)
                       | (after.look & (after.flight == 0))
                       | (packed & (judged.roomy | (judged.event == RingEvent.INDEX))
                          & (after.flight != 0) & ~after.vain
                          & (after.flight < Mux(sure_after, _AHEAD_MAX, after.streak))))),
            self.wait.eq(left & judged.held & (chosen == RingAction.RELEASE)),
            self.revisit.eq(left & ~self.wait),
            self.action.eq(chosen),
            self.after.eq(after),
        ]
        return m
