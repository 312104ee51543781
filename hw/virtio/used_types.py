"""What travels inside `UsedRing`: chains that wait, bursts, and the writes that they become."""

from amaranth.lib import data

from hw.stream.types import LENGTH_BITS, QUEUE_BITS

__all__ = [
    "DESCRIPTOR_BYTES",
    "ENTRY_BYTES",
    "BurstLayout",
    "GatheredLayout",
    "PublishedLayout",
    "UsedContextLayout",
    "WaitingLayout",
    "WritesLayout",
]

ENTRY_BYTES = 8
"""Of a split ring's used entry, and of what waits in memory."""

DESCRIPTOR_BYTES = 16


class PublishedLayout(data.StructLayout):
    """``count`` more chains of ``queue`` stand in the order of writes, for the driver to see.

    ======= ==== ===========================================================================
    field   bits meaning
    ======= ==== ===========================================================================
    queue   13
    count   16   Chains
    slots   16   Places by which the ring's used position moved; of a split ring ``count``
    index   16   That position: what was written to the used ring's idx, or a packed ring's
                 lap (bit 15) and place
    follows 1    Another burst of the queue follows soon
    ======= ==== ===========================================================================
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "count": 16, "slots": 16, "index": 16, "follows": 1})


class WaitingLayout(data.StructLayout):
    """A chain that waits for its burst. ``sum`` counts the places of all chains of the queue up to
    this one, modulo 2^16; ``single`` says that it takes one, ``wrote`` that it has bytes."""

    def __init__(self) -> None:
        super().__init__({
            "id": 16, "sum": 16, "bytes": LENGTH_BITS, "more": 1, "single": 1, "wrote": 1,
            "reserved": 8 * ENTRY_BYTES - 35 - LENGTH_BITS,
        })


class UsedContextLayout(data.StructLayout):
    """Where a queue's ring is, and what of a frame the driver cannot see yet.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    position 16   Packed: lap and place of what is written next
    sum      16   Packed: places of all chains before that
    open     1    Packed: a frame has begun; ``id``, ``bytes`` and ``place`` are of its first
                  chain, which is written last, and ``slots`` the places of its chains so far
    chains   16   Chains of an unfinished frame so far
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "position": 16, "sum": 16, "open": 1, "id": 16, "bytes": LENGTH_BITS, "place": 16,
            "slots": 16, "chains": 16,
        })


class GatheredLayout(data.StructLayout):
    """Chains of a queue that may leave together: ``row`` at most, half as many in a packed ring.

    ======= ==================================================================================
    field   meaning
    ======= ==================================================================================
    base    Address of what is written: the used ring, or the packed ring
    index   Chains of the queue that left before, free running
    left    Chains that wait
    entries Of these leave, at most; in a ``batch`` one entry tells of all that wait
    place   In the ring, of the first; ``lap`` of a packed ring; ``size`` of the ring
    chains  The first ones that wait (a batch: the last alone)
    ======= ==================================================================================
    """

    def __init__(self, row: int) -> None:
        super().__init__({
            "queue": QUEUE_BITS, "packed": 1, "batch": 1, "base": 64, "index": 16, "left": 16,
            "entries": range(row + 1), "place": 16, "lap": 1, "size": 16,
            "context": UsedContextLayout(), "chains": data.ArrayLayout(WaitingLayout(), row),
        })


class WritesLayout(data.StructLayout):
    """Up to two writes, the first one in ``first`` (if ``any``), and what they tell.

    ======= ==================================================================================
    field   meaning
    ======= ==================================================================================
    first   {address, length, data}: two beats of data at most, ``row`` entries
    second  {address, length, data}, if ``two``: one beat, but for the narrowest one
    tells   With them chains are published: ``published``
    more    Other chains of the queue are left
    ======= ==================================================================================
    """

    def __init__(self, row: int) -> None:
        length = range(ENTRY_BYTES * row + 1)
        super().__init__({
            "any": 1, "two": 1, "tells": 1, "more": 1, "published": PublishedLayout(),
            "first": data.StructLayout({
                "address": 64, "length": length, "data": 8 * ENTRY_BYTES * row}),
            "second": data.StructLayout({
                "address": 64, "length": range(DESCRIPTOR_BYTES + 1),
                "data": 8 * DESCRIPTOR_BYTES}),
        })


class BurstLayout(data.StructLayout):
    """What leaves of a queue: the writes, so many ``count`` chains, and the queue's context
    behind them."""

    def __init__(self, row: int) -> None:
        super().__init__({
            "writes": WritesLayout(row), "count": 16, "context": UsedContextLayout(),
        })
