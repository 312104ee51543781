# amaranth: UnusedElaboratable=no
"""Registers and QueueContexts: construction, the feature table, and cocotb on the Verilog."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped

from hw.config import NicConfig
from hw.virtio.contexts import QueueContexts
from hw.virtio.features import FEATURES, PREREQUISITES, feature_mask, offered_features
from hw.virtio.layouts import COMMON_CONFIG, DEVICE_CONFIG, FEATURE_BITS, Field, Structure
from hw.virtio.registers import Registers
from hw.virtio.types import QueueConfigSignature, RunningLayout
from sim.runner import run_cocotb
from tests.unit.expose import expose

MAC = 0x02_52_4E_47_00_FE  # function 2 carries into the next byte


def registers(functions: int = 1, **changes: Any) -> Registers:
    parameters: dict[str, Any] = {
        "stride": 4, "queue_size_max": 64, "vectors": 5, "mac": MAC, "mtu": 2030,
        "link_mbps": 100_000,
        "offered_physical": feature_mask(offered_features(NicConfig(vfs=1))),
        "offered_virtual": feature_mask(offered_features(NicConfig(vfs=1), virtual=True)),
    }
    return Registers(functions, **(parameters | changes))


def everything() -> dict[str, int]:
    """Features beyond those that a card offers yet, for the physical function and a virtual one."""
    names = offered_features(NicConfig(vfs=1)) | {"CTRL_VQ", "MQ", "RING_PACKED"}
    return {"offered_physical": feature_mask(names), "offered_virtual": feature_mask(names)}


class Card(wiring.Component):
    """The registers with the queue contexts, as in the card; the bench has an engine's port."""

    port: Any
    running: stream.Interface

    def __init__(self, functions: int, stride: int, **changes: Any) -> None:
        self.registers = registers(functions, stride=stride, **changes)
        self.contexts = QueueContexts(
            functions * stride + functions, queue_size_max=self.registers.queue_size_max,
            read_ports=2)
        inner = self.registers.signature.members
        super().__init__({
            **{name: member for name, member in inner.items() if name not in ("config", "writes")},
            "port": In(QueueConfigSignature()),
            "running": In(stream.Signature(RunningLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = self.registers
        m.submodules.contexts = self.contexts
        connect(m, self.registers.config, self.contexts.ports[0])
        connect(m, self.registers.writes, self.contexts.write)
        connect(m, flipped(self.port), self.contexts.ports[1])
        connect(m, flipped(self.running), self.contexts.running)
        for name in self.registers.signature.members:
            if name not in ("config", "writes"):
                expose(m, self.registers, self, name)
        return m


def test_sizes() -> None:
    with pytest.raises(ValueError, match="functions must be from 1 to 256, not 0"):
        registers(0)
    with pytest.raises(ValueError, match="stride must be a power of two from 2 to 32, not 6"):
        registers(stride=6)
    with pytest.raises(ValueError, match="vectors must be from 1 to 2048, not 0"):
        registers(vectors=0)
    with pytest.raises(ValueError, match="VERSION_1 among them, not 0x20"):
        registers(offered_virtual=0x20)
    with pytest.raises(ValueError, match="mtu must be from 68 to 65535 bytes, not 67"):
        registers(mtu=67)
    with pytest.raises(ValueError, match="mac must have 48 bits"):
        registers(mac=1 << 48)
    with pytest.raises(ValueError, match="link_mbps must be from 0"):
        registers(link_mbps=-1)
    with pytest.raises(ValueError, match="queue_size_max must be a power of two"):
        QueueContexts(4, queue_size_max=48, read_ports=1)
    with pytest.raises(ValueError, match="queues must be from 2 to 16384, not 1"):
        QueueContexts(1, queue_size_max=64, read_ports=1)
    with pytest.raises(ValueError, match="read_ports must be at least 1, not 0"):
        QueueContexts(2, queue_size_max=64, read_ports=0)


def test_fields_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="b overlaps, or lies outside"):
        Structure("x", "0", 8, (Field("a", 0, 32), Field("b", 2, 16)))
    with pytest.raises(ValueError, match="a overlaps, or lies outside"):
        Structure("x", "0", 2, (Field("a", 0, 32),))
    assert COMMON_CONFIG.offset("queue_device") == 48
    assert DEVICE_CONFIG.field("mtu").offset == 10


@pytest.mark.virtio("CORE-FEAT-04", "CORE-RSVD-01", "CORE-RSVD-03", "CORE-RSVD-08",
                    "CORE-RSVD-09", "CORE-RSVD-10")
@pytest.mark.parametrize("vfs", [0, 1, 255])
def test_offered_features(vfs: int) -> None:
    config = NicConfig(vfs=vfs)
    physical = offered_features(config)
    virtual = offered_features(config, virtual=True)
    for names in (physical, virtual):
        assert names <= set(FEATURE_BITS)
        assert {"VERSION_1", "ACCESS_PLATFORM", "ORDER_PLATFORM"} <= names
    assert "SR_IOV" not in physical | virtual  # only for a PF with an SR-IOV capability
    assert feature_mask({"VERSION_1", "MAC"}) == 1 << 32 | 1 << 5


@pytest.mark.virtio("CORE-FEAT-01", *(f"NET-FEAT-{n:02}" for n in range(1, 28)))
@pytest.mark.parametrize("vfs", [0, 255])
def test_no_feature_without_those_it_needs(vfs: int) -> None:
    for virtual in (False, True):
        offered = offered_features(NicConfig(vfs=vfs), virtual=virtual)
        for name in offered:
            for group in PREREQUISITES.get(name, ()):
                assert offered & set(group), f"{name} without one of {group}"


def test_feature_bits_are_distinct() -> None:
    assert len(set(FEATURE_BITS.values())) == len(FEATURE_BITS)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert set(PREREQUISITES) <= set(FEATURE_BITS)


@pytest.mark.virtio(
    "CORE-STAT-01", "CORE-STAT-03", "CORE-STAT-04", "CORE-FEAT-02", "CORE-FEAT-03",
    "CORE-FEAT-05", "CORE-RST-01", "CORE-CFG-01", "CORE-RSVD-02",
    "PCI-COM-03", "PCI-COM-04", "PCI-COM-05", "PCI-COM-06", "PCI-COM-07", "PCI-COM-08",
    "PCI-COM-09", "PCI-COM-10", "PCI-COM-11", "PCI-COM-12", "PCI-COM-13", "PCI-COM-14",
    "CORE-VQR-04", *(f"CORE-SUSP-{n:02}" for n in (1, 2, 5, 6, 7, 8, 9)), "IMP-CORE-SUSP-01",
    "PCI-COM-15", "PCI-COM-16", "PCI-ISR-02", "PCI-ISR-03", "PCI-ISR-04",
    "PCI-ISR-05", "NET-CFG-02", "NET-CFG-03", "NET-CFG-04", "NET-CFG-11", "NET-CFG-12",
    "NET-CFG-13", "IMP-CORE-STAT-01", "IMP-CORE-FEAT-01", "IMP-CORE-CFG-01", "IMP-PCI-COM-01",
    "IMP-PCI-COM-02", "IMP-PCI-COM-03", "IMP-PCI-COM-04", "IMP-PCI-NOTIF-01", "IMP-PCI-ISR-01",
    "IMP-NET-CFG-01")
@pytest.mark.parametrize(("simulator", "functions", "stride", "size_max"), [
    ("verilator", 5, 4, 64),
    ("icarus", 1, 2, 1024),
], indirect=["simulator"])
def test_cocotb(simulator: str, functions: int, stride: int, size_max: int) -> None:
    """A card with all that registers know of, and the smallest there is."""
    card = Card(functions, stride, queue_size_max=size_max, vectors=stride + 1,
                **(everything() if functions > 1 else {}))
    for bench in ("registers", "register_queues", "register_doorbells", "function_stops",
                  "function_sleep", "function_events", "suspension"):
        run_cocotb(card, f"registers_{functions}x{stride}", f"tests.unit.bench_{bench}",
                   simulator=simulator, parameters={
                       "functions": functions, "stride": stride, "size_max": size_max,
                       "vectors": stride + 1, "mac": MAC, "mtu": 2030, "mbps": 100_000,
                       "offered_physical": card.registers.offered_physical,
                       "offered_virtual": card.registers.offered_virtual})
