"""Take the host's requests apart: into accesses of the MMIO bus and of configuration space."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.bars import BarDecoder
from hw.pcie.completions import TicketLayout
from hw.pcie.config_types import ConfigAnswer, ConfigRequest, ErrorLayout
from hw.pcie.types import CompletionStatus, MmioRequest, RequestHeader, RequestKind, TlpLayout
from hw.stream.types import FUNCTION_BITS

__all__ = ["HostRequests"]


class _Checks(data.StructLayout):
    """What the first beat of a request tells, one cycle later."""

    def __init__(self) -> None:
        super().__init__({
            "bad_length": 1,    # no request is so long, or so short
            "bad_enables": 1,   # byte enables that no request has
            "bad_payload": 1,   # a first beat that cannot be the first of so many dwords
            "bad_empty": 1,     # the payload of one beat is shorter or longer than it should be
            "no_dword": 1,      # not a single dword: wrong for configuration and I/O
            "one_beat": 1,      # no beat follows
            "crosses": 1,       # crosses a multiple of 4 KiB
            "nothing": 1,       # a single dword of which no byte is enabled
            "skipped": 3,       # bytes at both ends that are not enabled
            "lead": 2,          # those at the beginning
        })


class HostRequests(wiring.Component):
    """Serve the requests on ``cq``, one after the other.

    ::

        cq ──► beat, BAR compare ──► decision ──┬─► a dword a cycle ──► mmio
                                                ├─► config space ──► window ──► mmio
                                                └─► ticket ──► tickets (who must be answered)

    Memory requests that hit an enabled BAR become accesses of one dword each, with the byte enables
    of the request; dwords of which no byte is enabled at all are not accessed. What is refused, and
    what is noted about it (`ErrorLayout`):

    =================================== ==================== =================================
    request                             answer               noted
    =================================== ==================== =================================
    no BAR hit, memory off, D3hot: read unsupported          correctable, unsupported
    the same: write                     none (posted)        non-fatal, unsupported
    I/O, atomic and other requests      unsupported          correctable, unsupported
    config of a missing function        unsupported          correctable, unsupported
    poisoned write, memory              none, not done       non-fatal, poisoned
    poisoned write, configuration       unsupported,         correctable, poisoned
                                        not done
    malformed                           none, not done       fatal
    message                             none                 nothing
    =================================== ==================== =================================

    *Malformed* are lengths of 0 and of more than 1024 dwords, byte enables that the length forbids,
    requests across 4 KiB, and a payload that is not as long as the header says. Where that shows
    only after the first beat, the dwords that came are written, never more than the header says.
    Nothing is checked of traffic class, Max Payload Size (larger writes are done) and messages.
    Whatever a request is, it is taken to its last beat.

    | Latency: 1 cycle from ``cq`` to ``mmio`` (a doorbell; 2 if it is more), 3 to a ticket.
    | Throughput: one single-dword write in 2 cycles; long ones a dword a cycle, and a cycle a beat.

    Parameters
    ----------
    lanes
        Byte lanes of ``cq``: a power of two, at least 8.

    Members
    -------
    cq : In(stream.Signature(TlpLayout(lanes, RequestHeader())))
    mmio : Out(stream.Signature(MmioRequest()))
    tickets : Out(stream.Signature(TicketLayout()))
        One a non-posted request; never later than the request's last MMIO access is taken and the
        next request begins.
    config_requests : Out(stream.Signature(ConfigRequest()))
    config_answers : In(stream.Signature(ConfigAnswer()))
    bar0 : In(32)
    bar2, bar4 : In(64)
    memory_enable : In(1)
    bus_device : In(13)
        From `hw.pcie.config_space.ConfigSpace`.
    errors : Out(ErrorLayout())
    """

    cq: stream.Interface
    mmio: stream.Interface
    tickets: stream.Interface
    config_requests: stream.Interface
    config_answers: stream.Interface
    bar0: Signal
    bar2: Signal
    bar4: Signal
    memory_enable: Signal
    bus_device: Signal
    errors: Any

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({
            "cq": In(stream.Signature(TlpLayout(lanes, RequestHeader()))),
            "mmio": Out(stream.Signature(MmioRequest())),
            "tickets": Out(stream.Signature(TicketLayout())),
            "config_requests": Out(stream.Signature(ConfigRequest())),
            "config_answers": In(stream.Signature(ConfigAnswer())),
            "bar0": In(32), "bar2": In(64), "bar4": In(64), "memory_enable": In(1),
            "bus_device": In(13),
            "errors": Out(ErrorLayout()),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        words = self.lanes // 4
        m.submodules.bars = bars = BarDecoder()

        # The request, as its first beat brought it. The data are those of the latest beat.
        header: Any = Signal(RequestHeader(), reset_less=True)
        beat = Signal(8 * self.lanes, reset_less=True)
        beat_last = Signal(reset_less=True)
        final_index = Signal(range(words), reset_less=True)  # last dword of the beat
        checks = self._checks(m)

        # The access at hand.
        bar = Signal(3, reset_less=True)
        offset = Signal(20, reset_less=True)
        enable = Signal(4, reset_less=True)
        function = Signal(FUNCTION_BITS, reset_less=True)
        writes = Signal(reset_less=True)
        left = Signal(11, reset_less=True)             # dwords of the request, this one included
        index = Signal(range(words), reset_less=True)  # this one, in its beat

        # What the ticket will say.
        status = Signal(CompletionStatus, reset_less=True)
        reads = Signal(reset_less=True)
        answer_dwords = Signal(11, reset_less=True)
        byte_count = Signal(13, reset_less=True)
        lower_address = Signal(7, reset_less=True)
        shift = Signal(2, reset_less=True)
        kept_bytes = Signal(4, reset_less=True)

        kind = header.kind.as_value()
        is_kind = {member: Signal(name=f"is_{member.name.lower()}") for member in RequestKind}
        m.d.comb += [is_kind[member].eq(kind == member.value) for member in RequestKind]
        is_config = is_kind[RequestKind.CONFIG_READ] | is_kind[RequestKind.CONFIG_WRITE]
        is_memory = is_kind[RequestKind.MEM_READ] | is_kind[RequestKind.MEM_WRITE]
        is_io = is_kind[RequestKind.IO_READ] | is_kind[RequestKind.IO_WRITE]
        has_payload = (is_kind[RequestKind.MEM_WRITE] | is_kind[RequestKind.CONFIG_WRITE]
                       | is_kind[RequestKind.IO_WRITE])
        bad_payload = Mux(has_payload, checks.bad_payload | checks.one_beat & checks.bad_empty,
                          ~beat_last)
        malformed = Signal()
        m.d.comb += malformed.eq(
            (is_memory & (checks.bad_length | checks.crosses))
            | ((is_config | is_io) & checks.no_dword)
            | ((is_memory | is_config | is_io) & (checks.bad_enables | bad_payload)))

        m.d.comb += [
            bars.address.eq(self.cq.p.header.address),
            bars.bar0.eq(self.bar0), bars.bar2.eq(self.bar2), bars.bar4.eq(self.bar4),
            bars.enable.eq(self.memory_enable),
            self.mmio.p.function.eq(function),
            self.mmio.p.bar.eq(bar),
            self.mmio.p.offset.eq(offset),
            self.mmio.p.write.eq(writes),
            self.mmio.p.enable.eq(enable),
            self.mmio.p.data.eq(beat.word_select(index, 32)),
            self.config_requests.p.completer_id.eq(header.completer_id),
            self.config_requests.p.register.eq(header.address[2:12]),
            self.config_requests.p.write.eq(is_kind[RequestKind.CONFIG_WRITE]),
            self.config_requests.p.enable.eq(header.first_be),
            self.config_requests.p.data.eq(beat[:32]),
            self.tickets.p.status.eq(status),
            self.tickets.p.reads.eq(reads),
            self.tickets.p.dwords.eq(answer_dwords),
            self.tickets.p.byte_count.eq(byte_count),
            self.tickets.p.lower_address.eq(lower_address),
            self.tickets.p.data.eq(beat[:32]),
            self.tickets.p.shift.eq(shift),
            self.tickets.p.bytes.eq(kept_bytes),
            self.tickets.p.settles.eq(is_kind[RequestKind.CONFIG_WRITE]),
            self.tickets.p.completer_id.eq(
                Mux(is_config, header.completer_id, self.bus_device << 3)),
        ]
        for name in ("requester_id", "tag", "traffic_class", "attributes"):
            m.d.comb += self.tickets.p[name].eq(header[name])

        errors: Any = Signal(ErrorLayout())
        m.d.sync += errors.eq(0)
        m.d.comb += self.errors.eq(errors)

        def note(**which: Value | int) -> None:
            m.d.sync += [errors[name].eq(value) for name, value in which.items()]

        def finish() -> None:
            m.next = "DRAIN"
            with m.If(beat_last):
                m.next = "IDLE"

        def refuse() -> None:
            m.d.sync += [status.eq(CompletionStatus.UNSUPPORTED), reads.eq(0), answer_dwords.eq(0),
                         byte_count.eq(4), lower_address.eq(0)]
            m.next = "TICKET"

        def load() -> None:
            m.d.sync += [
                beat.eq(self.cq.p.data),
                beat_last.eq(self.cq.p.last),
                index.eq(0),
                final_index.eq(Mux(self.cq.p.last, words - 1 - (self.cq.p.empty >> 2), words - 1)),
            ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.cq.ready.eq(1)
                load()
                m.d.sync += [
                    header.eq(self.cq.p.header),
                    left.eq(self.cq.p.header.dwords),
                    enable.eq(self.cq.p.header.first_be),
                ]
                with m.If(self.cq.valid):
                    m.next = "DECIDE"

            with m.State("DECIDE"):
                m.d.sync += [
                    bar.eq(bars.bar),
                    offset.eq(bars.offset),
                    function.eq(0),
                    writes.eq(is_kind[RequestKind.MEM_WRITE]),
                    status.eq(CompletionStatus.SUCCESS),
                    reads.eq(1),
                    answer_dwords.eq(header.dwords),
                    byte_count.eq((header.dwords << 2) - checks.skipped),
                    lower_address.eq(Cat(checks.lead, header.address[2:7])),
                    shift.eq(0),
                    kept_bytes.eq(0b1111),
                ]
                with m.If(malformed):
                    note(fatal=1)
                    finish()
                with m.Elif(is_kind[RequestKind.MESSAGE]):
                    finish()
                with m.Elif(is_kind[RequestKind.MEM_WRITE]):
                    note(poisoned=header.poisoned, unsupported=~bars.hit,
                         non_fatal=~bars.hit | header.poisoned)
                    finish()
                    with m.If(bars.hit & ~header.poisoned & ~checks.nothing):
                        m.next = "ACCESS"
                        # A single dword, such as a doorbell, goes at once.
                        with m.If(~checks.no_dword):
                            m.d.comb += [
                                self.mmio.valid.eq(1),
                                self.mmio.p.function.eq(0),
                                self.mmio.p.bar.eq(bars.bar),
                                self.mmio.p.offset.eq(bars.offset),
                                self.mmio.p.write.eq(1),
                            ]
                            with m.If(self.mmio.ready):
                                finish()
                with m.Elif(is_kind[RequestKind.MEM_READ] & bars.hit):
                    m.next = "TICKET"
                    with m.If(checks.nothing):  # a read of nothing finds a dword that means nothing
                        m.d.sync += [reads.eq(0), beat[:32].eq(0), byte_count.eq(1)]
                with m.Elif(is_config & ~header.poisoned):
                    m.next = "CONFIG"
                with m.Else():
                    note(correctable=1, poisoned=header.poisoned,
                         unsupported=~(is_config & header.poisoned))
                    refuse()

            # All dwords of a memory request in turn, or the one of a window access.
            with m.State("ACCESS"):
                m.d.comb += self.mmio.valid.eq(1)
                with m.If(self.mmio.ready):
                    m.d.sync += [
                        offset.eq(offset + 4),
                        index.eq(index + 1),
                        left.eq(left - 1),
                        enable.eq(Mux(left == 2, header.last_be, 0b1111)),
                    ]
                    with m.If(is_config):
                        m.next = "TICKET"
                    with m.Elif(left == 1):
                        finish()
                        with m.If(writes & (~beat_last | (index != final_index))):
                            note(fatal=1)
                    with m.Elif(writes & (index == final_index)):
                        m.next = "MORE"
                        with m.If(beat_last):
                            note(fatal=1)
                            m.next = "IDLE"

            with m.State("MORE"):
                m.d.comb += self.cq.ready.eq(1)
                load()
                with m.If(self.cq.valid):
                    m.next = "ACCESS"

            with m.State("CONFIG"):
                m.d.comb += self.config_requests.valid.eq(1)
                with m.If(self.config_requests.ready):
                    m.next = "ANSWER"

            with m.State("ANSWER"):
                answer = self.config_answers.p
                m.d.comb += self.config_answers.ready.eq(1)
                m.d.sync += [
                    beat[:32].eq(answer.data),
                    bar.eq(answer.window.bar),
                    offset.eq(answer.window.offset),
                    enable.eq(answer.window.enable),
                    function.eq(answer.function),
                    writes.eq(is_kind[RequestKind.CONFIG_WRITE]),
                    status.eq(answer.status),
                    reads.eq(answer.window.wanted & ~is_kind[RequestKind.CONFIG_WRITE]),
                    answer_dwords.eq(is_kind[RequestKind.CONFIG_READ]
                                     & (answer.status == CompletionStatus.SUCCESS)),
                    byte_count.eq(4),
                    lower_address.eq(0),
                    shift.eq(answer.window.shift),
                    kept_bytes.eq(answer.window.bytes),
                ]
                with m.If(self.config_answers.valid):
                    m.next = "TICKET"
                    with m.If(answer.window.wanted):
                        m.next = "ACCESS"
                    with m.If(answer.status == CompletionStatus.UNSUPPORTED):
                        note(correctable=1, unsupported=1)

            with m.State("TICKET"):
                m.d.comb += self.tickets.valid.eq(1)
                with m.If(self.tickets.ready):
                    finish()
                    with m.If(reads & ~is_config):
                        m.next = "ACCESS"

            with m.State("DRAIN"):
                m.d.comb += self.cq.ready.eq(1)
                with m.If(self.cq.valid & self.cq.p.last):
                    m.next = "IDLE"
        return m

    def _checks(self, m: Module) -> Any:
        """Look at the beat on ``cq``; what is found is there in the next cycle."""
        words = self.lanes // 4
        header = self.cq.p.header
        dwords, first_be, last_be = header.dwords, header.first_be, header.last_be
        single = Signal()
        whole_beats = Signal()  # as many dwords as the beat holds, or more
        lead, trail = Signal(2), Signal(2)
        end = Signal(12)
        m.d.comb += [
            single.eq(dwords == 1),
            whole_beats.eq(dwords > words),
            end.eq(header.address[2:12] + dwords),
        ]
        for lane in reversed(range(4)):
            with m.If(first_be[lane]):
                m.d.comb += lead.eq(lane)
        final_be = Mux(single, first_be, last_be)
        for lane in range(4):
            with m.If(final_be[lane]):
                m.d.comb += trail.eq(3 - lane)

        checks: Any = Signal(_Checks(), reset_less=True)
        m.d.sync += [
            checks.bad_length.eq((dwords == 0) | (dwords > 1024)),
            checks.bad_enables.eq(Mux(single, last_be != 0, (first_be == 0) | (last_be == 0))),
            checks.bad_payload.eq(self.cq.p.last == whole_beats),
            checks.bad_empty.eq(self.cq.p.empty + (dwords << 2) != self.lanes),
            checks.no_dword.eq(~single),
            checks.one_beat.eq(~whole_beats),
            checks.crosses.eq(end > 1024),
            checks.nothing.eq(single & (first_be == 0)),
            checks.skipped.eq(lead + trail),
            checks.lead.eq(lead),
        ]
        return checks
