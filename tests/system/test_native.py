"""The native engine plays the whole card as cocotb does: same frames, same counters."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.config import NicConfig
from sim.bring_up import config_parameter
from sim.card import card_design
from sim.native.bring_up import NativeCard, open_card
from sim.native.engine import EngineOptions, Event
from sim.native.link import Link
from sim.native.port import CardViolation
from sim.pcap import read_frames
from sim.runner import missing, run_cocotb
from sw_driver.buffers import Shape
from sw_driver.layouts import Feature
from sw_driver.management import Management
from sw_driver.net import SUPPORTED, NetOptions, without
from tb.wire import LINE_100G
from tests.system.bench_scenario import RESULTS
from tests.system.scenario import frames_of, play

SIMULATORS = {"full": "verilator", "small": "verilator"}
CASES = {"full": (120, LINE_100G), "small": (6, 3.0)}  # frames, bytes a cycle


FULL = NicConfig.preset("full")  # the one that is built for the benchmark as well


def play_native(config: NicConfig, seed: int, options: EngineOptions, count: int,
                waves: Path | None = None) -> dict[str, Any]:
    """Play the scenario on the engine."""
    with open_card(config, options=options, waves=waves) as card:
        results = card.port.run(play(
            card.device, card.function, seed=seed, count=count,
            give=lambda frames: card.wire.send(*frames), start=card.port.spawn))
        results["transmitted"] = [
            frame.data.hex() for frame in card.wire.take_frames() if frame.direction == "tx"]
        card.engine.check()
        again: dict[str, Any] = json.loads(json.dumps(results))  # as it would come out of a file
        return again


def is_right(results: dict[str, Any]) -> None:
    assert results["transmitted"] == results["sent"]
    assert results["received"] == results["given"]
    assert not any(results["drops"].values())
    count = len(results["sent"])
    assert [events for events, _bytes in results["counts"].values()] == [count] * 4


@pytest.mark.parametrize("preset", ["small", "full"])
def test_same_as_in_cocotb(preset: str, seed: int, tmp_path: Path) -> None:
    if reason := missing(SIMULATORS[preset]):
        pytest.skip(reason)
    count, rate = CASES[preset]
    config = NicConfig.preset(preset)
    folder = run_cocotb(
        card_design(config), f"card_{preset}", "tests.system.bench_scenario",
        simulator=SIMULATORS[preset], seed=seed, parameters={
            **config_parameter(config),
            "case": json.dumps({"seed": seed, "count": count, "rx_rate": rate})})
    bench = json.loads((folder / RESULTS).read_text())
    # The small card is built with waves, which takes a compiler that does not optimise.
    waves = tmp_path / "deep" / "card.vcd" if preset == "small" else None
    native = play_native(config, seed, EngineOptions(rx_rate=rate), count, waves)
    is_right(native)
    assert native == bench
    if waves is not None:
        with waves.open() as file:
            assert any("wire_tx_valid" in line for line in file)
            assert any(line.startswith("$enddefinitions") for line in file)
            assert sum(line.startswith("#") for line in file) > 2000  # half cycles


HOSTS: dict[str, dict[str, Any]] = {
    "small completions": {"splitting": "small", "boundary_bytes": 128},
    "random completions": {"splitting": "random", "jitter_cycles": 300, "sampling": "arrival"},
    "stalls": {"stalls": 0.2},
    "few credits": {"credits": 4, "credit_cycles": 20},
    "narrow link": {"link": Link(lanes=4, max_payload=128)},
    "near memory": {"latency_cycles": 4},
}


@pytest.mark.parametrize("name", HOSTS)
def test_hosts(name: str, seed: int) -> None:
    """However the host behaves, and whatever the stalls, the frames are the same."""
    is_right(play_native(FULL, seed, EngineOptions(rx_rate=10.0, **HOSTS[name]), 150))


def test_deterministic(seed: int) -> None:
    """The same seed gives the same run to the cycle, another one another."""
    def run(seed: int) -> tuple[dict[str, int], int, bytes]:
        options = EngineOptions(splitting="random", jitter_cycles=100, stalls=0.1, rx_rate=20.0,
                                seed=seed)
        with open_card(FULL, options=options) as card:
            card.port.run(play(card.device, card.function, seed=1, count=40,
                               give=lambda frames: card.wire.send(*frames),
                               start=card.port.spawn))
            return (card.engine.counters, card.engine.cycle,
                    card.engine.take_tlps().tobytes())

    assert run(seed) == run(seed)
    assert run(seed)[2] != run(seed + 1)[2]


@pytest.fixture
def card() -> Any:
    with open_card(FULL, options=EngineOptions(rx_rate=20.0)) as card:
        yield card


def send(card: NativeCard, frames: list[bytes]) -> None:
    card.port.run(card.device.send_many(frames))
    card.port.run(card.device.drain())
    card.engine.run(1000)


def test_pcap(card: NativeCard, tmp_path: Path, seed: int) -> None:
    frames = frames_of(seed, 20, 500)
    path = tmp_path / "deep" / "wire.pcap"
    card.wire.tap(path)
    send(card, frames)
    assert not path.exists()  # it comes when it is whole
    card.wire.untap()
    assert read_frames(path) == frames
    records, data = card.wire.take()
    assert records["bytes"].tolist() == [len(frame) for frame in frames]
    assert data.tobytes() == b"".join(frames)
    assert np.all(np.diff(records["last_cycle"].astype(np.int64)) > 0)


def test_frames_that_are_not_kept(card: NativeCard, seed: int) -> None:
    frames = frames_of(seed, 10, 300)
    card.engine.change(keep="records")
    send(card, frames)
    records, data = card.wire.take()
    assert len(records) == 10 and not len(data)
    card.engine.change(keep="nothing")
    send(card, frames)
    assert not len(card.wire.take()[0])
    assert card.engine.counters["wire_tx_frames"] == 20


def test_generated_frames(card: NativeCard, seed: int) -> None:
    frames = [frame.ljust(60, b"\0") for frame in frames_of(seed, 3, 100)]
    card.wire.generate(frames, count=50, stamp_at=4)
    received = [card.port.run(card.device.receive(20_000)) for _ in range(50)]
    for number, frame in enumerate(received):
        expected = frames[number % 3]
        assert frame == expected[:4] + number.to_bytes(4, "big") + expected[8:]
    assert card.wire.rx_idle


def test_events(card: NativeCard) -> None:
    engine = card.engine
    begun = engine.cycle
    assert engine.run(10) == Event.NONE and engine.cycle == begun + 10
    card.wire.send(bytes(100))
    assert engine.run_until(Event.RECEIVE_IDLE, 1000) & Event.RECEIVE_IDLE
    assert engine.cycle < begun + 1000
    assert engine.run_until(Event.INTERRUPT, 5) == Event.NONE
    card.wire.wake_after(2)
    card.port.run(card.device.send_many([bytes(60), bytes(61)]))
    assert engine.run_until(Event.FRAMES, 20_000) & Event.FRAMES
    assert engine.counters["wire_tx_frames"] == 2
    assert engine.cycles_per_second > 0


@pytest.mark.parametrize("strict", [True, False])
def test_violations(strict: bool) -> None:
    """What the card does wrong ends a strict run; here the host takes the memory away."""
    net = NetOptions(features=without(Feature.RING_PACKED))
    with open_card(FULL, strict=strict, net=net) as card:
        card.engine.run(2000)  # what the card looks at once after DRIVER_OK
        (ring,) = (region for region in card.engine.memory.regions
                   if region.name.endswith("transmit available ring"))
        ring.free()
        if strict:
            with pytest.raises(CardViolation, match="memory that no driver gave"):
                card.port.run(_kick(card))
        else:
            card.port.run(_kick(card))
            assert "memory that no driver gave" in card.engine.take_violations()[0][1]


async def _kick(card: NativeCard) -> None:
    await card.device.virtio.notify(1)
    await card.port.sleep(2000)


@pytest.mark.parametrize(("packed", "in_order"), [
    (False, True), (True, True), (True, False)])
@pytest.mark.parametrize("transmit", [True, False])
def test_ring_driver(transmit: bool, packed: bool, in_order: bool, seed: int) -> None:
    """Rings that Python set up go on without it, and every frame is whole."""
    frames = [frame.ljust(60, b"\0") for frame in frames_of(seed, 16, 200)]
    left_out = [Feature.RING_PACKED] * (not packed) + [Feature.IN_ORDER] * (not in_order)
    # An odd size as well: laps of a packed ring end anywhere.
    net = NetOptions(interrupts=False, features=without(*left_out), indirect="always",
                     queue_size=83 if packed else None)
    with open_card(FULL, options=EngineOptions(rx_rate=20.0), net=net) as card:
        device, engine = card.device, card.engine
        number = 1 if transmit else 0
        if transmit:
            card.port.run(device.send_many(frames))
        else:
            card.wire.generate(frames, count=400)
        driver = card.drive(number, transmit=transmit, batch=8, count=400)
        assert engine.run_until(Event.DRIVER_DONE, 400_000) & Event.DRIVER_DONE
        engine.run(1000)  # a buffer is used before its frame has left
        state, times = driver.state, driver.times
        assert state.done == len(times) == 400
        assert state.last_cycle == times[-1] and np.all(np.diff(times.astype(np.int64)) >= 0)
        out = [frame.data for frame in card.wire.take_frames()
               if frame.direction == ("tx" if transmit else "rx")]
        assert out == [frames[number % 16] for number in range(400)]
        if not transmit:
            assert state.bytes == sum(12 + len(frame) for frame in out)
        engine.check()
        card.port.run(device.close())
        engine.run(1000)  # the rings are gone, and nobody looks at them any more


def test_a_chain_of_several_descriptors_is_not_driven_in_a_packed_ring() -> None:
    shape = Shape(segments=(2, 2))
    net = NetOptions(interrupts=False, transmit_shape=shape, indirect="never")
    with open_card(FULL, net=net) as card:
        card.port.run(card.device.send(bytes(60)))
        with pytest.raises(ValueError, match="a chain of 2 descriptors, must be 1 in a packed"):
            card.drive(1, transmit=True)


@pytest.mark.virtio("NET-COAL-09", "IMP-NET-COAL-01", "IMP-NET-COAL-02", "IMP-NET-COAL-03")
def test_moderation(seed: int) -> None:
    """Eight frames an interrupt, and one for the rest when the time is over; a reset ends it."""
    net = NetOptions(suppress=False, features=without(Feature.EVENT_IDX, Feature.RING_PACKED))
    usecs, apart = 100, 1000  # cycles from frame to frame: more than an interrupt takes
    limits = {"max_packets": 8, "max_usecs": usecs}
    with open_card(FULL, options=EngineOptions(rx_rate=20.0), net=net) as card:
        engine, device = card.engine, card.device
        management = Management(card.function)

        def interrupts(count: int) -> list[int]:
            """Receive single frames; when was there an interrupt?"""
            engine.run(apart)  # what was written before has arrived
            engine.take_interrupts()
            frames = frames_of(seed, count, 500)
            for frame in frames:
                card.wire.send(frame)
                engine.run(apart)
            told: list[int] = engine.take_interrupts()["cycle"].tolist()
            received = [card.port.run(device.receive(1)) for _ in frames]
            assert received == frames
            return told

        assert len(interrupts(24)) == 24
        card.port.run(management.moderate(0, **limits))
        assert len(interrupts(24)) == 3
        begun = engine.cycle + apart
        assert not interrupts(3)
        while not (rest := engine.take_interrupts()["cycle"].tolist()):
            engine.run(apart)
            assert engine.cycle < begun + 2 * usecs * FULL.clock_mhz, "the interrupt is lost"
        waited = (rest[0] - begun) / FULL.clock_mhz
        assert len(rest) == 1 and usecs - 1 <= waited < usecs + 4
        send(card, [bytes(60)])  # the other queues are as they were
        assert len(engine.take_interrupts()) == 1
        card.port.run(management.moderate(0, max_packets=8, max_usecs=0))
        assert len(interrupts(3)) == 3

        card.port.run(management.moderate(0, **limits))
        assert not interrupts(3)
        card.port.run(device.reset_queue(0))
        assert len(interrupts(3)) == 3
        card.port.run(management.moderate(0, **limits))
        card.port.run(device.close())
        card.port.run(device.open())
        assert len(interrupts(3)) == 3
        for wrong in ({"queue": FULL.queue_stride}, {"queue": 0, "function": 1},
                      {"queue": 0, "max_usecs": 1 << 16}):
            with pytest.raises(ValueError, match=f"{[*wrong][-1]} must be from 0 to "):
                card.port.run(management.moderate(**{**limits, **wrong}))


def requests_of(card: NativeCard) -> list[int]:
    """Give how much the card has asked of the host."""
    counters = card.engine.counters
    return [counters[name] for name in ("rq_reads", "rq_writes", "rq_interrupts")]


@pytest.mark.virtio("CORE-SUSP-03", "CORE-SUSP-04", "CORE-SUSP-08", "CORE-SUSP-09",
                    "CORE-SUSP-10", "CORE-SUSP-11", "IMP-CORE-SUSP-01")
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_suspended_in_traffic(packed: bool, seed: int) -> None:
    """A suspended card is silent, whatever it is told; and no frame is lost or repeated by it."""
    rng = random.Random(seed)
    features = SUPPORTED if packed else without(Feature.RING_PACKED)
    net = NetOptions(features=features, queue_size=64, seed=seed)
    frames, received = frames_of(seed, 4000, 600), []
    with open_card(FULL, options=EngineOptions(rx_rate=4.0, jitter_cycles=100, seed=seed),
                   net=net) as card:
        device, port = card.device, card.port

        async def receive() -> None:
            while (frame := await device.receive(20_000)) is not None:
                received.append(frame)

        async def work() -> int:
            for frame in frames[:2000]:
                card.wire.send(frame)
            sends, receives = port.spawn(device.send_many(frames, batch=8)), port.spawn(receive())
            early = 0
            for turn in range(40):
                await port.sleep(rng.choice((rng.randint(1, 300), rng.randint(300, 4000))))
                await device.suspend()
                begun = requests_of(card)
                for queue in (0, 1):
                    early += device.rings[queue].publish()
                    await device.virtio.notify(queue)
                await port.sleep(rng.randint(1, 600))
                assert requests_of(card) == begun, f"turn {turn}"
                await device.resume()
            await sends
            await receives
            await device.drain()
            return early

        assert port.run(work())
        card.engine.run(3000)
        assert [frame.data for frame in card.wire.take_frames()
                if frame.direction == "tx"] == frames
        rest = iter(frames[:2000])
        assert all(frame in rest for frame in received)  # in order, each once
        drops = port.run(Management(card.function).drops())
        assert set(name for name, count in drops.items() if count) <= {"queue_down", "queue_full"}
        assert len(received) + sum(drops.values()) == 2000
        assert len(received) > 500
        card.engine.check()


@pytest.mark.virtio("CORE-SUSP-12", "IMP-NET-COAL-04")
def test_interrupts_are_not_held_back_by_suspension(seed: int) -> None:
    """What moderation holds back is sent before SUSPEND is shown."""
    net = NetOptions(suppress=False, features=without(Feature.EVENT_IDX, Feature.RING_PACKED))
    with open_card(FULL, options=EngineOptions(rx_rate=20.0), net=net) as card:
        engine, port = card.engine, card.port
        port.run(Management(card.function).moderate(0, max_packets=100, max_usecs=10_000))
        engine.run(1000)
        engine.take_interrupts()
        frames = frames_of(seed, 3, 500)
        for frame in frames:
            card.wire.send(frame)
            engine.run(1000)
        assert not len(engine.take_interrupts())
        port.run(card.device.suspend())
        assert len(engine.take_interrupts()) == 1
        assert [port.run(card.device.receive(1)) for _ in frames] == frames
        port.run(card.device.resume())
        assert not len(engine.take_interrupts())


def test_link_rate() -> None:
    """A link is full when there is enough to do, and never more than full."""
    link = Link(lanes=2)
    options = EngineOptions(link=link, tx_rate=LINE_100G, keep="nothing", tlp_log=0)
    with open_card(FULL, options=options, net=NetOptions(interrupts=False)) as card:
        engine = card.engine
        card.port.run(card.device.send_many([bytes(1514)] * 256))
        card.drive(1, transmit=True)
        engine.run(10_000)
        before = engine.counters
        engine.run(30_000)
        after = engine.counters
    down = after["link_down_bytes"] - before["link_down_bytes"]
    assert 0.98 < down / (30_000 * link.bytes_per_cycle(250)) < 1.005
    up = after["link_up_bytes"] - before["link_up_bytes"]
    reads, writes = (after[name] - before[name] for name in ("rq_reads", "rq_writes"))
    written = after["rq_write_bytes"] - before["rq_write_bytes"]
    assert up == 24 * (reads + writes) + written


def test_a_window_of_waves(tmp_path: Path) -> None:
    """Only the cycles asked for, and a save file that groups the streams by room."""
    waves = tmp_path / "card.vcd"
    window = range(400, 450)
    with open_card(NicConfig.preset("small"), waves=waves, window=window,
                   open_device=False) as card:
        assert card.engine.cycle > window.stop
        assert not waves.exists(), "it is not whole yet"
    cycle_ps = 1_000_000 // 250
    with waves.open() as file:
        times = [int(line[1:]) for line in file if line.startswith("#")]
    assert [window.start, window.stop - 1] == [times[0] // cycle_ps, times[-1] // cycle_ps]
    assert len(times) == 2 * len(window)
    saved = waves.with_suffix(".gtkw").read_text()
    assert '[dumpfile] "card.vcd"' in saved
    for room in ("registers", "config_space", "dma_read", "admission"):
        assert f"-{room}\n" in saved
    assert "card.engine_top.card.registers.mmio__valid" in saved
