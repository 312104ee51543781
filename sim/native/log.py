"""The engine's log of TLPs as the bench keeps it, and as a text that a person can read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hw.pcie.types import CompletionStatus, RequestKind
from tb.root_complex import Channel, TlpRecord

__all__ = ["as_records", "as_text"]

_CHANNELS: tuple[Channel, ...] = ("cq", "cc", "rq", "rc")
_NOWHERE = (1 << 64) - 1


def as_records(log: np.ndarray[Any, Any]) -> list[TlpRecord]:
    """Give the records of `Engine.take_tlps` as those of the bench's root complex."""
    found = []
    for record in log:
        channel = _CHANNELS[record["channel"]]
        kinds: Any = RequestKind if channel in ("cq", "rq") else CompletionStatus
        address = int(record["address"])
        found.append(TlpRecord(
            int(record["cycle"]), channel, kinds(int(record["kind"])).name,
            -1 if address == _NOWHERE else address, int(record["size"]), int(record["tag"]),
            int(record["requester_id"]), bytes(record["data"].tobytes())))
    return found


def as_text(records: Iterable[TlpRecord]) -> str:
    """Write a line for each TLP: cycle, direction, what, where, how much, tag, first bytes."""
    lines = [f"{'cycle':>9}  {'way':<16} {'TLP':<14} {'address':>18} {'bytes':>6} {'tag':>4}  data"]
    for record in records:
        way = {"cq": "host -> card", "cc": "host <- card", "rq": "card -> host",
               "rc": "card <- host"}[record.channel]
        where = f"{record.address:#x}" if record.address >= 0 else ""
        carries = record.channel in ("cc", "rc") or record.kind.endswith("WRITE")
        data = record.data[:min(record.size, 16)].hex(" ", 4) if carries else ""
        lines.append(f"{record.cycle:>9}  {way:<16} {record.kind:<14} {where:>18} "
                     f"{record.size:>6} {record.tag:>4}  {data}".rstrip())
    return "\n".join(lines) + "\n"
