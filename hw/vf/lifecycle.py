"""Start and stop of queues, by whole functions: one mechanism for resets, sleep and faults."""

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.stream.arbiter import StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.queue import StreamQueue
from hw.stream.types import FUNCTION_BITS, QUEUE_BITS
from hw.vf.positions import LoadedPositions
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.types import (
    DoorbellLayout,
    FaultLayout,
    FaultRecordLayout,
    LifecycleReport,
    LifecycleReportLayout,
    LifecycleRequest,
    LifecycleRequestLayout,
    PositionAnswerLayout,
    PositionRequestLayout,
    QueueCommandLayout,
    QueueLayout,
    RingModesLayout,
    RunningLayout,
)

__all__ = ["Lifecycle"]

_SERVED = {"receive": (1, 0, 0), "transmit": (0, 1, 0), "both": (1, 1, 0), "control": (0, 0, 1),
           "all": (1, 1, 1)}
"""Whether an engine serves receive queues, transmit queues, and control queues."""

_FAULT, _START, _STOP = range(3)
"""The three processes, as sources of `running`."""


class _StopLayout(data.StructLayout):
    """Stop a queue, or, if not ``single``, the function whose first one it is. ``load``: it does
    not run yet, and is to begin in these ``modes`` where it was loaded."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "single": 1, "reset": 1, "load": 1,
                          "modes": RingModesLayout()})


class _BeginLayout(data.StructLayout):
    """``queue`` stands where it was loaded: it may run, in ``modes``."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "modes": RingModesLayout()})


class Lifecycle(wiring.Component):
    """Let queues run, and stop them without a trace.

    ::

        requests ──┬─ START ─► running = 1 ─► go
                   └─ STOP ──► queue of stops ─► running = 0, all queues of the function, or one
                                ─► for each: until idle ─► commands to the engines ─► reports
        faults ──► running = 0 ─► log, reports

    Three processes, none of which waits for another: a start or a fault is served while a stop
    waits for its queues to drain. Stops are served one after another.

    *Stop*: first no queue of the function runs any more. Then, queue by queue, the control queue
    (`hw.virtio.queue_numbers`) after those of data, it waits until
    nothing is in flight (`hw.vf.obligations`; an engine counts itself in before it looks whether
    the queue runs, so whoever saw it running is counted). Then every engine that serves the queue
    is told to throw away what it holds of it, and, with a reset, where it was. A queue that was not
    started since its last reset has nothing to throw away, and is passed over. When all have done
    so, the stop is reported.

    *Load* (of a position, by the operator): of a queue that was not started since its last reset,
    the position is kept, until the driver resets it. When the queue starts, it takes its turn among
    the stops: the engines are told to throw away what they hold, as by a reset, and to begin at the
    position; then it runs. So its size and modes are known by then, whatever came first.

    *Fault*: the queue stops at once; a record goes to the log and a report to the registers. It is
    reported before the stop that it falls into, if its engine keeps its obligation until the
    fault is taken.

    | Latency: 5 cycles from a start to its ``go``; a stop takes about 30 cycles a queue, and what
      work in flight and the engines take. A fault or a start is served every 3 to 6 cycles.
    | Storage: a place for each function and queue in the queue of stops, so that no request has to
    |   wait; 18 bits a queue.

    Parameters
    ----------
    functions
        1 to 256.
    stride
        Data queues of a function; a power of two, 2 to 32.
    engines
        Which queues each engine behind ``commands`` serves: "receive", "transmit", "both" of these,
        "control" or "all". It is told of those alone.

    Members
    -------
    requests : In(stream.Signature(LifecycleRequestLayout()))
        Taken in bounded time, whether or not reports are. One stop of a function, or of a queue of
        it, at a time.
    reports : Out(stream.Signature(LifecycleReportLayout()))
    running : Out(stream.Signature(RunningLayout()))
        To `QueueContexts`, directly: what is taken there is what the engines see.
    receive_go, transmit_go, control_go : Out(stream.Signature(DoorbellLayout()))
        A queue that runs from now on: to be looked at once, without a kick. To work lists.
    query : Out(stream.Signature(QueueLayout()))
    idle : In(stream.Signature(1))
        To and from `Obligations`.
    commands : Out(stream.Signature(QueueCommandLayout())).array(len(engines))
        An engine's ready says that it is done.
    faults : In(stream.Signature(FaultLayout()))
    log : Out(stream.Signature(FaultRecordLayout()))
    positions : In(stream.Signature(PositionRequestLayout()))
    position_answers : Out(stream.Signature(PositionAnswerLayout()))
        Of queues that exist; one at a time. What was loaded, and whether the queue was started. (Of
        one that was, the position means nothing.)
    cleared : In(stream.Signature(QueueLayout(), always_ready=True))
        The registers have cleared a queue: what was loaded is void.
    """

    requests: stream.Interface
    reports: stream.Interface
    running: stream.Interface
    receive_go: stream.Interface
    transmit_go: stream.Interface
    control_go: stream.Interface
    query: stream.Interface
    idle: stream.Interface
    commands: Any
    faults: stream.Interface
    log: stream.Interface
    positions: stream.Interface
    position_answers: stream.Interface
    cleared: stream.Interface

    def __init__(self, functions: int, *, stride: int, engines: Sequence[str]) -> None:
        self.numbers = QueueNumbers(functions, stride)
        if not engines or not set(engines) <= set(_SERVED):
            raise ValueError(f"engines must be some of {', '.join(_SERVED)}, not {engines!r}")
        self.functions = functions
        self.stride = stride
        self.engines = tuple(engines)
        super().__init__({
            "requests": In(stream.Signature(LifecycleRequestLayout())),
            "reports": Out(stream.Signature(LifecycleReportLayout())),
            "running": Out(stream.Signature(RunningLayout())),
            "receive_go": Out(stream.Signature(DoorbellLayout())),
            "transmit_go": Out(stream.Signature(DoorbellLayout())),
            "control_go": Out(stream.Signature(DoorbellLayout())),
            "query": Out(stream.Signature(QueueLayout())),
            "idle": In(stream.Signature(1)),
            "commands": Out(stream.Signature(QueueCommandLayout())).array(len(engines)),
            "faults": In(stream.Signature(FaultLayout())),
            "log": Out(stream.Signature(FaultRecordLayout())),
            "positions": In(stream.Signature(PositionRequestLayout())),
            "position_answers": Out(stream.Signature(PositionAnswerLayout())),
            "cleared": In(stream.Signature(QueueLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.running = running = StreamArbiter(RunningLayout(), 3)
        m.submodules.reports = reports = StreamArbiter(LifecycleReportLayout(), 2)
        m.submodules.stops = stops = StreamQueue(
            _StopLayout(), self.functions + self.numbers.total)
        m.submodules.loaded = loaded = LoadedPositions(self.numbers.total)
        begins: Any = stream.Signature(_BeginLayout()).create()  # queues that may begin
        connect_streams(m, flipped(self.running), running.o)
        connect_streams(m, flipped(self.reports), reports.o)
        written = Signal()  # what the stop asked for is being written
        m.d.comb += written.eq(running.o.valid & running.o.ready & (running.source == _STOP))

        # Queues that were started, and not reset since: as memories are, it outlives a reset.
        mem: memory.Memory[Any, Any] = memory.Memory(shape=1, depth=self.numbers.total, init=[])
        m.submodules.started = mem
        started = mem.write_port()
        connect_streams(m, flipped(self.cleared), loaded.cleared)

        fault_busy = Signal()
        self._start(m, stops, running=running.i[_START], started=started, begins=begins,
                    loaded=loaded, was_started=mem.read_port())
        self._fault(m, running.i[_FAULT], reports.i[0], fault_busy)
        self._stop(m, stops, running=running.i[_STOP], written=written, report=reports.i[1],
                   begins=begins, loaded=loaded, fault_busy=fault_busy,
                   was_started=mem.read_port(), started=started)
        return m

    def _start(self, m: Module, stops: StreamQueue, *,  # noqa: PLR0915  # one sequence
               running: stream.Interface, started: Any, begins: Any, loaded: LoadedPositions,
               was_started: Any) -> None:
        """Serve requests: a start at once, a stop by putting it in the queue of stops.

        So is the start of a queue that was loaded: it comes back as one of ``begins``. Loads are
        served here too, so that each is either before a start or behind it.
        """
        request = self.requests.p
        numbers = self.numbers
        queue = Signal(QUEUE_BITS)
        kind = Signal(3)  # one bit set, as in `_SERVED`
        goes = (self.receive_go, self.transmit_go, self.control_go)
        modes = Signal(RingModesLayout(), reset_less=True)
        is_stop = Signal()
        m.d.comb += [
            is_stop.eq(request.kind != LifecycleRequest.START),
            # One stop of a function at a time: there is always room.
            stops.i.p.queue.eq(request.queue),
            stops.i.p.single.eq(request.kind == LifecycleRequest.RESET_QUEUE),
            stops.i.p.reset.eq(request.kind != LifecycleRequest.STOP),
            stops.i.p.modes.eq(modes),
            running.p.queue.eq(queue),
            running.p.running.eq(1),
            running.p.modes.eq(modes),
            *(go.p.queue.eq(queue) for go in goes),
        ]
        asked: Any = Signal(PositionRequestLayout(), reset_less=True)
        answer: Any = Signal(PositionAnswerLayout(), reset_less=True)
        manages = Signal()  # a request for a position is at hand, and no start
        begun = Signal()    # a start that comes back
        m.d.comb += [
            started.addr.eq(queue),
            was_started.addr.eq(queue),
            was_started.en.eq(1),
            loaded.queue.eq(queue),
            loaded.store.payload.eq(asked),
            self.position_answers.payload.eq(answer),
        ]
        with m.FSM(name="start"):
            with m.State("IDLE"):
                m.d.sync += [manages.eq(0), begun.eq(begins.valid)]
                with m.If(begins.valid):
                    m.d.sync += [
                        queue.eq(begins.p.queue), modes.eq(begins.p.modes),
                        kind.eq(numbers.kind(begins.p.queue)),
                    ]
                    m.next = "RUN"
                with m.Elif(self.requests.valid):
                    m.d.comb += [
                        stops.i.valid.eq(is_stop),
                        self.requests.ready.eq(Mux(is_stop, stops.i.ready, 1)),
                    ]
                    m.d.sync += [
                        queue.eq(request.queue), modes.eq(request.modes),
                        kind.eq(numbers.kind(request.queue)),
                    ]
                    with m.If(~is_stop):
                        m.next = "LOOK"
                with m.Elif(self.positions.valid):
                    m.d.comb += self.positions.ready.eq(1)
                    m.d.sync += [queue.eq(self.positions.p.queue),
                                 asked.eq(self.positions.payload), manages.eq(1)]
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += [
                    answer.position.eq(Mux(
                        asked.load, asked.position,
                        Mux(loaded.found.loaded, loaded.found.position, 0))),
                    answer.started.eq(was_started.data),
                    answer.loaded.eq(loaded.found.loaded | asked.load & ~was_started.data),
                    answer.refused.eq(asked.load & was_started.data),
                ]
                with m.If(manages):
                    m.next = "ANSWER"
                    with m.If(asked.load & ~was_started.data):
                        m.next = "LOAD"
                with m.Elif(loaded.found.loaded & ~was_started.data):
                    m.next = "PREPARE"
                with m.Else():
                    m.next = "RUN"
            with m.State("LOAD"):
                m.d.comb += loaded.store.valid.eq(1)
                with m.If(loaded.store.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.position_answers.valid.eq(1)
                with m.If(self.position_answers.ready):
                    m.next = "IDLE"
            with m.State("PREPARE"):
                # It counts as started from here on: what was loaded does not change any more, and a
                # reset that comes behind it is carried out.
                m.d.comb += [
                    started.data.eq(1), started.en.eq(1),
                    stops.i.p.queue.eq(queue), stops.i.p.single.eq(1), stops.i.p.reset.eq(1),
                    stops.i.p.load.eq(1), stops.i.valid.eq(1),
                ]
                with m.If(stops.i.ready):
                    m.next = "IDLE"
            with m.State("RUN"):
                m.d.comb += [running.valid.eq(1), started.data.eq(1), started.en.eq(1)]
                with m.If(running.ready):
                    m.d.comb += begins.ready.eq(begun)
                    m.next = "GO"  # written in the next cycle: whoever takes `go` sees it
            with m.State("GO"):
                m.d.comb += Cat(go.valid for go in goes).eq(kind)
                with m.If((kind & Cat(go.ready for go in goes)).any()):
                    m.next = "IDLE"

    def _fault(self, m: Module, running: stream.Interface, report: stream.Interface,
               fault_busy: Signal) -> None:
        """Stop the queue of a fault; tell the log and the registers."""
        fault: Any = Signal(FaultLayout(), reset_less=True)
        function = Signal(FUNCTION_BITS)
        logs = Signal()
        tells = Signal()
        m.d.comb += [
            function.eq(self.numbers.function(fault.queue)),
            running.p.queue.eq(fault.queue),
            self.log.p.function.eq(function),
            self.log.p.queue.eq(fault.queue),
            self.log.p.reason.eq(fault.reason),
            self.log.p.address.eq(fault.address),
            self.log.valid.eq(logs),
            report.p.function.eq(function),
            report.p.kind.eq(LifecycleReport.NEEDS_RESET),
            report.valid.eq(tells),
        ]
        with m.FSM(name="fault") as fsm:
            m.d.comb += fault_busy.eq(~fsm.ongoing("IDLE") | self.faults.valid)
            with m.State("IDLE"):
                m.d.comb += self.faults.ready.eq(1)
                m.d.sync += fault.eq(self.faults.payload)
                with m.If(self.faults.valid):
                    m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += running.valid.eq(1)
                with m.If(running.ready):
                    m.d.sync += [logs.eq(1), tells.eq(1)]
                    m.next = "TELL"
            with m.State("TELL"):
                with m.If(self.log.ready):
                    m.d.sync += logs.eq(0)
                with m.If(report.ready):
                    m.d.sync += tells.eq(0)
                with m.If(~logs & ~tells):
                    m.next = "IDLE"

    def _stop(self, m: Module, stops: StreamQueue, *,  # noqa: PLR0915  # one sequence
              running: stream.Interface, written: Value, report: stream.Interface, begins: Any,
              loaded: LoadedPositions, fault_busy: Signal, was_started: Any,
              started: Any) -> None:
        """Stop functions or single queues, one after another."""
        stop: Any = Signal(_StopLayout(), reset_less=True)
        numbers = self.numbers
        place = Signal(numbers.index_bits + 1)
        function = Signal(FUNCTION_BITS)
        control = Signal(QUEUE_BITS)  # the function's
        queue = Signal(QUEUE_BITS)
        waiting = Signal(len(self.engines))  # for those engines' ready
        receive, transmit, controls = (
            Cat(_SERVED[engine][kind] for engine in self.engines) for kind in range(3))
        m.d.comb += [
            queue.eq(numbers.at(function, place, control)),
            running.p.queue.eq(queue),
            running.p.prepares.eq(stop.load),
            running.p.modes.eq(stop.modes),
            begins.p.queue.eq(queue),
            begins.p.modes.eq(stop.modes),
            self.query.p.queue.eq(queue),
            report.p.function.eq(function),
            report.p.kind.eq(LifecycleReport.STOPPED),
        ]
        # Inside the card a packed ring's position has the lap in place of the wrap counter.
        position = Signal(16, reset_less=True)
        m.d.comb += loaded.stopping.eq(queue)
        m.d.sync += position.eq(Mux(
            stop.load, loaded.to_load.position ^ (stop.modes.ring_packed << 15), 0))
        for number, command in enumerate(self.commands):
            m.d.comb += [
                command.valid.eq(waiting[number]),
                command.p.queue.eq(queue),
                command.p.reset.eq(stop.reset),
                command.p.load.eq(stop.load),
                command.p.position.eq(position),
            ]
            with m.If(command.ready):
                m.d.sync += waiting[number].eq(0)
        starts = Signal()   # one that is started has the port
        forgets = Signal()
        m.d.comb += [
            was_started.addr.eq(queue),
            was_started.en.eq(1),
            starts.eq(started.data),
        ]
        with m.If(forgets & ~starts):
            m.d.comb += [started.addr.eq(queue), started.en.eq(1)]
        last = Signal()
        reporting = Signal()  # once offered it is not taken back
        m.d.comb += last.eq(stop.single | (place == self.stride))
        with m.FSM(name="stop"):
            with m.State("IDLE"):
                m.d.comb += stops.o.ready.eq(1)
                m.d.sync += [
                    stop.eq(stops.o.payload), place.eq(numbers.place(stops.o.p.queue)),
                    function.eq(numbers.function(stops.o.p.queue)),
                ]
                with m.If(stops.o.valid):
                    m.next = "NUMBER"
            with m.State("NUMBER"):
                m.d.sync += control.eq(numbers.control(function))
                m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += running.valid.eq(1)
                with m.If(running.ready):
                    m.next = "WRITTEN"
            with m.State("WRITTEN"):
                with m.If(written):
                    m.d.sync += place.eq(place + 1)
                    m.next = "CLOSE"
                    with m.If(last):
                        m.d.sync += place.eq(Mux(stop.single, place, 0))
                        m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.query.valid.eq(1)
                with m.If(self.query.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.idle.ready.eq(1)
                with m.If(self.idle.valid):
                    m.next = "ASK"
                    with m.If(self.idle.payload):
                        m.d.sync += waiting.eq(Mux(
                            was_started.data,
                            Mux(place[-1], controls, Mux(place[0], transmit, receive)), 0))
                        m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += forgets.eq(stop.reset & ~stop.load & (waiting == 0))
                with m.If((waiting == 0) & ~starts):
                    m.d.sync += place.eq(place + 1)
                    m.next = "ASK"
                    with m.If(stop.load):
                        m.d.sync += place.eq(place)
                        m.next = "BEGIN"
                    with m.Elif(last):
                        m.next = "REPORT"
            with m.State("BEGIN"):
                # Until it runs no other stop is begun: that may be its own.
                m.d.comb += begins.valid.eq(1)
                with m.If(begins.ready):
                    m.next = "IDLE"
            with m.State("REPORT"):
                m.d.comb += report.valid.eq(~fault_busy | reporting)
                m.d.sync += reporting.eq(report.valid & ~report.ready)
                with m.If(report.valid & report.ready):
                    m.next = "IDLE"
