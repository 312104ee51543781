"""The numbers that the driver wrote down, against those of the kernel's headers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from sw_driver import pci_layouts
from sw_driver.layouts import (
    CommonConfig,
    ConfigType,
    Control,
    DescriptorFlag,
    Feature,
    Field,
    NetConfig,
    NetHeader,
    PackedLayout,
    SplitLayout,
    Status,
    field_names,
)

HEADERS = ("stddef.h", "stdio.h", "linux/virtio_config.h", "linux/virtio_net.h",
           "linux/virtio_pci.h", "linux/virtio_ring.h", "linux/virtio_ids.h", "linux/pci_regs.h")

# The kernel's name of a register where it is not ours.
COMMON = {"driver_feature_select": "guest_feature_select", "driver_feature": "guest_feature",
          "config_msix_vector": "msix_config", "queue_desc": "queue_desc_lo",
          "queue_driver": "queue_avail_lo", "queue_device": "queue_used_lo"}
TRANSPORT = {"VERSION_1", "ACCESS_PLATFORM", "RING_PACKED", "IN_ORDER", "ORDER_PLATFORM", "SR_IOV",
             "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA", "RING_RESET", "ADMIN_VQ", "SUSPEND"}

Row = tuple[str, str, int]
"""Name, C expression, our value."""


def virtio_rows() -> Iterator[Row]:
    for name, register in field_names(CommonConfig).items():
        member = COMMON.get(name.lower(), name.lower())
        where = f"offsetof(struct virtio_pci_common_cfg, {member})"
        if register.offset < CommonConfig.SIZE_BASIC:
            yield f"{name} offset", where, register.offset
            size = f"sizeof(((struct virtio_pci_common_cfg *)0)->{member})"
            yield f"{name} size", f"{size} * ({register.size} == 8 ? 2 : 1)", register.size
    yield "common size", "sizeof(struct virtio_pci_common_cfg)", CommonConfig.SIZE_BASIC
    for name, register in field_names(NetConfig).items():
        if register.offset < 24:
            yield (f"net {name} offset",
                   f"offsetof(struct virtio_net_config, {name.lower()})", register.offset)
            yield (f"net {name} size",
                   f"sizeof(((struct virtio_net_config *)0)->{name.lower()})", register.size)
    yield "link up", "VIRTIO_NET_S_LINK_UP", NetConfig.STATUS_LINK_UP
    yield "announce", "VIRTIO_NET_S_ANNOUNCE", NetConfig.STATUS_ANNOUNCE
    for name in ("ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK", "NEEDS_RESET", "FAILED"):
        yield f"status {name}", f"VIRTIO_CONFIG_S_{name}", getattr(Status, name)
    for name in ("CAP_LEN", "CFG_TYPE", "BAR", "ID", "OFFSET", "LENGTH"):
        register = getattr(ConfigType, name)
        yield (f"capability {name}", f"offsetof(struct virtio_pci_cap, {name.lower()})",
               register.offset)
        yield (f"capability {name} size", f"sizeof(((struct virtio_pci_cap *)0)->{name.lower()})",
               register.size)
    yield ("multiplier", "offsetof(struct virtio_pci_notify_cap, notify_off_multiplier)",
           ConfigType.NOTIFY_OFF_MULTIPLIER.offset)
    yield ("pci_cfg_data", "offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)",
           ConfigType.PCI_CFG_DATA.offset)
    for name in ("COMMON", "NOTIFY", "ISR", "DEVICE", "PCI"):
        yield f"kind {name}", f"VIRTIO_PCI_CAP_{name}_CFG", getattr(ConfigType, name)
    yield "no vector", "VIRTIO_MSI_NO_VECTOR", CommonConfig.NO_VECTOR


def ring_rows() -> Iterator[Row]:
    for name, value in (("F_NEXT", DescriptorFlag.NEXT), ("F_WRITE", DescriptorFlag.WRITE),
                        ("F_INDIRECT", DescriptorFlag.INDIRECT)):
        yield name, f"VRING_DESC_{name}", value
    yield "no interrupt", "VRING_AVAIL_F_NO_INTERRUPT", DescriptorFlag.AVAIL_NO_INTERRUPT
    yield "no notify", "VRING_USED_F_NO_NOTIFY", DescriptorFlag.USED_NO_NOTIFY
    for member, offset in (("addr", 0), ("len", 8), ("flags", 12), ("next", 14)):
        yield f"descriptor {member}", f"offsetof(struct vring_desc, {member})", offset
    for structure in ("avail", "used"):
        for member, offset in (("flags", 0), ("idx", 2), ("ring", 4)):
            yield (f"{structure} {member}", f"offsetof(struct vring_{structure}, {member})",
                   offset)
    yield "used element", "sizeof(struct vring_used_elem)", 8
    for size in (1, 8, 256, 32768):
        for name, ring, field in (("used_event", "avail", SplitLayout.used_event(size)),
                                  ("avail_event", "used", SplitLayout.avail_event(size))):
            made = f"static char room[2 << 20]; struct vring r; vring_init(&r, {size}, room, 64)"
            yield (f"{name} of {size}",
                   f"({{ {made}; (char *)&vring_{name}(&r) - (char *)r.{ring}; }})", field.offset)
            yield (f"{name} of {size}, its size",
                   f"({{ struct vring r; sizeof(vring_{name}(&r)); }})", field.size)
    for name, bit in (("AVAIL", DescriptorFlag.AVAIL), ("USED", DescriptorFlag.USED)):
        yield name, f"1 << VRING_PACKED_DESC_F_{name}", bit
    for name, value in (("ENABLE", PackedLayout.ENABLE), ("DISABLE", PackedLayout.DISABLE),
                        ("DESC", PackedLayout.AT_DESCRIPTOR)):
        yield f"event {name}", f"VRING_PACKED_EVENT_FLAG_{name}", value
    for name, member, register in (
            ("", "addr", PackedLayout.ADDRESS), ("", "len", PackedLayout.LENGTH),
            ("", "id", PackedLayout.ID), ("", "flags", PackedLayout.FLAGS),
            ("_event", "off_wrap", PackedLayout.EVENT_PLACE),
            ("_event", "flags", PackedLayout.EVENT_FLAGS)):
        whole = f"struct vring_packed_desc{name}"
        yield f"packed{name} {member}", f"offsetof({whole}, {member})", register.offset
        yield (f"packed{name} {member} size", f"sizeof((({whole} *)0)->{member})", register.size)
    yield "event size", "sizeof(struct vring_packed_desc_event)", PackedLayout.EVENT_BYTES
    yield "used length", "offsetof(struct vring_used_elem, len)", 4
    yield "descriptor size", "sizeof(struct vring_desc)", 16
    for name, value in (("DESC", 16), ("AVAIL", 2), ("USED", 4)):
        yield f"alignment {name}", f"VRING_{name}_ALIGN_SIZE", value


def header_rows() -> Iterator[Row]:
    for member in fields(NetHeader):
        at = NetHeader(**{member.name: 0xFF}).pack().index(0xFF)
        yield (f"header {member.name}", f"offsetof(struct virtio_net_hdr_v1, {member.name})", at)
    for name, value in (("OK", Control.OK), ("ERR", Control.ERR), ("CTRL_MQ", Control.MQ),
                        ("CTRL_MQ_VQ_PAIRS_SET", Control.MQ_PAIRS_SET),
                        ("CTRL_MQ_VQ_PAIRS_MIN", Control.MQ_PAIRS_MIN),
                        ("CTRL_MQ_VQ_PAIRS_MAX", Control.MQ_PAIRS_MAX)):
        yield f"control {name}", f"VIRTIO_NET_{name}", value
    yield "header size", "sizeof(struct virtio_net_hdr_v1)", NetHeader.SIZE
    for name, value in vars(NetHeader).items():
        if name.startswith("FLAG_"):
            yield name, f"VIRTIO_NET_HDR_F_{name[5:]}", value
        elif name.startswith("GSO_"):
            yield name, f"VIRTIO_NET_HDR_{name}", value


def feature_rows() -> Iterator[Row]:
    for name, bit in vars(Feature).items():
        if isinstance(bit, int):
            if name in ("INDIRECT_DESC", "EVENT_IDX"):
                yield name, f"VIRTIO_RING_F_{name}", bit
            else:
                yield name, f"VIRTIO_{'F' if name in TRANSPORT else 'NET_F'}_{name}", bit


def pci_rows() -> Iterator[Row]:
    header, express = pci_layouts.Header, pci_layouts.Express
    msix, power = pci_layouts.MsixCapability, pci_layouts.Power
    registers: list[tuple[str, Field]] = [
        ("PCI_VENDOR_ID", header.VENDOR_ID), ("PCI_DEVICE_ID", header.DEVICE_ID),
        ("PCI_COMMAND", header.COMMAND), ("PCI_STATUS", header.STATUS),
        ("PCI_REVISION_ID", header.REVISION_ID), ("PCI_CLASS_PROG", header.CLASS_CODE),
        ("PCI_HEADER_TYPE", header.HEADER_TYPE), ("PCI_BASE_ADDRESS_0", header.BAR0),
        ("PCI_SUBSYSTEM_VENDOR_ID", header.SUBSYSTEM_VENDOR_ID),
        ("PCI_SUBSYSTEM_ID", header.SUBSYSTEM_ID), ("PCI_CAPABILITY_LIST", header.CAPABILITY_LIST),
        ("PCI_INTERRUPT_LINE", header.INTERRUPT_LINE), ("PCI_INTERRUPT_PIN", header.INTERRUPT_PIN),
        ("PCI_EXP_FLAGS", express.FLAGS), ("PCI_EXP_DEVCAP", express.DEVICE_CAPABILITIES),
        ("PCI_EXP_DEVCTL", express.DEVICE_CONTROL), ("PCI_EXP_DEVSTA", express.DEVICE_STATUS),
        ("PCI_MSIX_FLAGS", msix.CONTROL), ("PCI_MSIX_TABLE", msix.TABLE),
        ("PCI_MSIX_PBA", msix.PENDING), ("PCI_PM_CTRL", power.CONTROL),
        ("PCI_MSIX_ENTRY_LOWER_ADDR", pci_layouts.MsixTable.ADDRESS_LOW),
        ("PCI_MSIX_ENTRY_UPPER_ADDR", pci_layouts.MsixTable.ADDRESS_HIGH),
        ("PCI_MSIX_ENTRY_DATA", pci_layouts.MsixTable.DATA),
        ("PCI_MSIX_ENTRY_VECTOR_CTRL", pci_layouts.MsixTable.CONTROL)]
    yield from ((name, name, register.offset) for name, register in registers)
    capability, extended = pci_layouts.Capability, pci_layouts.ExtendedCapability
    for name, value in (
            ("PCI_COMMAND_MEMORY", header.COMMAND_MEMORY),
            ("PCI_COMMAND_MASTER", header.COMMAND_MASTER),
            ("PCI_COMMAND_INTX_DISABLE", header.COMMAND_INTX_DISABLE),
            ("PCI_STATUS_CAP_LIST", header.STATUS_CAPABILITIES),
            ("PCI_BASE_ADDRESS_SPACE_IO", header.BAR_IO),
            ("PCI_BASE_ADDRESS_MEM_TYPE_MASK", header.BAR_TYPE),
            ("PCI_BASE_ADDRESS_MEM_TYPE_64", header.BAR_64),
            ("PCI_BASE_ADDRESS_MEM_PREFETCH", header.BAR_PREFETCH),
            ("PCI_CAP_ID_PM", capability.POWER), ("PCI_CAP_ID_VNDR", capability.VENDOR),
            ("PCI_CAP_ID_EXP", capability.EXPRESS), ("PCI_CAP_ID_MSIX", capability.MSIX),
            ("PCI_EXT_CAP_ID_ERR", extended.ERROR_REPORTING),
            ("PCI_EXT_CAP_ID_DSN", extended.SERIAL_NUMBER),
            ("PCI_EXT_CAP_ID_ARI", extended.ROUTING_ID),
            ("PCI_EXT_CAP_ID_SRIOV", extended.SR_IOV),
            ("PCI_PM_CTRL_STATE_MASK", power.STATE),
            ("PCI_PM_CTRL_NO_SOFT_RESET", power.NO_SOFT_RESET),
            ("PCI_EXP_DEVCAP_PAYLOAD", express.CAP_PAYLOAD),
            ("PCI_EXP_DEVCAP_EXT_TAG", express.CAP_EXTENDED_TAG),
            ("PCI_EXP_DEVCAP_FLR", express.CAP_FLR),
            ("PCI_EXP_DEVCTL_RELAX_EN", express.CONTROL_RELAXED),
            ("PCI_EXP_DEVCTL_PAYLOAD", express.CONTROL_PAYLOAD),
            ("PCI_EXP_DEVCTL_EXT_TAG", express.CONTROL_EXTENDED_TAG),
            ("PCI_EXP_DEVCTL_NOSNOOP_EN", express.CONTROL_NO_SNOOP),
            ("PCI_EXP_DEVCTL_READRQ", express.CONTROL_READ),
            ("PCI_EXP_DEVCTL_BCR_FLR", express.CONTROL_FLR),
            ("PCI_EXP_DEVSTA_TRPND", express.STATUS_PENDING),
            ("PCI_MSIX_FLAGS_QSIZE", msix.TABLE_SIZE),
            ("PCI_MSIX_FLAGS_MASKALL", msix.FUNCTION_MASK),
            ("PCI_MSIX_FLAGS_ENABLE", msix.ENABLE), ("PCI_MSIX_TABLE_BIR", msix.BAR),
            ("PCI_MSIX_ENTRY_SIZE", pci_layouts.MsixTable.SIZE),
            ("PCI_MSIX_ENTRY_CTRL_MASKBIT", pci_layouts.MsixTable.MASKED)):
        yield name, name, value


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None or not Path("/usr/include/linux/virtio_pci.h").exists():
        pytest.skip("no C compiler, or no kernel headers (Debian's linux-libc-dev)")
    return found


def test_against_the_kernel_headers(compiler: str, tmp_path: Path) -> None:
    """A program prints what the headers say; a macro that they do not have is left out."""
    rows = [*virtio_rows(), *ring_rows(), *header_rows(), *feature_rows(), *pci_rows()]
    lines = [f"#include <{header}>" for header in HEADERS] + ["int main(void) {"]
    for number, (_name, expression, _value) in enumerate(rows):
        is_macro = expression.isidentifier()
        lines += [*([f"#ifdef {expression}"] if is_macro else []),
                  f'printf("{number} %llu\\n", (unsigned long long)({expression}));',
                  *(["#endif"] if is_macro else [])]
    source, program = tmp_path / "layouts.c", tmp_path / "layouts"
    source.write_text("\n".join([*lines, "}"]))
    built = subprocess.run([compiler, "-w", "-o", str(program), str(source)], check=False,
                           capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    told = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    seen = {int(number): int(value) for number, value in map(str.split, told.splitlines())}
    wrong = [(rows[number][0], value, rows[number][2])
             for number, value in seen.items() if value != rows[number][2]]
    assert not wrong
    missing = {rows[number][0] for number in range(len(rows)) if number not in seen}
    # Headers of 2022 lack what came later; all that this card offers has been there for long.
    assert missing <= {
        "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA", "ADMIN_VQ", "SUSPEND", "RING_RESET",
        "GSO_UDP_L4", "DEVICE_STATS", "HASH_TUNNEL", "VQ_NOTF_COAL", "NOTF_COAL", "GUEST_USO4",
        "GUEST_USO6", "HOST_USO", "GUEST_HDRLEN"}
    assert len(seen) > 150
