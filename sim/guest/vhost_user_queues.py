"""The queues of a vhost-user front-end on the card: started, stopped, kicked, interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable

from sim.guest.clock import Clock
from sim.guest.vhost_user_alarm import Alarm
from sim.guest.vhost_user_card import BridgedCard, CardError
from sim.guest.vhost_user_memory import DirtyLog, GuestMemory
from sim.guest.vhost_user_messages import (
    BackendRequest,
    ProtocolError,
    ProtocolFeature,
    call_payload,
    close_all,
    tell,
)
from sim.guest.vhost_user_ring import FrontEndRing, base_of
from sw_driver.layouts import Feature

__all__ = ["HAS_PROTOCOL", "LOG_ALL", "FrontEndQueues"]

LOG_ALL = 1 << 26
"""Feature bit: what is written is logged."""
HAS_PROTOCOL = 1 << 30
"""Feature bit: there are protocol features, and queues begin disabled."""
_SETTLE_S = 0.02
_AGAIN_S = 0.005


class FrontEndQueues:
    """The queues of one front-end, and the card run with those that are started and enabled.

    What takes something away stops the card at once; what adds something is gathered until the
    first kick, or for a moment (`soon`), so that the card is brought up once. It is stopped and
    started with all its queues, and goes on where they stood.

    The control queue is the front-end's if it accepts CTRL_VQ; what it commanded is forgotten when
    the card is started again. Else the bridge has the card use as many pairs as are enabled.

    Parameters
    ----------
    clock, card
        The card, which nobody else uses.
    memory
        Of the front-end; is cleared at the end.
    failed
        Called with the reason when the front-end cannot be served any more.
    """

    def __init__(self, clock: Clock, card: BridgedCard, memory: GuestMemory,
                 failed: Callable[[str], None]) -> None:
        self._clock, self._card, self._memory, self._failed = clock, card, memory, failed
        self.features = 0
        """As the front-end accepted them."""
        self.protocol = ProtocolFeature(0)
        self.notes: list[str] = []
        """What went wrong in its rings, newest last."""
        self.active: tuple[int, ...] = ()
        """Queues that the card runs."""
        self._places: dict[int, tuple[int, int, int]] = {}
        self._rings = [FrontEndRing(index) for index in range(2 * card.max_pairs + 1)]
        self._log: DirtyLog | None = None
        self._logging = False
        self._unasked: int | None = None
        self._ended = False
        self._seen = [interrupt.count for interrupt in card.interrupts]
        self._changed = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._alarm = Alarm()
        clock.on_interrupt(self._pass_interrupts)
        clock.watch(self._changed, self.guarded(self._on_change))
        clock.watch(self._alarm.fileno(), self.guarded(self._on_alarm))

    def guarded(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Let whatever goes wrong with this front-end end it, and nothing else."""
        def call() -> None:
            try:
                if not self._ended:
                    callback()
            except (ProtocolError, CardError, OSError) as error:
                self._failed(str(error))
        return call

    def ring(self, index: int) -> FrontEndRing:
        """Give what is known of a queue; `ProtocolError` if the card has none."""
        if index >= len(self._rings):
            raise ProtocolError(f"there is no queue {index}, the last one is "
                                f"{len(self._rings) - 1}")
        return self._rings[index]

    @property
    def packed(self) -> bool:
        """Whether rings are packed."""
        return bool(self.features >> Feature.RING_PACKED & 1)

    @property
    def inband(self) -> bool:
        """Whether kicks and calls are messages."""
        return ProtocolFeature.INBAND_NOTIFICATIONS in self.protocol

    def accept(self, features: int) -> None:
        """Take the features that the front-end accepts."""
        if (features ^ self.features) & ~(LOG_ALL | HAS_PROTOCOL):
            self.halt()
        self.features = features
        self._update_log()
        self.soon()

    def speak(self, fd: int) -> None:
        """Say what is unasked on this descriptor from now on."""
        os.set_blocking(fd, False)
        if self._unasked is not None:
            close_all([self._unasked])
        self._unasked = fd

    # --- the log of dirty pages

    def log(self, log: DirtyLog) -> None:
        """Log there, as soon as LOG_ALL is accepted."""
        self._log, self._logging = log, False
        self._update_log()

    def _update_log(self) -> None:
        wanted = self._log is not None and bool(self.features & LOG_ALL)
        if wanted == self._logging:
            return
        self._logging = wanted
        self._clock.engine.memory.log_dirty(
            self._log.bitmap if wanted and self._log is not None else None)

    # --- memory that changes

    def rest(self) -> bool:
        """Have the card drain; whether it runs."""
        if self.active:
            self._card.suspend()
        return bool(self.active)

    def go_on(self, resting: bool) -> None:
        """Let the card go on, if its rings are still where they were."""
        if not resting:
            self.soon()
            return
        try:
            for index in self.active:
                self.check_place(index)
        except ProtocolError:
            self.halt()
            self.soon()
        else:
            self._card.resume()

    def check_place(self, index: int) -> None:
        """`ProtocolError` unless a queue of the card lies where it lay when it was started."""
        if index in self.active:
            setup = self._rings[index].setup(self._memory, self.packed)
            if (setup.descriptors, setup.driver, setup.device) != self._places[index]:
                raise ProtocolError(f"queue {index} has moved")

    # --- the life of the card

    def soon(self) -> None:
        """Look in a moment whether the card is to be started, or has all its queues."""
        self._alarm.set(_SETTLE_S)

    def halt_if(self, index: int) -> None:
        """Stop the card if it runs this queue; the others are to be started again soon."""
        if index in self.active:
            self.halt()
            self.soon()

    def halt(self) -> None:
        """Stop the card, and keep where its queues stand."""
        if not self.active:
            return
        self.active = ()
        for index, position in self._card.stop().items():
            self._rings[index].base = base_of(position, self.packed)
        self._pass_interrupts()

    def forget(self) -> None:
        """Stop the card, and take all queues for stopped and disabled."""
        self.halt()
        for ring in self._rings:
            ring.enabled, ring.stopped = False, True

    def _wanted(self) -> tuple[int, ...]:
        """Give the queues that are ready, of those that there are with these features."""
        known = set(range(2 * self._card.max_pairs))
        if self.features >> Feature.CTRL_VQ & 1:
            if not self.features >> Feature.MQ & 1:
                known = {0, 1}
            known.add(self._card.control_index(self.features))
        return tuple(ring.index for ring in self._rings if ring.ready and ring.index in known)

    def _settle(self) -> None:
        """Run the card with what is ready now."""
        wanted = self._wanted()
        self._alarm.clear()
        if wanted == self.active:
            return
        self.halt()
        self._alarm.clear()
        if not wanted:
            return
        if not self.features >> Feature.VERSION_1 & 1:
            raise ProtocolError("the front-end did not accept VERSION_1")
        setups = [self._rings[index].setup(self._memory, self.packed) for index in wanted]
        pairs = 1
        while {2 * pairs, 2 * pairs + 1} <= set(wanted):
            pairs += 1
        self._card.start(self.features & ~(LOG_ALL | HAS_PROTOCOL), setups, pairs=pairs,
                         own_control=not self.features >> Feature.CTRL_VQ & 1)
        self.active = wanted
        self._places = {setup.index: (setup.descriptors, setup.driver, setup.device)
                        for setup in setups}
        for index in wanted:  # kicks from before are forgotten
            self._card.notify(index)

    # --- kicks and interrupts

    def set_kick(self, ring: FrontEndRing, fd: int | None) -> None:
        """Take kicks from a descriptor, or none."""
        if ring.kick is not None:
            self._clock.unwatch(ring.kick)
            close_all([ring.kick])
        ring.kick = fd
        if fd is not None:
            self._clock.watch(fd, self.guarded(lambda: self._on_kick(ring)))

    def _on_kick(self, ring: FrontEndRing) -> None:
        if not ring.take_kick() and ring.kick is not None:
            self._clock.unwatch(ring.kick)  # its other end is closed: it would be ready for ever
        self.kick(ring)

    def kick(self, ring: FrontEndRing) -> None:
        """Have the card look at a queue."""
        if not self.active:
            self._settle()  # which kicks all
        elif ring.index in self.active:
            self._card.notify(ring.index)

    def _pass_interrupts(self) -> None:
        """Tell the front-end of interrupts; called in the middle of anything."""
        for vector, interrupt in enumerate(self._card.interrupts):
            if interrupt.count == self._seen[vector]:
                continue
            self._seen[vector] = interrupt.count
            if not vector:
                os.eventfd_write(self._changed, 1)
            else:
                self._rings[vector - 1].call_due = True
                self._call(self._rings[vector - 1])

    def _call(self, ring: FrontEndRing) -> None:
        if not self.inband:
            ring.signal()
            return
        ring.call_due = not self._tell(BackendRequest.VRING_CALL, call_payload(ring.index))
        if ring.call_due:
            self._alarm.set(_AGAIN_S)

    def _tell(self, request: BackendRequest, payload: bytes = b"") -> bool:
        """Say something unasked; whether there was room for it, or nobody to hear it."""
        try:
            return self._unasked is None or tell(self._unasked, request, payload)
        except OSError:  # the front-end is about to go: its own socket will tell
            return True

    def _on_alarm(self) -> None:
        self._alarm.take()
        self._settle()
        for ring in self._rings:
            if ring.call_due and self.inband:
                self._call(ring)

    def _on_change(self) -> None:
        """The card's configuration has changed, or it has stopped for a fault."""
        os.eventfd_read(self._changed)
        if self._card.needs_reset():
            self.notes.append("the card has stopped for a fault in the front-end's rings")
            for index in self.active:
                self._rings[index].signal_error()
        self._tell(BackendRequest.CONFIG_CHANGE)

    # --- the end

    def end(self) -> None:
        """Bring the card to rest, and give everything back. `CardError` if it does not rest.

        Nothing of the card reaches the memory any more, which is cleared.
        """
        self._ended = True
        self.active = ()
        for fd in (self._changed, self._alarm.fileno()):
            self._clock.unwatch(fd)
        self._clock.off_interrupt(self._pass_interrupts)
        try:
            self._card.reset()
        finally:
            self._memory.clear()
            if self._logging:
                self._clock.engine.memory.log_dirty(None)
            self._log = None
            for ring in self._rings:
                self.set_kick(ring, None)
                ring.close()
            close_all([self._changed, *([] if self._unasked is None else [self._unasked])])
            self._alarm.close()
