"""`ringlet serve` as a process: a guest attaches, and nothing is left when it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.pcap import read_frames
from sim.toolchain import ROOT
from sw_driver.net import NetDevice, NetOptions
from sw_driver.pci import scan
from tests.unit.vfio_client import CONFIG, Ended, VfioClient, attached

_FRAME = bytes.fromhex("ffffffffffff02524e47000008004500") + bytes(range(200))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serve(tmp_path: Path, end: signal.Signals) -> None:
    sockets = [tmp_path / f"card-{number}.sock" for number in range(2)]
    with subprocess.Popen(
            [sys.executable, "-m", "sim.cli", "serve", "--cards", "2", "--wire", "cable",
             "--socket", str(tmp_path / "card.sock"), "--pcap", str(tmp_path / "wire.pcap")],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            deadline = time.monotonic() + 600  # the first time it builds the card
            while not all(path.is_socket() for path in sockets):
                assert process.poll() is None, process.stdout and process.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with attached(sockets[0]) as left, attached(sockets[1]) as right:
                devices = []
                for port in (left, right):
                    (function,) = port.run(scan(port))
                    device = port.run(NetDevice.probe(port, function, NetOptions(
                        queue_size=16, receive_bytes=2048, timeout_cycles=1_000_000)))
                    port.run(device.open())
                    port.run(port.mmio_read(device.virtio.notify_address(0), 4))
                    devices.append(device)
                left.run(devices[0].send(_FRAME))
                assert right.run(devices[1].receive()) == _FRAME
            with VfioClient(sockets[0]) as client:
                process.send_signal(end)
                with pytest.raises(Ended):
                    while True:
                        client.read(CONFIG, 0, 4)
            said, _none = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert "share=on" in said
    assert str(sockets[1]) in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wire-0.pcap", "wire-1.pcap"]
    assert read_frames(tmp_path / "wire-0.pcap") == [_FRAME]
    assert read_frames(tmp_path / "wire-1.pcap") == [_FRAME]
