"""Queue contexts as an engine sees them: a stand-in behind a `QueueConfigSignature` port."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hw.virtio.types import QueueConfigLayout
from tb.stream import Fields

__all__ = ["QueueConfigs"]


class QueueConfigs:
    """Answer look-ups on a port from ``table[queue]``, a dict of fields.

    The table may be changed at any time; what is held on the port does not change with it.
    """

    def __init__(self, dut: Any, prefix: str, table: dict[int, dict[str, Any]]) -> None:
        self.table = table
        self._edge = RisingEdge(dut.clk)
        self._queue = getattr(dut, f"{prefix}__queue")
        self._enable = getattr(dut, f"{prefix}__enable")
        self._config = getattr(dut, f"{prefix}__config")
        self._fields = Fields(QueueConfigLayout())
        self._config.value = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        while True:
            await self._edge
            if self._enable.value:
                config = self.table.get(int(self._queue.value), {})
                self._config.value = self._fields.pack(config)
