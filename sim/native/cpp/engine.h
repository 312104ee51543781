// The clock loop: the card, the host on its PCI Express streams, the wire, and drivers of rings.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "card.h"
#include "driver.h"
#include "events.h"
#include "link.h"
#include "memory.h"
#include "root_complex.h"
#include "streams.h"
#include "wire.h"

namespace ringlet {

class Engine {
public:
    Engine(uint64_t seed, bool with_card);

    // Run so many cycles at most, or until one of these events; gives the events that came up.
    uint32_t run(uint64_t cycles, uint32_t until);

    // Whoever changes something while another thread runs the engine waits for the end of a short
    // burst of cycles; nothing needs to be locked in the loop itself.
    class Held {
    public:
        explicit Held(Engine& engine) : engine_(engine) {
            ++engine_.waiters_;
            engine_.lock_.lock();
            --engine_.waiters_;
        }
        ~Held() { engine_.lock_.unlock(); }

    private:
        Engine& engine_;
    };

    Events events;
    Counters counters;
    HostMemory memory;
    RootComplex root;
    Link link;
    Wire wire;
    std::unique_ptr<Card> card;
    std::vector<std::unique_ptr<RingDriver>> drivers;
    Incoming<RequestHead> rq;
    Incoming<CompletionHead> cc;
    Outgoing<CompletionHead> rc;
    Outgoing<RequestHead> cq;
    uint64_t cycle = 0;  // clock edges so far
    double cpu_seconds = 0;
    uint64_t patience_cycles = 2000;

    // Without a card: what the host would send, for who plays the card by hand.
    struct Sent {
        uint64_t cycle;
        CompletionHead head;
        std::vector<uint8_t> payload;
    };
    std::vector<Sent> sent;
    // Requests that a card would send as fast as bus and link allow, and when the last one was taken.
    struct Played {
        RequestHead head;
        std::vector<uint8_t> payload;
    };
    std::deque<Played> playing;
    uint64_t played_at = 0;

    void finish_counters();

private:
    std::mutex lock_;
    std::atomic<int> waiters_{0};

    uint64_t rq_free_ = 0;  // when the card's buses are free again, without a card
    uint64_t rc_free_ = 0;

    void step();
    void step_without_card();
};

}  // namespace ringlet
