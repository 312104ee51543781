"""Which queue numbers a function has, worked out once more for the benches."""

from __future__ import annotations

__all__ = ["QueuePlan"]


class QueuePlan:
    """Data queues by function first, then a control queue of each."""

    def __init__(self, functions: int, stride: int) -> None:
        self.functions = functions
        self.stride = stride
        self.all = [q for f in range(functions) for q in self.data_of(f)]
        self.all += [self.control_of(f) for f in range(functions)]

    def data_of(self, function: int) -> list[int]:
        """Give the data queues of a function, in order."""
        return [self.stride * function + index for index in range(self.stride)]

    def control_of(self, function: int) -> int:
        """Give the control queue of a function."""
        return self.stride * self.functions + function

    def of(self, function: int) -> list[int]:
        """Give all queues of a function, the control queue last."""
        return [*self.data_of(function), self.control_of(function)]

    def owner(self, queue: int) -> int:
        """Give the function whose queue it is."""
        return next(f for f in range(self.functions) if queue in self.of(f))

    def kind(self, queue: int) -> str:
        """Give "receive", "transmit" or "control"."""
        if queue >= self.stride * self.functions:
            return "control"
        return ["receive", "transmit"][queue % 2]
