"""The management registers: the PF's BAR 0, made from the rows of `hw.vf.regs`."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.types import MmioAnswer, MmioRequest
from hw.stream.connect import connect_streams
from hw.stream.register import StreamRegister
from hw.vf.counters import CounterEvent, Counters
from hw.vf.faults import FaultLog
from hw.vf.regs import COUNTER_BANKS, REGISTERS, Register, register
from hw.virtio.moderation import ModerationLayout
from hw.virtio.types import FaultRecordLayout, PositionAnswerLayout, PositionRequestLayout

__all__ = ["Management"]


class Management(wiring.Component):
    """Answer the PF's management registers; keep the counters and the fault log; pass settings on.

    Accesses are of 32 bits; writes of single bytes write those alone. What no row of
    `hw.vf.regs.REGISTERS` names reads zero, and writing it has no effect.

    | Latency: 7 cycles from a request to its answer; 3 from a write to ``moderation``.
    | Throughput: an access every 7 cycles; a write that applies limits, or asks for a position,
      waits until what the one before it has asked for is done.

    Parameters
    ----------
    functions
        1 to 256.
    constants
        Values of the fields with source "constant" and no reset value of their own, by
        "register.field". All of them, and no others.
    fault_records
        Size of the fault log, 2 to 255.

    Members
    -------
    mmio : In(stream.Signature(MmioRequest()))
    answers : Out(stream.Signature(MmioAnswer()))
        One for each read, in order.
    events : Out({name of a bank: In(stream.Signature(CounterEvent(), always_ready=True))})
        What `Counters` counts, but for the faults: those come from ``log``.
    log : In(stream.Signature(FaultRecordLayout()))
        Always ready.
    moderation : Out(stream.Signature(ModerationLayout()))
        What was applied. The queue's number is as it was written: it may be none of the card's.
    positions : Out(stream.Signature(PositionRequestLayout()))
    position_answers : In(stream.Signature(PositionAnswerLayout()))
        To and from `QueuePositions`. Answers are always taken.
    link_up : In(1)
    """

    mmio: stream.Interface
    answers: stream.Interface
    events: Any
    log: stream.Interface
    moderation: stream.Interface
    positions: stream.Interface
    position_answers: stream.Interface
    link_up: Signal

    def __init__(self, functions: int, *, constants: dict[str, int],
                 fault_records: int = 64) -> None:
        if not 1 <= functions <= 256:
            raise ValueError(f"functions must be from 1 to 256, not {functions!r}")
        if not 2 <= fault_records <= 255:
            raise ValueError(f"fault_records must be from 2 to 255, not {fault_records!r}")
        wanted = {f"{row.name}.{field.name}": field.bits for row in REGISTERS
                  for field in row.fields if field.source == "constant" and field.reset is None}
        if wanted.keys() != constants.keys():
            raise ValueError(f"constants must be those of {', '.join(sorted(wanted))}, "
                             f"not {', '.join(sorted(constants))}")
        for name, value in constants.items():
            if not 0 <= value < 1 << wanted[name]:
                raise ValueError(f"{name} must have {wanted[name]} bits, not {value!r}")
        self.functions = functions
        self.constants = dict(constants)
        self.fault_records = fault_records
        super().__init__({
            "mmio": In(stream.Signature(MmioRequest())),
            "answers": Out(stream.Signature(MmioAnswer())),
            "events": Out(wiring.Signature({
                bank.name: In(stream.Signature(CounterEvent(), always_ready=True))
                for bank in COUNTER_BANKS if bank.name != "faults"})),
            "log": In(stream.Signature(FaultRecordLayout())),
            "moderation": Out(stream.Signature(ModerationLayout())),
            "positions": Out(stream.Signature(PositionRequestLayout())),
            "position_answers": In(stream.Signature(PositionAnswerLayout())),
            "link_up": In(1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one access, in order
        m = Module()
        m.submodules.arrival = arrival = StreamRegister(MmioRequest())
        m.submodules.faults = faults = FaultLog(self.fault_records)
        m.submodules.counters = counters = Counters(self.functions)
        connect_streams(m, flipped(self.mmio), arrival.i)
        m.d.comb += [
            self.log.ready.eq(1),
            faults.records.valid.eq(self.log.valid),
            faults.records.payload.eq(self.log.payload),
            counters.events.faults.valid.eq(self.log.valid),
            counters.events.faults.p.function.eq(self.log.p.function),
        ]
        for bank in COUNTER_BANKS:
            if bank.name != "faults":
                source = getattr(self.events, bank.name)
                target = getattr(counters.events, bank.name)
                m.d.comb += [target.valid.eq(source.valid), target.payload.eq(source.payload)]

        # The request at hand. First its register is chosen, one-hot, then it is read or written.
        request: Any = Signal(MmioRequest(), reset_less=True)
        chosen = Signal(len(REGISTERS), reset_less=True)
        reads = Signal()    # for one cycle, the register is chosen
        writes = Signal()
        found = Signal(32, reset_less=True)
        m.d.sync += chosen.eq(Cat(request.offset == row.offset for row in REGISTERS))

        def is_chosen(name: str) -> Value:
            return chosen[REGISTERS.index(register(name))]

        # What the hardware shows.
        cycles = Signal(64)
        cycles_high = Signal(32)
        stands: Any = Signal(PositionAnswerLayout())  # what came of the last command
        busy = Signal()
        m.d.sync += cycles.eq(cycles + 1)
        with m.If(reads & is_chosen("cycles_low")):
            m.d.sync += cycles_high.eq(cycles[32:])
        oldest = faults.oldest.p
        value = counters.value
        live: dict[str, Value] = {
            "status.link_up": self.link_up,
            "cycles_low.low": cycles[:32],
            "cycles_high.high": cycles_high,
            "fault_log.held": faults.held,
            "fault_lost.lost": faults.lost,
            "fault_who.function": oldest.function,
            "fault_who.reason": oldest.reason.as_value(),
            "fault_who.queue": oldest.queue,
            "fault_address_low.low": oldest.address[:32],
            "fault_address_high.high": oldest.address[32:],
            "counter_events_low.low": value.events[:32],
            "counter_events_high.high": value.events[32:],
            "counter_bytes_low.low": value.bytes[:32],
            "counter_bytes_high.high": value.bytes[32:],
            **{f"position_state.{name}": stands[name] for name in PositionAnswerLayout().members},
            "position_state.busy": busy,
        }

        # What the software has written.
        mask = Cat(bit.replicate(8) for bit in request.enable)
        kept: dict[str, Signal] = {}
        for row in REGISTERS:
            if any(field.access == "RW" for field in row.fields):
                kept[row.name] = word = Signal(32, name=row.name)
                with m.If(writes & is_chosen(row.name)):
                    m.d.sync += word.eq(word & ~mask | request.data & mask)

        select = register("counter_select")
        looks = Signal()
        m.d.sync += looks.eq(writes & is_chosen("counter_select"))
        for name, port in (("function", counters.function), ("counter", counters.row),
                           ("bank", counters.bank)):
            field = select.field(name)
            m.d.comb += port.eq(kept["counter_select"][field.low:field.low + field.bits])
        m.d.comb += [
            counters.look.eq(looks),
            faults.oldest.ready.eq(writes & is_chosen("fault_next")
                                   & request.enable[0] & request.data[0]),
        ]

        # Limits are applied as they are when that is written; they may be written again at once.
        applies = Signal()
        waits = Signal()  # for those applied before
        applied = Signal()
        settings: Any = Signal(ModerationLayout(), reset_less=True)
        limits = register("moderation_limits")
        m.d.comb += [
            applies.eq(writes & is_chosen("moderation_apply") & request.enable[0]
                       & request.data[0]),
            waits.eq(request.write & (is_chosen("moderation_apply") & applied
                                      | is_chosen("position_command") & busy)),
            self.moderation.valid.eq(applied),
            self.moderation.payload.eq(settings),
        ]
        with m.If(applies):
            m.d.sync += [
                applied.eq(1), settings.queue.eq(kept["moderation_queue"]),
                *(settings[field.name].eq(kept["moderation_limits"][field.low:])
                  for field in limits.fields),
            ]
        with m.Elif(self.moderation.ready):
            m.d.sync += applied.eq(0)

        # Of a position, what was written when it was asked for; likewise.
        asks = Signal()
        asked: Any = Signal(PositionRequestLayout(), reset_less=True)
        offers = Signal()
        m.d.comb += [
            asks.eq(writes & is_chosen("position_command") & request.enable[0]
                    & request.data[:2].any()),
            self.positions.valid.eq(offers),
            self.positions.payload.eq(asked),
            self.position_answers.ready.eq(1),
        ]
        with m.If(self.positions.ready):
            m.d.sync += offers.eq(0)
        with m.If(self.position_answers.valid):
            m.d.sync += [stands.eq(self.position_answers.payload), busy.eq(0)]
        with m.If(asks):
            m.d.sync += [
                offers.eq(1), busy.eq(1),
                asked.queue.eq(kept["position_queue"]),
                asked.position.eq(kept["position_load"]),
                asked.load.eq(request.data[1]),
            ]

        words = [Mux(chosen[n], self._word(row, live, kept), 0) for n, row in enumerate(REGISTERS)]
        m.d.comb += self.answers.p.data.eq(found)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += arrival.o.ready.eq(1)
                m.d.sync += request.eq(arrival.o.payload)
                with m.If(arrival.o.valid):
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.next = "ACT"
            with m.State("ACT"):
                m.d.comb += [reads.eq(~request.write), writes.eq(request.write & ~waits)]
                m.d.sync += found.eq(reduce(or_, words))
                with m.If(~request.write):
                    m.next = "ANSWER"
                with m.Elif(~waits):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                # The counters are looked up in the meantime of this and the states before ACT.
                m.next = "IDLE"
            with m.State("ANSWER"):
                m.d.comb += self.answers.valid.eq(1)
                with m.If(self.answers.ready):
                    m.next = "IDLE"
        return m

    def _word(self, row: Register, live: dict[str, Value], kept: dict[str, Signal]) -> Value:
        """What a register reads."""
        word: Value = Const(0, 32)
        for field in row.fields:
            place = slice(field.low, field.low + field.bits)
            if field.access == "WO":
                continue
            if field.source == "software":
                bits: Value = kept[row.name][place]
            elif field.source == "live":
                bits = live[f"{row.name}.{field.name}"]
            else:
                fixed = self.constants.get(f"{row.name}.{field.name}", field.reset)
                bits = Const(fixed or 0, field.bits)
            word = word | (bits[:field.bits] << field.low)
        return word[:32]
