"""What the rooms tell of frames and drops, as events for the counters."""

from typing import Any

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS, LENGTH_BITS
from hw.vf.counters import CounterEvent
from hw.vf.regs import COUNTER_BANKS, counter
from hw.virtio.deliver import DroppedLayout, DropReason
from hw.virtio.frame_assembly import SentLayout
from hw.virtio.layouts import NET_HEADER
from hw.virtio.types import FunctionLayout, UsedLayout
from hw.wire.types import (
    AdmissionDrop,
    AdmissionDropLayout,
    EnteredLayout,
    EntryDrop,
    FrameHandle,
)

__all__ = ["Counting"]


_ROWS: dict[str, dict[Any, str]] = {
    "wire_dropped": {EntryDrop.FULL: "entry_full", EntryDrop.ERROR: "frame_error",
                     EntryDrop.LONG: "oversize", EntryDrop.SHORT: "runt"},
    "admission_dropped": {AdmissionDrop.POOL_FULL: "pool_full",
                          AdmissionDrop.QUEUE_FULL: "queue_full"},
    "receive_dropped": {DropReason.QUEUE_DOWN: "queue_down", DropReason.NO_FIT: "no_fit"},
}
"""The kinds of drops are numbered as the rows of their bank are."""


class Counting(wiring.Component):
    """Translate: who, which counter, how many bytes. An event a cycle and source, none is held up.

    | Latency: 0 cycles. Storage: the bytes of the chains that a received frame has filled.

    Parameters
    ----------
    stride
        Data queues a function, a power of two.
    cells
        Cells of the egress buffer.

    Members
    -------
    came : In(stream.Signature(EnteredLayout(), always_ready=True))
        A good frame from the wire.
    entry_drops, admission_drops, deliver_drops : In(streams, always ready)
        Frames that went no further, from `EntryFifo`, `Admission` and `Deliver`.
    delivered : In(stream.Signature(UsedLayout(), always_ready=True))
        A chain that holds a received frame behind its header, or a part of both. The frame counts
        with its last chain; its chains come one behind the other.
    sent : In(stream.Signature(SentLayout(), always_ready=True))
        A frame of a driver, whole in the egress buffer.
    left : In(stream.Signature(FrameHandle(cells), always_ready=True))
        A frame on its way out of the egress buffer, to the wire.
    bad_doorbells : In(stream.Signature(FunctionLayout(), always_ready=True))
    unexpected : In(1)
        A completion that belongs to no read.
    events : Out({name of a bank: Out(stream.Signature(CounterEvent(), always_ready=True))})
        To `Management`.
    """

    came: stream.Interface
    entry_drops: stream.Interface
    admission_drops: stream.Interface
    deliver_drops: stream.Interface
    delivered: stream.Interface
    sent: stream.Interface
    left: stream.Interface
    bad_doorbells: stream.Interface
    unexpected: Value
    events: Any

    def __init__(self, *, stride: int, cells: int) -> None:
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of two and at least 2, not {stride!r}")
        self.stride = stride

        def told(shape: Any) -> wiring.Member:
            return In(stream.Signature(shape, always_ready=True))

        super().__init__({
            "came": told(EnteredLayout()),
            "entry_drops": told(EntryDrop),
            "admission_drops": told(AdmissionDropLayout()),
            "deliver_drops": told(DroppedLayout()),
            "delivered": told(UsedLayout()),
            "sent": told(SentLayout()),
            "left": told(FrameHandle(cells)),
            "bad_doorbells": told(FunctionLayout()),
            "unexpected": In(1),
            "events": Out(wiring.Signature({
                bank.name: Out(stream.Signature(CounterEvent(), always_ready=True))
                for bank in COUNTER_BANKS if bank.name != "faults"})),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def function(queue: Value) -> Value:
            return (queue >> (self.stride - 1).bit_length())[:FUNCTION_BITS]

        def tell(bank: str, source: Any, row: Value | int, *, of: Value | int = 0,
                 size: Value | int = 0) -> None:
            event = getattr(self.events, bank)
            m.d.comb += [
                event.valid.eq(source if isinstance(source, Value) else source.valid),
                event.p.function.eq(of), event.p.row.eq(row), event.p.bytes.eq(size),
            ]

        for bank, rows in _ROWS.items():
            for kind, name in rows.items():
                if counter(bank, name)[1] != kind.value:
                    raise ValueError(f"{name} is not row {kind.value} of {bank}")
        tell("wire_received", self.came, 0, size=self.came.p.bytes)
        tell("wire_dropped", self.entry_drops, Value.cast(self.entry_drops.payload))
        tell("wire_sent", self.left, 0, size=self.left.p.bytes)
        # A frame's chains hold its header as well.
        before = Signal(signed(LENGTH_BITS + 1), init=-NET_HEADER.size)
        with m.If(self.delivered.valid):
            m.d.sync += before.eq(Mux(self.delivered.p.more, before + self.delivered.p.bytes,
                                      -NET_HEADER.size))
        tell("received", self.delivered.valid & ~self.delivered.p.more, 0,
             of=function(self.delivered.p.queue), size=before + self.delivered.p.bytes)
        tell("receive_dropped", self.deliver_drops, Value.cast(self.deliver_drops.p.reason),
             of=function(self.deliver_drops.p.queue))
        tell("transmitted", self.sent, 0, of=function(self.sent.p.queue), size=self.sent.p.bytes)
        tell("doorbells_ignored", self.bad_doorbells, 0, of=self.bad_doorbells.p.function)
        tell("completions_dropped", self.unexpected, 0)
        drop = self.admission_drops.p
        tell("admission_dropped", self.admission_drops, Value.cast(drop.reason),
             of=function(drop.queue))
        return m
