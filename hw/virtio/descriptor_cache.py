"""The memories of a prefetcher: descriptors by number, chains by their place in the ring."""

from typing import Any

from amaranth import Module, Signal, Value
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import LENGTH_BITS
from hw.virtio.prefetch_types import LookupSignature, PrefetchSizes

__all__ = ["DescriptorLayout", "DoneLayout", "SlotMemory", "TotalsLayout", "WriteSignature"]


class DescriptorLayout(data.StructLayout):
    """A descriptor as it is kept, under its number, or in a cell. ``next`` is a cell's if
    ``in_cell``.

    ``mark`` differs from the bit that `hw.virtio.chain_take` keeps for the same number as long as
    the chain has not been taken: until then nothing may be read over it.
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "address": 64, "length": LENGTH_BITS, "next": max(sizes.index_bits, sizes.cell_bits),
            "in_cell": 1, "mark": 1,
        })


class TotalsLayout(data.StructLayout):
    """What is known of a chain as a whole.

    Of a packed ring also the places that it takes there, and the place behind it with its lap.
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "bytes": LENGTH_BITS, "segments": sizes.index_bits + 1, "slots": sizes.index_bits + 1,
            "after": sizes.index_bits, "after_lap": 1,
        })


class DoneLayout(data.StructLayout):
    """Whether a chain is complete (its ``mark`` differs from its lap), and what is announced of it.

    Of a packed ring also the place behind it, with its lap.
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "mark": 1, "bytes": LENGTH_BITS, "after": sizes.index_bits, "after_lap": 1,
        })


class WriteSignature(wiring.Signature):
    """A write port on a memory in another part, seen from the one who writes."""

    def __init__(self, depth: int, shape: ShapeLike) -> None:
        super().__init__({"enable": Out(1), "address": Out(range(depth)), "data": Out(shape)})


class SlotMemory(wiring.Component):
    """A block memory, written by one part and read by another.

    A read sees what was written in earlier cycles.

    | Latency: 1 cycle. Throughput: a read and a write a cycle. Storage: ``depth`` words.

    Parameters
    ----------
    shape
        Shape of a word.
    depth
        Words, at least 2.

    Members
    -------
    write : In(WriteSignature(depth, shape))
    read : In(LookupSignature(range(depth), shape))
    """

    write: wiring.PureInterface
    read: wiring.PureInterface

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self.shape = shape
        self.depth = depth
        super().__init__({
            "write": In(WriteSignature(depth, shape)),
            "read": In(LookupSignature(range(depth), shape)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = Shape.cast(self.shape).width
        mem: memory.Memory[Any, Any] = memory.Memory(shape=bits, depth=self.depth, init=[])
        m.submodules.memory = mem
        write: Any = self.write
        read: Any = self.read
        write_port = mem.write_port()
        read_port = mem.read_port()
        word = Signal(bits)
        m.d.comb += [
            word.eq(Value.cast(write.data)),
            write_port.en.eq(write.enable),
            write_port.addr.eq(write.address),
            write_port.data.eq(word),
            read_port.en.eq(read.enable),
            read_port.addr.eq(read.address),
            Value.cast(read.data).eq(read_port.data),
        ]
        return m
