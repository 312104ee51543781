"""The soak: nothing lost or repeated, over all manners; and it sees what is wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from hw.config import NicConfig
from sim.bench.throughput import flows
from sim.native.bring_up import open_card
from sim.native.engine import EngineOptions
from sim.native.rings import RingDriver
from sim.native.wire import NativeWire
from sim.soak.books import Books, SoakFailure
from sim.soak.run import SoakOptions, run_soak, soak
from sw_driver.layouts import Feature
from sw_driver.net import NetDevice, NetOptions, without
from tests.system.scenario import frames_of

ROOT = Path(__file__).parents[2]
FULL = NicConfig.preset("full")
PACKETS = 200_000


def test_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over resets of device, function and queues, and suspensions; with each kind of ring."""
    assert run_soak(SoakOptions(config=FULL, packets=PACKETS, seed=5, folder=tmp_path)) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    jsonschema.validate(summary, json.loads(
        (ROOT / "docs" / "schema" / "soak.schema.json").read_text()))
    assert summary["passed"] >= PACKETS
    assert {"device", "function", "queue", "suspension"} == set(summary["resets"])
    assert {"split", "packed", "tables", "merged", "several pairs", "frames merged"} <= set(
        summary["manners"])
    assert min(summary["sent"], summary["received"]) > PACKETS / 10
    assert summary["received"] + sum(summary["dropped"].values()) <= summary["given"]
    assert summary["cycles_per_packet"] < 15
    assert capsys.readouterr().out.endswith(f"soak: {summary['passed']} passed, 0 failed, "
                                            "0 skipped\n")


def test_the_same_each_time() -> None:
    def run() -> Books:
        return replace(soak(SoakOptions(config=FULL, packets=2000, seed=3)), cpu_s=0.0,
                       engine_cpu_s=0.0)

    first = run()
    assert first == run() and first.cycles


def test_several_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a seed of its own, which is printed; their counts are added up."""
    options = SoakOptions(config=FULL, packets=1000, jobs=2, seed=6, folder=tmp_path)
    assert run_soak(options) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(set(summary["seeds"])) == 2 and summary["passed"] >= 1000
    out = capsys.readouterr().out
    assert f"seeds {summary['seeds'][0]}, {summary['seeds'][1]}" in out
    alone = [soak(SoakOptions(config=FULL, packets=500, seed=seed)) for seed in summary["seeds"]]
    assert sum(books.packets for books in alone) == summary["passed"]
    assert sum(books.cycles for books in alone) == summary["cycles"]


def _changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit of what leaves is other than it was."""
    take = NativeWire.take

    def change(self: NativeWire) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        records, data = take(self)
        data[50:51] ^= 1
        return records, data

    monkeypatch.setattr(NativeWire, "take", change)


def _lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame does not leave."""
    take = NativeWire.take
    monkeypatch.setattr(NativeWire, "take", lambda self: _without_second(*take(self)))


def _without_second(records: np.ndarray[Any, Any],
                    data: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Any]:
    places = np.flatnonzero(records["received"] == 0)[1:2]
    return np.delete(records, places), data


def _twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was received comes again."""
    take = RingDriver.take

    def again(self: RingDriver) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        records, data = take(self)
        return np.concatenate([records, records]), np.concatenate([data, data])

    monkeypatch.setattr(RingDriver, "take", again)


def _received(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit of what Python receives is other than it was."""
    receive = NetDevice.receive

    async def broken(self: NetDevice, timeout_cycles: int | None = None, *,
                     pair: int = 0) -> bytes | None:
        frame = await receive(self, timeout_cycles, pair=pair)
        return None if frame is None else frame[:-1] + bytes([frame[-1] ^ 1])

    monkeypatch.setattr(NetDevice, "receive", broken)


def _uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that came to a driver is overlooked: neither received nor dropped."""
    take = RingDriver.take

    def fewer(self: RingDriver) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        records, data = take(self)
        if len(records) < 2:
            return records, data
        last = int(records["written"][-1])
        return records[:-1], data[:-last]

    monkeypatch.setattr(RingDriver, "take", fewer)


@pytest.mark.parametrize(("fault", "says"), [
    (_changed, "was changed"), (_lost, "transmit.*came as frame"), (_twice, "receive.*after"),
    (_received, "was changed"),
    (_uncounted, "came from the wire|over .* buffers, of which"),
])
def test_it_sees_what_is_wrong(fault: Callable[[pytest.MonkeyPatch], None], says: str,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(SoakFailure, match=says):
        for seed in range(5, 9):
            soak(SoakOptions(config=FULL, packets=3000, seed=seed))


def test_a_failure_says_how_to_run_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    def burns(_options: SoakOptions, _progress: object) -> Books:
        raise SoakFailure("it burns")

    monkeypatch.setattr("sim.soak.run.soak", burns)
    monkeypatch.setattr("sim.soak.run.card_library", lambda _config: None)
    assert run_soak(SoakOptions(config=FULL, card="VFS=3", packets=30, seed=4,
                                folder=tmp_path)) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    command = "make soak VFS=3 SEED=4 PACKETS=30 JOBS=1"
    assert summary["failures"] == [{"seed": 4, "command": command, "text": "it burns"}]
    out = capsys.readouterr().out
    assert command in out and out.endswith("soak: 0 passed, 1 failed, 0 skipped\n")


@pytest.mark.virtio("CORE-RST-02")
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "split"])
def test_very_short_lives(packed: bool, seed: int) -> None:
    """Amid traffic at the line's rate a reset comes after some 200 cycles, again and again.

    Whatever the card had begun by then, it touches nothing of a life that is over, and the next
    life is served.
    """
    rng = random.Random(seed)
    features = without(Feature.EVENT_IDX, *([] if packed else [Feature.RING_PACKED]))
    net = NetOptions(features=features, indirect="always", queue_size=64)
    frames = frames_of(seed, 30, 200)
    with open_card(FULL, options=EngineOptions(rx_rate=50.0, latency_cycles=60, seed=seed),
                   net=net) as card:
        for _ in range(60):
            card.wire.generate(flows(300, 1))
            sending = card.port.spawn(card.device.send_many(frames))
            card.port.run(card.port.sleep(rng.randrange(1, 500)))
            sending.close()
            card.wire.forget()
            # Nothing but the reset keeps the card from memory that is given back at once.
            card.port.run(card.device.recover())
            card.engine.run(100)
        card.wire.take_frames()
        card.port.run(card.device.send_many(frames))
        card.port.run(card.device.drain())
        card.engine.run(1000)
        assert [frame.data for frame in card.wire.take_frames()
                if frame.direction == "tx"][-len(frames):] == frames
        card.engine.check()
