#include "driver.h"

#include <cstring>

namespace ringlet {

void RingDriver::step(uint64_t now, RootComplex& root, Counters& counters, Events& events) {
    if (gone_) return;
    uint64_t before = done;
    if (!take(now, events)) {
        gone_ = true;
        return;
    }
    if (done == before) return;
    if (parameters_.goal && done >= parameters_.goal) {
        if (running_) events.raise(kDriverDone);
        running_ = false;
    }
    give_back(root, counters, events);
}

void RingDriver::give_back(RootComplex& root, Counters& counters, Events& events) {
    while (running_ && !held_.empty()) {
        uint64_t batch = parameters_.batch;
        bool all = given_ == done;  // the card has nothing left
        if (held_.size() < batch && !all) return;
        if (held_.size() < batch) batch = held_.size();
        if (parameters_.goal && given_ + batch > parameters_.goal) {
            if (given_ >= parameters_.goal) return;
            batch = parameters_.goal - given_;
        }
        if (contents && !contents->keeps())
            for (uint64_t i = 0; i < batch; ++i) contents->stamp(held_[i]);
        give(held_.data(), unsigned(batch));
        held_.erase(held_.begin(), held_.begin() + batch);
        given_ += batch;
        switch (kick_wanted(events)) {
            case Wanted::nonsense:
                gone_ = true;
                return;
            case Wanted::no:
                ++kicks_spared;
                break;
            case Wanted::yes:
                ++kicks;
                ++counters.doorbells;
                kick(root);
        }
    }
}

void RingDriver::kick(RootComplex& root) {
    RequestHead head;
    head.kind = kMemWrite;
    head.address = parameters_.notify_address & ~uint64_t(3);
    unsigned lead = parameters_.notify_address & 3;
    head.first_be = (parameters_.notify_bytes == 2 ? 0x3 : 0xF) << lead & 0xF;
    uint32_t word = parameters_.notify_value << 8 * lead;
    if (parameters_.notification_data) word |= uint32_t(told()) << 16;
    uint8_t payload[4];
    memcpy(payload, &word, 4);
    root.access.issue(head, payload, 4, true);
}

}  // namespace ringlet
