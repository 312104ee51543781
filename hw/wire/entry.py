"""The entry FIFO: received frames whole or not at all."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.queue import StreamQueue
from hw.stream.types import LENGTH_BITS, BeatLayout, WireBeatLayout, check_lanes
from hw.wire.flow_hash import FlowHash
from hw.wire.types import EnteredLayout, EntryDrop

__all__ = ["EntryFifo"]

_MIN_FRAME_BYTES = 14  # an Ethernet header


class EntryFifo(wiring.Component):
    """Take frames from the wire, which waits for nobody; keep those that are good, whole.

    Each beat is stored as it comes. At the last one the frame is given on, or forgotten: when it
    did not fit, has an error flag, or a length that no frame has. Every frame that is forgotten is
    an event, with the first reason that was found.

    | Latency: 1 cycle from the last beat to ``lengths``, 2 to ``frames``. Throughput: a beat a
      cycle in and out. Storage: ``entry_bytes``, and a length and a hash
      for each row.

    Parameters
    ----------
    lanes
        Byte lanes of a beat.
    entry_bytes
        Size: a power of two, at least 2 beats.
    max_frame_bytes
        Longest frame that is kept, without FCS; at least 14.

    Members
    -------
    wire : In(stream.Signature(WireBeatLayout(lanes), always_ready=True))
    lengths : Out(stream.Signature(EnteredLayout()))
        One a frame, before its first beat: all that its end would tell, and whose it is.
    frames : Out(stream.Signature(BeatLayout(lanes)))
    drops : Out(stream.Signature(EntryDrop, always_ready=True))
        An event for each frame that was not kept.
    """

    wire: stream.Interface
    lengths: stream.Interface
    frames: stream.Interface
    drops: stream.Interface

    def __init__(self, lanes: int, *, entry_bytes: int, max_frame_bytes: int) -> None:
        check_lanes(lanes)
        if entry_bytes < 2 * lanes or entry_bytes & (entry_bytes - 1):
            raise ValueError(f"entry_bytes must be a power of two and at least {2 * lanes}, "
                             f"not {entry_bytes!r}")
        if not _MIN_FRAME_BYTES <= max_frame_bytes < (1 << LENGTH_BITS) - lanes:
            raise ValueError(f"max_frame_bytes must be at least {_MIN_FRAME_BYTES} and fit into a "
                             f"length, not {max_frame_bytes!r}")
        self.lanes = lanes
        self.entry_bytes = entry_bytes
        self.max_frame_bytes = max_frame_bytes
        self.rows = entry_bytes // lanes
        super().__init__({
            "wire": In(stream.Signature(WireBeatLayout(lanes), always_ready=True)),
            "lengths": Out(stream.Signature(EnteredLayout())),
            "frames": Out(stream.Signature(BeatLayout(lanes))),
            "drops": Out(stream.Signature(EntryDrop, always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        beat = self.wire.p
        rows: memory.Memory[Any, Any] = memory.Memory(
            shape=BeatLayout(lanes), depth=self.rows, init=[])
        m.submodules.rows = rows
        write = rows.write_port()
        # No more frames than rows: never refused.
        m.submodules.lengths = lengths = StreamQueue(EnteredLayout(), self.rows)
        m.submodules.flow_hash = flow_hash = FlowHash(lanes)

        # Row numbers with one bit more, which tells a full memory from an empty one.
        written = Signal(range(2 * self.rows))    # rows of the frame that is coming included
        committed = Signal(range(2 * self.rows))  # rows of whole frames
        taken = Signal(range(2 * self.rows))
        full = Signal()
        m.d.comb += full.eq(written == (taken ^ self.rows))

        # Of this frame before this beat: bytes, those that may still come, and those that must. And
        # of this beat: fewer empty lanes make the frame too long, as many too short. They are
        # worked out a beat ahead, so that what comes from the wire is only compared.
        so_far = Signal(LENGTH_BITS)
        left = Signal(LENGTH_BITS, init=self.max_frame_bytes)
        missing = Signal(range(_MIN_FRAME_BYTES + 1), init=_MIN_FRAME_BYTES)
        fewest_empty = Signal(range(lanes + 1), init=max(lanes - self.max_frame_bytes, 0))
        too_empty = Signal(range(lanes + 2), init=max(lanes - _MIN_FRAME_BYTES + 1, 0))
        bytes_now = Signal(LENGTH_BITS)
        bad = Signal()                # the frame is lost already
        reason = Signal(EntryDrop)
        bad_now = Signal()
        reason_now = Signal(EntryDrop)
        ends = Signal()
        m.d.comb += [
            bytes_now.eq(so_far + (lanes - beat.empty)),
            ends.eq(self.wire.valid & beat.last),
        ]
        with m.If(bad):
            m.d.comb += [bad_now.eq(1), reason_now.eq(reason)]
        with m.Elif(full):
            m.d.comb += [bad_now.eq(1), reason_now.eq(EntryDrop.FULL)]
        with m.Elif(beat.empty < fewest_empty):
            m.d.comb += [bad_now.eq(1), reason_now.eq(EntryDrop.LONG)]
        with m.Elif(beat.last & beat.error):
            m.d.comb += [bad_now.eq(1), reason_now.eq(EntryDrop.ERROR)]
        with m.Elif(beat.last & (beat.empty >= too_empty)):
            m.d.comb += [bad_now.eq(1), reason_now.eq(EntryDrop.SHORT)]

        m.d.comb += [
            write.addr.eq(written[:-1]),
            write.data.data.eq(beat.data),
            write.data.empty.eq(beat.empty),
            write.data.last.eq(beat.last),
            write.en.eq(self.wire.valid & ~bad & ~full),
            lengths.i.valid.eq(ends & ~bad_now),
            lengths.i.p.bytes.eq(bytes_now),
            lengths.i.p.hash.eq(flow_hash.hash),
            flow_hash.wire.valid.eq(self.wire.valid),
            flow_hash.wire.payload.eq(self.wire.payload),
            self.lengths.valid.eq(lengths.o.valid),
            self.lengths.payload.eq(lengths.o.payload),
            lengths.o.ready.eq(self.lengths.ready),
            self.drops.valid.eq(ends & bad_now),
            self.drops.payload.eq(reason_now),
        ]
        with m.If(self.wire.valid):
            m.d.sync += [bad.eq(bad_now & ~beat.last), reason.eq(reason_now)]
            with m.If(beat.last):
                m.d.sync += [
                    so_far.eq(0),
                    left.eq(left.init),
                    missing.eq(missing.init),
                    fewest_empty.eq(fewest_empty.init),
                    too_empty.eq(too_empty.init),
                ]
            with m.Elif(~bad_now):
                then_missing = Mux(missing > lanes, missing - lanes, 0)
                m.d.sync += [
                    so_far.eq(so_far + lanes),
                    left.eq(left - lanes),
                    missing.eq(then_missing),
                    fewest_empty.eq(Mux(left < 2 * lanes, 2 * lanes - left, 0)),
                    too_empty.eq(Mux(then_missing > lanes, 0, lanes + 1 - then_missing)),
                ]
            # What is bad gives its rows back at once.
            m.d.sync += written.eq(Mux(bad_now, committed, written + 1))
            with m.If(beat.last & ~bad_now):
                m.d.sync += committed.eq(written + 1)

        self._give(m, rows.read_port(), taken, committed)
        return m

    def _give(self, m: Module, read: Any, taken: Signal, committed: Signal) -> None:
        """Read the rows of whole frames out."""
        valid = Signal()
        m.d.comb += [
            read.addr.eq(taken[:-1]),
            read.en.eq((taken != committed) & (~valid | self.frames.ready)),
            self.frames.valid.eq(valid),
            self.frames.payload.eq(read.data),
        ]
        with m.If(read.en):
            m.d.sync += [taken.eq(taken + 1), valid.eq(1)]
        with m.Elif(self.frames.ready):
            m.d.sync += valid.eq(0)
