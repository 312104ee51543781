"""Give each piece a tag, note what its completions will need, and send its TLP."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import NoteLayout, PieceLayout, ReadSizes
from hw.pcie.types import ReadTlpLayout, RequestKind
from hw.stream.arbiter import StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.types import FUNCTION_BITS

__all__ = ["ReadIssue"]


class ReadIssue(wiring.Component):
    """Take pieces of all clients in turn, and send them as read TLPs.

    A piece that may not be sent (void, or its function's bus mastering is off when it gets its tag)
    comes out on ``refused`` instead, in its turn. It has its tag and its notes as any other.

    | Latency: 2 cycles from ``pieces`` to ``tlps``. Throughput: 1 piece a cycle.
    | Storage: 3 TLPs. No path from ``tlps.ready`` to ``pieces.ready``.

    Parameters
    ----------
    sizes
        The engine's sizes.
    functions
        Functions of the card, 1 to 256. Up to 8 they share a device number; beyond, a function's
        number takes the place of device and function number (ARI).

    Members
    -------
    pieces : In(stream.Signature(PieceLayout(sizes))).array(clients)
    tags : In(stream.Signature(tag_bits))
        Tags to be used next.
    notes : Out(stream.Signature(NoteLayout(sizes), always_ready=True))
        In the cycle in which the TLP can first be seen on ``tlps``, or before.
    tlps : Out(stream.Signature(ReadTlpLayout()))
    refused : Out(stream.Signature(tag_bits))
    departed : Out(stream.Signature(tag_bits, always_ready=True))
        A tag whose TLP, or refusal, is taken in this cycle.
    bus_device : In(13)
    bus_master : In(functions)
    """

    pieces: list[stream.Interface]
    tags: stream.Interface
    notes: stream.Interface
    tlps: stream.Interface
    refused: stream.Interface
    departed: stream.Interface
    bus_device: Signal
    bus_master: Signal

    def __init__(self, sizes: ReadSizes, *, functions: int) -> None:
        if not 1 <= functions <= 256:
            raise ValueError(f"functions must be from 1 to 256, not {functions!r}")
        self.sizes = sizes
        self.functions = functions
        super().__init__({
            "pieces": In(stream.Signature(PieceLayout(sizes))).array(sizes.clients),
            "tags": In(stream.Signature(sizes.tag_bits)),
            "notes": Out(stream.Signature(NoteLayout(sizes), always_ready=True)),
            "tlps": Out(stream.Signature(ReadTlpLayout())),
            "refused": Out(stream.Signature(sizes.tag_bits)),
            "departed": Out(stream.Signature(sizes.tag_bits, always_ready=True)),
            "bus_device": In(13),
            "bus_master": In(functions),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        m.submodules.turns = turns = StreamArbiter(PieceLayout(sizes), sizes.clients)
        for mine, its in zip(self.pieces, turns.i, strict=True):
            connect_streams(m, wiring.flipped(mine), its)

        piece = turns.o.p
        tag = self.tags.payload
        fires = Signal()
        room = Signal()
        m.d.comb += [
            fires.eq(turns.o.valid & self.tags.valid & room),
            turns.o.ready.eq(self.tags.valid & room),
            self.tags.ready.eq(turns.o.valid & room),
        ]
        requester = Signal(16)
        if self.functions > 8:
            m.d.comb += requester.eq(Cat(piece.function, self.bus_device[5:]))
        else:
            m.d.comb += requester.eq(Cat(piece.function[:3], self.bus_device))
        self._note(m, turns.source, piece, fires, requester)
        m.d.comb += room.eq(self._send(m, piece, tag, fires, requester))
        return m

    def _note(self, m: Module, client: Value, piece: Any, fires: Signal,
              requester: Signal) -> None:
        """Make the note of a piece; the place of the next one in its group is kept per client."""
        sizes = self.sizes
        tag = self.tags.payload
        groups = [Signal(sizes.tag_bits, name=f"group_{k}", reset_less=True)
                  for k in range(sizes.clients)]
        previous = [Signal(sizes.tag_bits, name=f"previous_{k}", reset_less=True)
                    for k in range(sizes.clients)]
        lanes = [Signal(sizes.lane_bits, name=f"lane_{k}", reset_less=True)
                 for k in range(sizes.clients)]
        group = Signal(sizes.tag_bits)
        before = Signal(sizes.tag_bits)
        lane = Signal(sizes.lane_bits)
        end = Signal(sizes.rows_bits + sizes.lane_bits)   # behind the last byte, from lane 0
        last = Signal.like(end)                           # the last byte
        with m.Switch(client):
            for k in range(sizes.clients):
                with m.Case(k):
                    m.d.comb += [
                        group.eq(Mux(piece.first, tag, groups[k])),
                        before.eq(previous[k]),
                        lane.eq(Mux(piece.first, piece.lead, lanes[k])),
                    ]
                    with m.If(fires):
                        m.d.sync += [groups[k].eq(group), previous[k].eq(tag), lanes[k].eq(end)]
        m.d.comb += [
            end.eq(lane + piece.bytes),
            last.eq(lane + piece.bytes - 1),
        ]
        noted: Any = Signal(NoteLayout(sizes), reset_less=True)
        noted_valid = Signal()
        m.d.sync += [
            noted_valid.eq(fires),
            noted.tag.eq(tag),
            noted.group.eq(group),
            noted.previous.eq(before),
            noted.first.eq(piece.first),
            noted.last.eq(piece.last),
            noted.client.eq(client),
            noted.queue.eq(piece.queue),
            noted.context.eq(piece.context),
            noted.requester.eq(requester[:8]),
            noted.bytes.eq(piece.bytes),
            noted.end_address.eq(piece.address[:7] + piece.bytes[:7]),
            noted.end_offset.eq(end),
            # See `ReadGroups`: all counts of a group add up to 0.
            noted.count.eq(Mux(piece.last, -piece.ordinal, 1)),
            noted.start_lane.eq(lane),
            noted.end_lane.eq(last),
            noted.rows.eq(last >> sizes.lane_bits),
        ]
        m.d.comb += [self.notes.valid.eq(noted_valid), self.notes.payload.eq(noted)]

    def _send(self, m: Module, piece: Any, tag: Value, fires: Signal, requester: Signal) -> Value:
        """Register the TLP, with a spare register; give whether there is room for one."""
        shape = data.StructLayout({
            "address": 62, "dwords": 11, "first_be": 4, "last_be": 4, "requester": 16,
            "tag": self.sizes.tag_bits, "fenced": 1, "refused": 1,
        })
        made: Any = Signal(shape)
        out: Any = Signal(shape, reset_less=True)
        out_valid = Signal()
        spare: Any = Signal(shape, reset_less=True)
        spare_valid = Signal()

        allowed = Signal(1 << FUNCTION_BITS)
        begin = piece.address[:2]
        span = Signal(13)         # bytes from the first dword's first byte on
        end = Signal(2)           # last byte in the last dword
        upto = Signal(4)          # enables of the last dword, up to the last byte
        single = Signal()
        m.d.comb += [
            allowed.eq(Cat(self.bus_master, Const(0, (1 << FUNCTION_BITS) - self.functions))
                       if self.functions < 1 << FUNCTION_BITS else self.bus_master),
            span.eq(piece.bytes[:13] + begin + 3),
            end.eq(piece.bytes[:2] + begin - 1),
            upto.eq(Cat(1, end >= 1, end >= 2, end == 3)),
            single.eq(made.dwords == 1),
            made.address.eq(piece.address[2:]),
            made.dwords.eq(span[2:]),
            made.first_be.eq((0b1111 << begin) & Mux(single, upto, 0b1111)),
            made.last_be.eq(Mux(single, 0, upto)),
            made.requester.eq(requester),
            made.tag.eq(tag),
            made.fenced.eq(piece.fenced),
            made.refused.eq(piece.void | ~allowed.bit_select(piece.function, 1)),
        ]

        leaves = Signal()
        header = self.tlps.p.header
        m.d.comb += [
            self.tlps.valid.eq(out_valid & ~out.refused),
            self.tlps.p.fenced.eq(out.fenced),
            header.kind.eq(RequestKind.MEM_READ),
            header.address.eq(Cat(Const(0, 2), out.address)),
            header.dwords.eq(out.dwords),
            header.first_be.eq(out.first_be),
            header.last_be.eq(out.last_be),
            header.requester_id.eq(out.requester),
            header.tag.eq(out.tag),
            self.refused.valid.eq(out_valid & out.refused),
            self.refused.payload.eq(out.tag),
            leaves.eq(out_valid & Mux(out.refused, self.refused.ready, self.tlps.ready)),
            self.departed.valid.eq(leaves),
            self.departed.payload.eq(out.tag),
        ]
        with m.If(leaves | ~out_valid):
            m.d.sync += [
                out.eq(Mux(spare_valid, spare, made)),
                out_valid.eq(spare_valid | fires),
                spare_valid.eq(0),
            ]
        with m.Elif(~spare_valid):
            m.d.sync += [spare.eq(made), spare_valid.eq(fires)]
        return ~spare_valid
