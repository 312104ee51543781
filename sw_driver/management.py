"""The operator's side of the PF: counters, fault log, moderation, positions, what was built."""

from __future__ import annotations

from dataclasses import dataclass

from hw.vf.regs import COUNTER_BANKS, Field, counter, register
from sw_driver.pci import PciFunction

__all__ = ["Count", "FaultRecord", "Management", "ManagementError", "Position"]

_BAR = 0


class ManagementError(Exception):
    """The registers are not those of a card that this driver knows."""


@dataclass(frozen=True)
class Count:
    """What a counter holds."""

    events: int
    bytes: int


@dataclass(frozen=True)
class Position:
    """Where a queue stands."""

    value: int
    """The index; in a packed ring the place in the ring, and the wrap counter in bit 15.

    0 for a queue that begins at the beginning of its ring, of either kind.
    """
    started: bool
    """Since its last reset."""
    loaded: bool
    """Since its last reset, and so does not begin, or did not, at the beginning."""


@dataclass(frozen=True)
class FaultRecord:
    """A fault as the card noted it."""

    function: int
    queue: int
    """In the numbers of the card."""
    reason: int
    """`FaultReason` of `hw.virtio.types`."""
    address: int


class Management:
    """The management registers of a physical function, whose memory decoding is on."""

    def __init__(self, function: PciFunction) -> None:
        self._port = function.port
        if _BAR not in function.bars:
            raise ManagementError(f"function {function.bdf:04x} has no BAR {_BAR}")
        self._base = function.bars[_BAR].address

    async def read(self, name: str, field: str | None = None) -> int:
        """Read a register of `hw.vf.regs`, or one field of it."""
        row = register(name)
        value = await self._port.mmio_read(self._base + row.offset, 4)
        return value if field is None else _extract(row.field(field), value)

    async def write(self, name: str, value: int) -> None:
        """Write a register."""
        await self._port.mmio_write(self._base + register(name).offset, 4, value)

    async def check(self) -> None:
        """See that this is the card, and a register map that is known."""
        magic = register("identity").field("magic").reset
        if await self.read("identity") != magic:
            raise ManagementError("these are not the management registers of the card")
        known = register("version").field("map").reset
        found = await self.read("version", "map")
        if found != known:
            raise ManagementError(f"register map {found}, must be {known}")

    async def count(self, bank: str, name: str, function: int = 0) -> Count:
        """Read a counter; both halves of both numbers are of one moment."""
        number, row = counter(bank, name)
        select = register("counter_select")
        await self.write("counter_select", function << select.field("function").low
                         | row << select.field("counter").low
                         | number << select.field("bank").low)
        low = await self.read("counter_events_low")
        high = await self.read("counter_events_high")
        bytes_low = await self.read("counter_bytes_low")
        bytes_high = await self.read("counter_bytes_high")
        return Count(high << 32 | low, bytes_high << 32 | bytes_low)

    async def drops(self, functions: int = 1) -> dict[str, int]:
        """Give every counter of dropped frames, by its name, over all functions."""
        found = {}
        for bank in COUNTER_BANKS:
            if bank.name in ("wire_dropped", "admission_dropped", "receive_dropped"):
                of = range(functions if bank.of == "function" else 1)
                for each in bank.counters:
                    found[each.name] = sum([
                        (await self.count(bank.name, each.name, function)).events
                        for function in of])
        return found

    async def moderate(self, queue: int, *, function: int = 0, max_packets: int,
                       max_usecs: int) -> None:
        """Hold interrupts of a function's data queue back until either limit is reached.

        0 for either: no longer. A reset of the queue or of the function ends it as well.
        """
        built = register("functions")
        value = await self.read("functions")
        functions, stride = (
            _extract(built.field(name), value) for name in ("functions", "stride"))
        for name, given, end in (("function", function, functions), ("queue", queue, stride),
                                 ("max_packets", max_packets, 1 << 16),
                                 ("max_usecs", max_usecs, 1 << 16)):
            if not 0 <= given < end:
                raise ValueError(f"{name} must be from 0 to {end - 1}, not {given!r}")
        limits = register("moderation_limits")
        await self.write("moderation_queue", function * stride + queue)
        await self.write("moderation_limits", max_packets << limits.field("max_packets").low
                         | max_usecs << limits.field("max_usecs").low)
        await self.write("moderation_apply", 1)

    async def position(self, queue: int) -> Position:
        """Tell where a queue stands, which is named in the numbers of the card."""
        return await self._position(queue, "read")

    async def load_position(self, queue: int, position: int) -> None:
        """Have a queue begin at a position, if it was not started since its last reset.

        Until it is reset again. `ManagementError` if it was started, or does not exist. The
        position is the index; in a packed ring the place in the ring, and the wrap counter in bit
        15.
        """
        if not 0 <= position < 1 << 16:
            raise ValueError(f"position must be from 0 to 65535, not {position!r}")
        await self.write("position_load", position)
        await self._position(queue, "load")

    async def _position(self, queue: int, command: str) -> Position:
        if not 0 <= queue < 1 << register("position_queue").field("queue").bits:
            raise ValueError(f"queue must be from 0 to 16383, not {queue!r}")
        await self.write("position_queue", queue)
        await self.write("position_command", register("position_command").field(command).mask)
        state = register("position_state")
        while (value := await self.read("position_state")) & state.field("busy").mask:
            await self._port.sleep(10)
        if value & state.field("refused").mask:
            raise ManagementError(f"there is no queue {queue}, or it is started already")
        return Position(value=_extract(state.field("position"), value),
                        started=bool(value & state.field("started").mask),
                        loaded=bool(value & state.field("loaded").mask))

    async def take_fault(self) -> FaultRecord | None:
        """Take the oldest fault out of the log; None when there is none."""
        if not await self.read("fault_log", "held"):
            return None
        who = register("fault_who")
        value = await self.read("fault_who")
        low = await self.read("fault_address_low")
        high = await self.read("fault_address_high")
        await self.write("fault_next", 1)
        return FaultRecord(
            function=_extract(who.field("function"), value),
            queue=_extract(who.field("queue"), value),
            reason=_extract(who.field("reason"), value), address=high << 32 | low)


def _extract(field: Field, value: int) -> int:
    return (value & field.mask) >> field.low
