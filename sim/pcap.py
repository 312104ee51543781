"""Frames from capture files, with a clear word where a file is none."""

from __future__ import annotations

import struct
from pathlib import Path

import dpkt

__all__ = ["PcapError", "read_frames"]

_ETHERNET = 1  # LINKTYPE_ETHERNET
_FILE_HEADER, _RECORD_HEADER = 24, 16  # bytes of a pcap file
_LITTLE = (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")  # microseconds, nanoseconds


class PcapError(ValueError):
    """A capture that cannot be used: the message names the file and what is wrong."""


def _ends_inside(content: bytes) -> bool:
    """Whether a pcap file ends inside a record; the library takes it for a shorter one."""
    order = "<I" if content[:4] in _LITTLE else ">I"
    at = _FILE_HEADER
    while at + _RECORD_HEADER <= len(content):
        at += _RECORD_HEADER + struct.unpack_from(order, content, at + 8)[0]
    return at != len(content)


def read_frames(path: Path) -> list[bytes]:
    """Read the frames of a pcap or pcapng file of Ethernet; `PcapError` says what is wrong."""
    try:
        with path.open("rb") as file:
            reader = dpkt.pcap.UniversalReader(file)
            if reader.datalink() != _ETHERNET:
                raise PcapError(f"{path}: link type {reader.datalink()}, must be Ethernet (1)")
            frames = [bytes(frame) for _time, frame in reader]
        if not isinstance(reader, dpkt.pcapng.Reader) and _ends_inside(path.read_bytes()):
            raise PcapError(f"{path}: broken (it ends inside a frame); must be a pcap or "
                            "pcapng file")
    except FileNotFoundError:
        raise PcapError(f"{path}: no such file; must be a pcap or pcapng file") from None
    except OSError as error:
        raise PcapError(f"{path}: {error.strerror}; must be a pcap or pcapng file") from None
    except PcapError:
        raise
    except (ValueError, dpkt.UnpackError) as error:
        raise PcapError(f"{path}: broken ({error}); must be a pcap or pcapng file") from None
    if not frames:
        raise PcapError(f"{path}: holds no frames; must hold at least one")
    return frames
