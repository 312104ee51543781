"""What the driver of a network device counts."""

from dataclasses import dataclass

__all__ = ["NetStatistics"]


@dataclass
class NetStatistics:
    """What the driver counted."""

    tx_frames: int = 0
    tx_bytes: int = 0
    rx_frames: int = 0
    rx_bytes: int = 0
    kicks: int = 0
    kicks_spared: int = 0
    """Batches for which the device wanted no kick."""
    waits: int = 0
    """Times a task slept for an interrupt."""
    empty_wakes: int = 0
    """Wake-ups that found nothing used."""
    commands: int = 0
    merged_frames: int = 0
    """Frames that took several receive buffers."""
    resets: int = 0
    queue_resets: int = 0
