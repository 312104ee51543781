"""Captures: what is read, and one clear line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import dpkt
import pytest

from sim.cli import main
from sim.pcap import PcapError, read_frames


def write(path: Path, frames: list[bytes], linktype: int = 1) -> Path:
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file, linktype=linktype)
        for frame in frames:
            writer.writepkt(frame)
    return path


def test_frames_come_back(tmp_path: Path) -> None:
    frames = [bytes([n]) * (60 + n) for n in range(5)]
    assert read_frames(write(tmp_path / "a.pcap", frames)) == frames


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pcap"
    broken.write_bytes(b"no capture at all, but long enough")
    short = tmp_path / "short.pcap"
    short.write_bytes(write(tmp_path / "whole.pcap", [bytes(60)]).read_bytes()[:50])
    empty = write(tmp_path / "empty.pcap", [])
    other = write(tmp_path / "other.pcap", [bytes(60)], linktype=101)
    for path, words in ((tmp_path / "none.pcap", "no such file"), (broken, "broken"),
                        (short, "broken"), (empty, "no frames"), (other, "link type 101"),
                        (tmp_path, "must be a pcap")):
        with pytest.raises(PcapError, match=words) as caught:
            read_frames(path)
        assert str(path) in str(caught.value)


def test_the_command_says_so_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = write(tmp_path / "long.pcap", [bytes(9999)])
    for path in (tmp_path / "none.pcap", long):
        for option in ("--transmit", "--receive"):
            code = main(["sim", option, str(path), "--folder", str(tmp_path / "out")])
            said = capsys.readouterr()
            assert code == 2
            assert len(said.err.strip().splitlines()) == 1
            assert str(path) in said.err
    assert not (tmp_path / "out").exists()
