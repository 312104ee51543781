"""One card: its device is brought up, carries traffic, and is reset, again and again."""

from __future__ import annotations

import random
from collections.abc import Callable

from sim.native.bring_up import NativeCard
from sim.soak.books import Books, SoakFailure
from sim.soak.burst import Traffic
from sim.soak.draw import draw_sizes
from sw_driver.management import Management

__all__ = ["Episode"]

_SOON_CYCLES = 50
_END_CYCLES = 100_000     # what was not done by then never will be
_REST_CYCLES = 6000       # after so long nothing is on its way into the card any more
_STARTED_CYCLES = 100     # until DRIVER_OK has come to all queues
_TURN_PACKETS = 60
_EXPECTED_DROPS = {"queue_down", "queue_full", "pool_full", "entry_full"}


class Episode:
    """A card with a host, a link and a driver of random manners."""

    def __init__(self, card: NativeCard, rng: random.Random, books: Books) -> None:
        self.card = card
        self.rng = rng
        self.books = books
        self.traffic = Traffic(card, rng, books)
        self.sizes = draw_sizes(rng, card.config.max_frame_bytes)

    @property
    def out(self) -> int:
        """Frames that went the whole way."""
        traffic = self.traffic
        return traffic.way_out.out + traffic.sent.out + traffic.way_in.out + traffic.received.out

    async def life(self) -> None:
        """Open the device, let traffic pass one way or another, and reset it amid that or after."""
        rng, device, port = self.rng, self.card.device, self.card.port
        self.books.lives += 1
        if not device.is_open:
            await device.open()
            await port.sleep(_STARTED_CYCLES)
        fate = rng.random()
        if fate < 0.3:
            await self._turn(rng.randint(1, _TURN_PACKETS))
        if 0.2 < fate < 0.3:
            await self._reset_amid_python()
            return
        drained = 0.3 <= fate < 0.5
        if drained:
            await self._settle()
        await self.traffic.begin(self.sizes, counted=drained)
        for _ in range(rng.choice((1, 1, 2, 4))):
            await self._pass(rng.choice((rng.randint(1, 500), rng.randint(500, 6000),
                                         rng.randint(6000, 40_000))))
            deed = rng.random()
            if deed < 0.2:
                await self._suspend()
            elif deed < 0.4 and not drained:  # what a reset takes with it, nobody counts
                await self._reset_queues()
        if drained:
            await self.traffic.stop()
        await self._reset(rng.choice(("device", "function")))

    async def _pass(self, cycles: int) -> None:
        """Let time pass."""
        await self.card.port.sleep(cycles)
        self.traffic.look()

    # --- by Python

    async def _turn(self, packets: int) -> None:
        """Send and receive at once, by the driver in Python; wait until all has come through."""
        port = self.card.port
        self.traffic.way_out.begin()
        out = port.spawn(self._send(self.rng.randint(0, packets)))
        rests = port.spawn(self._rest_amid(self.rng.choice((0, 0, 1, 3))))
        await self._receive(self.rng.randint(0, packets))
        await out
        await rests
        await self.card.device.drain()
        await self._until(lambda: self.traffic.way_out.all_out, "frames of Python to be sent")

    async def _send(self, count: int) -> None:
        batch, pair = self.rng.choice((1, 4, 32)), self.rng.randrange(self.card.device.active_pairs)
        for start in range(0, count, 64):
            size = min(64, count - start)
            frames = [self.traffic.way_out.make(self.sizes()) for _ in range(size)]
            await self.card.device.send_many(frames, batch=batch, pair=pair)
            self.traffic.look()

    async def _receive(self, count: int) -> None:
        """Receive by Python: these frames bear no flow, and come to the first pair."""
        wire, rng = self.card.wire, self.rng
        ahead = rng.choice((4, 16, 64))
        given = 0
        while True:
            while given < count and wire.rx_waiting < ahead:
                wire.send(self.traffic.way_in.make(self.sizes()))
                given += 1
            frame = await self.card.device.receive(_SOON_CYCLES * 8)
            if frame is not None:
                self.traffic.came(frame)
            elif given == count and wire.rx_idle:
                await self._settle()
                if not self.card.device.rings[0].has_used():
                    return

    async def _reset_amid_python(self) -> None:
        """Reset the card while Python sends and the wire brings more."""
        card, port = self.card, self.card.port
        out = port.spawn(self._send_on())
        for _ in range(self.rng.randint(1, 40)):
            card.wire.send(self.traffic.way_in.make(self.sizes()))
        await port.sleep(self.rng.choice((self.rng.randint(1, 300), self.rng.randint(300, 3000))))
        out.close()
        card.wire.forget()
        await self._reset(self.rng.choice(("device", "function")))

    async def _send_on(self) -> None:
        while True:
            await self.card.device.send_many(
                [self.traffic.way_out.make(self.sizes()) for _ in range(8)])
            self.traffic.look()
            await self.card.port.sleep(1)

    # --- rests and resets

    async def _rest_amid(self, times: int) -> None:
        for _ in range(times):
            await self.card.port.sleep(self.rng.choice((self.rng.randint(1, 300),
                                                        self.rng.randint(300, 2000))))
            await self._suspend()

    async def _suspend(self) -> None:
        """Suspend the card for a while: nothing may leave it meanwhile."""
        await self.card.device.suspend()
        begun = self._requests()
        await self.card.port.sleep(self.rng.randint(1, 600))
        if begun != self._requests():
            raise SoakFailure("a suspended card reads, writes or interrupts")
        await self.card.device.resume()
        self.books.resets["suspension"] += 1

    def _requests(self) -> list[int]:
        """Give how much the card has asked of the host."""
        counters = self.card.engine.counters
        return [counters[name] for name in ("rq_reads", "rq_writes", "rq_interrupts")]

    async def _reset_queues(self) -> None:
        """Reset some queues amid the burst, and go on with fresh rings."""
        rng, device = self.rng, self.card.device
        pair = rng.randrange(device.active_pairs)
        for side in rng.choice(((0, 1), (1, 0), (0,), (1,))):
            await device.reset_queue(2 * pair + side)
            self.books.resets["queue"] += 1
            if side == 0:
                self.traffic.receive(pair)
            else:
                await self.traffic.send(pair, self.sizes)

    async def _reset(self, kind: str) -> None:
        """Reset device or function; what is on its way into the card is dropped, or comes later."""
        card = self.card
        card.wire.forget()
        if kind == "device" and self.rng.random() < 0.5:
            await card.device.recover()  # nothing but the reset keeps the card from the old rings
        elif kind == "device":
            await card.device.close()
        else:
            await card.device.reset_function()
        self.books.resets[kind] += 1
        self.traffic.give_up()
        await card.port.sleep(self.rng.choice((0, 100, 600)))
        self.traffic.look()

    # --- what it comes to

    async def _until(self, met: Callable[[], bool], what: str) -> None:
        """Wait until something is so."""
        deadline = self.card.port.now() + _END_CYCLES
        self.traffic.look()
        while not met():
            if self.card.port.now() > deadline:
                raise SoakFailure(f"{what} do not come")
            await self.card.port.sleep(_SOON_CYCLES)
            self.traffic.look()

    async def _settle(self) -> None:
        """Wait until the card has dropped or passed on all that came from the wire."""
        management = Management(self.card.function)
        for _ in range(_REST_CYCLES // 500):
            drops = await management.drops()
            counted = await management.count("received", "frames")
            if counted.events + sum(drops.values()) == self.card.engine.counters["wire_rx_frames"]:
                return
            await self.card.port.sleep(500)

    async def end(self) -> None:
        """See that every frame that went in is out, dropped and counted, or lost in a reset."""
        if not self.card.device.is_open:
            await self.card.device.open()  # the registers can be read
        await self._settle()
        self.traffic.look()
        management = Management(self.card.function)
        drops = await management.drops()
        counted = await management.count("wire_received", "frames")
        received = await management.count("received", "frames")
        sent = await self._wire_sent(management)
        self.books.dropped.update({name: count for name, count in drops.items() if count})
        unexpected = {name for name, count in drops.items() if count} - _EXPECTED_DROPS
        if unexpected:
            raise SoakFailure(f"frames were dropped as {', '.join(sorted(unexpected))}")
        came = self.card.engine.counters["wire_rx_frames"]
        if came != counted.events + drops["entry_full"]:
            raise SoakFailure(f"{came} frames came from the wire, the card counts {counted.events} "
                              f"and {drops['entry_full']} without room")
        later = sum(drops[name] for name in ("pool_full", "queue_full", "queue_down", "no_fit"))
        if counted.events != received.events + later:
            raise SoakFailure(f"{counted.events} frames came into the card, {received.events} "
                              f"left it and {later} were dropped")
        if sent != (out := self._sent_out()):
            raise SoakFailure(f"the card counts {sent} frames sent, the wire {out}")

    def _sent_out(self) -> int:
        return self.traffic.way_out.out + self.traffic.sent.out

    async def _wire_sent(self, management: Management) -> int:
        """Count the frames sent, when what was begun before a reset has left as well."""
        for _ in range(_REST_CYCLES // 500):
            counted = await management.count("wire_sent", "frames")
            self.traffic.look()
            if counted.events == self._sent_out():
                break
            await self.card.port.sleep(500)
        return counted.events

    def close(self) -> None:
        """Put all counts into the books."""
        traffic, books = self.traffic, self.books
        sent = self._sent_out()
        books.sent += sent
        books.received += self.traffic.way_in.out + traffic.received.out
        books.given += self.card.engine.counters["wire_rx_frames"]
        books.given_up += traffic.way_out.next + traffic.sent.given - sent
        books.manners["frames merged"] += self.card.device.statistics.merged_frames
        books.cycles += self.card.engine.cycle
        books.engine_cpu_s += self.card.engine.cpu_seconds
