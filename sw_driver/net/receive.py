"""Frames from the device, and the buffers that it writes them to."""

from __future__ import annotations

from dataclasses import dataclass

from sw_driver.buffers import make_buffer
from sw_driver.layouts import Feature, NetHeader
from sw_driver.net.context import DeviceContext
from sw_driver.net.queue import NetQueue
from sw_driver.ring import RingError, RingFull

__all__ = ["ReceivedFrame", "check_room", "refill", "take_frame"]


@dataclass(frozen=True)
class ReceivedFrame:
    """A frame and the header that the device put before it."""

    data: bytes
    header: NetHeader


def take_frame(queue: NetQueue) -> ReceivedFrame:
    """Take the next frame out of a queue that has used some buffers.

    `RingError` when what the device wrote is not as was agreed on.
    """
    received = _checked(queue.context, _take_buffers(queue))
    statistics = queue.context.statistics
    statistics.rx_frames += 1
    statistics.rx_bytes += len(received.data)
    return received


def _take_buffers(queue: NetQueue) -> bytes:
    """Take the buffers of the next frame, all of which were used at once, and empty them."""
    context, ring = queue.context, queue.ring
    first, full = _take_buffer(queue)
    count = 1
    if context.virtio.has(Feature.MRG_RXBUF) and len(first) >= NetHeader.SIZE:
        count = NetHeader.unpack(first).num_buffers
    parts = [first]
    for number in range(1, count):
        if not full:
            raise RingError(f"buffer {number - 1} of {count} of a frame has room left")
        if not ring.has_used():
            raise RingError(f"a frame over {count} buffers, of which {number} are used")
        part, full = _take_buffer(queue)
        parts.append(part)
    context.statistics.merged_frames += count > 1
    return b"".join(parts)


def _take_buffer(queue: NetQueue) -> tuple[bytes, bool]:
    """Give what was written to the next used buffer, and whether that filled it."""
    used = queue.ring.take_used()
    assert used is not None
    data, size = used.token.read(used.written), used.token.size
    used.token.free()
    return data, used.written == size


def _checked(context: DeviceContext, data: bytes) -> ReceivedFrame:
    """Take the header off, and see that it asks for nothing that was not agreed on."""
    has = context.virtio.has
    if len(data) <= NetHeader.SIZE:
        raise RingError(f"a receive buffer came back with {len(data)} bytes")
    header = NetHeader.unpack(data)
    if header.num_buffers != 1 and not has(Feature.MRG_RXBUF):
        raise RingError(f"num_buffers is {header.num_buffers}, and buffers are not merged")
    if not header.num_buffers:
        raise RingError("num_buffers is 0")
    if header.flags & (NetHeader.FLAG_NEEDS_CSUM | NetHeader.FLAG_DATA_VALID) and (
            not has(Feature.GUEST_CSUM)):
        raise RingError(f"flags {header.flags:#x} without GUEST_CSUM")
    if header.gso_type and not any(has(feature) for feature in (
            Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_UFO, Feature.GUEST_USO4,
            Feature.GUEST_USO6)):
        raise RingError(f"gso_type {header.gso_type} without a segmentation feature")
    return ReceivedFrame(data[NetHeader.SIZE:], header)


def _buffer_bytes(context: DeviceContext) -> int:
    """Size of a receive buffer."""
    if context.options.receive_bytes is not None:
        return context.options.receive_bytes
    return max(1526, context.config.largest_received)


def check_room(queue: NetQueue) -> None:
    """Refuse receive buffers that can never hold a frame of the MTU together (`ValueError`)."""
    context, ring = queue.context, queue.ring
    if not context.virtio.has(Feature.MRG_RXBUF):
        return
    each, largest = _buffer_bytes(context), context.config.largest_received
    if each < NetHeader.SIZE:
        raise ValueError(f"receive buffers of {each} bytes do not hold the header")
    descriptors = min(context.options.receive_shape.segments[1], each, ring.size)
    if ring.indirect is not None:
        descriptors = min(descriptors, 1 + ring.direct_first)
    most = min(context.options.receive_buffers or ring.size, ring.size // descriptors)
    if most * each < largest:
        raise ValueError(f"{most} receive buffers of {each} bytes do not hold a frame of "
                         f"{largest}")


async def refill(queue: NetQueue) -> None:
    """Fill the receive queue, and tell the device."""
    context, ring = queue.context, queue.ring
    options, each = context.options, _buffer_bytes(context)
    most = options.receive_buffers or ring.size
    # A full batch, or as good as all gone: a device without buffers drops frames.
    missing = most - ring.outstanding
    enough = not context.virtio.has(Feature.MRG_RXBUF) or (
        ring.outstanding * each >= context.config.largest_received)
    if missing < min(options.refill_batch, most) and 2 * missing < most and enough:
        return
    while ring.outstanding < most:
        buffer = queue.spare.pop() if queue.spare else make_buffer(
            context.port, each, options.receive_shape, context.rng, name="receive buffer",
            most=ring.size, device_writes=True)
        try:
            ring.add([], buffer.segments, buffer)
        except RingFull:
            queue.spare.append(buffer)
            break
    await queue.publish()
