"""The card's registers programmed as a driver does, for a driver that cannot reach them itself."""

from __future__ import annotations

import struct
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from hw.config import NicConfig
from sim.guest.clock import Clock
from sim.guest.clock_port import ClockPort
from sim.native.engine import NativeInterrupt
from sim.native.memory import NativeRegion
from sw_driver.layouts import NET_DEPENDENCIES, Control, Feature, NetConfig, Status
from sw_driver.management import Count, Management, ManagementError
from sw_driver.packed_ring import PackedRing
from sw_driver.pci import PciError, PciFunction, scan
from sw_driver.ring import Ring, RingError
from sw_driver.split_ring import SplitRing
from sw_driver.virtio_pci import TransportError, VirtioPci

__all__ = ["BridgedCard", "CardError", "QueueSetup"]

Result = TypeVar("Result")

_OWN = 1 << 62  # bus addresses of the bridge's own memory: above those of every guest
_COMMAND_CYCLES = 200_000
_POLL_CYCLES = 50
_UNDER_WAY_CYCLES = 1000
_CONTROL_ENTRIES = 16
_RARP, _IPV4, _REVERSE_REQUEST = 0x8035, 0x0800, 3
_RARP_HEADER = struct.Struct(">HHBBH")
_LEAST_FRAME = 60
# What a front-end does not see, and the bridge wants of the card all the same.
_BENEATH = (Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.SUSPEND)
NEVER_OFFERED = (Feature.ACCESS_PLATFORM, Feature.SR_IOV, Feature.NOTIFICATION_DATA,
                 Feature.NOTIF_CONFIG_DATA, Feature.RING_RESET, Feature.ADMIN_VQ, Feature.SUSPEND)
"""Features that concern the card's own registers, or that front-ends accept without having them."""


class CardError(RuntimeError):
    """The card refuses what the front-end wants, or does not answer."""


@dataclass(frozen=True)
class QueueSetup:
    """A queue as its ring lies in the guest's memory; bus addresses."""

    index: int
    """As the driver counts."""
    size: int
    descriptors: int
    driver: int
    device: int
    position: int | None
    """Where it begins, as `sw_driver.management` has it; None: at the beginning."""


@dataclass(frozen=True)
class _Area:
    address: int


@dataclass(frozen=True)
class _ForeignRing:
    """A ring that somebody else keeps; enough of a `Ring` to set a queue up."""

    size: int
    areas: tuple[_Area, _Area, _Area]


class _BridgePort(ClockPort):
    """The driver's port, with memory where no guest has any."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._next = _OWN

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> NativeRegion:
        """Give memory."""
        line = max(align, 64)
        keep = np.zeros(size + line, np.uint8)
        start = -keep.ctypes.data % line
        address, self._next = self._next, self._next + (size + 2 * line & -line)
        return self.clock.engine.memory.lend(
            address, keep[start:start + size], name=name, device_reads=device_reads,
            device_writes=device_writes)


def _rarp(station: bytes) -> bytes:
    """Make a frame in which a station asks for its own address (RFC 903), to all."""
    asks = _RARP_HEADER.pack(1, _IPV4, 6, 4, _REVERSE_REQUEST)
    body = asks + 2 * (station + bytes(4))
    return (b"\xff" * 6 + station + _RARP.to_bytes(2, "big") + body).ljust(_LEAST_FRAME, b"\0")


class BridgedCard:
    """Function 0 of a card, for one front-end at a time that brings its rings along.

    The card runs with all queues that `start` names; any other set takes `stop` and `start`. Each
    call returns when the card has done it; `CardError` tells that it does not.

    Parameters
    ----------
    clock
        Of the card.
    config
        What the card was built for.

    Attributes
    ----------
    offered
        Feature bits that a front-end may be offered.
    max_pairs, queue_size_max
        What the card has.
    interrupts
        By vector: 0 of the configuration, 1 + n of queue n.
    """

    def __init__(self, clock: Clock, config: NicConfig) -> None:
        self._clock = clock
        self._port = _BridgePort(clock)
        self._config = config
        self.running = False
        self.suspended = False
        self.announced = 0
        """Frames of `announce` so far."""
        self.queue_size_max = config.queue_size_max
        self.max_pairs = config.queue_pairs
        self._queues: dict[int, QueueSetup] = {}
        self._control: Ring[Any] | None = None
        self._function, self._virtio, self._management, self.interrupts, offered = self._do(
            self._probe())
        self.offered = offered & ~sum(1 << bit for bit in NEVER_OFFERED)

    def _do(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        try:
            return self._port.run(coroutine)
        except (TransportError, ManagementError, PciError, RingError) as error:
            raise CardError(f"the card: {error}") from None

    async def _probe(self) -> tuple[PciFunction, VirtioPci, Management, list[NativeInterrupt],
                                    int]:
        function, *_others = await scan(self._port, devices=(0,))
        await function.set_limits(max_payload=self._config.max_payload_bytes,
                                  max_read=self._config.max_read_bytes)
        await function.enable(bus_master=True)
        virtio = VirtioPci(function)
        await virtio.discover()
        management = Management(function)
        await management.check()
        msix = await function.msix()
        needed = 2 + 2 * self.max_pairs
        if msix is None or msix.vectors < needed:
            raise CardError(f"the card has no {needed} interrupt vectors")
        await msix.enable()
        interrupts = [self._port.allocate_interrupt(f"vector {n}") for n in range(needed)]
        for vector, interrupt in enumerate(interrupts):
            await msix.route(vector, interrupt)
        await virtio.reset()
        return function, virtio, management, interrupts, await virtio.offered_features()

    @property
    def queues(self) -> dict[int, QueueSetup]:
        """What it runs, by number; without the bridge's own control queue."""
        return dict(self._queues)

    # --- configuration

    def read_config(self, offset: int, size: int) -> bytes:
        """Read the device configuration; zeros behind its end."""
        length = self._virtio.config_length
        fields = [(str(at), NetConfig.MAC._replace(offset=at, size=1))
                  for at in range(offset, min(offset + size, length))]
        values = self._do(self._virtio.read_config(fields)) if fields else {}
        return bytes(values.values()).ljust(size, b"\0")

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the device configuration: the card takes what a driver may change."""
        if offset + len(data) > self._virtio.config_length:
            raise CardError(f"{len(data)} bytes of configuration at {offset}, it has "
                            f"{self._virtio.config_length}")

        async def write() -> None:
            for at, byte in enumerate(data, offset):
                await self._virtio.write(4, at, 1, byte)
        self._do(write())

    def needs_reset(self) -> bool:
        """Whether the card has stopped for a fault of the front-end."""
        return bool(self._do(self._virtio.status()) & Status.NEEDS_RESET)

    def count(self, bank: str, name: str) -> Count:
        """Read a counter of the card, as the operator does."""
        return self._do(self._management.count(bank, name))

    def drops(self) -> dict[str, int]:
        """Read every counter of dropped frames."""
        return self._do(self._management.drops())

    # --- life

    def control_index(self, features: int) -> int:
        """Give the number of the control queue where these features were accepted."""
        return 2 * self.max_pairs if features >> Feature.MQ & 1 else 2

    def _number(self, index: int) -> int:
        """Give a queue's number as the card counts."""
        control = self.control_index(self._virtio.features)
        return self._config.queues if index == control else index

    def start(self, features: int, queues: Sequence[QueueSetup], *, own_control: bool,
              pairs: int = 1) -> None:
        """Bring the card up with these queues.

        With ``own_control`` the front-end keeps the control queue for itself: the bridge gives the
        card one of its own, and has ``pairs`` pairs of queues used.
        """
        if self.running:
            raise CardError("the card runs already")
        try:
            self._do(self._start(features, queues, own_control, pairs))
        except CardError:
            self.reset()
            raise

    async def _start(self, features: int, queues: Sequence[QueueSetup], own_control: bool,
                     pairs: int) -> None:
        virtio = self._virtio
        beneath: tuple[int, ...] = _BENEATH
        if own_control:
            beneath += (Feature.CTRL_VQ, Feature.MQ)
        await self._function.enable(bus_master=True)
        accepted = await virtio.start(
            {*beneath, *(bit for bit in range(64) if features >> bit & 1)}, NET_DEPENDENCIES)
        if features & ~accepted:
            raise CardError(f"the card does not have the features {features & ~accepted:#x}")
        await virtio.set_config_vector(0)
        for queue in queues:
            areas = (_Area(queue.descriptors), _Area(queue.driver), _Area(queue.device))
            await self._set_up(queue.index, cast("Ring[Any]", _ForeignRing(queue.size, areas)))
            if queue.position is not None:
                await self._management.load_position(self._number(queue.index), queue.position)
        control = self.control_index(accepted)
        if own_control and virtio.has(Feature.CTRL_VQ):
            self._control = self._make_control()
            await self._set_up(control, self._control)
            await virtio.enable_queue(control)
        for queue in queues:
            await virtio.enable_queue(queue.index)
        await virtio.add_status(Status.DRIVER_OK)
        # The write is posted, and queues take their time: a frame that came now would find none.
        await virtio.status()
        await self._port.sleep(_UNDER_WAY_CYCLES)
        self._queues = {queue.index: queue for queue in queues}
        self.running = True
        if self._control is not None and pairs > 1 and virtio.has(Feature.MQ):
            await self._command(Control.MQ, Control.MQ_PAIRS_SET, pairs.to_bytes(2, "little"))

    async def _set_up(self, index: int, ring: Ring[Any]) -> None:
        most = await self._virtio.queue_size(index)
        if not 1 <= ring.size <= most:
            raise CardError(f"queue {index} of {ring.size} entries: must be 1 to {most}")
        await self._virtio.set_up_queue(index, ring, vector=1 + index)

    def _make_control(self) -> Ring[Any]:
        size = min(_CONTROL_ENTRIES, self.queue_size_max)
        kind: type[Ring[Any]] = (
            PackedRing if self._virtio.has(Feature.RING_PACKED) else SplitRing)
        return kind(self._port, size, name="the bridge's control queue",  # type: ignore[call-arg]
                    event_idx=self._virtio.has(Feature.EVENT_IDX),
                    in_order=self._virtio.has(Feature.IN_ORDER))

    async def _command(self, command_class: int, command: int, data: bytes) -> None:
        """Have the card do a command of its control queue."""
        ring = self._control
        assert ring is not None
        said = self._port.allocate(2 + len(data), name="command", device_writes=False)
        answer = self._port.allocate(1, name="answer", device_reads=False)
        said.write(0, bytes([command_class, command]) + data)
        answer.write(0, b"\xff")
        ring.add([(said.address, said.size)], [(answer.address, 1)], (said, answer))
        ring.publish()
        await self._virtio.notify(self.control_index(self._virtio.features))
        deadline = self._port.now() + _COMMAND_CYCLES
        while ring.take_used() is None:
            if self._port.now() >= deadline:
                raise CardError(f"command {command} of class {command_class} is not answered")
            await self._port.sleep(_POLL_CYCLES)
        result = answer.read()[0]
        for memory in (said, answer):
            memory.free()
        if result != Control.OK:
            raise CardError(f"command {command} of class {command_class} is refused")

    def notify(self, index: int) -> None:
        """Kick a queue. Posted."""
        if index in self._queues and not self.suspended:
            self._clock.write(self._virtio.notify_address(index), index.to_bytes(2, "little"))

    def announce(self, station: bytes) -> None:
        """Tell the other end of the wire where a station is now, by a frame as of RARP.

        It comes from the bridge, beside the card: what the card transmits are the guest's frames.
        """
        self._clock.wire.transmit(_rarp(station))
        self.announced += 1

    def suspend(self) -> None:
        """Have the card rest: nothing of it reaches memory until `resume`."""
        self._do(self._virtio.suspend())
        self._clock.drain()
        self.suspended = True

    def resume(self) -> None:
        """Let it go on, and look at each queue."""
        self._do(self._virtio.resume())
        self.suspended = False
        for index in self._queues:
            self.notify(index)

    def stop(self) -> dict[int, int]:
        """Stop the card; give where its queues stand: nothing of it reaches memory any more.

        A queue that the card stopped for a fault stands where it was stopped.
        """
        positions = {}
        if self.running:
            if not self.suspended:
                try:
                    self._do(self._virtio.suspend())
                except CardError:  # it asks for a reset: then its queues are stopped already
                    if not self.needs_reset():
                        raise
            positions = {index: self._do(self._management.position(self._number(index))).value
                         for index in self._queues}
        self.reset()
        return positions

    def reset(self) -> None:
        """Reset the card, by its registers or else as a whole function."""
        self.running = self.suspended = False
        self._queues = {}
        try:
            self._do(self._virtio.reset())
        except CardError:
            self._do(self._function.reset())
        self._clock.drain()
        if self._control is not None:
            for lost in self._control.free():
                for memory in lost:
                    memory.free()
            self._control = None
