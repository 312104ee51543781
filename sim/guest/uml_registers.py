"""Runs a program that saves the registers of others in the old way: ``python FILE PROGRAM ...``.

The kernel of user-mode Linux has room for registers up to AVX-512. Where the processor has more
(AMX) it cannot put them back, and dies; where the newer call fails it takes the one for x87 and
SSE.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

__all__ = ["hide_extended_state"]

# Of seccomp and its filters, from the kernel's headers.
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_X86_64, _PTRACE, _GETREGSET, _SETREGSET, _XSTATE = 0xC000_003E, 101, 0x4204, 0x4205, 0x202
_ALLOW, _INVALID = 0x7FFF_0000, 0x0005_0016


class _Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def hide_extended_state() -> None:
    """Let this process and its children have no call that saves or sets all registers."""
    def word(code: int, value: int, equal: int = 0, other: int = 0) -> bytes:
        return struct.pack("<HBBI", code, equal, other, value)

    # Words at 0, 4, 16 and 32 of what a filter sees: number, architecture, arguments 0 and 2.
    program = b"".join((
        word(_LOAD, 4), word(_IF_EQUAL, _X86_64, 0, 8),
        word(_LOAD, 0), word(_IF_EQUAL, _PTRACE, 0, 6),
        word(_LOAD, 32), word(_IF_EQUAL, _XSTATE, 0, 4),
        word(_LOAD, 16), word(_IF_EQUAL, _GETREGSET, 1), word(_IF_EQUAL, _SETREGSET, 0, 1),
        word(_RETURN, _INVALID), word(_RETURN, _ALLOW)))
    code = ctypes.create_string_buffer(program, len(program))
    filters = _Program(len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if (libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            or libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(filters), 0, 0)):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    hide_extended_state()
    os.execv(sys.argv[1], sys.argv[1:])
