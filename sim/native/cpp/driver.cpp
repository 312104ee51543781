#include "driver.h"

#include <atomic>

namespace ringlet {

namespace {

uint16_t load16(const uint8_t* at) {
    return *reinterpret_cast<const volatile uint16_t*>(at);
}

void store16(uint8_t* at, uint16_t value) {
    *reinterpret_cast<volatile uint16_t*>(at) = value;
}

void barrier() { std::atomic_signal_fence(std::memory_order_seq_cst); }

constexpr unsigned kIndex = 2, kEntries = 4;  // in either ring
constexpr uint16_t kNoNotify = 1;             // flag of the used ring

}  // namespace

RingDriver::RingDriver(const Parameters& parameters, uint8_t* available, uint8_t* used)
    : parameters_(parameters), available_(available), used_(used), seen_(load16(used + kIndex)),
      published_(load16(available + kIndex)) {
    // Chains that are with the card now count as ours: they come back like all others.
    given_ = uint16_t(published_ - seen_);
}

void RingDriver::step(uint64_t now, RootComplex& root, Counters& counters, Events& events) {
    if (gone_) return;
    uint16_t index = load16(used_ + kIndex);
    if (index == seen_) return;
    barrier();
    do {
        const uint8_t* entry = used_ + kEntries + 8 * (seen_ & (parameters_.size - 1));
        uint32_t pair[2];
        memcpy(pair, entry, 8);
        unsigned chains = batch_of(pair[0], uint16_t(index - seen_));
        if (!chains) {
            events.violate("used element %u names %u, which is not its turn", seen_, pair[0]);
            gone_ = true;
            return;
        }
        bytes += pair[1];
        while (chains--) {
            held_.push_back(chains ? available_at(seen_) : pair[0]);
            if (!done++) first_cycle = now;
            if (parameters_.keep_times) times.push_back(now);
            ++seen_;
        }
    } while (seen_ != index);
    last_cycle = now;
    if (parameters_.goal && done >= parameters_.goal) {
        if (running_) events.raise(kDriverDone);
        running_ = false;
    }
    publish(root, counters);
}

uint16_t RingDriver::available_at(uint16_t index) const {
    return load16(available_ + kEntries + 2 * (index & (parameters_.size - 1)));
}

// How many chains a used entry stands for; 0 if it can be none. In order it may close a batch of
// chains that are only read. Their heads are still in the available ring: a place there is written
// again only after its chain has come back.
unsigned RingDriver::batch_of(unsigned head, unsigned pending) const {
    if (!parameters_.in_order) return 1;
    for (unsigned chains = 1; chains <= (parameters_.transmit ? pending : 1); ++chains)
        if (available_at(seen_ + chains - 1) == head) return chains;
    return 0;
}

// To be asked once for what was made available from `old` on.
bool RingDriver::kick_wanted(uint16_t old) const {
    if (!parameters_.event_idx) return !(load16(used_) & kNoNotify);
    uint16_t event = load16(used_ + kEntries + 8 * parameters_.size);
    return uint16_t(published_ - event - 1) < uint16_t(published_ - old);
}

void RingDriver::publish(RootComplex& root, Counters& counters) {
    while (running_ && !held_.empty()) {
        uint64_t batch = parameters_.batch;
        bool all = given_ == done;  // the card has nothing left
        if (held_.size() < batch && !all) return;
        if (held_.size() < batch) batch = held_.size();
        if (parameters_.goal && given_ + batch > parameters_.goal) {
            if (given_ >= parameters_.goal) return;
            batch = parameters_.goal - given_;
        }
        for (uint64_t i = 0; i < batch; ++i) {
            unsigned slot = uint16_t(published_ + i) & (parameters_.size - 1);
            store16(available_ + kEntries + 2 * slot, held_[i]);
        }
        held_.erase(held_.begin(), held_.begin() + batch);
        published_ += batch;
        given_ += batch;
        barrier();
        store16(available_ + kIndex, published_);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (!kick_wanted(published_ - batch)) {
            ++kicks_spared;
            continue;
        }
        ++kicks;
        ++counters.doorbells;
        RequestHead kick;
        kick.kind = kMemWrite;
        kick.address = parameters_.notify_address & ~uint64_t(3);
        unsigned lead = parameters_.notify_address & 3;
        kick.first_be = (parameters_.notify_bytes == 2 ? 0x3 : 0xF) << lead & 0xF;
        uint32_t word = parameters_.notify_value << 8 * lead;
        if (parameters_.notification_data) word |= uint32_t(published_) << 16;
        uint8_t payload[4];
        memcpy(payload, &word, 4);
        root.access.issue(kick, payload, 4, true);
    }
}

}  // namespace ringlet
