"""QueueNumbers: each number of the card, both ways, and what cannot be built."""

from __future__ import annotations

import pytest
from amaranth import Module, Signal
from amaranth.sim import Simulator

from hw.config import NicConfig
from hw.stream.types import FUNCTION_BITS, QUEUE_BITS
from hw.virtio.queue_numbers import QueueNumbers
from tests.unit.queue_plan import QueuePlan


def test_sizes() -> None:
    with pytest.raises(ValueError, match="functions must be from 1 to 256, not 257"):
        QueueNumbers(257, 2)
    with pytest.raises(ValueError, match="stride must be a power of two from 2 to 32, not 12"):
        QueueNumbers(1, 12)
    most = QueueNumbers(256, 32)
    assert most.total == 256 * 33 <= 1 << QUEUE_BITS
    for config in (NicConfig(), NicConfig(vfs=5, queue_pairs=4)):
        numbers = QueueNumbers(config.functions, config.queue_stride)
        assert (numbers.data, numbers.total) == (config.queues, config.queue_numbers)


@pytest.mark.parametrize(("functions", "stride"), [
    (1, 2), (1, 32), (2, 2), (3, 4), (5, 8), (64, 2), (255, 4), (256, 32)])
def test_numbers(functions: int, stride: int) -> None:
    numbers = QueueNumbers(functions, stride)
    plan = QueuePlan(functions, stride)
    m = Module()
    queue = Signal(QUEUE_BITS)
    function = Signal(FUNCTION_BITS)
    place = Signal(numbers.index_bits + 1)
    control = Signal(QUEUE_BITS)
    kind = Signal(3)
    again = Signal(QUEUE_BITS)
    m.d.comb += [
        function.eq(numbers.function(queue)), place.eq(numbers.place(queue)),
        control.eq(numbers.control(function)), kind.eq(numbers.kind(queue)),
        again.eq(numbers.at(function, place, control)),
    ]
    # Whoever takes them on has them in his expressions: their widths are part of it.
    assert len(numbers.function(queue)) == FUNCTION_BITS
    assert len(numbers.control(function)) == QUEUE_BITS

    async def bench(ctx) -> None:  # type: ignore[no-untyped-def]
        assert sorted(plan.all) == list(range(numbers.total))
        some = range(functions) if functions < 10 else (0, 1, functions // 2, functions - 1)
        for owner in some:
            for at, number in enumerate(plan.of(owner)):
                ctx.set(queue, number)
                found = tuple(ctx.get(s) for s in (function, place, control, again))
                assert found == (owner, at, plan.control_of(owner), number)
                assert ctx.get(kind) == {"receive": 1, "transmit": 2, "control": 4}[
                    plan.kind(number)]

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
