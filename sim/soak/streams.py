"""Numbered frames of both directions, in bulk: each comes out at most once, in order, as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim.soak.books import SoakFailure
from sim.soak.catalogue import Bytes, Catalogue, Numbers
from sw_driver.layouts import NetHeader

__all__ = ["ReceivedStreams", "Sent", "SentStreams", "frames_of_chains"]

_COUNT_AT = 10  # of buffers, in the header: 2 bytes


@dataclass(eq=False)
class Sent:
    """What one transmit ring sends, from its set-up to its end."""

    pair: int
    first: int
    """Its first slot; the others follow."""
    given: Callable[[], int]
    """Frames that the card was given so far."""
    out: int = 0
    """Frames that left, and the number of the next one."""


class SentStreams:
    """What leaves on the wire, of all transmit rings of a card, one after another."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.streams: list[Sent] = []
        self.out = 0
        self._latest: dict[int, int] = {}  # stream that was seen last, by pair

    def begin(self, pair: int, given: Callable[[], int]) -> Sent:
        """Begin another ring: the slots that are made next are its own."""
        self.streams.append(Sent(pair, len(self.catalogue), given))
        return self.streams[-1]

    def take(self, data: Bytes, starts: Numbers, sizes: Numbers) -> None:
        """See frames that left, in their order."""
        slots, numbers = self.catalogue.check(data, starts, sizes, "transmit")
        firsts = [stream.first for stream in self.streams]
        owners = np.searchsorted(firsts, slots, side="right") - 1
        for owner in np.unique(owners).tolist():
            stream = self.streams[owner]
            came = numbers[owners == owner]
            wrong = np.flatnonzero(came != np.arange(stream.out, stream.out + len(came)))
            if wrong.size:
                raise SoakFailure(f"transmit, pair {stream.pair}: frame {came[wrong[0]]} came as "
                                  f"frame {stream.out + int(wrong[0])}")
            stream.out += len(came)
            if stream.out > stream.given():
                raise SoakFailure(f"transmit, pair {stream.pair}: {stream.out} frames left, "
                                  f"{stream.given()} were given")
        pairs = np.array([stream.pair for stream in self.streams], np.int64)[owners]
        for pair in np.unique(pairs).tolist():
            order = owners[pairs == pair]
            if order[0] < self._latest.get(pair, 0) or (np.diff(order) < 0).any():
                raise SoakFailure(f"transmit, pair {pair}: a frame of a ring that was given up "
                                  "left behind one of the next ring")
            self._latest[pair] = int(order[-1])
        self.out += len(slots)

    @property
    def given(self) -> int:
        """Frames that were given to the card so far."""
        return sum(stream.given() for stream in self.streams)


@dataclass(eq=False)
class _Generated:
    """Frames that the wire sends in turn."""

    first: int
    count: int
    out: int = 0
    seen: np.ndarray[Any, np.dtype[np.bool_]] = field(
        default_factory=lambda: np.zeros(1024, np.bool_))
    """By number."""
    pairs: dict[int, int] = field(default_factory=dict)
    """By slot, the pair of queues that it came to."""


class ReceivedStreams:
    """What the receive rings of a card get."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.out = 0
        self._streams: list[_Generated] = []
        self._last: dict[int, tuple[int, int]] = {}  # stream and number, by pair

    def begin(self, rng: random.Random, sizes: Sequence[int]) -> list[bytes]:
        """Make other frames, one of each size; the wire is to send them in turn."""
        self._streams.append(_Generated(len(self.catalogue), len(sizes)))
        return [self.catalogue.make(rng, size) for size in sizes]

    @property
    def latest(self) -> int:
        """Frames that came of those that were made last."""
        return self._streams[-1].out

    def take(self, pair: int, data: Bytes, starts: Numbers, sizes: Numbers) -> None:
        """See frames that came to a pair, in their order."""
        if not len(starts):
            return
        way = f"receive, pair {pair}"
        slots, numbers = self.catalogue.check(data, starts, sizes, way)
        firsts = [stream.first for stream in self._streams]
        owners = np.searchsorted(firsts, slots, side="right") - 1
        last = self._last.get(pair, (-1, -1))
        if owners[0] < last[0] or (np.diff(owners) < 0).any():
            raise SoakFailure(f"{way}: a frame came behind one that the wire sent later")
        for owner in np.unique(owners).tolist():
            mine = numbers[owners == owner]
            order = np.concatenate(([last[1] if owner == last[0] else -1], mine))
            if (wrong := np.flatnonzero(np.diff(order) <= 0)).size:
                raise SoakFailure(f"{way}: frame {order[wrong[0] + 1]} after {order[wrong[0]]}")
            self._take_stream(owner, pair, slots[owners == owner], mine)
        self._last[pair] = int(owners[-1]), int(numbers[-1])
        self.out += len(slots)

    def _take_stream(self, owner: int, pair: int, slots: Numbers, numbers: Numbers) -> None:
        stream, way = self._streams[owner], f"receive, pair {pair}"
        if (slots != stream.first + numbers % stream.count).any():
            raise SoakFailure(f"{way}: a frame was changed: its number is not of its slot")
        if numbers[-1] >= len(stream.seen):
            grown = np.zeros(2 * int(numbers[-1]) + 1, np.bool_)
            grown[:len(stream.seen)] = stream.seen
            stream.seen = grown
        if stream.seen[numbers].any():
            raise SoakFailure(f"{way}: a frame that came to another pair as well")
        stream.seen[numbers] = True
        if owner + 1 == len(self._streams):
            # Those of an earlier life may come before the device has its pairs again.
            for slot in np.unique(slots).tolist():
                if stream.pairs.setdefault(slot, pair) != pair:
                    raise SoakFailure(f"{way}: a flow that came to pair {stream.pairs[slot]}")
        stream.out += len(slots)


def frames_of_chains(written: Numbers, room: Numbers, data: Bytes, *,
                     merged: bool) -> tuple[Numbers, Numbers, int]:
    """Give where the frames lie, and their bytes, in what was written to chains one after another.

    And how many took several chains. `SoakFailure` when a header asks for what was not agreed on,
    or a frame does not fill its chains.
    """
    ends = np.cumsum(written)
    begins = ends - written
    if len(written) and int(written.min()) < NetHeader.SIZE and not merged:
        raise SoakFailure(f"receive: {written.min()} bytes in a chain, no frame and its header")
    places = begins[:, None] + np.arange(NetHeader.SIZE)
    heads = data[np.minimum(places, max(len(data) - 1, 0))] if len(data) else places
    counts = heads[:, _COUNT_AT].astype(np.int64) | heads[:, _COUNT_AT + 1].astype(np.int64) << 8
    first = np.arange(len(written))
    last = first
    if merged:
        first, last = _runs(counts)
        inner = np.ones(len(written), np.bool_)
        inner[last] = False
        if (written[inner] != room[inner]).any():
            raise SoakFailure("receive: a buffer of a frame over several has room left")
    elif (counts != 1).any():
        raise SoakFailure("receive: num_buffers is not 1, and buffers are not merged")
    if heads[first, :_COUNT_AT].any():
        raise SoakFailure("receive: a header asks for what was not agreed on")
    starts = begins[first] + NetHeader.SIZE
    return starts, ends[last] - starts, int(np.count_nonzero(first != last))


def _runs(counts: Numbers) -> tuple[Numbers, Numbers]:
    """Give the first and the last chain of each frame, by the count in its first one."""
    firsts, lasts, place, table = [], [], 0, counts.tolist()
    while place < len(table):
        count = table[place]
        if not 1 <= count <= len(table) - place:
            raise SoakFailure(f"receive: a frame over {count} buffers, of which "
                              f"{len(table) - place} are used")
        firsts.append(place)
        place += count
        lasts.append(place - 1)
    return np.array(firsts, np.int64), np.array(lasts, np.int64)
