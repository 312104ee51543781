# amaranth: UnusedElaboratable=no
"""Lifecycle with Obligations and QueueContexts, and Obligations alone: sizes, and cocotb."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect

from hw.vf.lifecycle import Lifecycle
from hw.vf.obligations import Obligations
from hw.virtio.contexts import QueueContexts
from hw.virtio.types import QueueConfigSignature
from sim.runner import run_cocotb
from tests.unit.expose import expose

ENGINES = ["receive", "transmit", "both", "control", "all"]


class Card(wiring.Component):
    """The lifecycle, the obligations and the queue contexts, as in the card."""

    def __init__(self, functions: int, stride: int) -> None:
        queues = functions * stride + functions
        self.lifecycle = Lifecycle(functions, stride=stride, engines=ENGINES)
        self.obligations = Obligations(queues, ports=len(ENGINES))
        self.contexts = QueueContexts(queues, queue_size_max=64, read_ports=len(ENGINES))
        inside = ("running", "query", "idle")
        super().__init__({
            **{name: member for name, member in self.lifecycle.signature.members.items()
               if name not in inside},
            "events": self.obligations.signature.members["events"],
            "ports": In(QueueConfigSignature()).array(len(ENGINES)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.lifecycle = self.lifecycle
        m.submodules.obligations = self.obligations
        m.submodules.contexts = self.contexts
        connect(m, self.lifecycle.running, self.contexts.running)
        connect(m, self.lifecycle.query, self.obligations.query)
        connect(m, self.lifecycle.idle, self.obligations.idle)
        for name in self.signature.members:
            owner: Any = {"events": self.obligations, "ports": self.contexts}.get(
                name, self.lifecycle)
            expose(m, owner, self, name)
        return m


def test_sizes() -> None:
    with pytest.raises(ValueError, match="functions must be from 1 to 256, not 0"):
        Lifecycle(0, stride=2, engines=["both"])
    with pytest.raises(ValueError, match="stride must be a power of two from 2 to 32, not 64"):
        Lifecycle(1, stride=64, engines=["both"])
    with pytest.raises(ValueError, match="both, control, all, not"):
        Lifecycle(1, stride=2, engines=["neither"])
    with pytest.raises(ValueError, match="engines must be some of"):
        Lifecycle(1, stride=2, engines=[])
    with pytest.raises(ValueError, match="queues must be from 2 to 16384, not 1"):
        Obligations(1, ports=1)
    with pytest.raises(ValueError, match="ports must be at least 1, not 0"):
        Obligations(2, ports=0)


@pytest.mark.virtio("CORE-RST-02", "CORE-STAT-01", "CORE-STAT-03")
@pytest.mark.parametrize("bench", ["lifecycle", "lifecycle_loads"])
@pytest.mark.parametrize(("simulator", "functions", "stride"), [
    ("icarus", 5, 4),
    ("icarus", 1, 2),
], indirect=["simulator"])
def test_lifecycle(simulator: str, functions: int, stride: int, bench: str) -> None:
    run_cocotb(Card(functions, stride), f"lifecycle_{functions}x{stride}",
               f"tests.unit.bench_{bench}", simulator=simulator, parameters={
                   "functions": functions, "stride": stride, "engines": ",".join(ENGINES)})


@pytest.mark.parametrize(("simulator", "queues", "ports"), [
    ("icarus", 21, 5),
    ("icarus", 2, 1),
], indirect=["simulator"])
def test_obligations(simulator: str, queues: int, ports: int) -> None:
    run_cocotb(Obligations(queues, ports=ports), f"obligations_{queues}_{ports}",
               "tests.unit.bench_obligations", simulator=simulator,
               parameters={"queues": queues, "ports": ports})
