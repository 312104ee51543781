"""What travels inside `Prefetch`: its sizes, the context of its reads, runs, walks, completions."""

from dataclasses import dataclass
from typing import Any

from amaranth import Cat, Const, Mux, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import ReadError
from hw.stream.types import LENGTH_BITS, QUEUE_BITS, check_lanes
from hw.virtio.types import FaultReason

__all__ = [
    "BURST_MAX",
    "DESCRIPTOR_BYTES",
    "IN_PIPELINE",
    "OPEN_MAX",
    "CellCountLayout",
    "CompletionLayout",
    "DiscardLayout",
    "FaultSourceLayout",
    "IndexAnswerLayout",
    "LookupSignature",
    "NotifyFlagLayout",
    "PrefetchContextLayout",
    "PrefetchSizes",
    "ReadKind",
    "RunLayout",
    "SweepLayout",
    "WalkLayout",
    "index_mask",
    "lap_of",
    "packed_place",
    "packed_position",
    "read_fault",
    "walk_members",
]

BURST_MAX = 32
"""Most ring entries, and most descriptors, of one read."""

OPEN_MAX = 320
"""Chains of a queue with INDIRECT_DESC that were fetched and are not complete: when there are so
many, no more are fetched. A burst may go beyond."""

IN_PIPELINE = 6
"""Events of available rings between the look at what has room, and their entry in its count."""

DESCRIPTOR_BYTES = 16

COUNT_BITS = 6
ORDER_BITS = 4
STEP_BITS = 2


@dataclass(frozen=True, kw_only=True)
class PrefetchSizes:
    """The sizes that the parts of a prefetcher share.

    A *member* is a queue of this direction, numbered from 0: the card's number without its lowest
    bit. An *index* is a place in a ring or in a descriptor table.
    """

    lanes: int
    """Byte lanes of a beat: 8 at least."""
    transmit: bool
    """Serves the odd queues, not the even ones."""
    functions: int
    """1 to 256."""
    stride: int
    """Data queues a function, a power of two from 2 to 32."""
    queue_size_max: int
    """A power of two from 16 to 32768."""
    table_cells: int = 256
    """Cells a member for entries of indirect tables: a power of two from 8 to 1024."""

    def __post_init__(self) -> None:
        check_lanes(self.lanes)
        if self.lanes < 8:
            raise ValueError(f"lanes must be at least 8, not {self.lanes!r}")
        if not 1 <= self.functions <= 256:
            raise ValueError(f"functions must be from 1 to 256, not {self.functions!r}")
        if not 2 <= self.stride <= 32 or self.stride & (self.stride - 1):
            raise ValueError(f"stride must be a power of two from 2 to 32, not {self.stride!r}")
        size = self.queue_size_max
        if not 16 <= size <= 32768 or size & (size - 1):
            raise ValueError(
                f"queue_size_max must be a power of two from 16 to 32768, not {size!r}")
        cells = self.table_cells
        if not 8 <= cells <= 1024 or cells & (cells - 1):
            raise ValueError(f"table_cells must be a power of two from 8 to 1024, not {cells!r}")

    @property
    def members(self) -> int:
        """Queues of this direction (2 at least: one that does not exist costs nothing)."""
        return max(2, self.functions * self.stride // 2)

    @property
    def member_bits(self) -> int:
        """Width of a member's number."""
        return (self.members - 1).bit_length()

    @property
    def index_bits(self) -> int:
        """Width of a place in the largest ring."""
        return self.queue_size_max.bit_length() - 1

    @property
    def slots(self) -> int:
        """Words of a memory with one for each ring entry, or descriptor, of each member."""
        return self.members << self.index_bits

    @property
    def waiting_max(self) -> int:
        """Chains that may wait for cells, of all members."""
        return self.members * (OPEN_MAX + BURST_MAX)

    @property
    def cell_bits(self) -> int:
        """Width of a cell's number in its member, and of a table's length."""
        return self.table_cells.bit_length() - 1

    @property
    def cells(self) -> int:
        """Cells of all members."""
        return self.members << self.cell_bits

    @property
    def table_max(self) -> int:
        """Most entries of a table. As many cells are kept for the member's oldest chain."""
        return self.table_cells // 2

    def slot(self, member: Value, index: Value) -> Value:
        """Address in such a memory. No index leads out of the member's own part."""
        return Cat(index[:self.index_bits], member)

    def queue(self, member: Value) -> Value:
        """Give the card's number of a member."""
        return Cat(Const(int(self.transmit), 1), member)[:QUEUE_BITS]

    def function(self, member: Value) -> Value:
        """Give the function of a member."""
        return member >> (self.stride.bit_length() - 2)


def index_mask(order: Value) -> Value:
    """Ones in the bits of an index, for a ring of ``2 ** order`` entries (at most 32768)."""
    return Cat(order > bit for bit in range(15))


def packed_place(position: Value) -> Value:
    """Give the place in a packed ring of a position: its lap is the highest bit."""
    return position[:15]


def packed_position(place: Value, lap: Value) -> Value:
    """Give the position in a packed ring, 16 bits. The lap is the standard's wrap counter turned
    round, so that a ring begins at position 0."""
    return Cat(place, Const(0, 15 - len(place)), lap)


def lap_of(position: Value, order: Value) -> Value:
    """Parity of the lap of a free running position: its lowest bit above the index."""
    return position.bit_select(order, 1)


def read_fault(error: Any, otherwise: FaultReason) -> Value:
    """Give the reason of a fault: how the read ended, or if it ended well, ``otherwise``."""
    how = Value.cast(error)
    return Mux(how == 0, otherwise, Cat(how, Const(0b10, 2)))  # READ_FAILED is 8 + FAILED


class LookupSignature(wiring.Signature):
    """A read port on a memory in another part; data are valid in the cycle after ``enable``, and
    held until the next one. Seen from the one who asks."""

    def __init__(self, address: ShapeLike, shape: ShapeLike) -> None:
        super().__init__({"enable": Out(1), "address": Out(address), "data": In(shape)})


class ReadKind(enum.Enum, shape=3):
    """What a read asks for."""

    INDEX = 0   # the available index
    RING = 1    # ring entries
    RUN = 2     # heads of chains, that lie side by side in the table
    WALK = 3    # the rest of one chain
    SLOTS = 4   # places of a packed ring, side by side: whatever they hold


class PrefetchContextLayout(data.StructLayout):
    """What a read's answer brings back.

    ========== ====================================================================
    field      meaning
    ========== ====================================================================
    kind       `ReadKind`
    member     Whose
    order      log2 of the queue's size
    top        The queue's size, less one
    index      RING, SLOTS: place of the first entry; RUN: of the first descriptor's; WALK: of the
               chain
    lap        Parity of the lap of that place
    count      Entries, or descriptors, of the answer
    trusted    SLOTS: left after the answers to all earlier ones were looked at
    packed     Of a packed ring
    indirect   INDIRECT_DESC was negotiated
    descriptor RUN, WALK, SLOTS: number of the first one
    step       RUN: descriptors from one head to the next, less one
    down       RUN: the next heads belong to places below, not above
    others     WALK: see `WalkLayout`
    ========== ====================================================================
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "kind": ReadKind, "member": sizes.member_bits, "order": ORDER_BITS,
            "top": sizes.index_bits, "index": sizes.index_bits, "lap": 1, "count": COUNT_BITS,
            "trusted": 1, "packed": 1, "indirect": 1, "descriptor": sizes.index_bits,
            "step": STEP_BITS, "down": 1, **walk_members(sizes),
        })


class IndexAnswerLayout(data.StructLayout):
    """The available index of a member, as it was read; or how far a packed ring is available.

    Of a packed ring ``index`` is the position behind the last descriptor that was available. The
    answer held ``found`` of those that were not known yet; ``full``: all that it had; ``partial``:
    a chain goes on behind them. An error of such a read was told by who found it.
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "index": 16, "error": ReadError,
            "found": COUNT_BITS, "full": 1, "partial": 1,
        })


class RunLayout(data.StructLayout):
    """Heads at equal distances: ``count`` of them, the lowest number ``descriptor``, the next ones
    each ``step`` + 1 above, of places from ``index`` up (or ``down``). ``span`` descriptors hold
    them all, with as many behind the last head as behind each other one; that one is ``reach``
    above the lowest. The numbers are not checked yet."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "order": ORDER_BITS, "descriptor": 16,
            "index": sizes.index_bits, "lap": 1, "count": COUNT_BITS, "span": COUNT_BITS,
            "reach": COUNT_BITS, "step": STEP_BITS, "down": 1,
        })


def walk_members(sizes: PrefetchSizes) -> dict[str, ShapeLike]:
    """Fields that go with a walk and come back with its answer."""
    return {
        "bytes": LENGTH_BITS, "segments": sizes.index_bits + 1, "slots": sizes.index_bits + 1,
        "after": sizes.index_bits, "after_lap": 1, "table": 1, "address": 64,
        "entries": sizes.cell_bits, "link": sizes.index_bits, "in_cell": 1,
        "cell": sizes.cell_bits, "room": sizes.cell_bits,
    }


class WalkLayout(data.StructLayout):
    """A chain that goes on at ``descriptor``, which is not checked yet.

    ========== ====================================================================
    field      meaning
    ========== ====================================================================
    bytes      Of the chain so far; likewise ``segments``, and ``slots`` of a packed ring
    after      The place behind it in a packed ring, with its lap ``after_lap``
    table      It goes on in the table of ``entries`` at ``address``
    fresh      That begins, and has no cells yet
    link       Number of the descriptor that points there: the first entry's place
    in_cell    The next entry is kept in the cell ``cell`` (else, in that place)
    room       Cells that the table may still take, behind that one
    ========== ====================================================================
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "order": ORDER_BITS, "packed": 1, "descriptor": 16,
            "index": sizes.index_bits, "lap": 1, "fresh": 1, **walk_members(sizes),
        })


class CellCountLayout(data.StructLayout):
    """Cells of a member, counted since it was cleared, modulo twice their number: those that were
    set apart for tables, those that came back, and those that were not needed after all."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        bits = sizes.cell_bits + 1
        super().__init__({"taken": bits, "freed": bits, "unneeded": bits})


class CompletionLayout(data.StructLayout):
    """Nothing more will be read for ``count`` chains of a member: complete, or given up.

    ``slots``: it is of an answer that held places of a packed ring. Its chains have no obligations
    of their own; that of the answer passes on to ``report``.
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "order": ORDER_BITS, "count": COUNT_BITS + 1,
            "packed": 1, "slots": 1, "report": IndexAnswerLayout(sizes),
        })


class NotifyFlagLayout(data.StructLayout):
    """Write ``value`` to a member's used ring: its flags, or avail_event; or, ``wide``, a packed
    ring's event suppression. ``silent``: it asks for no kicks."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "address": 64, "value": 32, "wide": 1, "silent": 1,
        })


class DiscardLayout(data.StructLayout):
    """Throw away what was prefetched of a member, and go on from ``position``.

    Its ring has places up to ``top``; beyond them nothing ever was."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "order": ORDER_BITS, "top": sizes.index_bits, "packed": 1,
            "position": 16, "reset": 1,
        })


class SweepLayout(data.StructLayout):
    """Clear one place: its chain is not complete, its descriptor not in use.

    ``mark`` is what the completion mark of a chain that is *not* complete looks like there. A
    packed ring goes on at ``place``, in the lap ``lap``.
    """

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({
            "member": sizes.member_bits, "index": sizes.index_bits, "mark": 1,
            "place": sizes.index_bits, "lap": 1,
        })


class FaultSourceLayout(data.StructLayout):
    """A fault of a member."""

    def __init__(self, sizes: PrefetchSizes) -> None:
        super().__init__({"member": sizes.member_bits, "reason": FaultReason, "address": 64})
