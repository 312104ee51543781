"""The wire's side of the card: received frames in, transmitted frames out, at line rate or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dpkt

from hw.stream.types import BeatLayout, WireBeatLayout
from tb.stream import CLOCK_NS, always
from tb.ticker import Ticker, bit, word

__all__ = ["LINE_100G", "Wire", "WireFrame"]

Dut = Any  # cocotb handles are looked up by name at run time; there is nothing to type

LINE_100G = 100 / 8 * CLOCK_NS
"""Bytes a cycle on a 100 Gb/s line: 50 at 250 MHz."""

OVERHEAD = 24  # preamble and start 8, FCS 4, gap between frames 12
_PREAMBLE = 8
_SHORTEST = 60  # without FCS; a shorter frame is padded on the line


@dataclass(frozen=True, slots=True)
class WireFrame:
    """A frame that passed, without FCS."""

    direction: Literal["rx", "tx"]
    data: bytes
    first_cycle: int
    """Edge at which its first beat was taken."""
    last_cycle: int
    error: bool = False


class Wire:
    """Source of ``wire_rx`` (always ready) and sink of ``wire_tx``.

    Parameters
    ----------
    dut
        The card.
    ticker
        Its clock.
    rx_rate, tx_rate
        Bytes a cycle of the line, `LINE_100G` for example; the overhead of a frame (24 bytes) and
        padding to 60 bytes take their time. None: a beat every cycle, without a gap.
    tx_pace
        Further stalls of the sink.
    rx_pace
        Further gaps of the source, inside frames as well.
    keep
        Keep every frame in ``frames``, for a pcap file; else only what nobody has received yet.
    """

    def __init__(self, dut: Dut, ticker: Ticker, *, rx_rate: float | None = None,
                 tx_rate: float | None = None, rx_pace: Iterator[bool] | None = None,
                 tx_pace: Iterator[bool] | None = None, keep: bool = True) -> None:
        self.ticker = ticker
        self.rx_rate = rx_rate
        self.tx_rate = tx_rate
        self.rx_pace = rx_pace or always()
        self.tx_pace = tx_pace or always()
        self.keep = keep
        self.frames: list[WireFrame] = []
        """Everything that passed, in the order of the last beats."""
        self.transmitted: deque[WireFrame] = deque()
        """What the card transmitted and nobody took yet."""
        self.on_frame: list[Callable[[WireFrame], None]] = []
        """Called for each frame in its last beat, both directions."""
        self._rx_payload, self._rx_valid = dut.wire_rx__payload, dut.wire_rx__valid
        self._tx_payload = word(dut.wire_tx__payload)
        self._tx_valid = bit(dut.wire_tx__valid)
        self._tx_ready = dut.wire_tx__ready
        bits = len(dut.wire_tx__payload)
        self.lanes = lanes = next(lanes for lanes in (4, 8, 16, 32, 64, 128)
                                  if BeatLayout(lanes).size == bits)
        received, sent = WireBeatLayout(lanes), BeatLayout(lanes)
        self._rx_at = tuple(received[name].offset for name in ("empty", "last", "error"))
        self._tx_at = tuple(sent[name].offset for name in ("empty", "last"))
        self._empty_mask = lanes - 1
        self._data_mask = (1 << 8 * lanes) - 1
        # receive
        self._queue: deque[tuple[bytes, bool, int]] = deque()  # and when it came
        self._now: tuple[bytes, bool] | None = None
        self._offset = 0
        self._start = 0.0
        self._rx_free = 0.0
        self._rx_driving = False
        self._rx_first = 0
        self._rx_valid.value = 0
        self._rx_payload.value = 0
        # transmit
        self._data = bytearray()
        self._inside = False
        self._tx_first = 0
        self._tx_free = 0.0
        self._ready_now = False
        self._offered: int | None = None
        self._tx_ready.value = 0
        ticker.add(self._step)

    # --- use

    def send(self, frame: bytes, *, error: bool = False) -> None:
        """Queue a frame for the card to receive; with ``error`` as a MAC marks a bad one."""
        if not frame:
            raise ValueError("a frame has at least one byte")
        self._queue.append((bytes(frame), error, self.ticker.cycle + 1))

    @property
    def rx_waiting(self) -> int:
        """Frames that were queued for the card and have not begun."""
        return len(self._queue)

    def forget(self) -> None:
        """Give up the frames that have not begun."""
        self._queue.clear()

    @property
    def rx_idle(self) -> bool:
        """Everything that was to be received has been."""
        return not self._queue and self._now is None and not self._rx_driving

    async def drain(self, timeout_cycles: int = 100_000) -> None:
        """Wait until every frame that was queued has gone into the card."""
        await self.ticker.until(lambda: self.rx_idle, timeout_cycles, "the end of wire_rx")

    async def receive(self, timeout_cycles: int = 20_000) -> WireFrame:
        """Take the next frame that the card transmits."""
        await self.ticker.until(lambda: bool(self.transmitted), timeout_cycles,
                                "a transmitted frame")
        return self.transmitted.popleft()

    def write_pcap(self, path: Path) -> None:
        """Write every frame that was kept, both directions, in the order of time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer = dpkt.pcap.Writer(file, snaplen=65535, nano=True)
            for frame in sorted(self.frames, key=lambda frame: frame.last_cycle):
                nanoseconds = frame.last_cycle * CLOCK_NS
                writer.writepkt_time(frame.data, nanoseconds / 1e9)

    # --- each cycle

    def _step(self, cycle: int) -> None:
        if self._rx_driving or self._now is not None or self._queue:
            self._receive(cycle)
        if self._tx_valid():
            self._transmit(cycle, self._tx_payload())
        elif self._offered is not None:
            raise AssertionError("wire_tx: valid was withdrawn before the transfer")
        elif self._inside and self._ready_now:
            raise AssertionError("wire_tx: a gap inside a frame")
        # A MAC holds a few beats: it stalls when the line is that far behind.
        behind = self.tx_rate is not None and self._tx_free > cycle + 4 * self.lanes / self.tx_rate
        go = next(self.tx_pace) and not behind
        if go != self._ready_now:
            self._ready_now = go
            self._tx_ready.value = go

    def _receive(self, cycle: int) -> None:
        edge = cycle + 1  # when the card takes what is driven now
        if self._now is None and self._queue:
            frame, error, queued_at = self._queue.popleft()
            self._now = frame, error
            self._offset = 0
            self._start = max(float(queued_at), self._rx_free)
            if self.rx_rate is not None:
                size = max(len(self._now[0]), _SHORTEST) + OVERHEAD
                self._rx_free = self._start + size / self.rx_rate
        go = False
        if self._now is not None:
            frame, error = self._now
            end = min(self._offset + self.lanes, len(frame))
            arrived = (self.rx_rate is None
                       or edge >= self._start + (_PREAMBLE + end) / self.rx_rate)
            go = arrived and next(self.rx_pace)
            if go:
                chunk = frame[self._offset:end]
                last = end == len(frame)
                empty_at, last_at, error_at = self._rx_at
                self._rx_payload.value = (
                    int.from_bytes(chunk, "little") | (self.lanes - len(chunk)) << empty_at
                    | int(last) << last_at | int(last and error) << error_at)
                if self._offset == 0:
                    self._rx_first = edge
                self._offset = end
                if last:
                    self._now = None
                    self._tell(WireFrame("rx", frame, self._rx_first, edge, error))
        if go != self._rx_driving:
            self._rx_driving = go
            self._rx_valid.value = go

    def _transmit(self, cycle: int, beat: int) -> None:
        if self._offered is not None and beat != self._offered:
            raise AssertionError("wire_tx: the payload changed before the transfer")
        if not self._ready_now:
            self._offered = beat
            return
        self._offered = None
        empty_at, last_at = self._tx_at
        empty, last = beat >> empty_at & self._empty_mask, beat >> last_at & 1
        if empty and not last:
            raise AssertionError("wire_tx: empty lanes before the last beat")
        if not self._inside:
            self._inside = True
            self._tx_first = cycle
            self._data.clear()
        self._data += (beat & self._data_mask).to_bytes(self.lanes, "little")[:self.lanes - empty]
        if self.tx_rate is not None:
            size = self.lanes - empty
            if last:
                size += OVERHEAD + max(0, _SHORTEST - len(self._data))
            self._tx_free = max(self._tx_free, float(cycle)) + size / self.tx_rate
        if last:
            self._inside = False
            frame = WireFrame("tx", bytes(self._data), self._tx_first, cycle)
            self.transmitted.append(frame)
            self._tell(frame)

    def _tell(self, frame: WireFrame) -> None:
        if self.keep:
            self.frames.append(frame)
        for listener in self.on_frame:
            listener(frame)
