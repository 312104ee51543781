"""The completer: the host's side of the card, from requests to completions."""

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.completions import Completions
from hw.pcie.config_types import ConfigAnswer, ConfigRequest, ErrorLayout
from hw.pcie.fence import COUNT_BITS
from hw.pcie.host_requests import HostRequests
from hw.pcie.types import CompletionHeader, MmioAnswer, MmioRequest, RequestHeader, TlpLayout
from hw.stream.connect import connect_streams

__all__ = ["Completer"]


class Completer(wiring.Component):
    """Serve the host's configuration and memory requests, and answer them.

    ::

        cq ──► HostRequests ──┬──► mmio ──► targets ──► mmio_answers ──┐
                              ├──► config_requests ... config_answers  ├──► Completions ──► cc
                              └──► tickets ────────────────────────────┘

    The details are those of `hw.pcie.host_requests.HostRequests` (which requests are served and
    which refused) and of `hw.pcie.completions.Completions` (how and in which order they are
    answered). Between both stand queues, so that an answer that waits holds up nobody: posted
    writes go on as long as fewer than ``outstanding`` requests (and 64 dwords) wait.

    | Latency: doorbell 1 cycle from ``cq`` to ``mmio``; a read of a dword 3 cycles to ``mmio``, 5
    | from its answer to ``cc``.
    | Throughput: one single-dword write in 2 cycles.

    Parameters
    ----------
    lanes
        Byte lanes of ``cq`` and ``cc``: a power of two, at least 8.
    functions
        1: the PF. (VFs come with the SR-IOV capability.)
    outstanding
        Requests of the host that may be unanswered before the next one waits: 2 to 64.

    Members
    -------
    cq : In(stream.Signature(TlpLayout(lanes, RequestHeader())))
    cc : Out(stream.Signature(TlpLayout(lanes, CompletionHeader())))
    mmio : Out(stream.Signature(MmioRequest()))
    mmio_answers : In(stream.Signature(MmioAnswer()))
        One for each read, in order.
    config_requests : Out(stream.Signature(ConfigRequest()))
    config_answers : In(stream.Signature(ConfigAnswer()))
    bar0 : In(32)
    bar2, bar4 : In(64)
    memory_enable : In(functions)
    bus_device : In(13)
    errors : Out(ErrorLayout())
        To and from `hw.pcie.config_space.ConfigSpace`, ports of the same names
        (``completer_errors`` there).
    writes_accepted, writes_left : In(8)
        Counts of DMA writes, see `hw.pcie.fence`.
    msix_sending : In(1)
        ``sending`` of `hw.pcie.msix.MsixTable`.
    """

    cq: stream.Interface
    cc: stream.Interface
    mmio: stream.Interface
    mmio_answers: stream.Interface
    config_requests: stream.Interface
    config_answers: stream.Interface
    bar0: Signal
    bar2: Signal
    bar4: Signal
    memory_enable: Signal
    bus_device: Signal
    errors: Any
    writes_accepted: Signal
    writes_left: Signal
    msix_sending: Signal

    def __init__(self, lanes: int, *, functions: int = 1, outstanding: int = 8) -> None:
        if lanes < 8:
            raise ValueError(f"lanes must be at least 8, not {lanes!r}")
        if not 2 <= outstanding <= 64:
            raise ValueError(f"outstanding must be from 2 to 64, not {outstanding!r}")
        if functions != 1:
            raise ValueError(f"functions must be 1: there are no VFs yet, and so not {functions!r}")
        self.lanes = lanes
        self.functions = functions
        self.outstanding = outstanding
        super().__init__({
            "cq": In(stream.Signature(TlpLayout(lanes, RequestHeader()))),
            "cc": Out(stream.Signature(TlpLayout(lanes, CompletionHeader()))),
            "mmio": Out(stream.Signature(MmioRequest())),
            "mmio_answers": In(stream.Signature(MmioAnswer())),
            "config_requests": Out(stream.Signature(ConfigRequest())),
            "config_answers": In(stream.Signature(ConfigAnswer())),
            "bar0": In(32), "bar2": In(64), "bar4": In(64), "memory_enable": In(functions),
            "bus_device": In(13),
            "errors": Out(ErrorLayout()),
            "writes_accepted": In(COUNT_BITS), "writes_left": In(COUNT_BITS),
            "msix_sending": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.requests = requests = HostRequests(self.lanes)
        m.submodules.completions = completions = Completions(
            self.lanes, outstanding=self.outstanding)
        connect_streams(m, flipped(self.cq), requests.cq)
        connect_streams(m, requests.mmio, flipped(self.mmio))
        connect_streams(m, requests.config_requests, flipped(self.config_requests))
        connect_streams(m, flipped(self.config_answers), requests.config_answers)
        connect_streams(m, requests.tickets, completions.tickets)
        connect_streams(m, flipped(self.mmio_answers), completions.answers)
        connect_streams(m, completions.cc, flipped(self.cc))
        m.d.comb += [
            requests.bar0.eq(self.bar0),
            requests.bar2.eq(self.bar2),
            requests.bar4.eq(self.bar4),
            requests.memory_enable.eq(self.memory_enable),
            requests.bus_device.eq(self.bus_device),
            self.errors.eq(requests.errors),
            completions.writes_accepted.eq(self.writes_accepted),
            completions.writes_left.eq(self.writes_left),
            completions.msix_sending.eq(self.msix_sending),
        ]
        return m
