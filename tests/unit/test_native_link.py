"""The link model alone: reads and writes, no card and no virtio, beside the limits' formulas."""

from __future__ import annotations

import pytest

from hw.pcie.types import RequestKind
from sim.bench.limits import Work, link_of, read_cost, write_cost
from sim.native.engine import Engine, EngineOptions
from tb.tlp import Request, byte_enables

PAYLOAD = 128  # what a function may use before anybody allows it more
READS, WRITES = 250, 2000  # tags are not used twice
FUNCTION = 0x0100


def options(link: str) -> EngineOptions:
    return EngineOptions(link=link_of(link, PAYLOAD), placement="low")


def per_cycle(link: str) -> float:
    return link_of(link, PAYLOAD).bytes_per_cycle(250)


@pytest.mark.parametrize("link", ["gen3x16", "gen4x16"])
@pytest.mark.parametrize("size", [64, 128, 512])
def test_reads(link: str, size: int) -> None:
    """Completions come at the rate of the link or of the bus, whichever is less; never faster."""
    cost = read_cost(size, Work(direction="tx", frame_bytes=60, max_payload=PAYLOAD))
    least = max(cost.down / per_cycle(link), cost.up / per_cycle(link), cost.request_beats,
                cost.answer_beats)
    with Engine(None, options(link)) as engine:
        memory = engine.memory.allocate(READS * size, align=4096)
        for number in range(READS):
            at = memory.address + number * size
            _dwords, first_be, last_be = byte_enables(at, size)
            engine.play_request(Request(RequestKind.MEM_READ, at, size // 4, first_be, last_be,
                                        requester_id=FUNCTION, tag=number))
        engine.run(READS * 20 + 2000)
        sent = list(engine.hand_sent())
    ends = [cycle for cycle, header, _payload in sent
            if header["byte_count"] <= 4 * header["dwords"]]
    assert len(ends) == READS
    first = 50  # by then nothing is left of the beginning
    cycles = (ends[-1] - ends[first]) / (READS - 1 - first)
    assert least * 0.995 <= cycles <= least * 1.02, f"{cycles} cycles a read, {least} possible"


@pytest.mark.parametrize("link", ["gen3x16", "gen4x16"])
@pytest.mark.parametrize("size", [4, 64, 128])
def test_writes(link: str, size: int) -> None:
    """Writes are taken at the rate of the link or of the bus, but for what the link's buffer holds.
    """
    cost = write_cost(size, Work(direction="tx", frame_bytes=60, max_payload=PAYLOAD))
    least = max(cost.up / per_cycle(link), cost.request_beats)
    with Engine(None, options(link)) as engine:
        memory = engine.memory.allocate(4096, align=4096)
        for number in range(WRITES):
            at = memory.address + number * size % 4096
            _dwords, first_be, last_be = byte_enables(at, size)
            engine.play_request(Request(RequestKind.MEM_WRITE, at, size // 4, first_be, last_be,
                                        requester_id=FUNCTION, payload=bytes(size)))
        begun = engine.cycle
        engine.run(WRITES * 10)
        cycles = (engine.played_at - begun) / WRITES
        assert engine.counters["link_up_bytes"] == WRITES * cost.up
    ahead = 1024 / cost.up / WRITES  # what the card may be ahead of the link, as a share
    assert least * (1 - ahead) * 0.995 <= cycles <= least * 1.02, f"{cycles}, {least} possible"
