"""The DMA read engine: segments in, packets out, any number of reads under way."""

from collections.abc import Sequence
from typing import Any

from amaranth import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from hw.pcie.completion_intake import CompletionIntake
from hw.pcie.completion_store import CompletionStore
from hw.pcie.config_types import ErrorLayout
from hw.pcie.read_delivery import ReadDelivery
from hw.pcie.read_groups import ReadGroups
from hw.pcie.read_issue import ReadIssue
from hw.pcie.read_layouts import ReadSizes
from hw.pcie.read_order import ReadOrder
from hw.pcie.read_splitter import ReadSplitter
from hw.pcie.read_timeout import ReadTimeout
from hw.pcie.tag_queue import TagQueue
from hw.pcie.types import (
    CompletionHeader,
    ReadAnswerLayout,
    ReadRequestLayout,
    ReadTlpLayout,
    TlpLayout,
)
from hw.stream.arbiter import StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.types import QUEUE_BITS

__all__ = ["DmaRead"]


class DmaRead(wiring.Component):
    """Read groups of segments of host memory for several clients; answer each group by one packet.

    ::

        requests_k ──► splitter ──┐                  ┌───── free tags ◄──────┐
                                  ├──► issue ◄───────┘                       │
        requests_j ──► splitter ──┘     └──► tlps                            │
                                                                             │
        rc ──► intake ──► store (a slot for each tag) ──────────────────┐    │
                 │                                                      ▼    │
                 └──► groups (count) ──► order (list of a queue) ──► delivery ──► answers_k

    **Order.** Groups of one client and queue are answered in the order of their requests; other
    groups in the order in which they are complete. A late completion holds up its queue alone.

    **Clients.** Each has a quota of tags, and the quotas fit into the tags: neither a client that
    asks too much nor one that takes no answers holds up another. A group gets its tags as they come
    free, and every earlier group of its client has all of its own, so it always goes on (as long as
    the client takes its answers). A group that needs more tags than the quota is answered with
    FAILED. A segment needs a tag for each piece between multiples of the read size.

    **Space.** A tag is a slot of ``max_read_bytes`` in the store, so ``rc`` never waits. A tag is
    used again after its bytes went into an answer, or after its time-out. A completion later than
    that is unexpected; if the tag is in use again, by its byte count and address.

    **Errors.** A piece that fails (bad status, poisoned, timed out, bus mastering off) fails its
    group; the answer has the right length, up to 128 KiB.

    | Latency: 3 cycles from a request to its first TLP; 6 from the last beat of the last
      completion to the first beat of the answer.
    | Throughput: 1 TLP, 1 completion beat and 1 answer beat a cycle; where pieces meet within a
      beat, that beat takes a cycle for each.
    | Storage: ``tags * max_read_bytes`` in block memory; 3 beats a client in flip-flops.

    Parameters
    ----------
    lanes
        Byte lanes: a power of two from 4 to 64.
    clients
        For each client, the bits of the context that comes back with its answers.
    tags
        Reads under way: a power of two from 2 to 256. For so many cycles after a reset none leaves.
    max_read_bytes
        Largest TLP: a power of two from 128 to 4096; at least 2 beats.
    timeout_cycles
        When a read without completion is given up; at least 256. See `ReadTimeout`.
    functions
        Functions of the card, 1 to 256; up to 8, or ARI.
    quotas
        Tags of each client; together not more than ``tags``. None: equal parts.
    queues
        Queue numbers in use, from 0 on. Higher ones are taken modulo the next power of two: they
        then share their order with others.

    Members
    -------
    requests_0, requests_1, ... : In(stream.Signature(ReadRequestLayout(lanes, clients[k])))
    answers_0, answers_1, ... : Out(stream.Signature(ReadAnswerLayout(lanes, clients[k])))
        Lanes below ``lead`` mean nothing.
    tlps : Out(stream.Signature(ReadTlpLayout()))
    rc : In(stream.Signature(TlpLayout(lanes, CompletionHeader()), always_ready=True))
    refused : In(stream.Signature(10))
        Tags of TLPs that were not sent after all; their pieces fail.
    read_size : In(3)
        Max_Read_Request_Size of Device Control: 128 bytes times two to this. Not to be changed
        while a request is being split (the rules of streams inside; the reads are right).
    bus_device : In(13)
        Bus and device number: the upper bits of the requester ID.
    bus_master : In(functions)
        Bus mastering of each function; looked at when a piece gets its tag.
    timeout_disable : In(1)
        Reads wait for their completions forever.
    pending : Out(1)
        Some read waits for its completion; a cycle late.
    errors : Out(ErrorLayout())
        Of completions; to the configuration space.
    unexpected : Out(1)
        For one cycle: a completion was dropped.
    timed_out : Out(1)
        For one cycle: a read was given up.
    """

    tlps: stream.Interface
    rc: stream.Interface
    refused: stream.Interface
    read_size: Signal
    bus_device: Signal
    bus_master: Signal
    timeout_disable: Signal
    pending: Signal
    errors: Any
    unexpected: Signal
    timed_out: Signal

    def __init__(self, lanes: int, *, clients: Sequence[int], tags: int, max_read_bytes: int,
                 timeout_cycles: int, functions: int, quotas: Sequence[int] | None = None,
                 queues: int = 1 << QUEUE_BITS) -> None:
        if quotas is None:
            quotas = [tags // max(1, len(clients))] * len(clients)
        self.sizes = ReadSizes(lanes=lanes, contexts=tuple(clients), quotas=tuple(quotas),
                               tags=tags, max_read_bytes=max_read_bytes, queues=queues)
        self.functions = functions
        self.timeout_cycles = timeout_cycles
        # Made here, so that their checks of parameters are ours.
        self._issue = ReadIssue(self.sizes, functions=functions)
        self._timeout = ReadTimeout(self.sizes, timeout_cycles=timeout_cycles)
        super().__init__({
            **{f"requests_{k}": In(stream.Signature(ReadRequestLayout(lanes, bits)))
               for k, bits in enumerate(clients)},
            **{f"answers_{k}": Out(stream.Signature(ReadAnswerLayout(lanes, bits)))
               for k, bits in enumerate(clients)},
            "tlps": Out(stream.Signature(ReadTlpLayout())),
            "rc": In(stream.Signature(TlpLayout(lanes, CompletionHeader()), always_ready=True)),
            "refused": In(stream.Signature(10)),
            "read_size": In(3),
            "bus_device": In(13),
            "bus_master": In(functions),
            "timeout_disable": In(1),
            "pending": Out(1),
            "errors": Out(ErrorLayout()),
            "unexpected": Out(1),
            "timed_out": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = self.sizes
        m.submodules.issue = issue = self._issue
        m.submodules.timeout = timeout = self._timeout
        m.submodules.free = free = TagQueue(sizes.tag_bits, sizes.tags)
        m.submodules.intake = intake = CompletionIntake(sizes)
        m.submodules.store = store = CompletionStore(sizes)
        m.submodules.groups = groups = ReadGroups(sizes)
        m.submodules.order = order = ReadOrder(sizes)
        m.submodules.delivery = delivery = ReadDelivery(sizes)

        # The way out.
        boundary = Signal(sizes.slot_bits, init=127)
        m.d.sync += boundary.eq((128 << self.read_size) - 1)
        largest = (sizes.max_read_bytes // 128).bit_length() - 1
        with m.If(self.read_size >= largest if largest else Const(1)):
            m.d.sync += boundary.eq(sizes.max_read_bytes - 1)
        for k in range(sizes.clients):
            splitter = ReadSplitter(sizes, k)
            m.submodules[f"splitter_{k}"] = splitter
            connect_streams(m, flipped(getattr(self, f"requests_{k}")), splitter.requests)
            connect_streams(m, splitter.pieces, issue.pieces[k])
            connect_streams(m, getattr(delivery, f"answers_{k}"),
                            flipped(getattr(self, f"answers_{k}")))
            m.d.comb += [
                splitter.boundary.eq(boundary),
                splitter.released.eq(delivery.freed.valid & (delivery.freed.p.client == k)),
            ]
        connect_streams(m, issue.tlps, flipped(self.tlps))
        m.d.comb += [
            issue.bus_device.eq(self.bus_device),
            issue.bus_master.eq(self.bus_master),
        ]

        # Tags. After a reset each is wiped and becomes free, one a cycle; none can be freed by
        # use before the last of them is through.
        fresh = Signal(range(sizes.tags + 1))
        wiping = Signal()
        m.d.comb += [
            wiping.eq(fresh != sizes.tags),
            free.i.valid.eq(wiping | delivery.freed.valid),
            free.i.payload.eq(Mux(wiping, fresh, delivery.freed.p.tag)),
            issue.tags.payload.eq(free.o.payload),
            issue.tags.valid.eq(free.o.valid & ~wiping),
            free.o.ready.eq(issue.tags.ready & ~wiping),
        ]
        with m.If(wiping):
            m.d.sync += fresh.eq(fresh + 1)
        for part in (intake, groups):
            m.d.comb += [part.clear.eq(wiping), part.clear_tag.eq(fresh)]

        # Notes, departures and ends go to whom they concern.
        def tell(source: Any, *listeners: Any) -> None:
            for listener in listeners:
                m.d.comb += [
                    listener.valid.eq(source.valid),
                    listener.payload.eq(source.payload),
                ]

        tell(issue.notes, intake.notes, order.notes, delivery.notes)
        tell(issue.departed, intake.departed, timeout.departed)
        tell(groups.complete, order.complete, delivery.complete)
        tell(order.released, delivery.released)
        # A refusal gets to the intake no earlier than a completion could: its note is written.
        m.submodules.refused = refused = StreamArbiter(sizes.tag_bits, 2)
        connect_streams(m, issue.refused, refused.i[0])
        connect_streams(m, refused.o, intake.refused)
        m.d.comb += [
            refused.i[1].valid.eq(self.refused.valid),
            refused.i[1].payload.eq(self.refused.payload),
            self.refused.ready.eq(refused.i[1].ready),
        ]
        m.d.comb += [
            timeout.waiting.eq(intake.waiting),
            timeout.done.valid.eq(intake.done.valid),
            timeout.done.payload.eq(intake.done.p.tag),
            intake.late_valid.eq(timeout.late_valid),
            intake.late_tag.eq(timeout.late_tag),
            timeout.late_taken.eq(intake.late_taken),
            timeout.disable.eq(self.timeout_disable),
        ]
        m.d.sync += self.pending.eq(intake.waiting.any())

        # The way in.
        connect_streams(m, flipped(self.rc), intake.rc)
        connect_streams(m, intake.beats, store.beats)
        connect_streams(m, intake.done, groups.done)
        connect_streams(m, delivery.row, store.row)
        m.d.comb += [
            delivery.row_data.eq(store.row_data),
            self.errors.eq(intake.errors),
            self.unexpected.eq(intake.unexpected),
            self.timed_out.eq(intake.timed_out),
        ]
        return m
