// A driver of packed rings: see driver.h.
#pragma once

#include <deque>

#include "driver.h"

namespace ringlet {

// The card overwrites descriptors with used ones, so each chain is kept here as it was given, by its
// buffer id. A chain takes one descriptor of the ring (which may name a table).
//
// Positions count two laps of the ring, 0 up to twice its size: in the first the wrap counters are
// 1, in the second 0.
class PackedDriver : public RingDriver {
public:
    struct Chain {
        uint64_t address;
        uint32_t length;
        uint32_t writable;  // bytes that the card may write
        uint16_t id;
        uint16_t flags;     // but AVAIL and USED
        uint32_t pad;
    };

    // `used` is the position of the next used descriptor; the chains stand from there on, and are
    // all with the card.
    PackedDriver(const Parameters& parameters, uint8_t* descriptors, uint8_t* device_event,
                 unsigned used, const Chain* chains, unsigned count);

private:
    uint8_t* descriptors_;
    uint8_t* device_event_;
    unsigned used_;
    unsigned published_;             // position of the next descriptor to give
    unsigned published_before_ = 0;  // before the last `give`
    std::vector<Chain> chains_;      // by number
    std::vector<int32_t> number_of_; // by buffer id; below 0 if there is none
    std::vector<bool> with_card_;    // by number
    std::deque<uint16_t> order_;     // numbers of those that are with the card, if in order

    bool take(uint64_t now, Events& events) override;
    void give(const uint16_t* numbers, unsigned count) override;
    Wanted kick_wanted(Events& events) const override;
    uint16_t told() const override;
    bool lies_in(const uint8_t* begin, const uint8_t* end) const override;

    unsigned after(unsigned position, unsigned count) const;
    bool wrap(unsigned position) const { return position < parameters_.size; }
    uint8_t* at(unsigned position) const {
        return descriptors_ + 16 * (wrap(position) ? position : position - parameters_.size);
    }
    unsigned batch_to(unsigned number) const;
};

}  // namespace ringlet
