"""The driver against a card in plain Python, which complains about what a driver must not do."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Generator, Iterator
from itertools import combinations
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sw_driver.buffers import Shape
from sw_driver.layouts import ConfigType, Feature, NetConfig, SplitLayout, Status
from sw_driver.net import SUPPORTED, DeviceNeedsReset, NetDevice, NetOptions
from sw_driver.pci import PciError, scan
from sw_driver.pci_layouts import Power
from sw_driver.split_ring import RingError, RingFull, SplitRing
from sw_driver.virtio_pci import TransportError, VirtioPci, accept_features
from tb.memory import Region
from tb.model_host import ModelHost, run

OFFERED = sum(1 << bit for bit in SUPPORTED)
RING_FEATURES = (Feature.EVENT_IDX, Feature.NOTIFICATION_DATA, Feature.IN_ORDER)
"""What changes how the rings are used."""
PLAIN = OFFERED & ~sum(1 << bit for bit in RING_FEATURES)
COMBINATIONS = [PLAIN | sum(1 << bit for bit in some)
                for count in range(4) for some in combinations(RING_FEATURES, count)]
EVENT_IDX, NOTIFICATION_DATA, IN_ORDER = (1 << bit for bit in RING_FEATURES)
LATE_INDEX = 65530
"""An index that is about to wrap."""
MAC = bytes.fromhex("02524e470007")


def machine(*, features: int = OFFERED, **card: Any) -> ModelHost:
    host = ModelHost(features=features, **card)
    host.card.net_config[:17] = struct.pack("<6sHHHIB", MAC, 1, 1, 1500, 100_000, 1)
    return host


def opened(host: ModelHost, **options: object) -> NetDevice:
    """Find the card, and open it."""

    async def work() -> NetDevice:
        function, = await scan(host)
        device = await NetDevice.probe(host, function, NetOptions(**options))  # type: ignore[arg-type]
        await device.open()
        return device

    return run(work())


def start_late(ring: SplitRing[Any]) -> None:
    """Let the indices of a fresh ring begin shortly before they wrap."""
    first = struct.pack("<H", LATE_INDEX)
    ring.available.write(2, first)
    ring.used.write(2, first)
    ring.available.write(4 + 2 * ring.size, first)
    ring.used.write(4 + 8 * ring.size, first)
    ring._next_available = ring._published = ring._decided = LATE_INDEX
    ring._last_used = ring._asked_for = LATE_INDEX


class LateRing(SplitRing[Any]):
    """A ring whose indices wrap soon, for a card with the same ``first_index``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        start_late(self)


def quiet(host: ModelHost) -> None:
    assert host.card.complaints == []


# --- PCI


@pytest.mark.virtio("DRV-PCI-ID-01", "DRV-PCI-ID-03")
def test_a_scan_finds_the_card_and_places_its_bars() -> None:
    host = machine()
    function, = run(scan(host))
    assert (function.bdf, function.vendor_id, function.device_id) == (0x100, 0x1AF4, 0x1041)
    assert (function.class_code, function.revision_id, function.multifunction) == (
        0x020000, 1, False)
    assert {index: (bar.size, bar.is_64, bar.prefetchable)
            for index, bar in function.bars.items()} == {
        0: (0x1000, False, False), 2: (0x4000, True, True), 4: (0x8000, True, False)}
    for bar in function.bars.values():
        assert bar.address % bar.size == 0
        assert any(bar.address in window and bar.address + bar.size - 1 in window
                   for window in host.memory_windows)
    assert function.bars[0].address < 1 << 32 < function.bars[2].address
    assert run(host.config_read(0x100, 4, 2)) & 6 == 2  # memory, no bus mastering yet
    quiet(host)


def test_nothing_on_the_bus() -> None:
    assert run(scan(machine(), bus=2)) == []


@pytest.mark.virtio("DRV-PCI-CAP-01", "DRV-PCI-CAP-02", "DRV-PCI-CAP-03", "DRV-PCI-CAP-04")
@pytest.mark.parametrize(("features", "doorbells", "multiplier"), [
    (PLAIN, 0x2002, 2), (OFFERED, 0x2004, 4)])
def test_structures_are_found_among_decoys(features: int, doorbells: int,
                                           multiplier: int) -> None:
    host = machine(features=features)
    function, = run(scan(host))
    virtio = VirtioPci(function)
    run(virtio.discover())
    assert {kind: (region.bar, region.offset) for kind, region in virtio.regions.items()} == {
        ConfigType.COMMON: (4, 0x1040), ConfigType.NOTIFY: (2, doorbells),
        ConfigType.ISR: (0, 0x803), ConfigType.DEVICE: (4, 0x3100), ConfigType.PCI: (0, 0)}
    assert virtio.notify_multiplier == multiplier
    quiet(host)


def test_a_function_level_reset_and_power_states() -> None:
    host = machine()
    device = opened(host)
    run(device.send(b"x" * 60))
    before = [bar.address for bar in device.function.bars.values()]
    run(device.reset_function())
    assert host.card.status == 0
    assert [bar.address for bar in device.function.bars.values()] == before
    run(device.open())
    run(device.send(b"y" * 60))
    run(device.drain())
    assert host.card.sent == [b"y" * 60]
    run(device.close())
    run(device.function.set_power_state(Power.D3_HOT))
    assert host.card.config_read(0x44, 1) & 3 == 3
    quiet(host)


def test_a_capability_list_that_runs_in_a_circle() -> None:
    host = machine()
    host.card._config[0x41] = 0x40
    with pytest.raises(PciError, match="astray"):
        run(scan(host))


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
    assert (device.mac, device.mtu, device.link_up, device.speed_mbps, device.full_duplex) == (
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
    host = machine(features=OFFERED | 1 << 24 | 1 << 90 | 1 << 127 | 1 << Feature.MQ)
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
    assert device.mac[0] == 2
    assert (device.mtu, device.link_up, device.speed_mbps, device.full_duplex) == (
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
    assert (device.speed_mbps, device.full_duplex) == wanted


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
    assert (device.mac, device.mtu, device.speed_mbps) == (b"\x06abcde", 9000, 25_000)


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


@settings(max_examples=80)
@given(st.sampled_from([4, 16, 64]), st.tuples(shapes(), shapes()), st.tuples(*[st.booleans()] * 3),
       st.tuples(st.sampled_from(COMBINATIONS), *[st.booleans()] * 3), st.integers(0, 1000))
@pytest.mark.virtio("DRV-SPL-RING-01", "DRV-SPL-RING-06", "DRV-NET-TX-01", "DRV-NET-TX-02",
                    "DRV-NET-TX-03", "DRV-NET-TX-29", "DRV-NET-TX-40", "DRV-NET-RXB-02",
                    "DRV-PCI-KICK-01", "DRV-PCI-KICK-02", "DRV-PCI-KICK-03", "DRV-PCI-KICK-04",
                    "DRV-SPL-EVT-01", "DRV-SPL-EVT-03", "DRV-SPL-EVT-09", "DRV-SPL-EVT-11",
                    "DRV-SPL-RING-05")
def test_frames_both_ways(size: int, ways: tuple[Shape, Shape],
                          switches: tuple[bool, bool, bool],
                          card: tuple[int, bool, bool, bool], seed: int) -> None:
    """With any features; the card may look at a ring only when kicked, or close batches."""
    (transmit, receive), (interrupts, suppress, shuffle) = ways, switches
    features, kicks_only, close_batches, late = card
    rng = random.Random(seed)
    host = machine(features=features, first_index=LATE_INDEX if late else 0)
    host.card.kicks_only, host.card.close_batches = kicks_only, close_batches
    with patch("sw_driver.net.SplitRing", LateRing if late else SplitRing):
        device = opened(host, queue_size=size, transmit_shape=transmit, receive_shape=receive,
                        interrupts=interrupts, suppress=suppress, shuffle=shuffle, seed=seed)
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
    interrupts = [device._receive[0].interrupt, device._transmit[0].interrupt]
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
    interrupt = device._receive[0].interrupt
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
    ring = device._receive[0].ring
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
    assert (device.link_up, device.speed_mbps) == (False, 25_000)
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


def attach(host: ModelHost, ring: SplitRing[Any], *, features: int = 0) -> None:
    """Give a ring to the card's first queue, without a driver around it."""
    queue = host.card.queues[0]
    queue.size, queue.enabled = ring.size, True
    host.card.status, host.card.accepted = 15, features
    for which, area in enumerate((ring.descriptors, ring.available, ring.used)):
        queue.addresses[2 * which:2 * which + 2] = [area.address & 0xFFFF_FFFF, area.address >> 32]


@settings(max_examples=60)
@given(st.sampled_from([1, 2, 4, 8, 32]), st.integers(0, 10_000), st.booleans(),
       st.booleans())
@pytest.mark.virtio("DRV-SPL-RING-02", "DRV-SPL-RING-06", "DRV-SPL-RING-07")
def test_a_ring_over_many_wraps(size: int, seed: int, shuffle: bool,
                                in_order: bool) -> None:
    """Chains of any length, used in any order, past the wrap of the ring and of the index.

    In order, now and then a used entry closes a batch of chains that are only read.
    """
    rng = random.Random(seed)
    host = machine(first_index=LATE_INDEX)
    ring: SplitRing[int] = SplitRing(host, size, shuffle=rng if shuffle and not in_order else None,
                                     in_order=in_order)
    start_late(ring)
    attach(host, ring, features=IN_ORDER if in_order else 0)
    given: dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    held: list[tuple[int, int]] = []
    token = 0
    taken = 0
    for _ in range(200):
        readable = [(rng.randrange(1 << 60), rng.randrange(1, 5000))
                    for _ in range(rng.randrange(4))]
        writable = [(rng.randrange(1 << 60), rng.randrange(1, 5000))
                    for _ in range(rng.randrange(0 if readable else 1, 4))]
        try:
            ring.add(readable, writable, token)
            given[token] = readable, writable
            token += 1
        except RingFull:
            assert len(readable) + len(writable) > ring.free_descriptors
        if rng.random() < 0.6:
            ring.publish()
        while host.card.available(0) and rng.random() < 0.7:
            head, seen_readable, seen_writable = host.card.take_chain(0)
            assert (seen_readable, seen_writable) == given[taken]
            held.append((head, taken))
            taken += 1
        if held and rng.random() < 0.7:
            place = 0 if in_order else rng.randrange(len(held))
            skipped = []
            while in_order and not given[held[place][1]][1] and place + 1 < len(held) and (
                    rng.random() < 0.7):
                skipped.append(held.pop(place)[1])
            head, number = held.pop(place)
            room = sum(length for _address, length in given[number][1])
            host.card.put_used(0, head, room)
            for token_wanted, written in [*((each, 0) for each in skipped), (number, room)]:
                used = ring.take_used()
                assert used is not None
                assert (used.token, used.written) == (token_wanted, written)
            assert ring.take_used() is None
        assert ring.free_descriptors == size - sum(
            len(one) + len(two) for number, (one, two) in given.items()
            if number in {chain.token for chain in ring._chains.values()})
    quiet(host)


def test_sizes_that_are_no_power_of_two() -> None:
    for size in (0, 3, 65536):
        with pytest.raises(ValueError, match="power of two"):
            SplitRing(machine(), size)


# --- EVENT_IDX, NOTIFICATION_DATA, IN_ORDER


@pytest.mark.virtio("DRV-PCI-KICK-01", "DRV-PCI-KICK-02", "DRV-PCI-KICK-03", "DRV-PCI-KICK-04")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_what_a_kick_tells(wide: bool, late: bool) -> None:
    """With NOTIFICATION_DATA the available index, all 16 bits of it, above the queue."""
    first = LATE_INDEX if late else 0
    host = machine(features=PLAIN | (NOTIFICATION_DATA if wide else 0), first_index=first)
    with patch("sw_driver.net.SplitRing", LateRing if late else SplitRing):
        device = opened(host)
    run(device.send_many([b"a" * 60] * 12, batch=3))
    run(device.drain())
    assert len(host.card.sent) == 12
    if wide:
        told = [(64, 0), (3, 1), (6, 1), (9, 1), (12, 1)]
        assert host.card.doorbells == [
            (4, (first + index) % 65536 << 16 | queue) for index, queue in told]
    else:
        assert host.card.doorbells == [(2, 0)] + [(2, 1)] * 4
    assert device.virtio.notify_bytes == (4 if wide else 2)
    quiet(host)


@pytest.mark.parametrize(("place", "value", "text"), [
    (16, 2, "notify_off_multiplier is 2"), (8, 0x2002, "at 0x2002"), (12, 3, "in 3 bytes")])
def test_doorbells_too_narrow_for_what_a_kick_tells(place: int, value: int, text: str) -> None:
    for features in (PLAIN, OFFERED):
        host = machine(features=features)
        host.card._config[0xB4 + place:0xB4 + place + 4] = struct.pack("<I", value)
        if features == OFFERED:
            with pytest.raises(TransportError, match=f"{text}.* with NOTIFICATION_DATA"):
                opened(host)
            assert host.card.status & (Status.FAILED | Status.DRIVER_OK) == Status.FAILED
        else:
            function, = run(scan(host))
            virtio = VirtioPci(function)
            run(virtio.discover())
            run(virtio.start([], {}))


@pytest.mark.parametrize("multiplier", [1, 3, 6, 12])
def test_a_multiplier_that_is_none(multiplier: int) -> None:
    with pytest.raises(TransportError, match=f"notify_off_multiplier is {multiplier}"):
        opened(machine(notify_multiplier=multiplier))


@pytest.mark.parametrize("features", COMBINATIONS)
def test_each_queue_is_used_as_was_agreed(features: int) -> None:
    host = machine(features=features)
    host.card.kicks_only = host.card.close_batches = True
    device = opened(host, transmit_shape=Shape(segments=(1, 3)))
    frames = [bytes([number]) * 100 for number in range(100)]
    run(device.send_many(frames, batch=8))
    run(device.drain())
    assert host.card.sent == frames
    for ring in device.rings.values():
        assert ring.event_idx == bool(features & EVENT_IDX)
        assert ring.in_order == bool(features & IN_ORDER)
    quiet(host)


def test_who_shuffles_does_not_want_the_order_of_the_ring() -> None:
    host = machine(features=COMBINATIONS[-1] | IN_ORDER)
    device = opened(host, shuffle=True)
    assert not any(ring.in_order for ring in device.rings.values())
    frames = [bytes([number]) * 100 for number in range(100)]
    run(device.send_many(frames, batch=8))
    run(device.drain())
    assert host.card.sent == frames
    quiet(host)


HOST = machine()
RING: SplitRing[None] = SplitRing(HOST, 1024, event_idx=True)


@settings(max_examples=300)
@given(st.integers(0, 65535), st.integers(0, 1024), st.one_of(
    st.integers(0, 65535), st.integers(-3, 3), st.integers(1021, 1027)), st.booleans())
@pytest.mark.virtio("DRV-SPL-EVT-11", "DRV-SPL-EVT-12", "DRV-SPL-EVT-10")
def test_a_kick_is_for_the_entry_that_the_device_waits_for(
        old: int, count: int, event: int, flag: bool) -> None:
    """Whatever its flag says; and what was decided once is not decided again."""
    if abs(event) < 2000:
        event = (old + event) % 65536
    fresh = [(old + place) % 65536 for place in range(count)]
    RING._decided = old
    RING._published = RING._next_available = (old + count) % 65536
    RING.used.write(0, struct.pack("<H", flag))
    RING.used.write(4 + 8 * 1024, struct.pack("<H", event))
    assert RING.awaits_kick() == (event == RING.available_index)
    assert RING.kick_wanted() == (event in fresh)
    assert not RING.kick_wanted()


def test_batches_that_need_no_kick_are_counted() -> None:
    """A card that takes nothing meanwhile waits for the first entry alone."""
    host = machine()
    device = opened(host)
    run(device.send_many([b"a" * 60] * 64, batch=8))
    assert (device.statistics.kicks, device.statistics.kicks_spared) == (2, 7)
    run(device.drain())
    run(device.send(b"b" * 60))
    assert device.statistics.kicks == 3
    run(device.drain())
    assert len(host.card.sent) == 65
    quiet(host)


class RacedMemory:
    """Memory of a driver: before each of its accesses somebody else has a turn."""

    def __init__(self, region: Region, turn: Callable[[], None]) -> None:
        self._region = region
        self._turn = turn
        self.address = region.address
        self.size = region.size

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        self._turn()
        return self._region.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._turn()
        self._region.write(offset, data)

    def free(self) -> None:
        self._region.free()


class Race:
    """A ring of the driver, and a card that may do a few steps before each access of it."""

    def __init__(self, *, features: int, turns: Iterator[int], late: bool) -> None:
        self.host = machine(first_index=LATE_INDEX if late else 0)
        self.turns = turns
        self.card_does: Generator[None] | None = None
        real = self.host.allocate

        def allocate(*arguments: Any, **options: Any) -> Any:
            return RacedMemory(real(*arguments, **options), self.turn)

        with patch.object(self.host, "allocate", allocate):
            self.ring: SplitRing[int] = SplitRing(
                self.host, 16, event_idx=bool(features & EVENT_IDX),
                in_order=bool(features & IN_ORDER))
        if late:
            start_late(self.ring)
        attach(self.host, self.ring, features=features)
        self.card, self.queue = self.host.card, self.host.card.queues[0]
        self.kicked = False

    def turn(self) -> None:
        if self.card_does is not None:
            self.steps(next(self.turns, 0))

    def steps(self, count: int) -> None:
        """Let the card do something."""
        assert self.card_does is not None
        card_does, self.card_does = self.card_does, None  # its own accesses are no turns
        for _ in range(count):
            next(card_does)
        self.card_does = card_does

    def work(self) -> Generator[None]:
        """Take chains; look once more after having asked for a kick, then sleep until it comes."""
        card, queue = self.card, self.queue
        while True:
            if card._available_index(queue) == queue.seen:
                card.set_no_notify(0, False)
                yield
                if card._available_index(queue) == queue.seen:
                    yield
                    while not self.kicked:
                        yield
                self.kicked = False
                card.set_no_notify(0, True)
                yield
                continue
            yield
            head, _readable, _writable = card.take_chain(0)
            yield
            card.write_used(0, head, 0)
            yield

    def give_back(self, schedule: random.Random) -> Generator[None]:
        """Give chains back, some at a time, and raise an interrupt where one is wanted."""
        card, queue = self.card, self.queue
        while True:
            while card._available_index(queue) != queue.seen:
                head, _readable, _writable = card.take_chain(0)
                card.write_used(0, head, 0)
                yield
                if schedule.random() < 0.6:
                    card.raise_used(0)
                    yield
            card.raise_used(0)
            yield


TURNS = st.lists(st.integers(0, 6), max_size=200)


@settings(max_examples=200)
@given(st.sampled_from(COMBINATIONS), TURNS, st.lists(st.integers(1, 8), max_size=20),
       st.booleans())
@pytest.mark.virtio("DRV-SPL-RING-08", "DRV-SPL-EVT-11", "DRV-SPL-EVT-09")
def test_no_kick_is_lost(features: int, turns: list[int], batches: list[int],
                         late: bool) -> None:
    """The card falls asleep around the driver's publishing: every chain is taken all the same."""
    race = Race(features=features, turns=iter(turns), late=late)
    ring = race.ring
    race.card_does = race.work()
    given = 0
    for batch in batches:
        for _ in range(batch):
            if ring.free_descriptors:
                ring.add([(0x1000, 60)], [], given)
                given += 1
        ring.publish()
        if ring.kick_wanted():
            race.kicked = True
        while ring.take_used() is not None:
            pass
    race.steps(500)
    assert race.queue.seen == ring.available_index
    while ring.take_used() is not None:
        pass
    assert not ring.outstanding


@settings(max_examples=200)
@given(st.sampled_from(COMBINATIONS), TURNS, st.integers(1, 40),
       st.tuples(st.booleans(), st.booleans()), st.integers(0, 1000))
@pytest.mark.virtio("DRV-SPL-EVT-04")
def test_no_interrupt_is_lost(features: int, turns: list[int], rounds: int,
                              switches: tuple[bool, bool], seed: int) -> None:
    """The card uses a chain around the driver's re-arming: the driver does not sleep over it."""
    suppress, late = switches
    race = Race(features=features, turns=iter(turns), late=late)
    ring, queue = race.ring, race.queue
    host = race.host
    interrupts: list[int] = []
    with patch.object(host.card, "_raise", interrupts.append):
        race.card_does = race.give_back(random.Random(seed))
        ring.suppress_interrupts(suppress)
        for number in range(rounds):
            for _ in range(number % 3 + 1):
                if ring.free_descriptors:
                    ring.add([(0x1000, 60)], [], number)
            ring.publish()
            while ring.take_used() is not None:
                pass
            if not ring.outstanding:
                continue
            seen = len(interrupts)
            ring.suppress_interrupts(False)
            if not ring.has_used():
                race.steps(100)
                assert queue.used == ring.available_index
                assert len(interrupts) > seen, "the driver would sleep for ever"
            ring.suppress_interrupts(suppress)
    quiet(host)


def in_order_ring(*chains: int) -> SplitRing[int]:
    """Give a ring with chains of so many writable bytes, the card's to use: heads 0, 1, ..."""
    ring: SplitRing[int] = SplitRing(machine(), 8, in_order=True)
    for number, writable in enumerate(chains):
        if writable:
            ring.add([], [(0x2000, writable)], number)
        else:
            ring.add([(0x1000, 60)], [], number)
    ring.publish()
    return ring


def use(ring: SplitRing[int], index: int, *entries: tuple[int, int, int]) -> None:
    """Write used entries (place, head, bytes), and the index."""
    for place, head, written in entries:
        ring.used.write(4 + 8 * place, struct.pack("<II", head, written))
    ring.used.write(2, struct.pack("<H", index))


def test_a_used_entry_that_closes_a_batch() -> None:
    """It lies where the first of the batch would, and the next one behind the whole batch."""
    ring = in_order_ring(0, 0, 0, 100, 0, 0)
    use(ring, 3, (0, 2, 0), (1, 77, 7), (2, 77, 7))
    taken = [ring.take_used() for _ in range(4)]
    assert [(each.token, each.written) if each else None for each in taken] == [
        (0, 0), (1, 0), (2, 0), None]
    use(ring, 6, (3, 3, 50), (4, 5, 0), (5, 77, 7))
    taken = [ring.take_used() for _ in range(4)]
    assert [(each.token, each.written) if each else None for each in taken] == [
        (3, 50), (4, 0), (5, 0), None]
    assert ring.free_descriptors == 8


@pytest.mark.parametrize(("chains", "index", "entry", "text"), [
    ((0, 0, 0), 1, (0, 1, 0), "names 1, which is not among the 1 next, from 0 on"),
    ((0, 0, 0), 2, (0, 2, 0), "names 2, which is not among the 2 next"),
    ((0, 0, 0), 1, (0, 7, 0), "names 7, which is no chain"),
    ((100, 100), 2, (0, 1, 30), "nothing tells how much was written to 0"),
    ((0, 100, 0), 3, (0, 2, 0), "nothing tells how much was written to 1"),
])
def test_used_entries_out_of_order(chains: tuple[int, ...], index: int,
                                   entry: tuple[int, int, int], text: str) -> None:
    ring = in_order_ring(*chains)
    use(ring, index, entry)
    for _ in range(2):  # and it stays wrong
        with pytest.raises(RingError, match=text):
            while ring.take_used() is not None:
                pass


@pytest.mark.virtio("DRV-SPL-RING-05")
def test_descriptors_in_ring_order() -> None:
    ring: SplitRing[int] = SplitRing(machine(), 8, in_order=True)
    heads = []
    for number in range(6):
        heads.append(ring.add([(0x1000, 20)] * 3, [], number))
        ring.publish()
        use(ring, number + 1, (number, heads[-1], 0))
        assert ring.take_used() is not None
    assert heads == [0, 3, 6, 1, 4, 7]
    with pytest.raises(ValueError, match="in ring order with in_order, not shuffled"):
        SplitRing(machine(), 8, in_order=True, shuffle=random.Random(1))


def test_rings_end_behind_the_events() -> None:
    for size in (1, 8, 1024):
        ring: SplitRing[int] = SplitRing(machine(), size, event_idx=True)
        assert ring.available.size == sum(SplitLayout.used_event(size))
        assert ring.used.size == sum(SplitLayout.avail_event(size))
