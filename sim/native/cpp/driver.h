// A driver of split rings that costs no Python: it gives every used buffer to the card again.
#pragma once

#include <cstdint>
#include <vector>

#include "counters.h"
#include "events.h"
#include "memory.h"
#include "root_complex.h"

namespace ringlet {

// Goes on from where another driver left a ring: the descriptors stay as they are, and each chain
// that the card has used is made available again, in batches, one kick each. So a transmit queue
// sends the frames that it was left with over and over, and a receive queue never lacks buffers.
// It asks for no interrupts: the flag, or used_event, stays as it was left.
class RingDriver {
public:
    struct Parameters {
        uint64_t available, used;  // bus addresses
        uint32_t size;             // entries
        uint32_t batch;            // chains made available at a time
        uint64_t notify_address;
        uint32_t notify_value;
        uint32_t notify_bytes;     // 2 or 4
        uint64_t goal;             // stop after so many used chains; 0: go on
        uint32_t transmit;
        uint32_t keep_times;
        uint32_t event_idx;          // what was negotiated
        uint32_t notification_data;
        uint32_t in_order;
    };

    RingDriver(const Parameters& parameters, uint8_t* available, uint8_t* used);

    // Look at the used ring; once a cycle.
    void step(uint64_t now, RootComplex& root, Counters& counters, Events& events);

    void stop() { running_ = false; }  // what is used from now on is kept, and not given back

    // The memory from `begin` to `end` goes: end for good if a ring lies there.
    void leave(const uint8_t* begin, const uint8_t* end) {
        auto inside = [=](const uint8_t* at) { return at >= begin && at < end; };
        if (inside(available_) || inside(used_)) gone_ = true;
    }

    uint64_t done = 0;         // used chains
    uint64_t bytes = 0;        // that the card wrote into them
    uint64_t kicks = 0;
    uint64_t kicks_spared = 0;
    uint64_t first_cycle = 0;  // of the first and the last used chain
    uint64_t last_cycle = 0;
    std::vector<uint64_t> times;  // when each chain was seen to be used

private:
    Parameters parameters_;
    uint8_t* available_;
    uint8_t* used_;
    uint16_t seen_;       // used index up to which we have looked
    uint16_t published_;  // available index
    uint64_t given_ = 0;
    bool running_ = true;
    bool gone_ = false;
    std::vector<uint16_t> held_;

    void publish(RootComplex& root, Counters& counters);
    uint16_t available_at(uint16_t index) const;
    unsigned batch_of(unsigned head, unsigned pending) const;
    bool kick_wanted(uint16_t old) const;
};

}  // namespace ringlet
