"""What is seen of a hostile queue, held against what may be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from hw.virtio.types import FaultReason
from sim.fuzz.arena import Broken
from sim.fuzz.chains import HEADER, NUMBER_BYTES, frame_of
from sim.fuzz.driver import TLP_LOG
from sim.fuzz.rings import Fate, HostileRing, Used
from sim.native.engine import Engine
from sw_driver.layouts import NetHeader
from sw_driver.management import FaultRecord

__all__ = ["Books", "Judge", "WireBook"]

_REQUEST = 2  # channel of the log of TLPs: requests of the card
_WRITE_KIND = 1
_REGION = re.compile(r"rq (read|write) of (\d+) bytes at 0x([0-9a-f]+): memory that no driver gave")


@dataclass
class Books:
    """What was counted."""

    chains: int = 0
    """Given by hostile drivers, good ones and mistakes."""
    used: int = 0
    honest: int = 0
    """Frames of the honest queues that arrived."""
    accesses: int = 0
    """Reads and writes of the card in the memory of hostile queues."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Mistakes, and other deeds."""
    faults: Counter[str] = field(default_factory=Counter)
    """By reason."""
    resets: Counter[str] = field(default_factory=Counter)
    cycles: int = 0
    engine_cpu_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, other: Books) -> None:
        """Count what another one has counted as well."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass
class WireBook:
    """What came from the wire for the hostile queues of a card."""

    sizes: list[int] = field(default_factory=list)
    """Bytes of each frame, by its number."""
    last: int = -1
    """The frame that was received last."""


class Judge:
    """Holds against the rules what the card does with one ring. `Broken` at the first breach.

    Parameters
    ----------
    engine
        With the card.
    ring
        The hostile ring.
    books
        Where things are counted.
    transmit
        Whether it is a transmit queue.
    wire
        What came from the wire, over all rings of the card.
    """

    def __init__(self, engine: Engine, ring: HostileRing, books: Books, *, transmit: bool,
                 wire: WireBook) -> None:
        self.engine = engine
        self.ring = ring
        self.books = books
        self.transmit = transmit
        self.wire = wire
        self.used: list[Used] = []
        self.sent: list[bytes] = []
        """What the hostile queue has put on the wire."""
        self.chaos = False
        """The ring is scrambled: nothing is known of chains any more."""
        self._parts: list[bytes] = []
        self._missing = 0
        self._skip = False

    # --- accesses

    def look(self) -> None:
        """See every access and violation since the last look."""
        arena = self.ring.arena
        tlps = self.engine.take_tlps()
        if len(tlps) >= TLP_LOG:
            raise RuntimeError("the log of TLPs was full: look more often")
        mine = tlps[(tlps["channel"] == _REQUEST) & (tlps["address"] < arena.end)
                    & (tlps["address"] + tlps["size"] > arena.start)]
        self.books.accesses += len(mine)
        for address, size, kind in zip(mine["address"].tolist(), mine["size"].tolist(),
                                       mine["kind"].tolist(), strict=True):
            if not arena.allows(address, size, written=kind == _WRITE_KIND):
                raise Broken(f"{'write' if kind == _WRITE_KIND else 'read'} of {size} bytes at "
                             f"{address:#x}, which nothing names")
        for cycle, text in self.engine.take_violations():
            found = _REGION.fullmatch(text)
            if found is None or not arena.allows(int(found[3], 16), int(found[2]),
                                                 written=found[1] == "write"):
                raise Broken(f"cycle {cycle}: {text}")

    def late(self, answered_at: int) -> None:
        """See that nothing of the ring was touched after the answer of a reset."""
        arena, tlps = self.ring.arena, self.engine.take_tlps()
        late = tlps[(tlps["channel"] == _REQUEST) & (tlps["cycle"] > answered_at)
                    & (tlps["address"] >= arena.start) & (tlps["address"] < arena.end)]
        if len(late):
            raise Broken(f"an access at {int(late[0]['address']):#x} after the reset")

    def scrambled(self) -> None:
        """Know nothing of chains from now on; what was named once may be touched again."""
        self.chaos = True
        self.ring.arena.restore()

    # --- chains

    def take(self) -> None:
        """Take what the hostile queue has used; its buffers are not the card's any more."""
        self.look()
        if self.chaos:
            return
        for used in self.ring.poll():
            self.books.used += 1
            self.used.append(used)
            chain = used.chain
            if chain.fate is not Fate.GOOD:
                raise Broken(f"chain {chain.order} is used: {chain.why}")
            if self.transmit:
                if used.written:
                    raise Broken(f"{used.written} bytes written to chain {chain.order}, to send")
            else:
                self._received(used)
            for address, size, written in chain.named:
                self.ring.arena.forget(address, size, written=written)

    def _received(self, used: Used) -> None:
        """See that what was written is a frame that came, or the next part of one."""
        chain, written = used.chain, used.written
        if written is None:
            raise Broken(f"chain {chain.order}, to receive, has no used entry of its own")
        if written > chain.room:
            raise Broken(f"{written} bytes written to chain {chain.order}, with room for "
                         f"{chain.room}")
        data, left = b"", written
        for address, size in chain.buffers:
            part = min(left, size)
            data += bytes(part) if chain.lost else self.ring.arena.read(address, part)
            left -= part
        if not self._parts:
            if written < HEADER:
                raise Broken(f"chain {chain.order}: {written} bytes of a frame")
            header = NetHeader.unpack(data)
            self._missing = 1 if chain.lost else header.num_buffers
            if not chain.lost and data[:HEADER] != NetHeader(num_buffers=self._missing).pack():
                raise Broken(f"chain {chain.order}: the header is {data[:HEADER].hex()}")
            if self._missing < 1 or (self._missing > 1 and not self.ring.modes.mrg_rxbuf):
                raise Broken(f"chain {chain.order}: a frame over {self._missing} chains")
        self._parts.append(data)
        self._missing -= 1
        if self._missing:
            if written != chain.room:
                raise Broken(f"chain {chain.order} is not full, and the frame goes on")
            return
        frame = b"".join(self._parts)[HEADER:]
        self._parts = []
        if not chain.lost:
            self._arrived(frame, f"chain {chain.order}")

    def _arrived(self, frame: bytes, where: str) -> None:
        number = int.from_bytes(frame[:NUMBER_BYTES], "big")
        wire = self.wire
        if not wire.last < number < len(wire.sizes) or (
                frame != frame_of(number, wire.sizes[number])):
            raise Broken(f"{where}: no frame that came, or not in order: {frame[:16].hex()}, "
                         f"{len(frame)} bytes, after {wire.last}")
        wire.last = number

    def order(self) -> None:
        """See that chains were used in the order of the ring, each once, none behind a mistake."""
        if self.chaos:
            return
        given = self.ring.given
        stop = next((chain.order for chain in given if chain.fate is Fate.BAD), len(given))
        late = next((chain.order for chain in given if chain.fate is Fate.LATE), len(given))
        orders = [used.chain.order for used in self.used]
        if orders != sorted(set(orders)):
            raise Broken("chains are not used in the order of the ring")
        if orders and orders[-1] > stop:
            raise Broken(f"chain {orders[-1]} is used, behind chain {stop}: {given[stop].why}")
        before = [order for order in orders if order < late]
        if before != list(range(len(before))):
            raise Broken("a chain was left out")

    def sent_all(self) -> bool:
        """See that what left are the frames of the chains, in order; whether of all used ones."""
        if self.chaos:
            return True
        wanted = [used.chain.frame for used in self.used if used.chain.fate is Fate.GOOD]
        late = any(chain.fate is Fate.LATE for chain in self.ring.given)
        # Frames leave about when their chains are used, and none of a mistake ever does.
        may = wanted if late else [chain.frame for chain in self.ring.given]
        if late:
            left = iter(chain.frame for chain in self.ring.given)
            if not all(any(frame == other for other in left) for frame in self.sent):
                raise Broken("a frame left that is in no chain, or out of order")
        elif self.sent != may[:len(self.sent)]:
            raise Broken("a frame left that is in no chain, or out of order")
        return len(self.sent) >= len(wanted)

    # --- faults

    def reasons(self) -> frozenset[int]:
        """Give what a fault of this ring may be: the mistake that is met first is not always the
        first of the ring, as what needs further reads is known later."""
        found: frozenset[int] = frozenset()
        for chain in self.ring.given:
            found |= chain.reasons
        return found

    def faults(self, records: Sequence[FaultRecord], victim: int,
               reasons: frozenset[int] | None) -> None:
        """See that records are of this queue, for reasons that there were (None: any).

        A queue stops at its first fault. A descriptor that is wrong and a frame that cannot be read
        may be found at once, in two places.
        """
        failed = FaultReason.READ_FAILED.value
        reads = sum(record.reason == failed for record in records)
        if len(records) > 2 or len(records) - reads > 1:
            raise Broken(f"several faults of one queue: {records}")
        for record in records:
            self._fault(record, victim, reasons)

    def _fault(self, record: FaultRecord, victim: int, reasons: frozenset[int] | None) -> None:
        reason = FaultReason(record.reason)
        self.books.faults[reason.name] += 1
        if (record.function, record.queue) != (0, victim):
            raise Broken(f"the fault of another queue: {record}")
        if reasons is not None and record.reason not in reasons:
            names = " or ".join(FaultReason(each).name for each in sorted(reasons))
            raise Broken(f"the fault is {reason.name}, not {names or 'none'}")
