"""A chain of a control queue, from its first descriptor to the command that it holds."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout
from hw.stream.types import FUNCTION_BITS, QUEUE_BITS, check_lanes
from hw.virtio.control_commands import COMMAND_BYTES_MAX
from hw.virtio.prefetch_types import DESCRIPTOR_BYTES, read_fault
from hw.virtio.types import FaultReason

__all__ = [
    "CONTROL_CONTEXT_BITS",
    "DESCRIPTORS_MAX",
    "ChainAnswer",
    "ControlChain",
    "ControlChainLayout",
    "ControlStartLayout",
]

CONTROL_CONTEXT_BITS = 1
"""The context of a read: whether it is the ring's (0) or the chain's (1)."""

DESCRIPTORS_MAX = 64
"""Most descriptors of a chain, those of an indirect table and the one that names it among them."""

_TABLE_BITS = 17  # entries of a table: more than can be named are as many as can be


class ControlStartLayout(data.StructLayout):
    """Where a chain begins.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    queue
    function 8
    packed   1    The descriptors are a packed ring
    indirect 1    INDIRECT_DESC was negotiated
    fenced   1    The first read leaves after all accepted writes
    table    64   Address of descriptor table or ring
    size     16
    place    16   The first descriptor; in a packed ring its position, with the lap
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "function": FUNCTION_BITS, "packed": 1, "indirect": 1,
            "fenced": 1, "table": 64, "size": 16, "place": 16,
        })


class ChainAnswer(enum.Enum, shape=2):
    """What came of a start."""

    NONE = 0   # packed: the first descriptor is not available
    FOUND = 1
    FAULT = 2


class ControlChainLayout(data.StructLayout):
    """A chain that was gone through.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    answer   2    `ChainAnswer`
    reason   4    FAULT: why
    address  64   FOUND: the first byte to be written. FAULT: of the read that showed it
    writable 1    FOUND: there is one
    id       16   For the used entry
    slots    16   For the used entry
    bytes    7    Readable bytes that are kept
    cut      1    There were more of them
    content  512  Those bytes, and behind them anything
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "answer": ChainAnswer, "reason": FaultReason, "address": 64, "writable": 1,
            "id": 16, "slots": 16, "bytes": range(COMMAND_BYTES_MAX + 1), "cut": 1,
            "content": 8 * COMMAND_BYTES_MAX,
        })


class ControlChain(wiring.Component):
    """Go through a chain, descriptor by descriptor, and gather what can be read of it.

    Of the readable part the first `COMMAND_BYTES_MAX` bytes are read, however they are cut into
    buffers (SPL-RING-01); of the writable part only the address of the first byte is kept, and
    nothing is read there (SPL-RING-04). The first descriptor of a packed ring is looked at for
    whether it is available; those behind it then are.

    *Indirect tables.* In a split ring they may come behind direct descriptors, and are followed by
    next; in a packed ring they stand alone, and their entries lie one behind the other, with no
    flag but WRITE. WRITE of the descriptor that names the table means nothing (SPL-IND-01).

    *Faults.* HEAD_RANGE and NEXT_RANGE: outside the table. LOOP: more descriptors than the table
    has, or more than `DESCRIPTORS_MAX`. BAD_FLAGS: INDIRECT that was not negotiated, or with NEXT,
    or within a table, or within a list of a packed ring. BAD_LENGTH: a table of less than one
    descriptor. ZERO_LENGTH. DIRECTION: readable behind writable. READ_FAILED, READ_POISONED and
    READ_TIMEOUT. A chain ends by one of them at the latest after `DESCRIPTORS_MAX` descriptors.

    | Latency: for each descriptor 6 cycles and a read, for each readable one a second read and 2
    |   cycles more. Throughput: one chain, and one read, at a time. Storage: 1100 bits.

    Parameters
    ----------
    lanes
        Byte lanes of the read answers, 8 to 64.

    Members
    -------
    starts : In(stream.Signature(ControlStartLayout()))
    chains : Out(stream.Signature(ControlChainLayout()))
        The answer to a start.
    reads : Out(stream.Signature(ReadRequestLayout(lanes, CONTROL_CONTEXT_BITS)))
        Of 64 bytes at most, and so of no more than two tags.
    read_answers : In(stream.Signature(ReadAnswerLayout(lanes, CONTROL_CONTEXT_BITS)))
    """

    starts: stream.Interface
    chains: stream.Interface
    reads: stream.Interface
    read_answers: stream.Interface

    def __init__(self, lanes: int) -> None:
        check_lanes(lanes)
        if not 8 <= lanes <= COMMAND_BYTES_MAX:
            raise ValueError(f"lanes must be from 8 to {COMMAND_BYTES_MAX}, not {lanes!r}")
        self.lanes = lanes
        super().__init__({
            "starts": In(stream.Signature(ControlStartLayout())),
            "chains": Out(stream.Signature(ControlChainLayout())),
            "reads": Out(stream.Signature(ReadRequestLayout(lanes, CONTROL_CONTEXT_BITS))),
            "read_answers": In(stream.Signature(ReadAnswerLayout(lanes, CONTROL_CONTEXT_BITS))),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        start: Any = Signal(ControlStartLayout(), reset_less=True)
        chain: Any = Signal(ControlChainLayout(), reset_less=True)
        lap = start.place[15]

        # Where the walk is.
        table = Signal(64, reset_less=True)           # address of the table, or ring
        limit = Signal(_TABLE_BITS, reset_less=True)  # its entries
        number = Signal(16, reset_less=True)          # the descriptor at hand
        steps = Signal(_TABLE_BITS, reset_less=True)  # that may still be taken in it
        left = Signal(range(DESCRIPTORS_MAX + 1), reset_less=True)  # and in all
        first = Signal(reset_less=True)
        inside = Signal(reset_less=True)              # an indirect table
        in_turn = Signal()                            # its entries have no NEXT
        m.d.comb += in_turn.eq(start.packed & inside)

        address = Signal(64, reset_less=True)  # of the read
        length = Signal(range(COMMAND_BYTES_MAX + 1), reset_less=True)
        lead = Signal(range(self.lanes), reset_less=True)
        m.d.comb += [
            self.chains.payload.eq(chain),
            self.reads.p.function.eq(start.function),
            self.reads.p.queue.eq(start.queue),
            self.reads.p.context.eq(1),
            self.reads.p.address.eq(address),
            self.reads.p.length.eq(length),
            self.reads.p.lead.eq(lead),
            self.reads.p.fenced.eq(start.fenced & first),
            self.reads.p.last.eq(1),
        ]

        raw = Signal(8 * DESCRIPTOR_BYTES, reset_less=True)
        beat = Signal(range(max(2, COMMAND_BYTES_MAX // self.lanes)), reset_less=True)
        answer: Any = self.read_answers.p
        kept = Signal(self.lanes)  # of a beat of bytes
        m.d.comb += kept.eq(Mux(answer.first, Const(-1, self.lanes) << lead, ~0))

        def fail(reason: Any) -> None:
            m.d.sync += [
                chain.answer.eq(ChainAnswer.FAULT), Value.cast(chain.reason).eq(Value.cast(reason)),
                chain.address.eq(address),
            ]
            m.next = "TELL"

        def take_answer(then: str) -> None:
            """Let a read's beats go by; their bytes are kept elsewhere."""
            m.d.comb += self.read_answers.ready.eq(1)
            with m.If(self.read_answers.valid):
                m.d.sync += beat.eq(beat + 1)
                with m.If(answer.last):
                    m.next = then
                    with m.If(Value.cast(answer.error) != 0):
                        fail(read_fault(answer.error, FaultReason.NONE))

        # PARSE: the descriptor, looked at.
        flags = Signal(16)
        other = Signal(16)  # next, or the id in a packed ring
        bytes_ = Signal(32)
        m.d.comb += [
            flags.eq(Mux(start.packed, raw[112:], raw[96:112])),
            other.eq(Mux(start.packed, raw[96:112], raw[112:])),
            bytes_.eq(raw[64:96]),
        ]
        available = Signal(reset_less=True)
        goes_on = Signal(reset_less=True)
        write = Signal(reset_less=True)
        indirect = Signal(reset_less=True)
        empty = Signal(reset_less=True)
        no_table = Signal(reset_less=True)
        entries = Signal(_TABLE_BITS, reset_less=True)
        room = Signal(range(COMMAND_BYTES_MAX + 1), reset_less=True)
        fits = Signal(reset_less=True)
        behind = Signal(16, reset_less=True)  # the descriptor that lies behind this one
        ends = Signal(reset_less=True)        # and there is none

        with m.FSM():
            with m.State("IDLE"):
                begin: Any = self.starts.p
                m.d.comb += self.starts.ready.eq(1)
                m.d.sync += [
                    start.eq(begin),
                    table.eq(begin.table),
                    address.eq(begin.table),
                    limit.eq(begin.size),
                    steps.eq(begin.size),
                    number.eq(Mux(begin.packed, begin.place[:15], begin.place)),
                    left.eq(DESCRIPTORS_MAX),
                    first.eq(1),
                    inside.eq(0),
                    room.eq(COMMAND_BYTES_MAX),
                    chain.answer.eq(ChainAnswer.FOUND),
                    chain.writable.eq(0),
                    chain.id.eq(begin.place),
                    chain.slots.eq(~begin.packed),
                    chain.bytes.eq(0),
                    chain.cut.eq(0),
                ]
                with m.If(self.starts.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [
                    address.eq(table + (number << 4)),
                    length.eq(DESCRIPTOR_BYTES),
                    lead.eq(0),
                    beat.eq(0),
                    steps.eq(steps - 1),
                    left.eq(left - 1),
                ]
                m.next = "ASK"
                with m.If((steps == 0) | (left == 0)):
                    fail(FaultReason.LOOP)
                with m.If(number >= limit):
                    fail(Mux(first, FaultReason.HEAD_RANGE, FaultReason.NEXT_RANGE))
            with m.State("ASK"):
                m.d.comb += self.reads.valid.eq(1)
                with m.If(self.reads.ready):
                    m.next = "DESCRIPTOR"
            with m.State("DESCRIPTOR"):
                with m.If(self.read_answers.valid):
                    if self.lanes >= DESCRIPTOR_BYTES:
                        m.d.sync += raw.eq(answer.data)
                    else:
                        m.d.sync += raw.eq(Cat(raw, answer.data)[8 * self.lanes:])
                take_answer("PARSE")

            with m.State("PARSE"):
                m.d.sync += [
                    # AVAIL is the driver's wrap counter and USED is not; a lap is its inverse.
                    available.eq((flags[7] != lap) & (flags[15] == lap)),
                    goes_on.eq(flags[0] & ~in_turn),
                    write.eq(flags[1]),
                    indirect.eq(flags[2] & ~in_turn),
                    empty.eq(bytes_ == 0),
                    no_table.eq(bytes_ < DESCRIPTOR_BYTES),
                    entries.eq(Mux(bytes_[20:].any(), 1 << 16, bytes_[4:20])),
                    fits.eq(bytes_ <= room),
                    behind.eq(number + 1),
                    length.eq(Mux(bytes_ <= room, bytes_, room)),
                    lead.eq(chain.bytes),
                    beat.eq(chain.bytes // self.lanes),
                ]
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += ends.eq(behind == limit)
                m.next = "STEP"
                with m.If(start.packed & first & ~available):
                    m.d.sync += chain.answer.eq(ChainAnswer.NONE)
                    m.next = "TELL"
                with m.Elif(indirect & (~start.indirect | goes_on | inside
                                        | (start.packed & ~first))):
                    fail(FaultReason.BAD_FLAGS)
                with m.Elif(empty):
                    fail(FaultReason.ZERO_LENGTH)
                with m.Elif(indirect):
                    m.next = "ENTER"
                    with m.If(no_table):
                        fail(FaultReason.BAD_LENGTH)
                with m.Elif(write):
                    with m.If(~chain.writable):
                        m.d.sync += [chain.writable.eq(1), chain.address.eq(raw[:64])]
                with m.Elif(chain.writable):
                    fail(FaultReason.DIRECTION)
                with m.Else():
                    m.d.sync += chain.cut.eq(chain.cut | ~fits)
                    with m.If(room != 0):
                        m.d.sync += [address.eq(raw[:64]), room.eq(room - length),
                                     chain.bytes.eq(chain.bytes + length)]
                        m.next = "FETCH"

            with m.State("FETCH"):
                m.d.comb += self.reads.valid.eq(1)
                with m.If(self.reads.ready):
                    m.next = "BYTES"
            with m.State("BYTES"):
                # They come on the lanes on which they are kept.
                with m.If(self.read_answers.valid):
                    for place in range(COMMAND_BYTES_MAX):
                        lane = place % self.lanes
                        with m.If(kept[lane] & (beat == place // self.lanes)):
                            m.d.sync += chain.content.word_select(place, 8).eq(
                                answer.data.word_select(lane, 8))
                take_answer("STEP")

            with m.State("ENTER"):
                m.d.sync += [
                    table.eq(raw[:64]), limit.eq(entries), steps.eq(entries), number.eq(0),
                    inside.eq(1), first.eq(0),
                ]
                with m.If(start.packed):
                    m.d.sync += [chain.id.eq(other), chain.slots.eq(1)]
                m.next = "CHECK"
            with m.State("STEP"):
                m.d.sync += [number.eq(Mux(start.packed, Mux(ends, 0, behind), other)),
                             first.eq(0)]
                with m.If(start.packed & ~inside):
                    # The last one's id counts.
                    m.d.sync += [chain.id.eq(other), chain.slots.eq(chain.slots + 1)]
                m.next = "CHECK"
                with m.If(Mux(in_turn, ends, ~goes_on)):
                    m.next = "TELL"
            with m.State("TELL"):
                m.d.comb += self.chains.valid.eq(1)
                with m.If(self.chains.ready):
                    m.next = "IDLE"
        return m
