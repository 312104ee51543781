"""The network device: `NetDevice` opens it, sends and receives frames, and closes it.

========== ==================================================================
module     holds
========== ==================================================================
options    how the driver uses the device
statistics what the driver counted
config     what the device says of itself
context    the device as all parts see it: open, broken or suspended
vectors    which interrupt tells of what
queue      one queue: publish, kick, wait
queues     all of them: made, set up, given back
commands   of the control queue
transmit   frames to the device
receive    frames from it, and buffers for them
device     `NetDevice`: from probing to the end
========== ==================================================================
"""

from sw_driver.net.commands import CommandRefused
from sw_driver.net.context import DeviceNeedsReset
from sw_driver.net.device import NetDevice
from sw_driver.net.options import SUPPORTED, NetOptions, without
from sw_driver.net.receive import ReceivedFrame
from sw_driver.net.statistics import NetStatistics

__all__ = ["SUPPORTED", "CommandRefused", "DeviceNeedsReset", "NetDevice", "NetOptions",
           "NetStatistics", "ReceivedFrame", "without"]
