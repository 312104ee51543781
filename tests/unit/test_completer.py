# amaranth: UnusedElaboratable=no
"""The completer, with configuration space behind it."""

from __future__ import annotations

import pytest
from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.completer import Completer
from hw.pcie.config_space import ConfigSpace
from hw.pcie.fence import COUNT_BITS
from hw.pcie.types import CompletionHeader, MmioAnswer, MmioRequest, RequestHeader, TlpLayout
from hw.stream.connect import connect_streams
from hw.stream.types import FUNCTION_BITS
from sim.runner import missing, run_cocotb


class HostSide(wiring.Component):
    """Completer and configuration space, as in the card."""

    cq: stream.Interface
    cc: stream.Interface
    mmio: stream.Interface
    mmio_answers: stream.Interface
    flr: stream.Interface
    flr_done: stream.Interface
    writes_accepted: Signal
    writes_left: Signal
    msix_sending: Signal

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({
            "cq": In(stream.Signature(TlpLayout(lanes, RequestHeader()))),
            "cc": Out(stream.Signature(TlpLayout(lanes, CompletionHeader()))),
            "mmio": Out(stream.Signature(MmioRequest())),
            "mmio_answers": In(stream.Signature(MmioAnswer())),
            "flr": Out(stream.Signature(FUNCTION_BITS)),
            "flr_done": In(stream.Signature(FUNCTION_BITS, always_ready=True)),
            "writes_accepted": In(COUNT_BITS), "writes_left": In(COUNT_BITS),
            "msix_sending": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.completer = completer = Completer(self.lanes)
        m.submodules.config = config = ConfigSpace()
        connect_streams(m, flipped(self.cq), completer.cq)
        connect_streams(m, completer.cc, flipped(self.cc))
        connect_streams(m, completer.mmio, flipped(self.mmio))
        connect_streams(m, flipped(self.mmio_answers), completer.mmio_answers)
        connect_streams(m, completer.config_requests, config.requests)
        connect_streams(m, config.answers, completer.config_answers)
        connect_streams(m, config.flr, flipped(self.flr))
        connect_streams(m, flipped(self.flr_done), config.flr_done)
        for name in ("bar0", "bar2", "bar4", "memory_enable", "bus_device"):
            m.d.comb += getattr(completer, name).eq(getattr(config, name))
        for name in ("writes_accepted", "writes_left", "msix_sending"):
            m.d.comb += getattr(completer, name).eq(getattr(self, name))
        m.d.comb += config.completer_errors.eq(completer.errors)
        return m


def test_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="lanes must be at least 8, not 4"):
        Completer(4)
    with pytest.raises(ValueError, match="functions must be 1"):
        Completer(8, functions=2)
    with pytest.raises(ValueError, match="outstanding must be from 2 to 64, not 1"):
        Completer(8, outstanding=1)


@pytest.mark.virtio("PCI-GEN-01", "PCI-PCFG-02", "PCI-PCFG-03", "PCI-LAY-01", "IMP-PCI-PCFG-01")
@pytest.mark.parametrize("bench", ["completer", "completer_refusals"])
@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)])
def test_requests(simulator: str, lanes: int, bench: str) -> None:
    if reason := missing(simulator):
        pytest.skip(reason)
    run_cocotb(HostSide(lanes), f"host_side_{lanes}", f"tests.unit.bench_{bench}",
               simulator=simulator, parameters={"lanes": lanes})
