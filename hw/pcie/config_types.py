"""What the completer and the configuration space say to one another."""

from amaranth.lib import data

from hw.pcie.types import CompletionStatus
from hw.stream.types import FUNCTION_BITS

__all__ = ["ConfigAnswer", "ConfigRequest", "ErrorLayout", "WindowAccess"]


class ConfigRequest(data.StructLayout):
    """A configuration read or write of one dword.

    ============ ==== ===================================================================
    field        bits meaning
    ============ ==== ===================================================================
    completer_id 16   Bus, device and function that is asked
    register     10   Dword of the 4 KiB
    write        1
    enable       4    Byte enables
    data         32   Of a write
    ============ ==== ===================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "completer_id": 16, "register": 10, "write": 1, "enable": 4, "data": 32,
        })


class WindowAccess(data.StructLayout):
    """The access to a BAR that a configuration access to the virtio window stands for.

    ======== ==== =======================================================================
    field    bits meaning
    ======== ==== =======================================================================
    wanted   1    There is one; else the rest means nothing
    bar      3    As in `hw.pcie.types.MmioRequest`, and so are ``offset`` and ``enable``
    offset   20
    enable   4
    shift    2    What a read finds goes down by so many bytes,
    bytes    4    and of these bytes alone something is left
    ======== ==== =======================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "wanted": 1, "bar": 3, "offset": 20, "enable": 4, "shift": 2, "bytes": 4,
        })


class ConfigAnswer(data.StructLayout):
    """The answer to a `ConfigRequest`.

    ======== ==== =======================================================================
    field    bits meaning
    ======== ==== =======================================================================
    status   3    SUCCESS, UNSUPPORTED (no such function) or RETRY (it is being reset)
    data     32   What a read found; where a write through the window is wanted, its data
    function 8    The function that was asked
    window        `WindowAccess`: to be done before the request is answered
    ======== ==== =======================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "status": CompletionStatus, "data": 32, "function": FUNCTION_BITS,
            "window": WindowAccess(),
        })


class ErrorLayout(data.StructLayout):
    """What went wrong, one bit each, set for one cycle; noted in the status registers.

    =============== ======================================================================
    field           meaning
    =============== ======================================================================
    correctable     A correctable error, or an uncorrectable one that is only advisory
    non_fatal       An uncorrectable error that concerns one request alone
    fatal           A malformed TLP
    unsupported     An unsupported request was received
    poisoned        A request or a completion with poisoned data was received
    master_parity   A completion with poisoned data was received (noted with Parity Error
                    Response alone)
    target_abort    A completion came back with Completer Abort
    master_abort    A completion came back with Unsupported Request
    =============== ======================================================================
    """

    def __init__(self) -> None:
        super().__init__({
            "correctable": 1, "non_fatal": 1, "fatal": 1, "unsupported": 1, "poisoned": 1,
            "master_parity": 1, "target_abort": 1, "master_abort": 1,
        })
