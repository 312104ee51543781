"""The card's queue numbers: data queues first, then a control queue of each function."""

from dataclasses import dataclass

from amaranth import Cat, Const, Value
from amaranth.lib import data

from hw.stream.types import FUNCTION_BITS, QUEUE_BITS

__all__ = ["QueueNumbers", "QueueRolesLayout"]


class QueueRolesLayout(data.StructLayout):
    """Which queues a function has, as its driver negotiated it (virtio 1.4, 5.1.2).

    ======= ==== ==============================================================================
    field   bits meaning
    ======= ==== ==============================================================================
    control 1    CTRL_VQ: there is a control queue, behind those of data
    multi   1    CTRL_VQ and MQ: all pairs that were built in are there, else the first alone
    ======= ==== ==============================================================================

    Both are 0 before FEATURES_OK.
    """

    def __init__(self) -> None:
        super().__init__({"control": 1, "multi": 1})


@dataclass(frozen=True)
class QueueNumbers:
    """Who owns which queue number. Impossible counts raise ``ValueError``.

    ======================================= ===================================================
    numbers                                 queues
    ======================================= ===================================================
    ``function * stride + index``           Data: ``index`` is virtio's (even: receive, odd:
                                            transmit)
    ``functions * stride + function``       Control: wherever virtio's index of it lies
    ======================================= ===================================================

    There are no holes: memories of ``total`` words hold what is kept of every queue. Within a
    function the *place* of a queue is its index if it is a data queue, and ``stride`` else.

    No function here takes a clock cycle; `function` and `control` are an addition of FUNCTION_BITS
    (of QUEUE_BITS) with a constant.

    Parameters
    ----------
    functions
        The PF and its VFs, 1 to 256.
    stride
        Data queues of a function; a power of two, 2 to 32.
    """

    functions: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.functions <= 1 << FUNCTION_BITS:
            raise ValueError(f"functions must be from 1 to {1 << FUNCTION_BITS}, "
                             f"not {self.functions!r}")
        if not 2 <= self.stride <= 32 or self.stride & (self.stride - 1):
            raise ValueError(f"stride must be a power of two from 2 to 32, not {self.stride!r}")

    @property
    def data(self) -> int:
        """Data queues of the card."""
        return self.functions * self.stride

    @property
    def total(self) -> int:
        """All queues of the card."""
        return self.data + self.functions

    @property
    def index_bits(self) -> int:
        """Bits of a data queue's index within its function."""
        return (self.stride - 1).bit_length()

    def is_control(self, queue: Value) -> Value:
        """Tell whether ``queue``, below ``total``, is a control queue."""
        return (queue >> self.index_bits) >= self.functions

    def kind(self, queue: Value) -> Value:
        """Give one of three bits: ``queue``, below ``total``, receives, transmits, is control."""
        control = self.is_control(queue)
        return Cat(~control & ~queue[0], ~control & queue[0], control)

    def function(self, queue: Value) -> Value:
        """Give the function of ``queue``, below ``total``: FUNCTION_BITS."""
        shifted = (queue >> self.index_bits)[:FUNCTION_BITS]
        low = 1 << FUNCTION_BITS
        return self._choose(self.is_control(queue), (queue - self.data % low)[:FUNCTION_BITS],
                            shifted)

    def control(self, function: Value) -> Value:
        """Give the control queue of ``function``: QUEUE_BITS."""
        return (function + Const(self.data, QUEUE_BITS))[:QUEUE_BITS]

    def at(self, function: Value, place: Value, control: Value) -> Value:
        """Give the queue at ``place`` of ``function``, whose control queue is ``control``.

        ``place`` has ``index_bits + 1`` bits.
        """
        number = Cat(place[:self.index_bits], function)
        return self._choose(place[self.index_bits], control, number)

    def place(self, queue: Value) -> Value:
        """Give the place of ``queue`` within its function: ``index_bits + 1`` bits."""
        return self._choose(self.is_control(queue), Const(self.stride, self.index_bits + 1),
                            queue[:self.index_bits])

    @staticmethod
    def _choose(condition: Value, one: Value, other: Value) -> Value:
        bits = max(len(one), len(other))
        return (one & condition.replicate(bits)) | (other & (~condition).replicate(bits))
