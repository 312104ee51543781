"""cocotb side of test_verilog.py: what a memory holds at the start, and byte write enables."""

from __future__ import annotations

import os
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge


async def start(dut: Any) -> None:
    dut.write_enable.value = 0
    Clock(dut.clk, 4, unit="ns").start()
    await RisingEdge(dut.clk)


async def read(dut: Any, address: int) -> int:
    dut.read_address.value = address
    for _ in range(2):
        await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    return int(dut.read_data.value)  # raises if any bit is unknown


@cocotb.test
async def initial_contents(dut: Any) -> None:
    await start(dut)
    init = [int(word) for word in os.environ["RINGLET_INIT"].split(",") if word]
    last = int(os.environ["RINGLET_DEPTH"]) - 1
    for address in {0, 1, 2, last // 2, last}:
        assert await read(dut, address) == (init[address] if address < len(init) else 0)


@cocotb.test
async def one_byte_is_written(dut: Any) -> None:
    await start(dut)
    bits = len(dut.write_data)
    last = int(os.environ["RINGLET_DEPTH"]) - 1
    before = await read(dut, last)
    dut.write_address.value = last
    dut.write_data.value = (1 << bits) - 1
    dut.write_enable.value = 2
    await RisingEdge(dut.clk)
    dut.write_enable.value = 0
    assert await read(dut, last) == before | 0xFF00
