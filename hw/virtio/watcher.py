"""Levels of every function - asleep, link up - turned into changes, one after another."""

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS

__all__ = ["FunctionWatcher", "LevelLayout"]


class LevelLayout(data.StructLayout):
    """The levels of ``function`` as they are now."""

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS, "asleep": 1, "link": 1})


class _KnownLayout(data.StructLayout):
    """What was last told of a function."""

    def __init__(self) -> None:
        super().__init__({"asleep": 1, "link": 1})


class FunctionWatcher(wiring.Component):
    """Compare the levels of each function in turn with what was last told, and tell what differs.

    After a reset of the card, a function counts as awake and its link as down.

    | Latency: a change is told after at most 2 cycles a function (if nothing else has to be told).
      A level that changes back before that is not told.
    | Storage: 2 bits a function, in memory.

    Parameters
    ----------
    functions
        1 to 256.

    Members
    -------
    sleep : In(functions)
        One bit a function: it is in D3hot.
    link_up : In(1)
    changes : Out(stream.Signature(LevelLayout()))
    """

    sleep: Signal
    link_up: Signal
    changes: stream.Interface

    def __init__(self, functions: int) -> None:
        self.functions = functions
        super().__init__({
            "sleep": In(functions),
            "link_up": In(1),
            "changes": Out(stream.Signature(LevelLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = max(2, self.functions)
        mem: memory.Memory[Any, Any] = memory.Memory(shape=_KnownLayout(), depth=depth, init=[])
        m.submodules.known = mem
        write = mem.write_port()
        read = mem.read_port()
        function = Signal(range(depth))
        level: Any = Signal(_KnownLayout())  # as it was when it was compared
        m.d.comb += [
            read.addr.eq(function),
            read.en.eq(1),
            write.addr.eq(function),
            self.changes.p.function.eq(function),
            self.changes.p.asleep.eq(level.asleep),
            self.changes.p.link.eq(level.link),
        ]

        def go_on() -> None:
            m.d.sync += function.eq(function + 1)
            with m.If(function == self.functions - 1):
                m.d.sync += function.eq(0)

        with m.FSM():
            with m.State("FORGET"):
                m.d.comb += write.en.eq(1)
                m.d.sync += function.eq(function + 1)
                with m.If(function == depth - 1):
                    m.d.sync += function.eq(0)
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += [
                    level.asleep.eq(self.sleep.bit_select(function, 1)),
                    level.link.eq(self.link_up),
                ]
                m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If(level.as_value() == read.data.as_value()):
                    go_on()
                    m.next = "LOOK"
                with m.Else():
                    m.next = "TELL"
            with m.State("TELL"):
                m.d.comb += [
                    self.changes.valid.eq(1),
                    write.data.eq(level),
                    write.en.eq(self.changes.ready),
                ]
                with m.If(self.changes.ready):
                    go_on()
                    m.next = "LOOK"
        return m
