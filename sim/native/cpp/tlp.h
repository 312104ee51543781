// Transaction layer packets as the host sees them: headers, and how they become beats.
#pragma once

#include <cstdint>
#include <cstring>

#include "bits.h"
#include "layout.h"

namespace ringlet {

constexpr unsigned kMaxPayload = 4096;  // bytes of any TLP

enum Kind : uint8_t {
    kMemRead, kMemWrite, kConfigRead, kConfigWrite, kIoRead, kIoWrite, kMessage, kOther,
};

enum Status : uint8_t { kSuccess = 0, kUnsupported = 1, kRetry = 2, kAbort = 4 };

inline bool posted(unsigned kind) { return kind == kMemWrite || kind == kMessage; }

inline bool has_payload(unsigned kind) {
    return kind == kMemWrite || kind == kConfigWrite || kind == kIoWrite;
}

const char* kind_name(unsigned kind);

struct RequestHead {
    uint64_t address = 0;
    uint32_t dwords = 1;
    uint16_t requester_id = 0;
    uint16_t completer_id = 0;
    uint16_t tag = 0;
    uint8_t kind = kMemRead;
    uint8_t first_be = 0xF;
    uint8_t last_be = 0;
    uint8_t traffic_class = 0;
    uint8_t attributes = 0;
    uint8_t poisoned = 0;
};

struct CompletionHead {
    uint32_t byte_count = 4;
    uint32_t lower_address = 0;
    uint32_t dwords = 0;
    uint16_t requester_id = 0;
    uint16_t completer_id = 0;
    uint16_t tag = 0;
    uint8_t status = kSuccess;
    uint8_t traffic_class = 0;
    uint8_t attributes = 0;
    uint8_t poisoned = 0;
};

// First enabled byte, from the dword-aligned address, and bytes from it to the last enabled one; a
// read of nothing counts as one byte, as in PCI Express.
struct Span {
    unsigned low;
    unsigned bytes;
};

inline Span enabled_span(uint32_t dwords, unsigned first_be, unsigned last_be) {
    if (dwords == 1) {
        if (!first_be) return {0, 1};
        unsigned low = __builtin_ctz(first_be);
        return {low, 32u - __builtin_clz(first_be) - low};
    }
    unsigned low = first_be ? __builtin_ctz(first_be) : 0;
    unsigned high = last_be ? 32u - __builtin_clz(last_be) : 0;
    return {low, 4 * (dwords - 1) + high - low};
}

inline Span span_of(const RequestHead& request) {
    return enabled_span(request.dwords, request.first_be, request.last_be);
}

inline RequestHead read_request(const uint32_t* words) {
    using namespace layout;
    RequestHead head;
    head.kind = get(words, request_kind);
    head.address = get(words, request_address);
    head.dwords = get(words, request_dwords);
    head.first_be = get(words, request_first_be);
    head.last_be = get(words, request_last_be);
    head.requester_id = get(words, request_requester_id);
    head.completer_id = get(words, request_completer_id);
    head.tag = get(words, request_tag);
    head.traffic_class = get(words, request_traffic_class);
    head.attributes = get(words, request_attributes);
    head.poisoned = get(words, request_poisoned);
    return head;
}

inline CompletionHead read_completion(const uint32_t* words) {
    using namespace layout;
    CompletionHead head;
    head.status = get(words, completion_status);
    head.byte_count = get(words, completion_byte_count);
    head.lower_address = get(words, completion_lower_address);
    head.dwords = get(words, completion_dwords);
    head.requester_id = get(words, completion_requester_id);
    head.completer_id = get(words, completion_completer_id);
    head.tag = get(words, completion_tag);
    head.traffic_class = get(words, completion_traffic_class);
    head.attributes = get(words, completion_attributes);
    head.poisoned = get(words, completion_poisoned);
    return head;
}

inline void write_header(uint32_t* words, const RequestHead& head) {
    using namespace layout;
    put(words, request_kind, head.kind);
    put(words, request_address, head.address);
    put(words, request_dwords, head.dwords);
    put(words, request_first_be, head.first_be);
    put(words, request_last_be, head.last_be);
    put(words, request_requester_id, head.requester_id);
    put(words, request_completer_id, head.completer_id);
    put(words, request_tag, head.tag);
    put(words, request_traffic_class, head.traffic_class);
    put(words, request_attributes, head.attributes);
    put(words, request_poisoned, head.poisoned);
}

inline void write_header(uint32_t* words, const CompletionHead& head) {
    using namespace layout;
    put(words, completion_status, head.status);
    put(words, completion_byte_count, head.byte_count);
    put(words, completion_lower_address, head.lower_address);
    put(words, completion_dwords, head.dwords);
    put(words, completion_requester_id, head.requester_id);
    put(words, completion_completer_id, head.completer_id);
    put(words, completion_tag, head.tag);
    put(words, completion_traffic_class, head.traffic_class);
    put(words, completion_attributes, head.attributes);
    put(words, completion_poisoned, head.poisoned);
}

// What a stream to the card sends: a TLP with its bytes, one beat after the other.
template <typename Head>
struct OutgoingTlp {
    Head head;
    unsigned bytes = 0;
    alignas(64) uint8_t payload[kMaxPayload + 2 * layout::lanes];
};

}  // namespace ringlet
