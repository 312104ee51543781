"""From the wire to a frame's queue: entry, admission, pool and queues together."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.stream.types import WireBeatLayout
from hw.virtio.types import QueueLayout
from hw.wire.types import (
    AdmissionDrop,
    AdmissionDropLayout,
    ArrivalLayout,
    EnteredLayout,
    EntryDrop,
    FrameHandle,
    PoolReadLayout,
    SteeredLayout,
)
from tb.stream import (
    Packet,
    PacketSink,
    PacketSource,
    StreamMonitor,
    StreamSink,
    StreamSource,
    always,
    cycles,
    never,
    pace,
    reset,
)
from tests.unit.wire_frames import (
    BEAT,
    CELL,
    CELLS,
    LANES,
    LONGEST,
    MAX_CELLS,
    frame_bytes,
    frame_size,
)


class Path:
    """What is around the receive path: steering, the receiver, and the books."""

    def __init__(self, dut: Any, name: str = "path", *, stalls: bool = False) -> None:
        self.cells = CELLS if name == "path" else 2 * CELLS
        self.free = getattr(dut, f"{name}__free_cells")
        self.wire = PacketSource(dut, f"{name}__wire", WireBeatLayout(LANES), always())
        self.steered = StreamSource(dut, f"{name}__steered", SteeredLayout(), pace(stalls, 2))
        self.route: list[int] = []   # queue of each frame that passes the entry, the last is kept
        StreamSink(dut, f"{name}__lengths", EnteredLayout(), pace(stalls, 3), tell=self._steer)
        self.entry_drops: list[int] = []
        StreamMonitor(dut, f"{name}__entry_drops", EntryDrop, tell=self.entry_drops.append)
        self.drops: list[tuple[int, int]] = []
        StreamMonitor(dut, f"{name}__admission_drops", AdmissionDropLayout(),
                      tell=lambda drop: self.drops.append((drop["queue"], drop["reason"])))
        self.pops = StreamSource(dut, f"{name}__pops", QueueLayout(), pace(stalls, 4))
        self.arrived: list[int] = []
        self.popping: deque[int] = deque()
        self.reading: deque[int] = deque()
        self.received: dict[int, list[bytes]] = {}
        self.take = True
        self.arrivals = StreamSink(dut, f"{name}__arrivals", ArrivalLayout(), pace(stalls, 5),
                                   tell=self._arrives)
        self.reads = StreamSource(dut, f"{name}__reads", PoolReadLayout(self.cells),
                                  pace(stalls, 6))
        StreamSink(dut, f"{name}__popped", FrameHandle(self.cells), pace(stalls, 7),
                   tell=self._popped)
        self.data = PacketSink(dut, f"{name}__data", BEAT, pace(stalls, 8), tell=self._data)

    def _steer(self, tail: dict[str, int]) -> None:
        queue = self.route.pop(0) if len(self.route) > 1 else self.route[0]
        self.steered.send({"queue": queue, "bytes": tail["bytes"]})

    def _arrives(self, payload: dict[str, int]) -> None:
        self.arrived.append(payload["queue"])
        if self.take:
            self.pop()

    def pop(self) -> None:
        for queue in self.arrived:
            self.pops.send({"queue": queue})
            self.popping.append(queue)
        self.arrived.clear()

    def _popped(self, handle: dict[str, int]) -> None:
        self.reading.append(self.popping.popleft())
        self.reads.send({"frame": handle})

    def _data(self, packet: Packet) -> None:
        self.received.setdefault(self.reading.popleft(), []).append(packet.data)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def from_the_wire_to_its_queue(dut: Any, stalls: bool) -> None:
    """Each frame arrives once at its queue, in order, or is counted as dropped; no cell is lost."""
    path = Path(dut, stalls=stalls)
    await reset(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    count = 150
    sent: dict[int, list[bytes]] = {}
    path.route = [rng.choice([0, 2, 4, 6]) for _ in range(count)]
    for queue in list(path.route):
        packet = frame_bytes(rng, frame_size(rng))
        path.wire.send(packet)
        sent.setdefault(queue, []).append(packet)
    await path.wire.drain(20_000)
    await cycles(dut, 800 if stalls else 200)
    dropped = len(path.drops) + len(path.entry_drops)
    assert sum(map(len, path.received.values())) == count - dropped
    if not stalls:
        assert not dropped
    if not path.entry_drops:
        for queue, packets in path.received.items():
            rest = iter(sent[queue])
            assert all(packet in rest for packet in packets), f"queue {queue}"
    assert int(path.free.value) == CELLS


@cocotb.test
async def path_latency(dut: Any) -> None:
    """A frame of one beat can be taken 7 cycles after it was on the wire."""
    path = Path(dut)
    path.take = False
    path.route = [2]
    await reset(dut)
    await cycles(dut, 10)
    path.wire.send(bytes(max(14, LANES - 4)))
    edge = RisingEdge(dut.clk)
    while not dut.path__wire__valid.value or not int(dut.path__wire__payload.value) >> (
            len(dut.path__wire__payload) - 2) & 1:
        await edge
    waited = 0
    while not path.arrived:
        await edge
        waited += 1
    # The bench's steering takes a cycle that Steer does not, and the sink one to tell.
    dut._log.info("wire to arrivals: %d cycles", waited - 1)
    assert waited - 1 <= 8


@cocotb.test
async def small_frames_at_full_rate(dut: Any) -> None:
    """One frame of a beat every second cycle: all arrive, and as fast."""
    path = Path(dut)
    path.route = [0]
    await reset(dut)
    await cycles(dut, 10)
    count = 100
    size = max(14, LANES - 4)
    beats = -(-size // LANES)
    for number in range(count):
        path.wire.send(bytes([number]) * size)
        if beats == 1:
            await cycles(dut, 2)
    await path.wire.drain()
    await cycles(dut, 25)
    assert not path.drops
    assert not path.entry_drops
    assert path.received[0] == [bytes([number]) * size for number in range(count)]


@cocotb.test
@cocotb.parametrize(name=["path", "generous"])
async def a_queue_has_its_share(dut: Any, name: str) -> None:
    """A queue that nobody empties fills its share, and another one gets through."""
    path = Path(dut, name)
    path.take = False
    path.route = [2]
    await reset(dut)
    size = CELL  # one cell
    sent = path.cells + 6
    for _ in range(sent):
        path.wire.send(bytes(size))
        await path.wire.drain()
        await cycles(dut, 10)
    full = len(path.arrived)
    if name == "path":
        # It holds as much as it leaves free.
        assert full == path.cells // 2
        assert set(path.drops) == {(2, AdmissionDrop.QUEUE_FULL.value)}
    else:
        assert full == path.cells
        assert set(path.drops) == {(2, AdmissionDrop.POOL_FULL.value)}
    assert len(path.drops) == sent - full
    path.drops.clear()
    path.route = [6]
    for _ in range(30):
        path.wire.send(bytes(size))
        await path.wire.drain()
        await cycles(dut, 10)
    other = path.arrived.count(6)
    if name == "path":
        # Half of what was left; and what a queue may always have, the longest frame's cells.
        assert other == max(path.cells // 4, MAX_CELLS)
    else:
        assert other == 0
        assert set(path.drops) == {(6, AdmissionDrop.POOL_FULL.value)}
    path.pop()
    await cycles(dut, 800)
    assert int(path.free.value) == path.cells
    path.wire.send(bytes(LONGEST))
    await cycles(dut, 60)
    path.pop()
    await cycles(dut, 60)
    assert path.received[6][-1] == bytes(LONGEST)


@cocotb.test
async def nobody_looks_at_arrivals(dut: Any) -> None:
    """What was not announced yet waits on its way, and no frame is lost or sent elsewhere."""
    path = Path(dut, "generous")
    path.arrivals.pace = never()
    await reset(dut)
    await cycles(dut, 10)
    count = 60
    path.route = [2 * (number % 4) for number in range(count)]
    for number in range(count):
        path.wire.send(bytes([number]) * CELL)
    await path.wire.drain()
    await cycles(dut, 100)
    assert not path.arrived
    path.arrivals.pace = always()
    await cycles(dut, 600)
    # More than the arrivals and the frames on their way hold, the entry holds, or drops whole.
    assert not path.drops
    total = sum(map(len, path.received.values()))
    assert total == count - len(path.entry_drops)
    assert total >= 32
    if not path.entry_drops:
        for queue, packets in path.received.items():
            assert packets == [bytes([number]) * CELL for number in range(queue // 2, count, 4)]
    assert int(path.free.value) == path.cells
