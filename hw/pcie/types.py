"""The PCIe boundary and the DMA engines' boundary: TLP headers, read and write requests, answers.

A TLP stream is a packet stream whose beats carry the header beside the data; the header means
something on the first beat only. The payload is whole dwords, as on the link: data lane 0 of the
first beat is the byte at the dword-aligned address (or, in a completion, the byte at
``lower_address & ~3``). A TLP without payload is one beat with ``last`` set and data that means
nothing.
"""

from amaranth.lib import data, enum

from hw.stream.types import FUNCTION_BITS, LENGTH_BITS, QUEUE_BITS, check_lanes

__all__ = [
    "CompletionHeader",
    "CompletionStatus",
    "CreditLayout",
    "InterruptLayout",
    "MmioAnswer",
    "MmioRequest",
    "ReadAnswerLayout",
    "ReadError",
    "ReadRequestLayout",
    "ReadTlpLayout",
    "RequestHeader",
    "RequestKind",
    "TlpLayout",
    "WriteSegmentLayout",
    "WriteTlpLayout",
]


class RequestKind(enum.Enum, shape=3):
    """What a request TLP asks. All but MEM_WRITE and MESSAGE want a completion."""

    MEM_READ = 0
    MEM_WRITE = 1
    CONFIG_READ = 2
    CONFIG_WRITE = 3
    IO_READ = 4
    IO_WRITE = 5
    MESSAGE = 6
    OTHER = 7  # a non-posted request of another kind (atomic, locked read): never supported


class CompletionStatus(enum.Enum, shape=3):
    """Completion status, with the values of PCI Express."""

    SUCCESS = 0
    UNSUPPORTED = 1
    RETRY = 2
    ABORT = 4


class RequestHeader(data.StructLayout):
    """Header of a request, either way (``cq``, ``rq``).

    ============== ==== ======================================================================
    field          bits meaning
    ============== ==== ======================================================================
    kind           3    `RequestKind`
    address        64   Byte address, a multiple of 4. Configuration: the register, 0 to 4092.
    dwords         11   Length in dwords, 1 to 1024 (a read of nothing has 1, first_be = 0)
    first_be       4    Byte enables of the first dword
    last_be        4    Byte enables of the last dword; 0 when there is only one
    requester_id   16   Bus, device and function that asks
    completer_id   16   Configuration: bus, device and function that is asked; else 0
    tag            10   Names the request to its requester
    traffic_class  3
    attributes     3    Relaxed order, no snoop, ID order
    poisoned       1    The payload is known to be bad
    ============== ==== ======================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "kind": RequestKind, "address": 64, "dwords": 11, "first_be": 4, "last_be": 4,
            "requester_id": 16, "completer_id": 16, "tag": 10, "traffic_class": 3,
            "attributes": 3, "poisoned": 1,
        })


class CompletionHeader(data.StructLayout):
    """Header of a completion, either way (``cc``, ``rc``).

    ============== ==== ======================================================================
    field          bits meaning
    ============== ==== ======================================================================
    status         3    `CompletionStatus`; anything but SUCCESS ends the request
    byte_count     13   Bytes still to come, this completion included, 1 to 4096 (4 for no data)
    lower_address  7    Low bits of the byte address of the first enabled byte
    dwords         11   Payload in dwords; 0 for a completion without data
    requester_id   16   Of the request
    completer_id   16   Bus, device and function that answers
    tag            10   Of the request
    traffic_class  3    Of the request
    attributes     3    Of the request
    poisoned       1    The payload is known to be bad
    ============== ==== ======================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "status": CompletionStatus, "byte_count": 13, "lower_address": 7, "dwords": 11,
            "requester_id": 16, "completer_id": 16, "tag": 10, "traffic_class": 3,
            "attributes": 3, "poisoned": 1,
        })


class TlpLayout(data.StructLayout):
    """A beat of a TLP: data, empty and last as in a packet, and the header with the first beat."""

    def __init__(self, lanes: int, header: RequestHeader | CompletionHeader) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        super().__init__({"data": 8 * lanes, "empty": range(lanes), "last": 1, "header": header})


class ReadTlpLayout(data.StructLayout):
    """A memory read on its way from the DMA read engine to the requester: no data, one transfer."""

    def __init__(self) -> None:
        super().__init__({"header": RequestHeader(), "fenced": 1})


class WriteTlpLayout(data.StructLayout):
    """A beat of a write TLP on its way from the DMA write engine to the requester.

    A `TlpLayout` of `RequestHeader`, and ``ends_group``: with the last beat, whether this TLP is
    the last of its group of segments.
    """

    def __init__(self, lanes: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        super().__init__({
            "data": 8 * lanes, "empty": range(lanes), "last": 1, "header": RequestHeader(),
            "ends_group": 1,
        })


class CreditLayout(data.StructLayout):
    """Flow-control credit for headers of non-posted requests, as PCI Express counts it.

    ``limit`` is how many have been granted since the link came up, modulo 256; with ``infinite``
    set it means nothing. Never more than 128 beyond what was used.
    """

    def __init__(self) -> None:
        super().__init__({"limit": 8, "infinite": 1})


class ReadError(enum.Enum, shape=2):
    """How a DMA read ended."""

    NONE = 0
    FAILED = 1    # unsupported request, completer abort, or bus mastering is off
    POISONED = 2
    TIMEOUT = 3


class ReadRequestLayout(data.StructLayout):
    """One segment of a DMA read. Segments up to ``last`` form a group, answered by one packet.

    ======== ============ ====================================================================
    field    bits         meaning
    ======== ============ ====================================================================
    function 8            The function that reads (requester ID)
    queue    13           Answers keep order among groups of equal ``queue`` of this client
    context  context_bits Comes back with the answer; that of the group's first segment counts
    address  64           Byte address, any alignment
    length   17           Bytes, at least 1
    lead     log2(lanes)  Lane of the answer's first byte; counts in the group's first segment
    fenced   1            Leave after every write of this function accepted so far
    last     1            Ends the group
    ======== ============ ====================================================================
    """

    def __init__(self, lanes: int, context_bits: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        self.context_bits = context_bits
        super().__init__({
            "function": FUNCTION_BITS, "queue": QUEUE_BITS, "context": context_bits,
            "address": 64, "length": LENGTH_BITS, "lead": range(lanes), "fenced": 1, "last": 1,
        })


class ReadAnswerLayout(data.StructLayout):
    """A beat of the answer to a group: its bytes without gaps, from lane ``lead`` on.

    ``context`` and ``error`` are the same on every beat. With an error the length is right and
    the bytes mean nothing.
    """

    def __init__(self, lanes: int, context_bits: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        self.context_bits = context_bits
        super().__init__({
            "data": 8 * lanes, "empty": range(lanes), "first": 1, "last": 1,
            "context": context_bits, "error": ReadError,
        })


class WriteSegmentLayout(data.StructLayout):
    """One segment of a DMA write. Segments up to ``last`` form a group, fed by one packet of data.

    The packet beside it (`hw.stream.types.BeatLayout`) holds the bytes of all segments without
    gaps, from lane 0 on. A client offers the first segment when all that follows can come
    without waiting for anything.
    """

    def __init__(self) -> None:
        super().__init__({
            "function": FUNCTION_BITS, "address": 64, "length": LENGTH_BITS, "last": 1,
        })


class InterruptLayout(data.StructLayout):
    """A request to raise MSI-X vector ``vector`` of ``function``."""

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS, "vector": 11})


class MmioRequest(data.StructLayout):
    """One dword of a memory access that hit a BAR of a function. Reads are answered, in order.

    ``offset`` is a byte offset into the BAR, a multiple of 4. In a read, ``enable`` says which
    bytes were asked for: reading a byte may have effects (ISR).
    """

    def __init__(self) -> None:
        super().__init__({
            "function": FUNCTION_BITS, "bar": 3, "offset": 20, "write": 1, "enable": 4, "data": 32,
        })


class MmioAnswer(data.StructLayout):
    """What a read of one dword found. What does not exist reads zero."""

    def __init__(self) -> None:
        super().__init__({"data": 32})
