"""MSI-X: the vector table and the pending bits of every function, and the messages they cause."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pcie.bar_map import MSIX_PBA_OFFSET
from hw.pcie.types import InterruptLayout, MmioAnswer, MmioRequest, WriteSegmentLayout
from hw.stream.register import StreamRegister
from hw.stream.types import FUNCTION_BITS, BeatLayout

__all__ = ["MsixTable"]


class _Task(enum.Enum, shape=2):
    """What the table is doing for somebody: the three that take turns."""

    ACCESS = 0     # one dword of MMIO
    INTERRUPT = 1  # a new interrupt
    PENDING = 2    # an interrupt that had to wait, of a function that the scan has found


class _StateLayout(data.StructLayout):
    """The bits of a function's vectors. A vector is open when its mask bit is clear.

    So all zero, as memory starts, is the reset state.
    """

    def __init__(self, vectors: int) -> None:
        super().__init__({"open": vectors, "pending": vectors})


class _EntryLayout(data.StructLayout):
    """An entry of the table, but for the mask: the standard's first three dwords."""

    def __init__(self) -> None:
        super().__init__({"low": 32, "high": 32, "data": 32})


class _MessagePort(wiring.Component):
    """Hand one message over to `DmaWrite`; `underway` until it is taken and accepted.

    A message comes with ``load`` while ``underway`` is low, and is offered from the next cycle on.
    """

    load: Signal
    entry: Any
    which: Any
    underway: Signal
    segments: stream.Interface
    data: stream.Interface
    accepted: Signal
    sent: stream.Interface

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({
            "load": In(1),
            "entry": In(_EntryLayout()),
            "which": In(InterruptLayout()),
            "underway": Out(1),
            "segments": Out(stream.Signature(WriteSegmentLayout())),
            "data": Out(stream.Signature(BeatLayout(lanes))),
            "accepted": In(1),
            "sent": Out(stream.Signature(InterruptLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry: Any = Signal(_EntryLayout(), reset_less=True)
        which: Any = Signal(InterruptLayout(), reset_less=True)
        new = Signal()
        segment_waits = Signal()
        data_waits = Signal()
        not_accepted = Signal()
        m.d.comb += [
            self.underway.eq(segment_waits | data_waits | not_accepted),
            self.segments.valid.eq(segment_waits),
            self.segments.p.function.eq(which.function),
            self.segments.p.address.eq(Cat(entry.low, entry.high)),
            self.segments.p.length.eq(4),
            self.segments.p.last.eq(1),
            self.data.valid.eq(data_waits),
            self.data.p.data.eq(entry.data),
            self.data.p.empty.eq(self.lanes - 4),
            self.data.p.last.eq(1),
            self.sent.valid.eq(new),
            self.sent.p.eq(which),
        ]
        m.d.sync += new.eq(self.load)
        with m.If(self.load):
            m.d.sync += [
                entry.eq(self.entry), which.eq(self.which),
                segment_waits.eq(1), data_waits.eq(1), not_accepted.eq(1),
            ]
        with m.Else():
            with m.If(self.segments.ready):
                m.d.sync += segment_waits.eq(0)
            with m.If(self.data.ready):
                m.d.sync += data_waits.eq(0)
            with m.If(self.accepted):
                m.d.sync += not_accepted.eq(0)
        return m


class _PendingScan(wiring.Component):
    """Go round the functions, one a cycle, and stop where an open vector is pending.

    ``function`` is what is looked at; its state is expected in ``state`` a cycle later. A look
    may meet a state that is being written, so what it finds is a hint, to be checked; what it
    misses it finds in the next round. With ``found`` it stands at ``function`` until ``resume``.
    ``hint`` puts it to ``hinted``: should it have found another function in the same cycle, then
    the check is of the hinted one, and the other is found again in the next round.
    """

    enable: Signal
    function_mask: Signal
    state: Any
    hint: Signal
    hinted: Signal
    resume: Signal
    found: Signal
    function: Signal

    def __init__(self, functions: int, vectors: int, function_bits: int) -> None:
        self.functions = functions
        super().__init__({
            "enable": In(functions),
            "function_mask": In(functions),
            "state": In(_StateLayout(vectors)),
            "hint": In(1),
            "hinted": In(function_bits),
            "resume": In(1),
            "found": Out(1),
            "function": Out(function_bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        found = Signal()
        at = Signal.like(self.function)
        looked_at = Signal.like(self.function)
        looked = Signal()
        m.d.comb += [self.found.eq(found), self.function.eq(at)]
        m.d.sync += [looked_at.eq(at), looked.eq(~found)]
        with m.If(self.resume):
            m.d.sync += found.eq(0)
        with m.If(~found):
            m.d.sync += at.eq(Mux(at == self.functions - 1, 0, at + 1))
            with m.If(looked & self.enable.bit_select(looked_at, 1)
                      & ~self.function_mask.bit_select(looked_at, 1)
                      & (self.state.open & self.state.pending).any()):
                m.d.sync += [found.eq(1), at.eq(looked_at)]
            with m.If(self.hint):
                m.d.sync += at.eq(self.hinted)
        return m


class MsixTable(wiring.Component):
    """Keep each function's MSI-X table and pending bits, and turn interrupts into memory writes.

    ::

        mmio ───────►┐                    ┌─────────┐ address, data
        interrupts ─►├─ one at a time ───►│ entries │──────────────► message ──► segments, data
        clear ──────►│                    ├─────────┤ open, pending
                     └──────── scan ◄─────│ states  │──────────────► answers
                                          └─────────┘

    One task at a time reads both memories, decides, and writes back: so a race has no middle. An
    interrupt finds its vector open, and is sent; or finds it masked (or its function), and leaves
    its pending bit set. A scan of the pending bits goes round the functions in the background, one
    a cycle, and stops at one that has an open vector pending; this is then sent, and its bit
    cleared, in one task. So it does not matter which of the bits above it opened, or when.

    An interrupt of a function without MSI-X enabled, or of a vector that does not exist, is
    dropped. Pending bits outlive a disabled MSI-X, and are sent when it is enabled again.

    A message is handed over one at a time; an access never waits for one but a read, whose answer
    so never comes before the `writes_accepted` of `DmaWrite` counts every message decided earlier.
    Writes wait for nothing that must leave the card: PCI Express demands that of posted requests.

    | Latency: interrupt to segment 3 cycles, read to answer 3 cycles, when idle. A vector that is
    | opened is sent after 9 cycles, one of a function that is opened up to ``functions`` later.
    | Throughput: an access in 2 cycles; an interrupt in 2 cycles and the time until the write is
    | accepted. The three kinds of tasks take turns.
    | Storage: ``functions * vectors`` entries of 96 bits, ``functions`` states of 2 * vectors bits.
    | After reset, ``functions * vectors`` cycles clear the table; everything waits for that.

    Parameters
    ----------
    functions
        The PF and its VFs, 1 to 256.
    vectors
        Vectors a function: a power of two from 2 to 64.
    lanes
        Byte lanes of ``data``: a power of two, at least 4.

    Members
    -------
    mmio : In(stream.Signature(MmioRequest()))
        Accesses to the MSI-X BAR: the table at MSIX_TABLE_OFFSET (0), the pending bits
        (read-only) at MSIX_PBA_OFFSET; what is beside them reads zero and ignores writes. The two
        low bits of a message's address are zero, so are all of vector control but the mask.
    answers : Out(stream.Signature(MmioAnswer()))
        One for each read, in order.
    interrupts : In(stream.Signature(InterruptLayout()))
        Waits for nothing but messages to be accepted.
    clear : In(stream.Signature(range(256)))
        Put the table of a function back to its reset state (all masked, else zero; nothing
        pending). Taken when that is done, ``vectors`` cycles after it began; never while a message
        is on its way.
    enable : In(functions)
    function_mask : In(functions)
        MSI-X Enable and Function Mask of each function.
    segments : Out(stream.Signature(WriteSegmentLayout()))
    data : Out(stream.Signature(BeatLayout(lanes)))
    accepted : In(1)
        A client's port of `DmaWrite`.
    sending : Out(1)
        A message may be under way to `DmaWrite`. Once it is low, in a cycle in which ``enable`` and
        ``function_mask`` are already new, every message that was decided by the old ones is
        counted in ``writes_accepted``.
    sent : Out(stream.Signature(InterruptLayout(), always_ready=True))
        For counters: a message was decided on. One a message.
    """

    mmio: stream.Interface
    answers: stream.Interface
    interrupts: stream.Interface
    clear: stream.Interface
    enable: Signal
    function_mask: Signal
    segments: stream.Interface
    data: stream.Interface
    accepted: Signal
    sending: Signal
    sent: stream.Interface

    def __init__(self, functions: int, vectors: int, *, lanes: int) -> None:
        if not 1 <= functions <= 1 << FUNCTION_BITS:
            raise ValueError(f"functions must be from 1 to {1 << FUNCTION_BITS}, not {functions!r}")
        if not 2 <= vectors <= 64 or vectors & (vectors - 1):
            raise ValueError(f"vectors must be a power of two from 2 to 64, not {vectors!r}")
        if lanes < 4:
            raise ValueError(f"lanes must be at least 4, not {lanes!r}")
        self.functions = functions
        self.vectors = vectors
        self.lanes = lanes
        super().__init__({
            "mmio": In(stream.Signature(MmioRequest())),
            "answers": Out(stream.Signature(MmioAnswer())),
            "interrupts": In(stream.Signature(InterruptLayout())),
            "clear": In(stream.Signature(unsigned(FUNCTION_BITS))),
            "enable": In(functions),
            "function_mask": In(functions),
            "segments": Out(stream.Signature(WriteSegmentLayout())),
            "data": Out(stream.Signature(BeatLayout(lanes))),
            "accepted": In(1),
            "sending": Out(1),
            "sent": Out(stream.Signature(InterruptLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        vectors = self.vectors
        vector_bits = vectors.bit_length() - 1
        function_bits = max(1, (self.functions - 1).bit_length())

        m.submodules.mmio_register = mmio_register = StreamRegister(MmioRequest())
        m.submodules.interrupt_register = interrupt_register = StreamRegister(InterruptLayout())
        m.submodules.message = message = _MessagePort(self.lanes)
        m.submodules.scan = scan = _PendingScan(self.functions, vectors, function_bits)
        entries: Memory = Memory(shape=unsigned(96), depth=vectors << function_bits, init=[])
        states: Memory = Memory(shape=unsigned(2 * vectors), depth=1 << function_bits, init=[])
        m.submodules.entries, m.submodules.states = entries, states
        entry_write, entry_read = entries.write_port(granularity=8), entries.read_port()
        state_write, state_read = states.write_port(), states.read_port()
        scan_read = states.read_port()

        connect(m, flipped(self.mmio), mmio_register.i)
        connect(m, flipped(self.interrupts), interrupt_register.i)
        connect(m, message.segments, flipped(self.segments))
        connect(m, message.data, flipped(self.data))
        connect(m, message.sent, flipped(self.sent))
        mmio, interrupts = mmio_register.o, interrupt_register.o
        entry: Any = data.View(_EntryLayout(), entry_read.data)
        state: Any = data.View(_StateLayout(vectors), state_read.data)
        state_new: Any = data.View(_StateLayout(vectors), state_write.data)

        # The task in hand.
        task = Signal(_Task)
        function = Signal(function_bits)
        vector = Signal(vector_bits)
        exists = Signal()          # the vector, or the dword of the table
        pending_dword = Signal(2)  # the access means this dword of the pending bits
        dword = Signal(2)
        writes = Signal()
        enables = Signal(4)
        written = Signal(32)
        answer = Signal(32, reset_less=True)
        answer_valid = Signal()

        next_function = Signal(function_bits)
        next_vector = Signal(vector_bits)
        m.d.comb += [
            message.accepted.eq(self.accepted),
            message.entry.eq(entry),
            message.which.function.eq(function),
            message.which.vector.eq(vector),
            scan.enable.eq(self.enable),
            scan.function_mask.eq(self.function_mask),
            scan.state.eq(data.View(_StateLayout(vectors), scan_read.data)),
            scan.hinted.eq(function),
            scan_read.addr.eq(scan.function),
            self.answers.valid.eq(answer_valid),
            self.answers.p.data.eq(answer),
            entry_read.addr.eq(Cat(next_vector, next_function)),
            state_read.addr.eq(next_function),
            entry_write.addr.eq(Cat(vector, function)),
            # The two low bits of an address are always zero.
            entry_write.data.eq(Cat(
                written & Mux(dword == 0, 0xFFFF_FFFC, 0xFFFF_FFFF), written, written)),
            state_write.addr.eq(function),
            state_new.eq(state),
        ]
        with m.If(self.answers.ready):
            m.d.sync += answer_valid.eq(0)

        # A message must have been accepted before another is decided on, and before a read is
        # answered: see the docstring.
        can = Signal(3)
        start = Signal(_Task)
        m.d.comb += can.eq(Cat(
            mmio.valid & (mmio.p.write | ~(message.underway | answer_valid)),
            interrupts.valid & ~message.underway,
            scan.found & ~message.underway,
        ))
        _take_turns(m, can, last=task, chosen=start)

        is_open = Signal()
        enabled = Signal()
        function_open = Signal()
        sendable = Signal(vectors)
        lowest = Signal(vectors)       # one-hot
        this_vector = Signal(vectors)  # one-hot
        found_dword = Signal(32)
        m.d.comb += [
            is_open.eq(state.open.bit_select(vector, 1)),
            enabled.eq(self.enable.bit_select(function, 1)),
            function_open.eq(enabled & ~self.function_mask.bit_select(function, 1)),
            sendable.eq(state.open & state.pending),
            lowest.eq(sendable & (~sendable + 1)),
            this_vector.eq(1 << vector),
            found_dword.eq(
                Mux(exists, _word(dword, entry.low, entry.high, entry.data, ~is_open), 0)
                | Mux(pending_dword[0], state.pending[:32], 0)
                | Mux(pending_dword[1], state.pending[32:], 0)),
        ]

        def decide_access() -> None:
            """Write a dword into the table, or give what was read as the answer."""
            with m.If(~writes):
                m.d.sync += [answer_valid.eq(1), answer.eq(found_dword)]
            with m.Elif(exists & (dword != 3)):
                for index in range(3):
                    with m.If(dword == index):
                        m.d.comb += entry_write.en.eq(enables << 4 * index)
            with m.Elif(exists & enables[0]):
                m.d.comb += [
                    state_write.en.eq(1),
                    state_new.open.eq(Mux(written[0], state.open & ~this_vector,
                                          state.open | this_vector)),
                    # An opened vector need not wait until the scan comes round.
                    scan.hint.eq(1),
                ]

        def decide_interrupt() -> None:
            """Send it, keep it pending, or drop it."""
            with m.If(exists & function_open & is_open):
                m.d.comb += message.load.eq(1)
            with m.Elif(exists & enabled):
                m.d.comb += [
                    state_write.en.eq(1),
                    state_new.pending.eq(state.pending | this_vector),
                ]

        def decide_pending() -> None:
            """Take the lowest vector that can be sent out of the pending ones, or go on."""
            m.d.sync += vector.eq(_index(lowest, vector_bits))
            with m.If(function_open & sendable.any()):
                m.d.comb += [
                    state_write.en.eq(1),
                    state_new.pending.eq(state.pending & ~lowest),
                ]
                m.next = "FETCH"
            with m.Else():
                m.d.comb += scan.resume.eq(1)

        def clear_entry() -> None:
            """Put one entry back to zero, and its function's state."""
            m.d.comb += [
                entry_write.en.eq(-1), entry_write.data.eq(0),
                state_write.en.eq(1), state_new.eq(0),
            ]

        with m.FSM(init="RESET") as fsm:
            # What is decided in this very cycle goes by what `enable` and `function_mask` are now.
            m.d.comb += self.sending.eq(message.underway | fsm.ongoing("FETCH")
                                        | fsm.ongoing("SEND"))

            with m.State("IDLE"):
                m.d.comb += [
                    next_function.eq(_pick(start, mmio.p.function, interrupts.p.function,
                                           scan.function)),
                    next_vector.eq(_pick(start, mmio.p.offset[4:], interrupts.p.vector, 0)),
                ]
                m.d.sync += [
                    function.eq(next_function), vector.eq(next_vector),
                    dword.eq(mmio.p.offset[2:4]), writes.eq(mmio.p.write),
                    enables.eq(mmio.p.enable), written.eq(mmio.p.data),
                    pending_dword.eq(Cat(
                        mmio.p.offset[2:] == MSIX_PBA_OFFSET >> 2,
                        (mmio.p.offset[2:] == (MSIX_PBA_OFFSET >> 2) + 1) & (vectors > 32))),
                    exists.eq(_pick(start, mmio.p.offset[4 + vector_bits:] == 0,
                                    interrupts.p.vector[vector_bits:] == 0, 0)),
                ]
                with m.If(self.clear.valid & ~message.underway):
                    m.d.sync += [function.eq(self.clear.payload), vector.eq(0)]
                    m.next = "CLEAR"
                with m.Elif(can.any()):
                    m.d.comb += [
                        mmio.ready.eq(start == _Task.ACCESS),
                        interrupts.ready.eq(start == _Task.INTERRUPT),
                    ]
                    m.d.sync += task.eq(start)
                    m.next = "DECIDE"

            with m.State("DECIDE"):
                m.next = "IDLE"
                with m.Switch(task):
                    with m.Case(_Task.ACCESS):
                        decide_access()
                    with m.Case(_Task.INTERRUPT):
                        decide_interrupt()
                    with m.Default():
                        decide_pending()

            # The vector is known only now: its entry is read for it alone.
            with m.State("FETCH"):
                m.d.comb += [next_function.eq(function), next_vector.eq(vector)]
                m.next = "SEND"

            with m.State("SEND"):
                m.d.comb += message.load.eq(1)
                m.next = "IDLE"

            with m.State("CLEAR"):
                clear_entry()
                m.d.sync += vector.eq(vector + 1)
                with m.If(vector == vectors - 1):
                    m.d.comb += self.clear.ready.eq(1)
                    m.next = "IDLE"

            with m.State("RESET"):
                clear_entry()
                m.d.sync += Cat(vector, function).eq(Cat(vector, function) + 1)
                with m.If(Cat(vector, function).all()):
                    m.next = "IDLE"

        return m


def _take_turns(m: Module, can: Signal, *, last: Signal, chosen: Signal) -> None:
    """Choose the next task after ``last`` that can start, in the order of `_Task` and round."""
    with m.Switch(last):
        for task in _Task:
            order = [_Task((task.value + step) % 3) for step in (1, 2, 3)]
            with m.Case(task):
                m.d.comb += chosen.eq(Mux(can[order[0].value], order[0].value, Mux(
                    can[order[1].value], order[1].value, order[2].value)))


def _pick(task: Signal, access: Value, interrupt: Value, pending: Value | int) -> Value:
    """Give what belongs to the task."""
    return Mux(task == _Task.ACCESS, access, Mux(task == _Task.INTERRUPT, interrupt, pending))


def _word(number: Signal, *words: Value) -> Value:
    """Give one of four words."""
    return Mux(number[1], Mux(number[0], words[3], words[2]), Mux(number[0], words[1], words[0]))


def _index(one_hot: Signal, bits: int) -> Value:
    """Give the number of the bit that is set in ``one_hot``."""
    return Cat(Cat(one_hot[place] for place in range(len(one_hot)) if place >> bit & 1).any()
               for bit in range(bits))
