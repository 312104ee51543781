"""The driver on the bus: functions, BARs, capabilities, resets."""

from __future__ import annotations

import pytest

from sw_driver.layouts import ConfigType
from sw_driver.pci import PciError, scan
from sw_driver.pci_layouts import Power
from sw_driver.virtio_pci import VirtioPci
from tb.model_host import run
from tests.unit.driver_world import (
    OFFERED,
    PLAIN,
    machine,
    opened,
    quiet,
)

# --- PCI


@pytest.mark.virtio("DRV-PCI-ID-01", "DRV-PCI-ID-03")
def test_a_scan_finds_the_card_and_places_its_bars() -> None:
    host = machine()
    function, = run(scan(host))
    assert (function.bdf, function.vendor_id, function.device_id) == (0x100, 0x1AF4, 0x1041)
    assert (function.class_code, function.revision_id, function.multifunction) == (
        0x020000, 1, False)
    assert {index: (bar.size, bar.is_64, bar.prefetchable)
            for index, bar in function.bars.items()} == {
        0: (0x1000, False, False), 2: (0x4000, True, True), 4: (0x8000, True, False)}
    for bar in function.bars.values():
        assert bar.address % bar.size == 0
        assert any(bar.address in window and bar.address + bar.size - 1 in window
                   for window in host.memory_windows)
    assert function.bars[0].address < 1 << 32 < function.bars[2].address
    assert run(host.config_read(0x100, 4, 2)) & 6 == 2  # memory, no bus mastering yet
    quiet(host)


def test_nothing_on_the_bus() -> None:
    assert run(scan(machine(), bus=2)) == []


@pytest.mark.virtio("DRV-PCI-CAP-01", "DRV-PCI-CAP-02", "DRV-PCI-CAP-03", "DRV-PCI-CAP-04")
@pytest.mark.parametrize(("features", "doorbells", "multiplier"), [
    (PLAIN, 0x2002, 2), (OFFERED, 0x2004, 4)])
def test_structures_are_found_among_decoys(features: int, doorbells: int,
                                           multiplier: int) -> None:
    host = machine(features=features)
    function, = run(scan(host))
    virtio = VirtioPci(function)
    run(virtio.discover())
    assert {kind: (region.bar, region.offset) for kind, region in virtio.regions.items()} == {
        ConfigType.COMMON: (4, 0x1040), ConfigType.NOTIFY: (2, doorbells),
        ConfigType.ISR: (0, 0x803), ConfigType.DEVICE: (4, 0x3100), ConfigType.PCI: (0, 0)}
    assert virtio.notify_multiplier == multiplier
    quiet(host)


def test_a_function_level_reset_and_power_states() -> None:
    host = machine()
    device = opened(host)
    run(device.send(b"x" * 60))
    before = [bar.address for bar in device.function.bars.values()]
    run(device.reset_function())
    assert host.card.status == 0
    assert [bar.address for bar in device.function.bars.values()] == before
    run(device.open())
    run(device.send(b"y" * 60))
    run(device.drain())
    assert host.card.sent == [b"y" * 60]
    run(device.close())
    run(device.function.set_power_state(Power.D3_HOT))
    assert host.card.config_read(0x44, 1) & 3 == 3
    quiet(host)


def test_a_capability_list_that_runs_in_a_circle() -> None:
    host = machine()
    host.card._config[0x41] = 0x40
    with pytest.raises(PciError, match="astray"):
        run(scan(host))
