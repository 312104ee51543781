"""Byte alignment of packets: cut and join at any byte, put headers in front, take them off.

All three lose no cycle to it; they differ in what they know. `Cutter` serves any lengths and
offsets, `HeaderInsert` starts with a header that lies ready, and `HeaderStrip` has a fixed offset
and is wires alone.
"""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.stream.connect import connect_streams
from hw.stream.rotate import lanes_from, rotate_bytes
from hw.stream.types import LENGTH_BITS, BeatLayout, check_lanes

__all__ = ["CutLayout", "Cutter", "HeaderInsert", "HeaderLayout", "HeaderStrip",
           "StrippedHeaderLayout"]


class CutLayout(data.StructLayout):
    """What `Cutter` is to take next.

    ====== =========== ======================================================
    field  bits        meaning
    ====== =========== ======================================================
    length 17          Bytes to take, at least 1
    lead   log2(lanes) Lane of the output packet that the first of them goes to
    ====== =========== ======================================================
    """

    def __init__(self, lanes: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        super().__init__({"length": LENGTH_BITS, "lead": range(lanes)})


class _RowLayout(data.StructLayout):
    """Bytes on their way into an output beat: ``shift`` lanes up, from lane ``first`` on.

    ``full``: the output beat is complete with them; ``last`` and ``empty`` are its own.
    """

    def __init__(self, lanes: int) -> None:
        super().__init__({"data": 8 * lanes, "first": range(lanes), "shift": range(lanes),
                          "full": 1, "last": 1, "empty": range(lanes)})


class _Place(wiring.Component):
    """Gather rows of bytes into output beats.

    | Latency: 2 cycles. Throughput: 1 row a cycle. Storage: a row and a beat.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({
            "i": In(stream.Signature(_RowLayout(lanes))),
            "o": Out(stream.Signature(BeatLayout(lanes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        row: Any = Signal(_RowLayout(lanes), reset_less=True)
        row_valid = Signal()
        row_lanes = Signal(lanes, reset_less=True)
        out: Any = Signal(BeatLayout(lanes), reset_less=True)
        out_valid = Signal()
        out_free = Signal()
        m.d.comb += [
            out_free.eq(~out_valid | self.o.ready),
            self.i.ready.eq(~row_valid | out_free),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
        ]
        with m.If(self.i.ready):
            m.d.sync += row_valid.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += [
                    row.eq(self.i.payload),
                    row_lanes.eq(lanes_from(self.i.p.first, lanes)),
                ]

        # What a row brings reaches from its first lane up to the highest; what is not meant lies
        # behind it, where the next row or nothing follows.
        turned = rotate_bytes(m, row.data, row.shift)
        with m.If(out_free):
            m.d.sync += out_valid.eq(row_valid & row.full)
            with m.If(row_valid):
                m.d.sync += [out.last.eq(row.last), out.empty.eq(row.empty)]
                for lane in range(lanes):
                    with m.If(row_lanes[lane]):
                        m.d.sync += out.data.word_select(lane, 8).eq(turned.word_select(lane, 8))
        return m


class Cutter(wiring.Component):
    """Cut a stream of bytes into packets of given lengths, each starting at a given lane.

    The bytes of all input packets follow each other without gaps. Each command takes the next
    ``length`` of them and makes one packet of them, its first byte at lane ``lead`` (the lanes
    below hold anything). So a command may end inside an input beat, and may go on over the end of
    an input packet. Bytes wait, for as long as need be, for the command that takes them.

    ::

        i ──►┬──────────► select ─► row ─► rotate ─► out ──► o
             └──► held ───►┘      (one lanes' worth of bytes, dense)

    | Latency: 2 cycles from the input beat with the last byte of an output beat; a command that
      finds none before it takes effect in the cycle after.
    | Throughput: 1 output beat a cycle at any offset, also from command to command; 1 input beat a
      cycle. Each end of an input packet inside an output beat costs a cycle.
    | Storage: 3 beats. Paths: ``o.ready`` -> ``i.ready``, ``commands.ready``.

    Parameters
    ----------
    lanes
        Byte lanes of a beat; a power of two, at least 2.

    Members
    -------
    i : In(stream.Signature(BeatLayout(lanes)))
    commands : In(stream.Signature(CutLayout(lanes)))
    o : Out(stream.Signature(BeatLayout(lanes)))
    """

    i: stream.Interface
    commands: stream.Interface
    o: stream.Interface

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({
            "i": In(stream.Signature(BeatLayout(lanes))),
            "commands": In(stream.Signature(CutLayout(lanes))),
            "o": Out(stream.Signature(BeatLayout(lanes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes

        # Bytes of the last input beat that are not yet used: `left` of them, from lane `offset`.
        # While the packet goes on they reach up to the highest lane, and the next beat follows.
        held = Signal(8 * lanes, reset_less=True)
        left = Signal(range(lanes))
        offset = Signal(range(lanes), reset_less=True)
        held_ends = Signal()  # they are the last of their packet, and there are some

        # The output beat that is being filled: `want` more bytes, from lane `place` on.
        busy = Signal()
        want = Signal(range(lanes + 1), reset_less=True)
        place = Signal(range(lanes), reset_less=True)
        after = Signal(LENGTH_BITS, reset_less=True)  # bytes of the command behind this beat

        # A step moves bytes of one input packet into one output beat: all that it wants, or all
        # that the packet still has.
        here = Signal(range(2 * lanes))
        arrived = Signal(range(lanes + 1))
        need = Signal(range(-lanes, lanes + 1))       # more than is held
        spare = Signal(range(-lanes, 2 * lanes + 1))  # what the input beat leaves over
        from_held = Signal()   # the held bytes alone do
        fits = Signal()
        ends = Signal()        # the input packet has no more than this
        uses_input = Signal()
        row_free = Signal()
        step = Signal()
        emits = Signal()       # the output beat is complete
        done = Signal()        # the command too
        m.d.comb += [
            emits.eq(step & fits),
            done.eq(emits & (after == 0)),
            arrived.eq(lanes - self.i.p.empty),
            need.eq(want - left),
            spare.eq(arrived - need),
            here.eq(left + Mux(held_ends, 0, arrived)),
            from_held.eq(need <= 0),
            # A beat inside a packet is full, and no output beat wants more.
            fits.eq(from_held | (~held_ends & self.i.valid & (~self.i.p.last | (spare >= 0)))),
            ends.eq(held_ends | (self.i.valid & self.i.p.last)),
            step.eq(busy & row_free & (fits | ends)),
            uses_input.eq(~from_held & ~held_ends),
            self.i.ready.eq(step & uses_input),
        ]
        with m.If(step):
            with m.If(uses_input):
                m.d.sync += [
                    held.eq(self.i.p.data),
                    left.eq(Mux(fits, spare, 0)),
                    offset.eq(need),
                    held_ends.eq(self.i.p.last & fits & (spare != 0)),
                ]
            with m.Elif(fits):
                m.d.sync += [
                    left.eq(left - want),
                    offset.eq(offset + want),
                    held_ends.eq(held_ends & (need != 0)),
                ]
            with m.Else():
                m.d.sync += [left.eq(0), held_ends.eq(0)]
            # Unless the beat is complete with them.
            m.d.sync += [want.eq(want - here), place.eq(place + here)]
        with m.If(emits):
            m.d.sync += place.eq(0)
            with m.If(after >= lanes):
                m.d.sync += [want.eq(lanes), after.eq(after - lanes)]
            with m.Else():
                m.d.sync += [want.eq(after), after.eq(0)]

        room = Signal(range(lanes + 1))
        m.d.comb += [
            room.eq(lanes - self.commands.p.lead),
            self.commands.ready.eq(~busy | done),
        ]
        with m.If(self.commands.ready):
            m.d.sync += [busy.eq(self.commands.valid), place.eq(self.commands.p.lead)]
            with m.If(self.commands.p.length >= room):
                m.d.sync += [want.eq(room), after.eq(self.commands.p.length - room)]
            with m.Else():
                m.d.sync += [want.eq(self.commands.p.length), after.eq(0)]

        # The bytes of the step in input order, around the end, and where they go.
        m.submodules.place = lanes_of = _Place(lanes)
        start = Signal(range(lanes))
        held_lanes = Signal(lanes)
        m.d.comb += [
            row_free.eq(lanes_of.i.ready),
            start.eq(Mux(left != 0, offset, 0)),
            held_lanes.eq(Mux(left != 0, lanes_from(offset, lanes), 0)),
            lanes_of.i.valid.eq(step),
            lanes_of.i.p.data.eq(Cat(
                Mux(held_lanes[k], held.word_select(k, 8), self.i.p.data.word_select(k, 8))
                for k in range(lanes))),
            lanes_of.i.p.first.eq(place),
            lanes_of.i.p.shift.eq(place - start),
            lanes_of.i.p.full.eq(fits),
            lanes_of.i.p.last.eq(after == 0),
            lanes_of.i.p.empty.eq(Mux(after == 0, lanes - place - want, 0)),
        ]
        connect_streams(m, lanes_of.o, flipped(self.o))
        return m


class HeaderLayout(data.StructLayout):
    """A header for `HeaderInsert`.

    ====== ============ ==========================================================
    field  bits         meaning
    ====== ============ ==========================================================
    data   8 * most     The first byte in the lowest bits
    bytes  log2         How many of them go in front of the packet, 0 to ``most``
    ====== ============ ==========================================================
    """

    def __init__(self, max_header_bytes: int) -> None:
        if max_header_bytes < 1:
            raise ValueError(f"max_header_bytes must be at least 1, not {max_header_bytes!r}")
        self.max_header_bytes = max_header_bytes
        super().__init__({"data": 8 * max_header_bytes, "bytes": range(max_header_bytes + 1)})


class HeaderInsert(wiring.Component):
    """Put a header in front of each packet.

    | Latency: 1 cycle from the first beat, whole beats of header before it apart.
    | Throughput: 1 output beat a cycle, packets of one beat included.
    | Storage: 2 beats. Paths: ``o.ready`` and the inputs' valids -> their readies.

    Parameters
    ----------
    lanes
        Byte lanes of a beat; a power of two, at least 2.
    max_header_bytes
        Longest header; at least 1, may be longer than a beat.

    Members
    -------
    headers : In(stream.Signature(HeaderLayout(max_header_bytes)))
        One a packet; taken with the packet's first beat.
    i : In(stream.Signature(BeatLayout(lanes)))
    o : Out(stream.Signature(BeatLayout(lanes)))
    """

    headers: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, lanes: int, max_header_bytes: int) -> None:
        self.lanes = lanes
        self.max_header_bytes = max_header_bytes
        super().__init__({
            "headers": In(stream.Signature(HeaderLayout(max_header_bytes))),
            "i": In(stream.Signature(BeatLayout(lanes))),
            "o": Out(stream.Signature(BeatLayout(lanes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        lane_bits = (lanes - 1).bit_length()
        rows = self.max_header_bytes // lanes + 1  # of the header; the last one is never full

        out: Any = Signal(BeatLayout(lanes), reset_less=True)
        out_valid = Signal()
        free = Signal()
        m.d.comb += [
            free.eq(~out_valid | self.o.ready),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
        ]

        inside = Signal()  # the packet's first beat has been taken
        flushes = Signal()  # its last beat too, and some bytes of it have no place yet
        carry = Signal(8 * lanes, reset_less=True)
        held_shift = Signal(lane_bits, reset_less=True)
        flush_empty = Signal(lane_bits, reset_less=True)

        # Which row of the header goes now. Those before its last one are full beats.
        header = Signal(8 * lanes * rows)
        full_rows = Signal(range(rows + 1))
        row = Signal(8 * lanes)
        in_front = Signal()  # a full row of header goes
        header_bytes = Signal(range(rows * lanes))
        m.d.comb += [
            header.eq(self.headers.p.data),
            header_bytes.eq(self.headers.p.bytes),
            full_rows.eq(header_bytes[lane_bits:]),
        ]
        if rows > 1:
            row_number = Signal(range(rows))
            m.d.comb += [
                row.eq(header.word_select(row_number, 8 * lanes)),
                in_front.eq(row_number != full_rows),
            ]
            with m.If(free & ~inside & ~flushes & self.headers.valid):
                with m.If(in_front):
                    m.d.sync += row_number.eq(row_number + 1)
                with m.Elif(self.i.valid):
                    m.d.sync += row_number.eq(0)
        else:
            m.d.comb += row.eq(header)

        shift = Signal(lane_bits)
        merges = Signal()  # an input beat goes, behind what precedes it
        m.d.comb += [
            shift.eq(Mux(inside, held_shift, header_bytes[:lane_bits])),
            merges.eq(~flushes & self.i.valid & (inside | self.headers.valid & ~in_front)),
            self.i.ready.eq(free & merges),
            self.headers.ready.eq(free & merges & ~inside),
        ]
        turned = rotate_bytes(m, self.i.p.data, shift)
        ends_at = Signal(range(2 * lanes + 1))
        overflows = Signal()
        m.d.comb += [
            ends_at.eq(lanes - self.i.p.empty + shift),
            overflows.eq(ends_at > lanes),
        ]
        with m.If(free):
            m.d.sync += out_valid.eq(
                flushes | merges | (~inside & self.headers.valid & in_front))
            with m.If(merges):
                m.d.sync += [
                    inside.eq(~self.i.p.last),
                    held_shift.eq(shift),
                    carry.eq(turned),
                    flushes.eq(self.i.p.last & overflows),
                    flush_empty.eq(-ends_at),
                    out.last.eq(self.i.p.last & ~overflows),
                    out.empty.eq(Mux(self.i.p.last & ~overflows, -ends_at, 0)),
                ]
            with m.Else():
                m.d.sync += [
                    flushes.eq(0),
                    out.last.eq(flushes),
                    out.empty.eq(Mux(flushes, flush_empty, 0)),
                ]
            behind = lanes_from(shift, lanes)  # lanes of the input beat
            with m.If(merges | flushes | self.headers.valid):
                for lane in range(lanes):
                    at = slice(8 * lane, 8 * lane + 8)
                    before = Mux(inside | flushes, carry[at], row[at])
                    m.d.sync += out.data[at].eq(
                        Mux(merges & behind[lane], turned[at], before))
        return m


class StrippedHeaderLayout(data.StructLayout):
    """The header that `HeaderStrip` took off a packet.

    ===== ============ ==========================================================
    field bits         meaning
    ===== ============ ==========================================================
    data  8 * bytes    The first byte in the lowest bits
    bytes log2         How many there were: less than asked for in a short packet
    body  1            More followed: a packet leaves on ``o``
    ===== ============ ==========================================================
    """

    def __init__(self, header_bytes: int) -> None:
        if header_bytes < 1:
            raise ValueError(f"header_bytes must be at least 1, not {header_bytes!r}")
        self.header_bytes = header_bytes
        super().__init__({"data": 8 * header_bytes, "bytes": range(header_bytes + 1), "body": 1})


class HeaderStrip(wiring.Component):
    """Take the first bytes off each packet, and give them as a header.

    A packet that has no more bytes than the header gives a header with ``body`` = 0, and no packet.

    | Latency: 1 cycle, for the header as for a body that fits into the beat the header ends in;
      beats of the body that need bytes of the next input beat leave with that one (0 cycles).
    | Throughput: 1 beat a cycle, in and out, packets of one beat included.
    | Storage: 1 beat and 1 header. Paths: ``i`` -> ``o`` (wires, and gates of control),
      ``o.ready`` and ``headers.ready`` -> ``i.ready``.

    Parameters
    ----------
    lanes
        Byte lanes of a beat; a power of two, at least 2.
    header_bytes
        Length of the header; at least 1, may be longer than a beat.

    Members
    -------
    i : In(stream.Signature(BeatLayout(lanes)))
    headers : Out(stream.Signature(StrippedHeaderLayout(header_bytes)))
        One a packet, no later than the first beat on ``o``. While one is not taken, the next
        packet's header waits.
    o : Out(stream.Signature(BeatLayout(lanes)))
    """

    i: stream.Interface
    headers: stream.Interface
    o: stream.Interface

    def __init__(self, lanes: int, header_bytes: int) -> None:
        self.lanes = lanes
        self.header_bytes = header_bytes
        super().__init__({
            "i": In(stream.Signature(BeatLayout(lanes))),
            "headers": Out(stream.Signature(StrippedHeaderLayout(header_bytes))),
            "o": Out(stream.Signature(BeatLayout(lanes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        # The header ends inside (or with) its last row, at lane `cut`.
        rows = -(-self.header_bytes // lanes)
        cut = self.header_bytes - (rows - 1) * lanes  # 1 to lanes

        header: Any = Signal(StrippedHeaderLayout(self.header_bytes), reset_less=True)
        header_valid = Signal()
        row = Signal(range(max(2, rows)))  # of the header, that comes next
        body = Signal()     # what comes is body, and the packet has not ended
        held = Signal(8 * lanes, reset_less=True)
        flushes = Signal()  # what is held ends a packet
        flush_empty = Signal(range(lanes), reset_less=True)
        count = Signal(range(lanes + 1))  # bytes that arrive
        over = Signal()  # some of them are behind the cut
        header_ends = Signal()
        header_moves = Signal()
        last = self.i.p.last
        m.d.comb += [
            count.eq(lanes - self.i.p.empty),
            over.eq(count > cut),
            self.headers.valid.eq(header_valid),
            self.headers.payload.eq(header),
            header_ends.eq((row == rows - 1) | last),
            header_moves.eq(self.i.valid & ~body & (~flushes | self.o.ready)
                            & (~header_valid | self.headers.ready)),
        ]

        # In front of the cut of this beat come the bytes behind the cut of the one before. (In a
        # flush nothing else: a payload that waits must not change with what arrives.)
        if cut < lanes:
            m.d.comb += [
                self.o.p.data.eq(Cat(held[8 * cut:], Mux(flushes, 0, self.i.p.data[:8 * cut]))),
                self.o.p.last.eq(flushes | (last & ~over)),
                self.o.p.empty.eq(Mux(flushes, flush_empty,
                                      Mux(last & ~over, cut - count, 0))),
            ]
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += [held.eq(self.i.p.data), flush_empty.eq(self.i.p.empty + cut)]
        else:
            m.d.comb += self.o.payload.eq(self.i.payload)
        m.d.comb += [
            self.o.valid.eq(flushes | (body & self.i.valid)),
            self.i.ready.eq(Mux(body, self.o.ready, header_moves)),
        ]
        # A body never overlaps the flush of the packet before it, a header may.
        with m.If(self.o.ready):
            m.d.sync += flushes.eq(0)
        with m.If(body & self.i.valid & self.o.ready & last):
            m.d.sync += body.eq(0)
            if cut < lanes:
                m.d.sync += flushes.eq(over)

        with m.If(self.headers.ready):
            m.d.sync += header_valid.eq(0)
        with m.If(header_moves):
            for number in range(rows):
                low, high = 8 * lanes * number, min(8 * lanes * (number + 1), 8 * self.header_bytes)
                with m.If(row == number):
                    m.d.sync += [
                        header.data[low:high].eq(self.i.p.data[:high - low]),
                        header.bytes.eq(Mux(count > (high - low) // 8, high // 8,
                                            low // 8 + count)),
                    ]
            m.d.sync += row.eq(Mux(header_ends, 0, row + 1))
            with m.If(header_ends):
                m.d.sync += header_valid.eq(1)
            with m.If(row == rows - 1):
                m.d.sync += [
                    header.body.eq(~last | over),
                    body.eq(~last),
                ]
                if cut < lanes:
                    m.d.sync += flushes.eq(last & over)
            with m.Else():
                m.d.sync += header.body.eq(0)
        return m
