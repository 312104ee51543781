"""What each dword of configuration space is to be, and a host that reads and writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hw.pcie.config_types import ConfigAnswer, ConfigRequest
from hw.pcie.types import CompletionStatus
from tb.stream import StreamSink, StreamSource, pace, reset

__all__ = ["EXPECTED", "FLR", "RETRY", "SUCCESS", "UNSUPPORTED", "Model", "byte_mask", "start"]

SUCCESS, UNSUPPORTED, RETRY = (
    CompletionStatus.SUCCESS.value, CompletionStatus.UNSUPPORTED.value,
    CompletionStatus.RETRY.value)


@dataclass
class Dword:
    """What a dword is after reset, and what writes do to it."""

    reset: int
    writable: int = 0
    clears: int = 0
    kept: int = 0


def virtio(kind: int, following: int, offset: int, length: int, *, size: int = 16) -> list[int]:
    return [kind << 24 | size << 16 | following << 8 | 9, 2, offset, length]


EXPECTED: dict[int, Dword] = {
    0x00: Dword(0x1041_1AF4),
    0x04: Dword(0x0010_0000, 0x0000_0546, 0xF900_0000),
    0x08: Dword(0x0200_0001),
    0x0C: Dword(0, 0x0000_00FF),
    0x10: Dword(0, 0xFFFF_0000),          # 64 KiB, 32-bit memory
    0x18: Dword(4, 0xFFFF_8000), 0x1C: Dword(0, 0xFFFF_FFFF),  # 32 KiB, 64-bit memory
    0x20: Dword(4, 0xFFFF_8000), 0x24: Dword(0, 0xFFFF_FFFF),
    0x2C: Dword(0x1041_1AF4),
    0x34: Dword(0x40),
    0x3C: Dword(0, 0x0000_00FF),
    # Power management
    0x40: Dword(0x0003_4801), 0x44: Dword(0x0000_0008, 0x3),
    # MSI-X: 4 vectors
    0x48: Dword(0x0003_5811, 0xC000_0000), 0x4C: Dword(0x0000_0004), 0x50: Dword(0x0000_4004),
    # PCI Express: payload 256, extended tags, role-based errors, FLR; Gen3 x16
    0x58: Dword(0x0002_9410), 0x5C: Dword(0x1000_8021),
    0x60: Dword(0x0000_2910, 0x0000_79FF, 0x000F_0000, 0x0000_00E0),
    0x64: Dword(0x0040_0103), 0x68: Dword(0x1103_0000, 0x0000_00CB, 0, 0x0000_00CB),
    0x7C: Dword(0x0000_0010), 0x80: Dword(0, 0x0000_0010),
    0x84: Dword(0x0000_000E), 0x88: Dword(3, 0xF, 0, 0xF),
    # virtio structures
    **{0x94 + 4 * k: Dword(v) for k, v in enumerate(virtio(1, 0xA4, 0x0000, 64))},
    **{0xA4 + 4 * k: Dword(v)
       for k, v in enumerate([*virtio(2, 0xB8, 0x4000, 0x1000, size=20), 4])},
    **{0xB8 + 4 * k: Dword(v) for k, v in enumerate(virtio(3, 0xC8, 0x1000, 4))},
    **{0xC8 + 4 * k: Dword(v) for k, v in enumerate(virtio(4, 0xD8, 0x2000, 64))},
    0xD8: Dword(0x0514_0009), 0xDC: Dword(0, 0xFF),
    0xE0: Dword(0, 0xFFFF_FFFF), 0xE4: Dword(0, 0xFFFF_FFFF),
}
FLR = 1 << 15


def byte_mask(enable: int) -> int:
    return sum(0xFF << 8 * lane for lane in range(4) if enable >> lane & 1)


class Model:
    """Configuration space in a few lines."""

    def __init__(self) -> None:
        self.values = {at: row.reset for at, row in EXPECTED.items()}

    def read(self, at: int) -> int:
        return self.values.get(at, 0)

    def write(self, at: int, enable: int, value: int) -> None:
        row = EXPECTED.get(at)
        if row is None or (at == 0x44 and value & 3 in (1, 2)):
            return
        mask = byte_mask(enable)
        old = self.values[at]
        self.values[at] = (old & ~(mask & row.writable) & ~(mask & row.clears & value)
                           | mask & row.writable & value)

    def flr(self) -> None:
        for at, row in EXPECTED.items():
            self.values[at] = self.values[at] & row.kept | row.reset & ~row.kept


class Host:
    """Accesses with answers, one at a time."""

    def __init__(self, dut: Any, *, stalls: bool = False) -> None:
        self.dut = dut
        self.requests = StreamSource(dut, "requests", ConfigRequest(), pace(stalls, 1))
        self.answers = StreamSink(dut, "answers", ConfigAnswer(), pace(stalls, 2))
        for name in ("completer_errors", "requester_errors", "interrupt_status",
                     "transactions_pending", "flr_done__payload", "flr_done__valid", "flr__ready"):
            getattr(dut, name).value = 0

    async def ask(self, at: int, *, enable: int = 0xF, value: int | None = None,
                  who: int = 0x0100) -> dict[str, Any]:
        self.requests.send({
            "completer_id": who, "register": at >> 2, "write": int(value is not None),
            "enable": enable, "data": value if value is not None else 0xDEAD_BEEF})
        answer: dict[str, Any] = await self.answers.get()
        assert answer["function"] == who & 7
        return answer

    async def read(self, at: int, enable: int = 0xF) -> int:
        answer = await self.ask(at, enable=enable)
        assert answer["status"] == SUCCESS
        assert not answer["window"]["wanted"]
        return int(answer["data"])

    async def read_byte(self, at: int) -> int:
        return await self.read(at & ~3, 1 << (at & 3)) >> 8 * (at & 3) & 0xFF

    async def write(self, at: int, value: int, enable: int = 0xF) -> None:
        answer = await self.ask(at, value=value, enable=enable)
        assert answer["status"] == SUCCESS
        assert not answer["window"]["wanted"]

    async def capabilities(self) -> list[tuple[int, int]]:
        """Give (id, offset) of each, as a driver walks the list."""
        found = []
        assert await self.read(0x04) >> 20 & 1
        at = await self.read_byte(0x34)
        while at:
            assert at % 4 == 0 and at >= 0x40
            found.append((await self.read_byte(at), at))
            at = await self.read_byte(at + 1)
            assert len(found) < 48
        return found


async def start(dut: Any, *, stalls: bool = False) -> Host:
    host = Host(dut, stalls=stalls)
    await reset(dut)
    return host
