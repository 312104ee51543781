"""A memory for contexts that are read, changed and written back by a pipeline."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.hdl import Shape, ShapeLike, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ForwardingMemory"]


class ForwardingMemory(wiring.Component):
    """A block memory with one write and one read port, whose read data are never out of date.

    A read is presented by ``read_enable`` with ``read_address``. From the cycle after that, until
    the cycle after the next read is presented, ``read_data`` is the word at that address as it
    was left by all writes presented *before the cycle in which ``read_data`` is looked at*:

    * a write in the same cycle as the read, to the same address, is seen in the cycle after;
    * a write to the address while its data are held is seen in the cycle after that write.

    So a pipeline that reads in one cycle and writes back in the next may name the same address in
    every cycle. One that computes for two cycles (read, compute, write back) must compare the
    addresses of its own stages: what is not yet written here cannot be forwarded here.

    | Latency: 1 cycle. Throughput: 1 read and 1 write a cycle.
    | Storage: ``depth`` words, and one word of flip-flops for what is forwarded.
    | Paths: ``read_data`` is a two-way multiplexer behind the memory's data register.

    Parameters
    ----------
    shape
        Shape of a word; any shape-castable.
    depth
        Words; any number of 1 or more.
    granularity_bits
        Width of a part of the word that can be written by itself; a divisor of the word's width.
        None: words are written whole.
    init
        What the first words hold when the card is configured; the others are 0. A reset of the
        card does not touch the contents.

    Members
    -------
    read_enable : In(1)
    read_address : In(range(depth))
    read_data : Out(shape)
    write_enable : In(1), or one bit a part with ``granularity_bits``, lowest part first
    write_address : In(range(depth))
    write_data : In(shape)
    """

    read_enable: Signal
    read_address: Signal
    read_data: Value
    write_enable: Signal
    write_address: Signal
    write_data: Value

    def __init__(self, shape: ShapeLike, depth: int, *, granularity_bits: int | None = None,
                 init: tuple[int, ...] = ()) -> None:
        width = Shape.cast(shape).width
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth!r}")
        if granularity_bits is not None and (granularity_bits < 1 or width % granularity_bits):
            raise ValueError(f"granularity_bits must divide the word's {width} bits, "
                             f"not {granularity_bits!r}")
        self.shape = shape
        self.width = width
        self.depth = depth
        self.granularity_bits = granularity_bits
        self.init = init
        address = range(max(2, depth))  # no zero-width signal
        super().__init__({
            "read_enable": In(1),
            "read_address": In(address),
            "read_data": Out(shape),
            "write_enable": In(1 if granularity_bits is None else width // granularity_bits),
            "write_address": In(address),
            "write_data": In(shape),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        part_bits = self.granularity_bits or self.width
        mem: memory.Memory[Any, Any] = memory.Memory(
            shape=unsigned(self.width), depth=max(2, self.depth), init=self.init)
        m.submodules.memory = mem
        write = mem.write_port(granularity=self.granularity_bits)
        read = mem.read_port()

        address = Signal.like(self.read_address, reset_less=True)  # of the word that is held
        hit = Signal()  # the write of this cycle changes the word that read_data shows next
        forwarded = Signal(len(self.write_enable), reset_less=True)
        newer = Signal(self.width, reset_less=True)
        data_in = Signal(self.width)
        m.d.comb += [
            data_in.eq(Value.cast(self.write_data)),
            write.addr.eq(self.write_address),
            write.data.eq(data_in),
            write.en.eq(self.write_enable),
            read.addr.eq(self.read_address),
            read.en.eq(self.read_enable),
            # Both are compared: `read_enable` is often late.
            hit.eq(Mux(self.read_enable, self.write_address == self.read_address,
                       self.write_address == address)),
        ]
        with m.If(self.read_enable):
            m.d.sync += address.eq(self.read_address)

        parts = []
        for index, enable in enumerate(self.write_enable):
            part = slice(index * part_bits, (index + 1) * part_bits)
            with m.If(hit & enable):
                m.d.sync += [forwarded[index].eq(1), newer[part].eq(data_in[part])]
            with m.Elif(self.read_enable):
                m.d.sync += forwarded[index].eq(0)
            parts.append(Mux(forwarded[index], newer[part], read.data[part]))
        m.d.comb += Value.cast(self.read_data).eq(Cat(parts))
        return m
