// What makes a request or an answer of the card legal, and what the host knows of each function.
#pragma once

#include <cstdint>
#include <map>

#include "events.h"
#include "tlp.h"

namespace ringlet {

// What was read from and written to the configuration space of one function: the host learns the
// limits of a function from the accesses that pass, wherever the card keeps its capabilities.
class FunctionShadow {
public:
    bool bus_master = false;
    int64_t bus_master_off_at = -1;  // cycle in which it was told, and answered, to ask no more
    unsigned max_payload = 128;
    unsigned max_read = 512;
    unsigned tags = 32;

    void note_read(unsigned address, unsigned enables, uint32_t value, uint64_t cycle);
    void note_sent(unsigned address, unsigned enables, uint32_t value);
    void note_written(unsigned address, unsigned enables, uint32_t value, uint64_t cycle);

    // Two reads may come late: what stands in the registers of a stream cannot be withdrawn. No
    // write may, as the answer to what forbids them passes none.
    bool may_ask(uint64_t first_cycle, bool reads) {
        if (bus_master || int64_t(first_cycle) <= bus_master_off_at) return true;
        return reads && late_reads_++ < 2;
    }

private:
    std::map<unsigned, uint32_t> known_;
    bool resetting_ = false;
    unsigned late_reads_ = 0;

    unsigned express() const;
    void end_reset(uint64_t cycle);
    void forget(uint64_t cycle);
    void learn();
};

// Report everything that is wrong with a request, but for its tag and its memory.
void check_request(Events& events, const RequestHead& request, FunctionShadow* function,
                   uint64_t first_cycle);

// Report everything that is wrong with an answer to `request`, `received` bytes into it.
void check_completion(Events& events, const RequestHead& request, const CompletionHead& answer,
                      unsigned received);

}  // namespace ringlet
