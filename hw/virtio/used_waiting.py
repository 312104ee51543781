"""Finished chains that wait for their burst, by queue."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.stream.arbiter import StreamArbiter
from hw.stream.memory import ForwardingMemory
from hw.stream.register import StreamRegister
from hw.stream.types import QUEUE_BITS
from hw.virtio.types import UsedLayout
from hw.virtio.used_types import WaitingLayout

__all__ = ["WAITING_MAX", "UsedWaiting"]

WAITING_MAX = 32
"""Chains of a queue that may wait."""


class UsedWaiting(wiring.Component):
    """Take finished chains in, and show up to ``row`` of those of a queue side by side.

    ::

        transmit ─► register ─┬─ in turn ─► count, place ─► memory (a bank for each
        receive ──► register ─┘                │             entry of a row)
                                               └─► dirty queues

    A queue of which 32 chains wait takes no more until some have left; meanwhile nobody does.

    | Latency: 4 cycles from a chain to ``dirty``. Throughput: a chain a cycle.
    | Storage: 32 entries and 64 bits a queue.

    Parameters
    ----------
    queues
        Numbers of queues.
    row
        Entries that are shown at once: a power of two, 32 at most.

    Members
    -------
    used_transmit, used_receive : In(stream.Signature(UsedLayout()))
    dirty : Out(stream.Signature(QUEUE_BITS))
        A chain of this queue waits. It is counted when this is taken.
    queue : In(QUEUE_BITS)
    looks : In(1)
        Look the queue's ``finished`` up, for the next cycle.
    finished : Out(16)
        Chains taken in, free running.
    window_queue, window : In(QUEUE_BITS), In(16)
        Show the chains from number ``window`` on in the cycle after ``shows``.
    shows : In(1)
    chains : Out(ArrayLayout(WaitingLayout(), row))
        Held until the next ones are asked for.
    leaves : In(1)
        ``gone`` chains of ``leaving_queue``, free running, have been read: their room is free.
    leaving_queue, gone : In(QUEUE_BITS), In(16)
    clear : In(1)
        ``leaving_queue`` begins again from ``gone``; nothing of it waits.
    stuck : Out(1)
        A chain finds no room; a cycle late.
    comes, whole : Out(1)
        A chain was taken in (of the queue on ``dirty``), maybe the last one of its frame.
    """

    used_transmit: stream.Interface
    used_receive: stream.Interface
    dirty: stream.Interface
    queue: Signal
    looks: Signal
    finished: Signal
    window_queue: Signal
    window: Signal
    shows: Signal
    chains: Any
    leaves: Signal
    leaving_queue: Signal
    gone: Signal
    clear: Signal
    stuck: Signal
    comes: Signal
    whole: Signal

    def __init__(self, queues: int, row: int) -> None:
        self.queues = queues
        self.row = row
        super().__init__({
            "used_transmit": In(stream.Signature(UsedLayout())),
            "used_receive": In(stream.Signature(UsedLayout())),
            "dirty": Out(stream.Signature(QUEUE_BITS)),
            "queue": In(QUEUE_BITS),
            "looks": In(1),
            "finished": Out(16),
            "window_queue": In(QUEUE_BITS),
            "window": In(16),
            "shows": In(1),
            "chains": Out(data.ArrayLayout(WaitingLayout(), row)),
            "leaves": In(1),
            "leaving_queue": In(QUEUE_BITS),
            "gone": In(16),
            "clear": In(1),
            "stuck": Out(1),
            "comes": Out(1),
            "whole": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        counts = data.StructLayout({"chains": 16, "sum": 16})
        m.submodules.counts = finished = ForwardingMemory(counts, self.queues)
        m.submodules.counts_copy = finished_copy = ForwardingMemory(16, self.queues)
        m.submodules.written_copy = written_copy = ForwardingMemory(16, self.queues)

        m.submodules.arbiter = arbiter = StreamArbiter(UsedLayout(), 2)
        # Whether there is room is known late: those who give chains are not to wait for it.
        for side, used in enumerate((self.used_transmit, self.used_receive)):
            m.submodules[f"register_{side}"] = register = StreamRegister(UsedLayout())
            connect(m, flipped(used), register.i)
            connect(m, register.o, arbiter.i[side])

        # A chain a cycle, in two stages.
        chain: Any = Signal(UsedLayout(), reset_less=True)
        chain_valid = Signal()
        so_far: Any = finished.read_data
        waiting = Signal((WAITING_MAX).bit_length())
        stored = Signal()
        places = Signal(16)
        room = Signal()
        m.d.comb += [
            finished.read_address.eq(arbiter.o.p.queue),
            written_copy.read_address.eq(arbiter.o.p.queue),
            waiting.eq(so_far.chains - written_copy.read_data),
            places.eq(so_far.sum + chain.slots),
            room.eq(~waiting[-1]),  # no more than that ever wait
            self.dirty.payload.eq(chain.queue),
            self.dirty.valid.eq(chain_valid & room),
            # `clear` has the write ports in its cycle.
            stored.eq(self.dirty.valid & self.dirty.ready & ~self.clear),
            self.comes.eq(stored),
            self.whole.eq(~chain.more),
            arbiter.o.ready.eq(~chain_valid | stored),
            finished.read_enable.eq(arbiter.o.valid & arbiter.o.ready),
            written_copy.read_enable.eq(finished.read_enable),
        ]
        m.d.sync += self.stuck.eq(chain_valid & ~room)
        with m.If(arbiter.o.ready):
            m.d.sync += [chain_valid.eq(arbiter.o.valid), chain.eq(arbiter.o.payload)]

        chains_in = Signal(16)
        m.d.comb += [
            chains_in.eq(Mux(self.clear, self.gone, so_far.chains + 1)),
            Value.cast(finished.write_data).eq(Cat(chains_in, Mux(self.clear, 0, places))),
            finished_copy.write_data.eq(chains_in),
            finished_copy.read_address.eq(self.queue),
            finished_copy.read_enable.eq(self.looks),
            self.finished.eq(finished_copy.read_data),
            written_copy.write_address.eq(self.leaving_queue),
            written_copy.write_data.eq(self.gone),
            written_copy.write_enable.eq(self.leaves | self.clear),
        ]
        for count_in in (finished, finished_copy):
            m.d.comb += [
                count_in.write_address.eq(Mux(self.clear, self.leaving_queue, chain.queue)),
                count_in.write_enable.eq(stored | self.clear),
            ]

        # Entry `n` of a queue lies in bank `n` modulo the row's length. So any row of them, from
        # whichever one on, can be read at once.
        entry: Any = Signal(WaitingLayout())
        m.d.comb += [
            entry.id.eq(chain.id),
            entry.sum.eq(places),
            entry.bytes.eq(chain.bytes),
            entry.more.eq(chain.more),
            entry.single.eq(chain.slots == 1),
            entry.wrote.eq(chain.bytes != 0),
        ]
        bank_bits = (self.row - 1).bit_length()
        slot_bits = (WAITING_MAX - 1).bit_length()
        row_bits = slot_bits - bank_bits
        first = Signal(bank_bits)  # bank of the first one that is shown
        with m.If(self.shows):
            m.d.sync += first.eq(self.window[:bank_bits])
        banks = []
        for number in range(self.row):
            bank: Any = memory.Memory(shape=WaitingLayout(), depth=self.queues << row_bits, init=[])
            m.submodules[f"bank_{number}"] = bank
            write, read = bank.write_port(), bank.read_port()
            in_row = so_far.chains[bank_bits:slot_bits]
            skipped = self.window[:bank_bits] > number if number + 1 < self.row else 0
            from_row = Signal(row_bits, name=f"from_row_{number}")
            m.d.comb += [
                from_row.eq(self.window[bank_bits:slot_bits] + skipped),
                write.addr.eq(Cat(in_row, chain.queue)),
                write.data.eq(entry),
                write.en.eq(stored & (so_far.chains[:bank_bits] == number)),
                read.addr.eq(Cat(from_row, self.window_queue)),
                read.en.eq(self.shows),
            ]
            banks.append(Value.cast(read.data))
        for k in range(self.row):
            # The k-th one that is shown comes from bank `first + k`.
            turned = Cat(*(banks[(k + shift) % self.row] for shift in range(self.row)))
            m.d.comb += Value.cast(self.chains[k]).eq(turned.word_select(first, len(banks[0])))
        return m
