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
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.types import (
    DoorbellLayout,
    FaultLayout,
    FaultRecordLayout,
    LifecycleReport,
    LifecycleReportLayout,
    LifecycleRequest,
    LifecycleRequestLayout,
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
    """Stop a queue, or, if not ``single``, the function whose first one it is."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "single": 1, "reset": 1})


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

    *Fault*: the queue stops at once; a record goes to the log and a report to the registers. It is
    reported before the stop that it falls into, if its engine keeps its obligation until the
    fault is taken.

    | Latency: 3 cycles from a start to its ``go``; a stop takes about 30 cycles a queue, and what
      work in flight and the engines take. A fault or a start is served every 3 to 5 cycles.
    | Storage: a place for each function in the queue of stops, so that no request has to wait; a
    |   bit a queue.

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
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.running = running = StreamArbiter(RunningLayout(), 3)
        m.submodules.reports = reports = StreamArbiter(LifecycleReportLayout(), 2)
        m.submodules.stops = stops = StreamQueue(_StopLayout(), max(2, self.functions))
        connect_streams(m, flipped(self.running), running.o)
        connect_streams(m, flipped(self.reports), reports.o)
        written = Signal()  # what the stop asked for is being written
        m.d.comb += written.eq(running.o.valid & running.o.ready & (running.source == _STOP))

        # Queues that were started, and not reset since: as memories are, it outlives a reset.
        mem: memory.Memory[Any, Any] = memory.Memory(shape=1, depth=self.numbers.total, init=[])
        m.submodules.started = mem
        started = mem.write_port()
        m.d.comb += started.addr.eq(running.i[_START].p.queue)

        fault_busy = Signal()
        self._start(m, stops, running.i[_START], started)
        self._fault(m, running.i[_FAULT], reports.i[0], fault_busy)
        self._stop(m, stops, running.i[_STOP], written, reports.i[1], fault_busy=fault_busy,
                   was_started=mem.read_port(), started=started)
        return m

    def _start(self, m: Module, stops: StreamQueue, running: stream.Interface,
               started: Any) -> None:
        """Serve requests: a start at once, a stop by putting it in the queue of stops."""
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
            running.p.queue.eq(queue),
            running.p.running.eq(1),
            running.p.modes.eq(modes),
            *(go.p.queue.eq(queue) for go in goes),
        ]
        with m.FSM(name="start"):
            with m.State("IDLE"):
                m.d.comb += [
                    stops.i.valid.eq(self.requests.valid & is_stop),
                    self.requests.ready.eq(Mux(is_stop, stops.i.ready, 1)),
                ]
                with m.If(self.requests.valid & ~is_stop):
                    m.d.sync += [
                        queue.eq(request.queue), modes.eq(request.modes),
                        kind.eq(numbers.kind(request.queue)),
                    ]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [running.valid.eq(1), started.data.eq(1), started.en.eq(1)]
                with m.If(running.ready):
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

    def _stop(self, m: Module, stops: StreamQueue,  # noqa: PLR0915  # one sequence
              running: stream.Interface, written: Value,
              report: stream.Interface, *, fault_busy: Signal, was_started: Any,
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
            self.query.p.queue.eq(queue),
            report.p.function.eq(function),
            report.p.kind.eq(LifecycleReport.STOPPED),
        ]
        for number, command in enumerate(self.commands):
            m.d.comb += [
                command.valid.eq(waiting[number]),
                command.p.queue.eq(queue),
                command.p.reset.eq(stop.reset),
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
                m.d.comb += forgets.eq(stop.reset & (waiting == 0))
                with m.If((waiting == 0) & ~starts):
                    m.d.sync += place.eq(place + 1)
                    m.next = "ASK"
                    with m.If(last):
                        m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += report.valid.eq(~fault_busy | reporting)
                m.d.sync += reporting.eq(report.valid & ~report.ready)
                with m.If(report.valid & report.ready):
                    m.next = "IDLE"
