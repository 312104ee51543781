"""A front-end of vhost-user in Python: its memory, its messages, and a driver in its rings."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sim.guest.clock import Clock
from sim.guest.vhost_user import IN_BAND as OFFERED
from sim.guest.vhost_user import FrontEnd
from sim.guest.vhost_user_card import BridgedCard
from sim.guest.vhost_user_messages import BackendRequest, Channel, ProtocolFeature, Region, Request
from sw_driver.layouts import Feature, NetHeader
from sw_driver.packed_ring import PackedRing
from sw_driver.ring import Ring
from sw_driver.split_ring import SplitRing

GUEST, USER, SIZE = 0x10_0000, 0x7F12_0000_0000, 4 << 20
PAGE = 4096
HAS_PROTOCOL = 1 << 30
LOG_ALL = 1 << 26
ACKED = ProtocolFeature.REPLY_ACK | ProtocolFeature.MQ | ProtocolFeature.CONFIG
IN_BAND = ACKED | ProtocolFeature.BACKEND_REQ | ProtocolFeature.INBAND_NOTIFICATIONS
_BUFFER = 2048
_S = 20


class Piece:
    """Some of the guest's memory."""

    def __init__(self, memory: GuestFile, address: int, size: int) -> None:
        self._memory, self.address, self.size = memory, address, size

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        at = self.address - GUEST + offset
        return self._memory.bytes[at:at + (self.size - offset if size is None else size)].tobytes()

    def write(self, offset: int, data: bytes) -> None:
        at = self.address - GUEST + offset
        self._memory.bytes[at:at + len(data)] = np.frombuffer(data, np.uint8)

    def free(self) -> None:
        """The guest has enough."""


class GuestFile:
    """The guest's memory, and what of `HostPort` a ring needs."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, SIZE)
        self._map = mmap.mmap(self.fd, SIZE)
        self.bytes = np.frombuffer(self._map, np.uint8)
        self._next = GUEST

    def allocate(self, size: int, *, align: int = 64, name: str = "", device_reads: bool = True,
                 device_writes: bool = True) -> Piece:
        self._next = -(-self._next // max(align, 64)) * max(align, 64)
        piece = Piece(self, self._next, size)
        self._next += size
        assert self._next <= GUEST + SIZE
        return piece

    @property
    def region(self) -> Region:
        return Region(GUEST, SIZE, USER, 0)

    def close(self) -> None:
        self.bytes = np.zeros(0, np.uint8)
        self._map.close()  # it has a descriptor of its own
        os.close(self.fd)


class Queue:
    """A ring and its descriptors."""

    def __init__(self, memory: GuestFile, index: int, size: int, features: int) -> None:
        self.index = index
        self.memory = memory
        kind: type[Ring[Any]] = PackedRing if features >> Feature.RING_PACKED & 1 else SplitRing
        self.ring: Ring[Any] = kind(
            memory, size, name=f"queue {index}",  # type: ignore[arg-type, call-arg]
            event_idx=bool(features >> Feature.EVENT_IDX & 1),
            in_order=bool(features >> Feature.IN_ORDER & 1))
        self.kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.error = os.eventfd(0, os.EFD_NONBLOCK)
        self.calls = 0

    def give(self, frame: bytes) -> None:
        piece = self.memory.allocate(NetHeader.SIZE + len(frame))
        piece.write(0, NetHeader().pack() + frame)
        self.ring.add([(piece.address, piece.size)], [], piece)

    def offer(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.ring.add([], [(piece.address, piece.size)], piece)

    def fill(self, count: int) -> None:
        self.offer([self.memory.allocate(_BUFFER) for _ in range(count)])

    def close(self) -> None:
        for fd in (self.kick, self.call, self.error):
            os.close(fd)


class Model:
    """A front-end that asks, and a driver that sends and receives."""

    def __init__(self, clock: Clock, card: BridgedCard, *, memory: GuestFile | None = None,
                 protocol: ProtocolFeature = ACKED) -> None:
        self.clock = clock
        ours, theirs = socket.socketpair()
        self.gone: list[str] = []
        self.front = FrontEnd(clock, card, Channel(theirs), gone=self.gone.append,
                              protocol=OFFERED)
        self.socket = ours
        self.memory = memory or GuestFile()
        self.protocol = protocol
        self.features = 0
        self.queues: dict[int, Queue] = {}
        self.received: list[bytes] = []
        self._unasked: socket.socket | None = None
        self.changes = 0

    # --- messages

    def run(self, until: Callable[[], bool], seconds: float = _S) -> None:
        assert self.clock.run(until, seconds), self.gone

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *,
             flags: int = 1) -> None:
        data = struct.pack("<III", request, flags, len(payload)) + payload
        socket.send_fds(self.socket, [data], list(fds))

    def answer(self) -> bytes | None:
        """Give the payload of the next answer; None when the connection has ended."""
        self.run(lambda: bool(self.gone) or bool(select.select([self.socket], [], [], 0)[0]))
        try:
            header = self.socket.recv(12)
        except ConnectionError:
            return None
        if not header:
            return None
        _request, flags, size = struct.unpack("<III", header)
        assert flags == 5
        return self.socket.recv(size) if size else b""

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Ask for something; give 0 when it was done."""
        acked = bool(self.protocol & ProtocolFeature.REPLY_ACK)
        self.send(request, payload, fds, flags=9 if acked else 1)
        if not acked:
            return 0
        answer = self.answer()
        assert answer is not None, self.gone
        return int.from_bytes(answer, "little")

    def get(self, request: int, payload: bytes = b"") -> int:
        self.send(request, payload)
        answer = self.answer()
        assert answer is not None, self.gone
        return int.from_bytes(answer, "little")

    def do(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        assert self.ask(request, payload, fds) == 0, self.front.refused

    # --- set-up

    def begin(self, features: int) -> None:
        """Agree on features, and show the memory."""
        self.do(Request.SET_OWNER) if not self.protocol & 8 else self.send(Request.SET_OWNER)
        offered = self.get(Request.GET_FEATURES)
        assert features & ~offered == 0
        self.do_protocol()
        self.features = features | HAS_PROTOCOL
        self.do(Request.SET_FEATURES, struct.pack("<Q", self.features))
        self.show_memory()

    def do_protocol(self) -> None:
        assert int(self.protocol) & ~self.get(Request.GET_PROTOCOL_FEATURES) == 0
        self.do(Request.SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
        if self.protocol & ProtocolFeature.BACKEND_REQ:
            self._unasked, theirs = socket.socketpair()
            self._unasked.setblocking(False)
            with theirs:
                self.do(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])

    def table(self) -> bytes:
        region = self.memory.region
        return struct.pack("<II", 1, 0) + struct.pack("<QQQQ", *region)

    def show_memory(self) -> None:
        self.do(Request.SET_MEM_TABLE, self.table(), [self.memory.fd])

    def addresses(self, queue: Queue, *, logged: bool = False) -> bytes:
        descriptors, available, used = (area.address for area in queue.ring.areas)
        return struct.pack("<IIQQQQ", queue.index, int(logged), descriptors - GUEST + USER,
                           used - GUEST + USER, available - GUEST + USER,
                           used if logged else (1 << 64) - 1)

    def start(self, queue: Queue, base: int = 0) -> None:
        """Start a queue, and enable it."""
        self.queues[queue.index] = queue
        index = struct.pack("<Q", queue.index)
        inband = bool(self.protocol & ProtocolFeature.INBAND_NOTIFICATIONS)
        if not inband:
            self.do(Request.SET_VRING_CALL, index, [queue.call])
        self.do(Request.SET_VRING_ERR, index, [queue.error])
        self.do(Request.SET_VRING_NUM, struct.pack("<II", queue.index, queue.ring.size))
        self.do(Request.SET_VRING_BASE, struct.pack("<II", queue.index, base))
        self.do(Request.SET_VRING_ADDR, self.addresses(queue))
        if not inband:
            self.do(Request.SET_VRING_KICK, index, [queue.kick])
        self.enable(queue.index, True)

    def enable(self, index: int, enabled: bool) -> None:
        self.do(Request.SET_VRING_ENABLE, struct.pack("<II", index, int(enabled)))

    def stop(self, index: int) -> int:
        """Stop a queue; give its base."""
        self.send(Request.GET_VRING_BASE, struct.pack("<II", index, 0))
        answer = self.answer()
        assert answer is not None, self.gone
        queue, base = struct.unpack("<II", answer)
        assert queue == index
        return int(base)

    def new_queue(self, index: int, size: int = 64) -> Queue:
        return Queue(self.memory, index, size, self.features)

    def pair(self, number: int = 0, size: int = 64) -> tuple[Queue, Queue]:
        """Start a pair of queues, the first one full of buffers."""
        receive, transmit = (self.new_queue(2 * number + side, size) for side in (0, 1))
        for queue in (receive, transmit):
            self.start(queue)
        receive.fill(size // 2)
        self.publish(receive)
        self.until_running(receive, transmit)
        return receive, transmit

    def until_running(self, *queues: Queue) -> None:
        """Wait until the card runs these queues: what comes earlier is dropped."""
        wanted = {queue.index for queue in queues}
        self.run(lambda: wanted <= set(self.front.queues.active) or bool(self.gone))

    # --- the driver

    def publish(self, queue: Queue) -> None:
        if queue.ring.publish() and queue.ring.kick_wanted():
            self.kick(queue)

    def kick(self, queue: Queue) -> None:
        if self.protocol & ProtocolFeature.INBAND_NOTIFICATIONS:
            self.do(Request.VRING_KICK, struct.pack("<II", queue.index, 0))
        else:
            os.eventfd_write(queue.kick, 1)

    def look(self) -> None:
        """Take calls, and what was used."""
        while self._unasked is not None:
            try:
                data = self._unasked.recv(12)
            except BlockingIOError:
                break
            if not data:
                break
            request, flags, size = struct.unpack("<III", data)
            assert flags == 1
            if request == BackendRequest.CONFIG_CHANGE:
                assert not size
                self.changes += 1
                continue
            assert request == BackendRequest.VRING_CALL
            self.queues[struct.unpack("<II", self._unasked.recv(size))[0]].calls += 1
        for queue in self.queues.values():
            with contextlib.suppress(BlockingIOError):
                queue.calls += os.eventfd_read(queue.call)
            returned = []
            while (used := queue.ring.take_used()) is not None:
                if queue.index % 2 == 0:
                    self.received.append(used.token.read(NetHeader.SIZE,
                                                         used.written - NetHeader.SIZE))
                    returned.append(used.token)
            if returned:
                queue.offer(returned)
                self.publish(queue)

    def until_received(self, count: int) -> None:
        def met() -> bool:
            self.look()
            return len(self.received) >= count
        self.run(met)

    def until_used(self, queue: Queue) -> None:
        def met() -> bool:
            self.look()
            return not queue.ring.outstanding
        self.run(met)

    def close(self) -> None:
        """Go away."""
        self.socket.close()
        if not self.gone:
            self.run(lambda: bool(self.gone))
        for queue in self.queues.values():
            queue.close()
        if self._unasked is not None:
            self._unasked.close()
