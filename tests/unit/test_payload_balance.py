# amaranth: UnusedElaboratable=no
"""PayloadBalance: reads of payload leave writes that wait their half of the bus."""

from __future__ import annotations

from hw.pcie.payload_balance import PayloadBalance
from sim.runner import run_cocotb


def test_payload_balance(simulator: str) -> None:
    run_cocotb(PayloadBalance(8, 6), "payload_balance", "tests.unit.bench_payload_balance",
               simulator=simulator)
