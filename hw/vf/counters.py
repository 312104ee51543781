"""Counters of 64 bits, for the card and for each function, that never lose an event."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.hdl import ResetSignal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS, LENGTH_BITS
from hw.vf.regs import COUNTER_BANKS

__all__ = ["CounterBankMemory", "CounterEvent", "CounterValue", "Counters"]

_ROW_BITS = 4


class CounterEvent(data.StructLayout):
    """One more event, and ``bytes`` more bytes, for counter ``row`` of ``function``.

    In a bank of the card ``function`` is 0.
    """

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS, "row": _ROW_BITS, "bytes": LENGTH_BITS})


class CounterValue(data.StructLayout):
    """What has been counted."""

    def __init__(self) -> None:
        super().__init__({"events": 64, "bytes": 64})


class _Word(data.StructLayout):
    """A value, and in which period between resets of the card it was written, modulo 4."""

    def __init__(self, *, count_bytes: bool) -> None:
        bytes_ = {"bytes": 64} if count_bytes else {}
        super().__init__({"events": 64, **bytes_, "period": 2})


class CounterBankMemory(wiring.Component):
    """The counters of one source, in memory.

    A reset of the card clears them although memories keep what they hold: each word says in which
    of four periods it was written, and one of another period counts as zero. After a reset, in
    cycles without an event, every word is brought into the present period, so that none is left
    when its number comes again (if not three resets come before that is done).

    | Latency: an event is seen by a look two cycles later. Throughput: an event a cycle.
    | Storage: 130 bits a counter (66 without bytes), twice: a look has a read port of its own.

    Parameters
    ----------
    functions
        Functions that are told apart; 1 for a bank of the card.
    rows
        Counters of each, 1 to 16.
    count_bytes
        Whether bytes are counted; else they stay 0.

    Members
    -------
    events : In(stream.Signature(CounterEvent(), always_ready=True))
        Of functions and rows that exist.
    function : In(8)
    row : In(4)
    look : In(1)
    value : Out(CounterValue())
        In the cycle after ``look``, and held until the next one.
    """

    events: stream.Interface
    function: Signal
    row: Signal
    look: Signal
    value: Any

    def __init__(self, functions: int, rows: int, *, count_bytes: bool) -> None:
        if not 1 <= functions <= 1 << FUNCTION_BITS:
            raise ValueError(f"functions must be from 1 to {1 << FUNCTION_BITS}, not {functions!r}")
        if not 1 <= rows <= 1 << _ROW_BITS:
            raise ValueError(f"rows must be from 1 to {1 << _ROW_BITS}, not {rows!r}")
        self.functions = functions
        self.rows = rows
        self.count_bytes = count_bytes
        super().__init__({
            "events": In(stream.Signature(CounterEvent(), always_ready=True)),
            "function": In(FUNCTION_BITS),
            "row": In(_ROW_BITS),
            "look": In(1),
            "value": Out(CounterValue()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row_bits = (self.rows - 1).bit_length()
        depth = max(2, self.functions << row_bits)
        layout = _Word(count_bytes=self.count_bytes)
        mem: memory.Memory[Any, Any] = memory.Memory(shape=layout, depth=depth, init=[])
        m.submodules.memory = mem
        write = mem.write_port()
        read = mem.read_port()
        look = mem.read_port()

        def address(function: Any, row: Any) -> Any:
            # Rows to a power of two: the sum is a matter of wiring.
            return (function << row_bits) | row[:max(1, row_bits)] if row_bits else function

        # The period changes with each reset of the card, and is not reset by it.
        period = Signal(2, reset_less=True)
        booting = Signal(init=1)
        m.d.sync += booting.eq(0)
        with m.If(booting & ~ResetSignal()):
            m.d.sync += period.eq(period + 1)

        def now(word: Any, what: str) -> Any:
            """What a word is worth."""
            return Mux(word.period == period, word[what], 0)

        # One operation a cycle: an event, or else the next word of the sweep. Read, then write.
        event = self.events.p
        busy = Signal()
        place = Signal(range(depth), reset_less=True)
        more = Signal(LENGTH_BITS, reset_less=True)
        count = Signal(reset_less=True)
        sweeping = Signal(init=1)
        sweep = Signal(range(depth))
        word: Any = Signal(layout)
        last: Any = Signal(layout, reset_less=True)  # what was written in the cycle before
        again = Signal(reset_less=True)              # and is what this cycle should have read
        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(Mux(self.events.valid, address(event.function, event.row), sweep)),
            word.eq(Mux(again, last.as_value(), read.data.as_value())),
            write.en.eq(busy),
            write.addr.eq(place),
            write.data.events.eq(now(word, "events") + count),
            write.data.period.eq(period),
        ]
        m.d.sync += [
            busy.eq(self.events.valid | sweeping),
            place.eq(read.addr),
            more.eq(Mux(self.events.valid, event.bytes, 0)),
            count.eq(self.events.valid),
            last.eq(write.data),
            again.eq(busy & (place == read.addr)),
        ]
        with m.If(sweeping & ~self.events.valid):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == depth - 1):
                m.d.sync += sweeping.eq(0)

        m.d.comb += [
            look.en.eq(self.look),
            look.addr.eq(address(self.function, self.row)),
            self.value.events.eq(now(look.data, "events")),
        ]
        if self.count_bytes:
            m.d.comb += [
                write.data.bytes.eq(now(word, "bytes") + more),
                self.value.bytes.eq(now(look.data, "bytes")),
            ]
        return m


class Counters(wiring.Component):
    """All counters of the card, one bank a source (`hw.vf.regs.COUNTER_BANKS`).

    | Throughput: an event a cycle and bank. Latency of a look: 3 cycles.

    Parameters
    ----------
    functions
        1 to 256.

    Members
    -------
    events : Out({name of a bank: In(stream.Signature(CounterEvent(), always_ready=True))})
    bank : In(8)
    function : In(8)
    row : In(4)
    look : In(1)
        At most every third cycle.
    value : Out(CounterValue())
        From the third cycle after ``look`` on, until the next one. A counter that does not exist
        has counted nothing.
    """

    events: Any
    bank: Signal
    function: Signal
    row: Signal
    look: Signal
    value: Any

    def __init__(self, functions: int) -> None:
        self.functions = functions
        super().__init__({
            "events": Out(wiring.Signature({
                bank.name: In(stream.Signature(CounterEvent(), always_ready=True))
                for bank in COUNTER_BANKS})),
            "bank": In(8),
            "function": In(FUNCTION_BITS),
            "row": In(_ROW_BITS),
            "look": In(1),
            "value": Out(CounterValue()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        looked = Signal()
        value = Signal(CounterValue())
        m.d.sync += looked.eq(self.look)
        m.d.comb += self.value.eq(value)
        with m.If(looked):
            m.d.sync += value.eq(0)
        for number, bank in enumerate(COUNTER_BANKS):
            functions = self.functions if bank.of == "function" else 1
            counters = CounterBankMemory(functions, len(bank.counters),
                                         count_bytes=any(row.bytes for row in bank.counters))
            m.submodules[bank.name] = counters
            source = getattr(self.events, bank.name)
            exists = Signal()
            m.d.comb += [
                counters.events.valid.eq(source.valid),
                counters.events.payload.eq(source.payload),
                counters.function.eq(self.function if functions > 1 else 0),
                counters.row.eq(self.row),
                counters.look.eq(self.look),
                exists.eq((self.bank == number) & (self.row < len(bank.counters))
                          & (self.function < functions)),
            ]
            with m.If(looked & exists):
                m.d.sync += value.eq(counters.value)
        return m
