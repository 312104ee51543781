#include "packed_driver.h"

#include <atomic>
#include <cstring>

namespace ringlet {

namespace {

constexpr unsigned kLength = 8, kId = 12, kFlags = 14;  // in a descriptor
constexpr uint16_t kWrite = 1 << 1, kAvail = 1 << 7, kUsed = 1 << 15;
constexpr uint16_t kEnable = 0, kDisable = 1, kAtDescriptor = 2;  // of an event structure
constexpr uint16_t kPlace = 0x7FFF;  // in an event structure, and below the wrap counter

void barrier() { std::atomic_signal_fence(std::memory_order_seq_cst); }

}  // namespace

PackedDriver::PackedDriver(const Parameters& parameters, uint8_t* descriptors,
                           uint8_t* device_event, unsigned used, const Chain* chains,
                           unsigned count)
    : RingDriver(parameters, count), descriptors_(descriptors), device_event_(device_event),
      used_(used), published_(after(used, count)), chains_(chains, chains + count),
      number_of_(1 << 16, -1), with_card_(count, true) {
    for (unsigned number = 0; number < count; ++number) {
        number_of_[chains[number].id] = int32_t(number);
        if (parameters.in_order) order_.push_back(uint16_t(number));
    }
}

unsigned PackedDriver::after(unsigned position, unsigned count) const {
    return (position + count) % (2 * parameters_.size);
}

bool PackedDriver::take(uint64_t now, Events& events) {
    for (;;) {
        const uint8_t* entry = at(used_);
        uint16_t flags = load16(entry + kFlags);
        uint16_t both = kAvail | kUsed;
        if ((flags & both) != (wrap(used_) ? both : 0)) return true;
        barrier();
        unsigned place = unsigned(entry - descriptors_) / 16, id = load16(entry + kId);
        int number = number_of_[id];
        unsigned batch = number < 0 ? 0 : batch_to(unsigned(number));
        if (!batch) {
            events.violate("used descriptor %u names %u, which is not its turn", place, id);
            return false;
        }
        // Without WRITE nothing was written, whatever the length. Chains that have no used
        // descriptor of their own were used completely.
        uint32_t written = 0;
        if (flags & kWrite) memcpy(&written, entry + kLength, 4);
        if (written > chains_[number].writable) {
            events.violate("used descriptor %u tells of %u bytes in chain %u of %u", place, written,
                           id, chains_[number].writable);
            return false;
        }
        for (unsigned left = batch; left--;) {
            unsigned each = unsigned(number);
            if (parameters_.in_order) {
                each = order_.front();
                order_.pop_front();
            }
            uint32_t here = left ? chains_[each].writable : written;
            bytes += here;
            with_card_[each] = false;
            came(now, uint16_t(each), here);  // there is room: it was looked at above
        }
        used_ = after(used_, batch);
    }
}

// How many chains a used descriptor stands for; 0 if it can be none. In order it may close a batch.
unsigned PackedDriver::batch_to(unsigned number) const {
    if (!with_card_[number]) return 0;
    if (!parameters_.in_order) return 1;
    unsigned batch = 1;
    for (unsigned each : order_) {
        if (each == number) return batch;
        ++batch;
    }
    return 0;
}

// All but the flags first, and the flags of the first descriptor last.
void PackedDriver::give(const uint16_t* numbers, unsigned count) {
    published_before_ = published_;
    for (unsigned i = 0; i < count; ++i) {
        const Chain& chain = chains_[numbers[i]];
        uint8_t* to = at(after(published_, i));
        memcpy(to, &chain.address, 8);
        memcpy(to + kLength, &chain.length, 4);
        memcpy(to + kId, &chain.id, 2);
        with_card_[numbers[i]] = true;
        if (parameters_.in_order) order_.push_back(numbers[i]);
    }
    for (unsigned i = count; i--;) {
        unsigned position = after(published_, i);
        barrier();
        store16(at(position) + kFlags,
                chains_[numbers[i]].flags | (wrap(position) ? kAvail : kUsed));
    }
    published_ = after(published_, count);
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

RingDriver::Wanted PackedDriver::kick_wanted(Events& events) const {
    uint32_t both = *reinterpret_cast<const volatile uint32_t*>(device_event_);
    unsigned place = both & kPlace, flags = both >> 16;
    if (flags == kEnable) return Wanted::yes;
    if (flags == kDisable) return Wanted::no;
    if (flags != kAtDescriptor || !parameters_.event_idx || place >= parameters_.size) {
        events.violate("the card's event structure is %08x", both);
        return Wanted::nonsense;
    }
    unsigned laps = 2 * parameters_.size;
    unsigned event = both >> 15 & 1 ? place : place + parameters_.size;
    bool among = (event + laps - published_before_) % laps
        < (published_ + laps - published_before_) % laps;
    return among ? Wanted::yes : Wanted::no;
}

uint16_t PackedDriver::told() const {
    return wrap(published_) ? uint16_t(published_ | 1 << 15)
                            : uint16_t(published_ - parameters_.size);
}

bool PackedDriver::lies_in(const uint8_t* begin, const uint8_t* end) const {
    auto inside = [=](const uint8_t* at) { return at >= begin && at < end; };
    return inside(descriptors_) || inside(device_event_);
}

}  // namespace ringlet
