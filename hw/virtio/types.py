"""Boundary types of the virtio room: queues, chains, segments, used entries, faults, stop and go.

A queue number (``queue``, QUEUE_BITS wide) is of the whole card: of a data queue
``function * stride + index``, with ``index`` virtio's number within the function (even: receive,
odd: transmit); behind them come the control queues, one of each function
(`hw.virtio.queue_numbers`).
"""

from amaranth import signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS, LENGTH_BITS, QUEUE_BITS

__all__ = [
    "ChainLayout",
    "ChainStatus",
    "DoorbellLayout",
    "FaultLayout",
    "FaultReason",
    "FaultRecordLayout",
    "FunctionLayout",
    "LifecycleReport",
    "LifecycleReportLayout",
    "LifecycleRequest",
    "LifecycleRequestLayout",
    "ObligationLayout",
    "PairsLayout",
    "PositionAnswerLayout",
    "PositionRequestLayout",
    "QueueCommandLayout",
    "QueueConfigLayout",
    "QueueConfigSignature",
    "QueueLayout",
    "QueueWriteLayout",
    "ReadyLayout",
    "RingModesLayout",
    "RunningLayout",
    "SegmentLayout",
    "TakeLayout",
    "UsedLayout",
]


class QueueLayout(data.StructLayout):
    """A queue, named: "there is something for this queue"."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS})


class DoorbellLayout(data.StructLayout):
    """A queue is to be looked at: the driver kicked, or the queue has just begun to run.

    ``position``, where it is ``positioned``: the available index that a driver with
    NOTIFICATION_DATA told; without that feature it means nothing.
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "position": 16, "positioned": 1})


class FunctionLayout(data.StructLayout):
    """A function, named."""

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS})


class PairsLayout(data.StructLayout):
    """The driver of ``function`` uses so many pairs of its data queues, from the first on."""

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS, "pairs": 16})


class RingModesLayout(data.StructLayout):
    """What was negotiated that changes how rings are used; fixed when a queue starts.

    ================= ============================================================================
    field             meaning
    ================= ============================================================================
    event_idx         Kicks and interrupts are wanted from an index on, not by a flag
    notification_data A doorbell of 32 bits tells the available index
    ring_packed       The ring is a packed one
    indirect_desc     Descriptors may point to tables of descriptors
    in_order          Buffers are used in the order in which they were made available
    mrg_rxbuf         A received frame may lie in several chains
    ================= ============================================================================

    The names are those of the feature bits.
    """

    def __init__(self) -> None:
        super().__init__({"event_idx": 1, "notification_data": 1, "ring_packed": 1,
                          "indirect_desc": 1, "in_order": 1, "mrg_rxbuf": 1})


class QueueConfigLayout(data.StructLayout):
    """What the driver wrote about a queue, and whether the engines may serve it.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    desc     64   Descriptor table
    driver   64   Available ring, or the driver's event suppression (driver area)
    device   64   Used ring, or the device's event suppression (device area)
    size     16   Entries; a power of two but for packed rings
    vector   16   MSI-X vector, FFFFh for none
    running  1    DRIVER_OK and enabled, and neither stopped nor faulted. An engine that starts
                  new work for a queue first takes on an obligation (`ObligationLayout`), then
                  looks here, and gives the obligation back where it finds 0.
    modes         As the queue was started last; they stay while it is being stopped
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "desc": 64, "driver": 64, "device": 64, "size": 16, "vector": 16, "running": 1,
            "modes": RingModesLayout(),
        })


class QueueConfigSignature(wiring.Signature):
    """A read port on the queue contexts, as the engine has it.

    ``config`` is valid in the cycle after ``enable``, and held until the next one.
    """

    def __init__(self) -> None:
        super().__init__({
            "queue": Out(QUEUE_BITS), "enable": Out(1), "config": In(QueueConfigLayout()),
        })


class QueueWriteLayout(data.StructLayout):
    """The registers write what the driver wrote about a queue: some bytes of one dword of it.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    queue    14
    dword    3    0, 1: desc; 2, 3: driver; 4, 5: device (low half first); 6: size (low) and
                  vector (high)
    enable   4    Which bytes of the dword
    data     32
    clear    1    All of it goes to its reset values instead
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "dword": 3, "enable": 4, "data": 32, "clear": 1})


class RunningLayout(data.StructLayout):
    """From now on ``queue`` may be served, in these modes, or not (they do not matter then, unless
    it ``prepares``: it is going to be served in them)."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "running": 1, "prepares": 1,
                          "modes": RingModesLayout()})


class ReadyLayout(data.StructLayout):
    """``count`` more chains of ``queue`` can be taken: `Prefetch.ready`. The counts are exact:
    every chain is announced once, in order, so that a consumer with credit never takes in vain
    (but for a queue that was stopped meanwhile: then the answer is NONE).

    ``bytes`` is the sum of theirs, each as `ChainLayout` gives it; ``count`` is 64 at most. None of
    them has fewer bytes than ``shortest``, and none more than ``longest``; 0 where it is not known.
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "count": 8, "bytes": LENGTH_BITS + 6,
                          "shortest": LENGTH_BITS, "longest": LENGTH_BITS})


class TakeLayout(data.StructLayout):
    """Take the next chain of ``queue``, if it holds at least ``bytes``; else leave it there.

    ``begun``: for a frame that has a chain already. It is finished, also where the queue does not
    run any more: its first chain's obligation is still there, so nothing was thrown away yet.
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "bytes": LENGTH_BITS, "begun": 1})


class ChainStatus(enum.Enum, shape=2):
    """What came of a take."""

    NONE = 0   # no chain is ready: the queue is announced again when one is
    SHORT = 1  # the next chain is too short; it stays
    FOUND = 2  # the chain is taken; its segments follow


class ChainLayout(data.StructLayout):
    """Answer to a take, in the order of takes. After FOUND the segments follow on their stream."""

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "status": ChainStatus,
            "id": 16,               # the used entry's: the first descriptor, or a packed ring's id
            "slots": 16,            # places that it takes in the ring: 1, or a packed ring's more
            "bytes": LENGTH_BITS,   # of all its buffers
            "segments": 16,         # buffers, at least 1
            "more": 1,              # another chain is ready behind this one
        })


class SegmentLayout(data.StructLayout):
    """A buffer of a chain, in the chain's order; ``last`` ends the chain."""

    def __init__(self) -> None:
        super().__init__({"address": 64, "length": LENGTH_BITS, "last": 1})


class UsedLayout(data.StructLayout):
    """A chain that the card has done with, for the used ring.

    ``slots`` are the places that it takes in the ring. ``more``: the frame goes on in the
    queue's next chain, and the driver is to see all its chains at once.
    """

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "id": 16, "slots": 16, "bytes": LENGTH_BITS, "more": 1,
        })


class ObligationLayout(data.StructLayout):
    """``delta`` more (or fewer, negative) pieces of work in flight for ``queue``."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "delta": signed(9)})


class LifecycleRequest(enum.Enum, shape=2):
    """What the registers want of the lifecycle."""

    START = 0  # serve this queue
    STOP = 1   # stop all queues of the function, and keep their positions
    RESET = 2  # stop all queues of the function, and forget their positions
    RESET_QUEUE = 3  # the same for one queue


class LifecycleRequestLayout(data.StructLayout):
    """Start ``queue`` in ``modes``, or reset it, or stop all queues of its function (``queue`` is
    then its first one).

    One stream for both, so that a start never comes after the stop that it came before. A stop
    is answered by a report, and until then no other one is asked for the same function.
    """

    def __init__(self) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "kind": LifecycleRequest, "modes": RingModesLayout(),
        })


class LifecycleReport(enum.Enum, shape=1):
    """What the lifecycle tells the registers."""

    STOPPED = 0      # nothing of the function's queues is in flight any more
    NEEDS_RESET = 1  # a queue of the function met a fault


class LifecycleReportLayout(data.StructLayout):
    """What became of ``function``. A fault is told before the end of the stop it fell into."""

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS, "kind": LifecycleReport})


class QueueCommandLayout(data.StructLayout):
    """To an engine, of a queue that is stopped and has nothing in flight: throw away what was
    prefetched; with ``reset``, start from position 0, or with ``load`` besides, from ``position``
    (split: the index; packed: place, and lap in bit 15) in a ring that another device has used. The
    engine's ready says that it is done."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "reset": 1, "load": 1, "position": 16})


class PositionRequestLayout(data.StructLayout):
    """Tell where ``queue`` stands; or ``load``: it is to begin at ``position``.

    Here a position is in the standard's terms: the index, or of a packed ring the place, and above
    it, in bit 15, the wrap counter.
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "load": 1, "position": 16})


class PositionAnswerLayout(data.StructLayout):
    """Where a queue stands.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    position 16   In the standard's terms; 0 for one that begins at the beginning of its ring
    started  1    It was started since its last reset
    loaded   1    Its position was loaded since then
    refused  1    There is no such queue; or it was to be loaded, and is started already
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({"position": 16, "started": 1, "loaded": 1, "refused": 1})


class FaultReason(enum.Enum, shape=4):
    """Why a queue was stopped."""

    NONE = 0
    INDEX_JUMP = 1        # the available index moved by more than the queue size
    HEAD_RANGE = 2        # an available entry names no descriptor of the table
    NEXT_RANGE = 3        # a descriptor's next names none
    LOOP = 4              # a chain that comes back to itself, or is longer than its queue or table
    ZERO_LENGTH = 5       # a buffer of no bytes
    DIRECTION = 6         # device-writable in TX, device-readable in RX
    BAD_FLAGS = 7         # a flag that was not negotiated, or not here: INDIRECT
    BAD_LENGTH = 8        # a chain shorter than the header, or longer than any frame; a bad table
    # 8 + `hw.pcie.types.ReadError`.
    READ_FAILED = 9       # a DMA read came back with UR or CA, or bus mastering was off
    READ_POISONED = 10
    READ_TIMEOUT = 11


class FaultLayout(data.StructLayout):
    """A fault of the driver's making: the queue stops, and the function wants a reset."""

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "reason": FaultReason, "address": 64})


class FaultRecordLayout(data.StructLayout):
    """A fault as the log keeps it."""

    def __init__(self) -> None:
        super().__init__({
            "function": FUNCTION_BITS, "queue": QUEUE_BITS, "reason": FaultReason, "address": 64,
        })
