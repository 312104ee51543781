"""Receive, first half: match the frames that wait for a queue with its chains."""

from typing import Any

from amaranth import Module, Mux, Signal, signed
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
from hw.wire.types import ArrivalLayout, FrameHandle, HeadSignature, PoolReadLayout

__all__ = ["Deliver", "DeliveryLayout", "DropReason", "DroppedLayout"]

_BURST = 32        # most frames of a queue in a row
_MATCHING_MAX = 16 # frames between their queue and their chain
_COUNT_BITS = 16
_BYTES_BITS = _COUNT_BITS + LENGTH_BITS - 1  # of all chains of a queue


class DropReason(enum.Enum, shape=1):
    """Why a frame that was in the pool did not reach a driver."""

    QUEUE_DOWN = 0  # the queue is not running
    NO_FIT = 1      # the next chain of the queue is too short for it


class DroppedLayout(data.StructLayout):
    """A frame for ``queue`` was dropped."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "reason": DropReason})


class DeliveryLayout(data.StructLayout):
    """A frame on its way into a chain: where it is used, and how many bytes the driver gets there.

    A frame fills one chain after the other, from its ``first`` one to its ``last``.
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "id": 16, "slots": 16, "bytes": LENGTH_BITS,
                          "first": 1, "last": 1})


class Deliver(wiring.Component):
    """Bring together the frames and the chains of each receive queue, in order.

    Frames and announced chains are counted per queue. A queue that has both comes to its turn in a
    list. Then as many frames as have chains, but no more than a burst, set out in a pipeline: leave
    the frame queue, take a chain that is long enough, leave the pool. Frames without a chain wait
    in the pool, at nobody else's cost. A frame that is longer than the chain is dropped, and the
    chain stays for the next one. Frames of a queue that does not run are dropped.

    With MRG_RXBUF (`RingModesLayout`) a frame takes as many chains as it needs, each but the last
    one to its end (NET-RX-02, NET-RX-03). A turn is as above where each frame that waits fits into
    each chain that was announced. Otherwise it is of one frame: the queue's oldest sets out if the
    announced chains hold it, and else it waits for more of them, as a frame without a chain
    does. It takes its first chain; then all that it surely needs, one behind the other; then what
    is still missing. Nothing else takes meanwhile, so the chains of a frame lie together. A frame
    that has a chain is finished, also while its queue is being stopped (``begun``), so no chain is
    ever left with a part of a frame: each gives its obligation back with its used entry, once.
    Any number of chains is right, as nothing is kept here for each of them.

    | Latency: 12 cycles from ``arrivals`` to ``deliveries``. Throughput: 2 arrivals or
    | announcements every 3 cycles, a turn every 4 (6 with MRG_RXBUF); a frame a cycle within a
    | turn. A frame of several chains takes one every 2 cycles after the first where announcements
    | tell the longest, else one a round trip; a turn of it costs about 20 cycles more.
    | Storage: 149 bits a queue and the list.

    Parameters
    ----------
    queues
        Data queues of the card; the even ones are served.
    cells
        Cells of the packet pool.

    Members
    -------
    arrivals : In(stream.Signature(ArrivalLayout()))
        A frame was queued.
    head : Out(HeadSignature())
        How long the oldest frame of a queue is.
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
        One for each chain, in the order of ``takes``; those of a frame that is read lie together,
        in the order of ``pool_reads``.
    dropped : Out(stream.Signature(DroppedLayout()))
    commands : In(stream.Signature(QueueCommandLayout()))
        The queue is stopped: its chains are void, its frames are dropped.
    """

    arrivals: stream.Interface
    head: Any
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
            "arrivals": In(stream.Signature(ArrivalLayout())),
            "head": Out(HeadSignature()),
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

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one pipeline
        m = Module()

        turn = _Turn()
        m.submodules.turns = turns = StreamQueue(turn, 2)
        m.submodules.popped = popped = StreamQueue(_Popped(), _MATCHING_MAX)
        m.submodules.matching = matching = StreamQueue(_Matching(self.cells), _MATCHING_MAX)
        m.submodules.credit = credit = StreamArbiter(_Credit(), 2)
        # Given back by way of a queue: what decides below looks at its ready before it is valid.
        m.submodules.returns = returns = StreamQueue(_Credit(), 2)
        returned = returns.i
        announced = credit.i[0]
        m.d.comb += [
            announced.valid.eq(self.ready.valid),
            self.ready.ready.eq(announced.ready),
            *(getattr(announced.p, name).eq(getattr(self.ready.p, name))
              for name in ("queue", "count", "bytes", "shortest", "longest")),
        ]
        connect(m, returns.o, credit.i[1])

        settled = Signal()  # nothing of earlier turns is between a frame queue and its chain
        popped_out = Signal()  # all frames of earlier turns have left their queue
        self._turns(m, credit.o, turns.i, settled, popped_out)

        # --- A turn: pop its frames, one a cycle. -------------------------------------------------

        left = Signal(range(_BURST + 1))
        now: Any = Signal(turn)
        popping = Signal()
        m.d.comb += [
            self.pops.p.queue.eq(now.queue),
            popped.i.p.queue.eq(now.queue),
            popped.i.p.down.eq(now.down),
            popped.i.p.merges.eq(now.merges),
            popped.i.p.long.eq(now.long),
            popped.i.p.longest.eq(now.longest),
            popped.i.p.ends.eq(left == 1),
            self.pops.valid.eq((left != 0) & popped.i.ready),
            popping.eq(self.pops.valid & self.pops.ready),
            popped.i.valid.eq(popping),
            turns.o.ready.eq(left == 0),
            popped_out.eq((turns.level == 0) & (left == 0) & (popped.level == 0)),
        ]
        with m.If(popping):
            m.d.sync += left.eq(left - 1)
        with m.If(turns.o.valid & turns.o.ready):
            m.d.sync += [now.eq(turns.o.payload), left.eq(turns.o.p.count)]

        # --- Each frame asks for a chain that holds it and the header. ----------------------------

        asks = Signal()
        goes_on = Signal()   # a frame asks for its further chains; no other one asks meanwhile
        asks_on = Signal()
        taker = Signal(QUEUE_BITS, reset_less=True)
        need = Signal(LENGTH_BITS)
        ask = popped.o.p
        m.d.comb += [
            need.eq(self.frames.p.bytes + NET_HEADER.size),
            self.takes.p.queue.eq(Mux(goes_on, taker, ask.queue)),
            self.takes.p.bytes.eq(Mux(goes_on | ask.long, 0, need)),
            self.takes.p.begun.eq(goes_on),
            asks.eq(self.frames.valid & popped.o.valid & matching.i.ready & ~goes_on),
            self.takes.valid.eq(asks_on | (asks & ~ask.down)),
            matching.i.valid.eq(asks & (self.takes.ready | ask.down)),
            matching.i.p.frame.eq(self.frames.payload),
            matching.i.p.need.eq(need),
            matching.i.p.queue.eq(ask.queue),
            matching.i.p.down.eq(ask.down),
            matching.i.p.merges.eq(ask.merges),
            matching.i.p.long.eq(ask.long),
            matching.i.p.ends.eq(ask.ends),
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
        begun = Signal()  # the frame has a chain
        rest = Signal(LENGTH_BITS, reset_less=True)  # what has none, of a frame that has begun
        wanted = Signal(LENGTH_BITS)
        covers = Signal()  # the frame ends in this chain
        ends = Signal()
        m.d.comb += [
            found.eq(~frame.down & (self.chains.p.status == ChainStatus.FOUND)),
            short.eq(~frame.down & (self.chains.p.status == ChainStatus.SHORT)),
            wanted.eq(Mux(begun, rest, frame.need)),
            covers.eq(~frame.long | (wanted <= self.chains.p.bytes)),
            ends.eq(~found | covers),
            decided.eq(matching.o.valid & (frame.down | self.chains.valid) & read_out.i.ready
                       & delivery.i.ready & drop.i.ready & returned.ready),
            matching.o.ready.eq(decided & ends),
            self.chains.ready.eq(decided & ~frame.down),
            read_out.i.valid.eq(decided & ~begun),
            read_out.i.p.frame.eq(frame.frame),
            read_out.i.p.drop.eq(~found),
            delivery.i.valid.eq(decided & found),
            delivery.i.p.queue.eq(frame.queue),
            delivery.i.p.id.eq(self.chains.p.id),
            delivery.i.p.slots.eq(self.chains.p.slots),
            delivery.i.p.bytes.eq(Mux(covers, wanted, self.chains.p.bytes)),
            delivery.i.p.first.eq(~begun),
            delivery.i.p.last.eq(covers),
            drop.i.valid.eq(decided & ~found),
            drop.i.p.queue.eq(frame.queue),
            drop.i.p.reason.eq(Mux(short, DropReason.NO_FIT, DropReason.QUEUE_DOWN)),
        ]
        with m.If(decided):
            m.d.sync += [begun.eq(~ends), rest.eq(wanted - self.chains.p.bytes)]

        # What a turn of a queue that merges took beyond a chain a frame is told at its end.
        spent = Signal(signed(_BYTES_BITS + 1))  # bytes of the turn's chains, negative
        further = Signal(signed(_COUNT_BITS + 1))  # chains after the first of a frame, negative
        after = Signal.like(spent)
        further_after = Signal.like(further)
        reports = Signal()
        m.d.comb += [
            after.eq(spent - Mux(found, self.chains.p.bytes, 0)),
            reports.eq(frame.merges & frame.ends & ends),
            # The chain that was too short is still there, for the frame behind.
            returned.valid.eq(decided & (short | reports)),
            returned.p.queue.eq(frame.queue),
            further_after.eq(further - (begun & found)),
            returned.p.count.eq(Mux(short, 1, further_after)),
            returned.p.bytes.eq(Mux(reports, after, 0)),
            returned.p.shortest.eq(Mux(short, 0, ~0)),
            returned.p.longest.eq(0),
        ]
        with m.If(decided & frame.merges):
            m.d.sync += [spent.eq(Mux(reports, 0, after)),
                         further.eq(Mux(reports, 0, further_after))]

        # --- A frame of several chains asks for the others. ---------------------------------------

        longest = Signal(LENGTH_BITS, reset_less=True)
        asked = Signal(range(_MATCHING_MAX + 1))  # takes that are not answered
        sure = Signal(LENGTH_BITS)  # bytes beyond the longest chains that were asked for
        taken = Signal()
        m.d.comb += [
            asks_on.eq(goes_on & (sure != 0) & (asked != _MATCHING_MAX)),
            taken.eq(self.takes.valid & self.takes.ready),
        ]
        with m.If(matching.i.valid & matching.i.ready & ask.long & ~ask.down):
            m.d.sync += [goes_on.eq(1), taker.eq(ask.queue), longest.eq(ask.longest), asked.eq(1),
                         sure.eq(0)]
        with m.Elif(goes_on):
            m.d.sync += asked.eq(asked + taken - decided)
            with m.If(decided & ends):
                m.d.sync += goes_on.eq(0)
            with m.Elif(taken):
                # Without a bound on chains one of them may hold all the rest.
                m.d.sync += sure.eq(Mux((longest == 0) | (sure <= longest), 0, sure - longest))
            with m.Elif((asked == 0) & (sure == 0)):
                m.d.sync += sure.eq(rest)

        uncounted = Signal(range(8))  # credits that were given back and not yet counted
        counted = Signal()
        m.d.comb += [
            counted.eq(credit.o.valid & credit.o.ready & (credit.source == 1)),
            settled.eq(popped_out & (matching.level == 0) & (uncounted == 0)),
        ]
        m.d.sync += uncounted.eq(uncounted + (returned.valid & returned.ready) - counted)
        return m

    def _turns(self, m: Module, credit: stream.Interface,  # noqa: PLR0915  # one state machine
               turns: stream.Interface, settled: Signal, popped_out: Signal) -> None:
        """Count frames and chains of each queue; give turns to those that have both."""
        members = self.queues // 2
        m.submodules.chain_counts = chain_counts = ForwardingMemory(_Chains(), members)
        m.submodules.frame_counts = frame_counts = ForwardingMemory(_Frames(), members)
        m.submodules.waiting = waiting = WorkList(max(members, 2))

        queue = Signal(QUEUE_BITS)
        looked_up = Signal(QUEUE_BITS)
        looks = Signal()
        told: Any = Signal(_Credit())
        length = Signal(LENGTH_BITS)
        frames: Any = frame_counts.read_data
        chains: Any = chain_counts.read_data
        frames_after: Any = frame_counts.write_data
        chains_after: Any = chain_counts.write_data
        frames_count = Signal(_COUNT_BITS)  # after a turn
        chains_count = Signal(_COUNT_BITS)
        none = Signal()  # no chain was left
        matched = Signal(_COUNT_BITS)
        served = Signal(range(_BURST + 1))
        merges = Signal()
        fits = Signal()  # each frame, into each chain
        m.d.comb += [
            self.config.queue.eq(looked_up),
            self.config.enable.eq(looks),
            self.head.queue.eq(looked_up),
            self.head.enable.eq(looks),
            matched.eq(Mux(self.config.config.running & (chains.count < frames.count),
                           chains.count, frames.count)),
            served.eq(Mux(matched > _BURST, _BURST, matched)),
            merges.eq(self.config.config.running & self.config.config.modes.mrg_rxbuf),
            fits.eq(((frames.old == 0) | (frames.old_longest <= chains.shortest))
                    & (frames.new_longest <= chains.shortest)),
            waiting.add.payload.eq(queue >> 1),
            frames_after.eq(frames),
            chains_after.eq(chains),
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
        frames_left = Signal(_COUNT_BITS)
        chains_left = Signal(_COUNT_BITS)
        running = Signal()
        merging = Signal()
        serves = Signal(range(_BURST + 1))
        more = Signal()
        m.d.comb += more.eq((frames_left != 0) & (~running | (chains_left != 0)))

        # A queue some of whose frames may not fit into one chain: its oldest frame is looked at,
        # once it is known which one that is, and, if it needs more than one chain, once it is known
        # what the chains hold. Other turns wait for that, and for the end of such a frame's takes.
        single = Signal()
        need = Signal(LENGTH_BITS)
        enough = Signal()
        long = Signal()
        pending = Signal()     # the look at `pending_queue` is to be repeated
        pending_queue = Signal(QUEUE_BITS)
        patient = Signal()     # when all is settled
        was_popped_out = Signal()
        was_settled = Signal()
        exclusive = Signal()   # a frame takes several chains
        begins = Signal()
        m.d.comb += begins.eq(turns.ready & ~exclusive & ~self.commands.valid)
        with m.If(looks):
            m.d.sync += [was_popped_out.eq(popped_out), was_settled.eq(settled), single.eq(0),
                         long.eq(0)]

        second = Signal()  # what is written was heard while something else was

        def hear() -> None:
            """Look up what an announcement or an arrival changes, to write it in the next cycle."""
            m.d.comb += looks.eq(credit.valid | self.arrivals.valid)
            with m.If(credit.valid):
                m.d.comb += [looked_up.eq(credit.p.queue), credit.ready.eq(1)]
                m.d.sync += told.eq(credit.payload)
                m.next = "CHAINS"
            with m.Elif(self.arrivals.valid):
                m.d.comb += [looked_up.eq(self.arrivals.p.queue), self.arrivals.ready.eq(1)]
                m.d.sync += length.eq(self.arrivals.p.bytes + NET_HEADER.size)
                m.next = "FRAME"

        def heard() -> None:
            """It is written, and one more is looked up at once."""
            with m.If(waiting.add.ready):
                m.d.sync += second.eq(~second)
                m.next = "IDLE"
                with m.If(~second):
                    hear()

        with m.FSM():
            with m.State("IDLE"):
                with m.If(settled & turns.ready):
                    m.d.sync += exclusive.eq(0)
                # A command waits for what was begun: else a chain that was too short for its frame
                # could be counted again after its queue's credit was made void.
                with m.If(self.commands.valid & settled):
                    m.d.comb += [looked_up.eq(self.commands.p.queue), looks.eq(1)]
                    m.next = "VOID"
                with m.Elif(credit.valid | self.arrivals.valid):
                    hear()
                    m.d.sync += second.eq(0)
                with m.Elif(pending & begins & Mux(patient, settled, popped_out)):
                    m.d.comb += [looked_up.eq(pending_queue), looks.eq(1)]
                    m.d.sync += pending.eq(0)
                    m.next = "TURN"
                with m.Elif(waiting.take.valid & begins & ~pending):
                    m.d.comb += [
                        looked_up.eq(waiting.take.payload << 1), looks.eq(1),
                        waiting.take.ready.eq(1),
                    ]
                    m.d.sync += patient.eq(0)
                    m.next = "TURN"
            with m.State("VOID"):
                # Its turn comes once more, for the frames that wait.
                m.d.comb += [
                    chains_after.count.eq(0),
                    chains_after.bytes.eq(0),
                    chain_counts.write_enable.eq(waiting.add.ready),
                    waiting.add.valid.eq(1),
                    self.commands.ready.eq(waiting.add.ready),
                ]
                with m.If(waiting.add.ready):
                    m.next = "IDLE"
            with m.State("CHAINS"):
                # The bounds are of all chains since there were none.
                m.d.comb += [
                    none.eq(chains.count == 0),
                    chains_after.count.eq(chains.count + told.count),
                    chains_after.bytes.eq(chains.bytes + told.bytes),
                    chain_counts.write_enable.eq(waiting.add.ready),
                    waiting.add.valid.eq(1),
                ]
                with m.If(none | (told.shortest < chains.shortest)):
                    m.d.comb += chains_after.shortest.eq(told.shortest)
                with m.If(none | (told.longest > chains.longest)):
                    m.d.comb += chains_after.longest.eq(told.longest)
                heard()
            with m.State("FRAME"):
                m.d.comb += [
                    frames_after.count.eq(frames.count + 1),
                    frame_counts.write_enable.eq(waiting.add.ready),
                    waiting.add.valid.eq(1),
                ]
                with m.If(length > frames.new_longest):
                    m.d.comb += frames_after.new_longest.eq(length)
                heard()
            with m.State("TURN"):
                m.d.sync += [
                    running.eq(self.config.config.running), serves.eq(served), merging.eq(merges),
                    single.eq(merges & ~fits & (served != 0)),
                ]
                m.next = "ACCOUNT"
            with m.State("ACCOUNT"):
                with m.If(single):
                    m.d.sync += need.eq(self.head.bytes + NET_HEADER.size)
                    m.next = "WEIGH"
                with m.Else():
                    m.d.comb += [
                        turns.valid.eq(serves != 0),
                        turns.p.queue.eq(queue),
                        turns.p.count.eq(serves),
                        turns.p.down.eq(~running),
                        turns.p.merges.eq(merging),
                        turns.p.long.eq(long),
                        turns.p.longest.eq(chains.longest),
                        frames_count.eq(frames.count - serves),
                        frames_after.count.eq(frames_count),
                        frames_after.old.eq(frames.old - serves),
                        frame_counts.write_enable.eq(1),
                        chains_count.eq(chains.count - Mux(running, serves, 0)),
                        chains_after.count.eq(chains_count),
                        chain_counts.write_enable.eq(1),
                    ]
                    # The old ones have gone: those that wait now are the old ones.
                    with m.If(serves >= frames.old):
                        m.d.comb += [
                            frames_after.old.eq(frames_count),
                            frames_after.old_longest.eq(frames.new_longest),
                            frames_after.new_longest.eq(0),
                        ]
                    m.d.sync += [
                        frames_left.eq(frames_count), chains_left.eq(chains_count),
                        exclusive.eq(long),
                    ]
                    m.next = "MORE"
            with m.State("MORE"):
                m.d.comb += waiting.add.valid.eq(more)
                with m.If(waiting.add.ready | ~more):
                    m.next = "IDLE"
            with m.State("WEIGH"):
                m.d.sync += [
                    single.eq(0),
                    serves.eq(1),
                    long.eq(need > chains.shortest),
                    enough.eq(need <= chains.bytes),
                    pending_queue.eq(queue),
                ]
                m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.d.sync += patient.eq(was_popped_out & long)
                with m.If(~was_popped_out | (long & ~was_settled)):
                    m.d.sync += pending.eq(1)
                    m.next = "IDLE"
                with m.Elif(long & ~enough):
                    m.next = "IDLE"  # it comes again with the next chain
                with m.Else():
                    m.next = "ACCOUNT"


class _Credit(data.StructLayout):
    """What is to be added to the chains of a queue; the bounds, if any of them are new."""

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "count": signed(_COUNT_BITS + 1),
            "bytes": signed(_BYTES_BITS + 1), "shortest": LENGTH_BITS, "longest": LENGTH_BITS,
        })


class _Chains(data.StructLayout):
    """The announced chains of a queue: none is shorter, or longer, than the bounds."""

    def __init__(self) -> None:
        super().__init__({
            "count": _COUNT_BITS, "bytes": _BYTES_BITS, "shortest": LENGTH_BITS,
            "longest": LENGTH_BITS,
        })


class _Frames(data.StructLayout):
    """The frames that wait for a queue: the ``old`` ones of them and those behind, and the longest
    of both, with its header. So one long frame is forgotten soon after it has gone."""

    def __init__(self) -> None:
        super().__init__({
            "count": _COUNT_BITS, "old": _COUNT_BITS, "old_longest": LENGTH_BITS,
            "new_longest": LENGTH_BITS,
        })


class _Turn(data.StructLayout):
    """Frames of a queue set out. ``long``: one, into chains none of which is beyond ``longest``."""

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "count": range(_BURST + 1), "down": 1, "merges": 1, "long": 1,
            "longest": LENGTH_BITS,
        })


class _Popped(data.StructLayout):
    """A frame that was asked for; ``ends`` the turn."""

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "down": 1, "merges": 1, "long": 1, "ends": 1,
            "longest": LENGTH_BITS,
        })


class _Matching(data.StructLayout):
    """A frame that asked for a chain; it needs ``need`` bytes with its header."""

    def __init__(self, cells: int) -> None:
        super().__init__({
            "frame": FrameHandle(cells), "need": LENGTH_BITS, "queue": QUEUE_BITS, "down": 1,
            "merges": 1, "long": 1, "ends": 1,
        })
