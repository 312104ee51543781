"""The common configuration structure: what an access to one of its dwords finds and changes."""

from typing import Any

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.stream.types import FUNCTION_BITS, QUEUE_BITS
from hw.virtio.function_state import FEATURE_WINDOWS, FunctionStateLayout
from hw.virtio.layouts import COMMON_CONFIG, FEATURE_BITS, NO_VECTOR, Status
from hw.virtio.queue_numbers import QueueNumbers, QueueRolesLayout
from hw.virtio.types import QueueConfigLayout, QueueWriteLayout

__all__ = ["CommonConfig", "check_common"]

_DWORDS = COMMON_CONFIG.size // 4
_FIRST_ADDRESS = COMMON_CONFIG.dword("queue_desc")
_LAST_ADDRESS = COMMON_CONFIG.dword("queue_device") + 1
_QUEUE_CONFIG_SIZE = 6
"""The dword of `QueueWriteLayout` that holds size and vector."""


def check_common(*, vectors: int, offered: tuple[int, ...]) -> None:
    """Reject what `CommonConfig` cannot be made of, with ``ValueError``."""
    if not 1 <= vectors <= 2048:
        raise ValueError(f"vectors must be from 1 to 2048, not {vectors!r}")
    for mask in offered:
        if mask >> 32 * FEATURE_WINDOWS or not mask >> FEATURE_BITS["VERSION_1"] & 1:
            raise ValueError(f"offered features must be below bit {32 * FEATURE_WINDOWS}, and "
                             f"VERSION_1 among them, not {mask:#x}")


def _bytes(enable: Value, new: Value, old: Value) -> Value:
    """Give ``old`` with the enabled bytes of ``new``."""
    return Cat(Mux(bit, new.word_select(n, 8), old.word_select(n, 8))
               for n, bit in enumerate(enable))


class CommonConfig(wiring.Component):
    """Work out one access to ``virtio_pci_common_cfg``, for a sequencer that holds its inputs.

    Nothing is kept here but the intermediate results: the sequencer (`Registers`) loads the state
    of the function, looks the selected queue up, and takes the results.

    | Latency: ``queue`` is valid from 1 cycle after ``state`` on; the results from 2 cycles after
      ``state`` and 1 cycle after ``config``. Throughput: one access at a time.

    What a driver must not do harms nobody: features and what was enabled cannot be changed, an
    impossible size is ignored, an impossible vector reads back as none, status bits cannot be
    cleared but by a reset, and DRIVER_OK takes FEATURES_OK. While a reset is pending no write
    has an effect.

    *Suspension* (2.1): SUSPEND counts with DRIVER_OK and the feature (CORE-SUSP-01), and is a wish
    until `Registers` shows it. While it is shown, writes to device_status alone have an effect
    (CORE-SUSP-02), and DRIVER_OK ends it.

    Which queues there are is negotiated (`QueueRolesLayout`; 5.1.2): the first pair always; all
    pairs with MQ; with CTRL_VQ the control queue, whose index is the first behind them: 2, or the
    stride with MQ. A queue that is not there has size 0 (PCI-COM-09). Before FEATURES_OK there is
    the first pair alone. num_queues is what a driver that accepts all will find (PCI-COM-03).

    A size is a power of two, but with RING_PACKED any from 1 on.

    Parameters
    ----------
    numbers
        The card's queue numbers.
    queue_size_max
        Largest size of a queue, a power of two.
    vectors
        Entries of a function's MSI-X table, 1 to 2048.
    offered_physical, offered_virtual
        The feature bits that the PF and the VFs offer, as numbers.

    Members
    -------
    function : In(8)
    dword : In(4)
    enable : In(4)
        Bytes that are written; 0 for a read.
    data : In(32)
        What is written.
    state : In(FunctionStateLayout(stride))
    roles : Out(QueueRolesLayout())
        What follows from ``state``, in the same cycle.
    queue : Out(14)
        The selected queue, in the numbers of the card.
    config : In(QueueConfigLayout())
        What is kept of that queue.
    found : Out(32)
        What a read finds.
    after : Out(FunctionStateLayout(stride))
        The state after the access.
    write : Out(QueueWriteLayout())
        What is written of the queue, if any of its ``enable`` is set.
    clears : Out(1)
        Status zero was written while it was zero: nothing is to be stopped, and everything goes to
        its reset value at once. (``after.want_reset`` tells of the other case.)
    starts : Out(stride + 1)
        Places of queues that may be served from now on, if nothing else is in the way.
    """

    function: Signal
    dword: Signal
    enable: Signal
    data: Signal
    state: Any
    roles: Any
    queue: Signal
    config: Any
    found: Signal
    after: Any
    write: Any
    clears: Signal
    starts: Signal

    def __init__(self, numbers: QueueNumbers, *, queue_size_max: int, vectors: int,
                 offered_physical: int, offered_virtual: int) -> None:
        check_common(vectors=vectors, offered=(offered_physical, offered_virtual))
        self.numbers = numbers
        stride = numbers.stride
        self.queue_size_max = queue_size_max
        self.vectors = vectors
        self.offered_physical = offered_physical
        self.offered_virtual = offered_virtual
        super().__init__({
            "function": In(FUNCTION_BITS),
            "dword": In(4),
            "enable": In(4),
            "data": In(32),
            "state": In(FunctionStateLayout(stride)),
            "roles": Out(QueueRolesLayout()),
            "queue": Out(QUEUE_BITS),
            "config": In(QueueConfigLayout()),
            "found": Out(32),
            "after": Out(FunctionStateLayout(stride)),
            "write": Out(QueueWriteLayout()),
            "clears": Out(1),
            "starts": Out(stride + 1),
        })

    def elaborate(self, platform: object) -> Module:  # noqa: PLR0915  # one access, in order
        m = Module()
        state = self.state
        numbers = self.numbers
        stride = numbers.stride

        def negotiated(feature: str) -> Value:
            bit = FEATURE_BITS[feature]
            if not (self.offered_physical | self.offered_virtual) >> bit & 1:
                return Const(0, 1)
            accepted: Value = state.status[3] & state.driver_features[bit]
            return accepted

        # First cycle: what follows from the function's state alone.
        offered = Signal(32 * FEATURE_WINDOWS)
        m.d.comb += offered.eq(Mux(self.function == 0, self.offered_physical, self.offered_virtual))
        queue = Signal(QUEUE_BITS, reset_less=True)
        exists = Signal(reset_less=True)
        enabled = Signal(reset_less=True)       # the selected queue is
        resetting = Signal(reset_less=True)     # it is being reset by itself
        offered_word = Signal(32, reset_less=True)
        driver_word = Signal(32, reset_less=True)
        window = Signal(FEATURE_WINDOWS, reset_less=True)  # selected by the driver; one-hot or none
        acceptable = Signal(reset_less=True)
        place = Signal(numbers.index_bits + 1, reset_less=True)
        packed = Signal(reset_less=True)
        index = Signal(16)
        is_control = Signal()
        is_data = Signal()
        place_now = Signal.like(place)

        def word_of(bits: Value, select: Value) -> Value:
            return Mux(select[2:].any(), 0, Array(
                bits.word_select(n, 32) for n in range(FEATURE_WINDOWS))[select[:2]])

        m.d.comb += [
            self.roles.control.eq(negotiated("CTRL_VQ")),
            self.roles.multi.eq(negotiated("CTRL_VQ") & negotiated("MQ")),
            index.eq(state.queue_select),
            is_data.eq((index < 2) | self.roles.multi & (index < stride)),
            is_control.eq(self.roles.control & Mux(self.roles.multi, index == stride, index == 2)),
            place_now.eq(Mux(is_control, stride, index[:numbers.index_bits])),
            self.queue.eq(queue),
        ]
        m.d.sync += [
            queue.eq(numbers.at(self.function, place_now, numbers.control(self.function))),
            place.eq(place_now),
            exists.eq(is_data | is_control),
            packed.eq(negotiated("RING_PACKED")),
            # A cycle later: from the place.
            enabled.eq(state.enabled.bit_select(place, 1)),
            resetting.eq(state.resetting.bit_select(place, 1)),
            offered_word.eq(word_of(offered, state.device_feature_select)),
            driver_word.eq(word_of(state.driver_features, state.driver_feature_select)),
            window.eq(Cat(state.driver_feature_select == n for n in range(FEATURE_WINDOWS))),
            acceptable.eq(~(state.driver_features & ~offered).any()
                          & state.driver_features[FEATURE_BITS["VERSION_1"]]),
        ]

        # Second cycle: what follows from the queue's configuration, with what is written merged in.
        config = self.config
        size = Signal(16)
        largest = self.queue_size_max
        is_power = Signal()
        is_within = Signal()
        size_good = Signal(reset_less=True)
        size_next = Signal(16, reset_less=True)
        vector_next = Signal(16, reset_less=True)
        m.d.comb += [
            size.eq(_bytes(self.enable[:2], self.data[:16], config.size)),
            # Compared with each, and not calculated: no carry chains.
            is_power.eq(Cat(size == 1 << n for n in range(largest.bit_length())).any()),
            is_within.eq((size == largest) | (size != 0) & (size & ~(largest - 1) == 0)),
        ]

        def possible(vector: Value) -> Value:
            return Mux(vector < self.vectors, vector, NO_VECTOR)

        m.d.sync += [
            size_next.eq(size),
            size_good.eq(Mux(packed, is_within, is_power)),
            vector_next.eq(possible(_bytes(self.enable[2:], self.data[16:], config.vector))),
        ]

        self._read(m, exists=exists, enabled=enabled, resetting=resetting,
                   offered_word=offered_word, driver_word=driver_word)

        # Last: what the write does.
        after = self.after
        selected = Signal(_DWORDS)
        for n in range(_DWORDS):
            m.d.comb += selected[n].eq((self.dword == n) & self.enable.any())

        def writes(name: str) -> Value:
            return selected[COMMON_CONFIG.dword(name)]

        written = Signal(8)
        features_ok = Signal()
        driver_ok = Signal()
        suspended = Signal()
        enables = Signal()
        m.d.comb += [
            after.eq(state),
            self.write.queue.eq(queue),
            self.write.data.eq(self.data),
            written.eq(self.data[:8]),
            features_ok.eq(state.status[3] | written[3] & acceptable),
            driver_ok.eq(state.status[2] | written[2] & features_ok),
            suspended.eq(state.status & Status.SUSPEND.value != 0),
            enables.eq(writes("queue_enable") & self.enable[0] & self.data[0]
                       & exists & ~enabled),
        ]
        with m.If(~state.want_reset & ~suspended):
            with m.If(writes("device_feature_select")):
                m.d.comb += after.device_feature_select.eq(
                    _bytes(self.enable, self.data, state.device_feature_select))
            with m.If(writes("driver_feature_select")):
                m.d.comb += after.driver_feature_select.eq(
                    _bytes(self.enable, self.data, state.driver_feature_select))
            with m.If(writes("driver_feature") & ~state.status[3]):
                for n in range(FEATURE_WINDOWS):
                    with m.If(window[n]):
                        m.d.comb += after.driver_features.word_select(n, 32).eq(_bytes(
                            self.enable, self.data, state.driver_features.word_select(n, 32)))
            with m.If(writes("config_msix_vector")):
                m.d.comb += after.config_vector.eq(possible(
                    _bytes(self.enable[:2], self.data[:16], state.config_vector)))
            with m.If(writes("queue_select")):
                m.d.comb += after.queue_select.eq(
                    _bytes(self.enable[2:], self.data[16:], state.queue_select))
            with m.If(writes("queue_size") & exists):
                # The size counts as a whole: a byte of it may be no size.
                m.d.comb += [
                    self.write.dword.eq(_QUEUE_CONFIG_SIZE),
                    self.write.data.eq(Cat(size_next, vector_next)),
                    self.write.enable.eq(Cat(
                        (self.enable[:2].any() & size_good & ~enabled).replicate(2),
                        self.enable[2:].any().replicate(2))),
                ]
            with m.If(enables):
                m.d.comb += [
                    after.enabled.bit_select(place, 1).eq(1),
                    self.starts.eq(Mux(state.status[2], 1 << place, 0)),
                ]
            with m.If(writes("queue_reset") & self.enable[2] & self.data[16] & exists & enabled
                      & state.driver_features[FEATURE_BITS["RING_RESET"]]):
                m.d.comb += after.resetting.bit_select(place, 1).eq(1)
            with m.If(selected[_FIRST_ADDRESS:_LAST_ADDRESS + 1].any() & exists & ~enabled):
                m.d.comb += [
                    self.write.dword.eq(self.dword - _FIRST_ADDRESS),
                    self.write.enable.eq(self.enable),
                ]
        with m.If(writes("device_status") & self.enable[0] & ~state.want_reset):
            with m.If(written == 0):
                m.d.comb += [
                    after.want_reset.eq(state.status != 0),
                    self.clears.eq(state.status == 0),
                ]
            with m.Else():
                kept = Status.ACKNOWLEDGE | Status.DRIVER | Status.FAILED
                m.d.comb += [
                    after.status.eq(state.status | (written & kept.value)
                                    | (features_ok << 3) | (driver_ok << 2)),
                    after.status[4].eq(suspended & ~driver_ok),
                    after.want_suspend.eq(Mux(
                        suspended, ~driver_ok, state.want_suspend
                        | written[4] & state.status[2] & negotiated("SUSPEND"))),
                    self.starts.eq(Mux(driver_ok & ~state.status[2],
                                       state.enabled & ~state.resetting, 0)),
                ]
        return m

    def _queues(self, offered: int) -> int:
        """Give the number of queues that a driver has which accepts all of ``offered``."""
        control = offered >> FEATURE_BITS["CTRL_VQ"] & 1
        multi = control and offered >> FEATURE_BITS["MQ"] & 1
        return (self.numbers.stride if multi else 2) + control

    def _read(self, m: Module, *, exists: Signal, enabled: Signal, resetting: Signal,
              offered_word: Signal, driver_word: Signal) -> None:
        state, config = self.state, self.config
        space = Signal(8 * COMMON_CONFIG.size)

        def show(name: str, value: Value | int) -> None:
            field = COMMON_CONFIG.field(name)
            m.d.comb += space[8 * field.offset:8 * field.offset + field.bits].eq(value)

        show("device_feature_select", state.device_feature_select)
        show("device_feature", offered_word)
        show("driver_feature_select", state.driver_feature_select)
        show("driver_feature", driver_word)
        show("config_msix_vector", state.config_vector)
        show("num_queues", Mux(self.function == 0, self._queues(self.offered_physical),
                               self._queues(self.offered_virtual)))
        show("device_status", state.status)
        show("config_generation", state.generation)
        show("queue_select", state.queue_select)
        show("queue_msix_vector", NO_VECTOR)
        with m.If(exists):
            show("queue_size", config.size)
            show("queue_msix_vector", config.vector)
            show("queue_enable", enabled)
            show("queue_notify_off", state.queue_select)
            show("queue_desc", config.desc)
            show("queue_driver", config.driver)
            show("queue_device", config.device)
            show("queue_reset", resetting)
        words = Array(space.word_select(n, 32) for n in range(_DWORDS))
        m.d.comb += self.found.eq(words[self.dword])
