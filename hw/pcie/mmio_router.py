"""Deal MMIO accesses out to the rooms that serve them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.bar_map import (
    MANAGEMENT_BAR,
    MANAGEMENT_BAR_BYTES,
    MSIX_BAR,
    MSIX_BAR_BYTES,
    VIRTIO_BAR,
    VIRTIO_BAR_BYTES,
)
from hw.pcie.types import MmioAnswer, MmioRequest
from hw.stream.connect import connect_streams
from hw.stream.queue import StreamQueue
from hw.stream.register import StreamRegister

__all__ = ["TARGETS", "MmioRouter", "MmioTarget"]


@dataclass(frozen=True)
class MmioTarget:
    """A window of a BAR that one room serves: ``size`` bytes, a power of two, aligned to it."""

    name: str
    bar: int
    size: int
    first: int = 0

    def __post_init__(self) -> None:
        if self.size < 4 or self.size & (self.size - 1) or self.size > 1 << 20:
            raise ValueError(f"{self.name}: size must be a power of two from 4 to 1 MiB, "
                             f"not {self.size!r}")
        if self.first % self.size or not 0 <= self.first < 1 << 20 or not 0 <= self.bar < 6:
            raise ValueError(f"{self.name}: no window at {self.first:#x} of BAR {self.bar}")

    def meets(self, other: "MmioTarget") -> bool:
        """Whether an access could belong to both."""
        return (self.bar == other.bar and self.first < other.first + other.size
                and other.first < self.first + self.size)


TARGETS = (
    MmioTarget("virtio", VIRTIO_BAR, VIRTIO_BAR_BYTES),
    MmioTarget("msix", MSIX_BAR, MSIX_BAR_BYTES),
    MmioTarget("management", MANAGEMENT_BAR, MANAGEMENT_BAR_BYTES),
)
"""Who serves the BARs of `hw.pcie.bar_map`."""


class MmioRouter(wiring.Component):
    """Give each access to the target whose window it hits, and bring the answers back in order.

    An access that hits none reads zero, or is dropped. A target that stalls holds up the accesses
    behind it, those of others too: targets take writes without waiting for anything outside.

    | Latency: 1 cycle to the target; none back. Throughput: 1 access a cycle.
    | Storage: 2 accesses, the order of ``outstanding`` reads.

    Parameters
    ----------
    targets
        The windows; at least one, without overlap. Their names become members.
    outstanding
        Reads that may be unanswered before an access waits: 2 to 64.

    Members
    -------
    mmio : In(stream.Signature(MmioRequest()))
    mmio_answers : Out(stream.Signature(MmioAnswer()))
    <target> : Out(stream.Signature(MmioRequest()))
        For each target; ``offset`` is still that in the BAR.
    <target>_answers : In(stream.Signature(MmioAnswer()))
        One for each read, in order.
    """

    mmio: stream.Interface
    mmio_answers: stream.Interface
    virtio: stream.Interface
    virtio_answers: stream.Interface
    msix: stream.Interface
    msix_answers: stream.Interface
    management: stream.Interface
    management_answers: stream.Interface

    def __init__(self, targets: Sequence[MmioTarget] = TARGETS, *, outstanding: int = 16) -> None:
        if not targets:
            raise ValueError("targets must not be empty")
        for number, target in enumerate(targets):
            for other in targets[:number]:
                if target.meets(other):
                    raise ValueError(f"targets {other.name} and {target.name} overlap")
        if not 2 <= outstanding <= 64:
            raise ValueError(f"outstanding must be from 2 to 64, not {outstanding!r}")
        self.targets = tuple(targets)
        self.outstanding = outstanding
        members = {
            "mmio": In(stream.Signature(MmioRequest())),
            "mmio_answers": Out(stream.Signature(MmioAnswer())),
        }
        for target in targets:
            members[target.name] = Out(stream.Signature(MmioRequest()))
            members[f"{target.name}_answers"] = In(stream.Signature(MmioAnswer()))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = len(self.targets)
        m.submodules.register = register = StreamRegister(MmioRequest())
        m.submodules.order = order = StreamQueue(count, self.outstanding)
        connect_streams(m, flipped(self.mmio), register.i)
        requests = [getattr(self, target.name) for target in self.targets]
        answers = [getattr(self, f"{target.name}_answers") for target in self.targets]

        # One-hot; all zero is nobody.
        access = register.o
        target = Signal(count)
        m.d.comb += target.eq(Cat(
            (access.p.bar == window.bar)
            & (access.p.offset >> (window.size.bit_length() - 1) == window.first // window.size)
            for window in self.targets))
        taken = Signal()   # by the target, or by nobody
        may_go = Signal()  # a read needs a place in the order; once there is one, it stays
        m.d.comb += [
            taken.eq(~(target & ~Cat(request.ready for request in requests)).any()),
            may_go.eq(access.p.write | order.i.ready),
            access.ready.eq(taken & may_go),
            order.i.valid.eq(access.valid & ~access.p.write & taken),
            order.i.payload.eq(target),
        ]
        for number, request in enumerate(requests):
            m.d.comb += [
                request.valid.eq(access.valid & target[number] & may_go),
                request.payload.eq(access.payload),
            ]

        turn = order.o.payload
        answered = Signal()
        found = Signal(32)
        m.d.comb += [
            answered.eq(~(turn & ~Cat(answer.valid for answer in answers)).any()),
            found.eq(reduce(or_, (Mux(turn[number], answer.p.data, 0)
                                  for number, answer in enumerate(answers)))),
            self.mmio_answers.valid.eq(order.o.valid & answered),
            self.mmio_answers.p.data.eq(found),
            order.o.ready.eq(self.mmio_answers.ready & answered),
        ]
        for number, answer in enumerate(answers):
            m.d.comb += answer.ready.eq(order.o.valid & turn[number] & self.mmio_answers.ready)
        return m
