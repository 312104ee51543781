"""What the commands of control queues do."""

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS
from hw.virtio.types import PairsLayout

__all__ = [
    "COMMAND_BYTES_MAX",
    "Acknowledge",
    "ControlCommandLayout",
    "ControlCommands",
    "ControlFeaturesSignature",
]

COMMAND_BYTES_MAX = 64
"""Bytes of a command that are kept: class, command and data."""

_HEADER_BYTES = 2
_PAIRS_MAX = 0x8000


class _Class(enum.Enum, shape=8):
    """Classes of commands that the card knows."""

    MULTIQUEUE = 4


class _Multiqueue(enum.Enum, shape=8):
    """Commands of the class MULTIQUEUE."""

    PAIRS_SET = 0


class Acknowledge(enum.Enum, shape=8):
    """The byte by which a command is answered."""

    OK = 0
    ERR = 1


class ControlCommandLayout(data.StructLayout):
    """A command as the driver gave it.

    ======== ==== ==========================================================================
    field    bits meaning
    ======== ==== ==========================================================================
    function 8    Whose it is
    bytes    7    How many there are in ``content``
    cut      1    There were more
    content  512  Class, command, data; behind them anything
    ======== ==== ==========================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "function": FUNCTION_BITS, "bytes": range(COMMAND_BYTES_MAX + 1), "cut": 1,
            "content": 8 * COMMAND_BYTES_MAX,
        })


class ControlFeaturesSignature(wiring.Signature):
    """What a function's driver negotiated, as the one who asks has it.

    The bits are valid in the cycle after ``enable``, and held until the next one.
    """

    def __init__(self) -> None:
        super().__init__({"function": Out(FUNCTION_BITS), "enable": Out(1), "mq": In(1)})


class ControlCommands(wiring.Component):
    """Carry out commands, one at a time, and answer each (virtio 1.4, 5.1.6.5).

    VQ_PAIRS_SET (class 4, command 0, le16 virtqueue_pairs) is done if MQ was negotiated and the
    pairs are from 1 to ``max_pairs``. Bytes behind what a command needs mean nothing, as long as
    the command is not longer than what is kept of it.

    Everything else is answered ERR and does nothing: unknown classes and commands, too few bytes,
    more than `COMMAND_BYTES_MAX` (IMP-NET-CVQ-02, IMP-NET-CVQ-03).

    | Latency: 2 cycles; for a command that is done 3, and as long as its effect waits to be taken.
    | Throughput: one command at a time. Storage: 35 bits.

    Parameters
    ----------
    max_pairs
        What a function has of queue pairs, 1 to 32768.

    Members
    -------
    commands : In(stream.Signature(ControlCommandLayout()))
    features : Out(ControlFeaturesSignature())
    pairs : Out(stream.Signature(PairsLayout()))
        Taken before the answer comes.
    answers : Out(stream.Signature(Acknowledge))
    """

    commands: stream.Interface
    features: Any
    pairs: stream.Interface
    answers: stream.Interface

    def __init__(self, *, max_pairs: int) -> None:
        if not 1 <= max_pairs <= _PAIRS_MAX:
            raise ValueError(f"max_pairs must be from 1 to {_PAIRS_MAX}, not {max_pairs!r}")
        self.max_pairs = max_pairs
        super().__init__({
            "commands": In(stream.Signature(ControlCommandLayout())),
            "features": Out(ControlFeaturesSignature()),
            "pairs": Out(stream.Signature(PairsLayout())),
            "answers": Out(stream.Signature(Acknowledge)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command = self.commands.p
        kind: Any = Signal(data.StructLayout({"class_": _Class, "command": 8}))
        argument = Signal(16)
        m.d.comb += [
            kind.eq(command.content[:16]),
            argument.eq(command.content[16:32]),
            self.features.function.eq(command.function),
        ]

        function = Signal(FUNCTION_BITS, reset_less=True)
        sets_pairs = Signal(reset_less=True)
        pairs = Signal(16, reset_less=True)
        some_pairs = Signal(reset_less=True)
        few_pairs = Signal(reset_less=True)
        answer = Signal(Acknowledge, reset_less=True)
        m.d.comb += [
            self.pairs.p.function.eq(function),
            self.pairs.p.pairs.eq(pairs),
            self.answers.payload.eq(answer),
        ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.commands.ready.eq(1), self.features.enable.eq(1)]
                m.d.sync += [
                    function.eq(command.function),
                    sets_pairs.eq((command.bytes >= _HEADER_BYTES + 2) & ~command.cut
                                  & (kind.class_ == _Class.MULTIQUEUE)
                                  & (kind.command == _Multiqueue.PAIRS_SET.value)),
                    pairs.eq(argument),
                    some_pairs.eq(argument != 0),
                    few_pairs.eq(argument <= self.max_pairs),
                ]
                with m.If(self.commands.valid):
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += answer.eq(Acknowledge.ERR)
                m.next = "ANSWER"
                with m.If(sets_pairs & some_pairs & few_pairs & self.features.mq):
                    m.d.sync += answer.eq(Acknowledge.OK)
                    m.next = "PAIRS"
            with m.State("PAIRS"):
                m.d.comb += self.pairs.valid.eq(1)
                with m.If(self.pairs.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.answers.valid.eq(1)
                with m.If(self.answers.ready):
                    m.next = "IDLE"
        return m
