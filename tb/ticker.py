"""One clocked loop for all models of a bench: each is called once a cycle, in a fixed order.

A task for each model would cost a wake-up each; here a cycle is one wake-up. A step samples what
the ports held at the edge and then drives, as every bench here does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from tb.stream import CLOCK_NS

__all__ = ["Ticker", "bit", "word"]

Dut = Any  # cocotb handles are looked up by name at run time; there is nothing to type
Step = Callable[[int], None]


def bit(handle: Any) -> Callable[[], bool]:
    """Give a function that samples a 1-bit port (X counts as 0)."""
    read = handle._handle.get_signal_val_binstr  # a Logic object a sample costs three times as much
    return lambda: read() == "1"


def word(handle: Any) -> Callable[[], int]:
    """Give a function that samples a port as a number; ``ValueError`` if a bit is X."""
    read = handle._handle.get_signal_val_binstr
    return lambda: int(read(), 2)


class Ticker:
    """The clock of a bench, the count of its cycles, and what happens in each.

    Make the models first (each adds its step), then ``await ticker.start()``, which resets the
    component. Cycle 1 is the first edge after the reset.
    """

    def __init__(self, dut: Dut) -> None:
        self._dut = dut
        self._edge = RisingEdge(dut.clk)
        self._steps: list[Step] = []
        self._running = False
        self.cycle = 0
        """Edges of the clock since the first reset."""

    def add(self, step: Step) -> None:
        """Call ``step(cycle)`` after each edge, from the next one on."""
        self._steps.append(step)

    async def start(self, reset_cycles: int = 4) -> None:
        """Start the clock (once), reset the component, and run."""
        dut = self._dut
        dut.rst.value = 1
        if not self._running:
            self._running = True
            Clock(dut.clk, CLOCK_NS, unit="ns").start()
        for _ in range(reset_cycles):
            await self._edge
        dut.rst.value = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        edge, steps = self._edge, self._steps
        while True:
            await edge
            self.cycle += 1
            cycle = self.cycle
            for step in steps:
                step(cycle)

    async def sleep(self, cycles: int) -> None:
        """Let cycles pass."""
        if cycles > 0:
            await Timer(cycles * CLOCK_NS, "ns")

    async def until(self, condition: Callable[[], bool], timeout_cycles: int,
                    what: str = "it") -> None:
        """Wait until something is so, looking each cycle; ``TimeoutError`` if it never is."""
        end = self.cycle + timeout_cycles
        while not condition():
            if self.cycle >= end:
                raise TimeoutError(f"{what} did not come about within {timeout_cycles} cycles")
            await self._edge
