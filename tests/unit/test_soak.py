"""What the soak draws, and how it judges what came out, without any card."""

from __future__ import annotations

import random
from itertools import combinations, product

import numpy as np
import pytest

from hw.config import NicConfig
from sim.soak.books import SoakFailure
from sim.soak.catalogue import STAMP_AT
from sim.soak.draw import RING_FEATURES, Manners, draw_driver, turns
from sim.soak.run import SoakOptions, worker_seed
from sim.soak.streams import ReceivedStreams, SentStreams, frames_of_chains
from sim.soak.way import Way
from sw_driver.layouts import Feature, NetHeader

FULL = NicConfig.preset("full")


def test_every_combination_of_features_comes(seed: int) -> None:
    rng = random.Random(seed)
    manners = turns(rng)
    drawn = [tuple(draw_driver(rng, FULL, next(manners)).features) for _ in range(200)]
    left_out = {tuple(feature for feature in RING_FEATURES if feature not in features)
                for features in drawn}
    assert {Feature.EVENT_IDX, Feature.NOTIFICATION_DATA, Feature.IN_ORDER} == set(RING_FEATURES)
    assert left_out == {some for count in range(4) for some in combinations(RING_FEATURES, count)}


def test_all_manners_come_as_often() -> None:
    """Of eight drivers, one has each mixture; frames are merged into buffers that are short."""
    manners = turns(random.Random(3))
    for _ in range(3):
        assert {tuple(next(manners)) for _ in range(8)} == {
            (ring, *merged, *tables) for ring in ("split", "packed")
            for merged in ((), ("merged",)) for tables in ((), ("tables",))}
    rng = random.Random(4)
    for _ in range(200):
        drawn = next(manners)
        net = draw_driver(rng, FULL, drawn)
        assert (Feature.RING_PACKED in net.features) == drawn.packed
        assert (Feature.INDIRECT_DESC in net.features) == drawn.tables
        assert (Feature.MRG_RXBUF in net.features) == drawn.merged
        assert (net.receive_bytes is not None) == drawn.merged


def test_what_a_driver_in_cpp_can_go_on_with() -> None:
    """Without tables, a chain of a packed ring, or of one in order, is of one descriptor."""
    rng = random.Random(5)
    several = set()
    for packed, merged, tables in list(product((False, True), repeat=3)) * 40:
        net = draw_driver(rng, FULL, Manners(packed, merged, tables))
        in_order = Feature.IN_ORDER in net.features and not net.shuffle
        most = max(net.transmit_shape.segments[1], net.receive_shape.segments[1])
        if not tables and (packed or in_order):
            assert most == 1
        if in_order:
            assert not net.direct_first and net.refill_batch == 1
        several.add((packed, tables, most > 1, net.pairs > 1))
    assert {(packed, True, True, pairs) for packed in (False, True)
            for pairs in (False, True)} <= several
    assert {(False, False, True, False), (False, False, True, True)} <= several


def test_each_process_has_its_own_seed() -> None:
    many = SoakOptions(config=FULL, packets=10, seed=3, jobs=4)
    seeds = [worker_seed(many, number) for number in range(4)]
    assert len({*seeds, 3}) == 5
    assert worker_seed(SoakOptions(config=FULL, packets=10, seed=3), 0) == 3


def _stamped(frame: bytes, number: int) -> bytes:
    return frame[:STAMP_AT] + number.to_bytes(4, "big") + frame[STAMP_AT + 4:]


def _take_sent(sent: SentStreams, frames: list[bytes]) -> None:
    sizes = np.array([len(frame) for frame in frames], np.int64)
    sent.take(np.frombuffer(b"".join(frames), np.uint8), np.cumsum(sizes) - sizes, sizes)


class Ring:
    """Frames of a transmit ring, by number."""

    def __init__(self, sent: SentStreams, pair: int, given: int = 1000) -> None:
        rng = random.Random(pair)
        sent.begin(pair, lambda: given)
        self.frames = [sent.catalogue.make(rng, size) for size in (60, 61, 300)]

    def frame(self, number: int) -> bytes:
        return _stamped(self.frames[number % 3], number)


def test_sent_frames() -> None:
    """Two pairs at once, and a ring after another one in the first of them."""
    sent = SentStreams()
    one, two = Ring(sent, 0), Ring(sent, 1)
    _take_sent(sent, [one.frame(0), two.frame(0), one.frame(1), one.frame(2), two.frame(1)])
    _take_sent(sent, [one.frame(3)])
    three = Ring(sent, 0)
    _take_sent(sent, [one.frame(4), three.frame(0), two.frame(2), three.frame(1)])
    assert sent.out == 10 and sent.given == 3000


@pytest.mark.parametrize(("say", "says"), [
    (lambda one, _two, _three: [one.frame(1)], "frame 1 came as frame 0"),              # lost
    (lambda one, _two, _three: [one.frame(0), one.frame(0)], "frame 0 came as frame 1"),
    (lambda one, two, _three: [two.frame(0), two.frame(2)], "pair 1: frame 2 came as frame 1"),
    (lambda one, _two, three: [three.frame(0), one.frame(0)], "a ring that was given up"),
    (lambda one, _two, _three: [one.frame(0)[:-1] + b"\x00"], "was changed"),
    (lambda one, _two, _three: [one.frame(0)[:40] + b"\xff" + one.frame(0)[41:]], "was changed"),
    (lambda one, _two, _three: [one.frame(0) + b"\x00"], "was changed"),
    (lambda one, _two, _three: [one.frame(0)[:6] + b"\xff" * 4 + one.frame(0)[10:]], "was changed"),
    (lambda one, _two, _three: [one.frame(0)[:50]], "shorter than any"),
    (lambda one, _two, _three: [one.frame(number) for number in range(6)], "5 were given"),
])
def test_sent_frames_that_are_wrong(say: object, says: str) -> None:
    sent = SentStreams()
    rings = Ring(sent, 0, given=5), Ring(sent, 1), Ring(sent, 0)
    with pytest.raises(SoakFailure, match=says):
        _take_sent(sent, say(*rings))  # type: ignore[operator]


class Wire:
    """Frames that a wire sends in turn."""

    def __init__(self, received: ReceivedStreams) -> None:
        self.received = received
        self.frames = received.begin(random.Random(1), (60, 64, 200, 61))

    def take(self, pair: int, *numbers: int) -> None:
        frames = [_stamped(self.frames[number % 4], number) for number in numbers]
        sizes = np.array([len(frame) for frame in frames], np.int64)
        self.received.take(pair, np.frombuffer(b"".join(frames), np.uint8),
                           np.cumsum(sizes) - sizes, sizes)


def test_received_frames() -> None:
    """Some were dropped; flows 0 and 2 come to one pair, 1 and 3 to the other."""
    received = ReceivedStreams()
    wire = Wire(received)
    wire.take(0, 0, 2, 4, 10)
    wire.take(1, 1, 3, 9)
    wire.take(0, 5000)
    assert received.out == received.latest == 8
    later = Wire(received)
    wire.take(1, 5003)  # a late one
    later.take(0, 1, 3)
    assert received.latest == 2 and received.out == 11


@pytest.mark.parametrize(("pair", "numbers", "says"), [
    (0, (6,), "frame 6 after 6"), (0, (5,), "frame 5 after 6"), (0, (8, 7), "frame 7 after 8"),
    (1, (3,), "frame 3 after 5"), (1, (10,), "a flow that came to pair 0"),
    (2, (6,), "a frame that came to another pair as well"),
])
def test_received_frames_that_are_wrong(pair: int, numbers: tuple[int, ...], says: str) -> None:
    received = ReceivedStreams()
    wire = Wire(received)
    wire.take(0, 0, 2, 4, 6)
    wire.take(1, 1, 5)
    with pytest.raises(SoakFailure, match=says):
        wire.take(pair, *numbers)


def test_a_late_frame_is_not_behind_later_ones() -> None:
    received = ReceivedStreams()
    early, late = Wire(received), Wire(received)
    late.take(0, 1)
    with pytest.raises(SoakFailure, match="behind one that the wire sent later"):
        early.take(0, 1)


def test_a_number_is_of_its_slot() -> None:
    received = ReceivedStreams()
    wire = Wire(received)
    wire.frames.reverse()
    with pytest.raises(SoakFailure, match="its number is not of its slot"):
        wire.take(0, 1)


def _chains(*parts: tuple[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = np.frombuffer(b"".join(part for part, _room in parts), np.uint8)
    return (np.array([len(part) for part, _room in parts]), np.array([room for _, room in parts]),
            data)


def _headed(count: int, data: bytes) -> bytes:
    return NetHeader(num_buffers=count).pack() + data


def test_frames_of_chains() -> None:
    starts, sizes, merged = frames_of_chains(*_chains(
        (_headed(1, bytes(70)), 100), (_headed(1, bytes(9)), 100)), merged=False)
    assert (starts.tolist(), sizes.tolist(), merged) == ([12, 94], [70, 9], 0)
    starts, sizes, merged = frames_of_chains(*_chains(
        (_headed(3, bytes(20)), 32), (bytes(5), 5), (bytes(7), 32), (_headed(1, bytes(9)), 32),
        (_headed(2, bytes(20)), 32), (b"x", 32)), merged=True)
    assert (starts.tolist(), sizes.tolist(), merged) == ([12, 56, 77], [32, 9, 21], 2)


@pytest.mark.parametrize(("merged", "parts", "says"), [
    (False, [(_headed(0, bytes(70)), 100)], "num_buffers is not 1"),
    (False, [(_headed(2, bytes(20)), 32), (bytes(25), 32)], "num_buffers is not 1"),
    (False, [(bytes(9), 32)], "9 bytes in a chain"),
    (True, [(_headed(0, bytes(20)), 32)], "over 0 buffers"),
    (True, [(_headed(3, bytes(20)), 32), (bytes(5), 5)], "over 3 buffers, of which 2 are used"),
    (True, [(_headed(2, bytes(19)), 32), (bytes(5), 5)], "has room left"),
    (True, [(b"\x01" + _headed(1, bytes(20))[1:], 32)], "not agreed on"),
])
def test_chains_that_are_wrong(merged: bool, parts: list[tuple[bytes, int]], says: str) -> None:
    with pytest.raises(SoakFailure, match=says):
        frames_of_chains(*_chains(*parts), merged=merged)


def test_frames_one_by_one() -> None:
    way = Way("there")
    assert way.all_out
    frames = [way.make(size) for size in (60, 61, 62, 63)]
    way.came(frames[0])
    way.came(frames[2])  # one was lost in a reset
    for wrong, says in ((frames[2], "frame 2 after 2"), (frames[1], "frame 1 after 2"),
                        (frames[3][:-1] + b"\x00", "was changed")):
        with pytest.raises(SoakFailure, match=says):
            way.came(wrong)
    assert way.out == 2 and not way.all_out
    way.begin()
    frames.append(way.make(70))
    assert not way.all_out
    way.came(frames[3])  # of before
    assert not way.all_out
    way.came(frames[4])
    assert way.all_out
