"""Faults that the proofs must find: ``python -m tests.formal.faults``.

Each is one change of the hardware's source, planted in a copy of the tree; the proof beside it must
then fail, and by a check, not for want of a tool.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sim import toolchain

__all__ = ["FAULTS", "Fault", "plant"]


@dataclass(frozen=True)
class Fault:
    """In ``file``, ``new`` stands in place of ``old``, which is there once."""

    proof: str
    file: str
    old: str
    new: str


FAULTS = [
    Fault("memory", "stream/memory.py",
          "self.write_address == address)", "self.write_address == self.read_address)"),
    Fault("memory_parts", "stream/memory.py",
          "forwarded[index].eq(1), newer[part]", "forwarded.eq(-1), newer[part]"),
    Fault("stream_register", "stream/register.py",
          "out.eq(Mux(spare_valid, spare, self.i.payload))", "out.eq(self.i.payload)"),
    Fault("pipe_register", "stream/register.py",
          "self.i.ready.eq(self.o.ready | ~out_valid)", "self.i.ready.eq(1)"),
    Fault("skid_register", "stream/register.py",
          "self.o.payload.eq(Mux(spare_valid, spare, self.i.payload))",
          "self.o.payload.eq(self.i.payload)"),
    Fault("queue_3", "stream/queue.py",
          "pushes.eq(arrives & ~(free & (stored == 0)))", "pushes.eq(arrives & ~free)"),
    Fault("queue_3", "stream/queue.py", "Mux(address == places - 1, 0, address + 1)",
          "Mux(address == places - 1, 1, address + 1)"),
    Fault("block_queue_2", "stream/queue.py",
          "pops.eq((self.o.ready | ~out_valid) & (stored != 0))", "pops.eq(stored != 0)"),
    Fault("passing_queue_2", "stream/queue.py",
          "queue.i.valid.eq(self.i.valid & ~(empty & self.o.ready))",
          "queue.i.valid.eq(self.i.valid & ~empty)"),
    Fault("passing_queue_3", "stream/queue.py",
          "empty.eq(queue.level == 0)", "empty.eq(queue.level < 2)"),
    Fault("arbiter_2", "stream/arbiter.py",
          "later.eq(above(grant)),", "later.eq(-1),"),
    Fault("arbiter_3", "stream/arbiter.py",
          "accepts.eq(self.o.ready | ~out_valid)", "accepts.eq(1)"),
    Fault("passing_arbiter_2", "stream/arbiter.py",
          "waits.eq(self.o.valid & ~self.o.ready)", "waits.eq(0)"),
    Fault("passing_arbiter_3", "stream/arbiter.py",
          "later.eq(above(grant))]", "later.eq(-1)]"),
    Fault("packet_arbiter_2", "stream/arbiter.py",
          "grant.eq(Mux(locked, holder, turn))", "grant.eq(turn)"),
    Fault("work_list_2", "stream/worklist.py",
          "was_add & ~listed.read_data", "was_add"),
    Fault("work_list_3", "stream/worklist.py",
          "self.add.ready.eq(~clearing & ~takes)", "self.add.ready.eq(~clearing)"),
    Fault("reads_are_cut", "pcie/read_splitter.py",
          "& (upto <= 1 << _PAGE_BITS)", ""),
    Fault("reads_are_cut", "pcie/read_splitter.py",
          "span.eq(following.length + following.address[:2])", "span.eq(following.length)"),
    Fault("reads_are_cut_short", "pcie/read_splitter.py",
          "total.eq(work.length + spare.length)", "total.eq(work.length)"),
    Fault("reads_are_cut_short", "pcie/read_splitter.py",
          "piece.function.eq(work.function)", "piece.function.eq(following.function)"),
    Fault("writes_are_cut", "pcie/dma_write.py",
          "inner.eq(Mux(now.limited, 0, now.address[:9] & mask & ~0b11))",
          "inner.eq(Mux(now.limited, 0, now.address[:9] & mask))"),
    Fault("writes_are_cut", "pcie/dma_write.py",
          "& (segment.address[2:9] & mask[2:]).any())",
          "& (segment.address[2:8] & mask[2:]).any())"),
    Fault("writes_are_cut", "pcie/dma_write.py",
          "requester = Cat(made.function[:3], self.bus_device)",
          "requester = Cat(made.function[:2], made.address[0], self.bus_device)"),
    Fault("cutter_4", "stream/align.py", "place.eq(place + here)", "place.eq(here)"),
    Fault("cutter_2", "stream/align.py", "offset.eq(need),", "offset.eq(want),"),
    Fault("fence", "pcie/fence.py",
          "target.eq(self.writes_accepted)", "target.eq(self.writes_left)"),
    Fault("fence", "pcie/fence.py", "with m.Elif(self.passed):", "with m.Elif(~self.passed):"),
    Fault("fenced_reads_2", "pcie/fenced_reads.py",
          "goes.eq((taken & passed).bit_select(oldest, 1) &",
          "goes.eq(taken.bit_select(oldest, 1) &"),
    Fault("queue_numbers", "virtio/queue_numbers.py",
          "(queue >> self.index_bits) >= self.functions",
          "(queue >> self.index_bits) > self.functions"),
    Fault("positions", "virtio/prefetch_types.py",
          "return position.bit_select(order, 1)", "return position[15]"),
    Fault("events", "virtio/ring_positions.py", "(index + ~event)", "(index - event)"),
    Fault("events", "virtio/ring_positions.py",
          "Mux(apart < 0, size << 1, 0)", "Mux(apart < 0, size, 0)"),
    Fault("packed_positions", "virtio/ring_positions.py",
          "Cat(over[:15], ~lap)", "Cat(over[:15], lap)"),
    Fault("interrupts_are_right", "virtio/notification.py",
          "with m.Elif(behind < state.count):", "with m.Elif(behind <= state.count):"),
    Fault("interrupts_are_right", "virtio/notification.py",
          "self.reads.p.function.eq(function)", "self.reads.p.function.eq(queue >> 1)"),
    Fault("table_cells", "virtio/table_cells.py",
          "Cat(freed_count.before[:bits], freed_count.at)",
          "Cat(freed_count.before[:bits], freed_count.member)"),
    Fault("table_cells", "virtio/table_cells.py",
          "count.write_data.eq(own.read_data + amount)",
          "count.write_data.eq(count.read_data + amount)"),
    Fault("used_split", "virtio/used_ring.py",
          "behind.eq(end_index + burst.count)", "behind.eq(end_index + 1)"),
    Fault("used_split", "virtio/used_ring.py",
          "(gathers & (found.queue == wanted))", "0"),
    Fault("used_split", "virtio/used_split.py", "writes.two.eq(~none_shown),", ""),
    Fault("used_split", "virtio/used_waiting.py",
          "self.window[:bank_bits] > number if", "0 if"),
    Fault("used_packed", "virtio/used_packed.py", "wrap = ~lap", "wrap = lap"),
    Fault("used_packed", "virtio/used_packed.py",
          "takes[k - 1] & before.single & ", "takes[k - 1] & "),
    Fault("used_packed", "virtio/used_packed.py",
          "lead.eq(came.place - came.context.sum),", "lead.eq(came.place),"),
    Fault("used_packed", "virtio/used_writes.py",
          "stands.eq(bursts.o.valid & ((pulses > 1) | (pulses[0] & ~burst.two)))",
          "stands.eq(bursts.o.valid)"),
    Fault("takes_split", "virtio/chain_take.py", "given_back.i.valid.eq(judges & ~found)",
          "given_back.i.valid.eq(judges & ~found & ~short)"),
    Fault("takes_split", "virtio/chain_take.py",
          "self.loads.ready.eq(~(judges & found))", "self.loads.ready.eq(1)"),
    Fault("takes_split", "virtio/chain_take.py", "goes_on.eq(valid & ~last)", "goes_on.eq(valid)"),
    Fault("takes_packed", "virtio/chain_take.py", "more.eq(after != limits)",
          "more.eq(next_one != limits)"),
    Fault("takes_packed", "virtio/chain_take.py",
          "freed_cells.enable.eq(valid & in_cell & out.i.ready)",
          "freed_cells.enable.eq(valid & in_cell)"),
    Fault("takes_packed", "virtio/chain_take.py", "obliged.eq(asks & self.obliged)",
          "obliged.eq(asks)"),
    Fault("reads_issued", "pcie/read_issue.py",
          "made.refused.eq(piece.void | ~allowed.bit_select(piece.function, 1))",
          "made.refused.eq(piece.void | ~allowed.bit_select(piece.function[:2], 1))"),
    Fault("reads_issued", "pcie/read_issue.py",
          "self.tlps.valid.eq(out_valid & ~out.refused)", "self.tlps.valid.eq(out_valid)"),
    Fault("reads_issued", "pcie/read_issue.py", "out.eq(Mux(spare_valid, spare, made))",
          "out.eq(made)"),
    Fault("reads_issued", "pcie/read_issue.py", "groups[k].eq(group), previous[k].eq(tag)",
          "groups[k].eq(tag), previous[k].eq(tag)"),
    Fault("used_follow", "virtio/used_follow.py", "self.leaves & self.all &", "self.leaves &"),
    Fault("used_follow", "virtio/used_follow.py", "waits & (self.queue == last)", "waits"),
    Fault("used_follow", "virtio/used_follow.py", "(self.leaving == last)",
          "(self.leaving != last)"),
    Fault("visits", "virtio/ring_visits.py", "visits.take.ready.eq(claimed.i.valid & is_visit)",
          "visits.take.ready.eq(claimed.i.valid)"),
    Fault("visits", "virtio/ring_visits.py", "favoured.eq(~is_visit)", "favoured.eq(0)"),
    Fault("visits", "virtio/ring_visits.py",
          "waits.take.ready.eq(arbiter.i[1].ready & due)", "waits.take.ready.eq(due)"),
    Fault("visits", "virtio/ring_visits.py",
          "self.turns.valid.eq((granted != 0) | self.obliged)",
          "self.turns.valid.eq(claimed.o.valid)"),
    Fault("visits", "virtio/ring_visits.py",
          "kept.eq(offered & ~self.obligations.ready)", "kept.eq(0)"),
    Fault("decision_split", "virtio/ring_decision.py", "| (state.again & (rest == 0))", ""),
    Fault("decision_split", "virtio/ring_decision.py",
          "| ((judged.pending != 0) & judged.held)", ""),
    Fault("decision_split", "virtio/ring_decision.py",
          "self.count.eq(Mux(most < judged.run, most, judged.run))", "self.count.eq(most)"),
    Fault("decision_split", "virtio/ring_decision.py", "Mux(new, ~look, state.hush),",
          "state.hush,"),
    Fault("decision_split", "virtio/ring_decision.py", "after.fence.eq(1),", "after.fence.eq(0),"),
    Fault("decision_packed", "virtio/ring_decision.py",
          "packed_position(Const(0, 15), ~state.fetch[15])",
          "packed_position(Const(0, 15), state.fetch[15])"),
    Fault("decision_packed", "virtio/ring_decision.py", "_AHEAD_MAX = 6 ", "_AHEAD_MAX = 7 "),
    Fault("decision_packed", "virtio/ring_decision.py",
          "| (packed & (answer.partial | (answer.full & ~waits)))", ""),
]


def plant(fault: Fault) -> str:
    """Plant a fault and ask its proof; empty if it was found, else what happened instead."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for folder in ("hw", "sim", "tests/formal"):
            shutil.copytree(toolchain.ROOT / folder, copy / folder,
                            ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(toolchain.ROOT / "tests" / "__init__.py", copy / "tests")
        path = copy / "hw" / fault.file
        text = path.read_text()
        if text.count(fault.old) != 1:
            return f"stands {text.count(fault.old)} times in {fault.file}: {fault.old}"
        path.write_text(text.replace(fault.old, fault.new))
        done = subprocess.run(
            [sys.executable, "-m", "tests.formal", "--exact", fault.proof, "--folder",
             str(copy / "formal")], cwd=copy, check=False, capture_output=True, text=True)
        if done.returncode == 1 and "failed" in done.stdout.split("\n", 1)[0]:
            return ""
        return done.stdout + done.stderr[-1000:]


def main() -> int:
    """Plant the faults of the proofs whose names begin with one of the words given, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.formal.faults",
                                     description=main.__doc__)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    missed = 0
    for fault in FAULTS:
        if options.names and not any(fault.proof.startswith(name) for name in options.names):
            continue
        wrong = plant(fault)
        missed += bool(wrong)
        print(f"{'MISSED' if wrong else 'found':6} {fault.proof}: {fault.new or 'no ' + fault.old}",
              wrong, flush=True)
    print(f"faults: {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
