// How fast the PCI Express link is: bytes a cycle each way, counted TLP by TLP.
#pragma once

#include <algorithm>
#include <cstdint>

#include "counters.h"

namespace ringlet {

class Link {
public:
    // What a TLP costs beside its data: framing, sequence number, header with 64-bit address, LCRC.
    static constexpr unsigned kRequestBytes = 24, kCompletionBytes = 20;

    explicit Link(Counters& counters) : counters_(counters) {}

    double down_rate = 0;  // host to card, bytes a cycle; 0: no limit
    double up_rate = 0;    // card to host
    double up_buffer_bytes = 1024;  // what the card may be ahead of the link

    // A TLP may begin in the cycle within which the one before has left; its own time is paid
    // afterwards, to the fraction of a cycle. What is on the way takes the same time for all, and is
    // part of the round trip.
    bool down_free(uint64_t cycle) const { return down_free_ < double(cycle) + 1; }

    bool up_free(uint64_t cycle) const {
        return up_rate <= 0 || up_free_ - double(cycle) <= up_buffer_bytes / up_rate;
    }

    void spend_down(uint64_t cycle, unsigned bytes) {
        counters_.link_down_bytes += bytes;
        if (down_rate > 0) down_free_ = std::max(down_free_, double(cycle)) + bytes / down_rate;
    }

    void spend_up(uint64_t cycle, unsigned bytes) {
        counters_.link_up_bytes += bytes;
        if (up_rate > 0) up_free_ = std::max(up_free_, double(cycle)) + bytes / up_rate;
    }

private:
    Counters& counters_;
    double down_free_ = 0;
    double up_free_ = 0;
};

}  // namespace ringlet
