"""The whole card under the driver: traffic both ways, hostile hosts, resets."""

from __future__ import annotations

import pytest

from hw.config import NicConfig
from sim.bring_up import config_parameter
from sim.card import card_design
from sim.runner import run_cocotb


@pytest.mark.virtio("DRV-CORE-INIT-07", "DRV-CORE-INIT-09", "DRV-SPL-RING-08", "DRV-PCI-LAY-01",
                    "DRV-PCI-KICK-01")
def test_traffic() -> None:
    config = NicConfig.preset("small")
    run_cocotb(card_design(config), "card_small", "tests.system.bench_traffic",
               simulator="verilator", parameters=config_parameter(config))
