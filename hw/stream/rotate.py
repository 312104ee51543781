"""Move bytes between the lanes of a beat."""

from amaranth import Cat, Const, Module, Mux, Signal, Value

__all__ = ["lanes_from", "rotate_bytes"]


def rotate_bytes(m: Module, word: Value, amount: Value) -> Signal:
    """Move byte k of ``word`` to byte k + ``amount``, around the end; add the logic to ``m``.

    A power of two of bytes. One multiplexer stage a bit of the amount; two stages are one LUT.
    """
    for bit in range(len(amount)):
        stage = Signal(len(word))
        step = 8 << bit
        m.d.comb += stage.eq(Mux(amount[bit], Cat(word[-step:], word[:-step]), word))
        word = stage
    assert isinstance(word, Signal)
    return word


def lanes_from(first: Value, lanes: int) -> Value:
    """One bit a lane: set from lane ``first`` (0 to ``lanes - 1``) on."""
    return Cat(*(first <= lane for lane in range(lanes - 1)), Const(1))
