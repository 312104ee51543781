"""Proofs about takes: each chain is handed out once, in order, with all its buffers."""

from typing import Any
from unittest import mock

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value

from hw.virtio import chain_take
from hw.virtio.chain_take import ChainTake
from hw.virtio.prefetch_types import PrefetchSizes, packed_position
from hw.virtio.types import ChainStatus
from sim.formal import Harness, Proof
from tests.formal.stream_proofs import Order

__all__ = ["PROOFS"]

_DEPTH = 5  # one place more than is kept for takes on their way


class _SmallChainTake(ChainTake):
    """Room for fewer answers."""

    def elaborate(self, platform: object) -> Module:
        with mock.patch.object(chain_take, "_DEPTH", _DEPTH):
            return super().elaborate(platform)


class ChainsAreTakenOnce(Harness):
    """`ChainTake` answers each take once, in order, after its obligation: with the chain at the
    member's position, which moves behind it if it was found and stays if not, or goes where it is
    loaded. What is found is available, and of a queue that runs (or its frame has begun). Its
    buffers follow in the chain's order, ``last`` with the last one; each is freed once, and none
    of another chain. For each take one obligation is taken on, and given back once if nothing was
    found. Nobody who is served waits for ever.

    Two transmit queues whose rings and tables hold anything: chains of 1 to 3 buffers, rings of up
    to 4 places, lists of 5. Whoever takes or gives something may stall at any time.
    """

    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.packed = packed

    def build(self, m: Module) -> None:  # noqa: PLR0915  # one model
        packed = self.packed
        sizes = PrefetchSizes(lanes=8, transmit=True, functions=1, stride=4, queue_size_max=16,
                              table_cells=8)
        dut: Any
        m.submodules.dut = dut = _SmallChainTake(sizes)

        def table(bits: int, name: str) -> Any:
            """Give what the 4 first words of each member hold."""
            return Array(self.fixed(m, bits, f"{name}_{k}") for k in range(8))

        identity, first_bytes = table(2, "id"), table(2, "bytes")
        segments, slots, behind = table(2, "segments"), table(2, "slots"), table(3, "behind")
        following, in_cell, mark = table(2, "next"), table(1, "in_cell"), table(1, "mark")
        cell_following = table(2, "cell_next")
        for count in segments:
            self.assume(m, count != 0)
        size = self.fixed(m, 3, "size")
        self.assume(m, (size == 1) | (size == 2) | (size == 4))

        # Takes, and their obligations.
        take = dut.takes.p
        takes = self.feed(m, dut.takes, "take")
        self.assume(m, (take.queue[0] == 1) & (take.queue >> 2 == 0) & (take.bytes < 4))
        asks = self.drain(m, dut.obligations, "obligation")
        self.check(m, takes == asks, "an obligation each")
        self.check(m, ~asks | ((dut.obligations.p.queue == take.queue)
                               & (dut.obligations.p.delta == 1)), "of its queue")
        pending = Signal()
        asked: Any = Signal.like(take)
        obliged = self.free(1, "obliged")
        self.assume(m, ~obliged | pending)
        self.check(m, ~asks | ~pending, "one at a time")
        m.d.comb += dut.obliged.eq(obliged)
        m.d.sync += pending.eq((pending & ~obliged) | asks)
        with m.If(takes):
            m.d.sync += Value.cast(asked).eq(Value.cast(take))
        late = Signal(2)  # takes that were looked up 1, and 2 cycles ago
        m.d.sync += late.eq(Cat(obliged, late[0]))

        def wide(short: Value) -> Value:
            """Give a position of 4 bits: with its lap, or before and behind 0."""
            return packed_position(short[:3], short[3]) if packed else \
                Cat(short, short[3].replicate(12))

        # What is looked up.
        runs, limit = self.free(1, "runs"), self.free(4, "limit")
        config: Any = dut.config.config
        modes_running = Signal()
        end = Signal(4)
        m.d.comb += [config.size.eq(size), config.modes.ring_packed.eq(packed),
                     config.running.eq(modes_running),
                     dut.limit.data.eq(wide(end))]
        with m.If(dut.config.enable):
            m.d.sync += modes_running.eq(runs)
        with m.If(dut.limit.enable):
            m.d.sync += end.eq(limit)
        word = Signal(3)
        totals = dut.totals.data
        m.d.comb += [
            dut.ids.data.eq(identity[word]), totals.bytes.eq(first_bytes[word]),
            totals.segments.eq(segments[word]), totals.slots.eq(slots[word]),
            totals.after.eq(behind[word][:2]), totals.after_lap.eq(behind[word][2]),
        ]
        with m.If(dut.ids.enable):
            m.d.sync += word.eq(Cat(dut.ids.address[:2], dut.ids.address[4]))
        self.check(m, ~dut.ids.enable | ((dut.ids.address[2:4] == 0)
                                         & (dut.totals.address == dut.ids.address)), "in the ring")

        # Takes as they should end.
        positions = Array(Signal(16, name=f"position_{k}") for k in range(2))
        member = Signal()
        position, ends, moved = Signal(16), Signal(16), Signal(16)
        at = Signal(3)
        available, short, found = Signal(), Signal(), Signal()
        m.d.comb += [
            member.eq(asked.queue[1]), position.eq(positions[member]),
            ends.eq(wide(limit)),
            at.eq(Cat(position[:2] & (3 if packed else (size - 1)[:2]), member)),
            available.eq((runs | asked.begun) & (position != ends)),
            short.eq(available & (first_bytes[at] < asked.bytes)),
            found.eq(obliged & available & ~short),
            moved.eq(packed_position(behind[at][:2], behind[at][2])
                     if packed else position + 1),
        ]
        with m.If(found):
            m.d.sync += positions[member].eq(moved)
        answer = dut.chains.p
        right, given = Signal(13), Signal(13)
        taken = answer.status == ChainStatus.FOUND
        stays = answer.status == ChainStatus.SHORT
        m.d.comb += [
            right.eq(Cat(member, found, short, short | (found & (moved != ends)),
                         Mux(found | short, first_bytes[at], 0),
                         Mux(found, Cat(identity[at], segments[at]), Const(0, 4)),
                         Mux(found, slots[at] if packed else 1, 0))),
            given.eq(Cat(answer.queue[1], taken, stays, answer.more,
                         Mux(taken | stays, answer.bytes[:2], 0),
                         Mux(taken, Cat(answer.id[:2], answer.segments[:2]), Const(0, 4)),
                         Mux(taken, answer.slots[:2], 0))),
        ]
        answers = self.drain(m, dut.chains, "chain")
        answered = Order(self, m, "answers", enters=obliged, entering=right, leaves=answers,
                         leaving=given, capacity=_DEPTH + 3)

        # Loads and looks at the position.
        load = dut.loads.p
        loads = self.feed(m, dut.loads, "load")
        moving = (load.member == asked.queue[1]) & (pending | late.any())
        self.assume(m, ~dut.loads.valid | (~moving & ~(takes & (load.member == take.queue[1]))
                                           & ((load.position & (0x7FFC if packed else 0xFFFC))
                                              == 0)))
        with m.If(loads):
            m.d.sync += positions[load.member].eq(load.position)
        looks = self.free(1, "looks")
        looked, looked_at = Signal(), Signal()
        m.d.comb += [dut.position.enable.eq(looks), dut.position.address.eq(self.free(1, "whose"))]
        with m.If(looks):
            m.d.sync += [looked.eq(1), looked_at.eq(dut.position.address)]
        self.check(m, ~looked | late.any() | (dut.position.data == positions[looked_at]),
                   "the position is told")

        # What was not found is given back.
        returns = self.drain(m, dut.returns, "return")
        self.check(m, ~returns | ((dut.returns.p.delta == -1) & dut.returns.p.queue[0]
                                  & (dut.returns.p.queue >> 2 == 0)), "one less")
        returned = Order(self, m, "returns", enters=obliged & ~found, entering=member,
                         leaves=returns, leaving=dut.returns.p.queue[1], capacity=_DEPTH + 3)

        # Buffers: a descriptor's address says where it lay, and what its mark was.
        place, cell = Signal(5), Signal(4)
        with m.If(dut.descriptors.enable):
            m.d.sync += place.eq(dut.descriptors.address)
        with m.If(dut.cells.enable):
            m.d.sync += cell.eq(dut.cells.address)
        number = Cat(place[:2], place[4])
        cell_number = Cat(cell[:2], cell[3])
        one, other = dut.descriptors.data, dut.cells.data
        m.d.comb += [
            one.address.eq(Cat(place, Const(0, 1), mark[number])), one.length.eq(place),
            one.next.eq(following[number]), one.in_cell.eq(in_cell[number]),
            one.mark.eq(mark[number]),
            other.address.eq(Cat(cell, Const(0b10, 2))), other.length.eq(cell),
            other.next.eq(cell_following[cell_number]), other.in_cell.eq(1),
        ]
        buffer = dut.segments.p
        buffers = self.drain(m, dut.segments, "segment")
        of_cell = buffer.address[5]
        self.check(m, ~buffers | (buffer.length == buffer.address[:5]), "a buffer is whole")
        stands = Signal()
        stood = Signal(7)
        freed = dut.freed
        m.d.sync += [stands.eq(freed.enable & ~dut.descriptors.enable),
                     stood.eq(Cat(freed.address, freed.data))]
        self.check(m, ~stands | (freed.enable & (stood == Cat(freed.address, freed.data))),
                   "one is freed until it goes on")
        Order(self, m, "descriptors", enters=freed.enable & dut.descriptors.enable,
              entering=Cat(freed.address, freed.data), leaves=buffers & ~of_cell,
              leaving=Cat(buffer.address[:5], buffer.address[6]), capacity=1)
        Order(self, m, "cells", enters=dut.freed_cells.enable, entering=dut.freed_cells.address,
              leaves=buffers & of_cell, leaving=buffer.address[:4], capacity=1)

        # The buffers of some chain.
        marks = self.free(1, "marks")
        marked, seen = Signal(), Signal()
        ahead, unread = Signal(range(_DEPTH + 5)), Signal(range(_DEPTH + 5))
        left = Signal(2)
        expects = Signal(6)  # address of its next buffer: where it lies, in a cell
        ended = buffers & buffer.last
        begins = found & marks & ~seen
        first = Mux(packed, position[:2], identity[at])
        mine = marked & (ahead == 0)
        self.check(m, ~buffers | (unread != 0), "no buffer of no chain")
        self.check(m, ~(buffers & mine) | (buffer.address[:6] == expects), "its buffers in order")
        self.check(m, ~(buffers & mine) | (buffer.last == (left == 1)), "as many as it has")
        m.d.sync += unread.eq(unread + found - ended)
        with m.If(begins):
            m.d.sync += [seen.eq(1), marked.eq(1), ahead.eq(unread - ended), left.eq(segments[at]),
                         expects.eq(Cat(first, Const(0, 2), member))]
        with m.Elif(mine & buffers):
            came = Mux(expects[5], Cat(expects[:2], expects[3]), Cat(expects[:2], expects[4]))
            to_cell = expects[5] | in_cell[came]
            target = Mux(expects[5], cell_following[came], following[came])
            owner = came[2]
            m.d.sync += [left.eq(left - 1), marked.eq(left != 1),
                         expects.eq(Mux(to_cell, Cat(target, Const(0, 1), owner, Const(0b10, 2)),
                                        Cat(target, Const(0, 2), owner)))]
        with m.Elif(ended & marked):
            m.d.sync += ahead.eq(ahead - 1)

        # Nobody waits for nothing.
        idle = ~(pending | (answered.inside != 0) | (returned.inside != 0) | (unread != 0))
        waits = [Signal(3, name=f"waits_{k}") for k in range(4)]
        m.d.sync += [
            waits[0].eq(Mux(dut.takes.valid & ~dut.obligations.valid & idle, waits[0] + 1, 0)),
            waits[1].eq(Mux((answered.inside != 0) & ~dut.chains.valid, waits[1] + 1, 0)),
            waits[2].eq(Mux((returned.inside != 0) & ~dut.returns.valid, waits[2] + 1, 0)),
            waits[3].eq(Mux((unread != 0) & ~dut.segments.valid, waits[3] + 1, 0)),
        ]
        for k, what in enumerate(("a take", "an answer", "what is given back", "a buffer")):
            self.check(m, waits[k] < 4, f"{what} comes")
        self.cover(m, mine & ended & of_cell & (ahead == 0) & late[0])
        self.cover(m, ended & (unread == 2) & looked & (answered.inside == 2))


PROOFS = [
    Proof(name="takes_split", harness=lambda: ChainsAreTakenOnce(packed=False), depth=8, cover=12,
          slow=True),
    Proof(name="takes_packed", harness=lambda: ChainsAreTakenOnce(packed=True), depth=8,
          cover=12, slow=True),
]
