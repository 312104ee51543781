"""A vhost-user back-end: what the messages of a front-end say, and how they are answered."""

from __future__ import annotations

from collections.abc import Callable

from sim.guest.clock import Clock
from sim.guest.vhost_user_card import BridgedCard, CardError
from sim.guest.vhost_user_memory import MAX_SLOTS, DirtyLog, GuestMemory
from sim.guest.vhost_user_messages import (
    Channel,
    Message,
    ProtocolError,
    ProtocolFeature,
    Request,
    VringState,
    close_all,
    name_of,
    vring_address,
    vring_state,
)
from sim.guest.vhost_user_queues import HAS_PROTOCOL, LOG_ALL, FrontEndQueues
from sim.guest.vhost_user_ring import FrontEndRing, check_event

__all__ = ["IN_BAND", "PROTOCOL_FEATURES", "FrontEnd"]

PROTOCOL_FEATURES = (
    ProtocolFeature.MQ | ProtocolFeature.LOG_SHMFD | ProtocolFeature.RARP
    | ProtocolFeature.REPLY_ACK | ProtocolFeature.BACKEND_REQ | ProtocolFeature.CONFIG
    | ProtocolFeature.CONFIGURE_MEM_SLOTS)
"""What every front-end is offered."""
IN_BAND = PROTOCOL_FEATURES | ProtocolFeature.INBAND_NOTIFICATIONS
"""The same with kicks and calls as messages: QEMU accepts that, and does not have it."""
_MESSAGES = 32  # at a time, then the card has its turn
Answer = int | bytes | VringState | None


class FrontEnd:
    """One connection: a front-end's virtio-net driver on the card.

    A message that asks for something impossible is answered with an error where its sender wants
    to know; else, and for what is no message at all, the connection ends. Nothing of it harms the
    card, or who comes next.

    Parameters
    ----------
    clock, card
        The card, which nobody else uses.
    channel
        To the front-end; belongs to this object.
    hidden
        Feature bits that are not offered, as a mask.
    protocol
        Protocol features that are offered.
    gone
        Called once, with the reason, when the connection has ended: the card is at rest then.
    """

    def __init__(self, clock: Clock, card: BridgedCard, channel: Channel, *, hidden: int = 0,
                 protocol: ProtocolFeature = PROTOCOL_FEATURES,
                 gone: Callable[[str], None] = lambda reason: None) -> None:
        self._clock, self._card, self._channel = clock, card, channel
        self._gone = gone
        self._offered = card.offered & ~hidden | LOG_ALL | HAS_PROTOCOL
        self._protocol = protocol
        self._memory = GuestMemory(clock.engine.memory)
        self._ended = False
        self.refused: list[str] = []
        """What was answered with an error, newest last."""
        self.queues = FrontEndQueues(clock, card, self._memory, self.end)
        clock.watch(channel.fileno(), self.queues.guarded(self._on_messages))

    def _on_messages(self) -> None:
        for _ in range(_MESSAGES):
            try:
                message = None if self._ended else self._channel.take()
            except ConnectionError as error:
                self.end(str(error))
                return
            if message is None:
                return
            try:
                self._answer(message)
            finally:
                close_all(message.fds)  # those that nobody took

    def _answer(self, message: Message) -> None:
        try:
            handler = _HANDLERS.get(message.request)
            if handler is None:
                raise ProtocolError(f"{name_of(message.request)} is not known here")
            answer = handler(self, message)
        except (ProtocolError, CardError) as error:
            self.refused.append(str(error))
            if message.request == Request.GET_CONFIG:
                self._channel.reply(message, b"")
            elif self._acknowledges(message) or message.request == Request.SET_LOG_BASE:
                self._channel.reply_u64(message, 1)
            else:
                raise
            return
        if isinstance(answer, VringState):
            self._channel.reply_state(message, answer)
        elif isinstance(answer, bytes):
            self._channel.reply(message, answer)
        elif answer is not None:
            self._channel.reply_u64(message, answer)
        elif self._acknowledges(message):
            self._channel.reply_u64(message, 0)

    def _acknowledges(self, message: Message) -> bool:
        """Whether a message is answered: the one that agrees on answers is the first to be."""
        return message.need_reply and ProtocolFeature.REPLY_ACK in self.queues.protocol

    # --- what both agree on

    def _get_features(self, message: Message) -> Answer:
        return self._offered

    def _set_features(self, message: Message) -> Answer:
        features = message.u64()
        unknown = features & ~self._offered
        if unknown:
            raise ProtocolError(f"features {unknown:#x} were not offered")
        self.queues.accept(features)
        return None

    def _get_protocol(self, message: Message) -> Answer:
        return int(self._protocol)

    def _set_protocol(self, message: Message) -> Answer:
        wanted = message.u64()
        unknown = wanted & ~int(self._protocol)
        if unknown:
            raise ProtocolError(f"protocol features {unknown:#x} were not offered")
        needed = ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK
        if wanted & ProtocolFeature.INBAND_NOTIFICATIONS and wanted & needed != needed:
            raise ProtocolError("INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK")
        self.queues.protocol = ProtocolFeature(wanted)
        return None

    def _get_queue_num(self, message: Message) -> Answer:
        return self._card.max_pairs

    def _nothing(self, message: Message) -> Answer:
        """Take a message that changes nothing here."""
        return None

    def _reset_owner(self, message: Message) -> Answer:
        self.queues.forget()
        return None

    def _send_rarp(self, message: Message) -> Answer:
        self._card.announce(message.station())
        return None

    def _set_backend_fd(self, message: Message) -> Answer:
        self.queues.speak(message.take_fd())
        return None

    # --- memory

    def _set_memory(self, message: Message) -> Answer:
        regions = message.regions()
        fds, message.fds = message.fds, []
        try:
            resting = self.queues.rest()
        except CardError:
            close_all(fds)
            raise
        try:
            self._memory.replace(regions, fds)
        finally:
            self.queues.go_on(resting)
        return None

    def _add_memory(self, message: Message) -> Answer:
        region = message.region()
        self._memory.add(region, message.take_fd())
        self.queues.soon()
        return None

    def _remove_memory(self, message: Message) -> Answer:
        region = message.region()
        resting = self.queues.rest()
        try:
            self._memory.remove(region)
        finally:
            self.queues.go_on(resting)
        return None

    def _get_slots(self, message: Message) -> Answer:
        return MAX_SLOTS

    def _set_log_base(self, message: Message) -> Answer:
        size, offset = message.log_area()
        self.queues.log(DirtyLog(message.take_fd(), size, offset))
        return 0

    # --- queues

    def _set_num(self, message: Message) -> Answer:
        index, size = vring_state(message)
        ring = self.queues.ring(index)
        if not 1 <= size <= self._card.queue_size_max:
            raise ProtocolError(f"queue {index} of {size} entries: must have 1 to "
                                f"{self._card.queue_size_max}")
        if size != ring.size:
            self.queues.halt_if(index)
        ring.size = size
        self.queues.soon()
        return None

    def _set_addr(self, message: Message) -> Answer:
        address = vring_address(message)
        ring = self.queues.ring(address.queue)
        # On a live ring it may come again to switch logging: then nothing else has changed.
        old = ring.address
        if old is None or old._replace(logged=address.logged, log=address.log) != address:
            self.queues.halt_if(address.queue)
        ring.address = address
        self.queues.check_place(address.queue)
        self.queues.soon()
        return None

    def _set_base(self, message: Message) -> Answer:
        index, base = vring_state(message)
        ring = self.queues.ring(index)
        self.queues.halt_if(index)
        ring.base, ring.stopped = base, True
        return None

    def _get_base(self, message: Message) -> Answer:
        ring = self.queues.ring(vring_state(message).queue)
        self.queues.halt_if(ring.index)
        ring.stopped = True
        self.queues.set_kick(ring, None)
        return VringState(ring.index, ring.base)

    def _event(self, message: Message, what: str) -> tuple[FrontEndRing, int | None]:
        """Give the queue of a message, and its descriptor."""
        index, fd = message.vring_fd()
        if fd is not None:
            check_event(fd, f"the {what} of queue {index}")
        try:
            return self.queues.ring(index), fd
        except ProtocolError:
            close_all([] if fd is None else [fd])
            raise

    def _set_kick(self, message: Message) -> Answer:
        ring, fd = self._event(message, "kick")
        self.queues.set_kick(ring, fd)
        ring.stopped = False
        if not self.queues.features & HAS_PROTOCOL:
            ring.enabled = True
        self.queues.soon()
        return None

    def _set_call(self, message: Message) -> Answer:
        ring, fd = self._event(message, "call")
        close_all([] if ring.call is None else [ring.call])
        ring.call = fd
        if ring.call_due:
            ring.signal()
        return None

    def _set_error(self, message: Message) -> Answer:
        ring, fd = self._event(message, "error")
        close_all([] if ring.error is None else [ring.error])
        ring.error = fd
        return None

    def _set_enable(self, message: Message) -> Answer:
        index, enabled = vring_state(message)
        ring = self.queues.ring(index)
        if not enabled:
            self.queues.halt_if(index)
        ring.enabled = bool(enabled)
        if enabled and self.queues.inband:  # no descriptor comes that would start it
            ring.stopped = False
        self.queues.soon()
        return None

    def _vring_kick(self, message: Message) -> Answer:
        if not self.queues.inband:
            raise ProtocolError("a kick in band, which was not agreed on")
        ring = self.queues.ring(vring_state(message).queue)
        if ring.stopped:
            ring.stopped = False
            self.queues.soon()
        self.queues.kick(ring)
        return None

    # --- configuration

    def _get_config(self, message: Message) -> Answer:
        offset, size, _data = message.config()
        return message.config_answer(self._card.read_config(offset, size))

    def _set_config(self, message: Message) -> Answer:
        offset, _size, data = message.config()
        self._card.write_config(offset, data)
        return None

    # --- the end

    def hang_up(self) -> None:
        """Let the peer know that no answer comes any more; the card has failed."""
        self._channel.hang_up()

    def end(self, reason: str) -> None:
        """End the connection, and bring the card to rest: nothing of it reaches the memory."""
        if self._ended:
            return
        self._ended = True
        self._clock.unwatch(self._channel.fileno())
        try:
            self.queues.end()
        except CardError as error:
            reason = f"{reason}; {error}"
        self._channel.close()
        self._gone(reason)


_Handler = Callable[[FrontEnd, Message], Answer]
_HANDLERS: dict[int, _Handler] = {
    Request.GET_FEATURES: FrontEnd._get_features,
    Request.SET_FEATURES: FrontEnd._set_features,
    Request.SET_OWNER: FrontEnd._nothing,
    Request.RESET_OWNER: FrontEnd._reset_owner,
    Request.SET_MEM_TABLE: FrontEnd._set_memory,
    Request.SET_LOG_BASE: FrontEnd._set_log_base,
    Request.SET_LOG_FD: FrontEnd._nothing,
    Request.SET_VRING_NUM: FrontEnd._set_num,
    Request.SET_VRING_ADDR: FrontEnd._set_addr,
    Request.SET_VRING_BASE: FrontEnd._set_base,
    Request.GET_VRING_BASE: FrontEnd._get_base,
    Request.SET_VRING_KICK: FrontEnd._set_kick,
    Request.SET_VRING_CALL: FrontEnd._set_call,
    Request.SET_VRING_ERR: FrontEnd._set_error,
    Request.GET_PROTOCOL_FEATURES: FrontEnd._get_protocol,
    Request.SET_PROTOCOL_FEATURES: FrontEnd._set_protocol,
    Request.GET_QUEUE_NUM: FrontEnd._get_queue_num,
    Request.SET_VRING_ENABLE: FrontEnd._set_enable,
    Request.SEND_RARP: FrontEnd._send_rarp,
    Request.SET_BACKEND_REQ_FD: FrontEnd._set_backend_fd,
    Request.GET_CONFIG: FrontEnd._get_config,
    Request.SET_CONFIG: FrontEnd._set_config,
    Request.VRING_KICK: FrontEnd._vring_kick,
    Request.GET_MAX_MEM_SLOTS: FrontEnd._get_slots,
    Request.ADD_MEM_REG: FrontEnd._add_memory,
    Request.REM_MEM_REG: FrontEnd._remove_memory,
}
