"""Messages of vhost-user: their numbers and layouts, and a channel that sends and takes them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import NamedTuple

__all__ = ["MAX_CONFIG", "MAX_REGIONS", "BackendRequest", "Channel", "Message", "ProtocolError",
           "ProtocolFeature", "Region", "Request", "VringAddress", "VringState", "call_payload",
           "close_all", "name_of", "tell", "vring_address", "vring_state"]

VERSION = 1
_VERSION_MASK, _REPLY, _NEED_REPLY = 0x3, 0x4, 0x8
_HEADER = struct.Struct("<III")
_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<II")
_ADDRESS = struct.Struct("<IIQQQQ")
_REGION = struct.Struct("<QQQQ")
_CONFIG = struct.Struct("<III")
MAX_REGIONS = 8
"""Regions of one memory table."""
MAX_CONFIG = 256
"""Bytes of device configuration that may be asked for."""
_MAX_PAYLOAD = 4096


class ProtocolError(Exception):
    """The other side said something that vhost-user does not allow."""


class Request(IntEnum):
    """What a front-end asks of a back-end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38


class BackendRequest(IntEnum):
    """What a back-end says unasked, on a channel of its own."""

    CONFIG_CHANGE = 2
    VRING_CALL = 4


class ProtocolFeature(IntFlag):
    """What front-end and back-end agree on for themselves: masks."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15


class VringState(NamedTuple):
    """A number of a queue."""

    queue: int
    number: int


class VringAddress(NamedTuple):
    """Where a queue lies, in the front-end's own addresses."""

    queue: int
    logged: bool
    descriptors: int
    used: int
    available: int
    log: int
    """Guest physical address by which writes of the used ring are logged."""


class Region(NamedTuple):
    """A part of the guest's memory."""

    guest: int
    """Guest physical address."""
    size: int
    user: int
    """Address of the same byte in the front-end."""
    offset: int
    """Where it begins in its file."""


@dataclass
class Message:
    """A message, and the file descriptors that came with it: whoever takes one owns it."""

    request: int
    payload: bytes = b""
    fds: list[int] = field(default_factory=list)
    need_reply: bool = False

    def u64(self) -> int:
        """Give the payload as one number."""
        return int(_unpack(self, _U64)[0])

    def take_fd(self) -> int:
        """Take the one file descriptor."""
        if len(self.fds) != 1:
            raise ProtocolError(f"{name_of(self.request)} comes with {len(self.fds)} file "
                                "descriptors, must be 1")
        return self.fds.pop()

    def vring_fd(self) -> tuple[int, int | None]:
        """Give a queue's number and its file descriptor (None: to be polled)."""
        value = self.u64()
        if value & ~0x1FF:
            raise ProtocolError(f"{name_of(self.request)}: bits {value:#x} mean nothing")
        return value & 0xFF, None if value & 0x100 else self.take_fd()

    def station(self) -> bytes:
        """Give the MAC address of SEND_RARP: the first 6 bytes of its number."""
        return self.u64().to_bytes(8, "little")[:6]

    def regions(self) -> list[Region]:
        """Give the memory table, a file descriptor for each region."""
        if len(self.payload) < 8:
            raise ProtocolError(f"a memory table of {len(self.payload)} bytes")
        count = int.from_bytes(self.payload[:4], "little")
        # Some front-ends send the whole table, whatever is used of it.
        if count > MAX_REGIONS or len(self.payload) < 8 + count * _REGION.size:
            raise ProtocolError(f"a memory table of {count} regions in {len(self.payload)} bytes, "
                                f"at most {MAX_REGIONS}")
        if len(self.fds) != count:
            raise ProtocolError(f"{count} regions with {len(self.fds)} file descriptors")
        return [Region._make(_REGION.unpack_from(self.payload, 8 + _REGION.size * number))
                for number in range(count)]

    def region(self) -> Region:
        """Give the one region of ADD_MEM_REG and REM_MEM_REG."""
        if len(self.payload) != 8 + _REGION.size:
            raise ProtocolError(f"a region in {len(self.payload)} bytes, must be "
                                f"{8 + _REGION.size}")
        return Region._make(_REGION.unpack_from(self.payload, 8))

    def log_area(self) -> tuple[int, int]:
        """Give size and offset of the log in its file."""
        if len(self.payload) != 16:
            raise ProtocolError(f"a log in {len(self.payload)} bytes, must be 16")
        size, offset = struct.unpack("<QQ", self.payload)
        return int(size), int(offset)

    def config(self) -> tuple[int, int, bytes]:
        """Give offset and size of a piece of configuration, and its bytes."""
        if len(self.payload) < _CONFIG.size:
            raise ProtocolError(f"a configuration in {len(self.payload)} bytes")
        offset, size, _flags = _CONFIG.unpack_from(self.payload)
        data = self.payload[_CONFIG.size:]
        if offset + size > MAX_CONFIG or len(data) < size:
            raise ProtocolError(f"{size} bytes of configuration at {offset}, must end within "
                                f"{MAX_CONFIG}, in a payload of {len(data)}")
        return offset, size, data[:size]

    def config_answer(self, data: bytes) -> bytes:
        """Give the payload that answers GET_CONFIG."""
        return self.payload[:_CONFIG.size] + data


def name_of(request: int) -> str:
    """Name a request."""
    try:
        return Request(request).name
    except ValueError:
        return f"request {request}"


def _unpack(message: Message, layout: struct.Struct) -> tuple[int, ...]:
    if len(message.payload) != layout.size:
        raise ProtocolError(f"{name_of(message.request)} has {len(message.payload)} bytes, must "
                            f"have {layout.size}")
    return layout.unpack(message.payload)


def vring_state(message: Message) -> VringState:
    """Read a queue's number and a number of it."""
    return VringState._make(_unpack(message, _STATE))


def vring_address(message: Message) -> VringAddress:
    """Read where a queue lies."""
    queue, flags, descriptors, used, available, log = _unpack(message, _ADDRESS)
    return VringAddress(queue, bool(flags & 1), descriptors, used, available, log)


def close_all(fds: Iterable[int]) -> None:
    """Close file descriptors, whatever they are."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


class Channel:
    """A stream socket on which messages come and go.

    Nothing here waits for the other side: `take` gives what has come, and a message that the other
    side does not take in time is an error. The socket belongs to the channel.
    """

    _MAX_FDS = MAX_REGIONS

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._link.setblocking(False)
        self._got = b""
        self._fds: list[int] = []

    def fileno(self) -> int:
        """Give the socket's file descriptor; -1 when it is closed."""
        return self._link.fileno()

    def hang_up(self) -> None:
        """Let the peer know that no answer comes any more; the rest is for `close`."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and what came with half a message."""
        close_all(self._fds)
        self._fds = []
        self._link.close()

    def take(self) -> Message | None:
        """Give the next message; None when it is not whole yet.

        `ProtocolError` for what is no message, `ConnectionError` when the other side has gone.
        """
        while True:
            wanted = _HEADER.size
            if len(self._got) >= _HEADER.size:
                request, flags, size = _HEADER.unpack_from(self._got)
                if flags & _VERSION_MASK != VERSION:
                    raise ProtocolError(f"flags {flags:#x}: the version must be {VERSION}")
                if flags & _REPLY:
                    raise ProtocolError(f"a reply to nothing: {name_of(request)}")
                if size > _MAX_PAYLOAD:
                    raise ProtocolError(f"a message of {size} bytes, at most {_MAX_PAYLOAD}")
                wanted += size
                if len(self._got) == wanted:
                    message = Message(request, self._got[_HEADER.size:], self._fds,
                                      bool(flags & _NEED_REPLY))
                    self._got, self._fds = b"", []
                    return message
            try:
                # Never beyond the message: so descriptors belong to the one that is being read.
                data, fds, how, _from = socket.recv_fds(
                    self._link, wanted - len(self._got), self._MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return None
            self._fds += fds
            if not data:
                raise ConnectionResetError("the front-end has gone")
            if how & socket.MSG_CTRUNC or len(self._fds) > self._MAX_FDS:
                raise ProtocolError(f"more than {self._MAX_FDS} file descriptors in a message")
            self._got += data

    def reply(self, to: Message, payload: bytes) -> None:
        """Answer a message."""
        self._send(_HEADER.pack(to.request, VERSION | _REPLY, len(payload)) + payload)

    def reply_u64(self, to: Message, value: int) -> None:
        """Answer a message by a number."""
        self.reply(to, _U64.pack(value))

    def reply_state(self, to: Message, state: VringState) -> None:
        """Answer a message by a number of a queue."""
        self.reply(to, _STATE.pack(*state))

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *,
            need_reply: bool = False) -> None:
        """Send a request, as a front-end does."""
        flags = VERSION | (_NEED_REPLY if need_reply else 0)
        self._send(_HEADER.pack(request, flags, len(payload)) + payload, fds)

    def _send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        # Answers are small, and the other side waits for them: what does not fit is not wanted.
        try:
            sent = (socket.send_fds(self._link, [data], list(fds)) if fds
                    else self._link.send(data, socket.MSG_NOSIGNAL))
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            raise ProtocolError("the front-end does not take its answers")


def tell(fd: int, request: BackendRequest, payload: bytes = b"") -> bool:
    """Say something unasked, on a socket or a pipe; whether there was room for it.

    `OSError` when the other side has gone.
    """
    try:
        os.write(fd, _HEADER.pack(request, VERSION, len(payload)) + payload)
    except BlockingIOError:
        return False
    return True


def call_payload(index: int) -> bytes:
    """Give what VRING_CALL says of a queue."""
    return _STATE.pack(index, 0)
