// The card as the engine sees it: ports, and one clock edge after the other.
#pragma once

#include <cstdint>
#include <memory>

namespace ringlet {

// Payloads are arrays of 32-bit words, as layout.h says. Inputs are registered by the edge: what is
// written before an edge is what the card's ports hold in the cycle after it.
struct CardPorts {
    uint32_t *cq_payload, *rc_payload, *wire_rx_payload;
    uint8_t *cq_valid, *rc_valid, *wire_rx_valid;
    uint8_t *cc_ready, *rq_ready, *wire_tx_ready, *link_up, *rst;
    uint16_t* np_credit;
    const uint32_t *cc_payload, *rq_payload, *wire_tx_payload;
    const uint8_t *cc_valid, *rq_valid, *wire_tx_valid, *cq_ready;
};

class Card {
public:
    virtual ~Card() = default;
    virtual void edge() = 0;
    // Waves of these cycles, both included; false where the build has none.
    virtual bool trace(const char* path, uint64_t first, uint64_t last) = 0;
    CardPorts ports{};
};

std::unique_ptr<Card> make_card();  // null in a build without a card

}  // namespace ringlet
