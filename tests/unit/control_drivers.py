"""Drivers of control queues: split and packed rings, commands in them, and their answers."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

__all__ = ["CANARY", "INDIRECT", "KEPT", "NEXT", "WRITE", "Buffer", "Command", "Driver",
           "PackedDriver", "SplitDriver"]

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
OK, ERR = 0, 1
CANARY = 0xA5
KEPT = 64            # bytes of a command
DESCRIPTORS_MAX = 64
_DRIVER, _DEVICE, _TABLES, _BUFFERS, _END = 0x5000, 0x6000, 0x8000, 0x1_0000, 0x2_0000

Buffer = tuple[int, int, bool]
"""Address, length, whether the device writes it."""


@dataclass
class Command:
    """A command that was given to the card, and what is to become of it."""

    content: bytes
    buffers: list[Buffer]
    id: int
    slots: int         # of the used entry
    places: list[int]  # descriptors that it takes
    pairs: int | None
    ack: int | None    # None where nothing can be written
    ack_accepted: bool = False

    @property
    def writable(self) -> list[Buffer]:
        return [buffer for buffer in self.buffers if buffer[2]]


class Driver:
    """A driver and its control queue, in memory of its own."""

    packed: bool

    def __init__(self, function: int, size: int, *, event_idx: bool, indirect: bool,
                 max_pairs: int, seed: int, first_position: int = 0) -> None:
        self.function = function
        self.size = size
        self.event_idx = event_idx
        self.indirect = indirect
        self.max_pairs = max_pairs
        self.first_position = first_position
        self.mq = True
        self.rng = random.Random(seed)
        self.base = (function + 1) << 40 | 0xFFFE_0000  # the lower half is left while going through
        self.memory = bytearray(_END)
        self.posted: deque[Command] = deque()  # not yet used
        self.landing: deque[Command] = deque()  # used, and the driver does not see it yet
        self.running = True
        self.answered: list[Command] = []
        self.faulty = False
        self.restart()

    @property
    def desc(self) -> int:
        return self.base

    @property
    def driver(self) -> int:
        return self.base + _DRIVER + (0 if self.packed else 2)  # as ill aligned as may be

    @property
    def device(self) -> int:
        return self.base + _DEVICE + 4

    @property
    def event(self) -> tuple[int, int]:
        """Address and length of what the card writes to be kicked."""
        return (self.device, 4) if self.packed else (self.device + 4 + 8 * self.size, 2)

    def config(self) -> dict[str, Any]:
        return {"desc": self.desc, "driver": self.driver, "device": self.device,
                "size": self.size, "vector": 0xFFFF, "running": int(self.running),
                "modes": {"event_idx": int(self.event_idx), "ring_packed": int(self.packed),
                          "indirect_desc": int(self.indirect)}}

    def restart(self) -> None:
        """Begin again with empty rings."""
        self.memory[:] = bytes(_END)
        self.memory[_BUFFERS:] = bytes([CANARY]) * (_END - _BUFFERS)
        self.posted.clear()
        self.landing.clear()
        self.cursor = _BUFFERS
        self.table_cursor = _TABLES
        self.faulty = False

    def move(self, rng: random.Random) -> int:
        """Begin again anywhere, as after another device; give the position as the card has it."""
        self.first_position = (rng.randrange(self.size) | rng.getrandbits(1) << 15
                               if self.packed else rng.getrandbits(16))
        self.restart()
        return self.first_position

    def write(self, address: int, value: int, length: int) -> None:
        at = address - self.base
        self.memory[at:at + length] = value.to_bytes(length, "little")

    def read(self, address: int, length: int) -> int:
        at = address - self.base
        return int.from_bytes(self.memory[at:at + length], "little")

    def check_read(self, address: int, length: int) -> None:
        """See that the card may read there: in this memory, and nothing that it is to write."""
        end = address + length
        assert self.base <= address and end <= self.base + _END
        assert not self.device <= address < self.base + _TABLES, "the device's area is read"
        for command in self.posted:
            for at, size, _write in command.writable:
                assert end <= at or at + size <= address, "a writable buffer is read"

    def allocate(self, length: int) -> int:
        """Memory for a buffer, at any address, apart from its neighbours."""
        if self.cursor + length + 16 > _END:
            self.cursor = _BUFFERS
        at = self.cursor + self.rng.randint(1, 8)
        self.cursor = at + length
        self.memory[at:at + length] = bytes([CANARY]) * length
        return self.base + at

    def allocate_table(self, entries: int) -> int:
        if self.table_cursor + 16 * entries > _BUFFERS:
            self.table_cursor = _TABLES
        at = self.table_cursor
        self.table_cursor += 16 * entries
        return self.base + at

    def buffers(self, content: bytes, readable: int, writable: list[int]) -> list[Buffer]:
        """Cut the content into so many buffers anyhow; behind them such writable ones."""
        cuts = sorted(self.rng.sample(range(1, len(content)), min(readable, len(content)) - 1)
                      if content else [])
        ends = [*cuts, len(content)] if content else []
        made: list[Buffer] = []
        at = 0
        for end in ends:
            address = self.allocate(end - at)
            self.memory[address - self.base:address - self.base + end - at] = content[at:end]
            made.append((address, end - at, False))
            at = end
        return made + [(self.allocate(length), length, True) for length in writable]

    def expect(self, content: bytes, writable: bool) -> tuple[int | None, int | None]:
        """The pairs that are set, and the answer."""
        if not writable:
            return None, None
        pairs = int.from_bytes(content[2:4], "little")
        if (4 <= len(content) <= KEPT and content[:2] == b"\x04\x00" and self.mq
                and 1 <= pairs <= self.max_pairs):
            return pairs, OK
        return None, ERR

    def give(self, content: bytes, *, readable: int = 2, writable: tuple[int, ...] = (1,),
             table: int | None = None) -> Command:
        """Make a command available. ``table``: descriptors from this one on lie in a table."""
        buffers = self.buffers(content, readable, list(writable))
        pairs, ack = self.expect(content, bool(writable))
        command = self.place(buffers, table)
        command.content, command.pairs, command.ack = content, pairs, ack
        self.posted.append(command)
        self.publish()
        return command

    def free(self) -> int:
        """Descriptors that can be taken."""
        raise NotImplementedError

    def place(self, buffers: list[Buffer], table: int | None) -> Command:
        """Write the descriptors."""
        raise NotImplementedError

    def publish(self) -> None:
        """Make what was placed available."""

    def wants_kick(self) -> bool:
        """Decide about a kick for what was given since the last decision."""
        raise NotImplementedError

    def take_back(self, command: Command) -> None:
        """The driver sees that the command is used."""
        raise NotImplementedError


class SplitDriver(Driver):
    """With a split ring."""

    packed = False

    def restart(self) -> None:
        super().restart()
        self.free_list = list(range(self.size))
        self.rng.shuffle(self.free_list)
        self.index = self.first_position
        self.decided = self.index
        self.publish()

    def free(self) -> int:
        return len(self.free_list)

    def descriptor(self, at: int, buffer: tuple[int, int], flags: int, next_: int) -> None:
        self.write(at, buffer[0] | buffer[1] << 64 | flags << 96 | next_ << 112, 16)

    def entry(self, head: int) -> None:
        """Put a head into the ring; not available before `publish`."""
        self.write(self.driver + 4 + 2 * (self.index % self.size), head, 2)
        self.index = (self.index + 1) & 0xFFFF

    def publish(self) -> None:
        self.write(self.driver + 2, self.index, 2)

    def place(self, buffers: list[Buffer], table: int | None) -> Command:
        direct = buffers if table is None else buffers[:table]
        inner = [] if table is None else buffers[table:]
        numbers = [self.free_list.pop() for _ in range(len(direct) + bool(inner))]
        for place, (address, length, write) in enumerate(direct):
            last = place == len(numbers) - 1
            next_ = self.rng.getrandbits(16) if last else numbers[place + 1]
            self.descriptor(self.desc + 16 * numbers[place], (address, length),
                            WRITE * write | NEXT * (not last), next_)
        if inner:
            # The entries lie anyhow, but for the first.
            entries = len(inner) + self.rng.randint(0, 3)
            at = self.allocate_table(entries)
            order = [0, *self.rng.sample(range(1, entries), len(inner) - 1)]
            for place, (address, length, write) in enumerate(inner):
                last = place == len(inner) - 1
                next_ = self.rng.getrandbits(16) if last else order[place + 1]
                self.descriptor(at + 16 * order[place], (address, length),
                                WRITE * write | NEXT * (not last), next_)
            self.descriptor(self.desc + 16 * numbers[-1], (at, 16 * entries),
                            INDIRECT | self.rng.choice([0, WRITE]), self.rng.getrandbits(16))
        self.entry(numbers[0])
        return Command(b"", buffers, numbers[0], 1, numbers, None, None)

    def wants_kick(self) -> bool:
        entries = range(self.decided, self.decided + ((self.index - self.decided) & 0xFFFF))
        self.decided = self.index
        if self.event_idx:
            event = self.read(self.event[0], 2)
            return any(entry & 0xFFFF == event for entry in entries)
        return bool(entries)  # the flags are never written

    def take_back(self, command: Command) -> None:
        self.free_list += command.places


class PackedDriver(Driver):
    """With a packed ring."""

    packed = True

    def restart(self) -> None:
        super().restart()
        self.next = self.used = self.first_position & 0x7FFF
        self.wrap = self.used_wrap = 1 - (self.first_position >> 15)
        for place in range(self.size):  # as used in the lap before
            used = self.wrap ^ (place >= self.next)
            self.write(self.desc + 16 * place + 14, (AVAIL | USED) * used, 2)
        self.room = self.size
        self.ids = list(range(self.size))
        self.since: list[tuple[int, int]] = []  # places given since the last decision

    def free(self) -> int:
        return self.room

    def descriptor(self, at: int, buffer: tuple[int, int], id_: int, flags: int) -> None:
        self.write(at, buffer[0] | buffer[1] << 64 | id_ << 96 | flags << 112, 16)

    def step(self) -> tuple[int, int]:
        """Take the next place, and its flags."""
        place, flags = self.next, AVAIL if self.wrap else USED
        self.since.append((self.next, self.wrap))
        self.room -= 1
        self.next += 1
        if self.next == self.size:
            self.next, self.wrap = 0, 1 - self.wrap
        return place, flags

    def place(self, buffers: list[Buffer], table: int | None) -> Command:
        id_ = self.ids.pop(self.rng.randrange(len(self.ids)))
        if table is not None:
            # Side by side, and only WRITE means something.
            at = self.allocate_table(len(buffers))
            for place, (address, length, write) in enumerate(buffers):
                junk = self.rng.choice([0, NEXT, INDIRECT, AVAIL, USED, 0xFFFF & ~WRITE])
                self.descriptor(at + 16 * place, (address, length), self.rng.getrandbits(16),
                                WRITE * write | junk)
            place, flags = self.step()
            self.descriptor(self.desc + 16 * place, (at, 16 * len(buffers)), id_,
                            flags | INDIRECT | self.rng.choice([0, WRITE]))
            return Command(b"", buffers, id_, 1, [place], None, None)
        places = [self.step() for _ in buffers]
        for turn in reversed(range(len(buffers))):  # the first comes last
            address, length, write = buffers[turn]
            place, flags = places[turn]
            last = turn == len(buffers) - 1
            self.descriptor(self.desc + 16 * place, (address, length),
                            id_ if last else self.rng.getrandbits(16),
                            flags | WRITE * write | NEXT * (not last))
        return Command(b"", buffers, id_, len(buffers), [place for place, _ in places], None, None)

    def wants_kick(self) -> bool:
        since, self.since = self.since, []
        flags = self.read(self.device + 2, 2)
        assert flags == 0 or (flags == 2 and self.event_idx)
        if flags == 0:
            return bool(since)
        event = self.read(self.device, 2)
        return (event & 0x7FFF, event >> 15) in since

    def take_back(self, command: Command) -> None:
        flags = AVAIL | USED if self.used_wrap else 0
        self.write(self.desc + 16 * self.used + 8, 1 | command.id << 32 | flags << 48, 8)
        self.used += command.slots
        if self.used >= self.size:
            self.used, self.used_wrap = self.used - self.size, 1 - self.used_wrap
        self.room += command.slots
        self.ids.append(command.id)
