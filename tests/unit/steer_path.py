"""EntryFifo and Steer, for a bench that gives frames and sees where they go."""

from __future__ import annotations

from typing import Any

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.stream.connect import connect_streams
from hw.stream.types import BeatLayout, WireBeatLayout
from hw.virtio.types import FunctionLayout, PairsLayout
from hw.wire.entry import EntryFifo
from hw.wire.steer import Steer
from hw.wire.types import SteeredLayout

__all__ = ["SteerPath"]


class SteerPath(wiring.Component):
    """What comes from the wire, steered; all that fits is kept."""

    def __init__(self, lanes: int, *, max_pairs: int, max_frame_bytes: int) -> None:
        self.entry = EntryFifo(lanes, entry_bytes=64 * lanes, max_frame_bytes=max_frame_bytes)
        self.steer = Steer(max_pairs)
        super().__init__({
            "wire": In(stream.Signature(WireBeatLayout(lanes), always_ready=True)),
            "frames": Out(stream.Signature(BeatLayout(lanes))),
            "steered": Out(stream.Signature(SteeredLayout())),
            "pairs": In(stream.Signature(PairsLayout(), always_ready=True)),
            "resets": In(stream.Signature(FunctionLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        this: Any = self
        m.submodules.entry = entry = self.entry
        m.submodules.steer = steer = self.steer
        for inner, outer in ((entry.wire, this.wire), (entry.frames, this.frames),
                             (steer.steered, this.steered), (steer.pairs, this.pairs),
                             (steer.resets, this.resets)):
            connect_streams(m, inner, flipped(outer))
        connect_streams(m, entry.lengths, steer.lengths)
        return m
