"""What stands around a `ControlQueue`: the host, a lifecycle, and drivers with their rings."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout, WriteSegmentLayout
from hw.stream.types import BeatLayout
from hw.virtio.control_chain import CONTROL_CONTEXT_BITS
from hw.virtio.types import (
    DoorbellLayout,
    FaultLayout,
    ObligationLayout,
    PairsLayout,
    QueueConfigLayout,
    UsedLayout,
)
from tb.stream import Fields, PacketSource, StreamMonitor, StreamSink, StreamSource, pace, reset
from tests.unit.control_drivers import CANARY, KEPT, Command, Driver
from tests.unit.engine_world import EngineWorld, obligation_delta

__all__ = ["World"]


@dataclass
class _Read:
    request: dict[str, int]
    sample_at: int
    answer_at: int
    fence: int
    content: bytes | None = None


class World(EngineWorld):
    """All ports of the component but its clock; obligations are by function."""

    def __init__(self, dut: Any, drivers: list[Driver], *, lanes: int, first_queue: int,
                 stalls: bool, seed: int, latency: tuple[int, int] = (5, 40),
                 write_latency: tuple[int, int] = (0, 30), lag: tuple[int, int] = (0, 20)) -> None:
        super().__init__(dut, stalls=stalls, seed=seed)
        self.drivers = drivers
        self.lanes = lanes
        self.first_queue = first_queue
        self.latency = latency
        self.write_latency = write_latency
        self.lag = lag
        self.effects: list[tuple[int, int]] = []
        self.times: dict[str, list[int]] = defaultdict(list)
        self.kicks = 0
        self.event_writes = 0
        self.used = 0
        self.slow: set[int] = set()  # functions whose reads are not answered

        def go(number: int) -> Iterator[bool]:
            return pace(stalls, seed * 100 + number)

        self.doorbells = StreamSource(dut, "doorbells", DoorbellLayout(), go(1))
        StreamMonitor(dut, "doorbells", DoorbellLayout(),
                      lambda _bell: self.times["doorbell"].append(self.now))
        self._answers = PacketSource(
            dut, "read_answers", ReadAnswerLayout(lanes, CONTROL_CONTEXT_BITS), go(3))
        for name, shape, number, tell in (
                ("obligations", ObligationLayout(), 4, self._obligation),
                ("reads", ReadRequestLayout(lanes, CONTROL_CONTEXT_BITS), 5, self._read),
                ("write_segments", WriteSegmentLayout(), 6, self._segment),
                ("write_data", BeatLayout(lanes), 7, self._data),
                ("pairs", PairsLayout(), 8, self._pairs),
                ("used", UsedLayout(), 9, self._used),
                ("faults", FaultLayout(), 10, self._fault)):
            StreamSink(dut, name, shape, go(number), tell)
        dut.write_accepted.value = 0
        dut.features__mq.value = 0
        dut.config__config.value = 0
        self._config = Fields(QueueConfigLayout())
        self._counted: dict[int, int] = {}
        self._alive: dict[int, bool] = defaultdict(bool)  # at the last look
        self._pending: _Read | None = None
        self._segments: deque[dict[str, int]] = deque()  # not yet accepted
        self._accept_at: int | None = None
        self._writes: deque[dict[str, int]] = deque()    # accepted, without their data
        self._contents: deque[int] = deque()
        # In the order of writes: (when, segment or None, data, driver, command).
        self._landing: deque[tuple[int, dict[str, int] | None, int, Driver, Command | None]]
        self._landing = deque()
        self._accepted = 0
        self._landed = 0
        self._giving: list[tuple[int, int]] = []
        self._deciding: list[tuple[int, Driver]] = []
        self.begin_stepping()

    # The drivers' side.

    async def begin(self) -> None:
        """Reset the card, and let all queues run."""
        await reset(self.dut)
        await self.reset_queues(self.first_queue + driver.function for driver in self.drivers)
        for driver in self.drivers:
            self.ring(driver)

    def ring(self, driver: Driver) -> None:
        """Ring the doorbell. Positions mean nothing here."""
        self.doorbells.send({"queue": self.first_queue + driver.function,
                             "position": self.rng.getrandbits(16),
                             "positioned": self.rng.getrandbits(1)})

    def kick(self, driver: Driver) -> None:
        """Something was given: after a while the driver looks whether a kick is wanted."""
        self._deciding.append((self.now + self.rng.randint(*self.lag), driver))

    def standing(self) -> str:
        posted = {driver.function: len(driver.posted) for driver in self.drivers}
        return f"posted {posted}, {super().standing()}"

    def drained(self) -> bool:
        """All that was given has been answered, and nothing is in flight."""
        return (not any((driver.posted and not driver.faulty) or driver.landing
                        for driver in self.drivers)
                and not any(self.count.values()) and not self._deciding and self.doorbells.idle)

    async def settle(self, limit: int = 12_000) -> None:
        """Wait until everything was answered, and stays so."""
        quiet = 0

        def rests() -> bool:
            nonlocal quiet
            quiet = quiet + 1 if self.drained() else 0
            return quiet == 40

        await self.until(rests, limit, "settled")
        assert not self.effects, "an effect without a command"

    async def stop(self, driver: Driver, *, reset: bool, load: int | None = None) -> int:
        """Do as the lifecycle does; give the cycles that its command waited.

        With ``load``, the queue is to begin there.
        """
        driver.running = False
        await self.until(lambda: self.count[driver.function] == 0, why="stop")
        reads = len(self.reads)
        waited = await self.command_stopped(self.first_queue + driver.function, reset=reset,
                                            load=load)
        assert not [read for read in self.reads[reads:]
                    if read["function"] == driver.function]
        assert not driver.landing
        return waited

    def start(self, driver: Driver) -> None:
        """Let it run, and look once."""
        driver.running = True
        self.ring(driver)

    # The host's side.

    def _read(self, request: dict[str, int]) -> None:
        function = request["function"]
        assert request["queue"] == self.first_queue + function
        assert self.count[function] > 0, "a read without an obligation"
        assert self._alive[function], "a read for a queue that was seen not to run"
        assert request["last"] and 1 <= request["length"] <= KEPT
        assert self._pending is None
        driver = self.drivers[function]
        driver.check_read(request["address"], request["length"])
        self.reads.append(request)
        self.times["read"].append(self.now)
        answer_at = self.now + self.rng.randint(*self.latency)
        self._pending = _Read(request, self.rng.randint(self.now, answer_at), answer_at,
                              self._accepted if request["fenced"] else 0)

    def _serve_read(self) -> None:
        read = self._pending
        if read is None or read.request["function"] in self.slow:
            return
        driver = self.drivers[read.request["function"]]
        at = read.request["address"] - driver.base
        length = read.request["length"]
        if read.content is None and self.now >= read.sample_at and self._landed >= read.fence:
            read.content = bytes(driver.memory[at:at + length])
        if read.content is not None and self.now >= read.answer_at:
            error = self.read_error(read.request)
            content = bytes(length) if error else read.content
            self._answers.send(content, lead=read.request["lead"],
                               each={"context": read.request["context"], "error": error})
            self._pending = None

    def _segment(self, segment: dict[str, int]) -> None:
        driver = self.drivers[segment["function"]]
        assert self.count[segment["function"]] > 0 and segment["last"]
        if (segment["address"], segment["length"]) == driver.event:
            assert driver.event_idx
            self.event_writes += 1
        else:
            command = driver.posted[0]
            assert command.ack is not None
            assert (segment["address"], segment["length"]) == (command.writable[0][0], 1)
            self.times["ack"].append(self.now)
        self._segments.append(segment)

    def _data(self, beat: dict[str, int]) -> None:
        assert beat["last"]
        self._contents.append(beat["data"] & ((1 << 8 * (self.lanes - beat["empty"])) - 1)
                              | (self.lanes - beat["empty"]) << 64)

    def _serve_writes(self) -> None:
        accepts = False
        if self._segments and self._accept_at is None:
            self._accept_at = self.now + self.rng.randint(*self.write_latency)
        if self._accept_at is not None and self.now >= self._accept_at:
            self._accept_at = None
            accepts = True
            self._accepted += 1
            segment = self._segments.popleft()
            self._writes.append(segment)
            driver = self.drivers[segment["function"]]
            if segment["length"] == 1:
                driver.posted[0].ack_accepted = True
        self.dut.write_accepted.value = int(accepts)
        # It may be accepted before its data are taken.
        while self._writes and self._contents:
            segment, content = self._writes.popleft(), self._contents.popleft()
            assert content >> 64 == segment["length"]
            self._land(segment, content & ((1 << 32) - 1), self.drivers[segment["function"]], None)
        while self._landing and self._landing[0][0] <= self.now:
            _at, write, content, driver, command = self._landing.popleft()
            if write is not None:
                driver.write(write["address"], content, write["length"])
                self._landed += 1
            elif command is not None:
                self._see_used(driver, command)

    def _land(self, segment: dict[str, int] | None, content: int, driver: Driver,
              command: Command | None) -> None:
        due = self.now + self.rng.randint(*self.write_latency)
        if self._landing:
            due = max(due, self._landing[-1][0])
        self._landing.append((due, segment, content, driver, command))

    def _see_used(self, driver: Driver, command: Command) -> None:
        """The used entry is in memory: the answer must be, and nothing else was written."""
        expected = b"".join(bytes([CANARY]) * length for _address, length, _ in command.writable)
        if command.ack is not None:
            expected = bytes([command.ack]) + expected[1:]
        found = b"".join(driver.memory[address - driver.base:address - driver.base + length]
                         for address, length, _ in command.writable)
        assert found == expected, f"{command.content!r}: {found!r} instead of {expected!r}"
        assert driver.landing.popleft() is command
        driver.take_back(command)
        driver.answered.append(command)
        self._giving.append((self.now + self.rng.randint(0, 30), driver.function))

    # The card's other neighbours.

    def _used(self, used: dict[str, int]) -> None:
        driver = self.drivers[used["queue"] - self.first_queue]
        assert self.count[driver.function] > 0
        command = driver.posted.popleft()
        assert (used["id"], used["slots"], used["more"]) == (command.id, command.slots, 0)
        assert used["bytes"] == (command.ack is not None)
        assert command.ack_accepted == (command.ack is not None), "used before it is answered"
        if command.pairs is not None:
            assert (driver.function, command.pairs) in self.effects, "used before it is done"
            self.effects.remove((driver.function, command.pairs))
        assert not self.effects, "a command did what it should not"
        driver.landing.append(command)
        self.used += 1
        self.times["used"].append(self.now)
        self._land(None, 0, driver, command)

    def _pairs(self, effect: dict[str, int]) -> None:
        assert self.count[effect["function"]] > 0
        self.effects.append((effect["function"], effect["pairs"]))

    def _fault(self, fault: dict[str, int]) -> None:
        assert self.count[fault["queue"] - self.first_queue] > 0
        self.faults.append(fault)

    def _obligation(self, change: dict[str, int]) -> None:
        delta = obligation_delta(change)
        assert abs(delta) == 1
        function = change["queue"] - self.first_queue
        self.count[function] += delta
        assert self.count[function] >= 0, f"obligations of {function} below zero"

    def _serve_lookups(self) -> None:
        if self.dut.config__enable.value:
            function = int(self.dut.config__queue.value) - self.first_queue
            assert self._counted.get(function, 0) > 0, "looked without an obligation"
            self._alive[function] = self.drivers[function].running
            self.dut.config__config.value = self._config.pack(self.drivers[function].config())
        if self.dut.features__enable.value:
            function = int(self.dut.features__function.value)
            if function < len(self.drivers):
                self.dut.features__mq.value = int(self.drivers[function].mq)

    def _serve_drivers(self) -> None:
        for _at, driver in self.take_due(self._deciding):
            if driver.running and driver.wants_kick():
                self.kicks += 1
                self.ring(driver)
        for _at, function in self.take_due(self._giving):
            self.count[function] -= 1
            assert self.count[function] >= 0

    def step(self) -> None:
        self._serve_lookups()
        self._counted = dict(self.count)
        self._serve_writes()
        self._serve_read()
        self._serve_drivers()
