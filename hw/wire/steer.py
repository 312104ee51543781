"""Receive steering: which queue a frame goes to."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.virtio.types import FunctionLayout, PairsLayout
from hw.wire.types import FLOW_HASH_BITS, EnteredLayout, SteeredLayout

__all__ = ["Steer"]

_HASH_BITS = 12
"""High bits of the hash that count: shares of the queues differ by less than one in 256."""


class Steer(wiring.Component):
    """Spread the frames from the wire over the receive queues of function 0, flow by flow.

    Of the pairs of queues that the function's driver uses a frame goes to the receive queue of
    number ``hash * pairs >> bits of the hash`` (virtio 1.4, 5.1.6.5.6): so a flow's frames
    stay in order in one queue, as long as the number of pairs stays as it is. After a reset of the
    function (or of the card) the first pair alone is used (NET-MQ-05). A frame that has been
    offered keeps its queue.

    | Latency: 0 cycles; a number of pairs counts from 2 cycles after it was told, for the frames
      behind one that waits. Throughput: a frame a cycle. Storage: two numbers.

    Parameters
    ----------
    max_pairs
        Pairs of queues that the function has: 1 to 16.

    Members
    -------
    lengths : In(stream.Signature(EnteredLayout()))
    steered : Out(stream.Signature(SteeredLayout()))
    pairs : In(stream.Signature(PairsLayout(), always_ready=True))
        Of function 0, and from 1 to ``max_pairs``; any other has no effect.
    resets : In(stream.Signature(FunctionLayout(), always_ready=True))
        A function was reset. It counts where ``pairs`` come in the same cycle.
    """

    lengths: stream.Interface
    steered: stream.Interface
    pairs: stream.Interface
    resets: stream.Interface

    def __init__(self, max_pairs: int = 1) -> None:
        if not 1 <= max_pairs <= 16:
            raise ValueError(f"max_pairs must be from 1 to 16, not {max_pairs!r}")
        self.max_pairs = max_pairs
        super().__init__({
            "lengths": In(stream.Signature(EnteredLayout())),
            "steered": Out(stream.Signature(SteeredLayout())),
            "pairs": In(stream.Signature(PairsLayout(), always_ready=True)),
            "resets": In(stream.Signature(FunctionLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        most = self.max_pairs
        pair_bits = most.bit_length()
        pairs = Signal(range(most + 1), init=1)
        wanted = Signal.like(pairs)
        told = self.pairs.p
        with m.If(self.pairs.valid & (told.function == 0) & (told.pairs != 0)
                  & (told.pairs <= most)):
            m.d.sync += wanted.eq(told.pairs)
        with m.If(self.resets.valid & (self.resets.p.function == 0)):
            m.d.sync += wanted.eq(1)
        with m.If(~self.steered.valid | self.steered.ready):
            m.d.sync += pairs.eq(wanted)

        # A sum of shifted hashes, and no multiplier: it would take one with registers of its own.
        counts = Signal(_HASH_BITS)
        products = [Signal(_HASH_BITS + n + 1, name=f"product_{n}") for n in range(pair_bits)]
        pair = Signal(pair_bits)
        m.d.comb += [
            counts.eq(self.lengths.p.hash[FLOW_HASH_BITS - _HASH_BITS:]),
            *(product.eq(Mux(pairs[n], counts << n, 0)) for n, product in enumerate(products)),
            pair.eq(sum(products[1:], start=products[0]) >> _HASH_BITS),
            self.steered.valid.eq(self.lengths.valid),
            self.steered.p.bytes.eq(self.lengths.p.bytes),
            self.lengths.ready.eq(self.steered.ready),
        ]
        if most > 1:
            # Function 0's queues come first, the receive queues being the even ones.
            m.d.comb += self.steered.p.queue.eq(pair << 1)
        return m
