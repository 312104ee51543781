"""The host and the wire in the simulator, on a mirror instead of a card; the scoreboard."""

from __future__ import annotations

import pytest

from sim.runner import run_cocotb
from tb.scoreboard import Scoreboard
from tests.unit.loop import Loop


@pytest.mark.parametrize(("simulator", "lanes"), [("icarus", 8), ("verilator", 64)])
def test_host(simulator: str, lanes: int) -> None:
    run_cocotb(Loop(lanes), f"loop_{lanes}", "tests.unit.bench_host", simulator=simulator,
               parameters={"lanes": lanes})


def test_a_scoreboard_in_order() -> None:
    board = Scoreboard("board")
    for packet in (b"one", b"two"):
        board.expect(packet, "a")
    board.expect(b"three", "b")
    board.got(b"three", "b")
    board.got(b"one", "a")
    with pytest.raises(AssertionError, match="packets did not come out"):
        board.finish()
    with pytest.raises(AssertionError, match="differ from byte 1 on"):
        board.got(b"txo", "a")
    with pytest.raises(AssertionError, match="nothing was to come"):
        board.got(b"x", "c")


def test_a_scoreboard_that_may_lose() -> None:
    board = Scoreboard("board", may_drop=True)
    for packet in (b"one", b"two", b"three", b"four"):
        board.expect(packet)
    board.got(b"three")
    assert (board.dropped[None], board.outstanding, board.matched) == (2, 1, 1)
    with pytest.raises(AssertionError, match="differ"):
        board.got(b"two")
    board.expect(b"five")
    board.finish()
    assert board.dropped[None] == 3
