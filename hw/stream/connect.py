"""Connect streams of equal layout, and refuse any other pair."""

from typing import Any

from amaranth import Module
from amaranth.lib import stream
from amaranth.lib.wiring import FlippedInterface, connect

__all__ = ["connect_streams"]


def connect_streams(m: Module, producer: "stream.Interface | FlippedInterface[Any, Any]",
                    consumer: "stream.Interface | FlippedInterface[Any, Any]") -> None:
    """Connect ``producer`` to ``consumer`` after a check that they carry the same payload.

    `amaranth.lib.wiring.connect` compares widths alone, and would silently connect two different
    structs of equal width. Own ports of the calling component go in as ``flipped(self.x)``, with
    either argument in either place: an own input is a producer seen from inside.

    Raises ``TypeError`` when the payloads differ.
    """
    one, other = producer.signature.members["payload"], consumer.signature.members["payload"]
    if one.shape != other.shape:
        raise TypeError(f"streams of different payloads: {one.shape!r} and {other.shape!r}")
    connect(m, producer, consumer)
