"""Rings of the fuzzer, written straight into memory, read and used as the card would."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator

import pytest

from hw.pcie.types import RequestKind
from hw.virtio.types import FaultReason
from sim.fuzz.arena import Arena, Broken
from sim.fuzz.chains import ChainSizes
from sim.fuzz.driver import TLP_LOG
from sim.fuzz.judge import Books, Judge, WireBook
from sim.fuzz.mistakes import Mistakes
from sim.fuzz.packed import HostilePacked
from sim.fuzz.rings import Fate, Given, HostileRing, Modes, Raw
from sim.fuzz.split import HostileSplit
from sim.native.engine import Engine, EngineOptions
from tb.tlp import Request, byte_enables

START = 0x70_0000_0000
SIZE = 1 << 22


@pytest.fixture
def arena() -> Iterator[Arena]:
    with Engine(None) as engine:
        yield Arena(engine.memory, START, SIZE)


def test_what_nothing_names_is_found(arena: Arena) -> None:
    """Names that touch are one; reads and writes are apart; what was named can be taken back."""
    arena.name(START, 16, written=False)
    arena.name(START + 16, 16, written=False)
    arena.name((1 << 64) - 8, 8, written=True)
    assert arena.allows(START, 32, written=False)
    assert arena.allows(START + 8, 16, written=False)
    assert arena.allows((1 << 64) - 8, 7, written=True)
    for address, size, written in ((START - 1, 2, False), (START + 31, 2, False),
                                   (START, 1, True), ((1 << 64) - 9, 2, True)):
        assert not arena.allows(address, size, written=written)
    arena.forget(START + 8, 8, written=False)
    assert not arena.allows(START, 9, written=False) and arena.allows(START, 8, written=False)
    assert arena.allows(START + 16, 16, written=False)
    arena.restore()
    assert arena.allows(START, 32, written=False) and not arena.allows(START, 1, written=True)


def test_a_name_may_reach_beyond_the_end(arena: Arena) -> None:
    arena.name(START + SIZE - 10, 30, written=True)
    assert arena.allows(START + SIZE - 10, 10, written=True)
    assert arena.allows(START + SIZE - 4, 8, written=True)
    assert not arena.allows(START + SIZE - 4, 8, written=False)
    assert not arena.allows(START + SIZE - 4, 25, written=True)


def test_a_split_ring(arena: Arena, seed: int) -> None:
    ring = HostileSplit(arena, 8, Modes(), random.Random(seed))
    chain = Given(Fate.GOOD, "good")
    ring.add([Raw(1, 10, 1), Raw(2, 20, 1, link=-1)], chain)
    descriptors, available, used = (area.address for area in ring.areas)
    assert arena.read(available + 2, 2) == b"\0\0"
    ring.publish()
    assert struct.unpack("<HHH", arena.read(available, 6)) == (0, 1, chain.number)
    first = struct.unpack("<QIHH", arena.read(descriptors + 16 * chain.number, 16))
    assert first == (1, 10, 1, chain.places[1])
    second = struct.unpack("<QIHH", arena.read(descriptors + 16 * first[3], 16))
    assert second == (2, 20, 1, chain.number), "a loop back to the first"
    assert ring.room() == 6 and not ring.poll()
    arena.write(used + 4, struct.pack("<II", chain.number, 77))
    arena.write(used + 2, b"\1\0")
    (back,) = ring.poll()
    assert back.chain is chain and back.written == 77 and ring.room() == 8
    arena.write(used + 2, b"\2\0")
    with pytest.raises(Broken, match="no chain"):
        ring.poll()


@pytest.mark.parametrize("kind", [HostileSplit, HostilePacked])
def test_one_entry_for_a_batch_in_order(kind: type[HostileRing], arena: Arena, seed: int) -> None:
    """It names the last chain, and the next entry lies behind the places of all."""
    ring = kind(arena, 8, Modes(packed=kind is HostilePacked, in_order=True), random.Random(seed))
    chains = [Given(Fate.GOOD, "good") for _ in range(4)]
    for chain in chains[:3]:
        ring.add([Raw(1, 10, 0)], chain)
    ring.add([Raw(1, 10, 1), Raw(1, 10, 0)], chains[3])
    ring.publish()
    assert [chain.places for chain in chains] == [[0], [1], [2], [3, 4]]
    used = ring.areas[2 if kind is HostileSplit else 0].address

    def use(place: int, chain: Given, index: int) -> None:
        if kind is HostileSplit:
            arena.write(used + 4 + 8 * place, struct.pack("<II", chain.number, 0))
            arena.write(used + 2, index.to_bytes(2, "little"))
        else:
            arena.write(used + 16 * place + 8, struct.pack("<IHH", 0, chain.number, 0x8080))

    use(0, chains[2], 3)
    assert [(each.chain, each.written) for each in ring.poll()] == [
        (chains[0], None), (chains[1], None), (chains[2], 0)]
    use(3, chains[3], 4)
    assert [each.chain for each in ring.poll()] == [chains[3]]
    assert ring.room() == 8 and not ring.poll()


def test_a_packed_ring(arena: Arena, seed: int) -> None:
    """Around the end of the ring the wrap counters turn, in what is given and what is used."""
    ring = HostilePacked(arena, 3, Modes(packed=True), random.Random(seed))
    descriptors = ring.areas[0].address

    def flags(place: int) -> int:
        return int.from_bytes(arena.read(descriptors + 16 * place + 14, 2), "little")

    for wrap in (1, 0):
        for places in ((0, 1), (2,)):
            chain = Given(Fate.GOOD, "good")
            before = flags(places[0])
            ring.add([Raw(1, 10, 1)] * (len(places) - 1) + [Raw(2, 20, 2)], chain)
            assert chain.places == list(places) and flags(places[0]) == before
            ring.publish()
            for place in places:
                assert (flags(place) >> 7 & 1, flags(place) >> 15) == (wrap, 1 - wrap)
            assert not ring.poll()
            arena.write(descriptors + 16 * places[0] + 8, struct.pack(
                "<IHH", 20, chain.number, 0x8082 if wrap else 2))
            (back,) = ring.poll()
            assert back.chain is chain and back.written == 20
    assert ring.kick_data == 0x8000 and ring.room() == 3
    arena.write(descriptors + 8, struct.pack("<IHH", 20, 0, 0x8080))
    with pytest.raises(Broken, match="nothing to be used"):
        ring.poll()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("transmit", [False, True])
def test_every_mistake_comes(packed: bool, transmit: bool, arena: Arena, seed: int) -> None:
    """With tables and without, of each reason that such a ring can have."""
    rng = random.Random(seed)
    made: Counter[str] = Counter()
    reasons: set[int] = set()
    for count in range(400):
        modes = Modes(packed=packed, indirect=bool(count & 1))
        ring = (HostilePacked if packed else HostileSplit)(arena, 8, modes, rng)
        maker = Mistakes(ring, rng, transmit=transmit, sizes=ChainSizes(1518, 128), kinds=made)
        assert maker.mistake() and len(ring.given) == 1
        assert ring.given[0].fate is not Fate.GOOD
        reasons |= ring.given[0].reasons
    wanted = {FaultReason.LOOP, FaultReason.ZERO_LENGTH, FaultReason.DIRECTION,
              FaultReason.BAD_FLAGS, FaultReason.BAD_LENGTH, FaultReason.READ_FAILED}
    wanted |= set() if packed else {FaultReason.HEAD_RANGE, FaultReason.NEXT_RANGE}
    assert reasons == {reason.value for reason in wanted}
    assert len(made) == (12 if packed else 16) + 4 * transmit


def _read(engine: Engine, address: int) -> None:
    """Let the card, played by hand, read a byte."""
    engine.hand_request(Request(RequestKind.MEM_READ, address & ~3, *byte_enables(address, 1)))
    engine.take_violations()  # nobody has made it a bus master


@pytest.mark.parametrize("chaos", [False, True])
def test_what_was_used_is_the_drivers_again(chaos: bool, seed: int) -> None:
    """A chain's buffers may be read until it is used; after that only if all is scrambled."""
    with Engine(None, EngineOptions(tlp_log=TLP_LOG)) as engine:
        rng = random.Random(seed)
        ring = HostileSplit(Arena(engine.memory, START, SIZE), 8, Modes(), rng)
        chains = Mistakes(ring, rng, transmit=True, sizes=ChainSizes(9018, 128), kinds=Counter())
        judge = Judge(engine, ring, Books(), transmit=True, wire=WireBook())
        assert chains.good()
        ring.publish()
        chain, = ring.given
        address, _size = chain.buffers[0]
        _read(engine, address)
        judge.take()
        used = ring.areas[2].address
        ring.arena.write(used + 4, struct.pack("<II", chain.number, 0))
        ring.arena.write(used + 2, b"\1\0")
        judge.take()
        assert [each.chain for each in judge.used] == [chain]
        if chaos:
            judge.scrambled()
        _read(engine, address)
        if chaos:
            judge.look()
        else:
            with pytest.raises(Broken, match=f"read of 1 bytes at {address:#x}"):
                judge.look()
