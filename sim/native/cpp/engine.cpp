#include "engine.h"

#include <sched.h>
#include <time.h>

namespace ringlet {

namespace {

constexpr unsigned kBurst = 256;         // cycles between two looks for who waits
constexpr unsigned kExpireCycles = 64;   // how often unanswered accesses are looked for

double thread_seconds() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

}  // namespace

Engine::Engine(uint64_t seed, bool with_card)
    : root(events, counters, memory), link(counters), wire(events, counters, seed * 8 + 1),
      card(with_card ? make_card() : nullptr), rq("rq", events, seed * 8 + 3),
      cc("cc", events, seed * 8 + 4), rc(seed * 8 + 5), cq(seed * 8 + 6) {
    root.set_seed(seed);
    if (card) *card->ports.link_up = 1;
}

uint32_t Engine::run(uint64_t cycles, uint32_t until) {
    double begun = thread_seconds();
    events.raised = 0;
    for (uint64_t end = cycle + cycles; cycle < end && !(events.raised & until);) {
        uint64_t burst = end - cycle < kBurst ? end : cycle + kBurst;
        {
            std::lock_guard<std::mutex> hold(lock_);
            if (card) {
                do step();
                while (cycle < burst && !(events.raised & until));
            } else {
                do step_without_card();
                while (cycle < burst && !(events.raised & until));
            }
        }
        while (waiters_.load(std::memory_order_relaxed)) sched_yield();
    }
    finish_counters();
    cpu_seconds += thread_seconds() - begun;
    return events.raised;
}

// One edge. First what the card's ports held at the edge, then what they hold in the next cycle: so
// an answer comes a cycle after its cause at the earliest, as between registers.
void Engine::step() {
    CardPorts& ports = card->ports;
    ++cycle;
    events.now = cycle;
    rq.step(cycle, ports.rq_valid, ports.rq_payload, ports.rq_ready, link.up_free(cycle),
            [this](const RequestHead& head, const uint8_t* payload, unsigned bytes,
                   uint64_t first) {
                link.spend_up(cycle, Link::kRequestBytes + bytes);
                root.receive_request(head, payload, first);
            });
    cc.step(cycle, ports.cc_valid, ports.cc_payload, ports.cc_ready, link.up_free(cycle),
            [this](const CompletionHead& head, const uint8_t* payload, unsigned bytes, uint64_t) {
                link.spend_up(cycle, Link::kCompletionBytes + bytes);
                root.receive_completion(head, payload);
            });
    for (auto& driver : drivers) driver->step(cycle, root, counters, events);
    events.now = cycle + 1;  // what is driven now is taken at the next edge
    // The host's own requests are few, and go first where both want the link.
    cq.step(ports.cq_ready, ports.cq_valid, ports.cq_payload,
            [this](OutgoingTlp<RequestHead>& tlp) {
                if (!root.access.has_request() || !link.down_free(cycle + 1) ||
                    !root.next_request(tlp))
                    return false;
                link.spend_down(cycle + 1, Link::kRequestBytes + tlp.bytes);
                return true;
            });
    rc.step(nullptr, ports.rc_valid, ports.rc_payload, [this](OutgoingTlp<CompletionHead>& tlp) {
        if (!root.completion_due() || !link.down_free(cycle + 1) || !root.next_completion(tlp))
            return false;
        link.spend_down(cycle + 1, Link::kCompletionBytes + tlp.bytes);
        return true;
    });
    events.now = cycle;
    wire.step(cycle, ports.wire_rx_payload, ports.wire_rx_valid, ports.wire_tx_payload,
              ports.wire_tx_valid, ports.wire_tx_ready);
    if (cq.stalled == patience_cycles)
        events.violate("cq: the card accepts nothing for %llu cycles",
                       static_cast<unsigned long long>(patience_cycles));
    uint32_t credit = 0;
    put(&credit, layout::credit_limit, root.credit_limit());
    put(&credit, layout::credit_infinite, root.credit_infinite());
    *ports.np_credit = uint16_t(credit);
    if (cycle % kExpireCycles == 0) root.access.expire(cycle);
    card->edge();
}

// Somebody plays the card by hand. Where there is a link, requests and completions take their time
// on it, and on the buses of a card: a beat a cycle.
void Engine::step_without_card() {
    auto completion = std::make_unique<OutgoingTlp<CompletionHead>>();
    auto request = std::make_unique<OutgoingTlp<RequestHead>>();
    auto beats = [](unsigned bytes) {
        return bytes ? (bytes + layout::lanes - 1) / layout::lanes : 1;
    };
    if (!playing.empty() && cycle >= rq_free_ && link.up_free(cycle)) {
        events.now = cycle;
        Played& next = playing.front();
        unsigned bytes = next.payload.size();
        link.spend_up(cycle, Link::kRequestBytes + bytes);
        rq_free_ = cycle + beats(bytes);
        root.receive_request(next.head, next.payload.data(), cycle);
        played_at = cycle;
        playing.pop_front();
    }
    events.now = cycle;
    for (auto& driver : drivers) driver->step(cycle, root, counters, events);
    events.now = cycle + 1;
    bool paced = link.down_rate > 0;
    if ((!paced || (cycle >= rc_free_ && link.down_free(cycle + 1))) &&
        root.next_completion(*completion)) {
        link.spend_down(cycle + 1, Link::kCompletionBytes + completion->bytes);
        rc_free_ = cycle + beats(completion->bytes);
        sent.push_back({cycle + 1, completion->head,
                        {completion->payload, completion->payload + completion->bytes}});
    }
    if (root.access.has_request()) root.next_request(*request);
    events.now = cycle;
    if (cycle % kExpireCycles == 0) root.access.expire(cycle);
    ++cycle;
}

void Engine::finish_counters() {
    counters.rq_beats = rq.beats;
    counters.rq_stalled_cycles = rq.stalled;
    counters.cc_beats = cc.beats;
    counters.rc_beats = rc.beats;
    counters.cq_beats = cq.beats;
}

}  // namespace ringlet
