"""Proofs about used rings: each chain is given back once, in its place, and told of once."""

from typing import Any
from unittest import mock

from amaranth import Module, Mux, Signal

from hw.virtio import used_ring, used_waiting, used_writes
from hw.virtio.used_ring import UsedRing
from sim.formal import Harness, Proof
from tests.formal.ring_proofs import advance

__all__ = ["PROOFS"]

_BASE = 0x123_4560
_QUEUE = 1
_WAITING_MAX = 4


class _SmallWaiting(used_waiting.UsedWaiting):
    """Room for fewer chains."""

    def elaborate(self, platform: object) -> Module:
        with mock.patch.object(used_waiting, "WAITING_MAX", _WAITING_MAX):
            return super().elaborate(platform)


class _SmallWrites(used_writes.UsedWrites):
    """Room for fewer bursts: of one queue no more than two are on their way here."""

    def elaborate(self, platform: object) -> Module:
        with mock.patch.object(used_writes, "_BURSTS_MAX", 4), \
                mock.patch.object(used_writes, "_ON_THE_WAY", 2):
            return super().elaborate(platform)


class _SmallUsedRing(UsedRing):
    """A writer with room for fewer chains and bursts."""

    def elaborate(self, platform: object) -> Module:
        with mock.patch.object(used_ring, "WAITING_MAX", _WAITING_MAX), \
                mock.patch.object(used_ring, "UsedWaiting", _SmallWaiting), \
                mock.patch.object(used_ring, "UsedWrites", _SmallWrites):
            return super().elaborate(platform)


class ChainsAreUsedOnce(Harness):
    """`UsedRing` writes each chain it was given once, in order, at its place of the ring, with its
    id, and tells of each once, with the position behind it, after the acceptance of what shows it
    to the driver. A split ring's index is never ahead of its entries.

    A transmit queue of up to 4 places (split) or 7 (packed), whole frames, not in order; room for
    4 chains and 4 bursts of two; chains that come, and writes that are accepted, at any time;
    nobody who takes something stalls. The cycles are enough for a burst, from its chains to what
    is told of it, and for chains that come meanwhile; further ones are only seen to be possible.
    """

    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.packed = packed

    def build(self, m: Module) -> None:  # noqa: PLR0915  # one model
        packed = self.packed
        m.submodules.dut = dut = _SmallUsedRing(16, queues=2, stride=2)
        size = self.fixed(m, 3, "size")
        self.assume(m, (size != 0) if packed else (size == 1) | (size == 2) | (size == 4))
        config: Any = dut.config.config
        m.d.comb += [
            config.size.eq(size), config.running.eq(1), config.modes.ring_packed.eq(packed),
            config.desc.eq(_BASE), config.device.eq(_BASE),
            dut.segments.ready.eq(1), dut.data.ready.eq(1), dut.published.ready.eq(1),
            dut.told.ready.eq(1),
        ]
        chain: Any = dut.used_transmit.p
        valid = self.free(1, "valid")
        identity, slots = self.free(2, "id"), self.free(3, "slots")
        m.d.comb += [
            dut.used_transmit.valid.eq(valid), chain.queue.eq(_QUEUE), chain.id.eq(identity),
            chain.slots.eq(slots if packed else 1),
        ]
        held, kept = Signal(), Signal(5)
        m.d.sync += [held.eq(valid & ~dut.used_transmit.ready), kept.eq(identity | (slots << 2))]
        self.assume(m, ~held | (valid & (kept == (identity | (slots << 2)))))
        enters = valid & dut.used_transmit.ready
        accepted = self.free(1, "accepted")
        m.d.comb += [dut.accepted.eq(accepted), dut.busy.eq(self.free(1, "busy"))]

        # Some chain, by number.
        number = self.fixed(m, 3, "number")
        given, written, told = Signal(5), Signal(5), Signal(5)
        its_id = Signal(2)
        open_places = Signal(6)  # given, and the driver does not know
        published = dut.published.valid
        news: Any = dut.published.p
        m.d.sync += [
            given.eq(given + enters),
            open_places.eq(open_places + Mux(enters, chain.slots, 0)
                           - Mux(published, news.slots, 0)),
        ]
        self.assume(m, ~enters | ((slots != 0) if packed else 1))
        self.assume(m, ~enters | (open_places + chain.slots <= size))  # a driver has no more
        with m.If(enters & (given == number)):
            m.d.sync += its_id.eq(identity)

        segment: Any = dut.segments.p
        beat: Any = dut.data.p
        position = Signal(16)  # of what is told next
        groups, groups_accepted, bursts = Signal(6), Signal(6), Signal(6)
        writes = dut.segments.valid
        upper = Signal()  # the second beat of a write
        length = Signal.like(segment.length)  # of that write
        self.assume(m, ~accepted | (groups != groups_accepted))
        m.d.sync += [upper.eq(writes & (segment.length > dut.lanes)), length.eq(segment.length),
                     groups.eq(groups + (dut.data.valid & beat.last)),
                     groups_accepted.eq(groups_accepted + accepted),
                     bursts.eq(bursts + published)]
        self.check(m, dut.data.valid == (writes | upper), "bytes with the write")
        self.check(m, ~(writes & upper), "one write at a time")
        self.check(m, ~writes | (segment.last & (beat.last == (segment.length <= dut.lanes))),
                   "a write ends with its bytes")
        self.check(m, ~upper | (beat.last & (length + beat.empty == 2 * dut.lanes)),
                   "two beats at most")
        self.check(m, ~writes | Mux(beat.last, segment.length + beat.empty == dut.lanes,
                                    beat.empty == 0), "as many")
        count = Signal(3)
        with m.If(dut.data.valid):
            m.d.sync += written.eq(written + count)
        if packed:
            entering = Signal(16)  # place and lap of what is given next
            its_place, its_end = Signal(16), Signal(16)
            behind = advance(m, entering, slots, size, "behind")
            with m.If(enters):
                m.d.sync += entering.eq(behind)
                with m.If(given == number):
                    m.d.sync += [its_place.eq(entering), its_end.eq(behind)]
            m.d.comb += count.eq(dut.data.valid)  # a beat is a descriptor
            at = Signal(64)
            here = Signal(64)
            m.d.sync += at.eq(segment.address)
            m.d.comb += here.eq(Mux(upper, at + 16, segment.address))
            ours = dut.data.valid & (written == number)
            self.check(m, ~ours | (here == _BASE + (its_place[:15] << 4)), "in its place")
            self.check(m, ~ours | (beat.data[127] == ~its_place[15]), "in its lap")
            self.check(m, ~ours | (beat.data[127] == beat.data[119]), "marked as used")
            self.check(m, ~ours | (beat.data[96:112] == its_id), "its own id")
            self.check(m, ~published | (news.count != 0), "someone is told of")
            self.check(m, ~(published & (told + news.count == number + 1))
                       | (news.index == its_end), "the position is behind it")
            self.check(m, ~published
                       | (news.index == advance(m, position, news.slots, size, "after")),
                       "the position moves by its places")
            m.d.sync += position.eq(Mux(published, news.index, position))
            self.check(m, ~published | (groups_accepted > bursts), "after the acceptance")
            self.cover(m, published & (news.count == 2) & news.index[15] & (its_id == 3)
                       & (number == 1))
            self.cover(m, published & (told != 0) & news.index[15])
        else:
            index = writes & (segment.length == 2)
            comes = dut.data.valid & ~index
            m.d.comb += count.eq((dut.lanes - beat.empty) >> 3)  # in this beat; of an index, none
            self.check(m, ~index | ((segment.address == _BASE + 2)
                                    & (beat.data[:16] == written)), "the index is that of entries")
            self.check(m, ~writes | index | (segment.length[:3] == 0), "entries")
            self.check(m, ~writes | index
                       | (segment.address == _BASE + 4 + ((written & (size - 1)) << 3)),
                       "in their place")
            self.check(m, ~(comes & (written == number)) | (beat.data[:16] == its_id),
                       "its own id")
            self.check(m, ~(comes & (count == 2) & (written + 1 == number))
                       | (beat.data[64:80] == its_id), "its own id, as the second")
            self.check(m, ~published | ((news.count != 0) & (news.slots == news.count)
                                        & (news.index == told + news.count)),
                       "the position moves by the chains")
            self.check(m, ~published | (groups_accepted > (bursts << 1) + 1),
                       "after the acceptance")
            self.cover(m, published & (news.count == 2) & (number == 1) & (its_id == 3))
            self.cover(m, published & (told == 1) & (news.count == 2) & (size == 4))
            self.cover(m, published & (news.count == 3))
        m.d.sync += told.eq(told + Mux(published, news.count, 0))
        self.check(m, ~dut.data.valid | (written + count <= given), "written once")
        self.check(m, ~published | ((told + news.count <= written) & (news.queue == _QUEUE)),
                   "told of once")


PROOFS = [
    Proof(name="used_split", harness=lambda: ChainsAreUsedOnce(packed=False), depth=20, cover=22,
          slow=True),
    Proof(name="used_packed", harness=lambda: ChainsAreUsedOnce(packed=True), depth=18, cover=20,
          slow=True),
]
