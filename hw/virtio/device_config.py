"""The network device's configuration space: constants, but for the address and the link."""

from amaranth import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS
from hw.virtio.layouts import DEVICE_CONFIG, FEATURE_BITS

__all__ = ["DeviceConfig", "check_device"]

_FULL_DUPLEX = 1


def check_device(*, mac: int, mtu: int, link_mbps: int, pairs: int = 1) -> None:
    """Reject what `DeviceConfig` cannot be made of, with ``ValueError``."""
    if not 0 <= mac < 1 << 48:
        raise ValueError(f"mac must have 48 bits, not {mac!r}")
    if not 68 <= mtu <= 0xFFFF:
        raise ValueError(f"mtu must be from 68 to 65535 bytes, not {mtu!r}")
    if not 0 <= link_mbps <= 0x7FFF_FFFF:
        raise ValueError(f"link_mbps must be from 0 to 2147483647, not {link_mbps!r}")
    if not 1 <= pairs <= 0x8000:
        raise ValueError(f"pairs must be from 1 to 32768, not {pairs!r}")


class DeviceConfig(wiring.Component):
    """Read a dword of a function's ``virtio_net_config``. It cannot be written.

    A field whose feature is not offered reads zero, and so does what lies behind the last field.

    | Latency: 2 cycles. Throughput: one read a cycle.

    Parameters
    ----------
    offered
        The feature bits that the functions offer.
    mac
        MAC address of function 0, as a number whose highest byte is first on the wire; function f
        has that plus f.
    mtu
        Largest payload of a frame in bytes, 68 to 65535.
    link_mbps
        Speed of the wire in Mbit/s.
    pairs
        Pairs of data queues that a function has with MQ, 1 to 32768 (NET-CFG-01).

    Members
    -------
    function : In(8)
    dword : In(4)
    link_up : In(1)
    data : Out(32)
        Belongs to the three above as they were two cycles before.
    """

    function: Signal
    dword: Signal
    link_up: Signal
    data: Signal

    def __init__(self, *, offered: int, mac: int, mtu: int, link_mbps: int,
                 pairs: int = 1) -> None:
        check_device(mac=mac, mtu=mtu, link_mbps=link_mbps, pairs=pairs)
        self.offered = offered
        self.mac = mac
        self.mtu = mtu
        self.link_mbps = link_mbps
        self.pairs = pairs
        super().__init__({
            "function": In(FUNCTION_BITS),
            "dword": In(4),
            "link_up": In(1),
            "data": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        mac = Signal(48)
        dword = Signal.like(self.dword, reset_less=True)
        link_up = Signal(reset_less=True)
        out = Signal(32, reset_less=True)
        m.d.sync += [mac.eq(self.mac + self.function), dword.eq(self.dword),
                     link_up.eq(self.link_up)]

        values: dict[str, Value] = {
            "mac": Cat(mac.word_select(5 - byte, 8) for byte in range(6)),
            "status": link_up,
            "max_virtqueue_pairs": Const(self.pairs, 16),
            "mtu": Const(self.mtu, 16),
            "speed": Const(self.link_mbps, 32),
            "duplex": Const(_FULL_DUPLEX, 8),
        }
        space = Signal(8 * 4 * (1 << len(dword)))
        for field in DEVICE_CONFIG.fields:
            if self.offered >> FEATURE_BITS[field.feature] & 1:
                place = slice(8 * field.offset, 8 * field.offset + field.bits)
                m.d.comb += space[place].eq(values[field.name])
        m.d.sync += out.eq(Array(space.word_select(n, 32) for n in range(1 << len(dword)))[dword])
        m.d.comb += self.data.eq(out)
        return m
