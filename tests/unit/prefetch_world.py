"""What stands around a `Prefetch`: drivers, the host, a consumer, a lifecycle."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.pcie.types import ReadAnswerLayout, ReadRequestLayout, WriteSegmentLayout
from hw.stream.types import BeatLayout
from hw.virtio.types import (
    ChainLayout,
    ChainStatus,
    DoorbellLayout,
    FaultLayout,
    ObligationLayout,
    QueueConfigLayout,
    ReadyLayout,
    SegmentLayout,
    TakeLayout,
)
from tb.stream import Fields, PacketSource, StreamSource, pace, reset
from tests.unit.engine_world import EngineWorld, obligation_delta
from tests.unit.prefetch_memory import Memory, torn
from tests.unit.prefetch_packed_queue import PackedQueue
from tests.unit.prefetch_queue import LONGEST, Chain
from tests.unit.prefetch_queues import make_queue
from tests.unit.prefetch_split_queue import SplitQueue
from tests.unit.stepped_sink import SteppedSink

__all__ = ["World"]

BATCH_MAX = 64  # chains of an announcement


@dataclass
class _Read:
    request: dict[str, int]
    sample_at: int
    again_at: int
    answer_at: int
    early: bytes | None = None
    content: bytes | None = None
    fence: int = 0


class World(EngineWorld):
    """All ports of the component but its clock; obligations are by queue.

    ``modes`` are of the queues, in turn. ``table_max``: most entries of an indirect table; 0 for a
    card that knows no tables.
    """

    def __init__(self, dut: Any, *, lanes: int, context_bits: int, stalls: bool,
                 seed: int, first_position: int = 0,
                 latency: tuple[int, int] = (10, 60), reads_max: int = 1000,
                 write_latency: tuple[int, int] = (0, 30), hold: tuple[int, int] = (0, 40),
                 modes: tuple[tuple[str, ...], ...] = ((),), table_max: int = 0) -> None:
        super().__init__(dut, stalls=stalls, seed=seed)
        self.modes = modes
        self.table_max = table_max
        self.lanes = lanes
        self.first_position = first_position
        self.tearing = random.Random(seed + 1)
        self.memory = Memory()
        self.queues: dict[int, SplitQueue | PackedQueue] = {}
        self.announced: dict[int, int] = defaultdict(int)  # and not yet taken
        self.credit: dict[int, int] = defaultdict(int)
        self.latency = latency
        self.write_latency = write_latency
        self.hold = hold
        self.delivered: list[tuple[int, Chain]] = []
        self.ready_at: dict[int, list[int]] = defaultdict(list)
        self.flag_writes = 0
        self.consume = True
        self.min_bytes: Callable[[int], int] = lambda _queue: 0
        self.short = 0
        self.none = 0
        self.strict = True  # a take with credit finds a chain

        def go(number: int) -> Iterator[bool]:
            return pace(stalls, seed * 100 + number)

        self.doorbells = StreamSource(dut, "doorbells", DoorbellLayout(), go(1))
        self.takes = StreamSource(dut, "takes", TakeLayout(), go(3))
        self._answers = PacketSource(dut, "read_answers", ReadAnswerLayout(lanes, context_bits),
                                     go(4))
        self._outstanding = 0

        def reads_go() -> Iterator[bool]:
            for wants in go(5):
                yield wants and self._outstanding < reads_max

        # In the order in which things come about: obligations before what needs them.
        self._sinks = [
            SteppedSink(dut, "obligations", ObligationLayout(), go(9), self._obligation),
            SteppedSink(dut, "reads", ReadRequestLayout(lanes, context_bits), reads_go(),
                        self._read),
            SteppedSink(dut, "ready", ReadyLayout(), go(6), self._ready),
            SteppedSink(dut, "chains", ChainLayout(), go(7), self._chain),
            SteppedSink(dut, "segments", SegmentLayout(), go(8), self._segment),
            SteppedSink(dut, "faults", FaultLayout(), go(10), self.faults.append),
            SteppedSink(dut, "flag_writes", WriteSegmentLayout(), go(11), self._flag_segment),
            SteppedSink(dut, "flag_data", BeatLayout(lanes), go(12), self._flag_data),
        ]
        dut.flag_accepted.value = 0
        self._waiting: dict[int, deque[_Read]] = defaultdict(deque)
        self._flag_segments: deque[dict[str, int]] = deque()
        self._flag_contents: deque[bytes] = deque()
        self._accept_at: int | None = None
        self._landing: deque[tuple[int, dict[str, int], bytes]] = deque()
        self._accepted = 0
        self._landed = 0
        self._open: deque[tuple[int, Chain]] = deque()      # found, and their segments not yet come
        self._segments: list[tuple[int, int]] = []
        self._giving: list[tuple[int, int, Chain]] = []
        self._expected_takes: deque[tuple[int, int]] = deque()
        self._config = Fields(QueueConfigLayout())
        self.fixed_landing: int | None = None
        self.begin_stepping()
        self._configs = [(name, *(getattr(dut, f"{name}__{part}")
                                  for part in ("enable", "queue", "config")))
                         for name in ("config_ring", "config_table", "config_take")]

    # The driver's side.

    def queue(self, number: int, size: int) -> SplitQueue | PackedQueue:
        """Make a queue, and let it run."""
        queue = make_queue(number, size, 1 + len(self.queues), self.memory,
                           modes=self.modes[number // 2 % len(self.modes)],
                           first_position=self.first_position, table_max=self.table_max)
        self.queues[number] = queue
        return queue

    async def begin(self, sizes: dict[int, int]) -> list[SplitQueue | PackedQueue]:
        """Reset the card, make queues of these sizes by number, and let them run."""
        await reset(self.dut)
        queues = [self.queue(number, size) for number, size in sizes.items()]
        await self.reset_queues(sizes)
        for queue in queues:
            if queue.event_idx:
                self.start(queue)
        return queues

    def kick(self, queue: SplitQueue | PackedQueue, always: bool = False) -> None:
        """Publish what was added, and kick if the card wants it."""
        queue.publish()
        if queue.wants_kick() or always:
            self.ring(queue, queue.told())

    def ring(self, queue: SplitQueue | PackedQueue, position: int) -> None:
        """Ring the doorbell; without NOTIFICATION_DATA the position is any, and means nothing."""
        queue.kicks += 1
        if not queue.notification_data:
            position = queue.index + self.rng.randint(-3, 12)
        self.doorbells.send({"queue": queue.number, "position": position & 0xFFFF,
                             "positioned": int(queue.notification_data or self.rng.random() < 0.5)})

    def standing(self) -> str:
        posted = {queue.number: len(queue.posted) for queue in self.queues.values()}
        return f"posted {posted}, announced {dict(self.credit)}, {super().standing()}"

    def drained(self) -> bool:
        """Everything that was posted has come, and been given back."""
        return (not any(queue.posted or queue.taken for queue in self.queues.values())
                and not any(self.count.values()) and not self._open)

    async def settle(self, limit: int = 20_000) -> None:
        """Wait until everything was delivered and nothing is in flight."""
        quiet = 0
        for _ in range(limit):
            quiet = quiet + 1 if self.drained() and self.doorbells.idle else 0
            if quiet == 60:  # longer than from a doorbell to its obligation
                break
            await RisingEdge(self.dut.clk)
        else:
            await self.until(self.drained, 1, "drained")
        assert not any(self.credit.values()), self.credit

    async def stop(self, queue: SplitQueue | PackedQueue, *, reset: bool,
                   load: int | None = None) -> None:
        """Do as the lifecycle does; with ``load``, the queue is to begin there."""
        queue.running = False
        await self.until(lambda: self.count[queue.number] == 0, why=f"stop of {queue.number}")
        reads = len(self.reads)
        await self.command_stopped(queue.number, reset=reset, load=load)
        self.credit[queue.number] = 0
        self.announced[queue.number] = 0
        assert not [read for read in self.reads[reads:] if read["queue"] == queue.number]

    def start(self, queue: SplitQueue | PackedQueue) -> None:
        """Let it run, and look once."""
        queue.running = True
        self.doorbells.send({"queue": queue.number})

    # The host's side.

    def _read(self, request: dict[str, int]) -> None:
        queue = request["queue"]
        assert self.count[queue] > 0, "a read without an obligation"
        assert request["function"] == queue >> 1  # the stride of the bench
        assert request["last"] == 1
        address, length = request["address"], request["length"]
        assert self.queues[queue].may_read(address, length), (
            f"a read of {length} bytes at {address:#x} by {queue}")
        self.reads.append(request)
        self._outstanding += 1
        answer_at = self.now + self.rng.randint(*self.latency)
        sample_at = self.rng.randint(self.now, answer_at)
        self._waiting[queue].append(_Read(
            request, sample_at, self.tearing.randint(sample_at, answer_at), answer_at,
            fence=self._accepted if request["fenced"] else 0))

    def _flag_segment(self, segment: dict[str, int]) -> None:
        assert segment["last"] == 1
        queue = self._suppressed(segment)
        assert segment["function"] == queue.number >> 1
        self._flag_segments.append(segment)

    def _suppressed(self, segment: dict[str, int]) -> SplitQueue | PackedQueue:
        """Find the queue whose kicks this write is about."""
        return next(queue for queue in self.queues.values()
                    if queue.suppression == (segment["address"], segment["length"]))

    def _flag_data(self, beat: dict[str, int]) -> None:
        assert beat["last"] == 1
        length = self.lanes - beat["empty"]
        self._flag_contents.append((beat["data"] & (1 << 8 * length) - 1).to_bytes(
            length, "little"))

    def _serve_writes(self) -> None:
        accepts = False
        if self._flag_segments and self._flag_contents and self._accept_at is None:
            self._accept_at = self.now + self.rng.randint(*self.write_latency)
        if self._accept_at is not None and self.now >= self._accept_at:
            self._accept_at = None
            accepts = True
            self._accepted += 1
            self.flag_writes += 1
            late = self.rng.randint(*self.write_latency)
            if self.fixed_landing is not None:
                late = self.fixed_landing
            if self._landing:
                late = max(late, self._landing[-1][0] - self.now)
            self._landing.append((self.now + late, self._flag_segments.popleft(),
                                  self._flag_contents.popleft()))
        self.dut.flag_accepted.value = int(accepts)
        while self._landing and self._landing[0][0] <= self.now:
            _at, segment, content = self._landing.popleft()
            assert len(content) == segment["length"]
            self.memory.write(segment["address"], content)
            self._landed += 1

    def _serve_reads(self) -> None:
        due = []
        for number, waiting in self._waiting.items():
            for read in waiting:
                at, length = read.request["address"], read.request["length"]
                if read.early is None and read.sample_at <= self.now and (
                        self._landed >= read.fence):
                    read.early = self.memory.read(at, length)
                if read.content is None and read.early is not None and read.again_at <= self.now:
                    read.content = torn(at, read.early, self.memory.read(at, length), self.tearing)
            if waiting and waiting[0].content is not None and waiting[0].answer_at <= self.now:
                due.append(number)
        if due:
            read = self._waiting[self.rng.choice(due)].popleft()
            assert read.content is not None
            error = self.read_error(read.request)
            # What comes with an error is as long as it should be, and may be anything.
            content = self.rng.randbytes(len(read.content)) if error else read.content
            self._answers.send(content, lead=read.request["lead"],
                               each={"context": read.request["context"], "error": error})
            self._outstanding -= 1

    def _serve_config(self) -> None:
        for name, enable, number, config in self._configs:
            if enable.value:
                queue = self.queues[int(number.value)]
                if not self.command_at_hand:
                    # Counted in this cycle is enough: a stop asks a cycle after its own write.
                    assert self.count[queue.number] > 0, f"{name}: looked without an obligation"
                config.value = self._config.pack({
                    "desc": queue.desc, "driver": queue.driver, "device": queue.device,
                    "size": queue.size, "vector": 0xFFFF, "running": int(queue.running),
                    "modes": queue.modes})

    def step(self) -> None:
        for sink in self._sinks:
            sink.step()
        self._serve_config()
        self._serve_writes()
        self._serve_reads()
        self._take_chains()
        self._give_back()

    # The consumer's side, and the obligations.

    def _obligation(self, change: dict[str, int]) -> None:
        delta = obligation_delta(change)
        assert delta, "an obligation of nothing"
        self.count[change["queue"]] += delta
        assert self.count[change["queue"]] >= 0, f"obligations of {change['queue']} below zero"

    def _ready(self, ready: dict[str, int]) -> None:
        number, count = ready["queue"], ready["count"]
        assert 0 < count <= BATCH_MAX
        assert self.count[number] > 0, "an announcement without an obligation"
        known = self.announced[number]
        chains = list(islice(self.queues[number].posted, known, known + count))
        assert len(chains) == count, f"announced {known + count} chains of {number}"
        assert ready["bytes"] == sum(chain.told for chain in chains), (
            number, ready, [(chain.told, chain.slots) for chain in chains])
        self.announced[number] += count
        self.credit[number] += count
        self.ready_at[number].append(self.now)

    def _take_chains(self) -> None:
        if not self.consume or len(self._expected_takes) > 8:
            return
        willing = [number for number, credit in self.credit.items()
                   if credit > 0 and self.queues[number].running]
        if willing:
            number = self.rng.choice(willing)
            self.credit[number] -= 1
            least = self.min_bytes(number)
            self._expected_takes.append((number, least))
            self.takes.send({"queue": number, "bytes": least})

    def _chain(self, chain: dict[str, Any]) -> None:
        number, least = self._expected_takes.popleft()
        assert chain["queue"] == number
        queue = self.queues[number]
        if chain["status"] == ChainStatus.NONE.value:
            self.none += 1
            assert not self.strict or not queue.running, f"a take of {number} in vain"
            return
        expected = queue.posted[0]
        total = expected.told
        if chain["status"] == ChainStatus.SHORT.value:
            assert total < least and chain["more"]
            self.short += 1
            self.credit[number] += 1
            return
        assert total >= least
        assert chain["id"] == expected.id
        assert chain["slots"] == expected.slots
        assert chain["bytes"] == total
        assert chain["segments"] == len(expected.buffers)
        queue.posted.popleft()
        self.announced[number] -= 1
        queue.taken.append(expected)
        self._open.append((number, expected))

    def _segment(self, segment: dict[str, int]) -> None:
        self._segments.append((segment["address"], segment["length"]))
        if segment["last"]:
            # The chain may come later than its first segments, as the streams stall by themselves.
            cocotb.start_soon(self._finish(self._segments))
            self._segments = []

    async def _finish(self, segments: list[tuple[int, int]]) -> None:
        edge = RisingEdge(self.dut.clk)
        while not self._open:
            await edge
        number, chain = self._open.popleft()
        assert segments == [(address, min(length, LONGEST))
                            for address, length in chain.buffers]
        self.delivered.append((number, chain))
        self._giving.append((self.now + self.rng.randint(*self.hold), number, chain))

    def _give_back(self) -> None:
        for _at, number, chain in self.take_due(self._giving):
            self.queues[number].give_back(chain)
            self.count[number] -= 1
