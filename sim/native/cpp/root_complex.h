// The host's side of PCI Express: answers the card's reads, stores its writes, raises interrupts,
// and sends what the host asks of the card.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "counters.h"
#include "events.h"
#include "host_access.h"
#include "memory.h"
#include "random.h"
#include "rules.h"
#include "tlp.h"

namespace ringlet {

enum class FaultKind : int { kUnsupported, kAbort, kPoisoned, kNever, kLate };

// Reads that touch these bytes go wrong, `left` times (-1: always).
struct Fault {
    uint64_t id;
    uint64_t address;
    uint64_t size;
    FaultKind kind;
    int64_t left;
    uint64_t late_cycles;
};

class RootComplex {
public:
    RootComplex(Events& events, Counters& counters, HostMemory& memory);

    // How the host behaves; times in cycles. All may change while running.
    uint64_t latency_cycles = 250;  // from a read's last beat to its first completion
    uint64_t jitter_cycles = 0;     // up to so much is added to each completion
    unsigned boundary_bytes = 64;   // read completion boundary
    enum Splitting : int { kLarge, kSmall, kRandom } splitting = kLarge;
    // Whether the memory is looked at when a read arrives, or when each completion leaves.
    enum Sampling : int { kAtAnswer, kAtArrival } sampling = kAtAnswer;
    uint64_t credits = 0;           // non-posted requests held at a time; 0: any number
    uint64_t credit_cycles = 8;     // how long one is held
    uint64_t card_timeout_cycles = 256;
    HostAccess access;

    void set_seed(uint64_t seed) { random_ = Random(seed); }

    // From the card. The present cycle is that of `events`.
    void receive_request(const RequestHead& request, const uint8_t* payload, uint64_t first_cycle);
    void receive_completion(const CompletionHead& head, const uint8_t* payload);

    // To the card: what is due now, if anything; the caller sends it.
    bool next_completion(OutgoingTlp<CompletionHead>& out);
    bool next_request(OutgoingTlp<RequestHead>& out);

    bool completion_due() const { return !due_.empty() && due_.front().cycle <= events_.now; }

    unsigned credit_limit();
    bool credit_infinite() const { return !credits; }

    uint64_t add_fault(uint64_t address, uint64_t size, FaultKind kind, int64_t count,
                       uint64_t late_cycles);
    bool remove_fault(uint64_t id);

    // Interrupts: who was given which message. The counts lie in one array that never moves.
    static constexpr unsigned kMaxInterrupts = 8192;
    int add_interrupt(uint64_t address, uint32_t data);
    const uint64_t* interrupt_counts() const { return interrupt_counts_.data(); }

    FunctionShadow& function(unsigned bdf) { return functions_[bdf]; }

    size_t reads_waiting() const { return reads_.size(); }
    bool idle() const { return access.idle() && due_.empty(); }

private:
    struct Read {
        RequestHead request;
        uint64_t start;   // first byte asked for
        unsigned size;
        unsigned left;    // bytes still to be sent
        unsigned max_payload;
        bool refused;
        uint64_t begun_at;
        uint64_t order;
        std::vector<uint64_t> delayed;  // addresses of pieces that were late already
        std::vector<uint8_t> sample;    // what the memory held at arrival, if looked at then
    };
    struct Due {
        uint64_t cycle;
        uint64_t order;
        uint32_t key;
        bool operator<(const Due& other) const {  // for a heap with the first one on top
            return cycle != other.cycle ? cycle > other.cycle : order > other.order;
        }
    };

    Events& events_;
    Counters& counters_;
    HostMemory& memory_;
    Random random_{1};
    std::unordered_map<unsigned, FunctionShadow> functions_;
    std::unordered_map<uint32_t, Read> reads_;  // by requester and tag
    std::vector<Due> due_;
    std::vector<Fault> faults_;
    std::unordered_map<uint64_t, unsigned> interrupts_;
    std::vector<uint64_t> interrupt_counts_;
    unsigned interrupts_known_ = 0;
    uint64_t arrivals_ = 0;
    uint64_t next_fault_ = 1;
    uint64_t credit_limit_ = 0;
    uint64_t credits_before_ = 0;
    uint64_t credits_used_ = 0;
    std::deque<uint64_t> releases_;

    FunctionShadow* known(unsigned bdf);  // or null
    uint64_t jitter() { return jitter_cycles ? random_.below(jitter_cycles + 1) : 0; }
    void push(uint64_t cycle, uint64_t order, uint32_t key);
    void store(const RequestHead& request, const uint8_t* payload);
    void interrupt(const RequestHead& request, const uint8_t* payload);
    void begin_read(const RequestHead& request);
    bool next_piece(Read& read, uint32_t key, OutgoingTlp<CompletionHead>& out);
    unsigned cut(const Read& read, uint64_t address);
    Fault* fault_of(const Read& read, uint64_t address, uint64_t size);
    void take_credit();
};

}  // namespace ringlet
