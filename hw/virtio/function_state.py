"""What the registers keep of a function, one word of memory each."""

from amaranth.lib import data

from hw.virtio.layouts import NO_VECTOR

__all__ = ["FEATURE_WINDOWS", "FunctionStateLayout"]

FEATURE_WINDOWS = 4
"""Windows of 32 feature bits that hold something: bits 0 to 127."""


class FunctionStateLayout(data.StructLayout):
    """The driver's side of the common configuration, and where a function stands between resets.

    ===================== ==== =============================================================
    field                 bits meaning
    ===================== ==== =============================================================
    device_feature_select 32   As written
    driver_feature_select 32   As written
    driver_features       128  As written, offered or not
    config_vector         16   FFFFh for none
    queue_select          16   As written
    status                8    device_status
    generation            8    config_generation
    enabled               n    queue_enable, one bit a place
    link                  1    The link state that the device configuration shows
    link_now              1    The link state as it is; not shown while suspended
    asleep                1    In D3hot
    want_suspend          1    The driver has asked for suspension, and not for its end
    quiet                 1    The queues were stopped, or not started, because of one of the two
    want_reset            1    A reset was asked for and has not been carried out
    want_flr              1    Its end is to be told as that of a function-level reset
    stop_busy             1    The lifecycle has been asked for a stop and has not reported it
    stop_reset            1    That stop is one with reset
    stop_single           1    That stop is one of a single queue, with reset
    stop_place            k    That queue's
    resetting             n    queue_reset, one bit a place
    due                   1    A configuration interrupt is to be sent
    listed                1    The function stands in the queue of those with one
    ===================== ==== =============================================================

    A queue's place within its function is that of `hw.virtio.queue_numbers`: the control queue's is
    the last of n.
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride
        places = stride + 1
        super().__init__({
            "device_feature_select": 32, "driver_feature_select": 32,
            "driver_features": 32 * FEATURE_WINDOWS,
            "config_vector": 16, "queue_select": 16, "status": 8, "generation": 8,
            "enabled": places, "link": 1, "link_now": 1, "asleep": 1, "want_suspend": 1, "quiet": 1,
            "want_reset": 1, "want_flr": 1, "stop_busy": 1, "stop_reset": 1, "stop_single": 1,
            "stop_place": (places - 1).bit_length(), "resetting": places, "due": 1, "listed": 1,
        })

    def fresh(self) -> data.Const:
        """Give the state after a reset of the card."""
        return self.const({"config_vector": NO_VECTOR})
