// Drivers of rings that cost no Python: they give every used chain to the card again.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "contents.h"
#include "counters.h"
#include "events.h"
#include "root_complex.h"

namespace ringlet {

// What drivers of split and of packed rings have in common: when they give how much, and the kicks.
//
// A driver goes on from where another one left a ring: each chain that the card has used is made
// available again as it was, in batches, one kick each. So a transmit queue sends the frames that
// it was left with over and over, and a receive queue never lacks buffers. It asks for no
// interrupts: the wish stays as it was left.
class RingDriver {
public:
    struct Parameters {
        uint32_t size;               // entries
        uint32_t batch;              // chains made available at a time
        uint64_t notify_address;
        uint32_t notify_value;
        uint32_t notify_bytes;       // 2 or 4
        uint64_t goal;               // stop after so many used chains; 0: go on
        uint32_t transmit;
        uint32_t keep_times;
        uint32_t event_idx;          // what was negotiated
        uint32_t notification_data;
        uint32_t in_order;
    };

    virtual ~RingDriver() = default;

    // Look at what was used; once a cycle.
    void step(uint64_t now, RootComplex& root, Counters& counters, Events& events);

    void stop() { running_ = false; }  // what is used from now on is kept, and not given back

    // The memory from `begin` to `end` goes: end for good if the ring lies there.
    void leave(const uint8_t* begin, const uint8_t* end) {
        if (gone_) return;
        if (lies_in(begin, end) || (contents && contents->lies_in(begin, end))) gone_ = true;
    }

    uint64_t done = 0;         // used chains
    uint64_t bytes = 0;        // that the card wrote into them
    uint64_t kicks = 0;
    uint64_t kicks_spared = 0;
    uint64_t first_cycle = 0;  // of the first and the last used chain
    uint64_t last_cycle = 0;
    std::vector<uint64_t> times;  // when each chain was seen to be used
    std::unique_ptr<Contents> contents;  // null if nobody wants to see it

protected:
    // Chains that are with the card now count as given: they come back like all others.
    RingDriver(const Parameters& parameters, uint64_t given)
        : parameters_(parameters), given_(given) {}

    static uint16_t load16(const uint8_t* at) {
        return *reinterpret_cast<const volatile uint16_t*>(at);
    }
    static void store16(uint8_t* at, uint16_t value) {
        *reinterpret_cast<volatile uint16_t*>(at) = value;
    }

    const Parameters parameters_;

    enum class Wanted { no, yes, nonsense };

    // A chain has come back: what it is called, to be given again. False if the card says that it
    // wrote more than there is room for.
    bool came(uint64_t now, uint16_t chain, uint32_t written) {
        held_.push_back(chain);
        if (!done++) first_cycle = now;
        last_cycle = now;
        if (parameters_.keep_times) times.push_back(now);
        return !contents || !contents->keeps() || contents->came(chain, written);
    }

private:
    // Take all that was used, each chain by `came`; false if there is what must not be.
    virtual bool take(uint64_t now, Events& events) = 0;

    // Make so many chains available, in this order.
    virtual void give(const uint16_t* chains, unsigned count) = 0;

    // Whether the card wants a kick; to be asked once for what the last `give` made available.
    virtual Wanted kick_wanted(Events& events) const = 0;

    // What NOTIFICATION_DATA tells of the ring.
    virtual uint16_t told() const = 0;

    virtual bool lies_in(const uint8_t* begin, const uint8_t* end) const = 0;

    void give_back(RootComplex& root, Counters& counters, Events& events);
    void kick(RootComplex& root);

    uint64_t given_;
    bool running_ = true;
    bool gone_ = false;
    std::vector<uint16_t> held_;
};

}  // namespace ringlet
