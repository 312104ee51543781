"""The ready side of a stream, for a world that steps all that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from amaranth.hdl import ShapeLike

from tb.stream import Fields

__all__ = ["SteppedSink"]


class SteppedSink:
    """As `tb.stream.StreamSink`, but stepped by the world: a coroutine for each costs too much."""

    def __init__(self, dut: Any, prefix: str, shape: ShapeLike, go: Iterator[bool],
                 tell: Callable[[Any], None]) -> None:
        self.name = prefix
        self.fields = Fields(shape)
        self.payload = getattr(dut, f"{prefix}__payload")
        self.valid = getattr(dut, f"{prefix}__valid")
        self.ready = getattr(dut, f"{prefix}__ready")
        self.go = go
        self.tell = tell
        self.offered: int | None = None
        self.ready_now = False
        self.ready.value = 0

    def step(self) -> None:
        """Look at the edge, and drive for the next one."""
        if self.valid.value:
            word = int(self.payload.value)
            assert self.offered is None or word == self.offered, f"{self.name}: payload changed"
            if self.ready_now:
                self.offered = None
                self.tell(self.fields.unpack(word))
            else:
                self.offered = word
        else:
            assert self.offered is None, f"{self.name}: valid was withdrawn"
        go = next(self.go)
        if go != self.ready_now:
            self.ready_now = go
            self.ready.value = go
