"""Let complete groups go: those of one queue in order, any others as they come."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.read_layouts import GroupLayout, NoteLayout, ReadSizes, TagLayout
from hw.pcie.tag_queue import TagQueue
from hw.stream.memory import ForwardingMemory
from hw.stream.types import QUEUE_BITS

__all__ = ["ReadOrder"]


class ReadOrder(wiring.Component):
    """Release each group when it is complete and the group before it in its queue was released.

    The groups of a queue (of one client) that are not yet released are a linked list. What is kept
    of a group, under the tag that names it:

    ========= ==========================================================================
    ``live``    It was appended and is not yet released.
    ``head``    It is the first of its list.
    ``done``    It is complete.
    ``linked``  There is a group behind it, named by ``links``.
    ``owners``  (memory) Its client and queue.
    ========= ==========================================================================

    and in the memory ``tails`` the group that was appended last to each queue, released or not.

    *Append* (on the note of a first piece). The tail of the queue is exchanged for the new
    group. If the old one is live and still belongs to this queue, it is the last of a list that
    is not empty: link it to the new group, which is no head. Else the list is empty (the tail is
    from old times, when its tag was in other use, or never was written), and the new group is
    head.

    *Complete* (from `ReadGroups`): release the group if it is head; else mark it done.
    *Heads*: when a group is released and is linked, its successor becomes head: release it if it is
    done, else mark it head.

    Why no group is lost or released twice:

    1. ``live`` is the one point where append and release of a predecessor meet. Both are
       a single flip-flop: the append looks at it and sets ``linked`` and the link in one cycle c;
       a release in cycle c or later clears it and looks at ``linked`` and the link in the cycle
       after. So either the append saw ``live``, and the release sees the link, or it did not,
       and the new group is head.
    2. A group is complete no earlier than three cycles after its append has set ``head``:
       its TLP (or its refusal) leaves in the cycle of its note or later.
    3. *Complete* and *heads* look at each other's mark, and set their own. When both come for one
       group in one cycle, *complete* sees no head mark, and *heads* counts the group as
       done. So it is released once, by whichever comes last.
    4. One group is released in a cycle. *Complete* goes first, as it cannot wait; *heads* wait in a
       queue with room for every tag.
    5. The tag of a group is in use until it is released (and longer), so no two groups have one
       name, and all marks of the name are set anew by the append.

    | Latency: 0 cycles from ``complete`` to ``released``; 2 cycles from a group to its successor.
    | Throughput: 1 append and 1 release a cycle; 1 in 2 cycles down the list of one queue.
    | Storage: 4 flip-flops, a link and an owner for each tag; a tag for each queue of each client.

    Parameters
    ----------
    sizes
        The engine's sizes. Of a queue number, as many bits count as ``queues`` takes.

    Members
    -------
    notes : In(stream.Signature(NoteLayout(sizes), always_ready=True))
        First pieces are appended, others ignored.
    complete : In(stream.Signature(GroupLayout(sizes), always_ready=True))
    released : Out(stream.Signature(TagLayout(sizes), always_ready=True))
    """

    notes: stream.Interface
    complete: stream.Interface
    released: stream.Interface

    def __init__(self, sizes: ReadSizes) -> None:
        self.sizes = sizes
        super().__init__({
            "notes": In(stream.Signature(NoteLayout(sizes), always_ready=True)),
            "complete": In(stream.Signature(GroupLayout(sizes), always_ready=True)),
            "released": Out(stream.Signature(TagLayout(sizes), always_ready=True)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        marks: Any = {name: Signal(sizes.tags, name=name)
                      for name in ("live", "head", "done", "linked")}
        links: memory.Memory[Any, Any] = memory.Memory(
            shape=sizes.tag_bits, depth=sizes.tags, init=[])
        m.submodules.links = links
        link = links.write_port()
        # Where both name one group, the append comes second, and must: see 5 above.
        self._release(m, marks, links, link)
        self._append(m, marks, link)
        return m

    def _release(self, m: Module, marks: dict[str, Any], links: Any, link: Any) -> None:
        sizes = self.sizes
        m.submodules.heads = heads = TagQueue(TagLayout(sizes), sizes.tags)
        of_complete = links.read_port()
        of_head = links.read_port()
        group = self.complete.p
        successor = heads.o.p
        complete_goes = Signal()
        successor_done = Signal()
        m.d.comb += [
            complete_goes.eq(self.complete.valid & marks["head"].bit_select(group.group, 1)),
            successor_done.eq(marks["done"].bit_select(successor.tag, 1)
                              | self.complete.valid & (group.group == successor.tag)),
            heads.o.ready.eq(~complete_goes | ~successor_done),
            self.released.valid.eq(complete_goes | heads.o.valid & successor_done),
            self.released.p.tag.eq(Mux(complete_goes, group.group, successor.tag)),
            self.released.p.client.eq(Mux(complete_goes, group.client, successor.client)),
            of_complete.addr.eq(group.group),
            of_head.addr.eq(successor.tag),
        ]
        with m.If(self.complete.valid):
            m.d.sync += marks["done"].bit_select(group.group, 1).eq(1)
        with m.If(heads.o.valid & heads.o.ready):
            m.d.sync += marks["head"].bit_select(successor.tag, 1).eq(1)
        with m.If(self.released.valid):
            m.d.sync += marks["live"].bit_select(self.released.p.tag, 1).eq(0)

        gone: Any = Signal(TagLayout(sizes), reset_less=True)
        gone_valid = Signal()
        gone_complete = Signal(reset_less=True)
        # A link that was written in the cycle of the release went past the read ports.
        linked_valid = Signal()
        linked_from = Signal(sizes.tag_bits, reset_less=True)
        linked_to = Signal(sizes.tag_bits, reset_less=True)
        m.d.sync += [
            gone.eq(self.released.payload),
            gone_valid.eq(self.released.valid),
            gone_complete.eq(complete_goes),
            linked_valid.eq(link.en),
            linked_from.eq(link.addr),
            linked_to.eq(link.data),
        ]
        m.d.comb += [
            heads.i.valid.eq(gone_valid & marks["linked"].bit_select(gone.tag, 1)),
            heads.i.p.client.eq(gone.client),
            heads.i.p.tag.eq(Mux(linked_valid & (linked_from == gone.tag), linked_to,
                                 Mux(gone_complete, of_complete.data, of_head.data))),
        ]

    def _append(self, m: Module, marks: dict[str, Any], link: Any) -> None:
        """Look for the tail, then whose it is, then decide: a cycle each."""
        sizes = self.sizes
        queue_bits = (sizes.queues - 1).bit_length()
        owner_shape = data.StructLayout({"client": sizes.client_bits, "queue": QUEUE_BITS})
        m.submodules.tails = tails = ForwardingMemory(
            sizes.tag_bits, 1 << (queue_bits + sizes.client_bits))
        owners: memory.Memory[Any, Any] = memory.Memory(
            shape=owner_shape, depth=sizes.tags, init=[])
        m.submodules.owners = owners
        owner_read, owner_write = owners.read_port(), owners.write_port()
        note = self.notes.p
        appends = Signal()
        owner: Any = Signal(owner_shape)
        new = [Signal(sizes.tag_bits, name=f"new_{age}", reset_less=True) for age in range(2)]
        new_valid = [Signal(name=f"new_{age}_valid") for age in range(2)]
        new_owner: list[Any] = [Signal(owner_shape, name=f"new_{age}_owner", reset_less=True)
                                for age in range(2)]
        tail = Signal(sizes.tag_bits, reset_less=True)
        follows = Signal()
        m.d.comb += [
            appends.eq(self.notes.valid & note.first),
            owner.client.eq(note.client),
            owner.queue.eq(note.queue[:queue_bits]),
            tails.read_enable.eq(1),
            tails.read_address.eq(Cat(note.queue[:queue_bits], note.client)),
            # Written a cycle after it was read; an append to the same queue in that cycle sees it.
            tails.write_enable.eq(new_valid[0]),
            tails.write_address.eq(Cat(new_owner[0].queue[:queue_bits], new_owner[0].client)),
            tails.write_data.eq(new[0]),
            owner_write.addr.eq(note.tag),
            owner_write.data.eq(owner),
            owner_write.en.eq(appends),
            owner_read.addr.eq(tails.read_data),
        ]
        m.d.sync += [
            new[0].eq(note.tag), new_valid[0].eq(appends), new_owner[0].eq(owner),
            new[1].eq(new[0]), new_valid[1].eq(new_valid[0]), new_owner[1].eq(new_owner[0]),
            tail.eq(tails.read_data),
        ]
        m.d.comb += [
            follows.eq(new_valid[1] & marks["live"].bit_select(tail, 1)
                       & (owner_read.data.as_value() == new_owner[1].as_value())),
            link.addr.eq(tail),
            link.data.eq(new[1]),
            link.en.eq(follows),
        ]
        with m.If(follows):
            m.d.sync += marks["linked"].bit_select(tail, 1).eq(1)
        with m.If(new_valid[1]):
            m.d.sync += [
                marks["live"].bit_select(new[1], 1).eq(1),
                marks["head"].bit_select(new[1], 1).eq(~follows),
                marks["done"].bit_select(new[1], 1).eq(0),
                marks["linked"].bit_select(new[1], 1).eq(0),
            ]
