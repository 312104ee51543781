"""cocotb side of test_card.py: resets and sleep in full traffic.

Memory is given back as soon as a reset is answered: an access after that fails the test.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import cocotb

from sim.bring_up import Card, bring_up, given_config
from sw_driver.buffers import Shape
from sw_driver.layouts import CommonConfig, Feature
from sw_driver.net import SUPPORTED, NetOptions, without
from sw_driver.pci_layouts import Express, Header, Power
from tb.root_complex import RootComplexOptions
from tb.wire import LINE_100G
from tests.system.traffic import Flow, balance, both_ways, make_frame, settle

CASE = json.loads(os.environ.get("RINGLET_CASE", "{}"))
SEED = cocotb.RANDOM_SEED


async def busy_card(dut: Any, rng: random.Random) -> tuple[Card, Flow]:
    """Bring up a card, and traffic that fills it."""
    config = given_config()
    card = await bring_up(
        dut, rx_rate=LINE_100G if config.lanes == 64 else None,
        options=RootComplexOptions(latency_cycles=200, jitter_cycles=100, splitting="random",
                                   seed=SEED),
        net=NetOptions(features=SUPPORTED if CASE["packed"] else without(Feature.RING_PACKED),
                       queue_size=64, max_payload=config.max_payload_bytes,
                       max_read=config.max_read_bytes, shuffle=True, seed=SEED,
                       receive_shape=Shape(segments=(1, 2)), transmit_shape=Shape(segments=(1, 3))))

    def size() -> int:
        return rng.choice((60, 60, 100, 300, 1514))

    return card, Flow(card, size)


async def device_reset(card: Card) -> None:
    """Write status 0, as a driver does; its rings and buffers go with the answer."""
    device = card.device
    await device.virtio.reset()
    device.forget()
    # Everything is as after power-up.
    for queue in range(2):
        await device.virtio.put(CommonConfig.QUEUE_SELECT, queue)
        assert not await device.virtio.get(CommonConfig.QUEUE_ENABLE)
        assert await device.virtio.get(CommonConfig.QUEUE_MSIX_VECTOR) == CommonConfig.NO_VECTOR
        assert await device.virtio.get(CommonConfig.QUEUE_SIZE) == card.config.queue_size_max
    assert await device.virtio.get(CommonConfig.CONFIG_MSIX_VECTOR) == CommonConfig.NO_VECTOR


async def function_reset(card: Card) -> None:
    """A function-level reset by the rules: bus mastering off, nothing pending, then the bit."""
    await card.device.reset_function()
    assert await card.device.virtio.status() == 0


async def abrupt_function_reset(card: Card) -> None:
    """A function-level reset in the middle of everything."""
    function, device = card.function, card.device
    at = function._express()
    control = await function.read(Express.DEVICE_CONTROL, at)
    await function.write(Express.DEVICE_CONTROL, control | Express.CONTROL_FLR, at)
    while await function.read(Header.VENDOR_ID) != function.vendor_id:
        await card.ticker.sleep(50)
    assert not await function.read(Header.COMMAND) & Header.COMMAND_MASTER
    device.forget()
    await function.place_bars()
    await function.enable(bus_master=False)
    assert await device.virtio.status() == 0


async def until_quiet(card: Card) -> None:
    """Wait until what was under way has ended: a few reads after one another, and its writes."""
    counts = card.host.root.counts
    for _ in range(20):
        before = counts["rq.reads"], counts["rq.writes"]
        await card.ticker.sleep(500)
        if before == (counts["rq.reads"], counts["rq.writes"]):
            return
    raise AssertionError("the function does not come to rest within 10000 cycles")


async def all_is_well(card: Card) -> None:
    """See that every frame is accounted for, and that frames go both ways."""
    drops = await balance(card, driver=False)
    card.dut._log.info("drops %s", drops)
    assert drops.keys() <= {"queue_down", "queue_full", "pool_full", "entry_full"}, drops
    await both_ways(card, [make_frame(number, 60 + 11 * number) for number in range(20)],
                    [make_frame(number, 60 + 13 * number) for number in range(20)])
    await settle(card)


KINDS = {"device": device_reset, "function": function_reset, "abrupt": abrupt_function_reset}


@cocotb.test
async def in_traffic(dut: Any) -> None:
    """Reset at many moments: silence from the answer on, and then all works again."""
    rng = random.Random(SEED)
    card, flow = await busy_card(dut, rng)
    reset = KINDS[CASE["kind"]]
    for turn in range(CASE["turns"]):
        flow.start()
        await card.ticker.sleep(rng.choice((rng.randint(1, 300), rng.randint(300, 4000))))
        flow.stop()
        begun = card.ticker.cycle
        await reset(card)
        answered = card.ticker.cycle
        quiet = card.host.root.counts["rq.reads"], card.host.root.counts["rq.writes"]
        await card.ticker.sleep(600)
        assert quiet == (card.host.root.counts["rq.reads"], card.host.root.counts["rq.writes"]), (
            "accesses after a reset")
        dut._log.info("turn %d: reset at %d, answered after %d; %d sent, %d left, %d given, "
                      "%d received", turn, begun, answered - begun, flow.sent, flow.out,
                      flow.given, flow.got)
        await card.device.open()
    assert flow.got and flow.out
    flow.start()
    await flow.finish()
    await all_is_well(card)


@cocotb.test
async def one_queue(dut: Any) -> None:
    """Reset one queue at many moments: nothing more of it, and the other's traffic goes on."""
    rng = random.Random(SEED)
    card, flow = await busy_card(dut, rng)
    meanwhile = [0, 0]  # frames of the other queue, by the queue that is reset
    for turn in range(CASE["turns"]):
        flow.start()
        await card.ticker.sleep(rng.choice((rng.randint(1, 300), rng.randint(300, 3000))))
        queue = turn % 2
        flow.stop(("receive", "transmit")[queue])
        begun, before = card.ticker.cycle, (flow.out, flow.got)
        lost = await card.device.reset_queue(queue)
        meanwhile[queue] += (flow.out, flow.got)[queue == 1] - before[queue == 1]
        dut._log.info("turn %d: queue %d, answered after %d, %d chains given up; %d sent, %d left, "
                      "%d given, %d received", turn, queue, card.ticker.cycle - begun, lost,
                      flow.sent, flow.out, flow.given, flow.got)
    assert all(meanwhile), meanwhile
    flow.start()
    await flow.finish()
    assert card.device.statistics.queue_resets == CASE["turns"]
    await all_is_well(card)


@cocotb.test
async def suspended(dut: Any) -> None:
    """Suspended at many moments, now and then asleep meanwhile: nothing leaves the card, whatever
    the driver shows and kicks; and nothing that was sent is lost or repeated."""
    rng = random.Random(SEED)
    card, flow = await busy_card(dut, rng)
    device, counts = card.device, card.host.root.counts
    flow.start()
    early = 0
    for turn in range(CASE["turns"]):
        await card.ticker.sleep(rng.choice((rng.randint(1, 300), rng.randint(300, 4000))))
        begun = card.ticker.cycle
        await device.suspend()
        answered = card.ticker.cycle
        # All is out by now that comes before the answer; no write is on its way behind it.
        quiet = dict(counts)
        for index in (0, 1):
            early += device.rings[index].publish()
            await device.virtio.notify(index)
        if turn % 3 == 2:
            await card.function.set_power_state(Power.D3_HOT, wait_cycles=0)
        await card.ticker.sleep(rng.randint(10, 1000))
        if turn % 3 == 2:
            await card.function.set_power_state(Power.D0, wait_cycles=0)
        for kind in ("rq.reads", "rq.writes", "rq.interrupts"):
            assert quiet.get(kind) == counts.get(kind), f"{kind} while it is suspended"
        await device.resume()
        dut._log.info("turn %d: suspended after %d; %d sent, %d left, %d given, %d received", turn,
                      answered - begun, flow.sent, flow.out, flow.given, flow.got)
    assert early, "nothing was shown while the card was suspended"
    await card.ticker.sleep(1000)
    await flow.finish()
    assert flow.out == flow.sent
    drops = await balance(card)
    dut._log.info("drops %s", drops)
    assert drops.keys() <= {"queue_down", "queue_full", "pool_full", "entry_full"}, drops
    await settle(card)


@cocotb.test
async def asleep(dut: Any) -> None:
    """D3hot at many moments: nothing leaves the card in it, and nothing that was sent is lost."""
    rng = random.Random(SEED)
    card, flow = await busy_card(dut, rng)
    flow.start()
    for turn in range(CASE["turns"]):
        awake = rng.choice((rng.randint(1, 300), rng.randint(300, 4000)))
        await card.ticker.sleep(awake)
        await card.function.set_power_state(Power.D3_HOT, wait_cycles=0)
        await until_quiet(card)
        counts = card.host.root.counts
        quiet = counts["rq.reads"], counts["rq.writes"]
        await card.ticker.sleep(rng.randint(10, 1000))
        assert quiet == (counts["rq.reads"], counts["rq.writes"]), "accesses while it sleeps"
        await card.function.set_power_state(Power.D0, wait_cycles=0)
        dut._log.info("turn %d: awake for %d; %d sent, %d left, %d given, %d received", turn, awake,
                      flow.sent, flow.out, flow.given, flow.got)
    await card.ticker.sleep(1000)
    await flow.finish()
    assert flow.out == flow.sent
    drops = await balance(card)
    dut._log.info("drops %s", drops)
    assert drops.keys() <= {"queue_down", "queue_full", "pool_full", "entry_full"}, drops
    await settle(card)
