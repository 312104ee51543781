"""DMA writes: groups of segments and their bytes become memory-write TLPs, in one order for all."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.fence import COUNT_BITS
from hw.pcie.types import RequestKind, WriteSegmentLayout, WriteTlpLayout
from hw.stream.align import CutLayout, Cutter
from hw.stream.arbiter import PacketArbiter
from hw.stream.queue import StreamQueue
from hw.stream.register import SkidRegister, StreamRegister
from hw.stream.types import FUNCTION_BITS, LENGTH_BITS, BeatLayout, check_lanes

__all__ = ["DmaWrite"]

_PAGE_BITS = 12    # no TLP crosses 4 KiB
_SMALL_BITS = 7    # the smallest payload size is 128
_TLPS = 16         # TLPs that are cut and wait for their bytes


class _StretchLayout(data.StructLayout):
    """What is still to be written of a segment, and the TLP that begins there.

    ``rest`` is one less than the bytes that are left. A TLP takes bytes up to the end of a window
    of the payload size. The window begins at the dword of the first byte, so that aligned payload
    is as large as may be; but where that would cross a page (``limited``), it begins earlier, at a
    multiple of the payload size, and ends with the page. ``before`` are the bytes of the window
    before the first one. ``size`` is the window's size, 128 << (0, 1 or 2), coded as the bits that
    its mask has above 127. ``quick`` is the number of bytes in the first TLP, unless it is limited.
    """

    def __init__(self) -> None:
        super().__init__({
            "function": FUNCTION_BITS, "address": 64, "rest": LENGTH_BITS, "limited": 1,
            "before": _SMALL_BITS + 2, "quick": _SMALL_BITS + 3, "size": 2, "last": 1,
        })


class _TlpLayout(data.StructLayout):
    """A TLP whose bytes are on their way: what its header is made of."""

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS, "address": 64, "bytes": 10, "ends_group": 1})


class _TurnLayout(data.StructLayout):
    """Whose packet comes next, one-hot, and whether it is thrown away."""

    def __init__(self, clients: int) -> None:
        super().__init__({"client": clients, "discards": 1})


class _ShortQueue(wiring.Component):
    """A queue that, while it is empty, lets through what is known soon enough.

    ``i`` is taken in the cycle in which it is valid or never: whoever drives it looks at ready
    first. With ``quick`` set, ``early`` is the same payload, by a shorter way, and it is offered
    on ``o`` at once; if it is not taken, it is queued, and offered again from there.

    | Latency: 0 cycles with ``quick``, else 1. Throughput: 1 transfer a cycle.
    | Storage: ``depth`` payloads. Paths: ``early`` -> ``o`` (one multiplexer); none backward.
    """

    i: stream.Interface
    quick: Signal
    early: Any
    o: stream.Interface

    def __init__(self, shape: data.StructLayout, depth: int) -> None:
        self.shape = shape
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)), "quick": In(1), "early": In(shape),
            "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = StreamQueue(self.shape, self.depth)
        m.d.comb += [
            self.i.ready.eq(queue.i.ready),
            queue.i.valid.eq(self.i.valid & (queue.o.valid | ~(self.quick & self.o.ready))),
            queue.i.payload.eq(self.i.payload),
            self.o.valid.eq(queue.o.valid | (self.i.valid & self.quick)),
            Value.cast(self.o.payload).eq(Mux(queue.o.valid, Value.cast(queue.o.payload),
                                              Value.cast(self.early))),
            queue.o.ready.eq(self.o.ready),
        ]
        return m


class DmaWrite(wiring.Component):
    """Write groups of segments into host memory, for several clients.

    ::

        segments ─► window ─┐                      ┌─► headers ──────────────┐
        segments ─► window ─┴► arbiter ─► splitter ┼─► commands ─► ┌───────┐ ▼
                                                   └─► turns ─┐    │ Cutter├───► tlps
        data ──────────────────────────────────────► choose ◄─┘    │       │
        data ──────────────────────────────────────►   └──────────►└───────┘

    **Order.** Groups are chosen whole, round robin; the order in which the splitter takes their
    first segments is the order in which all their TLPs leave. In that cycle a group is counted in
    ``writes_accepted``, and in the next one both the new count and the client's ``accepted`` are
    seen. So when a client sees ``accepted``, every write accepted later leaves later, and every
    fence that is captured in that cycle or later (`hw.pcie.fence.WriteFence`) waits for the group.
    A group is counted when its first TLP enters the queue of headers, which it leaves with its last
    beat: so no more than _TLPS and the few beats in `Requester` are counted and have not left.

    The client need not have given all its data by then; but it has promised that they can come
    without waiting for anything, and so nobody waits for long.

    **TLPs** carry at most ``payload_size`` bytes from the first dword on, never cross 4 KiB, and
    have the byte enables of the bytes that are written. Lanes that are not enabled hold anything.

    A group of a function whose bus mastering is off is swallowed, its data too. It is accepted as
    any other (its client goes on), but not counted, since there is nothing to wait for.

    | Latency: 4 cycles from the first beat, offered with its segment, to ``tlps``.
    | Throughput: 1 beat a cycle; 1 group, segment or TLP a cycle, if they have one beat each. Where
    | a segment ends inside a beat of ``data`` no cycle is lost, but the TLP's own last beat.
    | Storage: 7 beats, 16 TLPs, 16 groups.

    Parameters
    ----------
    lanes
        Byte lanes of a beat: a power of two, at least 8.
    clients
        Who writes: 1 to 16.
    functions
        The PF and its VFs, 1 to 256. Up to 8, a requester ID is bus, device and a function number
        of 3 bits, else bus and a function number of 8 bits.
    max_payload_bytes
        Largest payload that is ever used: 128, 256 or 512.

    Members
    -------
    segments : In(stream.Signature(WriteSegmentLayout())).array(clients)
    data : In(stream.Signature(BeatLayout(lanes))).array(clients)
        One packet a group, as long as its segments together: not a byte more or less, which is
        not checked. All segments of a group are of one function.
    accepted : Out(1).array(clients)
        A pulse a group, in order: it stands in the order of writes (or was swallowed).
    payload_size : In(3)
        Max_Payload_Size of Device Control: 128 << ``payload_size`` bytes. What is beyond
        ``max_payload_bytes`` counts as that. A change counts for segments that come later.
    bus_device : In(13)
        Bus and device number of the card.
    bus_master : In(functions)
        Bus Master Enable of each function.
    tlps : Out(stream.Signature(WriteTlpLayout(lanes)))
        To `Requester`. The header means something with every beat.
    writes_accepted : Out(8)
        Groups accepted, modulo 256.
    discarded : Out(stream.Signature(8, always_ready=True))
        For counters: the function of a group that is swallowed; with its ``accepted``.
    """

    segments: list[stream.Interface]
    data: list[stream.Interface]
    accepted: list[Signal]
    payload_size: Signal
    bus_device: Signal
    bus_master: Signal
    tlps: stream.Interface
    writes_accepted: Signal
    discarded: stream.Interface

    def __init__(self, lanes: int, *, clients: int, functions: int,
                 max_payload_bytes: int = 256) -> None:
        check_lanes(lanes)
        if lanes < 8:
            raise ValueError(f"lanes must be at least 8, not {lanes!r}")
        if not 1 <= clients <= 16:
            raise ValueError(f"clients must be from 1 to 16, not {clients!r}")
        if not 1 <= functions <= 1 << FUNCTION_BITS:
            raise ValueError(f"functions must be from 1 to {1 << FUNCTION_BITS}, not {functions!r}")
        if max_payload_bytes not in (128, 256, 512):
            raise ValueError(
                f"max_payload_bytes must be 128, 256 or 512, not {max_payload_bytes!r}")
        self.lanes = lanes
        self.clients = clients
        self.functions = functions
        self.max_payload_bytes = max_payload_bytes
        super().__init__({
            "segments": In(stream.Signature(WriteSegmentLayout())).array(clients),
            "data": In(stream.Signature(BeatLayout(lanes))).array(clients),
            "accepted": Out(1).array(clients),
            "payload_size": In(3),
            "bus_device": In(13),
            "bus_master": In(functions),
            "tlps": Out(stream.Signature(WriteTlpLayout(lanes))),
            "writes_accepted": Out(COUNT_BITS),
            "discarded": Out(stream.Signature(FUNCTION_BITS, always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.arbiter = arbiter = PacketArbiter(_StretchLayout(), self.clients)
        m.submodules.headers = headers = StreamQueue(_TlpLayout(), _TLPS)
        m.submodules.cutter = cutter = Cutter(self.lanes)
        m.submodules.commands = commands = _ShortQueue(CutLayout(self.lanes), _TLPS)
        m.submodules.turns = turns = _ShortQueue(_TurnLayout(self.clients), _TLPS)
        connect(m, commands.o, cutter.commands)
        self._windows(m, arbiter)
        self._split(m, arbiter, headers.i, commands, turns)
        self._choose(m, turns.o, cutter.i)
        self._send(m, headers.o, cutter.o)
        return m

    def _windows(self, m: Module, arbiter: PacketArbiter) -> None:
        """See before the arbitration where each client's first TLP ends; it takes the same time."""
        size = Signal(2)
        largest = {128: 0b00, 256: 0b01, 512: 0b11}[self.max_payload_bytes]
        m.d.sync += size.eq(Cat(self.payload_size != 0, self.payload_size > 1) & largest)
        mask = Cat(Const(-1, _SMALL_BITS), size)
        for index, segments in enumerate(self.segments):
            # Its client's logic and the arbiter's meet at a register.
            skid = SkidRegister(WriteSegmentLayout())
            m.submodules[f"skid_{index}"] = skid
            connect(m, flipped(segments), skid.i)
            segment, window = skid.o.p, arbiter.i[index].p
            limited = Signal(name=f"limited_{index}")
            room = Signal(_SMALL_BITS + 3, name=f"room_{index}")  # when it is not limited
            low = segment.address[:2]
            m.d.comb += [
                # One payload size, or one less and what is left of the first dword.
                room.eq(Mux(low == 0, mask + 1, Cat((-low)[:2], mask[2:]))),
                window.quick.eq(Mux(segment.length > room, room, segment.length)),
                limited.eq((segment.address[:_PAGE_BITS] | mask).all()
                           & (segment.address[2:9] & mask[2:]).any()),
                skid.o.ready.eq(arbiter.i[index].ready),
                arbiter.i[index].valid.eq(skid.o.valid),
                window.function.eq(segment.function),
                window.address.eq(segment.address),
                window.rest.eq(segment.length - 1),
                window.limited.eq(limited),
                window.before.eq(Mux(limited, segment.address[:9] & mask, low)),
                window.size.eq(size),
                window.last.eq(segment.last),
            ]

    def _split(self, m: Module, arbiter: PacketArbiter, headers: stream.Interface,
               commands: _ShortQueue, turns: _ShortQueue) -> None:
        """Cut what the arbiter gives into TLPs, one a cycle; begin groups, or discard them."""
        goes_on = Signal()             # `later` is what is left of the segment on the arbiter
        later: Any = Signal(_StretchLayout(), reset_less=True)
        now: Any = Signal(_StretchLayout())
        inside = Signal()              # the group has begun
        discarding = Signal()          # that group is discarded
        m.d.comb += Value.cast(now).eq(Mux(goes_on, Value.cast(later),
                                           Value.cast(arbiter.o.payload)))

        mask = Signal(_SMALL_BITS + 2)
        after = Signal(LENGTH_BITS + 1)  # `rest` behind this TLP; negative if it is the last one
        fits = Signal()
        count = Signal(10)
        room = Signal()
        moves = Signal()
        begins = Signal()
        discards = Signal()
        m.d.comb += [
            mask.eq(Cat(Const(-1, _SMALL_BITS), now.size)),
            # The window holds mask + 1 - before bytes; negated, that is before with all ones above.
            after.eq(now.rest + Cat(now.before | ~mask, 1).as_signed()),
            fits.eq(after[-1]),
            count.eq(Mux(fits, now.rest[:9] + 1, (mask & ~now.before) + 1)),
            begins.eq(moves & ~inside),
            discards.eq(Mux(inside, discarding, ~self.bus_master.bit_select(
                now.function, 1))),
            room.eq(headers.ready & commands.i.ready & turns.i.ready),
            moves.eq(arbiter.o.valid & room),
            arbiter.o.ready.eq(room & (fits | discards)),
            headers.valid.eq(moves & ~discards),
            headers.p.function.eq(now.function),
            headers.p.address.eq(now.address),
            headers.p.bytes.eq(count),
            headers.p.ends_group.eq(fits & now.last),
            commands.i.valid.eq(moves & ~discards),
            commands.i.p.length.eq(count),
            commands.i.p.lead.eq(now.address[:2]),
            # A first TLP goes to the Cutter while its header is made and its bytes are fetched.
            commands.quick.eq(~goes_on & ~arbiter.o.p.limited),
            commands.early.length.eq(arbiter.o.p.quick),
            commands.early.lead.eq(arbiter.o.p.address[:2]),
            turns.i.valid.eq(begins),
            turns.i.p.client.eq(1 << arbiter.source),
            turns.i.p.discards.eq(discards),
            turns.quick.eq(1),
            turns.early.eq(turns.i.p),
        ]

        # One payload size on; to the end of the page, if that came first. There the next window
        # begins with the page; elsewhere the same offset in the next payload size is looked at.
        step = Cat(~now.size[0], now.size[0] & ~now.size[1], now.size[1])
        ahead = Signal(64 - _SMALL_BITS)
        inner = Signal(9)
        limited = Signal()
        above = now.address[_SMALL_BITS:_PAGE_BITS]
        m.d.comb += [
            ahead.eq(now.address[_SMALL_BITS:] + step),
            inner.eq(Mux(now.limited, 0, now.address[:9] & mask & ~0b11)),
            limited.eq((inner != 0) & ((above ^ step) | now.size).all()
                       & ((above & step) == 0)),
        ]
        with m.If(moves):
            m.d.sync += [
                goes_on.eq(~fits & ~discards),
                later.eq(now),
                # Two bits may lie inside the payload size, or above it.
                later.address.eq(Cat(
                    inner[:_SMALL_BITS],
                    Mux(now.size[0], inner[_SMALL_BITS], ahead[0]),
                    Mux(now.size[1], inner[_SMALL_BITS + 1], ahead[1]), ahead[2:])),
                later.rest.eq(after),
                later.limited.eq(limited),
                later.before.eq(Mux(limited, inner, 0)),
                inside.eq(~((fits | discards) & now.last)),
                discarding.eq(discards),
            ]

        accepted = Signal(self.clients)
        groups = Signal(COUNT_BITS)
        discarded = Signal()
        whose = Signal(FUNCTION_BITS, reset_less=True)
        m.d.sync += [
            accepted.eq(Mux(begins, 1 << arbiter.source, 0)),
            discarded.eq(begins & discards),
            whose.eq(now.function),
        ]
        with m.If(begins & ~discards):
            m.d.sync += groups.eq(groups + 1)
        m.d.comb += [
            Cat(self.accepted).eq(accepted),
            self.writes_accepted.eq(groups),
            self.discarded.valid.eq(discarded),
            self.discarded.payload.eq(whose),
        ]

    def _choose(self, m: Module, turns: stream.Interface, bytes_in: stream.Interface) -> None:
        """Bring the clients' packets into the order of the groups; throw away discarded ones."""
        layout = data.StructLayout({"beat": BeatLayout(self.lanes), "discards": 1})
        m.submodules.chosen = chosen = StreamRegister(layout)
        grant = turns.p.client
        beat = chosen.i.p.beat
        m.d.comb += [
            chosen.i.valid.eq(turns.valid & (Cat(i.valid for i in self.data) & grant).any()),
            Value.cast(beat).eq(reduce(or_, (
                Mux(grant[k], Value.cast(i.p), 0) for k, i in enumerate(self.data)))),
            # Known last of all, and so used behind the register.
            chosen.i.p.discards.eq(turns.p.discards),
            turns.ready.eq(chosen.i.valid & chosen.i.ready & beat.last),
            bytes_in.valid.eq(chosen.o.valid & ~chosen.o.p.discards),
            bytes_in.payload.eq(chosen.o.p.beat),
            chosen.o.ready.eq(bytes_in.ready | chosen.o.p.discards),
        ]
        for index, i in enumerate(self.data):
            m.d.comb += i.ready.eq(turns.valid & grant[index] & chosen.i.ready)

    def _send(self, m: Module, headers: stream.Interface, bytes_out: stream.Interface) -> None:
        """Put the header beside the bytes. It is always there first: the Cutter takes longer."""
        start, end = Signal(2), Signal(11)
        one = Signal()
        first, last = Signal(4), Signal(4)
        header = self.tlps.p.header
        made = headers.p
        if self.functions > 8:
            requester = Cat(made.function, self.bus_device[5:])
        else:
            requester = Cat(made.function[:3], self.bus_device)
        m.d.comb += [
            start.eq(made.address[:2]),
            end.eq(start + made.bytes),
            one.eq(end <= 4),
            first.eq(0xF << start),
            last.eq(0xF >> (-end)[:2]),
            header.kind.eq(RequestKind.MEM_WRITE),
            header.address.eq(Cat(Const(0, 2), made.address[2:])),
            header.dwords.eq((end + 3)[2:]),
            header.first_be.eq(Mux(one, first & last, first)),
            header.last_be.eq(Mux(one, 0, last)),
            header.requester_id.eq(requester),
            self.tlps.valid.eq(bytes_out.valid),
            self.tlps.p.data.eq(bytes_out.p.data),
            self.tlps.p.empty.eq(Cat(Const(0, 2), bytes_out.p.empty[2:])),  # whole dwords
            self.tlps.p.last.eq(bytes_out.p.last),
            self.tlps.p.ends_group.eq(made.ends_group),
            bytes_out.ready.eq(self.tlps.ready),
            headers.ready.eq(bytes_out.valid & self.tlps.ready & bytes_out.p.last),
        ]
