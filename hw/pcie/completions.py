"""Make completions: what answers the host's requests, in whole TLPs and in the right order."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.fence import COUNT_BITS, WriteFence
from hw.pcie.types import CompletionHeader, CompletionStatus, MmioAnswer, TlpLayout
from hw.stream.connect import connect_streams
from hw.stream.queue import StreamQueue

__all__ = ["Completions", "TicketLayout"]

_BOUNDARY_DWORDS = 32
"""The read completion boundary of an endpoint, 128 bytes: no completion crosses it."""

_ANSWERS = 64
"""Dwords kept for completions that are not yet whole: two of the largest."""


class TicketLayout(data.StructLayout):
    """What will have to be answered, one a non-posted request, in their order.

    ============== ==== ==================================================================
    field          bits meaning
    ============== ==== ==================================================================
    status         3    `CompletionStatus`
    reads          1    The data are the next ``dwords`` dwords from the MMIO bus
    dwords         11   Of data, 0 to 1024; without ``reads`` 0 or 1
    byte_count     13   As in the first completion's header,
    lower_address  7    and so is this
    data           32   The data, without ``reads``
    shift          2    What comes from the bus goes down by so many bytes,
    bytes          4    and of these bytes alone something is left
    settles        1    A write to configuration space: may turn MSI-X off
    requester_id   16   From here on: as in the completion's header
    completer_id   16
    tag            10
    traffic_class  3
    attributes     3
    ============== ==== ==================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "status": CompletionStatus, "reads": 1, "dwords": 11, "byte_count": 13,
            "lower_address": 7, "data": 32, "shift": 2, "bytes": 4, "settles": 1,
            "requester_id": 16, "completer_id": 16, "tag": 10, "traffic_class": 3, "attributes": 3,
        })


class Completions(wiring.Component):
    """Gather the dwords that answer a request, and send them when order allows.

    ::

        tickets ──► queue ──► one request ──► one completion ──► fence ──► beats ──► cc
        answers ──► queue ───────────────────────▲

    A read is answered by completions that end at multiples of 128 bytes, the boundary of an
    endpoint (and never more than any Max Payload Size). A completion is sent when all its dwords
    are here and every DMA write that was accepted until then has left: so it passes none of the
    writes that came before what it tells. That of a configuration write waits for ``msix_sending``
    to be low first: once the host knows that MSI-X is off or masked, no message follows.

    Both queues go on filling meanwhile, so it takes ``outstanding`` unanswered requests (or 64
    dwords) to stall the requests behind them.

    | Latency: 4 cycles from the only dword of an answer to ``cc``, or from a ticket without reads.
    | Throughput: a dword a cycle, and a cycle a beat, and 5 a completion.
    | Storage: 64 dwords, ``outstanding`` tickets of 122 bits, a beat.

    Parameters
    ----------
    lanes
        Byte lanes of ``cc``: a power of two, at least 8.
    outstanding
        Tickets that are kept: 2 to 64.

    Members
    -------
    tickets : In(stream.Signature(TicketLayout()))
    answers : In(stream.Signature(MmioAnswer()))
    cc : Out(stream.Signature(TlpLayout(lanes, CompletionHeader())))
    writes_accepted, writes_left : In(8)
        Counts of DMA writes, see `hw.pcie.fence`.
    msix_sending : In(1)
        An interrupt that was decided by old values of MSI-X enable and mask may be under way, and
        not yet counted in ``writes_accepted``.
    """

    tickets: stream.Interface
    answers: stream.Interface
    cc: stream.Interface
    writes_accepted: Signal
    writes_left: Signal
    msix_sending: Signal

    def __init__(self, lanes: int, *, outstanding: int = 8) -> None:
        self.lanes = lanes
        self.outstanding = outstanding
        super().__init__({
            "tickets": In(stream.Signature(TicketLayout())),
            "answers": In(stream.Signature(MmioAnswer())),
            "cc": Out(stream.Signature(TlpLayout(lanes, CompletionHeader()))),
            "writes_accepted": In(COUNT_BITS),
            "writes_left": In(COUNT_BITS),
            "msix_sending": In(1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one state machine
        m = Module()
        words = self.lanes // 4
        m.submodules.tickets = tickets = StreamQueue(TicketLayout(), self.outstanding)
        m.submodules.answers = answers = StreamQueue(MmioAnswer(), _ANSWERS)
        m.submodules.fence = fence = WriteFence()
        connect_streams(m, flipped(self.tickets), tickets.i)
        connect_streams(m, flipped(self.answers), answers.i)

        ticket: Any = Signal(TicketLayout(), reset_less=True)
        # These three go down with every completion of the ticket.
        left = Signal(11, reset_less=True)            # dwords of the request
        byte_count = Signal(13, reset_less=True)
        lower_address = Signal(7, reset_less=True)
        here = Signal(range(_BOUNDARY_DWORDS + 1), reset_less=True)  # dwords of this completion
        to_gather = Signal.like(here)                 # dwords of it that are not in a beat yet
        beat = Signal(8 * self.lanes, reset_less=True)
        index = Signal(range(words), reset_less=True)  # where the next dword goes
        empty = Signal(range(self.lanes), reset_less=True)
        first_dword = lower_address[2:]               # in its 128 bytes
        room = Signal.like(here)
        m.d.comb += [
            room.eq(_BOUNDARY_DWORDS - first_dword),
            fence.writes_accepted.eq(self.writes_accepted),
            fence.writes_left.eq(self.writes_left),
        ]

        word = Signal(32)
        keep = Cat(bit.replicate(8) for bit in ticket.bytes)
        with m.If(ticket.reads):
            m.d.comb += word.eq((answers.o.p.data >> (ticket.shift << 3)) & keep)
        with m.Else():
            m.d.comb += word.eq(ticket.data)

        header = self.cc.p.header
        m.d.comb += [
            self.cc.p.data.eq(beat),
            self.cc.p.empty.eq(empty),
            self.cc.p.last.eq(to_gather == 0),
            header.status.eq(ticket.status),
            header.byte_count.eq(byte_count),
            header.lower_address.eq(lower_address),
            header.dwords.eq(here),
            header.poisoned.eq(0),
        ]
        for name in ("requester_id", "completer_id", "tag", "traffic_class", "attributes"):
            m.d.comb += header[name].eq(ticket[name])

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += tickets.o.ready.eq(1)
                m.d.sync += [
                    ticket.eq(tickets.o.payload),
                    left.eq(tickets.o.p.dwords),
                    byte_count.eq(tickets.o.p.byte_count),
                    lower_address.eq(tickets.o.p.lower_address),
                ]
                with m.If(tickets.o.valid):
                    m.next = "CUT"
            with m.State("CUT"):
                m.d.sync += here.eq(Mux(left > room, room, left))
                m.next = "DATA"
            with m.State("DATA"):
                # The fence is set when the data are here: it covers all that was accepted before.
                m.d.sync += to_gather.eq(here)
                with m.If((~ticket.reads | (answers.level >= here))
                          & ~(ticket.settles & self.msix_sending)):
                    m.d.comb += fence.capture.eq(1)
                    m.next = "FENCE"
            with m.State("FENCE"):
                m.d.sync += [index.eq(0), empty.eq(0)]
                with m.If(fence.passed):
                    m.next = "GATHER"
                    with m.If(here == 0):
                        m.next = "SEND"
            with m.State("GATHER"):
                m.d.comb += answers.o.ready.eq(ticket.reads)
                m.d.sync += [
                    to_gather.eq(to_gather - 1),
                    index.eq(index + 1),
                    empty.eq(self.lanes - 4 - (index << 2)),
                ]
                with m.Switch(index):
                    for place in range(words):
                        with m.Case(place):
                            m.d.sync += beat[32 * place:32 * place + 32].eq(word)
                with m.If((to_gather == 1) | (index == words - 1)):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.cc.valid.eq(1)
                with m.If(self.cc.ready):
                    m.next = "GATHER"  # where the index has come round to 0
                    with m.If(self.cc.p.last):
                        m.d.sync += [
                            left.eq(left - here),
                            byte_count.eq(byte_count + lower_address[:2] - (here << 2)),
                            lower_address.eq(0),
                        ]
                        m.next = "CUT"
                        with m.If(left == here):
                            m.next = "IDLE"
        return m
