"""The virtio registers of all functions: one sequencer, and one word of memory a function."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.bar_map import (
    COMMON_BYTES,
    COMMON_OFFSET,
    DEVICE_BYTES,
    DEVICE_OFFSET,
    ISR_OFFSET,
    NOTIFY_BYTES,
    NOTIFY_OFFSET,
)
from hw.pcie.types import InterruptLayout, MmioAnswer, MmioRequest
from hw.stream.connect import connect_streams
from hw.stream.queue import StreamQueue
from hw.stream.register import SkidRegister
from hw.stream.types import FUNCTION_BITS, QUEUE_BITS
from hw.virtio.common_config import CommonConfig, check_common
from hw.virtio.control_commands import ControlFeaturesSignature
from hw.virtio.device_config import DeviceConfig, check_device
from hw.virtio.doorbells import Doorbells
from hw.virtio.function_state import FunctionStateLayout
from hw.virtio.isr import InterruptStatus
from hw.virtio.layouts import FEATURE_BITS, NO_VECTOR, Status
from hw.virtio.queue_numbers import QueueNumbers
from hw.virtio.types import (
    DoorbellLayout,
    FunctionLayout,
    LifecycleReport,
    LifecycleReportLayout,
    LifecycleRequest,
    LifecycleRequestLayout,
    QueueConfigSignature,
    QueueWriteLayout,
    RingModesLayout,
)
from hw.virtio.watcher import FunctionWatcher

__all__ = ["Registers"]

_NEEDS_RESET = Status.DEVICE_NEEDS_RESET.value
_SUSPEND = Status.SUSPEND.value
_DRIVER_OK = Status.DRIVER_OK.value


class _Task(enum.Enum, shape=3):
    """What the sequencer is at."""

    SETTLE = 0     # nothing, once after a reset of the card
    ACCESS = 1     # one dword of MMIO
    REPORT = 2     # the lifecycle has stopped a function, or met a fault
    FLR = 3        # a function-level reset begins
    LEVELS = 4     # the link or the power state of a function has changed
    INTERRUPT = 5  # a configuration interrupt can leave


class Registers(wiring.Component):
    """Serve the virtio structures of every function (BAR 2), and what they set in motion.

    ::

        mmio ──► is it a doorbell? ──► Doorbells ──► receive, transmit, control
                     │ no                  ▲ roles
                     ▼                     ┌──► answers
        reports ──► sequencer: state of ───┼──► writes (QueueContexts)
        flr ──────► the function in, ──────┼──► requests (Lifecycle)
        levels ───► one task, state out ───┼──► interrupts
                                           └──► flr_done

    Tasks come one after another, each on the whole state of one function, so that none sees half of
    another. None waits for a queue to drain: a stop is asked for, the state notes it, and the
    lifecycle's report is a task of its own. So the registers of every function, that one included,
    answer while it is being stopped. MMIO and the other tasks take turns.

    *Reset* (status 0, or a function-level reset): a stop with reset; when it is reported, all of
    the function's registers take their reset values. Until then device_status reads as it was and
    writes have no effect. A reset of a function whose status is 0 is done at once.

    *D3hot*: a stop without reset on entry; on return the enabled queues are started again. Whatever
    comes between, one stop of a function is under way at a time, and what is still wanted when it
    ends is asked for then.

    *Suspension*: the same stop, asked for by the driver (SUSPEND). When it is reported,
    device_status shows SUSPEND instead of DRIVER_OK (CORE-SUSP-10 to 12), but for a function that
    met a fault meanwhile: that one shows DEVICE_NEEDS_RESET (CORE-SUSP-08). Until the driver writes
    DRIVER_OK again, which starts the enabled queues, no configuration interrupt leaves, and the
    link is shown as it was (CORE-SUSP-05 to 07, 09). A function that was asleep and suspended goes
    on when it is neither.

    *Configuration interrupt*: the ISR bit at once; the interrupt when the function is awake.

    | Latency: 9 cycles from an access to its answer. Throughput: an access every 11 cycles (one
      that starts queues: 2 more for each); a doorbell a cycle, but for those behind an access that
      waits for its turn.
    | Storage: about 290 bits a function, in memory. After a reset of the card nothing is accepted
      until all of it and the queue contexts are at their reset values.

    Parameters
    ----------
    functions
        The PF and its VFs, 1 to 256.
    stride
        Data queues of a function; a power of two, 2 to 32. Each has a control queue besides.
    queue_size_max
        Largest size of a queue and its size after reset, a power of two.
    vectors
        Entries of a function's MSI-X table, 1 to 2048.
    offered_physical, offered_virtual
        The feature bits that the PF and the VFs offer, as numbers (`hw.virtio.features`).
    mac
        MAC address of function 0; function f has that plus f.
    mtu
        Largest payload of a frame in bytes, 68 to 65535.
    link_mbps
        Speed of the wire in Mbit/s.

    Members
    -------
    mmio : In(stream.Signature(MmioRequest()))
        Accesses to BAR 2, of functions that exist.
    answers : Out(stream.Signature(MmioAnswer()))
        One for each read, in order.
    receive_doorbells, transmit_doorbells, control_doorbells : Out(streams of DoorbellLayout())
    bad_doorbells : Out(stream.Signature(FunctionLayout()))
        As of `Doorbells`.
    config : Out(QueueConfigSignature())
    writes : Out(stream.Signature(QueueWriteLayout()))
        To `QueueContexts`.
    requests : Out(stream.Signature(LifecycleRequestLayout()))
    reports : In(stream.Signature(LifecycleReportLayout()))
        To and from the lifecycle. A request must be accepted in bounded time whether or not a
        report is.
    flr : In(stream.Signature(8))
    flr_done : Out(stream.Signature(8))
        From and to the configuration space: one ``flr_done`` for each function that was named,
        however often it was named meanwhile.
    features : In(ControlFeaturesSignature())
        What a function's driver negotiated, for its control queue.
    resets : Out(stream.Signature(FunctionLayout(), always_ready=True))
        A reset of the function has been carried out: nothing of its queues is in flight, and what
        its driver asked for by the control queue is void. (Function 0 also after one of the card.)
    sleep : In(functions)
        One bit a function: it is in D3hot.
    link_up : In(1)
    interrupts : Out(stream.Signature(InterruptLayout()))
        Configuration interrupts; one of a function does not wait when this stalls: it stands in a
        list.
    queue_interrupts : In(stream.Signature(FunctionLayout()))
        A queue of the function was used: sets bit 0 of its ISR status. Ready within 2 cycles.
    interrupt_status : Out(functions)
        The Interrupt Status bits of the configuration space, for when MSI-X is disabled: the PF's
        is set while its ISR status is not 0, a VF's is always 0 (SR-IOV).
    """

    mmio: stream.Interface
    answers: stream.Interface
    receive_doorbells: stream.Interface
    transmit_doorbells: stream.Interface
    control_doorbells: stream.Interface
    bad_doorbells: stream.Interface
    config: Any
    writes: stream.Interface
    requests: stream.Interface
    reports: stream.Interface
    flr: stream.Interface
    flr_done: stream.Interface
    resets: stream.Interface
    features: Any
    sleep: Signal
    link_up: Signal
    interrupts: stream.Interface
    queue_interrupts: stream.Interface
    interrupt_status: Signal

    def __init__(self, functions: int, *, stride: int, queue_size_max: int, vectors: int,
                 offered_physical: int, offered_virtual: int, mac: int, mtu: int,
                 link_mbps: int) -> None:
        self.numbers = QueueNumbers(functions, stride)
        check_common(vectors=vectors, offered=(offered_physical, offered_virtual))
        check_device(mac=mac, mtu=mtu, link_mbps=link_mbps)
        self.functions = functions
        self.stride = stride
        self.queue_size_max = queue_size_max
        self.vectors = vectors
        self.offered_physical = offered_physical
        self.offered_virtual = offered_virtual
        self.mac = mac
        self.mtu = mtu
        self.link_mbps = link_mbps
        super().__init__({
            "mmio": In(stream.Signature(MmioRequest())),
            "answers": Out(stream.Signature(MmioAnswer())),
            "receive_doorbells": Out(stream.Signature(DoorbellLayout())),
            "transmit_doorbells": Out(stream.Signature(DoorbellLayout())),
            "control_doorbells": Out(stream.Signature(DoorbellLayout())),
            "bad_doorbells": Out(stream.Signature(FunctionLayout())),
            "config": Out(QueueConfigSignature()),
            "writes": Out(stream.Signature(QueueWriteLayout())),
            "requests": Out(stream.Signature(LifecycleRequestLayout())),
            "reports": In(stream.Signature(LifecycleReportLayout())),
            "flr": In(stream.Signature(FUNCTION_BITS)),
            "flr_done": Out(stream.Signature(FUNCTION_BITS)),
            "resets": Out(stream.Signature(FunctionLayout(), always_ready=True)),
            "features": In(ControlFeaturesSignature()),
            "sleep": In(functions),
            "link_up": In(1),
            "interrupts": Out(stream.Signature(InterruptLayout())),
            "queue_interrupts": In(stream.Signature(FunctionLayout())),
            "interrupt_status": Out(functions),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one sequencer, in order
        m = Module()
        numbers = self.numbers
        m.submodules.common = common = CommonConfig(
            numbers, queue_size_max=self.queue_size_max, vectors=self.vectors,
            offered_physical=self.offered_physical, offered_virtual=self.offered_virtual)
        m.submodules.device = device = DeviceConfig(
            offered=self.offered_physical, mac=self.mac, mtu=self.mtu, link_mbps=self.link_mbps,
            pairs=self.stride // 2)
        m.submodules.doorbells = doorbells = Doorbells(numbers)
        m.submodules.arrival = arrival = SkidRegister(MmioRequest())
        m.submodules.isr = isr = InterruptStatus(self.functions)
        m.submodules.watcher = watcher = FunctionWatcher(self.functions)
        # A function stands in it at most once (`listed`), so it is never full.
        m.submodules.list = interrupt_list = StreamQueue(FunctionLayout(), max(2, self.functions))
        connect_streams(m, flipped(self.mmio), arrival.i)
        connect_streams(m, flipped(self.receive_doorbells), doorbells.receive)
        connect_streams(m, flipped(self.transmit_doorbells), doorbells.transmit)
        connect_streams(m, flipped(self.control_doorbells), doorbells.control)
        connect_streams(m, flipped(self.bad_doorbells), doorbells.bad)
        connect_streams(m, flipped(self.queue_interrupts), isr.queue)
        m.d.comb += [
            watcher.sleep.eq(self.sleep),
            watcher.link_up.eq(self.link_up),
            self.interrupt_status.eq(isr.physical),
        ]

        depth = max(2, self.functions)
        layout = FunctionStateLayout(self.stride)
        mem: memory.Memory[Any, Any] = memory.Memory(shape=layout, depth=depth, init=[])
        m.submodules.states = mem
        store = mem.write_port()
        load = mem.read_port()

        # The task at hand.
        task = Signal(_Task)
        function = Signal(FUNCTION_BITS)
        request: Any = Signal(MmioRequest(), reset_less=True)
        report = Signal(LifecycleReport, reset_less=True)
        levels: Any = Signal.like(watcher.changes.payload, reset_less=True)
        state: Any = Signal(layout, reset_less=True)
        m.d.comb += [
            load.addr.eq(function),
            store.addr.eq(function),
            store.data.eq(state),
        ]

        # Where an access falls. Doorbells have their own way.
        page = arrival.o.p.offset[12:]
        is_doorbell = Signal()
        m.d.comb += [
            is_doorbell.eq(arrival.o.p.write & (page == NOTIFY_OFFSET >> 12)),
            doorbells.mmio.payload.eq(arrival.o.payload),
            doorbells.mmio.valid.eq(arrival.o.valid & is_doorbell),
        ]
        assert (COMMON_BYTES, DEVICE_BYTES, NOTIFY_BYTES) == (64, 64, 4096)
        in_common = Signal(reset_less=True)
        in_isr = Signal(reset_less=True)
        in_device = Signal(reset_less=True)
        m.d.sync += [
            in_common.eq(request.offset[6:] == COMMON_OFFSET >> 6),
            in_isr.eq(request.offset == ISR_OFFSET),
            in_device.eq(request.offset[6:] == DEVICE_OFFSET >> 6),
        ]
        is_access = Signal()
        m.d.comb += [
            is_access.eq(task == _Task.ACCESS),
            common.function.eq(function),
            common.dword.eq(request.offset[2:6]),
            common.enable.eq(Mux(request.write & is_access & in_common, request.enable, 0)),
            common.data.eq(request.data),
            common.state.eq(state),
            common.config.eq(self.config.config),
            self.config.queue.eq(common.queue),
            doorbells.roles.p.function.eq(function),
            doorbells.roles.p.roles.eq(common.roles),
            doorbells.roles.valid.eq(store.en),
            doorbells.features.function.eq(self.features.function),
            doorbells.features.enable.eq(self.features.enable),
            self.features.mq.eq(doorbells.features.mq),
            device.function.eq(function),
            device.dword.eq(request.offset[2:6]),
            device.link_up.eq(state.link),
            isr.function.eq(function),
        ]

        # What a task leaves to be done, each of which may have to wait for its consumer.
        answer = Signal(32, reset_less=True)
        answers = Signal()
        queue_write: Any = Signal(QueueWriteLayout(), reset_less=True)
        queue_writes = Signal()
        clears = Signal()                  # reset values into all queues of the function
        starts = Signal(self.stride + 1)   # places of queues that are still to be started
        stops = Signal()
        stop_kind = Signal(LifecycleRequest, reset_less=True)
        raises = Signal()                  # the ISR bit is to be set
        lists = Signal()                   # the function joins the list of interrupts
        ends_flr = Signal()
        clear_place = Signal(numbers.index_bits + 1)
        clear_last = Signal.like(clear_place, init=self.stride)
        next_reset = Signal.like(clear_place)  # of the first queue that is to be reset
        start_place = Signal.like(clear_place)
        stop_place = Signal.like(clear_place)
        control = Signal(QUEUE_BITS, reset_less=True)  # the function's, long before it is needed
        start_now = Signal()
        # Of the state.
        halts = Signal()                   # its queues are not to run
        suspended = Signal()               # it is shown to be
        may_interrupt = Signal()
        follows = Signal()                 # the link has changed, and that may be shown
        listens = Signal()                 # its driver is to be told of that
        idle = Signal()                    # nothing of it is left
        m.d.comb += idle.eq(~Cat(answers, queue_writes, clears, starts, stops, raises, lists,
                                 ends_flr).any())

        vector = Signal(16, reset_less=True)
        vector_function = Signal(FUNCTION_BITS, reset_less=True)
        vector_waits = Signal()
        m.d.comb += [
            self.interrupts.valid.eq(vector_waits),
            self.interrupts.p.function.eq(vector_function),
            self.interrupts.p.vector.eq(vector),
        ]
        with m.If(self.interrupts.ready):
            m.d.sync += vector_waits.eq(0)

        # Whose turn it is. A function that has been reset is silent, so the end of a stop waits for
        # an interrupt that is leaving.
        report_can = Signal()
        interrupt_can = Signal()
        event = Signal()
        accesses_next = Signal()  # the last task was none
        access = Signal()
        m.d.comb += [
            report_can.eq(self.reports.valid
                          & ~(vector_waits & (self.reports.p.kind == LifecycleReport.STOPPED))),
            interrupt_can.eq(interrupt_list.o.valid & ~vector_waits),
            event.eq(report_can | self.flr.valid | watcher.changes.valid | interrupt_can),
            access.eq(arrival.o.valid & ~is_doorbell & (accesses_next | ~event)),
        ]
        m.d.comb += arrival.o.ready.eq(is_doorbell & doorbells.mmio.ready)

        with m.FSM():
            with m.State("SWEEP"):
                # Every function at its reset values; memories keep what they hold over a reset.
                m.d.comb += [store.data.eq(layout.fresh()), store.en.eq(1),
                             doorbells.roles.p.roles.as_value().eq(0)]
                m.d.sync += function.eq(function + 1)
                with m.If(function == self.functions - 1):
                    # One clearing of queues: it waits until the queue contexts have been swept.
                    m.d.sync += [function.eq(0), clears.eq(1)]
                    m.next = "EFFECTS"

            with m.State("IDLE"):
                m.d.sync += accesses_next.eq(~access)
                with m.If(access):
                    m.d.comb += arrival.o.ready.eq(1)
                    m.d.sync += [
                        task.eq(_Task.ACCESS),
                        function.eq(arrival.o.p.function),
                        request.eq(arrival.o.payload),
                    ]
                    m.next = "FETCH"
                with m.Elif(report_can):
                    m.d.comb += self.reports.ready.eq(1)
                    m.d.sync += [
                        task.eq(_Task.REPORT),
                        function.eq(self.reports.p.function),
                        report.eq(self.reports.p.kind),
                    ]
                    m.next = "FETCH"
                with m.Elif(self.flr.valid):
                    m.d.comb += self.flr.ready.eq(1)
                    m.d.sync += [task.eq(_Task.FLR), function.eq(self.flr.payload)]
                    m.next = "FETCH"
                with m.Elif(watcher.changes.valid):
                    m.d.comb += watcher.changes.ready.eq(1)
                    m.d.sync += [
                        task.eq(_Task.LEVELS),
                        function.eq(watcher.changes.p.function),
                        levels.eq(watcher.changes.payload),
                    ]
                    m.next = "FETCH"
                with m.Elif(interrupt_can):
                    m.d.comb += interrupt_list.o.ready.eq(1)
                    m.d.sync += [
                        task.eq(_Task.INTERRUPT),
                        function.eq(interrupt_list.o.p.function),
                    ]
                    m.next = "FETCH"

            with m.State("FETCH"):
                m.d.comb += load.en.eq(1)
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += state.eq(load.data)
                m.next = "SELECT"
            with m.State("SELECT"):
                m.next = "LOOK-UP"
            with m.State("LOOK-UP"):
                m.d.comb += [
                    self.config.enable.eq(1),
                    isr.take.eq(is_access & in_isr & ~request.write & request.enable[0]),
                ]
                m.next = "MERGE"
            with m.State("MERGE"):
                m.d.sync += answer.eq(Mux(in_isr & request.enable[0], isr.bits, 0))
                m.next = "ACT"
            with m.State("ACT"):
                m.next = "DECIDE"
                with m.Switch(task):
                    with m.Case(_Task.ACCESS):
                        m.d.sync += [
                            answers.eq(~request.write),
                            state.eq(common.after),
                            queue_write.eq(common.write),
                            queue_writes.eq(common.write.enable.any()),
                            starts.eq(common.starts),
                        ]
                        with m.If(in_common):
                            m.d.sync += answer.eq(common.found)
                        with m.Elif(in_device):
                            m.d.sync += answer.eq(device.data)
                        with m.If(common.clears):
                            self._reset(m, state)
                            m.d.sync += clears.eq(1)
                    with m.Case(_Task.REPORT):
                        with m.If(report == LifecycleReport.NEEDS_RESET):
                            # A fault that is older than the last reset is no concern of the driver.
                            with m.If((state.status != 0) & (state.status & _NEEDS_RESET == 0)
                                      & ~state.want_reset):
                                m.d.sync += state.status.eq(state.status | _NEEDS_RESET)
                                with m.If(state.status & _DRIVER_OK != 0):
                                    m.d.sync += [state.due.eq(1), raises.eq(1)]
                        with m.Else():
                            m.d.sync += [state.stop_busy.eq(0), state.stop_single.eq(0)]
                            with m.If(state.stop_single):
                                m.d.sync += [
                                    state.enabled.bit_select(state.stop_place, 1).eq(0),
                                    state.resetting.bit_select(state.stop_place, 1).eq(0),
                                    clears.eq(1), clear_place.eq(state.stop_place),
                                    clear_last.eq(state.stop_place),
                                ]
                            with m.Elif(state.stop_reset):
                                self._reset(m, state)
                                m.d.sync += [
                                    clears.eq(1), ends_flr.eq(state.want_flr),
                                    # Nothing runs: a sleeping function need not be stopped again.
                                    state.quiet.eq(state.asleep),
                                ]
                    with m.Case(_Task.FLR):
                        m.d.sync += [state.want_reset.eq(1), state.want_flr.eq(1)]
                    with m.Case(_Task.LEVELS):
                        m.d.sync += [state.link_now.eq(levels.link), state.asleep.eq(levels.asleep)]
                    with m.Case(_Task.INTERRUPT):
                        m.d.sync += state.listed.eq(0)
                        with m.If(may_interrupt):
                            m.d.sync += [
                                state.due.eq(0),
                                vector.eq(state.config_vector),
                                vector_function.eq(function),
                                vector_waits.eq(state.due & (state.config_vector != NO_VECTOR)),
                            ]

            with m.State("DECIDE"):
                # What the state now asks for, whichever task brought it there.
                m.next = "STORE"
                with m.If(~state.stop_busy):
                    with m.If(state.want_reset):
                        m.d.sync += [
                            stops.eq(1), stop_kind.eq(LifecycleRequest.RESET),
                            state.stop_busy.eq(1), state.stop_reset.eq(1),
                        ]
                    with m.Elif(halts & ~state.quiet):
                        m.d.sync += [
                            stops.eq(1), stop_kind.eq(LifecycleRequest.STOP),
                            state.stop_busy.eq(1), state.stop_reset.eq(0), state.quiet.eq(1),
                        ]
                    with m.Elif(state.resetting.any()):
                        m.d.sync += [
                            stops.eq(1), stop_kind.eq(LifecycleRequest.RESET_QUEUE),
                            state.stop_busy.eq(1), state.stop_reset.eq(0),
                            state.stop_single.eq(1), state.stop_place.eq(next_reset),
                        ]
                    with m.Elif(~halts & state.quiet):
                        m.d.sync += state.quiet.eq(0)
                        with m.If(state.status & _DRIVER_OK != 0):
                            m.d.sync += starts.eq(state.enabled)
                    with m.Elif(state.want_suspend & (state.status & _NEEDS_RESET == 0)):
                        m.d.sync += state.status.eq(
                            state.status & (0xFF - _DRIVER_OK) | _SUSPEND)
                # Nothing starts in a function that rests or is about to be reset.
                with m.If(state.want_reset | halts | (state.quiet & state.stop_busy)
                          | (state.status & _NEEDS_RESET != 0)):
                    m.d.sync += starts.eq(0)
                with m.If(follows):
                    m.d.sync += [state.link.eq(state.link_now),
                                 state.generation.eq(state.generation + 1)]
                with m.If(follows & listens):
                    m.d.sync += [state.due.eq(1), raises.eq(1)]
                with m.If((state.due | follows & listens) & ~state.listed & may_interrupt):
                    m.d.sync += [state.listed.eq(1), lists.eq(1)]
            with m.State("STORE"):
                m.d.comb += store.en.eq(1)
                m.next = "EFFECTS"
            with m.State("EFFECTS"):
                m.d.comb += [
                    self.answers.valid.eq(answers),
                    self.writes.valid.eq(clears | queue_writes),
                    isr.config.valid.eq(raises),
                    # In the ISR before in an interrupt; cleared before told to be.
                    interrupt_list.i.valid.eq(lists & ~raises),
                    self.flr_done.valid.eq(ends_flr & ~clears),
                    self.requests.valid.eq(stops | start_now),
                ]
                # With a whole function, not with a single queue (of which none is first and last).
                with m.If(clears & (clear_last == self.stride) & (clear_place == 0)):
                    m.d.comb += [isr.take.eq(1), self.resets.valid.eq(1)]
                with m.If(self.answers.ready):
                    m.d.sync += answers.eq(0)
                with m.If(self.writes.ready):
                    m.d.sync += queue_writes.eq(0)
                    with m.If(clears):
                        m.d.sync += clear_place.eq(clear_place + 1)
                        with m.If(clear_place == clear_last):
                            m.d.sync += clears.eq(0)
                with m.If(isr.config.ready):
                    m.d.sync += raises.eq(0)
                with m.If(interrupt_list.i.ready & ~raises):
                    m.d.sync += lists.eq(0)
                with m.If(self.flr_done.ready & ~clears):
                    m.d.sync += ends_flr.eq(0)
                with m.If(self.requests.ready):
                    m.d.sync += stops.eq(0)
                with m.If(~start_now | self.requests.ready):
                    m.d.sync += [starts.bit_select(start_place, 1).eq(0),
                                 start_place.eq(start_place + 1)]
                with m.If(idle):
                    m.d.sync += [start_place.eq(0), clear_place.eq(0),
                                 clear_last.eq(self.stride)]
                    m.next = "IDLE"

        m.d.comb += [
            halts.eq(state.asleep | state.want_suspend),
            suspended.eq(state.status & _SUSPEND != 0),
            may_interrupt.eq(~state.asleep & ~suspended),
            follows.eq((state.link != state.link_now) & ~suspended),
            listens.eq(state.driver_features[FEATURE_BITS["STATUS"]]
                       & (state.status & _DRIVER_OK != 0) & ~state.want_reset),
        ]
        m.d.sync += control.eq(numbers.control(function))
        for n in reversed(range(self.stride + 1)):
            with m.If(state.resetting[n]):
                m.d.comb += next_reset.eq(n)
        m.d.comb += [
            self.answers.p.data.eq(answer),
            self.writes.payload.eq(queue_write),
            isr.config.p.function.eq(function),
            interrupt_list.i.p.function.eq(function),
            self.flr_done.payload.eq(function),
            start_now.eq(starts.bit_select(start_place, 1)),
            self.requests.p.kind.eq(Mux(stops, stop_kind, LifecycleRequest.START)),
            stop_place.eq(Mux(stop_kind == LifecycleRequest.RESET_QUEUE, state.stop_place, 0)),
            self.requests.p.queue.eq(
                numbers.at(function, Mux(stops, stop_place, start_place), control)),
            self.resets.p.function.eq(function),
            *(self.requests.p.modes[mode].eq(state.driver_features[FEATURE_BITS[mode.upper()]])
              for mode in RingModesLayout().members
              if self.offered_physical >> FEATURE_BITS[mode.upper()] & 1),
        ]
        with m.If(clears):
            m.d.comb += [
                self.writes.p.queue.eq(numbers.at(function, clear_place, control)),
                self.writes.p.clear.eq(1),
            ]
        return m

    def _reset(self, m: Module, state: Any) -> None:
        """What the driver wrote goes; where the card itself stands remains."""
        m.d.sync += [
            state.device_feature_select.eq(0),
            state.driver_feature_select.eq(0),
            state.driver_features.eq(0),
            state.config_vector.eq(NO_VECTOR),
            state.queue_select.eq(0),
            state.status.eq(0),
            state.enabled.eq(0),
            state.resetting.eq(0),
            state.want_reset.eq(0),
            state.want_suspend.eq(0),
            state.want_flr.eq(0),
            state.due.eq(0),
        ]
