// A driver of split rings: see driver.h.
#pragma once

#include "driver.h"

namespace ringlet {

// The descriptors stay as they are: chains are known by their heads.
class SplitDriver : public RingDriver {
public:
    SplitDriver(const Parameters& parameters, uint8_t* available, uint8_t* used);

private:
    uint8_t* available_;
    uint8_t* used_;
    uint16_t seen_;           // used index up to which we have looked
    uint16_t published_;      // available index
    uint16_t published_before_ = 0;  // before the last `give`

    bool take(uint64_t now, Events& events) override;
    void give(const uint16_t* heads, unsigned count) override;
    Wanted kick_wanted(Events& events) const override;
    uint16_t told() const override { return published_; }
    bool lies_in(const uint8_t* begin, const uint8_t* end) const override;

    uint16_t available_at(uint16_t index) const;
    unsigned batch_of(unsigned head, unsigned pending) const;
};

}  // namespace ringlet
