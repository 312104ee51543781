"""Descriptors as they come: checked, marked as in use, added up to chains."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadAnswerLayout
from hw.stream.memory import ForwardingMemory
from hw.stream.types import LENGTH_BITS
from hw.virtio.descriptor_cache import (
    DescriptorLayout,
    TotalsLayout,
    WriteSignature,
)
from hw.virtio.prefetch_types import (
    BURST_MAX,
    DESCRIPTOR_BYTES,
    CompletionLayout,
    FaultSourceLayout,
    LookupSignature,
    PrefetchContextLayout,
    PrefetchSizes,
    ReadKind,
    SweepLayout,
    WalkLayout,
    read_fault,
)
from hw.virtio.types import FaultReason

__all__ = ["DescriptorParser"]

_HEADER_BYTES = 12  # struct virtio_net_hdr: a chain to send holds that, and a frame
_DESCRIPTOR_BITS = 8 * DESCRIPTOR_BYTES
_PATIENCE = 4       # cycles that a sweep waits for a gap
_LONGEST = (1 << LENGTH_BITS) - 1


class _RawLayout(data.StructLayout):
    """A descriptor as the driver wrote it (virtio 1.4, the virtqueue descriptor table)."""

    def __init__(self) -> None:
        super().__init__({"address": 64, "length": 32, "has_next": 1, "writable": 1, "others": 14,
                          "next": 16})


class _OperationLayout(data.StructLayout):
    """One descriptor on its way through the parser, or one place to clear.

    ======== ================================================================================
    named    A head, or in a walk a descriptor that the one before it names: else it is nothing
    head     Begins a chain
    first    Nothing before it in this answer belongs to its chain
    final    Nothing behind it in this answer belongs to its chain
    ends     The last of its answer
    sweep    Not a descriptor: the place is cleared, and gets ``lap`` as its mark
    bytes    Of the chain before this answer; likewise ``segments``
    ======== ================================================================================
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "order": 4, "index": sizes.index_bits, "lap": 1,
            "number": sizes.index_bits, "named": 1, "head": 1, "first": 1, "final": 1, "ends": 1,
            "sweep": 1, "error": 2, "bytes": LENGTH_BITS, "segments": sizes.index_bits + 1,
        })


class DescriptorParser(wiring.Component):
    """Check and keep descriptors, one a cycle, and follow chains as far as an answer goes.

    ::

        answers ─► window ─► unpack ─► check, add up ─► judge ─► cache, totals, marks
                                                              ├► walks (the chain goes on elsewhere)
                                                              └► completions, faults

    Each descriptor in use bears a mark, so that a descriptor can neither belong to two chains nor
    twice to one: that is a fault, and what was announced of a chain stays true whatever the driver
    does to its rings. The mark is two bits that differ: one written here, one where chains are
    taken.

    | Latency: 5 cycles from the answer to the completion of its first descriptor's chain.
    | Throughput: a descriptor a cycle. Storage: a beat, 4 descriptors and a bit a descriptor.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.
    max_chain_bytes
        Longest chain to send, below 131071. Of chains to receive into, the length saturates.

    Members
    -------
    answers : In(stream.Signature(ReadAnswerLayout(lanes, context)))
        Runs and walks.
    sweeps : In(stream.Signature(SweepLayout(sizes)))
        Places of stopped members to clear; one in four cycles at least.
    descriptors, ids, totals, done : Out(WriteSignature)
        The cache by descriptor number; by place in the ring the number of the head, the totals,
        and the mark of a complete chain.
    freed : Out(LookupSignature(range(slots), 1))
        The other half of the marks of use.
    walks : Out(stream.Signature(WalkLayout(sizes)))
        Must always be ready: there is a place reserved for each.
    finished : Out(1)
        A chain needs that place no more (a pulse).
    completions : Out(stream.Signature(CompletionLayout(sizes)))
        After all writes of the chains, one an answer. May stall.
    faults : Out(stream.Signature(FaultSourceLayout(sizes)))
    """

    answers: stream.Interface
    sweeps: stream.Interface
    descriptors: wiring.PureInterface
    ids: wiring.PureInterface
    totals: wiring.PureInterface
    done: wiring.PureInterface
    freed: wiring.PureInterface
    walks: stream.Interface
    finished: Signal
    completions: stream.Interface
    faults: stream.Interface

    def __init__(self, sizes: PrefetchSizes, *, max_chain_bytes: int) -> None:
        if not _HEADER_BYTES < max_chain_bytes < _LONGEST:
            raise ValueError(f"max_chain_bytes must be from {_HEADER_BYTES + 1} to {_LONGEST - 1}, "
                             f"not {max_chain_bytes!r}")
        self.sizes = sizes
        self.max_chain_bytes = max_chain_bytes
        self._context = PrefetchContextLayout(sizes)
        slots = sizes.slots
        super().__init__({
            "answers": In(stream.Signature(ReadAnswerLayout(sizes.lanes, self._context.size))),
            "sweeps": In(stream.Signature(SweepLayout(sizes))),
            "descriptors": Out(WriteSignature(slots, DescriptorLayout(sizes))),
            "ids": Out(WriteSignature(slots, sizes.index_bits)),
            "totals": Out(WriteSignature(slots, TotalsLayout(sizes))),
            "done": Out(WriteSignature(slots, 1)),
            "freed": Out(LookupSignature(range(slots), 1)),
            "walks": Out(stream.Signature(WalkLayout(sizes))),
            "finished": Out(1),
            "completions": Out(stream.Signature(CompletionLayout(sizes))),
            "faults": Out(stream.Signature(FaultSourceLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        advance = Signal()  # all stages move at once
        unpacked: Any = Signal(_OperationLayout(self.sizes))
        unpacked_valid = Signal()
        raw: Any = Signal(_RawLayout())
        self._unpack(m, advance, unpacked, unpacked_valid, raw)
        self._check(m, advance, unpacked, unpacked_valid, raw)
        return m

    def _unpack(self, m: Module, advance: Signal, operation: Any, valid: Signal, raw: Any) -> None:
        """Cut beats into descriptors, and say of each what it is."""
        sizes = self.sizes
        lanes = sizes.lanes
        per_beat = max(1, lanes // DESCRIPTOR_BYTES)
        beats = max(1, DESCRIPTOR_BYTES // lanes)  # to a descriptor
        beat: Any = self.answers.payload
        context: Any = data.View(self._context, beat.context)

        window = Signal(max(_DESCRIPTOR_BITS, 8 * lanes), reset_less=True)
        here = Signal(range(per_beat + 1))         # descriptors in the window
        missing = Signal(range(max(2, beats)))     # beats, to fill it, after this one
        left = Signal(range(BURST_MAX + 1), reset_less=True)  # descriptors of the answer
        run = Signal(reset_less=True)
        down = Signal(reset_less=True)
        step = Signal(2, reset_less=True)   # descriptors between two heads
        place = Signal(2, reset_less=True)  # behind the head before
        named = Signal(reset_less=True)
        now: Any = Signal(_OperationLayout(sizes), reset_less=True)  # known before it is seen
        above = Signal(16, reset_less=True)
        patience = Signal(range(_PATIENCE))
        sweeps = Signal()
        takes = Signal()
        last = Signal()
        empties = Signal()
        follows = Signal()
        head_next = Signal()
        m.d.comb += [
            raw.eq(window[:_DESCRIPTOR_BITS]),
            sweeps.eq(self.sweeps.valid & ((here == 0) | (patience == 0))),
            self.sweeps.ready.eq(sweeps & advance),
            takes.eq((here != 0) & ~sweeps & advance),
            last.eq(left == 1),
            empties.eq((here == 0) | (takes & ((here == 1) | last))),
            self.answers.ready.eq(empties),
            head_next.eq(run & (place == step)),
            follows.eq(raw.has_next & (raw.next == above) & ~last & ~head_next
                       & (now.error == 0)),
            valid.eq((here != 0) | sweeps),
            operation.eq(now),
            operation.named.eq(now.head | named),
            operation.final.eq(~follows),
            operation.ends.eq(last),
        ]
        with m.If(sweeps):
            m.d.comb += [
                operation.eq(0),
                operation.sweep.eq(1),
                operation.member.eq(self.sweeps.p.member),
                operation.index.eq(self.sweeps.p.index),
                operation.number.eq(self.sweeps.p.index),
                operation.lap.eq(self.sweeps.p.mark),
            ]
        with m.If(self.sweeps.ready):
            m.d.sync += patience.eq(_PATIENCE - 1)
        with m.Elif(patience != 0):
            m.d.sync += patience.eq(patience - 1)

        with m.If(takes):
            m.d.sync += [
                window.eq(window >> _DESCRIPTOR_BITS),
                here.eq(here - 1),
                left.eq(left - 1),
                now.number.eq(now.number + 1),
                above.eq(above + 1),
                now.head.eq(head_next),
                now.first.eq(head_next),
                named.eq(operation.named & follows),
                place.eq(place + 1),
            ]
            with m.If(head_next):
                m.d.sync += [
                    now.index.eq(Mux(down, now.index - 1, now.index + 1)),
                    place.eq(0),
                ]
            with m.If(last):
                m.d.sync += here.eq(0)
        with m.If(empties & self.answers.valid):
            if beats == 1:
                m.d.sync += [window.eq(beat.data), here.eq(per_beat)]
            else:
                m.d.sync += [
                    window.eq(Cat(window[8 * lanes:], beat.data)),
                    missing.eq(Mux(missing == 0, beats - 1, missing - 1)),
                    here.eq(missing == 1),
                ]
            with m.If(beat.first):
                m.d.sync += [
                    left.eq(context.count),
                    run.eq(context.kind == ReadKind.RUN),
                    down.eq(context.down),
                    step.eq(context.step),
                    place.eq(0),
                    named.eq(1),
                    now.eq(0),
                    now.member.eq(context.member),
                    now.order.eq(context.order),
                    now.index.eq(context.index),
                    now.lap.eq(context.lap),
                    now.number.eq(context.descriptor),
                    above.eq(context.descriptor + 1),
                    now.head.eq(context.kind == ReadKind.RUN),
                    now.first.eq(1),
                    now.error.eq(beat.error),
                    now.bytes.eq(context.bytes),
                    now.segments.eq(context.segments),
                ]

    def _check(self, m: Module, advance: Signal, unpacked: Any,  # noqa: PLR0915  # one pipeline
               unpacked_valid: Signal, unpacked_raw: Any) -> None:
        """Judge each descriptor, add it to its chain, and write down what came of it."""
        sizes = self.sizes
        layout = _OperationLayout(sizes)
        m.submodules.marks = marks = ForwardingMemory(1, sizes.slots)
        freed: Any = self.freed

        # CHECK: the descriptor alone, and what its chain is with it.
        check: Any = Signal(layout, reset_less=True)
        check_valid = Signal()
        raw: Any = Signal(_RawLayout(), reset_less=True)
        slot = Signal(range(sizes.slots))
        new_mark = Signal()
        in_use = Signal()
        length = Signal(LENGTH_BITS)
        before = Signal(LENGTH_BITS)
        before_segments = Signal(sizes.index_bits + 1)
        total = Signal(LENGTH_BITS + 1)
        reason = Signal(FaultReason)
        m.d.comb += [
            slot.eq(sizes.slot(check.member, check.number)),
            marks.read_address.eq(sizes.slot(unpacked.member, unpacked.number)),
            marks.read_enable.eq(advance),
            freed.address.eq(sizes.slot(unpacked.member, unpacked.number)),
            freed.enable.eq(advance),
            in_use.eq(marks.read_data ^ freed.data),
            # Once it differs it stays so: to mark twice changes nothing.
            new_mark.eq(Mux(check.sweep, freed.data, ~freed.data)),
            marks.write_address.eq(slot),
            marks.write_data.eq(new_mark),
            marks.write_enable.eq(check_valid & advance & (check.sweep | check.named)),
            length.eq(Mux(raw.length[LENGTH_BITS:].any(), _LONGEST, raw.length)),
            total.eq(before + length),
            reason.eq(FaultReason.NONE),
        ]
        with m.If(check.error != 0):
            m.d.comb += reason.eq(read_fault(check.error, FaultReason.NONE))
        with m.Elif(in_use):
            m.d.comb += reason.eq(FaultReason.LOOP)
        with m.Elif(raw.others != 0):
            m.d.comb += reason.eq(FaultReason.BAD_FLAGS)
        with m.Elif(raw.writable == int(sizes.transmit)):
            m.d.comb += reason.eq(FaultReason.DIRECTION)
        with m.Elif(raw.length == 0):
            m.d.comb += reason.eq(FaultReason.ZERO_LENGTH)

        # JUDGE: the chain.
        judge: Any = Signal(layout, reset_less=True)
        judge_valid = Signal()
        kept: Any = Signal(DescriptorLayout(sizes), reset_less=True)
        has_next = Signal(reset_less=True)
        next_number = Signal(16, reset_less=True)
        judge_reason = Signal(FaultReason, reset_less=True)
        chain: Any = Signal(TotalsLayout(sizes), reset_less=True)
        given_up = Signal(reset_less=True)  # the chain, by an earlier descriptor of this answer
        live = Signal()
        bad_length = Signal()
        fails = Signal()
        goes_on = Signal()
        complete = Signal()
        m.d.comb += [
            before.eq(Mux(check.first, check.bytes, chain.bytes)),
            before_segments.eq(Mux(check.first, check.segments, chain.segments)),
            live.eq(judge_valid & judge.named & ~(given_up & ~judge.first)),
            fails.eq(live & ((Value.cast(judge_reason) != 0) | bad_length)),
            complete.eq(live & judge.final & ~has_next & ~fails),
            goes_on.eq(live & judge.final & has_next & ~fails),
        ]
        if sizes.transmit:
            m.d.comb += bad_length.eq(
                (chain.bytes > self.max_chain_bytes)
                | (judge.final & ~has_next & (chain.bytes <= _HEADER_BYTES)))

        # WRITE: what came of it.
        write: Any = Signal(layout, reset_less=True)
        write_valid = Signal()
        written: Any = Signal(DescriptorLayout(sizes), reset_less=True)
        write_next = Signal(16, reset_less=True)
        write_reason = Signal(FaultReason, reset_less=True)
        write_chain: Any = Signal(TotalsLayout(sizes), reset_less=True)
        write_live = Signal()
        write_fails = Signal()
        write_goes_on = Signal()
        write_complete = Signal()
        with m.If(advance):
            m.d.sync += [
                check.eq(unpacked),
                check_valid.eq(unpacked_valid),
                raw.eq(unpacked_raw),

                judge.eq(check),
                judge_valid.eq(check_valid),
                kept.address.eq(raw.address),
                kept.length.eq(length),
                kept.next.eq(raw.next),
                kept.mark.eq(new_mark),
                has_next.eq(raw.has_next),
                next_number.eq(raw.next),
                judge_reason.eq(reason),

                write.eq(judge),
                write_valid.eq(judge_valid),
                written.eq(kept),
                write_next.eq(next_number),
                write_reason.eq(Mux(Value.cast(judge_reason) != 0, judge_reason,
                                    FaultReason.BAD_LENGTH)),
                write_chain.eq(chain),
                write_live.eq(live),
                write_fails.eq(fails),
                write_goes_on.eq(goes_on),
                write_complete.eq(complete),
            ]
            # Kept while nothing comes, or places are cleared in between: the chain may go on.
            with m.If(check_valid & check.named):
                m.d.sync += [
                    chain.bytes.eq(Mux(total[LENGTH_BITS], _LONGEST, total)),
                    chain.segments.eq(before_segments + 1),
                ]
            with m.If(judge_valid & judge.named):
                m.d.sync += given_up.eq(fails | (given_up & ~judge.first))

        descriptors: Any = self.descriptors
        ids: Any = self.ids
        totals: Any = self.totals
        done: Any = self.done
        place = Signal(range(sizes.slots))
        finishes = Signal()
        count = Signal(range(BURST_MAX + 1))   # chains that ended in this answer, before this
        counted = Signal(range(BURST_MAX + 2))
        told = Signal()
        wants = Signal()
        m.d.comb += [
            place.eq(sizes.slot(write.member, write.index)),
            descriptors.address.eq(sizes.slot(write.member, write.number)),
            descriptors.data.eq(written),
            descriptors.enable.eq(write_live),
            ids.address.eq(place),
            ids.data.eq(write.number),
            ids.enable.eq(write_live & write.head),
            totals.address.eq(place),
            totals.data.eq(write_chain),
            totals.enable.eq(write_complete),
            done.address.eq(place),
            done.data.eq(Mux(write.sweep, write.lap, ~write.lap)),
            done.enable.eq(write_complete | (write_valid & write.sweep)),

            self.walks.valid.eq(write_goes_on & advance),
            self.walks.p.member.eq(write.member),
            self.walks.p.order.eq(write.order),
            self.walks.p.descriptor.eq(write_next),
            self.walks.p.index.eq(write.index),
            self.walks.p.lap.eq(write.lap),
            self.walks.p.bytes.eq(write_chain.bytes),
            self.walks.p.segments.eq(write_chain.segments),

            self.faults.valid.eq(write_fails & ~told),
            self.faults.p.member.eq(write.member),
            self.faults.p.reason.eq(write_reason),
            self.faults.p.address.eq(written.address),

            finishes.eq(write_fails | write_complete),
            self.finished.eq(finishes & advance),
            counted.eq(count + finishes),
            wants.eq(write_valid & write.ends & (counted != 0)),
            # The fault is told before the obligations of the answer's chains are given back.
            self.completions.valid.eq(wants & (~write_fails | told)),
            self.completions.p.member.eq(write.member),
            self.completions.p.order.eq(write.order),
            self.completions.p.count.eq(counted),
            advance.eq((~write_fails | told) & (~wants | self.completions.ready)),
        ]
        with m.If(advance):
            m.d.sync += told.eq(0)
            with m.If(write_valid & ~write.sweep):
                m.d.sync += count.eq(Mux(write.ends, 0, counted))
        with m.Elif(self.faults.valid & self.faults.ready):
            m.d.sync += told.eq(1)
