"""Match completions with the reads they answer, and say when a read has ended."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import DoneLayout, NoteLayout, ReadSizes, StoreBeatLayout
from hw.pcie.types import CompletionHeader, CompletionStatus, ReadError, TlpLayout
from hw.stream.memory import ForwardingMemory

__all__ = ["CompletionIntake"]


class CompletionIntake(wiring.Component):
    """Check each completion against its read, and pass its bytes on to the store.

    A completion belongs to a read if its tag waits, the requester ID is that of the read, the byte
    count is what is still missing, and the lower address follows from it. (One with a bad status has
    no data, and only tag and requester are looked at.) Anything else is *unexpected*: dropped and
    reported.

    A read ends with the last beat of the completion whose byte count is not more than its payload,
    or whose status is bad; or it is *ended* from outside, because it was refused or its
    time is over. Such an end takes a place in the pipeline as a completion does, when no completion
    is there or half taken; so a slot is never given up while data are on their way into it.

    | Latency: 1 cycle from ``rc`` to ``beats`` and ``done``. Throughput: 1 beat a cycle, any gaps.
    | Storage: a note and the state of each tag.

    Parameters
    ----------
    sizes
        The engine's sizes.

    Members
    -------
    rc : In(stream.Signature(TlpLayout(lanes, CompletionHeader()), always_ready=True))
    notes : In(stream.Signature(NoteLayout(sizes), always_ready=True))
    departed : In(stream.Signature(tag_bits, always_ready=True))
        A read of which completions (or the refusal) may come from the next cycle on.
    refused : In(stream.Signature(tag_bits))
        Reads to end with FAILED: departed, and noted, in an earlier cycle.
    late_valid, late_tag : In
        A read whose time is over, to be ended with TIMEOUT. It may be withdrawn.
    late_taken : Out(1)
    waiting : Out(tags)
        The tags that wait for completions.
    clear, clear_tag : In
        Forget this tag. After a reset, each of them once before any departs.
    beats : Out(stream.Signature(StoreBeatLayout(sizes), always_ready=True))
    done : Out(stream.Signature(DoneLayout(sizes), always_ready=True))
        Together with the last beat of the read, or after it. ``group`` is early, ``valid`` late.
    unexpected, timed_out : Out(1)
        For one cycle, each time.
    """

    rc: stream.Interface
    notes: stream.Interface
    departed: stream.Interface
    refused: stream.Interface
    late_valid: Signal
    late_tag: Signal
    late_taken: Signal
    waiting: Signal
    clear: Signal
    clear_tag: Signal
    beats: stream.Interface
    done: stream.Interface
    unexpected: Signal
    timed_out: Signal

    def __init__(self, sizes: ReadSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "rc": In(stream.Signature(TlpLayout(sizes.lanes, CompletionHeader()),
                                      always_ready=True)),
            "notes": In(stream.Signature(NoteLayout(sizes), always_ready=True)),
            "departed": In(stream.Signature(sizes.tag_bits, always_ready=True)),
            "refused": In(stream.Signature(sizes.tag_bits)),
            "late_valid": In(1),
            "late_tag": In(sizes.tag_bits),
            "late_taken": Out(1),
            "waiting": Out(sizes.tags),
            "clear": In(1),
            "clear_tag": In(sizes.tag_bits),
            "beats": Out(stream.Signature(StoreBeatLayout(sizes), always_ready=True)),
            "done": Out(stream.Signature(DoneLayout(sizes), always_ready=True)),
            "unexpected": Out(1),
            "timed_out": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        note_shape = data.StructLayout({
            "group": sizes.tag_bits, "client": sizes.client_bits, "requester": 8,
            "bytes": sizes.slot_bits + 1, "end_address": 7, "end_offset": sizes.slot_bits,
            "count": sizes.tag_bits + 1,
        })
        # `begun`: a completion has come, and `missing` bytes are still to come. Once the read has
        # ended the word is 0 again, as the next read of the tag wants it.
        state_shape = data.StructLayout({"begun": 1, "poisoned": 1, "missing": sizes.slot_bits + 1})
        notes: memory.Memory[Any, Any] = memory.Memory(shape=note_shape, depth=sizes.tags, init=[])
        m.submodules.notes = notes
        m.submodules.states = states = ForwardingMemory(state_shape, sizes.tags)
        note_write = notes.write_port()
        note_read = notes.read_port()
        m.d.comb += [
            note_write.en.eq(self.notes.valid),
            note_write.addr.eq(self.notes.p.tag),
            *(note_write.data[name].eq(self.notes.p[name]) for name in note_shape.members),
        ]

        # Arrival: what the header alone tells is worked out while note and state are being read.
        inside = Signal()  # the rest of a completion is to come
        header = self.rc.p.header
        begins = Signal()
        ends_one = Signal()  # an end from outside has this cycle
        tag_in = Signal(sizes.tag_bits)
        skip_in = Signal(2)
        span_in = Signal(14)
        payload_in = Signal(14)
        m.d.comb += [
            begins.eq(self.rc.valid & ~inside),
            ends_one.eq(~self.rc.valid & ~inside & (self.refused.valid | self.late_valid)),
            self.refused.ready.eq(~self.rc.valid & ~inside),
            self.late_taken.eq(ends_one & ~self.refused.valid),
            tag_in.eq(Mux(self.rc.valid, header.tag,
                          Mux(self.refused.valid, self.refused.payload, self.late_tag))),
            skip_in.eq(header.lower_address),
            span_in.eq(header.byte_count + skip_in),
            payload_in.eq(header.dwords << 2),
        ]
        for port in (note_read.addr, states.read_address):
            m.d.comb += port.eq(tag_in)
        # Held to the end of the completion.
        for port in (note_read.en, states.read_enable):
            m.d.comb += port.eq(begins | ends_one)
        with m.If(self.rc.valid):
            m.d.sync += inside.eq(~self.rc.p.last)

        valid = Signal()
        first = Signal(reset_less=True)
        last = Signal(reset_less=True)
        word = Signal(8 * sizes.lanes, reset_less=True)
        ended = Signal(reset_less=True)          # no completion, but an end from outside
        ended_error = Signal(ReadError, reset_less=True)
        tag = Signal(sizes.tag_bits, reset_less=True)
        foreign = Signal(reset_less=True)        # a tag that we do not have
        requester = Signal(8, reset_less=True)
        byte_count = Signal(13, reset_less=True)
        skip = Signal(2, reset_less=True)
        end_address = Signal(7, reset_less=True)
        span = Signal(14, reset_less=True)       # from the payload's first byte to the read's end
        extent = Signal(14, reset_less=True)     # bytes of the payload, `skip` included
        rest = Signal(14, reset_less=True)       # what is missing behind it
        covers = Signal(reset_less=True)         # it reaches the end of the read
        bad = Signal(reset_less=True)
        poisoned = Signal(reset_less=True)
        m.d.sync += [
            valid.eq(self.rc.valid | ends_one),
            first.eq(~inside),
            last.eq(self.rc.p.last | ~self.rc.valid),
            word.eq(self.rc.p.data),
        ]
        with m.If(begins | ends_one):
            m.d.sync += [
                ended.eq(ends_one),
                ended_error.eq(Mux(self.refused.valid, ReadError.FAILED, ReadError.TIMEOUT)),
                tag.eq(tag_in),
                foreign.eq(header.tag[sizes.tag_bits:] != 0),
                requester.eq(header.requester_id),
                byte_count.eq(header.byte_count),
                skip.eq(skip_in),
                end_address.eq(header.lower_address + header.byte_count),
                span.eq(span_in),
                rest.eq(span_in - payload_in),
                covers.eq(span_in <= payload_in),
                extent.eq(Mux(span_in <= payload_in, span_in, payload_in)),
                bad.eq(header.status != CompletionStatus.SUCCESS),
                poisoned.eq(header.poisoned),
            ]

        # Check.
        note: Any = note_read.data
        state: Any = states.read_data
        next_state: Any = states.write_data
        waiting = Signal(sizes.tags)
        expected = Signal(sizes.slot_bits + 1)
        fits = Signal()
        belongs = Signal()       # of the first beat
        good = Signal()
        good_before = Signal(reset_less=True)
        tainted = Signal()
        tainted_before = Signal(reset_less=True)
        finishes = Signal()
        m.d.comb += [
            expected.eq(Mux(state.begun, state.missing, note.bytes)),
            fits.eq((byte_count == expected) & (end_address == note.end_address)),
            belongs.eq(waiting.bit_select(tag, 1) & (
                ended | ~foreign & (requester == note.requester) & (bad | fits))),
            good.eq(Mux(first, belongs, good_before)),
            tainted.eq(Mux(first, poisoned | state.poisoned, tainted_before)),
            finishes.eq(covers | bad | ended),
            self.done.valid.eq(valid & last & good & finishes),
            self.done.p.tag.eq(tag),
            self.done.p.group.eq(note.group),
            self.done.p.client.eq(note.client),
            self.done.p.count.eq(note.count),
            self.done.p.error.eq(
                Mux(ended, ended_error, Mux(bad, ReadError.FAILED,
                    Mux(tainted, ReadError.POISONED, ReadError.NONE)))),
            self.waiting.eq(waiting),
        ]
        with m.If(valid):
            m.d.sync += [good_before.eq(good), tainted_before.eq(tainted)]
        # The state changes with the first beat; nothing can look at it before the last one.
        m.d.comb += [
            states.write_enable.eq(self.clear | valid & first & belongs),
            states.write_address.eq(Mux(self.clear, self.clear_tag, tag)),
        ]
        with m.If(~self.clear & ~finishes):
            m.d.comb += [
                next_state.begun.eq(1),
                next_state.poisoned.eq(tainted),
                next_state.missing.eq(rest),
            ]
        # A tag's read departs, ends, and only then departs again: set and reset never meet.
        with m.If(self.done.valid):
            m.d.sync += waiting.bit_select(tag, 1).eq(0)
        with m.If(self.departed.valid):
            m.d.sync += waiting.bit_select(self.departed.payload, 1).eq(1)
        m.d.sync += [
            self.unexpected.eq(valid & first & ~belongs & ~ended),
            self.timed_out.eq(valid & belongs & ended & (ended_error == ReadError.TIMEOUT)),
        ]

        # The place of each beat in the slot.
        offset = Signal(sizes.slot_bits)
        offset_next = Signal(sizes.slot_bits, reset_less=True)
        extent_now = Signal(14)
        extent_next = Signal(14, reset_less=True)
        m.d.comb += [
            offset.eq(Mux(first, note.end_offset - span, offset_next)),
            extent_now.eq(Mux(first, extent, extent_next)),
            self.beats.valid.eq(valid & good & ~bad & ~ended),
            self.beats.p.data.eq(word),
            self.beats.p.slot.eq(tag),
            self.beats.p.offset.eq(offset),
            self.beats.p.skip.eq(Mux(first, skip, 0)),
            self.beats.p.extent.eq(extent_now),
        ]
        with m.If(valid):
            m.d.sync += [
                offset_next.eq(offset + sizes.lanes),
                extent_next.eq(Mux(extent_now >= sizes.lanes, extent_now - sizes.lanes, 0)),
            ]
        return m
