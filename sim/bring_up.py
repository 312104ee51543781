"""A whole card on a bench in cocotb, with its host, its wire and a driver that has opened it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from hw.config import NicConfig
from sim.network_device import find_device
from sw_driver.net import NetDevice, NetOptions
from sw_driver.pci import PciFunction
from tb.host_port import CocotbPort
from tb.pcie_host import PcieHost
from tb.root_complex import RootComplexOptions
from tb.ticker import Ticker
from tb.wire import Wire

__all__ = ["Card", "bring_up", "config_parameter", "given_config"]


def config_parameter(config: NicConfig) -> dict[str, str]:
    """Give the card's configuration as a parameter of a bench: see `given_config`."""
    return {"config": json.dumps(asdict(config))}


def given_config() -> NicConfig:
    """Read the configuration of the card that the bench was started for."""
    return NicConfig(**json.loads(os.environ["RINGLET_CONFIG"]))


@dataclass
class Card:
    """The card and everything around it."""

    dut: Any
    config: NicConfig
    ticker: Ticker
    host: PcieHost
    wire: Wire
    port: CocotbPort
    function: PciFunction
    device: NetDevice


async def bring_up(dut: Any, *, options: RootComplexOptions | None = None,
                   net: NetOptions | None = None, rx_rate: float | None = None,
                   tx_rate: float | None = None, open_device: bool = True,
                   **paces: Any) -> Card:
    """Reset the card, enumerate its bus, and open the network device on function 0.

    ``paces`` go to `PcieHost` (``rq_pace``, ``cc_pace``, ``rc_pace``, ``cq_pace``) and to `Wire`
    (``tx_pace``, ``rx_pace``).
    """
    config = given_config()
    ticker = Ticker(dut)
    wire_paces = {name: paces.pop(name) for name in ("tx_pace", "rx_pace") if name in paces}
    host = PcieHost(dut, ticker, options=options or RootComplexOptions(), **paces)
    wire = Wire(dut, ticker, rx_rate=rx_rate, tx_rate=tx_rate, **wire_paces)
    dut.link_up.value = 1
    await ticker.start()
    port = CocotbPort(host)
    function, device = await find_device(port, config, net, open_device=open_device)
    return Card(dut, config, ticker, host, wire, port, function, device)
