"""What the benches of the registers share: a host on one side, a lifecycle on the other."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import InterruptLayout, MmioAnswer, MmioRequest
from hw.virtio.types import (
    DoorbellLayout,
    FunctionLayout,
    LifecycleReport,
    LifecycleReportLayout,
    LifecycleRequest,
    LifecycleRequestLayout,
    QueueConfigLayout,
    RunningLayout,
)
from tb.stream import (
    Fields,
    StreamMonitor,
    StreamSink,
    StreamSource,
    always,
    cycles,
    pace,
    reset,
)
from tests.unit.queue_plan import QueuePlan

FUNCTIONS = int(os.environ["RINGLET_FUNCTIONS"])
STRIDE = int(os.environ["RINGLET_STRIDE"])
SIZE_MAX = int(os.environ["RINGLET_SIZE_MAX"])
VECTORS = int(os.environ["RINGLET_VECTORS"])
OFFERED = [int(os.environ["RINGLET_OFFERED_PHYSICAL"])]
OFFERED += [int(os.environ["RINGLET_OFFERED_VIRTUAL"])] * (FUNCTIONS - 1)
MAC = int(os.environ["RINGLET_MAC"])
MTU = int(os.environ["RINGLET_MTU"])
MBPS = int(os.environ["RINGLET_MBPS"])
PLAN = QueuePlan(FUNCTIONS, STRIDE)

NONE = 0xFFFF
VERSION_1, RING_RESET, RING_PACKED = 1 << 32, 1 << 40, 1 << 34
CTRL_VQ, MQ = 1 << 17, 1 << 22
SUSPENSION = 1 << 43  # the feature
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, SUSPEND, NEEDS_RESET, FAILED = 1, 2, 4, 8, 16, 64, 128
NEGOTIATING = ACKNOWLEDGE | DRIVER

# The standard's structures, written down once more (4.1.4.3): offset, bytes.
COMMON = {
    "device_feature_select": (0, 4), "device_feature": (4, 4), "driver_feature_select": (8, 4),
    "driver_feature": (12, 4), "config_msix_vector": (16, 2), "num_queues": (18, 2),
    "device_status": (20, 1), "config_generation": (21, 1), "queue_select": (22, 2),
    "queue_size": (24, 2), "queue_msix_vector": (26, 2), "queue_enable": (28, 2),
    "queue_notify_off": (30, 2), "queue_desc_lo": (32, 4), "queue_desc_hi": (36, 4),
    "queue_driver_lo": (40, 4), "queue_driver_hi": (44, 4), "queue_device_lo": (48, 4),
    "queue_device_hi": (52, 4), "queue_notif_config_data": (56, 2), "queue_reset": (58, 2),
    "admin_queue_index": (60, 2), "admin_queue_num": (62, 2),
}
ISR, DEVICE, NOTIFY = 0x1000, 0x2000, 0x4000
ADDRESSES = ("desc", "driver", "device")


def queues_of(function: int, features: int) -> dict[int, int]:
    """Give the queues of a function with ``features`` (5.1.2): index, and number of the card."""
    multi = features & CTRL_VQ and features & MQ
    numbers = PLAN.data_of(function)[:STRIDE if multi else 2]
    if features & CTRL_VQ:
        numbers.append(PLAN.control_of(function))
    return dict(enumerate(numbers))


class Host:
    """The card's surroundings: who reads and writes, and a lifecycle that takes its time."""

    def __init__(self, dut: Any, *, stalls: bool = False) -> None:
        self.dut = dut
        self.edge = RisingEdge(dut.clk)
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.stalls = stalls
        dut.sleep.value = 0
        dut.link_up.value = 0
        dut.port__enable.value = 0
        dut.port__queue.value = 0
        self.mmio = StreamSource(dut, "mmio", MmioRequest(), pace(stalls, 1))
        self.answers = StreamSink(dut, "answers", MmioAnswer(), pace(stalls, 2))
        self.requests = StreamSink(dut, "requests", LifecycleRequestLayout(), pace(stalls, 3),
                                   tell=self._requested)
        self.reports = StreamSource(dut, "reports", LifecycleReportLayout(), pace(stalls, 4))
        self.running_port = StreamSource(dut, "running", RunningLayout(), always())
        self.flr = StreamSource(dut, "flr", 8, pace(stalls, 5))
        self.flr_done = StreamSink(dut, "flr_done", 8, pace(stalls, 6))
        self.interrupts = StreamSink(dut, "interrupts", InterruptLayout(), pace(stalls, 7))
        self.queue_interrupts = StreamSource(dut, "queue_interrupts", FunctionLayout(),
                                             pace(stalls, 8))
        self.receive = StreamSink(dut, "receive_doorbells", DoorbellLayout(), pace(stalls, 9))
        self.transmit = StreamSink(dut, "transmit_doorbells", DoorbellLayout(), pace(stalls, 10))
        self.control = StreamSink(dut, "control_doorbells", DoorbellLayout(), pace(stalls, 12))
        self.bad = StreamSink(dut, "bad_doorbells", FunctionLayout(), pace(stalls, 11))
        self.resets: list[int] = []
        StreamMonitor(dut, "resets", FunctionLayout(),
                      tell=lambda told: self.resets.append(told["function"]))
        self.running: set[int] = set()
        self.stopping: dict[int, LifecycleRequest] = {}  # functions with a stop under way
        self.flrs: set[int] = set()
        self.hold_stops = False
        self.single: dict[int, int] = {}  # functions of which one queue alone is being stopped
        self.asked: list[tuple[str, int]] = []  # requests, in order
        self.fields = Fields(QueueConfigLayout())

    async def start(self) -> None:
        await reset(self.dut)

    def _requested(self, request: dict[str, int]) -> None:
        kind, queue = LifecycleRequest(request["kind"]), request["queue"]
        function = PLAN.owner(queue)
        self.asked.append((kind.name, queue))
        assert function < FUNCTIONS
        # A start of another queue does not wait for the reset of one.
        assert function not in self.stopping or (
            kind == LifecycleRequest.START and self.single.get(function, queue) != queue
        ), "a request while a stop is under way"
        if kind == LifecycleRequest.START:
            assert queue not in self.running, "started twice"
            self.running.add(queue)
            self.running_port.send({"queue": queue, "running": 1, "modes": request["modes"]})
        else:
            assert kind == LifecycleRequest.RESET_QUEUE or queue == function * STRIDE
            self.stopping[function] = kind
            if kind == LifecycleRequest.RESET_QUEUE:
                self.single[function] = queue
            if not self.hold_stops:
                cocotb.start_soon(self._stop_later(function))

    async def _stop_later(self, function: int) -> None:
        await cycles(self.dut, self.rng.randrange(60) if self.stalls else 1)
        self.report_stopped(function)

    def report_stopped(self, function: int) -> None:
        """Report the end of the stop that is under way for ``function``."""
        for queue in PLAN.of(function):
            if self.single.get(function, queue) == queue:
                self.running.discard(queue)
                self.running_port.send({"queue": queue, "running": 0})
        self.single.pop(function, None)
        del self.stopping[function]
        self.reports.send({"function": function, "kind": LifecycleReport.STOPPED})

    def begin_flr(self, function: int) -> None:
        """Begin a function-level reset, as the configuration space does."""
        self.flrs.add(function)
        self.flr.send(function)

    def fault(self, function: int) -> None:
        """Report a fault, as the lifecycle does."""
        self.reports.send({"function": function, "kind": LifecycleReport.NEEDS_RESET})

    # Accesses

    def post(self, function: int, offset: int, size: int, value: int) -> None:
        """Write without waiting; ``size`` 1, 2 or 4 bytes inside a dword."""
        shift = offset % 4
        assert shift + size <= 4
        self.mmio.send({
            "function": function, "bar": 2, "offset": offset & ~3, "write": 1,
            "enable": ((1 << size) - 1) << shift, "data": value << 8 * shift})

    async def read(self, function: int, offset: int, size: int) -> int:
        """Read and wait for the answer."""
        shift = offset % 4
        assert shift + size <= 4
        self.mmio.send({
            "function": function, "bar": 2, "offset": offset & ~3, "write": 0,
            "enable": ((1 << size) - 1) << shift, "data": 0})
        answer = await self.answers.get()
        return int(answer["data"] >> 8 * shift & (1 << 8 * size) - 1)

    def set(self, function: int, name: str, value: int) -> None:
        """Write a field of the common configuration."""
        self.post(function, *COMMON[name], value)

    async def get(self, function: int, name: str) -> int:
        """Read a field of the common configuration."""
        return await self.read(function, *COMMON[name])

    async def offered(self, function: int) -> int:
        """Read all feature windows."""
        features = 0
        for window in range(4):
            self.set(function, "device_feature_select", window)
            features |= await self.get(function, "device_feature") << 32 * window
        return features

    def accept(self, function: int, features: int) -> None:
        """Write the driver's features."""
        for window in range(4):
            self.set(function, "driver_feature_select", window)
            self.set(function, "driver_feature", features >> 32 * window & 0xFFFF_FFFF)

    async def negotiate(self, function: int, features: int) -> int:
        """Go through initialisation up to FEATURES_OK; give the status after it."""
        self.set(function, "device_status", ACKNOWLEDGE)
        self.set(function, "device_status", NEGOTIATING)
        self.accept(function, features)
        self.set(function, "device_status", NEGOTIATING | FEATURES_OK)
        return await self.get(function, "device_status")

    async def queues(self, function: int) -> dict[int, int]:
        """Give the queues that a function has by what was negotiated: index, number of the card."""
        features = 0
        for window in range(4):
            self.set(function, "driver_feature_select", window)
            features |= await self.get(function, "driver_feature") << 32 * window
        status = await self.get(function, "device_status")
        return queues_of(function, features if status & FEATURES_OK else 0)

    async def bring_up(self, function: int, queues: list[int]) -> None:
        """Initialise, enable ``queues`` (by index), DRIVER_OK."""
        status = await self.negotiate(function, OFFERED[function])
        assert status == NEGOTIATING | FEATURES_OK
        for index in queues:
            self.set(function, "queue_select", index)
            self.set(function, "queue_enable", 1)
        self.set(function, "device_status", status | DRIVER_OK)
        assert await self.get(function, "device_status") == status | DRIVER_OK

    async def reset(self, function: int) -> None:
        """Write zero to the status, and wait until it reads zero."""
        self.set(function, "device_status", 0)
        for _ in range(1000):
            if await self.get(function, "device_status") == 0:
                return
        raise TimeoutError(f"function {function} is not reset")

    async def config_of(self, queue: int) -> dict[str, int]:
        """Look a queue up as an engine does."""
        self.dut.port__queue.value = queue
        self.dut.port__enable.value = 1
        await self.edge
        self.dut.port__enable.value = 0
        await self.edge
        await self.edge
        return dict(self.fields.unpack(int(self.dut.port__config.value)))

    async def settle(self, clocks: int = 120) -> None:
        """Wait for what is under way inside."""
        await self.mmio.drain()
        await self.reports.drain()
        await cycles(self.dut, clocks)


def fresh_common(function: int) -> dict[str, int]:
    """Every field after a reset, as the standard has it."""
    return {name: 0 for name in COMMON} | {
        "device_feature": OFFERED[function] & 0xFFFF_FFFF,
        "config_msix_vector": NONE, "num_queues": len(queues_of(function, OFFERED[function])),
        "queue_size": SIZE_MAX, "queue_msix_vector": NONE,
    }


async def check_fresh(host: Host, function: int) -> None:
    """All of a function is as after a reset (but for the generation, which is free)."""
    for name, value in fresh_common(function).items():
        if name != "config_generation":
            assert await host.get(function, name) == value, name
    assert await host.read(function, ISR, 1) == 0
    for index in range(STRIDE + 2):
        there = index < 2  # nothing is negotiated
        host.set(function, "queue_select", index)
        assert await host.get(function, "queue_enable") == 0
        assert await host.get(function, "queue_size") == (SIZE_MAX if there else 0)
        assert await host.get(function, "queue_notify_off") == (index if there else 0)
    for queue in PLAN.of(function):
        config = await host.config_of(queue)
        del config["modes"]  # they say nothing of a queue that does not run
        assert config == {"desc": 0, "driver": 0, "device": 0, "size": SIZE_MAX, "vector": NONE,
                          "running": 0}
    host.set(function, "queue_select", 0)
