"""Positions that doorbells tell (NOTIFICATION_DATA), until the available ring looks at them."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.virtio.prefetch_types import LookupSignature, PrefetchSizes
from hw.virtio.types import DoorbellLayout

__all__ = ["ForgetLayout", "PositionLayout", "ToldPositions"]


class PositionLayout(data.StructLayout):
    """The available index that was told last, if it means something (``positioned``).

    ``latest`` is what the latest doorbell told as it stood there, if that told anything
    (``tells``): of a packed ring the place, and in the highest bit the wrap counter.
    """

    def __init__(self) -> None:
        super().__init__({"position": 16, "positioned": 1, "latest": 16, "tells": 1})


class ForgetLayout(data.StructLayout):
    """The positions of ``member`` begin again, from ``position`` on."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({"member": sizes.member_bits, "position": 16})


class ToldPositions(wiring.Component):
    """Keep the position of each member's last doorbell, and pass the kick on.

    Several doorbells may become one kick. A position that lies behind the one before came late, and
    a doorbell without one tells nothing: then the kick is a plain one, for which the index is read,
    and so nothing is lost whatever the order. Positions are compared modulo 2^16; half of that
    ahead is ahead.

    | Latency: none from ``doorbells`` to ``kicks``; what is told can be looked up 2 cycles later.
      Throughput: a doorbell every 2 cycles. Storage: 34 bits a member.
    | Paths: ``kicks.ready`` -> ``doorbells.ready``.

    Parameters
    ----------
    sizes
        Sizes of the prefetcher.

    Members
    -------
    doorbells : In(stream.Signature(DoorbellLayout()))
    kicks : Out(stream.Signature(range(members)))
    told : In(LookupSignature(range(members), PositionLayout()))
    forget : In(stream.Signature(ForgetLayout(sizes)))
        The member's positions begin again. Ready within 2 cycles.
    """

    doorbells: stream.Interface
    kicks: stream.Interface
    told: Any
    forget: stream.Interface

    def __init__(self, sizes: PrefetchSizes) -> None:
        self.sizes = sizes
        member = range(sizes.members)
        super().__init__({
            "doorbells": In(stream.Signature(DoorbellLayout())),
            "kicks": Out(stream.Signature(member)),
            "told": In(LookupSignature(member, PositionLayout())),
            "forget": In(stream.Signature(ForgetLayout(sizes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        members = self.sizes.members
        mem: memory.Memory[Any, Any] = memory.Memory(
            shape=PositionLayout(), depth=members, init=[])
        m.submodules.memory = mem
        store = mem.write_port()
        last = mem.read_port()
        load = mem.read_port()

        bell: Any = Signal(DoorbellLayout(), reset_less=True)
        came = Signal()
        ahead = Signal(16)
        takes = Signal()  # the position of this doorbell
        m.d.comb += [
            self.kicks.payload.eq(self.doorbells.p.queue >> 1),
            self.kicks.valid.eq(self.doorbells.valid & ~came),
            self.doorbells.ready.eq(self.kicks.ready & ~came),
            self.forget.ready.eq(~came),
            last.addr.eq(self.kicks.payload),
            last.en.eq(self.kicks.valid),
            load.addr.eq(self.told.address),
            load.en.eq(self.told.enable),
            self.told.data.eq(load.data),

            ahead.eq(bell.position - last.data.position),
            takes.eq(bell.positioned & ~ahead[-1]),
            store.addr.eq(Mux(came, bell.queue >> 1, self.forget.p.member)),
            store.data.position.eq(
                Mux(came, Mux(takes, bell.position, last.data.position),
                    self.forget.p.position)),
            store.data.positioned.eq(came & takes),
            store.data.latest.eq(bell.position),
            store.data.tells.eq(came & bell.positioned),
            store.en.eq(came | self.forget.valid),
        ]
        m.d.sync += came.eq(self.kicks.valid & self.kicks.ready)
        with m.If(~came):
            m.d.sync += bell.eq(self.doorbells.payload)
        return m
