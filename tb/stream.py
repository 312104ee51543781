"""Streams seen from a bench: sources, sinks, monitors, protocol checks, and paces.

All of them find the ports of a stream by its prefix (``<prefix>__payload``, ``__valid``,
``__ready``; the ready or valid of an ``always_*`` stream is no port and counts as 1), and know the
fields of the payload from the Amaranth shape that the component itself uses. A payload is a plain
``int``, or for a struct a ``dict`` of fields (nested for nested structs; every value an ``int``,
enumerations included; fields that are left out are 0 when sent).

Everything samples after the rising edge of ``dut.clk`` and drives then: values written in a cycle
are seen by the component at the next edge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import cocotb
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.queue import Queue
from cocotb.triggers import RisingEdge, with_timeout

__all__ = [
    "CLOCK_NS",
    "Fields",
    "Packet",
    "PacketMonitor",
    "PacketSink",
    "PacketSource",
    "StreamMonitor",
    "StreamSink",
    "StreamSource",
    "always",
    "bursty",
    "cycles",
    "never",
    "pace",
    "reset",
]

Dut = Any  # cocotb handles are looked up by name at run time; there is nothing to type
Payload = Any  # int, or dict of fields

CLOCK_NS = 4
"""Clock period of the benches: 250 MHz."""


def always() -> Iterator[bool]:
    """Go on every cycle."""
    while True:
        yield True


def never() -> Iterator[bool]:
    """Stall for ever."""
    while True:
        yield False


def bursty(seed: int, p_flip: float = 0.3) -> Iterator[bool]:
    """Runs of go and stall, of geometric length: what finds skid bugs is the edges between them."""
    rng = random.Random(seed)
    go = True
    while True:
        go ^= rng.random() < p_flip
        yield go


def pace(stalls: bool, seed: int) -> Iterator[bool]:
    """How eager one side is. Two sides need two seeds: with one they would stall in step."""
    return bursty(seed) if stalls else always()


async def reset(dut: Dut) -> None:
    """Start the clock and reset the component; to be called once, after the sources are made."""
    # Low at first: the first edge finds reset and inputs in place, and no register takes an X.
    Clock(dut.clk, CLOCK_NS, unit="ns").start(start_high=False)
    dut.rst.value = 1
    await cycles(dut, 2)
    dut.rst.value = 0


async def cycles(dut: Dut, count: int) -> None:
    """Wait for ``count`` rising edges of the clock."""
    edge = RisingEdge(dut.clk)
    for _ in range(count):
        await edge


class Fields:
    """Pack and unpack a payload, from the Amaranth shape: nested dicts to an integer and back."""

    def __init__(self, shape: ShapeLike) -> None:
        self.bits = Shape.cast(shape).width
        self._struct: list[tuple[str, int, int, Fields]] | None = None
        if isinstance(shape, data.StructLayout):
            self._struct = []
            for name, part in shape:
                inner = Fields(part.shape)
                self._struct.append((str(name), part.offset, (1 << part.width) - 1, inner))
            self.names = [name for name, *_ in self._struct]
        else:
            self.names = []

    def offset(self, name: str) -> int:
        """Lowest bit of the field ``name``."""
        return next(offset for other, offset, *_ in self._struct or () if other == name)

    def pack(self, value: Payload) -> int:
        """Give the integer of a dict (or of a number, or of a member of an enumeration)."""
        if isinstance(value, Mapping):
            if self._struct is None:
                raise TypeError(f"a dict for a payload without fields: {value!r}")
            unknown = set(value) - set(self.names)
            if unknown:
                raise KeyError(f"no such fields: {sorted(unknown)}; there are {self.names}")
            word = 0
            for name, offset, mask, inner in self._struct:
                if name in value:
                    number = inner.pack(value[name])
                    if number & ~mask:
                        raise ValueError(f"{name} = {number} does not fit into {mask:#x}")
                    word |= number << offset
            return word
        return int(value.value if isinstance(value, Enum) else value)

    def unpack(self, word: int) -> Payload:
        """Give the fields of an integer as a dict (the integer itself if there are none)."""
        if self._struct is None:
            return word
        return {name: inner.unpack(word >> offset & mask)
                for name, offset, mask, inner in self._struct}


class _Port:
    """The handles of one stream, looked up once."""

    def __init__(self, dut: Dut, prefix: str, shape: ShapeLike) -> None:
        self.name = prefix
        self.fields = Fields(shape)
        self.edge = RisingEdge(dut.clk)
        self.rst = dut.rst
        self.payload = getattr(dut, f"{prefix}__payload")
        self.valid = getattr(dut, f"{prefix}__valid", None)
        self.ready = getattr(dut, f"{prefix}__ready", None)
        if len(self.payload) != self.fields.bits:
            raise ValueError(f"{prefix} is {len(self.payload)} bits wide, "
                             f"and the shape says {self.fields.bits}")


class StreamSource:
    """Drive a stream with queued payloads. ``pace`` may be exchanged at any time."""

    def __init__(self, dut: Dut, prefix: str, shape: ShapeLike, pace: Iterator[bool]) -> None:
        self._port = port = _Port(dut, prefix, shape)
        self.pace = pace
        self._queue: Queue[int] = Queue()
        self._busy = False
        port.payload.value = 0
        if port.valid is not None:
            port.valid.value = 0
        cocotb.start_soon(self._run())

    def send(self, payload: Payload) -> None:
        """Queue a payload; returns at once."""
        self._queue.put_nowait(self._port.fields.pack(payload))

    @property
    def idle(self) -> bool:
        """Everything that was sent has been taken."""
        return self._queue.empty() and not self._busy

    async def drain(self, timeout_cycles: int = 20_000) -> None:
        """Wait until everything that was sent has been taken."""
        for _ in range(timeout_cycles):
            if self.idle:
                return
            await self._port.edge
        raise TimeoutError(f"{self._port.name}: not taken within {timeout_cycles} cycles")

    async def _run(self) -> None:
        port = self._port
        edge, ready, valid = port.edge, port.ready, port.valid
        while True:
            word = await self._queue.get()
            self._busy = True
            while not next(self.pace):
                await edge
            port.payload.value = word
            if valid is not None:
                valid.value = 1
            await edge
            # Held, unchanged, until taken: stream rule 2. In reset nothing is taken.
            while port.rst.value or (ready is not None and not ready.value):
                await edge
            if valid is not None:
                valid.value = 0
            self._busy = False


class StreamMonitor:
    """Watch a stream, and fail the test when its rules are broken; give each transfer away.

    Transfers go to ``received``, or to ``tell(payload)`` where that is given.
    """

    def __init__(self, dut: Dut, prefix: str, shape: ShapeLike,
                 tell: Callable[[Payload], None] | None = None) -> None:
        self._port = _Port(dut, prefix, shape)
        self.received: Queue[Payload] = Queue()
        self.transfers = 0
        self._tell = tell or self.received.put_nowait
        cocotb.start_soon(self._run())

    def empty(self) -> bool:
        """Nothing has been received that was not yet got."""
        return self.received.empty()

    async def get(self, timeout_cycles: int = 20_000) -> Payload:
        """Wait for the next transfer (or take the oldest that was received)."""
        return await with_timeout(self.received.get(), timeout_cycles * CLOCK_NS, "ns")

    def _step(self) -> None:
        """Called once a cycle; a sink drives its ready here."""

    def _take(self, word: int) -> None:
        self._tell(self._port.fields.unpack(word))

    async def _run(self) -> None:
        port = self._port
        edge, rst, valid, ready, payload = port.edge, port.rst, port.valid, port.ready, port.payload
        offered: int | None = None  # what was valid and not taken in the cycle before
        while True:
            await edge
            if rst.value:
                offered = None
                continue
            # The payload is read only where valid says it means something: reading a wide port is
            # the dearest thing a monitor does, and it may legally be X elsewhere.
            if valid is None or valid.value:
                word = int(payload.value)
                assert offered is None or word == offered, (
                    f"{port.name}: the payload changed before the transfer")
                if ready is None or ready.value:
                    offered = None
                    self.transfers += 1
                    self._take(word)
                else:
                    offered = word
            else:
                assert offered is None, f"{port.name}: valid was withdrawn before the transfer"
            self._step()


class StreamSink(StreamMonitor):
    """Take payloads from a stream, at a pace; checks the rules. ``pace`` may be exchanged."""

    def __init__(self, dut: Dut, prefix: str, shape: ShapeLike, pace: Iterator[bool],
                 tell: Callable[[Payload], None] | None = None) -> None:
        self.pace = pace
        super().__init__(dut, prefix, shape, tell)
        self._ready_now = False
        if self._port.ready is not None:
            self._port.ready.value = 0

    def _step(self) -> None:
        go = next(self.pace)
        if go != self._ready_now and self._port.ready is not None:
            self._ready_now = go
            self._port.ready.value = go


@dataclass
class Packet:
    """A packet and the fields that went beside its first and its last beat."""

    data: bytes
    """From lane 0 of the first beat: with a lead, its first bytes mean nothing."""
    first: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)


_OWN = ("data", "empty", "first", "last")  # fields of a beat that the source and the sink fill


class PacketSource(StreamSource):
    """Drive a packet stream: any layout with ``data``, ``empty``, ``last``, perhaps ``first``."""

    def __init__(self, dut: Dut, prefix: str, shape: data.StructLayout,
                 pace: Iterator[bool]) -> None:
        super().__init__(dut, prefix, shape, pace)
        names = self._port.fields.names
        self.lanes = Shape.cast(shape.members["data"]).width // 8
        self._has_first = "first" in names

    def send(self, payload: Payload, *, lead: int = 0, each: Mapping[str, Any] | None = None,
             first: Mapping[str, Any] | None = None, last: Mapping[str, Any] | None = None) -> None:
        """Queue a packet of bytes from lane ``lead`` on; returns at once.

        Other fields of the beat: ``each`` on every beat, ``first`` and ``last`` on these.
        """
        packet = bytes(lead) + bytes(payload)
        lanes = self.lanes
        for start in range(0, max(len(packet), 1), lanes):
            chunk = packet[start:start + lanes]
            ends = start + lanes >= len(packet)
            beat: dict[str, Any] = dict(each or {})
            if start == 0:
                beat.update(first or {})
            if ends:
                beat.update(last or {})
            beat |= {"data": int.from_bytes(chunk, "little"), "last": int(ends),
                     "empty": (lanes - len(chunk)) % lanes}
            if self._has_first:
                beat["first"] = int(start == 0)
            super().send(beat)


class _Packets:
    """Gather beats into packets."""

    def __init__(self, shape: data.StructLayout, name: str) -> None:
        self._fields = fields = Fields(shape)
        self._name = name
        self.lanes = Shape.cast(shape.members["data"]).width // 8
        self._data_at = fields.offset("data")
        self._data_mask = (1 << 8 * self.lanes) - 1
        self._bytes = bytearray()
        self._first: dict[str, Any] | None = None

    def add(self, word: int) -> Packet | None:
        beat = self._fields.unpack(word)
        if "first" in beat:
            assert beat["first"] == (self._first is None), f"{self._name}: first is wrong"
        others = {name: value for name, value in beat.items() if name not in _OWN}
        if self._first is None:
            self._first = others
        kept = self.lanes - beat["empty"]
        assert kept == self.lanes or beat["last"], f"{self._name}: empty lanes before the last beat"
        self._bytes += beat["data"].to_bytes(self.lanes, "little")[:kept]
        if not beat["last"]:
            return None
        packet = Packet(bytes(self._bytes), self._first, others)
        self._bytes.clear()
        self._first = None
        return packet

    @property
    def inside(self) -> bool:
        return self._first is not None


class PacketMonitor(StreamMonitor):
    """Watch a packet stream; ``received`` holds each as a `Packet`."""

    def __init__(self, dut: Dut, prefix: str, shape: data.StructLayout,
                 tell: Callable[[Packet], None] | None = None) -> None:
        self._packets = _Packets(shape, prefix)
        super().__init__(dut, prefix, shape, tell)

    def _take(self, word: int) -> None:
        packet = self._packets.add(word)
        if packet is not None:
            self._tell(packet)

    @property
    def inside(self) -> bool:
        """A packet has begun and not ended."""
        return self._packets.inside

    async def get_bytes(self, timeout_cycles: int = 20_000) -> bytes:
        """Wait for the next packet; give its bytes alone."""
        packet = await self.get(timeout_cycles)
        assert isinstance(packet, Packet)
        return packet.data


class PacketSink(PacketMonitor, StreamSink):
    """Take packets from a stream, at a pace; ``received`` holds each as a `Packet`."""

    def __init__(self, dut: Dut, prefix: str, shape: data.StructLayout, pace: Iterator[bool],
                 tell: Callable[[Packet], None] | None = None) -> None:
        self._packets = _Packets(shape, prefix)
        StreamSink.__init__(self, dut, prefix, shape, pace, tell)
