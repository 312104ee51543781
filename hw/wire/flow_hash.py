"""A hash of a received frame's flow, taken while the frame comes in."""

from collections.abc import Callable
from functools import reduce
from operator import and_, or_, xor
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import WireBeatLayout, check_lanes
from hw.wire.types import FLOW_HASH_BITS

__all__ = ["FlowHash"]

_POLYNOMIAL = 0x1021  # CRC-16-CCITT
_ADDRESSES = range(26, 34)
_PORTS = range(34, 38)
_WITH_PORTS = (6, 17)  # TCP, UDP


def _columns() -> dict[tuple[int, int], int]:
    """Give what each bit that is hashed adds to the hash, by byte of the frame and bit."""
    crc = 0
    columns: dict[tuple[int, int], int] = {}
    for byte in reversed((*_ADDRESSES, *_PORTS)):
        for bit in range(8):
            if not columns:
                crc = _POLYNOMIAL
            else:
                crc = crc << 1 ^ (crc >> 15) * (1 << 16 | _POLYNOMIAL)
            columns[byte, bit] = crc
    return columns


class FlowHash(wiring.Component):
    """Hash what all frames of a flow have in common, and those of others have not.

    The hash is the CRC-16-CCITT (from 0) of bytes 26 to 37 of the frame. Of these count, the others
    being taken as zero:

    ==================================================== ========================================
    frame                                                what counts
    ==================================================== ========================================
    IPv4, TCP or UDP, no options, not part of a datagram all: addresses and ports
    IPv4                                                 26 to 33: addresses
    IPv6                                                 all: the low part of the source address
    anything else, or too short for its bytes            none: the hash is 0
    ==================================================== ========================================

    So nothing counts that changes from frame to frame of a flow (a checksum, an ICMP sequence
    number), and a flow's frames have one hash. A VLAN tag makes a frame something else.

    | Latency: 0 cycles from the last beat. Throughput: a beat a cycle. Storage: a hash in two
      parts.

    Parameters
    ----------
    lanes
        Byte lanes of a beat.

    Members
    -------
    wire : In(stream.Signature(WireBeatLayout(lanes), always_ready=True))
        Looked at, not taken.
    hash : Out(16)
        Of the frame, with its last beat.
    """

    wire: stream.Interface
    hash: Signal

    def __init__(self, lanes: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        super().__init__({
            "wire": In(stream.Signature(WireBeatLayout(lanes), always_ready=True)),
            "hash": Out(FLOW_HASH_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        beat = self.wire.p
        rows = (_PORTS.stop - 1) // lanes + 1
        row = Signal(range(rows + 1))  # of this beat; the last number is for all behind

        def here(byte: int) -> Value:
            at: Value = row == byte // lanes
            return at

        def of(byte: int) -> Value:
            value: Value = beat.data.word_select(byte % lanes, 8)
            return value

        def reached(byte: int) -> Value:
            there: Value = here(byte) & (~beat.last | (beat.empty < lanes - byte % lanes))
            return there

        def gather(name: str, init: int, bits: int, so_far: Callable[[Value], Value]) -> Signal:
            """Keep what is known of the frame, with this beat."""
            known = Signal(bits, init=init, name=f"{name}_known")
            now = Signal(bits, name=name)
            m.d.comb += now.eq(so_far(known))
            with m.If(self.wire.valid):
                m.d.sync += known.eq(Mux(beat.last, init, now))
            return now

        def all_of(name: str, *conditions: tuple[int, Callable[[Value], Value]]) -> Signal:
            return gather(name, 1, 1, lambda known: reduce(
                and_, (~here(byte) | holds(of(byte)) for byte, holds in conditions), known))

        def any_reached(name: str, byte: int) -> Signal:
            return gather(name, 0, 1, lambda known: known | reached(byte))

        columns: Any = _columns()

        def part(name: str, place: range) -> Signal:
            def bit(number: int, known: Value) -> Value:
                return reduce(xor, (of(byte)[n] & here(byte) for byte in place for n in range(8)
                                    if columns[byte, n] >> number & 1), known[number])

            return gather(name, 0, FLOW_HASH_BITS, lambda known: Cat(
                bit(number, known) for number in range(FLOW_HASH_BITS)))

        def equals(wanted: int) -> Callable[[Value], Value]:
            return lambda value: value == wanted

        ipv4 = all_of("ipv4", (12, equals(0x08)), (13, equals(0x00)),
                      (14, lambda value: value[4:] == 4))
        ipv6 = all_of("ipv6", (12, equals(0x86)), (13, equals(0xDD)))
        plain = all_of("plain", (14, lambda value: value[:4] == 5),
                       (20, lambda value: value[:6] == 0), (21, equals(0)),
                       (23, lambda value: reduce(or_, (value == n for n in _WITH_PORTS))))
        addresses = part("addresses", _ADDRESSES)
        ports = part("ports", _PORTS)
        has_addresses = any_reached("has_addresses", _ADDRESSES.stop - 1)
        has_ports = any_reached("has_ports", _PORTS.stop - 1)
        with m.If(self.wire.valid):
            m.d.sync += row.eq(Mux(beat.last, 0, Mux(row == rows, rows, row + 1)))

        none = Const(0, FLOW_HASH_BITS)
        m.d.comb += self.hash.eq(
            Mux((ipv4 | ipv6) & has_addresses, addresses, none)
            ^ Mux((ipv6 | ipv4 & plain) & has_ports, ports, none))
        return m
