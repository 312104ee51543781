"""Merge the card's writes and reads into the requester request stream, and keep their order."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.fence import COUNT_BITS
from hw.pcie.fenced_reads import FencedReads
from hw.pcie.types import (
    CreditLayout,
    ReadTlpLayout,
    RequestHeader,
    TlpLayout,
    WriteTlpLayout,
)
from hw.stream.register import StreamRegister
from hw.stream.types import FUNCTION_BITS, check_lanes

__all__ = ["Requester"]

_FENCED = 8  # fenced reads that wait
_TAG_BITS = RequestHeader()["tag"].width
_PER_DEVICE = 8  # functions that share a device number


class Requester(wiring.Component):
    """Send write TLPs and reads out on ``rq``, a whole TLP of each in turn.

    ::

        writes ─────────────────────────────────────────►┐
        reads ──┬──────────────────►┬───────────► credit ►├──► register ──► rq
                └──► fenced reads ─►┘   └► slot ►┘

    **Writes wait for no read.** A read takes part in the turns only when there is credit for it;
    until then it stands in its slot, beside the way of the writes. **Reads wait for no fence** but
    their own: those that are fenced stand apart (`FencedReads`) until theirs has passed.

    **Order.** Groups of writes are counted twice, modulo 256: as `DmaWrite` accepts them
    (``writes_accepted``) and, in the same order, as their last beat is taken on ``rq``
    (``writes_left``). Whoever must stay behind all writes accepted so far remembers the first count
    and waits for the second to reach it: `hw.pcie.fence.WriteFence`. The completer does so for each
    answer on ``cc``, with a capture no earlier than the moment at which the answer's data were
    read, and sends the answer when ``passed`` is set.

    A fenced read does so too, from the moment it is taken, but with a count of what has *entered*
    the output register: behind it nothing overtakes. That every write accepted before the read
    was offered is included: the count is a register that shows a group in the very cycle in which
    the client sees ``accepted`` (see `DmaWrite`), and the read is captured in that cycle at the
    earliest.

    **Bus mastering.** A read whose function is no bus master any more is not sent, but given back
    on ``refused``. So however long reads waited, nothing but the two beats of the output register
    leaves after the function was told to be silent. Writes need no such check: the answer to what
    silences them stays behind all that were accepted.

    Fenced reads keep their order, and so do the others. More than 8 fenced ones that wait, and
    reads that wait for credit, hold up those behind them.

    | Latency: 1 cycle, for fenced reads 3.
    | Throughput: 1 beat a cycle; when both could always go, one write TLP and one read in turn.
    | Storage: 10 reads, 1 tag; 2 beats. No path from ``rq.ready`` to an input.

    Parameters
    ----------
    lanes
        Byte lanes of a beat: a power of two, at least 4.
    functions
        Functions of the card, 1 to 256; up to 8, or ARI (as in `hw.pcie.read_issue`).

    Members
    -------
    writes : In(stream.Signature(WriteTlpLayout(lanes)))
        `DmaWrite.tlps`. Stalled by ``rq`` alone.
    reads : In(stream.Signature(ReadTlpLayout()))
    writes_accepted : In(8)
        `DmaWrite.writes_accepted`.
    np_credit : In(CreditLayout())
        Credit for non-posted headers. May grow at any time.
    bus_master : In(functions)
        Looked at a cycle late: a read comes no sooner after its function may read.
    refused : Out(stream.Signature(10))
        Tags of reads that were not sent.
    rq : Out(stream.Signature(TlpLayout(lanes, RequestHeader())))
    writes_left : Out(8)
        Groups of writes whose last beat has been taken on ``rq`` in an earlier cycle.
    """

    writes: stream.Interface
    reads: stream.Interface
    writes_accepted: Signal
    np_credit: data.View
    bus_master: Signal
    refused: stream.Interface
    rq: stream.Interface
    writes_left: Signal

    def __init__(self, lanes: int, *, functions: int) -> None:
        check_lanes(lanes)
        if not 1 <= functions <= 1 << FUNCTION_BITS:
            raise ValueError(f"functions must be from 1 to {1 << FUNCTION_BITS}, not {functions!r}")
        if lanes < 4:
            raise ValueError(f"lanes must be at least 4, not {lanes!r}")
        self.lanes = lanes
        self.functions = functions
        super().__init__({
            "writes": In(stream.Signature(WriteTlpLayout(lanes))),
            "reads": In(stream.Signature(ReadTlpLayout())),
            "writes_accepted": In(COUNT_BITS),
            "np_credit": In(CreditLayout()),
            "bus_master": In(functions),
            "refused": Out(stream.Signature(_TAG_BITS)),
            "rq": Out(stream.Signature(TlpLayout(lanes, RequestHeader()))),
            "writes_left": Out(COUNT_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.output = output = StreamRegister(WriteTlpLayout(self.lanes))
        m.submodules.fenced = fenced = FencedReads(_FENCED)

        read: Any = Signal(RequestHeader(), reset_less=True)
        read_valid = Signal()
        came: Any = Signal(RequestHeader())  # a read that comes; it needs the slot only to wait
        came_valid = Signal()
        now: Any = Signal(RequestHeader())   # the read that may go
        now_valid = Signal()
        read_can = Signal()
        allowed = Signal()
        refuses = Signal()
        refusal = Signal(_TAG_BITS, reset_less=True)
        refusal_valid = Signal()
        read_goes = Signal()
        reads_next = Signal()       # the read has the next turn, if it can go
        inside = Signal()           # a write TLP has begun on the output register
        limit: Any = Signal(CreditLayout())
        used = Signal(8)
        entered = Signal(COUNT_BITS)
        left = Signal(COUNT_BITS)

        # Credit a cycle old is less than there is, never more.
        m.d.sync += limit.eq(self.np_credit)

        m.d.comb += [
            # One whose fence has passed goes before the others: it is late already.
            came_valid.eq(fenced.o.valid | (self.reads.valid & ~self.reads.p.fenced)),
            came.eq(Mux(fenced.o.valid, fenced.o.payload.as_value(),
                        self.reads.p.header.as_value())),
            now_valid.eq(read_valid | came_valid),
            now.eq(Mux(read_valid, read.as_value(), came.as_value())),
            fenced.o.ready.eq(~read_valid),
            self.reads.ready.eq(Mux(self.reads.p.fenced, fenced.i.ready,
                                    ~read_valid & ~fenced.o.valid)),
            fenced.i.valid.eq(self.reads.valid & self.reads.p.fenced),
            fenced.i.payload.eq(self.reads.p.header),
            fenced.writes_accepted.eq(self.writes_accepted),
            fenced.writes_left.eq(entered),
            self.refused.valid.eq(refusal_valid),
            self.refused.payload.eq(refusal),
            refuses.eq(now_valid & ~allowed & ~refusal_valid),
            # Once it can go it can until it goes (credit is not taken back), or is refused.
            read_can.eq(now_valid & allowed & (limit.infinite | (limit.limit != used))),
            read_goes.eq(read_can & ~inside & (reads_next | ~self.writes.valid)),
            self.writes.ready.eq(output.i.ready & ~read_goes),
            output.i.valid.eq(read_goes | self.writes.valid),
            # A read has no data, so that the widest field needs no choice.
            output.i.p.data.eq(self.writes.p.data),
            output.i.p.empty.eq(Mux(read_goes, 0, self.writes.p.empty)),
            output.i.p.last.eq(read_goes | self.writes.p.last),
            output.i.p.header.eq(Mux(read_goes, now, self.writes.p.header)),
            output.i.p.ends_group.eq(~read_goes & self.writes.p.ends_group),
            self.rq.valid.eq(output.o.valid),
            output.o.ready.eq(self.rq.ready),
            self.rq.p.data.eq(output.o.p.data),
            self.rq.p.empty.eq(output.o.p.empty),
            self.rq.p.last.eq(output.o.p.last),
            self.rq.p.header.eq(output.o.p.header),
            self.writes_left.eq(left),
        ]

        # A cycle old: the answer to what changes it takes longer than that.
        function_bits = 3 if self.functions <= _PER_DEVICE else FUNCTION_BITS
        masters = Signal(self.functions, reset_less=True)
        m.d.sync += masters.eq(self.bus_master)
        m.d.comb += allowed.eq(masters.bit_select(now.requester_id[:function_bits], 1)
                               if self.functions > 1 else masters)
        with m.If(self.refused.ready):
            m.d.sync += refusal_valid.eq(0)
        with m.If(refuses):
            m.d.sync += [refusal_valid.eq(1), refusal.eq(now.tag)]

        m.d.sync += read_valid.eq(now_valid & ~refuses & ~(read_goes & output.i.ready))
        with m.If(~read_valid):
            m.d.sync += read.eq(came)

        with m.If(output.i.valid & output.i.ready):
            with m.If(read_goes):
                m.d.sync += [used.eq(used + 1), reads_next.eq(0)]
            with m.Else():
                m.d.sync += [inside.eq(~self.writes.p.last), reads_next.eq(self.writes.p.last)]
                with m.If(self.writes.p.last & self.writes.p.ends_group):
                    m.d.sync += entered.eq(entered + 1)

        with m.If(output.o.valid & self.rq.ready & output.o.p.last & output.o.p.ends_group):
            m.d.sync += left.eq(left + 1)

        return m
