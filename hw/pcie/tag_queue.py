"""A queue of tags that never refuses one."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["TagQueue"]


class TagQueue(wiring.Component):
    """Queue small words, first in, first out, where no more than ``depth`` can ever be under way.

    A tag exists once, so a queue with room for each needs no way to refuse. More than ``depth``
    transfers in it would overwrite the oldest.

    ::

        i ──┬─────────────────────────────►┌─────┐
            │   ┌────────┐   ┌─────────┐   │ out │──► o
            └──►│ memory │──►│ its data│──►└─────┘
                └────────┘   │ register│
                             └─────────┘

    | Latency: 1 cycle when empty, at any depth. Throughput: 1 transfer a cycle.
    | Storage: ``depth`` words in a memory that is read synchronously, and two in registers.
    | Paths: ``o.ready`` to internal registers only.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.
    depth
        Transfers that may be in the queue; at least 1.

    Members
    -------
    i : In(stream.Signature(shape, always_ready=True))
    o : Out(stream.Signature(shape))
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth!r}")
        self.shape = shape
        self.depth = max(2, 1 << (depth - 1).bit_length())
        super().__init__({
            "i": In(stream.Signature(shape, always_ready=True)),
            "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        mem: memory.Memory[Any, Any] = memory.Memory(shape=self.shape, depth=self.depth, init=[])
        m.submodules.memory = mem
        write = mem.write_port()
        read = mem.read_port()

        write_address = Signal(range(self.depth))
        read_address = Signal(range(self.depth))
        stored = Signal(range(self.depth + 1))  # in the memory, and not on its way out
        ahead_valid = Signal()                  # the memory's data register holds the next word
        out = Signal(self.shape, reset_less=True)
        out_valid = Signal()
        free = Signal()
        direct = Signal()
        fetches = Signal()
        m.d.comb += [
            free.eq(self.o.ready | ~out_valid),
            # Nothing older is in the memory or its data register: order is kept.
            direct.eq(self.i.valid & free & ~ahead_valid & (stored == 0)),
            # A word is read no earlier than the cycle after it was written.
            fetches.eq((stored != 0) & (free | ~ahead_valid)),
            write.addr.eq(write_address),
            write.data.eq(self.i.payload),
            write.en.eq(self.i.valid & ~direct),
            read.addr.eq(read_address),
            read.en.eq(fetches),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
        ]
        with m.If(write.en):
            m.d.sync += write_address.eq(write_address + 1)
        with m.If(fetches):
            m.d.sync += [read_address.eq(read_address + 1), ahead_valid.eq(1)]
        with m.Elif(free):
            m.d.sync += ahead_valid.eq(0)
        with m.If(write.en & ~fetches):
            m.d.sync += stored.eq(stored + 1)
        with m.Elif(fetches & ~write.en):
            m.d.sync += stored.eq(stored - 1)
        with m.If(free):
            m.d.sync += [
                out_valid.eq(ahead_valid | direct),
                out.eq(Mux(ahead_valid, read.data, self.i.payload)),
            ]
        return m
