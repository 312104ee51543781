"""Completer and configuration space: what is refused, dropped, or told to come again."""

from __future__ import annotations

from typing import Any

import cocotb

from hw.pcie.types import RequestKind
from tb.stream import StreamSink, always, cycles
from tb.tlp import Request
from tests.unit.completer_host import BASES, LANES, READ, RETRY, UNSUPPORTED, WHO, WRITE, start

CORRECTABLE, NON_FATAL, FATAL, UR = 1, 2, 4, 8


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def refused(dut: Any, stalls: bool) -> None:
    """What is not supported is answered so, what is posted is dropped; each is noted."""
    bench = await start(dut, stalls=stalls)
    nowhere = [0, BASES[0] - 4, BASES[0] + 0x1_0000, BASES[0] | 1 << 32, BASES[2] - 4,
               BASES[2] + 0x8000, BASES[2] ^ 1 << 63, BASES[4] ^ 1 << 40, BASES[4] - 4,
               BASES[2] & 0xFFFF_FFFF, BASES[4] & 0xFFFF_FFFF]
    payload = bench.rng.randbytes(4096)
    for address in nowhere:
        bench.send(Request(READ, address), status=UNSUPPORTED)
    assert await bench.errors() == (CORRECTABLE | UR, 0)
    for address in nowhere:
        size = bench.rng.choice([4, LANES, 64, 2 * LANES])
        size = min(size, 4096 - address % 4096)
        bench.send(Request(WRITE, address, size // 4, 0xF, 0xF if size > 4 else 0,
                           payload=payload[:size]))
    assert await bench.errors() == (NON_FATAL | UR, 0)
    for kind in (RequestKind.IO_READ, RequestKind.IO_WRITE):
        data = b"1234" if kind == RequestKind.IO_WRITE else b""
        bench.send(Request(kind, 0x1000, payload=data), status=UNSUPPORTED)
    for size in (0, 4, 8, 16, 64, 128):
        bench.send(Request(RequestKind.OTHER, BASES[2], max(1, size // 4), payload=payload[:size]),
                   status=UNSUPPORTED)
    assert await bench.errors() == (CORRECTABLE | UR, 0)
    for size in (0, 4, 8, 64, 72, 256):
        bench.send(Request(RequestKind.MESSAGE, bench.rng.getrandbits(62) << 2, size // 4,
                           bench.rng.getrandbits(4), bench.rng.getrandbits(4),
                           payload=payload[:size]))
    assert await bench.errors() == (0, 0)
    for function in range(1, 8):
        await bench.config(4, who=WHO | function, status=UNSUPPORTED)
        await bench.config(4, 0, who=WHO | function, status=UNSUPPORTED)
    assert await bench.errors() == (CORRECTABLE | UR, 0)
    # Poisoned data are not written, anywhere.
    for size in (4, LANES, 3 * LANES):
        bench.send(Request(WRITE, BASES[2], size // 4, 0xF, 0xF if size > 4 else 0, poisoned=1,
                           payload=payload[:size]))
    assert await bench.errors() == (NON_FATAL, 0x80)
    await bench.config(0x3C, 0x55, poisoned=1, status=UNSUPPORTED)
    assert await bench.config(0x3C) == 0
    assert await bench.errors() == (CORRECTABLE, 0x80)
    # The function's memory is shut.
    for off, on, register in ((0x0004, 0x0006, 0x04), (3, 0, 0x44)):
        await bench.config(register, off, enable=1)
        for bar, base in BASES.items():
            bench.send(Request(READ, base + 4 * bar), status=UNSUPPORTED)
            bench.send(Request(WRITE, base, payload=b"5678"))
        assert await bench.errors() == (CORRECTABLE | NON_FATAL | UR, 0)
        await bench.config(register, on, enable=1)
        for bar in BASES:
            bench.write(bar, 8, b"abcd")
            bench.read(bar, 8, 4)
        assert await bench.errors() == (0, 0)


@cocotb.test
@cocotb.parametrize(stalls=[False, True])
async def malformed(dut: Any, stalls: bool) -> None:
    """What breaks the rules of PCI Express is dropped and noted, and the next request is served."""
    bench = await start(dut, stalls=stalls)
    rng = bench.rng
    config = RequestKind.CONFIG_WRITE
    at = BASES[2]
    whole = rng.randbytes(4096 + 64)

    def sends() -> list[Request]:
        return [
            Request(READ, at, 0, 0xF, 0xF), Request(READ, at, 1025, 0xF, 0xF),
            Request(READ, at, 2047, 0xF, 0xF), Request(READ, at, 1, 0xF, 1),
            Request(READ, at, 2, 0, 0xF), Request(READ, at, 2, 0xF, 0),
            Request(READ, at + 0xFFC, 2, 0xF, 0xF), Request(READ, at + 4, 1024, 0xF, 0xF),
            Request(READ, at, 1, payload=whole[:4 * LANES]), Request(READ, at + 4, 1, 0, 8),
            Request(RequestKind.CONFIG_READ, 0, 2, completer_id=WHO),
            Request(RequestKind.CONFIG_READ, 0, 2, 0xF, 0xF, completer_id=WHO),
            Request(RequestKind.CONFIG_READ, 0, 1, last_be=1, completer_id=WHO),
            Request(RequestKind.CONFIG_READ, 0, 1, completer_id=WHO, payload=whole[:2 * LANES]),
            Request(config, 0x3C, 1, completer_id=WHO, payload=whole[:2 * LANES]),
            Request(config, 0x3C, 1, completer_id=WHO, payload=whole[:8]),
            Request(config, 0x3C, 2, completer_id=WHO, payload=whole[:8]),
            Request(config, 0x3C, 2, 0xF, 0xF, completer_id=WHO, payload=whole[:8]),
            Request(RequestKind.IO_READ, 0, 3, 0xF, 0xF),
            Request(RequestKind.IO_WRITE, 0, 1, last_be=2, payload=whole[:4]),
            Request(WRITE, at, 0, 0xF, 0xF, payload=whole[:4]),
            Request(WRITE, at, 1, 0xF, 0xF, payload=whole[:4]),
            Request(WRITE, at, 3, 0, 0xF, payload=whole[:12]),
            Request(WRITE, at, 3, 0xF, 0, payload=whole[:12]),
            Request(WRITE, at + 0xFFC, 2, 0xF, 0xF, payload=whole[:8]),
            Request(WRITE, at, 1025, 0xF, 0xF, payload=whole[:4100]),
            # As long as one beat or shorter, and the beat says otherwise.
            Request(WRITE, at, 1, 0xF, 0, payload=whole[:8]),
            Request(WRITE, at, 2, 0xF, 0xF, payload=whole[:4]),
            Request(WRITE, at, 1, 0xF, 0, payload=whole[:2 * LANES]),
            Request(WRITE, at, LANES // 4 + 1, 0xF, 0xF, payload=whole[:LANES]),
        ]

    for request in sends():
        bench.send(request, answered=False)
        if rng.random() < 0.5 or not stalls:
            assert (await bench.errors())[0] == FATAL, request
    await bench.drain()
    assert await bench.config(0x3C) == 0
    await bench.errors()
    # Where it shows late: what came is written, never more than the header says.
    words = LANES // 4
    for dwords, came in ((3 * words, 2 * words), (3 * words, 2 * words + 1),
                         (words + 1, 3 * words), (2 * words, 2 * words + 1),
                         (2 * words, 4 * words), (2 * words - 1, 2 * words)):
        payload = rng.randbytes(4 * came)
        for index in range(min(dwords, came)):
            value = int.from_bytes(payload[4 * index:4 * index + 4], "little")
            bench.expected_accesses.append((2, 4 * index, 1, 0xF, value))
            bench.model[2, 4 * index] = value
        bench.send(Request(WRITE, at, dwords, 0xF, 0xF, payload=payload))
        bench.read(2, 0, 4 * dwords)
        await bench.drain()
        assert (await bench.errors())[0] == FATAL, (dwords, came)


@cocotb.test
async def function_level_reset(dut: Any) -> None:
    """Configuration requests are told to come again, memory is shut, and nothing waits."""
    bench = await start(dut)
    resets = StreamSink(dut, "flr", 8, always())
    await bench.config(0x60, 0xA910, enable=0b0011)
    assert await resets.get() == 0
    for _ in range(20):  # many at once: none of them waits for the reset
        bench.send(Request(RequestKind.CONFIG_READ, 0, completer_id=WHO), status=RETRY)
        bench.send(Request(RequestKind.CONFIG_WRITE, 4, completer_id=WHO, payload=bytes(4)),
                   status=RETRY)
        bench.send(Request(READ, BASES[2]), status=UNSUPPORTED)
        bench.send(Request(WRITE, BASES[2], payload=bytes(4)))
    await bench.drain(2000)
    dut.flr_done__valid.value = 1
    await cycles(dut, 1)
    dut.flr_done__valid.value = 0
    assert await bench.config(0x04) == 0x0010_0000
    bench.send(Request(READ, BASES[2]), status=UNSUPPORTED)
    await bench.drain()
    await bench.enumerate()
    bench.read(2, 0, 4)
    await bench.drain()
