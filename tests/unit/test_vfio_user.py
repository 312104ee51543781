"""The vfio-user server, on the whole card: a client that plays QEMU's part, well and badly."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hw.config import NicConfig
from sim.guest.served_card import ServedCard
from sim.guest.unix_socket import listen
from sim.guest.wire_end import Cable, CableEnd
from sw_driver.layouts import Feature
from sw_driver.net import NetDevice, NetOptions, without
from sw_driver.pci import scan
from tests.unit import vfio_client as v
from tests.unit.vfio_client import Answer, Ended, VfioClient, VfioPort, attached

_FRAME = bytes.fromhex("ffffffffffff02524e47000008004500") + bytes(range(200))
_OPTIONS = NetOptions(features=without(Feature.RING_PACKED), queue_size=16,
                      timeout_cycles=1_000_000, receive_bytes=2048)
_WAIT_S = 20


class Bench:
    """A card that is served, and the far end of its wire."""

    def __init__(self, card: ServedCard, wire: CableEnd) -> None:
        self.card, self.wire = card, wire
        self.path = card.socket

    def frame(self) -> bytes:
        """Wait for a frame of the card."""
        return waits_for(self.wire.receive)

    def forget_frames(self) -> None:
        while self.wire.receive() is not None:
            pass


def waits_for(look: Callable[[], object]) -> bytes:
    deadline = time.monotonic() + _WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.002)
    return found  # type: ignore[return-value]  # whatever was looked for


def _descriptors() -> int:
    """Count the open ones of this process: the server's and the client's."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Serve one card to all tests: each leaves it as the next one's guest needs it."""
    near, far = Cable().ends
    with ServedCard(NicConfig.preset("full"), tmp_path_factory.mktemp("s") / "card", near) as card:
        yield Bench(card, far)


@pytest.fixture
def bench(served: Bench) -> Iterator[Bench]:
    served.forget_frames()
    yield served
    served.card.check()
    waits_for(lambda: served.card.server.session is None or not served.card.server.session.open)
    waits_for(lambda: not served.card.engine.memory.regions)


@pytest.fixture
def client(bench: Bench) -> Iterator[VfioClient]:
    with VfioClient(bench.path) as client:
        yield client


def open_device(port: VfioPort, options: NetOptions = _OPTIONS) -> NetDevice:
    (function,) = port.run(scan(port))
    device = port.run(NetDevice.probe(port, function, options))
    port.run(device.open())
    port.run(port.mmio_read(device.virtio.notify_address(0), 4))  # all before has arrived
    return device


def echo(bench: Bench, port: VfioPort, device: NetDevice, count: int = 3) -> None:
    """Send frames both ways; each arrives as it was, told by interrupts."""
    for number in range(count):
        frame = _FRAME + bytes([number])
        port.run(device.send(frame))
        assert bench.frame() == frame
        back = frame[6:12] + frame[:6] + frame[12:]
        bench.wire.transmit(back)
        assert port.run(device.receive()) == back


# --- a guest that behaves


def test_says_what_it_is(client: VfioClient) -> None:
    major, minor = struct.unpack_from("<HH", client.version)
    assert (major, minor) == (0, 1)
    assert client.version.endswith(b"}\0")
    assert b'"max_msg_fds":8' in client.version
    argsz, flags, regions, irqs = struct.unpack("<IIII", client.ask(v.GET_INFO, bytes(16)))
    assert (argsz, flags, regions, irqs) == (16, 3, 9, 5)
    assert [client.region(index) for index in range(9)] == [
        (3, 0x10000), (0, 0), (3, 0x8000), (0, 0), (3, 0x8000), (0, 0), (0, 0), (3, 4096), (0, 0)]
    vectors = NicConfig.preset("full").vectors
    assert [client.irqs(index) for index in range(5)] == [
        (0, 0), (0, 0), (1, vectors), (1, 1), (0, 0)]


def test_config_space_is_the_card_s(client: VfioClient) -> None:
    whole = client.read(v.CONFIG, 0, 4096)
    assert whole[:4] == bytes.fromhex("f41a4110")
    assert whole[0x0A:0x0C] == b"\0\2"
    assert whole[0x100:] == bytes(4096 - 0x100)
    for offset, size in ((0, 1), (2, 2), (1, 6), (0x2C, 4), (4090, 6)):
        assert client.read(v.CONFIG, offset, size) == whole[offset:offset + size]
    client.write(v.CONFIG, 4, b"\6")
    assert client.read(v.CONFIG, 4, 2) == b"\6\0"


def test_bar_registers_are_the_guest_s_own(client: VfioClient) -> None:
    """They take any address and tell sizes; the BARs answer wherever the guest puts them."""
    client.write(v.CONFIG, 4, b"\6\0")
    before = client.read(2, 0, 64)
    assert before != b"\xff" * 64
    client.write(v.CONFIG, 0x10, b"\xff" * 24)
    assert struct.unpack("<6I", client.read(v.CONFIG, 0x10, 24)) == (
        0xFFFF_0000, 0, 0xFFFF_8004, 0xFFFF_FFFF, 0xFFFF_8004, 0xFFFF_FFFF)
    assert client.read(2, 0, 64) == before
    client.write(v.CONFIG, 0x19, b"\x80\x56")
    client.write(v.CONFIG, 0x1C, struct.pack("<I", 0x12))
    assert struct.unpack("<2I", client.read(v.CONFIG, 0x18, 8)) == (0xFF56_8004, 0x12)
    assert client.read(2, 0, 64) == before


def test_memory_answers_when_it_is_enabled(client: VfioClient) -> None:
    assert client.read(2, 0, 8) == b"\xff" * 8
    client.write(v.CONFIG, 4, b"\2\0")
    assert client.read(2, 0, 8) != b"\xff" * 8


@pytest.mark.parametrize("how", ["message", "configuration"])
def test_resets(bench: Bench, client: VfioClient, how: str) -> None:
    """Both kinds reset the function, and the guest's BAR registers; the BARs work afterwards."""
    client.write(v.CONFIG, 4, b"\6\0")
    client.write(v.CONFIG, 0x10, struct.pack("<I", 0xFE00_0000))
    client.write(2, 0x14, b"\3")
    assert client.read(2, 0x14, 1) == b"\3"
    express = client.read(v.CONFIG, 0x49, 1)[0]
    if how == "message":
        client.ask(v.RESET)
    else:
        client.write(v.CONFIG, express + 8, struct.pack("<H", 0x8000))
    assert client.read(v.CONFIG, 4, 2) == b"\0\0"
    assert struct.unpack("<6I", client.read(v.CONFIG, 0x10, 24)) == (0, 0, 4, 0, 4, 0)
    client.write(v.CONFIG, 4, b"\2\0")
    assert client.read(2, 0x14, 1) == b"\0"


def test_frames_both_ways(bench: Bench) -> None:
    with attached(bench.path) as port:
        device = open_device(port)
        echo(bench, port, device)
        # A reset of the function through configuration space; vectors keep their eventfds.
        port.run(device.reset_function())
        port.run(device.open())
        port.run(port.mmio_read(device.virtio.notify_address(0), 4))
        echo(bench, port, device)


def test_interrupts_wait_for_their_eventfd(bench: Bench) -> None:
    """What the card raises while a vector has none stays pending, and comes with the next one."""
    with attached(bench.path) as port:
        device = open_device(port)
        vectors = {vector for vector, content in port._table.items() if not content[12] & 1}
        assert vectors
        for vector in vectors:
            port.client.set_irqs(0x24, vector, 1)
        bench.wire.transmit(_FRAME)
        assert port.run(device.receive(20_000)) == _FRAME  # seen in the ring after a time-out
        events = {vector: os.eventfd(0, os.EFD_NONBLOCK) for vector in vectors}
        for vector, event in events.items():
            port.client.set_irqs(0x24, vector, 1, [event])
        port.client.read(4, 0, 4)

        found: dict[int, int] = {}

        def signalled() -> int:
            before = sum(found.values())
            for vector, event in events.items():
                try:
                    found[vector] = found.get(vector, 0) + os.eventfd_read(event)
                except BlockingIOError:
                    pass
            return sum(found.values()) - before

        waits_for(signalled)
        assert len(found) == 1  # of all that the driver uses
        # By a message; masked and unmasked by one.
        port.client.set_irqs(0x21, min(vectors), 1)
        assert signalled() == 1
        port.client.set_irqs(0x22, min(vectors), 2, data=b"\0\0")
        assert signalled() == 0
        port.client.set_irqs(0x09, min(vectors), 1)
        port.client.set_irqs(0x11, min(vectors), 1)
        # All at once lose theirs.
        port.client.set_irqs(0x21, 0, 0)
        port.client.set_irqs(0x21, min(vectors), 1)
        assert signalled() == 0
        for event in events.values():
            os.close(event)


def test_entries_of_vectors(client: VfioClient) -> None:
    """They name the server's own addresses, and outlive resets; without an eventfd, or masked by a
    message, they are masked."""
    def entry(vector: int) -> tuple[int, int]:
        client.write(v.CONFIG, 4, b"\2\0")
        address, _data, control = struct.unpack("<QII", client.read(4, 16 * vector, 16))
        return address, control

    event = os.eventfd(0)
    client.set_irqs(0x24, 1, 2, [event, event])
    assert client.read(v.CONFIG, 4, 2) == b"\0\0"  # as the guest left it
    places = [entry(vector)[0] for vector in (1, 2)]
    assert all(0xFEE0_0000 <= place < 0xFEF0_0000 for place in places)
    client.set_irqs(0x09, 2, 1)
    for reset in (lambda: None, lambda: client.ask(v.RESET),
                  lambda: client.write(v.CONFIG, 0x58 + 8, struct.pack("<H", 0x8000))):
        reset()
        assert [entry(vector)[1] for vector in range(4)] == [1, 0, 1, 1]
        assert entry(1)[0] == places[0]
    client.set_irqs(0x11, 2, 1)
    assert entry(2) == (places[1], 0)
    client.set_irqs(0x24, 2, 1)
    assert entry(2)[1] == 1
    os.close(event)


def test_writes_to_the_vector_table_have_no_effect(bench: Bench) -> None:
    with attached(bench.path) as port:
        device = open_device(port)
        before = port.client.read(4, 0, 64)
        port.client.write(4, 0, b"\xaa" * 64)
        port.client.write(4, 8, b"\xaa" * 4, posted=True)
        assert port.client.read(4, 0, 64) == before
        echo(bench, port, device, 1)


def test_several_writes_in_one_message(client: VfioClient) -> None:
    writes = [(4, v.CONFIG, 2, b"\2\0"), (0x10, v.CONFIG, 4, struct.pack("<I", 0xE000_0000)),
              (0x14, 2, 1, b"\1")]
    assert client.ask(v.WRITE_MULTI, struct.pack("<Q", 3) + b"".join(
        struct.pack("<QII8s", *write) for write in writes)) == b""
    assert client.read(v.CONFIG, 0x10, 4) == struct.pack("<I", 0xE000_0000)
    assert client.read(2, 0x14, 1) == b"\1"


def test_posted_writes_are_not_answered(client: VfioClient) -> None:
    client.write(v.CONFIG, 4, b"\2\0", posted=True)
    client.write(2, 0x14, b"\1", posted=True)
    client.send(99, flags=0x10)
    assert client.silent()
    assert client.read(2, 0x14, 1) == b"\1"


def test_writes_wait_at_the_guest_s_end(bench: Bench, client: VfioClient) -> None:
    """However many it posts, few of them wait in the server; a read comes behind all of them."""
    client.write(v.CONFIG, 4, b"\2\0")
    most = 0
    for _turn in range(200):
        client.write(2, 0x3000, bytes(256), posted=True)
        most = max(most, len(bench.card.clock._posted))
    client.write(2, 0x14, b"\1", posted=True)
    assert client.read(2, 0x14, 1) == b"\1"
    assert 0 < most <= 256 + 64
    assert bench.card.clock.backlog == 0


def test_memory_comes_and_goes(bench: Bench, client: VfioClient) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 1 << 20)
    regions = bench.card.engine.memory
    client.map(0x1000, 0x1000, fd)
    client.map(0x2000, 0x2000, fd, 0x10000, flags=1)
    client.map(0xC_0000, 0x4000, None)  # nothing that the card could reach
    assert [(each.address, each.size, each.device_writes) for each in regions.regions] == [
        (0x1000, 0x1000, True), (0x2000, 0x2000, False)]
    client.unmap(0x1000, 0x1000)
    client.unmap(0xC_0000, 0x4000)
    client.map(0x1000, 0x1000, fd)
    client.unmap(0x1000, 0x3000)
    assert regions.regions == []
    client.map(0x1000, 0x1000, fd)
    client.unmap(0, 0, flags=2)
    assert regions.regions == []
    os.close(fd)


# --- a guest that does not


_MAP, _UNMAP, _IRQS = struct.Struct("<IIQQQ"), struct.Struct("<IIQQ"), struct.Struct("<IIIII")
_ACCESS = struct.Struct("<QII")


@pytest.mark.parametrize(("command", "payload", "number"), [
    (99, b"", errno.ENOSYS),
    (0, b"", errno.ENOSYS),
    (11, bytes(16), errno.ENOSYS),
    (v.VERSION, bytes(4), errno.EINVAL),
    (v.DMA_MAP, bytes(31), errno.EINVAL),
    (v.DMA_MAP, _MAP.pack(32, 3, 0, 0x1000, 0), errno.EINVAL),
    (v.DMA_MAP, _MAP.pack(32, 3, 0, 0x800, 0x1000), errno.EINVAL),
    (v.DMA_MAP, _MAP.pack(32, 3, 0, (1 << 64) - 0x1000, 0x2000), errno.EINVAL),
    (v.DMA_MAP, _MAP.pack(32, 0x80, 0, 0x1000, 0x1000), errno.EINVAL),
    (v.DMA_UNMAP, _UNMAP.pack(24, 0, 0x1000, 0x1000), errno.EINVAL),
    (v.DMA_UNMAP, _UNMAP.pack(24, 1, 0x1000, 0x1000), errno.ENOTSUP),
    (v.DMA_UNMAP, b"", errno.EINVAL),
    (v.GET_INFO, bytes(3), errno.EINVAL),
    (v.GET_REGION, struct.pack("<IIIIQQ", 32, 0, 9, 0, 0, 0), errno.EINVAL),
    (v.GET_REGION, struct.pack("<IIIIQQ", 32, 0, 1 << 31, 0, 0, 0), errno.EINVAL),
    (v.GET_IRQ, struct.pack("<IIII", 16, 0, 5, 0), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x21, 2, 0, 1 << 31), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x21, 2, 1 << 31, 1), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x23, 2, 0, 1), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x31, 2, 0, 1), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x121, 2, 0, 1), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x21, 7, 0, 1), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x21, 0, 0, 1), errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x22, 2, 0, 4) + b"\1\1\1", errno.EINVAL),
    (v.SET_IRQS, _IRQS.pack(20, 0x0C, 2, 0, 1), errno.ENOTSUP),
    (v.READ, _ACCESS.pack(0, 7, 4097), errno.EINVAL),
    (v.READ, _ACCESS.pack(4096, 7, 1), errno.EINVAL),
    (v.READ, _ACCESS.pack((1 << 64) - 1, 7, 4), errno.EINVAL),
    (v.READ, _ACCESS.pack(0, 7, 0), errno.EINVAL),
    (v.READ, _ACCESS.pack(0, 1, 4), errno.EINVAL),
    (v.READ, _ACCESS.pack(0, 77, 4), errno.EINVAL),
    (v.READ, _ACCESS.pack(0, 2, 1 << 31), errno.EINVAL),
    (v.READ, bytes(15), errno.EINVAL),
    (v.WRITE, _ACCESS.pack(0, 2, 8) + bytes(4), errno.EINVAL),
    (v.WRITE, _ACCESS.pack(0, 2, 4) + bytes(8), errno.EINVAL),
    (v.WRITE, _ACCESS.pack(0x7FFE, 2, 4) + bytes(4), errno.EINVAL),
    (v.WRITE, _ACCESS.pack(0, 2, 0), errno.EINVAL),
    (v.WRITE_MULTI, struct.pack("<Q", 1 << 60), errno.EINVAL),
    (v.WRITE_MULTI, struct.pack("<QQII8s", 1, 0, 2, 9, b""), errno.EINVAL),
    (v.WRITE_MULTI, struct.pack("<QQII8s", 1, 0x8000, 2, 4, b""), errno.EINVAL),
])
def test_a_wrong_request_is_refused(bench: Bench, client: VfioClient, command: int,
                                    payload: bytes, number: int) -> None:
    with pytest.raises(Answer) as refused:
        client.ask(command, payload)
    assert refused.value.number == number
    assert client.read(v.CONFIG, 0, 2) == b"\xf4\x1a"
    assert bench.card.engine.memory.regions == []


def test_wrong_descriptors_are_refused(client: VfioClient) -> None:
    """None of them stays open in the server, nor do those that a request had no use for."""
    client.read(v.CONFIG, 0, 4)
    before = _descriptors()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 0x2000)
    read, write = os.pipe()
    for size, given, offset in ((0x3000, fd, 0), (0x1000, fd, 0x2000), (0x1000, write, 0)):
        with pytest.raises(Answer):
            client.map(0, size, given, offset)
    client.map(0x2000, 0x2000, fd)
    for address, size in ((0x2000, 0x2000), (0x1000, 0x2000), (0x3000, 0x1000), (0, 0x10000)):
        with pytest.raises(Answer) as refused:
            client.map(address, size, None)
        assert refused.value.number == errno.EEXIST
    with pytest.raises(Answer):
        client.unmap(0x2000, 0x1000)
    event = os.eventfd(0)
    for fds, count in (([write], 1), ([event, fd], 2), ([event], 2)):
        with pytest.raises(Answer):
            client.set_irqs(0x24, 0, count, fds)
    client.set_irqs(0x24, 0, 2, [event, event])
    client.set_irqs(0x21, 0, 0)
    client.ask(v.GET_INFO, bytes(16), [event, fd])
    for each in (fd, read, write, event):
        os.close(each)
    waits_for(lambda: _descriptors() <= before)  # some are closed behind the answer


def test_the_first_message_is_version(bench: Bench) -> None:
    with VfioClient(bench.path, greet=False) as client:
        with pytest.raises(Answer):
            client.ask(v.GET_INFO, bytes(16))
        for payload in (b"", struct.pack("<HH", 1, 0), bytes(4) + b"{", bytes(4) + b"[]\0",
                        bytes(4) + b"[" * 100_000, bytes(4) + b"\xff\xfe\0"):
            with pytest.raises(Answer):
                client.ask(v.VERSION, payload)
        assert client.ask(v.VERSION, struct.pack("<HH", 0, 9))[:4] == struct.pack("<HH", 0, 1)


@pytest.mark.parametrize("junk", [
    struct.pack("<HHIII", 1, v.READ, 15, 0, 0),
    struct.pack("<HHIII", 1, v.READ, 0, 0, 0),
    struct.pack("<HHIII", 1, v.READ, 0xFFFF_FFFF, 0, 0),
    b"\xff" * 64,
])
def test_what_is_no_message_ends_the_connection(bench: Bench, junk: bytes) -> None:
    with VfioClient(bench.path) as client:
        client.raw(junk)
        with pytest.raises(Ended):
            client.answer()
    with attached(bench.path) as port:
        echo(bench, port, open_device(port), 1)


def test_too_many_descriptors_end_the_connection(bench: Bench) -> None:
    before = _descriptors()
    event = os.eventfd(0)
    with VfioClient(bench.path) as client:
        with pytest.raises(Ended):
            client.set_irqs(0x24, 0, 9, [event] * 9)
    with VfioClient(bench.path) as client:  # as many in its second piece
        client.raw(struct.pack("<HHIII", 1, v.SET_IRQS, 36, 0, 0), [event] * 8)
        with pytest.raises(Ended):
            client.raw(bytes(20), [event])
            client.answer()
    os.close(event)
    waits_for(lambda: _descriptors() <= before)


def test_answers_that_nobody_asked_for_are_ignored(client: VfioClient) -> None:
    client.send(v.READ, _ACCESS.pack(0, 7, 4) + bytes(4), flags=1)
    assert client.silent()
    assert client.read(v.CONFIG, 0, 2) == b"\xf4\x1a"


def test_a_message_may_come_in_pieces(client: VfioClient) -> None:
    message = struct.pack("<HHIII", 7, v.READ, 32, 0, 0) + _ACCESS.pack(0, 7, 4)
    for at in range(len(message)):
        client.raw(message[at:at + 1])
        time.sleep(0.001)
    assert client.answer() == (7, v.READ, 0, _ACCESS.pack(0, 7, 4) + bytes.fromhex("f41a4110"))


def test_a_second_guest_is_turned_away(bench: Bench, client: VfioClient) -> None:
    with VfioClient(bench.path, greet=False) as other, pytest.raises(Ended):
        other.ask(v.VERSION, bytes(4))
    assert client.read(v.CONFIG, 0, 2) == b"\xf4\x1a"


@pytest.mark.parametrize("amid", ["header", "payload", "answer", "traffic"])
def test_a_guest_that_vanishes(bench: Bench, amid: str) -> None:
    """Nothing of it stays, and the next guest finds a function that was reset."""
    before = _descriptors()
    with attached(bench.path) as port:
        device = open_device(port)
        if amid == "header":
            port.client.raw(b"\1\0\11")
        elif amid == "payload":
            port.client.raw(struct.pack("<HHIII", 1, v.WRITE, 4096, 0, 0) + bytes(100),
                            [port.memory_fd])
        elif amid == "answer":
            for _turn in range(50):
                port.client.send(v.READ, _ACCESS.pack(0, 7, 4096))
        else:
            for _turn in range(8):
                port.run(device.send(_FRAME))
                bench.wire.transmit(_FRAME)
    waits_for(lambda: _descriptors() <= before)
    time.sleep(0.1)
    bench.forget_frames()
    with VfioClient(bench.path) as client:
        assert client.read(v.CONFIG, 4, 2) == b"\0\0"
        client.write(v.CONFIG, 4, b"\2\0")
        assert client.read(2, 0x14, 1) == b"\0"
    with attached(bench.path) as port:  # at once
        echo(bench, port, open_device(port), 1)


def test_memory_that_goes_under_the_rings(bench: Bench) -> None:
    """The queues stop with a fault, and nothing else happens."""
    with attached(bench.path) as port:
        device = open_device(port)
        port.client.unmap(port.base, len(port.memory))
        for queue in range(2):
            port.run(port.mmio_write(device.virtio.notify_address(queue), 2, queue))
        waits_for(lambda: port.client.read(2, 0x14, 1)[0] & 0x40)
    with attached(bench.path) as port:
        echo(bench, port, open_device(port), 1)


# --- the socket


def test_a_path_that_is_taken(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="another server"):
        listen(bench.path)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="no socket"):
        listen(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    listen(tmp_path / "left").close()
    listener = listen(tmp_path / "left")
    assert (tmp_path / "left").stat().st_mode & 0o077 == 0
    listener.close()
    with VfioClient(bench.path):  # it still serves
        pass
