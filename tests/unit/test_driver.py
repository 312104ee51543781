"""The driver against a card in plain Python, which complains about what a driver must not do."""

from __future__ import annotations

import random
import struct
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_driver.buffers import Shape
from sw_driver.layouts import Feature, NetConfig, Status
from sw_driver.net import DeviceNeedsReset, NetDevice
from sw_driver.pci import scan
from sw_driver.ring import RingError
from sw_driver.split_ring import SplitRing
from sw_driver.virtio_pci import TransportError, accept_features
from tb.model_host import run
from tests.unit.driver_world import (
    COMBINATIONS,
    CONTROL,
    EVENT_IDX,
    IN_ORDER,
    INDIRECT,
    LATE_INDEX,
    MAC,
    MERGED,
    OFFERED,
    PACKED,
    PLAIN,
    LateRing,
    machine,
    opened,
    quiet,
)

# --- coming up


@pytest.mark.virtio("DRV-CORE-INIT-01", "DRV-CORE-STAT-01", "DRV-CORE-STAT-02",
                    "DRV-PCI-COM-04", "DRV-PCI-LAY-01")
@pytest.mark.parametrize("through_config", [False, True])
@pytest.mark.parametrize("features", COMBINATIONS)
def test_open(through_config: bool, features: int) -> None:
    host = machine(features=features)

    async def work() -> NetDevice:
        function, = await scan(host)
        device = await NetDevice.probe(host, function)
        device.virtio.through_config = through_config
        await device.open()
        await device.send(b"hello" * 12)
        await device.drain()
        return device

    device = run(work())
    told = device.config
    assert (told.mac, told.mtu, told.link_up, told.speed_mbps, told.full_duplex) == (
        MAC, 1500, True, 100_000, True)
    assert host.card.accepted == device.virtio.features == features
    assert host.card.status == 15
    assert host.card.available(0) == 64  # receive buffers wait
    assert host.card.sent == [b"hello" * 12]
    quiet(host)


@pytest.mark.virtio("DRV-CORE-FEAT-01", "DRV-CORE-FEAT-04", "DRV-CORE-FEAT-05",
                    "DRV-CORE-FEAT-08", "DRV-CORE-RSVD-01", "DRV-CORE-RSVD-03",
                    "DRV-CORE-RSVD-07")
def test_unknown_features_are_left_alone() -> None:
    host = machine(features=OFFERED | 1 << 24 | 1 << 90 | 1 << 127 | 1 << Feature.RSS)
    device = opened(host)
    assert host.card.accepted == device.virtio.features == OFFERED
    quiet(host)


@pytest.mark.virtio("DRV-CORE-FEAT-02")
def test_no_feature_without_what_it_depends_on() -> None:
    depends = {1: ((2, 3),), 2: ((4,),)}
    assert accept_features(0b00110, (1, 2, 3), depends) == 0
    assert accept_features(0b10110, (1, 2, 4), depends) == 0b10110
    assert accept_features(0b01010, (1, 2, 3), depends) == 0b01010


@pytest.mark.virtio("DRV-CORE-FEAT-06", "DRV-NET-CFG-04", "DRV-NET-CFG-05", "DRV-CORE-CFG-03")
def test_a_device_that_offers_little() -> None:
    host = machine(features=1 << Feature.VERSION_1)
    device = opened(host)
    assert device.config.mac[0] == 2
    told = device.config
    assert (told.mtu, told.link_up, told.speed_mbps, told.full_duplex) == (
        None, True, None, None)
    quiet(host)


@pytest.mark.virtio("DRV-NET-CFG-11")
@pytest.mark.parametrize(("speed", "duplex", "wanted"), [
    (0xFFFF_FFFF, 0xFF, (None, None)), (0x8000_0000, 2, (None, None)),
    (0x7FFF_FFFF, 0, (0x7FFF_FFFF, False)), (0, 1, (0, True))])
def test_speed_and_duplex_out_of_range_are_unknown(
        speed: int, duplex: int, wanted: tuple[object, object]) -> None:
    host = machine()
    host.card.net_config[12:17] = struct.pack("<IB", speed, duplex)
    device = opened(host)
    assert (device.config.speed_mbps, device.config.full_duplex) == wanted


@pytest.mark.virtio("DRV-CORE-FEAT-07", "DRV-CORE-INIT-05", "DRV-CORE-INIT-06")
@pytest.mark.parametrize("refuse", [False, True])
def test_a_device_that_is_impossible_is_failed(refuse: bool) -> None:
    host = machine(features=OFFERED if refuse else OFFERED & ~(1 << Feature.VERSION_1))
    host.card.refuse_features = refuse
    with pytest.raises(TransportError, match="refuses" if refuse else "VERSION_1"):
        opened(host)
    assert host.card.status & (Status.FAILED | Status.DRIVER_OK) == Status.FAILED


@pytest.mark.virtio("DRV-CORE-CFG-02", "DRV-CORE-CFG-01")
def test_configuration_that_changes_while_it_is_read() -> None:
    host = machine()
    new = struct.pack("<6sHHHIB", b"\x06abcde", 0, 1, 9000, 25_000, 1)

    def change() -> None:
        host.card.net_config[:17] = new

    host.card.change_config_once = change
    device = opened(host)
    told = device.config
    assert (told.mac, told.mtu, told.speed_mbps) == (b"\x06abcde", 9000, 25_000)


@pytest.mark.virtio("DRV-PCI-COM-05", "DRV-CORE-RST-01")
def test_reset_is_waited_for() -> None:
    host = machine()
    device = opened(host)
    host.card.reset_reads = 5
    begun = host.cycle
    run(device.close())
    assert host.cycle - begun >= 5 * 50
    assert host.memory.regions == []  # everything was given back
    quiet(host)


@pytest.mark.virtio("DRV-PCI-MSIX-01", "DRV-PCI-MSIX-04", "DRV-PCI-MSIX-05", "DRV-PCI-INT-01")
@pytest.mark.parametrize("vectors", [1, 2, 3, 5])
@pytest.mark.parametrize(("features", "notify_multiplier"), [
    (PLAIN, 0), (PLAIN, 2), (OFFERED, 0), (OFFERED, 4)])
def test_any_number_of_vectors(vectors: int, features: int, notify_multiplier: int) -> None:
    host = machine(vectors=vectors, features=features, notify_multiplier=notify_multiplier)
    device = opened(host)
    frames = [bytes([number]) * 100 for number in range(100)]
    host.each_step = lambda: None
    run(device.send_many(frames, batch=8))
    run(device.drain())
    assert host.card.sent == frames
    for number in range(20):
        assert host.card.deliver(frames[number])
        assert run(device.receive()) == frames[number]
    assert run(device.receive(100)) is None
    quiet(host)


# --- frames


def shapes() -> st.SearchStrategy[Shape]:
    return st.builds(Shape, segments=st.sampled_from([(1, 1), (1, 3), (2, 7)]),
                     offsets=st.sampled_from([(0, 0), (0, 63), (61, 61)]))


MORE = [PACKED, INDIRECT, MERGED, CONTROL]


@settings(max_examples=120)
@given(st.sampled_from([4, 16, 64]), st.tuples(shapes(), shapes()), st.tuples(*[st.booleans()] * 3),
       st.tuples(st.sampled_from(COMBINATIONS), st.sets(st.sampled_from(MORE)),
                 *[st.booleans()] * 3), st.integers(0, 1000))
@pytest.mark.virtio("DRV-SPL-RING-01", "DRV-SPL-RING-06", "DRV-NET-TX-01", "DRV-NET-TX-02",
                    "DRV-NET-TX-03", "DRV-NET-TX-29", "DRV-NET-TX-40", "DRV-NET-RXB-02",
                    "DRV-PCI-KICK-01", "DRV-PCI-KICK-02", "DRV-PCI-KICK-03", "DRV-PCI-KICK-04",
                    "DRV-SPL-EVT-01", "DRV-SPL-EVT-03", "DRV-SPL-EVT-09", "DRV-SPL-EVT-11",
                    "DRV-SPL-RING-05", "DRV-NET-RXB-03", "DRV-NET-CFG-08", "DRV-CORE-RSVD-06",
                    "DRV-SPL-IND-01", "DRV-PKT-IND-01", "DRV-PKT-RING-04")
def test_frames_both_ways(size: int, ways: tuple[Shape, Shape],
                          switches: tuple[bool, bool, bool],
                          card: tuple[int, set[int], bool, bool, bool], seed: int) -> None:
    """With any features; the card may look at a ring only when kicked, or close batches.

    Where buffers are merged, they are so small that the largest frame takes all of them.
    """
    (transmit, receive), (interrupts, suppress, shuffle) = ways, switches
    features, more, kicks_only, close_batches, late = card
    features |= sum(more)
    rng = random.Random(seed)
    size -= bool(features & PACKED)
    buffers = size if features & INDIRECT else size // min(size, receive.segments[1])
    host = machine(features=features, first_index=LATE_INDEX if late else 0)
    host.card.kicks_only, host.card.close_batches = kicks_only, close_batches
    with patch("sw_driver.net.queues.SplitRing", LateRing if late else SplitRing):
        device = opened(host, queue_size=size, transmit_shape=transmit, receive_shape=receive,
                        interrupts=interrupts, suppress=suppress, shuffle=shuffle, seed=seed,
                        receive_bytes=-(-1544 // buffers) if features & MERGED else None)
    assert device.virtio.features == features & ~(IN_ORDER if shuffle else 0)
    frames = [rng.randbytes(rng.choice([1, 14, 60, 61, 1514, 1518])) for _ in range(3 * size)]
    run(device.send_many(frames, batch=rng.choice([1, 5, 32])))
    run(device.drain())
    assert host.card.sent == frames
    expected = list(frames)
    arriving = list(frames)

    def wire() -> None:
        while arriving and rng.random() < 0.7 and host.card.deliver(arriving[0]):
            arriving.pop(0)

    host.each_step = wire
    received = []
    while (frame := run(device.receive(5000))) is not None:
        received.append(frame)
    assert received == expected
    quiet(host)
    run(device.close())
    assert host.memory.regions == []


@pytest.mark.virtio("DRV-SPL-EVT-08", "DRV-SPL-EVT-12")
@pytest.mark.parametrize("features", [PLAIN, OFFERED])
def test_no_kick_where_none_is_wanted(features: int) -> None:
    host = machine(features=features)
    device = opened(host)
    host.card.set_no_notify(1, True)
    kicks = host.card.kicks
    run(device.send_many([b"a" * 60] * 64))
    assert (host.card.kicks - kicks, device.statistics.kicks_spared) == (0, 2)
    quiet(host)


@pytest.mark.virtio("DRV-SPL-EVT-05")
def test_interrupts_without_anything_are_borne() -> None:
    host = machine()
    device = opened(host)
    host.each_step = lambda: host.card._raise(host.card.queues[0].vector)
    assert run(device.receive(200)) is None
    assert device.statistics.empty_wakes > 5


def test_interrupts_are_only_asked_for_while_waiting() -> None:
    host = machine(features=PLAIN)
    device = opened(host)
    receive = host.card.queues[0]
    flags = []
    host.each_step = lambda: flags.append(host.memory.read(receive.address(1), 2)[0])
    assert run(device.receive(50)) is None
    assert flags == [0] * 5
    run(host.sleep(10))
    assert flags[-1] == 1


@pytest.mark.virtio("DRV-SPL-EVT-04")
def test_interrupts_by_index_are_only_asked_for_while_waiting() -> None:
    """Nor is the flag touched, with EVENT_IDX."""
    host = machine(features=PLAIN | EVENT_IDX)
    device = opened(host)
    receive = host.card.queues[0]
    base, size = receive.address(1), receive.size
    seen = []
    host.each_step = lambda: seen.append(
        (host.memory.read(base, 2), *struct.unpack("<H", host.memory.read(base + 4 + 2 * size, 2))))
    run(host.sleep(10))
    assert run(device.receive(30)) is None
    run(host.sleep(10))
    behind, waits = (bytes(2), 0xFFFF), (bytes(2), 0)
    assert seen == [behind, *[waits] * 3, behind]
    interrupts = [device.queues.receive[0].interrupt, device.queues.transmit[0].interrupt]
    for number in range(3):  # frames that nobody waits for
        assert host.card.deliver(bytes([number]) * 60)
    assert [interrupt.count for interrupt in interrupts if interrupt is not None] == [0, 0]
    for number in range(3):
        assert run(device.receive()) == bytes([number]) * 60
    seen.clear()
    run(device.receive(10))
    assert seen == [(bytes(2), 3)]
    quiet(host)


@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("features", [PLAIN, OFFERED])
def test_interrupts_of_a_driver_that_never_waits(features: int, suppress: bool) -> None:
    """Without suppression each frame that is taken asks for the next one."""
    host = machine(features=features)
    device = opened(host, suppress=suppress)
    interrupt = device.queues.receive[0].interrupt
    assert interrupt is not None
    for number in range(10):
        assert host.card.deliver(bytes([number]) * 60)
        assert run(device.receive(0)) == bytes([number]) * 60
        assert interrupt.count == (0 if suppress else number + 1)
    quiet(host)


@pytest.mark.parametrize("features", [PLAIN, OFFERED])
def test_a_frame_used_between_the_look_and_the_wait_is_not_missed(features: int) -> None:
    """The device finishes at the worst moment: after the driver's look, before its request."""
    host = machine(features=features)
    device = opened(host)
    ring = device.rings[0]
    honest = ring.suppress_interrupts

    def late(suppress: bool) -> None:
        if not suppress and host.card.queues[0].used == 0:
            host.card.deliver(b"now" * 20)  # no interrupt: the driver still says it wants none
        honest(suppress)

    ring.suppress_interrupts = late  # type: ignore[method-assign]
    begun = host.cycle
    assert run(device.receive(10_000)) == b"now" * 20
    assert host.cycle - begun < 100


@pytest.mark.virtio("DRV-NET-CFG-09")
def test_frames_that_must_not_be_sent() -> None:
    device = opened(machine())
    for size in (0, 1519):
        with pytest.raises(ValueError, match=f"a frame of {size} bytes"):
            run(device.send(bytes(size)))


def test_a_device_that_stands_still() -> None:
    host = machine()
    device = opened(host, queue_size=16)
    host.card.available = lambda number: 0  # type: ignore[method-assign]
    with pytest.raises(TransportError, match="nothing was used"):
        run(device.send_many([b"a" * 60] * 17))


# --- faults


@pytest.mark.virtio("DRV-CORE-STAT-04", "DRV-CORE-STAT-03")
def test_needs_reset() -> None:
    host = machine()
    device = opened(host)
    steps = iter(range(100))
    host.each_step = lambda: host.card.break_down() if next(steps) == 3 else None
    with pytest.raises(DeviceNeedsReset):
        run(device.receive(10_000))
    with pytest.raises(DeviceNeedsReset):
        run(device.send(b"a" * 60))
    run(device.recover())
    run(device.send(b"b" * 60))
    run(device.drain())
    assert host.card.sent == [b"b" * 60]
    assert host.card.deliver(b"c" * 60)
    assert run(device.receive()) == b"c" * 60
    quiet(host)


@pytest.mark.virtio("DRV-NET-CFG-06", "DRV-NET-CFG-12")
def test_a_configuration_change_is_noticed() -> None:
    host = machine()
    device = opened(host)
    host.card.net_config[NetConfig.STATUS.offset] = 0
    host.card.net_config[12:16] = struct.pack("<I", 25_000)
    host.card.change_config()
    assert run(device.receive(50)) is None
    assert (device.config.link_up, device.config.speed_mbps) == (False, 25_000)
    quiet(host)


@pytest.mark.parametrize(("id_", "length", "ahead", "text"), [
    (3, 0, 1, "names 3, which is no chain"),
    (99, 0, 1, "names 99"),
    (0, 101, 1, "101 bytes written to chain 0, which has room for 100"),
    (0, 0, 2, "2 chains used, 1 given"),
    (0, 0, 0xFFFF, "65535 chains used"),
])
def test_a_used_ring_that_makes_no_sense(id_: int, length: int, ahead: int, text: str) -> None:
    host = machine()
    ring: SplitRing[str] = SplitRing(host, 8)
    ring.add([(0x1000, 10)], [(0x2000, 60), (0x3000, 40)], "token")
    ring.publish()
    ring.used.write(4, struct.pack("<II", id_, length))
    ring.used.write(2, struct.pack("<H", ahead))
    with pytest.raises(RingError, match=text):
        ring.take_used()


def test_a_chain_that_was_not_published_cannot_be_used() -> None:
    host = machine()
    ring: SplitRing[str] = SplitRing(host, 8)
    ring.add([(0x1000, 10)], [], "token")
    ring.used.write(2, struct.pack("<H", 1))
    with pytest.raises(RingError, match="1 chains used, 0 given"):
        ring.take_used()


def test_sizes_that_are_no_power_of_two() -> None:
    for size in (0, 3, 65536):
        with pytest.raises(ValueError, match="power of two"):
            SplitRing(machine(), size)
