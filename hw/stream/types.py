"""What travels through the card: beats of packets, and what is known beside their bytes."""

from amaranth.lib import data

__all__ = [
    "FUNCTION_BITS",
    "LENGTH_BITS",
    "QUEUE_BITS",
    "VPORT_BITS",
    "BeatLayout",
    "HeadLayout",
    "NetRequestLayout",
    "TailLayout",
    "WireBeatLayout",
]

FUNCTION_BITS = 8
"""Function number: 0 is the PF, 1..255 the VFs."""

QUEUE_BITS = 14
"""Queue number of the whole card: of a data queue function * stride + virtio's index within the
function; the stride is 2 * queue pairs (a power of two, at most 32). Even indices receive, odd ones
transmit. Behind all data queues a control queue of each function (`hw.virtio.queue_numbers`)."""

VPORT_BITS = 9
"""Virtual port: 0 is the uplink, 1 + f is function f."""

LENGTH_BITS = 17
"""Bytes of a frame or of a descriptor chain: 64 KiB of segmentable frame and its headers fit."""


class BeatLayout(data.StructLayout):
    """One beat of a packet: ``lanes`` byte lanes and where the packet ends.

    ======== ======== ==========================================================
    field    bits     meaning
    ======== ======== ==========================================================
    data     8*lanes  Lane 0 (bits 7:0) is the first byte on the wire.
    empty    log2     Unused *high* lanes; non-zero only where ``last`` is set.
    last     1        This beat ends the packet. The next one starts a packet.
    ======== ======== ==========================================================
    """

    def __init__(self, lanes: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        super().__init__({"data": 8 * lanes, "empty": range(lanes), "last": 1})


class WireBeatLayout(data.StructLayout):
    """A beat of a received frame, as a MAC gives it: ``error`` comes with the last beat."""

    def __init__(self, lanes: int) -> None:
        check_lanes(lanes)
        self.lanes = lanes
        super().__init__({"data": 8 * lanes, "empty": range(lanes), "last": 1, "error": 1})


class NetRequestLayout(data.StructLayout):
    """What the driver asks for a frame: ``virtio_net_hdr``, in the standard's order."""

    def __init__(self) -> None:
        super().__init__({
            "flags": 8, "gso_type": 8, "hdr_len": 16, "gso_size": 16,
            "csum_start": 16, "csum_offset": 16, "num_buffers": 16,
        })


class HeadLayout(data.StructLayout):
    """What is known of a packet no later than its first beat; one transfer a packet, in order.

    The parser's offsets, the hash, the flow's verdict, timestamp, class and host join here, each
    with the block that first makes it.
    """

    def __init__(self) -> None:
        super().__init__({
            "vport": VPORT_BITS,  # where the packet came in
            "queue": QUEUE_BITS,  # the queue it came from, or goes to
            "request": NetRequestLayout(),
        })


class TailLayout(data.StructLayout):
    """What only the end of a packet can tell; one transfer a packet, with its last beat."""

    def __init__(self) -> None:
        super().__init__({"bytes": LENGTH_BITS, "error": 1})


def check_lanes(lanes: int) -> None:
    """Raise ``ValueError`` unless ``lanes`` is a power of two, and at least 2."""
    if lanes < 2 or lanes & (lanes - 1):
        raise ValueError(f"lanes must be a power of two and at least 2, not {lanes!r}")
