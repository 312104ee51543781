"""The C functions of the engine's library, and the records that they exchange."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_uint, c_uint32, c_uint64, c_void_p
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FRAME", "INTERRUPT", "PACKED_CHAIN", "PIECE", "TLP", "VIOLATION", "WRITTEN",
           "AccessRecord", "CompletionRecord", "DriverParameters", "DriverRecord", "Event",
           "LimitsRecord", "RequestRecord", "load"]


class Event(IntFlag):
    """Why a run ended before its cycles were over (``events.h``)."""

    NONE = 0
    INTERRUPT = 1
    ACCESS_DONE = 2
    TRANSMITTED = 4
    VIOLATION = 8
    RECEIVE_IDLE = 16
    LOG_FULL = 32
    DRIVER_DONE = 64
    FRAMES = 128


TLP = np.dtype([
    ("cycle", "u8"), ("address", "u8"), ("size", "u4"), ("tag", "u2"), ("requester_id", "u2"),
    ("channel", "u1"), ("kind", "u1"), ("pad", "V6"), ("data", "V16")])
"""A TLP that passed. ``channel``: 0 cq, 1 cc, 2 rq, 3 rc; ``kind``: of a request, or status."""
INTERRUPT = np.dtype([("cycle", "u8"), ("index", "u4"), ("requester_id", "u4")])
FRAME = np.dtype([("first_cycle", "u8"), ("last_cycle", "u8"), ("offset", "u8"), ("bytes", "u4"),
                  ("received", "u2"), ("error", "u2")])
"""A frame that passed. ``offset``: of its bytes among those that were kept; all ones if not."""
VIOLATION = np.dtype([("cycle", "u8"), ("text", "S152")])
PACKED_CHAIN = np.dtype([
    ("address", "u8"), ("length", "u4"), ("writable", "u4"), ("id", "u2"), ("flags", "u2"),
    ("pad", "u4")])
"""A chain of a packed ring, in one descriptor (``packed_driver.h``)."""
PIECE = np.dtype([("address", "u8"), ("bytes", "u4"), ("chain", "u4")])
"""A part of a chain's buffer, and what its driver calls the chain (``contents.h``)."""
WRITTEN = np.dtype([("written", "u4"), ("room", "u4")])
"""Bytes that the card wrote into a chain, and those that it has."""


class RequestRecord(ctypes.Structure):
    """A request TLP."""

    _fields_ = [("address", c_uint64), ("dwords", c_uint32), ("requester_id", ctypes.c_uint16),
                ("completer_id", ctypes.c_uint16), ("tag", ctypes.c_uint16),
                *((name, ctypes.c_uint8) for name in (
                    "kind", "first_be", "last_be", "traffic_class", "attributes", "poisoned"))]


class CompletionRecord(ctypes.Structure):
    """A completion TLP."""

    _fields_ = [("cycle", c_uint64), *((name, c_uint32) for name in (
                    "byte_count", "lower_address", "dwords", "bytes")),
                *((name, ctypes.c_uint16) for name in ("requester_id", "completer_id", "tag")),
                *((name, ctypes.c_uint8) for name in (
                    "status", "traffic_class", "attributes", "poisoned"))]


class AccessRecord(ctypes.Structure):
    """What became of an access of the host."""

    _fields_ = [("done", ctypes.c_int32), ("status", ctypes.c_int32), ("issued_at", c_int64),
                ("answered_at", c_int64), ("bytes", c_uint32), ("tag", c_uint32),
                ("poisoned", ctypes.c_int32), ("data", ctypes.c_uint8 * 4096)]


class LimitsRecord(ctypes.Structure):
    """What the host knows of a function."""

    _fields_ = [("bus_master", c_uint32), ("max_payload", c_uint32), ("max_read", c_uint32),
                ("tags", c_uint32)]


class DriverParameters(ctypes.Structure):
    """What drivers of all rings are told (``driver.h``)."""

    _fields_ = [("size", c_uint32), ("batch", c_uint32), ("notify_address", c_uint64),
                ("notify_value", c_uint32), ("notify_bytes", c_uint32), ("goal", c_uint64),
                ("transmit", c_uint32), ("keep_times", c_uint32), ("event_idx", c_uint32),
                ("notification_data", c_uint32), ("in_order", c_uint32)]


class DriverRecord(ctypes.Structure):
    """How far a ring driver is."""

    _fields_ = [(name, c_uint64) for name in (
        "done", "bytes", "kicks", "kicks_spared", "first_cycle", "last_cycle", "times")]


_E, _BYTES, _U64S = c_void_p, c_void_p, c_void_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "rl_open": (c_void_p, (c_uint64, c_int)),
    "rl_close": (None, (_E,)),
    "rl_lanes": (c_int, ()),
    "rl_cycle": (c_uint64, (_E,)),
    "rl_cpu_seconds": (c_double, (_E,)),
    "rl_run": (c_uint32, (_E, c_uint64, c_uint32)),
    "rl_trace": (c_int, (_E, c_char_p, c_uint64, c_uint64)),
    "rl_counter_names": (c_char_p, ()),
    "rl_counters": (None, (_E, _U64S)),
    "rl_set": (c_int, (_E, c_char_p, c_double)),
    "rl_region_add": (c_uint64, (_E, c_uint64, c_uint64, _BYTES, c_int, c_uint64, c_int, c_int)),
    "rl_region_error": (c_char_p, (_E,)),
    "rl_region_remove": (c_int, (_E, c_uint64)),
    "rl_region_pointer": (c_void_p, (_E, c_uint64)),
    "rl_dirty": (None, (_E, _BYTES, c_uint64, c_uint64, c_uint)),
    "rl_load": (None, (_BYTES, _BYTES, c_uint64)),
    "rl_store": (None, (_BYTES, _BYTES, c_uint64)),
    "rl_interrupt_add": (c_int, (_E, c_uint64, c_uint32)),
    "rl_interrupt_counts": (POINTER(c_uint64), (_E,)),
    "rl_fault_add": (c_uint64, (_E, c_uint64, c_uint64, c_int, c_int64, c_uint64)),
    "rl_fault_remove": (c_int, (_E, c_uint64)),
    "rl_access": (c_uint64, (_E, POINTER(RequestRecord), c_char_p, c_uint, c_int)),
    "rl_access_result": (c_int, (_E, c_uint64, POINTER(AccessRecord))),
    "rl_access_done": (c_int, (_E, c_uint64)),
    "rl_idle": (c_int, (_E,)),
    "rl_reads_waiting": (c_uint64, (_E,)),
    "rl_function": (None, (_E, c_uint, POINTER(LimitsRecord))),
    "rl_wire_send": (None, (_E, c_char_p, _BYTES, c_uint64, c_int)),
    "rl_wire_generate": (None, (_E, c_char_p, _BYTES, c_uint, c_int64, c_int64)),
    "rl_wire_forget": (None, (_E,)),
    "rl_wire_idle": (c_int, (_E,)),
    "rl_wire_waiting": (c_uint64, (_E,)),
    "rl_wire_tap": (c_int, (_E, c_char_p)),
    "rl_frames_kept": (None, (_E, POINTER(c_uint64), POINTER(c_uint64))),
    "rl_frames_take": (None, (_E, _BYTES, _BYTES)),
    "rl_tlps_take": (c_uint64, (_E, _BYTES, c_uint64)),
    "rl_interrupts_take": (c_uint64, (_E, _BYTES, c_uint64)),
    "rl_violations_take": (c_uint64, (_E, _BYTES, c_uint64)),
    "rl_log_sizes": (None, (_E, _U64S)),
    "rl_split_driver_add": (c_int, (_E, POINTER(DriverParameters), c_uint64, c_uint64)),
    "rl_packed_driver_add": (c_int, (_E, POINTER(DriverParameters), c_uint64, c_uint64, c_uint,
                                     _BYTES, c_uint)),
    "rl_driver_state": (None, (_E, c_uint, POINTER(DriverRecord))),
    "rl_driver_times": (None, (_E, c_uint, _U64S)),
    "rl_driver_contents": (c_uint, (_E, c_uint, _BYTES, c_uint, c_int64, c_uint32)),
    "rl_driver_kept": (None, (_E, c_uint, _U64S)),
    "rl_driver_take": (None, (_E, c_uint, _BYTES, _BYTES)),
    "rl_driver_stop": (None, (_E, c_uint)),
    "rl_drivers_clear": (None, (_E,)),
    "rl_hand_request": (None, (_E, POINTER(RequestRecord), c_char_p)),
    "rl_play_request": (None, (_E, POINTER(RequestRecord), c_char_p, c_uint)),
    "rl_played_at": (c_uint64, (_E,)),
    "rl_hand_completion": (None, (_E, POINTER(CompletionRecord), c_char_p)),
    "rl_hand_sent": (c_int, (_E, POINTER(CompletionRecord), _BYTES)),
    "rl_hand_credit": (c_uint, (_E,)),
}


def load(path: Path) -> Any:
    """Load an engine's library; its functions have their types."""
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
