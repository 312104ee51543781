"""Arithmetic of ring positions: where a packed one goes, and how far behind a driver waits.

None of these functions takes a clock cycle. Where a sum of two steps is too long for one, its
halves are functions of their own, with room for a register between them.
"""

from amaranth import Cat, Mux, Value

__all__ = ["packed_apart", "packed_behind", "packed_next", "split_behind"]


def packed_next(reached: Value, over: Value, lap: Value) -> Value:
    """Give the position in a packed ring, 16 bits, behind chains that begin in ``lap``.

    ``reached`` is the place where they begin and their places together, which are no more than the
    ring has, and ``over`` is as much less the ring's size: 16 bits each, ``over`` with its sign.
    """
    return Mux(over[15], Cat(reached[:15], lap), Cat(over[:15], ~lap))


def split_behind(index: Value, event: Value) -> Value:
    """Give the entries between the one numbered ``event`` and ``index``: 16 bits.

    Of the last n entries before ``index`` one is ``event`` if this is less than n
    (IMP-SPL-EVT-01).
    """
    return (index + ~event)[:16]


def packed_apart(position: Value, event: Value) -> Value:
    """Give the places between that of ``event`` and that of ``position``, whatever their laps.

    With its sign, 17 bits. ``event`` is {wrap counter, place}, as a driver writes it, where
    ``position`` has the lap, which is the inverse.
    """
    return (position[:15] - event[:15] - 1)[:17].as_signed()


def packed_behind(apart: Value, position: Value, event: Value, size: Value) -> Value:
    """Give the places between ``event`` and ``position`` along the ring: less than twice its size.

    Of the last n places before ``position`` one is ``event``, in the lap that it names, if this is
    less than n (IMP-PKT-EVT-01 to 04). ``apart`` is `packed_apart` of both; 18 bits.
    """
    other_lap = position[15] == event[15]
    laps = Mux(other_lap, size, Mux(apart < 0, size << 1, 0))
    return (apart + laps)[:18]
