"""What worlds around an engine of virtqueues share: their clock, waits, commands, obligations."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import QueueCommandLayout
from tb.stream import StreamSource, pace

__all__ = ["EngineWorld", "obligation_delta"]

_Item = TypeVar("_Item", bound=tuple[Any, ...])


def obligation_delta(change: dict[str, int]) -> int:
    """Give the signed number of an `ObligationLayout`."""
    return change["delta"] - 512 if change["delta"] & 256 else change["delta"]


class EngineWorld:
    """A world that steps once a cycle while the card is not reset, as a lifecycle and a host.

    A world gives `step`, and in `standing` what a wait that failed says.
    """

    def __init__(self, dut: Any, *, stalls: bool, seed: int) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        self.now = 0
        self.count: dict[int, int] = defaultdict(int)
        """Obligations under way."""
        self.faults: list[dict[str, int]] = []
        self.reads: list[dict[str, int]] = []
        self.read_error: Callable[[dict[str, int]], int] = lambda _request: 0
        self.command_at_hand = False
        self.commands = StreamSource(dut, "commands", QueueCommandLayout(),
                                     pace(stalls, seed * 100 + 2))

    def begin_stepping(self) -> None:
        """Step from the next cycle on."""
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        edge = RisingEdge(self.dut.clk)
        while True:
            await edge
            if self.dut.rst.value:
                continue
            self.now += 1
            self.step()

    def step(self) -> None:
        """Do what is to be done in this cycle."""
        raise NotImplementedError

    def standing(self) -> str:
        """Tell what is under way."""
        return f"in flight {dict(self.count)}, {self.faults[-3:]}"

    async def until(self, what: Callable[[], bool], limit: int = 8_000, why: str = "") -> int:
        """Wait for something; give the cycles that took."""
        edge = RisingEdge(self.dut.clk)
        for cycle in range(limit):
            if what():
                return cycle
            await edge
        raise TimeoutError(f"not within {limit} cycles: {why}; {self.standing()}")

    async def reset_queues(self, numbers: Iterable[int]) -> None:
        """Reset queues by a command each, as the lifecycle does: memories outlive a reset."""
        await self._do([{"queue": number, "reset": 1} for number in numbers])

    async def command_stopped(self, number: int, *, reset: bool, load: int | None) -> int:
        """Give a stopped queue its command; with ``load``, to begin there. Give how long it took.
        """
        return await self._do([{"queue": number, "reset": int(reset),
                                "load": int(load is not None), "position": load or 0}])

    async def _do(self, commands: list[dict[str, int]]) -> int:
        began = self.now
        self.command_at_hand = True
        for command in commands:
            self.commands.send(command)
        await self.commands.drain()
        self.command_at_hand = False
        return self.now - began

    def take_due(self, items: list[_Item]) -> list[_Item]:
        """Take out the items whose time, which comes first in them, has come."""
        due = [item for item in items if item[0] <= self.now]
        for item in due:
            items.remove(item)
        return due
