# amaranth: UnusedElaboratable=no
"""The blocks of hw/stream: construction here, behaviour in the benches."""

from __future__ import annotations

import pytest
from amaranth import Module
from amaranth.lib import data

from hw.stream.align import CutLayout, Cutter, HeaderInsert, HeaderStrip
from hw.stream.arbiter import PacketArbiter, PassingArbiter, StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.demultiplexer import PacketDemultiplexer, StreamDemultiplexer
from hw.stream.memory import ForwardingMemory
from hw.stream.queue import PassingQueue, StreamQueue
from hw.stream.register import PipeRegister, SkidRegister, StreamRegister
from hw.stream.types import BeatLayout, WireBeatLayout
from hw.stream.worklist import WorkList
from sim.runner import run_cocotb
from tb.bundle import Bundle
from tests.unit.bench_stream import DEMULTIPLEXED, MERGED, WIDE, WORD


def test_streams() -> None:
    """One build of the narrow blocks: icarus is fast enough for them."""
    queues = {f"queue{depth}": StreamQueue(WORD, depth) for depth in (2, 3, 16, 65, 100)}
    run_cocotb(Bundle(
        register=StreamRegister(WORD), pipe=PipeRegister(WORD), skid=SkidRegister(WORD),
        **queues, wide100=StreamQueue(WIDE, 100),
        passing2=PassingQueue(WORD, 2), passing16=PassingQueue(WORD, 16),
        passing100=PassingQueue(WORD, 100),
        merge1=StreamArbiter(MERGED, 1), merge3=StreamArbiter(MERGED, 3),
        pass1=PassingArbiter(MERGED, 1), pass3=PassingArbiter(MERGED, 3),
        packets2=PacketArbiter(MERGED, 2), packets5=PacketArbiter(MERGED, 5),
        deal1=StreamDemultiplexer(DEMULTIPLEXED, 1), deal3=StreamDemultiplexer(DEMULTIPLEXED, 3),
        deal_packets3=PacketDemultiplexer(DEMULTIPLEXED, 3),
        work2=WorkList(2), work5=WorkList(5), work100=WorkList(100),
        memory=ForwardingMemory(WORD, 5), memory1=ForwardingMemory(WORD, 1),
        parts=ForwardingMemory(32, 5, granularity_bits=8),
    ), "stream_blocks", "tests.unit.bench_stream", simulator="verilator")


@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)])
def test_align(simulator: str, lanes: int) -> None:
    run_cocotb(Bundle(
        cutter=Cutter(lanes),
        insert12=HeaderInsert(lanes, 12), insert20=HeaderInsert(lanes, 20),
        strip12=HeaderStrip(lanes, 12), strip3=HeaderStrip(lanes, 3),
        strip_beat=HeaderStrip(lanes, lanes),
    ), f"align_{lanes}", "tests.unit.bench_align", simulator=simulator,
        parameters={"lanes": lanes})


def test_connect_refuses_other_fields_of_equal_width() -> None:
    one = StreamRegister(data.StructLayout({"a": 4, "b": 8}))
    other = StreamRegister(data.StructLayout({"a": 8, "b": 4}))
    with pytest.raises(TypeError, match="different payloads"):
        connect_streams(Module(), one.o, other.i)
    with pytest.raises(TypeError, match="different payloads"):
        connect_streams(Module(), one.o, StreamRegister(12).i)
    with pytest.raises(TypeError, match="different payloads"):
        connect_streams(Module(), StreamRegister(BeatLayout(8)).o,
                        StreamRegister(WireBeatLayout(8)).i)
    connect_streams(Module(), one.o, StreamRegister(data.StructLayout({"a": 4, "b": 8})).i)


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="depth must be at least 2, not 1"):
        StreamQueue(8, 1)
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        ForwardingMemory(8, 0)
    with pytest.raises(ValueError, match="granularity_bits must divide the word's 12 bits, not 8"):
        ForwardingMemory(12, 4, granularity_bits=8)
    with pytest.raises(ValueError, match="depth must be at least 2, not 1"):
        PassingQueue(8, 1)
    for arbiter in (StreamArbiter, PassingArbiter):
        with pytest.raises(ValueError, match="inputs must be at least 1, not 0"):
            arbiter(8, 0)
    with pytest.raises(ValueError, match="field 'last'"):
        PacketArbiter(data.StructLayout({"a": 4}), 2)
    with pytest.raises(ValueError, match="outputs must be at least 1, not 0"):
        StreamDemultiplexer(8, 0)
    with pytest.raises(ValueError, match="field 'last'"):
        PacketDemultiplexer(data.StructLayout({"a": 4}), 2)
    with pytest.raises(ValueError, match="count must be at least 2, not 1"):
        WorkList(1)
    for lanes in (0, 1, 3, 12):
        with pytest.raises(ValueError, match="power of two"):
            CutLayout(lanes)
    with pytest.raises(ValueError, match="max_header_bytes must be at least 1, not 0"):
        HeaderInsert(8, 0)
    with pytest.raises(ValueError, match="header_bytes must be at least 1, not 0"):
        HeaderStrip(8, 0)
