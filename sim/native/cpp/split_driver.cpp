#include "split_driver.h"

#include <atomic>
#include <cstring>

namespace ringlet {

namespace {

constexpr unsigned kIndex = 2, kEntries = 4;  // in either ring
constexpr uint16_t kNoNotify = 1;             // flag of the used ring

void barrier() { std::atomic_signal_fence(std::memory_order_seq_cst); }

}  // namespace

SplitDriver::SplitDriver(const Parameters& parameters, uint8_t* available, uint8_t* used)
    : RingDriver(parameters, uint16_t(load16(available + kIndex) - load16(used + kIndex))),
      available_(available), used_(used), seen_(load16(used + kIndex)),
      published_(load16(available + kIndex)) {}

bool SplitDriver::take(uint64_t now, Events& events) {
    uint16_t index = load16(used_ + kIndex);
    if (index == seen_) return true;
    barrier();
    do {
        const uint8_t* entry = used_ + kEntries + 8 * (seen_ & (parameters_.size - 1));
        uint32_t pair[2];
        memcpy(pair, entry, 8);
        unsigned chains = batch_of(pair[0], uint16_t(index - seen_));
        if (!chains) {
            events.violate("used element %u names %u, which is not its turn", seen_, pair[0]);
            return false;
        }
        bytes += pair[1];
        while (chains--) {
            uint16_t head = chains ? available_at(seen_) : uint16_t(pair[0]);
            if (!came(now, head, chains ? 0 : pair[1])) {
                events.violate("used element %u tells of %u bytes in chain %u, which has no room "
                               "for them", seen_, pair[1], head);
                return false;
            }
            ++seen_;
        }
    } while (seen_ != index);
    return true;
}

uint16_t SplitDriver::available_at(uint16_t index) const {
    return load16(available_ + kEntries + 2 * (index & (parameters_.size - 1)));
}

// How many chains a used entry stands for; 0 if it can be none. In order it may close a batch of
// chains that are only read. Their heads are still in the available ring: a place there is written
// again only after its chain has come back.
unsigned SplitDriver::batch_of(unsigned head, unsigned pending) const {
    if (!parameters_.in_order) return 1;
    for (unsigned chains = 1; chains <= (parameters_.transmit ? pending : 1); ++chains)
        if (available_at(seen_ + chains - 1) == head) return chains;
    return 0;
}

void SplitDriver::give(const uint16_t* heads, unsigned count) {
    published_before_ = published_;
    for (unsigned i = 0; i < count; ++i) {
        unsigned slot = uint16_t(published_ + i) & (parameters_.size - 1);
        store16(available_ + kEntries + 2 * slot, heads[i]);
    }
    published_ += count;
    barrier();
    store16(available_ + kIndex, published_);
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

RingDriver::Wanted SplitDriver::kick_wanted(Events&) const {
    bool wanted;
    if (parameters_.event_idx) {
        uint16_t event = load16(used_ + kEntries + 8 * parameters_.size);
        wanted = uint16_t(published_ - event - 1) < uint16_t(published_ - published_before_);
    } else {
        wanted = !(load16(used_) & kNoNotify);
    }
    return wanted ? Wanted::yes : Wanted::no;
}

bool SplitDriver::lies_in(const uint8_t* begin, const uint8_t* end) const {
    auto inside = [=](const uint8_t* at) { return at >= begin && at < end; };
    return inside(available_) || inside(used_);
}

}  // namespace ringlet
