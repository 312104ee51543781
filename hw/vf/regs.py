"""Our own registers and counters, as plain data: what the hardware, the driver and the docs share.

Standard library alone. Offsets are in bytes, in the management BAR of the PF (`MANAGEMENT_BAR` of
`hw.pcie.bar_map`); every register has 32 bits, of which those that no field names read zero.
"""

from dataclasses import dataclass

__all__ = [
    "COUNTER_BANKS",
    "REGISTERS",
    "REGISTER_MAP_VERSION",
    "Counter",
    "CounterBank",
    "Field",
    "Register",
    "counter",
    "register",
]

REGISTER_MAP_VERSION = 1
"""Counts up when an offset or a meaning changes; something added leaves it."""


@dataclass(frozen=True)
class Field:
    """Bits ``low`` to ``low + bits - 1`` of a register.

    ``access`` is the software's: RO (writes have no effect), RW, or WO (reads zero; writing has an
    effect). ``source`` is where the hardware takes the value from: "constant" (fixed when the card
    is built), "live" (changes by itself), "software" (what was written).
    """

    name: str
    low: int
    bits: int
    access: str
    source: str
    meaning: str
    reset: int | None = 0
    """After a reset of the card; None where that depends on the card's configuration."""

    @property
    def mask(self) -> int:
        """Bits of the register that belong to the field."""
        return ((1 << self.bits) - 1) << self.low


@dataclass(frozen=True)
class Register:
    """A register of 32 bits."""

    offset: int
    name: str
    meaning: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        taken = 0
        if self.offset % 4:
            raise ValueError(f"{self.name}: offset {self.offset:#x} is no multiple of 4")
        for field in self.fields:
            if field.low + field.bits > 32 or taken & field.mask:
                raise ValueError(f"{self.name}: {field.name} overlaps, or lies outside")
            taken |= field.mask

    def field(self, name: str) -> Field:
        """Give the field called ``name``."""
        return next(field for field in self.fields if field.name == name)


@dataclass(frozen=True)
class Counter:
    """One thing that is counted: events, and bytes where ``bytes`` says so (else they stay 0)."""

    name: str
    meaning: str
    bytes: bool = False


@dataclass(frozen=True)
class CounterBank:
    """Counters of one source. ``of`` is "card" (one of each) or "function" (one for each function).

    The number of a bank, and of a counter in its bank, is its place in the list.
    """

    name: str
    of: str
    counters: tuple[Counter, ...]


COUNTER_BANKS: tuple[CounterBank, ...] = (
    CounterBank("wire_received", "card", (
        Counter("frames", "good frames from the wire", bytes=True),
    )),
    CounterBank("wire_dropped", "card", (
        Counter("entry_full", "frames from the wire that found the entry FIFO full"),
        Counter("frame_error", "frames from the wire that the MAC flagged as bad"),
        Counter("oversize", "frames from the wire longer than the longest frame"),
        Counter("runt", "frames from the wire shorter than an Ethernet header"),
    )),
    CounterBank("wire_sent", "card", (
        Counter("frames", "frames sent to the wire", bytes=True),
    )),
    CounterBank("admission_dropped", "function", (
        Counter("pool_full", "frames for the function that found too little room in the pool"),
        Counter("queue_full", "frames for a queue that held its share of the pool already"),
    )),
    CounterBank("received", "function", (
        Counter("frames", "frames written to the driver's buffers", bytes=True),
    )),
    CounterBank("receive_dropped", "function", (
        Counter("queue_down", "frames for a queue that did not run"),
        Counter("no_fit", "frames that were too long for the next buffer of their queue"),
    )),
    CounterBank("transmitted", "function", (
        Counter("frames", "frames of the driver given to the wire's queue", bytes=True),
    )),
    CounterBank("doorbells_ignored", "function", (
        Counter("bad_doorbell", "writes to the notify region that named no queue"),
    )),
    CounterBank("faults", "function", (
        Counter("faults", "faults of the driver's making, each of which stopped a queue"),
    )),
    CounterBank("completions_dropped", "card", (
        Counter("unexpected_completion", "completions that belong to no read in flight"),
    )),
)


def _constant(name: str, low: int, bits: int, meaning: str, reset: int | None = None) -> Field:
    return Field(name, low, bits, "RO", "constant", meaning, reset)


def _live(name: str, low: int, bits: int, meaning: str, reset: int | None = 0) -> Field:
    return Field(name, low, bits, "RO", "live", meaning, reset)


REGISTERS: tuple[Register, ...] = (
    Register(0x000, "identity", "tells that these registers are the card's", (
        _constant("magic", 0, 32, "the letters RNGL, the first in the lowest byte", 0x4C474E52),
    )),
    Register(0x004, "version", "of this register map", (
        _constant("map", 0, 16, "counts up when an offset or a meaning changes",
                  REGISTER_MAP_VERSION),
    )),
    Register(0x008, "functions", "what the card was built for", (
        _constant("functions", 0, 16, "the PF and its VFs"),
        _constant("stride", 16, 8, "data queues of a function"),
        _constant("banks", 24, 8, "counter banks", len(COUNTER_BANKS)),
    )),
    Register(0x00C, "queues", "what the card was built for", (
        _constant("size_max", 0, 16, "most entries of a queue"),
        _constant("lanes", 16, 8, "bytes of a beat of the packet streams"),
    )),
    Register(0x010, "frames", "what the card was built for", (
        _constant("max_bytes", 0, 16, "longest frame, without FCS"),
        _constant("clock_mhz", 16, 16, "clock in MHz"),
    )),
    Register(0x014, "status", "of the card", (
        _live("link_up", 0, 1, "the wire's link", reset=None),
    )),
    Register(0x018, "cycles_low", "clock cycles since the card was reset, low half", (
        _live("low", 0, 32, "reading it holds the high half", reset=None),
    )),
    Register(0x01C, "cycles_high", "clock cycles since the card was reset, high half", (
        _live("high", 0, 32, "as it was when the low half was read"),
    )),
    Register(0x040, "fault_log", "faults of drivers, the oldest first", (
        _live("held", 0, 8, "records in the log; where it is 0, the registers of a record mean "
                            "nothing"),
    )),
    Register(0x044, "fault_lost", "faults that found the log full", (
        _live("lost", 0, 32, "counts up to FFFFFFFFh and stays there"),
    )),
    Register(0x048, "fault_who", "the oldest record: whose fault it was", (
        _live("function", 0, 8, "the function", reset=None),
        _live("reason", 8, 4, "`FaultReason` of `hw.virtio.types`", reset=None),
        _live("queue", 16, 14, "the queue, in the numbers of the card", reset=None),
    )),
    Register(0x04C, "fault_address_low", "the oldest record: the address it was met at", (
        _live("low", 0, 32, "low half", reset=None),
    )),
    Register(0x050, "fault_address_high", "the oldest record: the address it was met at", (
        _live("high", 0, 32, "high half", reset=None),
    )),
    Register(0x054, "fault_next", "goes on to the next record", (
        Field("next", 0, 1, "WO", "software", "writing 1 throws the oldest record away"),
    )),
    Register(0x080, "counter_select", "which counter the four registers behind it show", (
        Field("function", 0, 8, "RW", "software", "the function; 0 for a counter of the card"),
        Field("counter", 8, 4, "RW", "software", "number in the bank"),
        Field("bank", 16, 8, "RW", "software", "number of the bank"),
    )),
    Register(0x084, "counter_events_low", "how often it happened", (
        _live("low", 0, 32, "low half; all four are as they were when the selection was written"),
    )),
    Register(0x088, "counter_events_high", "how often it happened", (
        _live("high", 0, 32, "high half"),
    )),
    Register(0x08C, "counter_bytes_low", "how many bytes it concerned", (
        _live("low", 0, 32, "low half; 0 where bytes are not counted"),
    )),
    Register(0x090, "counter_bytes_high", "how many bytes it concerned", (
        _live("high", 0, 32, "high half"),
    )),
    Register(0x0C0, "moderation_queue", "whose interrupts are to be moderated", (
        Field("queue", 0, 14, "RW", "software", "the data queue, in the numbers of the card"),
    )),
    Register(0x0C4, "moderation_limits", "how long its interrupts may be held back", (
        Field("max_packets", 0, 16, "RW", "software", "until so many chains were used"),
        Field("max_usecs", 16, 16, "RW", "software",
              "or the first of them so many microseconds ago; nothing is held back if either is 0"),
    )),
    Register(0x0C8, "moderation_apply", "gives the queue these limits", (
        Field("apply", 0, 1, "WO", "software",
              "writing 1 sets them, until its driver resets the queue or the function"),
    )),
    Register(0x0D0, "position_queue", "of which queue the position is read or loaded", (
        Field("queue", 0, 14, "RW", "software", "the queue, in the numbers of the card"),
    )),
    Register(0x0D4, "position_load", "where it is to begin", (
        Field("position", 0, 16, "RW", "software",
              "the index; in a packed ring the place, and the wrap counter above it in bit 15"),
    )),
    Register(0x0D8, "position_command", "what is to be done", (
        Field("read", 0, 1, "WO", "software", "writing 1 brings the position"),
        Field("load", 1, 1, "WO", "software",
              "writing 1 loads it, until the queue is reset; before the queue is started"),
    )),
    Register(0x0DC, "position_state", "what came of the command", (
        _live("position", 0, 16, "in the same terms; 0 for a queue that begins at the beginning of "
              "its ring, of either kind"),
        _live("busy", 16, 1, "nothing has come of it yet"),
        _live("started", 17, 1, "the queue was started since its last reset"),
        _live("loaded", 18, 1, "its position was loaded since then"),
        _live("refused", 19, 1, "no such queue; or it was to be loaded, and is started already"),
    )),
)


def register(name: str) -> Register:
    """Give the register called ``name``."""
    return next(each for each in REGISTERS if each.name == name)


def counter(bank: str, name: str) -> tuple[int, int]:
    """Give the numbers of a bank and of a counter in it: fields of ``counter_select``."""
    number = next(n for n, each in enumerate(COUNTER_BANKS) if each.name == bank)
    return number, [each.name for each in COUNTER_BANKS[number].counters].index(name)
