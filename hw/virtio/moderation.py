"""Interrupt moderation: each queue's settings, the time, and who is to be looked at again."""

from typing import Any

from amaranth import Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.memory import ForwardingMemory
from hw.stream.types import QUEUE_BITS
from hw.virtio.types import QueueLayout

__all__ = ["TIME_BITS", "Moderation", "ModerationLayout", "ModerationSettingsLayout"]

TIME_BITS = 17  # one more than a setting has: a time that has passed is seen late, and not missed


class ModerationLayout(data.StructLayout):
    """From now on ``queue`` holds interrupts back until one of the two is reached (NOTF_COAL).

    Either is 0: after every frame (IMP-NET-COAL-02).
    """

    def __init__(self) -> None:
        super().__init__({"queue": QUEUE_BITS, "max_packets": 16, "max_usecs": 16})


class ModerationSettingsLayout(data.StructLayout):
    """A queue's settings; ``on`` if neither is 0."""

    def __init__(self) -> None:
        super().__init__({"on": 1, "max_packets": 16, "max_usecs": 16})


class Moderation(wiring.Component):
    """Keep how the queues' interrupts are moderated, and name those that hold some back.

    What is held back, and since when, `hw.virtio.notification.Notification` keeps. It marks the
    queue here. The queues are gone through again and again, and each marked one is named: then
    it looks whether the time is over, the settings are others, or the queue is being stopped.

    | Resolution: a microsecond and a round, of 2 cycles a queue and what the visits take (about 6
    | cycles each). So a stop waits for a round at most, whatever ``max_usecs`` is.
    | Storage: 34 bits a queue, in memory. A reset of the card changes no settings.

    Parameters
    ----------
    queues
        Data queues of the card.
    clock_mhz
        Cycles of the clock in a microsecond.

    Members
    -------
    settings : In(stream.Signature(ModerationLayout()))
        Always taken.
    queue : In(QUEUE_BITS)
    enable : In(1)
        Look the settings of ``queue`` up.
    found : Out(ModerationSettingsLayout())
        In the cycle after ``enable``, and until the next one.
    now : Out(TIME_BITS)
        Microseconds.
    mark : In(1)
        Of ``marked`` interrupts are held back from now on, or none (``held``).
    marked : In(QUEUE_BITS)
    held : In(1)
    visits : Out(stream.Signature(QueueLayout()))
        A queue that was marked when it was come by, once a round.
    """

    settings: stream.Interface
    queue: Signal
    enable: Signal
    found: Any
    now: Signal
    mark: Signal
    marked: Signal
    held: Signal
    visits: stream.Interface

    def __init__(self, queues: int, *, clock_mhz: int) -> None:
        if queues < 2:
            raise ValueError(f"queues must be at least 2, not {queues!r}")
        if clock_mhz < 2:
            raise ValueError(f"clock_mhz must be at least 2, not {clock_mhz!r}")
        self.queues = queues
        self.clock_mhz = clock_mhz
        super().__init__({
            "settings": In(stream.Signature(ModerationLayout())),
            "queue": In(QUEUE_BITS),
            "enable": In(1),
            "found": Out(ModerationSettingsLayout()),
            "now": Out(TIME_BITS),
            "mark": In(1),
            "marked": In(QUEUE_BITS),
            "held": In(1),
            "visits": Out(stream.Signature(QueueLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.kept = kept = ForwardingMemory(ModerationSettingsLayout(), self.queues)
        word: Any = Signal(ModerationSettingsLayout())
        given = self.settings.p
        m.d.comb += [
            self.settings.ready.eq(1),
            word.on.eq((given.max_packets != 0) & (given.max_usecs != 0)),
            word.max_packets.eq(given.max_packets),
            word.max_usecs.eq(given.max_usecs),
            kept.write_address.eq(given.queue),
            Value.cast(kept.write_data).eq(Value.cast(word)),
            kept.write_enable.eq(self.settings.valid),
            kept.read_address.eq(self.queue),
            kept.read_enable.eq(self.enable),
            Value.cast(self.found).eq(Value.cast(kept.read_data)),
        ]

        fraction = Signal(range(self.clock_mhz))
        time = Signal(TIME_BITS)
        m.d.comb += self.now.eq(time)
        m.d.sync += fraction.eq(fraction + 1)
        with m.If(fraction == self.clock_mhz - 1):
            m.d.sync += [fraction.eq(0), time.eq(time + 1)]

        m.submodules.marks = marks = ForwardingMemory(1, self.queues)
        member = Signal(range(self.queues))
        m.d.comb += [
            marks.write_address.eq(self.marked),
            marks.write_data.eq(self.held),
            marks.write_enable.eq(self.mark),
            marks.read_address.eq(member),
            self.visits.p.queue.eq(member),
        ]

        def go_on() -> None:
            m.d.sync += member.eq(member + 1)
            with m.If(member == self.queues - 1):
                m.d.sync += member.eq(0)
            m.next = "READ"

        with m.FSM():
            with m.State("READ"):
                m.d.comb += marks.read_enable.eq(1)
                m.next = "LOOK"
            with m.State("LOOK"):
                with m.If(marks.read_data):
                    m.next = "VISIT"
                with m.Else():
                    go_on()
            with m.State("VISIT"):  # also if it is no longer marked by now
                m.d.comb += self.visits.valid.eq(1)
                with m.If(self.visits.ready):
                    go_on()
        return m
