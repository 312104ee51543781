"""cocotb side of test_runner.py: benches that pass, fail, and say what they were given."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge


@cocotb.test
async def passes(dut: Any) -> None:
    Clock(dut.clk, 4, unit="ns").start()
    dut.i.value = 5
    for _ in range(3):
        await RisingEdge(dut.clk)
    assert int(dut.o.value) == 5
    given = f"{cocotb.RANDOM_SEED} {random.random()} {os.environ.get('RINGLET_TEXT')}"
    Path("given.txt").write_text(given)


@cocotb.test
async def fails(dut: Any) -> None:
    dut.i.value = 0
    raise AssertionError("the reason that is to be seen")
