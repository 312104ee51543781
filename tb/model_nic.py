"""A virtio network card in plain Python: what the driver is tested against without any RTL.

It keeps its structures at odd places, offers decoys beside them, and complains about everything
that a driver must not do. It is no reference for the card's timing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from tb.interrupts import InterruptController
from tb.memory import HostMemory
from tb.model_packed_ring import PackedSide
from tb.model_rings import IN_ORDER, ModelQueue, ModelRing, Places
from tb.model_split_ring import SplitSide

__all__ = ["ModelNic"]

_BARS = {0: (0x1000, 0x0), 2: (0x4000, 0xC), 4: (0x8000, 0x4)}  # size, low bits of the register
_COMMON, _ISR, _DEVICE = (4, 0x1040), (0, 0x803), (4, 0x3100)
_NOTIFY, _NOTIFY_WIDE = (2, 0x2002), (2, 0x2004)  # where 16, and where 32 bits are written
_NOTIFY_BYTES = 0x400
_MRG_RXBUF, _CTRL_VQ, _MQ = 15, 17, 22
_RING_PACKED, _NOTIFICATION_DATA, _RING_RESET, _SUSPEND = 34, 38, 40, 43
_TABLE, _PENDING = (2, 0x0800), (0, 0x100)
_COMMON_SIZES = {0: 4, 4: 4, 8: 4, 12: 4, 16: 2, 18: 2, 20: 1, 21: 1, 22: 2, 24: 2, 26: 2, 28: 2,
                 30: 2, 32: 4, 36: 4, 40: 4, 44: 4, 48: 4, 52: 4, 56: 2, 58: 2, 60: 2, 62: 2}
_READ_ONLY = (4, 18, 21, 30, 56, 60, 62)


class ModelNic:
    """One function with some pairs of queues, and a control queue if it offers one.

    Parameters
    ----------
    features
        Bits offered, as a mask.
    pairs
        Pairs of queues; with MQ alone more than one is of use.
    vectors
        Entries of the MSI-X table.
    notify_multiplier
        0 puts both doorbells at one address. None: the smallest that there may be.
    first_index
        What all indices of split rings start with (on a real card 0).
    """

    def __init__(self, memory: HostMemory, interrupts: InterruptController, *, features: int,
                 vectors: int = 3, queue_size: int = 64, notify_multiplier: int | None = None,
                 first_index: int = 0, pairs: int = 1,
                 now: Callable[[], int] = lambda: 0) -> None:
        self.memory = memory
        self.interrupts = interrupts
        self.offered = features
        self.vectors = vectors
        self.queue_size_max = queue_size
        wide = features >> _NOTIFICATION_DATA & 1
        self.notify_multiplier = notify_multiplier if notify_multiplier is not None else (
            4 if wide else 2)
        self.notify_place = _NOTIFY_WIDE if wide else _NOTIFY
        self.first_index = first_index
        self.max_pairs = pairs
        self.now = now
        self.net_config = bytearray(28)
        self.complaints: list[str] = []
        self.sent: list[bytes] = []
        self.sent_in: list[int] = []
        """The pair of queues that each frame came in."""
        self.commands: list[bytes] = []
        self.refuse_commands = False
        self.deaf = False
        """Leave commands where they are."""
        self.kicks = 0
        self.doorbells: list[tuple[int, int]] = []
        """Bytes and value of each kick."""
        self.kicks_only = False
        """Look at an available ring when kicked, and once more before going to sleep: not else."""
        self.close_batches = False
        """With IN_ORDER, use one used entry for all frames that are sent together.

        And for all buffers of a frame that is received.
        """
        self.refuse_features = False
        self.change_config_once: Callable[[], None] | None = None
        self.reset_reads = 0
        """So often device_status, or queue_reset, still reads non-zero after a reset."""
        self.suspend_reads = 0
        """So often device_status still reads as before when the card is suspended, or resumed."""
        self.breaks_when_suspended = False
        self._isr = 0
        self._generation = 0
        self._old_status = 0
        self._config = bytearray(4096)
        self._writable = bytearray(4096)
        self._make_config()
        self._power_on()

    # --- configuration space

    def _power_on(self) -> None:
        self._config[4:6] = bytes(2)
        self._config[0x10:0x28] = bytes(24)
        for bar, (_size, kind) in _BARS.items():
            self._config[0x10 + 4 * bar] = kind
        self._config[0xA8:0xAA] = struct.pack("<H", 0x2000)
        self._config[0x72:0x74] = struct.pack("<H", self.vectors - 1)
        self._masks = [True] * self.vectors
        self._entries = [[0, 0, 0] for _ in range(self.vectors)]
        self._pending = [False] * self.vectors
        self._reset_device()

    def _make_config(self) -> None:
        config, writable = self._config, self._writable

        def put(at: int, layout: str, *values: int) -> None:
            struct.pack_into("<" + layout, config, at, *values)

        put(0, "HHHHBBHBBBB", 0x1AF4, 0x1041, 0, 0x0010, 1, 0, 0x0200, 0, 0, 0, 0)
        put(0x2C, "HH", 0x1AF4, 0x0041)
        writable[4:6] = b"\x06\x04"
        for bar, (size, kind) in _BARS.items():
            at = 0x10 + 4 * bar
            writable[at:at + 4] = struct.pack("<I", -size & 0xFFFF_FFFF)
            if kind & 4:
                writable[at + 4:at + 8] = b"\xff" * 4
        capabilities: list[tuple[int, bytes]] = [
            (0x40, struct.pack("<BxHHH", 0x01, 3, 8, 0)),
            (0x48, self._virtio_cap(1, 7, 0, 64)),  # a bar that does not exist
            (0x58, self._virtio_cap(77, 4, 0, 64)),  # a kind that is reserved
            (0x70, struct.pack("<BxHII", 0x11, 0, _TABLE[1] | _TABLE[0],
                               _PENDING[1] | _PENDING[0])),
            (0x80, self._virtio_cap(1, *_COMMON, 64)),
            (0xA0, struct.pack("<BxHIHH", 0x10, 2, 0x1000_8022, 0, 0).ljust(0x3C, b"\0")),
            (0xDC, self._virtio_cap(5, 0, 0, 0, struct.pack("<I", 0))),
            (0x90, self._virtio_cap(4, *_DEVICE, 28)),
            (0xF0, self._virtio_cap(1, 0, 0, 64)),  # a second one, which does not count
            (0x68, b"\x09\x00\x08\x09\xf4\x1a\x00\x00"),  # vendor data
        ]
        # There is no room for all in 256 bytes with the Express structure whole: it is cut short.
        capabilities[5] = (0xA0, capabilities[5][1][:0x14])
        capabilities += [(0xB4, self._virtio_cap(2, *self.notify_place, _NOTIFY_BYTES,
                                                 struct.pack("<I", self.notify_multiplier))),
                         (0xC8, self._virtio_cap(3, *_ISR, 1))]
        config[0x34] = capabilities[0][0]
        for (at, data), following in zip(
                capabilities, [*(at for at, _ in capabilities[1:]), 0], strict=True):
            config[at:at + len(data)] = data
            config[at + 1] = following
        writable[0x44] = 3  # power state
        writable[0x73] = 0xC0  # MSI-X control
        writable[0xA8:0xAA] = b"\xff\xff"
        for at in (0xE0, *range(0xE4, 0xEC)):
            writable[at] = 0xFF

    @staticmethod
    def _virtio_cap(kind: int, bar: int, offset: int, length: int, more: bytes = b"") -> bytes:
        return struct.pack("<BBBBBBHII", 9, 0, 16 + len(more), kind, bar, 0, 0, offset,
                           length) + more

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        if 0xEC <= offset < 0xF0:
            return self._window(size, None)
        return int.from_bytes(self._config[offset:offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        if 0xEC <= offset < 0xF0:
            self._window(size, value)
            return
        for at, byte in enumerate(value.to_bytes(size, "little"), offset):
            mask = self._writable[at]
            self._config[at] = self._config[at] & ~mask | byte & mask
        if 0x10 <= offset < 0x28 and self._config[4] & 2:
            self.complaints.append("a BAR is changed while memory is decoded")
        if offset == 0xA8 and value & 0x8000:
            self._power_on()
        if offset <= 0x73 < offset + size:
            self._send_pending()

    def _window(self, size: int, value: int | None) -> int:
        bar = self._config[0xE0]
        offset, length = struct.unpack_from("<II", self._config, 0xE4)
        if length != size or offset % length or bar not in _BARS:
            self.complaints.append(f"PCI_CFG window of {length} bytes at {offset:#x} of BAR {bar}")
            return 0
        if value is None:
            return self._read(bar, offset, size)
        self._write(bar, offset, size, value)
        return 0

    # --- BARs

    def _decode(self, address: int) -> tuple[int, int] | None:
        for bar, (size, kind) in _BARS.items():
            low, high = struct.unpack_from("<II", self._config, 0x10 + 4 * bar)
            base = low & ~0xF | (high << 32 if kind & 4 else 0)
            if base <= address < base + size and self._config[4] & 2:
                return bar, address - base
        return None

    def mmio_read(self, address: int, size: int) -> int:
        """Read memory of the card; all ones where there is none."""
        place = self._decode(address)
        return self._read(*place, size) if place else (1 << 8 * size) - 1

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write memory of the card."""
        place = self._decode(address)
        if place is None:
            self.complaints.append(f"a write to {address:#x}, where nothing is")
        else:
            self._write(*place, size, value)

    def _read(self, bar: int, offset: int, size: int) -> int:
        if bar == _COMMON[0] and _COMMON[1] <= offset < _COMMON[1] + 64:
            return self._read_common(offset - _COMMON[1], size)
        if (bar, offset) == _ISR:
            isr = self._isr
            self._isr = 0
            return isr
        if bar == _DEVICE[0] and _DEVICE[1] <= offset < _DEVICE[1] + 28:
            at = offset - _DEVICE[1]
            value = int.from_bytes(self.net_config[at:at + size], "little")
            if self.change_config_once is not None:
                change, self.change_config_once = self.change_config_once, None
                change()
                self._generation = (self._generation + 1) & 0xFF
            return value
        if (bar, offset) == _PENDING:
            return sum(pending << vector for vector, pending in enumerate(self._pending))
        if bar == _TABLE[0] and _TABLE[1] <= offset < _TABLE[1] + 16 * self.vectors:
            vector, place = divmod(offset - _TABLE[1], 16)
            return [*self._entries[vector], int(self._masks[vector])][place // 4]
        self.complaints.append(f"a read of {size} bytes at {offset:#x} of BAR {bar}")
        return 0

    def _write(self, bar: int, offset: int, size: int, value: int) -> None:
        if bar == _COMMON[0] and _COMMON[1] <= offset < _COMMON[1] + 64:
            self._write_common(offset - _COMMON[1], size, value)
        elif bar == self.notify_place[0] and (
                0 <= offset - self.notify_place[1] < _NOTIFY_BYTES):
            self._kick(offset - self.notify_place[1], size, value)
        elif bar == _TABLE[0] and _TABLE[1] <= offset < _TABLE[1] + 16 * self.vectors:
            vector, place = divmod(offset - _TABLE[1], 16)
            if place == 12:
                self._masks[vector] = bool(value & 1)
                self._send_pending()
            else:
                if not self._masks[vector]:
                    self.complaints.append(f"vector {vector} is changed while unmasked")
                self._entries[vector][place // 4] = value
        else:
            self.complaints.append(f"a write of {size} bytes at {offset:#x} of BAR {bar}")

    # --- common configuration

    def _reset_device(self) -> None:
        self.status = 0
        self.accepted = 0
        count = 2 * self.max_pairs + (self.offered >> _CTRL_VQ & 1)
        self.queues = [ModelQueue(self.queue_size_max) for _ in range(count)]
        self.pairs = 1
        self._held: dict[int, list[tuple[int, Places]]] = {}
        self._isr = 0
        self._generation = 0
        self._shown: list[int] = []  # as far as chains were, when the card was suspended
        self._select = [0, 0, 0]  # device features, driver features, queue
        self._config_vector = 0xFFFF

    @property
    def rings(self) -> ModelRing:
        """What is done with rings, by what was agreed on."""
        return PackedSide(self) if self.accepts(_RING_PACKED) else SplitSide(self)

    @property
    def control(self) -> int | None:
        """Number of the control queue."""
        if not self.accepts(_CTRL_VQ):
            return None
        return 2 * self.max_pairs if self.accepts(_MQ) else 2

    def enable(self, queue: ModelQueue) -> None:
        """Let a queue begin."""
        queue.enabled = True
        queue.start(0x8000 if self.accepts(_RING_PACKED) else self.first_index)

    def _read_common(self, at: int, size: int) -> int:
        if _COMMON_SIZES.get(at) != size:
            self.complaints.append(f"a read of {size} bytes at {at} of the common configuration")
            return 0
        if at in (20, 58) and self.reset_reads:
            self.reset_reads -= 1
            return self._old_status if at == 20 else 1
        exists = self._select[2] < len(self.queues)
        queue = self.queues[self._select[2] if exists else 0]
        values: dict[int, int] = {
            0: self._select[0], 4: self.offered >> 32 * self._select[0] & 0xFFFF_FFFF,
            8: self._select[1], 12: self.accepted >> 32 * self._select[1] & 0xFFFF_FFFF,
            16: self._config_vector, 18: len(self.queues), 20: self.status, 21: self._generation,
            22: self._select[2], 24: queue.size if exists else 0, 26: queue.vector,
            28: int(queue.enabled), 30: 3 * self._select[2] if self.notify_multiplier else 0,
            58: 0}
        values |= {32 + 4 * index: word for index, word in enumerate(queue.addresses)}
        return values.get(at, 0)

    def _write_common(self, at: int, size: int, value: int) -> None:
        if _COMMON_SIZES.get(at) != size or at in _READ_ONLY:
            self.complaints.append(f"a write of {size} bytes at {at} of the common configuration")
        elif self.status & 16 and at != 20:
            self.complaints.append(f"a write at {at} while suspended")
        elif at in (0, 8, 22):
            self._select[{0: 0, 8: 1, 22: 2}[at]] = value
        elif at == 12:
            mask = 0xFFFF_FFFF << 32 * self._select[1]
            self.accepted = self.accepted & ~mask | value << 32 * self._select[1]
            if self.status & 8:
                self.complaints.append("features are changed after FEATURES_OK")
        elif at == 16:
            self._config_vector = value if value < self.vectors else 0xFFFF
        elif at == 20:
            self._write_status(value)
        else:
            self._write_queue(at, value)

    def _write_queue(self, at: int, value: int) -> None:
        if self._select[2] >= len(self.queues):
            self.complaints.append(f"a write at {at} of queue {self._select[2]}")
            return
        queue = self.queues[self._select[2]]
        if at == 58:
            self._reset_queue(queue, value)
        elif queue.enabled:
            self.complaints.append(f"a write at {at} of an enabled queue")
        elif at == 24:
            if not self.rings.good_size(value) or value > self.queue_size_max:
                self.complaints.append(f"queue size {value}")
            queue.size = value
        elif at == 26:
            queue.vector = value if value < self.vectors else 0xFFFF
        elif at == 28:
            late = bool(self.status & 4) and not queue.was_reset
            if value != 1 or not self.status & 8 or late:
                self.complaints.append(f"queue_enable = {value} with status {self.status:#x}")
            for which, align in enumerate(self.rings.alignments):
                if queue.address(which) % align or not queue.address(which):
                    self.complaints.append(f"ring {which} at {queue.address(which):#x}")
            self.enable(queue)
        else:
            queue.addresses[(at - 32) // 4] = value

    def _reset_queue(self, queue: ModelQueue, value: int) -> None:
        number = self._select[2]
        if value != 1 or not queue.enabled or not self.accepts(_RING_RESET):
            self.complaints.append(f"queue_reset = {value} of queue {number}")
        self.queues[number] = ModelQueue(self.queue_size_max, was_reset=True)
        self._held.pop(number, None)

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._old_status = self.status
            self._reset_device()
            return
        if self.status & 16:
            self._resume(value)
            return
        if self.status & ~value & 0x3F:
            self.complaints.append(f"status {self.status:#x} loses bits: {value:#x}")
        for bit, before in ((2, 1), (8, 3), (4, 11)):
            if value & bit and self.status & before != before:
                self.complaints.append(f"status {value:#x} comes after {self.status:#x}")
        if value & 8 and (self.accepted & ~self.offered or self.refuse_features):
            value &= ~8
        if value & 16:
            if self.status & 4 and self.accepts(_SUSPEND):
                self._suspend(value)
                return
            self.complaints.append(f"status {value:#x} comes after {self.status:#x}")
            value &= ~16
        self.status = value

    def _suspend(self, value: int) -> None:
        self._old_status, self.reset_reads = self.status, self.suspend_reads
        if self.breaks_when_suspended:
            self.break_down()
            return
        self.status = value & ~4
        self._shown = [self.index(number) if queue.enabled else 0
                       for number, queue in enumerate(self.queues)]

    def _resume(self, value: int) -> None:
        if not value & 4:
            return
        self._old_status, self.reset_reads = self.status, self.suspend_reads
        self.status = value & ~16
        for number, index in enumerate(self._shown):
            if self.queues[number].enabled and self.index(number) != index:
                self.complaints.append(f"chains were shown in queue {number} while suspended")

    # --- queues

    def accepts(self, feature: int) -> bool:
        """Whether the driver accepted a feature."""
        return bool(self.accepted >> feature & 1)

    def _kick(self, offset: int, size: int, value: int) -> None:
        self.kicks += 1
        self.doorbells.append((size, value))
        number, told = value & 0xFFFF, value >> 16
        wanted = 3 * number * self.notify_multiplier
        wide = self.accepts(_NOTIFICATION_DATA)
        if size != (4 if wide else 2) or number >= len(self.queues) or offset != wanted:
            self.complaints.append(f"a kick of {size} bytes, {value:#x}, at {offset:#x}")
            return
        if not self.status & 4:
            self.complaints.append(
                f"a kick {'while suspended' if self.status & 16 else 'before DRIVER_OK'}")
        queue, rings = self.queues[number], self.rings
        if not queue.enabled:
            self.complaints.append(f"a kick of queue {number}, which is not enabled")
            return
        index = rings.index(queue)
        if wide and told != index:
            self.complaints.append(f"a kick tells index {told}, which is {index}")
        if not rings.may_kick(queue, index):
            self.complaints.append(f"a kick for {queue.kicked} to {index} where none was wanted")
        rings.kicked(queue, index)

    def index(self, number: int) -> int:
        """Give the position up to which there are chains in a queue."""
        return self.rings.index(self.queues[number])

    def arm(self, number: int) -> None:
        """Ask for a kick for the entry that the card would take next."""
        self.rings.ask(self.queues[number], True)

    def available(self, number: int) -> int:
        """Chains that wait in a queue."""
        queue = self.queues[number]
        if not queue.enabled or not self.status & 4 or self.status & 64:
            return 0
        if not self.kicks_only:
            if self.index(number) == queue.seen and not queue.no_notify:
                self.arm(number)
            queue.known = self.index(number)
        elif queue.known == queue.seen and not queue.asleep:
            self.arm(number)
            queue.known = self.index(number)
            queue.asleep = queue.known == queue.seen
        return self.rings.count(queue)

    def take_chain(self, number: int) -> tuple[int, Places, Places]:
        """Take the next chain: its head or id, its readable and its writable segments."""
        chain = self.rings.take(self.queues[number])
        return chain.number, chain.readable, chain.writable

    def put_used(self, number: int, head: int, written: int) -> None:
        """Give a chain back, and raise the queue's interrupt if the driver wants it.

        With IN_ORDER all chains that were taken before it are given back as well.
        """
        self.write_used(number, [(head, written)])
        self.raise_used(number)

    def write_used(self, number: int, used: Sequence[tuple[int, int]]) -> None:
        """Give chains back, with the bytes written to each; the driver sees all at once."""
        self.rings.give_back(self.queues[number], used)

    def raise_used(self, number: int) -> None:
        """Raise the queue's interrupt if the driver wants it for what was given back."""
        queue = self.queues[number]
        wish = self.rings.wish(queue)
        wanted = wish if isinstance(wish, bool) else (
            wish in self.rings.between(queue, queue.told, queue.used))
        queue.told = queue.used
        if wanted:
            self._isr |= 1
            self._raise(queue.vector)

    def set_no_notify(self, number: int, no_notify: bool) -> None:
        """Tell the driver whether to kick."""
        self.rings.ask(self.queues[number], not no_notify)

    def step(self) -> None:
        """Send everything that waits, then do what the control queue says."""
        for pair in range(self.max_pairs):
            if 2 * pair + 1 != self.control:
                self._send(pair)
        if self.control is not None and not self.deaf:
            while self.available(self.control):
                self._obey(self.control)

    def _send(self, pair: int) -> None:
        number = 2 * pair + 1
        while count := self.available(number):
            if pair >= self.pairs:
                self.complaints.append(f"frames in pair {pair} of {self.pairs}")
            for left in reversed(range(count)):
                head, readable, writable = self.take_chain(number)
                data = b"".join(self.fetch(*segment) for segment in readable)
                if writable or len(data) <= 12 or any(data[:12]):
                    self.complaints.append(f"a frame with header {data[:12].hex()}")
                self.sent.append(data[12:])
                self.sent_in.append(pair)
                if not (left and self.close_batches and self.accepts(IN_ORDER)):
                    self.put_used(number, head, 0)

    def _obey(self, number: int) -> None:
        """Do a command of the control queue."""
        head, readable, writable = self.take_chain(number)
        said = b"".join(self.fetch(*segment) for segment in readable)
        self.commands.append(said)
        if not writable:
            self.complaints.append("a command without room for an answer")
            self.put_used(number, head, 0)
            return
        good = not self.refuse_commands
        if said[:2] == b"\4\0":
            pairs = int.from_bytes(said[2:], "little")
            if len(said) != 4 or not 1 <= pairs <= self.max_pairs or not self.accepts(_MQ):
                self.complaints.append(f"the command {said.hex()}")
                good = False
            for queue in range(2 * pairs if good else 0):
                if not self.queues[queue].enabled:
                    self.complaints.append(f"{pairs} pairs, and queue {queue} is not enabled")
                elif not queue % 2 and not self.available(queue):
                    self.complaints.append(f"{pairs} pairs, and queue {queue} is empty")
            if good:
                self.pairs = pairs
        else:
            self.complaints.append(f"an unknown command {said.hex()}")
            good = False
        self.store(writable[0][0], bytes([not good]))
        self.put_used(number, head, 1)

    def deliver(self, frame: bytes, *, pair: int = 0) -> bool:
        """Receive a frame; False when there is no buffer (or none long enough).

        With MRG_RXBUF it takes as many buffers as it needs; what there is of them is kept for it.
        """
        number = 2 * pair
        merge = self.accepts(_MRG_RXBUF)
        held = self._held.setdefault(number, [])
        size = 12 + len(frame)
        while not held or (merge and sum(
                length for _head, places in held for _at, length in places) < size):
            if not self.available(number):
                return False
            head, readable, writable = self.take_chain(number)
            if readable:
                self.complaints.append("a readable receive buffer")
            if merge and sum(length for _at, length in writable) < 12:
                self.complaints.append("a receive buffer without room for the header")
            held.append((head, writable))
        buffers, self._held[number] = held, []
        data = struct.pack("<10xH", len(buffers)) + frame
        used = []
        for head, places in buffers:
            written = 0
            for address, length in places:
                if data:
                    self.store(address, data[:length])
                    written += min(length, len(data))
                    data = data[length:]
            used.append((head, written))
        if data:
            self.complaints.append(f"a receive buffer of {used[0][1]} bytes")
            return False
        self.write_used(number, used[-1:] if self.close_batches and self.accepts(IN_ORDER)
                        else used)
        self.raise_used(number)
        return True

    def break_down(self) -> None:
        """Ask for a reset, as after a fault."""
        self.status |= 64
        self.change_config()

    def change_config(self) -> None:
        """Report a change of the configuration."""
        self._generation = (self._generation + 1) & 0xFF
        self._isr |= 2
        self._raise(self._config_vector)

    # --- towards the host

    def fetch(self, address: int, size: int) -> bytes:
        """Read memory of the host, where the card may."""
        region = self.memory.find(address, size)
        if region is None or not region.device_reads:
            self.complaints.append(f"{size} bytes at {address:#x} are not for reading")
            return bytes(size)
        return region.read(address - region.address, size)

    def store(self, address: int, data: bytes) -> None:
        """Write memory of the host, where the card may."""
        region = self.memory.find(address, len(data))
        if region is None or not region.device_writes:
            self.complaints.append(f"{len(data)} bytes at {address:#x} are not for writing")
        else:
            region.write(address - region.address, data)

    def _raise(self, vector: int) -> None:
        if vector < self.vectors and self._config[0x73] & 0x80:
            self._pending[vector] = True
            self._send_pending()

    def _send_pending(self) -> None:
        control = self._config[0x73]
        for vector in range(self.vectors):
            if self._pending[vector] and not self._masks[vector] and control & 0xC0 == 0x80:
                self._pending[vector] = False
                low, high, value = self._entries[vector]
                if self.interrupts.deliver(high << 32 | low, value, 0x100, self.now()) is None:
                    self.complaints.append(f"vector {vector} points nowhere")
