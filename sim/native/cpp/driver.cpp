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
        held_.push_back(pair[0]);
        bytes += pair[1];
        if (!done++) first_cycle = now;
        if (parameters_.keep_times) times.push_back(now);
        ++seen_;
    } while (seen_ != index);
    last_cycle = now;
    if (parameters_.goal && done >= parameters_.goal) {
        if (running_) events.raise(kDriverDone);
        running_ = false;
    }
    publish(root, counters);
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
        if (load16(used_) & kNoNotify) {
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
        uint8_t payload[4];
        memcpy(payload, &word, 4);
        root.access.issue(kick, payload, 4, true);
    }
}

}  // namespace ringlet
