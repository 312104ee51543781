"""A case: one card, and on it several drivers, one after another, each with a hostile queue."""

from __future__ import annotations

from hw.config import NicConfig
from hw.virtio.types import FaultReason
from sim.fuzz.arena import Broken
from sim.fuzz.driver import RECEIVE, TRANSMIT, HostileDevice, draw_host, draw_manners
from sim.fuzz.honest import Honest, feed
from sim.fuzz.judge import Books
from sim.fuzz.meddle import Meddler
from sim.fuzz.scene import SETTLE_CYCLES, Scene
from sim.fuzz.split import HostileSplit
from sim.native.engine import Engine
from sim.native.port import NativePort
from sw_driver.layouts import Feature, Status
from sw_driver.management import Management
from sw_driver.net import NetOptions
from sw_driver.pci import scan
from sw_driver.virtio_pci import TransportError

__all__ = ["Case", "fuzz_case"]

_ROUNDS = 5
_SHORT_ROUNDS = 12
_STARTED_CYCLES = 100     # until DRIVER_OK has come to all queues: what comes before is dropped
_LEFT_CYCLES = 1500       # what was on its way from the wire is dropped by then


class Case(Scene):
    """What happens to one card, all of it drawn: parameters as of `Scene`."""

    # --- deeds

    async def _mistakes(self) -> bool:
        """Give some good chains, mistakes, and more of all; say whether a mistake was made."""
        rng, maker, device = self.rng, self.maker, self.device
        made = False
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            for _ in range(rng.choice((0, 0, 1, 3, 10))):
                self.books.chains += maker.good()
            why = maker.mistake()
            if why is not None:
                made = True
                self.books.chains += 1
                self.story.append(why)
            if rng.random() < 0.5:
                await self._show()
            for _ in range(rng.choice((0, 0, 2))):
                self.books.chains += maker.good()
        self.ring.publish()
        await device.virtio.notify(device.victim)
        for _ in range(rng.choice((0, 0, 3))):
            await self.port.sleep(rng.randint(1, 300))
            await device.tell(self.ring.false_kick_data())
        return made

    async def _show(self) -> None:
        """Publish, and kick; what the kick tells may be wrong."""
        self.ring.publish()
        if self.rng.random() < 0.3:
            self.books.kinds["false notification"] += 1
            await self.device.tell(self.ring.false_kick_data())
        await self.device.virtio.notify(self.device.victim)

    async def _jump(self) -> bool:
        """Let the available index jump, or go back."""
        ring = self.ring
        if not isinstance(ring, HostileSplit) or ring.chains:
            return await self._mistakes()
        index = ring.published + self.rng.choice(
            (ring.size + 1, ring.size + 2, 0x8000, -1, -ring.size - 1))
        self.books.kinds["index jump"] += 1
        self.story.append(f"index from {ring.published} to {index}")
        ring.write_index(index)
        await self.device.tell(index)
        return True

    async def _scramble(self) -> bool:
        """Change everything while the card reads."""
        rng, ring = self.rng, self.ring
        scratch = self.maker.scratch()
        self.judge.scrambled()
        self.books.kinds["scrambled"] += 1
        for _ in range(rng.randint(5, 60)):
            for _ in range(rng.choice((1, 3, 20))):
                ring.scramble(scratch)
            if rng.random() < 0.6:
                told = ring.kick_data if rng.random() < 0.5 else rng.randrange(65536)
                await self.device.tell(told)
            await self.port.sleep(rng.choice((1, 5, 30, 200)))
            self._take()
        return False

    async def _rest(self) -> None:
        """Let the device rest (SUSPEND): it is silent, whatever it is told, unless it is broken."""
        await self.honest.hold()
        try:
            await self._silence()
        finally:
            self.honest.go_on()

    async def _silence(self) -> None:
        device, rng = self.device, self.rng
        self.books.kinds["suspension"] += 1
        self.story.append("suspension")
        try:
            await device.suspend()
        except TransportError:
            await self._broken_instead("suspended")
            return
        begun = self._requests()
        for _ in range(rng.choice((0, 1, 20))):
            self.books.chains += self.maker.good()
        await self._show()
        await self.port.sleep(rng.randint(1, 800))
        if self._requests() != begun:
            raise Broken("a suspended device reads, writes or interrupts")
        try:
            await device.resume()
        except TransportError:
            await self._broken_instead("resumed")

    async def _broken_instead(self, what: str) -> None:
        """See that it is a fault for which the device did not do as it was told."""
        self.device.context.is_suspended = False
        if not await self.device.virtio.status() & Status.NEEDS_RESET:
            raise Broken(f"the device is not {what}, and does not ask for a reset")

    def _requests(self) -> list[int]:
        """Give how much the card has asked of the host."""
        counters = self.engine.counters
        return [counters[name] for name in ("rq_reads", "rq_writes", "rq_interrupts")]

    async def _go_on(self) -> bool:
        """Give as many good chains as there is room for, and no mistake."""
        while self.maker.good():
            self.books.chains += 1
        await self._show()
        return False

    # --- what it comes to

    async def _outcome(self, how: str, *, must: bool) -> None:
        """Wait until all is over, and see what it came to."""
        reasons: frozenset[int] | None = self.judge.reasons()
        if how == "scramble":
            reasons = None
        elif how == "jump" and not reasons:
            reasons = frozenset({FaultReason.INDEX_JUMP.value})
        if must:
            await self._await_fault()
        elif how != "scramble":
            await self._until(lambda: not self.ring.chains or self._starved(),
                              "chains are not used")
            await self._all_sent()
        await self._pass(SETTLE_CYCLES)
        self.judge.order()
        self._see_interrupts()
        await self._told(await self._records(), reasons, must=must)
        await self._all_sent()

    # --- resets

    async def _end_honest(self) -> None:
        """Let the honest queue end, and see that all its frames came."""
        await self.honest.end()
        await self._until(lambda: self.honest.check(whole=False), "honest transmit")

    async def _reset_queue(self) -> None:
        """Reset the hostile queue alone; unless a fault stands, it must serve again."""
        self.books.resets["queue"] += 1
        self.story.append("reset of the queue")
        await self.device.virtio.reset_queue(self.device.victim)
        self._take()
        done = self.port.now()
        await self.port.sleep(self.rng.choice((100, 600)))
        self.judge.late(done)
        if self._faulted or await self._told(
                await self._records(), None if self.judge.chaos else self._reasons(), must=False):
            return  # only a reset of the device ends that
        # What was begun leaves, and is seen by nobody.
        await self._pass_wire(_LEFT_CYCLES)
        await self.device.set_up_again()
        self._begin_counts()
        await self._good(self.rng.choice((5, 40)))
        await self._clean()

    def _reasons(self) -> frozenset[int]:
        jumped = {FaultReason.INDEX_JUMP.value} if "jump" in self.story else set()
        return self.judge.reasons() | jumped

    async def _reset(self, kind: str) -> None:
        """Reset the device, and see that nothing of it is touched any more, and how it stands."""
        device, port = self.device, self.port
        self.books.resets[kind] += 1
        self.story.append(f"reset of the {kind}")
        # Its driver is stopped where it is.
        self.honest.drop()
        if self._feeder is not None:
            self._feeder.close()
            self._feeder = None
        self.engine.wire.forget()
        if kind == "function":
            await device.function.reset()
        else:
            await device.virtio.reset()
        self.judge.look()
        done = port.now()
        await port.sleep(self.rng.choice((100, 600)))
        self.judge.late(done)
        if kind == "function":
            await device.function.enable(bus_master=False)
        records = await self._records()
        if kind == "function":
            # Reads that a function-level reset came upon are answered as failures, of any queue.
            failed = FaultReason.READ_FAILED.value
            for _ in [record for record in records if record.reason == failed]:
                self.books.faults["READ_FAILED in a reset"] += 1
            records = [record for record in records if record.reason != failed]
        self.judge.faults(records, device.victim, None if self.judge.chaos else self._reasons())
        if await device.virtio.status():
            raise Broken("device_status is not 0 after a reset")
        device.forget()
        await self._pass_wire(_LEFT_CYCLES)

    async def _pass_wire(self, cycles: int) -> None:
        await self.port.sleep(cycles)
        for frame in self.engine.wire.take_frames():
            if frame.direction == "tx" and not self.transmit:
                self.honest.came.append(frame.data)

    # --- rounds

    async def _begin_round(self, victim: int, options: NetOptions) -> None:
        """Open the device, and let honest traffic begin."""
        device = self.device
        device.victim, device.options = victim, options
        self._faulted = False
        await device.open()
        await self.port.sleep(_STARTED_CYCLES)
        self.honest = Honest(device, self.engine, self.port, self.books, self.rng.random())
        if not self.transmit:
            self._feed()
        self._begin_counts()

    async def _short_rounds(self) -> None:
        """Mistakes at once, and resets amid chains: drivers of the same manners in a row.

        So what the card loses at each reset adds up.
        """
        rng = self.rng
        victim = rng.choice((RECEIVE, TRANSMIT))
        options = draw_manners(rng, self.config, tables=rng.random() < 0.7)
        for _ in range(_SHORT_ROUNDS):
            self.story.clear()
            await self._begin_round(victim, options)
            how = rng.choice(("mistakes", "mistakes", "mistakes", "amid", "amid", "jump"))
            self.story += ["short", how]
            await self._good(rng.choice((0, 0, 2, 20)))
            if how == "amid":
                for _ in range(rng.choice((3, 64, 256))):
                    self.books.chains += self.maker.good()
                await self._show()
                await self._pass(rng.choice((rng.randint(1, 200), rng.randint(1, 1000))))
            else:
                must = await (self._jump if how == "jump" else self._mistakes)()
                await self._outcome(how, must=must)
                self._faulted = must
            await self._reset(rng.choice(("device", "function")))

    async def _round(self) -> None:
        rng, device = self.rng, self.device
        await self._begin_round(rng.choice((RECEIVE, TRANSMIT)), draw_manners(rng, self.config))
        await self._good(self.ring.size * rng.choice((1, 3, 8)) + 10)
        await self._clean()
        meddler = None
        if rng.random() < 0.4:
            meddler = Meddler(self.management, self.port, self.books.kinds, rng.random())
        if rng.random() < 0.3:
            await self._rest()
        how = rng.choice(("mistakes", "mistakes", "mistakes", "jump", "scramble", "go on"))
        self.story.append(how)
        must = await {"mistakes": self._mistakes, "jump": self._jump, "scramble": self._scramble,
                      "go on": self._go_on}[how]()
        # Not behind a mistake: a device that asks for a reset need not go on in any queue.
        if how == "go on" and rng.random() < 0.4:
            await self._rest()
        if meddler is not None:
            await meddler.end()
        if rng.random() < 0.35:
            self.story.append("reset amid it")
            await self._pass(rng.choice((rng.randint(1, 200), rng.randint(1, 2000))))
        else:
            await self._outcome(how, must=must)
            self._faulted = bool(await device.virtio.status() & Status.NEEDS_RESET)
            if rng.random() < 0.5:
                await self._end_honest()  # all came, up to the case's own reset
                if self._feeder is not None:
                    self._feeder.close()
                await self._quiet()
                if not self.transmit:
                    self._feed()
        if device.virtio.has(Feature.RING_RESET) and rng.random() < 0.4:
            await self._reset_queue()
            await self._end_honest()
        await self._reset(rng.choice(("device", "function")))

    def _feed(self) -> None:
        self._feeder = self.port.spawn(feed(self.engine, self.port, self._wire.sizes,
                                            self.rng.random()))

    async def _start(self) -> None:
        (function,) = await scan(self.port)
        self.device = HostileDevice(self.port, function)
        self.device.make_hostile = self._new_ring
        await self.device.virtio.discover()
        self.management = Management(function)

    def run(self) -> None:
        """Run all rounds; `Broken` at the first thing that is wrong."""
        with Engine(self.config, draw_host(self.rng)) as self.engine:
            self.port = NativePort(self.engine, strict=False)
            try:
                self.port.run(self._start())
                self.port.run(self._short_rounds())
                for _ in range(_ROUNDS):
                    self.story.clear()
                    self.port.run(self._round())
            finally:
                self.books.cycles += self.engine.cycle
                self.books.engine_cpu_s += self.engine.cpu_seconds


def fuzz_case(config: NicConfig, seed: int, number: int, books: Books) -> str | None:
    """Run a case, the same every time; give what was wrong, and None if nothing was.

    Each driver's ring is filled with good chains, then with mistakes or with chaos, beside honest
    queues; and a reset of one kind or another ends it. Several drivers with few chains come first.
    """
    case = Case(config, seed, number, books)
    try:
        case.run()
    except Exception as error:  # whatever it is, the case says how to see it again
        name = "" if isinstance(error, Broken) else f"{type(error).__name__}: "
        return f"{name}{error}\n  ({'; '.join(case.story)})"
    return None
