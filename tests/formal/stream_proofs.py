"""Proofs about streams: memories, registers, queues, arbiters, the list of members with work."""

from functools import partial
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from hw.stream.arbiter import PacketArbiter, PassingArbiter, StreamArbiter
from hw.stream.memory import ForwardingMemory
from hw.stream.queue import PassingQueue, StreamQueue
from hw.stream.register import PipeRegister, SkidRegister, StreamRegister
from hw.stream.worklist import WorkList
from sim.formal import Harness, Proof

__all__ = ["PROOFS", "Order"]


class Order:
    """Check that transfers come out as they went in: in their order, none lost, none twice.

    Some transfer is marked, at a moment of the solver's choice; so what holds of it holds of all.
    ``inside`` counts those that went in and did not come out.
    """

    def __init__(self, harness: Harness, m: Module, name: str, *, enters: Value, entering: Value,
                 leaves: Value, leaving: Value, capacity: int) -> None:
        mark = harness.free(1, f"{name}_mark")
        inside = self.inside = Signal(range(capacity + 1), name=f"{name}_inside")
        before = Signal(range(capacity + 1), name=f"{name}_ahead")
        marked = Signal(name=f"{name}_marked")
        tag = Signal(len(entering), name=f"{name}_tag")
        seen = Signal(name=f"{name}_seen")
        begins = enters & mark & ~marked & ~seen
        harness.check(m, (inside != 0) | ~leaves | enters, f"{name}: nothing from nowhere")
        harness.check(m, (inside != capacity) | ~enters | leaves, f"{name}: no more than fit")
        harness.check(m, ~(leaves & marked & (before == 0)) | (leaving == tag),
                      f"{name}: in order and unchanged")
        harness.check(m, ~(leaves & begins & (inside == 0)) | (leaving == entering),
                      f"{name}: unchanged on its way through")
        harness.cover(m, leaves & marked & (before == 0) & (tag == 1))
        m.d.sync += inside.eq(inside + enters - leaves)
        with m.If(begins):
            m.d.sync += [tag.eq(entering), before.eq(inside - leaves),
                         marked.eq(~(leaves & (inside == 0))), seen.eq(1)]
        with m.Elif(marked & leaves):
            m.d.sync += [before.eq(before - 1), marked.eq(before != 0)]


class MemoryIsNeverOutOfDate(Harness):
    """A `ForwardingMemory` of 4 words shows what was written last: words of 2 bits, whole or by
    bit. Some word is looked at; so it holds of each."""

    def __init__(self, granularity_bits: int | None = None) -> None:
        super().__init__()
        self.granularity_bits = granularity_bits

    def build(self, m: Module) -> None:
        m.submodules.dut = dut = ForwardingMemory(2, 4, granularity_bits=self.granularity_bits)
        for name in ("read_enable", "read_address", "write_enable", "write_address", "write_data"):
            port = getattr(dut, name)
            m.d.comb += port.eq(self.free(len(port), name))
        address = self.fixed(m, 2, "address")
        word = Signal(2)
        shown = Signal()
        parts = dut.write_enable.replicate(2) if self.granularity_bits is None else dut.write_enable
        with m.If(dut.write_address == address):
            m.d.sync += word.eq((word & ~parts) | (dut.write_data & parts))
        with m.If(dut.read_enable):
            m.d.sync += shown.eq(dut.read_address == address)
        self.check(m, ~shown | (dut.read_data == word), "the word as it was written last")
        self.cover(m, shown & (word == 2) & ~dut.read_enable)


class RegisterKeepsOrder(Harness):
    """A register slice loses, repeats and changes nothing, and keeps the rules of streams."""

    def __init__(self, kind: Any, capacity: int) -> None:
        super().__init__()
        self.kind = kind
        self.capacity = capacity

    def build(self, m: Module) -> None:
        m.submodules.dut = dut = self.kind(2)
        enters = self.feed(m, dut.i, "i")
        leaves = self.drain(m, dut.o, "o")
        order = Order(self, m, "slice", enters=enters, entering=dut.i.payload, leaves=leaves,
                      leaving=dut.o.payload, capacity=self.capacity)
        self.check(m, (order.inside == 0) | dut.o.valid, "what is inside is offered")
        self.check(m, (order.inside != 0) | dut.i.ready, "there is room while it is empty")


class _BlockQueue(StreamQueue):
    """A small queue made as large ones are."""

    def _distributed(self, m: Module, arrives: Signal) -> None:
        self._block(m, arrives)


class QueueKeepsOrder(Harness):
    """A `StreamQueue` is first in, first out; its level is what is inside; it is ready until full.

    Payloads of 2 bits; ``block``: by way of a block memory.
    """

    def __init__(self, depth: int, *, block: bool = False) -> None:
        super().__init__()
        self.depth = depth
        self.block = block

    def build(self, m: Module) -> None:
        m.submodules.dut = dut = (_BlockQueue if self.block else StreamQueue)(2, self.depth)
        enters = self.feed(m, dut.i, "i")
        leaves = self.drain(m, dut.o, "o")
        order = Order(self, m, "queue", enters=enters, entering=dut.i.payload, leaves=leaves,
                      leaving=dut.o.payload, capacity=self.depth)
        waits = Signal(2)
        m.d.sync += waits.eq(Mux((order.inside == 0) | dut.o.valid, 0, waits + 1))
        self.check(m, order.inside == dut.level, "the level is what is inside")
        self.check(m, dut.i.ready == (dut.level != self.depth), "ready until full")
        self.check(m, waits < 2, "what is inside is offered within 2 cycles")
        self.cover(m, dut.level == self.depth)


class PassingQueueKeepsOrder(Harness):
    """A `PassingQueue` is first in, first out; its level is what is inside; it is ready until full,
    and offers what is inside, or else what comes, at once. Payloads of 2 bits."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def build(self, m: Module) -> None:
        m.submodules.dut = dut = PassingQueue(2, self.depth)
        enters = self.feed(m, dut.i, "i")
        leaves = self.drain(m, dut.o, "o")
        order = Order(self, m, "queue", enters=enters, entering=dut.i.payload, leaves=leaves,
                      leaving=dut.o.payload, capacity=self.depth)
        self.check(m, order.inside == dut.level, "the level is what is inside")
        self.check(m, dut.i.ready == (dut.level != self.depth), "ready until full")
        self.check(m, dut.o.valid == ((order.inside != 0) | dut.i.valid), "offered at once")
        self.cover(m, dut.level == self.depth)
        self.cover(m, enters & leaves & (dut.level == 0))


class ArbiterIsFair(Harness):
    """A `StreamArbiter` takes one at a time, gives it on unchanged, and lets nobody wait for more
    than one transfer of each other input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def build(self, m: Module) -> None:
        inputs = self.inputs
        m.submodules.dut = dut = StreamArbiter(2, inputs)
        taken = Cat(self.feed(m, i, f"i_{k}") for k, i in enumerate(dut.i))
        given = self.drain(m, dut.o, "o")
        expected = Signal(2)
        source = Signal(range(max(2, inputs)))
        waiting = Signal()
        self.check(m, (taken & (taken - 1)[:inputs]) == 0, "one at a time")
        self.check(m, ~taken.any() | given | ~waiting, "what is taken finds room")
        self.check(m, dut.o.valid == waiting, "what was taken is offered")
        self.check(m, ~waiting | ((dut.o.payload == expected) & (dut.source == source)),
                   "unchanged, and with its source")
        with m.If(taken.any()):
            m.d.sync += waiting.eq(1)
            for k, i in enumerate(dut.i):
                with m.If(taken[k]):
                    m.d.sync += [expected.eq(i.payload), source.eq(k)]
        with m.Elif(given):
            m.d.sync += waiting.eq(0)
        for k, i in enumerate(dut.i):
            passed = Signal(inputs, name=f"passed_{k}")
            m.d.sync += passed.eq(Mux(i.valid & ~i.ready, passed | taken, 0))
            self.check(m, ~i.valid | ((passed & taken) == 0), f"nobody passes {k} twice")
            self.cover(m, i.valid & (passed.replicate(1) == (1 << inputs) - 1 - (1 << k)))


class PassingArbiterIsFair(Harness):
    """A `PassingArbiter` gives one at a time on, unchanged and at once, stays with what it offers,
    and lets nobody wait for more than one transfer of each other input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def build(self, m: Module) -> None:
        inputs = self.inputs
        m.submodules.dut = dut = PassingArbiter(2, inputs)
        taken = Cat(self.feed(m, i, f"i_{k}") for k, i in enumerate(dut.i))
        given = self.drain(m, dut.o, "o")
        held, source = Signal(), Signal.like(dut.source)
        m.d.sync += [held.eq(dut.o.valid & ~dut.o.ready), source.eq(dut.source)]
        self.check(m, (taken & (taken - 1)[:inputs]) == 0, "one at a time")
        self.check(m, taken.any() == given, "what is given is taken")
        self.check(m, dut.o.valid == Cat(i.valid for i in dut.i).any(), "offered at once")
        self.check(m, ~held | (dut.source == source), "what is offered stays")
        for k, i in enumerate(dut.i):
            passed = Signal(inputs, name=f"passed_{k}")
            m.d.sync += passed.eq(Mux(i.valid & ~i.ready, passed | taken, 0))
            self.check(m, ~taken[k] | ((dut.o.payload == i.payload) & (dut.source == k)),
                       f"unchanged, and with its source {k}")
            self.check(m, ~i.valid | ((passed & taken) == 0), f"nobody passes {k} twice")
            self.cover(m, i.valid & (passed == (1 << inputs) - 1 - (1 << k)))


class ArbiterKeepsPackets(Harness):
    """A `PacketArbiter` serves an input until its ``last``, and lets nobody wait for more than one
    packet of each other input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def build(self, m: Module) -> None:
        inputs = self.inputs
        layout = data.StructLayout({"data": 1, "last": 1})
        m.submodules.dut = dut = PacketArbiter(layout, inputs)
        taken = Cat(self.feed(m, i, f"i_{k}") for k, i in enumerate(dut.i))
        self.drain(m, dut.o, "o")
        inside = Signal()
        holder = Signal(inputs)
        self.check(m, (taken & (taken - 1)[:inputs]) == 0, "one at a time")
        self.check(m, ~inside | (taken == 0) | (taken == holder), "packets stay whole")
        lasts = Cat(i.p.last for i in dut.i)
        with m.If(taken.any()):
            m.d.sync += [inside.eq((taken & lasts) == 0), holder.eq(taken)]
        for k, i in enumerate(dut.i):
            passed = Signal(inputs, name=f"passed_{k}")
            m.d.sync += passed.eq(Mux(i.valid & ~i.ready, passed | (taken & lasts), 0))
            self.check(m, ~i.valid | ((passed & taken & lasts) == 0), f"nobody passes {k} twice")
            self.cover(m, taken[k] & ~inside & (passed != 0))


class WorkListLosesNothing(Harness):
    """A `WorkList` gives a member if and only if it was added since it was last given; whoever is
    in the list waits for each other member once at most, and for 3 cycles without anyone."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def build(self, m: Module) -> None:
        count = self.count
        m.submodules.dut = dut = WorkList(count)
        adds = self.feed(m, dut.add, "add")
        takes = self.drain(m, dut.take, "take")
        self.assume(m, ~dut.add.valid | (dut.add.payload < count))
        member = self.fixed(m, range(count), "member")
        self.assume(m, member < count)
        listed = Signal()
        passed = Signal(range(count + 1))
        idle = Signal(range(5))
        mine = takes & (dut.take.payload == member)
        self.check(m, ~(adds & takes), "no add and take in one cycle")
        self.check(m, ~mine | listed, "given only if it was added, and once")
        self.check(m, passed < count, "nobody passes twice")
        self.check(m, idle <= 3, "who is listed is offered")
        self.check(m, ~takes | (dut.take.payload < count), "a member")
        with m.If(adds & (dut.add.payload == member)):
            m.d.sync += listed.eq(1)
        with m.If(mine):
            m.d.sync += listed.eq(0)
        m.d.sync += [
            passed.eq(Mux(listed & ~mine, passed + takes, 0)),
            idle.eq(Mux(listed & ~dut.take.valid, idle + 1, 0)),
        ]
        self.cover(m, mine & (passed == count - 1))


PROOFS = [
    Proof(name="memory", harness=MemoryIsNeverOutOfDate, depth=12),
    Proof(name="memory_parts", harness=lambda: MemoryIsNeverOutOfDate(1), depth=12),
    Proof(name="stream_register", harness=lambda: RegisterKeepsOrder(StreamRegister, 2), depth=12),
    Proof(name="pipe_register", harness=lambda: RegisterKeepsOrder(PipeRegister, 1), depth=12),
    Proof(name="skid_register", harness=lambda: RegisterKeepsOrder(SkidRegister, 1), depth=12),
    *(Proof(name=f"queue_{depth}", harness=partial(QueueKeepsOrder, depth),
            depth=2 * depth + 5, slow=depth > 2) for depth in (2, 3, 4)),
    *(Proof(name=f"block_queue_{depth}",
            harness=partial(QueueKeepsOrder, depth, block=True),
            depth=2 * depth + 5, slow=depth > 2) for depth in (2, 3, 4)),
    *(Proof(name=f"passing_queue_{depth}", harness=partial(PassingQueueKeepsOrder, depth),
            depth=2 * depth + 5, slow=depth > 2) for depth in (2, 3)),
    *(Proof(name=f"arbiter_{inputs}", harness=partial(ArbiterIsFair, inputs),
            depth=5 + inputs, slow=inputs > 3) for inputs in (2, 3, 5)),
    *(Proof(name=f"passing_arbiter_{inputs}", harness=partial(PassingArbiterIsFair, inputs),
            depth=5 + inputs, slow=inputs > 3) for inputs in (2, 3, 5)),
    *(Proof(name=f"packet_arbiter_{inputs}",
            harness=partial(ArbiterKeepsPackets, inputs),
            depth=6 + inputs, slow=inputs > 3) for inputs in (2, 4)),
    *(Proof(name=f"work_list_{count}", harness=partial(WorkListLosesNothing, count),
            depth=4 + 4 * count, slow=count > 2) for count in (2, 3)),
]
