"""Proofs about rings: positions and how they move, who is told of them, whose queue is whose."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed

from hw.virtio.notification import Notification
from hw.virtio.prefetch_types import index_mask, lap_of, packed_place, packed_position
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.ring_positions import packed_apart, packed_behind, packed_next, split_behind
from sim.formal import Harness, Proof

__all__ = ["PROOFS"]


def linear(position: Value, size: Value) -> Value:
    """Count a packed ring's positions from 0: its second lap's places stand behind the first's."""
    return position[:15] + Mux(position[15], size, 0)


def advance(m: Module, position: Value, steps: Value, size: Value, name: str) -> Signal:
    """Give the position that is ``steps`` behind, at most ``size``, by the definition."""
    end = Signal(18, name=f"{name}_end")
    after = Signal(16, name=name)
    m.d.comb += [
        end.eq(position[:15] + steps),
        after.eq(Mux(end < size, Cat(end[:15], position[15]),
                     Cat((end - size)[:15], ~position[15]))),
    ]
    return after


def apart(m: Module, later: Value, earlier: Value, size: Value, name: str) -> Signal:
    """Give the steps from one packed position to a later one, by the definition."""
    difference = Signal(signed(19), name=f"{name}_difference")
    steps = Signal(18, name=name)
    m.d.comb += [
        difference.eq(linear(later, size) - linear(earlier, size)),
        steps.eq(Mux(difference < 0, difference + (size << 1), difference)),
    ]
    return steps


class QueueNumbersAreUnique(Harness):
    """Each queue number belongs to one function and place, and `QueueNumbers` tells which: 1 to 256
    functions with 2 to 32 queues, every one of them."""

    def build(self, m: Module) -> None:
        for functions, stride in ((1, 2), (3, 2), (4, 8), (255, 4), (256, 32)):
            numbers = QueueNumbers(functions, stride)
            tag = f"{functions}x{stride}"
            function = self.free(8, f"function_{tag}")
            place = self.free(numbers.index_bits + 1, f"place_{tag}")
            self.assume(m, (function < functions) & (place <= stride))
            queue = Signal(14, name=f"queue_{tag}")
            control = place == stride
            m.d.comb += queue.eq(numbers.at(function, place, numbers.control(function)))
            self.check(m, queue == Mux(control, functions * stride + function,
                                       function * stride + place), f"number {tag}")
            self.check(m, queue < numbers.total, f"range {tag}")
            self.check(m, numbers.function(queue) == function, f"function {tag}")
            self.check(m, numbers.place(queue) == place, f"place {tag}")
            self.check(m, numbers.is_control(queue) == control, f"control {tag}")
            self.check(m, numbers.kind(queue) == Mux(control, 4, Mux(place[0], 2, 1)),
                       f"kind {tag}")
            self.cover(m, control & (function == functions - 1))


class PositionsAreWhatTheySay(Harness):
    """Split: mask and lap of an index are those of its remainder and quotient by the size. Packed:
    place and lap come out of a position as they went in. For every size."""

    def build(self, m: Module) -> None:
        order = self.free(4, "order")
        position = self.free(16, "position")
        place = self.free(15, "place")
        lap = self.free(1, "lap")
        size = Signal(17)
        made = Signal(16)
        m.d.comb += [size.eq(1 << order), made.eq(packed_position(place, lap))]
        self.check(m, index_mask(order) == size - 1, "mask")
        self.check(m, lap_of(position, order) == (position >> order)[0], "lap")
        self.check(m, (packed_place(made) == place) & (made[15] == lap), "packed")
        self.check(m, packed_position(place[:5], lap) == Cat(place[:5], Const(0, 10), lap), "short")


class EventsAreFound(Harness):
    """Split: `split_behind` is how many entries lie between the event's and the index, so it is
    less than n if and only if the event is one of the last n. Packed: `packed_behind` likewise, by
    places, the wrap counter in its lap. Any size, index and event; as many as 2^16 entries, or two
    laps of places, between them."""

    def build(self, m: Module) -> None:
        event = self.free(16, "event")
        behind = self.free(16, "behind")
        index = Signal(16)
        m.d.comb += index.eq(event + 1 + behind)
        self.check(m, split_behind(index, event) == behind, "split")

        size = self.free(16, "size")
        self.assume(m, (size != 0) & (size <= 32768))
        position = self.free(16, "position")
        asked = packed_position(packed_place(event), ~event[15])
        begin, end = linear(asked, size), linear(position, size)
        among = Signal()
        m.d.comb += among.eq((packed_place(event) < size) & (packed_place(position) < size)
                             & ((end == begin + 1 + behind)
                                | (end + (size << 1) == begin + 1 + behind)))
        places = Signal(signed(17))
        m.d.comb += places.eq(packed_apart(position, event))
        self.check(m, ~among | (behind >= size << 1)
                   | (packed_behind(places, position, event, size) == behind), "packed")
        self.cover(m, among & (behind > size) & (behind < size << 1) & (size == 5)
                   & (packed_place(event) == 4))


class PackedPositionsMove(Harness):
    """`packed_next` gives the position so many places behind another one: it stays in the ring, and
    its lap changes where it goes over the ring's end, and there alone. Any size, any place, up to
    as many places as the ring has."""

    def build(self, m: Module) -> None:
        size = self.free(16, "size")
        position = self.free(16, "position")
        slots = self.free(16, "slots")
        self.assume(m, (size != 0) & (size <= 32768))
        self.assume(m, (packed_place(position) < size) & (slots <= size))
        reached = Signal(16)
        over = Signal(16)
        found = Signal(16)
        m.d.comb += [
            reached.eq(packed_place(position) + slots),
            over.eq(packed_place(position) + slots - size),
            found.eq(packed_next(reached, over, position[15])),
        ]
        steps = apart(m, found, position, size, "steps")
        self.check(m, packed_place(found) < size, "in the ring")
        self.check(m, found == advance(m, position, slots, size, "after"), "as far as it must")
        self.check(m, steps == slots, "and so far from it")
        self.cover(m, (size == 32768) & (slots == size) & found[15])


class InterruptsAreRight(Harness):
    """`Notification` interrupts if and only if the driver asked for it: its index, or place, is one
    of those that were published between the asking of the read before and its own (or its flags
    want it). What is read is the queue's own, fenced, by its own function; so is the interrupt.

    Any queue of 2 functions, both kinds of rings of up to 7 places, with and without event indices,
    no moderation: how positions of any size compare is the proof ``events``.
    """

    def build(self, m: Module) -> None:  # noqa: PLR0915  # one model
        functions, stride = 2, 2
        total = functions * (stride + 1)
        m.submodules.dut = dut = Notification(8, queues=functions * stride, stride=stride)
        queue = self.fixed(m, 3, "queue")
        packed: Any = self.fixed(m, 1, "packed")
        by_event: Any = self.fixed(m, 1, "by_event")
        size = self.fixed(m, 3, "size")
        vector = self.fixed(m, 16, "vector")
        self.assume(m, (queue < total) & (size != 0))
        driver = 0xFEDC_BA98_7654_3210  # that it is carried along is seen at one value
        config: Any = dut.config.config
        m.d.comb += [
            config.size.eq(size), config.running.eq(1), config.vector.eq(vector),
            config.driver.eq(driver), config.modes.ring_packed.eq(packed),
            config.modes.event_idx.eq(by_event),
        ]
        self.check(m, ~dut.config.enable | (dut.config.queue == queue), "its own queue")

        def small(position: Value) -> Value:
            """Tell whether a position, or an event, is of such a small ring."""
            return Mux(packed, position[:15] < size, position[3:15] == 0)

        published = self.feed(m, dut.published, "published")
        burst = dut.published.p
        self.assume(m, (burst.queue == queue) & (burst.slots != 0) & (burst.count == burst.slots)
                    & (burst.slots <= size) & small(burst.index))
        asks = self.drain(m, dut.reads, "read")
        event, flags = self.free(16, "event"), self.free(2, "flags")
        self.assume(m, small(event))
        answer = dut.read_answers.p
        reading = Signal()  # a read is on its way
        answers = dut.read_answers.valid & dut.read_answers.ready
        m.d.comb += [
            dut.read_answers.valid.eq(reading & self.free(1, "answer_valid")),
            answer.context.eq(queue), answer.last.eq(1), answer.first.eq(1),
            answer.data.eq(Cat(event, flags)),
        ]
        waits = Signal()
        waiting = Signal(18)
        self.assume(m, ~waits | (dut.read_answers.valid & (Cat(event, flags) == waiting)))
        m.d.sync += [waits.eq(dut.read_answers.valid & ~dut.read_answers.ready),
                     waiting.eq(Cat(event, flags)), reading.eq((reading | asks) & ~answers)]
        told = self.drain(m, dut.queue_interrupts, "told")
        interrupts = self.drain(m, dut.interrupts, "interrupt")
        given_back = self.drain(m, dut.obligations, "obligation")
        self.check(m, ~dut.faults.valid, "no fault")

        # What the read in flight decides about, and what came since.
        new, newest = Signal(16), Signal(16)
        count, more = Signal(6), Signal(6)
        decides, some_more = Signal(), Signal()
        with m.If(published):
            with m.If(decides):
                m.d.sync += [newest.eq(burst.index), some_more.eq(1),
                             more.eq(Mux(some_more, more, 0) + burst.slots)]
            with m.Else():
                m.d.sync += [new.eq(burst.index), count.eq(burst.slots), decides.eq(1)]
        with m.If(answers):
            m.d.sync += [new.eq(newest), count.eq(more), some_more.eq(0), decides.eq(some_more)]

        offset = Signal(signed(18))
        wants = Signal()
        m.d.comb += [offset.eq(packed_apart(new, event)), wants.eq(~event[0])]
        with m.If(packed):
            m.d.comb += wants.eq(flags != 1)
            with m.If(by_event & (flags == 2)):
                m.d.comb += wants.eq(packed_behind(offset, new, event, size) < count)
        with m.Elif(by_event):
            m.d.comb += wants.eq(split_behind(new, event) < count)
        wanted = Signal()
        with m.If(answers):
            m.d.sync += wanted.eq(wants)
        with m.Elif(told):
            m.d.sync += wanted.eq(0)
        self.check(m, ~dut.queue_interrupts.valid | wanted, "only where it is wanted")
        self.check(m, ~(asks | given_back | answers) | ~wanted, "wherever it is wanted")
        function = Signal(8)
        m.d.comb += function.eq(Mux(queue < functions * stride, queue >> 1,
                                    queue - functions * stride))
        read = dut.reads.p
        self.check(m, ~asks | ((read.function == function) & read.fenced & read.last), "own read")
        self.check(m, ~asks | (read.address == driver + Mux(
            by_event & ~packed, (size << 1) + 4, 0)), "own address")
        self.check(m, ~told | (dut.queue_interrupts.p.function == function), "own function")
        self.check(m, ~interrupts | ((dut.interrupts.p.function == function)
                                     & (dut.interrupts.p.vector == vector[:11])
                                     & (vector != 0xFFFF)), "own vector")
        self.cover(m, told & packed & by_event & (flags == 2))
        self.cover(m, told & ~packed & by_event & (vector == 0xFFFF))


PROOFS = [
    Proof(name="queue_numbers", harness=QueueNumbersAreUnique, depth=1, induction=1),
    Proof(name="positions", harness=PositionsAreWhatTheySay, depth=1, induction=1),
    Proof(name="events", harness=EventsAreFound, depth=1, induction=1, slow=True),
    Proof(name="packed_positions", harness=PackedPositionsMove, depth=1, induction=1),
    Proof(name="interrupts_are_right", harness=InterruptsAreRight, depth=11, cover=13, slow=True),
]
