"""Rings that go on where another card has left them: what live migration stands on."""

from __future__ import annotations

import random

import pytest

from hw.config import NicConfig
from sim.native.bring_up import NativeCard, open_card
from sim.native.engine import EngineOptions
from sw_driver.layouts import Feature
from sw_driver.management import Management, ManagementError, Position
from sw_driver.net import SUPPORTED, NetOptions, without
from sw_driver.split_ring import SplitRing
from tests.system.scenario import frames_of

FULL = NicConfig.preset("full")
PLAIN = without(Feature.RING_PACKED, Feature.EVENT_IDX, Feature.NOTIFICATION_DATA,
                Feature.IN_ORDER)
EXPECTED_DROPS = {"queue_down", "queue_full", "pool_full"}


class Traffic:
    """Frames both ways, and commands; the card is reset amid them, and told where its rings are."""

    def __init__(self, card: NativeCard, seed: int) -> None:
        self.card = card
        self.port = card.port
        self.device = card.device
        self.rng = random.Random(seed)
        self.management = Management(card.function)
        self.numbers = {0: 0, 1: 1, 2 * card.device.config.max_pairs: FULL.queues}
        self.outgoing = frames_of(seed, 3000, 600)
        self.incoming = frames_of(seed + 1, 3000, 600)
        self.received: list[bytes] = []
        self.paused = False
        self.pauses = 0
        self.moves_over = False

    async def _receive(self) -> None:
        patience = 3  # when all moves are done
        while patience:
            frame = None if self.paused else await self.device.receive(2000)
            if frame is not None:
                self.received.append(frame)
            elif self.paused:
                self.pauses += 1
                await self.port.sleep(50)
            elif self.moves_over:
                patience -= 1

    async def _stands(self) -> dict[int, int]:
        """Read all positions; none can be loaded."""
        stands = {}
        for index, number in self.numbers.items():
            at = await self.management.position(number)
            ring = self.device.rings[index]
            assert at.started
            if isinstance(ring, SplitRing):
                assert at.value == ring.used_index
            elif not ring.has_used():
                assert at.value == ring._told(ring._used)  # type: ignore[attr-defined]
            with pytest.raises(ManagementError, match="started already"):
                await self.management.load_position(number, 5)
            assert await self.management.position(number) == at
            stands[number] = at.value
        return stands

    async def _load(self, stands: dict[int, int]) -> None:
        for number in self.rng.sample(sorted(stands), len(stands)):
            fresh = Position(value=0, started=False, loaded=False)
            assert await self.management.position(number) == fresh
            await self.management.load_position(number, 77)
            await self.management.load_position(number, stands[number])
            assert await self.management.position(number) == Position(
                value=stands[number], started=False, loaded=True)

    async def _move(self) -> None:
        """Suspend the card amid traffic, and let the rings go on as on another one."""
        await self.device.set_pairs(1)
        self.paused, seen = True, self.pauses
        while self.pauses < seen + 2:
            await self.port.sleep(self.rng.randint(1, 100))
        await self.device.suspend()
        stands = await self._stands()
        await self.device.begin_again(lambda: self._load(stands))
        self.paused = False

    async def work(self, moves: int) -> None:
        for frame in self.incoming:
            self.card.wire.send(frame)
        sends = self.port.spawn(self.device.send_many(self.outgoing, batch=8))
        receives = self.port.spawn(self._receive())
        for _ in range(moves):
            await self.port.sleep(self.rng.choice((self.rng.randint(1, 300),
                                                   self.rng.randint(300, 4000))))
            await self._move()
        self.moves_over = True
        await sends
        await receives
        await self.device.drain()
        await self.port.sleep(3000)

    async def account(self) -> None:
        """See that nothing was lost or repeated, but for what came while no queue ran."""
        sent = [frame.data for frame in self.card.wire.take_frames() if frame.direction == "tx"]
        assert sent == self.outgoing
        rest = iter(self.incoming)
        assert all(frame in rest for frame in self.received)  # in order, each once
        drops = {name: count for name, count in (await self.management.drops()).items() if count}
        assert drops.keys() <= EXPECTED_DROPS
        assert len(self.received) + sum(drops.values()) == len(self.incoming)
        assert len(self.received) > 500


@pytest.mark.parametrize("features", [
    PLAIN, (*PLAIN, Feature.RING_PACKED), without(Feature.RING_PACKED), SUPPORTED],
    ids=["split", "packed", "split-all", "packed-all"])
def test_rings_go_on_elsewhere(features: tuple[int, ...], seed: int) -> None:
    packed = Feature.RING_PACKED in features
    net = NetOptions(features=features, queue_size=61 if packed else 64, seed=seed)
    host = EngineOptions(rx_rate=4.0, jitter_cycles=100, seed=seed)
    with open_card(FULL, options=host, net=net) as card:
        traffic = Traffic(card, seed)
        card.port.run(traffic.work(moves=12))
        card.port.run(traffic.account())
        card.engine.check()


def test_a_reset_takes_a_position_back() -> None:
    """Also that of a queue that was not started; and there are no other queues."""
    with open_card(FULL) as card:
        port, device, management = card.port, card.device, Management(card.function)
        frames = frames_of(1, 50, 300)
        port.run(device.send_many(frames))
        port.run(device.drain())
        port.run(device.close())
        for number in range(FULL.queue_numbers):
            port.run(management.load_position(number, 1234))
            assert port.run(management.position(number)) == Position(
                value=1234, started=False, loaded=True)
        port.run(device.open())
        assert not any(port.run(management.position(number)).loaded
                       for number in range(FULL.queue_numbers))
        port.run(device.send_many(frames))
        port.run(device.drain())
        card.engine.run(1000)
        assert [frame.data for frame in card.wire.take_frames()] == 2 * frames
        for number in (FULL.queue_numbers, (1 << 14) - 1):
            with pytest.raises(ManagementError, match=f"there is no queue {number}"):
                port.run(management.position(number))
        card.engine.check()
