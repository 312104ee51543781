"""The network device: `NetDevice` opens it, sends and receives frames, and closes it.

Nothing runs in the background: used buffers are taken back, and interrupts looked at, in the calls
that need them. Several tasks may use one device at the same time, say one that sends and one that
receives; the same queue is for one task at a time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sw_driver.buffers import Buffer, Shape, make_buffer
from sw_driver.layouts import (
    NET_DEPENDENCIES,
    CommonConfig,
    Feature,
    Field,
    NetConfig,
    NetHeader,
    Status,
)
from sw_driver.pci import Msix, PciFunction
from sw_driver.port import HostPort, Interrupt
from sw_driver.split_ring import RingError, RingFull, SplitRing
from sw_driver.virtio_pci import TransportError, VirtioPci

__all__ = ["SUPPORTED", "DeviceNeedsReset", "NetDevice", "NetOptions", "NetStatistics",
           "ReceivedFrame", "without"]

_ETHERNET = 14
_VLAN = 4

SUPPORTED = (
    Feature.MTU, Feature.MAC, Feature.STATUS, Feature.VERSION_1, Feature.ACCESS_PLATFORM,
    Feature.ORDER_PLATFORM, Feature.SPEED_DUPLEX, Feature.EVENT_IDX, Feature.NOTIFICATION_DATA,
    Feature.IN_ORDER, Feature.RING_RESET,
)
"""What this driver can use."""


def without(*features: int) -> tuple[int, ...]:
    """Give what this driver can use, but for these features: for `NetOptions.features`."""
    return tuple(feature for feature in SUPPORTED if feature not in features)


class DeviceNeedsReset(Exception):
    """The device has set DEVICE_NEEDS_RESET; `NetDevice.recover` brings it back."""


@dataclass(kw_only=True)
class NetOptions:
    """How the driver uses the device."""

    queue_size: int | None = None
    """Entries of each queue (None: what the device suggests)."""
    receive_buffers: int | None = None
    """Chains kept in each receive queue (None: as many as fit)."""
    refill_batch: int = 8
    """Receive buffers are put back so many at a time (fewer where fewer are kept)."""
    receive_bytes: int | None = None
    """Bytes of a receive buffer, header included (None: for a frame of the MTU)."""
    receive_shape: Shape = field(default_factory=Shape)
    transmit_shape: Shape = field(default_factory=Shape)
    """How receive buffers, and frames with their headers, are cut into descriptors."""
    interrupts: bool = True
    """Wait for interrupts; without them the rings are looked at every `poll_cycles`."""
    poll_cycles: int = 50
    suppress: bool = True
    """Ask the device for interrupts only while a task waits for one."""
    shuffle: bool = False
    """Take free descriptors in random order; with IN_ORDER in ring order all the same."""
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
    ring: SplitRing[Buffer]
    vector: int
    interrupt: Interrupt | None
    spare: list[Buffer] = field(default_factory=list)


class NetDevice:
    """A virtio network device on a PCI function.

    Use: ``device = await NetDevice.probe(port, function)``, then `open`, `send`, `receive`,
    `close`. What the device's configuration says is in `mac`, `mtu`, `link_up`, `speed_mbps`,
    `full_duplex`.
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
        self.is_open = False
        self.needs_reset = False
        self._rng = random.Random(self.options.seed)
        self._msix: Msix | None = None
        self._config_interrupt: Interrupt | None = None
        self._config_seen = 0
        self._receive: list[_Queue] = []
        self._transmit: list[_Queue] = []

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
        """Bring the device up: features, configuration, interrupts, queues, DRIVER_OK, buffers."""
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
            receive, transmit = await self._set_up_interrupts(2)
            self._receive = [await self._set_up_queue(0, "receive", *receive)]
            self._transmit = [await self._set_up_queue(1, "transmit", *transmit)]
            for queue in (*self._receive, *self._transmit):
                await virtio.enable_queue(queue.index)
        except TransportError:
            await virtio.add_status(Status.FAILED)
            raise
        await virtio.add_status(Status.DRIVER_OK)
        self.is_open = True
        for queue in self._receive:
            await self._refill(queue)

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
        size = min(self.options.queue_size or most, most)
        in_order = self.virtio.has(Feature.IN_ORDER)
        ring: SplitRing[Buffer] = SplitRing(
            self.port, size, name=f"{self.function.bdf:04x} {name}",
            shuffle=self._rng if self.options.shuffle and not in_order else None,
            event_idx=self.virtio.has(Feature.EVENT_IDX), in_order=in_order)
        await self.virtio.set_up_queue(index, ring, vector=vector)
        queue = _Queue(index, name, ring, vector, interrupt)
        ring.suppress_interrupts(interrupt is None or self.options.suppress)
        return queue

    # --- configuration

    async def _read_whole_config(self) -> None:
        fields: dict[str, Field] = {}
        for name, register, feature in (
                ("mac", NetConfig.MAC, Feature.MAC), ("status", NetConfig.STATUS, Feature.STATUS),
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
        return max(1526, NetHeader.SIZE + (self.mtu or 1500) + _ETHERNET + _VLAN)

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
    def rings(self) -> dict[int, SplitRing[Buffer]]:
        """The rings by number of their queue, for who goes on with them without this driver."""
        return {queue.index: queue.ring for queue in (*self._receive, *self._transmit)}

    # --- sending

    async def send(self, frame: bytes) -> None:
        """Send one frame: it is in the ring when this returns, and the device was kicked."""
        await self.send_many([frame])

    async def send_many(self, frames: Iterable[bytes], *, batch: int = 32) -> None:
        """Send frames, with one kick for each ``batch`` of them, or when the ring is full."""
        queue = self._transmit[0] if self._transmit else None
        await self.check_config()
        assert queue is not None
        waiting = 0
        for frame in frames:
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

    async def drain(self) -> None:
        """Wait until the device has used every frame that was sent."""
        queue = self._transmit[0]
        while True:
            self._reclaim(queue)
            if not queue.ring.outstanding:
                return
            await self._wait_used(queue, self.options.timeout_cycles, must=True)

    def _reclaim(self, queue: _Queue) -> None:
        while (used := queue.ring.take_used()) is not None:
            used.token.free()

    async def _publish(self, queue: _Queue) -> None:
        if not queue.ring.publish():
            return
        if queue.ring.kick_wanted():
            self.statistics.kicks += 1
            await self.virtio.notify(queue.index)
        else:
            self.statistics.kicks_spared += 1

    # --- receiving

    async def receive(self, timeout_cycles: int | None = None) -> bytes | None:
        """Give the next frame; None when there is none within the time."""
        received = await self.receive_frame(timeout_cycles)
        return None if received is None else received.data

    async def receive_frame(self, timeout_cycles: int | None = None) -> ReceivedFrame | None:
        """Give the next frame with its header; None when there is none within the time."""
        await self.check_config()
        queue = self._receive[0]
        limit = self.options.timeout_cycles if timeout_cycles is None else timeout_cycles
        if not queue.ring.has_used() and not await self._wait_used(queue, limit, must=False):
            return None
        used = queue.ring.take_used()
        assert used is not None
        data = used.token.read(used.written)
        used.token.free()
        received = self._checked(data)
        await self._refill(queue)
        self.statistics.rx_frames += 1
        self.statistics.rx_bytes += len(received.data)
        return received

    def _checked(self, data: bytes) -> ReceivedFrame:
        """Take the header off, and see that it asks for nothing that was not agreed on."""
        if len(data) <= NetHeader.SIZE:
            raise RingError(f"a receive buffer came back with {len(data)} bytes")
        header = NetHeader.unpack(data)
        if header.num_buffers != 1:
            raise RingError(f"num_buffers is {header.num_buffers}, and buffers are not merged")
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
        if missing < min(self.options.refill_batch, most) and 2 * missing < most:
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
        for queue in (*self._receive, *self._transmit):
            for buffer in (*queue.ring.free(), *queue.spare):
                buffer.free()
        self._receive, self._transmit = [], []

    async def reset_queue(self, index: int) -> int:
        """Reset a queue, and set it up again with a fresh ring, while the other one goes on.

        No other call may be using that queue. Gives how many chains the device had not used.
        """
        self._refuse_broken()
        queues = self._receive if index % 2 == 0 else self._transmit
        old = queues[index // 2]
        await self.virtio.reset_queue(index)
        lost = old.ring.free()
        for buffer in (*lost, *old.spare):
            buffer.free()
        new = await self._set_up_queue(index, old.name, old.vector, old.interrupt)
        queues[index // 2] = new
        await self.virtio.enable_queue(index)
        self.statistics.queue_resets += 1
        if queues is self._receive:
            await self._refill(new)
        return len(lost)

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
