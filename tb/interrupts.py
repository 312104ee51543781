"""Message-signalled interrupts: addresses that are no memory, and who waits for them."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["DOORBELL_WINDOW", "Interrupt", "InterruptController"]

DOORBELL_WINDOW = range(0xFEE0_0000, 0xFEF0_0000)
"""Writes here are interrupts, as on a PC."""


class Interrupt:
    """One interrupt: what must be written where, and how often it was."""

    __slots__ = ("address", "count", "cycles", "data", "name", "requester_id")

    def __init__(self, address: int, data: int, name: str) -> None:
        self.address = address
        self.data = data
        self.name = name
        self.count = 0
        """Times it was raised; only grows, so that several may wait for it."""
        self.cycles: list[int] = []
        """When."""
        self.requester_id: int | None = None
        """Who raised it last."""

    def __repr__(self) -> str:
        return f"<interrupt {self.name} {self.data:#x} to {self.address:#x}, raised {self.count}>"


class InterruptController:
    """Gives out interrupts and recognizes them.

    Every interrupt has data and an address of its own, so that a mixed-up table entry is seen.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Interrupt] = {}
        self.listeners: list[Callable[[Interrupt], None]] = []
        """Called for each interrupt raised."""

    def allocate(self, name: str = "interrupt") -> Interrupt:
        """Give an interrupt that nobody has."""
        number = len(self._known)
        # 256 processors a page of the window, as the physical destination is coded on a PC.
        address = DOORBELL_WINDOW.start + (number % 251 << 12)
        interrupt = Interrupt(address, 0x4021 + 7 * number, name)
        self._known[address, interrupt.data] = interrupt
        return interrupt

    def deliver(self, address: int, data: int, requester_id: int, cycle: int) -> Interrupt | None:
        """Take a write into the window; None when nobody was given this interrupt."""
        interrupt = self._known.get((address, data))
        if interrupt is not None:
            interrupt.count += 1
            interrupt.cycles.append(cycle)
            interrupt.requester_id = requester_id
            for listener in list(self.listeners):
                listener(interrupt)
        return interrupt
