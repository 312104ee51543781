"""The configuration space of the card's functions, and what it makes them do."""

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.pcie import capabilities as place
from hw.pcie.capabilities import ConfigRow, config_rows
from hw.pcie.config_types import ConfigAnswer, ConfigRequest, ErrorLayout
from hw.pcie.pci_cfg_window import PciCfgWindow
from hw.pcie.types import CompletionStatus
from hw.stream.types import FUNCTION_BITS

__all__ = ["ConfigSpace"]

_RESET_STARTS = 15  # bit of device control


class ConfigSpace(wiring.Component):
    """Keep the configuration registers of the PF: header, BARs, capabilities.

    What is there is the table of `hw.pcie.capabilities`; the rest of the 4 KiB reads zero and
    ignores writes. Each access is of one dword, with byte enables. A function that does not exist
    answers UNSUPPORTED. The virtio window on the BARs is answered with the access to be done
    (`hw.pcie.pci_cfg_window`); in D3hot there is none.

    *Function-level reset.* A write of one to its bit is answered, and goes out on ``flr``. From
    then on the function's memory does not answer (``memory_enable`` is low) and its configuration
    requests are answered with RETRY, until ``flr_done``: with that, all registers have their reset
    values, but for those that belong to the link (payload size, link control; the captured bus
    number). ``bus_master`` keeps its value until then, so that what is under way can be finished.
    The wait is outside of this room, and nobody else is held up by it.

    *D3hot.* ``memory_enable`` is low; going back to D0 resets nothing (No_Soft_Reset). Other power
    states than D0 and D3hot are not taken. ``bus_master`` stays what it is: whoever stops the
    queues looks at ``power_state``.

    Errors are noted in the status registers, and no error messages are sent: Signaled System Error
    stays zero.

    | Latency: 3 cycles from request to answer. Throughput: one access in 4 cycles.
    | Storage: about 400 flip-flops.

    Clauses: those of `hw.pcie.capabilities` and PCI-PCFG-02, PCI-PCFG-03, PCI-ISR-04.

    Parameters
    ----------
    functions
        1: the PF. (VFs come with the SR-IOV capability.)
    max_payload_bytes, msix_vectors, subsystem_device
        As in `hw.pcie.capabilities.config_rows`.

    Members
    -------
    requests : In(stream.Signature(ConfigRequest()))
    answers : Out(stream.Signature(ConfigAnswer()))
        One for each request, in order. The requests' effects have taken place with it, but for a
        window access.
    flr : Out(stream.Signature(range(256)))
        This function is to be reset.
    flr_done : In(stream.Signature(range(256), always_ready=True))
        It has been. Ignored when it was not asked for.
    completer_errors, requester_errors : In(ErrorLayout())
        Errors of the PF's traffic.
    interrupt_status : In(functions)
        A bit of the ISR is set: Interrupt Status while MSI-X is disabled.
    transactions_pending : In(functions)
        Reads of the function wait for completions.
    bus_device : Out(13)
        Bus and device number, as captured from the last configuration write; 0 before the first.
    bus_master, memory_enable : Out(functions)
        Whether the function may send requests, and whether its BARs answer.
    bar0 : Out(32)
    bar2, bar4 : Out(64)
        Base addresses.
    payload_size, read_size : Out(3)
        Max payload (never above what is supported) and max read request: ``128 << value`` bytes.
    extended_tags : Out(1)
        All 256 tags may be used, as after a reset; else 32 (the read engine does not know of less).
    timeout_disable : Out(1)
        Reads are to wait for their completions forever.
    msix_enable, msix_mask : Out(functions)
        MSI-X Enable and Function Mask.
    power_state : Out(functions)
        1: D3hot.
    """

    requests: stream.Interface
    answers: stream.Interface
    flr: stream.Interface
    flr_done: stream.Interface
    completer_errors: Any
    requester_errors: Any
    interrupt_status: Signal
    transactions_pending: Signal
    bus_device: Signal
    bus_master: Signal
    memory_enable: Signal
    bar0: Signal
    bar2: Signal
    bar4: Signal
    payload_size: Signal
    read_size: Signal
    extended_tags: Signal
    timeout_disable: Signal
    msix_enable: Signal
    msix_mask: Signal
    power_state: Signal

    def __init__(self, *, functions: int = 1, max_payload_bytes: int = 256, msix_vectors: int = 4,
                 subsystem_device: int = 0x1041) -> None:
        if functions != 1:
            raise ValueError(f"functions must be 1: there are no VFs yet, and so not {functions!r}")
        self.functions = functions
        self.max_payload_bytes = max_payload_bytes
        self.msix_vectors = msix_vectors
        self.subsystem_device = subsystem_device
        self.rows: Sequence[ConfigRow] = config_rows(
            max_payload_bytes=max_payload_bytes, msix_vectors=msix_vectors,
            subsystem_device=subsystem_device)
        super().__init__({
            "requests": In(stream.Signature(ConfigRequest())),
            "answers": Out(stream.Signature(ConfigAnswer())),
            "flr": Out(stream.Signature(FUNCTION_BITS)),
            "flr_done": In(stream.Signature(FUNCTION_BITS, always_ready=True)),
            "completer_errors": In(ErrorLayout()),
            "requester_errors": In(ErrorLayout()),
            "interrupt_status": In(functions),
            "transactions_pending": In(functions),
            "bus_device": Out(13),
            "bus_master": Out(functions),
            "memory_enable": Out(functions),
            "bar0": Out(32),
            "bar2": Out(64),
            "bar4": Out(64),
            "payload_size": Out(3),
            "read_size": Out(3),
            "extended_tags": Out(1),
            "timeout_disable": Out(1),
            "msix_enable": Out(functions),
            "msix_mask": Out(functions),
            "power_state": Out(functions),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.window = window = PciCfgWindow()
        registers = {row.offset: Signal(32, init=row.value, name=f"register_{row.offset:02x}")
                     for row in self.rows if row.changes}
        request: Any = Signal(ConfigRequest(), reset_less=True)
        resetting = Signal()  # from the write that starts the reset until flr_done
        d3hot = Signal()
        exists = Signal()
        m.d.comb += [
            d3hot.eq(registers[place.POWER_CONTROL][0]),
            exists.eq(request.completer_id[:3] == 0),
        ]
        finished = self._resets(m, registers, resetting)
        stored = self._read(m, registers, request)
        self._outputs(m, registers, resetting, d3hot)

        found = Signal(32, reset_less=True)
        at_window = Signal()
        status = Signal(CompletionStatus)
        m.d.comb += [
            window.bar.eq(registers[place.WINDOW_BAR]),
            window.offset.eq(registers[place.WINDOW_OFFSET]),
            window.length.eq(registers[place.WINDOW_LENGTH]),
            window.enable.eq(request.enable),
            window.write.eq(request.write),
            window.data.eq(request.data),
            self.answers.p.status.eq(status),
            self.answers.p.data.eq(Mux(at_window & request.write, window.access_data, found)),
            self.answers.p.function.eq(request.completer_id[:3]),
            self.answers.p.window.eq(Mux(at_window, window.access, 0)),
        ]

        taking = Signal()  # the write happens in this cycle
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.requests.ready.eq(1)
                m.d.sync += request.eq(self.requests.payload)
                with m.If(self.requests.valid):
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.comb += taking.eq(request.write & exists & ~resetting)
                m.d.sync += [
                    found.eq(stored),
                    at_window.eq((request.register == place.WINDOW_DATA >> 2)
                                 & exists & ~resetting & ~d3hot),
                ]
                # A reset that ends in this very cycle has ended: its values are read.
                with m.If(~exists):
                    m.d.sync += status.eq(CompletionStatus.UNSUPPORTED)
                with m.Elif(resetting):
                    m.d.sync += status.eq(CompletionStatus.RETRY)
                with m.Else():
                    m.d.sync += status.eq(CompletionStatus.SUCCESS)
                with m.If(request.write & exists):
                    m.d.sync += self.bus_device.eq(request.completer_id[3:])
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.answers.valid.eq(1)
                with m.If(self.answers.ready):
                    m.next = "IDLE"

        self._updates(m, registers, request, taking, finished)
        with m.If(taking & (request.register == place.DEVICE_CONTROL >> 2)
                  & request.enable[_RESET_STARTS // 8] & request.data[_RESET_STARTS]):
            m.d.sync += [resetting.eq(1), self.flr.valid.eq(1)]
        return m

    def _resets(self, m: Module, registers: dict[int, Signal], resetting: Signal) -> Signal:
        """Ask for a reset until somebody takes it, and note when it is done."""
        finished = Signal()
        m.d.comb += [
            self.flr.payload.eq(0),
            finished.eq(resetting & self.flr_done.valid & (self.flr_done.payload == 0)),
        ]
        with m.If(self.flr.ready):
            m.d.sync += self.flr.valid.eq(0)
        with m.If(finished):
            m.d.sync += resetting.eq(0)
        return finished

    def _read(self, m: Module, registers: dict[int, Signal], request: Any) -> Value:
        """Give the dword that the request names."""
        interrupt = self.interrupt_status[0] & ~self.msix_enable[0]
        live: dict[int, Value] = {  # bits that are not kept here at all
            place.COMMAND_STATUS: interrupt << 19,
            place.DEVICE_CONTROL: self.transactions_pending[0] << 21,
        }
        constant = Signal(32)
        changing = Signal(32)
        with m.Switch(request.register):
            for row in self.rows:
                with m.Case(row.offset >> 2):
                    m.d.comb += constant.eq(row.value & ~row.changes)
        with m.Switch(request.register):
            for row in self.rows:
                if row.changes:
                    with m.Case(row.offset >> 2):
                        m.d.comb += changing.eq(
                            registers[row.offset] & row.changes | live.get(row.offset, 0))
        return constant | changing

    def _outputs(self, m: Module, registers: dict[int, Signal], resetting: Signal,
                 d3hot: Signal) -> None:
        command = registers[place.COMMAND_STATUS]
        control = registers[place.DEVICE_CONTROL]
        msix = registers[place.MSIX_CONTROL]
        supported = (self.max_payload_bytes // 128).bit_length() - 1
        m.d.comb += [
            self.bus_master.eq(command[2]),
            self.memory_enable.eq(command[1] & ~resetting & ~d3hot),
            self.bar0.eq(registers[place.BAR0]),
            # The lowest four bits of a BAR's register say what it is.
            self.bar2.eq(Cat(Const(0, 4), registers[place.BAR2][4:], registers[place.BAR2 + 4])),
            self.bar4.eq(Cat(Const(0, 4), registers[place.BAR4][4:], registers[place.BAR4 + 4])),
            self.payload_size.eq(Mux(control[5:8] > supported, supported, control[5:8])),
            self.read_size.eq(control[12:15]),
            self.extended_tags.eq(control[8]),
            self.timeout_disable.eq(registers[place.DEVICE_CONTROL_2][4]),
            self.msix_enable.eq(msix[31]),
            self.msix_mask.eq(msix[30]),
            self.power_state.eq(d3hot),
        ]

    def _updates(self, m: Module, registers: dict[int, Signal], request: Any, taking: Signal,
                 finished: Signal) -> None:
        """Next value of every register: a reset, else errors over a write."""
        bytes_written = Signal(32)
        m.d.comb += bytes_written.eq(Cat(bit.replicate(8) for bit in request.enable))
        errors: Any = Signal(ErrorLayout())
        m.d.comb += errors.eq(self.completer_errors.as_value() | self.requester_errors.as_value())
        parity_response = registers[place.COMMAND_STATUS][6]
        noted = {
            place.COMMAND_STATUS: {
                24: errors.master_parity & parity_response, 28: errors.target_abort,
                29: errors.master_abort, 31: errors.poisoned,
            },
            place.DEVICE_CONTROL: {
                16: errors.correctable, 17: errors.non_fatal, 18: errors.fatal,
                19: errors.unsupported,
            },
        }
        # Of the states in two bits there are only D0 and D3hot, both bits equal.
        allowed = {place.POWER_CONTROL: request.data[0] == request.data[1]}
        for row in self.rows:
            if not row.changes:
                continue
            register = registers[row.offset]
            written = Signal(name=f"written_{row.offset:02x}")
            m.d.comb += written.eq(taking & (request.register == row.offset >> 2)
                                   & allowed.get(row.offset, 1))
            taken = Signal(32, name=f"taken_{row.offset:02x}")  # bits that this write reaches
            following = Signal(32, name=f"following_{row.offset:02x}")
            errors_here = Signal(32, name=f"errors_{row.offset:02x}")
            m.d.comb += taken.eq(bytes_written & written.replicate(32))
            for bit, error in noted.get(row.offset, {}).items():
                m.d.comb += errors_here[bit].eq(error)
            stays = register & ~(taken & row.writable) & ~(taken & row.clears & request.data)
            m.d.comb += following.eq(stays | taken & row.writable & request.data | errors_here)
            with m.If(finished):
                m.d.sync += register.eq(following & row.kept | row.value & ~row.kept)
            with m.Else():
                m.d.sync += register.eq(following)
