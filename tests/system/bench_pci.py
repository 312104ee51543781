"""cocotb side of test_card.py: what the card is on the bus, and its interrupts, in traffic."""

from __future__ import annotations

from typing import Any

import cocotb

from hw.virtio.features import feature_mask, offered_features
from sim.bring_up import Card, bring_up, given_config
from sw_driver.layouts import CommonConfig, ConfigType, Feature, NetConfig
from sw_driver.net import NetDevice, NetOptions
from sw_driver.pci import scan
from sw_driver.pci_layouts import Capability, Header, MsixCapability
from tests.system.traffic import balance, both_ways, make_frame, settle

SOON = 4000


def few(count: int = 5) -> list[bytes]:
    return [make_frame(number, 60 + 31 * number) for number in range(count)]


@cocotb.test
async def facts(dut: Any) -> None:
    """What the driver finds when it enumerates the bus and opens the device."""
    card = await bring_up(dut)
    function, device, config = card.function, card.device, card.config
    assert (function.vendor_id, function.device_id) == (0x1AF4, 0x1041)
    assert function.revision_id >= 1
    assert function.subsystem_id >= 0x40
    assert function.class_code == 0x020000
    assert not function.multifunction
    assert {kind for kind, _at in function.capabilities} >= {
        Capability.POWER, Capability.EXPRESS, Capability.MSIX, Capability.VENDOR}
    assert set(device.virtio.regions) >= {
        ConfigType.COMMON, ConfigType.NOTIFY, ConfigType.ISR, ConfigType.DEVICE, ConfigType.PCI}
    at = function.capability(Capability.MSIX)
    assert at is not None
    assert (await function.read(MsixCapability.CONTROL, at)
            & MsixCapability.TABLE_SIZE) + 1 == config.vectors
    for bar in function.bars.values():
        assert bar.address % bar.size == 0
    assert device.config.mac == config.mac.to_bytes(6, "big")
    assert device.config.mtu == config.mtu
    assert device.config.link_up
    assert device.config.speed_mbps == config.link_mbps
    assert device.config.full_duplex
    assert await device.virtio.get(CommonConfig.NUM_QUEUES) >= 2
    assert await device.virtio.offered_features() == feature_mask(offered_features(config))
    assert device.virtio.has(Feature.VERSION_1)
    await both_ways(card, few(), few())
    await settle(card)
    # There is one device on the link, and it is found again as it was.
    again, = await scan(card.port)
    assert (again.bdf, again.bars) == (function.bdf, function.bars)


async def masked_traffic(card: Card, mask: Any) -> None:
    """Let a queue be used while its vector is masked, then unmask it."""
    device = card.device
    queue = device.queues.receive[0]
    assert device.queues.vectors.msix is not None and queue.interrupt is not None
    queue.ring.suppress_interrupts(False)
    await mask(True)
    before = queue.interrupt.count
    for frame in few():
        card.wire.send(frame)
    await card.ticker.until(queue.ring.has_used, SOON, "a frame")
    await card.ticker.sleep(1500)
    assert queue.interrupt.count == before
    assert await device.queues.vectors.msix.pending(1)
    await mask(False)
    assert await card.port.wait_interrupts([(queue.interrupt, before)], SOON)
    await card.ticker.sleep(500)
    assert queue.interrupt.count == before + 1  # one bit remembers any number of them
    assert not await device.queues.vectors.msix.pending(1)
    for frame in few():
        assert await device.receive(SOON) == frame


@cocotb.test
async def masked_vectors(dut: Any) -> None:
    """A masked vector is remembered, and sent once when it is unmasked, where it then points."""
    card = await bring_up(dut)
    msix = card.device.queues.vectors.msix
    assert msix is not None

    async def mask_one(masked: bool) -> None:
        await msix.mask(1, masked)

    await masked_traffic(card, mask_one)
    await masked_traffic(card, msix.mask_all)
    # The vector may be pointed elsewhere while it is masked.
    queue = card.device.queues.receive[0]
    queue.ring.suppress_interrupts(False)
    await msix.mask(1, True)
    old = queue.interrupt
    assert old is not None
    count = old.count
    card.wire.send(make_frame(1, 60))
    await card.ticker.until(queue.ring.has_used, SOON, "a frame")
    await card.ticker.sleep(500)
    queue.interrupt = card.port.allocate_interrupt("elsewhere")
    await msix.route(1, queue.interrupt)
    assert await card.port.wait_interrupts([(queue.interrupt, 0)], SOON)
    assert old.count == count
    assert await card.device.receive(SOON) == make_frame(1, 60)
    await both_ways(card, few(), few())
    await settle(card)


@cocotb.test
async def one_vector_for_all(dut: Any) -> None:
    """Queues and configuration may share a vector."""
    card = await bring_up(dut, open_device=False)
    device = card.device
    real = device.queues.vectors.set_up

    async def share(queues: int) -> Any:
        await real(queues)
        return [(0, device.context.config_interrupt)] * queues

    device.queues.vectors.set_up = share  # type: ignore[method-assign]
    await device.open()
    await both_ways(card, few(20), few(20))
    dut.link_up.value = 0
    interrupt = device.context.config_interrupt
    assert interrupt is not None
    assert await card.port.wait_interrupts([(interrupt, interrupt.count)], SOON)
    await device.check_config()
    assert not device.config.link_up
    await settle(card)


@cocotb.test
async def without_interrupts(dut: Any) -> None:
    """Without MSI-X nothing is sent, but the ISR tells of used buffers; reading clears it."""
    config = given_config()
    card = await bring_up(dut, net=NetOptions(
        interrupts=False, max_payload=config.max_payload_bytes, max_read=config.max_read_bytes))
    device = card.device
    device.rings[0].suppress_interrupts(False)
    await device.virtio.read_isr()
    for frame in few():
        card.wire.send(frame)
    await card.ticker.sleep(2000)
    assert await card.function.read(Header.STATUS) & 0x8
    assert await device.virtio.read_isr() == 1
    assert await device.virtio.read_isr() == 0
    assert not await card.function.read(Header.STATUS) & 0x8
    for frame in few():
        assert await device.receive(SOON) == frame
    await both_ways(card, few(40), few(40))
    assert not card.host.root.counts["rq.interrupts"]
    await settle(card)


@cocotb.test
async def vectors_unmapped(dut: Any) -> None:
    """With MSI-X on and no vector for it, neither a queue nor the configuration interrupts."""
    card = await bring_up(dut)
    device = card.device
    assert device.queues.vectors.msix is not None
    await device.virtio.put(CommonConfig.QUEUE_SELECT, 0)
    await device.virtio.put(CommonConfig.QUEUE_MSIX_VECTOR, CommonConfig.NO_VECTOR)
    assert await device.virtio.set_config_vector(CommonConfig.NO_VECTOR)
    device.rings[0].suppress_interrupts(False)
    before = card.host.root.counts["rq.interrupts"]
    for frame in few():
        card.wire.send(frame)
    dut.link_up.value = 0
    await card.ticker.sleep(2500)
    assert device.rings[0].has_used()
    assert card.host.root.counts["rq.interrupts"] == before
    assert not await device.queues.vectors.msix.pending(0)
    assert not await device.queues.vectors.msix.pending(1)
    await card.device.recover()
    await both_ways(card, few(), few())
    await settle(card)


@cocotb.test
async def link_changes(dut: Any) -> None:
    """The wire's link goes and comes: interrupt, ISR, generation, status."""
    card = await bring_up(dut)
    device = card.device
    interrupt = device.context.config_interrupt
    assert interrupt is not None
    for up in (0, 1):
        generation = await device.virtio.get(CommonConfig.CONFIG_GENERATION)
        assert generation == await device.virtio.get(CommonConfig.CONFIG_GENERATION)
        seen = interrupt.count
        dut.link_up.value = up
        assert await card.port.wait_interrupts([(interrupt, seen)], SOON)
        assert await device.virtio.read_isr() & 2
        assert await device.virtio.get(CommonConfig.CONFIG_GENERATION) != generation
        await device.check_config()
        assert device.config.link_up == bool(up)
        assert await device.virtio.read(ConfigType.DEVICE, *NetConfig.STATUS) == up
    await both_ways(card, few(), few())
    await settle(card)


@cocotb.test
async def window(dut: Any) -> None:
    """The PCI_CFG capability reaches every structure: a whole device is opened and used by it."""
    config = given_config()
    options = NetOptions(max_payload=config.max_payload_bytes, max_read=config.max_read_bytes)
    card = await bring_up(dut, net=options, open_device=False)
    direct = await card.device.virtio.get(CommonConfig.NUM_QUEUES)
    device = card.device = await NetDevice.probe(card.port, card.function, options)
    device.virtio.through_config = True
    assert await device.virtio.get(CommonConfig.NUM_QUEUES) == direct
    await device.open()
    assert device.config.mtu == config.mtu
    await both_ways(card, few(), few())
    assert not await balance(card)
    await settle(card)
