"""`NetDevice`: a network device from probing to the end.

Nothing runs in the background: used buffers are taken back, and interrupts looked at, in the calls
that need them. Several tasks may use one device at the same time, say one that sends and one that
receives; the same queue is for one task at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from sw_driver.layouts import NET_DEPENDENCIES, CommonConfig, Control, Feature, Status
from sw_driver.net.commands import CommandRefused, do_command
from sw_driver.net.context import DeviceContext
from sw_driver.net.options import NetOptions
from sw_driver.net.queue import NetQueue
from sw_driver.net.queues import NetQueues, make_ring
from sw_driver.net.receive import ReceivedFrame, check_room, refill, take_frame
from sw_driver.net.transmit import drain_queue, send_frames
from sw_driver.pci import PciFunction
from sw_driver.port import HostPort
from sw_driver.ring import Ring
from sw_driver.virtio_pci import TransportError

__all__ = ["NetDevice"]


class NetDevice:
    """A virtio network device on a PCI function.

    Use: ``device = await NetDevice.probe(port, function)``, then `open`, `send`, `receive`,
    `close`. What the device says of itself is in `config`.
    """

    def __init__(self, port: HostPort, function: PciFunction,
                 options: NetOptions | None = None) -> None:
        self.port = port
        self.function = function
        self.options = options or NetOptions()
        self.context = self._make_context()
        self.virtio = self.context.virtio
        self.config = self.context.config
        self.statistics = self.context.statistics
        self.queues = NetQueues(self.context, self._make_ring)
        self.active_pairs = 1
        """Pairs whose queues the device uses: frames are sent in no others."""

    @classmethod
    async def probe(cls, port: HostPort, function: PciFunction,
                    options: NetOptions | None = None) -> NetDevice:
        """Take a function that `sw_driver.pci.scan` found, if it is a network device."""
        device = cls(port, function, options)
        if device.virtio.device_type != 1:
            raise TransportError(f"virtio device {device.virtio.device_type} is no network device")
        await device.virtio.discover()
        return device

    # --- what a driver with manners of its own does otherwise

    def _make_context(self) -> DeviceContext:
        return DeviceContext(self.port, self.function, self.options)

    def _make_ring(self, size: int, name: str) -> Ring[Any]:
        return make_ring(self.context, size, name)

    async def _refill(self, queue: NetQueue) -> None:
        await refill(queue)

    # --- state

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.context.is_open

    @property
    def is_suspended(self) -> bool:
        """Whether it rests, or is about to."""
        return self.context.is_suspended

    @property
    def needs_reset(self) -> bool:
        """Whether it was seen to ask for a reset."""
        return self.context.needs_reset

    @property
    def rings(self) -> dict[int, Ring[Any]]:
        """The rings by number of their queue, for who goes on with them without this driver."""
        return {queue.index: queue.ring for queue in self.queues.all}

    async def check_config(self) -> None:
        """Look whether the device reported a change; raise `DeviceNeedsReset` if it is broken."""
        await self.context.check()

    async def read_status(self) -> int:
        """Read device_status now, and remember whether the device needs a reset."""
        return await self.context.read_status()

    # --- opening

    async def open(self) -> None:
        """Bring the device up: features, configuration, interrupts, queues, DRIVER_OK, buffers.

        And the pairs of queues beyond the first. When the device refuses these (`CommandRefused`)
        it is open all the same, with one pair.
        """
        if self.is_open:
            raise RuntimeError("the device is open")
        options, virtio = self.options, self.virtio
        await self.function.set_limits(max_payload=options.max_payload,
                                       max_read=options.max_read)
        await self.function.enable(bus_master=True)
        self.context.needs_reset = False
        # In the order of the ring is the order of the table: not one of chance.
        wanted = set(options.features) - ({Feature.IN_ORDER} if options.shuffle else set())
        await virtio.start(wanted, NET_DEPENDENCIES)
        try:
            await self.context.read_config()
            await self.queues.set_up()
            for queue in self.queues.receive:
                check_room(queue)
            await self.queues.enable()
        except (TransportError, ValueError):
            await virtio.add_status(Status.FAILED)
            raise
        await virtio.add_status(Status.DRIVER_OK)
        self.context.is_open = True
        self.active_pairs = 1
        for queue in self.queues.receive:
            await self._refill(queue)
        if len(self.queues.receive) > 1:
            await self.set_pairs(len(self.queues.receive))

    # --- commands

    async def command(self, command_class: int, command: int, data: bytes = b"", *,
                      answer_bytes: int = 0) -> bytes:
        """Have the device do a command of the control queue; give what it answers beyond OK.

        One at a time. `CommandRefused` when it answers ERR, `TransportError` when it does not
        answer within the options' time-out; an answer that comes later than that is dropped.
        """
        await self.check_config()
        if self.queues.control is None:
            raise TransportError("the device has no control queue")
        return await do_command(self.queues.control, command_class, command, data,
                                answer_bytes=answer_bytes)

    async def set_pairs(self, pairs: int) -> None:
        """Have the device use so many pairs of queues (MQ), of those that were set up."""
        if not self.virtio.has(Feature.MQ):
            raise TransportError("the device has one pair of queues")
        most = len(self.queues.receive)
        if not 1 <= pairs <= most:
            raise ValueError(f"{pairs} pairs of queues, 1 to {most} are set up")
        before = self.active_pairs
        self.active_pairs = min(before, pairs)  # none beyond is used from here on
        try:
            await self.command(Control.MQ, Control.MQ_PAIRS_SET, pairs.to_bytes(2, "little"))
        except CommandRefused:
            self.active_pairs = before
            raise
        self.active_pairs = pairs

    # --- sending

    async def send(self, frame: bytes, *, pair: int = 0) -> None:
        """Send one frame: it is in the ring when this returns, and the device was kicked."""
        await self.send_many([frame], pair=pair)

    async def send_many(self, frames: Iterable[bytes], *, batch: int = 32, pair: int = 0) -> None:
        """Send frames, with one kick for each ``batch`` of them, or when the ring is full."""
        await self.check_config()
        queue = self.queues.transmit[self._checked_pair(pair)]
        await send_frames(queue, self._while_active(frames, pair), batch=batch)

    def _while_active(self, frames: Iterable[bytes], pair: int) -> Iterator[bytes]:
        """Give the frames as long as the device uses the pair, which may change amid them."""
        for frame in frames:
            self._checked_pair(pair)
            yield frame

    def _checked_pair(self, pair: int) -> int:
        if not 0 <= pair < self.active_pairs:
            raise ValueError(f"pair {pair} of queues, {self.active_pairs} in use")
        return pair

    async def drain(self) -> None:
        """Wait until the device has used every frame that was sent."""
        for queue in self.queues.transmit:
            await drain_queue(queue)

    # --- receiving

    async def receive(self, timeout_cycles: int | None = None, *, pair: int = 0) -> bytes | None:
        """Give the next frame; None when there is none within the time."""
        received = await self.receive_frame(timeout_cycles, pair=pair)
        return None if received is None else received.data

    async def receive_frame(self, timeout_cycles: int | None = None, *,
                            pair: int = 0) -> ReceivedFrame | None:
        """Give the next frame with its header; None when there is none within the time."""
        await self.check_config()
        queues = self.queues.receive
        if not 0 <= pair < len(queues):
            raise ValueError(f"pair {pair} of queues, {len(queues)} are set up")
        queue = queues[pair]
        limit = self.options.timeout_cycles if timeout_cycles is None else timeout_cycles
        if not queue.ring.has_used() and not await queue.wait_used(limit):
            return None
        received = take_frame(queue)
        await self._refill(queue)
        return received

    # --- rest

    async def suspend(self) -> None:
        """Have the device rest (SUSPEND). Until `resume`, calls that give it something wait.

        `DeviceNeedsReset` when it asks for a reset instead.
        """
        await self.check_config()
        context = self.context
        context.is_suspended = True
        try:
            while context.publishing:
                await self.port.sleep(self.options.poll_cycles)
            await self.virtio.suspend()
        except TransportError:
            context.is_suspended = False
            await context.read_status()
            context.refuse_broken()
            raise

    async def resume(self) -> None:
        """Let the device go on after `suspend`."""
        await self.virtio.resume()
        self.context.is_suspended = False

    async def begin_again(self, load: Callable[[], Awaitable[None]]) -> None:
        """Reset the suspended device, and have it go on with the same rings.

        ``load`` tells the device, or another one in its place, where its queues stand: between
        their set-up and their start. No other call may be receiving or giving a command.
        """
        if not self.is_suspended:
            raise RuntimeError("the device is not suspended")
        before = self.virtio.features
        vector = await self.virtio.get(CommonConfig.CONFIG_MSIX_VECTOR)
        accepted = await self.virtio.start(
            [bit for bit in range(128) if before >> bit & 1], NET_DEPENDENCIES)
        if accepted != before:
            await self.virtio.fail(f"the device has the features {accepted:#x}, not {before:#x}")
        await self.virtio.set_config_vector(vector)
        for queue in self.queues.all:
            await self.virtio.set_up_queue(queue.index, queue.ring, vector=queue.vector)
        await load()
        await self.queues.enable()
        await self.virtio.add_status(Status.DRIVER_OK)
        self.context.is_suspended = False
        if len(self.queues.receive) > 1:
            await self.set_pairs(self.active_pairs)

    # --- the end

    async def close(self) -> None:
        """Reset the device, and take all memory back."""
        await self.virtio.reset()
        self.forget()
        await self.queues.vectors.disable()
        await self.function.disable_master()

    def forget(self) -> None:
        """Take all memory back, of a device that was reset; `open` brings it up again."""
        self.context.is_suspended = False
        self.queues.give_back()
        self.context.is_open = False

    async def reset_queue(self, index: int) -> int:
        """Reset a queue, and set it up again with a fresh ring, while the other ones go on.

        No other call may be using that queue. Gives how many chains the device had not used.
        """
        self.context.refuse_broken()
        if self.is_suspended:
            raise RuntimeError("the device is suspended")
        old = next((queue for queue in self.queues.all if queue.index == index), None)
        if old is None:
            raise ValueError(f"queue {index} is not in use")
        await self.virtio.reset_queue(index)
        lost = old.give_back()
        new = await self.queues.set_up_again(old)
        await self.virtio.enable_queue(index)
        self.statistics.queue_resets += 1
        if new in self.queues.receive:
            await self._refill(new)
        return lost

    async def recover(self) -> None:
        """After `DeviceNeedsReset`: reset the device and open it again, with fresh rings."""
        self.statistics.resets += 1
        await self.virtio.reset()
        self.forget()
        await self.open()

    async def reset_function(self) -> None:
        """Reset the whole function (FLR) and forget what it held; `open` brings it up again."""
        self.statistics.resets += 1
        await self.function.reset()
        self.forget()
        self.context.needs_reset = False
