"""What a ring driver in C++ keeps of chains, and how it numbers them; no card is there."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from sim.native.engine import Engine
from sim.native.memory import NativeRegion
from sim.native.rings import PackedChain, RingDriver

SIZE = 8
PIECES = (5, 1, 20)  # bytes of each chain's
ROOM = sum(PIECES)
AVAIL, USED, WRITE = 1 << 7, 1 << 15, 2


class Ring:
    """A ring with all chains with the card, chain n in the pieces of ``rooms[n]``."""

    def __init__(self, engine: Engine, packed: bool, *, transmit: bool, in_order: bool) -> None:
        self.engine, self.packed = engine, packed
        self.rooms = [[engine.memory.allocate(size) for size in PIECES] for _ in range(SIZE)]
        self.used = 0
        options = {"size": SIZE, "notify_address": 0xC000_0004, "notify_value": 0, "batch": 2,
                   "transmit": transmit, "in_order": in_order}
        if packed:
            self.ring = engine.memory.allocate(16 * SIZE, align=16)
            event = engine.memory.allocate(4, align=4)
            for place in range(SIZE):
                self.ring.write(16 * place + 14, struct.pack("<H", AVAIL))
            chains = [PackedChain(0x1000 * number, ROOM, 0 if transmit else ROOM, 100 + number, 0)
                      for number in range(SIZE)]
            self.driver = engine.drive_packed(descriptors=self.ring.address, used=0, chains=chains,
                                              device_event=event.address, **options)
        else:
            available = engine.memory.allocate(6 + 2 * SIZE, align=64)
            self.ring = engine.memory.allocate(6 + 8 * SIZE, align=64)
            available.write(2, struct.pack("<H", SIZE))
            for place in range(SIZE):
                available.write(4 + 2 * place, struct.pack("<H", place))
            self.driver = engine.drive(available=available.address, used=self.ring.address,
                                       **options)

    @property
    def pieces(self) -> list[tuple[int, int, int]]:
        return [(piece.address, piece.size, number) for number, room in enumerate(self.rooms)
                for piece in room]

    def write(self, number: int, data: bytes) -> None:
        at = 0
        for piece in self.rooms[number]:
            piece.write(0, data[at:at + piece.size])
            at += piece.size

    def read(self, number: int) -> bytes:
        return b"".join(piece.read() for piece in self.rooms[number])

    def use(self, number: int, written: int, *, chains: int = 1) -> None:
        """Use a chain, and with it those before it for which there is no entry."""
        if self.packed:
            wrap = self.used // SIZE % 2 == 0
            flags = (AVAIL | USED) * wrap | (WRITE if written else 0)
            self.ring.write(16 * (self.used % SIZE) + 8,
                            struct.pack("<IHH", written, 100 + number, flags))
        else:
            self.ring.write(4 + 8 * (self.used % SIZE), struct.pack("<II", number, written))
        self.used += chains
        if not self.packed:
            self.ring.write(2, struct.pack("<H", self.used))
        self.engine.run(3)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(None) as engine:
        yield engine
        engine.check()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_what_was_written_is_kept(packed: bool, engine: Engine, seed: int) -> None:
    """In the order in which chains came back, over all pieces, and no byte more."""
    rng = random.Random(seed)
    ring = Ring(engine, packed, transmit=False, in_order=False)
    ring.driver.keep(ring.pieces)
    with_card = list(range(SIZE))
    for _lap in range(5):
        expected = []
        for _batch in range(3):
            batch = [with_card.pop(rng.randrange(3)) for _ in range(2)]
            for number in batch:
                data = rng.randbytes(rng.choice((0, 1, 5, 6, 7, ROOM)))
                ring.write(number, data)
                ring.use(number, len(data))
                expected.append(data)
            with_card += batch
        records, kept = ring.driver.take()
        assert records.tolist() == [(len(data), ROOM) for data in expected]
        assert kept.tobytes() == b"".join(expected)
    assert not len(ring.driver.take()[0])


@pytest.mark.parametrize("in_order", [False, True], ids=["", "in order"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("at", [0, 3, 5, 22])
def test_numbers(at: int, packed: bool, in_order: bool, engine: Engine) -> None:
    """Each chain that is given again gets the next number, over the ends of pieces; no more."""
    ring = Ring(engine, packed, transmit=True, in_order=in_order)
    first = (1 << 32) - 3  # it goes round
    ring.driver.number(ring.pieces, stamp_at=at, first=first)
    for number in range(SIZE):
        ring.write(number, bytes([0xA0 + number]) * ROOM)
    ring.use(0, 0)
    assert ring.read(0) == b"\xa0" * ROOM, "it waits for its batch"
    if in_order:
        ring.use(3, 0, chains=3)
    else:
        for number in (1, 2, 3):
            ring.use(number, 0)
    for number in range(SIZE):
        stamp = (first + number & 0xFFFF_FFFF).to_bytes(4, "big")
        fill = bytes([0xA0 + number])
        assert ring.read(number) == (
            fill * at + stamp + fill * (ROOM - at - 4) if number < 4 else fill * ROOM)
    assert ring.driver.next_number == 1


def test_a_number_that_does_not_fit(engine: Engine) -> None:
    """What of it lies beyond the end of the chain is not written."""
    ring = Ring(engine, False, transmit=True, in_order=False)
    ring.driver.number(ring.pieces, stamp_at=ROOM - 2, first=0x01020304)
    for number in (0, 1):
        ring.use(number, 0)
    assert ring.read(0) == bytes(ROOM - 2) + b"\1\2"
    with pytest.raises(ValueError, match="stamp_at must be at least 0, not -1"):
        ring.driver.number(ring.pieces, stamp_at=-1, first=0)


def test_more_than_there_is_room_for(engine: Engine) -> None:
    ring = Ring(engine, False, transmit=False, in_order=False)
    ring.driver.keep(ring.pieces)
    ring.use(4, ROOM + 1)
    (_cycle, text), = engine.take_violations()
    assert text == (f"used element 0 tells of {ROOM + 1} bytes in chain 4, which has no room for "
                    "them")


def test_a_piece_that_is_no_memory(engine: Engine) -> None:
    ring = Ring(engine, False, transmit=False, in_order=False)
    with pytest.raises(ValueError, match="piece 1, 9 bytes at 0x50, must lie in memory"):
        ring.driver.keep([ring.pieces[0], (0x50, 9, 1)])


@pytest.mark.parametrize("what", ["ring", "buffer"])
def test_memory_that_goes(what: str, engine: Engine) -> None:
    """A driver ends with its ring, and with its buffers: it reads and writes nothing any more."""
    ring = Ring(engine, False, transmit=True, in_order=False)
    driver: RingDriver = ring.driver
    driver.number(ring.pieces, stamp_at=0, first=7)
    gone: NativeRegion = ring.ring if what == "ring" else ring.rooms[2][1]
    if what == "buffer":
        gone.free()
        for number in (0, 1):
            ring.use(number, 0)
    else:
        for number in (0, 1):
            ring.use(number, 0)
        assert driver.next_number == 9
        gone.free()
        engine.run(10)
    assert driver.next_number == (9 if what == "ring" else 7)
    engine.clear_drivers()
    engine.run(10)
