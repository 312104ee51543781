"""The notify region: what a driver writes there names a queue that has something new."""

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie.types import MmioRequest
from hw.stream.types import FUNCTION_BITS
from hw.virtio.control_commands import ControlFeaturesSignature
from hw.virtio.queue_numbers import QueueNumbers, QueueRolesLayout
from hw.virtio.types import DoorbellLayout, FunctionLayout

__all__ = ["Doorbells", "FunctionRolesLayout"]


class FunctionRolesLayout(data.StructLayout):
    """``roles`` are those of ``function`` from now on."""

    def __init__(self) -> None:
        super().__init__({"function": FUNCTION_BITS, "roles": QueueRolesLayout()})


class Doorbells(wiring.Component):
    """Turn writes to the notify region into queues that are to be looked at.

    The value that is written counts, in its low 16 bits; where in the region does not matter. (The
    driver writes a queue's index at the queue's own place.) The high half of a 32-bit write goes
    along as the position; whether it means something, and whether the queue runs, is for the
    engines to see (NOTIFICATION_DATA; virtio 1.4, 4.1.5.2). A write without both low bytes, or of a
    queue that the function does not have, is thrown away and reported.

    Which queue an index names depends on what was negotiated, of which a copy is kept here: so a
    doorbell needs no turn of the registers' sequencer. The copy counts for a doorbell that comes
    one cycle after it; a driver rings no sooner than it has read FEATURES_OK (5.1.2).

    | Latency: 2 cycles. Throughput: a doorbell a cycle. Storage: two, and 2 bits a function.
    | Paths: ready of the four outputs -> ``mmio.ready``; none forward.

    Parameters
    ----------
    numbers
        The card's queue numbers.

    Members
    -------
    mmio : In(stream.Signature(MmioRequest()))
        Writes to the notify region alone.
    roles : In(stream.Signature(FunctionRolesLayout(), always_ready=True))
    features : In(ControlFeaturesSignature())
        Of what was told by ``roles``, for those who serve control queues.
        To be told of every function after a reset of the card.
    receive : Out(stream.Signature(DoorbellLayout()))
        Even indices below the control queue's.
    transmit : Out(stream.Signature(DoorbellLayout()))
        Odd ones.
    control : Out(stream.Signature(DoorbellLayout()))
        The control queue's. All three are to lead to work lists, which never refuse for long.
    bad : Out(stream.Signature(FunctionLayout()))
        The function wrote what names no queue.
    """

    mmio: stream.Interface
    roles: stream.Interface
    features: Any
    receive: stream.Interface
    transmit: stream.Interface
    control: stream.Interface
    bad: stream.Interface

    def __init__(self, numbers: QueueNumbers) -> None:
        self.numbers = numbers
        super().__init__({
            "mmio": In(stream.Signature(MmioRequest())),
            "roles": In(stream.Signature(FunctionRolesLayout(), always_ready=True)),
            "features": In(ControlFeaturesSignature()),
            "receive": Out(stream.Signature(DoorbellLayout())),
            "transmit": Out(stream.Signature(DoorbellLayout())),
            "control": Out(stream.Signature(DoorbellLayout())),
            "bad": Out(stream.Signature(FunctionLayout())),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        numbers = self.numbers
        stride = numbers.stride
        mem: memory.Memory[Any, Any] = memory.Memory(
            shape=QueueRolesLayout(), depth=max(2, numbers.functions), init=[])
        m.submodules.roles = mem
        write, read, shown = mem.write_port(), mem.read_port(), mem.read_port()
        features: Any = self.features
        m.d.comb += [
            shown.addr.eq(features.function),
            shown.en.eq(features.enable),
            features.mq.eq(shown.data.multi),
            write.addr.eq(self.roles.p.function),
            write.data.eq(self.roles.p.roles),
            write.en.eq(self.roles.valid),
        ]

        # First the roles are looked up, and the index compared with all it may be.
        request = self.mmio.p
        written = Signal(16)
        looks = Signal()
        waits = Signal()           # for the second step
        whole = Signal(reset_less=True)
        index = Signal(numbers.index_bits, reset_less=True)
        in_first = Signal(reset_less=True)
        in_all = Signal(reset_less=True)
        behind_first = Signal(reset_less=True)
        behind_all = Signal(reset_less=True)
        function = Signal(FUNCTION_BITS, reset_less=True)
        control = Signal.like(self.control.p.queue, reset_less=True)
        position = Signal(16, reset_less=True)
        positioned = Signal(reset_less=True)
        m.d.comb += [
            written.eq(request.data[:16]),
            self.mmio.ready.eq(looks),
            read.addr.eq(request.function),
            read.en.eq(looks),
        ]
        with m.If(looks):
            m.d.sync += [
                waits.eq(self.mmio.valid),
                whole.eq(request.enable[:2].all()),
                index.eq(written),
                in_first.eq(written < 2),
                in_all.eq(written < stride),
                behind_first.eq(written == 2),
                behind_all.eq(written == stride),
                function.eq(request.function),
                control.eq(numbers.control(request.function)),
                position.eq(request.data[16:]),
                positioned.eq(request.enable.all()),
            ]

        # Then it is known whose doorbell it is.
        roles: Any = read.data
        is_data = Signal()
        is_control = Signal()
        bell: Any = Signal(DoorbellLayout(), reset_less=True)
        teller = Signal(FUNCTION_BITS, reset_less=True)
        outputs = (self.receive, self.transmit, self.control, self.bad)
        valids = Signal(4)
        moves = Signal()
        m.d.comb += [
            is_data.eq(whole & Mux(roles.multi, in_all, in_first)),
            is_control.eq(whole & roles.control & Mux(roles.multi, behind_all, behind_first)),
            moves.eq(~(valids & ~Cat(o.ready for o in outputs)).any()),
            looks.eq(moves | ~waits),
            Cat(o.valid for o in outputs).eq(valids),
            self.receive.payload.eq(bell),
            self.transmit.payload.eq(bell),
            self.control.payload.eq(bell),
            self.bad.p.function.eq(teller),
        ]
        with m.If(moves):
            m.d.sync += [
                valids.eq(Cat(is_data & ~index[0], is_data & index[0], is_control,
                              ~is_data & ~is_control) & waits.replicate(4)),
                # The stride is a power of two: the sum is a matter of wiring.
                bell.queue.eq(Mux(is_control, control, Cat(index, function))),
                bell.position.eq(position),
                bell.positioned.eq(positioned),
                teller.eq(function),
            ]
        return m
