"""Proofs about whose reads leave, and what is told to follow."""

from typing import Any

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value

from hw.pcie.read_issue import ReadIssue
from hw.pcie.read_layouts import ReadSizes
from hw.virtio.used_follow import UsedFollow
from sim.formal import Harness, Proof
from tests.formal.stream_proofs import Order

__all__ = ["PROOFS"]


class ReadsAreTheirFunctions(Harness):
    """Each piece that `ReadIssue` takes leaves once, in the order of the tags: as a TLP with its
    own function's requester ID, its bytes and no other ones; or, if it is void, or its function's
    bus mastering is off when it gets its tag, or there is no such function, as a refusal and never
    as a TLP. What is noted of it is noted before it leaves: its tag, function, client, queue and
    length, the group's first tag, and the tag before it.

    3 functions of one device, 2 clients, 4 tags; any piece that does not cross a page.
    """

    def build(self, m: Module) -> None:
        functions = 3
        sizes = ReadSizes(lanes=8, contexts=(1, 1), quotas=(2, 2), tags=4, max_read_bytes=512,
                          queues=4)
        dut: Any = ReadIssue(sizes, functions=functions)
        m.submodules.dut = inside = self.inside(dut)
        for client, pieces in enumerate(dut.pieces):
            self.feed(m, pieces, f"piece_{client}")
        gets = self.feed(m, dut.tags, "tag")
        sent, refused = self.drain(m, dut.tlps, "tlp"), self.drain(m, dut.refused, "refusal")
        masters, bus_device = self.free(functions, "masters"), self.fixed(m, 13, "bus_device")
        m.d.comb += [dut.bus_master.eq(masters), dut.bus_device.eq(bus_device)]
        turns = inside.submodules.turns
        piece, client = turns.o.p, turns.source
        self.check(m, gets == (turns.o.valid & turns.o.ready), "a tag for each piece")
        self.assume(m, ~turns.o.valid | piece.void
                    | ((piece.bytes != 0) & (piece.bytes <= 512)
                       & (piece.address[:12] + piece.bytes <= 4096)))

        tag = dut.tags.payload
        refuses, none = Signal(), Const(0, 94)
        m.d.comb += refuses.eq(piece.void | (piece.function >= functions)
                               | ~masters.bit_select(piece.function[:2], 1))
        end = Signal(64)   # the last byte
        m.d.comb += end.eq(piece.address + piece.bytes - 1)
        entering, leaving = Signal(97), Signal(97)
        m.d.comb += entering.eq(Cat(tag, refuses, Mux(refuses, none, Cat(
            piece.address, end[:13], piece.fenced, piece.function[:3], bus_device))))
        header = dut.tlps.p.header
        first, last, upto, final = Signal(2), Signal(2), Signal(4), Signal(13)
        m.d.comb += [
            upto.eq(Mux(header.dwords == 1, header.first_be, header.last_be)),
            first.eq(_lowest(header.first_be)), last.eq(3 - _lowest(upto[::-1])),
            final.eq(header.address[:13] + ((header.dwords - 1) << 2) + last),
            leaving.eq(Mux(refused, Cat(dut.refused.payload, Const(1, 1)), Cat(
                header.tag[:2], Const(0, 1), header.address | first, final, dut.tlps.p.fenced,
                header.requester_id[:3], header.requester_id[3:]))),
        ]
        self.check(m, ~(sent & refused), "one at a time")
        self.check(m, dut.departed.valid == (sent | refused), "a tag departs with it")
        self.check(m, ~dut.departed.valid | (dut.departed.payload == leaving[:2]), "its own")
        self.check(m, ~sent | ((header.dwords == 1) == (header.last_be == 0)),
                   "a last dword has enables, a single one none")
        self.check(m, ~sent | (header.dwords == 1) | (header.first_be[3] & header.last_be[0]),
                   "no hole in a longer one")
        Order(self, m, "reads", enters=gets, entering=entering, leaves=sent | refused,
              leaving=leaving, capacity=2)

        # What is noted, a cycle later.
        note = dut.notes.p
        groups = Array(Signal(2, name=f"group_{k}") for k in range(2))
        before = Array(Signal(2, name=f"before_{k}") for k in range(2))
        began = Array(Signal(name=f"began_{k}") for k in range(2))
        got = Signal()
        fields = [(note.tag, tag), (note.client, client), (note.queue, piece.queue),
                  (note.requester[:3], piece.function), (note.bytes, piece.bytes),
                  (note.first, piece.first), (note.last, piece.last)]
        noted = Cat(field for field, _ in fields)
        expects = Cat(Value.cast(value)[:len(field)] for field, value in fields)
        expected, rest = Signal(len(expects)), Signal(5)
        m.d.sync += [got.eq(gets), expected.eq(expects), rest.eq(Cat(
            Mux(piece.first, tag, groups[client]), before[client], began[client]))]
        with m.If(gets):
            m.d.sync += [before[client].eq(tag), began[client].eq(1)]
            with m.If(piece.first):
                m.d.sync += groups[client].eq(tag)
            self.assume(m, piece.first | began[client])
        self.check(m, dut.notes.valid == got, "each is noted")
        self.check(m, ~got | (noted == expected), "as it is")
        self.check(m, ~got | (note.group == rest[:2]), "in its group")
        self.check(m, ~(got & rest[4]) | (note.previous == rest[2:4]), "behind the one before")
        self.cover(m, sent & (header.dwords == 2) & (header.first_be == 8) & (header.last_be == 1))
        self.cover(m, refused & (piece.function == 2) & gets)


def _lowest(ones: Value) -> Value:
    """Give the place of the lowest one of 4 bits."""
    return Mux(ones[0], 0, Mux(ones[1], 1, Mux(ones[2], 2, 3)))


class WhatFollowsIsSure(Harness):
    """`UsedFollow` says of a queue that a chain waits only if one does; and says it of the one
    whose chain came last in its direction, as long as that waits.

    Any queue is looked at; chains of any queues come, and bursts with some or all of them leave.
    """

    def build(self, m: Module) -> None:
        m.submodules.dut = dut = UsedFollow()
        queue = self.fixed(m, 14, "queue")
        m.d.comb += dut.queue.eq(queue)
        for name in ("comes", "coming", "leaves", "leaving", "all"):
            port = getattr(dut, name)
            m.d.comb += port.eq(self.free(len(port), name))
        waits, latest = Signal(), Signal()
        comes = dut.comes & (dut.coming == queue)
        with m.If(comes):
            m.d.sync += [waits.eq(1), latest.eq(1)]
        with m.Else():
            with m.If(dut.leaves & dut.all & (dut.leaving == queue)):
                m.d.sync += waits.eq(0)
            with m.If(dut.comes & (dut.coming[0] == queue[0])):
                m.d.sync += latest.eq(0)
        self.assume(m, ~(dut.leaves & (dut.leaving == queue)) | waits)
        self.check(m, ~dut.follows | waits, "a promise is kept")
        self.check(m, ~(waits & latest) | dut.follows, "what is known is told")
        self.cover(m, waits & ~dut.follows)
        self.cover(m, dut.follows & dut.leaves & ~dut.all & (dut.leaving == queue))


PROOFS = [
    Proof(name="reads_issued", harness=ReadsAreTheirFunctions, depth=7, cover=8, slow=True),
    Proof(name="used_follow", harness=WhatFollowsIsSure, depth=8),
]
