"""What must come out, compared with what does; fed by monitors on both sides."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable

__all__ = ["Scoreboard"]


class Scoreboard:
    """Packets in order within each stream (a flow, a queue: any key).

    Parameters
    ----------
    name
        For the messages.
    may_drop
        Expected packets may be missing; those that come are still in order. ``dropped`` counts
        what was skipped so far, and at the end.
    """

    def __init__(self, name: str, *, may_drop: bool = False) -> None:
        self.name = name
        self.may_drop = may_drop
        self.matched = 0
        self.dropped: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[bytes]] = {}

    def expect(self, packet: bytes, stream: Hashable = None) -> None:
        """A packet went in; it, or what became of it, must come out."""
        self._waiting.setdefault(stream, deque()).append(packet)

    def got(self, packet: bytes, stream: Hashable = None) -> None:
        """A packet came out. ``AssertionError`` when it is not the one to come."""
        waiting = self._waiting.get(stream, deque())
        if self.may_drop and packet in waiting:
            while waiting[0] != packet:
                waiting.popleft()
                self.dropped[stream] += 1
        if not waiting:
            raise AssertionError(f"{self.name}: {len(packet)} bytes came out of stream {stream}, "
                                 f"and nothing was to come: {packet[:32].hex()}")
        expected = waiting.popleft()
        if packet != expected:
            raise AssertionError(f"{self.name}: stream {stream}, packet {self.matched}: "
                                 + _difference(expected, packet))
        self.matched += 1

    @property
    def outstanding(self) -> int:
        """Packets that have not come out."""
        return sum(map(len, self._waiting.values()))

    def finish(self) -> None:
        """Nothing may be left over, but what may be dropped."""
        left = {stream: len(waiting) for stream, waiting in self._waiting.items() if waiting}
        if left and not self.may_drop:
            raise AssertionError(f"{self.name}: packets did not come out: {left}")
        for stream, count in left.items():
            self.dropped[stream] += count
            self._waiting[stream].clear()


def _difference(expected: bytes, packet: bytes) -> str:
    at = next((place for place, (one, two) in enumerate(zip(expected, packet, strict=False))
               if one != two), min(len(expected), len(packet)))
    return (f"{len(packet)} bytes came, {len(expected)} expected; they differ from byte {at} on: "
            f"{packet[at:at + 16].hex()} instead of {expected[at:at + 16].hex()}")
