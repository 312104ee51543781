"""Traffic of a guest that is moved meanwhile: pings, a stream each way, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from sim.guest.echo_probe import EchoProbe
from sim.guest.long_stream import StreamFromGuest, StreamToGuest
from sim.guest.migration import Moved, TwoHosts
from sim.guest.traffic import GUEST, HOST, bring_up

__all__ = ["MovedTraffic", "MovingTraffic"]

# Bytes; the window of a reader that is held has room for them. A ring of 1024 receive buffers turns
# in some seconds, a pass of the migration in less: so the buffers for these were copied when they
# were free, and the guest has not touched them since.
_HELD = 120_000
_NEAR_S = 1.0


@dataclass(frozen=True)
class MovedTraffic:
    """What became of it."""

    moved: Moved
    pings: int
    lost: int
    lost_beyond: int
    """Those that were lost although they were sent a second or more before or after the pause."""
    strange: int
    """Answers that were not what was asked."""
    silence_ms: float
    """The longest time between two answers."""
    to_guest_bytes: int
    to_guest_equal: bool
    from_guest_bytes: int
    from_guest_equal: bool

    @property
    def whole(self) -> bool:
        """Whether nothing was lost beyond the pause, and nothing was changed."""
        return (not self.lost_beyond and not self.strange and self.to_guest_equal
                and self.from_guest_equal)


class MovingTraffic:
    """Pings to the guest and a TCP stream each way, before, during and after it is moved.

    When the guest stops, some bytes lie in its receive buffers that only the card has written, and
    nobody has read: they are lost unless the card marks what it writes. Use it in a ``with``
    statement.

    Parameters
    ----------
    hosts
        With a guest that takes commands.
    size
        Bytes of each stream before it is moved, and as many after; at least 1.
    wait_s
        A guest that takes longer for any of it is taken for broken: `GuestError`. May be changed.
    """

    def __init__(self, hosts: TwoHosts, size: int, *, wait_s: float = 240) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        self._hosts, self._size, self.wait_s = hosts, size, wait_s
        bring_up(hosts.guest)
        self._probe = EchoProbe(hosts.bridge, GUEST)
        self._streams: list[Any] = []
        try:
            self._to = StreamToGuest(hosts.bridge, HOST, hosts.guest)
            self._streams.append(self._to)
            self._from = StreamFromGuest(hosts.bridge, HOST, hosts.guest)
            self._streams.append(self._from)
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        """Wait until each stream has its bytes once more."""
        for stream, end in [(stream, stream.size + self._size) for stream in self._streams]:
            stream.wait(end, self.wait_s)

    def move(self, told: Callable[[int, int], None] = lambda done, at: None) -> Moved:
        """Move the guest; calls ``told`` with the bytes that were moved and the pass."""
        migration = self._hosts.migrate()
        migration.wait_passes(2, told)
        self._to.hold(self._hosts.guest, self.wait_s)
        migration.wait_passes(migration.passes + 2, told)
        self._to.send_held(_HELD, self.wait_s)
        return migration.finish()

    def finish(self, moved: Moved) -> MovedTraffic:
        """Let the streams go on and end; give what became of all."""
        self._to.go_on(self._hosts.guest)
        self._wait()
        equal = [stream.end(self._hosts.guest, self.wait_s) for stream in self._streams]
        self._probe.stop()
        lost = self._probe.lost
        beyond = [at for at in lost
                  if not moved.stopped_at - _NEAR_S < at < moved.resumed_at + _NEAR_S]
        return MovedTraffic(moved, len(self._probe.sent), len(lost), len(beyond),
                            self._probe.strange, 1000 * self._probe.silence_s, self._to.size,
                            equal[0], self._from.size, equal[1])

    def close(self) -> None:
        """Break everything off."""
        self._probe.stop()
        for stream in self._streams:
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
