"""Who sets how interrupts are moderated: the operator; a reset of the queue takes it back."""

from typing import Any

from amaranth import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import QUEUE_BITS
from hw.virtio.moderation import ModerationLayout
from hw.virtio.types import QueueLayout

__all__ = ["ModerationSettings"]


class ModerationSettings(wiring.Component):
    """Pass the settings on that are asked for; clear those of a queue that is reset (NET-COAL-09).

    A reset comes first: what is asked for waits meanwhile, and what was taken before is cleared.
    What is asked for and resets of a queue take effect in the order in which they are taken.

    | Latency: 1 cycle. Throughput: 1 a cycle. Storage: none. After a reset of the card all queues
      are cleared, one a cycle; until then nothing is taken that is asked for.

    Parameters
    ----------
    queues
        Data queues of the card, 2 to 16384. Other numbers name none: nothing is done for them.

    Members
    -------
    asked : In(stream.Signature(ModerationLayout()))
        Stalled by ``resets``, of which none may come in every cycle for ever.
    resets : In(stream.Signature(QueueLayout(), always_ready=True))
        The queue has been reset.
    settings : Out(stream.Signature(ModerationLayout(), always_ready=True))
    """

    asked: stream.Interface
    resets: stream.Interface
    settings: stream.Interface

    def __init__(self, queues: int) -> None:
        if not 2 <= queues <= 1 << QUEUE_BITS:
            raise ValueError(f"queues must be from 2 to {1 << QUEUE_BITS}, not {queues!r}")
        self.queues = queues
        super().__init__({
            "asked": In(stream.Signature(ModerationLayout())),
            "resets": In(stream.Signature(QueueLayout(), always_ready=True)),
            "settings": Out(stream.Signature(ModerationLayout(), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings: Any = Signal(ModerationLayout(), reset_less=True)
        valid = Signal()
        sweeping = Signal(init=1)
        sweep = Signal(range(self.queues))
        m.d.comb += [
            self.asked.ready.eq(~sweeping & ~self.resets.valid),
            self.settings.valid.eq(valid),
            self.settings.payload.eq(settings),
        ]
        m.d.sync += Value.cast(settings).eq(0)
        with m.If(self.resets.valid):
            m.d.sync += [
                settings.queue.eq(self.resets.p.queue),
                valid.eq(self.resets.p.queue < self.queues),
            ]
        with m.Elif(sweeping):
            m.d.sync += [settings.queue.eq(sweep), valid.eq(1), sweep.eq(sweep + 1)]
            with m.If(sweep == self.queues - 1):
                m.d.sync += sweeping.eq(0)
        with m.Else():
            m.d.sync += [
                settings.eq(self.asked.payload),
                valid.eq(self.asked.valid & (self.asked.p.queue < self.queues)),
            ]
        return m
