"""Commands of the control queue."""

from __future__ import annotations

from dataclasses import dataclass

from sw_driver.buffers import Buffer, make_buffer
from sw_driver.layouts import Control
from sw_driver.net.queue import NetQueue
from sw_driver.ring import RingError, RingFull

__all__ = ["CommandRefused", "do_command"]


class CommandRefused(Exception):
    """The device answered a command of the control queue with ERR."""

    def __init__(self, command_class: int, command: int) -> None:
        super().__init__(f"the device refuses command {command} of class {command_class}")
        self.command_class = command_class
        self.command = command


@dataclass(eq=False)
class _Command:
    """What a command is in, and what its answer is written to."""

    said: Buffer
    answer: Buffer

    def free(self) -> None:
        """Give all memory back."""
        self.said.free()
        self.answer.free()


async def do_command(queue: NetQueue, command_class: int, command: int, data: bytes, *,
                     answer_bytes: int) -> bytes:
    """Have the device do a command; give what it answers beyond OK.

    `CommandRefused` when it answers ERR, `TransportError` when it does not answer within the
    options' time-out; an answer that comes later than that is dropped.
    """
    context, ring = queue.context, queue.ring
    said = bytes([command_class, command]) + data
    most = ring.size // 2 or 1
    shape = context.options.control_shape
    sent = _Command(
        make_buffer(context.port, len(said), shape, context.rng, name="command", most=most,
                    device_reads=True),
        make_buffer(context.port, 1 + answer_bytes, shape, context.rng, name="answer", most=most,
                    device_writes=True))
    sent.said.write(said)
    sent.answer.write(b"\xff" * (1 + answer_bytes))
    try:
        ring.add(sent.said.segments, sent.answer.segments, sent)
    except RingFull:
        sent.free()
        raise
    await queue.publish()
    context.statistics.commands += 1
    while True:
        used = ring.take_used()
        if used is None:
            await queue.require_used()
            continue
        answer: bytes = used.token.answer.read(used.written)
        used.token.free()
        if used.token is sent:
            break
    if not answer or answer[0] not in (Control.OK, Control.ERR):
        raise RingError(f"command {command} of class {command_class} is answered with "
                        f"{answer.hex() or 'nothing'}")
    if answer[0] == Control.ERR:
        raise CommandRefused(command_class, command)
    return answer[1:]
