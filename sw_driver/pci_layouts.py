"""PCI's numbers, written down from the standard. Checked in a test against the kernel's headers."""

from __future__ import annotations

from sw_driver.layouts import Field

__all__ = ["Capability", "Express", "ExtendedCapability", "Header", "MsixCapability",
           "MsixTable", "Power"]


class Header:
    """The type 0 configuration header."""

    VENDOR_ID = Field(0x00, 2)
    DEVICE_ID = Field(0x02, 2)
    COMMAND = Field(0x04, 2)
    STATUS = Field(0x06, 2)
    REVISION_ID = Field(0x08, 1)
    CLASS_CODE = Field(0x09, 3)
    HEADER_TYPE = Field(0x0E, 1)
    BAR0 = Field(0x10, 4)
    SUBSYSTEM_VENDOR_ID = Field(0x2C, 2)
    SUBSYSTEM_ID = Field(0x2E, 2)
    CAPABILITY_LIST = Field(0x34, 1)
    INTERRUPT_LINE = Field(0x3C, 1)
    INTERRUPT_PIN = Field(0x3D, 1)

    COMMAND_MEMORY = 0x2
    COMMAND_MASTER = 0x4
    COMMAND_INTX_DISABLE = 0x400
    STATUS_CAPABILITIES = 0x10
    MULTIFUNCTION = 0x80
    BAR_IO = 0x1
    BAR_TYPE = 0x6
    BAR_64 = 0x4
    BAR_PREFETCH = 0x8


class Capability:
    """Capability identifiers."""

    POWER = 0x01
    VENDOR = 0x09
    EXPRESS = 0x10
    MSIX = 0x11


class ExtendedCapability:
    """Extended capability identifiers, from 0x100 on."""

    ERROR_REPORTING = 0x01
    SERIAL_NUMBER = 0x03
    ROUTING_ID = 0x0E
    SR_IOV = 0x10


class Power:
    """The power management capability."""

    CONTROL = Field(4, 2)

    STATE = 0x3
    D0 = 0
    D3_HOT = 3
    NO_SOFT_RESET = 0x8


class Express:
    """The PCI Express capability."""

    FLAGS = Field(2, 2)
    DEVICE_CAPABILITIES = Field(4, 4)
    DEVICE_CONTROL = Field(8, 2)
    DEVICE_STATUS = Field(10, 2)

    CAP_PAYLOAD = 0x7
    CAP_EXTENDED_TAG = 0x20
    CAP_FLR = 0x1000_0000
    CONTROL_RELAXED = 0x10
    CONTROL_PAYLOAD = 0xE0
    CONTROL_EXTENDED_TAG = 0x100
    CONTROL_NO_SNOOP = 0x800
    CONTROL_READ = 0x7000
    CONTROL_FLR = 0x8000
    STATUS_PENDING = 0x20


class MsixCapability:
    """The MSI-X capability."""

    CONTROL = Field(2, 2)
    TABLE = Field(4, 4)
    PENDING = Field(8, 4)

    TABLE_SIZE = 0x7FF
    FUNCTION_MASK = 0x4000
    ENABLE = 0x8000
    BAR = 0x7


class MsixTable:
    """An entry of the MSI-X table."""

    ADDRESS_LOW = Field(0, 4)
    ADDRESS_HIGH = Field(4, 4)
    DATA = Field(8, 4)
    CONTROL = Field(12, 4)

    SIZE = 16
    MASKED = 1
