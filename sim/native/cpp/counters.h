// Counters of all that passes, by name: Python asks for the names, so that there is one list.
#pragma once

#include <cstdint>

#define RINGLET_COUNTERS(X)                                                                    \
    X(rq_reads) X(rq_read_bytes) X(rq_writes) X(rq_write_bytes) X(rq_interrupts) X(rq_beats)   \
    X(rq_stalled_cycles) X(rc_completions) X(rc_bytes) X(rc_beats) X(cq_requests) X(cq_beats)  \
    X(cc_completions) X(cc_beats) X(link_down_bytes) X(link_up_bytes) X(wire_rx_frames)        \
    X(wire_rx_bytes) X(wire_tx_frames) X(wire_tx_bytes) X(wire_tx_stalled_cycles)              \
    X(frames_not_kept) X(doorbells)

namespace ringlet {

struct Counters {
#define X(name) uint64_t name = 0;
    RINGLET_COUNTERS(X)
#undef X
};

}  // namespace ringlet
