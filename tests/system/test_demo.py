"""The demonstration, as `make sim` runs it: its files, and the rates that it must reach."""

from __future__ import annotations

import json
from pathlib import Path

import dpkt
import jsonschema
import pytest

from hw.config import NicConfig
from sim.demo import DEFAULT_RECEIVE, DEFAULT_TRANSMIT, DemoOptions, run_demo
from sim.pcap import read_frames

ROOT = Path(__file__).parents[2]

MOST_CYCLES = {60: 12, 1514: 34.2}
"""Cycles a packet, one queue, every read after 1 us: what is asked of the card."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demonstration once, on the card that the other system tests run on."""
    path = tmp_path_factory.mktemp("sim")
    code = run_demo(DemoOptions(config=NicConfig.preset("full"), preset="full", seed=1, waves=False,
                                folder=path))
    assert code == 0
    return path


def test_the_report(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    schema = json.loads((ROOT / "docs" / "schema" / "report.schema.json").read_text())
    jsonschema.validate(report, schema)
    for way, capture in (("tx", DEFAULT_TRANSMIT), ("rx", DEFAULT_RECEIVE)):
        assert report[way]["identical"]
        assert report[way]["frames"] == len(read_frames(capture)) >= 100
    points = {(point["direction"], point["frame_bytes"]): point["cycles_per_packet"]
              for point in report["throughput"]}
    assert set(points) == {
        (way, size) for way in ("tx", "rx", "duplex") for size in MOST_CYCLES}
    for (_way, size), cycles in points.items():
        assert cycles <= MOST_CYCLES[size]
    counters = report["counters"]
    # Packets in are packets out and counted drops.
    assert counters["wire_received"]["events"] == (
        counters["received"]["events"]
        + sum(count for reason, count in report["drops"].items()
              if reason not in ("entry_full", "frame_error", "oversize", "runt")))
    assert counters["wire_sent"] == counters["transmitted"]


def test_the_log(folder: Path) -> None:
    """A line for each TLP, in the order of time, with what a reader looks for."""
    head, *lines = (folder / "tlps.txt").read_text().splitlines()
    assert head.split() == ["cycle", "way", "TLP", "address", "bytes", "tag", "data"]
    cycles = [int(line.split()[0]) for line in lines]
    assert len(cycles) > 1000
    assert cycles == sorted(cycles)
    text = "\n".join(lines)
    for words in ("host -> card     CONFIG_READ", "host -> card     MEM_WRITE",
                  "card -> host     MEM_READ", "card <- host     SUCCESS",
                  "card -> host     MEM_WRITE"):
        assert words in text


def test_the_frames_of_the_wire(folder: Path) -> None:
    with (folder / "wire.pcap").open("rb") as file:
        frames = [bytes(frame) for _time, frame in dpkt.pcap.Reader(file)]
    assert frames == read_frames(DEFAULT_TRANSMIT) + read_frames(DEFAULT_RECEIVE)


def test_the_page(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for words in ("linux-out.pcap", "doorbell", "read descriptor", "frame on the wire",
                  "used index", "interrupt"):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_ladder_is_in_order(folder: Path) -> None:
    """A packet's way is what the standard says: each step after the one it depends on."""
    report = json.loads((folder / "report.json").read_text())
    names = [step["name"] for step in report["ways"]["tx"]]
    # The doorbell tells the index: it is looked at when there is nothing left to do.
    order = ["doorbell", "read available ring", "read descriptor",
             "read frame", "frame on the wire", "used entry", "used index", "interrupt"]
    places = [names.index(name) for name in order]
    assert places == sorted(places)
    assert report["latency"]["doorbell_to_wire_reads"] == 3  # ring, descriptor, frame
