"""An unmodified Linux in QEMU on the card: its driver, its tools, traffic, resets, its death."""

from __future__ import annotations

import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hw.config import NicConfig
from hw.virtio.features import offered_features
from hw.virtio.layouts import FEATURE_BITS
from sim import toolchain
from sim.guest.qemu import LinuxFiles, LinuxGuest, Qemu, find_qemu, linux_files
from sim.guest.served_card import ServedCard
from sim.guest.traffic import HOST, bring_up, ping, tcp
from sim.guest.wire_end import Cable
from sim.guest.wire_tap import Tap
from sim.toolchain import ToolMissing
from sw_driver.layouts import Feature
from sw_driver.net import NetDevice, NetOptions, without
from sw_driver.pci import scan
from tests.cosim.conftest import Figures
from tests.unit.vfio_client import Answer, VfioPort, attached

_PCI = "0000:01:00.0"
_NOTIFY = 0x4000  # in BAR 2
_EVERYBODY = "10.20.0.255"
_DEVICE = f"/sys/bus/pci/devices/{_PCI}"


class Lab:
    """A card with a kernel on the other end of its wire, and one guest at a time."""

    def __init__(self, qemu: Qemu, files: LinuxFiles, folder: Path) -> None:
        self.config = NicConfig.preset("full")
        self.said: list[str] = []
        self._qemu, self._files, self._folder = qemu, files, folder
        self._logs = toolchain.build_folder() / "cosim"
        self._guest: LinuxGuest | None = None
        self.tap = Tap(f"{HOST}/24", mtu=self.config.mtu)
        self.card = ServedCard(self.config, folder / "card", self.tap, tell=self.said.append)
        self.boots = 0

    def boot(self, sockets: list[Path] | None = None) -> LinuxGuest:
        """Start a guest in place of the one that may be there; wait until it takes commands."""
        self.kill()
        self._guest = self.start(sockets or [self.card.socket])
        self._guest.wait_ready()
        return self._guest

    def start(self, sockets: list[Path]) -> LinuxGuest:
        """Start a guest; it is the caller's."""
        self.boots += 1
        return LinuxGuest(self._qemu, self._files, sockets,
                          self._logs / f"linux-{self.boots}.log")

    @property
    def guest(self) -> LinuxGuest:
        """The guest, which has its network up; booted if there is none."""
        if self._guest is None or not self._guest.alive:
            bring_up(self.boot())
        assert self._guest is not None
        return self._guest

    def kill(self) -> None:
        """End the guest as it is, by SIGKILL."""
        if self._guest is not None:
            self._guest.kill()
            self._guest = None

    def close(self) -> None:
        self.kill()
        self.card.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    try:
        qemu, files = find_qemu(), linux_files()
    except ToolMissing as missing:
        pytest.skip(str(missing))
    lab = Lab(qemu, files, tmp_path_factory.mktemp("cosim"))
    yield lab
    lab.close()


@pytest.fixture(autouse=True)
def card_is_well(lab: Lab) -> Iterator[None]:
    """No test may end with a card that has failed."""
    yield
    lab.card.check()


def test_first_ping(lab: Lab, figures: Figures) -> None:
    with figures.measure(lab.card):
        guest = lab.boot()
        bring_up(guest)
        assert ping(guest, 1).received == 1
        figures.add(first_ping_s=time.monotonic() - guest.started_at)
    assert lab.card.clock.violations_seen == 0


def _config(guest: LinuxGuest) -> bytes:
    return bytes.fromhex("".join(guest.run(f"xxd -p {_DEVICE}/config").split()))


def _capabilities(config: bytes) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    at = config[0x34]
    while at:
        found.setdefault(config[at], []).append(at)
        at = config[at + 1]
    return found


@pytest.mark.virtio("PCI-ID-01")
def test_the_function_as_linux_sees_it(lab: Lab) -> None:
    """What lspci -vv tells, from the guest's view of configuration space."""
    config = _config(lab.guest)
    assert struct.unpack_from("<HH", config) == (0x1AF4, 0x1041)
    assert config[9:12] == b"\0\0\2"  # an Ethernet controller
    assert struct.unpack_from("<H", config, 4)[0] & 6 == 6  # memory, bus master
    found = _capabilities(config)
    assert {kind: len(places) for kind, places in found.items()} == {
        0x01: 1, 0x09: 5, 0x10: 1, 0x11: 1}
    msix, = found[0x11]
    control, = struct.unpack_from("<H", config, msix + 2)
    assert control >> 15 == 1
    assert (control & 0x7FF) + 1 == lab.config.vectors
    express, = found[0x10]
    assert struct.unpack_from("<I", config, express + 4)[0] >> 28 & 1  # function-level reset
    assert [config[at + 3] for at in found[0x09]] == [1, 2, 3, 4, 5]
    sizes = []
    for line in lab.guest.run(f"cat {_DEVICE}/resource").splitlines()[:6]:
        first, last, _flags = (int(word, 16) for word in line.split())
        sizes.append(last - first + 1 if last else 0)
    assert sizes == [0x10000, 0, 0x8000, 0, 0x8000, 0]
    assert "flr" in lab.guest.run(f"cat {_DEVICE}/reset_method")


def test_the_driver_and_its_features(lab: Lab, figures: Figures) -> None:
    guest = lab.guest
    assert guest.run(f"readlink {_DEVICE}/driver").strip().endswith("/virtio-pci")
    assert guest.run("readlink /sys/bus/virtio/devices/virtio0/driver").strip().endswith(
        "/virtio_net")
    bits = guest.run("cat /sys/bus/virtio/devices/virtio0/features").strip().ljust(128, "0")
    taken = {name for name, bit in FEATURE_BITS.items() if bits[bit] == "1"}
    assert bits.count("1") == len(taken)
    assert taken <= offered_features(lab.config)
    assert taken >= {"MTU", "MAC", "MRG_RXBUF", "STATUS", "CTRL_VQ", "MQ", "VERSION_1",
                     "ACCESS_PLATFORM", "INDIRECT_DESC", "RING_PACKED", "EVENT_IDX",
                     "SPEED_DUPLEX"}
    assert guest.run("cat /sys/class/net/eth0/address").strip() == (
        ":".join(f"{byte:02x}" for byte in lab.config.mac.to_bytes(6, "big")))
    assert int(guest.run("cat /sys/class/net/eth0/mtu")) == lab.config.mtu
    assert int(guest.run("cat /sys/class/net/eth0/carrier")) == 1
    assert int(guest.run("cat /sys/class/net/eth0/speed")) == lab.config.link_mbps
    figures.add(features=" ".join(sorted(taken)), kernel=guest.run("uname -r").strip())


def test_ethtool(lab: Lab) -> None:
    guest = lab.guest
    about = dict(re.findall(r"^(\S+): (.*)$", guest.run("ethtool -i eth0"), re.M))
    assert about["driver"] == "virtio_net"
    assert about["bus-info"] == _PCI
    channels = re.findall(r"^Combined:\s+(\d+)$", guest.run("ethtool -l eth0"), re.M)
    assert channels == [str(lab.config.queue_pairs), "2"]
    offloads = dict(re.findall(r"^([\w-]+): (on|off)", guest.run("ethtool -k eth0"), re.M))
    assert offloads["tx-checksumming"] == "off"
    assert offloads["tcp-segmentation-offload"] == "off"

    def packets() -> tuple[int, int]:
        found = re.findall(r"^\s+([rt]x)_queue_\d+_packets: (\d+)$",
                           guest.run("ethtool -S eth0"), re.M)
        return tuple(sum(int(count) for way, count in found if way == each)
                     for each in ("rx", "tx"))  # type: ignore[return-value]  # two

    before = packets()
    assert ping(guest, 5).received == 5
    after = packets()
    assert all(new - old >= 5 for old, new in zip(before, after, strict=True))


def test_pings(lab: Lab, figures: Figures, full: bool) -> None:
    guest = lab.guest
    with figures.measure(lab.card):
        pings = ping(guest, 1000 if full else 200)
    assert pings.received == pings.sent == (1000 if full else 200)
    figures.add(average_ms=pings.average_ms, least_ms=pings.least_ms, most_ms=pings.most_ms)


@pytest.mark.parametrize("way", ["to guest", "from guest"])
def test_tcp(lab: Lab, figures: Figures, full: bool, way: str) -> None:
    guest = lab.guest
    with figures.measure(lab.card):
        stream = tcp(guest, lab.tap, lab.card, 10_000_000 if full else 1_000_000,
                     way=way)  # type: ignore[arg-type]  # one of two
    assert stream.equal
    figures.add(wall_mbps=stream.wall_mbps, simulated_gbps=stream.simulated_gbps)


@pytest.mark.virtio("NET-CFG-06", "NET-CFG-07")
def test_long_frames(lab: Lab) -> None:
    """Frames as long as the card takes pass whole; with less, they are cut by the guest."""
    guest = lab.guest
    counters = lab.card.engine.counters
    size = lab.config.mtu - 28
    assert ping(guest, 5, size=size).received == 5
    after = lab.card.engine.counters
    for way in ("rx", "tx"):
        frames = after[f"wire_{way}_frames"] - counters[f"wire_{way}_frames"]
        assert 5 <= frames <= 9  # and an ARP or two
        assert after[f"wire_{way}_bytes"] - counters[f"wire_{way}_bytes"] >= 5 * (size + 42)
    guest.run("ip link set eth0 mtu 1500")
    assert ping(guest, 5, size=4000).received == 5
    assert lab.card.engine.counters["wire_tx_frames"] - after["wire_tx_frames"] >= 15
    guest.run(f"ip link set eth0 mtu {lab.config.mtu}")


def test_pairs_of_queues(lab: Lab) -> None:
    guest = lab.guest
    for pairs in (1, 2):
        guest.run(f"ethtool -L eth0 combined {pairs}", check=False)  # as it is: an error
        found = re.findall(r"^Combined:\s+(\d+)$", guest.run("ethtool -l eth0"), re.M)
        assert found[1] == str(pairs)
        assert ping(guest, 10).received == 10


def test_rings_of_other_sizes(lab: Lab, full: bool) -> None:
    """Linux stops each queue by itself (RING_RESET), amid traffic, and starts it with a new size.

    Below 19 entries its driver waits for ever for room for the longest chain.
    """
    guest = lab.guest
    # No faster: each ping sees the other's answers as well, and its socket must hold them.
    said = guest.run(f"ping -q -c 100000 -i 0.02 {HOST} >/dev/null & echo $!")
    for size in (64, 1024, 32, 256) * (5 if full else 1):
        guest.run(f"ethtool -G eth0 rx {size} tx {size}")
        shown = guest.run("ethtool -g eth0")
        assert re.findall(r"^[RT]X:\s+(\d+)$", shown, re.M) == ["1024"] * 2 + [str(size)] * 2
        assert ping(guest, 20).received == 20
    guest.run(f"kill {said.split()[-1]}; ethtool -G eth0 rx 1024 tx 1024")
    assert tcp(guest, lab.tap, lab.card, 200_000, way="from guest").equal


def test_down_and_up(lab: Lab) -> None:
    guest = lab.guest
    for _turn in range(3):
        guest.run("ip link set eth0 down")
        bring_up(guest)
        assert ping(guest, 5).received == 5


def test_the_driver_leaves_and_comes(lab: Lab, full: bool) -> None:
    """Of virtio and of PCI: unbind gives everything back, bind finds it as at the start."""
    guest = lab.guest
    for _turn in range(10 if full else 3):
        for bus, driver, device in (("virtio", "virtio_net", "virtio0"),
                                    ("pci", "virtio-pci", _PCI)):
            guest.run(f"echo {device} > /sys/bus/{bus}/drivers/{driver}/unbind")
            assert not guest.run("ls /sys/class/net | grep eth", check=False).strip()
            guest.run(f"echo {device} > /sys/bus/{bus}/drivers/{driver}/bind")
            bring_up(guest)
            assert ping(guest, 5).received == 5


def test_function_level_reset(lab: Lab) -> None:
    guest = lab.guest
    for _turn in range(3):
        guest.run(f"echo {_PCI} > /sys/bus/pci/drivers/virtio-pci/unbind")
        guest.run(f"echo flr > {_DEVICE}/reset_method && echo 1 > {_DEVICE}/reset")
        guest.run(f"echo {_PCI} > /sys/bus/pci/drivers/virtio-pci/bind")
        bring_up(guest)
        assert ping(guest, 5).received == 5


def test_reboot(lab: Lab, figures: Figures) -> None:
    guest = lab.guest
    guests = lab.card.server.guests
    begun = time.monotonic()
    guest.reboot()
    bring_up(guest)
    assert ping(guest, 5).received == 5
    figures.add(first_ping_s=time.monotonic() - begun)
    assert lab.card.server.guests == guests  # the same QEMU


def _gone(lab: Lab) -> bool:
    session = lab.card.server.session
    return (session is None or not session.open) and not lab.card.engine.memory.regions


def _waits_for(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_killed_amid_traffic(lab: Lab, figures: Figures, full: bool, seed: int) -> None:
    """QEMU dies at a random moment; nothing of it stays, and the next guest works."""
    rng = random.Random(seed)
    for _turn in range(5 if full else 1):
        guest = lab.guest
        guest.send(f"(while true; do ping -q -c 1000 -i 0.001 -s 3000 {HOST}; done) >/dev/null & "
                   f"ping -q -c 1000 -i 0.001 {HOST} >/dev/null")
        before = lab.card.spent.frames_out
        _waits_for(lambda before=before: lab.card.spent.frames_out > before + 20,  # type: ignore[misc]
                   "the traffic does not begin")
        time.sleep(rng.random())
        lab.kill()
        _waits_for(lambda: _gone(lab), "the guest's memory stays")
        guest = lab.guest
        assert ping(guest, 20).received == 20


def _rings(device: NetDevice) -> list[tuple[int, int]]:
    """Give address and size of all that the card reads and writes of rings."""
    pieces = [getattr(ring, name) for ring in device.rings.values()
              for name in ("descriptors", "available", "used", "driver_event", "device_event")
              if hasattr(ring, name)]
    return [(piece.address, piece.size) for piece in pieces]


def _misbehave(port: VfioPort, device: NetDevice, rng: random.Random, receive: Callable[[], object]
               ) -> Counter[str]:
    """Be a hostile guest for a while; count the deeds."""
    deeds: Counter[str] = Counter()
    rings = _rings(device)
    bars = [(2, 0x8000), (4, 0x8000), (0, 0x10000), (7, 4096)]
    for _turn in range(rng.randrange(20, 200)):
        deed = rng.choices(("garbage", "send", "receive", "notify", "register", "reset", "unmap"),
                           (30, 20, 15, 20, 10, 1, 1))[0]
        deeds[deed] += 1
        if deed == "garbage":
            address, size = rng.choice(rings)
            at, count = address - port.base + rng.randrange(size), rng.choice((1, 2, 8, 16))
            port.memory[at:at + count] = rng.randbytes(count)
        elif deed == "send":
            # The last 2 bytes name the queue; before them may stand an index.
            port.client.write(2, _NOTIFY + 4, b"\1\0" + rng.choice((b"", rng.randbytes(2))),
                              posted=True)
        elif deed == "receive":
            receive()
        elif deed == "notify":
            port.client.write(2, _NOTIFY + 4 * rng.randrange(40),
                              rng.randbytes(rng.choice((1, 2, 4, 8))), posted=True)
        elif deed == "register":
            region, size = rng.choice(bars)
            try:
                port.client.write(region, rng.randrange(size), rng.randbytes(rng.choice((1, 4))))
            except Answer:
                pass  # beyond the end
        elif deed == "reset":
            port.client.ask(13)
            break  # and begin anew
        else:
            port.client.unmap(port.base, len(port.memory))
            port.client.map(port.base, len(port.memory), port.memory_fd)
    return deeds


def test_hostile_guest(lab: Lab, figures: Figures, full: bool, seed: int) -> None:
    """Whatever it does, the card answers, and the next guest finds it in order."""
    lab.kill()
    _waits_for(lambda: _gone(lab), "the guest's memory stays")
    before, rng = lab.card.clock.violations_seen, random.Random(seed)
    deeds: Counter[str] = Counter()
    begun, least_s = time.monotonic(), 300 if full else 10

    def refused() -> int:
        return lab.card.clock.violations_seen - before

    def enough() -> bool:
        """Whether it was hostile for long, and so that it was noticed."""
        spent_s = time.monotonic() - begun
        return spent_s >= least_s and (refused() > 0 or spent_s >= least_s + 60)

    with lab.tap.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        while not enough():
            with attached(lab.card.socket) as port:
                (function,) = port.run(scan(port))
                device = port.run(NetDevice.probe(port, function, NetOptions(
                    features=without(*rng.choice(((), (Feature.RING_PACKED,)))), queue_size=16,
                    receive_bytes=2048)))
                port.run(device.open())
                for _frame in range(4):
                    port.run(device.send(bytes(60)))
                deeds += _misbehave(port, device, rng, lambda: sender.sendto(
                    rng.randbytes(rng.randrange(1, 1400)), (_EVERYBODY, 9)))
    _waits_for(lambda: _gone(lab), "the guest's memory stays")
    assert refused()
    figures.add(refused_by_the_host=refused(), **deeds)
    guest = lab.guest
    assert ping(guest, 50).received == 50
    assert tcp(guest, lab.tap, lab.card, 100_000, way="from guest").equal


def test_two_cards_in_one_guest(lab: Lab, figures: Figures, tmp_path: Path) -> None:
    tap = Tap("10.20.1.1/24", mtu=lab.config.mtu)
    with ServedCard(lab.config, tmp_path / "second", tap) as second:
        guest = lab.boot([lab.card.socket, second.socket])
        bring_up(guest)
        bring_up(guest, "eth1", "10.20.1.2/24")
        for address in (HOST, "10.20.1.1"):
            assert ping(guest, 20, address=address).received == 20
        assert second.spent.frames_out >= 20
        lab.kill()


def test_two_guests_on_a_cable(lab: Lab, tmp_path: Path) -> None:
    """Two QEMUs, two cards, and nothing between them: what one sends the other receives."""
    lab.kill()
    left, right = Cable().ends
    with (ServedCard(lab.config, tmp_path / "left", left) as one,
          ServedCard(lab.config, tmp_path / "right", right) as other,
          lab.start([one.socket]) as first, lab.start([other.socket]) as second):
        for number, guest in enumerate((first, second)):
            guest.wait_ready()
            guest.run(f"ip link set eth0 address 02:52:4e:47:00:1{number}")
            bring_up(guest, address=f"10.30.0.{1 + number}/24")
        # A guest that has just brought its device up may still be deaf for a moment.
        assert any(ping(first, 1, address="10.30.0.2").received for _ in range(10))
        assert ping(first, 20, address="10.30.0.2").received == 20
        assert ping(second, 20, size=8000, address="10.30.0.1").received == 20
        assert left.dropped == right.dropped == 0
        assert one.spent.frames_out == other.spent.frames_in
