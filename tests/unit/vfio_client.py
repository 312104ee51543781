"""QEMU's part of vfio-user, played in Python: plain messages, and a driver's port on top of them.

Numbers and structures are written down here once more, so that a mistake in the server's cannot
hide behind the same one.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sw_driver.port import Interrupt

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION, GET_IRQ, SET_IRQS = 1, 2, 3, 4, 5, 7, 8
READ, WRITE, RESET, WRITE_MULTI = 9, 10, 13, 15
CONFIG = 7
MSIX = 2
_TIMEOUT_S = 60
Result = TypeVar("Result")


class Ended(Exception):
    """The server has closed the connection."""


class Answer(Exception):
    """The server has answered with an error: its number."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class VfioClient:
    """A connection to a server."""

    def __init__(self, path: Path, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_TIMEOUT_S)
        self.socket.connect(str(path))
        self._number = itertools.count()
        try:
            self.version = self.ask(VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{}}\0'
                                    ) if greet else b""
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> VfioClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.socket.sendmsg([data], rights)
            self.socket.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            raise Ended from None

    def send(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0
             ) -> int:
        number = next(self._number) & 0xFFFF
        self.raw(struct.pack("<HHIII", number, command, 16 + len(payload), flags, 0) + payload,
                 fds)
        return number

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Ended
            data += part
        return data

    def answer(self) -> tuple[int, int, int, bytes]:
        """Give number, command, error and payload of the next answer."""
        number, command, size, flags, error = struct.unpack("<HHIII", self._exactly(16))
        payload = self._exactly(size - 16)
        assert flags & 0xF == 1
        assert bool(flags & 0x20) == bool(error)
        return number, command, error, payload

    def ask(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        number = self.send(command, payload, fds)
        found, which, error, answer = self.answer()
        assert (found, which) == (number, command)
        if error:
            assert not answer
            raise Answer(error)
        return answer

    def silent(self) -> bool:
        """Whether nothing comes from the server for a moment."""
        return not select.select([self.socket], [], [], 0.2)[0]

    # --- what a device is asked

    def read(self, region: int, offset: int, count: int) -> bytes:
        head = struct.pack("<QII", offset, region, count)
        answer = self.ask(READ, head)
        assert answer[:16] == head
        assert len(answer) == 16 + count
        return answer[16:]

    def write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        payload = struct.pack("<QII", offset, region, len(data)) + data
        if posted:
            self.send(WRITE, payload, flags=0x10)
        else:
            assert self.ask(WRITE, payload) == payload[:16]

    def map(self, address: int, size: int, fd: int | None, offset: int = 0, flags: int = 3
            ) -> None:
        fds = [] if fd is None else [fd]
        assert self.ask(DMA_MAP, struct.pack("<IIQQQ", 32, flags, offset, address, size), fds
                        ) == b""

    def unmap(self, address: int, size: int, flags: int = 0) -> None:
        payload = struct.pack("<IIQQ", 24, flags, address, size)
        assert self.ask(DMA_UNMAP, payload) == payload

    def region(self, index: int) -> tuple[int, int]:
        """Give flags and size of a region."""
        answer = self.ask(GET_REGION, struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0))
        _argsz, flags, same, _caps, size, _offset = struct.unpack("<IIIIQQ", answer)
        assert same == index
        return flags, size

    def irqs(self, index: int) -> tuple[int, int]:
        """Give flags and count of an interrupt index."""
        answer = self.ask(GET_IRQ, struct.pack("<IIII", 16, 0, index, 0))
        _argsz, flags, same, count = struct.unpack("<IIII", answer)
        assert same == index
        return flags, count

    def set_irqs(self, flags: int, start: int, count: int, fds: Sequence[int] = (), *,
                 data: bytes = b"", index: int = MSIX) -> None:
        payload = struct.pack("<IIIII", 20 + len(data), flags, index, start, count) + data
        assert self.ask(SET_IRQS, payload, fds) == b""


@dataclass(eq=False)
class _Memory:
    """A piece of the memory that is shared with the server."""

    port: VfioPort
    address: int
    size: int

    @property
    def _at(self) -> int:
        return self.address - self.port.base

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        size = self.size - offset if size is None else size
        return self.port.memory[self._at + offset:self._at + offset + size]

    def write(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= self.size
        self.port.memory[self._at + offset:self._at + offset + len(data)] = data

    def free(self) -> None:
        self.port.freed.append((self.address, self.size))


@dataclass(eq=False)
class _Vector:
    """An interrupt of the machine: an eventfd, and what it has counted."""

    address: int
    data: int
    eventfd: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))
    seen: int = 0

    @property
    def count(self) -> int:
        with contextlib.suppress(BlockingIOError):
            self.seen += os.eventfd_read(self.eventfd)
        return self.seen


class VfioPort:
    """`sw_driver.port.HostPort` over a connection: the machine is here, the card over there.

    The MSI-X table is the machine's own, as in QEMU. A cycle is 50 us of wall time.
    """

    _PER_S = 20_000

    def __init__(self, client: VfioClient, *, memory_bytes: int = 1 << 24) -> None:
        self.client = client
        self.base = 0x1_0000_0000
        self.memory_fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memory_fd, memory_bytes)
        self.memory = mmap.mmap(self.memory_fd, memory_bytes)
        self.freed: list[tuple[int, int]] = []
        self._next = self.base
        client.map(self.base, memory_bytes, self.memory_fd)
        self.memory_windows = (range(0xC000_0000, 0xF000_0000),
                               range(0x80_0000_0000, 0x90_0000_0000))
        self._sizes = [client.region(index)[1] for index in range(6)]
        self._vectors: list[_Vector] = []
        self._table: dict[int, bytearray] = {}
        table = struct.unpack("<I", self.client.read(CONFIG, self._msix() + 4, 4))[0]
        self._table_bar, self._table_at = table & 7, table & ~7
        self.vectors = 1 + (struct.unpack("<H", client.read(CONFIG, self._msix() + 2, 2))[0]
                            & 0x7FF)

    def close(self) -> None:
        self.memory.close()
        os.close(self.memory_fd)
        for vector in self._vectors:
            os.close(vector.eventfd)

    def _msix(self) -> int:
        at = self.client.read(CONFIG, 0x34, 1)[0]
        while at:
            kind, following = self.client.read(CONFIG, at, 2)
            if kind == 0x11:
                return at
            at = following
        raise AssertionError("no MSI-X")

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: Result = end.value
            return result
        raise AssertionError("waits for something else")

    async def config_read(self, bdf: int, offset: int, size: int) -> int:
        if bdf != 0x100:
            return (1 << 8 * size) - 1
        return int.from_bytes(self.client.read(CONFIG, offset, size), "little")

    async def config_write(self, bdf: int, offset: int, size: int, value: int) -> None:
        self.client.write(CONFIG, offset, value.to_bytes(size, "little"))

    def _place(self, address: int) -> tuple[int, int]:
        """Give BAR and offset of an address, by the BAR registers as they are now."""
        registers = struct.unpack("<6I", self.client.read(CONFIG, 0x10, 24))
        for index, register in enumerate(registers):
            size = self._sizes[index]
            if not size:
                continue
            base = register & ~0xF
            if register & 4:
                base |= registers[index + 1] << 32
            if base <= address < base + size:
                return index, address - base
        raise AssertionError(f"no BAR at {address:#x}")

    async def mmio_read(self, address: int, size: int) -> int:
        bar, offset = self._place(address)
        entry = self._entry(bar, offset)
        if entry is not None:
            vector, at = entry
            return int.from_bytes(self._table[vector][at:at + size], "little")
        return int.from_bytes(self.client.read(bar, offset, size), "little")

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        bar, offset = self._place(address)
        entry = self._entry(bar, offset)
        if entry is None:
            self.client.write(bar, offset, value.to_bytes(size, "little"), posted=True)
            return
        vector, at = entry
        self._table[vector][at:at + size] = value.to_bytes(size, "little")
        if at == 12:
            self._route(vector)

    def _entry(self, bar: int, offset: int) -> tuple[int, int] | None:
        if bar != self._table_bar or not 0 <= offset - self._table_at < 16 * self.vectors:
            return None
        vector, at = divmod(offset - self._table_at, 16)
        self._table.setdefault(vector, bytearray(15) + b"\1")
        return vector, at

    def _route(self, vector: int) -> None:
        address, data, control = struct.unpack("<QII", self._table[vector])
        found = next((each for each in self._vectors
                      if (each.address, each.data) == (address, data)), None)
        if control & 1 or found is None:
            self.client.set_irqs(0x24, vector, 1)
        else:
            self.client.set_irqs(0x24, vector, 1, [found.eventfd])

    def allocate(self, size: int, *, align: int = 64, name: str = "memory",
                 device_reads: bool = True, device_writes: bool = True) -> _Memory:
        start = -(-self._next // align) * align
        self._next = start + size
        assert self._next <= self.base + len(self.memory), "the guest's memory is full"
        piece = _Memory(self, start, size)
        piece.write(0, bytes(size))
        return piece

    def allocate_interrupt(self, name: str = "interrupt") -> _Vector:
        vector = _Vector(0xFEE0_1000, 0x30 + len(self._vectors))
        self._vectors.append(vector)
        return vector

    async def wait_interrupts(self, waits: Sequence[tuple[Interrupt, int]],
                              timeout_cycles: int) -> bool:
        deadline = time.monotonic() + timeout_cycles / self._PER_S
        while not any(interrupt.count != seen for interrupt, seen in waits):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        return True

    def now(self) -> int:
        return int(time.monotonic() * self._PER_S)

    async def sleep(self, cycles: int) -> None:
        time.sleep(cycles / self._PER_S)


@contextlib.contextmanager
def attached(path: Path) -> Iterator[VfioPort]:
    """Attach to a server, as a machine with memory."""
    with VfioClient(path) as client:
        port = VfioPort(client)
        try:
            yield port
        finally:
            port.close()
