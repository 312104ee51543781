"""A queue of stream transfers; the only place in the card where raw FIFO signals appear."""

from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PassingQueue", "StreamQueue"]

_LUTRAM_DEPTH = 64
"""Up to here a queue lies in distributed memory, which is read in the same cycle."""

_NARROW_BITS = 64
"""Up to here a queue in block memory has a small one in distributed memory before its output."""

_FRONT_DEPTH = 16


class StreamQueue(wiring.Component):
    """Queue transfers of a stream, first in, first out.

    ``depth`` up to 64 lies in distributed memory, more in block memory. A narrow payload (up to 64
    bits) passes by the block memory as long as the transfers that wait are few.

    | Latency: 1 cycle; 2 cycles for a wide payload in block memory. A narrow one that goes through
      it is offered within 4 cycles, or when those before it have left.
    | Throughput: 1 transfer a cycle at any level, also while full and being emptied.
    | Storage: ``depth`` payloads, the one on ``o`` included.
    | Paths: none from ``i`` to ``o`` nor from ``o.ready`` to ``i.ready``. ``o.payload`` comes
      from a flip-flop (distributed) or from the data output of the block memory.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.
    depth
        Transfers that fit; any number of 2 or more.

    Members
    -------
    i : In(stream.Signature(shape))
        Ready while fewer than ``depth`` transfers are held.
    o : Out(stream.Signature(shape))
    level : Out(range(depth + 1))
        Transfers held: accepted at ``i`` and not yet taken at ``o``.
    """

    i: stream.Interface
    o: stream.Interface
    level: Signal

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth!r}")
        self.shape = shape
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        arrives = Signal()
        leaves = Signal()
        level = Signal(range(self.depth + 1))
        m.d.comb += [
            self.i.ready.eq(level != self.depth),
            arrives.eq(self.i.valid & self.i.ready),
            leaves.eq(self.o.valid & self.o.ready),
            self.level.eq(level),
        ]
        with m.If(arrives & ~leaves):
            m.d.sync += level.eq(level + 1)
        with m.Elif(leaves & ~arrives):
            m.d.sync += level.eq(level - 1)
        if self.depth <= _LUTRAM_DEPTH:
            self._distributed(m, arrives)
        elif Shape.cast(self.shape).width <= _NARROW_BITS:
            self._both(m, arrives)
        else:
            self._block(m, arrives)
        return m

    def _both(self, m: Module, arrives: Signal) -> None:
        """A small queue, and a big one before it for what does not fit there."""
        m.submodules.front = front = StreamQueue(self.shape, _FRONT_DEPTH)
        m.submodules.back = back = _Block(self.shape, self.depth)
        # As long as something is in the back, all goes through it; and while that comes forward,
        # the front has enough to give.
        passes = Signal()
        m.d.comb += [
            passes.eq((back.level == 0) & front.i.ready),
            back.i.valid.eq(arrives & ~passes),
            back.i.payload.eq(self.i.payload),
            back.o.ready.eq(front.i.ready),
            front.i.valid.eq(back.o.valid | (arrives & passes)),
            front.i.payload.eq(Mux(back.o.valid, back.o.payload, self.i.payload)),
            front.o.ready.eq(self.o.ready),
            self.o.valid.eq(front.o.valid),
            self.o.payload.eq(front.o.payload),
        ]

    def _next(self, address: Signal, places: int) -> Value:
        return Mux(address == places - 1, 0, address + 1)

    def _distributed(self, m: Module, arrives: Signal) -> None:
        """An output register, and behind it a memory for what does not fit there."""
        places = max(2, self.depth - 1)
        mem: memory.Memory[Any, Any] = memory.Memory(shape=self.shape, depth=places, init=[])
        m.submodules.memory = mem
        write = mem.write_port()
        read = mem.read_port(domain="comb")
        write_address = Signal(range(places))
        read_address = Signal(range(places))
        stored = Signal(range(places + 1))
        out = Signal(self.shape, reset_less=True)
        out_valid = Signal()
        free = Signal()       # the output register can be loaded
        pushes = Signal()     # into the memory
        pops = Signal()       # from the memory
        m.d.comb += [
            free.eq(self.o.ready | ~out_valid),
            pops.eq(free & (stored != 0)),
            pushes.eq(arrives & ~(free & (stored == 0))),
            write.addr.eq(write_address),
            write.data.eq(self.i.payload),
            write.en.eq(pushes),
            read.addr.eq(read_address),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(out),
        ]
        with m.If(pushes):
            m.d.sync += write_address.eq(self._next(write_address, places))
        with m.If(pops):
            m.d.sync += read_address.eq(self._next(read_address, places))
        with m.If(pushes & ~pops):
            m.d.sync += stored.eq(stored + 1)
        with m.Elif(pops & ~pushes):
            m.d.sync += stored.eq(stored - 1)
        with m.If(free):
            m.d.sync += out_valid.eq((stored != 0) | self.i.valid & self.i.ready)
            with m.If((stored != 0) | self.i.valid):
                m.d.sync += out.eq(Mux(stored != 0, read.data, self.i.payload))

    def _block(self, m: Module, arrives: Signal) -> None:
        """A memory whose read port's data register is the output register."""
        mem: memory.Memory[Any, Any] = memory.Memory(shape=self.shape, depth=self.depth, init=[])
        m.submodules.memory = mem
        write = mem.write_port()
        read = mem.read_port()
        write_address = Signal(range(self.depth))
        read_address = Signal(range(self.depth))
        stored = Signal(range(self.depth + 1))  # written in an earlier cycle and not yet read out
        out_valid = Signal()
        pops = Signal()
        # What is read was written before this cycle, so the ports never meet at one address.
        m.d.comb += [
            pops.eq((self.o.ready | ~out_valid) & (stored != 0)),
            write.addr.eq(write_address),
            write.data.eq(self.i.payload),
            write.en.eq(arrives),
            read.addr.eq(read_address),
            read.en.eq(pops),
            self.o.valid.eq(out_valid),
            self.o.payload.eq(read.data),
        ]
        with m.If(arrives):
            m.d.sync += write_address.eq(self._next(write_address, self.depth))
        with m.If(pops):
            m.d.sync += [read_address.eq(self._next(read_address, self.depth)), out_valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += out_valid.eq(0)
        with m.If(arrives & ~pops):
            m.d.sync += stored.eq(stored + 1)
        with m.Elif(pops & ~arrives):
            m.d.sync += stored.eq(stored - 1)


class _Block(StreamQueue):
    """A queue in block memory, whatever its size."""

    def _both(self, m: Module, arrives: Signal) -> None:
        self._block(m, arrives)


class PassingQueue(wiring.Component):
    """Queue transfers as `StreamQueue` does; what finds it empty passes at once.

    | Latency: 0 cycles. Throughput: 1 transfer a cycle at any level.
    | Storage: ``depth`` payloads. Paths: ``i.valid``, ``i.payload`` -> ``o`` (one multiplexer);
      none backward.

    Parameters
    ----------
    shape
        Shape of the payload; any shape-castable.
    depth
        Transfers that fit; any number of 2 or more, 64 at most where the payload is wide: what was
        offered is to stand at ``o`` in the next cycle too.

    Members
    -------
    i : In(stream.Signature(shape))
        Ready while fewer than ``depth`` transfers are held.
    o : Out(stream.Signature(shape))
    level : Out(range(depth + 1))
        Transfers held: accepted at ``i`` in an earlier cycle and not yet taken at ``o``.
    """

    i: stream.Interface
    o: stream.Interface
    level: Signal

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth > _LUTRAM_DEPTH and Shape.cast(shape).width > _NARROW_BITS:
            raise ValueError(f"depth must be at most {_LUTRAM_DEPTH}, not {depth!r}")
        self._queue = StreamQueue(shape, depth)  # made here, so that its checks are ours
        self.shape = shape
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = self._queue
        empty = Signal()
        m.d.comb += [
            empty.eq(queue.level == 0),
            self.level.eq(queue.level),
            self.i.ready.eq(queue.i.ready),
            queue.i.payload.eq(self.i.payload),
            queue.i.valid.eq(self.i.valid & ~(empty & self.o.ready)),
            self.o.valid.eq(queue.o.valid | (empty & self.i.valid)),
            Value.cast(self.o.payload).eq(Mux(empty, Value.cast(self.i.payload),
                                              Value.cast(queue.o.payload))),
            queue.o.ready.eq(self.o.ready),
        ]
        return m
