# amaranth: UnusedElaboratable=no
"""The blocks of hw/wire: construction here, behaviour in the benches."""

from __future__ import annotations

import pytest

from hw.wire.admission import Admission
from hw.wire.egress import Egress
from hw.wire.entry import EntryFifo
from hw.wire.frame_queues import FrameQueues
from hw.wire.pool import PacketPool
from hw.wire.steer import Steer
from sim.runner import run_cocotb
from tb.bundle import Bundle
from tests.unit.steer_path import SteerPath
from tests.unit.wire_receive_path import WireReceivePath


@pytest.mark.parametrize("block", ["pool", "egress", "entry", "frame_queues", "wire_receive_path"])
@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)])
def test_wire(simulator: str, lanes: int, block: str) -> None:
    cell_bytes, pool_bytes, longest = 4 * lanes, 32 * 4 * lanes, 20 * lanes
    run_cocotb(Bundle(
        pool=PacketPool(lanes, cell_bytes=cell_bytes, pool_bytes=pool_bytes,
                        max_frame_bytes=longest),
        fine=PacketPool(lanes, cell_bytes=lanes, pool_bytes=pool_bytes, max_frame_bytes=longest),
        egress=Egress(lanes, cells=32),
        entry=EntryFifo(lanes, entry_bytes=32 * lanes, max_frame_bytes=longest),
        queues=FrameQueues(queues=8, cells=32, cell_bytes=cell_bytes),
        path=WireReceivePath(lanes, entry_bytes=32 * lanes, cell_bytes=cell_bytes,
                             pool_bytes=pool_bytes, max_frame_bytes=longest, queues=8),
        generous=WireReceivePath(lanes, entry_bytes=32 * lanes, cell_bytes=cell_bytes,
                                 pool_bytes=2 * pool_bytes, max_frame_bytes=longest, queues=8,
                                 share=7),
    ), f"wire_{lanes}", f"tests.unit.bench_{block}", simulator=simulator,
        parameters={"lanes": lanes})


@pytest.mark.virtio("NET-MQ-02", "NET-MQ-04", "NET-MQ-05")
@pytest.mark.parametrize(("simulator", "lanes", "max_pairs"), [
    ("icarus", 64, 16), ("icarus", 8, 4), ("icarus", 16, 1)], indirect=["simulator"])
def test_steering(simulator: str, lanes: int, max_pairs: int) -> None:
    longest = 12 * max(16, lanes)
    run_cocotb(SteerPath(lanes, max_pairs=max_pairs, max_frame_bytes=longest),
               f"steer_{lanes}", "tests.unit.bench_steer", simulator=simulator,
               parameters={"lanes": lanes, "max_pairs": max_pairs, "longest": longest})


def test_sizes_are_checked() -> None:
    sizes = {"cell_bytes": 64, "pool_bytes": 1024, "max_frame_bytes": 500}
    for name, value in (("cell_bytes", 4), ("cell_bytes", 96), ("pool_bytes", 64),
                        ("pool_bytes", 1000), ("max_frame_bytes", 0), ("max_frame_bytes", 1025)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            PacketPool(8, **{**sizes, name: value})
    with pytest.raises(ValueError, match="entry_bytes must be"):
        EntryFifo(8, entry_bytes=100, max_frame_bytes=100)
    with pytest.raises(ValueError, match="max_frame_bytes must be"):
        EntryFifo(8, entry_bytes=128, max_frame_bytes=13)
    with pytest.raises(ValueError, match="queues must be at least 2, not 1"):
        FrameQueues(queues=1, cells=8, cell_bytes=64)
    with pytest.raises(ValueError, match="cell_bytes must be"):
        FrameQueues(queues=2, cells=8, cell_bytes=65)
    with pytest.raises(ValueError, match="max_pairs must be from 1 to 16, not 17"):
        Steer(17)
    limits = {"cells": 16, "cell_bytes": 64, "max_frame_bytes": 500}
    for name, value in (("cell_bytes", 4), ("max_frame_bytes", 2000), ("share", 8),
                        ("reserve_cells", 17)):
        with pytest.raises(ValueError, match=f"{name} must"):
            Admission(8, **{**limits, name: value})


def test_cells_of_a_pool() -> None:
    pool = PacketPool(64, cell_bytes=256, pool_bytes=65536, max_frame_bytes=9018)
    assert (pool.cells, pool.max_cells) == (256, 36)
