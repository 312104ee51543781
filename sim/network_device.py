"""The driver on a card in simulation, in cocotb or on the native engine."""

from __future__ import annotations

from hw.config import NicConfig
from sw_driver.net import NetDevice, NetOptions
from sw_driver.pci import PciFunction, scan
from sw_driver.port import HostPort

__all__ = ["find_device"]

_UNDER_WAY_CYCLES = 100


async def find_device(port: HostPort, config: NicConfig, net: NetOptions | None, *,
                      open_device: bool) -> tuple[PciFunction, NetDevice]:
    """Enumerate the bus, on which there is one function, and open its device if that is wanted.

    Without options it uses what the card was configured for.
    """
    (function,) = await scan(port)
    if net is None:
        net = NetOptions(max_payload=config.max_payload_bytes, max_read=config.max_read_bytes)
    device = await NetDevice.probe(port, function, net)
    if open_device:
        await device.open()
        # The driver's last writes are posted: a frame that came now would find no queue running.
        await port.sleep(_UNDER_WAY_CYCLES)
    return function, device
