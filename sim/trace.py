"""The way of a packet through the card, told from the TLPs and frames that were seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tb.root_complex import TlpRecord
from tb.wire import WireFrame

__all__ = ["Step", "annotate"]


@dataclass(frozen=True)
class Step:
    """One arrow of the ladder: between the host and the card, or the card and the wire."""

    cycle: int
    source: str
    target: str
    name: str
    detail: str

    def row(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return asdict(self)


_EVENT_BYTES = 2  # at the end of both rings: the index from which on the other side is told


def _of_write(region: Any, offset: int) -> str:
    if region.name.endswith("used ring"):
        return {0: "kick suppression", 2: "used index",
                region.size - _EVENT_BYTES: "kick event"}.get(offset, "used entry")
    if region.name.endswith("descriptor ring"):
        return "used descriptor"
    if region.name.endswith("device events"):
        return "kick event"
    return "frame" if "buffer" in region.name else str(region.name)


def _of_read(region: Any, offset: int) -> str:
    if region.name.endswith("available ring"):
        return {0: "interrupt suppression", 2: "available index",
                region.size - _EVENT_BYTES: "interrupt event"}.get(offset, "available ring")
    if region.name.endswith(("descriptors", "descriptor ring")):
        return "descriptor"
    if region.name.endswith("driver events"):
        return "interrupt event"
    return "frame" if "buffer" in region.name else str(region.name)


def annotate(find: Callable[[int], Any], log: Iterable[TlpRecord],
             frames: Iterable[WireFrame]) -> list[Step]:
    """Name each TLP by the memory at its address, which ``find`` gives, and sort all by cycle."""
    steps = []
    asked: dict[int, str] = {}
    for record in log:
        region = find(record.address) if record.address >= 0 else None
        size = f"{record.size} B"
        if record.channel == "cq":
            name = "doorbell" if record.kind == "MEM_WRITE" else record.kind.lower()
            steps.append(Step(record.cycle, "host", "card", name, size))
        elif record.channel == "rq" and record.kind == "MEM_READ":
            name = _of_read(region, record.address - region.address) \
                if region else "frame"  # its buffer has been given back since
            asked[record.tag] = name
            steps.append(Step(record.cycle, "card", "host", f"read {name}", size))
        elif record.channel == "rc":
            steps.append(Step(record.cycle, "host", "card", asked.get(record.tag, "data"), size))
        elif record.channel == "rq":
            name = _of_write(region, record.address - region.address) \
                if region else "interrupt" if record.size == 4 else "frame"
            steps.append(Step(record.cycle, "card", "host", name, size))
    for frame in frames:
        out = frame.direction == "tx"
        steps.append(Step(frame.first_cycle, "card" if out else "wire", "wire" if out else "card",
                          "frame on the wire", f"{len(frame.data)} B"))
    return sorted(steps, key=lambda step: step.cycle)
