"""Sizes that the benches of the wire room share, and frames of all lengths."""

from __future__ import annotations

import os
import random

from hw.stream.types import BeatLayout

__all__ = ["BEAT", "CELL", "CELLS", "LANES", "LONGEST", "MAX_CELLS", "STALLS", "frame_bytes",
           "frame_size"]

LANES = int(os.environ["RINGLET_LANES"])
BEAT = BeatLayout(LANES)
CELL = 4 * LANES
CELLS = 32
LONGEST = 20 * LANES
MAX_CELLS = 5

STALLS = [(False, False, False), (True, False, False), (False, True, False), (False, False, True),
          (True, True, True)]
"""Which of three sides stall: none, each alone, all."""


def frame_bytes(rng: random.Random, size: int) -> bytes:
    return rng.randbytes(size)


def frame_size(rng: random.Random) -> int:
    edges = [14, 15, LANES - 1, LANES, LANES + 1, 2 * LANES, CELL - 1, CELL, CELL + 1, 3 * CELL,
             LONGEST]
    return max(14, rng.choice([*edges, rng.randint(14, LONGEST), rng.randint(14, 2 * LANES)]))
