"""The network device: `NetDevice` opens it, sends and receives frames, and closes it.

Nothing runs in the background: used buffers are taken back, and interrupts looked at, in the calls
that need them. Several tasks may use one device at the same time, say one that sends and one that
receives; the same queue is for one task at a time.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sw_driver.buffers import Buffer, Shape, make_buffer
from sw_driver.layouts import (
    NET_DEPENDENCIES,
    CommonConfig,
    Control,
    Feature,
    Field,
    NetConfig,
    NetHeader,
    Status,
)
from sw_driver.packed_ring import PackedRing
from sw_driver.pci import Msix, PciFunction
from sw_driver.port import HostPort, Interrupt
from sw_driver.ring import Ring, RingError, RingFull
from sw_driver.split_ring import SplitRing
from sw_driver.virtio_pci import TransportError, VirtioPci

__all__ = ["SUPPORTED", "CommandRefused", "DeviceNeedsReset", "NetDevice", "NetOptions",
           "NetStatistics", "ReceivedFrame", "without"]

_ETHERNET = 14
_VLAN = 4

SUPPORTED = (
    Feature.MTU, Feature.MAC, Feature.STATUS, Feature.VERSION_1, Feature.ACCESS_PLATFORM,
    Feature.ORDER_PLATFORM, Feature.SPEED_DUPLEX, Feature.EVENT_IDX, Feature.NOTIFICATION_DATA,
    Feature.IN_ORDER, Feature.RING_RESET, Feature.RING_PACKED, Feature.INDIRECT_DESC,
    Feature.MRG_RXBUF, Feature.CTRL_VQ, Feature.MQ, Feature.SUSPEND,
)
"""What this driver can use."""


def without(*features: int) -> tuple[int, ...]:
    """Give what this driver can use, but for these features: for `NetOptions.features`."""
    return tuple(feature for feature in SUPPORTED if feature not in features)


class DeviceNeedsReset(Exception):
    """The device has set DEVICE_NEEDS_RESET; `NetDevice.recover` brings it back."""


class CommandRefused(Exception):
    """The device answered a command of the control queue with ERR."""

    def __init__(self, command_class: int, command: int) -> None:
        super().__init__(f"the device refuses command {command} of class {command_class}")
        self.command_class = command_class
        self.command = command


@dataclass(kw_only=True)
class NetOptions:
    """How the driver uses the device."""

    pairs: int = 1
    """Pairs of queues to be used, if the device has as many (MQ; else one)."""
    queue_size: int | None = None
    """Entries of each queue (None: what the device suggests)."""
    receive_buffers: int | None = None
    """Chains kept in each receive queue (None: as many as fit)."""
    refill_batch: int = 8
    """Receive buffers are put back so many at a time (fewer where fewer are kept)."""
    receive_bytes: int | None = None
    """Bytes of a receive buffer, header included (None: for a frame of the MTU).

    With MRG_RXBUF no less than the header; a frame may then take several."""
    receive_shape: Shape = field(default_factory=Shape)
    transmit_shape: Shape = field(default_factory=Shape)
    """How receive buffers, and frames with their headers, are cut into descriptors."""
    control_shape: Shape = field(default_factory=Shape)
    """The same of commands, and of what they are answered with."""
    indirect: Literal["always", "chains", "never"] = "chains"
    """With INDIRECT_DESC, what is described in a table: everything, or chains of several buffers,
    or nothing."""
    direct_first: int = 0
    """So many descriptors of a chain come before its table; in split rings only."""
    interrupts: bool = True
    """Wait for interrupts; without them the rings are looked at every `poll_cycles`."""
    poll_cycles: int = 50
    suppress: bool = True
    """Ask the device for interrupts only while a task waits for one."""
    shuffle: bool = False
    """Take free descriptors and buffer ids in random order, and do not accept IN_ORDER."""
    features: Sequence[int] = SUPPORTED
    max_payload: int = 256
    max_read: int = 512
    """Limits programmed in the function, in bytes."""
    timeout_cycles: int = 100_000
    """When a wait for the device is given up."""
    seed: int = 1


@dataclass
class NetStatistics:
    """What the driver counted."""

    tx_frames: int = 0
    tx_bytes: int = 0
    rx_frames: int = 0
    rx_bytes: int = 0
    kicks: int = 0
    kicks_spared: int = 0
    """Batches for which the device wanted no kick."""
    waits: int = 0
    """Times a task slept for an interrupt."""
    empty_wakes: int = 0
    """Wake-ups that found nothing used."""
    commands: int = 0
    merged_frames: int = 0
    """Frames that took several receive buffers."""
    resets: int = 0
    queue_resets: int = 0


@dataclass(frozen=True)
class ReceivedFrame:
    """A frame and the header that the device put before it."""

    data: bytes
    header: NetHeader


@dataclass(eq=False)
class _Queue:
    """A queue with its ring, its interrupt, and what waits in it."""

    index: int
    name: str
    ring: Ring[Any]
    vector: int
    interrupt: Interrupt | None
    spare: list[Buffer] = field(default_factory=list)


@dataclass(eq=False)
class _Command:
    """What a command is in, and what its answer is written to."""

    said: Buffer
    answer: Buffer

    def free(self) -> None:
        """Give all memory back."""
        self.said.free()
        self.answer.free()


class NetDevice:
    """A virtio network device on a PCI function.

    Use: ``device = await NetDevice.probe(port, function)``, then `open`, `send`, `receive`,
    `close`. What the device's configuration says is in `mac`, `mtu`, `link_up`, `speed_mbps`,
    `full_duplex`, `max_pairs`.
    """

    def __init__(self, port: HostPort, function: PciFunction,
                 options: NetOptions | None = None) -> None:
        self.port = port
        self.function = function
        self.options = options or NetOptions()
        self.virtio = VirtioPci(function)
        self.statistics = NetStatistics()
        self.mac = bytes(6)
        self.mtu: int | None = None
        """None when the device does not say."""
        self.link_up = True
        self.speed_mbps: int | None = None
        self.full_duplex: bool | None = None
        """None when unknown."""
        self.max_pairs = 1
        self.active_pairs = 1
        """Pairs whose queues the device uses: frames are sent in no others."""
        self.is_open = False
        self.needs_reset = False
        self.is_suspended = False
        self._publishing = 0  # tasks that show something to the device at the moment
        self._rng = random.Random(self.options.seed)
        self._msix: Msix | None = None
        self._config_interrupt: Interrupt | None = None
        self._config_seen = 0
        self._receive: list[_Queue] = []
        self._transmit: list[_Queue] = []
        self._control: _Queue | None = None

    @classmethod
    async def probe(cls, port: HostPort, function: PciFunction,
                    options: NetOptions | None = None) -> NetDevice:
        """Take a function that `sw_driver.pci.scan` found, if it is a network device."""
        device = cls(port, function, options)
        if device.virtio.device_type != 1:
            raise TransportError(f"virtio device {device.virtio.device_type} is no network device")
        await device.virtio.discover()
        return device

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
        self.needs_reset = False
        # In the order of the ring is the order of the table: not one of chance.
        wanted = set(options.features) - ({Feature.IN_ORDER} if options.shuffle else set())
        await virtio.start(wanted, NET_DEPENDENCIES)
        try:
            await self._read_whole_config()
            await self._set_up_queues()
            self._check_receive_room()
            for queue in self._queues:
                await virtio.enable_queue(queue.index)
        except (TransportError, ValueError):
            await virtio.add_status(Status.FAILED)
            raise
        await virtio.add_status(Status.DRIVER_OK)
        self.is_open = True
        self.active_pairs = 1
        for queue in self._receive:
            await self._refill(queue)
        if len(self._receive) > 1:
            await self.set_pairs(len(self._receive))

    async def _set_up_queues(self) -> None:
        """Give the device its queues, in the order of their numbers."""
        if self.options.pairs < 1:
            raise ValueError(f"{self.options.pairs} pairs of queues")
        pairs = min(self.options.pairs, self.max_pairs)
        names = [(2 * pair + side, name + (f" {pair}" if pair else ""))
                 for pair in range(pairs) for side, name in enumerate(("receive", "transmit"))]
        if self.virtio.has(Feature.CTRL_VQ):
            names.append((2 * self.max_pairs, "control"))
        shares = await self._set_up_interrupts(len(names))
        for (index, name), share in zip(names, shares, strict=True):
            self._put_queue(await self._set_up_queue(index, name, *share))

    def _put_queue(self, queue: _Queue) -> None:
        """Take a queue over, instead of the one that had its number."""
        if queue.index == 2 * self.max_pairs:
            self._control = queue
            return
        queues = self._receive if queue.index % 2 == 0 else self._transmit
        queues[queue.index // 2:queue.index // 2 + 1] = [queue]

    @property
    def _queues(self) -> list[_Queue]:
        return [*self._receive, *self._transmit, *([self._control] if self._control else [])]

    async def _set_up_interrupts(self, queues: int) -> list[tuple[int, Interrupt | None]]:
        """Give each queue a vector: its own if there are enough, else the last one for several."""
        none = CommonConfig.NO_VECTOR
        self._msix = await self.function.msix()
        if self._msix is None or not self.options.interrupts:
            self._config_interrupt = None
            await self.virtio.set_config_vector(none)
            return [(none, None)] * queues
        await self._msix.enable()
        vectors = min(self._msix.vectors, 1 + queues)
        interrupts = [self.port.allocate_interrupt(f"{self.function.bdf:04x} vector {vector}")
                      for vector in range(vectors)]
        for vector, interrupt in enumerate(interrupts):
            await self._msix.route(vector, interrupt)
        self._config_interrupt, self._config_seen = interrupts[0], 0
        if not await self.virtio.set_config_vector(0):
            raise TransportError("no vector for configuration changes")
        shares = [min(1 + queue, vectors - 1) for queue in range(queues)]
        return [(vector, interrupts[vector]) for vector in shares]

    async def _set_up_queue(self, index: int, name: str, vector: int,
                            interrupt: Interrupt | None) -> _Queue:
        most = await self.virtio.queue_size(index)
        if not most:
            raise TransportError(f"there is no queue {index}")
        ring = self._make_ring(min(self.options.queue_size or most, most),
                               f"{self.function.bdf:04x} {name}")
        await self.virtio.set_up_queue(index, ring, vector=vector)
        queue = _Queue(index, name, ring, vector, interrupt)
        ring.suppress_interrupts(interrupt is None or self.options.suppress)
        return queue

    def _make_ring(self, size: int, name: str) -> Ring[Any]:
        """Give an empty ring as was agreed on."""
        options, has = self.options, self.virtio.has
        in_order, event_idx = has(Feature.IN_ORDER), has(Feature.EVENT_IDX)
        shuffle = self._rng if options.shuffle and not in_order else None
        indirect = None
        if has(Feature.INDIRECT_DESC):
            indirect = {"always": 1, "chains": 2, "never": None}[options.indirect]
        if has(Feature.RING_PACKED):
            return PackedRing(self.port, size, name=name, shuffle=shuffle, event_idx=event_idx,
                              in_order=in_order, indirect=indirect)
        return SplitRing(self.port, size, name=name, shuffle=shuffle, event_idx=event_idx,
                         in_order=in_order, indirect=indirect, direct_first=options.direct_first)

    # --- configuration

    async def _read_whole_config(self) -> None:
        fields: dict[str, Field] = {}
        for name, register, feature in (
                ("mac", NetConfig.MAC, Feature.MAC), ("status", NetConfig.STATUS, Feature.STATUS),
                ("pairs", NetConfig.MAX_VIRTQUEUE_PAIRS, Feature.MQ),
                ("mtu", NetConfig.MTU, Feature.MTU),
                ("speed", NetConfig.SPEED, Feature.SPEED_DUPLEX),
                ("duplex", NetConfig.DUPLEX, Feature.SPEED_DUPLEX)):
            if self.virtio.has(feature):
                if register.offset + register.size > self.virtio.config_length:
                    raise TransportError(f"the device configuration ends before {name}")
                fields[name] = register
        values = await self.virtio.read_config(fields.items())
        if "mac" in values:
            self.mac = values["mac"].to_bytes(6, "little")
        elif self.mac == bytes(6):
            self.mac = bytes([0x02, *self._rng.randbytes(5)])  # locally administered
        self.mtu = values.get("mtu")
        self.max_pairs = values.get("pairs", 1)
        if not Control.MQ_PAIRS_MIN <= self.max_pairs <= Control.MQ_PAIRS_MAX:
            raise TransportError(f"the device has {self.max_pairs} pairs of queues")
        self.link_up = bool(values.get("status", NetConfig.STATUS_LINK_UP)
                            & NetConfig.STATUS_LINK_UP)
        speed = values.get("speed", 0xFFFF_FFFF)
        self.speed_mbps = speed if speed <= 0x7FFF_FFFF else None
        self.full_duplex = {0: False, 1: True}.get(values.get("duplex", 0xFF))

    @property
    def max_frame(self) -> int:
        """Longest frame that may be sent: an MTU, an Ethernet header and a VLAN tag."""
        return (self.mtu if self.mtu is not None else 65535) + _ETHERNET + _VLAN

    @property
    def receive_bytes(self) -> int:
        """Size of a receive buffer."""
        if self.options.receive_bytes is not None:
            return self.options.receive_bytes
        return max(1526, self._largest_received)

    @property
    def _largest_received(self) -> int:
        """Bytes of a frame of the MTU, with its header."""
        return NetHeader.SIZE + (self.mtu or 1500) + _ETHERNET + _VLAN

    def _check_receive_room(self) -> None:
        """Refuse receive buffers that can never hold a frame of the MTU together."""
        if not self.virtio.has(Feature.MRG_RXBUF):
            return
        each = self.receive_bytes
        if each < NetHeader.SIZE:
            raise ValueError(f"receive buffers of {each} bytes do not hold the header")
        for queue in self._receive:
            ring = queue.ring
            descriptors = min(self.options.receive_shape.segments[1], each, ring.size)
            if ring.indirect is not None:
                descriptors = min(descriptors, 1 + ring.direct_first)
            most = min(self.options.receive_buffers or ring.size, ring.size // descriptors)
            if most * each < self._largest_received:
                raise ValueError(f"{most} receive buffers of {each} bytes do not hold a frame of "
                                 f"{self._largest_received}")

    async def check_config(self) -> None:
        """Look whether the device reported a change; raise `DeviceNeedsReset` if it is broken."""
        interrupt = self._config_interrupt
        if interrupt is not None and interrupt.count != self._config_seen:
            self._config_seen = interrupt.count
            await self.read_status()
            if not self.needs_reset:
                await self._read_whole_config()
        self._refuse_broken()

    async def read_status(self) -> int:
        """Read device_status now, and remember whether the device needs a reset."""
        status = await self.virtio.status()
        self.needs_reset = bool(status & Status.NEEDS_RESET)
        return status

    def _refuse_broken(self) -> None:
        if self.needs_reset:
            raise DeviceNeedsReset("the device asks for a reset")
        if not self.is_open:
            raise RuntimeError("the device is not open")

    @property
    def rings(self) -> dict[int, Ring[Any]]:
        """The rings by number of their queue, for who goes on with them without this driver."""
        return {queue.index: queue.ring for queue in self._queues}

    # --- commands

    async def command(self, command_class: int, command: int, data: bytes = b"", *,
                      answer_bytes: int = 0) -> bytes:
        """Have the device do a command of the control queue; give what it answers beyond OK.

        One at a time. `CommandRefused` when it answers ERR, `TransportError` when it does not
        answer within the options' time-out; an answer that comes later than that is dropped.
        """
        await self.check_config()
        queue = self._control
        if queue is None:
            raise TransportError("the device has no control queue")
        said = bytes([command_class, command]) + data
        most = queue.ring.size // 2 or 1
        shape = self.options.control_shape
        sent = _Command(
            make_buffer(self.port, len(said), shape, self._rng, name="command", most=most,
                        device_reads=True),
            make_buffer(self.port, 1 + answer_bytes, shape, self._rng, name="answer", most=most,
                        device_writes=True))
        sent.said.write(said)
        sent.answer.write(b"\xff" * (1 + answer_bytes))
        try:
            queue.ring.add(sent.said.segments, sent.answer.segments, sent)
        except RingFull:
            sent.free()
            raise
        await self._publish(queue)
        self.statistics.commands += 1
        while True:
            used = queue.ring.take_used()
            if used is None:
                await self._wait_used(queue, self.options.timeout_cycles, must=True)
                continue
            answer: bytes = used.token.answer.read(used.written)
            used.token.free()
            if used.token is sent:
                break
        if not answer or answer[0] not in (Control.OK, Control.ERR):
            raise RingError(f"command {command} of class {command_class} is answered with "
                            f"{answer.hex() or 'nothing'}")
        if answer[0] == Control.ERR:
            raise CommandRefused(command_class, command)
        return answer[1:]

    async def set_pairs(self, pairs: int) -> None:
        """Have the device use so many pairs of queues (MQ), of those that were set up."""
        if not self.virtio.has(Feature.MQ):
            raise TransportError("the device has one pair of queues")
        if not 1 <= pairs <= len(self._receive):
            raise ValueError(f"{pairs} pairs of queues, 1 to {len(self._receive)} are set up")
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
        queue = self._transmit[self._checked_pair(pair)]
        waiting = 0
        for frame in frames:
            self._checked_pair(pair)
            if not 1 <= len(frame) <= self.max_frame:
                raise ValueError(f"a frame of {len(frame)} bytes, 1 to {self.max_frame} allowed")
            self._reclaim(queue)
            buffer = make_buffer(
                self.port, NetHeader.SIZE + len(frame), self.options.transmit_shape, self._rng,
                name="transmit buffer", most=queue.ring.size, device_reads=True)
            buffer.write(NetHeader().pack() + frame)
            while True:
                try:
                    queue.ring.add(buffer.segments, [], buffer)
                    break
                except RingFull:
                    await self._publish(queue)
                    await self._wait_used(queue, self.options.timeout_cycles, must=True)
                    self._reclaim(queue)
            self.statistics.tx_frames += 1
            self.statistics.tx_bytes += len(frame)
            waiting += 1
            if waiting == batch:
                waiting = 0
                await self._publish(queue)
        await self._publish(queue)

    def _checked_pair(self, pair: int) -> int:
        if not 0 <= pair < self.active_pairs:
            raise ValueError(f"pair {pair} of queues, {self.active_pairs} in use")
        return pair

    async def drain(self) -> None:
        """Wait until the device has used every frame that was sent."""
        for queue in self._transmit:
            self._reclaim(queue)
            while queue.ring.outstanding:
                await self._wait_used(queue, self.options.timeout_cycles, must=True)
                self._reclaim(queue)

    def _reclaim(self, queue: _Queue) -> None:
        while (used := queue.ring.take_used()) is not None:
            used.token.free()

    async def _publish(self, queue: _Queue) -> None:
        while self.is_suspended:
            await self.port.sleep(self.options.poll_cycles)
            self._refuse_broken()
        if not queue.ring.publish():
            return
        self._publishing += 1
        try:
            if queue.ring.kick_wanted():
                self.statistics.kicks += 1
                await self.virtio.notify(queue.index)
            else:
                self.statistics.kicks_spared += 1
        finally:
            self._publishing -= 1

    # --- receiving

    async def receive(self, timeout_cycles: int | None = None, *, pair: int = 0) -> bytes | None:
        """Give the next frame; None when there is none within the time."""
        received = await self.receive_frame(timeout_cycles, pair=pair)
        return None if received is None else received.data

    async def receive_frame(self, timeout_cycles: int | None = None, *,
                            pair: int = 0) -> ReceivedFrame | None:
        """Give the next frame with its header; None when there is none within the time."""
        await self.check_config()
        if not 0 <= pair < len(self._receive):
            raise ValueError(f"pair {pair} of queues, {len(self._receive)} are set up")
        queue = self._receive[pair]
        limit = self.options.timeout_cycles if timeout_cycles is None else timeout_cycles
        if not queue.ring.has_used() and not await self._wait_used(queue, limit, must=False):
            return None
        received = self._checked(self._take_frame(queue.ring))
        await self._refill(queue)
        self.statistics.rx_frames += 1
        self.statistics.rx_bytes += len(received.data)
        return received

    def _take_frame(self, ring: Ring[Any]) -> bytes:
        """Take the buffers of the next frame, all of which were used at once, and empty them."""
        first, full = self._take_buffer(ring)
        count = 1
        if self.virtio.has(Feature.MRG_RXBUF) and len(first) >= NetHeader.SIZE:
            count = NetHeader.unpack(first).num_buffers
        parts = [first]
        for number in range(1, count):
            if not full:
                raise RingError(f"buffer {number - 1} of {count} of a frame has room left")
            if not ring.has_used():
                raise RingError(f"a frame over {count} buffers, of which {number} are used")
            part, full = self._take_buffer(ring)
            parts.append(part)
        self.statistics.merged_frames += count > 1
        return b"".join(parts)

    def _take_buffer(self, ring: Ring[Any]) -> tuple[bytes, bool]:
        """Give what was written to the next used buffer, and whether that filled it."""
        used = ring.take_used()
        assert used is not None
        data, size = used.token.read(used.written), used.token.size
        used.token.free()
        return data, used.written == size

    def _checked(self, data: bytes) -> ReceivedFrame:
        """Take the header off, and see that it asks for nothing that was not agreed on."""
        if len(data) <= NetHeader.SIZE:
            raise RingError(f"a receive buffer came back with {len(data)} bytes")
        header = NetHeader.unpack(data)
        if header.num_buffers != 1 and not self.virtio.has(Feature.MRG_RXBUF):
            raise RingError(f"num_buffers is {header.num_buffers}, and buffers are not merged")
        if not header.num_buffers:
            raise RingError("num_buffers is 0")
        if header.flags & (NetHeader.FLAG_NEEDS_CSUM | NetHeader.FLAG_DATA_VALID) and (
                not self.virtio.has(Feature.GUEST_CSUM)):
            raise RingError(f"flags {header.flags:#x} without GUEST_CSUM")
        if header.gso_type and not any(self.virtio.has(feature) for feature in (
                Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_UFO, Feature.GUEST_USO4,
                Feature.GUEST_USO6)):
            raise RingError(f"gso_type {header.gso_type} without a segmentation feature")
        return ReceivedFrame(data[NetHeader.SIZE:], header)

    async def _refill(self, queue: _Queue) -> None:
        """Fill the receive queue, and tell the device."""
        ring = queue.ring
        most = self.options.receive_buffers or ring.size
        # A full batch, or as good as all gone: a device without buffers drops frames.
        missing = most - ring.outstanding
        enough = not self.virtio.has(Feature.MRG_RXBUF) or (
            ring.outstanding * self.receive_bytes >= self._largest_received)
        if missing < min(self.options.refill_batch, most) and 2 * missing < most and enough:
            return
        while ring.outstanding < most:
            buffer = queue.spare.pop() if queue.spare else make_buffer(
                self.port, self.receive_bytes, self.options.receive_shape, self._rng,
                name="receive buffer", most=ring.size, device_writes=True)
            try:
                ring.add([], buffer.segments, buffer)
            except RingFull:
                queue.spare.append(buffer)
                break
        await self._publish(queue)

    # --- waiting

    async def _wait_used(self, queue: _Queue, timeout_cycles: int, *, must: bool) -> bool:
        """Wait until the queue has used something; False when it has not within the time.

        With ``must`` a time-out is an error of the device.
        """
        ring, interrupt = queue.ring, queue.interrupt
        deadline = self.port.now() + timeout_cycles
        while True:
            # Count first, ask second, look third: a chain that is used between the look and the
            # wait has raised the count, and one that was used before has been seen by the look.
            seen = interrupt.count if interrupt is not None else 0
            ring.suppress_interrupts(interrupt is None)
            if ring.has_used():
                break
            left = deadline - self.port.now()
            if left <= 0:
                break
            await self._sleep(interrupt, seen, left)
            await self.check_config()
            if not ring.has_used():
                self.statistics.empty_wakes += 1
        ring.suppress_interrupts(interrupt is None or self.options.suppress)
        if must and not ring.has_used():
            await self.read_status()
            self._refuse_broken()
            raise TransportError(f"{ring.name}: nothing was used within {timeout_cycles} cycles")
        return ring.has_used()

    async def _sleep(self, interrupt: Interrupt | None, seen: int, left: int) -> None:
        self.statistics.waits += 1
        if interrupt is None:
            await self.port.sleep(min(left, self.options.poll_cycles))
            return
        waits = [(interrupt, seen)]
        if self._config_interrupt is not None:
            waits.append((self._config_interrupt, self._config_seen))
        await self.port.wait_interrupts(waits, left)

    # --- rest

    async def suspend(self) -> None:
        """Have the device rest (SUSPEND). Until `resume`, calls that give it something wait.

        `DeviceNeedsReset` when it asks for a reset instead.
        """
        await self.check_config()
        self.is_suspended = True
        try:
            while self._publishing:
                await self.port.sleep(self.options.poll_cycles)
            await self.virtio.suspend()
        except TransportError:
            self.is_suspended = False
            await self.read_status()
            self._refuse_broken()
            raise

    async def resume(self) -> None:
        """Let the device go on after `suspend`."""
        await self.virtio.resume()
        self.is_suspended = False

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
        for queue in self._queues:
            await self.virtio.set_up_queue(queue.index, queue.ring, vector=queue.vector)
        await load()
        for queue in self._queues:
            await self.virtio.enable_queue(queue.index)
        await self.virtio.add_status(Status.DRIVER_OK)
        self.is_suspended = False
        if len(self._receive) > 1:
            await self.set_pairs(self.active_pairs)

    # --- the end

    async def close(self) -> None:
        """Reset the device, and take all memory back."""
        await self.virtio.reset()
        self._release()
        self.is_open = False
        if self._msix is not None and self.options.interrupts:
            await self._msix.disable()
        await self.function.disable_master()

    def _release(self) -> None:
        self.is_suspended = False
        for queue in self._queues:
            self._give_back(queue)
        self._receive, self._transmit, self._control = [], [], None

    def _give_back(self, queue: _Queue) -> int:
        """Free a queue's ring and buffers; give how many the device had not used."""
        lost = queue.ring.free()
        for buffer in (*lost, *queue.spare):
            buffer.free()
        return len(lost)

    async def reset_queue(self, index: int) -> int:
        """Reset a queue, and set it up again with a fresh ring, while the other ones go on.

        No other call may be using that queue. Gives how many chains the device had not used.
        """
        self._refuse_broken()
        if self.is_suspended:
            raise RuntimeError("the device is suspended")
        old = next((queue for queue in self._queues if queue.index == index), None)
        if old is None:
            raise ValueError(f"queue {index} is not in use")
        await self.virtio.reset_queue(index)
        lost = self._give_back(old)
        new = await self._set_up_queue(index, old.name, old.vector, old.interrupt)
        self._put_queue(new)
        await self.virtio.enable_queue(index)
        self.statistics.queue_resets += 1
        if new in self._receive:
            await self._refill(new)
        return lost

    async def recover(self) -> None:
        """After `DeviceNeedsReset`: reset the device and open it again, with fresh rings."""
        self.statistics.resets += 1
        await self.virtio.reset()
        self._release()
        self.is_open = False
        await self.open()

    async def reset_function(self) -> None:
        """Reset the whole function (FLR) and forget what it held; `open` brings it up again."""
        self.statistics.resets += 1
        await self.function.reset()
        self._release()
        self.is_open = False
        self.needs_reset = False
