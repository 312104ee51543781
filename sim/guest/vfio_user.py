"""The vfio-user server: a card's function as a device for QEMU, over a Unix socket."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from sim.guest import vfio_user_messages as m
from sim.guest.clock import Clock
from sim.guest.endpoint import CONFIG_BYTES, Endpoint
from sim.guest.unix_socket import listen
from sim.guest.vfio_user_messages import (
    Channel,
    Command,
    DmaFlags,
    HungUp,
    Index,
    IrqFlags,
    Message,
    Refused,
    RegionFlags,
)
from sim.native.memory import NativeRegion

__all__ = ["Session", "VfioUserServer"]

_MAJOR, _MINOR = 0, 1
_PAGE = 4096
_MAX_MAPS = 4096
_IN_TURN = 64  # messages that are served before the card runs on
_BACKLOG = 256  # writes that wait for the card
_DRAIN_CYCLES = 5000
_INFO_RESET, _INFO_PCI = 1, 2
# As plain numbers: the complement of a flag knows only bits that have a name.
_MAP_FLAGS = int(DmaFlags.READ | DmaFlags.WRITE)
_UNMAP_FLAGS = int(DmaFlags.ALL)
_IRQ_FLAGS = int(IrqFlags.DATA | IrqFlags.ACTION)
_CAPABILITIES = {"capabilities": {
    "max_msg_fds": m.MAX_FDS, "max_data_xfer_size": m.MAX_DATA, "max_dma_maps": _MAX_MAPS,
    "pgsizes": _PAGE, "write_multiple": True}}


def _unpack(what: struct.Struct, payload: bytes, at: int = 0) -> tuple[int, ...]:
    if len(payload) < at + what.size:
        raise Refused(errno.EINVAL, f"{len(payload)} bytes, must be at least {at + what.size}")
    return what.unpack_from(payload, at)


class Session:
    """One connection: a guest, from its first message until it hangs up.

    A request that is wrong is answered with an error, and changes nothing. What is no message at
    all ends the connection.

    Parameters
    ----------
    endpoint
        The function, in the state of a reset.
    sock
        The connected socket, which becomes ours.
    tell
        Called with a line for people about what happened.
    """

    def __init__(self, endpoint: Endpoint, sock: socket.socket,
                 tell: Callable[[str], None] = lambda line: None) -> None:
        self._endpoint = endpoint
        self._clock = endpoint.clock
        self._channel = Channel(sock)
        self._tell = tell
        self._greeted = False
        self._maps: dict[tuple[int, int], NativeRegion | None] = {}
        self.open = True
        self.refused = 0
        """Requests that were answered with an error."""
        self._serve: dict[int, Callable[[Message], bytes]] = {
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._region_write_multi,
            Command.DEVICE_RESET: self._reset,
        }
        self._clock.watch(self._channel.fileno(), self._serve_some)

    def hang_up(self) -> None:
        """Let the peer know that no answer comes any more; the card has failed."""
        self._channel.hang_up()

    def close(self, why: str = "closed") -> None:
        """Forget the guest: the function is reset, its memory and its eventfds are given back."""
        if not self.open:
            return
        self.open = False
        self._clock.unwatch(self._channel.fileno())
        self._channel.close()
        try:
            # Before the memory goes: what is under way comes to its end.
            self._endpoint.reset()
        finally:
            for region in self._maps.values():
                if region is not None:
                    region.free()
            self._maps.clear()
            self._endpoint.release()
            self._tell(f"guest gone: {why}")

    def settle(self) -> None:
        """Serve what a guest that has hung up has left, and forget it; else do nothing."""
        while self.open and self._channel.hung_up:
            self._clock.drain(_DRAIN_CYCLES)
            self._serve_some()

    def _serve_some(self) -> None:
        try:
            for _turn in range(_IN_TURN):
                if self._clock.backlog > _BACKLOG:
                    return  # the card first, and then the guest's next word
                message = self._channel.receive()
                if message is None:
                    return
                try:
                    self._answer(message)
                finally:
                    message.close()
        except HungUp as error:
            self.close(str(error))

    def _answer(self, message: Message) -> None:
        if message.flags & m.Header.TYPE:
            return  # an answer; we have asked nothing
        try:
            if not self._greeted:
                if message.command != Command.VERSION:
                    raise Refused(errno.EINVAL, "the first message must be VERSION")
                reply = self._version(message)
            elif message.command in self._serve:
                reply = self._serve[message.command](message)
            elif message.command == Command.VERSION:
                raise Refused(errno.EINVAL, "VERSION comes once")
            else:
                raise Refused(errno.ENOSYS, f"command {message.command} is not known")
        except Refused as error:
            self.refused += 1
            self._tell(f"refused command {message.command}: {error}")
            self._channel.reply(message, error=error.number)
        else:
            self._channel.reply(message, reply)

    def _version(self, message: Message) -> bytes:
        major, minor = _unpack(m.VERSION, message.payload)
        if major != _MAJOR:
            raise Refused(errno.ENOTSUP, f"version {major}.{minor}, must be {_MAJOR}")
        text = message.payload[m.VERSION.size:].rstrip(b"\0")
        try:
            wanted = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            wanted = None
        if not isinstance(wanted, dict):
            raise Refused(errno.EINVAL, "capabilities must be a JSON object")
        self._greeted = True
        return (m.VERSION.pack(_MAJOR, min(minor, _MINOR))
                + json.dumps(_CAPABILITIES, separators=(",", ":")).encode() + b"\0")

    # --- memory

    def _dma_map(self, message: Message) -> bytes:
        _argsz, flags, offset, address, size = _unpack(m.DMA_MAP, message.payload)
        if flags & ~_MAP_FLAGS:
            raise Refused(errno.EINVAL, f"flags {flags:#x} of a map")
        if not size or address + size > 1 << 64 or (address | size | offset) % _PAGE:
            raise Refused(errno.EINVAL, f"a map of {size:#x} bytes at {address:#x}, must be pages")
        if len(self._maps) >= _MAX_MAPS:
            raise Refused(errno.ENOSPC, f"more than {_MAX_MAPS} maps")
        if any(address < start + length and start < address + size
               for start, length in self._maps):
            raise Refused(errno.EEXIST, f"a map at {address:#x} overlaps another")
        fd = message.take_fd()
        if fd is None:
            # Memory that only the client can reach (a ROM, another device): not for rings.
            self._maps[address, size] = None
            return b""
        try:
            about = os.fstat(fd)
            # Beyond the end of a file there is nothing, and who reads it there dies.
            if not stat.S_ISREG(about.st_mode) or about.st_size < offset + size:
                raise Refused(errno.EINVAL, f"a map of {size:#x} bytes from {offset:#x} on of a "
                                            f"file of {about.st_size:#x}")
            region = self._clock.engine.memory.map(
                address, size, fd, offset, name="guest memory",
                device_reads=bool(flags & DmaFlags.READ),
                device_writes=bool(flags & DmaFlags.WRITE))
        except ValueError as error:
            raise Refused(errno.EINVAL, str(error)) from None
        finally:
            os.close(fd)
        self._maps[address, size] = region
        return b""

    def _dma_unmap(self, message: Message) -> bytes:
        argsz, flags, address, size = _unpack(m.DMA_UNMAP, message.payload)
        if flags & ~_UNMAP_FLAGS:
            raise Refused(errno.ENOTSUP, f"flags {flags:#x} of an unmap")
        if flags & DmaFlags.ALL:
            gone = list(self._maps)
        else:
            gone = [(start, length) for start, length in self._maps
                    if address <= start and start + length <= address + size]
            if not gone or any(address < start + length and start < address + size
                               for start, length in self._maps if (start, length) not in gone):
                raise Refused(errno.EINVAL, f"an unmap of {size:#x} bytes at {address:#x}, where "
                                            "no whole maps are")
        self._clock.drain(_DRAIN_CYCLES)
        for each in gone:
            region = self._maps.pop(each)
            if region is not None:
                region.free()
        return m.DMA_UNMAP.pack(argsz, flags, address, size)

    # --- what the device is

    def _info(self, message: Message) -> bytes:
        _unpack(m.INFO, message.payload)
        return m.INFO.pack(m.INFO.size, _INFO_RESET | _INFO_PCI, Index.REGIONS, Index.IRQS)

    def _region_bytes(self, region: int) -> int:
        if region >= Index.REGIONS:
            raise Refused(errno.EINVAL, f"region {region}, must be 0 to {Index.REGIONS - 1}")
        return CONFIG_BYTES if region == Index.CONFIG else self._endpoint.bar_bytes(region)

    def _region_info(self, message: Message) -> bytes:
        _argsz, _flags, region, _at, _size, _offset = _unpack(m.REGION_INFO, message.payload)
        size = self._region_bytes(region)
        flags = RegionFlags.READ | RegionFlags.WRITE if size else RegionFlags(0)
        return m.REGION_INFO.pack(m.REGION_INFO.size, flags, region, 0, size, 0)

    def _irq_info(self, message: Message) -> bytes:
        _argsz, _flags, index, _count = _unpack(m.IRQ_INFO, message.payload)
        count = self._irqs(index)
        return m.IRQ_INFO.pack(m.IRQ_INFO.size, IrqFlags.EVENTFD if count else 0, index, count)

    # --- interrupts

    def _irqs(self, index: int) -> int:
        """Give how many interrupts an index has: the vectors, and one for errors of the device."""
        if index >= Index.IRQS:
            raise Refused(errno.EINVAL, f"interrupt index {index}, must be 0 to {Index.IRQS - 1}")
        if index == Index.MSIX:
            return self._endpoint.vectors
        return 1 if index == Index.ERROR else 0

    def _set_irqs(self, message: Message) -> bytes:
        _argsz, flags, index, start, count = _unpack(m.IRQ_SET, message.payload)
        data, action = flags & IrqFlags.DATA, flags & IrqFlags.ACTION
        if flags & ~_IRQ_FLAGS or data.bit_count() != 1 \
                or action.bit_count() != 1:
            raise Refused(errno.EINVAL, f"flags {flags:#x} of interrupts")
        vectors = self._irqs(index)
        if start + count > vectors:
            raise Refused(errno.EINVAL, f"vectors {start} to {start + count} of {vectors}")
        chosen = self._chosen(message, start, count)
        if index == Index.ERROR:
            return b""  # a device that has an error is gone, and its connection with it
        if action != IrqFlags.TRIGGER:
            if data == IrqFlags.DATA_EVENTFD:
                raise Refused(errno.ENOTSUP, "a mask by an eventfd")
            for vector in chosen:
                self._endpoint.mask_vector(vector, action == IrqFlags.MASK)
        elif data == IrqFlags.DATA_EVENTFD:
            self._bind(message, start, count)
        elif not count:
            for vector in range(vectors):
                self._endpoint.set_vector(vector, None)
        else:
            for vector in chosen:
                self._endpoint.signal(vector)
        return b""

    @staticmethod
    def _chosen(message: Message, start: int, count: int) -> list[int]:
        """Give the vectors that a message is about, all or those with a true byte."""
        vectors = list(range(start, start + count))
        flags = m.IRQ_SET.unpack_from(message.payload)[1]
        if not flags & IrqFlags.BOOL:
            return vectors
        wanted = message.payload[m.IRQ_SET.size:]
        if len(wanted) < count:
            raise Refused(errno.EINVAL, f"{len(wanted)} bytes for {count} vectors")
        return [vector for vector in vectors if wanted[vector - start]]

    def _bind(self, message: Message, start: int, count: int) -> None:
        """Give vectors their eventfds; without any they lose theirs."""
        if message.fds and len(message.fds) != count:
            raise Refused(errno.EINVAL, f"{len(message.fds)} descriptors for {count} vectors")
        for fd in message.fds:
            # Anything else might block, or end us.
            if str(Path(f"/proc/self/fd/{fd}").readlink()) != "anon_inode:[eventfd]":
                raise Refused(errno.EINVAL, "a descriptor that is no eventfd")
        for vector in range(start, start + count):
            eventfd = message.take_fd()
            if eventfd is not None:
                os.set_blocking(eventfd, False)
            self._endpoint.set_vector(vector, eventfd)

    # --- accesses

    def _check(self, region: int, offset: int, count: int) -> None:
        size = self._region_bytes(region)
        if not 1 <= count <= m.MAX_DATA or offset + count > size:
            raise Refused(errno.EINVAL, f"{count} bytes at {offset:#x} of region {region}, which "
                                        f"has {size:#x}")

    def _region_read(self, message: Message) -> bytes:
        offset, region, count = _unpack(m.REGION_ACCESS, message.payload)
        self._check(region, offset, count)
        data = (self._endpoint.config_read(offset, count) if region == Index.CONFIG
                else self._endpoint.bar_read(region, offset, count))
        return m.REGION_ACCESS.pack(offset, region, count) + data

    def _write(self, region: int, offset: int, data: bytes) -> None:
        self._check(region, offset, len(data))
        if region == Index.CONFIG:
            self._endpoint.config_write(offset, data)
        else:
            self._endpoint.bar_write(region, offset, data)

    def _region_write(self, message: Message) -> bytes:
        offset, region, count = _unpack(m.REGION_ACCESS, message.payload)
        data = message.payload[m.REGION_ACCESS.size:]
        if len(data) != count:
            raise Refused(errno.EINVAL, f"{len(data)} bytes for a write of {count}")
        self._write(region, offset, data)
        return m.REGION_ACCESS.pack(offset, region, count)

    def _region_write_multi(self, message: Message) -> bytes:
        count, = _unpack(struct.Struct("<Q"), message.payload)
        if len(message.payload) != 8 + count * m.WRITE_MULTI.size:
            raise Refused(errno.EINVAL, f"{len(message.payload)} bytes for {count} writes")
        writes = list(m.WRITE_MULTI.iter_unpack(message.payload[8:]))
        for offset, region, size, _data in writes:
            if size > 8:
                raise Refused(errno.EINVAL, f"a write of {size} bytes among several, must be 1 to "
                                            "8")
            self._check(region, offset, size)
        for offset, region, size, data in writes:
            self._write(region, offset, data[:size])
        return b""

    def _reset(self, message: Message) -> bytes:
        self._endpoint.reset()
        return b""


class VfioUserServer:
    """Listens at a path and serves one guest at a time, each with a function that was reset.

    A second guest that comes while one is there is turned away.

    Parameters
    ----------
    clock
        The clock of a card, at its start.
    path
        Where the socket is made, for its owner alone. What a server left behind that is no more is
        replaced; `FileExistsError` if somebody listens there, or it is no socket.
    tell
        Called with a line for people about what happened.
    """

    def __init__(self, clock: Clock, path: Path,
                 tell: Callable[[str], None] = lambda line: None) -> None:
        self.path = path
        self.endpoint = Endpoint(clock)
        self.guests = 0
        """Guests so far."""
        self._clock = clock
        self._tell = tell
        self.session: Session | None = None
        self._listener = listen(path)
        clock.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:  # it has gone again
            return
        if self.session is not None:
            self.session.settle()
        if self.session is not None and self.session.open:
            self._tell("a second guest was turned away")
            sock.close()
            return
        self.guests += 1
        self._tell("a guest has come")
        self.session = Session(self.endpoint, sock, self._tell)

    def hang_up(self) -> None:
        """Serve nobody any more, as the card has failed: who waits for it, or comes, learns it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self.session is not None:
            self.session.hang_up()

    def close(self) -> None:
        """Send the guest away, and remove the socket."""
        if self.session is not None:
            self.session.close("the server ends")
        self._clock.unwatch(self._listener.fileno())
        self._listener.close()
        self.path.unlink(missing_ok=True)
