"""The vhost-user back-end, with a front-end in Python on the other end of a socket pair."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.config import NicConfig
from sim.guest.clock import Clock
from sim.guest.vhost_user import IN_BAND as OFFERED_IN_BAND
from sim.guest.vhost_user import PROTOCOL_FEATURES
from sim.guest.vhost_user_card import NEVER_OFFERED, BridgedCard
from sim.guest.vhost_user_messages import ProtocolFeature, Request
from sim.guest.vhost_user_server import VhostUserServer
from sim.native.engine import Engine, EngineOptions
from sw_driver.layouts import Feature
from tests.unit.vhost_user_model import (
    ACKED,
    GUEST,
    HAS_PROTOCOL,
    IN_BAND,
    LOG_ALL,
    PAGE,
    SIZE,
    USER,
    GuestFile,
    Model,
    Queue,
)

CONFIG = NicConfig.preset("full")
BASE = 1 << Feature.VERSION_1 | 1 << Feature.MRG_RXBUF
SPLIT, PACKED = BASE, BASE | 1 << Feature.RING_PACKED
RINGS = pytest.mark.parametrize("features", [
    SPLIT, PACKED, SPLIT | 1 << Feature.EVENT_IDX, PACKED | 1 << Feature.IN_ORDER],
    ids=["split", "packed", "split-event-idx", "packed-in-order"])


class Line:
    """The far end of the wire: sends what it is told, and keeps what comes."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._frames: deque[bytes] = deque()
        self.came: list[bytes] = []

    def send(self, frames: list[bytes]) -> None:
        self._frames += frames
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def receive(self) -> bytes | None:
        if self._frames:
            return self._frames.popleft()
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass
        return None

    def transmit(self, frame: bytes) -> None:
        self.came.append(frame)

    def close(self) -> None:
        os.close(self._event)


class Bench:
    """A card, and the front-ends of a test."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.line = Line()
        self.clock = Clock(engine, self.line)
        self.card = BridgedCard(self.clock, CONFIG)
        self._models: list[Model] = []

    def model(self, **options: Any) -> Model:
        self._models.append(Model(self.clock, self.card, **options))
        return self._models[-1]

    def close(self) -> None:
        for model in self._models:
            if model.socket.fileno() >= 0:
                model.close()
        assert not self.engine.memory.regions
        self.clock.close()
        self.line.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Engine(CONFIG, EngineOptions(latency_cycles=0)) as engine:
        bench = Bench(engine)
        yield bench
        bench.close()


def frames(count: int, first: int = 0, size: int = 60) -> list[bytes]:
    return [b"\x02RNG\x00\x01\x02RNG\x00\x02\x88\xb5" + struct.pack(">I", number).ljust(
        size - 14, bytes([number % 256])) for number in range(first, first + count)]


def carry(bench: Bench, model: Model, receive: Queue, transmit: Queue, count: int, *,
          first: int = 0) -> None:
    """Send frames both ways; each must come once, in order, and be told of."""
    model.until_running(receive, transmit)
    model.received.clear()
    bench.line.came.clear()
    calls = receive.calls
    wanted = frames(count, first)
    for at in range(0, count, 16):
        part = wanted[at:at + 16]
        bench.line.send(part)
        for frame in part:
            transmit.give(frame)
        model.publish(transmit)
        model.until_received(at + len(part))
        model.until_used(transmit)
    model.run(lambda: len(bench.line.came) >= count)
    assert model.received == wanted
    assert bench.line.came == wanted
    # With EVENT_IDX one who takes frames before the card asks wants no interrupt for them.
    if not model.features >> Feature.EVENT_IDX & 1:
        model.run(lambda: receive.calls > calls)


# --- agreeing

def test_what_is_offered(bench: Bench) -> None:
    model = bench.model()
    offered = model.get(Request.GET_FEATURES)
    assert not any(offered >> bit & 1 for bit in NEVER_OFFERED)
    for bit in (Feature.VERSION_1, Feature.RING_PACKED, Feature.IN_ORDER, Feature.MQ, 26, 30):
        assert offered >> bit & 1
    model.do_protocol()
    assert model.get(Request.GET_QUEUE_NUM) == CONFIG.queue_pairs
    assert model.get(Request.GET_MAX_MEM_SLOTS) == 32
    assert model.ask(Request.SET_FEATURES, struct.pack("<Q", 1 << Feature.ACCESS_PLATFORM)) == 1


def test_the_configuration_is_the_cards(bench: Bench) -> None:
    model = bench.model()
    model.begin(BASE | 1 << Feature.MAC)
    header = struct.pack("<III", 0, 12, 0)
    model.send(Request.GET_CONFIG, header + bytes(12))
    answer = model.answer()
    assert answer is not None
    assert answer[:12] == header
    assert answer[12:18] == CONFIG.mac.to_bytes(6, "big")
    assert int.from_bytes(answer[22:24], "little") == CONFIG.mtu
    model.send(Request.GET_CONFIG, struct.pack("<III", 250, 12, 0) + bytes(12))
    assert model.answer() == b""
    # Nothing in it is the driver's to write; and that is no reason to refuse.
    model.do(Request.SET_CONFIG, struct.pack("<III", 0, 6, 0) + b"\xaa" * 6)
    model.send(Request.GET_CONFIG, header + bytes(12))
    assert model.answer() == answer
    bench.engine.set_link_up(False)
    model.send(Request.GET_CONFIG, struct.pack("<III", 6, 2, 0) + bytes(2))
    assert (model.answer() or b"")[12:] == b"\0\0"


# --- traffic

@RINGS
@pytest.mark.parametrize("protocol", [ACKED, IN_BAND, ACKED & 0],
                         ids=["descriptors", "in-band", "no-answers"])
def test_frames_both_ways(bench: Bench, features: int, protocol: Any) -> None:
    model = bench.model(protocol=protocol)
    model.begin(features)
    receive, transmit = model.pair()
    carry(bench, model, receive, transmit, 200)
    assert model.front.queues.active == (0, 1)
    assert not model.front.refused and not model.gone


def test_a_change_of_the_link_is_told(bench: Bench) -> None:
    model = bench.model(protocol=IN_BAND)
    model.begin(BASE | 1 << Feature.STATUS)
    receive, transmit = model.pair()
    carry(bench, model, receive, transmit, 16)
    bench.engine.set_link_up(False)
    transmit.give(frames(1)[0])
    model.publish(transmit)

    def told() -> bool:
        model.look()
        return model.changes > 0
    model.run(told)


def test_pairs_are_used_as_they_are_enabled(bench: Bench) -> None:
    """The front-end keeps the control queue, so that the bridge has to command the card."""
    model = bench.model()
    model.begin(BASE | 1 << Feature.MQ)
    receive, transmit = model.pair(0)
    second, other = model.pair(1)
    flows = [b"\x02RNG\x00\x01\x02RNG\x00\x02\x08\x00E\x00\x00\x2e" + bytes(8)
             + bytes((10, 0, 0, flow, 10, 1, 1, 1)) + bytes(26) for flow in range(32)]
    bench.line.send(flows)
    model.until_received(32)
    assert receive.ring.outstanding and second.calls and receive.calls
    assert sorted(model.received) == flows
    other.give(frames(1)[0])
    model.publish(other)
    model.run(lambda: bench.line.came == frames(1))

    for index in (3, 2):
        model.enable(index, False)
    model.run(lambda: model.front.queues.active == (0, 1))
    model.look()
    seen = second.calls
    bench.line.send(flows)
    model.until_received(64)
    assert second.calls == seen
    carry(bench, model, receive, transmit, 32)


# --- memory

@RINGS
def test_memory_changes_amid_traffic(bench: Bench, features: int) -> None:
    model = bench.model()
    model.begin(features)
    receive, transmit = model.pair()
    for step in range(4):
        carry(bench, model, receive, transmit, 48, first=48 * step)
        dropped = bench.card.drops()["queue_down"]
        bench.line.send(frames(8, 1000))
        model.show_memory()  # while the card rests, what comes is dropped
        bench.clock.run(timeout_s=0.1)
        model.look()
        assert len(model.received) + bench.card.drops()["queue_down"] - dropped == 56
    extra = GuestFile()
    region = struct.pack("<QQQQQ", 0, GUEST + SIZE, SIZE, USER + SIZE, 0)
    model.do(Request.ADD_MEM_REG, region, [extra.fd])
    carry(bench, model, receive, transmit, 48, first=5000)
    model.do(Request.REM_MEM_REG, region)
    assert model.ask(Request.REM_MEM_REG, region) == 1
    carry(bench, model, receive, transmit, 48, first=6000)
    assert len(bench.engine.memory.regions) == 1 + len(bench_control(bench))


def bench_control(bench: Bench) -> list[Any]:
    """Give the bridge's own memory."""
    return [region for region in bench.engine.memory.regions if region.address >= 1 << 62]


def test_nothing_reaches_memory_that_was_taken_away(bench: Bench) -> None:
    model = bench.model()
    model.begin(PACKED)
    receive, transmit = model.pair()
    carry(bench, model, receive, transmit, 16)
    model.do(Request.SET_MEM_TABLE, struct.pack("<II", 0, 0))
    before = model.memory.bytes.copy()
    bench.line.send(frames(20))
    bench.clock.run(timeout_s=0.2)
    assert np.array_equal(before, model.memory.bytes)
    assert not model.front.queues.active
    assert not bench.clock.violations_seen


def test_rings_move_with_their_memory(bench: Bench) -> None:
    """The same bytes at another guest physical address: the card must look for its rings there."""
    model = bench.model()
    model.begin(SPLIT)
    queues = model.pair()
    carry(bench, model, *queues, 16)
    moved = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", GUEST + SIZE, SIZE, USER, 0)
    model.do(Request.SET_MEM_TABLE, moved, [model.memory.fd])
    model.until_running(*queues)
    bench.clock.run(timeout_s=0.1)
    for queue in queues:
        setup = bench.card.queues[queue.index]
        assert setup.descriptors == queue.ring.areas[0].address + SIZE
        assert setup.position == 16
    model.show_memory()
    bench.clock.run(timeout_s=0.1)
    carry(bench, model, *queues, 16, first=16)


# --- positions

@RINGS
@pytest.mark.parametrize("counts", [(37, 64, 27, 100), (64, 64, 1)], ids=["odd", "whole laps"])
def test_another_connection_goes_on(bench: Bench, features: int, counts: tuple[int, ...]) -> None:
    """Where one stops, the next one begins: nothing is lost, and nothing is done twice."""
    memory = GuestFile()
    queues: tuple[Queue, Queue] | None = None
    bases = [0, 0]
    total = 0
    for count in counts:
        model = bench.model(memory=memory)
        model.begin(features)
        if queues is None:
            queues = model.pair()
        else:
            for queue, base in zip(queues, bases, strict=True):
                model.start(queue, base)
        carry(bench, model, *queues, count, first=total)
        total += count
        bases = [model.stop(queue.index) for queue in queues]
        laps, place = divmod(total, 64)
        told = place | (laps + 1) % 2 << 15
        if features >> Feature.RING_PACKED & 1:
            assert bases == [told | told << 16] * 2
        else:
            assert bases == [total] * 2
        model.queues.clear()  # the next connection has them
        model.close()


def test_what_was_given_before_the_start_is_taken(bench: Bench) -> None:
    """No kick comes for what is in the rings already, as after a migration."""
    model = bench.model()
    model.begin(PACKED)
    receive, transmit = (model.new_queue(index) for index in (0, 1))
    receive.fill(32)
    receive.ring.publish()
    for frame in frames(5):
        transmit.give(frame)
    transmit.ring.publish()
    for queue, base in ((receive, 0x8000), (transmit, 0x8000_8000)):
        model.start(queue, base)
    model.run(lambda: bench.line.came == frames(5))
    model.until_running(receive, transmit)
    bench.line.send(frames(5))
    model.until_received(5)


# --- the log of dirty pages

def unmarked(bench: Bench, features: int, *, forget: bool = False) -> list[int]:
    """Carry frames with the log on; give the pages that the card changed and did not mark."""
    model = bench.model()
    model.begin(features)
    receive, transmit = model.pair()
    carry(bench, model, receive, transmit, 16)
    pages = (GUEST + SIZE) // PAGE
    log = os.memfd_create("log")
    os.ftruncate(log, 4160 + pages // 8)
    model.send(Request.SET_LOG_BASE, struct.pack("<QQ", pages // 8, 4160), [log])
    assert model.answer() == bytes(8)
    model.do(Request.SET_FEATURES, struct.pack("<Q", model.features | LOG_ALL))
    for queue in (receive, transmit):
        model.do(Request.SET_VRING_ADDR, model.addresses(queue, logged=True))
    assert model.front.queues.active == (0, 1)
    if forget:
        bench.engine.memory.log_dirty(None)
    # The driver's own stores change pages as well: so nothing is given while it is looked at.
    bench.clock.run(timeout_s=0.1)
    transmit.give(frames(1)[0])
    transmit.ring.publish()
    before = model.memory.bytes.copy()
    bench.line.send(frames(8))
    bench.card.notify(1)
    model.run(lambda: len(bench.line.came) == 17)
    bench.clock.run(timeout_s=0.1)
    changed = {int(at) // PAGE + GUEST // PAGE
               for at in np.flatnonzero(before != model.memory.bytes)}
    assert len(changed) >= 3
    bits = np.unpackbits(np.frombuffer(os.pread(log, pages // 8, 4160), np.uint8),
                         bitorder="little")
    os.close(log)
    assert bits.sum() < pages // 2
    model.do(Request.SET_FEATURES, struct.pack("<Q", model.features))
    model.until_received(24)  # which the driver has not looked at yet
    model.until_used(transmit)
    carry(bench, model, receive, transmit, 16)
    return sorted(page for page in changed if not bits[page])


@RINGS
def test_every_written_page_is_logged(bench: Bench, features: int) -> None:
    assert not unmarked(bench, features)


def test_without_marking_the_log_is_found_wanting(bench: Bench) -> None:
    assert len(unmarked(bench, PACKED, forget=True)) >= 3


def test_a_used_ring_logged_elsewhere_is_refused(bench: Bench) -> None:
    model = bench.model()
    model.begin(SPLIT)
    receive, _transmit = model.pair()
    model.run(lambda: bool(model.front.queues.active))
    wrong = bytearray(model.addresses(receive, logged=True))
    wrong[-8:] = struct.pack("<Q", GUEST)
    assert model.ask(Request.SET_VRING_ADDR, bytes(wrong)) == 1
    assert "is to be logged as" in model.front.refused[-1]


# --- what front-ends do wrong

def state(index: int, number: int) -> bytes:
    return struct.pack("<II", index, number)


def table(*regions: tuple[int, int, int, int]) -> bytes:
    return struct.pack("<II", len(regions), 0) + b"".join(
        struct.pack("<QQQQ", *region) for region in regions)


BAD: dict[str, tuple[int, bytes, int, str]] = {
    # request, payload, descriptors of the guest's memory, what is said
    "unknown": (99, b"", 0, "request 99 is not known"),
    "short number": (Request.SET_FEATURES, b"\x01", 0, "has 1 bytes, must have 8"),
    "no descriptor": (Request.SET_BACKEND_REQ_FD, b"", 0, "comes with 0 file descriptors"),
    "protocol": (Request.SET_PROTOCOL_FEATURES, struct.pack("<Q", 1 << 40), 0, "not offered"),
    "in-band alone": (Request.SET_PROTOCOL_FEATURES, struct.pack("<Q", 1 << 14 | 8), 0,
                      "without BACKEND_REQ"),
    "kick not in band": (Request.VRING_KICK, state(0, 0), 0, "not agreed on"),
    "queue": (Request.SET_VRING_NUM, state(33, 64), 0, "no queue 33"),
    "queue of kick": (Request.SET_VRING_CALL, struct.pack("<Q", 0x1FF), 0, "no queue 255"),
    "bits of kick": (Request.SET_VRING_KICK, struct.pack("<Q", 1 << 20), 0, "mean nothing"),
    "no entries": (Request.SET_VRING_NUM, state(0, 0), 0, "must have 1 to 1024"),
    "entries": (Request.SET_VRING_NUM, state(0, 2048), 0, "must have 1 to 1024"),
    "kick is a file": (Request.SET_VRING_KICK, struct.pack("<Q", 0), 1, "is a file"),
    "regions": (Request.SET_MEM_TABLE, struct.pack("<II", 9, 0) + bytes(9 * 32), 8,
                "table of 9 regions"),
    "region cut": (Request.SET_MEM_TABLE, table((GUEST, SIZE, USER, 0))[:-1], 1, "1 regions in"),
    "region without file": (Request.SET_MEM_TABLE, table((GUEST, SIZE, USER, 0)), 0,
                            "with 0 file descriptors"),
    "region of nothing": (Request.SET_MEM_TABLE, table((GUEST, 0, USER, 0)), 1, "must end below"),
    "region too high": (Request.SET_MEM_TABLE, table((1 << 62, SIZE, USER, 0)), 1,
                        "must end below"),
    "region on interrupts": (Request.SET_MEM_TABLE, table((0xFEE0_0000 - PAGE, SIZE, USER, 0)), 1,
                             "on interrupts"),
    "region behind the file": (Request.SET_MEM_TABLE, table((GUEST, SIZE, USER, PAGE)), 1,
                               "ends at"),
    "region askew": (Request.SET_MEM_TABLE, table((GUEST, PAGE, USER, 8)), 1, "modulo 16"),
    "regions overlap": (Request.SET_MEM_TABLE, table(
        (GUEST, PAGE, USER, 0), (GUEST + 16, PAGE, USER + PAGE, 0)), 2, "overlap"),
    "regions overlap there": (Request.SET_MEM_TABLE, table(
        (GUEST, PAGE, USER, 0), (GUEST + SIZE, PAGE, USER + 16, 0)), 2, "overlaps"),
    "no such region": (Request.REM_MEM_REG, struct.pack("<QQQQQ", 0, 1, 2, 3, 4), 0,
                       "there is no memory"),
    "log behind the file": (Request.SET_LOG_BASE, struct.pack("<QQ", PAGE, SIZE), 1, "ends at"),
    "log of nothing": (Request.SET_LOG_BASE, struct.pack("<QQ", 0, 0), 1, "a log of 0 bytes"),
    "configuration": (Request.SET_CONFIG, struct.pack("<III", 200, 100, 0) + bytes(100), 0,
                      "must end within 256"),
    "configuration cut": (Request.SET_CONFIG, struct.pack("<III", 0, 10, 0) + bytes(9), 0,
                          "in a payload of 9"),
    "configuration beyond": (Request.SET_CONFIG, struct.pack("<III", 200, 10, 0) + bytes(10), 0,
                             "it has"),
}


def fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("name", BAD)
def test_impossible_requests(bench: Bench, name: str) -> None:
    """An error where one is wanted, or the end; no descriptor stays, and the next one is served."""
    request, payload, files, said = BAD[name]
    before = fds()
    for answered in (True, False):
        model = bench.model(protocol=ACKED if answered else ACKED & ~8)
        model.begin(BASE)
        model.send(request, payload, [model.memory.fd] * files, flags=9)
        answer = model.answer()
        assert said in (model.front.refused or model.gone)[-1]
        if answered or request == Request.SET_LOG_BASE:
            assert answer == (1).to_bytes(8, "little")
            assert not model.gone
        else:
            assert answer is None
            assert model.gone
        if answered:
            if request == Request.SET_MEM_TABLE:
                model.show_memory()
            carry(bench, model, *model.pair(), 16)
        model.close()
        model.memory.close()
        assert fds() == before
    again = bench.model()
    again.begin(PACKED)
    carry(bench, again, *again.pair(), 16)


@pytest.mark.parametrize(("data", "said"), [
    (struct.pack("<III", 1, 0, 0), "the version must be 1"),
    (struct.pack("<III", 1, 5, 0), "a reply to nothing"),
    (struct.pack("<III", 1, 1, 1 << 31), "a message of 2147483648 bytes"),
    (b"\xff" * 64, "the version must be 1"),
], ids=["version", "reply", "long", "ones"])
def test_what_is_no_message(bench: Bench, data: bytes, said: str) -> None:
    model = bench.model()
    model.socket.send(data)
    model.run(lambda: bool(model.gone))
    assert said in model.gone[0]


def test_a_message_in_pieces(bench: Bench) -> None:
    model = bench.model()
    two = struct.pack("<III", Request.GET_QUEUE_NUM, 1, 0) * 2
    for byte in two:
        model.socket.send(bytes([byte]))
        bench.clock.run(timeout_s=0.001)
    for _ in range(2):
        assert model.answer() == CONFIG.queue_pairs.to_bytes(8, "little")


@pytest.mark.parametrize(("change", "said"), [
    ({8: USER + SIZE}, "in no region"), ({8: USER + 8}, "must be a multiple of 16"),
    ({24: 0}, "in no region"), ({16: USER + 1}, "must be a multiple of 4")])
def test_rings_that_lie_nowhere(bench: Bench, change: dict[int, int], said: str) -> None:
    model = bench.model()
    model.begin(BASE)
    queue = model.new_queue(1)
    model.start(queue)
    addresses = bytearray(model.addresses(queue))
    for at, value in change.items():
        addresses[at:at + 8] = struct.pack("<Q", value)
    model.send(Request.SET_VRING_ADDR, bytes(addresses), flags=1)
    model.run(lambda: bool(model.gone))
    assert said in model.gone[0]


def test_it_must_be_modern(bench: Bench) -> None:
    model = bench.model()
    model.begin(1 << Feature.MRG_RXBUF)
    model.start(model.new_queue(0))
    model.run(lambda: bool(model.gone))
    assert "VERSION_1" in model.gone[0]


def test_a_broken_ring_is_told_and_the_next_one_is_served(bench: Bench) -> None:
    model = bench.model()
    model.begin(SPLIT)
    _receive, transmit = model.pair()
    transmit.ring.add([(GUEST + SIZE + (1 << 40), 100)], [], None)  # memory that nobody lent
    model.publish(transmit)
    model.run(lambda: bool(model.front.queues.notes))
    assert "fault" in model.front.queues.notes[0]
    assert os.eventfd_read(transmit.error)
    assert model.stop(0) == 0
    model.close()
    again = bench.model()
    again.begin(SPLIT)
    carry(bench, again, *again.pair(), 16)


@RINGS
def test_a_front_end_vanishes_amid_traffic(bench: Bench, features: int) -> None:
    for _ in range(3):
        model = bench.model()
        model.begin(features)
        receive, transmit = model.pair()
        carry(bench, model, receive, transmit, 16)
        bench.line.send(frames(64))
        for frame in frames(20):
            transmit.give(frame)
        model.publish(transmit)
        bench.clock.run(lambda: len(bench.line.came) > 18, 10)
        model.close()
        assert not bench.engine.memory.regions
        bench.clock.run(timeout_s=0.1)
        bench.line.came.clear()


def test_a_kick_that_is_closed_does_not_keep_the_clock_busy(bench: Bench) -> None:
    model = bench.model()
    model.begin(BASE)
    queue = model.new_queue(0)
    read, write = os.pipe()
    model.start(queue)
    model.do(Request.SET_VRING_KICK, struct.pack("<Q", 0), [read])
    os.close(read)
    os.close(write)
    bench.clock.run(timeout_s=0.1)
    before = bench.clock.spent
    bench.clock.run(timeout_s=0.3)
    assert (bench.clock.spent - before).cpu_s < 0.1


def test_a_station_is_announced(bench: Bench) -> None:
    """SEND_RARP: who migrates here is heard on the wire, as RFC 903 has it."""
    model = bench.model()
    model.begin(SPLIT)
    station = bytes.fromhex("02524e470001")
    model.do(Request.SEND_RARP, station + b"\0\0")
    frame, = bench.line.came
    assert frame[:14] == b"\xff" * 6 + station + b"\x80\x35"
    assert frame[14:22] == bytes.fromhex("0001 0800 0604 0003")  # Ethernet, IPv4, reverse request
    assert frame[22:28] == frame[32:38] == station
    assert len(frame) == 60
    assert bench.card.announced == 1
    assert model.ask(Request.SEND_RARP, station) != 0  # 6 bytes, must be 8
    assert len(bench.line.came) == 1


def test_not_everybody_is_offered_messages_as_kicks() -> None:
    """QEMU accepts INBAND_NOTIFICATIONS, does not have it, and would never be called."""
    assert ProtocolFeature.INBAND_NOTIFICATIONS not in PROTOCOL_FEATURES
    assert ProtocolFeature.INBAND_NOTIFICATIONS in OFFERED_IN_BAND


def test_a_server_serves_one_after_another(bench: Bench, tmp_path: Path) -> None:
    import socket  # noqa: PLC0415
    path = tmp_path / "card.sock"
    told: list[str] = []
    server = VhostUserServer(bench.clock, bench.card, path, told=told.append)
    ask = struct.pack("<III", Request.GET_FEATURES, 1, 0)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        for link in (one, two):
            link.connect(str(path))
            link.send(ask)
        bench.clock.run(timeout_s=0.1)
        assert int.from_bytes(one.recv(20)[12:], "little") >> 30 & 1 == HAS_PROTOCOL >> 30
        two.setblocking(False)
        with pytest.raises(BlockingIOError):
            two.recv(20)
        one.close()
        bench.clock.run(lambda: server.served == 2, 5)
        bench.clock.run(timeout_s=0.1)
        assert len(two.recv(20)) == 20
    server.close()
    assert len(told) == 4
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        VhostUserServer(bench.clock, bench.card, path)
    with pytest.raises(ValueError, match="too long for a socket"):
        VhostUserServer(bench.clock, bench.card, tmp_path / ("x" * 108))
