"""Match completions with the reads they answer, and say when a read has ended."""

from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.config_types import ErrorLayout
from hw.pcie.read_layouts import DoneLayout, NoteLayout, ReadSizes, StoreBeatLayout
from hw.pcie.types import CompletionHeader, CompletionStatus, ReadError, TlpLayout
from hw.stream.memory import ForwardingMemory

__all__ = ["CompletionIntake"]


class _StateLayout(data.StructLayout):
    """What has come of a read: ``begun``, and ``missing`` bytes are still to come.

    Once the read has ended it is all 0, as the next read of the tag wants it.
    """

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({"begun": 1, "poisoned": 1, "missing": sizes.slot_bits + 1})


class _BeatLayout(data.StructLayout):
    """A beat that has arrived: the first three are its own, the others its completion's.

    =========== ======================================================================
    field       meaning
    =========== ======================================================================
    ended       no completion, but an end from outside; ``late``: a time-out
    foreign     a tag that we do not have
    skip        bytes of the payload before the first that was asked for
    end_address low bits of the address behind the read's last byte
    span        bytes from the payload's first to the read's last
    extent      bytes of the payload up to the last that was asked for
    rest        what is missing behind the payload
    covers      nothing is
    bad         the status is not Success
    aborted     it is Completer Abort
    =========== ======================================================================
    """

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "data": 8 * sizes.lanes, "first": 1, "last": 1, "ended": 1, "late": 1,
            "tag": sizes.tag_bits, "foreign": 1, "requester": 8, "byte_count": 13, "skip": 2,
            "end_address": 7, "span": 14, "extent": 14, "rest": 14, "covers": 1, "bad": 1,
            "aborted": 1, "poisoned": 1,
        })


class CompletionIntake(wiring.Component):
    """Check each completion against its read, and pass its bytes on to the store.

    A completion belongs to a read if its tag waits, the requester ID is that of the read, the byte
    count is what is still missing, and the lower address follows from it. (One with a bad status
    has no data, and only tag and requester are looked at.) Anything else is *unexpected*: dropped
    and reported.

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
    errors : Out(ErrorLayout())
        What the status registers note of a completion, or of its absence (PCI Express 6.2). The
        function whose read it was is told by its queue, so poisoned data are an advisory error.
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
    errors: Any

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
            "errors": Out(ErrorLayout()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        note_shape = data.StructLayout({
            "group": sizes.tag_bits, "client": sizes.client_bits, "requester": 8,
            "bytes": sizes.slot_bits + 1, "end_address": 7, "end_offset": sizes.slot_bits,
            "count": sizes.tag_bits + 1,
        })
        notes: memory.Memory[Any, Any] = memory.Memory(shape=note_shape, depth=sizes.tags, init=[])
        m.submodules.notes = notes
        write = notes.write_port()
        read = notes.read_port()
        m.d.comb += [
            write.en.eq(self.notes.valid),
            write.addr.eq(self.notes.p.tag),
            *(write.data[name].eq(self.notes.p[name]) for name in note_shape.members),
        ]
        m.submodules.states = states = ForwardingMemory(_StateLayout(sizes), sizes.tags)

        beat: Any = Signal(_BeatLayout(sizes), reset_less=True)
        valid = Signal()
        self._arrive(m, beat, valid, read, states)
        good = self._check(m, beat, valid, read.data, states)
        self._place(m, beat, valid & good & ~beat.bad & ~beat.ended, valid, read.data)
        return m

    def _arrive(self, m: Module, beat: Any, valid: Signal, note_read: Any,
                states: ForwardingMemory) -> None:
        """Work out what the header alone tells, while the tag's note and state are being read."""
        sizes = self.sizes
        inside = Signal()  # the rest of a completion is to come
        header = self.rc.p.header
        begins = Signal()
        ends_one = Signal()  # an end from outside has this cycle
        tag = Signal(sizes.tag_bits)
        skip = Signal(2)
        span = Signal(14)
        payload = Signal(14)
        m.d.comb += [
            begins.eq(self.rc.valid & ~inside),
            ends_one.eq(~self.rc.valid & ~inside & (self.refused.valid | self.late_valid)),
            self.refused.ready.eq(~self.rc.valid & ~inside),
            self.late_taken.eq(ends_one & ~self.refused.valid),
            tag.eq(Mux(self.rc.valid, header.tag,
                       Mux(self.refused.valid, self.refused.payload, self.late_tag))),
            skip.eq(header.lower_address),
            span.eq(header.byte_count + skip),
            payload.eq(header.dwords << 2),
            # What is read is held to the end of the completion.
            note_read.addr.eq(tag),
            note_read.en.eq(begins | ends_one),
            states.read_address.eq(tag),
            states.read_enable.eq(begins | ends_one),
        ]
        m.d.sync += [
            valid.eq(self.rc.valid | ends_one),
            beat.data.eq(self.rc.p.data),
            beat.first.eq(~inside),
            beat.last.eq(self.rc.p.last | ~self.rc.valid),
        ]
        with m.If(self.rc.valid):
            m.d.sync += inside.eq(~self.rc.p.last)
        with m.If(begins | ends_one):
            m.d.sync += [
                beat.ended.eq(ends_one),
                beat.late.eq(~self.refused.valid),
                beat.tag.eq(tag),
                beat.foreign.eq(header.tag[sizes.tag_bits:] != 0),
                beat.requester.eq(header.requester_id),
                beat.byte_count.eq(header.byte_count),
                beat.skip.eq(skip),
                beat.end_address.eq(header.lower_address + header.byte_count),
                beat.span.eq(span),
                beat.rest.eq(span - payload),
                beat.covers.eq(span <= payload),
                beat.extent.eq(Mux(span <= payload, span, payload)),
                beat.bad.eq(header.status != CompletionStatus.SUCCESS),
                beat.aborted.eq(header.status == CompletionStatus.ABORT),
                beat.poisoned.eq(header.poisoned),
            ]

    def _check(self, m: Module, beat: Any, valid: Signal, note: Any,
               states: ForwardingMemory) -> Signal:
        """Compare with the read; end it where it ends. Give whether the beat is to be believed."""
        sizes = self.sizes
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
            fits.eq((beat.byte_count == expected) & (beat.end_address == note.end_address)),
            belongs.eq(waiting.bit_select(beat.tag, 1) & (
                beat.ended
                | ~beat.foreign & (beat.requester == note.requester) & (beat.bad | fits))),
            good.eq(Mux(beat.first, belongs, good_before)),
            tainted.eq(Mux(beat.first, beat.poisoned | state.poisoned, tainted_before)),
            finishes.eq(beat.covers | beat.bad | beat.ended),
            self.done.valid.eq(valid & beat.last & good & finishes),
            self.done.p.tag.eq(beat.tag),
            self.done.p.group.eq(note.group),
            self.done.p.client.eq(note.client),
            self.done.p.count.eq(note.count),
            self.waiting.eq(waiting),
        ]
        with m.If(beat.ended & beat.late):
            m.d.comb += self.done.p.error.eq(ReadError.TIMEOUT)
        with m.Elif(beat.ended | beat.bad):
            m.d.comb += self.done.p.error.eq(ReadError.FAILED)
        with m.Elif(tainted):
            m.d.comb += self.done.p.error.eq(ReadError.POISONED)
        with m.If(valid):
            m.d.sync += [good_before.eq(good), tainted_before.eq(tainted)]

        # The state changes with the first beat; nothing else looks at it before the last one.
        m.d.comb += [
            states.write_enable.eq(self.clear | valid & beat.first & belongs),
            states.write_address.eq(Mux(self.clear, self.clear_tag, beat.tag)),
        ]
        with m.If(~self.clear & ~finishes):
            m.d.comb += [
                next_state.begun.eq(1),
                next_state.poisoned.eq(tainted),
                next_state.missing.eq(beat.rest),
            ]
        # A tag's read departs, ends, and only then departs again: set and reset never meet.
        with m.If(self.done.valid):
            m.d.sync += waiting.bit_select(beat.tag, 1).eq(0)
        with m.If(self.departed.valid):
            m.d.sync += waiting.bit_select(self.departed.payload, 1).eq(1)
        believed = Signal()   # the first beat of a completion that belongs to a read
        stranger = Signal()
        silence = Signal()
        poisoned = Signal()
        m.d.comb += [
            believed.eq(valid & beat.first & belongs & ~beat.ended),
            stranger.eq(valid & beat.first & ~belongs & ~beat.ended),
            silence.eq(valid & belongs & beat.ended & beat.late),
            poisoned.eq(believed & beat.poisoned & ~beat.bad),
        ]
        m.d.sync += [
            self.unexpected.eq(stranger),
            self.timed_out.eq(silence),
            self.errors.correctable.eq(stranger | poisoned),
            self.errors.non_fatal.eq(silence),
            self.errors.poisoned.eq(poisoned),
            self.errors.master_parity.eq(poisoned),
            self.errors.target_abort.eq(believed & beat.aborted),
            self.errors.master_abort.eq(believed & beat.bad & ~beat.aborted),
        ]
        return good

    def _place(self, m: Module, beat: Any, wanted: Value, valid: Signal, note: Any) -> None:
        """Work out where in its slot each beat belongs."""
        sizes = self.sizes
        offset = Signal(sizes.slot_bits)
        offset_next = Signal(sizes.slot_bits, reset_less=True)
        extent = Signal(14)
        extent_next = Signal(14, reset_less=True)
        m.d.comb += [
            offset.eq(Mux(beat.first, note.end_offset - beat.span, offset_next)),
            extent.eq(Mux(beat.first, beat.extent, extent_next)),
            self.beats.valid.eq(wanted),
            self.beats.p.data.eq(beat.data),
            self.beats.p.slot.eq(beat.tag),
            self.beats.p.offset.eq(offset),
            self.beats.p.skip.eq(Mux(beat.first, beat.skip, 0)),
            self.beats.p.extent.eq(extent),
        ]
        with m.If(valid):
            m.d.sync += [
                offset_next.eq(offset + sizes.lanes),
                extent_next.eq(Mux(extent >= sizes.lanes, extent - sizes.lanes, 0)),
            ]
