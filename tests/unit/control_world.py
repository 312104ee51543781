"""What stands around a `ControlQueue`: drivers with their rings, the host, a lifecycle."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout, WriteSegmentLayout
from hw.stream.types import BeatLayout
from hw.virtio.control_chain import CONTROL_CONTEXT_BITS
from hw.virtio.types import (
    DoorbellLayout,
    FaultLayout,
    ObligationLayout,
    PairsLayout,
    QueueCommandLayout,
    QueueConfigLayout,
    UsedLayout,
)
from tb.stream import Fields, PacketSource, StreamMonitor, StreamSink, StreamSource, pace, reset

__all__ = ["INDIRECT", "NEXT", "WRITE", "Buffer", "Command", "Driver", "PackedDriver",
           "SplitDriver", "World"]

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
OK, ERR = 0, 1
CANARY = 0xA5
KEPT = 64            # bytes of a command
DESCRIPTORS_MAX = 64
_DRIVER, _DEVICE, _TABLES, _BUFFERS, _END = 0x5000, 0x6000, 0x8000, 0x1_0000, 0x2_0000

Buffer = tuple[int, int, bool]
"""Address, length, whether the device writes it."""


@dataclass
class Command:
    """A command that was given to the card, and what is to become of it."""

    content: bytes
    buffers: list[Buffer]
    id: int
    slots: int         # of the used entry
    places: list[int]  # descriptors that it takes
    pairs: int | None
    ack: int | None    # None where nothing can be written
    ack_accepted: bool = False

    @property
    def writable(self) -> list[Buffer]:
        return [buffer for buffer in self.buffers if buffer[2]]


class Driver:
    """A driver and its control queue, in memory of its own."""

    packed: bool

    def __init__(self, function: int, size: int, *, event_idx: bool, indirect: bool,
                 max_pairs: int, seed: int, first_position: int = 0) -> None:
        self.function = function
        self.size = size
        self.event_idx = event_idx
        self.indirect = indirect
        self.max_pairs = max_pairs
        self.first_position = first_position
        self.mq = True
        self.rng = random.Random(seed)
        self.base = (function + 1) << 40 | 0xFFFE_0000  # the lower half is left while going through
        self.memory = bytearray(_END)
        self.posted: deque[Command] = deque()  # not yet used
        self.landing: deque[Command] = deque()  # used, and the driver does not see it yet
        self.running = True
        self.answered: list[Command] = []
        self.faulty = False
        self.restart()

    @property
    def desc(self) -> int:
        return self.base

    @property
    def driver(self) -> int:
        return self.base + _DRIVER + (0 if self.packed else 2)  # as ill aligned as may be

    @property
    def device(self) -> int:
        return self.base + _DEVICE + 4

    @property
    def event(self) -> tuple[int, int]:
        """Address and length of what the card writes to be kicked."""
        return (self.device, 4) if self.packed else (self.device + 4 + 8 * self.size, 2)

    def config(self) -> dict[str, Any]:
        return {"desc": self.desc, "driver": self.driver, "device": self.device,
                "size": self.size, "vector": 0xFFFF, "running": int(self.running),
                "modes": {"event_idx": int(self.event_idx), "ring_packed": int(self.packed),
                          "indirect_desc": int(self.indirect)}}

    def restart(self) -> None:
        """Begin again with empty rings."""
        self.memory[:] = bytes(_END)
        self.memory[_BUFFERS:] = bytes([CANARY]) * (_END - _BUFFERS)
        self.posted.clear()
        self.landing.clear()
        self.cursor = _BUFFERS
        self.table_cursor = _TABLES
        self.faulty = False

    def move(self, rng: random.Random) -> int:
        """Begin again anywhere, as after another device; give the position as the card has it."""
        self.first_position = (rng.randrange(self.size) | rng.getrandbits(1) << 15
                               if self.packed else rng.getrandbits(16))
        self.restart()
        return self.first_position

    def write(self, address: int, value: int, length: int) -> None:
        at = address - self.base
        self.memory[at:at + length] = value.to_bytes(length, "little")

    def read(self, address: int, length: int) -> int:
        at = address - self.base
        return int.from_bytes(self.memory[at:at + length], "little")

    def allocate(self, length: int) -> int:
        """Memory for a buffer, at any address, apart from its neighbours."""
        if self.cursor + length + 16 > _END:
            self.cursor = _BUFFERS
        at = self.cursor + self.rng.randint(1, 8)
        self.cursor = at + length
        self.memory[at:at + length] = bytes([CANARY]) * length
        return self.base + at

    def allocate_table(self, entries: int) -> int:
        if self.table_cursor + 16 * entries > _BUFFERS:
            self.table_cursor = _TABLES
        at = self.table_cursor
        self.table_cursor += 16 * entries
        return self.base + at

    def buffers(self, content: bytes, readable: int, writable: list[int]) -> list[Buffer]:
        """Cut the content into so many buffers anyhow; behind them such writable ones."""
        cuts = sorted(self.rng.sample(range(1, len(content)), min(readable, len(content)) - 1)
                      if content else [])
        ends = [*cuts, len(content)] if content else []
        made: list[Buffer] = []
        at = 0
        for end in ends:
            address = self.allocate(end - at)
            self.memory[address - self.base:address - self.base + end - at] = content[at:end]
            made.append((address, end - at, False))
            at = end
        return made + [(self.allocate(length), length, True) for length in writable]

    def expect(self, content: bytes, writable: bool) -> tuple[int | None, int | None]:
        """The pairs that are set, and the answer."""
        if not writable:
            return None, None
        pairs = int.from_bytes(content[2:4], "little")
        if (4 <= len(content) <= KEPT and content[:2] == b"\x04\x00" and self.mq
                and 1 <= pairs <= self.max_pairs):
            return pairs, OK
        return None, ERR

    def give(self, content: bytes, *, readable: int = 2, writable: tuple[int, ...] = (1,),
             table: int | None = None) -> Command:
        """Make a command available. ``table``: descriptors from this one on lie in a table."""
        buffers = self.buffers(content, readable, list(writable))
        pairs, ack = self.expect(content, bool(writable))
        command = self.place(buffers, table)
        command.content, command.pairs, command.ack = content, pairs, ack
        self.posted.append(command)
        self.publish()
        return command

    def free(self) -> int:
        """Descriptors that can be taken."""
        raise NotImplementedError

    def place(self, buffers: list[Buffer], table: int | None) -> Command:
        """Write the descriptors."""
        raise NotImplementedError

    def publish(self) -> None:
        """Make what was placed available."""

    def wants_kick(self) -> bool:
        """Decide about a kick for what was given since the last decision."""
        raise NotImplementedError

    def take_back(self, command: Command) -> None:
        """The driver sees that the command is used."""
        raise NotImplementedError


class SplitDriver(Driver):
    """With a split ring."""

    packed = False

    def restart(self) -> None:
        super().restart()
        self.free_list = list(range(self.size))
        self.rng.shuffle(self.free_list)
        self.index = self.first_position
        self.decided = self.index
        self.publish()

    def free(self) -> int:
        return len(self.free_list)

    def descriptor(self, at: int, buffer: tuple[int, int], flags: int, next_: int) -> None:
        self.write(at, buffer[0] | buffer[1] << 64 | flags << 96 | next_ << 112, 16)

    def entry(self, head: int) -> None:
        """Put a head into the ring; not available before `publish`."""
        self.write(self.driver + 4 + 2 * (self.index % self.size), head, 2)
        self.index = (self.index + 1) & 0xFFFF

    def publish(self) -> None:
        self.write(self.driver + 2, self.index, 2)

    def place(self, buffers: list[Buffer], table: int | None) -> Command:
        direct = buffers if table is None else buffers[:table]
        inner = [] if table is None else buffers[table:]
        numbers = [self.free_list.pop() for _ in range(len(direct) + bool(inner))]
        for place, (address, length, write) in enumerate(direct):
            last = place == len(numbers) - 1
            next_ = self.rng.getrandbits(16) if last else numbers[place + 1]
            self.descriptor(self.desc + 16 * numbers[place], (address, length),
                            WRITE * write | NEXT * (not last), next_)
        if inner:
            # The entries lie anyhow, but for the first.
            entries = len(inner) + self.rng.randint(0, 3)
            at = self.allocate_table(entries)
            order = [0, *self.rng.sample(range(1, entries), len(inner) - 1)]
            for place, (address, length, write) in enumerate(inner):
                last = place == len(inner) - 1
                next_ = self.rng.getrandbits(16) if last else order[place + 1]
                self.descriptor(at + 16 * order[place], (address, length),
                                WRITE * write | NEXT * (not last), next_)
            self.descriptor(self.desc + 16 * numbers[-1], (at, 16 * entries),
                            INDIRECT | self.rng.choice([0, WRITE]), self.rng.getrandbits(16))
        self.entry(numbers[0])
        return Command(b"", buffers, numbers[0], 1, numbers, None, None)

    def wants_kick(self) -> bool:
        entries = range(self.decided, self.decided + ((self.index - self.decided) & 0xFFFF))
        self.decided = self.index
        if self.event_idx:
            event = self.read(self.event[0], 2)
            return any(entry & 0xFFFF == event for entry in entries)
        return bool(entries)  # the flags are never written

    def take_back(self, command: Command) -> None:
        self.free_list += command.places


class PackedDriver(Driver):
    """With a packed ring."""

    packed = True

    def restart(self) -> None:
        super().restart()
        self.next = self.used = self.first_position & 0x7FFF
        self.wrap = self.used_wrap = 1 - (self.first_position >> 15)
        for place in range(self.size):  # as used in the lap before
            used = self.wrap ^ (place >= self.next)
            self.write(self.desc + 16 * place + 14, (AVAIL | USED) * used, 2)
        self.room = self.size
        self.ids = list(range(self.size))
        self.since: list[tuple[int, int]] = []  # places given since the last decision

    def free(self) -> int:
        return self.room

    def descriptor(self, at: int, buffer: tuple[int, int], id_: int, flags: int) -> None:
        self.write(at, buffer[0] | buffer[1] << 64 | id_ << 96 | flags << 112, 16)

    def step(self) -> tuple[int, int]:
        """Take the next place, and its flags."""
        place, flags = self.next, AVAIL if self.wrap else USED
        self.since.append((self.next, self.wrap))
        self.room -= 1
        self.next += 1
        if self.next == self.size:
            self.next, self.wrap = 0, 1 - self.wrap
        return place, flags

    def place(self, buffers: list[Buffer], table: int | None) -> Command:
        id_ = self.ids.pop(self.rng.randrange(len(self.ids)))
        if table is not None:
            # Side by side, and only WRITE means something.
            at = self.allocate_table(len(buffers))
            for place, (address, length, write) in enumerate(buffers):
                junk = self.rng.choice([0, NEXT, INDIRECT, AVAIL, USED, 0xFFFF & ~WRITE])
                self.descriptor(at + 16 * place, (address, length), self.rng.getrandbits(16),
                                WRITE * write | junk)
            place, flags = self.step()
            self.descriptor(self.desc + 16 * place, (at, 16 * len(buffers)), id_,
                            flags | INDIRECT | self.rng.choice([0, WRITE]))
            return Command(b"", buffers, id_, 1, [place], None, None)
        places = [self.step() for _ in buffers]
        for turn in reversed(range(len(buffers))):  # the first comes last
            address, length, write = buffers[turn]
            place, flags = places[turn]
            last = turn == len(buffers) - 1
            self.descriptor(self.desc + 16 * place, (address, length),
                            id_ if last else self.rng.getrandbits(16),
                            flags | WRITE * write | NEXT * (not last))
        return Command(b"", buffers, id_, len(buffers), [place for place, _ in places], None, None)

    def wants_kick(self) -> bool:
        since, self.since = self.since, []
        flags = self.read(self.device + 2, 2)
        assert flags == 0 or (flags == 2 and self.event_idx)
        if flags == 0:
            return bool(since)
        event = self.read(self.device, 2)
        return (event & 0x7FFF, event >> 15) in since

    def take_back(self, command: Command) -> None:
        flags = AVAIL | USED if self.used_wrap else 0
        self.write(self.desc + 16 * self.used + 8, 1 | command.id << 32 | flags << 48, 8)
        self.used += command.slots
        if self.used >= self.size:
            self.used, self.used_wrap = self.used - self.size, 1 - self.used_wrap
        self.room += command.slots
        self.ids.append(command.id)


@dataclass
class _Read:
    request: dict[str, int]
    sample_at: int
    answer_at: int
    fence: int
    content: bytes | None = None


class World:
    """All ports of the component but its clock."""

    def __init__(self, dut: Any, drivers: list[Driver], *, lanes: int, first_queue: int,
                 stalls: bool, seed: int, latency: tuple[int, int] = (5, 40),
                 write_latency: tuple[int, int] = (0, 30), lag: tuple[int, int] = (0, 20)) -> None:
        self.dut = dut
        self.drivers = drivers
        self.lanes = lanes
        self.first_queue = first_queue
        self.rng = random.Random(seed)
        self.latency = latency
        self.write_latency = write_latency
        self.lag = lag
        self.now = 0
        self.count: dict[int, int] = defaultdict(int)  # obligations, by function
        self.faults: list[dict[str, int]] = []
        self.effects: list[tuple[int, int]] = []
        self.reads: list[dict[str, int]] = []
        self.times: dict[str, list[int]] = defaultdict(list)
        self.kicks = 0
        self.event_writes = 0
        self.used = 0
        self.read_error: Callable[[dict[str, int]], int] = lambda _request: 0
        self.slow: set[int] = set()  # functions whose reads are not answered
        self.command_at_hand = False

        def go(number: int) -> Iterator[bool]:
            return pace(stalls, seed * 100 + number)

        self.doorbells = StreamSource(dut, "doorbells", DoorbellLayout(), go(1))
        StreamMonitor(dut, "doorbells", DoorbellLayout(),
                      lambda _bell: self.times["doorbell"].append(self.now))
        self.commands = StreamSource(dut, "commands", QueueCommandLayout(), go(2))
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
        cocotb.start_soon(self._run())

    # The drivers' side.

    async def begin(self) -> None:
        """Reset the card, and let all queues run."""
        await reset(self.dut)
        self.command_at_hand = True
        for driver in self.drivers:
            self.commands.send({"queue": self.first_queue + driver.function, "reset": 1})
        await self.commands.drain()
        self.command_at_hand = False
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

    async def until(self, what: Callable[[], bool], limit: int = 8_000, why: str = "") -> int:
        """Wait for something; give the cycles that took."""
        edge = RisingEdge(self.dut.clk)
        for cycle in range(limit):
            if what():
                return cycle
            await edge
        posted = {driver.function: len(driver.posted) for driver in self.drivers}
        raise TimeoutError(f"not within {limit} cycles: {why}; posted {posted}, in flight "
                           f"{dict(self.count)}, {self.faults[-3:]}")

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
        self.command_at_hand = True
        began = self.now
        self.commands.send({"queue": self.first_queue + driver.function, "reset": int(reset),
                            "load": int(load is not None), "position": load or 0})
        await self.commands.drain()
        waited = self.now - began
        self.command_at_hand = False
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
        at, end = request["address"], request["address"] + request["length"]
        assert driver.base <= at and end <= driver.base + _END
        assert not driver.device <= at < driver.base + _TABLES, "the device's area is read"
        for command in driver.posted:
            for address, length, _write in command.writable:
                assert end <= address or address + length <= at, "a writable buffer is read"
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
        delta = change["delta"] - 512 if change["delta"] & 256 else change["delta"]
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
        for item in [item for item in self._deciding if item[0] <= self.now]:
            self._deciding.remove(item)
            if item[1].running and item[1].wants_kick():
                self.kicks += 1
                self.ring(item[1])
        for given in [given for given in self._giving if given[0] <= self.now]:
            self._giving.remove(given)
            self.count[given[1]] -= 1
            assert self.count[given[1]] >= 0

    async def _run(self) -> None:
        edge = RisingEdge(self.dut.clk)
        while True:
            await edge
            if self.dut.rst.value:
                continue
            self.now += 1
            self._serve_lookups()
            self._counted = dict(self.count)
            self._serve_writes()
            self._serve_read()
            self._serve_drivers()
