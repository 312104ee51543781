"""Drivers' queues for a `Prefetch`, made by what was agreed on."""

from __future__ import annotations

from collections.abc import Collection

from tests.unit.prefetch_memory import PAGE, QUEUES, Memory
from tests.unit.prefetch_packed_queue import PackedQueue
from tests.unit.prefetch_split_queue import SplitQueue

__all__ = ["make_queue"]



def make_queue(number: int, size: int, page: int, memory: Memory, *, modes: Collection[str] = (),
               first_position: int = 0, table_max: int = 0) -> SplitQueue | PackedQueue:
    """Make a queue of the kind that its modes say, with its rings in this page.

    Only split rings begin at ``first_position``.
    """
    assert 0 < page < QUEUES
    kind = PackedQueue if "packed" in modes else SplitQueue
    return kind(number, size, PAGE * page, memory, modes=modes, first_position=first_position,
                table_max=table_max)
