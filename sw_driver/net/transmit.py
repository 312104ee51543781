"""Frames to the device."""

from __future__ import annotations

from collections.abc import Iterable

from sw_driver.buffers import make_buffer
from sw_driver.layouts import NetHeader
from sw_driver.net.queue import NetQueue
from sw_driver.ring import RingFull

__all__ = ["drain_queue", "send_frames"]


async def send_frames(queue: NetQueue, frames: Iterable[bytes], *, batch: int) -> None:
    """Send frames, with one kick for each ``batch`` of them, or when the ring is full."""
    context, ring = queue.context, queue.ring
    waiting = 0
    for frame in frames:
        longest = context.config.max_frame
        if not 1 <= len(frame) <= longest:
            raise ValueError(f"a frame of {len(frame)} bytes, 1 to {longest} allowed")
        queue.reclaim()
        buffer = make_buffer(
            context.port, NetHeader.SIZE + len(frame), context.options.transmit_shape,
            context.rng, name="transmit buffer", most=ring.size, device_reads=True)
        buffer.write(NetHeader().pack() + frame)
        while True:
            try:
                ring.add(buffer.segments, [], buffer)
                break
            except RingFull:
                await queue.publish()
                await queue.require_used()
                queue.reclaim()
        context.statistics.tx_frames += 1
        context.statistics.tx_bytes += len(frame)
        waiting += 1
        if waiting == batch:
            waiting = 0
            await queue.publish()
    await queue.publish()


async def drain_queue(queue: NetQueue) -> None:
    """Wait until the device has used every frame of a queue."""
    queue.reclaim()
    while queue.ring.outstanding:
        await queue.require_used()
        queue.reclaim()
