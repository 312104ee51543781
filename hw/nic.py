"""The whole card: rooms and the connections between them, no logic."""

from typing import Any

from amaranth import Cat, Const, Module, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import NicConfig
from hw.pcie.completer import Completer
from hw.pcie.config_space import ConfigSpace
from hw.pcie.dma_read import DmaRead
from hw.pcie.dma_write import DmaWrite
from hw.pcie.mmio_router import MmioRouter
from hw.pcie.msix import MsixTable
from hw.pcie.payload_balance import PayloadBalance
from hw.pcie.requester import Requester
from hw.pcie.types import CompletionHeader, CreditLayout, InterruptLayout, RequestHeader, TlpLayout
from hw.stream.arbiter import PassingArbiter, StreamArbiter
from hw.stream.connect import connect_streams
from hw.stream.types import BeatLayout, WireBeatLayout
from hw.vf.counting import Counting
from hw.vf.lifecycle import Lifecycle
from hw.vf.management import Management
from hw.vf.moderation_settings import ModerationSettings
from hw.vf.obligations import Obligations
from hw.vf.positions import QueuePositions
from hw.vf.scheduler import Scheduler
from hw.virtio.contexts import QueueContexts
from hw.virtio.control_chain import CONTROL_CONTEXT_BITS
from hw.virtio.control_queue import ControlQueue
from hw.virtio.features import feature_mask, offered_features
from hw.virtio.gather import GATHER_CONTEXT_BITS
from hw.virtio.notification import NOTIFICATION_CONTEXT_BITS, Notification
from hw.virtio.prefetch import Prefetch
from hw.virtio.receive import Receive
from hw.virtio.registers import Registers
from hw.virtio.transmit import Transmit
from hw.virtio.types import DoorbellLayout, FaultLayout, UsedLayout
from hw.virtio.used_ring import UsedRing
from hw.wire.admission import Admission
from hw.wire.egress import Egress
from hw.wire.entry import EntryFifo
from hw.wire.frame_queues import FrameQueues
from hw.wire.pool import PacketPool
from hw.wire.steer import Steer

__all__ = ["SmartNic"]

# Clients of the DMA engines.
READ_RECEIVE_PREFETCH, READ_TRANSMIT_PREFETCH, READ_GATHER, READ_NOTIFICATION = range(4)
(WRITE_RECEIVE, WRITE_USED, WRITE_RECEIVE_FLAGS, WRITE_TRANSMIT_FLAGS, WRITE_INTERRUPTS) = range(5)


class SmartNic(wiring.Component):
    """A card of the given configuration.

    ::

        cq ──► Completer ──► MmioRouter ──► Registers ──► doorbells ──► Prefetch (receive, transmit)
        cc ◄──┘   └─► ConfigSpace    └────► MsixTable, Management            │ ready
                                                                             ▼
        rc ──► DmaRead ──────► Transmit ◄── Scheduler ───────────────────────┤
                                  └──► PacketPool ──► Egress ──► wire_tx     │
        rq ◄── Requester ◄── DmaWrite ◄── Receive ◄──────────────────────────┘
                                            └── FrameQueues, PacketPool ◄── EntryFifo ◄── wire_rx

    Members
    -------
    cq : In(stream.Signature(TlpLayout(lanes, RequestHeader())))
        Completer requests: configuration and memory requests of the host.
    cc : Out(stream.Signature(TlpLayout(lanes, CompletionHeader())))
        Completer completions.
    rq : Out(stream.Signature(TlpLayout(lanes, RequestHeader())))
        Requester requests: DMA reads and writes, MSI-X.
    rc : In(stream.Signature(TlpLayout(lanes, CompletionHeader()), always_ready=True))
        Requester completions.
    np_credit : In(CreditLayout())
        Credit for the headers of reads on ``rq``.
    wire_rx : In(stream.Signature(WireBeatLayout(lanes), always_ready=True))
        Received frames, without FCS.
    wire_tx : Out(stream.Signature(BeatLayout(lanes)))
        Transmitted frames, without FCS and padding; valid all the way from the first beat of a
        frame to its last.
    link_up : In(1)
        The wire's link.
    """

    cq: stream.Interface
    cc: stream.Interface
    rq: stream.Interface
    rc: stream.Interface
    np_credit: Any
    wire_rx: stream.Interface
    wire_tx: stream.Interface
    link_up: Signal

    def __init__(self, config: NicConfig) -> None:
        self.config = config
        lanes = config.lanes
        super().__init__({
            "cq": In(stream.Signature(TlpLayout(lanes, RequestHeader()))),
            "cc": Out(stream.Signature(TlpLayout(lanes, CompletionHeader()))),
            "rq": Out(stream.Signature(TlpLayout(lanes, RequestHeader()))),
            "rc": In(stream.Signature(TlpLayout(lanes, CompletionHeader()), always_ready=True)),
            "np_credit": In(CreditLayout()),
            "wire_rx": In(stream.Signature(WireBeatLayout(lanes), always_ready=True)),
            "wire_tx": Out(stream.Signature(BeatLayout(lanes))),
            "link_up": In(1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one list of connections
        m = Module()
        config = self.config
        lanes = config.lanes
        queues = config.queues
        stride = config.queue_stride

        # --- Rooms. -------------------------------------------------------------------------------

        m.submodules.completer = completer = Completer(lanes)
        m.submodules.config_space = config_space = ConfigSpace(
            max_payload_bytes=config.max_payload_bytes, msix_vectors=config.vectors)
        m.submodules.router = router = MmioRouter()
        m.submodules.msix = msix = MsixTable(config.functions, config.vectors, lanes=lanes)

        offered = feature_mask(offered_features(config))
        m.submodules.registers = registers = Registers(
            config.functions, stride=stride, queue_size_max=config.queue_size_max,
            vectors=config.vectors, offered_physical=offered,
            offered_virtual=feature_mask(offered_features(config, virtual=True)),
            mac=config.mac, mtu=config.mtu, link_mbps=config.link_mbps)
        m.submodules.contexts = contexts = QueueContexts(
            config.queue_numbers, queue_size_max=config.queue_size_max, read_ports=11)
        m.submodules.lifecycle = lifecycle = Lifecycle(
            config.functions, stride=stride,
            engines=("receive", "transmit", "receive", "transmit", "transmit", "all", "control"))
        m.submodules.obligations = obligations = Obligations(config.queue_numbers, ports=5)

        def prefetch(direction: Any) -> Prefetch:
            return Prefetch(lanes, direction=direction, functions=config.functions, stride=stride,
                            queue_size_max=config.queue_size_max,
                            table_cells=config.table_cells,
                            max_chain_bytes=config.max_chain_bytes)

        m.submodules.receive_prefetch = receive_prefetch = prefetch("receive")
        m.submodules.transmit_prefetch = transmit_prefetch = prefetch("transmit")
        m.submodules.scheduler = scheduler = Scheduler(queues, transmit=True)

        m.submodules.entry = entry = EntryFifo(
            lanes, entry_bytes=config.entry_bytes, max_frame_bytes=config.max_frame_bytes)
        m.submodules.steer = steer = Steer(config.queue_pairs)
        m.submodules.pool = pool = PacketPool(
            lanes, cell_bytes=config.cell_bytes, pool_bytes=config.pool_bytes,
            max_frame_bytes=config.max_frame_bytes)
        m.submodules.admission = admission = Admission(
            lanes, cells=pool.cells, cell_bytes=config.cell_bytes,
            max_frame_bytes=config.max_frame_bytes)
        m.submodules.frame_queues = frame_queues = FrameQueues(
            queues=queues, cells=pool.cells, cell_bytes=config.cell_bytes)
        m.submodules.egress_pool = egress_pool = PacketPool(
            lanes, cell_bytes=config.cell_bytes, pool_bytes=config.egress_bytes,
            max_frame_bytes=config.max_frame_bytes)
        m.submodules.egress = egress = Egress(lanes, cells=egress_pool.cells)

        m.submodules.receive = receive = Receive(
            lanes, queues=queues, stride=stride, cells=pool.cells,
            queue_size_max=config.queue_size_max)
        m.submodules.transmit = transmit = Transmit(
            lanes, queues=queues, stride=stride, cell_bytes=config.cell_bytes,
            max_cells=egress_pool.max_cells, group_tlps=config.group_tlps)
        m.submodules.control_queue = control_queue = ControlQueue(
            lanes, functions=config.functions, first_queue=queues, max_pairs=config.queue_pairs,
            queue_size_max=config.queue_size_max)
        m.submodules.used_ring = used_ring = UsedRing(lanes, queues=queues, stride=stride)
        m.submodules.notification = notification = Notification(
            lanes, queues=queues, stride=stride, clock_mhz=config.clock_mhz)

        m.submodules.dma_read = dma_read = DmaRead(
            lanes,
            clients=(receive_prefetch.context_bits, transmit_prefetch.context_bits,
                     GATHER_CONTEXT_BITS, NOTIFICATION_CONTEXT_BITS, CONTROL_CONTEXT_BITS),
            quotas=(config.prefetch_tags, config.prefetch_tags, config.gather_tags,
                    config.notification_tags, config.control_tags),
            tags=config.read_tags, max_read_bytes=config.max_read_bytes,
            timeout_cycles=config.completion_timeout_cycles, functions=config.functions,
            queues=config.queue_numbers)
        m.submodules.dma_write = dma_write = DmaWrite(
            lanes, clients=6, functions=config.functions,
            max_payload_bytes=config.max_payload_bytes)
        m.submodules.balance = balance = PayloadBalance(lanes, GATHER_CONTEXT_BITS)
        m.submodules.requester = requester = Requester(lanes, functions=config.functions)
        m.submodules.counting = counting = Counting(stride=stride, cells=egress_pool.cells)
        m.submodules.moderation = moderation = ModerationSettings(queues)
        m.submodules.positions = positions = QueuePositions(config.queue_numbers)
        m.submodules.management = management = Management(config.functions, constants={
            "functions.functions": config.functions, "functions.stride": stride,
            "queues.size_max": config.queue_size_max, "queues.lanes": lanes,
            "frames.max_bytes": config.max_frame_bytes, "frames.clock_mhz": config.clock_mhz,
        })

        def link(producer: Any, consumer: Any) -> None:
            connect_streams(m, producer, consumer)

        def merge(name: str, shape: ShapeLike, producers: list[stream.Interface],
                  consumer: stream.Interface, *, passing: bool = False) -> None:
            m.submodules[name] = arbiter = (PassingArbiter if passing else StreamArbiter)(
                shape, len(producers))
            for producer, i in zip(producers, arbiter.i, strict=True):
                link(producer, i)
            link(arbiter.o, consumer)

        # --- The host's requests. -----------------------------------------------------------------

        link(flipped(self.cq), completer.cq)
        link(completer.cc, flipped(self.cc))
        link(completer.config_requests, config_space.requests)
        link(config_space.answers, completer.config_answers)
        link(completer.mmio, router.mmio)
        link(router.mmio_answers, completer.mmio_answers)
        link(router.virtio, registers.mmio)
        link(registers.answers, router.virtio_answers)
        link(router.msix, msix.mmio)
        link(msix.answers, router.msix_answers)

        # Only the PF has a configuration space yet: the others never send anything.
        bus_master = Cat(config_space.bus_master, Const(0, config.functions - 1))
        m.d.comb += [
            completer.bar0.eq(config_space.bar0),
            completer.bar2.eq(config_space.bar2),
            completer.bar4.eq(config_space.bar4),
            completer.memory_enable.eq(config_space.memory_enable),
            completer.bus_device.eq(config_space.bus_device),
            completer.writes_accepted.eq(dma_write.writes_accepted),
            completer.writes_left.eq(requester.writes_left),
            completer.msix_sending.eq(msix.sending),
            config_space.completer_errors.eq(completer.errors),
            config_space.requester_errors.eq(dma_read.errors),
            # Only the PF reads yet, so all reads are its own.
            config_space.transactions_pending.eq(dma_read.pending),
            config_space.interrupt_status.eq(registers.interrupt_status),
            msix.enable.eq(config_space.msix_enable),
            msix.function_mask.eq(config_space.msix_mask),
            dma_read.timeout_disable.eq(config_space.timeout_disable),
            dma_read.read_size.eq(config_space.read_size),
            dma_read.bus_device.eq(config_space.bus_device),
            dma_read.bus_master.eq(bus_master),
            dma_write.payload_size.eq(config_space.payload_size),
            dma_write.bus_device.eq(config_space.bus_device),
            dma_write.bus_master.eq(bus_master),
            transmit.read_size.eq(config_space.read_size),
            registers.sleep.eq(config_space.power_state),
            registers.link_up.eq(self.link_up),
        ]

        # A function-level reset: the queues first, then the MSI-X table, then the config space.
        link(config_space.flr, registers.flr)
        m.d.comb += [
            msix.clear.payload.eq(registers.flr_done.payload),
            msix.clear.valid.eq(registers.flr_done.valid),
            registers.flr_done.ready.eq(msix.clear.ready),
            config_space.flr_done.payload.eq(registers.flr_done.payload),
            config_space.flr_done.valid.eq(registers.flr_done.valid & msix.clear.ready),
        ]

        # --- Queues: what the driver wrote, and who may serve them. -------------------------------

        link(registers.writes, contexts.write)
        link(lifecycle.running, contexts.running)
        for port, reader in zip(contexts.ports, (
                registers.config,
                receive_prefetch.config_ring, receive_prefetch.config_table,
                receive_prefetch.config_take,
                transmit_prefetch.config_ring, transmit_prefetch.config_table,
                transmit_prefetch.config_take,
                receive.config, used_ring.config, notification.config,
                control_queue.config), strict=True):
            connect(m, reader, port)
        link(registers.requests, lifecycle.requests)
        link(lifecycle.reports, registers.reports)
        link(lifecycle.query, obligations.query)
        link(obligations.idle, lifecycle.idle)
        for command, commanded in zip(lifecycle.commands, (
                receive_prefetch.commands, transmit_prefetch.commands, receive.commands,
                scheduler.commands, transmit.commands, used_ring.commands,
                control_queue.commands), strict=True):
            link(command, commanded)
        for event, told in zip(obligations.events, (
                receive_prefetch.obligations, transmit_prefetch.obligations,
                transmit.obligations, notification.obligations,
                control_queue.obligations), strict=True):
            link(told, event)
        merge("faults", FaultLayout(), [receive_prefetch.faults, transmit_prefetch.faults,
                                        transmit.faults, notification.faults,
                                        control_queue.faults], lifecycle.faults)
        merge("receive_doorbells", DoorbellLayout(),
              [registers.receive_doorbells, lifecycle.receive_go], receive_prefetch.doorbells,
              passing=True)
        merge("transmit_doorbells", DoorbellLayout(),
              [registers.transmit_doorbells, lifecycle.transmit_go], transmit_prefetch.doorbells,
              passing=True)
        merge("control_doorbells", DoorbellLayout(),
              [registers.control_doorbells, lifecycle.control_go], control_queue.doorbells)
        connect(m, control_queue.features, registers.features)
        link(control_queue.pairs, steer.pairs)

        # --- Transmit. ----------------------------------------------------------------------------

        link(transmit_prefetch.ready, scheduler.ready)
        link(scheduler.grants, transmit.grants)
        link(transmit.takes, transmit_prefetch.takes)
        link(transmit_prefetch.chains, transmit.chains)
        link(transmit_prefetch.segments, transmit.segments)
        link(transmit.reserve, egress_pool.reserve)
        link(transmit.write, egress_pool.write)
        link(egress_pool.frames, egress.frames)
        link(egress.reads, egress_pool.reads)
        link(egress_pool.data, egress.data)
        link(egress.wire, flipped(self.wire_tx))

        # --- Receive. -----------------------------------------------------------------------------

        link(flipped(self.wire_rx), entry.wire)
        link(entry.lengths, steer.lengths)
        link(steer.steered, admission.steered)
        link(registers.resets, steer.resets)
        link(entry.frames, admission.frames)
        connect(m, admission.held, frame_queues.held)
        connect(m, receive.head, frame_queues.head)
        m.d.comb += admission.free_cells.eq(pool.free_cells)
        link(admission.reserve, pool.reserve)
        link(admission.write, pool.write)
        link(pool.frames, admission.stored)
        link(admission.queued, frame_queues.push)
        link(frame_queues.arrivals, receive.arrivals)
        link(receive.pops, frame_queues.pops)
        link(frame_queues.popped, receive.popped)
        link(receive_prefetch.ready, receive.ready)
        link(receive.takes, receive_prefetch.takes)
        link(receive_prefetch.chains, receive.chains)
        link(receive_prefetch.segments, receive.segments)
        link(receive.pool_reads, pool.reads)
        link(pool.data, receive.frames)

        # --- Used rings and interrupts. -----------------------------------------------------------

        link(receive.used, used_ring.used_receive)
        merge("other_used", UsedLayout(), [transmit.used, control_queue.used],
              used_ring.used_transmit)
        link(used_ring.published, notification.published)
        m.d.comb += [
            moderation.resets.valid.eq(
                registers.writes.valid & registers.writes.ready & registers.writes.p.clear),
            moderation.resets.p.queue.eq(registers.writes.p.queue),
            lifecycle.cleared.valid.eq(moderation.resets.valid),
            lifecycle.cleared.payload.eq(moderation.resets.payload),
            notification.moderation.valid.eq(moderation.settings.valid),  # always taken
            notification.moderation.payload.eq(moderation.settings.payload),
        ]
        link(notification.queue_interrupts, registers.queue_interrupts)
        merge("interrupts", InterruptLayout(), [notification.interrupts, registers.interrupts],
              msix.interrupts)

        # --- DMA. ---------------------------------------------------------------------------------

        link(transmit.reads, balance.i)
        m.d.comb += [
            balance.write_goes.eq(receive.write_segments.valid & receive.write_segments.ready),
            balance.write_waits.eq(receive.write_segments.valid & ~receive.write_segments.ready),
            balance.write_length.eq(receive.write_segments.p.length),
        ]
        for number, (requests, answers) in enumerate((
                (receive_prefetch.reads, receive_prefetch.read_answers),
                (transmit_prefetch.reads, transmit_prefetch.read_answers),
                (balance.o, transmit.read_answers),
                (notification.reads, notification.read_answers),
                (control_queue.reads, control_queue.read_answers))):
            link(requests, getattr(dma_read, f"requests_{number}"))
            link(getattr(dma_read, f"answers_{number}"), answers)
        for number, (segments, data, accepted) in enumerate((
                (receive.write_segments, receive.write_data, receive.write_accepted),
                (used_ring.segments, used_ring.data, used_ring.accepted),
                (receive_prefetch.flag_writes, receive_prefetch.flag_data,
                 receive_prefetch.flag_accepted),
                (transmit_prefetch.flag_writes, transmit_prefetch.flag_data,
                 transmit_prefetch.flag_accepted),
                (msix.segments, msix.data, msix.accepted),
                (control_queue.write_segments, control_queue.write_data,
                 control_queue.write_accepted))):
            link(segments, dma_write.segments[number])
            link(data, dma_write.data[number])
            m.d.comb += accepted.eq(dma_write.accepted[number])
        link(flipped(self.rc), dma_read.rc)
        link(dma_read.tlps, requester.reads)
        link(dma_write.tlps, requester.writes)
        link(requester.rq, flipped(self.rq))
        link(requester.refused, dma_read.refused)
        m.d.comb += [
            requester.writes_accepted.eq(dma_write.writes_accepted),
            requester.np_credit.eq(self.np_credit),
            requester.bus_master.eq(bus_master),
        ]

        m.d.comb += used_ring.busy.eq(dma_write.writes_accepted != requester.writes_left)

        # --- What the operator sees. --------------------------------------------------------------

        link(router.management, management.mmio)
        link(management.answers, router.management_answers)
        link(lifecycle.log, management.log)
        link(management.moderation, moderation.asked)
        link(management.positions, positions.asked)
        link(positions.told, management.position_answers)
        link(positions.requests, lifecycle.positions)
        link(lifecycle.position_answers, positions.answers)
        link(positions.used, used_ring.asked)
        link(used_ring.told, positions.stands_at)
        m.d.comb += [
            management.link_up.eq(self.link_up),
            counting.unexpected.eq(dma_read.unexpected),
        ]
        for name in counting.events.signature.members:
            link(getattr(counting.events, name), getattr(management.events, name))
        link(entry.drops, counting.entry_drops)
        link(admission.drops, counting.admission_drops)
        link(receive.dropped, counting.deliver_drops)
        link(transmit.sent, counting.sent)
        link(registers.bad_doorbells, counting.bad_doorbells)
        for seen, told in ((entry.lengths, counting.came), (receive.used, counting.delivered),
                           (egress.reads, counting.left)):
            m.d.comb += [
                told.valid.eq(seen.valid & seen.ready),
                told.payload.eq(seen.p.frame if seen is egress.reads else seen.payload),
            ]
        return m
