"""How the host answers a memory read: cut into completions by the rules of PCI Express."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from hw.pcie.types import CompletionStatus
from tb.tlp import Completion, Request

__all__ = ["Fault", "FaultKind", "Splitting", "answer", "cuts"]

Splitting = Literal["large", "small", "random"]


class FaultKind(Enum):
    """What goes wrong with a read."""

    UNSUPPORTED = "unsupported request"
    ABORT = "completer abort"
    POISONED = "poisoned data"
    NEVER = "no answer"
    LATE = "late answer"


@dataclass
class Fault:
    """Reads that touch ``size`` bytes at ``address`` go wrong, ``count`` times (None: always).

    Completions before the one that touches the range are good. An error status ends the read.
    """

    address: int
    size: int
    kind: FaultKind
    count: int | None = None
    late_cycles: int = 0

    def touches(self, address: int, size: int) -> bool:
        """Whether the fault concerns these bytes (and is not used up)."""
        return (self.count != 0 and address < self.address + self.size
                and self.address < address + size)

    def use(self) -> None:
        """Count one read that went wrong."""
        if self.count is not None:
            self.count -= 1


def cuts(address: int, size: int, *, boundary: int, max_payload: int, splitting: Splitting,
         rng: random.Random) -> list[tuple[int, int]]:
    """Cut a read into ``(address, bytes)``, in address order.

    Every cut lies on a multiple of ``boundary`` (the read completion boundary, 64 or 128), and no
    completion carries more than ``max_payload`` bytes of whole dwords.
    """
    pieces = []
    end = address + size
    while address < end:
        furthest = min(end, (address & ~3) + max_payload)
        nearest = (address // boundary + 1) * boundary
        if end <= nearest:
            stop = end
        else:
            # A completion that stops short of the end stops on a boundary.
            choices = list(range(nearest, furthest + 1, boundary))
            if furthest == end and end not in choices:
                choices.append(end)
            stop = {"large": choices[-1], "small": choices[0]}.get(splitting) or rng.choice(choices)
        pieces.append((address, stop - address))
        address = stop
    return pieces


def answer(request: Request, address: int, size: int, left: int, data: bytes, *,
           status: CompletionStatus = CompletionStatus.SUCCESS, poisoned: bool = False,
           completer_id: int = 0) -> Completion:
    """Make the completion for ``size`` bytes at ``address``, with ``left`` bytes still to come.

    ``left`` counts this completion's bytes. ``data`` are its bytes alone; what fills the dwords
    at both ends means nothing.
    """
    payload = b""
    if status == CompletionStatus.SUCCESS:
        lead = address & 3
        payload = b"\xbd" * lead + data + b"\xbd" * (-(lead + size) & 3)
    return Completion(
        status=status, byte_count=left, lower_address=address & 0x7F, dwords=len(payload) // 4,
        requester_id=request.requester_id, completer_id=completer_id, tag=request.tag,
        traffic_class=request.traffic_class, attributes=request.attributes,
        poisoned=int(poisoned), payload=payload)
