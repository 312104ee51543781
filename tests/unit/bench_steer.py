"""cocotb side of test_wire.py: frames of flows, and the queues that they are steered to."""

from __future__ import annotations

import binascii
import os
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.stream.types import BeatLayout, WireBeatLayout
from hw.virtio.types import FunctionLayout, PairsLayout
from hw.wire.types import SteeredLayout
from tb.stream import PacketSink, StreamSink, StreamSource, always, cycles, pace, reset

LANES = int(os.environ["RINGLET_LANES"])
MAX_PAIRS = int(os.environ["RINGLET_MAX_PAIRS"])
LONGEST = int(os.environ["RINGLET_LONGEST"])

TCP, UDP, ICMP = 6, 17, 1
STALLS = [(False, False, False), (True, False, False), (False, True, False), (False, False, True),
          (True, True, True)]


def hash_of(frame: bytes) -> int:
    """The hash by its definition, with the CRC of Python's library."""
    kind, hashed = frame[12:14], frame[26:38]
    if kind == b"\x08\x00" and len(frame) >= 34 and frame[14] >> 4 == 4:
        fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
        if frame[14] & 15 != 5 or fragment or frame[23] not in (TCP, UDP) or len(frame) < 38:
            hashed = frame[26:34]
    elif kind == b"\x86\xDD" and len(frame) >= 34:
        hashed = frame[26:38] if len(frame) >= 38 else frame[26:34]
    else:
        return 0
    return binascii.crc_hqx(hashed.ljust(12, b"\0"), 0)


def ipv4(rng: random.Random, addresses: bytes, ports: bytes, *, protocol: int = UDP,
         size: int = 60, head: int = 0x45, fragment: int = 0) -> bytes:
    """A frame whose other fields are anything."""
    frame = bytearray(rng.randbytes(max(size, 38)))
    frame[12:15] = bytes([8, 0, head])
    frame[20:22] = (fragment | rng.choice([0, 0x4000])).to_bytes(2, "big")
    frame[23] = protocol
    frame[26:34] = addresses
    frame[34:38] = ports
    return bytes(frame[:size])


def any_frame(rng: random.Random) -> bytes:
    """A frame of any kind and length, near the borders of all that counts."""
    size = rng.choice([14, 15, 33, 34, 35, 37, 38, 39, 60, LANES - 1, LANES, LANES + 1, LONGEST,
                       rng.randint(14, LONGEST), rng.randint(14, 80)])
    size = max(14, size)
    frame = bytearray(ipv4(rng, rng.randbytes(8), rng.randbytes(4), size=LONGEST,
                           protocol=rng.choice([TCP, UDP, ICMP, 0, 7, 16, 22, 255]),
                           head=rng.choice([0x45, 0x45, 0x45, 0x46, 0x4F, 0x55, 0x40]),
                           fragment=rng.choice([0, 0, 0, 0x2000, 1, 0x100, 0x1FFF])))
    match rng.randrange(8):
        case 0:
            frame[12:14] = rng.choice([b"\x81\x00", b"\x08\x06", b"\x88\x00", b"\x08\x01"])
        case 1 | 2:
            frame[12:14] = b"\x86\xDD"
        case 3:
            frame[12:14] = rng.choice([b"\x86\x00", b"\x08\xDD", b"\x86\xDC"])
    return bytes(frame[:size])


class Bench:
    """The wire, who takes frames, and what is told of pairs."""

    def __init__(self, dut: Any, *, wire: bool = False, steered: bool = False,
                 frames: bool = False) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.wire = StreamSource(dut, "wire", WireBeatLayout(LANES), pace(wire, 1))
        self.steered = StreamSink(dut, "steered", SteeredLayout(), pace(steered, 2))
        self.frames = PacketSink(dut, "frames", BeatLayout(LANES), pace(frames, 3))
        self.pairs = StreamSource(dut, "pairs", PairsLayout(), always())
        self.resets = StreamSource(dut, "resets", FunctionLayout(), always())
        self.active = 1

    def send(self, frame: bytes) -> None:
        """Send a frame; what its last beat does not hold is anything."""
        for at in range(0, len(frame), LANES):
            chunk = frame[at:at + LANES]
            rest = self.rng.randbytes(LANES - len(chunk))
            self.wire.send({"data": int.from_bytes(chunk + rest, "little"), "error": 0,
                            "empty": len(rest), "last": at + LANES >= len(frame)})

    async def tell(self, pairs: int, function: int = 0) -> None:
        self.pairs.send({"function": function, "pairs": pairs})
        await self.pairs.drain()
        await cycles(self.dut, 3)
        if function == 0 and 1 <= pairs <= MAX_PAIRS:
            self.active = pairs

    async def queue(self, frame: bytes) -> int:
        """Give the queue of the next frame, which is this one."""
        told: dict[str, int] = await self.steered.get()
        assert told["bytes"] == len(frame)
        return told["queue"]

    def expected(self, frame: bytes) -> int:
        return 2 * ((hash_of(frame) >> 4) * self.active >> 12)


@cocotb.test
@cocotb.parametrize((("wire", "steered", "frames"), STALLS))
async def by_the_hash(dut: Any, wire: bool, steered: bool, frames: bool) -> None:
    """Any frame goes where its hash says, for any number of pairs."""
    bench = Bench(dut, wire=wire, steered=steered, frames=frames)
    await reset(dut)
    rng = bench.rng
    for turn in range(24):
        sent = [any_frame(rng) for _ in range(10)]
        queues: list[int] = []
        for at, frame in enumerate(sent):
            bench.send(frame)
            if frames or steered or at == len(sent) - 1:  # no more than the FIFO holds
                for passed in sent[len(queues):at + 1]:
                    queues.append(await bench.queue(passed))
                    assert await bench.frames.get_bytes() == passed
        assert queues == [bench.expected(frame) for frame in sent]
        await bench.tell((turn % MAX_PAIRS) + 1)


@cocotb.test
async def a_flow_has_one_queue(dut: Any) -> None:
    """Whatever else is in its frames; those that tell no ports have one by their addresses."""
    bench = Bench(dut)
    await reset(dut)
    await bench.tell(MAX_PAIRS)
    rng = bench.rng
    kinds: list[dict[str, Any]] = [
        {"protocol": TCP}, {"protocol": UDP}, {"protocol": ICMP}, {"fragment": 0x2000},
        {"fragment": 5}, {"head": 0x46}]
    for number in range(24):
        kind = kinds[number % len(kinds)]
        addresses, ports = rng.randbytes(8), rng.randbytes(4)
        fixed = kind in kinds[:2]
        seen = set()
        for _ in range(6):
            frame = ipv4(rng, addresses, ports if fixed else rng.randbytes(4),
                         size=rng.randint(60, LONGEST), **kind)
            bench.send(frame)
            seen.add(await bench.queue(frame))
        assert len(seen) == 1
    # Neither a VLAN's frames nor anything unknown are put out of order.
    for ether_type in (b"\x81\x00", b"\x08\x06"):
        for _ in range(4):
            frame = rng.randbytes(12) + ether_type + rng.randbytes(50)
            bench.send(frame)
            assert await bench.queue(frame) == 0


@cocotb.test
async def flows_are_spread(dut: Any) -> None:
    """Flows that differ in one number fill the queues in use alike, and no other one."""
    bench = Bench(dut)
    await reset(dut)
    rng = bench.rng
    addresses, ports = rng.randbytes(8), rng.randbytes(4)
    for pairs in sorted({2, 5, MAX_PAIRS} & set(range(1, MAX_PAIRS + 1))):
        await bench.tell(pairs)
        for what in range(4):
            counts = dict.fromkeys(range(0, 2 * pairs, 2), 0)
            flows = 256
            sent = []
            for number in range(flows):
                near, far = bytearray(addresses), bytearray(ports)
                match what:
                    case 0:
                        far[0:2] = (40_000 + number).to_bytes(2, "big")  # a client's ports
                    case 1:
                        near[2:4] = (number + 3).to_bytes(2, "big")      # clients
                    case 2:
                        near, far = bytearray(rng.randbytes(8)), bytearray(rng.randbytes(4))
                    case 3:
                        far[2:4] = (2 * number).to_bytes(2, "big")
                sent.append(ipv4(rng, bytes(near), bytes(far), size=42))
                bench.send(sent[-1])
            for frame in sent:
                counts[await bench.queue(frame)] += 1
            share = flows / pairs
            # By chance: six times the deviation of a binomial distribution.
            slack = 6 * (share * (1 - 1 / pairs)) ** 0.5
            assert all(abs(count - share) <= slack for count in counts.values()), (what, counts)


@cocotb.test
async def first_pair_after_a_reset(dut: Any) -> None:
    """One pair after each reset of function 0; others, and impossible numbers, change nothing."""
    bench = Bench(dut)
    await reset(dut)
    rng = bench.rng

    async def check() -> None:
        frames = [ipv4(rng, rng.randbytes(8), rng.randbytes(4)) for _ in range(8)]
        for frame in frames:
            bench.send(frame)
            assert await bench.queue(frame) == bench.expected(frame)

    await check()
    for pairs in range(1, MAX_PAIRS + 1):
        await bench.tell(pairs)
        for wrong in (0, MAX_PAIRS + 1, 0x100, 0x8000 + pairs % MAX_PAIRS + 1, 0xFFFF):
            await bench.tell(wrong)
        await bench.tell(pairs % MAX_PAIRS + 1, function=1)
        bench.resets.send({"function": 1})
        await bench.resets.drain()
        await check()
        bench.resets.send({"function": 0})
        await bench.resets.drain()
        await cycles(dut, 3)
        bench.active = 1
        await check()
    await bench.tell(MAX_PAIRS)
    await reset(dut)
    bench.active = 1
    await check()


@cocotb.test
async def an_offered_frame_keeps_its_queue(dut: Any) -> None:
    """A number of pairs that comes while a frame waits counts for those behind it alone.

    The sink sees to it that what is offered does not change.
    """
    bench = Bench(dut)
    await reset(dut)
    rng = bench.rng
    await bench.tell(MAX_PAIRS)
    for _ in range(6):
        frames = [ipv4(rng, rng.randbytes(8), rng.randbytes(4)) for _ in range(3)]
        bench.steered.pace = iter(lambda: False, True)
        await cycles(dut, 2)
        for frame in frames:
            bench.send(frame)
        await bench.wire.drain()
        await cycles(dut, 5)
        first = bench.expected(frames[0])
        await bench.tell(rng.randint(1, MAX_PAIRS))
        bench.steered.pace = always()
        assert await bench.queue(frames[0]) == first
        for frame in frames[1:]:
            assert await bench.queue(frame) == bench.expected(frame)


@cocotb.test
async def no_time_is_lost(dut: Any) -> None:
    """Frames a beat long are steered one a cycle, each in the cycle after it came."""
    bench = Bench(dut)
    await reset(dut)
    await bench.tell(MAX_PAIRS)
    edge = RisingEdge(dut.clk)
    size = max(14, LANES)
    frames = [ipv4(bench.rng, bench.rng.randbytes(8), bench.rng.randbytes(4), size=max(size, 38))
              for _ in range(12)]
    for frame in frames:
        bench.send(frame)
    ended = []
    steered = []
    for now in range(400):
        await edge
        if dut.wire__valid.value and int(dut.wire__payload.value) >> len(
                dut.wire__payload) - 2 & 1:
            ended.append(now)
        if dut.steered__valid.value and dut.steered__ready.value:
            steered.append(now)
    assert len(ended) == len(steered) == len(frames)
    assert [there - here for here, there in zip(ended, steered, strict=True)] == [1] * len(frames)
