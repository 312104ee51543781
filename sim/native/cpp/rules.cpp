#include "rules.h"

namespace ringlet {

namespace {

constexpr unsigned kCommand = 0x04;
constexpr unsigned kCapabilities = 0x34;
constexpr unsigned kExpress = 0x10;       // capability
constexpr unsigned kDeviceControl = 8;    // in it

uint32_t lanes(unsigned enables) {
    uint32_t mask = 0;
    for (unsigned lane = 0; lane < 4; ++lane)
        if (enables >> lane & 1) mask |= 0xFFu << 8 * lane;
    return mask;
}

}  // namespace

const char* kind_name(unsigned kind) {
    static const char* const names[] = {"MEM_READ", "MEM_WRITE", "CONFIG_READ", "CONFIG_WRITE",
                                        "IO_READ", "IO_WRITE", "MESSAGE", "OTHER"};
    return names[kind & 7];
}

// Where the PCI Express capability is, if the host has walked that far; else 0.
unsigned FunctionShadow::express() const {
    auto known = [this](unsigned at) {
        auto found = known_.find(at);
        return found == known_.end() ? 0u : found->second;
    };
    unsigned at = known(kCapabilities) & 0xFC;
    for (int hops = 0; hops < 48; ++hops) {
        uint32_t head = known(at);
        if (!at || !head) return 0;
        if ((head & 0xFF) == kExpress) return at;
        at = head >> 8 & 0xFC;
    }
    return 0;
}

void FunctionShadow::learn() {
    uint32_t control = 0x2000;  // 512-byte reads, 128-byte payload: after a reset
    if (unsigned at = express())
        if (auto found = known_.find(at + kDeviceControl); found != known_.end())
            control = found->second & 0xFFFF;
    auto bytes = [](unsigned code) { return 128u << (code < 5 ? code : 5); };
    max_payload = bytes(control >> 5 & 7);
    max_read = bytes(control >> 12 & 7);
    tags = control >> 8 & 1 ? 256 : 32;
}

void FunctionShadow::note_read(unsigned address, unsigned enables, uint32_t value, uint64_t cycle) {
    end_reset(cycle);
    uint32_t mask = lanes(enables);
    known_[address] = (known_[address] & ~mask) | (value & mask);
    learn();
}

void FunctionShadow::note_sent(unsigned address, unsigned enables, uint32_t value) {
    // What a write allows, the function may do as soon as it has it.
    if (address == kCommand && (enables & 1) && (value & 4)) {
        bus_master = true;
        late_reads_ = 0;
    }
}

void FunctionShadow::note_written(unsigned address, unsigned enables, uint32_t value,
                                  uint64_t cycle) {
    end_reset(cycle);
    uint32_t mask = lanes(enables);
    uint32_t after = (known_[address] & ~mask) | (value & mask);
    known_[address] = after;
    if (address == kCommand && (enables & 1) && !(value & 4) && bus_master) {
        bus_master = false;
        bus_master_off_at = cycle;
    }
    // A function that is told to reset itself may finish what is under way, until it answers the
    // next access with anything but a retry.
    unsigned at = express();
    if (at && address == at + kDeviceControl && (after & 0x8000)) resetting_ = true;
    learn();
}

void FunctionShadow::end_reset(uint64_t cycle) {
    if (!resetting_) return;
    resetting_ = false;
    forget(cycle);
}

void FunctionShadow::forget(uint64_t cycle) {
    if (unsigned at = express()) known_.erase(at + kDeviceControl);
    known_.erase(kCommand);
    if (bus_master) {
        bus_master = false;
        bus_master_off_at = cycle;
    }
    learn();
}

namespace {

void check_enables(Events& events, const RequestHead& request, const char* kind) {
    unsigned first = request.first_be, last = request.last_be;
    auto one_of = [](unsigned value, unsigned a, unsigned b, unsigned c, unsigned d) {
        return value == a || value == b || value == c || value == d;
    };
    if (request.dwords == 1) {
        if (last) events.violate("rq %s: last_be = 0x%x of a single dword", kind, last);
    } else if (!first || !last) {
        events.violate("rq %s: byte enables 0x%x, 0x%x of %u dwords", kind, first, last,
                       request.dwords);
    } else if (!(request.dwords == 2 && request.address % 8 == 0) &&
               (!one_of(first, 0x8, 0xC, 0xE, 0xF) || !one_of(last, 0x1, 0x3, 0x7, 0xF))) {
        events.violate("rq %s: byte enables 0x%x, 0x%x are not contiguous", kind, first, last);
    }
}

}  // namespace

void check_request(Events& events, const RequestHead& request, FunctionShadow* function,
                   uint64_t first_cycle) {
    const char* kind = kind_name(request.kind);
    unsigned long long address = request.address;
    unsigned size = 4 * request.dwords;
    if (request.kind != kMemRead && request.kind != kMemWrite)
        events.violate("rq %s: a card does not send %s", kind, kind);
    if (request.address & 3)
        events.violate("rq %s: address 0x%llx is no multiple of 4", kind, address);
    if (request.dwords < 1 || request.dwords > 1024)
        events.violate("rq %s: %u dwords", kind, request.dwords);
    if (request.address % 4096 + size > 4096)
        events.violate("rq %s: %u bytes at 0x%llx cross a 4 KiB boundary", kind, size, address);
    check_enables(events, request, kind);
    if (request.traffic_class)
        events.violate("rq %s: traffic class %u", kind, request.traffic_class);
    if (request.poisoned) events.violate("rq %s: poisoned", kind);
    if (!function || !function->may_ask(first_cycle, request.kind == kMemRead)) {
        events.violate("rq %s: requester 0x%04x is no bus master", kind, request.requester_id);
        return;
    }
    if (request.kind == kMemWrite && size > function->max_payload)
        events.violate("rq %s: %u bytes of payload, %u allowed", kind, size, function->max_payload);
    if (request.kind == kMemRead) {
        if (size > function->max_read)
            events.violate("rq %s: a read of %u bytes, %u allowed", kind, size, function->max_read);
        if (request.tag >= function->tags)
            events.violate("rq %s: tag %u, %u allowed", kind, request.tag, function->tags);
    }
}

void check_completion(Events& events, const RequestHead& request, const CompletionHead& answer,
                      unsigned received) {
    unsigned long long address = request.address;
    auto wrong = [&](const char* format, auto... values) {
        char text[96];
        snprintf(text, sizeof text, format, values...);
        events.violate("cc to %s of 0x%llx: %s", kind_name(request.kind), address, text);
    };
    if (answer.requester_id != request.requester_id)
        wrong("requester_id 0x%x, the request had 0x%x", answer.requester_id, request.requester_id);
    if (answer.traffic_class != request.traffic_class)
        wrong("traffic_class 0x%x, the request had 0x%x", answer.traffic_class,
              request.traffic_class);
    if (answer.attributes != request.attributes)
        wrong("attributes 0x%x, the request had 0x%x", answer.attributes, request.attributes);
    if (request.completer_id && answer.completer_id != request.completer_id)
        wrong("completer 0x%04x, asked was 0x%04x", answer.completer_id, request.completer_id);
    bool good = answer.status == kSuccess;
    if (request.kind != kMemRead) {
        unsigned wanted = good && (request.kind == kConfigRead || request.kind == kIoRead);
        if (answer.dwords != wanted)
            wrong("%u dwords of data, %u wanted", answer.dwords, wanted);
        if (answer.byte_count != 4 || answer.lower_address)
            wrong("byte count %u and lower address 0x%x, not 4 and 0", answer.byte_count,
                  answer.lower_address);
        return;
    }
    Span span = span_of(request);
    unsigned left = span.bytes - received;
    uint64_t start = request.address + span.low + received;
    // After an error nobody looks at the count: completers in use say either.
    if (answer.byte_count != left && (good || answer.byte_count != 4))
        wrong("byte count %u, not %u", answer.byte_count, left);
    if (!good) {
        if (answer.dwords) wrong("data beside an error");
        return;
    }
    if (answer.lower_address != (start & 0x7F))
        wrong("lower address 0x%x, not 0x%x", answer.lower_address, unsigned(start & 0x7F));
    unsigned whole = (unsigned(start & 3) + left + 3) / 4;
    if (answer.dwords < 1 || answer.dwords > whole)
        wrong("%u dwords where %u are missing", answer.dwords, whole);
    uint64_t end = (start & ~uint64_t(3)) + 4 * answer.dwords;
    if (answer.dwords < whole && end % 128)
        wrong("a completion ends at 0x%x, inside a completion boundary", unsigned(end & 0xFFF));
}

}  // namespace ringlet
