"""The benchmark's points, the rows of its results, and the comparison of two runs."""

from __future__ import annotations

import binascii
import json
from collections import Counter
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from hw.config import NicConfig
from sim.bench.latency import _cases
from sim.bench.limits import Ring
from sim.bench.page import performance_page, unexplained
from sim.bench.points import FRAME_BYTES, POINTS_MAX, Abilities, Point, points
from sim.bench.report import write_html
from sim.bench.results import Measured, compare, point_row, read_results
from sim.bench.throughput import flows
from sw_driver.layouts import Feature

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "bench.schema.json"
EVERYTHING = Abilities(rings=get_args(Ring), queues=16, in_order=True, max_frame_bytes=9018,
                       notification_data=True)
TODAY = Abilities(rings=("split",), queues=1, in_order=False, max_frame_bytes=9018)
CONFIG = NicConfig.preset("full")


@pytest.mark.parametrize("can", [EVERYTHING, TODAY])
def test_star(can: Abilities) -> None:
    found = points(can)
    assert len(found) == len(set(found)) <= POINTS_MAX
    for ring in can.rings:
        centre = Point(direction="tx", ring=ring, frame_bytes=60)
        assert centre in found
        for size in FRAME_BYTES:
            assert {point.direction for point in found
                    if point.frame_bytes == size and point.ring == ring} == {"tx", "rx", "duplex"}
        for size in (60, 1514):
            near = [point for point in found if point.frame_bytes == size and point.ring == ring]
            assert {point.batch for point in near} == {1, 8, 32}
            assert {point.rtt_ns for point in near} == {500, 1000}
            assert {point.link for point in near} == {"gen3x16", "gen4x16"}
            assert len({point.align for point in near}) == 2
            assert max(point.queues for point in near) == can.queues
    # One axis at a time: no point leaves the centre in two ways.
    for point in found:
        moved = [point.batch != 32, point.queues != 1, point.rtt_ns != 1000,
                 point.link != "gen3x16", point.align != 0]
        assert sum(moved) <= 1, point


def test_scales() -> None:
    star, quick, full = (points(TODAY, scale) for scale in ("star", "quick", "full"))
    assert set(quick) < set(star) < set(full)
    assert {(point.direction, point.frame_bytes) for point in quick} == {
        (direction, size) for direction in ("tx", "rx", "duplex") for size in (60, 252, 1514)}
    assert len(full) == 3 * 7 * 3 * 2 * 2 * 2
    with pytest.raises(ValueError, match="scale must be one of star, quick, full, not 'huge'"):
        points(TODAY, "huge")  # type: ignore[arg-type]


def test_what_the_card_cannot_do_is_left_out() -> None:
    can = Abilities(rings=("split",), queues=4, in_order=False, max_frame_bytes=2048)
    for point in points(can, "full"):
        assert point.ring == "split"
        assert point.queues <= 4
        assert point.frame_bytes <= 2048
        assert not point.in_order


def test_latencies_are_measured_with_what_the_card_offers() -> None:
    """Without NOTIFICATION_DATA always, so that there is a figure to compare with."""
    assert {(case.ring, case.notification_data, case.rtt_ns) for case in _cases(TODAY)} == {
        ("split", False, 500), ("split", False, 1000)}
    assert {(case.ring, case.notification_data, case.rtt_ns) for case in _cases(EVERYTHING)} == set(
        product(("split", "packed"), (False, True), (500, 1000)))
    for case in _cases(EVERYTHING):
        assert (Feature.RING_PACKED in case.features) == (case.ring == "packed")
        assert (Feature.NOTIFICATION_DATA in case.features) == case.notification_data
    rows = [case.row("wire_to_used", CONFIG, 100, 0) for case in _cases(EVERYTHING)]
    schema = json.loads(SCHEMA.read_text())["properties"]["latency"]
    jsonschema.validate(rows, schema)
    assert [(row["ring"], row["notification_data"]) for row in rows] == [
        (ring, told) for ring in ("split", "packed") for told in (False, True) for _rtt in range(2)]
    # Each is compared with its like alone.
    before = {"points": [], "latency": rows}
    assert len({change.what for change in compare(before, before)}) == len(rows)


@pytest.mark.parametrize("size", [60, 1514])
def test_flows_reach_every_queue(size: int) -> None:
    """By the hash of their addresses and ports, about as many each; one queue has one flow."""
    assert len(flows(size, 1)) == 1
    for queues in (2, 16):
        frames = flows(size, queues)
        assert {len(frame) for frame in frames} == {size}
        # UDP in IPv4 without options, not part of a datagram: addresses and ports count.
        assert {(frame[12:15], frame[20:22], frame[23]) for frame in frames} == {
            (b"\x08\x00\x45", bytes(2), 17)}
        shares = Counter((binascii.crc_hqx(frame[26:38], 0) >> 4) * queues >> 12
                         for frame in frames)
        assert len(shares) == queues
        assert 32 <= min(shares.values()) <= max(shares.values()) <= 96


def _results(cycles: int) -> dict[str, Any]:
    point = Point(direction="tx", ring="split", frame_bytes=1514)
    return {
        "ringlet": "0.1.0", "seed": 1,
        "config": {"preset": "full", **asdict(CONFIG)},
        "points": [point_row(point, Measured(packets=100, cycles=cycles), CONFIG)],
        "latency": [{"path": "wire_to_used", "ring": "split", "notification_data": False,
                     "frame_bytes": 60, "rtt_ns": 1000, "reads": 0, "cycles": cycles // 100,
                     "floor_cycles": 0, "added_cycles": cycles // 100, "blocks": []}],
        "engine": {"cycles": 1, "cpu_s": 1.0, "cycles_per_second": 1.0,
                   "run_cycles_per_second": 1.0},
    }


def test_a_row() -> None:
    results = _results(3076)
    row, = results["points"]
    assert row["cycles_per_packet"] == 30.76
    assert row["mpps"] == pytest.approx(250 / 30.76, abs=1e-4)
    assert row["gbps"] == pytest.approx(row["mpps"] * 1514 * 8 / 1000, rel=1e-4)
    assert row["limit_by"] == "line"
    assert row["eta"] == pytest.approx(1, abs=1e-3)
    jsonschema.validate(results, json.loads(SCHEMA.read_text()))


def test_compare(tmp_path: Path) -> None:
    old, new = _results(3000), _results(3300)
    changes = compare(old, new)
    assert [round(change.worse, 3) for change in changes] == [0.1, 0.1]
    assert "1514 B" in changes[0].what
    assert "wire_to_used" in changes[1].what
    assert not any(change.worse for change in compare(old, old))
    # What only one of them has is no change.
    new["points"][0]["batch"] = 8
    assert len(compare(old, new)) == 1
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert read_results(path) == old


def test_pages(tmp_path: Path) -> None:
    """Both pages have every row; a low figure without a reason is named as such."""
    results = _results(3076)
    low = point_row(Point(direction="tx", ring="split", frame_bytes=508, batch=8),
                    Measured(packets=100, cycles=3000), CONFIG)
    results["points"].append(low)
    assert unexplained(results) == [low]
    page = performance_page(results)
    assert "| tx | 1514 B | split | 30.76 |" in page
    assert "| tx | 508 B | split | batch 8 | 30.00 |" in page
    assert "Not looked into yet: tx of 508 B, batch 8 (eta 0.35)" in page
    write_html(results, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 3
    assert html.count("<td>tx</td>") == 2
    write_html(results, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == html


@pytest.mark.parametrize(("text", "says"), [
    (None, "No such file"), ("{", "no JSON"), ("[]", "no points"), ("{}", "no points")])
def test_no_results(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f"old.json: {says}.*must be the results.json"):
        read_results(path)
