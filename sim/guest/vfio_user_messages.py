"""vfio-user on the wire: headers, payloads, and the socket that carries them with descriptors."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

__all__ = ["DMA_MAP", "DMA_UNMAP", "HEADER", "INFO", "IRQ_INFO", "IRQ_SET", "MAX_DATA", "MAX_FDS",
           "REGION_ACCESS", "REGION_INFO", "VERSION", "WRITE_MULTI", "Channel", "Command",
           "DmaFlags", "Header", "HungUp", "Index", "IrqFlags", "Message", "Refused", "RegionFlags"]

HEADER = struct.Struct("<HHIII")
"""Number, command, size with the header, flags, error."""
VERSION = struct.Struct("<HH")
DMA_MAP = struct.Struct("<IIQQQ")
"""argsz, flags, offset in the descriptor, address, size."""
DMA_UNMAP = struct.Struct("<IIQQ")
"""argsz, flags, address, size."""
INFO = struct.Struct("<IIII")
"""argsz, flags, regions, interrupt indexes."""
REGION_INFO = struct.Struct("<IIIIQQ")
"""argsz, flags, index, offset of capabilities, size, offset."""
IRQ_INFO = struct.Struct("<IIII")
"""argsz, flags, index, count."""
IRQ_SET = struct.Struct("<IIIII")
"""argsz, flags, index, start, count."""
REGION_ACCESS = struct.Struct("<QII")
"""Offset, region, count."""
WRITE_MULTI = struct.Struct("<QII8s")
"""Offset, region, count, up to 8 bytes of data."""

MAX_DATA = 1 << 20
"""Bytes of data in one message."""
MAX_FDS = 8
"""Descriptors with one message."""
_LARGEST = HEADER.size + REGION_ACCESS.size + MAX_DATA
_SEND_S = 1.0


class Command(IntEnum):
    """What a message asks."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15


class Header(IntFlag):
    """Flags of a header."""

    TYPE = 0xF
    REPLY = 0x1
    NO_REPLY = 0x10
    ERROR = 0x20


class DmaFlags(IntFlag):
    """Flags of DMA_MAP and DMA_UNMAP."""

    READ = 1
    WRITE = 2
    ALL = 2  # of an unmap


class RegionFlags(IntFlag):
    """Flags of a region."""

    READ = 1
    WRITE = 2


class IrqFlags(IntFlag):
    """Flags of interrupt indexes (EVENTFD) and of DEVICE_SET_IRQS."""

    EVENTFD = 1

    NONE = 0x1
    BOOL = 0x2
    DATA_EVENTFD = 0x4
    DATA = 0x7
    MASK = 0x8
    UNMASK = 0x10
    TRIGGER = 0x20
    ACTION = 0x38


class Index(IntEnum):
    """Regions (as they are numbered for PCI) and interrupts that have a meaning here."""

    CONFIG = 7
    REGIONS = 9
    MSIX = 2
    ERROR = 3
    IRQS = 5


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"{errno.errorcode.get(number, number)}: {why}")
        self.number = number


class HungUp(Exception):
    """A connection that cannot go on: the peer went away, or what it sends is no message."""


@dataclass
class Message:
    """A message, and the descriptors that came with it (ours to close)."""

    number: int
    command: int
    flags: int
    payload: bytes = b""
    fds: list[int] = field(default_factory=list)

    @property
    def wants_reply(self) -> bool:
        """Whether an answer is expected."""
        return not self.flags & Header.NO_REPLY

    def take_fd(self) -> int | None:
        """Take the next descriptor; None when there is none left."""
        return self.fds.pop(0) if self.fds else None

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.fds:
            os.close(self.fds.pop())


class Channel:
    """The messages of one connection. Never waits for what the peer has not sent yet.

    A message is read in two pieces that end where its header and its payload end, so that
    descriptors belong to the message with whose bytes they came.

    Parameters
    ----------
    sock
        A connected stream socket of the Unix domain, which becomes ours.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)
        self._got = bytearray()
        self._fds: list[int] = []
        self._wanted = HEADER.size

    def fileno(self) -> int:
        """Give the descriptor of the socket."""
        return self._socket.fileno()

    @property
    def hung_up(self) -> bool:
        """Whether the peer has closed its end; what it sent before can still be received."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    def receive(self) -> Message | None:
        """Give the next message, None when it has not come whole; `HungUp` when none can come."""
        while True:
            while len(self._got) < self._wanted:
                if not self._read():
                    return None
            number, command, size, flags, _error = HEADER.unpack_from(self._got)
            if self._wanted == HEADER.size:
                if not HEADER.size <= size <= _LARGEST:
                    raise HungUp(f"a message of {size} bytes, must be {HEADER.size} to {_LARGEST}")
                self._wanted = size
                if size > HEADER.size:
                    continue
            message = Message(number, command, flags, bytes(self._got[HEADER.size:]), self._fds)
            self._got = bytearray()
            self._fds = []
            self._wanted = HEADER.size
            return message

    def _read(self) -> bool:
        room = socket.CMSG_SPACE(4 * MAX_FDS)
        try:
            data, ancillary, flags, _address = self._socket.recvmsg(
                self._wanted - len(self._got), room, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            raise HungUp(str(error.strerror)) from None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(content[:len(content) - len(content) % found.itemsize])
                self._fds.extend(found)
        if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_FDS:
            raise HungUp(f"more than {MAX_FDS} descriptors with a message")
        if not data:
            raise HungUp("end of the connection")
        self._got += data
        return True

    def send(self, message: Message, *, error: int = 0) -> None:
        """Send a message; `HungUp` when the peer does not take it within a second."""
        data = memoryview(HEADER.pack(message.number, message.command,
                                      HEADER.size + len(message.payload), message.flags, error)
                          + message.payload)
        deadline = time.monotonic() + _SEND_S
        while data:
            try:
                data = data[self._socket.send(data, socket.MSG_NOSIGNAL):]
            except (BlockingIOError, InterruptedError):
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                left = deadline - time.monotonic()
                if left <= 0 or not poll.poll(int(1000 * left) + 1):
                    raise HungUp("the peer does not read") from None
            except OSError as broken:
                raise HungUp(str(broken.strerror)) from None

    def reply(self, message: Message, payload: bytes = b"", *, error: int = 0) -> None:
        """Answer a message, unless no answer is wanted."""
        if message.wants_reply:
            flags = Header.REPLY | (Header.ERROR if error else 0)
            self.send(Message(message.number, message.command, flags, payload), error=error)

    def hang_up(self) -> None:
        """Let the peer know that no answer comes any more; the rest is for `close`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection, and close what came with a message that never ended."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())
