"""Sizes and layouts inside the DMA read engine: pieces, notes, steps. No logic.

A *piece* is the part of a segment that one TLP reads. Its tag is also the number of its *slot* in
the store, of ``max_read_bytes``. A group is named by the tag of its first piece.
"""

from dataclasses import dataclass

from amaranth.lib import data

from hw.pcie.types import ReadError
from hw.stream.types import FUNCTION_BITS, LENGTH_BITS, QUEUE_BITS

__all__ = [
    "DoneLayout",
    "GroupLayout",
    "NoteLayout",
    "PieceLayout",
    "ReadSizes",
    "RowLayout",
    "StepLayout",
    "StoreBeatLayout",
    "TagLayout",
]


@dataclass(frozen=True, kw_only=True)
class ReadSizes:
    """What all parts of a DMA read engine agree on. An impossible value raises ``ValueError``."""

    lanes: int
    """Byte lanes: a power of two from 4 to 64."""
    contexts: tuple[int, ...]
    """Bits of each client's context, 1 at least."""
    quotas: tuple[int, ...]
    """Tags of each client, 1 at least; all of them are ``tags`` at most."""
    tags: int
    """A power of two from 2 to 256."""
    max_read_bytes: int
    """Largest TLP, and size of a slot: a power of two from 128 to 4096."""
    queues: int
    """Queue numbers that clients use, from 0 on."""

    def __post_init__(self) -> None:
        def power(value: int, low: int, high: int) -> bool:
            return low <= value <= high and not value & (value - 1)

        if not power(self.lanes, 4, 64):
            raise ValueError(f"lanes must be a power of two from 4 to 64, not {self.lanes!r}")
        if not power(self.tags, 2, 256):
            raise ValueError(f"tags must be a power of two from 2 to 256, not {self.tags!r}")
        if not power(self.max_read_bytes, 128, 4096):
            raise ValueError("max_read_bytes must be a power of two from 128 to 4096, "
                             f"not {self.max_read_bytes!r}")
        if not self.contexts or min(self.contexts) < 1:
            raise ValueError("there must be a client, and each context at least 1 bit, "
                             f"not {self.contexts!r}")
        if len(self.quotas) != len(self.contexts) or min(self.quotas) < 1 \
                or sum(self.quotas) > self.tags:
            raise ValueError(f"quotas must give each of {len(self.contexts)} clients a tag and be "
                             f"{self.tags} together at most, not {self.quotas!r}")
        if not 1 <= self.queues <= 1 << QUEUE_BITS:
            raise ValueError(f"queues must be from 1 to {1 << QUEUE_BITS}, not {self.queues!r}")

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.contexts)

    @property
    def client_bits(self) -> int:
        """Bits that name a client."""
        return max(1, (self.clients - 1).bit_length())

    @property
    def context_bits(self) -> int:
        """Bits of the widest context."""
        return max(self.contexts)

    @property
    def tag_bits(self) -> int:
        """Bits that name a tag, a slot, a group."""
        return (self.tags - 1).bit_length()

    @property
    def lane_bits(self) -> int:
        """Bits that name a lane."""
        return (self.lanes - 1).bit_length()

    @property
    def slot_bits(self) -> int:
        """Bits that name a byte of a slot."""
        return (self.max_read_bytes - 1).bit_length()

    @property
    def row_bits(self) -> int:
        """Bits that name a row (a beat) of a slot."""
        return self.slot_bits - self.lane_bits

    @property
    def rows_bits(self) -> int:
        """Bits of the rows that a piece takes, less one (one that is not sent may be long)."""
        return LENGTH_BITS + 1 - self.lane_bits


class TagLayout(data.StructLayout):
    """A tag and the client that has it."""

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({"tag": sizes.tag_bits, "client": sizes.client_bits})


class PieceLayout(data.StructLayout):
    """A piece of a segment, before it has a tag.

    ``ordinal`` pieces of the group came before it. A ``void`` piece is never sent; it ends a group
    that needs more tags than its client has, and ``bytes`` is all that the group still wanted.
    """

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "function": FUNCTION_BITS, "queue": QUEUE_BITS, "context": sizes.context_bits,
            "address": 64, "bytes": LENGTH_BITS, "lead": sizes.lane_bits, "fenced": 1,
            "first": 1, "last": 1, "void": 1, "ordinal": sizes.tag_bits + 1,
        })


class NoteLayout(data.StructLayout):
    """What is noted of a piece when it gets its tag.

    =========== ======================================================================
    field       meaning
    =========== ======================================================================
    tag         of this piece
    group       of the first piece of its group
    previous    of the piece before it; means nothing in the first one
    first, last in the group
    client, queue, context  of the group (``context`` in its first piece)
    requester   low byte of the requester ID
    bytes       length of the TLP
    end_address low bits of the address behind the last byte
    end_offset  place in the slot behind the last byte, around the slot's end
    count       what the end of this piece takes from the count of its group (`ReadGroups`)
    start_lane, end_lane  of the first and of the last byte
    rows        rows from the first to the last byte, less one
    =========== ======================================================================
    """

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "tag": sizes.tag_bits, "group": sizes.tag_bits, "previous": sizes.tag_bits,
            "first": 1, "last": 1, "client": sizes.client_bits, "queue": QUEUE_BITS,
            "context": sizes.context_bits, "requester": 8, "bytes": sizes.slot_bits + 1,
            "end_address": 7, "end_offset": sizes.slot_bits, "count": sizes.tag_bits + 1,
            "start_lane": sizes.lane_bits, "end_lane": sizes.lane_bits, "rows": sizes.rows_bits,
        })


class DoneLayout(data.StructLayout):
    """The end of a piece, good or bad."""

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "tag": sizes.tag_bits, "group": sizes.tag_bits, "client": sizes.client_bits,
            "count": sizes.tag_bits + 1, "error": ReadError,
        })


class GroupLayout(data.StructLayout):
    """A group of which all pieces have ended."""

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "group": sizes.tag_bits, "client": sizes.client_bits, "error": ReadError,
        })


class StoreBeatLayout(data.StructLayout):
    """A beat of a completion on its way into the store.

    Source lanes from ``skip`` on and below ``extent`` hold bytes that were asked for. Source lane 0
    belongs to place ``offset`` of the slot (around its end).
    """

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "data": 8 * sizes.lanes, "slot": sizes.tag_bits, "offset": sizes.slot_bits,
            "skip": 2, "extent": 14,
        })


class RowLayout(data.StructLayout):
    """A row of the store."""

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({"slot": sizes.tag_bits, "row": sizes.row_bits})


class StepLayout(data.StructLayout):
    """A row read for an answer. Its lanes from ``start`` on go into the client's open beat.

    ``closes``: the beat is complete with it. ``releases``: it is the last row of its piece. What is
    said of the beat (``first`` to ``error``) counts where it closes.
    """

    def __init__(self, sizes: ReadSizes) -> None:
        super().__init__({
            "slot": sizes.tag_bits, "row": sizes.row_bits, "start": sizes.lane_bits,
            "closes": 1, "releases": 1, "first": 1, "last": 1, "empty": sizes.lane_bits,
            "context": sizes.context_bits, "error": ReadError,
        })
