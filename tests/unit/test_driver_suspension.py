"""The driver resets single queues, suspends the device, and has it go on."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from sw_driver.layouts import Feature, Status
from sw_driver.net import DeviceNeedsReset, without
from sw_driver.virtio_pci import TransportError
from tb.model_host import ModelHost, run
from tests.unit.driver_world import (
    EVENT_IDX,
    IN_ORDER,
    OFFERED,
    PACKED,
    PAIRS,
    WHOLE,
    complaint,
    machine,
    opened,
    quiet,
)

# --- resets of single queues


@pytest.mark.virtio("DRV-CORE-VQR-01", "DRV-CORE-VQR-03", "DRV-PCI-COM-07", "DRV-PCI-COM-08")
@pytest.mark.parametrize("features", [WHOLE, WHOLE & ~PACKED, OFFERED | EVENT_IDX | IN_ORDER])
def test_any_queue_is_reset(features: int) -> None:
    host = machine(features=features, pairs=2)
    device = opened(host, pairs=2)
    for number, index in enumerate([*device.rings, 1, 0]):
        host.card.reset_reads = number
        begun, left = host.cycle, host.card.available(index)
        assert (left > 50) == (index % 2 == 0 and index != host.card.control)
        assert run(device.reset_queue(index)) == left
        assert host.cycle - begun >= 50 * number
        for pair in range(device.active_pairs):
            frame = bytes([index]) * 100
            run(device.send(frame, pair=pair))
            run(device.drain())
            assert (host.card.sent[-1], host.card.sent_in[-1]) == (frame, pair)
            assert host.card.deliver(frame, pair=pair)
            assert run(device.receive(100, pair=pair)) == frame
        if features & PAIRS:
            run(device.set_pairs(2))
    with pytest.raises(ValueError, match="queue 77 is not in use"):
        run(device.reset_queue(77))
    quiet(host)
    run(device.close())
    assert host.memory.regions == []


# --- suspension


@pytest.mark.virtio(*(f"DRV-CORE-SUSP-{number:02}" for number in range(1, 7)))
@pytest.mark.parametrize("features", [WHOLE, WHOLE & ~PACKED, OFFERED])
def test_a_device_is_suspended(features: int) -> None:
    """Nothing is given to it meanwhile; what it is to be given waits until it goes on."""
    host = machine(features=features)
    device = opened(host)
    for turn in range(3):
        host.card.suspend_reads = turn
        begun = host.cycle
        run(device.suspend())
        assert host.cycle - begun >= 50 * turn
        assert host.card.status & (Status.SUSPEND | Status.DRIVER_OK) == Status.SUSPEND
        assert not host.card.deliver(b"a" * 60)
        with pytest.raises(RuntimeError, match="the device is suspended"):
            run(device.reset_queue(0))
        kicks, work = host.card.kicks, device.send(bytes([turn]) * 60)
        host.each_step = _Later(host, 300, device.resume())
        run(work)
        run(device.drain())
        assert host.card.kicks == kicks + 1
        host.each_step = lambda: None
        assert host.card.status & (Status.SUSPEND | Status.DRIVER_OK) == Status.DRIVER_OK
        assert host.card.sent[-1] == bytes([turn]) * 60
        assert host.card.deliver(bytes([turn]) * 100)
        assert run(device.receive(100)) == bytes([turn]) * 100
    quiet(host)
    run(device.suspend())
    run(device.close())
    assert host.memory.regions == [] and not device.is_suspended


class _Later:
    """Does something once so many cycles have passed."""

    def __init__(self, host: ModelHost, cycles: int, work: Coroutine[Any, Any, None]) -> None:
        self.host = host
        self.due = host.cycle + cycles
        self.work: Coroutine[Any, Any, None] | None = work

    def __call__(self) -> None:
        if self.work is not None and self.host.cycle >= self.due:
            work, self.work = self.work, None
            assert not self.host.card.sent or self.host.card.status & Status.SUSPEND
            run(work)


@pytest.mark.virtio("DRV-CORE-SUSP-01")
def test_suspensions_that_fail() -> None:
    host = machine(features=OFFERED & ~(1 << Feature.SUSPEND))
    device = opened(host)
    with pytest.raises(TransportError, match="cannot be suspended"):
        run(device.suspend())
    run(device.send(b"a" * 60))
    host = machine()
    device = opened(host)
    with pytest.raises(TransportError, match="nothing to resume: the device's status is 0xf"):
        run(device.resume())
    host.card.breaks_when_suspended = True
    with pytest.raises(DeviceNeedsReset):
        run(device.suspend())
    assert not device.is_suspended
    host.card.breaks_when_suspended = False
    run(device.recover())
    run(device.suspend())
    run(device.virtio.resume())
    quiet(host)
    run(device.virtio.reset())
    device.virtio.features = WHOLE
    with pytest.raises(TransportError, match="nothing to suspend: the device's status is 0x0"):
        run(device.virtio.suspend())


def test_the_card_complains_of_what_is_done_while_suspended() -> None:
    host = machine()
    device = opened(host)
    run(device.virtio.suspend())
    for work, text in ((device.virtio.set_config_vector(0), "a write at 16 while suspended"),
                       (device.virtio.notify(1), "a kick while suspended")):
        run(work)
        assert host.card.complaints[0] == text
        host.card.complaints.clear()
    device.rings[1].add([(0x1000, 60)], [], None)
    device.rings[1].publish()
    run(device.virtio.resume())
    assert complaint(host) == "chains were shown in queue 1 while suspended"
    host.card.complaints.clear()
    host = machine()
    device = opened(host, features=without(Feature.SUSPEND))
    run(device.virtio.add_status(Status.SUSPEND))
    assert complaint(host) == "status 0x1f comes after 0xf"


def test_the_card_complains_of_resets_and_sizes() -> None:
    host = machine(features=OFFERED & ~(1 << Feature.RING_RESET))
    device = opened(host)
    with pytest.raises(TransportError, match="resets no single queue"):
        run(device.reset_queue(0))
    host.card._select[2] = 0
    host.card._write_queue(58, 1)
    assert complaint(host) == "queue_reset = 1 of queue 0"
    host.card.complaints.clear()
    for size, bad in ((12, True), (16, False), (0, True)):
        host.card._write_queue(24, size)
        assert host.card.complaints == ([f"queue size {size}"] if bad else [])
        host.card.complaints.clear()
    host.card.accepted |= PACKED
    for size, bad in ((12, False), (0, True), (65, True)):
        host.card._write_queue(24, size)
        assert host.card.complaints == ([f"queue size {size}"] if bad else [])
        host.card.complaints.clear()
    host.card._select[2] = 2
    host.card._write_queue(24, 16)
    assert complaint(host) == "a write at 24 of queue 2"
